"""The profile of a folder of event files: what a workspace that held them would hold.

Place in the flow: beside `gather`, which says what row each event is; the rows are counted, not kept. Invariant: as for
every profile, names and counts only; memory is bounded by the number of kinds of event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigma2kql.events.event_file import Report
from sigma2kql.hunt.gather import NUMBER, ORIGIN, Asked, gather
from sigma2kql.map.target import Target
from sigma2kql.model.tree import KqlType
from sigma2kql.workspace.inspection import MOST_VALUES, counted_columns
from sigma2kql.workspace.profile import Profile, Seen, TableProfile

LEAST_DAYS = 1 / 24  # a recording of seconds is not extrapolated to a day


@dataclass(slots=True)
class _Counts:
    """What is counted of one table."""

    time: str
    by: tuple[str, ...]
    rows: int = 0
    filled: Counter[str] = field(default_factory=Counter)
    seen: Counter[tuple[str, ...]] = field(default_factory=Counter)
    last: dict[tuple[str, ...], datetime] = field(default_factory=dict)
    first: datetime | None = None
    whole: bool = True

    def add(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        self.filled.update(name for name, value in row.items() if value not in (None, "", [], {}))
        moment = row.get(self.time)
        values = tuple("" if row.get(column) is None else str(row[column]) for column in self.by)
        if values not in self.seen and len(self.seen) >= MOST_VALUES:
            self.whole = False
            return
        self.seen[values] += 1
        if isinstance(moment, datetime):
            at = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            self.last[values] = max(at, self.last.get(values, at))
            self.first = min(at, self.first or at)


class _Tally:
    """A store of `gather` that counts what it is given."""

    def __init__(self, counts: Mapping[str, _Counts]) -> None:
        self.counts = counts

    def create(self, table: str, columns: Mapping[str, KqlType]) -> None:
        """Nothing is kept."""

    def append(self, table: str, columns: Mapping[str, KqlType], rows: Iterable[Mapping[str, Any]]) -> int:
        count = 0
        for count, row in enumerate(rows, 1):  # noqa: B007 - the number of the last is their count
            self.counts[table].add({name: row.get(name) for name in columns if name not in (ORIGIN, NUMBER)})
        return count


def profile_of_files(
    paths: Sequence[Path], target: Target, only: Sequence[str], report: Report, sample: int
) -> Profile:
    """The profile of the events of files and folders; what cannot be read goes to `report`.

    The time looked at reaches from the first event to the last, which is when the profile counts as made.
    """
    asked, counts = [], {}
    for entry in target.entries:
        if only and entry.name not in only:
            continue
        table = entry.load()
        time = target.time or table.time
        asked.append(Asked(table, entry.name, time, dict(table.columns)))
        counts[entry.name] = _Counts(time, counted_columns().get(entry.name, ()))
    gather(paths, asked, _Tally(counts), report)
    moments = [moment for one in counts.values() for moment in one.last.values()]
    made = max(moments, default=datetime.now(UTC))
    start = min((one.first for one in counts.values() if one.first is not None), default=made)
    days = max((made - start).total_seconds() / 86_400, LEAST_DAYS)
    tables = {one.name: _table(one, counts[one.name], days) for one in asked if counts[one.name].rows}
    absent = frozenset(name for one in asked for name in (one.name, one.table.builtin) if name and name not in tables)
    return Profile(made, round(days, 4), sample, tables, absent)


def _table(one: Asked, counts: _Counts, days: float) -> TableProfile:
    seen = [Seen(values, rows, counts.last.get(values)) for values, rows in counts.seen.items()]
    return TableProfile(
        one.name,
        counts.rows / days,
        max(counts.last.values(), default=None),
        {name: counts.filled[name] / counts.rows for name in one.table.columns},
        counts.by,
        tuple(sorted(seen, key=lambda each: (-each.rows, each.values))) if counts.by else (),
        counts.whole,
    )
