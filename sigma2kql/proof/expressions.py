"""The scalar KQL of computed columns, read just far enough to compute it on a row and to say what a row must hold.

Place in the flow: under `event_rows`, never beside the emitter. Invariant: `compute` gives what Kusto gives for the
functions it knows, or raises `UnknownExpression`; `invert` gives guesses, which whoever places them checks with
`compute`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.proof.regex_texts import shortest
from sigma2kql.regex.parse import RegexProblem, parse as parse_regex
from sigma2kql.regex.pattern import Group, Sequence


class UnknownExpression(ValueError):  # noqa: N818 - the word that a caller puts into its sentence
    """A part of an expression that is not known here."""


@frozen
class Literal:
    value: Any


@frozen
class Name:
    text: str


@frozen
class Call:
    name: str
    args: tuple[Node, ...]


@frozen
class Step:
    base: Node
    key: str | int


@frozen
class Compare:
    op: str
    left: Node
    right: tuple[Node, ...]


Node: TypeAlias = Literal | Name | Call | Step | Compare

# Where a value is put: the stored column, how it is reached in it, and the steps there. A "fragment" is a piece of text
# that must stand somewhere in the column.
Cell: TypeAlias = tuple[str, str, tuple[str | int, ...]]
Placing: TypeAlias = tuple[tuple[Cell, Any], ...]

_TOKEN = re.compile(
    r"""\s*(?:(?P<verbatim>@"(?:[^"]|"")*"|@'(?:[^']|'')*')|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    r"""|(?P<number>-?\d+(?:\.\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<mark>==|!=|=~|!~|!in~?|[()\[\],.]))"""
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}
_WORDS = ("in", "endswith", "startswith", "contains")

# --------------------------------------------------------------------------------------------------------------------
# Reading


@lru_cache(maxsize=1024)
def read(text: str) -> Node:
    """The tree of an expression. Raises UnknownExpression for what is not known here."""
    reader = _Reader(text)
    node = reader.any_of()
    if reader.at < len(reader.tokens):
        raise UnknownExpression(text)
    return node


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        self.at, at = 0, 0
        while at < len(text.rstrip()):
            found = _TOKEN.match(text, at)
            if found is None:
                raise UnknownExpression(text[at : at + 20])
            assert found.lastgroup is not None
            self.tokens.append((found.lastgroup, found[found.lastgroup]))
            at = found.end()

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> tuple[str, str]:
        if self.at >= len(self.tokens) or (expected and self.peek() != expected):
            raise UnknownExpression(expected or "an end that comes too early")
        self.at += 1
        return self.tokens[self.at - 1]

    def any_of(self) -> Node:
        return self.joined("or", lambda: self.joined("and", self.comparison))

    def joined(self, word: str, item: Callable[[], Node]) -> Node:
        items = [item()]
        while self.peek() == word:
            self.take()
            items.append(item())
        return items[0] if len(items) == 1 else Call(word, tuple(items))

    def comparison(self) -> Node:
        left = self.path()
        op = self.peek()
        if op not in ("==", "!=", "=~", "!~", "!in", "!in~", *_WORDS):
            return left
        self.take()
        if self.peek() == "~":
            op += self.take()[1]
        return Compare(op, left, self.arguments() if "in" in op and op not in _WORDS[1:] else (self.path(),))

    def arguments(self) -> tuple[Node, ...]:
        self.take("(")
        items: list[Node] = []
        while self.peek() != ")":
            items.append(self.any_of())
            if self.peek() == ",":
                self.take()
        self.take(")")
        return tuple(items)

    def path(self) -> Node:
        node = self.primary()
        while self.peek() in (".", "["):
            if self.take()[1] == ".":
                node = Step(node, self.take()[1])
            else:
                key = self.primary()
                self.take("]")
                if not isinstance(key, Literal):
                    raise UnknownExpression("a computed index")
                node = Step(node, key.value)
        return node

    def primary(self) -> Node:
        kind, text = self.take()
        match kind:
            case "verbatim":
                return Literal(text[2:-1].replace(text[1] * 2, text[1]))
            case "text":
                return Literal(re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), text[1:-1]))
            case "number":
                return Literal(float(text) if "." in text else int(text))
            case "name" if self.peek() == "(":
                return Call(text, self.arguments())
            case "name":
                return Name(text)
            case "mark" if text == "(":
                inner = self.any_of()
                self.take(")")
                return inner
            case _:
                raise UnknownExpression(text)


# --------------------------------------------------------------------------------------------------------------------
# Computing


def compute(node: Node, column: Callable[[str], Any]) -> Any:
    """The value on a row; None is null. `column` gives a stored column's value ('' for an empty string column)."""
    match node:
        case Literal(value):
            return value
        case Name(text):
            return column(text)
        case Step(base, key):
            return step(compute(base, column), key)
        case Compare(op, left, right):
            return _compare(op, _text(compute(left, column)), [_text(compute(item, column)) for item in right])
        case Call("iff" | "iif", (test, yes, no)):
            return compute(yes if compute(test, column) else no, column)
        case Call("case", args):
            for test, value in zip(args[:-1:2], args[1::2], strict=False):
                if compute(test, column):
                    return compute(value, column)
            return compute(args[-1], column)
        case Call(name, args):
            function = _FUNCTIONS.get(name)
            if function is None:
                raise UnknownExpression(name)
            return function(*(compute(arg, column) for arg in args))


def step(value: Any, key: str | int) -> Any:
    """A property or element of a dynamic value, None where there is none."""
    if isinstance(value, dict):
        return value.get(key)
    if isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
        return value[key]
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _compare(op: str, left: str, right: list[str]) -> bool:
    fold = str.lower if "~" in op or op in _WORDS[1:] else str
    subject, values = fold(left), [fold(item) for item in right]
    if op in ("endswith", "startswith"):
        return getattr(subject, op)(values[0]) is True
    if op == "contains":
        return values[0] in subject
    return (subject in values) != op.startswith("!")


def _extract(pattern: str, group: int, text: Any) -> str:
    found = re.search(pattern, _text(text))
    return (found[group] or "") if found else ""


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _integer(value: Any) -> int | None:
    try:
        return int(_text(value), 16) if _text(value).lower().startswith("0x") else int(_text(value))
    except ValueError:
        return None


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "tostring": _text,
    "toint": _integer,
    "tolong": _integer,
    "tohex": lambda value: f"{value:x}" if value is not None else "",
    "tolower": lambda value: _text(value).lower(),
    "strcat": lambda *items: "".join(map(_text, items)),
    "strcat_array": lambda items, between: between.join(map(_text, items or [])),
    "isempty": lambda value: _text(value) == "",
    "isnotempty": lambda value: _text(value) != "",
    "coalesce": lambda *items: next((item for item in items if _text(item) != ""), items[-1]),
    "extract": _extract,
    "extract_all": lambda pattern, text: re.findall(pattern, _text(text)),
    "split": lambda text, by: _text(text).split(by),
    "replace_string": lambda text, old, new: _text(text).replace(old, new),
    "replace_regex": lambda text, old, new: re.sub(old, new, _text(text)),
    "trim": lambda pattern, text: re.sub(f"^(?:{pattern})|(?:{pattern})$", "", _text(text)),
    "parse_json": _parsed,
    "and": lambda *items: all(items),
    "or": lambda *items: any(items),
}

# --------------------------------------------------------------------------------------------------------------------
# What a row must hold so that an expression has a value


def invert(node: Node, value: Any) -> Iterator[Placing]:
    """Ways to fill columns so that the expression may give this value (not empty), the likeliest first."""
    match node:
        case Literal(own):
            if _text(own) == _text(value):
                yield ()
        case Name() | Step() if (cell := cell_of(node)) is not None:
            yield ((cell, value),)
        case Step(Call("split", (inner, Literal(str(by)))), 0 | -1) if by not in _text(value):
            yield from invert(inner, value)
        case Call("tostring" | "tolower" | "parse_json" | "trim" | "replace_regex" as name, args):
            yield from invert(args[1 if name == "trim" else 0], value)
        case Call("toint" | "tolong", (inner,)):
            yield from invert(inner, value)
        case Call("tohex", (inner,)) if re.fullmatch("[0-9a-fA-F]{1,15}", _text(value)):
            yield from invert(inner, int(_text(value), 16))
        case Call("coalesce", args):
            for arg in args:
                yield from invert(arg, value)
        case Call("iff" | "iif", (_, yes, no)):
            yield from invert(no, value)
            yield from invert(yes, value)
        case Call("case", args):
            for arg in (*args[1::2], args[-1]):
                yield from invert(arg, value)
        case Call("replace_string", (inner, Literal(str(old)), Literal(str(new)))):
            text = _text(value)
            yield from invert(inner, text)
            if new and new in text:
                yield from invert(inner, text.replace(new, old))
        case Call("strcat", args):
            yield from _split_up(args, _text(value))
        case Call("strcat_array", (Call("extract_all", (Literal(str(pattern)), inner)), _)):
            yield from _around(pattern, inner, _text(value))
        case Call("extract", (Literal(str(pattern)), Literal(1), inner)):
            yield from _around(pattern, inner, _text(value))
        case _:
            return


def cell_of(node: Node) -> Cell | None:
    """The cell that a path names, if it is nothing but a path."""
    keys: list[str | int] = []
    while isinstance(node, Step):
        keys.append(node.key)
        node = node.base
    if isinstance(node, Name):
        return node.text, "property" if keys else "stored", tuple(reversed(keys))
    if isinstance(node, Call) and node.name == "parse_json" and isinstance(node.args[0], Name):
        return node.args[0].text, "json", tuple(reversed(keys))
    return None


def _split_up(args: tuple[Node, ...], text: str) -> Iterator[Placing]:
    """A text between the literals of strcat(): all of it in the first part that can vary, or cut at the literals."""
    while args and isinstance(args[0], Literal):
        if not text.startswith(str(args[0].value)):
            return
        text, args = text[len(str(args[0].value)) :], args[1:]
    while args and isinstance(args[-1], Literal):
        if not text.endswith(str(args[-1].value)):
            return
        text, args = text[: len(text) - len(str(args[-1].value))], args[:-1]
    if len(args) == 3 and isinstance(args[1], Literal):
        head, between, tail = text.rpartition(str(args[1].value))
        if between:
            for left in invert(args[0], head) if head else [()]:
                for right in invert(args[2], tail) if tail else [()]:
                    yield (*left, *right)
    if args:
        yield from invert(args[0], text)
    if len(args) == 2:  # a host and what follows it: cut anywhere
        yield from invert(args[1], text)
        for at in range(1, len(text)):
            for left in invert(args[0], text[:at]):
                for right in invert(args[1], text[at:]):
                    yield (*left, *right)


def _around(pattern: str, inner: Node, value: str) -> Iterator[Placing]:
    """The shortest text in which the pattern finds the value in its first group."""
    cell = cell_of(inner.args[0] if isinstance(inner, Call) and inner.name == "tostring" else inner)
    try:
        tree = parse_regex(pattern)
    except RegexProblem:
        return
    items = tree.items if isinstance(tree, Sequence) else (tree,)
    for number, item in enumerate(items):
        if not isinstance(item, Group):
            continue
        text = "".join([*map(shortest, items[:number]), value, *map(shortest, items[number + 1 :])])
        if _extract(pattern, 1, text) != value:
            continue
        if cell is not None and cell[1] == "stored":
            yield (((cell[0], "fragment", (text,)), text),)
        else:
            yield from invert(inner, text)
        return
