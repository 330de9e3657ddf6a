"""Markdown for pull requests: what a run did, in a table and a list (`--summary FILE`, `$GITHUB_STEP_SUMMARY`).

Place in the flow: beside what a command prints. Invariant: what a rule says is text in it: it opens no element, no
link, no cell.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic
from sigma2kql.diagnostics.render import printable

SHOWN = 50  # findings listed; GitHub takes 1 MiB a step


def markdown_cell(text: str) -> str:
    """A text as one line of Markdown that is nothing but text."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&@])", r"\\\1", printable(text)).replace("://", ":\u200b//")


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table; numbers stand right."""
    right = [bool(rows) and isinstance(rows[0][at], int) for at in range(len(heads))]
    return [
        f"| {' | '.join(heads)} |",
        "|" + "".join("--:|" if number else "---|" for number in right),
        *(f"| {' | '.join(_shown(cell) for cell in row)} |" for row in rows),
    ]


def _shown(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else markdown_cell(str(cell))


def findings(held: Sequence[Diagnostic]) -> list[str]:
    """The errors, then the warnings, with their places; as many as people read."""
    order = {"error": 0, "warning": 1, "info": 2}
    ordered = sorted(held, key=lambda d: order[d.severity])
    rows = []
    for d in ordered[:SHOWN]:
        where = ""
        if d.span is not None:
            where = f"{d.span.source.path}:{d.span.source.position(d.span.start)[0]}"
        rows.append((d.severity, d.code, where, d.message))
    lines = markdown_table(("", "code", "place", "finding"), rows) if rows else []
    if len(ordered) > SHOWN:
        lines += ["", f"and {len(ordered) - SHOWN:,} more"]
    return lines


def write_summary(path: str | None, title: str, lines: Sequence[str]) -> None:
    """The summary into the file that was named, or at the end of the one that GitHub names, or nowhere.

    Raises Sigma2KqlError where a file cannot be written.
    """
    given = path or os.environ.get("GITHUB_STEP_SUMMARY")
    if not given:
        return
    text = "\n".join([f"### sigma2kql {title}", "", *lines, "", ""])
    try:
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(given).open("w" if path else "a", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
    except OSError as error:
        raise Sigma2KqlError([diagnostic("E805", f"cannot write {given}: {error.strerror or error}")]) from error
