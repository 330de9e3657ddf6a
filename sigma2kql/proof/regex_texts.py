"""Texts that a regular expression matches.

Place in the flow: for the generation and the shaping of events. Invariant: `regex_witnesses` gives only texts in which
the pattern is found; `shortest` is a guess, as edges are taken as given.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random
from typing import assert_never

from sigma2kql.regex import accepts, search, translate
from sigma2kql.regex.parse import RegexProblem, parse
from sigma2kql.regex.pattern import Char, Choice, Dot, Edge, Group, Node, Repeat, Sequence, Set, Switch

ANYTHING = "aZ09 _-/:.=\\\t'\"$(){}x"


def shortest(node: Node) -> str:
    """A short text that the pattern matches; edges are taken as given."""
    match node:
        case Char(value):
            return value
        case Dot():
            return "x"
        case Set():
            return next(iter(fitting(node)), "?")
        case Edge() | Switch():
            return ""
        case Sequence(items):
            return "".join(map(shortest, items))
        case Choice(items):
            return min(map(shortest, items), key=len)
        case Repeat(item, low):
            return shortest(item) * low
        case Group(item):
            return shortest(item)
        case _:
            assert_never(node)


def fitting(node: Set, chars: str = "xX1 -_/:.=\\\t") -> list[str]:
    """Which of these characters, and of those that the set itself names, are in the set."""
    fits = accepts(node)
    named = [item[0] for item in node.items if not isinstance(item, str)]
    return [char for char in dict.fromkeys((*chars, *named)) if fits(char)]


@lru_cache(maxsize=4096)
def regex_witnesses(pattern: str, flags: str) -> tuple[str, ...]:
    """Texts in which the pattern is found, checked: the shortest, then some with more repetitions or other branches."""
    try:
        translated, tree = translate(pattern, flags), parse(pattern, flags)
    except (RegexProblem, ValueError):
        return ()
    found: dict[str, None] = {}
    texts = [shortest(tree), *(_random_text(tree, Random(n)) for n in range(12))]  # noqa: S311 - chosen to repeat
    for text in texts:
        for candidate in (text, f" {text} ", f"x{text}x", f"\n{text}"):
            if candidate and len(candidate) < 4000 and search(translated, candidate):
                found[candidate] = None
                break
    return tuple(found)


def _random_text(node: Node, random: Random) -> str:
    match node:
        case Char(value):
            return value.swapcase() if node.fold and random.random() < 0.3 else value
        case Dot() | Set():
            chars = list(ANYTHING) if isinstance(node, Dot) else fitting(node, ANYTHING)
            return random.choice(chars) if chars else shortest(node)
        case Edge() | Switch():
            return ""
        case Sequence(items):
            return "".join(_random_text(item, random) for item in items)
        case Choice(items):
            return _random_text(random.choice(items), random)
        case Repeat(item, low, high):
            most = low + 2 if high is None else min(high, low + 2)
            return "".join(_random_text(item, random) for _ in range(random.randint(low, most)))
        case Group(item):
            return _random_text(item, random)
        case _:
            assert_never(node)
