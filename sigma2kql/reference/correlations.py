"""What a correlation means, over the matches of its rules, in plain Python: the reference for its query.

Place in the flow: beside `evaluate`, which says the same of a single event; read by the judge of correlations.
Invariant: no KQL and no table is known here. A correlation fires for a group at the time of a match, with what lies in
the time span up to it (both ends included); thresholds that count few are asked of fixed windows of the clock.

Source: Sigma correlation rules specification 2.1; for conditions over names of rules, pySigma. The readings taken: a
match without a value in a field to group by is in no group, and one without the value to count or to compute with does
not count; matches of one time are in any order; a rule under `not` may match neither within the window nor within the
time span after it; a percentile is the nearest rank.
"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, assert_never

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.language.condition import Condition, Joined, Named, Quantified, parse
from sigma2kql.model.tree import Correlation, Rule
from sigma2kql.reference.evaluate import text_of

_COMPARES: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "neq": operator.ne,
}
_FEW = frozenset({"lt", "lte", "eq", "neq"})


@frozen
class Hit:
    """A match: when, and the fields of the event; or when a correlation fired, and for which group."""

    time: datetime
    fields: Mapping[str, Any]


@frozen
class _Member:
    """A match within a group; `rule` is the name that the correlation calls it by."""

    time: datetime
    rule: str
    fields: Mapping[str, Any]


_time = attrgetter("time")
Known = Mapping[str, Rule | Correlation]  # by name and by id


def firings(correlation: Correlation, known: Known, hits: Callable[[Rule], Sequence[Hit]]) -> list[Hit]:
    """When, and for which groups (the fields of each hit), the correlation fires; `hits` are the matches of a rule."""
    groups: dict[tuple[str, ...], list[_Member]] = {}
    for name in dict.fromkeys(reference.name for reference in correlation.rules):
        document = known[name]
        found = firings(document, known, hits) if isinstance(document, Correlation) else hits(document)
        for hit in found:
            values = (hit.fields.get(field_of(correlation, g.name, name, document)) for g in correlation.group_by)
            if all(key := tuple(map(text_of, values))) and _has_values(correlation, hit.fields):
                groups.setdefault(key, []).append(_Member(hit.time, name, hit.fields))
    names = [reference.name for reference in correlation.group_by]
    return [
        Hit(time, dict(zip(names, key, strict=True)))
        for key, members in groups.items()
        for time in sorted(set(_times(correlation, sorted(members, key=lambda member: member.time))))
    ]


def field_of(correlation: Correlation, name: str, rule: str, document: Rule | Correlation) -> str:
    """The field of a rule behind a name to group by: an alias, or the name itself."""
    alias = correlation.aliases.get(name, {})
    return next((alias[n] for n in (rule, document.meta.name, document.meta.id) if n and n in alias), name)


def _times(correlation: Correlation, members: Sequence[_Member]) -> Iterator[datetime]:
    """The times at which one group fires; the members come in order of time."""
    span = timedelta(seconds=correlation.timespan)
    bounds = correlation.threshold.bounds if correlation.threshold else ()
    if correlation.type == "temporal_ordered":
        yield from _ordered([reference.name for reference in correlation.rules], members, span)
    elif correlation.expression is not None:
        yield from _conditional(parsed(correlation.expression), members, span)
    elif counts_few(correlation):
        windows: dict[datetime, list[_Member]] = {}
        for member in members:
            windows.setdefault(datetime.min + (member.time - datetime.min) // span * span, []).append(member)
        yield from (start for start, held in windows.items() if passes(bounds, _measured(correlation, held)))
    else:
        all_of_them = (("gte", len({reference.name for reference in correlation.rules})),)
        for time in {member.time for member in members}:
            held = members[bisect_left(members, time - span, key=_time) : bisect_right(members, time, key=_time)]
            if passes(bounds or all_of_them, _measured(correlation, held)):
                yield time


def counts_few(correlation: Correlation) -> bool:
    """Whether only fixed windows can answer: a threshold without a lower bound. That all rules match is one."""
    bounds = correlation.threshold.bounds if correlation.threshold else ()
    if correlation.type == "temporal" and bounds:
        count = len({reference.name for reference in correlation.rules})
        if [n for n in range(count + 1) if passes(bounds, n)] == [count]:
            return False
    return bool(bounds) and all(op in _FEW for op, _ in bounds)


def passes(bounds: Sequence[tuple[str, float]], value: float) -> bool:
    """Whether a value is within all bounds."""
    return all(_COMPARES[op](value, number) for op, number in bounds)


def _has_values(correlation: Correlation, fields: Mapping[str, Any]) -> bool:
    """Whether a match has the values that are counted, or a number to compute with."""
    wanted = correlation.threshold.fields if correlation.threshold else ()
    if correlation.type == "value_count":
        return all(text_of(fields.get(field)) for field in wanted)
    return all(_number(fields.get(field)) is not None for field in wanted)


def _measured(correlation: Correlation, held: Sequence[_Member]) -> float:
    """What the threshold is compared with."""
    threshold = correlation.threshold
    fields = threshold.fields if threshold else ()
    match correlation.type:
        case "event_count":
            return len(held)
        case "value_count":
            return len({tuple(text_of(member.fields.get(field)) for field in fields) for member in held})
        case "temporal" | "temporal_ordered":
            return len({member.rule for member in held})
    numbers = sorted(n for member in held if (n := _number(member.fields.get(fields[0]))) is not None)
    if correlation.type == "value_sum":
        return math.fsum(numbers)
    if correlation.type == "value_avg":
        return math.fsum(numbers) / len(numbers)
    percent = threshold.percentile if threshold and threshold.percentile is not None else 50.0
    return numbers[max(0, math.ceil(percent / 100 * len(numbers)) - 1)]


def _number(value: Any) -> float | None:
    try:
        return float(text_of(value))
    except ValueError:
        return None


def _ordered(names: Sequence[str], members: Sequence[_Member], span: timedelta) -> Iterator[datetime]:
    """The times at which the last rule matches, with one match of each before it in order, all within the span."""
    latest = {n: member.time for n, member in enumerate(members) if member.rule == names[0]}  # start of a chain, by end
    for name in names[1:]:
        following = {}
        for n, member in enumerate(members):
            starts = [start for m, start in latest.items() if m != n and members[m].time <= member.time]
            if member.rule == name and starts and member.time - max(starts) <= span:
                following[n] = max(starts)
        latest = following
    yield from (members[n].time for n in latest)


def parsed(expression: str) -> Condition:
    """A condition over rule names, which was found right when the document was read."""
    tree = parse(expression)
    assert isinstance(tree, Joined | Named)
    return tree


def _conditional(tree: Condition, members: Sequence[_Member], span: timedelta) -> Iterator[datetime]:
    """A condition over rule names, at each match: what it asks for before, what it excludes before and after."""

    def holds(node: Condition, time: datetime, wanted: bool) -> bool:
        match node:
            case Named(name):
                end = time if wanted else time + span
                return any(m.rule == name and time - span <= m.time <= end for m in members) is wanted
            case Joined("not", (operand,)):
                return holds(operand, time, not wanted)
            case Joined(word, operands):
                every = (word == "and") is wanted
                return (all if every else any)(holds(operand, time, wanted) for operand in operands)
            case Quantified():
                raise AssertionError(node)  # such conditions are refused when they are read
            case _:
                assert_never(node)

    yield from (time for time in {member.time for member in members} if holds(tree, time, True))
