"""What the rows of one log source in one table have room for, found by asking `event_rows`.

Place in the flow: between shape and the generation of fitted events. Invariant: an event that `takes` admits becomes a
row without a problem; what `closed` names is all that a row can say of the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, assert_never

from sigma2kql.map.field_places import find_field
from sigma2kql.model.tree import (
    ANY,
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    Field,
    FieldMap,
    Match,
    Not,
    Null,
    Number,
    Or,
    Regex,
    SameAs,
    Serve,
    Table,
    Test,
    Text,
)
from sigma2kql.proof.event_rows import Shaped, shape
from sigma2kql.proof.row_cells import read_column
from sigma2kql.reference.evaluate import evaluate, text_of

# One value of every kind that columns are particular about.
KINDS = (
    "zq",
    "7",
    "0x1a2b",
    "198.51.100.7",
    "2001:db8::7",
    "S-1-5-21-1-2-3-1001",
    "01234567-89ab-cdef-0123-456789abcdef",
    "2026-01-05T08:30:00Z",
    "true",
    '{"zq":1}',
    "/zq/zq",
    "D:\\zq\\zq.zq",
)
MANY = 40  # values of a field that are tried
ASKED = 4000  # answers that are kept


class Room:
    """The rows of `serve` in `table`, asked about the fields `names`. `states` are fields that no row can lack."""

    def __init__(self, table: Table, serve: Serve, names: Sequence[str], states: Mapping[str, Any]) -> None:
        self.table = table
        self.serve = serve
        self.names = tuple(names)
        self.states = states
        self.maps = {name: found for name in names if not isinstance(found := find_field(table, serve, name), str)}
        self.asked: dict[str, Shaped] = {}

    def whole(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event with what every row of the table states."""
        return {**event, **{k: v for k, v in self.states.items() if event.get(k) in (None, "")}}

    def takes(self, event: Mapping[str, Any], decided: Sequence[str] | None = None) -> bool:
        """Whether a row says of each of these fields (of all: None) what the event says, also that it is missing."""
        return not self._shaped(event, self.names if decided is None else decided).problems

    def held(self, name: str, event: Mapping[str, Any], decided: Sequence[str]) -> str:
        """What the row of an event already says of a field that the event does not name."""
        found = self.maps.get(name)
        if found is None or not event:
            return ""
        row = self._shaped(event, decided).row
        return next((text for column in found.columns if (text := text_of(read_column(row, column)))), "")

    def _shaped(self, event: Mapping[str, Any], decided: Sequence[str]) -> Shaped:
        names = [name for name in self.names if name in decided]
        key = repr((sorted(event.items(), key=lambda item: item[0]), names))
        if key not in self.asked:
            if len(self.asked) >= ASKED:
                self.asked.clear()
            self.asked[key] = shape(self.whole(event), self.table, self.serve, names)
        return self.asked[key]

    def order(self) -> list[str]:
        """The fields, those first whose value is a part of what others hold."""
        return sorted(self.names, key=lambda name: (f := self.maps.get(name)) is None or not _narrow(f))

    def place(self, name: str) -> str:
        """What fields have in common that stand in the same columns in the same way; else the name itself."""
        found = self.maps.get(name)
        if found is None or not found.columns:
            return name
        return repr(([column.text for column in found.columns], found.transform))

    def offers(self, name: str) -> list[str]:
        """Values that the mapping names for a field, and one of every kind."""
        found = self.maps.get(name)
        return [] if found is None else list(dict.fromkeys((*self._named(found), *KINDS)))[:MANY]

    def begins(self, name: str) -> list[str]:
        """What texts of a field must begin with in the rows of the log source."""
        found = self.maps.get(name)
        columns = {column.text for column in found.columns} if found is not None else set()
        return [
            test.parts[0]
            for column, test in _stated(self.serve.where)
            if column.text in columns and isinstance(test, Text) and test.parts[1:] == (ANY,)
            if isinstance(test.parts[0], str)
        ]

    def _named(self, found: FieldMap) -> Iterator[str]:
        if found.constant is not None:
            yield found.constant
        yield from found.values or ()
        yield from found.known
        for _, case in found.cases:
            yield from self._named(case)
        for column, test in _stated(self.serve.where):
            if any(column.text == own.text for own in found.columns) and (value := _whole(test)) is not None:
                yield value

    def closed(self, name: str) -> list[str] | None:
        """All values that a row can say of this field, besides none; None where there is no end of them."""
        found = self.maps.get(name)
        if found is None or found.cases:
            return None
        if found.never:
            return []
        if found.constant is not None:
            return [found.constant]
        if found.values is not None:
            return list(found.values) if found.default is None else None
        if found.known:
            return list(found.known)
        if len(found.columns) == 1 and found.transform is None:
            return _only(self.serve.where, found.columns[0])
        return None


def synonym(where: Expr[Field], event: Mapping[str, Any], table: Table, serve: Serve, names: Sequence[str]) -> str:
    """Why the row of an event is also that of one with the other label: of two values that the table does not tell
    apart, where the event does not match; of a file name that some rows hold in place of its path.
    """
    matches = evaluate(where, event)
    for name in names:
        found, value = find_field(table, serve, name), text_of(event.get(name))
        if isinstance(found, str) or not value:
            continue
        if found.transform == "path_or_name" and not set("/\\") & set(value):
            path = f"C:\\zq\\{value}"
            if evaluate(where, {**event, name: path}) != matches:
                return f"{table.name} does not tell `{name}` {value!r} from a path that ends so"
        if matches or not found.values:
            continue
        own = next((p for v, p in found.values.items() if v.lower() == value.lower()), None)
        for other, predicate in found.values.items():
            if predicate == own and evaluate(where, {**event, name: other}):
                return f"{table.name} does not tell `{name}` {event[name]!r} from {other!r}"
    return ""


def _narrow(found: FieldMap) -> bool:
    return found.values is not None or any(column.kind == "computed" for column in found.columns)


def _stated(where: Expr[Column]) -> Iterator[tuple[Column, Any]]:
    """The tests that a predicate asks for, not those that it forbids."""
    match where:
        case Match(column, test):
            yield column, test
        case And(items) | Or(items):
            for item in items:
                yield from _stated(item)
        case Not():
            return
        case _:
            assert_never(where)


def _whole(test: Test[Column]) -> str | None:
    match test:
        case Text((str(text),)):
            return text
        case Number("==", value):
            return text_of(value)
        case Text() | Number() | Regex() | Cidr() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return None
        case _:
            assert_never(test)


def _only(where: Expr[Column], column: Column) -> list[str] | None:
    """The values that a predicate leaves to a column; None where it leaves it open."""
    match where:
        case Match(own, test) if own.text == column.text and (value := _whole(test)) is not None:
            return [value]
        case And(items):
            return next((found for item in items if (found := _only(item, column)) is not None), None)
        case Or(items) if items:
            each = [_only(item, column) for item in items]
            return None if any(one is None for one in each) else [value for one in each for value in one or ()]
        case Match() | Or() | Not():
            return None
        case _:
            assert_never(where)
