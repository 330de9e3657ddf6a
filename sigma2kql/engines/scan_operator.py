"""The operator `scan`, done on rows in Python by the logic that its documentation states.

Place in the flow: below the DuckDB engine, which runs the pipeline before it and the one behind. Invariant: each record
meets the steps from the last to the first, check 1 before check 2, exactly as documented; a clause that says more than
is understood here is refused.

Understood: `declare` without defaults, `output=all|none`, conditions and assignments of columns, states
(`step.column`), texts, numbers, time spans, comparisons, `+`, `-`, `and`, `or`, and the functions iff(), isnull(),
max_of(), not(), case() and datetime(null). Source: Microsoft Learn, "scan operator", "Scan logic".
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.engines.rewrites import tokens

Record: TypeAlias = Mapping[str, Any]
State: TypeAlias = Mapping[str, Record]  # step -> its record
Value: TypeAlias = Callable[[Record, State], Any]

_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "ms": "milliseconds"}
_WORD = re.compile(
    r"""\s*(?:(?P<text>@"(?:[^"]|"")*"|@'(?:[^']|'')*'|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<span>\d+(?:\.\d+)?(?:ms|[dhms]))\b
    |(?P<number>\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*)|\['(?P<bracketed>[^'\\]*)'\]|(?P<mark>=>|==|!=|<=|>=|[-+<>().,=:;]))""",
    re.VERBOSE,
)
_COMPARES: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SUMS: Mapping[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub}


@frozen
class Step:
    """A step: what a record must meet, what is assigned then, and whether it is put out."""

    name: str
    shown: bool
    condition: Value
    assignments: Mapping[str, Value]


@dataclass(slots=True)
class Scan:
    """A scan as read: the declared columns with their types, the steps, and the columns of the input that they read."""

    declared: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    reads: dict[str, None] = field(default_factory=dict)


class NotUnderstood(ValueError):  # noqa: N818
    """A clause that this scan does not do."""


@frozen
class Place:
    """Where a scan stands: the statements before its own, the pipeline that feeds it, its own text, what is around."""

    statements: str
    pipeline: str
    scan: str
    before: str
    after: str


def find_scan(kql: str) -> Place | None:
    """The first scan of a query that is closed, of several in one another the innermost."""
    found = list(tokens(kql))
    starts = [0]  # of the pipeline in each open bracket, by mark
    statement = bar = 0
    for at, (kind, mark) in enumerate(found):
        if kind == "other":
            if mark in "([{":
                starts.append(at + 1)
            elif mark in ")]}" and len(starts) > 1:
                starts.pop()
            elif mark == ";":
                starts[-1] = at + 1
                statement = at + 1 if len(starts) == 1 else statement
            elif mark == "|":
                bar = at
        elif (kind, mark) == ("name", "scan") and not _text(found[bar + 1 : at]).strip() and found[bar][1] == "|":
            end = _end(found, at)
            start = starts[-1]
            if found[start:] and (named := re.match(r"\s*let\s+\w+\s*=", _text(found[start:bar]))):
                start += len(list(tokens(named[0])))
            parts = (found[:statement], found[start:bar], found[at:end], found[:start], found[end:])
            return Place(*map(_text, parts))
    return None


def _end(found: list[tuple[str, str]], at: int) -> int:
    """The mark behind the bracket that closes `with (...)`."""
    depth, with_seen = 0, False
    for number, (kind, mark) in enumerate(found[at:], at):
        with_seen = with_seen or (kind, mark) == ("name", "with")
        if kind == "other":
            depth += (mark in "([{") - (mark in ")]}")
            if with_seen and depth == 0 and mark == ")":
                return number + 1
    return len(found)


def _text(found: list[tuple[str, str]]) -> str:
    return "".join("" if kind == "comment" else mark for kind, mark in found)


def read_scan(text: str) -> Scan:
    """A scan operator from its text. Raises NotUnderstood."""
    reader = _Reader(text)
    return reader.scan()


def run_scan(scan: Scan, records: Iterable[Record]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The number of the record and the declared values, for each match that is put out."""
    states: list[State | None] = [None] * len(scan.steps)
    empty = dict.fromkeys(scan.declared)
    for number, plain in enumerate(records):
        record = {**plain, **empty}
        for at in reversed(range(len(scan.steps))):
            step, before, own = scan.steps[at], states[at - 1] if at else None, states[at]
            if before is not None and step.condition(record, before) is True:  # check 1
                states[at - 1], state = None, before
            elif (own is not None or at == 0) and step.condition(record, own or {}) is True:  # check 2
                state = own or {}
            else:
                continue
            extended = {**record, **{name: value(record, state) for name, value in step.assignments.items()}}
            states[at] = {**state, step.name: extended}
            if step.shown:
                yield number, tuple(extended[name] for name in scan.declared)


class _Reader:
    """Reads the words of a scan from the left to the right."""

    def __init__(self, text: str) -> None:
        self.words: list[tuple[str, str]] = []
        self.at = at = 0
        while text[at:].strip():
            found = _WORD.match(text, at)
            if found is None:
                raise NotUnderstood(text[at:].strip()[:40])
            kind = found.lastgroup or ""
            self.words.append((kind, found[kind]))
            at = found.end()
        self.made = Scan()

    def next(self, wanted: str = "") -> str:
        """The next word, of which must be `wanted`."""
        word = self.peek()
        if not word or (wanted and word != wanted):
            raise NotUnderstood(f"{word or 'the end'} instead of {wanted or 'more'}")
        self.at += 1
        return word

    def peek(self) -> str:
        return self.words[self.at][1] if self.at < len(self.words) else ""

    def took(self, word: str) -> bool:
        """Whether the next word is this one; then it is passed."""
        if self.peek() != word or self.words[self.at][0] == "bracketed":
            return False
        self.at += 1
        return True

    def scan(self) -> Scan:
        self.next("scan")
        if self.took("declare"):
            self.next("(")
            while not self.took(")"):
                name = self.next()
                self.next(":")
                self.made.declared[name] = self.next()
                if self.peek() != ")":
                    self.next(",")
        self.next("with")
        self.next("(")
        while not self.took(")"):
            self.made.steps.append(self.step())
        if self.peek():
            raise NotUnderstood(self.peek())
        return self.made

    def step(self) -> Step:
        self.next("step")
        name, output = self.next(), "all"
        if self.took("output"):
            self.next("=")
            output = self.next()
        if output not in ("all", "none"):
            raise NotUnderstood(f"output={output}")
        self.next(":")
        condition = self.either()
        assignments: dict[str, Value] = {}
        if self.took("=>"):
            while True:
                column = self.next()
                self.next("=")
                assignments[column] = self.either()
                if not self.took(","):
                    break
        self.next(";")
        return Step(name, output == "all", condition, assignments)

    # -- expressions, null as Kusto has it

    def either(self) -> Value:
        left = self.both()
        while self.took("or"):
            left = _joined(left, self.both(), True)
        return left

    def both(self) -> Value:
        left = self.compared()
        while self.took("and"):
            left = _joined(left, self.compared(), False)
        return left

    def compared(self) -> Value:
        left = self.sum()
        for sign in ("==", "!=", *_COMPARES):
            if self.took(sign):
                return _compared(sign, left, self.sum())
        return left

    def sum(self) -> Value:
        left = self.atom()
        while self.peek() in _SUMS:
            left = _null_sticks(_SUMS[self.next()], left, self.atom())
        return left

    def atom(self) -> Value:
        kind, word = self.words[self.at] if self.at < len(self.words) else ("", "")
        self.next()
        if kind == "name" and word in (*_FUNCTIONS, "datetime") and self.peek() == "(":
            return self.call(word)
        match kind:
            case "text":
                value: Any = _unquoted(word)
            case "span":
                amount, unit = re.fullmatch(r"([\d.]+)([a-z]+)", word).groups()  # type: ignore[union-attr]
                value = timedelta(**{_UNITS[unit]: float(amount)})
            case "number":
                value = float(word) if "." in word else int(word)
            case "name" | "bracketed" if kind == "bracketed" or word not in ("and", "or", "step", "true", "false"):
                return self.column(word)
            case "name" if word in ("true", "false"):
                value = word == "true"
            case "mark" if word == "(":
                inside = self.either()
                self.next(")")
                return inside
            case _:
                raise NotUnderstood(word)
        return lambda _record, _state: value

    def call(self, name: str) -> Value:
        """A function of `_FUNCTIONS`, or datetime(null)."""
        self.next("(")
        if name == "datetime":
            self.next("null")
            self.next(")")
            return lambda _record, _state: None
        arguments = [self.either()]
        while self.took(","):
            arguments.append(self.either())
        self.next(")")
        return _FUNCTIONS[name](arguments)

    def column(self, name: str) -> Value:
        if self.took("."):
            column = self.next()
            self.made.reads[column] = None
            return lambda _record, state: state[name].get(column) if name in state else None
        if self.peek() == "(":
            raise NotUnderstood(f"{name}()")
        self.made.reads[name] = None
        return lambda record, _state: record[name]


def _joined(left: Value, right: Value, decisive: bool) -> Value:
    """`and` (False decides) or `or` (True decides), with null where neither side does and one is null."""

    def value(record: Record, state: State) -> Any:
        one = left(record, state)
        if one is decisive:
            return decisive
        other = right(record, state)
        return other if one is (not decisive) or other is decisive else None

    return value


def _compared(sign: str, left: Value, right: Value) -> Value:
    if sign in _COMPARES:
        return _null_sticks(_COMPARES[sign], left, right)
    wanted = sign == "=="

    def value(record: Record, state: State) -> Any:
        one, other = left(record, state), right(record, state)
        if one is None and other is None:
            return None
        return (one == other) is wanted

    return value


def _null_sticks(compute: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    def value(record: Record, state: State) -> Any:
        one, other = left(record, state), right(record, state)
        return None if one is None or other is None else compute(one, other)

    return value


def _chosen(arguments: list[Value]) -> Value:
    """case() and, with one condition, iff(): what follows the first condition that is true, or the last."""
    if len(arguments) < 3 or len(arguments) % 2 == 0:
        raise NotUnderstood("iff() or case() with these arguments")
    pairs = list(zip(arguments[0:-1:2], arguments[1:-1:2], strict=True))

    def value(record: Record, state: State) -> Any:
        return next((then for when, then in pairs if when(record, state) is True), arguments[-1])(record, state)

    return value


def _greatest(arguments: list[Value]) -> Value:
    """max_of(): the greatest of the values that are there."""

    def value(record: Record, state: State) -> Any:
        return max((one for of in arguments if (one := of(record, state)) is not None), default=None)

    return value


def _of_one(compute: Callable[[Any], Any]) -> Callable[[list[Value]], Value]:
    def made(arguments: list[Value]) -> Value:
        (only,) = arguments
        return lambda record, state: compute(only(record, state))

    return made


_FUNCTIONS: Mapping[str, Callable[[list[Value]], Value]] = {
    "iff": _chosen,
    "case": _chosen,
    "max_of": _greatest,
    "isnull": _of_one(lambda value: value is None),
    "not": _of_one(lambda value: None if value is None else not value),
}


def _unquoted(literal: str) -> str:
    if literal.startswith("@"):
        return literal[2:-1].replace(literal[1] * 2, literal[1])
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "t": "\t"}.get(found[1], found[1]), literal[1:-1])
