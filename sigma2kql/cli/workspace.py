"""`sigma2kql workspace inspect` and `sigma2kql workspace diff`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from sigma2kql.api import Compiler, compile_inputs, read_inputs
from sigma2kql.cli.output import Folder
from sigma2kql.cli.shared_options import (
    Report,
    compile_options,
    diagnostic_options,
    load_config,
    load_profile,
    make_options,
    standard_input,
    use_color,
)
from sigma2kql.cli.summary import markdown_table, summary_option, write_summary
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Source, diagnostic
from sigma2kql.diagnostics.render import printable, render
from sigma2kql.engines.remote import RemoteEngine, TimeRange
from sigma2kql.map.target import Target
from sigma2kql.system.bounded_files import read_text
from sigma2kql.workspace.changes import changes
from sigma2kql.workspace.inspection import Question, make_profile, questions, read_answers
from sigma2kql.workspace.liveness import liveness
from sigma2kql.workspace.profile import Profile, write_profile


@click.group("workspace")
def command() -> None:
    """What a workspace really holds, and which rules that leaves blind."""


def _options(function: Any) -> Any:
    for option in reversed(
        (
            click.option("-t", "--target", help="Whose tables to ask for: sentinel (default), asim, xdr or your own."),
            click.option(
                "--mappings",
                multiple=True,
                type=click.Path(file_okay=False, exists=True),
                help="Folder of more mapping files (repeatable).",
            ),
            click.option("--table", "tables", multiple=True, help="Only this table (repeatable)."),
            click.option(
                "--config",
                type=click.Path(dir_okay=False, exists=True),
                help="Configuration file (default: the nearest sigma2kql.yml).",
            ),
        )
    ):
        function = option(function)
    return diagnostic_options(function)


@command.command("inspect")
@_options
@click.option("--workspace", "workspace_id", metavar="ID", help="Ask this Log Analytics workspace (its id, a GUID).")
@click.option("--service", metavar="URL", help="Address of the Log Analytics API in another cloud.")
@click.option("--cluster", metavar="URL", help="Ask this Azure Data Explorer cluster or Eventhouse.")
@click.option("--database", help="The database of the cluster.")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Look at these files or folders of events, as `hunt` does (repeatable).",
)
@click.option("--print", "show", is_flag=True, help="Print the queries, to be run in the portal, and ask nothing.")
@click.option(
    "--read",
    "answers",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True),
    help="Exported answers of the printed queries, CSV or JSON (repeatable).",
)
@click.option("--days", type=click.FloatRange(0.04, 90), default=7, show_default=True, help="How far back to look.")
@click.option(
    "--sample",
    type=click.IntRange(100, 1_000_000),
    default=10_000,
    show_default=True,
    help="Rows of each table from which the shares of filled columns come.",
)
@click.option("--timeout", "seconds", type=click.FloatRange(1), default=180, show_default=True, help="Seconds a query.")
@click.option("-j", "--jobs", type=click.IntRange(1, 16), default=4, show_default=True, help="Queries at once.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="File (default: stdout).")
def inspect(output: Path | None, **given: Any) -> int:
    """Make the profile of a workspace: tables, rows a day, filled columns, kinds of event. Names and counts only.

    One bounded query a table: counts over --days, columns over --sample rows.
    """
    config = load_config(given["config"])
    options = make_options(config, {**given, "tables": ()})
    report = Report(given["diagnostics_format"], given["quiet"], use_color(given["color"]))
    target = Compiler(options).target
    asked = list(questions(target, _known(given["tables"], target), given["days"], given["sample"]))
    if sum(bool(given[name]) for name in ("show", "answers", "workspace_id", "cluster", "data")) != 1:
        raise click.UsageError("say one of --workspace ID, --cluster URL --database NAME, --data, --print, --read FILE")
    if given["show"]:
        click.echo("\n\n".join(f"// {question.table}\n{question.kql}" for question in asked))
        return 0
    text = write_profile(_made(asked, target, given, report))
    if output is None:
        click.echo(text, nl=False)
    else:
        Folder(output.parent, inside=False).put(output, text)
    if shown := render(report.held, report.form, report.color):
        click.echo(shown, err=True)
    return 1 if report.failed else 0


def _made(asked: list[Question], target: Target, given: dict[str, Any], report: Report) -> Profile:
    """The profile, from files, from exported answers, or from those that the service gives now."""
    if given["data"]:
        from sigma2kql.hunt.file_profile import profile_of_files

        def unreadable(problem: Diagnostic) -> None:
            report.failed += problem.severity == "error"
            report.show([problem])

        return profile_of_files(given["data"], target, given["tables"], unreadable, given["sample"])
    made = datetime.now(UTC)
    rows: list[Mapping[str, Any]] = [row for path in given["answers"] for row in read_answers(_source(path))]
    if not given["answers"]:
        rows = list(_ask(asked, given, made, report))
    return make_profile(rows, target, made, given["days"], given["sample"])


def _known(names: tuple[str, ...], target: Target) -> tuple[str, ...]:
    from sigma2kql.diagnostics.diagnostic import did_you_mean

    known = [entry.name for entry in target.entries]
    for name in names:
        if name not in known:
            raise click.UsageError(f"unknown table `{name}` {did_you_mean(name, known)}".strip())
    return names


def _source(path: str) -> Source:
    try:
        return Source(path, read_text(path, encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise Sigma2KqlError([diagnostic("E822", f"cannot read {path}: {error}")]) from error


def _ask(asked: list[Question], given: dict[str, Any], now: datetime, report: Report) -> Iterator[Mapping[str, Any]]:
    """The rows of every answer; a query that fails is said, and its table is not in the profile."""
    span = TimeRange(now - timedelta(days=given["days"]), now)

    def one(question: Question) -> list[dict[str, Any]]:
        try:
            answer = engine.run(question.kql, None if given["cluster"] else span, limit=20_000)
        except Sigma2KqlError as error:
            report.failed += 1
            report.show(error.diagnostics)
            return []
        names = list(answer.columns)
        return [dict(zip(names, row, strict=True)) for row in answer.rows]

    with _engine(given) as engine, ThreadPoolExecutor(given["jobs"]) as pool:
        for rows in pool.map(one, asked):
            yield from rows


def _engine(given: dict[str, Any]) -> RemoteEngine:
    if given["cluster"]:
        from sigma2kql.engines.kusto import Kusto

        if not given["database"]:
            raise click.UsageError("--cluster needs --database")
        return Kusto(given["cluster"], given["database"], given["seconds"])
    from sigma2kql.engines.loganalytics import SERVICE, LogAnalytics

    return LogAnalytics(given["workspace_id"], given["service"] or SERVICE, int(given["seconds"]))


# --------------------------------------------------------------------------------------------------------------------
# diff


@command.command("diff")
@click.argument("old", type=click.Path(dir_okay=False, exists=True))
@click.argument("new", type=click.Path(dir_okay=False, exists=True))
@compile_options
@click.option("--format", "form", type=click.Choice(("text", "json")), default="text", show_default=True, help="Form.")
@summary_option
def diff(old: str, new: str, form: str, summary_file: str | None, **given: Any) -> int:
    """Compare two profiles: what arrives no longer, and which rules (PATH...) went blind for it.

    Exit status 1 when a rule went blind: the alarm for a connector that broke.
    """
    before, after = _profile(old), _profile(new)
    found = list(changes(before, after))
    rules = list(_rules(given, before, after))
    if form == "json":
        record = {
            "changes": [{"table": c.table, "change": c.text, "worse": c.worse} for c in found],
            "rules": rules,
        }
        click.echo(json.dumps(record, ensure_ascii=False))
    else:
        for change in found:
            click.echo(f"{'-' if change.worse else '+'} {printable(change.table)} {printable(change.text)}")
        for rule in rules:
            click.echo(f"{rule['path']}: {printable(str(rule['title']))}: {rule['was']} -> {rule['is']}", nl=False)
            click.echo("".join(f"\n    {printable(reason)}" for reason in rule["reasons"]))
    worse = sum(rule["is"] != "live" for rule in rules)
    lost = [(c.table, c.text) for c in found if c.worse]
    lines = markdown_table(("table", "arrives no longer"), lost) if lost else ["Nothing went missing."]
    blind = [(rule["title"], rule["is"], "; ".join(rule["reasons"])) for rule in rules if rule["is"] != "live"]
    lines += ["", *markdown_table(("rule", "now", "why"), blind)] if blind else []
    write_summary(summary_file, "workspace diff", lines)
    if not given["quiet"]:
        count = f"{len(found):,} change{'s' * (len(found) != 1)}"
        click.echo(
            f"{count}; {worse:,} rule{'s' * (worse != 1)} went blind, {len(rules) - worse:,} see again", err=True
        )
    return 1 if worse else 0


def _profile(path: str) -> Profile:
    found = load_profile(Path(path))
    if isinstance(found, tuple):
        raise click.UsageError(f"{path} is a list of tables, not a profile of `workspace inspect`")
    return found


def _rules(given: dict[str, Any], before: Profile, after: Profile) -> Iterator[dict[str, Any]]:
    """The rules whose state differs, each on the table that it was chosen for in the old workspace."""
    options = make_options(load_config(given["config"]), {**given, "profile": None})
    inputs = list(read_inputs(given["paths"], standard_input(given["paths"])))
    for one, done in compile_inputs(inputs, replace(options, profile=before)):
        if done.query is None or done.kql is None:
            continue
        was, now = liveness(done.query, before), liveness(done.query, after)
        if was is None or now is None or was.state == now.state:
            continue
        yield {
            "path": one.path,
            "id": done.document.meta.id,
            "title": done.document.meta.title,
            "table": done.table,
            "was": was.state,
            "is": now.state,
            "reasons": list(now.reasons or was.reasons),
        }


for _parameter in diff.params:
    if _parameter.name == "paths":
        _parameter.required = False  # without rules the two profiles alone are compared
