"""A term test that a rule implies: Kusto answers `has` from its index, where `contains`, `endswith` and regexes scan
text.

Place in the flow: beside emission. Invariant: the test given holds on every row on which the tree holds, so that
putting it in front changes no result. Proof of each step: Microsoft Learn, "String operators" (a term is a maximal
run of letters and digits; `has` finds whole terms); a run in a literal is a whole term of every text that contains
the literal when printable ASCII characters that are no letters or digits (and no underscore, which readings differ
on) stand on both its sides inside the literal, or when it ends where the text does. A run with underscores in it is
tested as a whole, which holds whether an underscore divides terms or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from math import inf
from typing import TypeAlias

from sigma2kql.errors import frozen
from sigma2kql.literals import identifier, quoted
from sigma2kql.model import Column, Expr, Match, Not, OneOf, Or, Part, Regex, Text
from sigma2kql.operators import Listed

# Over 128 values Kusto does not use the index (Microsoft Learn: "has_any operator").
MOST = 128
_RUN = re.compile(r"_*[A-Za-z0-9][A-Za-z0-9_]*")
# Several terms that may be tested as one text: what stands between them is written the same way in JSON and XML.
_TOGETHER = re.compile(r"[A-Za-z0-9_]+(?:[. -][A-Za-z0-9_]+)+")
_DELIMITERS = frozenset(" !\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~")
# Terms that stand in most rows of their column: true, but no help.
_COMMON = frozenset(
    (
        "exe",
        "dll",
        "com",
        "windows",
        "system32",
        "http",
        "https",
        "www",
        "program",
        "files",
        "users",
        "microsoft",
        "software",
    )
)


_Terms: TypeAlias = dict[tuple[str, str], int]  # (column, term) -> how dear it is


@frozen
class _Gate:
    """Terms joined by `or`, and how dear they are together. `free`: the tree holds an equality already, which the
    index answers.
    """

    terms: _Terms
    cost: int
    free: bool = False


def prefilter(where: Expr[Column]) -> list[str | Listed] | None:
    """The cheapest such test as alternatives joined by `or`; None where there is none or none is needed."""
    gate = _gate(where, inf)
    if gate is None or gate.free:
        return None
    by_column: dict[str, dict[str, str]] = {}
    for column, term in gate.terms:
        by_column.setdefault(column, {}).setdefault(term.lower(), term)  # has folds case
    return [
        Listed(f"{column} has_any (", tuple(map(quoted, terms.values())), ")")
        if len(terms) > 1
        else f"{column} has {quoted(*terms.values())}"
        for column, terms in by_column.items()
    ]


def _gate(expr: Expr[Column], limit: float) -> _Gate | None:
    """The cheapest one of a tree, where it is free or cheaper than `limit`."""
    if isinstance(expr, Match):
        return _leaf(expr, limit)
    if isinstance(expr, Not):
        return None
    if isinstance(expr, Or):
        return _union(map(_gate, expr.items, repeat(limit)), limit)
    best: _Gate | None = None
    for item in expr.items:
        gate = _gate(item, limit)
        if gate is not None:
            if gate.free:
                return gate  # nothing is cheaper
            best, limit = gate, gate.cost
    return best


def _union(gates: Iterable[_Gate | None], limit: float) -> _Gate | None:
    """For an `or`: every branch must have one."""
    terms: _Terms = {}
    cost, free = 0, True
    for gate in gates:
        if gate is None:
            return None
        free = free and gate.free
        for term, dearness in gate.terms.items():
            if term not in terms:
                terms[term] = dearness
                cost += dearness
        if not free and (cost >= limit or len(terms) > MOST):
            return None
    return _Gate(terms, cost, free)


def _leaf(leaf: Match[Column], limit: float) -> _Gate | None:
    column, test = leaf.subject, leaf.test
    is_stored = column.kind == "stored"
    if len(column.reads) != 1 or (column.type not in ("string", "dynamic") if is_stored else column.kind == "computed"):
        return None
    if isinstance(test, Text):
        whole = len(test.parts) == 1 and isinstance(test.parts[0], str)
        if whole and test.cased:
            return None  # words that the mapping states (an ActionType ...) stand in too many rows to help
        free = whole and is_stored and column.type == "string"
        return _of_term(column, test, limit, free)
    if isinstance(test, Regex):
        from sigma2kql.regex import required_literals

        best: _Gate | None = None
        for clause in required_literals(test.pattern, test.flags):
            gate = _union([_of_term(column, text, limit) for text in clause], limit)
            if gate is not None:
                best, limit = gate, gate.cost
        return best
    return None


def _of_term(column: Column, test: Text, limit: float, free: bool = False) -> _Gate | None:
    found = _term(test.parts, column.kind == "stored")
    if found is None or (found[0] >= limit and not free):
        return None
    return _Gate({(identifier(column.reads[0]), found[1]): found[0]}, found[0], free)


@lru_cache(maxsize=4096)  # rules look for the same programs
def _term(parts: tuple[Part, ...], as_stored: bool) -> tuple[int, str] | None:
    """How dear the best one is, and the term: short, but of four characters or more and not common; else several terms
    as one text.
    """
    return min([(_dearness(term), term) for term in _terms(parts, as_stored)], default=None)


def _dearness(term: str) -> int:
    dearness = len(term) + 4
    if not term.isalnum():
        dearness += 100 * ("_" in term) + 150 * (not term.replace("_", "").isalnum())
    if len(term) < 4:
        dearness += 200
    return dearness + 400 if term.lower() in _COMMON else dearness


def _terms(parts: Sequence[Part], as_stored: bool) -> list[str]:
    """The runs of at least three characters that are whole terms in every text of this shape.

    `as_stored`: the text stands in the column as it is; inside JSON or XML a character beyond ASCII may be written as
    a code.
    """
    found: list[str] = []
    for number, part in enumerate(parts):
        if not isinstance(part, str):
            continue
        whole: list[tuple[int, int]] = []
        for start, end in map(re.Match.span, _RUN.finditer(part)):
            if (part[start - 1] in _DELIMITERS if start else _edge(parts, number - 1, as_stored)) and (
                part[end] in _DELIMITERS if end < len(part) else _edge(parts, number + 1, as_stored)
            ):
                whole.append((start, end))
                if end - start >= 3:
                    found.append(part[start:end])
        if len(whole) > 1 and _TOGETHER.fullmatch(part, whole[0][0], whole[-1][1]):
            found.append(part[whole[0][0] : whole[-1][1]])
    return found


def _edge(parts: Sequence[Part], number: int, as_stored: bool) -> bool:
    """Whether the text surely ends before this part, or a delimiter surely stands there."""
    if not 0 <= number < len(parts):
        return True
    neighbour = parts[number]
    return isinstance(neighbour, OneOf) and all(
        char in _DELIMITERS or (as_stored and not char.isascii() and not char.isalnum()) for char in neighbour.chars
    )
