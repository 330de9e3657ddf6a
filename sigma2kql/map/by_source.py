"""How true a query is on the rows of each source that writes its table.

Place in the flow: the end of map, on the finished tree. Invariant: a source's verdict is `exact` only where no row that
this source may write is selected against the rule's meaning or left out against it; what a source's events do not have
at all is missing, as Sigma means it, and no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, assert_never

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Span, diagnostic
from sigma2kql.map.field_places import Rows
from sigma2kql.map.sources import title_of
from sigma2kql.map.transforms.paths import bare_form, sees_doubled
from sigma2kql.model.tree import (
    And,
    Column,
    Expr,
    Filling,
    FillingKind,
    Match,
    Not,
    Null,
    SameAs,
    Test,
    Text,
    Verdict,
)

_CODES: Mapping[Verdict, Code] = {"narrower": "W406", "broader": "W407"}
_WORSE: dict[Verdict, int] = {"exact": 0, "broader": 1, "narrower": 2}
Fills = Mapping[str, Sequence[tuple[int, Filling]]]  # column -> (bit of a source, what it puts there)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """narrower before broader before exact: an attack that is missed weighs more than a row too many."""
    return max(verdicts, key=_WORSE.__getitem__, default="exact")


def together(parts: Sequence[Mapping[str, Verdict]]) -> dict[str, Verdict]:
    """The verdicts by source of what is made of several queries."""
    sources = dict.fromkeys(source for part in parts for source in part)
    return {source: worst(part[source] for part in parts if source in part) for source in sources}


class _Sets(NamedTuple):
    """Of a tree, sets of sources as bits: where the query never (always) holds, where the rule's meaning never (always)
    does, and where some row is missed (the meaning holds, the query does not) or found beside it.
    """

    never: int = 0
    always: int = 0
    never_meant: int = 0
    always_meant: int = 0
    missed: int = 0
    beside: int = 0


_PLAIN = _Sets()


class Problem(NamedTuple):
    """A warning without its place: code, message, the rule's field that it is about (empty: none), a hint."""

    code: Code
    message: str
    field: str = ""
    hint: str = ""


class BySource(NamedTuple):
    """The verdict of each source, the worst of those that are assumed to be there, what is worth a warning, the
    sentences behind it, and whether the query is exact for a source that a table is chosen for.
    """

    verdict: Verdict
    verdicts: Mapping[str, Verdict]
    problems: tuple[Problem, ...]
    reasons: tuple[str, ...]
    exact_for_one: bool
    dead: str = ""  # why no source that writes the table can ever match, where that is so

    def diagnostics(self, place: Callable[[str], Span | None]) -> list[Diagnostic]:
        """The warnings, each where the rule asks for its field."""
        return [diagnostic(p.code, p.message, place(p.field) if p.field else None, p.hint) for p in self.problems]


Met = tuple[tuple[str, int], ...]  # the columns of a tree that sources fill otherwise, and those sources as bits


def judge(where: Expr[Column], rows: Rows, named: Mapping[str, str], verdict: Verdict, table: str) -> BySource:
    """The verdicts by source of a query whose `verdict` is known for rows as the mapping's fields describe them.

    `named`: columns that a source fills otherwise -> the rule's field that stands there.
    """
    met: dict[tuple[str, int], None] = {}
    sets = _walk(where, rows.fills, met) if named else _PLAIN
    key = (verdict, table, sets, tuple([(column, named.get(column, column), bits) for column, bits in met]))
    known = rows.judged.get(key)
    if known is None:
        known = rows.judged[key] = _judged(rows, named, verdict, table, sets, tuple(met))
    return known


def _judged(rows: Rows, named: Mapping[str, str], verdict: Verdict, table: str, sets: _Sets, met: Met) -> BySource:
    if rows.writers == ():
        return _unfilled(rows, table)
    verdicts: dict[str, Verdict] = {}
    found: dict[tuple[Code, str, str], list[str]] = {}  # code, sentence, field -> the sources that it is true of
    reasons: dict[str, None] = {}
    for number, writer in enumerate(rows.writers or ()):
        bit = 1 << number
        own: Verdict = "narrower" if (sets.never | sets.missed) & bit else "broader" if sets.beside & bit else "exact"
        verdicts[writer.source] = worst((verdict, own, writer.exactness))
        told = _told(rows.fills, met, bit, named)
        title = title_of(writer.source)
        reasons |= dict.fromkeys(f"{title}: {text}" for text in (*_sentences(told).values(), writer.why) if text)
        if writer.source not in rows.assumed:
            continue
        if told and sets.never & bit:
            found.setdefault(("W408", ", ".join(f"`{name}`" for name in told), next(iter(told))), []).append(title)
        elif own != "exact":
            for name, text in _sentences(told, ("never",)).items():
                found.setdefault((_CODES[own], text, name), []).append(title)
        for name, whys in told.items():
            if "never" in whys.values() and not sets.never & bit:
                found.setdefault(("I406", f"`{name}`", name), []).append(title)
        if writer.exactness != "exact":
            found.setdefault((_CODES[writer.exactness], writer.why, ""), []).append(title)
    problems = [_problem(code, table, _listed(titles), text, name) for (code, text, name), titles in found.items()]
    if rows.strange:
        would = _listed([title_of(source) for source in verdicts])
        problems.append(Problem("W412", f"{table}: none of the sources that are said to be there writes it ({would})"))
    counted = {source: one for source, one in verdicts.items() if source in rows.assumed}
    exact = not counted or any(one == "exact" and source not in rows.rare for source, one in counted.items())
    every = (1 << len(rows.writers or ())) - 1
    dead = f"{table}: no source that writes it has what the rule asks for" if every and not every & ~sets.never else ""
    return BySource(worst((verdict, *counted.values())), verdicts, tuple(problems), tuple(reasons), exact, dead)


def _listed(titles: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))


def _problem(code: Code, table: str, sources: str, text: str, name: str) -> Problem:
    match code:
        case "W406":
            message = f"narrower on rows of {sources}: {text}"
        case "W407":
            message = f"broader on rows of {sources}: {text}"
        case "W408":
            message = f"rows of {sources} can never match: what is asked of {text} is not in them"
        case _:
            message = f"{text} is not in rows of {sources}: a test on it is false there"
    return Problem(code, f"{table}: {message}", name)


def _unfilled(rows: Rows, table: str) -> BySource:
    """A table that is this project's own word for a log which Microsoft has no table for."""
    message = f"{table}: nothing fills this table until a data collection rule of yours does"
    hint = f"a mapping file with `table: YOURS_CL`, `target: {rows.table.target}`, `extends: {table}` names your own"
    return BySource("narrower", {}, (Problem("W411", message, "", hint),), (message,), False)


_Told = Mapping[str, Mapping[str, FillingKind]]  # field -> sentence -> kind of filling


def _sentences(told: _Told, without: tuple[FillingKind, ...] = ()) -> dict[str, str]:
    """Field -> what is said of it, in one sentence."""
    said = {name: [why for why, kind in whys.items() if kind not in without] for name, whys in told.items()}
    return {name: f"`{name}`: {', '.join(whys)}" for name, whys in said.items() if whys}


def _told(fills: Fills, met: Met, bit: int, named: Mapping[str, str]) -> _Told:
    """Every filling of one source that a test of the tree meets."""
    told: dict[str, dict[str, FillingKind]] = {}
    for column, bits in met:
        for one, filling in fills[column]:
            if one == bit & bits:
                told.setdefault(named.get(column, column), {})[filling.why] = filling.kind
    return told


def _walk(expr: Expr[Column], fills: Fills, met: dict[tuple[str, int], None]) -> _Sets:
    """What becomes of the tree on each source's rows; `met` takes the columns that make a difference."""
    if isinstance(expr, Match):
        return _leaf(expr, fills, met)
    if isinstance(expr, Not):
        one = _walk(expr.item, fills, met)
        if one is _PLAIN:
            return one
        return _Sets(one.always, one.never, one.always_meant, one.never_meant, one.beside, one.missed)
    parts: list[_Sets] = []
    plain = False
    for item in expr.items:
        if isinstance(item, Match):
            reads = item.subject.reads
            part = _PLAIN if len(reads) == 1 and reads[0] not in fills else _leaf(item, fills, met)
        else:
            part = _walk(item, fills, met)
        if part is _PLAIN:
            plain = True  # nothing is known of it
        else:
            parts.append(part)
    if not parts:
        return _PLAIN
    some, every = [0] * 6, [0 if plain else -1] * 6
    for part in dict.fromkeys(parts):
        for number, sources in enumerate(part):
            some[number] |= sources
            every[number] &= sources
    if isinstance(expr, And):  # one that never holds decides; all have to hold always
        return _Sets(some[0], every[1], some[2], every[3], some[4] & ~some[2], some[5] & ~some[0])
    return _Sets(every[0], some[1], every[2], some[3], some[4] & ~some[1], some[5] & ~some[3])


def _leaf(leaf: Match[Column], fills: Fills, met: dict[tuple[str, int], None]) -> _Sets:
    """One test on the rows of every source."""
    reads = leaf.subject.reads
    if isinstance(leaf.test, SameAs):
        reads += leaf.test.other.reads
    by_source: dict[int, list[FillingKind]] = {}
    for column in reads:
        for bit, filling in fills.get(column, ()):
            by_source.setdefault(bit, []).append(filling.kind)
    sets = [0] * 6
    differ = 0
    for bit, kinds in by_source.items():
        whole = len(kinds) == len(reads) or isinstance(leaf.test, SameAs)
        on_row = _on_row(_hardest(kinds, whole), leaf.test, whole)
        for number, holds in enumerate(on_row):
            if holds:
                sets[number] |= bit
                differ |= bit
    if not differ:
        return _PLAIN
    for column in reads:
        if column in fills:
            met[column, differ] = None
    return _Sets(*sets)


def _hardest(kinds: list[FillingKind], whole: bool) -> FillingKind | None:
    """What decides of several columns that a computed one reads: a part that is never there alone changes nothing."""
    for kind in ("differs", "doubled", "beside", "bare-name", "lost"):
        if kind in kinds:
            return kind
    return "never" if whole else None


def _on_row(kind: FillingKind | None, test: Test[Column], whole: bool) -> _Sets:
    """A test on a column of that filling, for one source: which of the six hold."""
    empty = isinstance(test, Null) or (isinstance(test, Text) and not test.parts)
    match kind:
        case None:
            return _PLAIN
        case "never":
            return _Sets(never=not empty, always=empty, never_meant=not empty, always_meant=empty)
        case "lost" if not whole:
            return _Sets(missed=True, beside=True)
        case "lost":
            return _Sets(never=not empty, always=empty, missed=not empty, beside=empty)
        case "differs":
            return _Sets(missed=True, beside=True)
        case "beside":
            return _Sets(beside=not empty)
        case "doubled" | "bare-name" if isinstance(test, SameAs):
            return _Sets(missed=True, beside=True)
        case "doubled":
            return _Sets(missed=True, beside=True) if sees_doubled(test) else _PLAIN
        case "bare-name":
            bare = bare_form(test)
            if bare is None:
                return _Sets(never=True, missed=True)
            return _PLAIN if bare is test else _Sets(never=True, never_meant=True)  # its other form stands beside it
        case _:
            assert_never(kind)
