"""What the rows of a log source, and the conjuncts of a rule, state about a column.

Place in the flow: beside map. Invariant: a tree is only made smaller on rows where the facts hold, and a contradiction
is reported only where two conjuncts leave a column no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import is_
from typing import TypeAlias

from sigma2kql.diagnostics.diagnostic import Diagnostic, Span, diagnostic
from sigma2kql.map.transforms import literal
from sigma2kql.model.simplify import assume, simplify
from sigma2kql.model.tree import And, Column, Expr, Match, Or, Text

Texts: TypeAlias = dict[Column, frozenset[str]]  # the only texts that a column has


def settled(tree: Expr[Column], facts: Texts) -> tuple[Expr[Column], Texts]:
    """The tree on rows where the facts hold, each conjunct also under the facts that the other conjuncts state; and
    what it states itself.
    """
    assumed = assume(tree, facts)
    tree = tree if assumed is tree else simplify(assumed)
    own = known_texts(tree)
    if not own:
        return tree, own
    known = {column: facts.get(column, texts) & texts for column, texts in own.items()}
    parts = conjuncts(tree)
    done = tuple([part if known_texts(part) else assume(part, known) for part in parts])
    if all(map(is_, done, parts)):
        return tree, own
    tree = simplify(And(done))
    return tree, known_texts(tree)


def known_texts(rows: Expr[Column]) -> Texts:
    """The only texts that a column has in these rows, where they are few and compare with case."""
    facts: Texts = {}
    for conjunct in conjuncts(rows):
        items = conjunct.items if isinstance(conjunct, Or) else (conjunct,)
        first = items[0] if items else None
        if not isinstance(first, Match) or not isinstance(first.test, Text) or not first.test.cased:
            continue  # nearly always
        tests = [item for item in items if isinstance(item, Match) and isinstance(item.test, Text) and item.test.cased]
        texts = [literal(item.test) for item in tests]
        columns = {item.subject for item in tests}
        if len(tests) == len(items) and len(columns) == 1 and all(texts):
            facts[columns.pop()] = frozenset(text for text in texts if text)
    return facts


def conjuncts(tree: Expr[Column]) -> tuple[Expr[Column], ...]:
    """What has to hold all together."""
    return tree.items if isinstance(tree, And) else (tree,)


def contradiction(parts: tuple[Expr[Column], ...]) -> Diagnostic | None:
    """Two conjuncts that ask one column for different whole values: such a query can never fire."""
    if len(parts) < 2:
        return None
    columns = [column for column in map(_first_column, parts) if column is not None]
    if len(set(columns)) == len(columns):
        return None  # nearly always
    allowed: dict[str, tuple[set[str], Span | None]] = {}
    for conjunct in parts:
        asked = _values(conjunct)
        if asked is None:
            continue
        column, values, span = asked
        if column in allowed:
            before, first = allowed[column]
            if not before & values:
                wanted = ", ".join(f"`{v}`" for v in sorted(values)[:3])
                found = ", ".join(f"`{v}`" for v in sorted(before)[:3])
                return diagnostic(
                    "E413", f"can never match: {column} would have to be {wanted} and {found} at once", span or first
                )
            values &= before
        allowed[column] = (values, span)
    return None


def _first_column(expr: Expr[Column]) -> str | None:
    """The one column that a choice of whole values could be about."""
    first = expr.items[0] if isinstance(expr, Or) and expr.items else expr
    return first.subject.text if isinstance(first, Match) and literal(first.test) else None


def _values(expr: Expr[Column]) -> tuple[str, set[str], Span | None] | None:
    """Column and folded whole values, where the tree is a choice of whole values of one stored column."""
    items: Iterator[Expr[Column]] = iter(expr.items) if isinstance(expr, Or) else iter((expr,))
    column: str | None = None
    values: set[str] = set()
    span: Span | None = None
    for item in items:
        text = literal(item.test) if isinstance(item, Match) else None
        if not isinstance(item, Match) or not text or (column is not None and item.subject.text != column):
            return None
        column, span = item.subject.text, item.span or span
        values.add(text.lower())
    return (column, values, span) if column is not None else None
