"""Trees of patterns as the text of Kusto's dialect.

Place in the flow: under `translate` and `wildcard_regex`. Invariant: what is written reads as the same tree, and no
literal of it holds a raw line end or an invisible character.
"""

from __future__ import annotations

from functools import lru_cache
from typing import assert_never

from sigma2kql.regex.pattern import Char, Choice, Dot, Edge, Group, Node, Repeat, Sequence, Set, Switch

META = frozenset("\\.+*?()|[]{}^$")
_SET_META = frozenset("\\[]-")
_RANGE_META = _SET_META | frozenset("&~")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def write(node: Node) -> str:
    match node:
        case Char(value, _):
            return escape(value, META)
        case Dot():
            return "."
        case Set():
            return write_set(node)
        case Edge(_, text):
            return text
        case Sequence(items):
            return "".join([escape(i.value, META) if type(i) is Char else write(i) for i in items])
        case Choice(items):
            return "|".join(map(write, items))
        case Repeat(item, low, high, lazy):
            inner = write(item)
            if isinstance(item, Sequence | Choice | Repeat | Edge):
                inner = f"(?:{inner})"
            return inner + _write_count(low, high) + "?" * lazy
        case Group(item, on, off):
            return f"(?{_write_flags(on, off)}:{write(item)})"
        case Switch(on, off):
            return f"(?{_write_flags(on, off)})"
        case _:
            assert_never(node)


def _write_flags(on: str, off: str) -> str:
    return f"{on}-{off}" if off else on


def _write_count(low: int, high: int | None) -> str:
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((low, high))
    if short is not None:
        return short
    return f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}"


def write_set(node: Set) -> str:
    if len(node.items) == 1 and not node.negated and isinstance(node.items[0], str):
        name = node.items[0]
        return name if name.startswith("\\") else f"[{name}]"
    dash = ("-", "-") in node.items  # written last, where it can only mean itself
    items = [i for i in dict.fromkeys(node.items) if i != ("-", "-")]
    body = "".join(map(_write_item, items))
    opening = "^" if node.negated else "\\" if body.startswith("^") else ""
    return f"[{opening}{body}{'-' * dash}]"


def _write_item(item: tuple[str, str] | str) -> str:
    if isinstance(item, str):
        return item
    first, last = item
    if first == last:
        return escape(first, _SET_META)
    return f"{escape(first, _RANGE_META)}-{escape(last, _RANGE_META)}"


@lru_cache(maxsize=2048)
def escape(char: str, meta: frozenset[str]) -> str:
    """One character; what does not print is written as a code, so that no literal holds a raw line end or bidi mark."""
    if char in meta:
        return "\\" + char
    if char.isprintable():
        return char
    return _SHORT.get(char, f"\\x{{{ord(char):X}}}")
