"""Events of files become rows of the tables that queries stand on, in a DuckDB database on disk.

Place in the flow: between event files and the local engine of `sigma2kql hunt`. Invariant: every event read is counted
once, as rows of tables, as not asked for or as not placed with the reason; memory is bounded by the batch, not by the
data.

A Windows event is a row of WindowsEvent as it stands. A row of a table (an export) is a row of that table. Everything
else has Sigma's field names and is shaped for each log source that the rules ask for and the events are of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic
from sigma2kql.engines.duckdb import Engine
from sigma2kql.engines.remote import TimeRange
from sigma2kql.events import event_files, read_events, read_paths
from sigma2kql.events.event_file import DEFAULT_LIMITS, Event, Limits, Report
from sigma2kql.events.event_forms import SYSTEM_COLUMNS, EventForm, recognise, sigma_fields
from sigma2kql.map.target import load_target
from sigma2kql.model.tree import KqlType, LogSource, Serve, Table
from sigma2kql.proof.event_rows import TIMES, keyword_text, raw_row, shape
from sigma2kql.proof.row_cells import read_column
from sigma2kql.reference.evaluate import holds

WINDOWS = "WindowsEvent"
ORIGIN = "_Origin"  # column: file and line of the event
BATCH_ROWS = 10_000
BATCH_CHARS = 32 << 20
SURVEYED = 200  # files that are looked into before the tables are chosen
EVTX = b"ElfFile\0"
PROBLEMS = 20  # kinds of problems that are told in full
MOST_NAMES = 10_000  # of fields that are remembered: hostile data has no end of them
_LEVELS = {"critical": 1, "error": 2, "warning": 3, "information": 4, "verbose": 5}
# elements of System that the table does not have; they are not part of EventData
_SYSTEM_ONLY = ("TimeCreated_", "Correlation_", "Execution_", "Provider_", "Security_")
_EMPTY_ELEMENTS = ("Correlation", "Execution", "Security", "TimeCreated", "Provider")


@dataclass(slots=True)
class Asked:
    """What queries ask of one table: its name and time column there, the columns they read, and by log source the
    fields they test.
    """

    table: Table
    name: str
    time: str
    columns: dict[str, KqlType] = field(default_factory=dict)
    serves: list[tuple[Serve, dict[str, None]]] = field(default_factory=list)
    keywords: bool = False

    def serve(self, serve: Serve, fields: Iterable[str | None]) -> None:
        """Rules of this log source test these fields; None is a keyword."""
        known = next((names for one, names in self.serves if one is serve), None)
        if known is None:
            known = {}
            self.serves.append((serve, known))
        for name in fields:
            if name is None:
                self.keywords = True
            else:
                known[name] = None


@dataclass(slots=True)
class Gathered:
    """What became of the events: rows by table, and how many were not asked for, out of range or not placed."""

    events: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    placed: int = 0
    not_asked: int = 0
    out_of_range: int = 0
    unplaced: Counter[str] = field(default_factory=Counter)
    problems: Counter[tuple[str, str]] = field(default_factory=Counter)  # (table, problem)
    examples: dict[str, str] = field(default_factory=dict)

    def notices(self) -> Iterator[Diagnostic]:
        """What is to be said of events that were left out, and of fields that the rows lack (W692, W693)."""
        for reason, count in self.unplaced.most_common():
            yield diagnostic("W692", f"{count:,} event{'s' * (count != 1)} {reason}, e.g. {self.examples[reason]}")
        for (table, problem), count in self.problems.most_common(PROBLEMS):
            yield diagnostic("W693", f"{count:,} row{'s' * (count != 1)} of {table}: {problem}")
        if len(self.problems) > PROBLEMS:
            rest = self.problems.most_common()[PROBLEMS:]
            yield diagnostic("W693", f"{sum(n for _, n in rest):,} rows with {len(rest):,} further kinds of problems")


def survey(paths: Sequence[Path]) -> tuple[frozenset[str], bool]:
    """The tables whose rows the first events of the files are, and whether there are Windows events.

    What cannot be read is passed over: `gather` says so.
    """
    tables: set[str] = set()
    windows = False
    for path in [file for folder in paths for file in event_files(folder)][:SURVEYED]:
        try:
            with path.open("rb") as raw:
                if raw.read(len(EVTX)) == EVTX:
                    windows = True
                    continue
            first = next(read_events(path, DEFAULT_LIMITS, lambda _: None), None)
        except (OSError, Sigma2KqlError):
            continue
        if first is not None:
            known = recognise(first.data)
            if known.table is not None:
                tables.add(known.table)
            windows = windows or known.form is EventForm.WINDOWS_RAW or _is_windows(first.data)
    return frozenset(tables), windows


def gather(
    paths: Sequence[Path],
    asked: Sequence[Asked],
    engine: Engine,
    report: Report,
    span: TimeRange | None = None,
    logsource: LogSource | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Gathered:
    """Create the tables that queries ask for and fill them with the events of files and folders.

    `logsource` says what events in Sigma's field names are; `span` leaves out events of other times, and those without
    one. A file that cannot be read goes to `report` and the others follow. Raises E604 where the database fails.
    """
    done = Gathered()
    for one in asked:
        one.columns = {one.time: "datetime", **one.columns, ORIGIN: "string"}
        engine.create(one.name, one.columns)
    writer = _Writer(engine, asked, done)
    placer = _Placer(asked, logsource, done)
    for event in read_paths(paths, limits, report):
        done.events += 1
        before = done.placed
        for one, row in placer.rows(event, span):
            writer.add(one, row)
            done.placed = before + 1
    writer.flush()
    return done


class _Writer:
    """Holds rows until there are enough of them, by number or size."""

    def __init__(self, engine: Engine, asked: Sequence[Asked], done: Gathered) -> None:
        self.engine = engine
        self.done = done
        self.waiting: list[list[Mapping[str, Any]]] = [[] for _ in asked]
        self.asked = asked
        self.number = {id(one): number for number, one in enumerate(asked)}
        self.chars = 0

    def add(self, one: Asked, row: Mapping[str, Any]) -> None:
        rows = self.waiting[self.number[id(one)]]
        rows.append(row)
        self.chars += sum(_size(row.get(name)) for name in one.columns)
        if len(rows) >= BATCH_ROWS or self.chars >= BATCH_CHARS:
            self.flush()

    def flush(self) -> None:
        for one, rows in zip(self.asked, self.waiting, strict=True):
            if rows:
                self.done.rows[one.name] += self.engine.append(one.name, one.columns, rows)
                rows.clear()
        self.chars = 0


def _size(value: Any) -> int:
    """About how many characters a value takes."""
    kind = type(value)
    if kind is str:
        return len(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        return 16
    size = 16 * len(value)
    for part in value:
        size += len(part) if type(part) is str else _size(part)
    return size


# --------------------------------------------------------------------------------------------------------------------
# One event


class _Placer:
    """Decides in which tables an event stands, and makes its rows."""

    def __init__(self, asked: Sequence[Asked], logsource: LogSource | None, done: Gathered) -> None:
        self.by_name = {name: one for one in asked for name in (one.name, one.table.name, one.table.builtin) if name}
        self.windows = self.by_name.get(WINDOWS)
        self.others = [one for one in asked if one is not self.windows and one.serves]
        self.logsource = logsource
        self.done = done
        self._windows_table: Table | None = None if self.windows is None else self.windows.table
        self._windows_places: dict[str, str] = {}

    def rows(self, event: Event, span: TimeRange | None) -> Iterator[tuple[Asked, Mapping[str, Any]]]:
        known = recognise(event.data)
        own = self.by_name.get(known.table or "")
        fields: Mapping[str, Any]
        found: list[tuple[Asked, Mapping[str, Any]]]
        if known.form is EventForm.TABLE_ROW and own is not None:
            fields = event.data
            shaped = raw_row(event.data, own.table)
            self._note(own, shaped.problems)
            found = [(own, shaped.row)]
        elif known.form is EventForm.TABLE_ROW and known.table not in SYSTEM_COLUMNS and self.logsource is None:
            self._unplaced(f"are rows of {known.table}, which no rule stands on", event)
            return
        else:
            fields = sigma_fields(event.data)
            if known.form is EventForm.WINDOWS_RAW or known.table in SYSTEM_COLUMNS or _is_windows(fields):
                found = list(self._windows(fields))
            elif self.logsource is not None:
                found = list(self._shaped(fields, [self.logsource]))
            else:
                self._unplaced("say neither their log nor their table (--logsource names one)", event)
                return
        if not found:
            self.done.not_asked += 1
            return
        when = _when(fields)
        if span is not None and not (when is not None and span.start <= when < span.end):
            if when is None:
                self._unplaced("have no time that can be read", event)
            else:
                self.done.out_of_range += 1
            return
        for one, row in found:
            yield one, {**row, one.time: when, ORIGIN: event.origin}

    def _windows(self, fields: Mapping[str, Any]) -> Iterator[tuple[Asked, Mapping[str, Any]]]:
        """A row of WindowsEvent where that is asked for; in other tables by the log sources that the event is of."""
        if self.windows is None and not self.others:
            return
        table = self._table()
        row = windows_row(fields, self._windows_places)
        if self.windows is not None:
            yield self.windows, row
        if self.others:
            logs = [s.logsource for s in table.serves if holds(s.where, lambda column: read_column(row, column))]
            yield from self._shaped(fields, logs)

    def _table(self) -> Table:
        if self._windows_table is None:
            self._windows_table = next(e for e in load_target("sentinel").entries if e.name == WINDOWS).load()
        if not self._windows_places:
            self._windows_places = places_of(self._windows_table)
        return self._windows_table

    def _shaped(
        self, fields: Mapping[str, Any], logs: Sequence[LogSource]
    ) -> Iterator[tuple[Asked, Mapping[str, Any]]]:
        for one in self.others:
            made: list[Mapping[str, Any]] = []
            for serve, names in one.serves:
                if serve.event_ids and _number(fields.get("EventID")) not in serve.event_ids:
                    continue
                if not any(serve.logsource.covers(log) or log.covers(serve.logsource) for log in logs):
                    continue
                shaped = shape(fields, one.table, serve, names)
                self._note(one, shaped.problems)
                row = keyword_text(shaped.row, fields, one.table, serve) if one.keywords else shaped.row
                if row not in made:
                    made.append(row)
                    yield one, row

    def _unplaced(self, reason: str, event: Event) -> None:
        self.done.unplaced[reason] += 1
        self.done.examples.setdefault(reason, event.origin)

    def _note(self, one: Asked, problems: Iterable[str]) -> None:
        for problem in problems:
            kind = problem if len(self.done.problems) < 1000 else "other problems"  # hostile data names no end of them
            self.done.problems[one.name, kind[:300]] += 1


def _number(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _is_windows(fields: Mapping[str, Any]) -> bool:
    return "EventID" in fields and ("Channel" in fields or "Provider_Name" in fields)


def windows_row(fields: Mapping[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """A Windows event, by Sigma's field names, as the row of WindowsEvent that the agent writes for it.

    Elements of System stand in their columns, those of EventData and UserData in the column EventData as text.
    `places` are those of the table (`places_of`); the names that the event brings are added to them.
    """
    row: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for name, value in fields.items():
        place = places.get(name)
        if place is None:
            place = _DROPPED if name.startswith(_SYSTEM_ONLY) else _DATA
            if len(places) < MOST_NAMES:
                places[name] = place
        if place == _DATA:
            data[name] = value if type(value) in _KEPT else _text(value)
        elif place != _DROPPED:
            row[place] = value
        elif name in _EMPTY_ELEMENTS and value:
            data[name] = value
    level = row.get("EventLevel")
    if isinstance(level, str):
        row["EventLevel"] = _LEVELS.get(level.lower(), level)
    row["EventData"] = data
    return row


_DATA, _DROPPED = "EventData", ""
_KEPT = (str, list, dict)


def places_of(table: Table) -> dict[str, str]:
    """Sigma field -> the stored column that the table has for it alone."""
    return {
        **{
            name: one.columns[0].reads[0]
            for name, one in table.fields.items()
            if len(one.columns) == 1 and one.columns[0].kind == "stored"
        },
        "Level": "EventLevel",
        **dict.fromkeys(_EMPTY_ELEMENTS, _DROPPED),
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _when(fields: Mapping[str, Any]) -> datetime | None:
    """The first of the known names of times that holds one, in UTC."""
    for name in TIMES:
        value = fields.get(name)
        if isinstance(value, datetime):
            value = value.isoformat()
        if not isinstance(value, str) or not value[:4].isdigit():
            continue
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            continue
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return None
