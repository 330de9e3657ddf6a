"""The numbers of a correlation's condition: what passes, what is least, what nothing can pass.

Place in the flow: the ground of the reader, of the query and of the reference. Invariant: plain arithmetic over
`bounds`, which must all hold.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from sigma2kql.model.tree import Correlation

COMPARES: Mapping[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
    "eq": operator.eq,
    "neq": operator.ne,
}
MOST = 2**31 - 1  # matches that a window can be asked for: the offset of prev() is an int
COUNTS = frozenset({"event_count", "value_count", "temporal", "temporal_ordered"})
Bounds = Sequence[tuple[str, float]]


def passes(bounds: Bounds, value: float) -> bool:
    """Whether a value is within all bounds."""
    return all(COMPARES[op](value, number) for op, number in bounds)


def least(bounds: Bounds) -> int:
    """The smallest whole number that the lower bounds (`gt`, `gte`, `eq`) let through; 0 without one."""
    lower = [math.floor(n) + 1 if op == "gt" else math.ceil(n) for op, n in bounds if op in ("gt", "gte", "eq")]
    return max([0, *lower])


def grows(bounds: Bounds) -> bool:
    """Whether more is always enough: lower bounds alone."""
    return bool(bounds) and all(op in ("gt", "gte") for op, _ in bounds)


def few(correlation: Correlation) -> bool:
    """Whether the correlation asks for the absence of matches: upper bounds alone (or that there are none), on a number
    that only matches raise. Only windows that are over can answer that; averages and percentiles are asked of any.
    """
    bounds = correlation.threshold.bounds if correlation.threshold else ()
    if not bounds or correlation.type not in ("event_count", "value_count", "value_sum", "temporal"):
        return False
    return all(op in ("lt", "lte") or (op == "eq" and number <= 0) for op, number in bounds)


def impossible(bounds: Bounds, counted: bool, most: int | None = None) -> bool:
    """Whether no number passes; `counted`: only whole numbers from 0, up to `most`, are there to pass."""
    if not counted:
        points = sorted({number for _, number in bounds})
        between = [(a + b) / 2 for a, b in pairwise(points)]
        ends = [points[0] - 1, points[-1] + 1] if points else []
        return not any(passes(bounds, value) for value in (*points, *between, *ends))
    top = MOST if most is None else most
    near = {n for _, number in bounds for n in _whole(number)} | {0, top}
    return not any(0 <= n <= top and passes(bounds, n) for n in near)


def _whole(number: float) -> tuple[int, ...]:
    below = math.floor(number)
    return (below - 1, below, below + 1, below + 2)
