"""`sigma2kql convert`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import click

from sigma2kql.api import Input, Options, compile_inputs, read_inputs
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.cli.output import Folder, as_kql, as_line
from sigma2kql.cli.shared_options import (
    Report,
    compile_options,
    empty_folders,
    load_config,
    make_options,
    progress,
    standard_input,
    use_color,
)
from sigma2kql.cli.summary import summarise_run, summary_option
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic
from sigma2kql.model.tree import Compiled

PLAIN = ("kql", "ndjson")
AUTO = "auto"


@click.command("convert")
@compile_options
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice((*PLAIN, *FORMATS, AUTO)),
    help="Form of the product (default: kql); auto: an analytics rule or a custom detection, whichever serves.",
)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    help="A file, or a folder (ends in / or exists): the tree of the input is mirrored, one file a rule.",
)
@click.option("--bundle", is_flag=True, help="All rules in one template, where the format allows it.")
@click.option(
    "--nrt",
    type=click.Choice(("documented", "reported")),
    help="What may run continuously: what Microsoft documents, or what live tenants report (default: documented).",
)
@summary_option
@click.option("--no-header", is_flag=True, help="Queries without the comment lines that name the rule.")
def command(
    form: str | None,
    output: str | None,
    bundle: bool,
    no_header: bool,
    summary_file: str | None,
    nrt: str | None,
    **given: Any,
) -> int:
    """Compile Sigma rules and Microsoft's own queries to KQL or to deployable artifacts.

    A PATH is a file, a folder (searched for *.yml and *.yaml) or - for standard input. A *.json file that is named is
    read too: ARM templates, what the list APIs answer, custom detections of Defender.
    """
    config = load_config(given["config"])
    options = make_options(config, given)
    form = form or config.format or "kql"
    if form not in (*PLAIN, *FORMATS, AUTO):
        raise click.UsageError(f"unknown format `{form}` in {config.path}")
    if bundle and form in PLAIN:
        raise click.UsageError(f"--bundle is for artifacts, not for {form}")
    inputs = list(read_inputs(given["paths"], standard_input(given["paths"])))
    report = Report(given["diagnostics_format"], given["quiet"], use_color(given["color"]))
    report.show(empty_folders(given["paths"], inputs))
    results = _results(inputs, options, report)
    if form not in PLAIN:
        from sigma2kql.cli.artifact_files import write_artifacts

        write_artifacts(list(results), form, bundle, output, config, options, report, nrt)
    elif output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        _write_folder(results, form, Folder(Path(output), inputs), not no_header, report)
    elif output is not None:
        _write_file(results, form, Path(output), not no_header, inputs)
    else:
        _write(results, form, sys.stdout, not no_header)
    report.finish()
    summarise_run(summary_file, "convert", "converted", report)
    return 1 if report.failed else 0


def _results(inputs: list[Input], options: Options, report: Report) -> Iterator[tuple[Input, Compiled]]:
    """Every result, counted and with its diagnostics shown."""
    with progress(len(inputs), "converting", report.quiet) as advance:
        last: Input | None = None
        for one, done in compile_inputs(inputs, options):
            if one is not last:
                advance(1)
                last = one
            report.add(done)
            yield one, done


def _write(results: Iterator[tuple[Input, Compiled]], form: str, stream: TextIO, header: bool) -> None:
    first = True
    for _, done in results:
        if form == "ndjson":
            stream.write(as_line(done) + "\n")
        elif done.kql is not None:
            stream.write(("" if first else "\n") + as_kql(done, header) + "\n")
            first = False


def _write_file(
    results: Iterator[tuple[Input, Compiled]], form: str, path: Path, header: bool, inputs: list[Input]
) -> None:
    import io

    data = io.BytesIO()  # a quarter of what io.StringIO holds
    text = io.TextIOWrapper(data, encoding="utf-8", newline="\n")
    _write(results, form, text, header)
    text.flush()
    Folder(path.parent, inputs, inside=False).put(path, data.getbuffer())


def _write_folder(
    results: Iterator[tuple[Input, Compiled]], form: str, folder: Folder, header: bool, report: Report
) -> None:
    root = folder.root
    if root.exists() and not root.is_dir():
        raise Sigma2KqlError([diagnostic("E805", f"cannot write into {root}: it is a file")])
    pending: list[tuple[Input, Compiled]] = []

    def flush() -> None:
        for number, (one, done) in enumerate(pending):
            try:
                if form == "ndjson":
                    folder.write(one, number, len(pending) > 1, ".json", as_line(done) + "\n")
                elif done.kql is not None:
                    folder.write(one, number, len(pending) > 1, ".kql", as_kql(done, header) + "\n")
            except Sigma2KqlError as error:  # the others may have room
                report.fail(done, error.diagnostics)

    for one, done in results:
        if pending and pending[0][0] is not one:
            flush()
            pending.clear()
        pending.append((one, done))
    flush()
