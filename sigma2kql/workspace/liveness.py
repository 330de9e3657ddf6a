"""Whether a rule's query can find anything in a workspace: live, blind (and what is missing), or dead.

Place in the flow: after map, beside the choice of a table. Invariant: three-valued. `blind` is only said where no row
that the profile knows of can match, whatever stands in the columns that it says nothing about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from datetime import timedelta
from typing import assert_never

from sigma2kql.model.query_facts import Liveness
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import (
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    Match,
    Not,
    Null,
    Number,
    Or,
    Query,
    Regex,
    SameAs,
    Text,
)
from sigma2kql.reference.evaluate import holds
from sigma2kql.workspace.profile import Profile, TableProfile

Known = Callable[[Match[Column]], bool | None]

SILENT_AFTER = timedelta(days=1)
ENOUGH_SAMPLED = 100  # rows of a rule's own kind, in which a column that is ever filled would show
EXPECTED_ROWS = 20  # a table that should have had so many rows since its last one is silent: the chance is 2e-9


LIVE = Liveness("live")


def liveness(query: Query, profile: Profile) -> Liveness | None:
    """How a query stands in the workspace of a profile; None where the profile says nothing of its table."""
    found = standing(query.table, profile)
    table = profile.tables.get(query.table)
    if table is None or found is None or found.state != "live":
        return found
    where: Expr[Column] = And((query.rows, query.where))
    lacking = {name for name in query.columns if name not in table.columns} if table.columns else set()
    if _can(where, _empty(lacking)) is False:
        return _blind(*_missing_columns(where, query, lacking))
    if not table.by or not table.whole:
        return LIVE
    alike = [_and_known(dict(zip(table.by, one.values, strict=True)), _empty(lacking)) for one in table.seen]
    rows = sum(one.rows for one, known in zip(table.seen, alike, strict=True) if _can(where, known) is not False)
    if not rows:
        return _blind(f"{query.table} has no row with {_wanted(where, table, alike)}")
    return _filled(query, where, table, profile, rows)


def _filled(query: Query, where: Expr[Column], table: TableProfile, profile: Profile, rows: int) -> Liveness:
    """Whether the columns that the rule needs are filled, where enough of the `rows` that it is about were sampled."""
    total = table.rows_a_day * profile.days
    sampled = min(profile.sample, total) * rows / max(total, 1)
    never = {name for name, share in table.columns.items() if not share and name in query.columns}
    if sampled < ENOUGH_SAMPLED or not never or _can(where, _empty(never)) is not False:
        return LIVE
    names = {n: None for leaf in leaves(where) if never.issuperset(leaf.subject.reads) for n in leaf.subject.reads}
    return _blind(*(f"{query.table}: `{name}` is empty in about {sampled:,.0f} sampled rows" for name in names))


def standing(name: str, profile: Profile) -> Liveness | None:
    """How a table stands, whatever is asked of it; None where the profile says nothing of it."""
    table = profile.tables.get(name)
    if table is None:
        return _blind(f"{name} does not exist in the workspace") if name in profile.absent else None
    if not table.rows_a_day:
        return _blind(f"{name} has no row in the {_days(profile)} before {profile.made:%Y-%m-%d}")
    if table.last is not None and (silent := silence(table, profile)) is not None:
        return _blind(f"{name} is silent since {table.last:%Y-%m-%d %H:%M}: {silent}")
    return LIVE


def _blind(*reasons: str) -> Liveness:
    return Liveness("blind", tuple(dict.fromkeys(reasons)))


def _days(profile: Profile) -> str:
    return f"{profile.days:g} day{'s' * (profile.days != 1)}"


def silence(table: TableProfile, profile: Profile) -> str | None:
    """Why a table's last row is too old for its usual pace; None where it is not."""
    if table.last is None:
        return None
    age = profile.made - table.last
    expected = table.rows_a_day * age.total_seconds() / 86_400
    if age < SILENT_AFTER or expected < EXPECTED_ROWS:
        return None
    return f"{expected:,.0f} more rows were to be expected by then"


# --------------------------------------------------------------------------------------------------------------------
# Three values: a tree can hold, cannot hold, or it depends on what is not known


def _can(expr: Expr[Column], known: Known) -> bool | None:
    """Whether a tree holds, where `known` decides some of its tests and gives None for the others."""
    match expr:
        case And(items):
            return _all(_can(item, known) for item in items)
        case Or(items):
            found = _all(_not(_can(item, known)) for item in items)
            return _not(found)
        case Not(item):
            return _not(_can(item, known))
        case Match():
            return known(expr)
        case _:
            assert_never(expr)


def _all(values: Iterator[bool | None]) -> bool | None:
    answer: bool | None = True
    for value in values:
        if value is False:
            return False
        if value is None:
            answer = None
    return answer


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _empty(names: Set[str]) -> Known:
    """What is known of a test where these columns are empty in every row."""

    def known(leaf: Match[Column]) -> bool | None:
        column = leaf.subject
        if isinstance(leaf.test, SameAs) or not column.reads or not names >= set(column.reads):
            return None
        return holds(leaf, lambda _: "")

    return known


def _and_known(values: Mapping[str, str], before: Known) -> Known:
    """As `before`, and with the values of the columns that rows are counted by."""

    def known(leaf: Match[Column]) -> bool | None:
        column = leaf.subject
        if column.kind == "stored" and column.text in values and not isinstance(leaf.test, SameAs):
            return holds(leaf, lambda _: values[column.text])
        return before(leaf)

    return known


# --------------------------------------------------------------------------------------------------------------------
# Words


def _missing_columns(where: Expr[Column], query: Query, lacking: Set[str]) -> list[str]:
    """A sentence for each column that is needed and that the workspace's table does not have."""
    names = {n: None for leaf in leaves(where) if lacking >= set(leaf.subject.reads) for n in leaf.subject.reads}
    return [f"{query.table} has no column `{name}` in the workspace" for name in names]


def _wanted(where: Expr[Column], table: TableProfile, alike: list[Known]) -> str:
    """The values that are asked for and that no row has; where each is there alone, all of them together."""
    asked: dict[str, dict[str, bool]] = {}
    for leaf in leaves(where):
        column, text = leaf.subject, _literal(leaf)
        if column.kind == "stored" and column.text in table.by and text is not None:
            met = any(known(leaf) for known in alike)
            asked.setdefault(column.text, {})[text] = met
    unmet = {name: [t for t, met in texts.items() if not met] for name, texts in asked.items()}
    lacking = {name: texts for name, texts in unmet.items() if texts and len(texts) == len(asked[name])}
    chosen = lacking or {name: list(texts) for name, texts in asked.items()}
    if not chosen:
        return "what the rule asks of " + ", ".join(table.by)
    parts = [f"{name} {_either(texts)}" for name, texts in sorted(chosen.items(), key=lambda p: table.by.index(p[0]))]
    return " and ".join(parts)


def _either(texts: list[str]) -> str:
    shown = ", ".join(texts[:-1]) + " or " + texts[-1] if 1 < len(texts) <= 4 else texts[0]
    return shown if len(texts) <= 4 else f"{shown} (or {len(texts) - 1} others)"


def _literal(leaf: Match[Column]) -> str | None:
    match leaf.test:
        case Text((str(text),)):
            return text
        case Number("==", value):
            return str(value)
        case Text() | Number() | Regex() | Cidr() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return None
        case _:
            assert_never(leaf.test)
