"""A hit as a person reads it: which rule, when, where, who, and the evidence: what the rule tested and found.

Place in the flow: between the outcomes of a hunt and what writes them. Invariant: every value is the row's own; nothing
is shown that the row does not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.hunt import Outcome
from sigma2kql.hunt.gather import ORIGIN
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import And, Compiled, Not, Or, Query
from sigma2kql.proof.row_cells import read_column
from sigma2kql.reference.evaluate import MISSING, Trace, trace

LEVELS = ("critical", "high", "medium", "low", "informational")  # the most severe first
_TIMES = ("TimeGenerated", "Timestamp")
_HOSTS = ("Computer", "DeviceName", "DvcHostname", "Dvc", "HostName")
_ACCOUNTS = ("AccountName", "ActorUsername", "TargetUsername", "User", "SubjectUserName", "TargetUserName", "UserName")
_RECORDS = ("EventRecordId", "EventRecordID", "ReportId", "EventOriginalUid")
_DATA = ("EventData", "AdditionalFields")


@frozen
class Hit:
    """One row of one rule. `matched`: the fields whose tests held, with their values; `data`: the rest of the event."""

    done: Compiled
    time: datetime | None
    host: str
    account: str
    record_id: str
    origin: str
    matched: Mapping[str, Any]
    row: Mapping[str, Any]

    @property
    def level(self) -> str:
        """The rule's level; a rule that states none is informational."""
        return self.done.document.meta.level or LEVELS[-1]

    def rank(self) -> int:
        """0 for the most severe level."""
        return LEVELS.index(self.level) if self.level in LEVELS else len(LEVELS) - 1

    def rest(self) -> dict[str, Any]:
        """What the event's data hold beside what matched."""
        for name in _DATA:
            if isinstance(data := self.row.get(name), Mapping):
                return {n: v for n, v in data.items() if n not in self.matched and v not in (None, "")}
        shown = {*_TIMES, *_HOSTS, *_RECORDS, ORIGIN}
        return {n: v for n, v in self.row.items() if n not in shown and n not in self.matched and v not in (None, "")}


def hits_of(outcome: Outcome) -> Iterator[Hit]:
    """The hits of one rule, in order of its rows."""
    if outcome.rows is None:
        return
    names = list(outcome.rows.columns)
    for values in outcome.rows.rows:
        row = dict(zip(names, values, strict=True))
        time = next((row[n] for n in _TIMES if isinstance(row.get(n), datetime)), None)
        yield Hit(
            outcome.done,
            time,
            _first(row, _HOSTS),
            _first(row, _ACCOUNTS) or _first(_data(row), _ACCOUNTS),
            _first(row, _RECORDS),
            str(row.get(ORIGIN) or ""),
            matched_fields(outcome.queries or (outcome.done,), row),
            row,
        )


def _data(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return next((data for name in _DATA if isinstance(data := row.get(name), Mapping)), {})


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next((str(row[name]) for name in names if row.get(name) not in (None, "", "-")), "")


def matched_fields(queries: tuple[Compiled, ...], row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields whose tests held on the row, by Sigma's names, with what the row says of them."""
    for done in queries:
        query = done.query
        if query is None:
            continue
        fields = {words: name for name, words in done.mapped.items()}
        whole = trace(And((query.rows, query.where)), lambda column: read_column(row, column))
        if not whole.holds and len(queries) > 1:
            continue
        found: dict[str, Any] = {}
        for column in _held(whole.parts[1]):
            value = read_column(row, column)
            if value is not MISSING and value not in (None, ""):
                found.setdefault(fields.get(column.text) or column.name or column.text, value)
        return found or _tested(query, fields, row)
    return {}


def _tested(query: Query, fields: Mapping[str, str], row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the rule asks for, where no test of them can be told to hold."""
    found: dict[str, Any] = {}
    for leaf in leaves(query.where):
        value = read_column(row, leaf.subject)
        if value is not MISSING and value not in (None, ""):
            found[fields.get(leaf.subject.text) or leaf.subject.name or leaf.subject.text] = value
    return found


def _held(part: Trace[Any]) -> Iterator[Any]:
    """The columns of the tests that hold and are asked to."""
    if not part.holds or isinstance(part.expr, Not):
        return
    if isinstance(part.expr, And | Or):
        for inner in part.parts:
            yield from _held(inner)
    else:
        yield part.expr.subject
