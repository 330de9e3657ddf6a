"""Columns that a query computes and uses more than once: each is named once, in an `extend`.

Place in the flow: under `query`, before its text is written. Invariant: the tree on the named columns holds for the
same rows, and no name hides a column of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sigma2kql.kql.operators import list_kind
from sigma2kql.model.literals import is_word
from sigma2kql.model.simplify import leaves, replace
from sigma2kql.model.tree import And, Column, Expr, KqlType, Match, Not, Or, Query, SameAs


def top_conjuncts(expr: Expr[Column]) -> list[Expr[Column]]:
    """The top-level conjuncts; `not (a or b)` over groups is a conjunct for each, its single tests stay together."""
    found: list[Expr[Column]] = []
    for item in expr.items if isinstance(expr, And) else (expr,):
        if (
            isinstance(item, Not)
            and isinstance(item.item, Or)
            and not all(isinstance(i, Match) for i in item.item.items)
        ):
            single_tests = tuple(i for i in item.item.items if isinstance(i, Match))
            for part in item.item.items:
                if not isinstance(part, Match):
                    found.extend(top_conjuncts(part.item) if isinstance(part, Not) else [Not(part)])
            if single_tests:
                found.append(Not(Or(single_tests) if len(single_tests) > 1 else single_tests[0]))
        else:
            found.append(item)
    return found


def names_of(query: Query, conjuncts: Sequence[Expr[Column]], tests: Sequence[Match[Column]]) -> dict[str, Column]:
    """Those of a query with these conjuncts and leaves: text -> the column under a name of its own."""
    computed = [leaf.subject.text for leaf in tests if leaf.subject.kind != "stored"]
    if len(computed) == len(set(computed)) and SameAs not in [type(leaf.test) for leaf in tests]:
        return {}
    columns: dict[str, Column] = {}
    often: set[str] = set()
    for conjunct in conjuncts:
        _count(conjunct, columns, often)
    names: dict[str, Column] = {}
    taken = {name.lower() for name in query.columns} if often else set()
    for text, column in columns.items():
        if text in often:
            name = _free_name(column, taken)
            taken.add(name.lower())
            names[text] = Column(name, column.type, column.reads, column.kind, column.key, name)
    return names


def _count(expr: Expr[Column], columns: dict[str, Column], often: set[str]) -> None:
    """Notes the computed columns of a tree in the order of the text, and which of them it holds more than once."""
    if isinstance(expr, Not):
        _count(expr.item, columns, often)
    elif isinstance(expr, Match):
        for column in (expr.subject, expr.test.other) if isinstance(expr.test, SameAs) else (expr.subject,):
            if column.text in columns:
                often.add(column.text)
            elif column.kind != "stored":
                columns[column.text] = column
    elif isinstance(expr, And):
        for item in expr.items:
            _count(item, columns, often)
    else:
        lists: set[tuple[str, str | None]] = set()  # the column of a list is written once
        rest: list[Expr[Column]] = []
        for item in expr.items:
            if not isinstance(item, Match):
                rest.append(item)
            elif isinstance(item.test, SameAs):
                _count(item, columns, often)
            elif item.subject.kind != "stored" and item.subject.text not in often:
                listed = item.subject.text, list_kind(item)
                if listed not in lists:
                    _count(item, columns, often)
                if listed[1] is not None:
                    lists.add(listed)
        for item in rest:
            _count(item, columns, often)


def renamed(expr: Expr[Column], names: Mapping[str, Column], users: list[Match[Column]]) -> Expr[Column]:
    """The tree on the columns with names, where it stands on them; its tests that do are added to `users`."""

    def rename(leaf: Match[Column]) -> Expr[Column]:
        test = leaf.test
        if isinstance(test, SameAs) and test.other.text in names:
            test = SameAs(names[test.other.text], test.shape, test.cased)
        elif leaf.subject.text not in names:
            return leaf
        users.append(Match(names.get(leaf.subject.text, leaf.subject), test, leaf.span))
        return users[-1]

    return replace(expr, rename)


def _free_name(column: Column, taken: set[str]) -> str:
    base = "".join(char if char.isalnum() and char.isascii() else "_" for char in column.name or column.key[-1])
    base = base if is_word(base) else f"_{base}"
    name, number = base, 1
    while name.lower() in taken:
        number += 1
        name = f"{base}_" if number == 2 else f"{base}_{number}"
    return name


def output_columns(query: Query, kql: str) -> dict[str, str]:
    """The columns that `kql`, the text of a query, returns, name -> type: the table's own and those it computes."""
    names = names_of(query, top_conjuncts(query.where), leaves(query.where)) if "| extend " in kql else {}
    # compacted, a query may need fewer of them
    return {**query.columns, **{c.text: c.type for text, c in names.items() if f"{c.text} = {text}" in kql}}


def columns_read(tests: Iterable[Match[Column]]) -> Mapping[str, KqlType]:
    """The stored columns that tests read (type `dynamic` or text for those reached inside)."""
    found: dict[str, KqlType] = {}
    last: Column | None = None
    for leaf in tests:
        if leaf.subject is last and not isinstance(leaf.test, SameAs):
            continue  # the values of a list have one subject
        last = leaf.subject
        for column in (last, leaf.test.other) if isinstance(leaf.test, SameAs) else (last,):
            for name in column.reads:
                if name not in found:
                    found[name] = column.type if column.kind == "stored" else "dynamic"
    return found
