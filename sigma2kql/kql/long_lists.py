"""Long lists of texts as one regular expression, for queries that would be over the limit of a rule.

Place in the flow: a pass between simplify and emit, used only where it decides whether a query can be deployed.
Invariant: the tree given back holds for the same rows; a regular expression finds exactly the texts of the list, in
any case (the letters k and s also as U+212A and U+017F, which `contains` does not fold).
"""

from __future__ import annotations

from typing import assert_never

from sigma2kql.kql.operators import folds_beyond_ascii, shape
from sigma2kql.model.tree import And, Column, Expr, Match, Not, Or, Regex, Test, Text
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
            return And(tuple([compact(item) for item in items]))
        case Or(items):
            return _choice([item if isinstance(item, Match) else compact(item) for item in items])
        case _:
            assert_never(expr)


def _choice(items: list[Expr[Column]]) -> Expr[Column]:
    plain: dict[str, list[Match[Column]]] = {}
    for item in items:
        if isinstance(item, Match) and _plain(item.test):
            plain.setdefault(item.subject.text, []).append(item)
    long = [found for found in plain.values() if len(found) >= FEWEST]
    folded: list[Expr[Column]] = [_folded(found) for found in long]
    if folded and sum(map(len, long)) == len(items):
        return Or(tuple(folded)) if len(folded) > 1 else folded[0]
    gone = {id(item) for found in long for item in found}
    return Or((*folded, *[item for item in items if id(item) not in gone]))


def _plain(test: Test[Column]) -> bool:
    """A contains, startswith or endswith in any case of letters, or of a text that has none."""
    if not isinstance(test, Text) or test.cased:
        return False
    found = shape(test.parts)
    return found is not None and found[0] != "equals" and (found[1].isascii() or not folds_beyond_ascii(found[1]))


def _folded(found: list[Match[Column]]) -> Match[Column]:
    shapes = [leaf.test.parts for leaf in found if isinstance(leaf.test, Text)]
    return Match(found[0].subject, Regex(wildcard_regex(shapes, False), translated=True), found[0].span)
