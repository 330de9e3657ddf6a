"""What is proven and what comes of it: a rule with its events, its result, a counterexample, the counts of a run.

Place in the flow: beside `prove`, read by the command. Invariant: `as_dict` is the contract of `test --format json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, Literal

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.map.one_table import Mapped
from sigma2kql.model.tree import Compiled, Correlation, Expr, Field, Rule, Serve, Table, Verdict
from sigma2kql.proof.rule_events import Attack, Labelled, Stream


@frozen
class Feed:
    """A rule that feeds a correlation: its tree over Sigma's fields, and where it is mapped to."""

    rule: Rule
    where: Expr[Field]
    mapped: Mapped


@frozen
class Subject:
    """A rule to prove: its result, its tree over Sigma's fields, where it is mapped to, and its events.

    Of a correlation: the rules that feed it, the correlations in between, and its events in streams.
    """

    compiled: Compiled
    where: Expr[Field] | None = None
    table: Table | None = None
    serve: Serve | None = None
    events: tuple[Labelled, ...] = ()
    attacks: tuple[Attack, ...] = ()
    problems: tuple[str, ...] = ()
    feeds: tuple[Feed, ...] = ()
    inner: tuple[Correlation, ...] = ()
    streams: tuple[Stream, ...] = ()


@frozen
class Counterexample:
    """One event that came out wrong: what was expected, the row it became, and what in the rule decided."""

    event: Mapping[str, Any]
    expected: bool
    origin: str
    row: Mapping[str, Any]
    why: str = ""
    line: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "event": dict(self.event),
            "expected": "match" if self.expected else "no match",
            "origin": self.origin,
            "row": {k: v for k, v in self.row.items() if v is not None and v != ""},
            "why": self.why,
            "line": self.line,
        }


@frozen
class SourceResult:
    """What a rule's query did on rows as one source writes them, beside the verdict that it has for that source."""

    verdict: Verdict
    events: int
    missed: int
    unexpected: int

    @property
    def agrees(self) -> bool:
        """Whether nothing was missed or found against what the verdict says."""
        return not (self.missed and self.verdict != "narrower") and not (self.unexpected and self.verdict == "exact")

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "events": self.events,
            "missed": self.missed,
            "unexpected": self.unexpected,
        }


Status = Literal["passed", "failed", "unproven", "skipped"]


@frozen
class Result:
    """What became of one rule. `events` were run, of which `matched` were selected; `set_aside` could not be shaped.

    `unproven`: no event decides whether the query is right, for the `reason` given.
    """

    path: str
    line: int
    id: str | None
    title: str
    target: str
    table: str | None
    status: Status
    reason: str = ""
    events: int = 0
    positive: int = 0
    matched: int = 0
    missed: int = 0
    unexpected: int = 0
    set_aside: int = 0
    notes: tuple[str, ...] = ()
    counterexample: Counterexample | None = None
    sources: Mapping[str, SourceResult] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As the JSON output has it, where an unproven rule is a skipped one that says so."""
        unproven = self.status == "unproven"
        return {
            "path": self.path,
            "line": self.line,
            "id": self.id,
            "title": self.title,
            "target": self.target,
            "table": self.table,
            "status": "skipped" if unproven else self.status,
            "reason": f"unproven: {self.reason}" if unproven else self.reason,
            "events": self.events,
            "must_match": self.positive,
            "must_not_match": self.events - self.positive,
            "matched": self.matched,
            "missed": self.missed,
            "unexpected": self.unexpected,
            "set_aside": self.set_aside,
            "notes": list(self.notes),
            "counterexample": self.counterexample.as_dict() if self.counterexample else None,
            "sources": {source: one.as_dict() for source, one in self.sources.items()},
            "seconds": round(self.seconds, 4),
        }


def outcome(subject: Subject, status: Status, reason: str = "", **more: Any) -> Result:
    """A result with what the document says about itself."""
    document = subject.compiled.document
    return Result(
        document.origin.source.path,
        document.origin.source.position(document.origin.span.start)[0],
        document.meta.id,
        document.meta.title,
        subject.compiled.target,
        subject.compiled.table,
        status,
        reason,
        **more,
    )


def summary(results: Iterable[Result], seconds: float) -> dict[str, Any]:
    """The counts of a run, as the JSON output has them: the unproven rules are among the skipped ones."""
    held = list(results)
    counts = Counter(r.status for r in held)
    return {
        "rules": len(held),
        "passed": counts["passed"],
        "failed": counts["failed"],
        "skipped": counts["skipped"] + counts["unproven"],
        "unproven": counts["unproven"],
        "events": sum(r.events for r in held),
        "must_match": sum(r.positive for r in held),
        "must_not_match": sum(r.events - r.positive for r in held),
        "set_aside": sum(r.set_aside for r in held),
        "seconds": round(seconds, 3),
    }
