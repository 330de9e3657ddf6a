"""emit: a query's tree becomes KQL text that an analyst could have written.

Place in the flow: between simplify and render. Invariants: the text holds for exactly the rows for which the tree
holds (two-valued: no predicate that can be null stands under an odd number of `not`); the same query gives the same
bytes; every value is placed by `literals`, every operator comes from `operators`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from sigma2kql.kql.layout import Chain, Listed, Piece, Wrap, flat, grouped_chains, lines, list_lines
from sigma2kql.kql.naming import names_of, renamed, top_conjuncts
from sigma2kql.kql.operators import alternatives, complement, cost, none_of, shape, written
from sigma2kql.kql.prefilter import prefilter
from sigma2kql.model.query_facts import QueryLimits
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import (
    And,
    Column,
    Expr,
    Match,
    Not,
    Or,
    Query,
    Text,
)

Gate: TypeAlias = Sequence[str | Listed] | None  # the prefilter's alternatives
_SCAN = ' or X contains ""'  # the least that is written around a text that joins no list
# The rows of a log source are one tree for all rules about it: known by its identity, as hashing it takes longer.
_KNOWN_ROWS: dict[tuple[int, int], tuple[Expr[Column], Sequence[Clause]]] = {}
_MOST_ROWS = 1024
_FEW = 200  # tests of a query that is surely not too long
NO_LIMITS = QueryLimits()


def emit(
    query: Query,
    prefiltered: bool = True,
    tests: Sequence[Match[Column]] | None = None,
    limits: QueryLimits = NO_LIMITS,
) -> str:
    """The query as KQL: table, rows of the log source, an index prefilter, the rule; one `| where` per conjunct.

    `prefiltered` adds, where one can be proved, a term test that the rule implies and that Kusto's term index answers.
    A query over the limits of the product is written with its long lists of texts as regular expressions, where that
    makes it shorter. `tests` are the leaves of the query, where they are known already.
    """
    gate = prefilter(query.where) if prefiltered else None
    tests = leaves(query.where) if tests is None else tests
    most = limits.characters
    if most is None:
        return _emit(query, gate, limits, tests)
    text = "" if _is_long(tests, most) else _emit(query, gate, limits, tests)
    if not text or len(text) > most:
        from sigma2kql.kql.long_lists import compact

        short = dataclasses.replace(query, where=compact(query.where))
        text = min(filter(None, (text, _emit(short, gate, limits))), key=len)
        if len(text) > most and gate is not None:
            bare = _emit(short, None, limits)
            text = bare if len(bare) <= most else text
    return text


def _is_long(tests: Sequence[Match[Column]], room: int) -> bool:
    """Whether the texts alone take more characters: the full form need not be written then, the other is shorter."""
    if len(tests) < _FEW:
        return False
    for leaf in tests:
        if isinstance(leaf.test, Text) and (found := shape(leaf.test.parts)):
            room -= len(found[1]) + (found[0] != "equals") * len(_SCAN)
            if room < 0:
                return True
    return False


def emit_union(queries: Sequence[Query], prefiltered: bool = True, limits: QueryLimits = NO_LIMITS) -> str:
    """The rows of all queries; a table that the workspace lacks is passed over (`isfuzzy`)."""
    if len(queries) == 1:
        return emit(queries[0], prefiltered, limits=limits)
    texts = [emit(query, prefiltered, limits=limits) for query in queries]
    parts = ["\n".join(f"    {line}" for line in text.splitlines()) for text in texts]
    return "union isfuzzy=true\n" + ",\n".join(f"(\n{part}\n)" for part in parts)


def _emit(query: Query, gate: Gate, limits: QueryLimits, tests: Sequence[Match[Column]] | None = None) -> str:
    return joined(clauses_of(query, gate, limits, tests))


class Clause(NamedTuple):
    """One operator of the query: its lines, and the part of the rule's tree that they stand for, if any."""

    lines: list[str]
    tree: Expr[Column] | None = None


def joined(clauses: Sequence[Clause]) -> str:
    """The text of a query."""
    return "\n".join(["\n".join(clause.lines) for clause in clauses])


def clauses_of(
    query: Query, gate: Gate, limits: QueryLimits, tests: Sequence[Match[Column]] | None = None
) -> list[Clause]:
    """The operators of a query in order. `tests` are the leaves of its tree, where they are known already."""
    most = limits.operands
    conjuncts = top_conjuncts(query.where)
    names = names_of(query, conjuncts, leaves(query.where) if tests is None else tests)
    clauses = [Clause([query.table]), *_rows(query.rows, most)]
    if gate is not None:
        piece = gate[0] if len(gate) == 1 else Chain("or", tuple(gate))
        clauses.append(Clause(lines("| where ", grouped_chains(piece, most), "", "    ")))
    late: list[Clause] = []  # what stands on the named columns
    users: list[Match[Column]] = []
    for conjunct in sorted(conjuncts, key=cost) if len(conjuncts) > 1 else conjuncts:
        known = len(users)
        tree = renamed(conjunct, names, users) if names else conjunct
        (late if len(users) > known else clauses).append(Clause(_where(tree, most), tree))
    if names:
        named = [f"{column.text} = {text}" for text, column in names.items()]
        clauses.append(Clause(list_lines("| extend ", named, "", "         "), Or(tuple(users))))
    return clauses + late


def _rows(rows: Expr[Column], most: int) -> Sequence[Clause]:
    known = _KNOWN_ROWS.get((id(rows), most))
    if known is None:
        if len(_KNOWN_ROWS) == _MOST_ROWS:
            _KNOWN_ROWS.clear()
        clauses = [Clause(_where(conjunct, most)) for conjunct in top_conjuncts(rows)]
        known = _KNOWN_ROWS[id(rows), most] = rows, clauses
    return known[1]


# --------------------------------------------------------------------------------------------------------------------
# Trees to pieces
#
# These walks see every node of every rule: they ask isinstance, as a class pattern that takes attributes costs twenty
# times as much (Python 3.11 looks up `__match_args__` and makes a set, a list and a tuple at each match).


def predicate(expr: Expr[Column]) -> str:
    """A tree as one predicate on one line, null where it does not know."""
    return flat(_piece(expr, False))


def _where(conjunct: Expr[Column], most: int) -> list[str]:
    return lines("| where ", grouped_chains(_piece(conjunct, False), most), "", "    ")


def _piece(expr: Expr[Column], negated: bool) -> Piece:
    """A tree as pieces; `negated` says that it stands under an odd number of `not`."""
    if isinstance(expr, Match):
        return written(expr, negated)
    if isinstance(expr, Not):
        return _opposite(expr.item, negated)
    if not expr.items:
        return "true" if isinstance(expr, And) else "false"
    if isinstance(expr, And):
        return Chain("and", tuple([_piece(item, negated) for item in expr.items]))
    tests, others = _apart(expr.items)
    pieces = alternatives(tests, negated) if tests else []
    pieces += [_piece(item, negated) for item in others]
    return pieces[0] if len(pieces) == 1 else Chain("or", tuple(pieces))


def _opposite(expr: Expr[Column], negated: bool) -> Piece:
    """`not expr`, by an operator's complement where it has one."""
    piece: Piece | None = None
    if isinstance(expr, Match):
        piece = complement(expr)
    elif isinstance(expr, Or):
        tests, others = _apart(expr.items)
        piece = None if others else none_of(tests)
    return piece if piece is not None else Wrap("not(", _piece(expr, not negated), ")")


def _apart(items: Sequence[Expr[Column]]) -> tuple[list[Match[Column]], list[Expr[Column]]]:
    """The tests among the operands of an `or`, which may make lists, and the others."""
    tests = [item for item in items if isinstance(item, Match)]
    return tests, [] if len(tests) == len(items) else [item for item in items if not isinstance(item, Match)]
