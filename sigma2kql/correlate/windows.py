"""Windows that slide over the matches of each group: at which match does the correlation fire?

Place in the flow: between the matches of the rules and the bursts that are shown. Invariant: what a function here gives
are the rows of the matches, each with `Fires`; a window ends at a match, reaches back over the time span, and both its
ends belong to it; matches of one time are in any order. No work is quadratic in a group: the rows are sorted, and every
match comes into the running totals at its time and goes out of them when the span is over.

Sources: Sigma correlation rules specification 2.1; Microsoft Learn: "prev()", "next()", "row_cumsum()", "scan
operator".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import assert_never

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.language.condition import Condition, Joined, Named, Quantified
from sigma2kql.model.literals import decimal_text, quoted
from sigma2kql.model.thresholds import Bounds, grows, least, passes
from sigma2kql.model.tree import Correlation

RULE = "CorrelatedRule"
STEP = "Step"
OPERATORS: Mapping[str, str] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "==", "neq": "!="}


@frozen
class Frame:
    """What the windows stand on: the name of the matches (a `let`), the columns of their groups, the time, the span."""

    matches: str
    keys: tuple[str, ...]
    time: str
    span: str
    values: tuple[str, ...] = ()  # the columns that are counted or computed with

    @property
    def order(self) -> str:
        return ", ".join(f"{key} asc" for key in self.keys)

    def same(self, neighbour: str = "{}") -> str:
        """That a neighbour (`prev({})`, `next({})`, `step.{}`) is of the same group."""
        return " and ".join(f"{neighbour.format(key)} == {key}" for key in self.keys)

    @property
    def new_group(self) -> str:
        return " or ".join(f"prev({key}) != {key}" for key in self.keys)


@frozen
class Fired:
    """Statements before the pipeline, the pipeline that gives the matches with `Fires`, and the measures that every
    row has (name -> how the measures of a burst are one).
    """

    lets: tuple[str, ...]
    pipeline: str
    measures: Mapping[str, str]


def fired(frame: Frame, correlation: Correlation, names: Sequence[str], tree: Condition | None) -> Fired:
    """The windows of a correlation. `names`: what the rules are called in the matches, in the order of the references;
    `tree`: its condition over these names, if it has one.
    """
    bounds = correlation.threshold.bounds if correlation.threshold else ()
    match correlation.type:
        case "temporal_ordered":
            repeated = len(set(names)) < len(names)
            return _repeating(frame, names) if repeated else _ordered(frame, names)
        case "temporal":
            return _temporal(frame, tuple(dict.fromkeys(names)), bounds, tree)
        case "event_count" if grows(bounds):
            return _counted(frame, least(bounds))
        case "value_count":
            return _different(frame, bounds)
        case _:
            return _totalled(frame, correlation, bounds)


# --------------------------------------------------------------------------------------------------------------------
# Counted


def _counted(frame: Frame, number: int) -> Fired:
    """At least so many events: the one `number - 1` before is of the same group and near enough."""
    if number <= 1:
        return Fired((), f"{frame.matches}\n| extend Fires = true", {"EventCount": "count()"})
    back = number - 1
    near = f"{frame.time} - prev({frame.time}, {back}) <= {frame.span}"
    same = frame.same(f"prev({{}}, {back})")
    pipeline = (
        f"{_likely(frame, number)}\n| sort by {frame.order}, {frame.time} asc\n| extend Fires = {same} and {near}"
    )
    return Fired((), pipeline, {"EventCount": "count()"})


def _likely(frame: Frame, number: int) -> str:
    """The matches of groups that have so many at all: only they need be sorted."""
    if number < 2:
        return frame.matches
    by = ", ".join(frame.keys)
    hint = f"hint.shufflekey={by}" if len(frame.keys) == 1 else "hint.strategy=shuffle"
    held = f"{frame.matches} | summarize Held = count() by {by} | where Held >= {number}"
    return f"{frame.matches}\n| join {hint} kind=leftsemi ({held}) on {by}"


def _different(frame: Frame, bounds: Bounds) -> Fired:
    """Different values: one is in the window from its first match until the span after its last."""
    time, span, both = frame.time, frame.span, (*frame.keys, *frame.values)
    before = " and ".join(f"prev({column}) == {column}" for column in both)
    behind = " and ".join(f"next({column}) == {column}" for column in both)
    comes = f"not({before} and {time} - prev({time}) <= {span})"
    goes = f"not({behind} and next({time}) - {time} <= {span})"
    order = f"{frame.order}, {', '.join(f'{value} asc' for value in frame.values)}, {time} asc"
    name = f"{frame.matches}ByValue"
    body = (
        f"{_likely(frame, least(bounds))}\n| sort by {order}\n| extend{listed([f'Comes = {comes}', f'Goes = {goes}'])}"
    )
    rows = (
        f"({name} | extend At = {time}, Phase = 1, Change = iff(Comes, 1, 0))",
        f"({name} | where Goes | project {', '.join(frame.keys)}, At = {time} + {span}, Phase = 2, Change = -1)",
    )
    totals = {"ValueCount": "row_cumsum(Change, NewGroup)"}
    pipeline = _running(frame, rows, totals, _within("ValueCount", bounds), ties=not grows(bounds))
    return Fired(
        (f"let {name} = materialize(\n{indented(body)});",),
        pipeline,
        {"EventCount": "count()", "ValueCount": f"{_extreme(bounds)}(ValueCount)"},
    )


def _totalled(frame: Frame, correlation: Correlation, bounds: Bounds) -> Fired:
    """A number of events, a sum, a mean or a percentile of the window, by running totals."""
    likely = _likely(frame, least(bounds) if correlation.type == "event_count" else 0)
    lets: tuple[str, ...] = ()
    if likely != frame.matches:
        name = f"{frame.matches}Likely"
        lets = (f"let {name} = materialize(\n{indented(likely)});",)
        frame = Frame(name, frame.keys, frame.time, frame.span, frame.values)
    count = {"EventCount": "row_cumsum(Change, NewGroup)"}
    value = frame.values[0] if frame.values else ""
    extreme = _extreme(bounds)
    match correlation.type:
        case "event_count":
            rows = _comings(frame)
            test = _within("EventCount", bounds)
            return Fired(lets, _running(frame, rows, count, test), {"EventCount": f"{extreme}(EventCount)"})
        case "value_sum":
            rows = _comings(frame, f", Amount = {value}", f", Amount = -{value}")
            totals = {"ValueSum": "round(row_cumsum(Amount, NewGroup), 6)"}
            pipeline = _running(frame, rows, totals, _within("ValueSum", bounds))
            return Fired(lets, pipeline, {"EventCount": "count()", "ValueSum": f"{extreme}(ValueSum)"})
        case "value_avg":
            rows = _comings(frame, f", Amount = {value}", f", Amount = -{value}")
            mean = "round(row_cumsum(Amount, NewGroup) / row_cumsum(Change, NewGroup), 6)"
            pipeline = _running(frame, rows, {"ValueAvg": mean}, _within("ValueAvg", bounds))
            return Fired(lets, pipeline, {"EventCount": "count()", "ValueAvg": f"{extreme}(ValueAvg)"})
        case _:
            percent = correlation.threshold.percentile if correlation.threshold else None
            return _ranked(frame, bounds, 50.0 if percent is None else percent, lets)


def _ranked(frame: Frame, bounds: Bounds, percent: float, lets: tuple[str, ...]) -> Fired:
    """The value of the nearest rank against a number: as many values below the number decide, so they are counted."""
    value = frame.values[0]
    text = decimal_text(percent)
    scale = 10 ** len(text.partition(".")[2])
    totals: dict[str, str] = {"EventCount": "row_cumsum(Change, NewGroup)"}
    tests: list[str] = []

    def below(sign: str, number: float) -> str:
        known = f"{value} {sign} {decimal_text(number)}"
        running = f"row_cumsum(iff({known}, Change, 0), NewGroup)"
        name = next((n for n, one in totals.items() if one == running), f"Below{len(totals)}")
        totals[name] = running
        return name

    def reached(name: str, wanted: bool) -> str:
        if not percent:
            return f"{name} {'>= 1' if wanted else '< 1'}"
        return f"{name} * {100 * scale} {'>=' if wanted else '<'} EventCount * {round(percent * scale)}"

    for op, number in bounds:
        match op:
            case "gt":
                tests.append(reached(below("<=", number), False))
            case "gte":
                tests.append(reached(below("<", number), False))
            case "lt":
                tests.append(reached(below("<", number), True))
            case "lte":
                tests.append(reached(below("<=", number), True))
            case _:
                equal = f"{reached(below('<', number), False)} and {reached(below('<=', number), True)}"
                tests.append(equal if op == "eq" else f"not({equal})")
    rows = _comings(frame, f", {value}", f", {value}")
    shown = {"EventCount": "count()", "ValuePercentile": f"percentile({value}, {text})"}
    return Fired(lets, _running(frame, rows, totals, " and ".join(tests)), shown)


def _comings(frame: Frame, coming: str = "", going: str = "") -> tuple[str, ...]:
    """Each match twice: when it comes into the window, and when it goes out of it."""
    coming = coming if "=" in coming else ""  # a column of its own that the match has anyway
    keys = ", ".join(frame.keys)
    return (
        f"({frame.matches} | extend At = {frame.time}, Phase = 1, Change = 1{coming})",
        f"({frame.matches} | project {keys}{going}, At = {frame.time} + {frame.span}, Phase = 2, Change = -1)",
    )


def _running(frame: Frame, rows: Sequence[str], totals: Mapping[str, str], test: str, *, ties: bool = True) -> str:
    """The matches with what is in the window at each; `ties`: only at the last match of one time is all of it there."""
    last = f"not({frame.same('next({})')} and next(At) == At and next(Phase) == 1)"
    made = [f"{name} = {running}" for name, running in totals.items()]
    lines = [
        "union\n" + ",\n".join(rows),
        f"sort by {frame.order}, At asc, Phase asc",
        f"extend NewGroup = {frame.new_group}",
        f"extend{listed([*made, f'LastOfTime = {last}'] if ties else made)}",
        "where Phase == 1",
        f"extend Fires = {'LastOfTime and ' if ties else ''}{test}",
    ]
    return "\n| ".join(lines)


def _within(name: str, bounds: Bounds) -> str:
    return " and ".join(f"{name} {OPERATORS[op]} {decimal_text(number)}" for op, number in bounds)


def _extreme(bounds: Bounds) -> str:
    """Which of the windows of a burst is told of."""
    return "min" if bounds and all(op in ("lt", "lte") for op, _ in bounds) else "max"


# --------------------------------------------------------------------------------------------------------------------
# Rules in any order


def _temporal(frame: Frame, names: tuple[str, ...], bounds: Bounds, tree: Condition | None) -> Fired:
    """Which rules match within the window; one under `not` may match neither in it nor within the span behind it."""
    used = _used(tree, True) if tree is not None else {(name, True) for name in names}
    totals: dict[str, str] = {}
    columns: dict[tuple[str, bool], str] = {}
    for number, name in enumerate(names, 1):
        for wanted, column, change in ((True, "Rule", "Change"), (False, "NearRule", "Near")):
            if (name, wanted) in used:
                columns[name, wanted] = f"{column}{number}"
                totals[f"{column}{number}"] = f"row_cumsum(iff({RULE} == {quoted(name)}, {change}, 0), NewGroup)"
    if tree is not None:
        test = _test(tree, True, columns)
    elif only_all(bounds, len(names)):
        test = " and ".join(f"{columns[name, True]} > 0" for name in names)
    else:
        count = " + ".join(f"toint({columns[name, True]} > 0)" for name in names)
        test = " and ".join(f"{count} {OPERATORS[op]} {decimal_text(number)}" for op, number in bounds)
    excluded = [name for name in names if (name, False) in used]
    source = frame.matches
    lets: tuple[str, ...] = ()
    needed = len(names) if tree is None and only_all(bounds, len(names)) else 0
    if (likely := _likely(frame, needed)) != source:
        source = f"{frame.matches}Likely"
        lets = (f"let {source} = materialize(\n{indented(likely)});",)
    near = ", Near = 0" if excluded else ""
    going = ", Near = -1" if excluded else ""
    keys = ", ".join((*frame.keys, RULE))
    rows = [
        f"({source} | extend At = {frame.time}, Phase = 1, Change = 1{near})",
        f"({source} | project {keys}, At = {frame.time} + {frame.span}, Phase = 2, Change = -1{going})",
    ]
    if excluded:
        these = ", ".join(map(quoted, excluded))
        early = f"At = {frame.time} - {frame.span}, Phase = 0, Change = 0, Near = 1"
        rows.append(f"({source} | where {RULE} in ({these}) | project {keys}, {early})")
        test = f"{frame.time} <= ago({frame.span}) and ({test})"
    ties = bool(excluded) or (tree is None and not only_all(bounds, len(names)) and not grows(bounds))
    return Fired(lets, _running(frame, rows, totals, test, ties=ties), {"EventCount": "count()"})


def _used(node: Condition, wanted: bool) -> set[tuple[str, bool]]:
    """Each rule with whether it is wanted or excluded."""
    match node:
        case Named(name):
            return {(name, wanted)}
        case Joined("not", (operand,)):
            return _used(operand, not wanted)
        case Joined(_, operands):
            return set().union(*(_used(operand, wanted) for operand in operands))
        case Quantified():
            raise AssertionError(node)  # the reader has refused it
        case _:
            assert_never(node)


def excludes(tree: Condition | None) -> bool:
    """Whether a rule stands under `not`, so that windows are looked at when the time behind them is over."""
    return tree is not None and any(not wanted for _, wanted in _used(tree, True))


def _test(node: Condition, wanted: bool, columns: Mapping[tuple[str, bool], str]) -> str:
    match node:
        case Named(name):
            return f"{columns[name, wanted]} {'> 0' if wanted else '== 0'}"
        case Joined("not", (operand,)):
            return _test(operand, not wanted, columns)
        case Joined(word, operands):
            joint = word if wanted else "or" if word == "and" else "and"
            texts = [_test(operand, wanted, columns) for operand in operands]
            return f"({f' {joint} '.join(texts)})" if len(texts) > 1 else texts[0]
        case Quantified():
            raise AssertionError(node)  # the reader has refused it
        case _:
            assert_never(node)


def only_all(bounds: Bounds, count: int) -> bool:
    """Whether a number of different rules passes exactly when it is all `count` of them; no bounds say just that."""
    return not bounds or all(passes(bounds, number) == (number == count) for number in range(count + 1))


# --------------------------------------------------------------------------------------------------------------------
# Rules in order


def _ordered(frame: Frame, names: Sequence[str]) -> Fired:
    """The rules in order within the window; a newer first step replaces the older. Of the same time, any order."""
    time, steps = frame.time, []
    for number, name in enumerate(names, 1):
        test = f"{RULE} == {quoted(name)}"
        if number > 1:
            test += f" and {frame.same('step1.{}')} and {time} - step1.{time} <= {frame.span}"
        fires = "true" if number == len(names) else "false"
        steps.append(f"    step step{number}: {test} => Fires = {fires};")
    scan = "\n".join(["scan declare (Fires: bool) with (", *steps, ")"])
    pipeline = f"{_likely(frame, len(names))}\n| sort by {frame.order}, {time} asc, {STEP} asc\n| {scan}"
    return Fired((), pipeline, {"EventCount": "count()"})


def _repeating(frame: Frame, names: Sequence[str]) -> Fired:
    """A rule occurs twice in the order. All matches of one time are one row that counts them, as they may stand in any
    order; `Begun` n is when the latest chain of the first n steps began.
    """
    different = list(dict.fromkeys(names))
    counts = {name: f"Count{number}" for number, name in enumerate(different, 1)}
    counted = ", ".join(f"{column} = countif({RULE} == {quoted(name)})" for name, column in counts.items())
    keys, time = ", ".join(frame.keys), frame.time
    before = [time, *(f"iff({frame.same('at.{}')}, at.Begun{n}, datetime(null))" for n in range(1, len(names) + 1))]
    made = []
    for last in range(1, len(names) + 1):
        choices = []
        for first in range(1, last + 1):  # the steps from `first` to `last` are all of this time
            block = list(names[first - 1 : last])
            have = " and ".join(f"{counts[name]} >= {block.count(name)}" for name in dict.fromkeys(block))
            known = "" if first == 1 else f" and not(isnull({before[first - 1]}))"
            choices.append(f"{have}{known}, {before[first - 1]}")
        made.append(f"Begun{last} = case({', '.join(choices)}, {before[last]})")
    declared = ", ".join(f"Begun{n}: datetime" for n in range(1, len(names) + 1))
    scan = f"scan declare ({declared}) with (\n    step at: true =>\n        " + ",\n        ".join(made) + ";\n)"
    name, end = f"{frame.matches}Chained", f"Begun{len(names)}"
    body = (
        f"{frame.matches}\n| summarize {counted} by {keys}, {time}\n| sort by {frame.order}, {time} asc\n| {scan}\n"
        f"| where {counts[names[-1]]} > 0 and {time} - {end} <= {frame.span}\n| project {keys}, {time}, Fires = true"
    )
    pipeline = (
        f"{frame.matches}\n| lookup kind=leftouter ({name}) on {keys}, {time}\n| extend Fires = coalesce(Fires, false)"
    )
    return Fired((f"let {name} = materialize(\n{indented(body)});",), pipeline, {"EventCount": "count()"})


def indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def listed(items: Sequence[str]) -> str:
    """Items of an operator on one line, or where that is long, each on its own."""
    line = " " + ", ".join(items)
    return line if len(line) <= 100 else "\n    " + ",\n    ".join(items)
