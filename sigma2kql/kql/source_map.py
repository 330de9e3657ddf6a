"""Source map: which characters of an emitted query stand for which part of the rule.

Place in the flow: beside `query`, whose text it reads. Invariant: what is given for a place of the text is what the
rule says there, or nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import assert_never

from sigma2kql.diagnostics.diagnostic import Span
from sigma2kql.kql.layout import Listed, flat
from sigma2kql.kql.operators import forms, in_order
from sigma2kql.kql.prefilter import prefilter
from sigma2kql.kql.query import NO_LIMITS, clauses_of, joined
from sigma2kql.model.query_facts import QueryLimits
from sigma2kql.model.tree import (
    And,
    Column,
    Expr,
    Match,
    Not,
    Or,
    Query,
)


def locate(
    kql: str, query: Query, prefiltered: bool = True, limits: QueryLimits = NO_LIMITS
) -> list[tuple[int, int, Span]]:
    """Which characters of the emitted text stand for which part of the rule: (start, end, span), in order.

    Every value has a place of its own, and every operator around them the span from its first value to its last.
    Empty where the text is not what `emit` gives for this query. What the rule does not say itself (the table, the
    rows of its log source, a prefilter) has no place.
    """
    gate = prefilter(query.where) if prefiltered else None
    clauses = clauses_of(query, gate, limits)
    if joined(clauses) != kql:  # one of the shorter forms of `emit`
        from sigma2kql.kql.long_lists import compact

        short = dataclasses.replace(query, where=compact(query.where))
        clauses = next((tried for one in (gate, None) if joined(tried := clauses_of(short, one, limits)) == kql), [])
    found: list[tuple[int, int, Span]] = []
    at = 0
    for lines, tree in clauses:
        end = at + len("\n".join(lines))
        if tree is not None:
            found += _places(kql, at, end, tree)
        at = end + 1
    return sorted(found, key=lambda item: (item[0], item[1]))


def _places(kql: str, start: int, end: int, expr: Expr[Column]) -> Iterator[tuple[int, int, Span]]:
    """The places of one operator that stands from `start` to `end`, and of the values in it."""
    cursor = start
    spans: list[Span] = []
    for leaf in _as_written(expr):
        if leaf.span is None:
            continue
        spans.append(leaf.span)
        for text in _forms(leaf):
            at = kql.find(text, cursor, end)
            if at < 0 and (at := kql.find(text, start, end)) < 0:
                continue
            yield at, at + len(text), leaf.span
            cursor = max(cursor, at + len(text))
            break
    if spans:
        source = spans[0].source
        inside = [span for span in spans if span.source is source]  # a filter's values stand in another file
        yield start, end, Span(source, min(s.start for s in inside), max(s.end for s in inside))


def _as_written(expr: Expr[Column]) -> Iterator[Match[Column]]:
    """The tests of a tree in the order in which `_piece` writes them."""
    match expr:
        case Match():
            yield expr
        case Not(item):
            yield from _as_written(item)
        case And(items):
            for item in items:
                yield from _as_written(item)
        case Or(items):
            yield from in_order([item for item in items if isinstance(item, Match)])
            for item in items:
                if not isinstance(item, Match):
                    yield from _as_written(item)
        case _:
            assert_never(expr)


def _forms(leaf: Match[Column]) -> Iterator[str]:
    """How a test may stand in the text: whole, as a value of a list, at least by its column."""
    for piece in forms(leaf):
        yield flat(piece)
        if isinstance(piece, Listed):
            yield from piece.values
    yield leaf.subject.text
