"""Which queries a hunt over files runs, and which tables have to be filled for them.

Place in the flow: between the compiler and the gathering of events. Invariant: every document gives one result; a rule
is asked of every kind of events that its log source means, each with a query of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from sigma2kql.api import Compiler, Options, fault
from sigma2kql.events.table_rows import WRITERS
from sigma2kql.hunt.gather import Asked
from sigma2kql.lint.judge import as_compiled
from sigma2kql.map.target import Target, load_target
from sigma2kql.model.named_rules import NamedRules, place_of
from sigma2kql.model.tree import Broken, Compiled, Correlation, Document, Filter, NativeQuery, Rule, Table
from sigma2kql.proof.labelled_rows import fields_of

FEW_COLUMNS = 20  # a table with no more is filled in full: where an event happened is worth knowing
WINDOWS_TABLES = ("WindowsEvent", "Event")


@dataclass(slots=True)
class Plan:
    """Every document's result and its queries (one for each kind of events that its log source means), the tables that
    have to be filled, and which of them each result stands on.
    """

    results: list[Compiled] = field(default_factory=list)
    queries: list[tuple[Compiled, ...]] = field(default_factory=list)
    asked: dict[str, Asked] = field(default_factory=dict)
    stands_on: list[tuple[str, ...]] = field(default_factory=list)


def choose(options: Options, tables: Iterable[str], windows: bool) -> tuple[Options, ...]:
    """How to compile for the data that is there: first onto its own tables, then as the options say.

    Windows events are rows of WindowsEvent, which has every element by name; exports of Defender's tables want the
    target xdr, others sentinel.
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
    alone = (replace(first, tables=tuple(sorted(present - {*WINDOWS_TABLES[1:]}))),) if windows else ()
    return (*alone, first, replace(options, target=target))


def plan_queries(documents: Sequence[Document], choices: Sequence[Options], wide: bool = False) -> Plan:
    """Compile every document by the first choice that carries it, and collect what its query asks of tables.

    `wide` asks for all columns of a table, not just those that the queries read.
    """
    compilers = [Compiler(choice, documents) for choice in choices]
    known = NamedRules(documents)
    fed = {
        place_of(found)
        for one in documents
        if isinstance(one, Correlation)
        for reference in one.rules
        for found in known.candidates(reference.name, one)
    }
    made = Plan()
    for document in documents:
        compiler, done = _compiled(compilers, document)
        made.results.append(done)
        queries: tuple[Compiled, ...] = (done,) if done.kql is not None else ()
        names: tuple[str, ...] = ()
        if not any(d.severity == "error" for d in done.diagnostics):
            grouped = place_of(document) in fed  # a correlation groups by more columns
            try:
                queries, names = _asks(made.asked, compiler, document, done, wide or grouped)
            except Exception as error:
                made.results[-1] = replace(done, kql=None, diagnostics=(fault(error, document.origin.span),))
                queries = ()
        made.queries.append(queries)
        made.stands_on.append(names)
    return made


def _asks(
    asked: dict[str, Asked], compiler: Compiler, document: Document, done: Compiled, wide: bool
) -> tuple[tuple[Compiled, ...], tuple[str, ...]]:
    """The queries of a result and the tables that it stands on, asked for with the columns that it reads."""
    queries: tuple[Compiled, ...] = (done,) if done.kql is not None else ()
    names: tuple[str, ...] = ()
    match document:
        case Rule():
            if done.kql is not None:
                queries = (done, *compiler.further(document))
            for one in queries or (done,):
                names = (_ask_for_rule(asked, compiler, document, one, wide),)
        case NativeQuery():
            names = tuple(_ask_for_query(asked, compiler, document.query))
        case Correlation():
            names = tuple((done.table or "").split(", "))
        case Filter() | Broken():
            pass
        case _:
            assert_never(document)
    return queries, names


def compile_one(compiler: Compiler, document: Document) -> Compiled:
    """The result of one document; a query file, which says nothing about itself, is taken as it stands."""
    if isinstance(document, NativeQuery) and not document.data:
        return as_compiled(document, compiler.target.name)
    return compiler.compile(document)


def _compiled(compilers: Sequence[Compiler], document: Document) -> tuple[Compiler, Compiled]:
    """By the first compiler that takes it exactly, else the first that takes it; a rule that none takes fails as the
    last says.
    """
    taken: tuple[Compiler, Compiled] | None = None
    for compiler in compilers:
        done = compile_one(compiler, document)
        if not any(d.severity == "error" for d in done.diagnostics):
            if done.verdict in ("exact", None):
                return compiler, done
            taken = taken or (compiler, done)
    return taken or (compiler, done)


def _ask_for_rule(asked: dict[str, Asked], compiler: Compiler, rule: Rule, done: Compiled, wide: bool) -> str:
    mapped = compiler.map(rule)
    one = _asked(asked, mapped.table, mapped.query.table, mapped.query.time)
    wide = wide or len(mapped.table.columns) <= FEW_COLUMNS or mapped.table.name in WRITERS
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
