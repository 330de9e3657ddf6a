"""Why no event can have a label: a rule that contradicts itself, or a table whose rows are all one way.

Place in the flow: asked by `prove` for rules of which no such event was found. Invariant: a reason is given only where
there is a proof, over values that are one text each; else the answer is "".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from math import prod
from typing import assert_never

from sigma2kql.model.simplify import leaves
from sigma2kql.model.text_shapes import matches
from sigma2kql.model.tree import ANY, And, Exists, Expr, Field, Match, Not, Null, Or, Regex, Test, Text
from sigma2kql.model.words import in_words
from sigma2kql.proof.generate import passes
from sigma2kql.proof.row_capacity import Room, synonym
from sigma2kql.reference.evaluate import evaluate

CASES = 2000  # combinations that are looked at, of parts of a rule or of values of a table
ANYTHING = "\ue000"  # a character that stands for any text; no rule writes it
NEGATED = re.compile(r"\[\^|\\[PpWSD]|\(\?")  # with these a pattern may hold on less when case is ignored
SHOWN = 6  # values that a sentence names
SAID = 100  # characters of a test in words

Asked = tuple[Match[Field], bool]


def contradiction(where: Expr[Field], wanted: bool = True) -> str:
    """What excludes what, where no event can have this label."""
    ways = _all_ways(where, wanted)
    reasons = [_clash(way) for way in ways or ()]
    if not reasons or not all(reasons):
        return ""
    return f"no event can {'match' if wanted else 'fail'}: {reasons[0]}"


def _all_ways(expr: Expr[Field], wanted: bool) -> list[tuple[Asked, ...]] | None:
    """Every way in which the tree can hold (or fail), as tests that must pass or fail together; None: too many."""
    match expr:
        case Match():
            return [((expr, wanted),)]
        case Not(item):
            return _all_ways(item, not wanted)
        case And(items) | Or(items):
            each = [_all_ways(item, wanted) for item in items]
            known = [ways for ways in each if ways is not None]
            together = isinstance(expr, And) == wanted
            if len(known) < len(each) or (prod if together else sum)(map(len, known)) > CASES:
                return None
            if together:
                return [tuple(asked for way in combined for asked in way) for combined in product(*known)]
            return [way for ways in known for way in ways]
        case _:
            assert_never(expr)


def _clash(way: Iterable[Asked]) -> str:
    """Two tests of one field that cannot come out as asked on one text; "" where none are seen."""
    fields: dict[str, list[tuple[Test[Field], bool]]] = {}
    for leaf, wanted in way:
        if leaf.subject.name is not None:
            fields.setdefault(leaf.subject.name, []).append(_plain(leaf.test, wanted))
    for name, tests in fields.items():
        for one, wanted in tests:
            if not wanted:
                continue
            for other, also in tests:
                if _excludes(one, other, also):
                    first, second = in_words(one)[:SAID], in_words(other)[:SAID]
                    return f"`{name}` must be such that it {first} and {'' if also else 'not '}that it {second}"
    return ""


def _plain(test: Test[Field], wanted: bool) -> tuple[Test[Field], bool]:
    """Not empty is present, not present is empty."""
    if not wanted and (isinstance(test, Null) or test == Text(())):
        return Exists(), True
    if not wanted and (isinstance(test, Exists) or test == Text((ANY,))):
        return Null(), True
    return test, wanted


def _excludes(one: Test[Field], other: Test[Field], also: bool) -> bool:
    """Whether a text that passes `one` never passes `other` (with `also`), or always does (without)."""
    match one, other:
        case _, Null() | Text(()) if isinstance(one, Null) or one == Text(()):
            return not also
        case (Null() | Text(()), _) | (_, Null() | Text(())):
            return also
        case _, Exists():
            return not also
        case Text((str(text),)), Text() if text.isascii():  # one text, but for its case
            return passes(Text(other.parts), text, {}) != also if not other.cased else also and not _fits(other, text)
        case Text((str(text),)), Regex(pattern, flags) if also and text.isascii() and not NEGATED.search(pattern):
            return not passes(Regex(pattern, "".join(dict.fromkeys(flags + "i"))), text, {})
        case Text(), Text() if not also and not other.cased:
            return _within(one, other)
        case _:
            return False


def _fits(test: Text, text: str) -> bool:
    return passes(Text(test.parts), text, {})


def _within(narrow: Text, wide: Text) -> bool:
    """Whether every text of one shape has the other too. Only for shapes of literals and ANY."""
    if not all(part is ANY or (isinstance(part, str) and part.isascii()) for part in (*narrow.parts, *wide.parts)):
        return False
    return matches(wide, "".join(part if isinstance(part, str) else ANYTHING for part in narrow.parts))


def one_sided(where: Expr[Field], room: Room, wanted: bool) -> str:
    """What the rows say of all fields of a rule, where they say so little that none of them has this label."""
    closed = {name: values for name in room.names if (values := room.closed(name)) is not None}
    if len(closed) < len(room.names) or not closed or prod(len(v) + 1 for v in closed.values()) > CASES:
        return ""
    if any(leaf.subject.name is None for leaf in leaves(where)):
        return ""
    for chosen in product(*([*values, ""] for values in closed.values())):
        event = dict(zip(closed, chosen, strict=True))
        whole = room.whole(event)
        if evaluate(where, whole) != wanted or not room.takes(event):
            continue
        if not synonym(where, whole, room.table, room.serve, room.names):
            return ""
    said = "; ".join(
        f"`{name}` is " + " or ".join(map(repr, values[:SHOWN])) + (" or ..." if len(values) > SHOWN else "")
        for name, values in closed.items()
    )
    return f"no row of this log source in {room.table.name} can {'match' if wanted else 'fail'}: {said} there"
