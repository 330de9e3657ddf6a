"""Whether a query can run near real time, or continuously, and if not, why.

Place in the flow: asked where the kind of a rule is decided. Invariant: a verdict names the lists that it rests on,
what Microsoft documents or what live tenants report, and every reason against.

Source: mappings/deploy/nrt.yml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sigma2kql.artifacts.kql_tokens import Scan
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.diagnostics.diagnostic import frozen

NO_CALLS = frozenset(["and", "or", "where", "by", "on", "extend", "project"])  # words that a bracket may follow
LIST_WORDS = frozenset(["in", "has", "contains", "startswith", "endswith", "between", "hasprefix", "hassuffix"])


@frozen
class NrtVerdict:
    """Whether a query can run at once: it can where there is no reason. `basis` is documented or reported."""

    reasons: tuple[str, ...]
    basis: str
    hint: str = ""


def judge_near_real_time(scan: Scan) -> NrtVerdict:
    """For an analytics rule of Sentinel."""
    refused = facts("nrt")["analytics"]
    held = [name for name in refused["functions"] if name in scan.functions]
    held += [name for name in refused["operators"] if name in scan.operators or name in scan.words]
    return NrtVerdict(tuple(dict.fromkeys(held)), "documented", "use kind: Scheduled" if held else "")


def judge_continuous(scan: Scan, tables: Sequence[str], types: Mapping[str, str], basis: str) -> NrtVerdict:
    """For a custom detection over `tables`, whose columns have these types."""
    rules = facts("nrt")["continuous"]
    lists = rules[basis]
    held: list[str] = []
    if len(tables) > 1:
        held.append("more than one table")
    held += [f"the table {table}" for table in tables if table not in rules["tables"]]
    if scan.comments:
        held.append("comments")
    if "let" in scan.words and "let" not in lists["statements"]:
        held.append("let")
    held += [name for name in scan.operators if name not in lists["operators"]]
    words = {word for word in scan.words if word.lstrip("!").split("_")[0].rstrip("~") in LIST_WORDS}
    held += [word for word in scan.words if word in words and word not in lists["words"]]
    calls = [name for name in scan.functions if name not in words | NO_CALLS]
    held += [f"{name}()" for name in calls if name not in lists["functions"]]
    if not lists["dynamic"]:
        held += [f"tostring() of {name}" for name in scan.casts if types.get(name) == "dynamic"]
    excluded = [name for table in tables for name in rules["excluded"].get(table, ()) if name in scan.words]
    held += [f"the column {name}" for name in excluded]
    return NrtVerdict(tuple(dict.fromkeys(held)), basis, "use kind: Scheduled" if held else "")
