"""Regular expressions for texts with wildcards.

Place in the flow: under emission. Invariant: a pattern finds exactly the texts of the shapes it was made from, and
folds the letters that Kusto's other operators fold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import assert_never

from sigma2kql.model.literals import lowered
from sigma2kql.model.tree import ANY, OneOf, Part, Placeholder, Wildcard
from sigma2kql.regex.pattern import Edge, Set
from sigma2kql.regex.write import META, escape, write_set

_ESCAPES = str.maketrans({char: "\\" + char for char in META})
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


def wildcard_regex(shapes: Iterable[tuple[Part, ...]], cased: bool) -> str:
    """A Kusto regex that holds for exactly the texts of any of these shapes (`Text` of the model).

    What all of them begin and end with is written once. A Placeholder is a ValueError.
    """
    shapes = tuple(shapes)
    text = _literals(shapes)
    if not cased and not text.isascii() and _has_letters(text):
        shapes = tuple([_spelled(parts) for parts in shapes])
        text = _literals(shapes)
    found = [_anchored(parts) for parts in shapes]
    any_character = Wildcard in {type(part) for parts in found for part in parts}
    flags = "i" * (not cased and _has_letters(text)) + "s" * any_character
    if len(found) > 1 and (_agree(found, 0) or _agree(found, -1)):
        text = _alternatives([_units(parts) for parts in found])
    else:
        text = "|".join(["".join(map(_wildcard_part, parts)) for parts in found])
    return f"(?{flags})" * bool(flags) + text


def _literals(shapes: Iterable[tuple[Part, ...]]) -> str:
    return "".join([part for parts in shapes for part in parts if isinstance(part, str)])


def _has_letters(text: str) -> bool:
    return text.lower() != text.upper()


def _agree(found: list[tuple[Part | Edge, ...]], end: int) -> bool:
    """Whether all begin (0) or end (-1) with the same character or wildcard."""
    edges = (part[end] if isinstance(part := parts[end], str) else part for parts in found if parts)
    first = next(edges, None)
    return first is not None and all(edge == first for edge in edges)


def _anchored(parts: tuple[Part, ...]) -> tuple[Part | Edge, ...]:
    """With `^` and `$`; a leading or trailing run of any characters goes with its anchor."""
    if not parts:
        return _FROM_START, _TO_END
    if parts[0] is ANY:
        return parts[1:-1] if parts[-1] is ANY else (*parts[1:], _TO_END)
    return (_FROM_START, *parts[:-1]) if parts[-1] is ANY else (_FROM_START, *parts, _TO_END)


_FROM_START, _TO_END = Edge("start", "^"), Edge("end", "$")


def _spelled(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Letters beyond ASCII as a choice of all that tolower() makes one: regexes without case take more for equal."""
    if False not in [part.isascii() for part in parts if isinstance(part, str)]:
        return parts
    found: list[Part] = []
    for part in parts:
        if not isinstance(part, str) or part.lower() == part.upper():
            found.append(part)
            continue
        for char in part:
            letters = char if char.isascii() else _one_letter(char)
            if len(letters) > 1:
                found.append(OneOf(letters))
            elif found and isinstance(found[-1], str):
                found[-1] += char
            else:
                found.append(char)
    return tuple(found)


@lru_cache(maxsize=256)
def _one_letter(char: str) -> str:
    """The character, or every letter that has the same lower case."""
    low = lowered(char)
    if low == char and char.upper() == char:
        return char
    return "".join(chr(code) for code in range(ord("A"), 0x1E944) if lowered(chr(code)) == low)


def _wildcard_part(part: Part | Edge) -> str:
    if isinstance(part, str):
        if not part.isprintable():
            return "".join(escape(c, META) for c in part)
        return part.translate(_ESCAPES) if _SPECIAL.search(part) else part
    match part:
        case OneOf(chars):
            choice = write_set(Set(tuple((c, c) for c in chars)))
            return f"(?-i:{choice})" if any(c.isalpha() for c in chars) else choice
        case Edge(_, text):
            return text
        case Placeholder(name):
            raise ValueError(f"placeholder %{name}% is not replaced")
        case Wildcard():
            return ".*" if part is ANY else "."
        case _:
            assert_never(part)


def _units(parts: Iterable[Part | Edge]) -> list[str]:
    """The pieces of a pattern that cannot be divided."""
    units: list[str] = []
    for part in parts:
        if not isinstance(part, str):
            units.append(_wildcard_part(part))
        elif part.isprintable() and not _SPECIAL.search(part):
            units += part
        else:
            units += [escape(char, META) for char in part]
    return units


def _alternatives(found: list[list[str]]) -> str:
    """`found` joined by `|` between what all begin and end with; no word is cut."""
    start = _common(found)
    end = _common([units[start:][::-1] for units in found])
    middles = ["".join(units[start : len(units) - end]) for units in found]
    head, tail = "".join(found[0][:start]), "".join(found[0][len(found[0]) - end :])
    return f"{head}(?:{'|'.join(middles)}){tail}" if head or tail else "|".join(middles)


def _common(found: list[list[str]]) -> int:
    """How many units all begin with, and none ends with; the next is not in the middle of a word."""
    first, last = min(found), max(found)
    count = 0
    while count < len(first) - 1 and count < len(last) - 1 and first[count] == last[count]:
        count += 1
    count = max(0, min(count, *(len(units) - 1 for units in found)))
    while count and first[count - 1].isalnum() and any(units[count].isalnum() for units in found):
        count -= 1
    return count
