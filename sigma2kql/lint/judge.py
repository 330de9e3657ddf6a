"""Judging rules beyond what compiling says: habits of good rules, and the KQL they give by Microsoft's own parser.

Place in the flow: above the stages, below `sigma2kql check`. Invariant: nothing here changes a query; every finding on
KQL has its place in the rule (or query file) that a person wrote, as exactly as the source map knows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from sigma2kql.api import fault, find_files
from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Source, Span, diagnostic, frozen
from sigma2kql.engines.kusto_language import FunctionSchema, KqlCheck, KqlProblem, KqlSchema
from sigma2kql.kql.query import NO_LIMITS
from sigma2kql.kql.source_map import locate
from sigma2kql.load.documents import decode
from sigma2kql.map.target import Target
from sigma2kql.model.named_rules import NamedRules, place_of
from sigma2kql.model.query_facts import QueryLimits
from sigma2kql.model.tree import (
    Broken,
    Compiled,
    Correlation,
    Document,
    Filter,
    Metadata,
    NativeQuery,
    Origin,
    Rule,
)
from sigma2kql.system.bounded_files import read_file

QUERY_SUFFIX = ".kql"
# Findings that say a name is not in the schema. The mapping files list the columns that rules use, not all that exist.
_UNKNOWN_NAMES = frozenset({"KS142", "KS204", "KS205", "KS208", "KS211"})
_ARGUMENTS = frozenset({"KS119", "KS196"})  # of ASIM parsers, whose filter parameters no mapping file states
_WANTED = ("description", "status", "author", "date")

# --------------------------------------------------------------------------------------------------------------------
# Habits


@frozen
class Seen:
    """What is known over all documents: which only feed correlations, and where an id or a title stood first."""

    fed: Container[tuple[str, int]]
    first: dict[tuple[str, str], Document]


Linted: TypeAlias = Rule | Correlation | Filter
Habit: TypeAlias = Callable[[Linted, Seen], Iterator[Diagnostic]]


def lint(documents: Sequence[Document]) -> list[tuple[Diagnostic, ...]]:
    """For each document what is worth mending in its metadata beyond what loading says (W24x, I240), over all of them.

    Source: Sigma specification 2.1, "Rule attributes"; the checks of SigmaHQ's own rules.
    """
    seen = Seen(NamedRules(documents).fed(documents), {})
    found = []
    for document in documents:
        try:
            if isinstance(document, Broken | NativeQuery):
                notes = list(_repeated("id", "W241", document, seen))
            else:
                notes = [note for habit in HABITS.values() for note in habit(document, seen)]
        except Exception as error:
            notes = [fault(error, document.origin.span)]
        found.append(tuple(notes))
    return found


def _repeated(key: str, code: Code, document: Document, seen: Seen) -> Iterator[Diagnostic]:
    value: str | None = getattr(document.meta, key)
    if not value:
        return
    earlier = seen.first.setdefault((key, value.strip().lower()), document)
    if earlier is not document:
        source = earlier.origin.source
        place = f"{source.path}:{source.position(_key(earlier, key).start)[0]}"
        yield diagnostic(code, f"the {key} `{value}` is used before, at {place}", _key(document, key))


def _no_id(document: Linted, seen: Seen) -> Iterator[Diagnostic]:
    if document.meta.id is None and not (place_of(document) in seen.fed and document.meta.name):
        yield diagnostic("W240", "the document has no id", _key(document, "title"), "generate one, e.g. with uuidgen")


def _no_level(document: Linted, seen: Seen) -> Iterator[Diagnostic]:
    if _is_alert(document, seen) and document.meta.level is None and "level" not in _keys(document):
        hint = "one of informational, low, medium, high, critical"
        yield diagnostic("W243", "the rule has no level", _key(document, "title"), hint)


def _untold(document: Linted, seen: Seen) -> Iterator[Diagnostic]:
    lacks = [key for key in _WANTED if not getattr(document.meta, key) and key not in _keys(document)]
    if lacks and _is_alert(document, seen):
        yield diagnostic("I240", f"the rule has no {', '.join(lacks)}", _key(document, "title"))


def _is_alert(document: Linted, seen: Seen) -> bool:
    """Whether people see its results: a filter has none, and what feeds a correlation gives none of its own."""
    return not isinstance(document, Filter) and place_of(document) not in seen.fed


def _modified_before_written(document: Linted, seen: Seen) -> Iterator[Diagnostic]:
    del seen
    meta = document.meta
    if meta.date and meta.modified and meta.modified < meta.date:
        message = f"modified on {meta.modified}, before it was written on {meta.date}"
        yield diagnostic("W244", message, _key(document, "modified"))


def _unknown_tag(document: Linted, seen: Seen) -> Iterator[Diagnostic]:
    from sigma2kql.artifacts import attack

    del seen
    for tag in document.meta.tags:
        if attack.from_tags([tag]).unknown:
            yield diagnostic("W245", f"Sentinel knows no tactic or technique `{tag}`", _word(document, tag))


# Every habit by the code that it gives; they are reported in this order.
HABITS: Mapping[Code, Habit] = {
    "W241": partial(_repeated, "id", "W241"),
    "W242": partial(_repeated, "title", "W242"),
    "W240": _no_id,
    "W243": _no_level,
    "I240": _untold,
    "W244": _modified_before_written,
    "W245": _unknown_tag,
}


def _keys(document: Document) -> set[str]:
    span = document.origin.span
    return set(re.findall(r"(?m)^\s*([a-z_]+)\s*:", span.source.text[span.start : span.end]))


def _key(document: Document, key: str) -> Span:
    """The line of a top-level key; the document's first line where it has none."""
    span = document.origin.span
    text = span.source.text[span.start : span.end]
    at = re.search(rf"(?m)^{key}[ \t]*:[^\n]*", text) or re.search(r"[^\s#-][^\n]*", text)
    return span.sub(*at.span()) if at else span


def _word(document: Document, word: str) -> Span:
    span = document.origin.span
    at = span.source.text.find(word, span.start, span.end)
    return Span(span.source, at, at + len(word)) if at >= 0 else span


# --------------------------------------------------------------------------------------------------------------------
# Query files


def query_files(paths: Sequence[str]) -> Iterator[str]:
    """The `*.kql` files among the paths and below the folders among them, sorted; links to folders are not followed."""
    for path in paths:
        if path.endswith(QUERY_SUFFIX) and not Path(path).is_dir():
            yield from (found for found, _, _ in find_files([path]))
        elif Path(path).is_dir():
            for folder, folders, files in os.walk(path):
                folders.sort()
                yield from (os.path.join(folder, name) for name in sorted(files) if name.endswith(QUERY_SUFFIX))  # noqa: PTH118 - keeps the path as it was named


def read_query(path: str) -> Document:
    """A hand-written query as a native document; one that cannot be read is a broken one."""
    source = Source(path, "")
    try:
        source = decode(path, read_file(path))
        whole = Span(source, 0, len(source.text))
        if not source.text.strip():
            raise Sigma2KqlError([diagnostic("E713", "the query is empty", whole)])
    except OSError as error:
        problem = diagnostic("E803", f"cannot read the file: {error.strerror or error}", Span(source, 0, 0))
        return Broken(Origin(source, 0, Span(source, 0, 0)), Metadata(), (problem,), "native")
    except Sigma2KqlError as error:
        return Broken(Origin(source, 0, Span(source, 0, 0)), Metadata(), error.diagnostics, "native")
    return NativeQuery(Origin(source, 0, whole), Metadata(Path(path).stem), source.text, whole, {})


def as_compiled(document: Document, target: str) -> Compiled:
    """The result of a query file: its text as it stands."""
    if isinstance(document, NativeQuery):
        return Compiled(document, target, document.query, verdict="exact")
    assert isinstance(document, Broken)
    return Compiled(document, target, diagnostics=document.diagnostics)


# --------------------------------------------------------------------------------------------------------------------
# Microsoft's parser


def schema_of(target: Target) -> KqlSchema:
    """Every table of a target as its mapping file declares it; ASIM parsers as functions under both of their names."""
    tables: dict[str, dict[str, str]] = {}
    functions: dict[str, FunctionSchema] = {}
    for entry in target.entries:
        table = entry.load()
        columns: dict[str, str] = dict(table.columns)
        if target.time is not None:
            columns.setdefault(target.time, "datetime")
        if table.builtin is None:
            tables[table.name] = columns
        else:
            for name in (table.name, table.builtin):
                functions[name] = FunctionSchema(params="()", columns=columns)
    return {"tables": tables, "functions": functions}


def judge(
    done: Compiled, check: KqlCheck, prefiltered: bool = True, limits: QueryLimits = NO_LIMITS
) -> tuple[Diagnostic, ...]:
    """What a parser of KQL says of a result's query, at the places of the rule; empty where there is no query."""
    if done.kql is None:
        return ()
    span = done.document.origin.span
    try:
        problems = check.check(done.kql)
        return _judged(done, problems, prefiltered, limits)
    except Sigma2KqlError as error:
        return tuple(d if d.span else replace(d, span=_key(done.document, "title")) for d in error.diagnostics)
    except Exception as error:
        return (fault(error, span),)


def _judged(
    done: Compiled, problems: Sequence[KqlProblem], prefiltered: bool, limits: QueryLimits
) -> tuple[Diagnostic, ...]:
    if not problems or done.kql is None:
        return ()
    span = done.document.origin.span
    native = isinstance(done.document, NativeQuery)
    place = _native_place(done.document, done.kql) if native else _rule_place(done, prefiltered, limits)
    told = [_finding(p, done.kql, place, native) for p in problems if not (native and p.code in _ARGUMENTS)]
    return tuple({(d.code, d.message, d.span.start if d.span else span.start): d for d in told}.values())


def _finding(problem: KqlProblem, kql: str, place: Callable[[int, int], Span], native: bool) -> Diagnostic:
    code: Code = "E690" if problem.severity == "error" else "W690"
    if problem.severity == "error" and native:
        code = "W691" if problem.code in _UNKNOWN_NAMES else "E691"
    stop = problem.start + problem.length
    message = f"{problem.code}: {problem.message}" if problem.code else problem.message
    hint = "" if native else f"in the query, at `{_around(kql, problem.start, stop)}`"
    return diagnostic(code, message, place(problem.start, stop), hint)


def _around(kql: str, start: int, stop: int) -> str:
    """The line of the query with the place, cut to what can be read at a glance."""
    first = kql.rfind("\n", 0, start) + 1
    last = kql.find("\n", stop)
    line = kql[first : last if last >= 0 else len(kql)].strip()
    return line if len(line) <= 120 else kql[max(first, start - 30) : min(stop, start + 60) + 30].strip()


def _rule_place(done: Compiled, prefiltered: bool, limits: QueryLimits) -> Callable[[int, int], Span]:
    """From characters of an emitted query to the rule: the value, the values around it, else the log source."""
    marks = locate(done.kql or "", done.query, prefiltered, limits) if done.query is not None else []
    document = done.document
    rest = document.logsource.span if isinstance(document, Rule) else None

    def place(start: int, stop: int) -> Span:
        stop = max(stop, start + 1)
        over = [mark for mark in marks if mark[0] < stop and start < mark[1]]
        whole = [mark for mark in over if mark[0] <= start and stop <= mark[1]]
        best = min(whole or over, key=lambda mark: mark[1] - mark[0], default=None)
        return best[2] if best is not None else rest or _key(document, "title")

    return place


def _native_place(document: Document, kql: str) -> Callable[[int, int], Span]:
    """From characters of a hand-written query to its file: line by line, since YAML indents and folds."""
    assert isinstance(document, NativeQuery)
    whole = document.query_span
    source = whole.source
    text = source.text[whole.start : whole.end]

    def place(start: int, stop: int) -> Span:
        if text == kql:
            return whole.sub(start, max(stop, start + 1))
        first = kql.rfind("\n", 0, start) + 1
        last = kql.find("\n", start)
        line = kql[first : last if last >= 0 else len(kql)]
        at = _line_in(text, line.strip(), kql.count("\n", 0, start))
        if at < 0 or not line.strip():
            return whole
        column = max(0, start - first - (len(line) - len(line.lstrip())))
        return whole.sub(at + column, min(at + column + max(1, stop - start), at + len(line.strip())))

    return place


def _line_in(text: str, line: str, number: int) -> int:
    """Where a line of the query stands in the block: at its own number behind the indicator, else wherever it is."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    for index in (number + 1, number):
        if line and index < len(starts):
            end = text.find("\n", starts[index])
            own = text[starts[index] : end if end >= 0 else len(text)]
            if own.strip() == line:
                return starts[index] + own.index(line)
    return text.find(line) if line else -1
