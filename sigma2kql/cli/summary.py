"""Markdown for pull requests: what a run did, in a table and a list (`--summary FILE`, `$GITHUB_STEP_SUMMARY`).

Place in the flow: beside what a command prints. Invariant: what a rule says is text in it: it opens no element, no
link, no cell.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic
from sigma2kql.diagnostics.render import printable

if TYPE_CHECKING:
    from sigma2kql.cli.shared_options import Report
    from sigma2kql.proof import Result

Function = TypeVar("Function", bound=Callable[..., Any])
SHOWN = 50  # findings listed; GitHub takes 1 MiB a step


def summary_option(function: Function) -> Function:
    """Where the summary goes."""
    return click.option(
        "--summary",
        "summary_file",
        type=click.Path(dir_okay=False),
        help="Write a Markdown summary for a pull request here (default: $GITHUB_STEP_SUMMARY, where that is set).",
    )(function)


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


def summarise_run(path: str | None, title: str, verb: str, report: Report) -> None:
    """What convert and check did: how many of each verdict, why others failed, the findings."""
    from sigma2kql.diagnostics.catalogue import CATALOGUE

    rows: list[tuple[str, int]] = [("documents", report.documents), (verb, report.documents - report.failed)]
    rows += [(verdict, number) for verdict, number in report.verdicts.most_common() if number]
    rows += [(f"failed: {code} {CATALOGUE[code].title}", number) for code, number in report.codes.most_common()]
    rows += [(f"{state} in this workspace", number) for state, number in report.here.most_common()]
    rows += [("warnings", report.warnings)] if report.warnings else []
    write_summary(path, title, [*markdown_table(("", "number"), rows), "", *findings(report.held)])


def summarise_test(path: str | None, results: Sequence[Result], told: Mapping[str, Any]) -> None:
    """What a test run showed: the counts, each failure with its event, why others were not decided."""
    keys = ("rules", "passed", "failed", "unproven", "events", "must_match", "set_aside")
    rows = [(key.replace("_", " "), int(told[key])) for key in keys]
    rows.insert(4, ("skipped", int(told["skipped"]) - int(told["unproven"])))
    lines = markdown_table(("", "number"), rows)
    failed = [r for r in results if r.status == "failed"]
    if failed:
        detail = [(r.title or r.path, f"{r.path}:{r.line}", r.table or "", _decided(r)) for r in failed[:SHOWN]]
        lines += ["", *markdown_table(("failed rule", "place", "table", "what decided"), detail)]
        lines += ["", f"and {len(failed) - SHOWN:,} more"] if len(failed) > SHOWN else []
    reasons = Counter(r.reason.split(":")[0] for r in results if r.status in ("skipped", "unproven"))
    if reasons:
        lines += ["", *markdown_table(("not decided", "rules"), reasons.most_common(10))]
    write_summary(path, "test", lines)


def _decided(result: Result) -> str:
    example = result.counterexample
    if example is None:
        return result.reason
    expected = "must match and does not" if example.expected else "must not match and does"
    return f"{result.reason}; {example.origin} {expected}" + (f": {example.why}" if example.why else "")


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
