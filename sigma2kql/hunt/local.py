"""The queries of a plan over the tables that were gathered, on this machine.

Place in the flow: above `queries` and `gather`, below the command. Invariant: one outcome a rule, in order; an event
that several queries of a rule select is one row of it; rules about one log source share one scan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError
from sigma2kql.engines.duckdb_process import DuckDBProcess
from sigma2kql.engines.remote import Rows, cut
from sigma2kql.hunt import Outcome, placed
from sigma2kql.hunt.gather import NUMBER
from sigma2kql.hunt.queries import Plan
from sigma2kql.kql.query import emit
from sigma2kql.model.tree import And, Compiled, Query, Rule


@dataclass(slots=True)
class _Result:
    """What the queries of one rule gave so far."""

    parts: list[Rows] = field(default_factory=list)
    problems: list[Diagnostic] = field(default_factory=list)
    failed: bool = False
    seen: int | None = None
    about: dict[str, None] = field(default_factory=dict)  # the events that its queries look at, in words
    seconds: float = 0.0


def hunt_tables(
    plan: Plan,
    engine: DuckDBProcess,
    filled: Mapping[str, int],
    limit: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """The outcome of every result of the plan that has a query, in order. `filled`: how many rows each table has."""
    results = [_Result() for _ in plan.results]
    scans: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for number, queries in enumerate(plan.queries):
        for one in queries:
            table = one.query.table if one.query is not None else ""
            if one.query is None or not isinstance(one.document, Rule) or table not in filled or one.kql is None:
                _alone(results[number], one, engine, limit)
                continue
            results[number].seen = results[number].seen or 0
            rows = emit(Query(table, one.query.rows, And(())), prefiltered=False)
            results[number].about[_in_words(table, rows, bool(filled[table]))] = None
            if filled[table]:
                scans.setdefault((table, rows), []).append((number, one.kql))
    for (table, rows), members in scans.items():
        _together(results, table, rows, members, engine, limit)
        advance(len(members))
    for done, result, queries in zip(plan.results, results, plan.queries, strict=True):
        if queries:
            yield replace(_outcome(done, result, limit), queries=queries)


def _in_words(table: str, rows: str, filled: bool) -> str:
    """Which events the rows of a log source are."""
    tests = " and ".join(" ".join(line.split()).removeprefix("| where ") for line in rows.splitlines()[1:])
    return f"{tests} ({table})" if filled and tests else f"events of {table}"


def _alone(result: _Result, one: Compiled, engine: DuckDBProcess, limit: int) -> None:
    assert one.kql is not None
    started = time.perf_counter()
    try:
        result.parts.append(engine.run(one.kql, None, limit))
    except Sigma2KqlError as error:
        result.failed = True
        result.problems += error.diagnostics
    result.seconds += time.perf_counter() - started


def _together(
    results: list[_Result],
    table: str,
    rows: str,
    members: list[tuple[int, str]],
    engine: DuckDBProcess,
    limit: int,
) -> None:
    """The queries about one log source of one table."""
    started = time.perf_counter()
    try:
        answers = engine.select(table, rows, [kql for _, kql in members], limit)
        count = next(answers)
        assert isinstance(count, int)
        for (number, _), answer in zip(members, answers, strict=True):
            result = results[number]
            result.seen = (result.seen or 0) + count
            result.seconds += time.perf_counter() - started
            started = time.perf_counter()
            if isinstance(answer, Rows):
                result.parts.append(answer)
            elif isinstance(answer, Sigma2KqlError):
                result.failed = True
                result.problems += answer.diagnostics
    except Sigma2KqlError as error:
        for number, _ in members:
            results[number].failed = True
            results[number].problems += error.diagnostics


def _outcome(done: Compiled, result: _Result, limit: int) -> Outcome:
    if result.failed and not any(part.rows for part in result.parts):
        return Outcome(done, None, placed(result.problems, done), result.seconds, result.seen)
    blind = " or ".join(result.about) if result.seen == 0 else ""
    rows = merged(result.parts, limit)
    return Outcome(done, rows, placed((*result.problems, *rows.notices), done), result.seconds, result.seen, blind)


def merged(parts: list[Rows], limit: int) -> Rows:
    """The rows of several queries as one result, by time; each event once, without its number."""
    columns: dict[str, str] = {}
    for part in parts:
        columns |= part.columns
    columns.pop(NUMBER, None)
    seen: set[Any] = set()
    rows = []
    for part in parts:
        names = list(part.columns)
        at = names.index(NUMBER) if NUMBER in part.columns else None
        for row in part.rows:
            if at is not None:
                if row[at] in seen:
                    continue
                seen.add(row[at])
            if len(parts) == 1:
                rows.append(row if at is None else row[:at] + row[at + 1 :])
            else:
                held = dict(zip(names, row, strict=True))
                rows.append(tuple(held.get(name) for name in columns))
    notices = tuple(dict.fromkeys(notice for part in parts for notice in part.notices))
    whole = cut(columns, rows, limit, None)
    return Rows(columns, whole.rows, tuple(dict.fromkeys((*notices, *whole.notices))))
