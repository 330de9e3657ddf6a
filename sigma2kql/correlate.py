"""emit for correlations: the matches of several rules, counted or ordered within sliding windows.

Place in the flow: beside emission, over queries that map has made. Invariant: a window ends at a match and reaches
back over the time span, both ends included; it is not tied to clock boundaries, unless the threshold counts few (`lt`,
`lte`, `eq`, `neq`), which only fixed windows can answer: that is said. `proof.correlations` states the same meaning in
Python.

A rule under `not` in a temporal condition must match neither in the window nor within the time span after it, so such
a window is looked at when that time is over. The specification (2.1) has no such conditions; pySigma has, and does not
say where the time frame lies; proximity has no direction.

Sources: Sigma correlation rules specification 2.1; Microsoft Learn: "prev()", "scan operator", "join operator",
"dcount()".
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic, did_you_mean, frozen
from sigma2kql.language.condition import Condition, Joined, Named, Quantified, parse
from sigma2kql.map.by_source import together
from sigma2kql.map.rule import Mapped
from sigma2kql.map.target import Target
from sigma2kql.model.literals import decimal_text, identifier, is_word, quoted
from sigma2kql.model.tree import Column, Compiled, Correlation, Document, Query, Recurrence, Reference, Rule, Verdict
from sigma2kql.text.nodes import Fault

RULE = "CorrelatedRule"
STEP = "Step"
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "==", "neq": "!="}
_DAY = 86_400  # seconds
_OFTENEST, _SELDOMEST = 300, 3_600  # seconds between two runs, where nobody says otherwise
_MAX_DEPTH = 16


@frozen
class _Part:
    """One referenced rule as KQL: a pipeline whose rows have the time column, the keys and the values."""

    name: str
    lines: str
    mapped: tuple[Mapped, ...]


@frozen
class _Measure:
    """What a window is summarised to, and the test on it; `after`: matches behind the window are looked at as well."""

    text: str
    test: str
    after: bool = False


def compile_correlation(
    correlation: Correlation,
    documents: Sequence[Document],
    map_one: Callable[[Rule], Mapped],
    emit: Callable[[Query], str],
    target: Target,
) -> Compiled:
    """The correlation as one query. Raises Sigma2KqlError: a rule is missing or fails, a field has no column."""
    builder = _Builder(documents, map_one, emit)
    text, mapped = builder.query(correlation, ())
    notes = list(correlation.warnings) + builder.notes
    for one in mapped:
        notes += one.diagnostics
    kinds = {one.verdict for one in mapped}
    verdict: Verdict = (
        "narrower" if "narrower" in kinds or builder.fixed else "broader" if "broader" in kinds else "exact"
    )
    limits = target.limits
    if limits.days is not None and correlation.timespan > limits.days * _DAY:
        message = f"the timespan is longer than the {limits.days} days that {limits.of} can look back"
        notes.append(diagnostic("W404", message, correlation.origin.span))
    lets = "".join(f"let {name} = materialize({body});\n" for name, body in builder.lets.items())
    tables = ", ".join(dict.fromkeys(one.table.name for one in mapped))
    columns = dict.fromkeys((*builder.keys(correlation), RULE), "string")
    needed = builder.needed(correlation)
    return Compiled(
        correlation,
        target.name,
        lets + text,
        tables,
        None,
        verdict,
        columns,
        builder.mapped_keys,
        tuple(dict.fromkeys(notes)),
        caveats=tuple(dict.fromkeys(caveat for one in mapped for caveat in one.caveats)),
        recurrence=Recurrence(
            needed,
            needed,
            min(max(needed, _OFTENEST), _SELDOMEST),
            keys=tuple(builder.keys(correlation)),
        ),
        verdicts=together([one.verdicts for one in mapped]),
    )


class _Builder:
    """Builds the pipelines of a correlation and of those that it refers to."""

    def __init__(
        self, documents: Sequence[Document], map_one: Callable[[Rule], Mapped], emit: Callable[[Query], str]
    ) -> None:
        self.by_name = {
            name: d
            for d in documents
            for name in (d.meta.name, d.meta.id)
            if name and isinstance(d, Rule | Correlation)
        }
        self.map_one = map_one
        self.emit = emit
        self.lets: dict[str, str] = {}
        self.notes: list[Diagnostic] = []
        self.mapped_keys: dict[str, str] = {}
        self.fixed = False
        self.time: str | None = None  # the time column's name: that of the first table

    def keys(self, correlation: Correlation) -> list[str]:
        """The names of the group-by columns in the query."""
        return [column_name(reference.name) for reference in correlation.group_by]

    def needed(self, correlation: Correlation) -> int:
        """The seconds of events that one result is made of: its time span and the longest of those below it, and its
        own once more where a rule stands under `not`, which must not match afterwards either.
        """
        own = correlation.timespan * (2 if correlation.expression and _excludes(parse(correlation.expression)) else 1)
        inner = (self.by_name.get(reference.name) for reference in correlation.rules)
        return own + max((self.needed(one) for one in inner if isinstance(one, Correlation)), default=0)

    # -- one correlation ---------------------------------------------------------------------------------------------

    def query(self, correlation: Correlation, above: tuple[Correlation, ...]) -> tuple[str, list[Mapped]]:
        if correlation in above or len(above) > _MAX_DEPTH:
            raise Sigma2KqlError([diagnostic("E407", "the correlation refers to itself", correlation.origin.span)])
        parts = [self._part(correlation, reference, above) for reference in dict.fromkeys(correlation.rules)]
        mapped = [one for part in parts for one in part.mapped]
        matches = (
            parts[0].lines
            if len(parts) == 1
            else "union\n" + ",\n".join(f"(\n{_indented(part.lines)}\n)" for part in parts)
        )
        return self._window(correlation, parts, matches, self.time or "TimeGenerated", nested=bool(above)), mapped

    def _part(self, correlation: Correlation, reference: Reference, above: tuple[Correlation, ...]) -> _Part:
        found = self.by_name.get(reference.name)
        if found is None:
            raise Sigma2KqlError(
                [
                    diagnostic(
                        "E406",
                        f"there is no rule `{reference.name}` among the files given",
                        reference.span,
                        did_you_mean(reference.name, self.by_name),
                    )
                ]
            )
        name = found.meta.name or found.meta.id or reference.name
        if isinstance(found, Correlation):
            lines, mapped = self.query(found, (*above, correlation))
            return _Part(name, "\n".join([lines, self._carried(correlation, found, name, reference)]), tuple(mapped))
        one = self.map_one(found)
        fields = {
            column_name(ref.name): (self._field(correlation, ref.name, found, reference), ref)
            for ref in correlation.group_by
        }
        for value in correlation.threshold.fields if correlation.threshold else ():
            fields.setdefault(column_name(value), (value, reference))
        wanted = [f"{RULE} = {quoted(name)}"]
        if correlation.type == "temporal_ordered":
            wanted.append(f"{STEP} = {1 + list(dict.fromkeys(correlation.rules)).index(reference)}")
        texts = {column: self._text(one, field, ref) for column, (field, ref) in fields.items()}
        projected = [_same(column, text) for column, text in texts.items()]
        self.time = self.time or identifier(one.query.time)
        pipeline = [
            self.emit(one.query),
            f"| project {', '.join([_same(self.time, identifier(one.query.time)), *projected, *wanted])}",
        ]
        return _Part(name, "\n".join(pipeline), (one,))

    def _carried(self, correlation: Correlation, inner: Correlation, name: str, reference: Reference) -> str:
        """What makes the results of another correlation matches: its name, and the names to group by."""
        made = [f"{RULE} = {quoted(name)}"]
        if correlation.type == "temporal_ordered":
            made.append(f"{STEP} = {1 + list(dict.fromkeys(correlation.rules)).index(reference)}")
        known = self.keys(inner)
        wanted = {ref.name: self._field(correlation, ref.name, inner, reference) for ref in correlation.group_by}
        for value in correlation.threshold.fields if correlation.threshold else ():
            wanted.setdefault(value, value)
        for field, source in wanted.items():
            own = column_name(source)
            if own not in known:
                message = f"`{reference.name}` is a correlation that does not group by `{field}`"
                raise Sigma2KqlError([diagnostic("E407", message, reference.span, "add it to its group-by")])
            if own != column_name(field):
                made.append(f"{column_name(field)} = {own}")
        return f"| extend {', '.join(made)}"

    def _field(self, correlation: Correlation, name: str, rule: Rule | Correlation, reference: Reference) -> str:
        """The rule's own field behind a group-by name (aliases)."""
        alias = correlation.aliases.get(name)
        if alias is None:
            return name
        for known in (reference.name, rule.meta.name, rule.meta.id):
            if known is not None and known in alias:
                return alias[known]
        raise Sigma2KqlError(
            [diagnostic("E407", f"alias `{name}` says nothing of rule `{reference.name}`", reference.span)]
        )

    def _text(self, mapped: Mapped, field: str, reference: Reference | None) -> str:
        columns = mapped.columns(field)
        if not columns:
            span = reference.span if reference else None
            raise Sigma2KqlError(
                [diagnostic("E402", f"`{field}` has no column in {mapped.table.name} to group or count by", span)]
            )
        text = _one_text(columns)
        self.mapped_keys[field] = text
        return text

    # -- windows -----------------------------------------------------------------------------------------------------

    def _window(self, correlation: Correlation, parts: list[_Part], matches: str, time: str, nested: bool) -> str:
        keys = self.keys(correlation)
        matches += "".join(f"\n| where isnotempty({key})" for key in keys) + _valued(correlation, keys)
        kind, span = correlation.type, _span(correlation.timespan)
        bounds = correlation.threshold.bounds if correlation.threshold else ()
        if kind == "temporal_ordered":
            return self._ordered(correlation, parts, matches, time, nested)
        if kind == "temporal" and only_all(bounds, len(parts)):
            bounds = (("gte", len(parts)),)
        few = any(op in ("lt", "lte", "eq", "neq") for op, _ in bounds) and not any(
            op in ("gt", "gte") for op, _ in bounds
        )
        if kind == "event_count" and not few and len(bounds) == 1:
            op, number = bounds[0]
            least = math.floor(number) + 1 if op == "gt" else math.ceil(number)
            return _counted(matches, keys, time, span, least, nested)
        measure = _measure(correlation, bounds, parts, time)
        if few:
            self.fixed = True
            self.notes.append(
                diagnostic(
                    "W405",
                    "a threshold that counts few events is tested in fixed windows; "
                    "groups without any event are not seen",
                    correlation.origin.span,
                )
            )
            by = ", ".join([*keys, f"{time} = bin({time}, {span})"])
            return f"{matches}\n| summarize {measure.text} by {by}\n| where {measure.test}"
        return _slid(self._let(matches), keys, time, span, measure)

    def _let(self, body: str) -> str:
        name = f"Matches{len(self.lets) + 1}"
        self.lets[name] = body
        return name

    def _ordered(self, correlation: Correlation, parts: list[_Part], matches: str, time: str, nested: bool) -> str:
        """The rules in order within the window; a newer first step replaces the older. Of the same time, any order."""
        bounds = correlation.threshold.bounds if correlation.threshold else ()
        names = [reference.name for reference in correlation.rules]
        if not only_all(bounds, len(names)) or not _joins_all(correlation.expression):
            message = "an order is known only where all the rules match"
            hint = "leave the condition out, or make it `temporal`"
            raise Sigma2KqlError([diagnostic("E407", message, correlation.origin.span, hint)])
        keys = self.keys(correlation)
        span = _span(correlation.timespan)
        by_name = dict(zip(dict.fromkeys(names), parts, strict=True))
        steps = []
        for number, name in enumerate(names, 1):
            test = f"{RULE} == {quoted(by_name[name].name)}"
            if number > 1:
                test += "".join(f" and {key} == step1.{key}" for key in keys)
                test += f" and {time} - step1.{time} <= {span}"
            output = "" if number == len(names) else " output=none"
            first = time if number == 1 else f"step1.{time}"
            steps.append(f"    step step{number}{output}: {test} => FirstSeen = {first};")
        order = ", ".join(f"{column} asc" for column in (*keys, time, STEP))
        scan = "\n".join(["scan declare (FirstSeen: datetime) with (", *steps, ")"])
        last = f"project {', '.join([time, 'FirstSeen', *keys])}"
        if nested:
            last = f"summarize FirstSeen = max(FirstSeen) by {', '.join([*keys, time])}"
        return f"{matches}\n| sort by {order}\n| {scan}\n| {last}"


def _slid(name: str, keys: list[str], time: str, span: str, measure: _Measure) -> str:
    """The matches `name` (a let), measured in the window that ends at each of them."""
    key = keys or ["_all"]
    matches = name if keys else f"{name} | extend _all = 1"
    by = ", ".join([*key, time])
    over = f"\n| where {time} <= ago({span})" if measure.after else ""
    end = f"({time} + {span})" if measure.after else time
    return (
        f"{matches}\n| distinct {by}{over}\n"
        f"| join kind=inner (\n    {matches} | project-rename WindowTime = {time}\n) on {', '.join(key)}\n"
        f"| where WindowTime between (({time} - {span}) .. {end})\n"
        f"| summarize {measure.text} by {by}\n| where {measure.test}" + ("" if keys else "\n| project-away _all")
    )


def _counted(matches: str, keys: list[str], time: str, span: str, number: int, nested: bool) -> str:
    """At least `number` events within the span: the event `number - 1` before is in the same group and near enough.

    One row a group; `nested` in another correlation, which looks at times, one for each time the count is reached.
    """
    by = f" by {', '.join(keys)}" if keys else ""
    at = f" by {', '.join([*keys, time])}"
    some = (
        "" if keys else "\n| where isnotnull(FirstSeen)"
    )  # over no rows and without groups it is one row all the same
    if number <= 1:
        if nested:
            return f"{matches}\n| distinct {', '.join([*keys, time])}"
        every = f"{time} = max({time}), FirstSeen = min({time}), EventCount = count()"
        return f"{matches}\n| summarize {every}{by}{some}"
    order = ", ".join([*(f"{key} asc" for key in keys), f"{time} asc"])
    same = "".join(f" and prev({key}, {number - 1}) == {key}" for key in keys)
    group = f"FirstSeen = min(FirstSeen), {time} = max({time}){by}{some}"
    return (
        f"{matches}\n| sort by {order}\n"
        f"| extend FirstSeen = prev({time}, {number - 1}), SameGroup = isnotnull(prev({time}, {number - 1})){same}\n"
        f"| where SameGroup and {time} - FirstSeen <= {span}\n"
        f"| summarize {f'FirstSeen = min(FirstSeen){at}' if nested else group}"
    )


def _measure(correlation: Correlation, bounds: Sequence[tuple[str, float]], parts: list[_Part], time: str) -> _Measure:
    """What a window is summarised to, and the test on it."""
    threshold = correlation.threshold
    fields = [column_name(field) for field in threshold.fields] if threshold else []
    value = fields[0] if len(fields) == 1 else f"strcat({', '.join(_between(fields))})" if fields else RULE
    match correlation.type:
        case "event_count":
            text = "EventCount = count()"
        case "value_count":
            text = f"ValueCount = dcount({value}, 4)"
        case "value_sum":
            text = f"ValueSum = sum({value})"
        case "value_avg":
            text = f"ValueAvg = avg({value})"
        case "value_percentile" | "value_median":
            percent = 50 if correlation.type == "value_median" else (threshold.percentile if threshold else None) or 0
            text = f"ValuePercentile = percentile({value}, {decimal_text(percent)})"
        case _:
            if correlation.expression is not None:
                references = dict.fromkeys(reference.name for reference in correlation.rules)
                names = dict(zip(references, (part.name for part in parts), strict=True))
                return _expression(correlation.expression, names, time)
            text = f"RuleCount = dcount({RULE}, 4)"
    name = text.split(" ", 1)[0]
    if not bounds:
        return _Measure(text, f"{name} >= {len(parts)}")
    return _Measure(text, " and ".join(f"{name} {_OPERATORS[op]} {decimal_text(number)}" for op, number in bounds))


def _valued(correlation: Correlation, keys: Sequence[str]) -> str:
    """Only matches that have the values that are counted, or a number to compute with."""
    fields = [column_name(field) for field in correlation.threshold.fields] if correlation.threshold else []
    if correlation.type == "value_count":
        return "".join(f"\n| where isnotempty({field})" for field in fields if field not in keys)
    return "".join(f"\n| extend {field} = todouble({field})\n| where isnotnull({field})" for field in fields)


def only_all(bounds: Sequence[tuple[str, float]], count: int) -> bool:
    """Whether a number of different rules passes exactly when it is all `count` of them; no bounds say just that."""
    return all(passes(bounds, number) == (number == count) for number in range(count + 1)) or not bounds


def passes(bounds: Sequence[tuple[str, float]], value: float) -> bool:
    """Whether a value is within all bounds of a threshold."""
    return all(_COMPARES[op](value, number) for op, number in bounds)


_COMPARES: Mapping[str, Callable[[float, float], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "neq": operator.ne,
}


def _excludes(node: Condition | Fault) -> bool:
    """Whether a rule stands under `not`."""
    match node:
        case Joined("not", (Joined("not", (inner,)),)):
            return _excludes(inner)
        case Joined("not", _):
            return True
        case Joined(_, operands):
            return any(map(_excludes, operands))
        case Named() | Quantified() | Fault():
            return False
        case _:
            assert_never(node)


def _joins_all(expression: str | None) -> bool:
    """Whether a condition over rule names is no other than that all of them match."""
    parsed = parse(expression) if expression is not None else None
    todo: list[Condition] = []
    if parsed is not None and not isinstance(parsed, Fault):
        todo.append(parsed)
    while todo:
        node = todo.pop()
        match node:
            case Joined("and", operands):
                todo.extend(operands)
            case Named():
                pass
            case Joined() | Quantified():
                return False
            case _:
                assert_never(node)
    return True


def _expression(text: str, names: Mapping[str, str], time: str) -> _Measure:
    """A condition over rule names: how often each matched in the window, and under `not` also in the time behind it.

    `names` maps a name in the condition to the one in the query.
    """
    places = {name: number for number, name in enumerate(names, 1)}
    used: dict[tuple[str, bool], None] = {}

    def test(node: Condition, wanted: bool) -> str:
        match node:
            case Named(name):
                used[name, wanted] = None
                return f"Count{places[name]} > 0" if wanted else f"Near{places[name]} == 0"
            case Joined("not", (operand,)):
                return test(operand, not wanted)
            case Joined(word, operands):
                joined = f" {word if wanted else 'or' if word == 'and' else 'and'} ".join(
                    test(operand, wanted) for operand in operands
                )
                return f"({joined})"
            case Quantified():
                raise AssertionError(node)  # the reader has refused it
            case _:
                assert_never(node)

    tree = parse(text)
    assert isinstance(tree, Joined | Named)
    where = test(tree, True)
    after = any(not wanted for _, wanted in used)
    within = f" and WindowTime <= {time}" if after else ""
    counts = [
        f"Count{places[name]} = countif({RULE} == {quoted(names[name])}{within})"
        if wanted
        else f"Near{places[name]} = countif({RULE} == {quoted(names[name])})"
        for name, wanted in used
    ]
    return _Measure(", ".join(counts), where[1:-1] if where.startswith("(") else where, after)


def _same(column: str, text: str) -> str:
    return column if column == text else f"{column} = {text}"


def _between(fields: list[str]) -> list[str]:
    found: list[str] = []
    for field in fields:
        found += [field] if not found else ['"|"', field]
    return found


def _one_text(columns: tuple[Column, ...]) -> str:
    texts = [c.text if c.type == "string" else f"tostring({c.text})" for c in columns]
    return texts[0] if len(texts) == 1 else f"coalesce({', '.join(texts)})"


def column_name(field: str) -> str:
    """A Sigma field's name as a column of the query."""
    word = re.sub(r"[^A-Za-z0-9_]", "_", field)
    return identifier(word) if is_word(word) else f"_{word}"


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
