"""What a correlation means, over the matches of its rules, in plain Python: the reference for its query.

Place in the flow: beside `evaluate`, which says the same of a single event; read by the judge of correlations.
Invariant: no KQL and no table is known here. A correlation fires for a group at the time of a match, with what lies in
the time span up to it (both ends included); absence (upper bounds alone) is asked of whole windows of the clock, of
groups that had a match before.

Source: Sigma correlation rules specification 2.1; for conditions over names of rules, pySigma. The readings taken:
values are compared without regard to case; a match without a value in a field to group by (or with `-`, which Windows
writes for none) is in no group, and one without the value to count or to compute with does not count; matches of one
time are in any order; a rule under `not` may match neither within the window nor within the time span after it; sums
and means are those of six decimals; a percentile is the nearest rank.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from operator import attrgetter
from typing import Any, assert_never

from sigma2kql.diagnostics.diagnostic import Span, frozen
from sigma2kql.language.condition import Condition, Joined, Named, Quantified, parse_rule_names
from sigma2kql.model.named_rules import NamedRules
from sigma2kql.model.thresholds import few, passes
from sigma2kql.model.tree import Correlation, Rule
from sigma2kql.reference.evaluate import text_of


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


def firings(
    correlation: Correlation,
    names: NamedRules,
    hits: Callable[[Rule], Sequence[Hit]],
    until: datetime,
    loose: Collection[Span | None] = (),
) -> list[Hit]:
    """When, and for which groups (the fields of each hit), the correlation fires; `hits` are the matches of a rule.

    `until`: when it is asked; windows behind that are not over. `loose`: the places of the fields to group by that are
    compared by the bare name of an account or a host, as the rules' logs write them in different forms.
    """
    groups: dict[tuple[str, ...], list[_Member]] = {}
    for reference in dict.fromkeys(correlation.rules):
        document = names.find(reference, correlation)
        inner = isinstance(document, Correlation)
        found = firings(document, names, hits, until, loose) if isinstance(document, Correlation) else hits(document)
        for hit in found:
            key = tuple(
                _folded(hit.fields.get(field_of(correlation, g.name, names, document)), g.span in loose)
                for g in correlation.group_by
            )
            if all(value not in ("", "-") for value in key) and (inner or _has_values(correlation, hit.fields)):
                groups.setdefault(key, []).append(_Member(hit.time, reference.name, hit.fields))
    fields = [reference.name for reference in correlation.group_by]
    return [
        Hit(time, dict(zip(fields, key, strict=True)))
        for key, members in groups.items()
        for time in sorted(set(_times(correlation, sorted(members, key=lambda member: member.time), until)))
    ]


def _folded(value: Any, loose: bool) -> str:
    """A value as it is compared; `loose`: an account or a host without its domain."""
    text = text_of(value).lower()
    if not loose:
        return text
    name = text.rpartition("\\")[2].partition("@")[0]
    return name.partition(".")[0] if any(char.isalpha() for char in name.partition(".")[0]) else name


def field_of(correlation: Correlation, name: str, names: NamedRules, document: Rule | Correlation) -> str:
    """The field of a rule behind a name to group by: an alias, or the name itself."""
    alias = correlation.aliases.get(name, {})
    return next((field for rule, field in alias.items() if document in names.candidates(rule, correlation)), name)


def _times(correlation: Correlation, members: Sequence[_Member], until: datetime) -> Iterator[datetime]:
    """The times at which one group fires; the members come in order of time."""
    span = timedelta(seconds=correlation.timespan)
    bounds = correlation.threshold.bounds if correlation.threshold else ()
    if correlation.type == "temporal_ordered":
        yield from _ordered([reference.name for reference in correlation.rules], members, span)
    elif correlation.expression is not None:
        yield from _conditional(parsed(correlation.expression), members, span)
    elif few(correlation):
        windows: dict[datetime, list[_Member]] = {}
        for member in members:
            windows.setdefault(_window(member.time, span), []).append(member)
        start = _window(members[0].time, span) + span
        while start + span <= until:
            if passes(bounds, _measured(correlation, windows.get(start, ()))):
                yield start + span
            start += span
    else:
        all_of_them = (("gte", len({reference.name for reference in correlation.rules})),)
        for time in {member.time for member in members}:
            held = members[bisect_left(members, time - span, key=_time) : bisect_right(members, time, key=_time)]
            if passes(bounds or all_of_them, _measured(correlation, held)):
                yield time


def _window(time: datetime, span: timedelta) -> datetime:
    """The beginning of the window of the clock that a time lies in."""
    return datetime.min + (time - datetime.min) // span * span


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
            return len({tuple(text_of(member.fields.get(field)).lower() for field in fields) for member in held})
        case "temporal" | "temporal_ordered":
            return len({member.rule for member in held})
    numbers = sorted(n for member in held if (n := _number(member.fields.get(fields[0]))) is not None)
    if correlation.type == "value_sum":
        return round(math.fsum(numbers), 6)
    if correlation.type == "value_avg":
        return round(math.fsum(numbers) / len(numbers), 6)
    percent = Fraction(str(threshold.percentile)) if threshold and threshold.percentile is not None else Fraction(50)
    return numbers[max(0, math.ceil(percent * len(numbers) / 100) - 1)]


def _number(value: Any) -> float | None:
    try:
        number = float(text_of(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _ordered(names: Sequence[str], members: Sequence[_Member], span: timedelta) -> Iterator[datetime]:
    """The times at which the last rule matches, with one match of each before it in order, all within the span.

    Looked for backwards, always the latest match that is left: none of the others lets the order begin later.
    """
    for last, end in enumerate(members):
        if end.rule != names[-1]:
            continue
        used, time = {last}, end.time
        for name in reversed(names[:-1]):
            fits = (n for n, m in enumerate(members) if m.rule == name and m.time <= time and n not in used)
            found = max(fits, key=lambda n: members[n].time, default=None)
            if found is None:
                break
            used.add(found)
            time = members[found].time
        else:
            if end.time - time <= span:
                yield end.time


def parsed(expression: str) -> Condition:
    """A condition over rule names, which was found right when the document was read."""
    tree = parse_rule_names(expression)
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
