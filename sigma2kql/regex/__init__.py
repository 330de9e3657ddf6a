"""Regular expressions for Kusto: rewrite Sigma's `|re`, build them for wildcards, and say what they imply.

Place in the flow: a leaf beside the model; the loader checks patterns with `translate`, the emitter writes what it
gives, `evaluate` runs it with `search`. Invariant: only whether a text matches counts (no captures, no greediness),
and every pattern given out is legal and means the same in Kusto's dialect (the Rust `regex` crate; Microsoft Learn,
"Regex syntax" and "matches regex operator") as the pattern read.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, reduce
from itertools import product
from typing import assert_never

from sigma2kql.model.tree import ANY, OneOf, Part, Text
from sigma2kql.regex.parse import SCRIPTS, RegexProblem, parse
from sigma2kql.regex.pattern import Char, Choice, Dot, Edge, Group, Node, Repeat, Sequence, Set, Switch
from sigma2kql.regex.wildcards import wildcard_regex
from sigma2kql.regex.write import write

__all__ = ["RegexProblem", "matches_empty", "required_literals", "search", "translate", "wildcard_regex"]


@lru_cache(maxsize=64)
def translate(pattern: str, flags: str = "") -> str:
    """The text of a Sigma `|re` pattern for a KQL literal; `flags`, a subset of "ims", becomes the prefix `(?ims)`.

    Groups no longer capture (Kusto allows 16), so the result may hold any number of them. The translation of a
    translation is itself. Raises RegexProblem, with offsets into `pattern`, for what Kusto cannot run.
    """
    prefix = f"(?{''.join(sorted(flags))})" if flags else ""
    return prefix + write(_tree(pattern, flags))


@lru_cache(maxsize=256)
def _tree(pattern: str, flags: str = "") -> Node:
    """One pattern is asked for its translation, what it implies and whether it matches: it is read once."""
    return parse(pattern, flags)


# --------------------------------------------------------------------------------------------------------------------
# Running: a set of positions is an integer whose bit p is position p, so that all starts are tried at once and the time
# is bounded by design (Cameron et al., "Bitwise data parallelism in regular expression matching", 2014).


def matches_empty(pattern: str, flags: str = "") -> bool:
    """Whether it matches the empty text (exact)."""
    return _Search("").ends(_tree(pattern, flags), 1) != 0


def search(translated: str, text: str) -> bool:
    """Whether a translated pattern matches somewhere in the text, as Kusto decides it (`$` only at the very end)."""
    return _Search(text).ends(_tree(translated), (2 << len(text)) - 1) != 0


class _Search:
    """One text, and for each leaf of a pattern the positions at which a character fits it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.reversed = text[::-1]
        self.size = len(text)
        self.masks: dict[Node, int] = {}

    def mask(self, leaf: Char | Dot | Set) -> int:
        if leaf not in self.masks:
            bits = self.reversed.translate(_Bits(accepts(leaf)))
            self.masks[leaf] = int(bits, 2) if bits else 0
        return self.masks[leaf]

    def ends(self, node: Node, starts: int) -> int:
        """Where a match of `node` can end that begins at one of `starts`."""
        match node:
            case Char() | Dot() | Set():
                return (starts & self.mask(node)) << 1
            case Edge(kind, _):
                return starts & self.edge(kind)
            case Sequence(items):
                return reduce(lambda here, item: self.ends(item, here) if here else 0, items, starts)
            case Choice(items):
                return reduce(lambda found, item: found | self.ends(item, starts), items, 0)
            case Group(item, _, _):
                return self.ends(item, starts)
            case Repeat(item, low, high, _):
                return self.repeat(item, low, high, starts)
            case Switch():
                return starts
            case _:
                assert_never(node)

    def repeat(self, item: Node, low: int, high: int | None, starts: int) -> int:
        for _ in range(low):
            starts = self.ends(item, starts)
            if not starts:
                return 0
        if high is None and isinstance(item, Char | Dot | Set):
            mask = self.mask(item)  # the carry of an addition runs through all neighbouring fits at once
            return (((starts & mask) + mask) ^ mask) | starts
        reached = frontier = starts
        count = low
        while frontier and (high is None or count < high):
            frontier = self.ends(item, frontier) & ~reached
            reached |= frontier
            count += 1
        return reached

    def edge(self, kind: str) -> int:
        last, breaks = 1 << self.size, self.mask(Char("\n")) if kind.startswith("line") else 0
        match kind:
            case "start":
                return 1
            case "end":
                return last
            case "line start":
                return 1 | breaks << 1
            case "line end":
                return last | breaks
        words = self.mask(Set(("\\w",)))
        boundary = words ^ words << 1
        return boundary if kind == "word" else boundary ^ ((last << 1) - 1)


class _Bits(dict[int, str]):
    """A translation table filled as characters turn up: "1" for those that fit."""

    def __init__(self, accepts: Callable[[str], bool]) -> None:
        super().__init__()
        self.accepts = accepts

    def __missing__(self, code: int) -> str:
        bit = self[code] = "1" if self.accepts(chr(code)) else "0"
        return bit


def accepts(leaf: Char | Dot | Set) -> Callable[[str], bool]:
    """Whether a character fits a leaf of a pattern."""
    match leaf:
        case Char(value, fold):
            folded = _cases(value) if fold else {value}
            return lambda c: c in folded or (fold and not folded.isdisjoint(_cases(c)))
        case Dot(newline):
            return lambda c: newline or c != "\n"
        case Set(items, negated, fold):
            return lambda c: any(_in_item(v, i) for v in (_cases(c) if fold else {c}) for i in items) != negated
        case _:
            assert_never(leaf)


def _cases(char: str) -> set[str]:
    """The character in its other cases, as far as each is one character (simple case folding)."""
    return {v for v in (char, char.lower(), char.upper(), char.casefold()) if len(v) == 1}


_POSIX: dict[str, Callable[[str], bool]] = {
    "alnum": str.isalnum,
    "alpha": str.isalpha,
    "ascii": str.isascii,
    "blank": lambda c: c in " \t",
    "cntrl": lambda c: c < " " or c == "\x7f",
    "digit": str.isdigit,
    "graph": lambda c: "!" <= c <= "~",
    "lower": str.islower,
    "print": lambda c: " " <= c <= "~",
    "punct": lambda c: "!" <= c <= "~" and not c.isalnum(),
    "space": lambda c: c in " \t\n\r\f\v",
    "upper": str.isupper,
    "word": lambda c: c.isalnum() or c == "_",
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}


def _in_item(char: str, item: tuple[str, str] | str) -> bool:
    if not isinstance(item, str):
        return item[0] <= char <= item[1]
    if item.startswith("[:"):
        name = item[2:-2].lstrip("^")
        return (char.isascii() and _POSIX[name](char)) != item.startswith("[:^")
    kind, category = item[1], unicodedata.category(char)
    match kind.lower():
        case "d":
            holds = category == "Nd"
        case "w":
            holds = category[0] in "LM" or category in ("Nd", "Nl", "Pc") or char in "\u200c\u200d"
        case "s":
            holds = char.isspace() and not "\x1c" <= char <= "\x1f"
        case _:
            name = item[3:-1]
            holds = (
                unicodedata.name(char, "").startswith(name.upper()) if name in SCRIPTS else category.startswith(name)
            )
    return holds != kind.isupper()


# --------------------------------------------------------------------------------------------------------------------
# What every match holds

_MAX_BRANCHES = 16
_MAX_GROUP = 128
_START, _END = "start", "end"
_Piece = tuple[Part, bool]  # a single character or OneOf, and whether other cases of it match too
_Run = tuple[_Piece | str, ...]  # pieces that follow one another in the text, and edges of the text
_Clauses = tuple[tuple[Text, ...], ...]


@lru_cache(maxsize=256)
def required_literals(pattern: str, flags: str = "") -> _Clauses:
    """What every matching text satisfies: of each group at least one `Text` (an "and" of "or"s; may be empty).

    A `Text` here is a shape like the rule's own: `(ANY, "lit", ANY)` means the text contains the literal and nothing
    is known about its neighbours; without the leading (trailing) ANY the literal stands at the very start (end) of the
    text; a `OneOf` beside it names all characters that can stand there. `cased` False means that other ASCII cases
    match too. So the rules for index terms (which neighbours delimit a term) are those for `contains`, `startswith`,
    `endswith` and `=~` of the same shape. Sound also for `(?i)`, where K (U+212A) matches k and ſ (U+017F) matches s:
    those letters are given as OneOf. Groups of more than 128 alternatives are left out.
    """
    runs, clauses = _facts(_tree(pattern, flags))
    return tuple(dict.fromkeys(clauses if runs is None else _clause(runs)))


def _facts(node: Node) -> tuple[tuple[_Run, ...] | None, _Clauses]:
    """All texts of `node` as runs where they are few, else None and what all of them hold."""
    if isinstance(node, Char):
        return _char_run(node.value, node.fold), ()
    match node:
        case Set(items, negated, fold):
            chars = _few_chars(items) if not negated else None
            return (_leaf_run(chars, fold) if chars else None), ()
        case Dot():
            return None, ()
        case Edge(kind, _):
            return (((kind,),) if kind in (_START, _END) else ((),)), ()
        case Switch():
            return ((),), ()
        case Group(item, _, _):
            return _facts(item)
        case Sequence(items):
            return _sequence_facts(items)
        case Choice(items):
            return _choice_facts(items)
        case Repeat(item, low, high, _):
            runs, clauses = _facts(item)
            if runs is not None and high == 1 and len(runs) < _MAX_BRANCHES:
                return tuple(dict.fromkeys((*runs, ()))) if low == 0 else runs, ()
            if runs is not None and low == high and low <= _MAX_BRANCHES:
                return _sequence_facts((item,) * low)
            if low == 0:
                return None, ()
            return None, clauses if runs is None else _clause(runs)
        case _:
            assert_never(node)


def _few_chars(items: tuple[tuple[str, str] | str, ...]) -> set[str] | None:
    chars: set[str] = set()
    for item in items:
        if isinstance(item, str) or ord(item[1]) - ord(item[0]) >= _MAX_BRANCHES:
            return None
        chars.update(map(chr, range(ord(item[0]), ord(item[1]) + 1)))
    return chars if len(chars) <= _MAX_BRANCHES else None


@lru_cache(maxsize=1024)
def _char_run(char: str, fold: bool) -> tuple[_Run, ...] | None:
    return _leaf_run({char}, fold)


def _leaf_run(chars: set[str], fold: bool) -> tuple[_Run, ...] | None:
    if fold and any(not c.isascii() for c in chars):
        return None
    if fold:
        chars = chars | {v for c in chars for v in (c.lower(), c.upper())}
        chars |= {"\u212a"} if "k" in chars else set()
        chars |= {"\u017f"} if "s" in chars else set()
    if len(chars) == 1:
        return (((min(chars), False),),)
    if len(chars) == 2 and min(chars).isascii() and min(chars).lower() == max(chars):
        return (((max(chars), True),),)
    return (((OneOf("".join(sorted(chars))), False),),)


def _sequence_facts(items: tuple[Node, ...]) -> tuple[tuple[_Run, ...] | None, _Clauses]:
    clauses: list[tuple[Text, ...]] = []
    current: tuple[_Run, ...] = ((),)
    whole = True
    for runs, inner in _joined(items):
        if runs is not None and len(current) * len(runs) <= _MAX_BRANCHES:
            current = tuple(a + b for a, b in product(current, runs))
            continue
        whole = False
        clauses.extend((*_clause(current), *inner))
        current = ((),) if runs is None else runs
    if whole:
        return current, ()
    return None, (*clauses, *_clause(current))


def _joined(items: tuple[Node, ...]) -> Iterator[tuple[tuple[_Run, ...] | None, _Clauses]]:
    """The facts of each item, those of neighbours with one run each as one: a long text is put together once."""
    row: list[_Piece | str] = []
    for item in items:
        runs, inner = _facts(item)
        if runs is not None and len(runs) == 1:
            row.extend(runs[0])
            continue
        if row:
            yield (tuple(row),), ()
            row = []
        yield runs, inner
    if row:
        yield (tuple(row),), ()


def _choice_facts(items: tuple[Node, ...]) -> tuple[tuple[_Run, ...] | None, _Clauses]:
    branches = [_facts(item) for item in items]
    if all(runs is not None for runs, _ in branches):
        together = tuple(dict.fromkeys(run for runs, _ in branches for run in runs or ()))
        if len(together) <= _MAX_BRANCHES:
            return together, ()
    best: list[Text] = []
    for runs, clauses in branches:
        options = clauses if runs is None else _clause(runs)
        if not options:
            return None, ()
        best.extend(max(options, key=_strength))
    return None, ((tuple(dict.fromkeys(best)),) if len(best) <= _MAX_GROUP else ())


def _strength(clause: Iterable[Text]) -> int:
    """The length of the longest literal that the weakest alternative offers."""
    return min(max(len(p) for p in text.parts if isinstance(p, str)) for text in clause)


def _clause(runs: tuple[_Run, ...]) -> _Clauses:
    texts = [_as_text(run) for run in runs]
    return (tuple(dict.fromkeys(t for t in texts if t)),) if all(texts) else ()


def _as_text(run: _Run) -> Text | None:
    """A run as a shape, or None where it holds no literal character."""
    start, end = run[:1] == (_START,), run[-1:] == (_END,)
    pieces = [p for p in run if not isinstance(p, str)]
    parts: list[Part] = [] if start else [ANY]
    for part, _ in pieces:
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        else:
            parts.append(part)
    if not any(isinstance(p, str) for p in parts):
        return None
    return Text((*parts, *(() if end else (ANY,))), cased=not any(folded for _, folded in pieces))
