"""What an analyst gets: one row for each burst of a group, with when, how much, which rules, and a sample of events.

Place in the flow: behind the windows; the end of a correlation's query. Invariant: firings of one group whose windows
overlap are one burst, and a match belongs to it when it lies in the window of one of them. `ReadyAt` is when the last
event had come in that a burst needed to fire for the first time, so that of all runs of a schedule one has it new.

Source: Microsoft Learn, "scan operator", "arg_max()", "ingestion_time()", "Handle ingestion delay in scheduled
analytics rules".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sigma2kql.correlate.evidence import Piece
from sigma2kql.correlate.windows import OPERATORS, RULE, Fired, Frame, listed
from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.literals import decimal_text
from sigma2kql.model.thresholds import Bounds, passes

ARRIVED = "IngestedAt"
READY = "ReadyAt"
ALL = "AllEvents"  # the group of a correlation that has none
SAMPLE = 10  # events
MOST_RULES = 25
FRESH = f"| where {READY} > ago({{since}})"


@frozen
class Shown:
    """The columns of a row: those of the group, and what is shown of the last event and of a sample."""

    keys: tuple[str, ...]
    pieces: tuple[Piece, ...]

    @property
    def evidence(self) -> tuple[str, ...]:
        return tuple(piece.column for piece in self.pieces)


def as_bursts(frame: Frame, found: Fired, shown: Shown, *, after: bool) -> str:
    """The rows of the firings; `after`: a window is looked at when the span behind it is over."""
    time, span = frame.time, frame.span
    same = frame.same("later.{}")
    ready = f"max_of({ARRIVED}, {time} + {span})" if after else ARRIVED
    carried = f"iff({same}, later.{{0}}, datetime(null))"
    alone = f"not({same}) or isnull(later.FiresAt) or later.FiresAt - {time} > {span}"
    first = f"not({same}) or isnull(later.{READY}) or (Fires and later.{time} > {time})"
    scan = (
        f"scan declare (FiresAt: datetime, Burst: datetime, {READY}: datetime, Depth: long) with (\n"
        "    step later: true =>\n"
        f"        FiresAt = iff(Fires, {time}, {carried.format('FiresAt')}),\n"
        f"        Burst = iff(Fires and ({alone}), {time}, {carried.format('Burst')}),\n"
        f"        {READY} = iff({first}, {ready}, max_of({ready}, later.{READY})),\n"
        f"        Depth = iff({same}, later.Depth + 1, 0);\n"
        ")"
    )
    made = {
        "FirstSeen": f"min({time})",
        "LastSeen": f"max({time})",
        **found.measures,
        "Rules": f"make_set({RULE}, {MOST_RULES})",
    }
    aggregates = [*_named(made), _last(frame, shown), _sample(frame, shown), f"arg_max(Depth, {READY})"]
    lines = [
        found.pipeline,
        f"sort by {frame.order}, {time} desc, Fires desc",
        scan,
        f"where FiresAt - {time} <= {span}",
        f"summarize{listed(aggregates)}\n    by {', '.join(frame.keys)}, Burst",
        _projected(frame, shown, made),
    ]
    return "\n| ".join(lines)


def as_matches(frame: Frame, found: Fired, shown: Shown, *, after: bool) -> str:
    """The firings as matches of a correlation above: one row for each time, not for each burst."""
    ready = f"{ARRIVED} = max_of({ARRIVED}, {frame.time} + {frame.span})" if after else ARRIVED
    columns = ", ".join([frame.time, ready, *shown.keys, *shown.evidence])
    return f"{found.pipeline}\n| where Fires\n| project {columns}"


def as_gaps(frame: Frame, measure: tuple[str, str], bounds: Bounds, shown: Shown) -> str:
    """Rows where too few matches came: windows of the clock that are over, of groups that are known from before.

    `measure`: what is counted in a window, and how. Windows without any match lie between those of two rows, or behind
    the last.
    """
    time, span, keys = frame.time, frame.span, ", ".join(frame.keys)
    name, counted = measure
    test = " and ".join(f"{name} {OPERATORS[op]} {decimal_text(number)}" for op, number in bounds)
    over = f"bin(now(), {span})"
    following = frame.same("next({})")
    few = f"{frame.same('prev({})')} and Window < {over} and {test}"
    empty = f"Until > Window + {span}" if passes(bounds, 0) else "false"
    held = [f"{name} = {counted}", _last(frame, shown), _sample(frame, shown)]
    lasting = [
        f"StartsAt = iff(TooFew, Window, Window + {span})",
        f"EndsAt = iff(NoneAtAll, Until, Window + {span})",
        f"{name} = iff(NoneAtAll, 0, {name})",
    ]
    made = {"FirstSeen": "min(StartsAt)", "LastSeen": "max(EndsAt)", name: f"min({name})"}
    last = ", ".join([f"arg_max({time}", *shown.evidence, "SampleEvents)"])
    return "\n| ".join(
        [
            frame.matches,
            f"summarize{listed(held)}\n    by {keys}, Window = bin({time}, {span})",
            f"sort by {frame.order}, Window asc",
            f"extend{listed([f'Until = iff({following}, next(Window), {over})', f'TooFew = {few}'])}",
            f"extend NoneAtAll = {empty}",
            "where TooFew or NoneAtAll",
            f"extend{listed(lasting)}",
            f"sort by {frame.order}, StartsAt asc",
            f"extend NewBurst = {frame.new_group} or StartsAt > prev(EndsAt)",
            "extend Burst = row_cumsum(toint(NewBurst))",
            f"summarize{listed([*_named(made), f'{READY} = min(StartsAt) + {span}', last])}\n    by {keys}, Burst",
            _projected(frame, shown, made),
        ]
    )


def _last(frame: Frame, shown: Shown) -> str:
    """The time column and what is shown, all of the last event."""
    return (
        f"arg_max({', '.join([frame.time, *shown.evidence])})"
        if shown.evidence
        else f"{frame.time} = max({frame.time})"
    )


def _sample(frame: Frame, shown: Shown) -> str:
    packed = [f'"{name}", {name}' for name in (frame.time, RULE, *shown.evidence)]
    return f"SampleEvents = make_list(bag_pack({', '.join(packed)}), {SAMPLE})"


def _projected(frame: Frame, shown: Shown, made: Mapping[str, str]) -> str:
    ends = [name for name in ("FirstSeen", "LastSeen") if name in made]
    rest = [name for name in made if name not in ends]
    columns = [frame.time, *ends, *shown.keys, *rest, *shown.evidence, "SampleEvents", READY]
    return f"project{listed(columns)}"


def _named(made: Mapping[str, str]) -> list[str]:
    return [f"{name} = {text}" for name, text in made.items()]


INTERNAL: Sequence[str] = (
    *(RULE, "Step", ARRIVED, READY, ALL, "FirstSeen", "LastSeen", "EventCount", "ValueCount", "ValueSum", "ValueAvg"),
    *("ValuePercentile", "Rules", "SampleEvents", "Fires", "FiresAt", "Burst", "Depth", "Held", "Comes", "Goes", "At"),
    *("Phase", "Change", "Near", "Amount", "NewGroup", "LastOfTime", "Window", "Until", "TooFew", "NoneAtAll"),
    *("NewBurst", "StartsAt", "EndsAt", "Matches", "ByTime"),
)
