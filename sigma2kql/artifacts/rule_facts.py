"""What is known of a compiled rule before anything is decided: read from its query once, and from nowhere else later.

Place in the flow: the first step of `describe`. Invariant: everything that is decided afterwards asks these facts, and
the query itself is not read again.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace

from sigma2kql.artifacts.computed_columns import ResultColumns, result_columns
from sigma2kql.artifacts.formats import Format, Kind
from sigma2kql.artifacts.kql_tokens import Scan, scan
from sigma2kql.artifacts.product_tables import asim_schema, facts
from sigma2kql.artifacts.query_columns import Output
from sigma2kql.artifacts.settings import Settings, loose
from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Span, diagnostic, frozen
from sigma2kql.model.query_facts import Recurrence
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import (
    Compiled,
    Correlation,
    Document,
    NativeQuery,
)

NAMESPACE = uuid.UUID("5d0c1f4e-6f1b-5c8e-9a57-2f6a3c1d7b90")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Notes:
    """What is found on the way, in order; every note is placed at the document."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.found: list[Diagnostic] = []

    def say(self, code: Code, message: str, hint: str = "") -> None:
        self.found.append(diagnostic(code, message, self.span, hint))

    def stop(self) -> None:
        """Raise Sigma2KqlError, errors first, where there is an error among them."""
        errors = [note for note in self.found if note.severity == "error"]
        if errors:
            raise Sigma2KqlError([*errors, *(note for note in self.found if note.severity != "error")])


@frozen
class Tested:
    """Something that a rule tests: the rule's word for it, its KQL, and the column of the result that holds it, if any.

    `name` is a name for such a column, `reads` are the table's own columns in its KQL.
    """

    word: str
    text: str
    name: str
    reads: tuple[str, ...]
    column: str = ""


@frozen
class RuleFacts:
    """A rule, and what its query reads and returns; the query itself goes on to the artifact untouched."""

    document: Document
    id: str
    kind: Kind
    format: Format
    settings: Settings
    length: int  # characters of the query
    scan: Scan
    tables: tuple[str, ...]
    result: ResultColumns
    filters: bool  # whether rows are only filtered, so that every column of the table stays
    computing: bool  # whether columns may be computed behind the query
    more: bool  # whether the query may return columns that are not among those known
    tested: tuple[Tested, ...]
    grouped: tuple[str, ...]  # of a correlation: the result's columns that name its groups and say what happened
    recurrence: Recurrence | None
    notes: Notes

    @property
    def native(self) -> bool:
        """Whether the document is Microsoft's own form of a rule."""
        return isinstance(self.document, NativeQuery)

    @property
    def types(self) -> Mapping[str, str]:
        """The columns of the result that are known, with their types."""
        return self.result.returned or {}

    def check_columns(self, what: str, named: list[str]) -> None:
        """Note E707 for columns that the query surely does not return."""
        if self.result.returned is None or self.more:
            return
        missing = [name for name in dict.fromkeys(named) if not self.result.known(name)]
        if missing:
            self.notes.say("E707", f"{what} name columns that the query does not return: {', '.join(missing)}")


def read_rule(
    compiled: Compiled,
    form: Format,
    settings: Settings,
    output: Mapping[str, str] | Output | None,
    computing: bool = True,
) -> tuple[str, RuleFacts]:
    """The query with one line end, and the facts. Raises Sigma2KqlError (E704) where there is no query.

    Not `computing`: the query is to stay as long as it is.
    """
    document = compiled.document
    notes = Notes(document.origin.span)
    query, columns = compiled.kql, output.columns or None if isinstance(output, Output) else output
    if isinstance(document, NativeQuery):
        query = query or document.query
        settings = _with_native(settings, document, notes)
    if query is None or not query.strip():
        notes.say("E704", "the document gives no query, so there is nothing to deploy")
        raise Sigma2KqlError(notes.found)
    if columns is None and compiled.query is not None and not isinstance(document, Correlation | NativeQuery):
        columns = compiled.query.columns or compiled.columns  # rows are only filtered, so every column stays
    kind = form.kind or ("hunt" if (is_hunt(document) if settings.hunting is None else settings.hunting) else "alert")
    read = scan(query)
    chosen = read.tables if isinstance(document, NativeQuery) or not compiled.table else compiled.table.split(", ")
    query = query.replace("\r\n", "\n").strip("\n") + "\n"
    recurrence = compiled.recurrence
    own = compiled.query is not None or recurrence is not None
    computing &= own and not (kind == "detection" and settings.kind == "NRT")
    return query, RuleFacts(
        document=document,
        id=identity(document, kind),
        kind=kind,
        format=form,
        settings=settings if form.function else replace(settings, function=False),
        length=len(query),
        scan=read,
        tables=tuple(chosen),
        result=result_columns(tuple(chosen), columns, computing, source=_source(query, compiled)),
        filters=compiled.query is not None and not isinstance(document, Correlation | NativeQuery),
        computing=computing,
        more=isinstance(output, Output) and not output.whole,
        tested=tuple(_tested(compiled, query, columns or {})),
        grouped=(*recurrence.keys, *recurrence.details) if recurrence else (),
        recurrence=recurrence,
        notes=notes,
    )


def _source(query: str, compiled: Compiled) -> str:
    """The table that an own query begins with, by itself on its line; empty for parsers and everything else."""
    first = query.partition("\n")[0]
    own = compiled.query is not None and first == compiled.table and asim_schema(first) is None
    return first if own else ""


def _tested(compiled: Compiled, query: str, columns: Mapping[str, str]) -> Iterator[Tested]:
    """What the tests of a rule stand on, each once, in the order of the rule."""
    if compiled.query is None or isinstance(compiled.document, Correlation):
        return
    words = {text: word for word, text in reversed(list(compiled.mapped.items()))}
    seen: set[str] = set()
    for leaf in leaves(compiled.query.where) or leaves(compiled.query.rows):
        column = leaf.subject
        if column.text in seen:
            continue
        seen.add(column.text)
        name = column.text if column.kind == "stored" else column.name or (column.key[-1] if column.key else "Value")
        held = next((one for one in columns if f" {one} = {column.text}" in query), "")
        stored = column.text if column.kind == "stored" and column.text in columns else held
        yield Tested(words.get(column.text, name), column.text, name, tuple(column.reads), stored)


def _with_native(settings: Settings, document: NativeQuery, notes: Notes) -> Settings:
    """What the document states wins over what was wished for documents in general."""
    data = {key: value for key, value in document.data.items() if key not in ("name", "description")}
    if data.get("relevantTechniques") is None and data.get("techniques") is not None:
        data["relevantTechniques"] = data["techniques"]
    read, problems = loose(data, document.origin.span)
    notes.found += problems
    return replace(settings, **read)


def identity(document: Document, kind: Kind) -> str:
    """The GUID under which a document is deployed: its own where it has one and the kind is its own, else made from it.

    The same document gives the same GUID always; without an id, its path and its number in the file stand for it.
    """
    native = isinstance(document, NativeQuery)
    own = str(document.data.get("id") or document.meta.id or "") if native else document.meta.id or ""  # type: ignore[union-attr]
    home = "hunt" if is_hunt(document) else "alert"
    if GUID.fullmatch(own.lower()) and kind in (home, "detection"):
        return own.lower()
    path = document.origin.source.path.replace("\\", "/")
    seed = own or f"{path}#{document.origin.index}"
    return str(uuid.uuid5(NAMESPACE, f"{kind}\n{seed}"))


def is_hunt(document: Document) -> bool:
    """Whether a document is a hunting query by itself: a native one without anything that only a rule has."""
    rules = ("severity", "queryFrequency", "triggerOperator", "kind")
    return isinstance(document, NativeQuery) and not any(key in document.data for key in rules)


def severity_of(document: Document) -> str:
    """Sentinel's severity for the level of a rule."""
    table = facts("severity")
    return str(table["levels"].get((document.meta.level or "").lower(), table["default"]))
