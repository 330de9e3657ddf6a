"""emit for correlations: the matches of several rules, counted or ordered within sliding windows.

Place in the flow: beside emission, over queries that map has made. Invariant: a window is sliding, not tied to clock
boundaries, unless the threshold counts too few (`lt`, `lte`, `eq`, `neq`), which only fixed windows can answer: that
is said.

Sources: Sigma correlation rules specification 2.1; Microsoft Learn: "prev()", "scan operator", "join operator",
"dcount()".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sigma2kql.errors import Diagnostic, Sigma2KqlError, diagnostic, did_you_mean
from sigma2kql.kql import emit
from sigma2kql.literals import identifier, is_word, quoted
from sigma2kql.mapping import Mapped
from sigma2kql.model import Column, Compiled, Correlation, Document, Reference, Rule, Verdict

RULE = "CorrelatedRule"
_OPERATORS = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "==", "neq": "!="}
_WIDEST = 14 * 86_400  # seconds: the longest lookback of a scheduled rule (Microsoft Learn: "Sentinel service limits")
_MAX_DEPTH = 16


@dataclass(frozen=True, slots=True)
class _Part:
    """One referenced rule as KQL: a pipeline whose rows have the time column, the keys and the values."""

    name: str
    lines: str
    mapped: tuple[Mapped, ...]


def compile_correlation(
    correlation: Correlation,
    documents: Sequence[Document],
    map_one: Callable[[Rule], Mapped],
    target: str,
    prefiltered: bool,
) -> Compiled:
    """The correlation as one query. Raises Sigma2KqlError: a rule is missing or fails, a field has no column."""
    builder = _Builder(documents, map_one, prefiltered)
    text, mapped = builder.query(correlation, ())
    notes = list(correlation.warnings) + builder.notes
    for one in mapped:
        notes += one.diagnostics
    kinds = {one.verdict for one in mapped}
    verdict: Verdict = (
        "narrower" if "narrower" in kinds or builder.fixed else "broader" if "broader" in kinds else "exact"
    )
    if correlation.timespan > _WIDEST:
        notes.append(
            diagnostic(
                "W404",
                "the timespan is longer than the 14 days that a scheduled rule can look back",
                correlation.origin.span,
            )
        )
    lets = "".join(f"let {name} = materialize({body});\n" for name, body in builder.lets.items())
    tables = ", ".join(dict.fromkeys(one.table.name for one in mapped))
    columns = dict.fromkeys((*builder.keys(correlation), RULE), "string")
    return Compiled(
        correlation,
        target,
        lets + text,
        tables,
        None,
        verdict,
        columns,
        builder.mapped_keys,
        tuple(dict.fromkeys(notes)),
        caveats=tuple(dict.fromkeys(caveat for one in mapped for caveat in one.caveats)),
    )


class _Builder:
    """Builds the pipelines of a correlation and of those that it refers to."""

    def __init__(self, documents: Sequence[Document], map_one: Callable[[Rule], Mapped], prefiltered: bool) -> None:
        self.by_name = {
            name: d
            for d in documents
            for name in (d.meta.name, d.meta.id)
            if name and isinstance(d, Rule | Correlation)
        }
        self.map_one = map_one
        self.prefiltered = prefiltered
        self.lets: dict[str, str] = {}
        self.notes: list[Diagnostic] = []
        self.mapped_keys: dict[str, str] = {}
        self.fixed = False

    def keys(self, correlation: Correlation) -> list[str]:
        """The names of the group-by columns in the query."""
        return [_name(reference.name) for reference in correlation.group_by]

    # -- one correlation ---------------------------------------------------------------------------------------------

    def query(self, correlation: Correlation, above: tuple[Correlation, ...]) -> tuple[str, list[Mapped]]:
        if correlation in above or len(above) > _MAX_DEPTH:
            raise Sigma2KqlError([diagnostic("E407", "the correlation refers to itself", correlation.origin.span)])
        parts = [self._part(correlation, reference, above) for reference in correlation.rules]
        mapped = [one for part in parts for one in part.mapped]
        time = next((one.query.time for one in mapped), "TimeGenerated")
        matches = (
            parts[0].lines
            if len(parts) == 1
            else "union\n" + ",\n".join(f"(\n{_indented(part.lines)}\n)" for part in parts)
        )
        return self._window(correlation, parts, matches, time, nested=bool(above)), mapped

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
            return _Part(name, f"{lines}\n| extend {RULE} = {quoted(name)}", tuple(mapped))
        one = self.map_one(found)
        values = list(correlation.threshold.fields) if correlation.threshold else []
        keys = [
            (_name(ref.name), self._field(correlation, ref.name, found, reference), ref) for ref in correlation.group_by
        ]
        wanted: list[tuple[str, str, Reference | None]] = [*keys]
        wanted += [
            (_name(value), value, None) for value in values if _name(value) not in {known for known, _, _ in keys}
        ]
        texts = [(column, self._text(one, field, ref)) for column, field, ref in wanted]
        projected = [column if column == text else f"{column} = {text}" for column, text in texts]
        pipeline = [
            emit(one.query, self.prefiltered),
            f"| project {', '.join([identifier(one.query.time), *projected, f'{RULE} = {quoted(name)}'])}",
        ]
        return _Part(name, "\n".join(pipeline), (one,))

    def _field(self, correlation: Correlation, name: str, rule: Rule, reference: Reference) -> str:
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
        present = "".join(f"\n| where isnotempty({key})" for key in keys)
        kind, span = correlation.type, _span(correlation.timespan)
        bounds = correlation.threshold.bounds if correlation.threshold else ()
        if kind == "temporal_ordered":
            return self._ordered(correlation, parts, matches + present, time)
        few = any(op in ("lt", "lte", "eq", "neq") for op, _ in bounds) and not any(
            op in ("gt", "gte") for op, _ in bounds
        )
        if kind == "event_count" and not few and len(bounds) == 1:
            op, number = bounds[0]
            return _counted(matches + present, keys, time, span, int(number) + (op == "gt"), nested)
        measure, test = _measure(correlation, parts)
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
            return f"{matches}{present}\n| summarize {measure} by {by}\n| where {test}"
        name = self._let(matches + present)
        key = keys or ["_all"]
        other = f"{name}{'' if keys else ' | extend _all = 1'} | project-rename WindowTime = {time}"
        first = f"{name}{'' if keys else chr(10) + '| extend _all = 1'}"
        by = ", ".join([*key, time])
        drop = "" if keys else "\n| project-away _all"
        return (
            f"{first}\n| distinct {by}\n| join kind=inner (\n    {other}\n) on {', '.join(key)}\n"
            f"| where WindowTime between ({time} .. ({time} + {span}))\n"
            f"| summarize {measure} by {by}\n| where {test}{drop}"
        )

    def _let(self, body: str) -> str:
        name = f"Matches{len(self.lets) + 1}"
        self.lets[name] = body
        return name

    def _ordered(self, correlation: Correlation, parts: list[_Part], matches: str, time: str) -> str:
        """The rules in order within the window; a newer first step replaces the older."""
        keys = self.keys(correlation)
        span = _span(correlation.timespan)
        steps = []
        for number, part in enumerate(parts):
            test = f"{RULE} == {quoted(part.name)}"
            started = "Started" if number == 0 else f"step{number}.Started"
            if number:
                test += f" and {time} - step{number}.Started <= {span}"
            last = number == len(parts) - 1
            output = "" if last else " output=none"
            steps.append(f"    step step{number + 1}{output}: {test} => Started = {time if number == 0 else started};")
        scan = f"sort by {time} asc, {RULE} asc\n| scan declare (Started: datetime) with (\n" + "\n".join(steps) + "\n)"
        if not keys:
            return f"{matches}\n| {scan}"
        key = keys[0]
        joined = matches
        if len(keys) > 1:
            key = "CorrelationKey"
            joined += f"\n| extend {key} = strcat({', '.join(_between(keys))})"
        return f"{joined}\n| partition hint.strategy=native by {key} (\n{_indented(scan)}\n)"


def _counted(matches: str, keys: list[str], time: str, span: str, number: int, nested: bool) -> str:
    """At least `number` events within the span: the event `number - 1` before is in the same group and near enough.

    One row a group; `nested` in another correlation, which looks at times, a row for each time the count is reached.
    """
    if number <= 1 and nested:
        return matches
    if number <= 1:
        return f"{matches}\n| summarize {time} = max({time}), FirstSeen = min({time}), EventCount = count()" + (
            f" by {', '.join(keys)}" if keys else ""
        )
    order = ", ".join([*(f"{key} asc" for key in keys), f"{time} asc"])
    same = "".join(f" and prev({key}, {number - 1}) == {key}" for key in keys)
    by = f" by {', '.join(keys)}" if keys else ""
    each = f"project {', '.join([time, 'FirstSeen', *keys])}"
    group = f"summarize FirstSeen = min(FirstSeen), {time} = max({time}){by}"
    return (
        f"{matches}\n| sort by {order}\n"
        f"| extend FirstSeen = prev({time}, {number - 1}), SameGroup = isnotnull(prev({time}, {number - 1})){same}\n"
        f"| where SameGroup and {time} - FirstSeen <= {span}\n"
        f"| {each if nested else group}"
    )


def _measure(correlation: Correlation, parts: list[_Part]) -> tuple[str, str]:
    """What a window is summarised to, and the test on it."""
    threshold = correlation.threshold
    fields = [_name(field) for field in threshold.fields] if threshold else []
    value = fields[0] if len(fields) == 1 else f"strcat({', '.join(_between(fields))})" if fields else RULE
    names = [quoted(part.name) for part in parts]
    match correlation.type:
        case "event_count":
            measure = "EventCount = count()"
        case "value_count":
            measure = f"ValueCount = dcountif({value}, isnotempty({value}), 4)"
        case "value_sum":
            measure = f"ValueSum = sum(todouble({value}))"
        case "value_avg":
            measure = f"ValueAvg = avg(todouble({value}))"
        case "value_percentile" | "value_median":
            percent = 50 if correlation.type == "value_median" else (threshold.percentile if threshold else None) or 50
            measure = f"ValuePercentile = percentile(todouble({value}), {percent:g})"
        case _:
            if correlation.expression is not None:
                return _expression(correlation.expression, parts)
            measure = f"RuleCount = dcount({RULE}, 4)"
    name = measure.split(" ", 1)[0]
    if threshold is None or not threshold.bounds:
        return measure, f"{name} >= {len(names)}"
    return measure, " and ".join(f"{name} {_OPERATORS[op]} {number:g}" for op, number in threshold.bounds)


def _expression(text: str, parts: list[_Part]) -> tuple[str, str]:
    """A condition over rule names: how often each of them matched in the window."""
    names = {part.name: f"Count{number + 1}" for number, part in enumerate(parts)}
    measure = ", ".join(f"{column} = countif({RULE} == {quoted(name)})" for name, column in names.items())
    test = re.sub(r"[A-Za-z_][A-Za-z0-9_-]*", lambda m: f"{names[m[0]]} > 0" if m[0] in names else m[0], text)
    return measure, re.sub(r"\bnot\s+(Count\d+ > 0|\([^()]*\))", r"not(\1)", test)


def _between(fields: list[str]) -> list[str]:
    found: list[str] = []
    for field in fields:
        found += [field] if not found else ['"|"', field]
    return found


def _one_text(columns: tuple[Column, ...]) -> str:
    texts = [c.text if c.type == "string" else f"tostring({c.text})" for c in columns]
    return texts[0] if len(texts) == 1 else f"coalesce({', '.join(texts)})"


def _name(field: str) -> str:
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
