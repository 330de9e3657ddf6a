"""The rows that a hunt found, as a table, NDJSON or CSV; rows are written as they come and never held together."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from tempfile import TemporaryFile
from typing import Any, Protocol, TextIO

from sigma2kql.diagnostics.render import printable
from sigma2kql.engines.remote import Rows
from sigma2kql.model.tree import Compiled

FORMATS = ("table", "ndjson", "csv")
RULE = ("rule_id", "rule_title", "rule_level", "rule_path")
CELL = 100  # characters of a cell of a table
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Writer(Protocol):
    def write(self, done: Compiled, rows: Rows) -> None:
        """The rows of one rule."""


@contextmanager
def open_writer(form: str, stream: TextIO, width: int) -> Iterator[Writer]:
    """A writer of this form; what it holds back is written at the end of the block, also after an error."""
    match form:
        case "ndjson":
            yield _Ndjson(stream)
        case "csv":
            writer = _Csv(stream)
            try:
                yield writer
            finally:
                writer.finish()
        case _:
            yield _Table(stream, width)


def _plain(value: Any) -> Any:
    """A value as JSON has it; times in ISO 8601."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def _rule(done: Compiled) -> tuple[str, str, str, str]:
    meta = done.document.meta
    return meta.id or "", meta.title, meta.level or "", done.document.origin.source.path


class _Ndjson:
    """One object a row: the rule, and the row under `row`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, done: Compiled, rows: Rows) -> None:
        meta = done.document.meta
        head = {
            "id": meta.id,
            "title": meta.title,
            "level": meta.level,
            "path": done.document.origin.source.path,
            "table": done.table,
        }
        for row in rows.rows:
            line = {**head, "row": dict(zip(rows.columns, row, strict=True))}
            self.stream.write(json.dumps(line, ensure_ascii=False, default=_plain) + "\n")


class _Csv:
    """The rule's columns, then every column of any rule. The header is known last, so rows wait in a file.

    A text that a spreadsheet would take for a formula gets a ' in front (OWASP: "CSV Injection").
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.columns: dict[str, None] = {}
        self.waiting = TemporaryFile("w+", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed by finish

    def write(self, done: Compiled, rows: Rows) -> None:
        self.columns.update(dict.fromkeys(rows.columns) if rows.rows else {})
        for row in rows.rows:
            values = dict(zip(rows.columns, row, strict=True))
            self.waiting.write(json.dumps([_rule(done), values], default=_plain) + "\n")

    def finish(self) -> None:
        out = csv.writer(self.stream, lineterminator="\n")
        out.writerow([*RULE, *self.columns])
        self.waiting.seek(0)
        for line in self.waiting:
            rule, values = json.loads(line)
            out.writerow([*map(_cell, rule), *(_cell(values.get(name)) for name in self.columns)])
        self.waiting.close()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list | bool):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


class _Table:
    """For each rule with rows a heading and its rows in aligned columns, without those that are empty throughout."""

    def __init__(self, stream: TextIO, width: int) -> None:
        self.stream = stream
        self.width = width
        self.first = True

    def write(self, done: Compiled, rows: Rows) -> None:
        if not rows.rows:
            return
        meta = done.document.meta
        count = len(rows.rows)
        about = ", ".join(part for part in (meta.level, meta.id, done.document.origin.source.path) if part)
        heading = f"{meta.title} ({about}): {count:,} row{'s' * (count != 1)}"
        used = [i for i in range(len(rows.columns)) if any(row[i] not in (None, "") for row in rows.rows)]
        names = list(rows.columns)
        table = [[names[i] for i in used], *([_shown(row[i], done.mapped) for i in used] for row in rows.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(used))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in table]
        self.stream.write(("" if self.first else "\n") + printable(heading) + "\n")
        self.first = False
        for line in lines:
            text = f"  {line}"
            self.stream.write((text if len(text) <= self.width else text[: self.width - 1] + "…") + "\n")


def _shown(value: Any, fields: Iterable[str]) -> str:
    """A cell: of a property bag, the fields that the rule asks for come first."""
    if value is None:
        return ""
    if isinstance(value, dict):
        value = {name: value[name] for name in dict.fromkeys((*fields, *value)) if value.get(name) not in (None, "")}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain).strip('"')
    text = printable(text)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
