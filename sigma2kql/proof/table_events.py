"""Events for the rules of which few generated events can stand in their table: built field by field with its rows in
view.

Place in the flow: beside `generate`, asked when that does not give enough. Invariant: as there, labels come from
`evaluate` alone; every event given has a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import Expr, Field, Null, SameAs, Test, Text
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
from sigma2kql.proof.row_capacity import Room
from sigma2kql.reference.evaluate import evaluate

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
    for wanted, near in ((True, False), (False, True), (False, False)):
        for way in sampled(ways_to(where, wanted, near), random, half):
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
    asked: Asked = {name: [] for name in room.names}
    for leaf, wanted in way:
        asked.setdefault(leaf.subject.name or KEYWORDS, []).append((leaf.test, wanted))
    groups: dict[str, list[str]] = {}
    for name in sorted(asked, key=lambda name: any(isinstance(test, SameAs) for test, _ in asked[name])):
        groups.setdefault(room.place(name), []).append(name)
    first = room.order()
    ordered = sorted(groups.values(), key=lambda names: first.index(names[0]) if names[0] in first else -1)
    ordered.sort(key=lambda names: any(isinstance(test, SameAs) for name in names for test, _ in asked[name]))
    for fields in (ordered, ordered[::-1]):
        event = _filled(fields, 0, {}, asked, room, random, [STEPS])
        if event is not None:
            return event
    return None


def _filled(
    fields: list[list[str]], at: int, event: dict[str, Any], asked: Asked, room: Room, random: Choices, left: list[int]
) -> dict[str, Any] | None:
    """Depth first: a value for each field (for those that share a column one value) that passes its tests and has room
    beside those before it.
    """
    if at == len(fields):
        return event if room.takes(event) else None
    decided = [name for names in fields[: at + 1] for name in names]
    tests = [test for name in fields[at] for test in asked[name]]
    for value in _values(fields[at][0], tests, event, decided[: -len(fields[at])], room, random):
        if left[0] <= 0:
            return None
        left[0] -= 1
        attempt = event if value is None else {**event, **dict.fromkeys(fields[at], value)}
        if not room.takes(attempt, decided):
            continue
        found = _filled(fields, at + 1, attempt, asked, room, random, left)
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
        offered.append(SAME)
    if positive or any(isinstance(test, Null) or test == Text(()) for test, _ in tests):
        ordered = [*texts, here or None, *beside, *begun, *offered]
    elif random.random() < PRESENT:
        ordered = [here or None, *random.sample(offered, len(offered)), None]
    else:
        ordered = [here or None, None, *offered]
    for value in dict.fromkeys(ordered):
        if all(passes(test, value, event) == wanted for test, wanted in tests):
            yield value
