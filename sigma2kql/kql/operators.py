"""One test on one column as KQL: the only place where operators and functions of the language are written.

Place in the flow: under emission. Invariant: for every row, including those with empty or null columns, the predicate
is true exactly when the test holds; it may be null instead of false only where `nullable` says so.

Sources: Microsoft Learn, "Query null values", "String operators", the page of each function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, assert_never

from sigma2kql.kql.layout import Chain, Listed, Piece, Unsure, Wrap, nullable
from sigma2kql.model.literals import decimal_text, lowered, quoted
from sigma2kql.model.tree import (
    ANY,
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    Match,
    Not,
    Null,
    Number,
    Part,
    Regex,
    SameAs,
    Text,
)

Shape = Literal["equals", "startswith", "endswith", "contains"]

# (shape, cased) -> (operator, its exact complement). All are total: never null against a literal, so both forms
# may stand anywhere (null on the left: positive false, complement true).
_OPERATORS: dict[tuple[Shape, bool], tuple[str, str]] = {
    ("equals", False): ("=~", "!~"),
    ("equals", True): ("==", "!="),
    ("startswith", False): ("startswith", "!startswith"),
    ("startswith", True): ("startswith_cs", "!startswith_cs"),
    ("endswith", False): ("endswith", "!endswith"),
    ("endswith", True): ("endswith_cs", "!endswith_cs"),
    ("contains", False): ("contains", "!contains"),
    ("contains", True): ("contains_cs", "!contains_cs"),
}
# Membership in a list of literals, total like equality.
_LISTS = {False: ("in~", "!in~"), True: ("in", "!in")}
_NUMERIC = ("int", "long", "real", "decimal")
# datetime_part's own words; week is ISO 8601 (Microsoft Learn: "datetime_part()").
_DATE_PARTS = {
    "minute": "minute",
    "hour": "hour",
    "day": "day",
    "week": "week_of_year",
    "month": "month",
    "year": "year",
}


# --------------------------------------------------------------------------------------------------------------------
# Tests to pieces


def written(leaf: Match[Column], negated: bool = False) -> Piece:
    """One test; `negated` says that it stands under an odd number of `not`."""
    piece = _single(leaf, False)
    assert piece is not None
    return _guarded(piece, negated)


def complement(leaf: Match[Column]) -> Piece | None:
    """The exact opposite of a test, where the language has an operator for it."""
    return _single(leaf, True)


def alternatives(tests: Sequence[Match[Column]], negated: bool = False) -> list[Piece]:
    """Any of these tests, to be joined by `or`: those of one column beside each other, what makes a list as one."""
    if len(tests) > 1 and (found := _scans(tests)) is not None:
        return found
    pieces: list[Piece] = []
    for kind, group in _grouped(tests):
        if kind is None:
            pieces += [written(leaf, negated) for leaf in group]
        else:
            pieces.append(_guarded(_list(kind, group), negated))
    return pieces


def none_of(tests: Sequence[Match[Column]]) -> Piece | None:
    """`not (F =~ a or F =~ b)` as `F !in~ (a, b)`, where all tests make one list that has such a form."""
    if not tests or list_kind(tests[0]) is None:
        return None
    groups = _grouped(tests)
    if len(groups) != 1:
        return None
    kind, group = groups[0]
    return None if kind is None else _list(kind, group, opposite=True)


def in_order(tests: Sequence[Match[Column]]) -> Iterator[Match[Column]]:
    """The tests in the order in which `alternatives` writes them."""
    for _, group in _grouped(tests):
        yield from group


def forms(leaf: Match[Column]) -> Iterator[Piece]:
    """How a test may stand in a query: alone, as its complement, as a value of a list."""
    yield written(leaf)
    opposite = complement(leaf)
    if opposite is not None:
        yield opposite
    kind = list_kind(leaf)
    if kind is not None and (listed := _list(kind, [leaf, leaf])) is not None:
        yield listed


def _guarded(piece: Piece | None, negated: bool) -> Piece:
    """A predicate that can be null becomes false instead, where a `not` would otherwise drop the row."""
    assert piece is not None
    return Wrap("coalesce(", piece, ", false)") if negated and nullable(piece) else piece


def _single(leaf: Match[Column], opposite: bool) -> Piece | None:
    """One test; with `opposite` its exact complement where the language has one (else None)."""
    column, test = leaf.subject, leaf.test
    if isinstance(test, Text):
        form = _form(test.parts, test.cased)
        if not form.holds:
            return _unshaped(column, test, opposite)
        subject = _string(column)
        if form.lowers:
            subject = f"tolower({subject})"
        return f"{subject} {form.fails if opposite else form.holds}"
    match test:
        case Regex():
            return None if opposite else _pattern(column, test)
        case Cidr():
            return None if opposite else _cidr(column, [test])
        case Number("==", value):
            if column.type in _NUMERIC:
                return f"{column.text} {'!=' if opposite else '=='} {_number(value)}"
            return f"{_string(column)} {'!=' if opposite else '=='} {quoted(decimal_text(value))}"
        case Number(op, value):
            return None if opposite else Unsure(f"{_numeric(column)} {op} {_number(value)}")
        case Bool(value):
            if column.type == "bool":
                return f"{column.text} {'!=' if opposite else '=='} {str(value).lower()}"
            return f"{_string(column)} {'!~' if opposite else '=~'} {quoted(str(value).lower())}"
        case Null():
            return _presence(column, present=opposite)
        case Exists():
            return _presence(column, present=not opposite)
        case SameAs():
            return None if opposite else _same(column, test)
        case DatePart(unit, op, value):
            moment = column.text if column.type == "datetime" else f"todatetime({column.text})"
            part = f'datetime_part("{_DATE_PARTS[unit]}", {moment})'
            if op == "==":
                return f"{part} {'!=' if opposite else '=='} {value}"
            return None if opposite else Unsure(f"{part} {op} {value}")
        case _:
            assert_never(test)


# --------------------------------------------------------------------------------------------------------------------
# Lists


def list_kind(leaf: Match[Column]) -> str | None:
    """The kind of list that this test may join with others on the same column in an `or`, if any."""
    test = leaf.test
    if isinstance(test, Text):
        return _form(test.parts, test.cased).joins
    match test:
        case Number(op):
            return None if op != "==" else "number" if leaf.subject.type in _NUMERIC else "cased"
        case Cidr():
            return "cidr"
        case Regex() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return None
        case _:
            assert_never(test)


def _scans(tests: Sequence[Match[Column]]) -> list[Piece] | None:
    """Parts of a text, all on one column and none of them joining a list; None where it is anything else.

    Most lists of values are this, and nothing else need be asked of them.
    """
    column = tests[0].subject
    subject = _string(column)
    found: list[Piece] = []
    for leaf in tests:
        if leaf.subject is not column or not isinstance(leaf.test, Text):
            return None
        joins, _, lowers, holds, _, _ = _form(leaf.test.parts, leaf.test.cased)
        if joins is not None or not holds or lowers:
            return None
        found.append(f"{subject} {holds}")
    return found


def _grouped(tests: Sequence[Match[Column]]) -> list[tuple[str | None, list[Match[Column]]]]:
    """Tests in order, those of one column beside each other, those of one list together.

    Each group with the kind of its list; None: the tests stand for themselves.
    """
    order: dict[str, list[tuple[str | None, list[Match[Column]]]]] = {}
    for leaf in tests:
        kind, column = list_kind(leaf), leaf.subject.text
        known = order.get(column)
        if known is None:
            order[column] = [(kind, [leaf])]
        elif kind == known[-1][0]:  # nearly always
            known[-1][1].append(leaf)
        elif kind is not None and (group := next((group for of, group in known if of == kind), None)):
            group.append(leaf)
        else:
            known.append((kind, [leaf]))
    return [group for column in order.values() for group in column]


def _list(kind: str, group: Sequence[Match[Column]], opposite: bool = False) -> Piece | None:
    """Tests of one kind on one column, joined by `or`, as one list."""
    if len(group) == 1:
        return _single(group[0], opposite)
    column = group[0].subject
    if kind == "cidr":
        return None if opposite else _cidr(column, [m.test for m in group if isinstance(m.test, Cidr)])
    if kind == "number":
        values = tuple(_number(m.test.value) for m in group if isinstance(m.test, Number))
        return Listed(f"{column.text} {_LISTS[True][opposite]} (", values, ")")
    if kind in ("wild", "wild cased"):
        return None if opposite else _wildcards(column, [m.test for m in group if isinstance(m.test, Text)])
    literals = dict([_literal(m) for m in group])
    subject = f"tolower({_string(column)})" if kind == "lower" else _string(column)
    return Listed(f"{subject} {_LISTS[all(literals.values())][opposite]} (", tuple(literals), ")")


def _literal(leaf: Match[Column]) -> tuple[str, bool]:
    """A value of a list, and whether the exact operator finds the same."""
    if isinstance(leaf.test, Text):
        form = _form(leaf.test.parts, leaf.test.cased)
        return form.literal, form.holds.startswith("== ")
    assert isinstance(leaf.test, Number)
    return quoted(decimal_text(leaf.test.value)), True


# --------------------------------------------------------------------------------------------------------------------
# Text


def _string(column: Column) -> str:
    """The column as text: string operators are type errors on numbers, bools and dates; tostring() is total."""
    return column.text if column.type == "string" else f"tostring({column.text})"


def _caseless(text: str) -> bool:
    return text.lower() == text.upper()


def folds_beyond_ascii(text: str) -> bool:
    """Whether a letter outside ASCII has two cases: Kusto's case-insensitive operators fold ASCII only."""
    return not (text.isascii() or _caseless(text)) and any(not c.isascii() and not _caseless(c) for c in text)


def shape(parts: tuple[Part, ...]) -> tuple[Shape, str] | None:
    """The plain shape of a text test with its literal, where it is one."""
    if len(parts) == 3:
        before, text, behind = parts
        if before is ANY and behind is ANY and isinstance(text, str):
            return "contains", text
    elif len(parts) == 2:
        first, last = parts
        if first is ANY and isinstance(last, str):
            return "endswith", last
        if last is ANY and isinstance(first, str):
            return "startswith", first
    elif len(parts) == 1 and isinstance(parts[0], str):
        return "equals", parts[0]
    return None


class _Form(NamedTuple):
    """How a test for a text is written, whatever its column; `holds` is empty where no operator has its shape."""

    joins: str | None  # the kind of list that it may join
    cost: int  # how dear it is
    lowers: bool = False  # whether the subject goes through tolower()
    holds: str = ""  # the operator and the literal
    fails: str = ""  # the same with the operator's complement
    literal: str = ""


@lru_cache(maxsize=4096)  # rules look for the same texts
def _form(parts: tuple[Part, ...], cased: bool) -> _Form:
    plain = shape(parts)
    if plain is None:
        joins = parts and parts != (ANY,) and not _ends(parts)
        return _Form(("wild cased" if cased else "wild") if joins else None, 5 if ANY in parts else 2)
    how, text = plain
    lowers = not cased and not text.isascii() and folds_beyond_ascii(text)
    literal = quoted(lowered(text) if lowers else text)
    # without letters: the same result; works on an index lookup of the exact text
    exact = cased or lowers or (how == "equals" and _caseless(text))
    holds, fails = (f"{operator} {literal}" for operator in _OPERATORS[how, exact])
    if how != "equals":
        return _Form(None, 3, lowers, holds, fails, literal)
    return _Form("lower" if lowers else "cased" if cased else "text", 1, lowers, holds, fails, literal)


def _unshaped(column: Column, test: Text, opposite: bool) -> Piece | None:
    if test.parts == ():
        return _presence(column, present=opposite)
    if test.parts == (ANY,):
        return _presence(column, present=not opposite)
    if opposite:
        return None
    if (ends := _ends(test.parts)) is not None:
        first = Match(column, Text((ends[0], ANY), test.cased))
        last = Match(column, Text((ANY, ends[1]), test.cased))
        return Chain("and", (written(first), written(last)))
    return _wildcards(column, [test])


def _wildcards(column: Column, tests: Sequence[Text]) -> str:
    """Texts of one case with wildcards inside, any of them; each holds a character, so no empty text matches."""
    from sigma2kql.regex import wildcard_regex

    return _regex(column, wildcard_regex([test.parts for test in tests], tests[0].cased))


def _ends(parts: tuple[Part, ...]) -> tuple[str, str] | None:
    """Begin and end of a text, where both can be tested by themselves."""
    if len(parts) != 3:
        return None
    start, between, end = parts
    if not isinstance(start, str) or between is not ANY or not isinstance(end, str) or _meet(start, end):
        return None
    return start, end


def _meet(start: str, end: str) -> bool:
    """Whether the end of `start` may also be the beginning of `end`: then a text may be too short for both."""
    first, last = start.lower(), end.lower()
    return any(first.endswith(last[:n]) for n in range(1, min(len(first), len(last)) + 1))


def _pattern(column: Column, test: Regex) -> Piece:
    """An empty text is a missing one here, and nothing is found in a missing text."""
    if test.translated:
        return _regex(column, test.pattern)
    from sigma2kql.regex import matches_empty, translate

    found = _regex(column, translate(test.pattern, test.flags))
    if matches_empty(test.pattern, test.flags):
        return Chain("and", (_presence(column, present=True), found))
    return found


def _regex(column: Column, translated: str) -> str:
    return f"{_string(column)} matches regex {quoted(translated)}"


def _presence(column: Column, present: bool) -> str:
    """Strings have no null in Kusto; every other type has, and isnull() on a string is never true."""
    if column.type in ("string", "dynamic"):
        return f"{'isnotempty' if present else 'isempty'}({column.text})"
    return f"{'isnotnull' if present else 'isnull'}({column.text})"


def _same(column: Column, test: SameAs[Column]) -> Piece:
    """Both must be present: two empty texts would be equal, and every text contains the empty one."""
    how = _OPERATORS[test.shape, test.cased][0]
    present = _string(test.other if test.shape != "equals" else column)
    return Chain("and", (f"isnotempty({present})", f"{_string(column)} {how} {_string(test.other)}"))


# --------------------------------------------------------------------------------------------------------------------
# Numbers and addresses


def _number(value: int | float) -> str:
    """A numeric literal; what 64 bits do not hold, and what is written with an exponent, is a real."""
    text = str(int(value)) if value == int(value) and abs(value) < 2**63 else repr(float(value))
    return f"real({text})" if "e" in text else text


def _numeric(column: Column) -> str:
    """As a number, null where the text is none (strings have no order in Kusto; a time or truth value is no number)."""
    return column.text if column.type in _NUMERIC else f"todouble({_string(column)})"


def _cidr(column: Column, networks: Sequence[Cidr]) -> Piece:
    """Right for IPv4, IPv6 and IPv4-mapped addresses; null or false for everything else.

    ipv6_is_match() takes both families in one call. Over several networks one call a family: the IPv4 function gives
    null on IPv6 text and the reverse, `true or null` is true and the rest is guarded where a `not` stands above.
    Mapped addresses (::ffff:a.b.c.d) are found through the IPv6 form of each IPv4 network, in hex, as a dotted one
    changes the prefix. To the IPv6 functions plain IPv4 text is such an address as well: an IPv6 network that holds
    those (::/0) asks for a colon.
    """
    subject = _string(column)
    v4 = tuple(dict.fromkeys(n.network for n in networks if n.version == 4))
    v6 = tuple(dict.fromkeys(n.network for n in networks if n.version == 6))
    plain = tuple(n for n in v6 if not _holds_mapped(n))
    wide = tuple(_undotted(n) for n in v6 if _holds_mapped(n))
    pieces: list[Piece] = []
    if len(v4) == 1 and not plain:
        pieces.append(_in_ranges(subject, v4))
    elif v4 or plain:
        if v4:
            pieces.append(Listed(f"ipv4_is_in_any_range({subject}, ", tuple(map(quoted, v4)), ")", nullable=True))
        pieces.append(_in_ranges(subject, (*plain, *map(_mapped, v4))))
    if wide:
        colon = f'{subject} contains ":"'
        pieces.append(Chain("and", (colon, _in_ranges(subject, wide)), nullable=True))
    return pieces[0] if len(pieces) == 1 else Chain("or", tuple(pieces), nullable=True)


def _in_ranges(subject: str, networks: tuple[str, ...]) -> Piece:
    if len(networks) == 1:
        return Unsure(f"ipv6_is_match({subject}, {quoted(networks[0])})")
    return Listed(f"ipv6_is_in_any_range({subject}, ", tuple(map(quoted, networks)), ")", nullable=True)


def _mapped(network: str) -> str:
    """10.0.0.0/8 as ::ffff:a00:0/104."""
    address, _, prefix = network.partition("/")
    a, b, c, d = (int(part) for part in address.split("."))
    return f"::ffff:{a << 8 | b:x}:{c << 8 | d:x}/{96 + int(prefix or 32)}"


def _holds_mapped(network: str) -> bool:
    """Whether IPv4-mapped addresses are in this IPv6 network."""
    if not network.startswith("::"):
        return False
    from ipaddress import IPv6Network

    return IPv6Network(network).overlaps(IPv6Network("::ffff:0:0/96"))


def _undotted(network: str) -> str:
    """::ffff:10.0.0.0/104, as newer Pythons write it, in hex: a dotted end would make its prefix that of IPv4."""
    head, dot, prefix = network.partition("/")
    return _mapped(f"{head.rpartition(':')[2]}/{int(prefix) - 96}") if "." in head and dot else network


# --------------------------------------------------------------------------------------------------------------------
# Cost


_REACH = {"stored": 0, "property": 10}  # what it costs to reach a column


def cost(expr: Expr[Column]) -> int:
    """How dear a conjunct is, for its place in the query: equality first, scans of text after, regexes and negations
    last.
    """
    if isinstance(expr, Match):
        test, base = expr.test, _REACH.get(expr.subject.kind, 12)
        if isinstance(test, Text):
            return base + _form(test.parts, test.cased).cost
        if isinstance(test, Number | Bool | Null | Exists):
            return base + 1
        return base + (5 if isinstance(test, Regex) else 4)
    if isinstance(expr, Not):
        return 20 + cost(expr.item)
    if isinstance(expr, And):
        return min(map(cost, expr.items), default=0)
    found: list[int] = []
    column, base = None, 0
    for item in expr.items:
        if isinstance(item, Match) and isinstance(item.test, Text):
            if item.subject is not column:  # the values of a list have one subject
                column = item.subject
                base = _REACH.get(column.kind, 12)
            found.append(base + _form(item.test.parts, item.test.cased).cost)
        else:
            found.append(cost(item))
    return max(found, default=0)
