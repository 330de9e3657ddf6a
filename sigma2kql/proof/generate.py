"""Events from a rule alone: some that it means, and near misses of every kind, each with its label.

Place in the flow: beside the emitter, from the Sigma tree, never from the mapped one. Invariant: labels come from
`evaluate` alone, however an event was made; the same rule and seed give the same events.

How: the tree offers ways to hold and ways to fail (each alternative once, each conjunct broken once). A way is a list
of tests that must pass or fail; a value is built for each field from its tests. The near misses then change one field
of an event that matches: its value by the kind of test, its case, to empty, to missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, ip_network
from itertools import islice
from random import Random
from typing import Any, TypeAlias, assert_never

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import (
    ANY,
    ONE,
    And,
    Bool,
    Cidr,
    DatePart,
    Exists,
    Expr,
    Field,
    Match,
    Not,
    Null,
    Number,
    OneOf,
    Or,
    Part,
    Placeholder,
    Regex,
    SameAs,
    Test,
    Text,
    Wildcard,
)
from sigma2kql.proof.regex_texts import regex_witnesses
from sigma2kql.reference.evaluate import evaluate, holds

KEYWORDS = "Message"  # the field that holds the text in which keywords are found
BYSTANDER = "Computer"
HASH = re.compile(r"=?[0-9A-Fa-f]{32}")  # a text that is a hash is seldom a part of anything
WAYS = 400  # ways to hold or to fail that are looked at; a rule with more is sampled
BASES = 4  # matching events whose near misses are looked at
TRIES = 10  # events that are labelled for each one wanted
TRIPPED = 100  # tests that are made to pass beside what an event holds
PRESENT = 0.5  # how often a field is there of which is only asked what it is not
PROPOSALS = 24  # values that are tried for the tests of one field


@frozen
class Sample:
    """An event by Sigma's field names, whether the rule means it, and how it was made."""

    event: Mapping[str, Any]
    matches: bool
    how: str


class Choices(Random):
    """Choices that repeat with their seed, and what stands for "any text"."""

    fillers: tuple[str, ...] = ("C:\\zq", "zq", "x y")


Asked: TypeAlias = tuple[Match[Field], bool]  # a test, and whether it must pass
Way: TypeAlias = tuple[Asked, ...]


def generate(where: Expr[Field], count: int = 24, seed: str = "0", unix: bool = False) -> list[Sample]:
    """`count` different events where the rule has so many, half of them matches where there are enough of both.

    `unix`: any text before what a rule asks for is a path of Linux or macOS.
    """
    random = Choices(seed)
    random.fillers = ("/zq", "/usr/zq", "/x y") if unix else random.fillers
    kinds: dict[str, dict[str, dict[str, Any]]] = {}
    for event, how in _candidates(where, random, count * 2):
        kinds.setdefault(how, {}).setdefault(repr(sorted(event.items(), key=lambda item: item[0])), event)
    pools: dict[bool, dict[str, Sample]] = {True: {}, False: {}}
    for key, event, how in islice(_by_turns(kinds, random), count * TRIES):
        pools[matches := evaluate(where, event)].setdefault(key, Sample(event, matches, how))
        if all(len(pool) >= count // 2 for pool in pools.values()) and sum(map(len, pools.values())) >= count:
            break
    hits, misses = (padded(list(pools[label].values()), where, count // 2) for label in (True, False))
    chosen = hits[: max(count // 2, count - len(misses))]
    return chosen + misses[: count - len(chosen)]


def padded(samples: list[Sample], where: Expr[Field], wanted: int) -> list[Sample]:
    """The samples, where they are few again on other machines: a field that the rule does not test changes nothing."""
    if BYSTANDER in (tested := {leaf.subject.name for leaf in leaves(where)}) or None in tested:
        return samples
    more = (
        Sample({**sample.event, BYSTANDER: f"host-{number}"}, sample.matches, "bystander")
        for number in range(wanted)
        for sample in samples
    )
    return samples + list(islice(more, max(0, wanted - len(samples))))


def _by_turns(kinds: Mapping[str, Mapping[str, Any]], random: Choices) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The first event of every kind, then the second of every kind; within a kind in random order."""
    queues = []
    for how, found in kinds.items():
        rest = list(found.items())
        random.shuffle(rest)
        queues.append((how, rest))
    while queues:
        for how, rest in queues:
            key, event = rest.pop()
            yield key, event, how
        queues = [(how, rest) for how, rest in queues if rest]


def _candidates(where: Expr[Field], random: Choices, most: int) -> Iterator[tuple[dict[str, Any], str]]:
    """Events of every kind, not labelled yet."""
    bases: list[tuple[dict[str, Any], Way]] = []
    for number, way in enumerate(sampled(ways_to(where, True), random, most)):
        event = _build(way, random)
        if len(bases) < BASES and evaluate(where, event):
            bases.append((event, way))
        yield event, "base" if number == 0 else "alternative"
    for way in sampled(ways_to(where, False, near=True), random, most):
        yield _build(way, random), "broken"
    for number, (event, way) in enumerate(bases):
        tested = list(dict.fromkeys(leaf for leaf, _ in way))
        for leaf in tested if len(tested) <= most else random.sample(tested, most):
            name = leaf.subject.name or KEYWORDS
            for value, how in variations(leaf.test, event.get(name), random):
                if value is None:
                    yield {k: v for k, v in event.items() if k != name}, how
                else:
                    yield {**event, name: value}, how
        if number == 0:
            for changed in _tripped(where, event, random):
                yield changed, "tripped"


def _tripped(where: Expr[Field], event: dict[str, Any], random: Choices) -> Iterator[dict[str, Any]]:
    """The event with each test of the rule made to pass on top of what it holds (so each filter is tripped)."""
    tests = leaves(where)
    for leaf in tests if len(tests) <= TRIPPED else random.sample(tests, TRIPPED):
        name = leaf.subject.name or KEYWORDS
        value = _value([(leaf.test, True)], random, event)
        if value is not None:
            yield {**event, name: value}


# --------------------------------------------------------------------------------------------------------------------
# Ways to hold and ways to fail


def sampled(ways: list[Way], random: Choices, most: int) -> list[Way]:
    return ways if len(ways) <= most else [ways[0], *random.sample(ways[1:], most - 1)]


def ways_to(expr: Expr[Field], wanted: bool, near: bool = False) -> list[Way]:
    """Ways in which the tree holds (or fails): every alternative of every `or` once, not every combination.

    Of an `and` that fails, `near` gives only the ways in which one part fails and all others hold; else the plain one,
    in which nothing is asked of the others, comes first.
    """
    match expr:
        case Match():
            return [((expr, wanted),)]
        case Not(item):
            return ways_to(item, not wanted, near)
        case And(items) | Or(items):
            each = [ways_to(item, wanted, near) for item in items]
            if isinstance(expr, And) == wanted:
                return _crossed(each) if all(each) else []
            if wanted:
                return [way for found in each for way in found][:WAYS]
            held = [(ways_to(item, True) or [()])[0] for item in items]
            plain = [] if near else [ways[0] for ways in each if ways]
            almost = [
                (*way, *(asked for j, other in enumerate(held) if j != i for asked in other))
                for i, ways in enumerate(each)
                for way in ways[:40]
            ]
            return (plain + almost)[:WAYS]
        case _:
            assert_never(expr)


def _crossed(each: list[list[Way]]) -> list[Way]:
    """The first way of every item together, then each other way of each item with the first ways of the rest."""
    first = [ways[0] for ways in each]
    found = [tuple(asked for way in first for asked in way)]
    for number, ways in enumerate(each):
        for way in ways[1:WAYS]:
            parts = [*first[:number], way, *first[number + 1 :]]
            found.append(tuple(asked for part in parts for asked in part))
            if len(found) >= WAYS:
                return found
    return found


def _build(way: Way, random: Choices) -> dict[str, Any]:
    """An event in which the tests of a way pass and fail as asked, as far as values for that are found."""
    event: dict[str, Any] = {}
    by_field: dict[str, list[tuple[Test[Field], bool]]] = {}
    for leaf, wanted in way:
        by_field.setdefault(leaf.subject.name or KEYWORDS, []).append((leaf.test, wanted))
    # fields that are compared with come after the fields that stand by themselves
    order = sorted(by_field.items(), key=lambda item: any(isinstance(t, SameAs) for t, _ in item[1]))
    for name, tests in order:
        for test, wanted in tests:
            if isinstance(test, SameAs) and wanted and test.other.name is not None:
                event.setdefault(test.other.name, "C:\\same\\text.exe")
        value = _value(tests, random, event)
        if value is not None:
            event[name] = value
        else:
            event.pop(name, None)
    return event


# --------------------------------------------------------------------------------------------------------------------
# A value for the tests of one field


def _value(tests: list[tuple[Test[Field], bool]], random: Choices, event: Mapping[str, Any]) -> Any:
    """A value on which the tests come out as asked, the closest found otherwise; None: the field is better missing."""
    positive = [test for test, wanted in tests if wanted]
    emptiness = [wanted for test, wanted in tests if isinstance(test, Null) or test == Text(())]
    if not positive:
        return _outside(tests, event) if emptiness or random.random() < PRESENT else None
    first = None
    for value in islice(dict.fromkeys(islice(proposals(positive, random, event), PROPOSALS * 4)), PROPOSALS):
        if all(passes(test, value, event) == wanted for test, wanted in tests):
            return value
        first = value if first is None else first
    return first


def _outside(tests: list[tuple[Test[Field], bool]], event: Mapping[str, Any]) -> Any:
    """A present value that fails every test, near to what they ask for."""
    for value in ("C:\\Windows\\other.exe", "other", "D:\\zq\\zq.zq", "7", "198.51.100.7"):
        if not any(passes(test, value, event) for test, _ in tests):
            return value
    return None


_HERE = Field("\x00")


def passes(test: Test[Field], value: Any, event: Mapping[str, Any]) -> bool:
    """A test on a value; other fields are those of the event."""
    return holds(Match(_HERE, test), lambda field: value if field is _HERE else event.get(field.name or ""))


def proposals(tests: list[Test[Field]], random: Choices, event: Mapping[str, Any]) -> Iterator[Any]:
    """Values that may pass all of these tests."""
    own = [list(islice(witnesses(test, random, event), 6)) for test in tests]
    texts = [test for test in tests if isinstance(test, Text)]
    if any(not found for found in own):
        yield None
    if len(tests) > 1:
        others = [found[0] for found, test in zip(own, tests, strict=True) if found and not isinstance(test, Text)]
        yield from merged(texts, others)
    for found in own[:12]:
        yield from found[:3]


def merged(texts: list[Text], others: list[Any]) -> Iterator[str]:
    """One text from several shapes: what must begin, what must be inside, what must end."""
    starts = [t for t in texts if t.parts and t.parts[0] is not ANY]
    ends = [t for t in texts if t.parts and t.parts[-1] is not ANY]
    start = max((_filled(t.parts[: _first_any(t.parts)], "") for t in starts), key=len, default="")
    end = max((_filled(t.parts[len(t.parts) - _first_any(t.parts[::-1]) :], "") for t in ends), key=len, default="")
    middle = []
    for test in texts:
        inner = list(test.parts)
        if test in starts:
            inner = inner[_first_any(test.parts) :]
        if test in ends and inner:
            inner = inner[: len(inner) - _first_any(inner[::-1])]
        text = _filled(inner, "")
        if text:
            middle.append(text)
    middle += [str(other) for other in others if other is not None]
    compact = [
        m
        for i, m in enumerate(middle)
        if not any(m.lower() in o.lower() for j, o in enumerate(middle) if j != i and (len(o), -j) > (len(m), -i))
    ]
    loose = [m for m in compact if m.lower() not in (start + end).lower()]
    for between in ("", " ", "\\", " x "):
        for parts in (loose, compact, middle):
            yield between.join([p for p in (start, *parts, end) if p])
            yield start + between.join(parts) + (end or "zq")
            yield (start or "zq ") + between.join(parts) + (end or " zq")


def _first_any(parts: Iterable[Part]) -> int:
    number = 0
    for part in parts:
        if part is ANY:
            return number
        number += 1
    return number


def _filled(parts: Iterable[Part], filler: str) -> str:
    """A text of this shape, ANY as `filler`."""
    out = []
    for part in parts:
        match part:
            case str():
                out.append(part)
            case OneOf(chars):
                out.append(chars[0])
            case Wildcard():
                out.append(filler if part is ANY else "x")
            case Placeholder():
                pass
            case _:
                assert_never(part)
    return "".join(out)


def witnesses(test: Test[Field], random: Choices, event: Mapping[str, Any]) -> Iterator[Any]:
    """Values that pass one test, plain ones first. Nothing is given where the field must be missing."""
    match test:
        case Text(parts):
            if parts:
                fillers = [random.choice(random.fillers), "", "x", "1"]
                if any(isinstance(part, str) and HASH.search(part) for part in parts):
                    fillers = ["", "SHA1=" + "0" * 40 + ","]
                for filler in fillers:
                    yield _filled(parts, filler) or filler
        case Regex(pattern, flags):
            yield from regex_witnesses(pattern, flags)
        case Cidr(network):
            yield from _addresses(network)[:2]
        case Number(op, value):
            yield {"==": value, "<=": value, ">=": value, "<": value - 1, ">": value + 1}[op]
        case Bool(value):
            yield "true" if value else "false"
            yield value
        case Null():
            return
        case Exists():
            yield "zq"
        case SameAs(other, shape):
            theirs = event.get(other.name or "", "C:\\same\\text.exe")
            yield {"equals": "{}", "contains": "zq {} zq", "startswith": "{} zq", "endswith": "zq {}"}[shape].format(
                theirs
            )
        case DatePart():
            yield from _moments(test)
        case _:
            assert_never(test)


def _moments(test: DatePart) -> Iterator[str]:
    low = {"<": -1, ">": 1}.get(test.op, 0) + test.value
    match test.unit:
        case "minute":
            yield f"2026-01-05T08:{low % 60:02}:00Z"
        case "hour":
            yield f"2026-01-05T{low % 24:02}:30:00Z"
        case "day":
            yield f"2026-01-{min(max(low, 1), 31):02}T08:30:00Z"
        case "month":
            yield f"2026-{min(max(low, 1), 12):02}-05T08:30:00Z"
        case "year":
            yield f"{min(max(low, 1), 9998):04}-01-05T08:30:00Z"
        case "week":
            from datetime import date

            yield f"{date.fromisocalendar(2026, min(max(low, 1), 53), 1).isoformat()}T08:30:00Z"


@lru_cache(maxsize=4096)
def _addresses(network: str) -> tuple[str, ...]:
    """First and last inside, the neighbours outside, the IPv4 ones also as IPv6 writes them."""
    net = ip_network(network)
    first, last = int(net.network_address), int(net.broadcast_address)
    make = type(net.network_address)
    found = [str(make(first + (1 if last > first else 0))), str(make(last)), str(make(first))]
    most = (1 << net.max_prefixlen) - 1
    found += [str(make(n)) for n in (first - 1, last + 1) if 0 <= n <= most]
    if isinstance(net, IPv4Network):
        found += [f"::ffff:{found[0]}", f"::ffff:{found[-1]}", f"::{found[0]}", "2001:db8::7"]
    else:
        found += ["198.51.100.7", str(make(first)).upper(), make(first).exploded]
    return tuple(dict.fromkeys(found))


# --------------------------------------------------------------------------------------------------------------------
# Near misses


def variations(test: Test[Any], value: Any, random: Choices) -> Iterator[tuple[Any, str]]:
    """Changed values for a field, with the kind of change. `value` is what the matching event holds."""
    yield None, "missing"
    yield "", "empty"
    match test:
        case Text():
            yield from _text_variations(test, value, random)
        case Regex(pattern, flags):
            for other in regex_witnesses(pattern, flags)[:6]:
                yield other, "other witness"
                yield other.swapcase(), "case"
                yield other[1:], "cut"
                yield other[:-1], "cut"
        case Cidr(network):
            for address in _addresses(network):
                yield address, "address"
            for junk in ("-", "10.0.0.999", "localhost", f"{_addresses(network)[0]}:443"):
                yield junk, "junk"
        case Number(_, wanted):
            for number in (wanted - 1, wanted, wanted + 1, str(wanted), str(wanted + 1), -wanted):
                yield number, "number"
            for junk in ("zq", f"{wanted}a", "-"):
                yield junk, "junk"
        case Bool(wanted):
            for text in (str(wanted), str(not wanted).lower(), not wanted, "zq"):
                yield text, "bool"
        case SameAs():
            yield f"{value}x", "longer"
            yield str(value).swapcase(), "case"
        case DatePart():
            for other in ("2026-06-15T23:59:59Z", "2024-12-31T00:00:00Z", "zq"):
                yield other, "moment"
        case Null() | Exists():
            yield "zq", "present"
        case _:
            assert_never(test)


def _text_variations(test: Text, value: Any, random: Choices) -> Iterator[tuple[Any, str]]:
    text = str(value) if value is not None else _filled(test.parts, "")
    if not test.parts:
        yield "zq", "present"
        return
    yield text.swapcase(), "case"
    yield text.upper(), "case"
    yield _filled(test.parts, ""), "no characters"
    if ANY in test.parts:
        yield _filled(test.parts, "a\nb"), "newline"
    for part in test.parts:
        if isinstance(part, str):
            yield from ((_flipped(text, part, random), "flipped"), (text.replace(part, ""), "lost"))
            if part[-1:] == "\\" or part[:1] == "\\":
                yield text.replace(part, part.strip("\\")), "no separator"
        elif part is ONE:
            yield _filled([p for p in test.parts if p is not ONE], ""), "no characters"
    for changed in (f"{text}x", f"x{text}", f"{text} ", text[1:], text[:-1]):
        yield changed, "edge"
    bare = _filled(test.parts, "")
    for changed in (f"{bare}x", f"x{bare}", f"{bare}\\x"):
        yield changed, "edge"


def _flipped(text: str, part: str, random: Choices) -> str:
    """The text with one character of a literal exchanged."""
    at = text.lower().find(part.lower())
    if at < 0 or not part:
        return f"{text}q"
    place = at + random.randrange(len(part))
    return text[:place] + ("q" if text[place] not in "qQ" else "w") + text[place + 1 :]
