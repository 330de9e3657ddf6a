"""Events of files become rows of the tables that queries stand on, in a DuckDB database on disk.

Place in the flow: between event files and the local engine of `sigma2kql hunt`. Invariant: every event read is counted
once, as rows of tables, as not asked for or as not placed with the reason; memory is bounded by the batch, not by the
data.

A Windows event is the row that its collector writes into each table of Windows events that is asked for. A row of a
table (an export) is a row of that table. Everything else has Sigma's field names and is shaped for the log source that
the rules ask for and the event is of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic
from sigma2kql.engines.remote import TimeRange
from sigma2kql.events import event_files, read_events, read_paths
from sigma2kql.events.event_file import DEFAULT_LIMITS, Event, Limits, Report
from sigma2kql.events.event_forms import SYSTEM_COLUMNS, EventForm, recognise, sigma_fields, windows_record
from sigma2kql.events.log_sources import log_source, told_by
from sigma2kql.events.table_rows import WRITERS, windows_event
from sigma2kql.events.windows_carriers import Unusable, is_flat
from sigma2kql.events.windows_event import WindowsRecord, generic_fields, number
from sigma2kql.map.target import load_target
from sigma2kql.model.tree import KqlType, LogSource, Serve, Table
from sigma2kql.proof.event_rows import TIMES, Shaped, keyword_text, raw_row, shape
from sigma2kql.proof.row_cells import read_column
from sigma2kql.reference.evaluate import holds

WINDOWS = "WindowsEvent"
ORIGIN = "_Origin"  # column: file and line of the event
NUMBER = "_Row"  # column: number of the event
BATCH_ROWS = 10_000
BATCH_CHARS = 32 << 20
SURVEYED = 200  # files that are looked into before the tables are chosen
EVTX = b"ElfFile\0"
PROBLEMS = 20  # kinds of problems that are told in full
MOST_NAMES = 10_000  # of fields that are remembered: hostile data has no end of them


class Store(Protocol):
    """Where tables are kept: the DuckDB engine, in this process or in one of its own."""

    def create(self, table: str, columns: Mapping[str, KqlType]) -> None: ...
    def append(self, table: str, columns: Mapping[str, KqlType], rows: Iterable[Mapping[str, Any]]) -> int: ...


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
        if not path.is_file():
            continue  # a pipe or a device might never answer
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
            windows = windows or known.form is EventForm.WINDOWS_RAW or (known.table is None and is_flat(first.data))
    return frozenset(tables), windows


def gather(
    paths: Sequence[Path],
    asked: Sequence[Asked],
    engine: Store,
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
        one.columns = {one.time: "datetime", **one.columns, ORIGIN: "string", NUMBER: "long"}
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

    def __init__(self, engine: Store, asked: Sequence[Asked], done: Gathered) -> None:
        self.engine = engine
        self.done = done
        self.waiting: list[list[Mapping[str, Any]]] = [[] for _ in asked]
        self.asked = asked
        self.number = {one.name: number for number, one in enumerate(asked)}
        self.chars = 0

    def add(self, one: Asked, row: Mapping[str, Any]) -> None:
        rows = self.waiting[self.number[one.name]]
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
    """Decides in which tables an event stands, and makes its row in each: one, whatever rules there are."""

    def __init__(self, asked: Sequence[Asked], logsource: LogSource | None, done: Gathered) -> None:
        self.by_name = {name: one for one in asked for name in (one.name, one.table.name, one.table.builtin) if name}
        self.written = [(one, WRITERS[one.table.name]) for one in asked if one.table.name in WRITERS]
        self.asked = [one for one in asked if one.serves]
        self.others = [one for one in asked if one.table.name not in WRITERS and one.serves]
        self.logsource = logsource
        self.done = done
        self._logs: dict[tuple[Any, ...], list[LogSource]] = {}
        self._windows_table: Table | None = None

    def rows(self, event: Event, span: TimeRange | None) -> Iterator[tuple[Asked, Mapping[str, Any]]]:
        """The row of the event in each table that is asked for, with its time; counts what becomes of it."""
        data = event.data
        found: list[tuple[Asked, Mapping[str, Any]]]
        try:
            known = recognise(data)
            own = self.by_name.get(known.table or "")
            record = None if own is not None else windows_record(data)
        except Unusable as why:
            self._unplaced(str(why), event)
            return
        if own is not None:
            moment, found = _when(data), [(own, self._raw(own, data))]
        elif record is not None and (known.form is not EventForm.TABLE_ROW or known.table in SYSTEM_COLUMNS):
            moment = _when(record.system) or _when(record.data)
            found = [(one, made) for one, write in self.written if (made := write(record)) is not None]
            if self.others:
                fields = generic_fields(record)
                found += self._shaped(fields, self._logs_of(record), self.others, record.fields())
        elif (log := self.logsource or _log_of(data)) is not None:
            moment, found = _when(data), list(self._shaped(sigma_fields(data), [log], self.asked))
            line = data.get("SyslogMessage")
            if isinstance(line, str):  # the row holds the line as it was written
                found = [(one, {**row, "SyslogMessage": line}) for one, row in found]
        elif known.form is EventForm.TABLE_ROW:
            self._unplaced(f"are rows of {known.table}, which no rule stands on", event)
            return
        else:
            self._unplaced(f"{told_by(data)} (--logsource names one)", event)
            return
        if not found:
            self.done.not_asked += 1
        elif moment is None and span is not None:
            self._unplaced("have no time that can be read", event)
        elif span is not None and not span.start <= moment < span.end:  # type: ignore[operator]
            self.done.out_of_range += 1
        else:
            for one, row in found:
                yield one, {**row, one.time: moment, ORIGIN: event.origin, NUMBER: self.done.events}

    def _raw(self, one: Asked, data: Mapping[str, Any]) -> Mapping[str, Any]:
        shaped = raw_row(data, one.table)
        self._note(one, shaped.problems)
        return shaped.row

    def _logs_of(self, record: WindowsRecord) -> list[LogSource]:
        """The log sources that a Windows event is of, found once for each kind of event."""
        system = record.system
        key = (
            *(repr(system.get(n)) for n in ("Channel", "Provider_Name", "EventID")),
            repr(record.data.get("EventType")),
        )
        known = self._logs.get(key)
        if known is None:
            table, row = self._table(), windows_event(record)
            known = [s.logsource for s in table.serves if holds(s.where, lambda column: read_column(row, column))]
            if len(self._logs) < MOST_NAMES:
                self._logs[key] = known
        return known

    def _table(self) -> Table:
        if self._windows_table is None:
            self._windows_table = next(e for e in load_target("sentinel").entries if e.name == WINDOWS).load()
        return self._windows_table

    def _shaped(
        self,
        fields: Mapping[str, Any],
        logs: Sequence[LogSource],
        asked: Sequence[Asked],
        own: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[Asked, Mapping[str, Any]]]:
        """The row of each table that carries a log source of the event; the fields of all its rules must be right."""
        for one in asked:
            of_it = [
                (serve, names)
                for serve, names in one.serves
                if not (serve.event_ids and number(fields.get("EventID")) not in serve.event_ids)
                and any(serve.logsource.covers(log) or log.covers(serve.logsource) for log in logs)
            ]
            best: Shaped | None = None
            for serve, _ in of_it:
                names = dict.fromkeys(name for _, own in of_it for name in own)
                said = fields if own is None or serve.logsource.category else {**fields, **own}
                shaped = shape(said, one.table, serve, names)
                if best is None or (len(shaped.problems), shaped.foreign) < (len(best.problems), best.foreign):
                    best, chosen = shaped, serve
            if best is not None:
                self._note(one, best.problems)
                yield one, keyword_text(best.row, fields, one.table, chosen) if one.keywords else best.row

    def _unplaced(self, reason: str, event: Event) -> None:
        self.done.unplaced[reason] += 1
        self.done.examples.setdefault(reason, event.origin)

    def _note(self, one: Asked, problems: Iterable[str]) -> None:
        for problem in problems:
            kind = problem if len(self.done.problems) < 1000 else "other problems"  # hostile data names no end of them
            self.done.problems[one.name, kind[:300]] += 1


def _log_of(data: Mapping[str, Any]) -> LogSource | None:
    """The log source that a record of no Windows log tells by its layout."""
    told = log_source(data)
    return LogSource(*told) if told is not None else None


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
