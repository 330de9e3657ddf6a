"""What a pattern is read into: its nodes, and how much room they take unfolded.

Place in the flow: the ground of this package. Invariant: a node never changes and says a thing that a linear-time
engine can decide, so trees may be shared and kept.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, assert_never

from sigma2kql.diagnostics.diagnostic import frozen


@frozen
class Char:
    """One character; with `fold` in any case."""

    value: str
    fold: bool = False


@frozen
class Dot:
    """Any character, a line feed only with `newline`."""

    newline: bool = False


@frozen
class Set:
    """One character of (or, negated, not of) the items: a range `(first, last)` or a named class as Kusto writes it."""

    items: tuple[tuple[str, str] | str, ...]
    negated: bool = False
    fold: bool = False


@frozen
class Edge:
    """A place between characters, and how it is written (`^` and `\\A` differ under flag m)."""

    kind: Literal["start", "end", "line start", "line end", "word", "not word"]
    text: str


@frozen
class Sequence:
    items: tuple[Node, ...]


@frozen
class Choice:
    items: tuple[Node, ...]


@frozen
class Repeat:
    """`item`, `low` to `high` times (None: no bound). `lazy` changes nothing that is tested, only the text."""

    item: Node
    low: int
    high: int | None
    lazy: bool = False


@frozen
class Group:
    """Parentheses; `on` and `off` are flags (of "ims") switched inside, already applied to the leaves."""

    item: Node
    on: str = ""
    off: str = ""


@frozen
class Switch:
    """`(?i)`: flags switched up to the end of the group, already applied to the leaves."""

    on: str = ""
    off: str = ""


Node: TypeAlias = Char | Dot | Set | Edge | Sequence | Choice | Repeat | Group | Switch


def largest_count(node: Node) -> int:
    """The largest product of nested counts: how often the engine has to unfold the innermost part."""
    match node:
        case Repeat(item, low, high, _):
            return max(low, high or 0, 1) * largest_count(item)
        case Sequence(items) | Choice(items):
            return max([largest_count(i) for i in items if type(i) is not Char], default=1)
        case Group(item, _, _):
            return largest_count(item)
        case Char() | Dot() | Set() | Edge() | Switch():
            return 1
        case _:
            assert_never(node)


def counted_size(node: Node, times: int = 1) -> int:
    """How much the counted parts unfold to. A Unicode class takes ten times the room of a range (measured)."""
    match node:
        case Repeat(item, low, high, _):
            return counted_size(item, times * max(low, high or 0, 1))
        case Sequence(items) | Choice(items):
            chars = sum([type(i) is Char for i in items]) if times > 1 else 0
            return chars * times + sum([counted_size(i, times) for i in items if type(i) is not Char])
        case Group(item, _, _):
            return counted_size(item, times)
        case Set(items, _, _) if any(isinstance(i, str) and i[1] in "wWpP" for i in items):
            return 10 * times if times > 1 else 0
        case Char() | Dot() | Set() | Edge() | Switch():
            return times if times > 1 else 0
        case _:
            assert_never(node)
