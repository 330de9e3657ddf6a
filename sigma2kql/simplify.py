"""Passes that make a tree smaller without changing what it means: flat, no constants, no double `not`, nothing twice.

Place in the flow: between map and emit. Invariant: for every row the tree given back holds exactly when the tree taken
does (two-valued logic); the order of what remains is the order of what came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import is_
from typing import TypeGuard, TypeVar, assert_never

from sigma2kql.model import And, Expr, Match, Not, Or, Test, Text

S = TypeVar("S")
R = TypeVar("R")


def simplify(expr: Expr[S]) -> Expr[S]:
    """The smaller equal tree. `And(())` (always) and `Or(())` (never) remain only as the whole tree."""
    match expr:
        case Match():
            return expr
        case Not(item):
            inner = simplify(item)
            match inner:
                case Not(twice):
                    return twice
                case And(()):
                    return Or(())
                case Or(()):
                    return And(())
                case _:
                    return Not(inner)
        case And(items):
            return _flatten(items, And, Or)
        case Or(items):
            return _flatten(items, Or, And)
        case _:
            assert_never(expr)


def _flatten(
    items: tuple[Expr[S], ...],
    same: type[And[S]] | type[Or[S]],
    other: type[And[S]] | type[Or[S]],
) -> Expr[S]:
    """One level of AND or OR: the items of equal nested nodes lifted, each kept once, constants folded away.

    `X or (X and Y)` is `X` (and the dual): an item that has another item among its own parts adds nothing.
    """
    kept: dict[Expr[S], None] = {}
    for item in items:
        if isinstance(item, Match):
            kept[item] = None
            continue
        small = simplify(item)
        if isinstance(small, same):
            kept.update(dict.fromkeys(small.items))
        elif isinstance(small, other) and not small.items:
            return other(())
        else:
            kept[small] = None
    parts = [e for e in kept if isinstance(e, other)]
    if len(parts) < len(kept):
        for whole in parts:
            if any(part in kept for part in whole.items):
                del kept[whole]
    return next(iter(kept)) if len(kept) == 1 else same(tuple(kept))


def assume(expr: Expr[S], facts: Mapping[S, frozenset[str]]) -> Expr[S]:
    """The tree on rows where each of these subjects has one of these texts: a test that all (none) of them pass is
    gone. The same object where nothing is.
    """
    if not facts:
        return expr

    def decide(leaf: Match[S]) -> Expr[S]:
        if not _is_whole(leaf.test) or (known := facts.get(leaf.subject)) is None:
            return leaf
        text = leaf.test.parts[0]
        assert isinstance(text, str)
        same = [text == one if leaf.test.cased else text.lower() == one.lower() for one in known]
        return And(()) if all(same) else leaf if any(same) else Or(())

    def choices(tree: Expr[S]) -> Expr[S]:
        match tree:
            case Or(items):
                for subject, known in facts.items():
                    texts = {
                        i.test.parts[0]
                        for i in items
                        if isinstance(i, Match) and i.subject == subject and _is_whole(i.test)
                    }
                    if known <= texts:
                        return And(())
                settled = tuple([choices(item) for item in items])
                return tree if _same(settled, items) else Or(settled)
            case And(items):
                settled = tuple([choices(item) for item in items])
                return tree if _same(settled, items) else And(settled)
            case Not(item):
                inner = choices(item)
                return tree if inner is item else Not(inner)
            case Match():
                return decide(tree)
            case _:
                assert_never(tree)

    return choices(expr)


def _same(new: tuple[Expr[S], ...], old: tuple[Expr[S], ...]) -> bool:
    return all(map(is_, new, old))


def _is_whole(test: Test[S]) -> TypeGuard[Text]:
    """One whole text, without wildcards."""
    return isinstance(test, Text) and len(test.parts) == 1 and isinstance(test.parts[0], str)


def leaves(expr: Expr[S]) -> list[Match[S]]:
    """Every test of the tree, left to right."""
    found: list[Match[S]] = []
    stack: list[Expr[S]] = [expr]
    while stack:
        one = stack.pop()
        if isinstance(one, Match):
            found.append(one)
        elif isinstance(one, Not):
            stack.append(one.item)
        else:
            stack += one.items[::-1]
    return found


def replace(expr: Expr[S], change: Callable[[Match[S]], Expr[R]]) -> Expr[R]:
    """The tree with every test replaced by what `change` gives for it."""
    match expr:
        case Match():
            return change(expr)
        case Not(item):
            return Not(replace(item, change))
        case And(items):
            return And(tuple(replace(item, change) for item in items))
        case Or(items):
            return Or(tuple(replace(item, change) for item in items))
        case _:
            assert_never(expr)
