"""Run each rule's emitted query on events, and judge whether it selects exactly those that the rule means.

Place in the flow: above shape, generate and the engine, below the command. Invariant: what is run is the emitted text,
unchanged; a rule passes only where events were run and every one came out as its label says.

A rule whose query is broader must still find every match, a narrower one must select nothing else; the other side is
not demanded, and the result says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, assert_never

from sigma2kql.api import fault
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import (
    And,
    Column,
    Compiled,
    KqlType,
    Match,
    Not,
    Or,
    Query,
    Table,
)
from sigma2kql.proof import Counterexample, Result, SourceResult, Subject, outcome
from sigma2kql.proof.labelled_rows import Case, case_of, fields_of, room_of, rows_of
from sigma2kql.proof.prove_correlations import prove_correlation
from sigma2kql.proof.refute import contradiction, one_sided
from sigma2kql.proof.row_cells import read_column
from sigma2kql.proof.source_rows import by_source
from sigma2kql.reference.evaluate import Trace, evaluate, trace

CHUNK = 40  # rules whose rows are loaded together
GROUP = "_rule"  # the columns that tell rows apart
NUMBER = "_row"
ENGINE_LIMITS = ("E601", "E605", "E606")  # what the embedded engine does not know, or not in time; else KQL is at fault
REDUCTIONS = 40  # queries spent on making a counterexample smaller


# --------------------------------------------------------------------------------------------------------------------
# Running


def prove(
    subjects: Sequence[Subject],
    count: int = 0,
    seed: str = "0",
    jobs: int = 1,
    done: Callable[[int], None] | None = None,
) -> Iterator[Result]:
    """The results in order of the subjects.

    `count` events are generated a rule (0: none); `jobs` processes share the rules; `done` hears how many are finished.
    """
    size = max(1, min(CHUNK, -(-len(subjects) // jobs)))
    chunks = [tuple(subjects[i : i + size]) for i in range(0, len(subjects), size)]
    if jobs <= 1 or len(chunks) <= 1:
        for chunk in chunks:
            yield from _told(_prove_chunk(chunk, count, seed), done)
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=get_context("spawn")) as pool:
        for results in pool.map(_prove_chunk, chunks, [count] * len(chunks), [seed] * len(chunks)):
            yield from _told(results, done)


def _told(results: list[Result], done: Callable[[int], None] | None) -> list[Result]:
    if done is not None:
        done(len(results))
    return results


def _prove_chunk(subjects: Sequence[Subject], count: int, seed: str) -> list[Result]:
    """Rules together: the rows of all that are mapped to one table are loaded once."""
    results: list[Result | None] = [None] * len(subjects)
    by_table: dict[str, list[tuple[int, Subject, list[Case], list[str]]]] = {}
    tables: dict[str, Table] = {}
    for number, subject in enumerate(subjects):
        if (skipped := _skipped(subject)) is not None:
            results[number] = skipped
            continue
        if subject.feeds:
            started = time.perf_counter()
            result = _surely(subject, partial(prove_correlation, subject, count, seed))
            results[number] = replace(result, seconds=time.perf_counter() - started)
            continue
        assert subject.table is not None
        assert subject.compiled.query is not None
        try:
            rows, notes = rows_of(subject, count, seed)
        except Exception as error:
            results[number] = _faulted(subject, error)
            continue
        name = subject.compiled.query.table
        by_table.setdefault(name, []).append((number, subject, rows, notes))
        tables[name] = subject.table
    if by_table:
        with _Bench() as bench:
            for name, members in by_table.items():
                groups = {n: [case.row for case in rows] for n, _, rows, _ in members}
                told = {n: list(by_source(subject, rows)) if count else [] for n, subject, rows, _ in members}
                groups |= {
                    _group(n, i): [c.row for c in rows] for n, one in told.items() for i, (_, rows) in enumerate(one)
                }
                try:
                    bench.load(name, tables[name].columns, groups)
                except Exception as error:
                    results = [_faulted(subjects[n], error) if n in groups else r for n, r in enumerate(results)]
                    continue
                for number, subject, rows, notes in members:
                    started = time.perf_counter()
                    run = partial(_run, subject, rows, notes, bench, number, bool(count))
                    result = _second_opinion(_surely(subject, run), subject, told[number], bench, number)
                    results[number] = replace(result, seconds=time.perf_counter() - started)
    return [result for result in results if result is not None]


def _group(number: int, source: int) -> int:
    """The group of a rule's rows as one source writes them: beside the numbers of rules, which are fewer."""
    return (number + 1) * 1000 + source


def _second_opinion(
    result: Result, subject: Subject, told: Sequence[tuple[str, list[Case]]], bench: _Bench, number: int
) -> Result:
    """The result with what the query does on the rows of each source, which its verdict for the source must say."""
    kql = subject.compiled.kql
    if result.status not in ("passed", "unproven") or kql is None or demands(subject.compiled) != (True, True):
        return result
    found: dict[str, SourceResult] = {}
    for i, (source, rows) in enumerate(told):
        try:
            selected = bench.select(kql, _group(number, i))
        except Sigma2KqlError:
            continue
        missed = sum(case.expected and n not in selected for n, case in enumerate(rows))
        extra = sum(not case.expected and n in selected for n, case in enumerate(rows))
        found[source] = SourceResult(subject.compiled.verdicts[source], len(rows), missed, extra)
    if wrong := [source for source, one in found.items() if not one.agrees]:
        reason = f"on rows of {', '.join(wrong)} the query does not do what its verdict says"
        return replace(result, status="failed", reason=reason, sources=found)
    return replace(result, sources=found)


class _Bench:
    """The engine with one table at a time, of which each rule sees its own rows under the table's name."""

    def __init__(self) -> None:
        from sigma2kql.engines.duckdb import Engine

        self.engine = Engine(threads=1)
        self.engine.connection.execute("PRAGMA disable_optimizer")  # few rows: planning would take longer than running
        self.name = ""
        self.columns: dict[str, KqlType] = {}

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def load(
        self, name: str, columns: Mapping[str, KqlType], groups: Mapping[int, Sequence[Mapping[str, Any]]]
    ) -> None:
        """The rows of every rule, by its number."""
        self.name = name
        self.columns = {**columns, GROUP: "int", NUMBER: "int"}
        rows = ({**row, GROUP: g, NUMBER: n} for g, group in groups.items() for n, row in enumerate(group))
        self.engine.load(f"{name}_rows", self.columns, rows)
        self._show(next(iter(groups)))

    def _show(self, group: int, rows: str = "rows") -> None:
        self.engine.connection.execute(
            f'CREATE OR REPLACE VIEW "{self.name}" AS SELECT * FROM "{self.name}_{rows}" WHERE {GROUP} = {group:d}'  # noqa: S608
        )

    def select(self, kql: str, group: int) -> set[int]:
        """The numbers of the rows of this group that the query selects. Raises Sigma2KqlError."""
        self._show(group)
        return self.engine.matching(kql, NUMBER)

    def once(self, kql: str, row: Mapping[str, Any]) -> bool:
        """Whether the query selects this one row."""
        self.engine.load(f"{self.name}_once", self.columns, [{**row, GROUP: 0, NUMBER: 0}])
        self._show(0, "once")
        return bool(self.engine.matching(kql, NUMBER))


def _surely(subject: Subject, run: Callable[[], Result]) -> Result:
    """The result of one rule; a fault of our own is its failure, and the others are judged all the same."""
    try:
        return run()
    except Exception as error:
        return _faulted(subject, error)


def _faulted(subject: Subject, error: Exception) -> Result:
    found = fault(error, subject.compiled.document.origin.span)
    return outcome(subject, "failed", f"{found.code} {found.message}")


def _skipped(subject: Subject) -> Result | None:
    compiled = subject.compiled
    errors = [d for d in compiled.diagnostics if d.severity == "error"]
    if errors and errors[0].code == "E899":
        return outcome(subject, "failed", f"E899 {errors[0].message}")
    if errors:
        return outcome(subject, "skipped", f"not converted: {errors[0].code} {errors[0].message}")
    if compiled.kql is None:
        return outcome(subject, "skipped", "gives no query of its own")
    if not subject.feeds and (subject.table is None or subject.where is None or compiled.query is None):
        return outcome(subject, "skipped", "no detection rule: there is no tree to judge events by")
    return None


def _run(subject: Subject, rows: list[Case], notes: list[str], bench: _Bench, number: int, generated: bool) -> Result:
    told = tuple(dict.fromkeys(notes))
    if subject.problems:
        return outcome(subject, "failed", "; ".join(subject.problems), set_aside=len(notes), notes=told)
    if not rows:
        if generated:
            return outcome(subject, "unproven", _lacking(subject, True, notes), set_aside=len(notes), notes=told)
        reason = f"no event can stand in the table: {notes[0]}" if notes else "no events"
        return outcome(subject, "skipped", reason, set_aside=len(notes), notes=told)
    assert subject.compiled.kql is not None
    try:
        selected = bench.select(subject.compiled.kql, number)
    except Sigma2KqlError as error:
        limit = error.diagnostics[0].code in ENGINE_LIMITS
        reason = f"the engine cannot run it: {error}" if limit else f"the query is refused: {error}"
        return outcome(subject, "skipped" if limit else "failed", reason, set_aside=len(notes), notes=told)
    missed, unexpected = judge(subject, rows, selected)
    positive = sum(case.expected for case in rows)
    result = outcome(
        subject,
        "failed" if missed or unexpected else "passed",
        demanded(subject.compiled),
        events=len(rows),
        positive=positive,
        matched=len(selected),
        missed=len(missed),
        unexpected=len(unexpected),
        set_aside=len(notes),
        notes=told,
    )
    if result.status == "passed":
        return _weighed(result, subject, notes, generated)
    worst = (missed or unexpected)[0]
    example = explain(subject, _reduced(subject, worst, bench))
    reason = f"{len(missed)} missed, {len(unexpected)} unexpected of {len(rows)} events"
    return replace(result, reason=reason, counterexample=example)


def _weighed(result: Result, subject: Subject, notes: Sequence[str], generated: bool) -> Result:
    """A result without a disagreement: `unproven` where nothing was demanded of the query, or, of generated events,
    none must match; a label that no generated event has is told.
    """
    negative = result.events - result.positive
    lacking = [label for label, number in ((True, result.positive), (False, negative)) if generated and not number]
    all_found, nothing_else = demands(subject.compiled)
    judged = (result.positive if all_found else 0) + (negative if nothing_else else 0) + len(subject.attacks)
    reasons = [_lacking(subject, label, notes) for label in lacking]
    reason = "; ".join((*reasons, *filter(None, (result.reason,))))
    return replace(result, status="passed" if judged and True not in lacking else "unproven", reason=reason)


def _lacking(subject: Subject, label: bool, notes: Sequence[str]) -> str:
    """Why no generated event has a label: a proof where there is one, else what stood in the way."""
    assert subject.where is not None
    if proof := contradiction(subject.where, label) or one_sided(subject.where, room_of(subject), label):
        return proof
    return f"no event that must {'match' if label else 'not match'} was found" + (f": {notes[0]}" if notes else "")


def demands(compiled: Compiled) -> tuple[bool, bool]:
    """Which sides must hold: every match is found, nothing else is selected."""
    codes = {d.code for d in compiled.diagnostics}
    return "W402" not in codes, "W401" not in codes


def demanded(compiled: Compiled) -> str:
    match demands(compiled):
        case (True, True):
            return ""
        case (True, False):
            return "broader: judged by the matches alone"
        case (False, True):
            return "narrower: judged by the other events alone"
        case _:
            return "broader and narrower: run, not judged"


def judge(subject: Subject, rows: Sequence[Case], selected: set[int]) -> tuple[list[Case], list[Case]]:
    """The rows that should have been selected and were not, and the reverse, as far as the verdict demands."""
    all_found, nothing_else = demands(subject.compiled)
    missed = [c for i, c in enumerate(rows) if c.expected and i not in selected and all_found]
    extra = [c for i, c in enumerate(rows) if not c.expected and i in selected and nothing_else]
    for number, attack in enumerate(subject.attacks):
        own = [(i, c) for i, c in enumerate(rows) if c.attack == number]
        hits = sum(i in selected for i, _ in own)
        if hits < (1 if attack.matches is None else attack.matches) and not any(c in missed for _, c in own):
            missed += [replace(c, expected=True) for i, c in own if i not in selected][:1]
    return missed, extra


# --------------------------------------------------------------------------------------------------------------------
# Counterexamples


def _reduced(subject: Subject, case: Case, bench: _Bench) -> Case:
    """The smallest event that still disagrees: fields are dropped one by one while the label and the outcome differ."""
    if case.raw or case.attack is not None:
        return case
    assert subject.where is not None and subject.compiled.kql is not None
    names = fields_of(subject.where)
    left = REDUCTIONS
    for name in list(case.event):
        event = {k: v for k, v in case.event.items() if k != name}
        if left == 0 or (evaluate(subject.where, event)) != case.expected:
            continue
        notes: list[str] = []
        smaller = case_of(subject, event, case.expected, case.origin, names, notes)
        if smaller is None or notes or smaller.expected != case.expected:
            continue
        left -= 1
        try:
            hit = bool(bench.once(subject.compiled.kql, smaller.row))
        except Sigma2KqlError:
            continue
        if hit != case.expected:
            case = smaller
    return case


def explain(subject: Subject, case: Case) -> Counterexample:
    """What in the query rejected the row (or let it in), with the rule's line."""
    query = subject.compiled.query
    assert query is not None
    why, line = _verdict_on(query, case)
    return Counterexample(case.event, case.expected, case.origin, case.row, why, line)


def _verdict_on(query: Query, case: Case) -> tuple[str, int | None]:
    from sigma2kql.kql.query import emit

    tree = trace(And((query.rows, query.where)), lambda column: read_column(case.row, column))
    if tree.holds == case.expected:
        how = "holds" if tree.holds else "does not hold"
        return f"the query's tree {how} on this row, the engine says otherwise", None
    for part in _deciding(tree, case.expected):
        leaf = next(iter(leaves(part.expr)), None)
        text = emit(Query("", And(()), part.expr), prefiltered=False).strip().removeprefix("| where ")
        span = next((m.span for m in leaves(part.expr) if m.span is not None), None)
        line = span.source.position(span.start)[0] if span is not None else None
        value = read_column(case.row, leaf.subject) if leaf is not None else None
        shown = f" ({leaf.subject.text} is {json.dumps(value, ensure_ascii=False, default=str)[:200]})" if leaf else ""
        return f"`{' '.join(text.split())[:400]}` {'rejects' if case.expected else 'admits'} it{shown}", line
    return "", None


def _deciding(tree: Trace[Column], expected: bool) -> Iterator[Trace[Column]]:
    """The smallest parts that turned the outcome."""
    match tree.expr:
        case Match():
            yield tree
        case Not():
            (inner,) = tree.parts
            yield from _deciding(inner, not expected) if isinstance(inner.expr, And | Or | Not) else iter((tree,))
        case And() if expected:
            for part in tree.parts:
                if not part.holds:
                    yield from _deciding(part, expected)
        case Or() if not expected:
            for part in tree.parts:
                if part.holds:
                    yield from _deciding(part, expected)
        case And() | Or():
            yield tree
        case _:
            assert_never(tree.expr)
