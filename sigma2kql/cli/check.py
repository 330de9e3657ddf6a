"""`sigma2kql check`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sigma2kql.api import Compiler, Options, load_input, read_inputs
from sigma2kql.cli.output import Folder
from sigma2kql.cli.shared_options import (
    FORMS,
    Report,
    compile_options,
    load_config,
    make_options,
    progress,
    standard_input,
    use_color,
)
from sigma2kql.cli.summary import summarise_run, summary_option
from sigma2kql.diagnostics.diagnostic import Diagnostic
from sigma2kql.diagnostics.render import render
from sigma2kql.engines.kusto_language import KqlCheck, open_check
from sigma2kql.lint.judge import QUERY_SUFFIX, as_compiled, judge, lint, query_files, read_query, schema_of
from sigma2kql.model.tree import Compiled, Document


@click.command("check")
@compile_options
@click.option("--kusto", is_flag=True, help="Give every query to Microsoft's own KQL parser, with the mapped schema.")
@click.option(
    "--kusto-bundle",
    metavar="DIR",
    help="Folder of the npm package @kusto/language-service-next (implies --kusto; default: KUSTO_JS, node_modules).",
)
@click.option(
    "-f", "--format", "form", type=click.Choice(FORMS), help="Give the diagnostics as the product, in this form."
)
@click.option("-o", "--output", metavar="FILE", help="Where --format writes to (default: stdout).")
@summary_option
def command(
    kusto: bool, kusto_bundle: str | None, form: str | None, output: str | None, summary_file: str | None, **given: Any
) -> int:
    """Judge Sigma rules, and the KQL they give, without writing any.

    Everything that loading, mapping and emission say, for each target (-t sentinel,xdr), and habits of good rules.
    Hand-written KQL is judged too: query documents in YAML, and *.kql files.

    Diagnostics go to stderr (--diagnostics-format); with --format they are the product, on stdout or in FILE.
    """
    if output is not None and form is None:
        raise click.UsageError("--output is for --format")
    options = make_options(load_config(given["config"]), given)
    targets = [name.strip() for name in options.target.split(",") if name.strip()]
    report = Report(given["diagnostics_format"], given["quiet"], use_color(given["color"]))
    with ExitStack() as stack:
        compilers = [Compiler(replace(options, target=name)) for name in targets]
        checks: list[KqlCheck] = []
        if kusto or kusto_bundle:
            checks = [stack.enter_context(open_check(schema_of(c.target), kusto_bundle)) for c in compilers]
            if not report.quiet:
                report.held += dict.fromkeys(notice for check in checks for notice in check.notices)
        for done in _judged(given["paths"], compilers, checks, options, report.quiet):
            report.add(done)
    _deliver(report, form, output)
    summarise_run(summary_file, "check", "sound", report)
    return 1 if report.failed or (given["strict"] and report.warnings) else 0


for _parameter in command.params:  # what is shared with other commands says less there
    if isinstance(_parameter, click.Option) and _parameter.name == "strict":
        _parameter.help = "A warning fails, too; a query broader or narrower than its rule is an error."


def _judged(
    paths: Sequence[str], compilers: Sequence[Compiler], checks: Sequence[KqlCheck], options: Options, quiet: bool
) -> Iterator[Compiled]:
    """One result a document, with the findings of every target, in order of the input; query files come last."""
    rules = [path for path in paths if not path.endswith(QUERY_SUFFIX) or Path(path).is_dir()]
    documents: list[Document] = [d for one in read_inputs(rules, standard_input(rules)) for d in load_input(one)]
    queries = [read_query(path) for path in query_files(paths)]
    habits = lint(documents)
    compilers = [compiler.knowing(documents) for compiler in compilers]
    with progress(len(documents) + len(queries), "checking", quiet) as advance:
        for number, document in enumerate([*documents, *queries]):
            if number < len(documents):
                results = [compiler.compile(document) for compiler in compilers]
                told = list(habits[number])
            else:
                results = [as_compiled(document, compiler.target.name) for compiler in compilers]
                told = []
            for done, check, compiler in zip(results, checks, compilers, strict=False):
                told += judge(done, check, options.prefilter, compiler.target.limits)
            yield _together(results, told)
            advance(1)


def _together(results: Sequence[Compiled], told: Sequence[Diagnostic]) -> Compiled:
    """One result of all targets: what loading says is said once, and where targets differ each is heard."""
    unique: dict[object, Diagnostic] = {}
    for d in (*(d for done in results for d in done.diagnostics), *told):
        unique.setdefault((d.code, d.message, (d.span.source.path, d.span.start) if d.span else None), d)
    in_order = sorted(unique.values(), key=lambda d: d.span.start if d.span else 0)
    return replace(results[0], diagnostics=tuple(in_order))


def _deliver(report: Report, form: str | None, output: str | None) -> None:
    if form is None:
        report.finish("sound")
        return
    text = render(report.held, form)
    if output is not None:
        Folder(Path(output).parent, inside=False).put(Path(output), text + "\n" if text else "")
    elif text:
        sys.stdout.write(text + "\n")
    if not report.quiet:
        click.echo(report.summary("sound"), err=True)
