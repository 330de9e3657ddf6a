"""What is known of a compiled rule before anything is decided: read from its query once, and from nowhere else later.

Place in the flow: the first step of `describe`. Invariant: everything that is decided afterwards asks these facts, and
the query itself is not read again.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import replace

from sigma2kql.artifacts.formats import Format, Kind
from sigma2kql.artifacts.kql_tokens import Scan, scan
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.query_columns import Output
from sigma2kql.artifacts.settings import Settings, loose
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Span, diagnostic, frozen
from sigma2kql.model.tree import Compiled, Correlation, Document, NativeQuery

NAMESPACE = uuid.UUID("5d0c1f4e-6f1b-5c8e-9a57-2f6a3c1d7b90")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Notes:
    """What is found on the way, in order; every note is placed at the document."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.found: list[Diagnostic] = []

    def say(self, code: str, message: str, hint: str = "") -> None:
        self.found.append(diagnostic(code, message, self.span, hint))

    def stop(self) -> None:
        """Raise Sigma2KqlError, errors first, where there is an error among them."""
        errors = [note for note in self.found if note.severity == "error"]
        if errors:
            raise Sigma2KqlError([*errors, *(note for note in self.found if note.severity != "error")])


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
    columns: Mapping[str, str] | None  # name -> type of what the query returns; None where that is not known
    more: bool  # whether the query may return columns that are not among them
    notes: Notes

    @property
    def native(self) -> bool:
        """Whether the document is Microsoft's own form of a rule."""
        return isinstance(self.document, NativeQuery)

    def check_columns(self, what: str, named: list[str]) -> None:
        """Note E707 for columns that the query surely does not return."""
        if self.columns is None or self.more:
            return
        missing = [name for name in dict.fromkeys(named) if name not in self.columns]
        if missing:
            self.notes.say("E707", f"{what} name columns that the query does not return: {', '.join(missing)}")


def read_rule(
    compiled: Compiled, form: Format, settings: Settings, output: Mapping[str, str] | Output | None
) -> tuple[str, RuleFacts]:
    """The query with one line end, and the facts. Raises Sigma2KqlError (E704) where there is no query."""
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
    return query, RuleFacts(
        document=document,
        id=identity(document, kind),
        kind=kind,
        format=form,
        settings=settings if form.function else replace(settings, function=False),
        length=len(query),
        scan=read,
        tables=tuple(chosen),
        columns=columns,
        more=isinstance(output, Output) and not output.whole,
        notes=notes,
    )


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


def reach(correlation: Correlation) -> int:
    """The seconds that one result of a correlation is made of: its time span, and another one where a rule stands under
    `not`, which must not match afterwards either.
    """
    return correlation.timespan * (2 if re.search(r"\bnot\b", correlation.expression or "") else 1)
