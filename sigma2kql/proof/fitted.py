"""Events for the rules of which few generated events can stand in their table: built field by field with its rows in
view.

Place in the flow: beside `generate`, asked when that does not give enough. Invariant: as there, labels come from
`evaluate` alone; every event given has a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from sigma2kql.evaluate import evaluate
from sigma2kql.model import Expr, Field, Null, SameAs, Test, Text
from sigma2kql.proof.generate import (
    BASES,
    KEYWORDS,
    PRESENT,
    PROPOSALS,
    Choices,
    Sample,
    Way,
    padded,
    passes,
    proposals,
    sampled,
    variations,
    ways_to,
)
from sigma2kql.proof.room import Room
from sigma2kql.simplify import leaves

STEPS = 150  # rows that are tried for one event
SEPARATORS = ("", "?", "/", "\\", " ")  # between what a row says already and what the rule asks for beside it
AGAIN = 2  # events that are built for each way to hold or to fail
SAME = "C:\\same\\text.exe"  # of two fields that must be the same

Asked = dict[str, list[tuple[Test[Field], bool]]]


def fitted(where: Expr[Field], room: Room, count: int, seed: str, unix: bool = False) -> list[Sample]:
    """Up to `count` events with a row in the table, half of them matches where there are enough of both."""
    random = Choices(seed)
    random.fillers = ("/zq", "/usr/zq", "") if unix else ("C:\\zq", "zq", "")
    pools: dict[bool, dict[str, Sample]] = {True: {}, False: {}}
    half = max(count // 2, 1)
    for event, how in _events(where, room, random, pools, half):
        whole = room.whole(event)
        matches = evaluate(where, whole)
        if len(pools[matches]) < half:
            key = repr(sorted(whole.items(), key=lambda item: item[0]))
            pools[matches].setdefault(key, Sample(whole, matches, how))
        if all(len(pool) >= half for pool in pools.values()):
            break
    return [one for pool in pools.values() for one in padded(list(pool.values()), where, half)]


def _events(
    where: Expr[Field], room: Room, random: Choices, pools: Mapping[bool, Mapping[str, Sample]], half: int
) -> Iterator[tuple[dict[str, Any], str]]:
    """Events that have a row, not labelled yet; `pools` tell what there is already."""
    for wanted in (True, False):
        for way in sampled(ways_to(where, wanted, near=not wanted), random, half):
            for _ in range(AGAIN):
                if (event := _built(way, room, random)) is not None:
                    yield event, "fitted"
    bases = [*islice(pools[True].values(), BASES), *islice(pools[False].values(), BASES)]
    for base in bases:
        for event, how in _changed(where, base.event, room, random):
            if event != base.event and room.takes(event):
                yield event, f"fitted, {how}"


def _changed(
    where: Expr[Field], base: Mapping[str, Any], room: Room, random: Choices
) -> Iterator[tuple[dict[str, Any], str]]:
    for leaf in leaves(where):
        name = leaf.subject.name or KEYWORDS
        for value, how in variations(leaf.test, base.get(name), random):
            yield {**{k: v for k, v in base.items() if k != name}, **({} if value is None else {name: value})}, how
        for value in room.offers(name):
            yield {**base, name: value}, "another value"


def _built(way: Way, room: Room, random: Choices) -> dict[str, Any] | None:
    """An event on which the tests of a way come out as asked and that has a row; None where none is found."""
    asked: Asked = {}
    for leaf, wanted in way:
        asked.setdefault(leaf.subject.name or KEYWORDS, []).append((leaf.test, wanted))
        if isinstance(leaf.test, SameAs) and leaf.test.other.name is not None:
            asked.setdefault(leaf.test.other.name, [])
    first = room.order()
    ordered = sorted(asked, key=lambda name: first.index(name) if name in first else -1)
    ordered.sort(key=lambda name: any(isinstance(test, SameAs) for test, _ in asked[name]))
    for names in (ordered, ordered[::-1]):
        left = [STEPS]
        event = _filled(names, 0, {}, asked, room, random, left)
        if event is not None:
            return event
    return None


def _filled(
    names: list[str], at: int, event: dict[str, Any], asked: Asked, room: Room, random: Choices, left: list[int]
) -> dict[str, Any] | None:
    """Depth first: a value for each field that passes its tests and has room beside those before it."""
    if at == len(names):
        return event if room.takes(event) else None
    name, decided = names[at], names[: at + 1]
    for value in _values(name, asked[name], event, names[:at], room, random):
        if left[0] <= 0:
            return None
        left[0] -= 1
        attempt = event if value is None else {**event, name: value}
        if name in room.names and not room.takes(attempt, decided):
            continue
        found = _filled(names, at + 1, attempt, asked, room, random, left)
        if found is not None:
            return found
    return None


def _values(
    name: str,
    tests: list[tuple[Test[Field], bool]],
    event: dict[str, Any],
    decided: list[str],
    room: Room,
    random: Choices,
) -> Iterator[Any]:
    """Values of a field on which its tests come out as asked, the plainest first; None: it is missing."""
    positive = [test for test, wanted in tests if wanted]
    texts = list(islice(dict.fromkeys(proposals(positive, random, event)), PROPOSALS)) if positive else []
    offered: list[Any] = room.offers(name)
    here = room.held(name, event, decided)
    beside = [
        value
        for text in texts[:6]
        for between in SEPARATORS
        for value in ((f"{here}{between}{text}", f"{text}{between}{here}") if here and text is not None else ())
    ]
    begun = [f"{begin}{text}" for begin in room.begins(name) for text in texts[:6]]
    if not tests:
        offered = [SAME, *offered]
    if positive or any(isinstance(test, Null) or test == Text(()) for test, _ in tests):
        ordered = [*texts, here or None, *beside, *begun, *offered]
    elif random.random() < PRESENT:
        ordered = [here or None, *random.sample(offered, len(offered)), None]
    else:
        ordered = [here or None, None, *offered]
    for value in dict.fromkeys(ordered):
        if all(passes(test, value, event) == wanted for test, wanted in tests):
            yield value
