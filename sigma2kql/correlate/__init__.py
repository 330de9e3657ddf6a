"""emit for correlations: the matches of several rules, counted or ordered within sliding windows.

Place in the flow: beside emission, over queries that map has made. Invariant: a window ends at a match and reaches
back over the time span, both ends included; it is not tied to clock boundaries, unless the threshold asks for absence,
which only windows that are over can answer: that is said. `reference.correlations` states the same meaning in Python.

A rule under `not` in a temporal condition must match neither in the window nor within the time span after it, so such
a window is looked at when that time is over. The specification (2.1) has no such conditions; pySigma has, and does not
say where the time frame lies; proximity has no direction.

group_keys.py: a field's value as one text; evidence.py: what a row shows; windows.py: where the correlation fires;
bursts.py: one row a burst. Source: Sigma correlation rules specification 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import assert_never

from sigma2kql.correlate.bursts import ALL, ARRIVED, FRESH, INTERNAL, Shown, as_bursts, as_gaps, as_matches
from sigma2kql.correlate.evidence import Piece, agreed, shown
from sigma2kql.correlate.group_keys import Value, compared, value_of
from sigma2kql.correlate.windows import RULE, STEP, Frame, excludes, fired, indented, listed, only_all
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic, did_you_mean, frozen
from sigma2kql.language.condition import Condition, Joined, Named, Quantified, parse_rule_names
from sigma2kql.map.by_source import together
from sigma2kql.map.event_elements import Ids, event_ids
from sigma2kql.map.one_table import Mapped
from sigma2kql.map.target import Target
from sigma2kql.model.literals import identifier, is_word, quoted
from sigma2kql.model.named_rules import NamedRules
from sigma2kql.model.query_facts import Recurrence
from sigma2kql.model.thresholds import few
from sigma2kql.model.tree import (
    Compiled,
    Correlation,
    Query,
    Reference,
    Rule,
    Verdict,
)

_DAY = 86_400  # seconds
_OFTENEST, _SELDOMEST = 300, 3_600  # seconds between two runs, where nobody says otherwise
_MAX_DEPTH = 16


def compile_correlation(
    correlation: Correlation,
    names: NamedRules,
    map_all: Callable[[Rule], Sequence[Mapped]],
    emit: Callable[[Query], str],
    target: Target,
) -> Compiled:
    """The correlation as one query. Raises Sigma2KqlError: a rule is missing or fails, a field has no column."""
    builder = _Builder(names, map_all, emit)
    text = builder.query(correlation)
    mapped = builder.mapped
    notes = [*correlation.warnings, *builder.notes]
    for one in mapped:
        notes += one.diagnostics
    kinds = {one.verdict for one in mapped}
    fixed = any(d.code == "W405" for d in builder.notes)
    verdict: Verdict = "narrower" if "narrower" in kinds or fixed else "broader" if "broader" in kinds else "exact"
    recurrence = builder.recurrence(correlation)
    limits = target.limits
    if limits.days is not None and recurrence.needed > limits.days * _DAY:
        message = f"one result is made of more than the {limits.days} days that {limits.of} can look back"
        notes.append(diagnostic("W404", message, correlation.origin.span))
    return Compiled(
        correlation,
        target.name,
        text,
        ", ".join(dict.fromkeys(one.table.name for one in mapped)),
        None,
        verdict,
        dict.fromkeys((*recurrence.keys, RULE), "string"),
        builder.mapped_keys,
        tuple(dict.fromkeys(notes)),
        caveats=tuple(dict.fromkeys(caveat for one in mapped for caveat in one.caveats)),
        recurrence=recurrence,
        verdicts=together([one.verdicts for one in mapped]),
    )


@frozen
class _Part:
    """The matches of one referenced rule, in the rows of one table, or of one referenced correlation."""

    name: str  # what the rule is called in the query
    number: int  # its place among the references, from 1
    source: str  # a pipeline
    time: str
    keys: tuple[Value, ...]
    values: tuple[Value, ...]
    evidence: tuple[Piece, ...]
    arrived: str


class _Builder:
    """Builds the query of a correlation and of those that it refers to."""

    def __init__(
        self, names: NamedRules, map_all: Callable[[Rule], Sequence[Mapped]], emit: Callable[[Query], str]
    ) -> None:
        self.names = names
        self.map_all = map_all
        self.emit = emit
        self.lets: list[str] = []
        self.made = 0
        self.notes: list[Diagnostic] = []
        self.mapped: list[Mapped] = []
        self.mapped_keys: dict[str, str] = {}
        self.time = ""  # the time column's name: that of the first table

    def query(self, correlation: Correlation) -> str:
        frame, pipeline = self._correlated(correlation, ())
        del frame
        return "\n".join([*self.lets, pipeline])

    # -- facts -------------------------------------------------------------------------------------------------------

    def recurrence(self, correlation: Correlation) -> Recurrence:
        """How it is run. Beside what a result needs, a run looks back one span more, to know the bursts before."""
        needed = self._needed(correlation)
        more = correlation.timespan * (2 if few(correlation) else 1)
        keys = tuple(dict.fromkeys(column_names(correlation).values()))
        details = ("FirstSeen", "LastSeen", *self._measures(correlation), "Rules")
        every = min(max(needed, _OFTENEST), _SELDOMEST)
        return Recurrence(needed, needed + more, every, FRESH, keys, details)

    def _needed(self, correlation: Correlation) -> int:
        """The seconds of events that one result is made of: its time span and the longest of those below it; its own
        once more where the span behind the window counts, or a group has to be known from before.
        """
        twice = few(correlation) or excludes(_tree(correlation))
        inner = [self.names.find(reference, correlation) for reference in correlation.rules]
        below = max((self._needed(one) for one in inner if isinstance(one, Correlation)), default=0)
        return correlation.timespan * (2 if twice else 1) + below

    @staticmethod
    def _measures(correlation: Correlation) -> tuple[str, ...]:
        own = {"value_count": "ValueCount", "value_sum": "ValueSum", "value_avg": "ValueAvg"}.get(correlation.type)
        if correlation.type in ("value_percentile", "value_median"):
            own = "ValuePercentile"
        if few(correlation):
            return (own or ("RuleCount" if correlation.type == "temporal" else "EventCount"),)
        return ("EventCount", *((own,) if own else ()))

    # -- one correlation ---------------------------------------------------------------------------------------------

    def _correlated(self, correlation: Correlation, above: tuple[Correlation, ...]) -> tuple[Shown, str]:
        """The pipeline of a correlation: rows of bursts, or below another correlation, of matches."""
        if correlation in above or len(above) > _MAX_DEPTH:
            raise Sigma2KqlError([diagnostic("E407", "the correlation refers to itself", correlation.origin.span)])
        self._check_aliases(correlation)
        parts: list[_Part] = []
        for number, reference in enumerate(dict.fromkeys(correlation.rules), 1):
            parts += self._parts(correlation, reference, number, above)
        called = self._called(correlation)
        names = column_names(correlation)
        keys = tuple(dict.fromkeys(names[reference.name] for reference in correlation.group_by))
        fields = correlation.threshold.fields if correlation.threshold else ()
        frame, show = self._matches(correlation, parts, keys, tuple(names[field] for field in fields))
        tree = _tree(correlation)
        after = excludes(tree)
        if few(correlation):
            if above:
                message = "what is absent is no match that another correlation could count"
                raise Sigma2KqlError([diagnostic("E407", message, correlation.origin.span)])
            message = "absence is seen in whole windows of the clock, for groups that had a match before"
            self.notes.append(diagnostic("W405", message, correlation.origin.span))
            bounds = correlation.threshold.bounds if correlation.threshold else ()
            return show, as_gaps(frame, _absent(correlation, frame), bounds, show)
        self._check_order(correlation)
        found = fired(frame, correlation, called, _renamed(tree, correlation, called))
        self.lets += found.lets
        return show, (as_matches if above else as_bursts)(frame, found, show, after=after)

    def _called(self, correlation: Correlation) -> list[str]:
        """What each reference's rule is called in the query."""
        found = (self.names.find(reference, correlation) for reference in correlation.rules)
        return [d.meta.name or d.meta.id or r.name for d, r in zip(found, correlation.rules, strict=True)]

    def _check_aliases(self, correlation: Correlation) -> None:
        """Every rule that an alias names is one of the correlation's."""
        rules = [self.names.find(reference, correlation) for reference in correlation.rules]
        for alias, fields in correlation.aliases.items():
            for name in fields:
                if not any(rule in self.names.candidates(name, correlation) for rule in rules):
                    message = f"the alias `{alias}` names `{name}`, which is not one of the rules of this correlation"
                    hint = did_you_mean(name, [reference.name for reference in correlation.rules])
                    raise Sigma2KqlError([diagnostic("E407", message, correlation.origin.span, hint)])

    def _check_order(self, correlation: Correlation) -> None:
        if correlation.type != "temporal_ordered":
            return
        bounds = correlation.threshold.bounds if correlation.threshold else ()
        if not only_all(bounds, len(correlation.rules)) or not _joins_all(_tree(correlation)):
            message = "an order is known only where all the rules match"
            hint = "leave the condition out, or make it `temporal`"
            raise Sigma2KqlError([diagnostic("E407", message, correlation.origin.span, hint)])

    def _matches(
        self, correlation: Correlation, parts: Sequence[_Part], keys: tuple[str, ...], values: tuple[str, ...]
    ) -> tuple[Frame, Shown]:
        """The `let` that holds the matches of all rules, and what is known of its columns."""
        taken = {name.lower() for name in (*keys, *values, self.time, *INTERNAL)}
        evidence = [one for one in agreed([part.evidence for part in parts]) if one[0].column.lower() not in taken]
        by_key = [
            self._compared(correlation, [part.keys[place] for part in parts], place) for place in range(len(keys))
        ]
        by_value = [compared([part.values[n] for part in parts])[0] for n in range(len(values))]
        counted = correlation.type in ("event_count", "value_count", "temporal", "temporal_ordered")
        branches = []
        for n, part in enumerate(parts):
            made = [_same(self.time, part.time), _same(ARRIVED, part.arrived), f"{RULE} = {quoted(part.name)}"]
            if correlation.type == "temporal_ordered":
                made.append(f"{STEP} = {part.number}")
            made += [_same(key, texts[n]) for key, texts in zip(keys, by_key, strict=True)]
            for column, texts, value in zip(values, by_value, part.values, strict=True):
                made.append(_same(column, texts[n] if counted else f"todouble({value.text})"))
            made += [_same(_column(one.column), text) for one, given in evidence if (text := given[n]) is not None]
            if not keys:
                made.append(f'{ALL} = "all"')
            branches.append(f"{part.source}\n| project{listed(made)}")
        rows = branches[0] if len(branches) == 1 else "union\n" + ",\n".join(f"(\n{indented(b)}\n)" for b in branches)
        empties = [value.empty for part in parts for value in part.keys if value.empty]
        tests = [f"isnotempty({key})" for key in keys]
        tests += [f"{key} != {quoted(text)}" for key in keys for text in dict.fromkeys(["-", *empties])]
        tests += [f"isnotempty({value})" if counted else f"isfinite({value})" for value in values if value not in keys]
        rows += "".join(f"\n| where {test}" for test in tests)
        self.made += 1
        name = "Matches" if self.made == 1 else f"Matches{self.made}"
        self.lets.append(f"let {name} = materialize(\n{indented(rows)});")
        frame = Frame(name, keys or (ALL,), self.time, _span(correlation.timespan), values)
        shows = tuple(Piece(one.kind, _column(one.column), _column(one.column), one.type) for one, _ in evidence)
        return frame, Shown(keys, shows)

    def _compared(self, correlation: Correlation, values: list[Value], place: int) -> list[str]:
        texts, how = compared(values)
        reference = correlation.group_by[place]
        if how:
            message = f"the rules' events write `{reference.name}` in different forms: it is compared {how}"
            self.notes.append(diagnostic("W409", message, reference.span))
        self.mapped_keys[reference.name] = " | ".join(dict.fromkeys(texts))
        return texts

    # -- the rules ---------------------------------------------------------------------------------------------------

    def _parts(
        self, correlation: Correlation, reference: Reference, number: int, above: tuple[Correlation, ...]
    ) -> list[_Part]:
        found = self.names.find(reference, correlation)
        name = found.meta.name or found.meta.id or reference.name
        groups = [(self._field(correlation, g, found, reference), g) for g in correlation.group_by]
        groups = list({column_names(correlation)[g.name]: (field, g) for field, g in groups}.values())
        fields = correlation.threshold.fields if correlation.threshold else ()
        if isinstance(found, Correlation):
            return [self._of_correlation(correlation, found, (name, number), groups, fields, reference, above)]
        parts = []
        asked = event_ids(found.where)
        for one in self.map_all(found):
            self.mapped.append(one)
            time = identifier(one.query.time)
            self.time = self.time or time
            keys = [self._value(one, field, group, asked) for field, group in groups]
            values = [self._value(one, field, Reference(field, correlation.origin.span), asked) for field in fields]
            seen = tuple(shown(one, [*one.fields, *(field for field, _ in groups)], asked))
            source = self.emit(one.query)
            arrived = f"coalesce(ingestion_time(), {time})"
            parts.append(_Part(name, number, source, time, tuple(keys), tuple(values), seen, arrived))
        return parts

    def _of_correlation(
        self,
        outer: Correlation,
        found: Correlation,
        called: tuple[str, int],
        groups: Sequence[tuple[str, Reference]],
        fields: Sequence[str],
        reference: Reference,
        above: tuple[Correlation, ...],
    ) -> _Part:
        """What another correlation fires for, as matches: it has its keys, and what it shows."""
        seen, pipeline = self._correlated(found, (*above, outer))
        known = column_names(found)
        wanted: list[Value] = []
        for field in (*(field for field, _ in groups), *fields):
            if field not in known or known[field] not in seen.keys:
                message = f"`{reference.name}` is a correlation that does not group by `{field}`"
                raise Sigma2KqlError([diagnostic("E407", message, reference.span, "add it to its group-by")])
            wanted.append(Value(known[field], folded=True))
        keys, values = tuple(wanted[: len(groups)]), tuple(wanted[len(groups) :])
        name = f"Fired{self.made}"
        self.lets.append(f"let {name} = materialize(\n{indented(pipeline)});")
        return _Part(*called, name, self.time, keys, values, seen.pieces, ARRIVED)

    def _field(self, correlation: Correlation, group: Reference, rule: Rule | Correlation, reference: Reference) -> str:
        """The rule's own field behind a group-by name (aliases)."""
        alias = correlation.aliases.get(group.name)
        if alias is None:
            return group.name
        for name, field in alias.items():
            if rule in self.names.candidates(name, correlation):
                return field
        message = f"alias `{group.name}` says nothing of rule `{reference.name}`"
        raise Sigma2KqlError([diagnostic("E407", message, reference.span)])

    def _value(self, mapped: Mapped, field: str, group: Reference, asked: Ids) -> Value:
        found = value_of(mapped, field, asked)
        if isinstance(found, Value):
            return found
        why = f": {found}" if found else ""
        message = f"`{field}` has no column in {mapped.table.name} to group or count by{why}"
        raise Sigma2KqlError([diagnostic("E402", message, group.span)])


# --------------------------------------------------------------------------------------------------------------------
# Conditions


def _tree(correlation: Correlation) -> Condition | None:
    """The condition over rule names, which was found right when the document was read."""
    if correlation.expression is None:
        return None
    tree = parse_rule_names(correlation.expression)
    assert isinstance(tree, Joined | Named)
    return tree


def _renamed(tree: Condition | None, correlation: Correlation, called: Sequence[str]) -> Condition | None:
    """The condition over what the rules are called in the query."""
    names = {reference.name: name for reference, name in zip(correlation.rules, called, strict=True)}

    def renamed(node: Condition) -> Condition:
        match node:
            case Named(name, start, end):
                return Named(names[name], start, end)
            case Joined(word, operands, depth):
                return Joined(word, tuple(map(renamed, operands)), depth)
            case Quantified():
                raise AssertionError(node)  # the reader has refused it
            case _:
                assert_never(node)

    return None if tree is None else renamed(tree)


def _joins_all(tree: Condition | None) -> bool:
    """Whether a condition over rule names is no other than that all of them match."""
    if isinstance(tree, Joined):
        return tree.operator == "and" and all(map(_joins_all, tree.operands))
    return True


def _absent(correlation: Correlation, frame: Frame) -> tuple[str, str]:
    """What is counted in a whole window, and how."""
    match correlation.type:
        case "value_count":
            column = frame.values[0] if len(frame.values) == 1 else f"strcat_delim(@'\\', {', '.join(frame.values)})"
            return "ValueCount", f"count_distinct({column})"
        case "value_sum":
            return "ValueSum", f"sum({frame.values[0]})"
        case "temporal":
            return "RuleCount", f"count_distinct({RULE})"
        case _:
            return "EventCount", "count()"


# --------------------------------------------------------------------------------------------------------------------
# Names


def column_names(correlation: Correlation) -> dict[str, str]:
    """Every field that a correlation groups by, counts or computes with -> its column in the query.

    A name that the query itself uses, or that another field has already taken, gets a number behind it.
    """
    fields = [reference.name for reference in correlation.group_by]
    fields += correlation.threshold.fields if correlation.threshold else ()
    made: dict[str, str] = {}
    taken = {*INTERNAL, "TimeGenerated", "Timestamp"}
    for field in dict.fromkeys(fields):
        plain = re.sub(r"[^A-Za-z0-9_]", "_", field)
        name = word = plain if is_word(plain) else f"_{plain}"
        number = 2
        while name in taken or re.fullmatch(r"(?:Near)?Rule\d+|Count\d+|Begun\d+|Below\d+|Matches.*|Fired\d+", name):
            name, number = f"{word}_{number}", number + 1
        taken.add(name)
        made[field] = identifier(name)
    return made


def _column(name: str) -> str:
    """A shown field's name as a column."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return identifier(word) if is_word(word) else f"_{word}"


def _same(column: str, text: str) -> str:
    return column if column == text else f"{column} = {text}"


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
