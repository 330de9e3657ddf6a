"""One test on one column as KQL: the only place where operators and functions of the language are written.

Place in the flow: under emission. Invariant: for every row, including those with empty or null columns, the predicate
is true exactly when the test holds; it may be null instead of false only where `nullable` says so.

Sources: Microsoft Learn, "Query null values", "String operators", the page of each function.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, TypeAlias, assert_never

from sigma2kql.diagnostics.diagnostic import frozen
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


@frozen
class Unsure:
    """A finished predicate that may be null instead of false."""

    text: str


@frozen
class Listed:
    """A predicate over a list of values, which may be broken over lines."""

    head: str
    values: tuple[str, ...]
    tail: str
    nullable: bool = False


@frozen
class Chain:
    """Pieces joined by `and` or `or`; `nullable` as a whole."""

    word: str
    items: tuple[Piece, ...]
    nullable: bool = False


@frozen
class Wrap:
    """A piece inside a call: `not(...)`, `coalesce(..., false)`."""

    head: str
    item: Piece
    tail: str
    nullable: bool = False


Piece = str | Unsure | Listed | Chain | Wrap  # a text is a finished predicate that is never null


def nullable(piece: Piece) -> bool:
    """Whether it may be null instead of false."""
    return isinstance(piece, Unsure) or (not isinstance(piece, str) and piece.nullable)


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


@frozen
class KustoRegex(Regex):
    """A pattern that is in Kusto's dialect already, and finds nothing in the empty text."""


def single(leaf: Match[Column], opposite: bool = False) -> Piece | None:
    """One test; with `opposite` its exact complement where the language has one (else None)."""
    column, test = leaf.subject, leaf.test
    if isinstance(test, Text):
        _, _, operator, lowers, literal = _form(test.parts, test.cased)
        if operator is None:
            return _unshaped(column, test, opposite)
        subject = column.text if column.type == "string" else f"tostring({column.text})"
        if lowers:
            subject = f"tolower({subject})"
        return f"{subject} {_OPERATORS[operator][opposite]} {literal}"
    match test:
        case KustoRegex(pattern, flags):
            return None if opposite else _regex(column, f"(?{flags}){pattern}" if flags else pattern)
        case Regex(pattern, flags):
            return None if opposite else _translated(column, pattern, flags)
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


def scans(items: Sequence[Expr[Column]]) -> Chain | None:
    """An `or` of parts of a text, all on one column and none of them joining a list; None where it is anything else.

    Most lists of values are this, and nothing else need be asked of them.
    """
    if len(items) < 2 or not isinstance(items[0], Match):
        return None
    column = items[0].subject
    subject = _string(column)
    found: list[Piece] = []
    for item in items:
        if not (isinstance(item, Match) and item.subject is column and isinstance(item.test, Text)):
            return None
        kind, _, operator, lowers, literal = _form(item.test.parts, item.test.cased)
        if kind is not None or operator is None or lowers:
            return None
        found.append(f"{subject} {_OPERATORS[operator][0]} {literal}")
    return Chain("or", tuple(found))


def folds(leaf: Match[Column]) -> str | None:
    """The kind of list that this test may join with others on the same column in an `or`, if any."""
    test = leaf.test
    if isinstance(test, Text):
        return _form(test.parts, test.cased)[0]
    match test:
        case Number("=="):
            return "number" if leaf.subject.type in _NUMERIC else "cased"
        case Cidr():
            return "cidr"
        case _:
            return None


def choice(kind: str, group: Sequence[Match[Column]], opposite: bool = False) -> Piece | None:
    """Tests of one kind on one column, joined by `or`, as one list."""
    if len(group) == 1:
        return single(group[0], opposite)
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
        _, _, operator, _, literal = _form(leaf.test.parts, leaf.test.cased)
        return literal, operator is not None and operator[1]
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


# How a test for a text is written, whatever its column: the kind of list that it may join and how dear it is; for the
# plain shapes also the operator, whether the subject goes through tolower(), and the literal.
_Form: TypeAlias = tuple[str | None, int, tuple[Shape, bool] | None, bool, str]


@lru_cache(maxsize=4096)  # one test is asked several times on its way into a query, and rules look for the same texts
def _form(parts: tuple[Part, ...], cased: bool) -> _Form:
    plain = shape(parts)
    if plain is None:
        folds = parts and parts != (ANY,) and not _ends(parts)
        return ("wild cased" if cased else "wild") if folds else None, 5 if ANY in parts else 2, None, False, ""
    how, text = plain
    lowers = not cased and not text.isascii() and folds_beyond_ascii(text)
    literal = quoted(lowered(text) if lowers else text)
    if how != "equals":
        return None, 3, (how, cased or lowers), lowers, literal
    # without letters: the same result; works on an index lookup of the exact text
    exact = cased or lowers or _caseless(text)
    return "lower" if lowers else "cased" if cased else "text", 1, (how, exact), lowers, literal


def _unshaped(column: Column, test: Text, opposite: bool) -> Piece | None:
    if test.parts == ():
        return _presence(column, present=opposite)
    if test.parts == (ANY,):
        return _presence(column, present=not opposite)
    if opposite:
        return None
    if (ends := _ends(test.parts)) is not None:
        first = single(Match(column, Text((ends[0], ANY), test.cased)))
        last = single(Match(column, Text((ANY, ends[1]), test.cased)))
        assert first is not None
        assert last is not None
        return Chain("and", (first, last))
    return _wildcards(column, [test])


def _wildcards(column: Column, tests: Sequence[Text]) -> str:
    """Texts of one case with wildcards inside, any of them; each holds a character, so no empty text matches."""
    from sigma2kql.regex import wildcard_regex

    return _regex(column, wildcard_regex([test.parts for test in tests], tests[0].cased))


def _ends(parts: tuple[Part, ...]) -> tuple[str, str] | None:
    """Begin and end of a text, where both can be tested by themselves."""
    match parts:
        case (str(start), any_, str(end)) if any_ is ANY and not _meet(start, end):
            return start, end
    return None


def _meet(start: str, end: str) -> bool:
    """Whether the end of `start` may also be the beginning of `end`: then a text may be too short for both."""
    first, last = start.lower(), end.lower()
    return any(first.endswith(last[:n]) for n in range(1, min(len(first), len(last)) + 1))


def _translated(column: Column, pattern: str, flags: str) -> Piece:
    """An empty text is a missing one here, and nothing is found in a missing text."""
    from sigma2kql.regex import matches_empty, translate

    found = _regex(column, translate(pattern, flags))
    if matches_empty(pattern, flags):
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
            return base + _form(test.parts, test.cased)[1]
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
            found.append(base + _form(item.test.parts, item.test.cased)[1])
        else:
            found.append(cost(item))
    return max(found, default=0)
