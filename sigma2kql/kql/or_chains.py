"""A query without lists: every value of an `in~` or `has_any` as a comparison of its own.

Place in the flow: beside emission, for products that run a query row by row as events come in and know fewer operators.
Invariant: the same rows; only the way of writing differs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from sigma2kql.kql.query import emit
from sigma2kql.model.query_facts import QueryLimits
from sigma2kql.model.tree import And, Expr, Match, Not, Or, Query

S = TypeVar("S")


def emit_without_lists(query: Query, limits: QueryLimits) -> str:
    """The query as KQL with neither lists nor index prefilters."""
    plain = replace(query, where=_alone(query.where), rows=_alone(query.rows))
    return emit(plain, prefiltered=False, limits=limits)


def _alone(expr: Expr[S]) -> Expr[S]:
    """The same tree; tests under an `or` stand in an `or` of their own, so that emission makes no list of them."""
    if isinstance(expr, Or):
        return Or(tuple([Or((item,)) if isinstance(item, Match) else _alone(item) for item in expr.items]))
    if isinstance(expr, And):
        return And(tuple([_alone(item) for item in expr.items]))
    return Not(_alone(expr.item)) if isinstance(expr, Not) else expr
