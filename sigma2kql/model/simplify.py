"""Passes that make a tree smaller without changing what it means: flat, no constants, no double `not`, nothing twice.

Place in the flow: between map and emit. Invariant: for every row the tree given back holds exactly when the tree taken
does (two-valued logic); the order of what remains is the order of what came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain
from operator import is_
from typing import TypeGuard, TypeVar, assert_never, cast

from sigma2kql.model.tree import And, Expr, Match, Not, Or, Test, Text

S = TypeVar("S")
R = TypeVar("R")


def simplify(expr: Expr[S]) -> Expr[S]:
    """The smaller equal tree. `And(())` (always) and `Or(())` (never) remain only as the whole tree."""
    if isinstance(expr, Match):
        return expr
    if isinstance(expr, Not):
        return negated(simplify(expr.item))
    items = [item if isinstance(item, Match) else simplify(item) for item in expr.items]
    return all_of(items) if isinstance(expr, And) else any_of(items)


def negated(item: Expr[S]) -> Expr[S]:
    """`not` of a tree that is small already."""
    if isinstance(item, Not):
        return item.item
    if isinstance(item, Match) or item.items:
        return Not(item)
    return Or(()) if isinstance(item, And) else And(())


def all_of(items: Sequence[Expr[S]]) -> Expr[S]:
    """AND of trees that are small already."""
    return _flatten(items, And, Or)


def any_of(items: Sequence[Expr[S]]) -> Expr[S]:
    """OR of trees that are small already."""
    return _flatten(items, Or, And)


def _flatten(
    items: Sequence[Expr[S]],
    same: type[And[S]] | type[Or[S]],
    other: type[And[S]] | type[Or[S]],
) -> Expr[S]:
    """One level of AND or OR: the items of equal nested nodes lifted, each kept once, constants folded away.

    `X or (X and Y)` is `X` (and the dual): an item that has another item among its own parts adds nothing.
    """
    flat: list[Expr[S]] = []
    marks: list[Hashable] = []
    wholes: list[And[S] | Or[S]] = []
    for item in items:
        if isinstance(item, Match):
            flat.append(item)
            marks.append(item.test.parts if isinstance(item.test, Text) else item.test)
        elif isinstance(item, same):
            flat += item.items
            marks += _marks(item.items)
            wholes += [e for e in item.items if isinstance(e, other)]
        else:
            if isinstance(item, other):
                if not item.items:
                    return other(())
                wholes.append(item)
            flat.append(item)
            marks.append(_mark(item))
    if len(flat) > 1:
        if _may_repeat(flat, marks, wholes):
            flat = _without_repeats(flat, other)
        if len(wholes) > 1 and same is Or:
            flat = _factored(flat)
    return flat[0] if len(flat) == 1 else same(tuple(flat))


def _factored(items: list[Expr[S]]) -> list[Expr[S]]:
    """`(a and x) or (b and x)` as `(a or b) and x`, for pairs of single tests: lists of values on two columns."""
    pairs = [item for item in items if isinstance(item, And) and _is_pair(item)]
    if len(pairs) < 2:
        return items
    marks = _marks([test for pair in pairs for test in pair.items])
    if len(set(marks)) == len(marks):
        return items  # surely nothing is shared
    numbers: dict[Expr[S], int] = {}  # each test is hashed once
    numbered = {id(pair): [numbers.setdefault(test, len(numbers)) for test in pair.items] for pair in pairs}
    counts = Counter(chain.from_iterable(numbered.values()))
    groups: dict[int, list[And[S]]] = {}
    done: list[tuple[Expr[S], list[And[S]]]] = []
    for item in items:
        if not isinstance(item, And) or id(item) not in numbered:
            done.append((item, []))
            continue
        first, second = numbered[id(item)]
        shared = second if counts[second] > counts[first] else first
        if shared not in groups:
            groups[shared] = []
            done.append((item.items[shared == second], groups[shared]))
        groups[shared].append(item)
    return [_with_shared(shared, group) for shared, group in done]


def _is_pair(expr: And[S]) -> bool:
    return len(expr.items) == 2 and isinstance(expr.items[0], Match) and isinstance(expr.items[1], Match)


def _with_shared(shared: Expr[S], group: list[And[S]]) -> Expr[S]:
    """Pairs that share a test as one; a single pair, or what is no pair, as it is."""
    if len(group) < 2:
        return group[0] if group else shared
    others = Or(tuple(item for pair in group for item in pair.items if item != shared))
    return And((others, shared)) if group[0].items[1] == shared else And((shared, others))


def _mark(expr: Expr[S]) -> Hashable:
    """Something that equal trees have in common, found without walking them: hashing whole trees is dear."""
    if isinstance(expr, Match):
        return expr.test.parts if isinstance(expr.test, Text) else expr.test
    if isinstance(expr, Not):
        return Not, _mark(expr.item)
    return type(expr), len(expr.items), _mark(expr.items[0]) if expr.items else None


def _marks(items: Sequence[Expr[S]]) -> list[Hashable]:
    """The mark of each item; nearly always it is the shape of a text."""
    return [i.test.parts if isinstance(i, Match) and isinstance(i.test, Text) else _mark(i) for i in items]


def _may_repeat(items: list[Expr[S]], marks: list[Hashable], wholes: list[And[S] | Or[S]]) -> bool:
    """False where surely nothing stands twice among the items with these marks, nor beside a whole that holds it."""
    known = set(marks)
    if len(known) < len(marks):  # nearly always one text on several subjects
        subjects = [item.subject if isinstance(item, Match) else None for item in items]
        if len(set(zip(subjects, marks, strict=True))) < len(marks):
            return True
    if len(wholes) < len(marks):
        for whole in wholes:
            if not known.isdisjoint(_marks(whole.items)):
                return True
    return False


def _without_repeats(items: list[Expr[S]], other: type[And[S]] | type[Or[S]]) -> list[Expr[S]]:
    """Each item once, and none that has another among its parts."""
    kept = dict.fromkeys(items)
    wholes = [e for e in kept if isinstance(e, other)]
    if len(wholes) < len(kept):
        for whole in wholes:
            if any(part in kept for part in whole.items):
                del kept[whole]
    return list(kept)


def assume(expr: Expr[S], facts: Mapping[S, frozenset[str]]) -> Expr[S]:
    """The tree on rows where each of these subjects has one of these texts: a test that all (none) of them pass is
    gone. The same object where nothing is.
    """
    if not facts:
        return expr
    tests = leaves(expr)
    subjects = {id(leaf.subject): leaf.subject for leaf in tests}
    told = {at for at, subject in subjects.items() if subject in facts}
    if not (told and any(id(leaf.subject) in told and _is_whole(leaf.test) for leaf in tests)) and all(facts.values()):
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
                        if isinstance(i, Match) and _is_whole(i.test) and i.subject == subject
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


_TESTS = {Match}


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
        elif set(map(type, one.items)) == _TESTS:  # a list of values
            found += cast("tuple[Match[S], ...]", one.items)
        else:
            stack += one.items[::-1]
    return found


def replace(expr: Expr[S], change: Callable[[Match[S]], Expr[R]]) -> Expr[R]:
    """The tree with every test replaced by what `change` gives for it."""
    if isinstance(expr, Match):
        return change(expr)
    if isinstance(expr, Not):
        return Not(replace(expr.item, change))
    items = tuple([replace(item, change) for item in expr.items])
    return And(items) if isinstance(expr, And) else Or(items)
