"""Long lists of texts as one regular expression, for queries that would be over the limit of a rule.

Place in the flow: a pass between simplify and emit, used only where it decides whether a query can be deployed.
Invariant: the tree given back holds for the same rows; a regular expression finds exactly the texts of the list, in
any case (the letters k and s also as U+212A and U+017F, which `contains` does not fold).
"""

from __future__ import annotations

from typing import assert_never

from sigma2kql.model import And, Column, Expr, Match, Not, Or, Text
from sigma2kql.operators import KustoRegex, shape
from sigma2kql.regex import wildcard_regex

FEWEST = 8  # shorter lists stay as they are: an analyst reads them better


def compact(expr: Expr[Column]) -> Expr[Column]:
    """The tree with every long `or` of texts on one column as one test."""
    match expr:
        case Match():
            return expr
        case Not(item):
            return Not(compact(item))
        case And(items):
            return And(tuple(compact(item) for item in items))
        case Or(items):
            return _choice(tuple(compact(item) for item in items))
        case _:
            assert_never(expr)


def _choice(items: tuple[Expr[Column], ...]) -> Expr[Column]:
    lists: dict[Column, list[Match[Column]]] = {}
    for item in items:
        if isinstance(item, Match) and _plain(item):
            lists.setdefault(item.subject, []).append(item)
    long = {column: found for column, found in lists.items() if len(found) >= FEWEST}
    if not long:
        return Or(items)
    folded = tuple(_folded(column, found) for column, found in long.items())
    rest = tuple(i for i in items if not (isinstance(i, Match) and _plain(i) and i.subject in long))
    return Or((*folded, *rest)) if rest or len(folded) > 1 else folded[0]


def _plain(leaf: Match[Column]) -> bool:
    """A contains, startswith or endswith in any case of letters, or of a text that has none."""
    if not isinstance(leaf.test, Text) or leaf.test.cased:
        return False
    found = shape(leaf.test)
    if found is None or found[0] == "equals":
        return False
    return found[1].isascii() or all(c.isascii() or c.lower() == c.upper() for c in found[1])


def _folded(column: Column, found: list[Match[Column]]) -> Match[Column]:
    shapes = [leaf.test.parts for leaf in found if isinstance(leaf.test, Text)]
    return Match(column, KustoRegex(wildcard_regex(shapes, False)), found[0].span)
