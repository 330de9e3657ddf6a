"""`sigma2kql test`."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sigma2kql.api import Compiler, Input, Options, fault, load_input, read_inputs
from sigma2kql.cli.shared_options import (
    compile_options,
    empty_folders,
    load_config,
    make_options,
    progress,
    standard_input,
    use_color,
)
from sigma2kql.cli.summary import summarise_test, summary_option
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError
from sigma2kql.diagnostics.render import printable, render
from sigma2kql.model.tree import Compiled, Correlation, Document, Rule
from sigma2kql.proof import Result, Subject, summary
from sigma2kql.proof.prove import prove
from sigma2kql.proof.prove_correlations import fed
from sigma2kql.proof.rule_events import (
    Attack,
    Labelled,
    events_to_hunt,
    recorded_attacks,
    stated_for,
    streams_for,
)

WITHOUT = "no events"
MANY = 100  # rules with generated events from which several processes pay


@click.command("test")
@compile_options
@click.option(
    "--format",
    "form",
    type=click.Choice(("text", "json", "junit", "html")),
    default="text",
    show_default=True,
    help="Form of the results on stdout.",
)
@summary_option
@click.option("--generate", is_flag=True, help="Prove each rule on events made from it: matches and near misses.")
@click.option(
    "--per-rule", type=click.IntRange(2, 10_000), default=24, show_default=True, help="Generated events a rule."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other events.")
@click.option(
    "--events",
    multiple=True,
    type=click.Path(exists=True),
    help="File or folder of events to run every rule on (repeatable): NDJSON, JSON, YAML, CSV, EVTX, Parquet; also gz.",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(0, 64), default=0, help="Processes (default: one a core for much work)."
)
def command(
    form: str,
    summary_file: str | None,
    generate: bool,
    per_rule: int,
    seed: int,
    events: tuple[str, ...],
    jobs: int,
    **given: Any,
) -> int:
    """Run each rule's query on events and judge what it selects.

    Events come from files beside the rules (RULE.events.yml, .json, .ndjson), the key `tests` in a rule, the recorded
    attacks of a SigmaHQ checkout, --events and --generate. A rule whose events decide nothing is unproven, not passed.
    Exit status 1 when any rule failed; unproven and skipped rules do not change it.
    """
    options = replace(make_options(load_config(given["config"]), given), union=False)
    started = time.perf_counter()
    problems: list[Diagnostic] = []
    inputs = list(read_inputs(given["paths"], standard_input(given["paths"])))
    problems += empty_folders(given["paths"], inputs)
    attacks = recorded_attacks(given["paths"], problems.append)
    hunted = tuple(one for path in events for one in events_to_hunt(Path(path), problems.append))
    subjects = list(subjects_with_events(inputs, options, attacks, hunted))
    count = per_rule if generate else 0
    workers = jobs or ((os.cpu_count() or 1) if len(subjects) >= MANY and (generate or hunted) else 1)
    with progress(len(subjects), "testing", given["quiet"]) as advance:
        results = list(prove(subjects, count, str(seed), workers, advance))
    told = summary(results, time.perf_counter() - started)
    if form == "json":
        click.echo(json.dumps({"summary": told, "results": [r.as_dict() for r in results]}, ensure_ascii=False))
    elif form == "junit":
        click.echo(_junit(results, told))
    elif form == "html":
        from sigma2kql.site.run_page import run_page

        click.echo(run_page(results, told), nl=False)
    else:
        click.echo(_table(results))
    if problems:
        click.echo(render(problems, given["diagnostics_format"], use_color(given["color"])), err=True)
    if not given["quiet"]:
        click.echo(_in_words(results, told), err=True)
    summarise_test(summary_file, results, told)
    return 1 if told["failed"] else 0


def subjects_with_events(
    inputs: Sequence[Input], options: Options, attacks: Mapping[str, list[Attack]], hunted: tuple[Labelled, ...]
) -> Iterable[Subject]:
    """Every document with its query and its events."""
    loaded = [load_input(one) for one in inputs]
    compiler = Compiler(options, [document for documents in loaded for document in documents])
    for documents in loaded:
        rules = sum(isinstance(document, Rule | Correlation) for document in documents)
        for document in documents:
            done = compiler.compile(document)
            try:
                subject = _mapped(compiler, document, done)
                path, meta = document.origin.source.path, document.meta
                correlates = isinstance(document, Correlation)
                stated = streams_for(path, meta) if correlates else stated_for(path, meta, rules > 1, attacks)
            except Exception as error:
                yield Subject(replace(done, diagnostics=(fault(error, document.origin.span),)))
                continue
            yield replace(
                subject,
                events=stated.events + hunted,
                attacks=stated.attacks,
                problems=stated.problems,
                streams=stated.streams,
            )


def _mapped(compiler: Compiler, document: Document, done: Compiled) -> Subject:
    if isinstance(document, Correlation) and done.recurrence is not None:
        # one that only feeds another is judged by the query that it would have
        return fed(compiler, done if done.kql is not None else compiler.correlate(document))
    if not isinstance(document, Rule) or done.query is None:
        return Subject(done)
    if done.kql is None:  # a rule that only feeds a correlation is judged by the query that it would have
        done = replace(done, kql=compiler.emit(done.query))
    try:
        mapped = compiler.map(document)
        return Subject(done, compiler.where(document), mapped.table, mapped.serve)
    except Sigma2KqlError:
        return Subject(done)


# --------------------------------------------------------------------------------------------------------------------
# Output


def _table(results: Sequence[Result]) -> str:
    """A line a rule that had events, and under each failure what decided."""
    shown = [r for r in results if not (r.status == "skipped" and r.reason.startswith(WITHOUT))]
    if not shown:
        return "no rule had events"
    width = min(60, max(len(_name(r)) for r in shown))
    lines = [f"{'RULE':{width}}  RESULT    EVENTS  MATCHED  MISSED  UNEXPECTED     TIME"]
    for result in shown:
        name = _name(result)
        name = name if len(name) <= width else name[: width - 1] + "…"
        lines.append(
            f"{name:{width}}  {result.status:8}  {result.events:6}  {result.matched:7}  {result.missed:6}"
            f"  {result.unexpected:10}  {result.seconds * 1000:5.0f} ms"
        )
        if result.status != "passed":
            lines += [f"    {line}" for line in _detail(result)]
    return "\n".join(lines)


def _name(result: Result) -> str:
    return printable(result.title) or result.path


def _why(result: Result) -> str:
    return result.reason if result.status == "skipped" else f"{result.status}: {result.reason}"


def _detail(result: Result) -> list[str]:
    lines = [printable(f"{result.path}: {result.reason}")]
    example = result.counterexample
    if example is not None:
        expected = "must match and does not" if example.expected else "must not match and does"
        lines.append(
            printable(
                f"{example.origin}: {expected}: {json.dumps(example.event, ensure_ascii=False, default=str)[:400]}"
            )
        )
        if example.why:
            where = f"{result.path}:{example.line}: " if example.line else ""
            lines.append(printable(f"{where}{example.why}"))
    lines += [printable(note) for note in result.notes[:3]]
    return lines


def _in_words(results: Sequence[Result], told: Mapping[str, Any]) -> str:
    reasons = Counter(r.reason.split(":")[0] for r in results if r.status == "skipped")
    why = "; ".join(f"{count:,} {printable(reason)}" for reason, count in reasons.most_common(8))
    return (
        f"{told['rules']:,} rule{'s' * (told['rules'] != 1)}: "
        f"{told['passed']:,} passed, {told['failed']:,} failed, "
        f"{told['unproven']:,} unproven, {told['skipped'] - told['unproven']:,} skipped"
        + (f" ({why})" if why else "")
        + f"; {told['events']:,} events ({told['must_match']:,} must match), {told['set_aside']:,} set aside, "
        f"{told['seconds']:.1f} s"
    )


def _junit(results: Sequence[Result], told: Mapping[str, Any]) -> str:
    """JUnit XML as CI systems read it: a test case a rule."""
    from xml.sax.saxutils import escape, quoteattr

    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites tests="{told["rules"]}" failures="{told["failed"]}" time="{told["seconds"]}">',
        (
            f'<testsuite name="sigma2kql" tests="{told["rules"]}" failures="{told["failed"]}" '
            f'skipped="{told["skipped"]}" time="{told["seconds"]}">'
        ),
    ]
    for result in results:
        head = f"<testcase classname={quoteattr(printable(result.path))} name={quoteattr(_name(result))}"
        head += f' time="{result.seconds:.3f}"'
        match result.status:
            case "passed":
                lines.append(f"{head}/>")
            case "skipped" | "unproven":
                lines.append(f"{head}><skipped message={quoteattr(printable(_why(result)))}/></testcase>")
            case "failed":
                detail = escape("\n".join(_detail(result)))
                lines.append(
                    f"{head}><failure message={quoteattr(printable(result.reason))}>{detail}</failure></testcase>"
                )
    return "\n".join([*lines, "</testsuite>", "</testsuites>"])
