"""What the parts of a `Text` mean: how they join, and which texts have the shape.

Place in the flow: beside the tree; every stage that asks whether a text passes asks here. Invariant: time grows with
the text times the number of parts, whatever the shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import assert_never

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.literals import lowered
from sigma2kql.model.tree import ANY, ONE, OneOf, Part, Placeholder, Text, Wildcard


def join_parts(*groups: Iterable[Part]) -> tuple[Part, ...]:
    """Parts in a row: neighbouring literals joined, empty ones dropped, ANY after ANY dropped."""
    parts: list[Part] = []
    for group in groups:
        for part in group:
            if part == "" or (part is ANY and parts and parts[-1] is ANY):
                continue
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
    return tuple(parts)


def matches(test: Text, text: str) -> bool:
    """Whether the whole text has this shape. Time: text length by the number of parts, never more."""
    fold, head, middle, tail = _stretches(test.parts, test.cased)
    text = fold(text)
    if middle is None:
        return len(text) == head.width and head.find(text, 0, len(text)) == 0
    last = len(text) - tail.width
    if last < head.width or not head.begins(text, 0) or not tail.begins(text, last):
        return False
    at = head.width
    for stretch in middle:  # the leftmost place of each leaves most room for the rest
        found = stretch.find(text, at, last)
        if found < 0:
            return False
        at = found + stretch.width
    return True


@frozen
class _Stretch:
    """What stands between two ANY: a fixed number of characters, a literal or a pattern of single characters."""

    literal: str
    pattern: re.Pattern[str] | None
    width: int

    def begins(self, text: str, at: int) -> bool:
        return text.startswith(self.literal, at) if self.pattern is None else self.pattern.match(text, at) is not None

    def find(self, text: str, start: int, end: int) -> int:
        """Where it stands first from `start` on and before `end`; -1: nowhere."""
        if self.pattern is None:
            return text.find(self.literal, start, end)
        found = self.pattern.search(text, start, end)
        return -1 if found is None else found.start()


_Fold = Callable[[str], str]


@lru_cache(maxsize=65536)
def _stretches(parts: tuple[Part, ...], cased: bool) -> tuple[_Fold, _Stretch, tuple[_Stretch, ...] | None, _Stretch]:
    """The shape cut at its ANYs: the first stretch, those between, the last; None between where there is no ANY."""
    beyond_ascii = any(c.lower() != c.upper() and not c.isascii() for p in parts for c in _characters(p))
    fold = _same if cased else lowered if beyond_ascii else fold_ascii
    cut: list[list[Part]] = [[]]
    for part in parts:
        if part is ANY:
            cut.append([])
        else:
            cut[-1].append(part)
    found = [_stretch(one, fold) for one in cut]
    return fold, found[0], tuple(found[1:-1]) if len(found) > 1 else None, found[-1]


def _stretch(parts: Iterable[Part], fold: _Fold) -> _Stretch:
    pattern, literal, width, plain = "", "", 0, True
    for part in parts:
        match part:
            case str():
                word = fold(part)
                literal += word
                pattern += re.escape(word)
                width += len(word)
                continue
            case OneOf(chars):
                pattern += "[" + "".join(map(re.escape, fold(chars))) + "]"
            case Placeholder(name):
                raise ValueError(f"placeholder %{name}% is not replaced")
            case Wildcard():
                assert part is ONE
                pattern += "."
            case _:
                assert_never(part)
        width += 1
        plain = False
    return _Stretch(literal, None if plain else re.compile(pattern, re.DOTALL), width)


def _characters(part: Part) -> str:
    return part if isinstance(part, str) else part.chars if isinstance(part, OneOf) else ""


def _same(text: str) -> str:
    return text


_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def fold_ascii(text: str) -> str:
    """A to Z in lower case, as Kusto's operators fold."""
    return text.lower() if text.isascii() else text.translate(_ASCII_LOWER)
