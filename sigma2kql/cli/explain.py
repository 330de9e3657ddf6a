"""`sigma2kql explain`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, assert_never

import click

from sigma2kql.api import Options, choose_format, compile_inputs, fault, near_real_time, read_inputs
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.cli.shared_options import load_config, make_options
from sigma2kql.diagnostics.catalogue import CATALOGUE
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, did_you_mean
from sigma2kql.diagnostics.render import as_text, printable, render
from sigma2kql.model.simplify import simplify
from sigma2kql.model.tree import And, Compiled, Expr, Match, Not, Or, Rule
from sigma2kql.model.words import in_words


@click.command("explain")
@click.argument("what", metavar="CODE|PATH")
@click.option("-t", "--target", help="What the queries are for.")
@click.option(
    "--mappings",
    multiple=True,
    type=click.Path(file_okay=False, exists=True),
    help="Folder of more mapping files (repeatable).",
)
@click.option("--config", type=click.Path(dir_okay=False, exists=True), help="Configuration file.")
def command(what: str, **given: Any) -> int:
    """Explain a diagnostic code, or how a rule was converted: its tree, its table and why, each field, the query."""
    if re.fullmatch(r"[EWIewi][0-9]{3}", what) and not Path(what).exists():
        return _code(what.upper())
    config = load_config(given["config"])
    options = make_options(config, given)
    base = merge(Settings(), config.deploy, config.spans.get("deploy"))
    failed = False
    for number, (_, done) in enumerate(compile_inputs(read_inputs([what]), options)):
        try:
            text = _rule(done, options, base)
        except Exception as error:
            done = replace(done, diagnostics=(fault(error, done.document.origin.span),))  # noqa: PLW2901
            text = render(done.diagnostics, "text")
        click.echo(("\n" if number else "") + text)
        failed = failed or any(d.severity == "error" for d in done.diagnostics)
    return 1 if failed else 0


def _code(code: str) -> int:
    entry = next((entry for known, entry in CATALOGUE.items() if known == code), None)
    if entry is None:
        raise click.UsageError(f"unknown code `{code}` {did_you_mean(code, CATALOGUE)}".strip())
    click.echo(f"{code} ({entry.severity}): {entry.title}\n\nWhy: {entry.why}\nHow to fix: {entry.fix}")
    return 0


def _rule(done: Compiled, options: Options, base: Settings) -> str:
    lines = [f"{printable(done.document.meta.title)} ({printable(done.document.origin.source.path)})"]
    if isinstance(done.document, Rule):
        lines += [
            "",
            f"log source: {done.document.logsource}",
            "",
            "what the rule means:",
            *_tree(simplify(done.document.where), "  "),
        ]
    if done.table is not None:
        lines += ["", f"table: {done.table} (target {options.target}, {done.verdict})"]
    lines += [f"  passed over {printable(text)}" for text in done.passed_over]
    if done.mapped:
        lines += ["", "fields:", *(f"  {printable(name)} -> {printable(words)}" for name, words in done.mapped.items())]
    if done.verdicts:
        lines += ["", "by source:", *(f"  {source}: {verdict}" for source, verdict in done.verdicts.items())]
        lines += [f"  {printable(text)}" for text in done.caveats]
    if done.kql is not None:
        lines += ["", "kind of rule:", *(f"  {printable(text)}" for text in _kind(done, options, base))]
        lines += ["", "query:", *(f"  {line}" for line in done.kql.splitlines())]
    if done.diagnostics:
        lines += ["", "diagnostics:", *(f"  {line}" for d in done.diagnostics for line in as_text(d).splitlines())]
    return "\n".join(lines)


def _kind(done: Compiled, options: Options, base: Settings) -> list[str]:
    """What `-f auto` makes of a rule and why, and whether it can run at once."""
    try:
        settings = merge_rule(base, done.document.meta.custom, done.document.origin.span)
        form, _, reason = choose_format(done, settings, options)
    except Sigma2KqlError as error:
        return [f"none: {error.diagnostics[0].message}"]
    kind = "custom detection" if form == "xdr-json" else "analytics rule"
    return [f"{kind}: {reason}", *near_real_time(done, settings, options)]


def _tree(expr: Expr[Any], indent: str) -> list[str]:
    match expr:
        case And(items) | Or(items):
            word = "all of" if isinstance(expr, And) else "any of"
            return [f"{indent}{word}", *(line for item in items for line in _tree(item, indent + "  "))]
        case Not(item):
            return [f"{indent}not", *_tree(item, indent + "  ")]
        case Match(subject, test):
            return [printable(f"{indent}{subject.name or 'the event'} {in_words(test)}")]
        case _:
            assert_never(expr)
