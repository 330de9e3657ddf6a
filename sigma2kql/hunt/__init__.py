"""Run the queries of rules where the data is: on this machine's files, on Kusto, in a Log Analytics workspace.

Place in the flow: above the compiler, the gathering of events and the engines, below `sigma2kql hunt`. Invariant: each
query gives one outcome, in order of the rules, and the failure of one leaves the others as they are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, assert_never

from sigma2kql.api import Compiler, Options
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, frozen
from sigma2kql.engines.duckdb import Engine
from sigma2kql.engines.remote import RemoteEngine, Rows, TimeRange, cut, limited
from sigma2kql.hunt.gather import Asked
from sigma2kql.lint.judge import as_compiled
from sigma2kql.map.target import Target, load_target
from sigma2kql.model.tree import Broken, Compiled, Correlation, Document, Filter, NativeQuery, Rule, Table
from sigma2kql.proof.labelled_rows import fields_of

FATAL = frozenset({"E600", "E670", "E671", "E672"})  # no other query would fare better
ELSEWHERE = "Kusto itself runs it: --cluster URL --database NAME, or --workspace ID"
FEW_COLUMNS = 20  # a table with no more is filled in full: where an event happened is worth knowing
WINDOWS_TABLES = ("WindowsEvent", "Event")


@frozen
class Outcome:
    """What one query gave: its rows, or why there are none."""

    done: Compiled
    rows: Rows | None
    problems: tuple[Diagnostic, ...] = ()
    seconds: float = 0.0


def hunt(
    queries: Sequence[tuple[Compiled, str]], engine: RemoteEngine, span: TimeRange | None, limit: int, jobs: int = 1
) -> Iterator[Outcome]:
    """The outcomes of (result, its time column), in order; `jobs` queries at once, and at most twice as many waiting.

    Raises Sigma2KqlError where no query can succeed: an extra is missing, or signing in failed.
    """

    def one(query: tuple[Compiled, str]) -> Outcome:
        done, column = query
        assert done.kql is not None
        started = time.perf_counter()
        try:
            rows = engine.run(done.kql, span, limit, column)
        except Sigma2KqlError as error:
            if error.diagnostics[0].code in FATAL:
                raise
            return Outcome(done, None, _placed(error.diagnostics, done), time.perf_counter() - started)
        return Outcome(done, rows, _placed(rows.notices, done), time.perf_counter() - started)

    if jobs <= 1:
        yield from map(one, queries)
        return
    with ThreadPoolExecutor(jobs) as pool:
        waiting: deque[Future[Outcome]] = deque()
        try:
            for query in queries:
                waiting.append(pool.submit(one, query))
                if len(waiting) >= 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _placed(problems: Iterable[Diagnostic], done: Compiled) -> tuple[Diagnostic, ...]:
    span = done.document.origin.span
    return tuple(d if d.span is not None else replace(d, span=span) for d in problems)


# --------------------------------------------------------------------------------------------------------------------
# On this machine


class LocalEngine:
    """DuckDB behind the protocol of the remote engines. The time range was applied when the events were gathered."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        pass

    def run(
        self,
        kql: str,
        span: TimeRange | None = None,  # noqa: ARG002
        limit: int = 10_000,
        time: str = "TimeGenerated",  # noqa: ARG002
    ) -> Rows:
        """See `RemoteEngine.run`."""
        try:
            found = self._engine.run(limited(kql, limit))
        except Sigma2KqlError as error:
            raise Sigma2KqlError(
                replace(d, hint=ELSEWHERE) if d.code == "E601" else d for d in error.diagnostics
            ) from None
        names = dict.fromkeys(found[0], "") if found else {}
        return cut(names, [tuple(map(_utc, row.values())) for row in found], limit, None)


def _utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


@dataclass(slots=True)
class Plan:
    """Every document's result, the tables that have to be filled, and which of them each result stands on."""

    results: list[Compiled] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    stands_on: list[tuple[str, ...]] = field(default_factory=list)


def choose(options: Options, tables: Iterable[str], windows: bool) -> tuple[Options, ...]:
    """How to compile for the data that is there: first onto its own tables, then as the options say.

    Windows events are rows of WindowsEvent; exports of Defender's tables want the target xdr, others sentinel.
    """
    present = set(tables)
    xdr = {entry.name for entry in load_target("xdr").entries}
    target = "xdr" if present and not windows and present <= xdr else "sentinel"
    if windows:
        present.update(WINDOWS_TABLES)
    if not present:
        return (options,)
    first = replace(options, target=target, tables=tuple(sorted(present)))
    if not load_target(first.target, first.mappings, first.tables).entries:
        return (options,)
    return (first, replace(options, target=target))


def plan(documents: Sequence[Document], choices: Sequence[Options], wide: bool = False) -> Plan:
    """Compile every document by the first choice that carries it, and collect what its query asks of tables.

    `wide` asks for all columns of a table, not just those that the queries read.
    """
    compilers = [Compiler(choice, documents) for choice in choices]
    fed = {r.name for d in documents if isinstance(d, Correlation) for r in d.rules}
    made = Plan()
    for document in documents:
        compiler, done = _compiled(compilers, document)
        made.results.append(done)
        names: tuple[str, ...] = ()
        if not any(d.severity == "error" for d in done.diagnostics):
            match document:
                case Rule():
                    all_columns = wide or bool({document.meta.id, document.meta.name} & fed)  # which it groups by
                    names = (_ask_for_rule(made.asked, compiler, document, done, all_columns),)
                case NativeQuery():
                    names = tuple(_ask_for_query(made.asked, compiler, document.query))
                case Correlation():
                    names = tuple((done.table or "").split(", "))
                case Filter() | Broken():
                    pass
                case _:
                    assert_never(document)
        made.stands_on.append(names)
    return made


def compile_one(compiler: Compiler, document: Document) -> Compiled:
    """The result of one document; a query file, which says nothing about itself, is taken as it stands."""
    if isinstance(document, NativeQuery) and not document.data:
        return as_compiled(document, compiler.target.name)
    return compiler.compile(document)


def _compiled(compilers: Sequence[Compiler], document: Document) -> tuple[Compiler, Compiled]:
    """By the first compiler that takes it; a rule that none takes fails as the last says."""
    for compiler in compilers:
        done = compile_one(compiler, document)
        if not any(d.severity == "error" for d in done.diagnostics):
            break
    return compiler, done


def _ask_for_rule(asked: dict[str, Asked], compiler: Compiler, rule: Rule, done: Compiled, wide: bool) -> str:
    mapped = compiler.map(rule)
    one = _asked(asked, mapped.table, mapped.query.table, mapped.query.time)
    wide = wide or len(mapped.table.columns) <= FEW_COLUMNS
    one.columns.update(mapped.table.columns if wide else _columns(done.columns, mapped.table))
    if mapped.serve is not None:
        one.serve(mapped.serve, fields_of(compiler.where(rule), keywords=True))
    return one.name


def _columns(read: Mapping[str, Any], table: Table) -> dict[str, Any]:
    return {name: table.columns.get(name, kind) for name, kind in read.items()}


def _ask_for_query(asked: dict[str, Asked], compiler: Compiler, kql: str) -> Iterator[str]:
    """The tables that a hand-written query takes rows from, with all their columns."""
    from sigma2kql.artifacts.kql_tokens import scan

    read = scan(kql)
    for name in (*read.tables, *read.functions):
        table = _table(compiler.target, name)
        if table is not None:
            one = _asked(asked, table, name, compiler.target.time or table.time)
            one.columns.update(table.columns)
            yield name


def _table(target: Target, name: str) -> Table | None:
    for entry in target.entries:
        if entry.name == name:
            return entry.load()
    if name.startswith("_Im_"):
        return next((t for t in (entry.load() for entry in target.entries) if t.builtin == name), None)
    return None


def _asked(asked: dict[str, Asked], table: Table, name: str, column: str) -> Asked:
    return asked.setdefault(name, Asked(table, name, column))
