"""Streams of events for a correlation: those that a user states, and those that are made from the correlation itself.

Place in the flow: under the judge of correlations, above the making of rows. Invariant: a stream says nothing of
whether the correlation fires: that is the reference's to say.

Made are streams with just enough matches over the whole time span, with one too few, one just outside, one of another
group, of groups that take turns, without a group, all at once, in reverse order, of one value; and small random ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any, Literal

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.named_rules import NamedRules
from sigma2kql.model.thresholds import passes
from sigma2kql.model.tree import Compiled, Correlation, Rule
from sigma2kql.proof import Feed, Subject
from sigma2kql.proof.event_rows import shape
from sigma2kql.proof.generate import Choices
from sigma2kql.proof.labelled_rows import fields_of, rows_of
from sigma2kql.reference.correlations import field_of

MOST = 300  # matches in a stream that is made
MOST_EVENTS = 5_000  # in a stream that is judged: the reference compares each match with others
SECOND = timedelta(seconds=1)
BASES = 12  # events that are made of a rule, to choose from
_SPAN = re.compile(r"(\d{1,9})([smhd])")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ABOUT = frozenset({"event", "times", "every", "after", "rule"})


@frozen
class Placed:
    """An event at a time since the start (None: it names its own), and the rule that it is meant for, if one is."""

    event: Mapping[str, Any]
    at: timedelta | None = None
    rule: str | None = None


@frozen
class Made:
    """A stream that was made, and how."""

    events: tuple[Placed, ...]
    how: str


def stated(events: Sequence[Mapping[str, Any]]) -> list[Placed]:
    """The events of a stream as a user states it. Raises ValueError for what cannot be read, or is too much."""
    found: list[Placed] = []
    clock = timedelta()
    for number, item in enumerate(events):
        about = item if "event" in item and item.keys() <= _ABOUT and isinstance(item["event"], Mapping) else None
        event = about["event"] if about is not None else item
        times = about.get("times", 1) if about is not None else 1
        if not isinstance(times, int) or times < 1 or len(found) + times > MOST_EVENTS:
            raise ValueError(f"`times` is a number from 1, of at most {MOST_EVENTS:,} events in all, not {times!r}")
        every = _span(about.get("every", "1s")) if about is not None else SECOND
        clock += _span(about["after"]) if about is not None and "after" in about else SECOND * bool(number)
        rule = about.get("rule") if about is not None else None
        found += [Placed(event, clock + every * n, None if rule is None else str(rule)) for n in range(times)]
        clock += every * (times - 1)
    return found


def _span(text: Any) -> timedelta:
    found = _SPAN.fullmatch(str(text))
    if found is None:
        raise ValueError(f"`{text}` is not a time span: a number and a unit, such as 30s, 5m, 1h")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


# --------------------------------------------------------------------------------------------------------------------
# Made from the correlation


@frozen
class _Unit:
    """One match to make: when, of which of the correlation's rules, for which group (None: without), which value."""

    at: timedelta
    rule: int
    group: int | None = 1
    value: int = 0


def made(subject: Subject, names: NamedRules, count: int, seed: str) -> Iterator[Made]:
    """`count` streams, or fewer where the correlation needs very many matches or no event can be made of a rule."""
    correlation = subject.compiled.document
    assert isinstance(correlation, Correlation)
    random = Choices(f"{seed}:{correlation.meta.id or correlation.meta.title}")
    needed = _needed(correlation)
    if needed > MOST:
        return
    maker = _Maker(subject, names, seed)
    if maker.lacking():
        return
    shift = timedelta(seconds=random.randrange(correlation.timespan))
    for how, units in islice(_patterns(correlation, needed, random), count):
        events = [placed for unit in units for placed in maker.matches(correlation, unit)]
        yield Made(tuple(Placed(p.event, (p.at or timedelta()) + shift, p.rule) for p in events), how)


def _needed(correlation: Correlation) -> int:
    """How many matches the correlation needs at least, as far as that is known."""
    rules = len(correlation.rules)
    bounds = correlation.threshold.bounds if correlation.threshold else ()
    if not bounds or correlation.type == "temporal_ordered":
        return rules
    if correlation.type in ("event_count", "value_count", "temporal"):
        return next(
            (n for n in range(1, MOST + 1) if passes(bounds, n)), max(rules, 2) if passes(bounds, 0) else MOST + 1
        )
    return 2


def _patterns(correlation: Correlation, needed: int, random: Choices) -> Iterator[tuple[str, list[_Unit]]]:
    span = timedelta(seconds=correlation.timespan)
    rules = len(correlation.rules)

    def even(number: int, over: timedelta = span) -> list[_Unit]:
        return [_Unit(over * n / max(number - 1, 1), n % rules, value=n) for n in range(number)]

    enough = even(needed)
    yield "just enough", enough
    yield "one too few", even(needed - 1)
    yield "just outside", [*enough[:-1], _Unit(span + SECOND, enough[-1].rule, value=needed)]
    yield "another group", [*enough[:-1], _Unit(span, enough[-1].rule, 2, needed)]
    # each group has as many matches as it takes, but never all of them within the time span
    apart = [_Unit(span * (4 + 2 * u.value), u.rule, 2 - u.value % 2, u.value) for u in enough]
    yield "groups taking turns", [*(_Unit(u.at, u.rule, 1 + u.value % 2, u.value) for u in enough), *apart]
    yield "without a group", [*enough[:-1], _Unit(span, enough[-1].rule, None, needed)]
    yield "all without a group", [_Unit(u.at, u.rule, None, u.value) for u in enough]
    yield "all at once", even(needed, timedelta())
    yield "in reverse", [_Unit(u.at, rules - 1 - u.rule, value=u.value) for u in enough]
    yield "one value", [_Unit(u.at, u.rule) for u in enough]
    yield "one more", even(needed + 1)
    moments = [span * 0, span / 2, span - SECOND, span, span + SECOND, span * 3 / 2, span * 2, span * 3]
    while True:
        size = (
            random.randint(1, max(needed + 1, 3)) if needed <= 12 else random.choice((needed - 1, needed, needed + 1))
        )
        yield (
            "random",
            [
                _Unit(
                    random.choice(moments) if needed <= 12 else span * random.random(),
                    random.randrange(rules),
                    random.choice((1, 1, 1, 2)) if needed <= 12 else 1,
                    random.randrange(needed + 1),
                )
                for _ in range(size)
            ],
        )


@frozen
class _Wanted:
    """What a field is to hold: the value of a group (by its place in group-by), a value to count, or a number."""

    kind: Literal["group", "value", "number"]
    number: int
    place: int = 0


# Texts of many kinds: the first that every table has room for is taken.
_FORMS: tuple[Callable[[int], Any], ...] = (
    lambda n: f"zq{n}",
    lambda n: f"198.51.100.{n % 250 + 1}",
    lambda n: 4000 + n,
    lambda n: f"ZQ\\user{n}",
    lambda n: f"user{n}@contoso.example",
    lambda n: f"C:\\zq\\tool{n}.exe",
    lambda n: f"00000000-0000-4000-8000-{n:012d}",
)


class _Maker:
    """Makes the events of a match, of a rule or of a correlation in between."""

    def __init__(self, subject: Subject, names: NamedRules, seed: str) -> None:
        self.names = names
        self.feeds = {id(feed.rule): feed for feed in subject.feeds}
        self.bases = {key: _bases(feed, seed) for key, feed in self.feeds.items()}
        self.tested = {key: set(fields_of(feed.where)) for key, feed in self.feeds.items()}
        self.forms: dict[tuple[str, int], Callable[[int], Any] | None] = {}
        if not self.lacking():
            assert isinstance(subject.compiled.document, Correlation)
            self.choose(subject.compiled.document)

    def lacking(self) -> list[Rule]:
        """The rules of which no event can be made."""
        return [self.feeds[key].rule for key, found in self.bases.items() if not found]

    def choose(self, correlation: Correlation) -> None:
        """The form of the values of each group, and of what is counted; None: a field keeps what an event has."""
        places = [("group", place) for place in range(len(correlation.group_by))]
        for kind, place in [*places, ("value", 0)]:
            for form in (*_FORMS, None):
                self.forms[kind, place] = form
                if form is None or all(
                    self.fits(correlation, rule, kind, place) for rule in range(len(correlation.rules))
                ):
                    break

    def fits(self, correlation: Correlation, rule: int, kind: str, place: int) -> bool:
        """Whether the tables have room for events with this form."""
        wanted = self.wanted(correlation, _Unit(timedelta(), rule))
        wanted = {n: w for n, w in wanted.items() if w is not None and (w.kind, w.place) == (kind, place)}
        document = self.names.find(correlation.rules[rule], correlation)
        for one, event in self.events(document, wanted, timedelta(), ""):
            feed = self.feeds[id(one)]
            assert feed.mapped.serve is not None
            names = {*self.tested[id(one)], *(wanted if one is document else ())}
            if shape(event.event, feed.mapped.table, feed.mapped.serve, names).problems:
                return False
        return True

    def matches(self, correlation: Correlation, unit: _Unit) -> Iterator[Placed]:
        """The events of one match of one of the correlation's rules."""
        reference = correlation.rules[unit.rule]
        document = self.names.find(reference, correlation)
        for _, placed in self.events(document, self.wanted(correlation, unit), unit.at, reference.name):
            yield placed

    def wanted(self, correlation: Correlation, unit: _Unit) -> dict[str, _Wanted | None]:
        """What the fields of a match are to hold; None: nothing."""
        document = self.names.find(correlation.rules[unit.rule], correlation)
        found: dict[str, _Wanted | None] = {}
        for place, group in enumerate(correlation.group_by):
            field = field_of(correlation, group.name, self.names, document)
            found[field] = None if unit.group is None else _Wanted("group", unit.group, place)
        threshold = correlation.threshold
        for field in threshold.fields if threshold is not None else ():
            measured = correlation.type != "value_count"
            one = _Wanted("number", _near(correlation, unit.value)) if measured else _Wanted("value", unit.value)
            found.setdefault(field, one)
        return found

    def events(
        self, document: Rule | Correlation, wanted: Mapping[str, _Wanted | None], at: timedelta, name: str
    ) -> Iterator[tuple[Rule, Placed]]:
        """The events that make a rule match, or a correlation fire, with what is wanted in their fields."""
        if isinstance(document, Rule):
            yield document, Placed(self.event(document, wanted), at, name)
            return
        needed = min(_needed(document), MOST)
        step = min(SECOND, timedelta(seconds=document.timespan) / max(needed, 1))
        for number in range(needed):
            reference = document.rules[number % len(document.rules)]
            own = self.names.find(reference, document)
            fields: dict[str, _Wanted | None] = {
                field_of(document, group.name, self.names, own): wanted.get(group.name, _Wanted("value", 1))
                for group in document.group_by
            }
            for field in document.threshold.fields if document.threshold is not None else ():
                measured = document.type != "value_count"
                fields.setdefault(
                    field, _Wanted("number" if measured else "value", _near(document, 3) if measured else number)
                )
            yield from self.events(own, fields, at - step * (needed - 1 - number), reference.name)

    def event(self, rule: Rule, wanted: Mapping[str, _Wanted | None]) -> Mapping[str, Any]:
        """An event that the rule means, with what is wanted in fields that it does not test.

        A tested field keeps a value that passes; of several such events each group and value takes its own.
        """
        bases, tested = self.bases[id(rule)], self.tested[id(rule)]
        held = sum(one.number for name, one in wanted.items() if one is not None and name in tested)
        event = dict(bases[held % len(bases)])
        for name, one in wanted.items():
            if one is None:
                event.pop(name, None)
            elif name not in tested:
                form = (lambda n: n) if one.kind == "number" else self.forms.get((one.kind, one.place))
                if form is not None:
                    event[name] = form(one.number)
        return event


def _near(correlation: Correlation, number: int) -> int:
    """A number about the threshold: parts of it, itself, one more and one less, nothing."""
    assert correlation.threshold is not None
    bound = int(correlation.threshold.bounds[0][1])
    return (-(-bound // 2), bound - bound // 2 + 1, bound, bound + 1, bound - 1, 0)[number % 6]


def _bases(feed: Feed, seed: str) -> list[Mapping[str, Any]]:
    """Events that the rule means and its table has rows for."""
    done = Compiled(feed.rule, "", query=feed.mapped.query)
    rows, _ = rows_of(Subject(done, feed.where, feed.mapped.table, feed.mapped.serve), BASES, seed)
    return [case.event for case in rows if case.expected]
