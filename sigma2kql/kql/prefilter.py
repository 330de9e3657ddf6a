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
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import repeat
from math import inf
from typing import TypeAlias

from sigma2kql.kql.layout import Listed
from sigma2kql.model.literals import identifier, quoted
from sigma2kql.model.tree import ANY, Column, Expr, Match, Not, OneOf, Or, Part, Regex, Text

# Over 128 values Kusto does not use the index (Microsoft Learn: "has_any operator").
MOST = 128
_DELIMITERS = " !\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~"
_WORDS = re.compile(f"[^{re.escape(_DELIMITERS)}]+")  # what stands between them
# Several terms that may be tested as one text: what stands between them is written the same way in JSON and XML.
_TOGETHER = re.compile(r"[A-Za-z0-9_]+(?:[. -][A-Za-z0-9_]+)+")
# What stands for a wildcard beside a word: a word with an unknown character in it is no term.
_UNKNOWN, _DELIMITER = "\0", "|"
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


_ODD = 100  # how much dearer any term is that has an underscore, is short, common or several

_Term: TypeAlias = tuple[int, str, str]  # how dear it is, its column, the term
# Terms joined by `or`, each once: how dear they are together, and whether the tree holds an equality already, which the
# index answers: then they are free.
_Gate: TypeAlias = tuple[int, bool, Iterable[_Term]]


def prefilter(where: Expr[Column]) -> list[str | Listed] | None:
    """The cheapest such test as alternatives joined by `or`; None where there is none or none is needed."""
    gate = _gate(where, inf)
    if gate is None or gate[1]:
        return None
    by_column: dict[str, dict[str, str]] = {}
    for _, column, term in gate[2]:
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
        test = expr.test
        if isinstance(test, Text):
            return _of_text(test, expr.subject, limit)
        return _of_pattern(test, expr.subject, limit) if isinstance(test, Regex) else None
    if isinstance(expr, Not):
        return None
    if isinstance(expr, Or):
        return _union(map(_gate, expr.items, repeat(limit)), limit)
    best: _Gate | None = None
    for item in expr.items:
        gate = _gate(item, limit)
        if gate is not None:
            best = gate
            limit, is_free, _ = gate
            if is_free:
                break  # nothing is cheaper
    return best


def _union(gates: Iterable[_Gate | None], limit: float) -> _Gate | None:
    """For an `or`: every branch must have one."""
    every: dict[_Term, None] = {}
    cost, free = 0, True
    for gate in gates:
        if gate is None:
            return None
        _, is_free, terms = gate
        free = free and is_free
        for term in terms:
            if term not in every:
                every[term] = None
                cost += term[0]
        if not free and (cost >= limit or len(every) > MOST):
            return None
    return cost, free, every


def _of_pattern(test: Regex, column: Column, limit: float) -> _Gate | None:
    from sigma2kql.regex import required_literals

    best: _Gate | None = None
    for clause in required_literals(test.pattern, test.flags):
        gate = _union([_of_text(text, column, limit, False) for text in clause], limit)
        if gate is not None:
            best, limit = gate, gate[0]
    return best


def _of_text(test: Text, column: Column, limit: float, compared: bool = True) -> _Gate | None:
    """`compared`: the test stands in the query, where a whole text is an equality."""
    is_stored = column.kind == "stored"
    if len(column.reads) != 1 or (column.type not in ("string", "dynamic") if is_stored else column.kind == "computed"):
        return None
    parts, free = test.parts, False
    if len(parts) == 1 and compared and isinstance(parts[0], str):
        if test.cased:
            return None  # words that the mapping states (an ActionType ...) stand in too many rows to help
        free = is_stored and column.type == "string"
    found = _term(parts, is_stored)
    if found is None or (found[0] >= limit and not free):
        return None
    cost, term = found
    return cost, free, ((cost, identifier(column.reads[0]), term),)


@lru_cache(maxsize=4096)  # rules look for the same programs
def _term(parts: tuple[Part, ...], as_stored: bool) -> tuple[int, str] | None:
    """How dear the best one is, and the term: short, but of four characters or more and not common; else several terms
    as one text.
    """
    texts = [part if isinstance(part, str) else _UNKNOWN if part is ANY else _beside(part, as_stored) for part in parts]
    best: tuple[int, str] | None = None
    others: list[str] = []
    for word in _WORDS.findall("".join(texts)):
        if not (word.isalnum() and word.isascii()):
            if "_" in word:
                others.append(word)
        elif len(word) < 4 or word.lower() in _COMMON:
            others.append(word)
        elif best is None or (len(word), word) < best:
            best = len(word), word
    if best is not None and best[0] < _ODD:  # nearly always
        return best[0] + 4, best[1]
    if best is None and len(others) < 2:  # no run of words either
        return (_dearness(others[0]), others[0]) if others and len(others[0]) > 2 and _is_term(others[0]) else None
    return min([(_dearness(term), term) for term in _terms(parts, texts)], default=None)


def _is_term(word: str) -> bool:
    return word.isascii() and word.replace("_", "").isalnum()


def _dearness(term: str) -> int:
    dearness = len(term) + 4
    if not term.isalnum():
        dearness += 100 * ("_" in term) + 150 * (not term.replace("_", "").isalnum())
    if len(term) < 4:
        dearness += 200
    return dearness + 400 if term.lower() in _COMMON else dearness


def _terms(parts: Sequence[Part], texts: Sequence[str]) -> Iterator[str]:
    """The runs of at least three characters that are whole terms in every text of this shape, and runs of them.

    `texts`: the parts, with a character for each wildcard.
    """
    around = ("", *texts, "")
    for number, part in enumerate(parts):
        if not isinstance(part, str):
            continue
        text = "".join(around[number : number + 3])
        whole = [word for word in _WORDS.finditer(text) if _is_term(word[0])]
        yield from [word[0] for word in whole if len(word[0]) >= 3]
        if len(whole) > 1 and (several := _TOGETHER.fullmatch(text, whole[0].start(), whole[-1].end())):
            yield several[0]


def _beside(part: Part, as_stored: bool) -> str:
    """A character that says what a wildcard is to the words beside it.

    `as_stored`: the text stands in the column as it is; inside JSON or XML a character beyond ASCII may be written as
    a code.
    """
    if isinstance(part, OneOf) and all(
        char in _DELIMITERS or (as_stored and not char.isascii() and not char.isalnum()) for char in part.chars
    ):
        return _DELIMITER
    return _UNKNOWN
