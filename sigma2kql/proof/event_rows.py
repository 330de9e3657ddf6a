"""An event in Sigma's field names becomes the row that real telemetry holds for it: the mapping, backwards.

Place in the flow: between events and the engines. Invariant: what a row says of each field is what the event says of
it, read back through the mapping; whatever cannot be said so is a problem with the field's name, never dropped.

A row is found by search: every field offers ways to stand in the table (columns of `any`, predicates of `values`,
cases), the log source's own predicate offers ways to hold, and the first combination without a contradiction is
taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, assert_never

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.map.field_places import find_field
from sigma2kql.map.transforms import TRANSFORMS, text_holds
from sigma2kql.model.tree import (
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    FieldMap,
    Match,
    Not,
    Null,
    Number,
    OneOf,
    Or,
    Regex,
    SameAs,
    Serve,
    Table,
    Test,
    Text,
    Wildcard,
)
from sigma2kql.proof.expressions import UnknownExpression, invert, read
from sigma2kql.proof.regex_texts import regex_witnesses
from sigma2kql.proof.row_cells import (
    Cells,
    View,
    as_datetime,
    cells_of,
    put,
    read_column,
    same,
    same_hex,
    typed,
)
from sigma2kql.reference.evaluate import MISSING, holds, text_of

STEPS = 4000  # of the search for one row
TIME = "2026-01-05T08:30:00.0000000Z"  # of events that name none
TIMES = ("TimeGenerated", "Timestamp", "TimeCreated_SystemTime", "UtcTime", "TimeCreated", "@timestamp", "eventTime")

# What tells the log source of an event: a row that cannot say it is no row of the event, whatever the rule asks.
IDENTITY = ("EventID", "Channel", "Provider_Name")


@frozen
class Shaped:
    """A row by column name, with every column of the table, and what of the event it cannot say.

    `foreign`: the event says itself that it is of another log source (its EventID, Channel or Provider_Name).
    """

    row: Mapping[str, Any]
    problems: tuple[str, ...] = ()
    foreign: bool = False


def shape(event: Mapping[str, Any], table: Table, serve: Serve, fields: Iterable[str] = ()) -> Shaped:
    """The row of `table`, among those of the log source `serve`, that holds the event.

    `event` is keyed by Sigma's field names. `fields` are those that must be right, also where they are missing or
    empty (the fields of a rule); all others of the event are added as far as the table has room for them.
    """
    first = list(dict.fromkeys(fields))
    search = _Search(table, serve, event)
    goals = [search.goal(name, event.get(name)) for name in first]
    goals += [g for name in IDENTITY if name not in first and (g := search.identity(name)) is not None]
    problems = [goal.problem for goal in goals if goal.problem]
    stuck = [goal.name for goal in goals if goal.problem]
    goals = sorted((g for g in goals if not g.problem), key=lambda g: g.rank)
    rows = _Goal("", 9, lambda cells: search.satisfy(serve.where, cells), [lambda view: view.holds(serve.where)])
    cells: Cells | None = None
    while True:
        search.begin()
        cells = next(search.solve([*goals, rows], {}), None)
        if cells is not None or not goals:
            break
        lost = goals.pop(min(search.deepest, len(goals) - 1))
        stuck.append(lost.name)
        problems.append(f"`{lost.name}` cannot hold this value beside the others in {table.name}")
    if cells is None:
        problems.append(f"no row of {table.name} satisfies the predicate of the log source")
        cells = {}
    cells = _rest(search, event, first, [*goals, rows], cells)
    row = View(table, cells).row
    if not row.get(table.time):
        row[table.time] = _when(event)
    foreign = any(name in IDENTITY and event.get(name) not in (None, "") for name in stuck)
    return Shaped(row, tuple(problems), foreign)


def _rest(search: _Search, event: Mapping[str, Any], first: list[str], goals: list[_Goal], cells: Cells) -> Cells:
    """The other fields of the event, where they contradict nothing; keywords look at them."""
    for name, value in event.items():
        if name in first or value is None or value == "":
            continue
        goal = search.goal(name, value)
        if goal.problem or goal.rank > 3:
            continue
        search.begin()
        found = next(search.solve([goal], cells), None)
        view = View(search.table, found) if found is not None else None
        if found is not None and view is not None and all(check(view) for g in goals for check in g.checks):
            cells = found
    return cells


def keyword_text(row: Mapping[str, Any], event: Mapping[str, Any], table: Table, serve: Serve) -> dict[str, Any]:
    """The row with the event's text in the columns that keywords are searched in, as far as it is not there yet."""
    columns = serve.keywords or table.keywords
    others = serve.others or table.others
    trees = {column.reads[0] for column in others.columns} if others else set()  # hold the event's fields by name
    filled = dict(row)
    for value in event.values():
        text = text_of(value)
        if not text or any(text in text_of(read_column(filled, column)) for column in columns):
            continue
        names = [name for column in columns for name in column.reads if name in filled]
        free = [name for name in names if filled[name] is None or filled[name] == ""]
        name = next((n for n in names if n in trees), None) or next(iter(free), names[-1])
        here = filled[name]
        if name in trees and table.columns[name] == "dynamic":
            filled[name] = {**(here or {}), "Data": value}
        else:
            filled[name] = text if name in free else f"{text_of(here)}\n{text}"
    return filled


def _when(event: Mapping[str, Any]) -> str:
    for name in TIMES:
        moment = as_datetime(event.get(name))
        if moment is not None:
            return moment
    return TIME


def raw_row(event: Mapping[str, Any], table: Table) -> Shaped:
    """An event that is a row of the table already; values are converted to the columns' types."""
    row: dict[str, Any] = {}
    problems = []
    for name, value in event.items():
        kind = table.columns.get(name)
        if kind is None:
            continue
        held = _parsed(value) if kind == "dynamic" else typed(value, kind)
        if held is MISSING:
            problems.append(f"column {name} is {kind} and cannot hold {value!r}")
            held = None
        row[name] = held
    full = {name: row.get(name, "" if kind == "string" else None) for name, kind in table.columns.items()}
    full = {name: "" if full[name] is None and kind == "string" else full[name] for name, kind in table.columns.items()}
    if not full.get(table.time):
        full[table.time] = _when(event)
    return Shaped(full, tuple(problems))


def _parsed(value: Any) -> Any:
    """What a dynamic column holds: an export as CSV has it as JSON text."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return None if value == "" else value


# --------------------------------------------------------------------------------------------------------------------
# Search


@dataclass(slots=True)
class _Goal:
    """One thing that a row must say: the ways to say it, and what must be true of the finished row."""

    name: str
    rank: int  # goals with fewer ways come first
    ways: Callable[[Cells], Iterator[Cells]]
    checks: list[Callable[[View], bool]]
    problem: str = ""


class _Search:
    """Finds cells for goals, depth first, in bounded steps."""

    def __init__(self, table: Table, serve: Serve, event: Mapping[str, Any]) -> None:
        self.table = table
        self.serve = serve
        self.event = event
        self.begin()

    def begin(self) -> None:
        self.left = STEPS
        self.deepest = 0

    def solve(self, goals: list[_Goal], cells: Cells, at: int = 0) -> Iterator[Cells]:
        self.deepest = max(self.deepest, at)
        if at == len(goals):
            view = View(self.table, cells)
            failed = next((i for i, goal in enumerate(goals) if not all(check(view) for check in goal.checks)), None)
            if failed is None and not view.clash:
                yield cells
            return
        for found in goals[at].ways(cells):
            self.left -= 1
            if self.left < 0:
                return
            yield from self.solve(goals, found, at + 1)

    # -- fields ------------------------------------------------------------------------------------------------------

    def identity(self, name: str) -> _Goal | None:
        """What the event says of its own log, where the table has a place for it."""
        value = self.event.get(name)
        if value is None or value == "" or isinstance(find_field(self.table, self.serve, name), str):
            return None
        others = self.serve.others or self.table.others
        if others is not None and name not in {**self.serve.fields, **self.table.fields}:
            return None
        return self.goal(name, value)

    def goal(self, name: str, value: Any) -> _Goal:
        field = find_field(self.table, self.serve, name)
        if isinstance(field, str):
            return _Goal(
                name, 0, _as_it_is, [], f"`{name}` has no column in {self.table.name}{': ' + field if field else ''}"
            )
        return self.on(name, field, value)

    def on(self, name: str, field: FieldMap, value: Any) -> _Goal:
        empty = value is None or value in ("", [])
        if field.cases:
            return self._cases(name, field, value)
        if field.never:
            return _Goal(name, 0, _as_it_is, [], "" if empty else f"`{name}` is in none of these events: {field.never}")
        if field.constant is not None:
            fits = not empty and text_of(value).lower() == field.constant.lower()
            problem = "" if fits else f"`{name}` is always `{field.constant}` in {self.table.name}"
            return _Goal(name, 0, _as_it_is, [], problem)
        if field.values is not None:
            if not empty and field.default is None and not _listed(field, text_of(value)):
                return _Goal(name, 0, _as_it_is, [], f"`{name}` never is {text_of(value)[:80]!r} in {self.table.name}")
            where = _by_value(field, None if empty else text_of(value))
            return _Goal(name, 5, lambda cells: self._stated(where, cells), [lambda view: view.holds(where)])
        if empty and field.transform == "registry_data" and self._names_value():
            return _Goal(name, 0, _as_it_is, [], f"`{name}` is `(Empty)` where a registry value holds nothing")
        if empty:
            return self._empty(name, field)
        if field.transform is not None:
            return self._transformed(name, field, value)
        if field.known and text_of(value).lower() not in map(str.lower, field.known):
            return _Goal(name, 0, _as_it_is, [], f"`{name}` never holds {text_of(value)!r} in {self.table.name}")
        return self._plain(name, field.columns, value)

    def _empty(self, name: str, field: FieldMap) -> _Goal:
        """All columns stay empty; a computed one gives an empty text."""

        def ways(cells: Cells) -> Iterator[Cells]:
            here: Cells | None = cells
            for column in field.columns:
                for cell in cells_of(column):
                    here = None if here is None else put(here, cell, None)
            if here is not None:
                yield here

        return _Goal(name, 0, ways, [lambda view: all(text_of(view.read(c)) == "" for c in field.columns)])

    def _plain(self, name: str, columns: tuple[Column, ...], value: Any) -> _Goal:
        """The value in one of the columns, the first that takes it; the others say nothing else."""

        def ways(cells: Cells) -> Iterator[Cells]:
            for column in columns:
                if same(View(self.table, cells).read(column), value):
                    yield cells
                yield from self.place(column, value, cells)

        def check(view: View) -> bool:
            found = [view.read(column) for column in columns]
            return any(same(v, value) or same_hex(v, value) for v in found)

        return _Goal(name, 1 if columns[0].kind != "computed" else 3, ways, [check])

    def place(self, column: Column, value: Any, cells: Cells) -> Iterator[Cells]:
        """The value in a column of any kind."""
        if column.kind == "stored":
            held = typed(value, column.type)
            found = None if held is MISSING else put(cells, (column.reads[0], "stored", ()), held)
            if found is not None:
                yield found
        elif column.kind == "computed":
            try:
                placings = list(invert(read(column.text), value))
            except UnknownExpression:
                return
            for placing in placings:
                here: Cells | None = cells
                for cell, part in placing:
                    kind = self.table.columns.get(cell[0], "string")
                    held = typed(part, kind) if cell[1] == "stored" else part
                    here = None if here is None or held is MISSING else put(here, cell, held)
                if here is not None:
                    yield here
        else:
            for cell in cells_of(column):
                found = put(cells, cell, value)
                if found is not None:
                    yield found

    def _transformed(self, name: str, field: FieldMap, value: Any) -> _Goal:
        assert field.transform is not None
        options = field.options
        if field.transform == "registry_path" and "value" not in options:
            options = {**options, "value": self._names_value()}
        placed = TRANSFORMS[field.transform].shape(text_of(value), field.columns, options)
        if not any(text_of(part) for _, part in placed):
            problem = f"`{name}` cannot hold {text_of(value)[:80]!r} in {self.table.name}"
            return _Goal(name, 0, _as_it_is, [], problem)

        def ways(cells: Cells) -> Iterator[Cells]:
            yield from self._all(placed, cells)
            if field.transform not in ("user_split", "registry_path", "registry_data", "hashes"):
                for column in field.columns[1:]:
                    yield from self._all([(column, placed[0][1])], cells)

        return _Goal(name, 2, ways, [])

    def _names_value(self) -> bool:
        """Whether the registry event is one of a value, not of a key (Sysmon 13 and DeleteValue)."""
        told = self.event.get("EventType")
        return told.endswith("Value") if isinstance(told, str) else self.serve.logsource.category == "registry_set"

    def _all(self, placed: list[tuple[Column, Any]], cells: Cells) -> Iterator[Cells]:
        if not placed:
            yield cells
            return
        column, value = placed[0]
        if value is None or value == "":
            found = put(cells, cells_of(column)[0], None)
            if found is not None:
                yield from self._all(placed[1:], found)
            return
        for found in self.place(column, value, cells):
            yield from self._all(placed[1:], found)

    def _cases(self, name: str, field: FieldMap, value: Any) -> _Goal:
        """The first case whose predicate can hold together with the value in that case's column."""
        branches: list[tuple[Expr[Column], _Goal]] = []
        before: list[Expr[Column]] = []
        for when, case in field.cases:
            branches.append((And((*(Not(b) for b in before), when)), self.on(name, case, value)))
            before.append(when)
        open_ = [(where, goal) for where, goal in branches if not goal.problem]
        if not open_:
            return _Goal(name, 0, _as_it_is, [], branches[-1][1].problem)

        def ways(cells: Cells) -> Iterator[Cells]:
            for where, goal in open_:
                for here in self.satisfy(where, cells):
                    yield from goal.ways(here)

        def check(view: View) -> bool:
            return any(view.holds(where) and all(c(view) for c in goal.checks) for where, goal in open_)

        return _Goal(name, 6, ways, [check])

    # -- predicates --------------------------------------------------------------------------------------------------

    def satisfy(self, expr: Expr[Column], cells: Cells, wanted: bool = True) -> Iterator[Cells]:
        """Ways to fill cells so that the predicate holds (or does not)."""
        match expr:
            case Not(item):
                yield from self.satisfy(item, cells, not wanted)
            case And(items) | Or(items):
                if isinstance(expr, And) == wanted:
                    if wanted and len(joint := _joint(items)) < len(items):
                        yield from self._every(joint, cells, wanted)
                    yield from self._every(items, cells, wanted)
                else:
                    for item in items:
                        yield from self.satisfy(item, cells, wanted)
            case Match(column, test):
                now = View(self.table, cells).read(column)
                if holds(expr, lambda _: now) == wanted:
                    yield cells
                if now is MISSING or now is None or now == "":
                    own = self._own(test) if wanted else []
                    for value in (*_witnesses(test, wanted), *own):
                        if value is None:
                            found = put(cells, cells_of(column)[0], None)
                            yield from () if found is None else (found,)
                        else:
                            yield from self.place(column, value, cells)
                elif wanted and isinstance(now, dict) and column.kind == "stored":
                    for part in filter(None, map(_members, _witnesses(test, wanted))):
                        found = put(cells, (column.reads[0], "property", (f"Part{len(cells)}",)), part)
                        yield from () if found is None else (found,)
                elif wanted and column.kind == "stored" and (part := _contained(test)):
                    # text that is put together from parts: what it must contain is one more of them
                    found = put(cells, (column.reads[0], "fragment", (part,)), part)
                    yield from () if found is None else (found,)
            case _:
                assert_never(expr)

    def _own(self, test: Test[Column]) -> list[Any]:
        """What the event says somewhere that passes a test: the columns of several fields may be one."""
        values = (value for value in self.event.values() if value is not None)
        return [value for value in values if holds(Match(value, test), lambda given: given)]

    def _stated(self, where: Expr[Column], cells: Cells) -> Iterator[Cells]:
        """Ways for a predicate to hold; first those that say of the same text what every row of the source says."""
        both = (*_parts(where), *_parts(self.serve.where))
        if len(joint := _joint(both)) < len(both):
            yield from self._every(joint, cells, True)
        yield from self.satisfy(where, cells)

    def _every(self, items: tuple[Expr[Column], ...], cells: Cells, wanted: bool) -> Iterator[Cells]:
        if not items:
            yield cells
            return
        for here in self.satisfy(items[0], cells, wanted):
            yield from self._every(items[1:], here, wanted)


def _parts(expr: Expr[Column]) -> tuple[Expr[Column], ...]:
    return expr.items if isinstance(expr, And) else (expr,)


def _joint(items: Iterable[Expr[Column]]) -> tuple[Expr[Column], ...]:
    """The parts of an `and`, with what a text must begin with and what it must end with as one shape."""
    found: list[Expr[Column]] = []
    for item in items:
        for at, before in enumerate(found):
            one = _both(before, item) or _both(item, before)
            if one is not None:
                found[at] = one
                break
        else:
            found.append(item)
    return tuple(found)


def _both(first: Expr[Column], last: Expr[Column]) -> Expr[Column] | None:
    """The shape that begins as the one asks and ends as the other does, on the same column."""
    match first, last:
        case (
            Match(column, Text((*begin, Wildcard.ANY), cased), span),
            Match(other, Text((Wildcard.ANY, *end), also)),
        ) if column == other and cased == also and Wildcard.ANY not in (*begin, *end):
            return Match(column, Text((*begin, Wildcard.ANY, *end), cased), span)
        case _:
            return None


def _members(text: Any) -> Any:
    """What a JSON object holds whose text has this part: its members."""
    try:
        return json.loads("{" + str(text) + "}")
    except (ValueError, RecursionError):
        return None


def _contained(test: Test[Column]) -> str:
    match test:
        case Text((Wildcard.ANY, str(text), Wildcard.ANY)):
            return text
        case Text() | Regex() | Cidr() | Number() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return ""
        case _:
            assert_never(test)


def _as_it_is(cells: Cells) -> Iterator[Cells]:
    yield cells


def _listed(field: FieldMap, value: str) -> bool:
    return any(text_holds(Text((name,) if name else ()), value) for name in field.values or ())


def _by_value(field: FieldMap, value: str | None) -> Expr[Column]:
    """What the row must satisfy so that the table's predicates say this value (None: none of them)."""
    assert field.values is not None
    if value is not None:
        for name, predicate in field.values.items():
            if text_holds(Text((name,)), value):
                return predicate
        if field.default is not None:
            return And((field.default, *(Not(p) for p in field.values.values())))
    told = (*field.values.values(), *((field.default,) if field.default is not None else ()))
    return And(tuple(Not(p) for p in told))


def _witnesses(test: Test[Column], wanted: bool) -> list[Any]:
    """Values that pass a test of a mapping's predicate, or fail it; None is emptiness."""
    match test:
        case Null() | Text(()):
            return [None] if wanted else ["other", "1", True]
        case Exists() | Text((Wildcard.ANY,)):
            return ["other", "1", True] if wanted else [None]
        case _ if not wanted:
            return ["other", "0", False]
        case Text(parts):
            filled = (
                p if isinstance(p, str) else "" if p is Wildcard.ANY else p.chars[0] if isinstance(p, OneOf) else "x"
                for p in parts
            )
            return ["".join(filled)]
        case Number(op, value):
            return [{"==": value, "<=": value, ">=": value, "<": value - 1, ">": value + 1}[op]]
        case Bool(value):
            return [value]
        case Cidr(network):
            return [str(ip_network(network).network_address)]
        case Regex():
            return list(regex_witnesses(test.pattern, test.flags)[:3])
        case SameAs() | DatePart():
            return []
        case _:
            assert_never(test)
