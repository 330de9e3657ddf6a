"""emit: a query's tree becomes KQL text that an analyst could have written.

Place in the flow: between simplify and render. Invariants: the text holds for exactly the rows for which the tree
holds (two-valued: no predicate that can be null stands under an odd number of `not`); the same query gives the same
bytes; every value is placed by `literals`, every operator comes from `operators`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, assert_never

from sigma2kql.diagnostics.diagnostic import Span
from sigma2kql.kql.operators import (
    Chain,
    Listed,
    Piece,
    Unsure,
    Wrap,
    choice,
    cost,
    folds,
    nullable,
    scans,
    shape,
    single,
)
from sigma2kql.kql.prefilter import prefilter
from sigma2kql.model.literals import is_word
from sigma2kql.model.simplify import leaves, replace
from sigma2kql.model.tree import And, Column, Expr, Match, Not, Or, Query, SameAs, Text

WIDTH = 120
_MOST_FLAT = WIDTH // len("_ or ")  # operands that a line can hold
# Microsoft's parser stops at about 490 chained operands (KS245); engines that recurse stop sooner.
CHAIN = 200
Gate: TypeAlias = Sequence[str | Listed] | None  # the prefilter's alternatives
_SCAN = ' or X contains ""'  # the least that is written around a text that joins no list
# The rows of a log source are one tree for all rules about it: known by its identity, as hashing it takes longer.
_KNOWN_ROWS: dict[int, tuple[Expr[Column], Sequence[tuple[list[str], None]]]] = {}
_MOST_ROWS = 1024
LIMIT = 10_000  # characters of a Sentinel scheduled rule's query (Microsoft Learn: "Sentinel service limits")


def emit(query: Query, prefiltered: bool = True, tests: Sequence[Match[Column]] | None = None) -> str:
    """The query as KQL: table, rows of the log source, an index prefilter, the rule; one `| where` per conjunct.

    `prefiltered` adds, where one can be proved, a term test that the rule implies and that Kusto's term index answers.
    A query over the limit is written with its long lists of texts as regular expressions, where that makes it shorter.
    `tests` are the leaves of the query, where they are known already.
    """
    gate = prefilter(query.where) if prefiltered else None
    tests = leaves(query.where) if tests is None else tests
    text = "" if _is_long(tests) else _emit(query, gate, tests)
    if not text or len(text) > LIMIT:
        from sigma2kql.kql.long_lists import compact

        short = dataclasses.replace(query, where=compact(query.where))
        text = min(filter(None, (text, _emit(short, gate))), key=len)
        if len(text) > LIMIT and gate is not None:
            bare = _emit(short, None)
            text = bare if len(bare) <= LIMIT else text
    return text


def _is_long(tests: Sequence[Match[Column]]) -> bool:
    """Whether the texts alone are over the limit: the full form need not be written then, the other is shorter."""
    if len(tests) < CHAIN:
        return False
    room = LIMIT
    for leaf in tests:
        if isinstance(leaf.test, Text) and (found := shape(leaf.test.parts)):
            room -= len(found[1]) + (found[0] != "equals") * len(_SCAN)
            if room < 0:
                return True
    return False


def emit_union(queries: Sequence[Query], prefiltered: bool = True) -> str:
    """The rows of all queries; a table that the workspace lacks is passed over (`isfuzzy`)."""
    if len(queries) == 1:
        return emit(queries[0], prefiltered)
    parts = ["\n".join(f"    {line}" for line in emit(query, prefiltered).splitlines()) for query in queries]
    return "union isfuzzy=true\n" + ",\n".join(f"(\n{part}\n)" for part in parts)


def _emit(query: Query, gate: Gate, tests: Sequence[Match[Column]] | None = None) -> str:
    return _joined(_parts(query, gate, tests))


def _joined(parts: Sequence[tuple[list[str], Expr[Column] | None]]) -> str:
    return "\n".join(["\n".join(lines) for lines, _ in parts])


def _parts(
    query: Query, gate: Gate, tests: Sequence[Match[Column]] | None = None
) -> list[tuple[list[str], Expr[Column] | None]]:
    """The text in order: the lines of each operator, and the part of the rule's tree that they stand for, if any.

    `tests` are the leaves of the query, where they are known already.
    """
    conjuncts = _conjuncts(query.where)
    names = _names(query, conjuncts, leaves(query.where) if tests is None else tests)
    parts: list[tuple[list[str], Expr[Column] | None]] = [([query.table], None), *_rows(query.rows)]
    if gate is not None:
        piece = gate[0] if len(gate) == 1 else Chain("or", tuple(gate))
        parts.append((_lines("| where ", piece, "", "    "), None))
    late: list[tuple[list[str], Expr[Column] | None]] = []
    users: list[Match[Column]] = []
    for conjunct in sorted(conjuncts, key=cost) if len(conjuncts) > 1 else conjuncts:
        known = len(users)
        written = _renamed(conjunct, names, users) if names else conjunct
        (late if len(users) > known else parts).append((_where(written), written))
    if names:
        named = [f"{column.text} = {text}" for text, column in names.items()]
        parts.append((_list_lines("| extend ", named, "", "         "), Or(tuple(users))))
    return parts + late


def _rows(rows: Expr[Column]) -> Sequence[tuple[list[str], None]]:
    known = _KNOWN_ROWS.get(id(rows))
    if known is None:
        if len(_KNOWN_ROWS) == _MOST_ROWS:
            _KNOWN_ROWS.clear()
        known = _KNOWN_ROWS[id(rows)] = rows, [(_where(conjunct), None) for conjunct in _conjuncts(rows)]
    return known[1]


# --------------------------------------------------------------------------------------------------------------------
# Computed columns that are used more than once are named once


def _names(query: Query, conjuncts: Sequence[Expr[Column]], tests: Sequence[Match[Column]]) -> dict[str, Column]:
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
                listed = item.subject.text, folds(item)
                if listed not in lists:
                    _count(item, columns, often)
                if listed[1] is not None:
                    lists.add(listed)
        for item in rest:
            _count(item, columns, often)


def _renamed(expr: Expr[Column], names: Mapping[str, Column], users: list[Match[Column]]) -> Expr[Column]:
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


# --------------------------------------------------------------------------------------------------------------------
# Trees to pieces
#
# These walks see every node of every rule: they ask isinstance, as a class pattern that takes attributes costs twenty
# times as much (Python 3.11 looks up `__match_args__` and makes a set, a list and a tuple at each match).


def _conjuncts(expr: Expr[Column]) -> list[Expr[Column]]:
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
                    found.extend(_conjuncts(part.item) if isinstance(part, Not) else [Not(part)])
            if single_tests:
                found.append(Not(Or(single_tests) if len(single_tests) > 1 else single_tests[0]))
        else:
            found.append(item)
    return found


def _where(conjunct: Expr[Column]) -> list[str]:
    return _lines("| where ", _piece(conjunct, False), "", "    ")


def _piece(expr: Expr[Column], negated: bool) -> Piece:
    """A tree as pieces; `negated` says that it stands under an odd number of `not`."""
    if isinstance(expr, Match):
        return _guarded(single(expr), negated)
    if isinstance(expr, Not):
        return _opposite(expr.item, negated)
    if not expr.items:
        return "true" if isinstance(expr, And) else "false"
    if isinstance(expr, And):
        return Chain("and", tuple(_pieces(expr.items, negated)))
    if (chain := scans(expr.items)) is not None:
        return chain
    pieces: list[Piece] = []
    for kind, group in _grouped(expr.items):
        if kind is None:
            pieces += _pieces(group, negated)
        else:
            pieces.append(_guarded(choice(kind, [m for m in group if isinstance(m, Match)]), negated))
    return pieces[0] if len(pieces) == 1 else Chain("or", tuple(pieces))


def _opposite(expr: Expr[Column], negated: bool) -> Piece:
    """`not expr`, by an operator's complement where it has one."""
    piece: Piece | None = None
    if isinstance(expr, Match):
        piece = single(expr, opposite=True)
    elif isinstance(expr, Or):
        piece = _one_list(expr.items, opposite=True)
    return piece if piece is not None else Wrap("not(", _piece(expr, not negated), ")")


def _pieces(items: Iterable[Expr[Column]], negated: bool) -> list[Piece]:
    return [_guarded(single(i), negated) if isinstance(i, Match) else _piece(i, negated) for i in items]


def _one_list(items: Sequence[Expr[Column]], opposite: bool) -> Piece | None:
    """`not (F =~ a or F =~ b)` as `F !in~ (a, b)`, where all items fold into one list that has such a form."""
    if not items or not isinstance(items[0], Match) or folds(items[0]) is None:
        return None
    groups = _grouped(items)
    if len(groups) != 1 or groups[0][0] is None:
        return None
    return choice(groups[0][0], [m for m in groups[0][1] if isinstance(m, Match)], opposite)


def _guarded(piece: Piece | None, negated: bool) -> Piece:
    """A predicate that can be null becomes false instead, where a `not` would otherwise drop the row."""
    assert piece is not None
    return Wrap("coalesce(", piece, ", false)") if negated and nullable(piece) else piece


def _grouped(items: Sequence[Expr[Column]]) -> list[tuple[str | None, list[Expr[Column]]]]:
    """Operands of an `or` in order, tests of one column beside each other, those that fold into one list together.

    Each group with the kind of its list; None: the operands stand for themselves.
    """
    order: dict[str, list[tuple[str | None, list[Expr[Column]]]]] = {}
    rest: list[Expr[Column]] = []
    for item in items:
        if not isinstance(item, Match):
            rest.append(item)
            continue
        kind, column = folds(item), item.subject.text
        known = order.get(column)
        if known is None:
            order[column] = [(kind, [item])]
        elif kind == known[-1][0]:  # nearly always
            known[-1][1].append(item)
        elif kind is not None and (group := next((group for of, group in known if of == kind), None)):
            group.append(item)
        else:
            known.append((kind, [item]))
    found = [group for column in order.values() for group in column]
    return [*found, (None, rest)] if rest else found


# --------------------------------------------------------------------------------------------------------------------
# Pieces to lines


def _flat(piece: Piece, inside: str = "") -> str:
    """On one line; `inside` is the word of the chain around it, for parentheses."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, Unsure):
        return piece.text
    if isinstance(piece, Chain):
        items = piece.items if len(piece.items) <= CHAIN else _balanced(piece.word, piece.items)
        texts = [item if isinstance(item, str) else _flat(item, piece.word) for item in items]
        text = f" {piece.word} ".join(texts)
        return f"({text})" if inside and inside != piece.word else text
    inner = ", ".join(piece.values) if isinstance(piece, Listed) else _flat(piece.item)
    return f"{piece.head}{inner}{piece.tail}"


def _balanced(word: str, items: tuple[Piece, ...]) -> tuple[Piece, ...]:
    """Very long chains as chains of parenthesised chains, so that no parser runs out of depth."""
    if len(items) <= CHAIN:
        return items
    return tuple(Wrap("(", Chain(word, items[i : i + CHAIN]), ")") for i in range(0, len(items), CHAIN))


def _lines(head: str, piece: Piece, tail: str, indent: str) -> list[str]:
    """The piece between `head` and `tail`: on one line where it fits, else broken at its outermost joints."""
    if isinstance(piece, str):
        return [head + piece + tail]
    if isinstance(piece, Chain) and len(piece.items) > _MOST_FLAT:
        return _tall(head, piece, tail, indent)
    flat = _flat(piece)
    return [head + flat + tail] if len(head) + len(flat) + len(tail) <= WIDTH else _tall(head, piece, tail, indent)


def _tall(head: str, piece: Piece, tail: str, indent: str) -> list[str]:
    """The piece over several lines: `head` before its first, `tail` after its last, the others behind `indent`."""
    if isinstance(piece, Listed):
        return _list_lines(head + piece.head, piece.values, piece.tail + tail, indent + "    ")
    if isinstance(piece, Wrap):
        deeper = indent + "    " if isinstance(piece.item, Chain) else indent
        return _lines(head + piece.head, piece.item, piece.tail + tail, deeper)
    if not isinstance(piece, Chain):
        return [head + _flat(piece) + tail]
    lines: list[str] = []
    *most, last = _balanced(piece.word, piece.items)
    joint = f"{indent}{piece.word} "
    for item in most:
        if isinstance(item, str):
            lines.append(head + item)
        else:
            lines += _operand(head, item, "", indent)
        head = joint
    return lines + _operand(head, last, tail, indent)


def _operand(head: str, piece: Piece, tail: str, indent: str) -> list[str]:
    """An operand of a chain; a chain inside a chain stands in parentheses."""
    if isinstance(piece, Chain):
        return _lines(head + "(", piece, ")" + tail, indent + "    ")
    return _lines(head, piece, tail, indent)


def _list_lines(head: str, values: Sequence[str], tail: str, indent: str) -> list[str]:
    """A list of values filled into lines."""
    lines = [head]
    for number, value in enumerate(values):
        text = value + ("," if number < len(values) - 1 else tail)
        if len(lines[-1]) + len(text) + 1 > WIDTH and (number > 0 or len(lines) > 1):
            lines.append(indent + text)
        else:
            lines[-1] += ("" if number == 0 else " ") + text
    return lines


def output_columns(query: Query, kql: str) -> dict[str, str]:
    """The columns that `kql`, the text of a query, returns, name -> type: the table's own and those it computes."""
    names = _names(query, _conjuncts(query.where), leaves(query.where)) if "| extend " in kql else {}
    # compacted, a query may need fewer of them
    return {**query.columns, **{c.text: c.type for text, c in names.items() if f"{c.text} = {text}" in kql}}


# --------------------------------------------------------------------------------------------------------------------
# Source map


def locate(kql: str, query: Query, prefiltered: bool = True) -> list[tuple[int, int, Span]]:
    """Source map: which characters of the emitted text stand for which part of the rule: (start, end, span), in order.

    Every value has a place of its own, and every operator around them the span from its first value to its last.
    Empty where the text is not what `emit` gives for this query. What the rule does not say itself (the table, the
    rows of its log source, a prefilter) has no place.
    """
    gate = prefilter(query.where) if prefiltered else None
    parts = _parts(query, gate)
    if _joined(parts) != kql:  # one of the shorter forms of `emit`
        from sigma2kql.kql.long_lists import compact

        short = dataclasses.replace(query, where=compact(query.where))
        parts = next((tried for one in (gate, None) if _joined(tried := _parts(short, one)) == kql), [])
    found: list[tuple[int, int, Span]] = []
    at = 0
    for lines, expr in parts:
        end = at + len("\n".join(lines))
        if expr is not None:
            found += _places(kql, at, end, expr)
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
            for _, group in _grouped(items):
                for item in group:
                    yield from _as_written(item)
        case _:
            assert_never(expr)


def _forms(leaf: Match[Column]) -> Iterator[str]:
    """How a test may stand in the text: alone, as its complement, as a value in a list, at least by its column."""
    kind = folds(leaf)
    for piece in (single(leaf), single(leaf, opposite=True), choice(kind, [leaf, leaf]) if kind is not None else None):
        if piece is not None:
            yield _flat(piece)
        if isinstance(piece, Listed):
            yield from piece.values
    yield leaf.subject.text
