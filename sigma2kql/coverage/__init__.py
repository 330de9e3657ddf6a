"""What a set of rules covers: every rule with what became of it on each target, counted by what people ask for.

Place in the flow: above api, below the pages and the command. Invariant: count in, count out: every rule stands in
exactly one row of `verdict`, and in at least one of every other table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from sigma2kql.artifacts.product_tables import connectors, tables_behind
from sigma2kql.coverage.attack_names import homes_of, tactic_title, tactics_of, technique_name, techniques_of
from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.tree import Compiled, Document, NativeQuery, Rule
from sigma2kql.model.words import kind_of

FAILED = "failed"
FEEDS = "no query"  # of its own: it feeds a correlation
VERDICTS = ("exact", "broader", "narrower", FEEDS, FAILED)
LEVELS = ("critical", "high", "medium", "low", "informational")
LIVENESS = ("live", "blind", "dead")
NONE = "(none)"


@frozen
class Outcome:
    """What became of a rule on one target. `here`: live, blind or dead by the profile of a workspace, else empty."""

    target: str
    verdict: str
    tables: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)  # source -> verdict
    here: str = ""
    reasons: tuple[str, ...] = ()
    code: str = ""
    problem: str = ""

    @property
    def found(self) -> bool:
        """Whether there is a query."""
        return self.verdict in ("exact", "broader", "narrower")


@frozen
class Covered:
    """A rule with its outcome on every target, in the order of the targets."""

    path: str
    line: int
    index: int
    kind: str
    id: str | None
    title: str
    level: str
    status: str
    author: str
    date: str
    logsource: str
    tags: tuple[str, ...]
    techniques: tuple[str, ...]
    tactics: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    def on(self, target: str) -> Outcome:
        return next(outcome for outcome in self.outcomes if outcome.target == target)


def cover(results: Sequence[Compiled]) -> Covered:
    """One document with its results, one a target."""
    document = results[0].document
    meta, origin = document.meta, document.origin
    techniques, tactics = attack_of(document)
    return Covered(
        origin.source.path,
        origin.source.position(origin.span.start)[0],
        origin.index,
        kind_of(document),
        meta.id,
        meta.title,
        (meta.level or "").lower(),
        (meta.status or "").lower(),
        meta.author,
        meta.modified or meta.date or "",
        _log(document),
        meta.tags,
        techniques,
        tactics,
        tuple(outcome_of(done) for done in results),
    )


def attack_of(document: Document) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Techniques and tactics that a document states, a native one under Microsoft's own keys."""
    tags = list(document.meta.tags)
    if isinstance(document, NativeQuery):
        stated = [*_texts(document.data.get("relevantTechniques")), *_texts(document.data.get("techniques"))]
        tags += [f"attack.{one}" for one in (*stated, *map(_dashed, _texts(document.data.get("tactics"))))]
    return techniques_of(tags), tactics_of(tags)


def _texts(value: Any) -> list[str]:
    """A list of texts, or one text that holds several with commas between."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [str(one) for one in value] if isinstance(value, list | tuple) else []


def _dashed(name: str) -> str:
    """`CommandAndControl` as ATT&CK's tags write it."""
    return "".join(f"-{char}" if char.isupper() and at else char for at, char in enumerate(name)).lower()


def _log(document: Document) -> str:
    if isinstance(document, Rule):
        source = document.logsource
        return " / ".join(part for part in (source.product, source.category, source.service) if part)
    return ""


def outcome_of(done: Compiled) -> Outcome:
    errors = [d for d in done.diagnostics if d.severity == "error"]
    if errors:
        return Outcome(done.target, FAILED, code=errors[0].code, problem=errors[0].message)
    if done.kql is None:
        return Outcome(done.target, FEEDS)
    here, reasons = (done.here.state, done.here.reasons) if done.here else ("", ())
    return Outcome(done.target, done.verdict or "exact", tables_in(done), done.verdicts, here, reasons)


def tables_in(done: Compiled) -> tuple[str, ...]:
    """The tables that a query reads: those chosen, or those that its text names (correlations, native queries)."""
    if done.table:
        return tuple(done.table.split(", "))
    from sigma2kql.artifacts.kql_tokens import scan

    return scan(done.kql or "").tables


def connectors_of(table: str) -> tuple[str, ...]:
    """The data connectors of Sentinel that fill a table, or the tables behind an ASIM parser."""
    found = [connector for real in tables_behind(table) for connector, _ in connectors().get(real, ())]
    return tuple(dict.fromkeys(found))


# --------------------------------------------------------------------------------------------------------------------
# Counting


@frozen
class Count:
    """One row: rules by verdict and, where a profile is given, by liveness."""

    key: str
    name: str
    rules: int
    verdicts: Mapping[str, int]
    here: Mapping[str, int]

    @property
    def queries(self) -> int:
        return sum(self.verdicts.get(one, 0) for one in ("exact", "broader", "narrower"))


def _with_base(techniques: Iterable[str]) -> tuple[str, ...]:
    """Each technique and its base: a rule on PowerShell is one on scripting interpreters."""
    return tuple(dict.fromkeys(one for t in techniques for one in (t.partition(".")[0], t)))


def _tactics(rule: Covered) -> tuple[str, ...]:
    implied = [home for technique in rule.techniques for home in homes_of(technique)[:1]]
    return rule.tactics or tuple(dict.fromkeys(implied))


KEYS: Mapping[str, Callable[[Covered, Outcome], tuple[str, ...]]] = {
    "technique": lambda rule, _: _with_base(rule.techniques),
    "tactic": lambda rule, _: _tactics(rule),
    "table": lambda _, outcome: outcome.tables,
    "source": lambda _, outcome: tuple(outcome.sources),
    "level": lambda rule, _: (rule.level,) if rule.level else (),
    "verdict": lambda _, outcome: (outcome.verdict,),
    "liveness": lambda _, outcome: (outcome.here,) if outcome.here else (),
}


def count(rules: Iterable[Covered], target: str, by: str) -> list[Count]:
    """A table of counts for one target, in the order that people read it in: levels from critical, else by number."""
    found: dict[str, tuple[dict[str, int], dict[str, int]]] = {}
    for rule in rules:
        outcome = rule.on(target)
        for key in KEYS[by](rule, outcome) or (NONE,):
            verdicts, here = found.setdefault(key, ({}, {}))
            verdict = outcome.sources.get(key, outcome.verdict) if by == "source" else outcome.verdict
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
            if outcome.here:
                here[outcome.here] = here.get(outcome.here, 0) + 1
    rows = [Count(k, _name(by, k), sum(v.values()), v, here) for k, (v, here) in found.items()]
    fixed = {"level": LEVELS, "verdict": VERDICTS, "liveness": LIVENESS}.get(by, ())
    order = {key: number for number, key in enumerate(fixed)}
    if by == "tactic":
        from sigma2kql.coverage.attack_names import attack

        order = {tactic.name: number for number, tactic in enumerate(attack().tactics)}
    return sorted(rows, key=lambda row: (row.key == NONE, order.get(row.key, len(order)), -row.rules, row.key))


def _name(by: str, key: str) -> str:
    if by == "technique":
        return technique_name(key)
    return tactic_title(key) if by == "tactic" and key != NONE else ""


def gaps(rules: Iterable[Covered], target: str, wanted: Sequence[str]) -> list[tuple[str, Count | None]]:
    """For each technique wanted, in order, what covers it; None where no rule does. A sub-technique counts for itself
    alone, a base for its sub-techniques too.
    """
    rows = {row.key: row for row in count(rules, target, "technique")}
    return [(technique, rows.get(technique)) for technique in dict.fromkeys(one.upper() for one in wanted)]


def lights_up(rules: Iterable[Covered], target: str) -> list[tuple[str, tuple[Covered, ...]]]:
    """Connectors in the order of how many blind rules each would bring to life, with those rules.

    Greedy: a rule that an earlier connector brings is not counted for a later one.
    """
    waiting = [rule for rule in rules if rule.on(target).here == "blind"]
    out: list[tuple[str, tuple[Covered, ...]]] = []
    while waiting:
        brings: dict[str, list[Covered]] = {}
        for rule in waiting:
            for name in {c for table in rule.on(target).tables for c in connectors_of(table)}:
                brings.setdefault(name, []).append(rule)
        if not brings:
            break
        best = min(brings, key=lambda name: (-len(brings[name]), name))
        out.append((best, tuple(brings[best])))
        brought = {id(rule) for rule in brings[best]}
        waiting = [rule for rule in waiting if id(rule) not in brought]
    return out
