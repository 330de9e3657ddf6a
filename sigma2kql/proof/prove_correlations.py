"""Run a correlation's emitted query on streams of events, and judge for which groups it fires.

Place in the flow: under `prove`, above the reference meaning and the engine. Invariant: what is run is the emitted
text, unchanged, over the rows of all its rules; which rows match a rule says `evaluate`, when the correlation fires
says `correlations.firings`, and neither knows the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, assert_never

from sigma2kql.api import Compiler
from sigma2kql.correlate import column_names
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, frozen
from sigma2kql.engines.duckdb import Engine
from sigma2kql.events.event_forms import EventForm, recognise, sigma_fields
from sigma2kql.model.named_rules import NamedRules
from sigma2kql.model.thresholds import few
from sigma2kql.model.tree import And, Broken, Compiled, Correlation, Document, Filter, KqlType, NativeQuery, Rule
from sigma2kql.proof import Counterexample, Feed, Result, Subject, outcome
from sigma2kql.proof.event_rows import TIMES, raw_row, shape
from sigma2kql.proof.labelled_rows import GENERATED, fields_of
from sigma2kql.proof.row_cells import as_datetime, read_column
from sigma2kql.proof.streams import MOST_EVENTS, Placed, made, stated
from sigma2kql.reference.correlations import Hit, field_of, firings
from sigma2kql.reference.evaluate import evaluate, holds, text_of

START = datetime(2025, 1, 6, 8, 30)  # of streams whose events name no time; long over, whatever the day
STREAM = "_stream"  # the column that tells the rows of streams apart
LOOSE = "W409"  # says that a field to group by is compared by a bare name
ENGINE_LIMITS = ("E601", "E605", "E606")
SHOWN = 12  # events of a stream that a counterexample shows

Group = tuple[str, ...]


@frozen
class _Row:
    """An event as a row of a table, and for each rule that it matches (by its place) the fields that it has."""

    table: str
    cells: Mapping[str, Any]
    time: datetime
    matched: Mapping[int, Mapping[str, Any]]


@frozen
class _Case:
    """A stream to run: its rows, the groups for which the correlation means to fire, and what the user says."""

    rows: tuple[_Row, ...]
    groups: frozenset[Group]
    stated: bool | None
    origin: str
    until: datetime  # when the query is run


def fed(compiler: Compiler, done: Compiled) -> Subject:
    """A correlation to prove, with the rules and correlations that it stands on."""
    feeds: dict[int, Feed] = {}
    inner: dict[int, Correlation] = {}
    todo: list[Document] = [done.document]
    while todo:
        document = todo.pop()
        match document:
            case Correlation() as correlation if id(correlation) not in inner:
                inner[id(correlation)] = correlation
                todo += [compiler.names.find(reference, correlation) for reference in correlation.rules]
            case Rule() as rule if id(rule) not in feeds:
                feeds[id(rule)] = Feed(rule, compiler.where(rule), compiler.map(rule))
            case Rule() | Correlation() | Filter() | NativeQuery() | Broken():
                pass
            case _:
                assert_never(document)
    del inner[id(done.document)]
    return Subject(done, feeds=tuple(feeds.values()), inner=tuple(inner.values()))


def prove_correlation(subject: Subject, count: int, seed: str) -> Result:
    """The verdict on one correlation; `count` streams are made for it (0: none)."""
    if subject.problems:
        return outcome(subject, "failed", "; ".join(subject.problems))
    reader = _Reader(subject)
    try:
        cases, notes = reader.cases(count, seed)
    except ValueError as error:
        return outcome(subject, "failed", str(error))
    told = tuple(dict.fromkeys(notes))
    if not cases:
        reason = f"no event can stand in the tables: {notes[0]}" if notes else "no events"
        return outcome(subject, "skipped", reason, set_aside=len(notes), notes=told)
    try:
        found = _run(subject, reader, cases)
    except Sigma2KqlError as error:
        limit = error.diagnostics[0].code in ENGINE_LIMITS
        reason = f"the engine cannot run it: {error}" if limit else f"the query is refused: {error}"
        return outcome(subject, "skipped" if limit else "failed", reason, set_aside=len(notes), notes=told)
    return replace(_judged(subject, cases, found), set_aside=len(notes), notes=told)


def _judged(subject: Subject, cases: Sequence[_Case], found: Sequence[frozenset[Group]]) -> Result:
    """A stream is missed or unexpected as a whole; what a lossy rule beneath demands less is as with single rules."""
    codes = {d.code for d in subject.compiled.diagnostics}
    missed: list[tuple[_Case, frozenset[Group]]] = []
    unexpected: list[tuple[_Case, frozenset[Group]]] = []
    for case, groups in zip(cases, found, strict=True):
        if (case.groups - groups or (case.stated is True and not groups)) and "W402" not in codes:
            missed.append((case, groups))
        elif (groups - case.groups or (case.stated is False and groups)) and "W401" not in codes:
            unexpected.append((case, groups))
    fires = sum(bool(case.groups) for case in cases)
    decided = fires > 0 or any(case.stated is not None for case in cases)
    result = outcome(
        subject,
        "failed" if missed or unexpected else "passed" if decided else "unproven",
        events=sum(len(case.rows) for case in cases),
        positive=fires,
        matched=sum(map(bool, found)),
        missed=len(missed),
        unexpected=len(unexpected),
    )
    if result.status == "unproven":
        return replace(result, reason="on none of the streams it is to fire")
    if result.status == "passed":
        return result
    reason = f"{len(missed)} missed, {len(unexpected)} unexpected of {len(cases)} streams"
    case, groups = min((*missed, *unexpected), key=lambda pair: len(pair[0].rows))
    return replace(result, reason=reason, counterexample=_shown(case, groups, [feed.rule for feed in subject.feeds]))


def _shown(case: _Case, found: frozenset[Group], rules: Sequence[Rule]) -> Counterexample:
    events = [
        {
            "at": row.time.isoformat(),
            "rules": [rules[n].meta.name or rules[n].meta.title for n in row.matched],
            **next(iter(row.matched.values()), {}),
        }
        for row in sorted(case.rows, key=lambda row: row.time)
    ]
    meant, did = (["/".join(group) or "all" for group in sorted(groups)] for groups in (case.groups, found))
    why = f"means to fire for {', '.join(meant) or 'no group'}, and the query fires for {', '.join(did) or 'none'}"
    if case.stated is not None and case.stated != bool(case.groups):
        why = f"stated to {'fire' if case.stated else 'be quiet'}; by the correlation's meaning it {why}"
    else:
        why = f"the correlation {why}"
    held = {"events": events[:SHOWN], **({"more": len(events) - SHOWN} if len(events) > SHOWN else {})}
    return Counterexample(held, bool(case.groups - found) or case.stated is True, case.origin, {}, why)


# --------------------------------------------------------------------------------------------------------------------
# Running


def _run(subject: Subject, reader: _Reader, cases: Sequence[_Case]) -> list[frozenset[Group]]:
    """For each stream the groups for which the query fires. Raises Sigma2KqlError."""
    kql, document = subject.compiled.kql, subject.compiled.document
    assert kql is not None and isinstance(document, Correlation)
    names = column_names(document)
    keys = dict.fromkeys(names[reference.name].strip("[]'") for reference in document.group_by)
    found = []
    with Engine(threads=1) as engine:
        engine.connection.execute("PRAGMA disable_optimizer")  # few rows: planning would take longer than running
        for table, columns in reader.tables.items():
            rows = ({**row.cells, STREAM: n} for n, case in enumerate(cases) for row in case.rows if row.table == table)
            engine.load(f"{table}_rows", {**columns, STREAM: "int"}, rows)
        for number, case in enumerate(cases):
            engine.now = case.until
            for table in reader.tables:
                engine.connection.execute(
                    f'CREATE OR REPLACE VIEW "{table}" AS SELECT * EXCLUDE ({STREAM}) FROM "{table}_rows" '  # noqa: S608
                    f"WHERE {STREAM} = {number:d}"
                )
            given = frozenset(tuple(text_of(row[key]) for key in keys) for row in engine.run(kql))
            found.append(_recognised(given, case.groups))
    return found


def _recognised(given: frozenset[Group], meant: frozenset[Group]) -> frozenset[Group]:
    """The groups that a query gives, by the names of those meant: a table may hold a part of an event's value, or write
    it otherwise. Two groups meant are never one group given.
    """
    left = set(meant)
    found = set()
    for group in sorted(given):
        fits = sorted(one for one in left if all(map(_stands_for, group, one)))
        found.add(fits[0] if fits else group)
        left -= set(fits[:1])
    return frozenset(found)


def _stands_for(given: str, meant: str) -> bool:
    """Whether a column's text is what a table makes of an event's: the same, a last or first part, another spelling."""
    if given == meant or meant.endswith(("\\" + given, "/" + given)) or meant.startswith((given + ".", given + "@")):
        return True
    if given.startswith("hkey_"):
        short = {"hkey_local_machine": "hklm", "hkey_users": "hku", "hkey_current_user": "hkcu"}
        hive, separator, rest = given.partition("\\")
        return short.get(hive, hive) + separator + rest == meant
    return meant.startswith("0x") and given.isdecimal() and int(given) == int(meant, 16)


# --------------------------------------------------------------------------------------------------------------------
# Events to rows


class _Reader:
    """Makes the rows of streams, and says for which groups the correlation means to fire on them."""

    def __init__(self, subject: Subject) -> None:
        assert isinstance(subject.compiled.document, Correlation)
        self.subject = subject
        self.correlation = subject.compiled.document
        self.feeds = subject.feeds
        self.names = NamedRules([*(feed.rule for feed in subject.feeds), *subject.inner])
        self.loose = {d.span for d in subject.compiled.diagnostics if d.code == LOOSE}
        self.asked = self._asked()
        self.tables: dict[str, dict[str, KqlType]] = {}
        for feed in self.feeds:
            query, table = feed.mapped.query, feed.mapped.table
            self.tables.setdefault(query.table, {}).update({**table.columns, query.time: "datetime"})
        self.seen: dict[str, _Row | str] = {}

    def _asked(self) -> dict[int, set[str]]:
        """For each rule (by identity) the fields that some correlation groups by or counts."""
        found: dict[int, set[str]] = {id(feed.rule): set() for feed in self.feeds}
        for correlation in (self.correlation, *self.subject.inner):
            for reference in correlation.rules:
                document = self.names.find(reference, correlation)
                if isinstance(document, Rule):
                    names = (field_of(correlation, g.name, self.names, document) for g in correlation.group_by)
                    found[id(document)].update(names, correlation.threshold.fields if correlation.threshold else ())
        return found

    def cases(self, count: int, seed: str) -> tuple[list[_Case], list[str]]:
        """The streams as rows, and of each event that cannot be a row the reason. Raises ValueError for a stream that
        cannot be read.
        """
        found: list[_Case] = []
        notes: list[str] = []
        hunted = [Placed(one.event) for one in self.subject.events if one.expected is None]
        rows = [row for placed in hunted if isinstance(row := self.row(placed), _Row)]
        matches = sum(bool(row.matched) for row in rows)
        if matches > MOST_EVENTS:
            notes.append(
                f"the events given hold {matches:,} matches, and at most {MOST_EVENTS:,} are judged; use `hunt`"
            )
        elif rows:
            found.append(self.case(rows, None, "the events given"))
        for stream in self.subject.streams:
            found += self.read(stated(stream.events), stream.expected, stream.origin, notes)
        for one in made(self.subject, self.names, count, seed) if count else ():
            found += self.read(one.events, None, f"{GENERATED} ({one.how})", notes)
        return found, notes

    def read(self, events: Sequence[Placed], expected: bool | None, origin: str, notes: list[str]) -> list[_Case]:
        """A stream as rows. One that was made must be whole; of a stated one, events of other logs are left out."""
        rows = [self.row(placed) for placed in events]
        problems = [row for row in rows if isinstance(row, str)]
        notes += [f"{origin}: {problem}" for problem in problems[:1]]
        if not rows or (problems and expected is None):
            return []
        return [self.case([row for row in rows if isinstance(row, _Row)], expected, origin)]

    def case(self, rows: Sequence[_Row], expected: bool | None, origin: str) -> _Case:
        hits: dict[int, list[Hit]] = {
            id(feed.rule): [Hit(row.time, row.matched[n]) for row in rows if n in row.matched]
            for n, feed in enumerate(self.feeds)
        }
        times = [row.time for row in rows]
        last = max(times, default=START)
        until = last if few(self.correlation) else last + 2 * timedelta(seconds=self.correlation.timespan)
        fired = firings(self.correlation, self.names, lambda rule: hits[id(rule)], until, self.loose)
        names = dict.fromkeys(reference.name for reference in self.correlation.group_by)
        groups = frozenset(tuple(hit.fields[name] for name in names) for hit in fired)
        return _Case(tuple(rows), groups, expected, origin, until)

    def row(self, placed: Placed) -> _Row | str:
        """The row of an event, or why there is none."""
        key = f"{placed.rule}|{sorted(placed.event.items(), key=lambda item: item[0])!r}"
        if key not in self.seen:
            self.seen[key] = self._shaped(placed)
        row = self.seen[key]
        if isinstance(row, str):
            return row
        time = row.time if placed.at is None or _names_time(placed.event) else START + placed.at
        text = time.isoformat() + "Z"
        times = {feed.mapped.query.time for feed in self.feeds} | {feed.mapped.table.time for feed in self.feeds}
        cells = {**row.cells, **{name: text for name in times if name in self.tables[row.table]}}
        return _Row(row.table, cells, time, row.matched)

    def _shaped(self, placed: Placed) -> _Row | str:
        """Onto the table of the rule that it is meant for, or else of a rule that it matches, or else of any."""
        known = recognise(placed.event)
        feeds = [feed for feed in self.feeds if placed.rule in (None, feed.rule.meta.name, feed.rule.meta.id)]
        if not feeds:
            return f"there is no rule `{placed.rule}` that feeds the correlation"
        if known.form is EventForm.TABLE_ROW:
            for feed in feeds:
                if known.table in (feed.mapped.table.name, feed.mapped.table.builtin):
                    return self._row(feed, raw_row(placed.event, feed.mapped.table).row, None)
            return f"a row of {known.table}, which no rule of the correlation reads"
        fields = sigma_fields(placed.event)
        problems: list[str] = []
        for feed in sorted(feeds, key=lambda feed: not evaluate(feed.where, fields)):
            assert feed.mapped.serve is not None
            names = {*fields_of(feed.where), *self.asked[id(feed.rule)]}
            shaped = shape(fields, feed.mapped.table, feed.mapped.serve, sorted(names))
            if not shaped.problems and not shaped.foreign:
                return self._row(feed, shaped.row, fields)
            problems += shaped.problems
        return "; ".join(problems) or "of another log"

    def _row(self, feed: Feed, cells: Mapping[str, Any], fields: Mapping[str, Any] | None) -> _Row:
        """The row with the rules that it matches: its log is read from the row, the rule from the event."""
        table = feed.mapped.query.table
        read = partial(read_column, cells)
        matched: dict[int, Mapping[str, Any]] = {}
        for number, other in enumerate(self.feeds):
            query = other.mapped.query
            if query.table != table or not holds(query.rows, read):
                continue
            if fields is None and holds(And((query.rows, query.where)), read):
                names = self.asked[id(other.rule)]
                matched[number] = {n: _read_field(other, n, cells) for n in names}
            elif fields is not None and evaluate(other.where, fields):
                matched[number] = fields
        time = as_datetime(cells.get(feed.mapped.table.time)) or START.isoformat()
        return _Row(table, cells, datetime.fromisoformat(time.rstrip("Z")[:26]), matched)


def _read_field(feed: Feed, name: str, cells: Mapping[str, Any]) -> str:
    return next(filter(None, (text_of(read_column(cells, column)) for column in feed.mapped.columns(name))), "")


def _names_time(event: Mapping[str, Any]) -> bool:
    fields = sigma_fields(event)
    return any(as_datetime(fields.get(name)) for name in TIMES)
