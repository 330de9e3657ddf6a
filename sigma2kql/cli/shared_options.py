"""What the commands share: their options, the configuration under them, diagnostics and the summary."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sigma2kql.api import STANDARD_INPUT, Input, Options
from sigma2kql.cli.config import Config, find_config, read_config
from sigma2kql.diagnostics.catalogue import CATALOGUE, Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, diagnostic, fail
from sigma2kql.diagnostics.render import printable, render
from sigma2kql.model.tree import Compiled
from sigma2kql.system.bounded_files import MOST, read_text

if TYPE_CHECKING:
    from sigma2kql.workspace.profile import Profile

Function = TypeVar("Function", bound=Callable[..., Any])
STATES = ("live", "blind", "dead")
MOST_REASONS = 12
BY_SOURCE = ("W406", "W407", "W408", "W411", "W412", "I406")  # said once a reason where many rules have it
FEW = 3  # rules of one reason that are shown one by one
NO_QUERY = "without a query of their own"
FORMS = ("text", "json", "github", "sarif")


def compile_options(function: Function) -> Function:
    """The options of every command that compiles rules."""
    for option in reversed(
        (
            click.argument("paths", nargs=-1, required=True, metavar="PATH..."),
            click.option(
                "-t", "--target", help="What the queries are for: sentinel (default), asim, xdr or one of your own."
            ),
            click.option(
                "--mappings",
                multiple=True,
                type=click.Path(file_okay=False, exists=True),
                help="Folder of more mapping files (repeatable).",
            ),
            click.option(
                "--table",
                "tables",
                multiple=True,
                help="Only use this table (repeatable): the ones that the workspace has.",
            ),
            click.option(
                "--source",
                "sources",
                multiple=True,
                metavar="NAME",
                help="A data source that is there (repeatable): its tables come first, and its verdict counts.",
            ),
            click.option(
                "--prefer",
                multiple=True,
                metavar="TABLE,...",
                help="Tables that come first, in this order; others are still used where these do not carry a rule.",
            ),
            click.option(
                "--union",
                is_flag=True,
                default=None,
                help="Query all tables that carry a rule (union isfuzzy=true), not the best one.",
            ),
            click.option(
                "--profile",
                type=click.Path(dir_okay=False, exists=True),
                help="What the workspace holds (`workspace inspect`), or an exported list of its tables.",
            ),
            click.option(
                "--builtin-parsers",
                is_flag=True,
                default=None,
                help="Call ASIM's built-in parsers (_Im_...) instead of the workspace's (im...).",
            ),
            click.option(
                "--time-column",
                help="Timestamp column in place of the table's own "
                "(TimeGenerated for Sentinel's copy of Defender tables).",
            ),
            click.option(
                "--placeholder",
                "placeholders",
                multiple=True,
                metavar="NAME=VALUE",
                help="A value of %NAME% (repeatable).",
            ),
            click.option(
                "--strict",
                is_flag=True,
                default=None,
                help="A query that is broader or narrower than its rule is an error.",
            ),
            click.option(
                "--prefilter/--no-prefilter",
                default=None,
                help="Put index-backed term tests in front where they are implied (default: yes).",
            ),
            click.option(
                "--config",
                type=click.Path(dir_okay=False, exists=True),
                help="Configuration file (default: the nearest sigma2kql.yml).",
            ),
        )
    ):
        function = option(function)
    return diagnostic_options(function)


def diagnostic_options(function: Function) -> Function:
    """How diagnostics are shown."""
    for option in reversed(
        (
            click.option(
                "--diagnostics-format",
                type=click.Choice(FORMS),
                default="text",
                show_default=True,
                help="Form of the diagnostics on stderr.",
            ),
            click.option("-q", "--quiet", is_flag=True, help="No progress, no summary, no warnings."),
            click.option(
                "--color",
                type=click.Choice(("auto", "always", "never")),
                default="auto",
                show_default=True,
                help="Colour of diagnostics; NO_COLOR is honoured.",
            ),
        )
    ):
        function = option(function)
    return function


def load_config(path: str | None) -> Config:
    """The configuration named, or the nearest one, or an empty one."""
    found = Path(path) if path else find_config(Path.cwd())
    return read_config(found) if found else Config()


def make_options(config: Config, given: dict[str, Any]) -> Options:
    """Options from the configuration, overridden by flags. Raises click.UsageError for a malformed flag."""
    placeholders = {name: list(values) for name, values in config.placeholders.items()}
    told: dict[str, list[str]] = {}
    for text in given.get("placeholders", ()):
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise click.UsageError(f"--placeholder takes NAME=VALUE, not `{text}`")
        told.setdefault(name, []).append(value)
    named = Path(given["profile"]) if given.get("profile") else config.profile
    profile = load_profile(named) if named is not None else None
    listed = profile if isinstance(profile, tuple) else config.tables
    prefilter = given["prefilter"] if given.get("prefilter") is not None else config.prefilter
    return Options(
        target=given.get("target") or config.target or "sentinel",
        mappings=(*config.mappings, *map(Path, given.get("mappings", ()))),
        tables=tuple(given.get("tables", ())) or listed,
        prefer=tuple(name.strip() for text in given.get("prefer", ()) for name in text.split(",")) or config.prefer,
        sources=tuple(given.get("sources", ())) or config.sources,
        placeholders={**placeholders, **told},
        builtin=bool(given["builtin_parsers"] if given.get("builtin_parsers") is not None else config.builtin),
        time=given.get("time_column") or config.time,
        union=bool(given["union"] if given.get("union") is not None else config.union),
        strict=bool(given["strict"] if given.get("strict") is not None else config.strict),
        prefilter=True if prefilter is None else prefilter,
        profile=None if isinstance(profile, tuple) else profile,
    )


def load_profile(path: Path) -> Profile | tuple[str, ...]:
    """The profile in a file, or the names of tables where it is a plain list of them. Raises Sigma2KqlError."""
    from sigma2kql.workspace.profile import read_profile, unreadable

    try:
        text = read_text(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(str(path), str(error)) from error
    if re.search(r"(?m)^(version|made|tables):", text):
        return read_profile(Source(str(path), text))
    return table_names(text, path)


def table_names(text: str, path: Path) -> tuple[str, ...]:
    """Table names from an export: lines of text, CSV or JSON (any `name`, `TableName`, `DataType` or `$table`)."""
    import csv
    import json

    names: dict[str, None] = {}

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                if key.lower() in ("name", "tablename", "datatype", "$table") and isinstance(item, str):
                    names[item.rpartition("/")[2]] = None
                else:
                    collect(item)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, str):
                    names[item] = None
                else:
                    collect(item)

    try:
        collect(json.loads(text))
    except (ValueError, RecursionError):
        for row in csv.reader(text.splitlines()):
            if row and row[0].strip() and row[0].strip().lower() not in ("name", "tablename", "datatype", "$table"):
                names[row[0].strip()] = None
    if not names:
        raise click.UsageError(f"no table names found in {path}")
    return tuple(names)


def empty_folders(paths: Iterable[str], inputs: Iterable[Input]) -> list[Diagnostic]:
    """A warning for each folder that was named and holds no rule file."""
    found = {one.root for one in inputs}
    return [
        diagnostic("W801", f"no rule files (*.yml, *.yaml) in {path}")
        for path in paths
        if Path(path).is_dir() and Path(path) not in found
    ]


def standard_input(paths: Iterable[str]) -> bytes:
    """What was given on standard input, where it is asked for. Raises Sigma2KqlError where it is too much."""
    if STANDARD_INPUT not in paths:
        return b""
    data = sys.stdin.buffer.read(MOST + 1)
    if len(data) > MOST:
        raise fail("E803", f"standard input holds more than {MOST:,} bytes")
    return data


def use_color(choice: str) -> bool:
    """Colour on a terminal, unless NO_COLOR is set (no-color.org) or the user says otherwise."""
    if choice != "auto":
        return choice == "always"
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def progress(length: int, label: str, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal and the work is long; else nothing."""
    if quiet or length < 50 or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield bar.update


def _by_reason(found: list[Diagnostic]) -> tuple[list[Diagnostic], list[str]]:
    """What is shown at its place, and what many rules have in common: a sentence a reason, with their number."""
    groups = Counter((one.code, one.message) for one in found if one.code in BY_SOURCE)
    many = {key for key, count in groups.items() if count > FEW}
    lines = [
        f"{CATALOGUE[code].severity}[{code}]: {printable(message)} ({count:,} rules)"
        for (code, message), count in groups.most_common()
        if count > FEW
    ]
    return [one for one in found if (one.code, one.message) not in many], lines


@dataclass(slots=True)
class Report:
    """Counts results and shows diagnostics, together at the end so that they do not stand between results."""

    form: str
    quiet: bool
    color: bool
    held: list[Diagnostic] = field(default_factory=list)
    documents: int = 0
    failed: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    codes: Counter[Code] = field(default_factory=Counter)
    warnings: int = 0
    here: Counter[str] = field(default_factory=Counter)  # live, blind, dead: in the workspace of a profile
    missing: Counter[str] = field(default_factory=Counter)  # why rules are blind
    functions: int = 0  # queries on ASIM functions that a workspace may lack

    def add(self, done: Compiled) -> bool:
        """Take in one result; whether it failed."""
        self.documents += 1
        errors = [d for d in done.diagnostics if d.severity == "error"]
        if errors:
            self.failed += 1
            self.codes[errors[0].code] += 1
        else:
            self.verdicts[done.verdict or NO_QUERY] += 1
            if done.here is not None:
                self.here[done.here.state] += 1
                self.missing.update(done.here.reasons[:1])
            elif done.kql is not None and done.table is not None:
                names = done.table.split(", ")
                self.functions += any(n[:2] == "im" and n[2:3].isupper() and n in done.kql for n in names)
        self.show(done.diagnostics)
        return bool(errors)

    def fail(self, done: Compiled, diagnostics: Iterable[Diagnostic]) -> None:
        """A result that was counted as done cannot be delivered after all."""
        found = list(diagnostics)
        self.failed += 1
        self.verdicts[done.verdict or NO_QUERY] -= 1
        self.codes[found[0].code] += 1
        self.show(found)

    def show(self, diagnostics: Iterable[Diagnostic]) -> None:
        for found in diagnostics:
            self.warnings += found.severity == "warning"
            if self.quiet and found.severity != "error":
                continue
            self.held.append(found)

    def finish(self, verb: str = "converted") -> None:
        """Show what was held and the summary."""
        shown, reasons = _by_reason(self.held) if self.form == "text" else (self.held, [])
        if self.form in ("json", "sarif") or shown or reasons:
            text = "\n".join(filter(None, (render(shown, self.form, self.color), *reasons)))
            if text:
                click.echo(text, err=True)
        if not self.quiet and self.form == "text":
            click.echo(self.summary(verb), err=True)

    def summary(self, verb: str) -> str:
        """How many of each, and why the others failed."""
        converted = self.documents - self.failed
        detail = ", ".join(f"{count:,} {verdict}" for verdict, count in self.verdicts.most_common() if count)
        text = f"{self.documents:,} document{'s' * (self.documents != 1)}: {converted:,} {verb}" + (
            f" ({detail})" if detail else ""
        )
        if self.failed:
            why = "; ".join(f"{count:,} {code} {CATALOGUE[code].title}" for code, count in self.codes.most_common())
            text += f", {self.failed:,} failed ({why})"
        if self.here:
            text += "\nin this workspace: " + ", ".join(f"{self.here[s]:,} {s}" for s in STATES if self.here[s])
            text += "".join(f"\n  {count:,}: {printable(why)}" for why, count in self.missing.most_common(MOST_REASONS))
        if self.warnings:
            text += f", {self.warnings:,} warning{'s' * (self.warnings != 1)}"
        if self.functions and verb == "converted":
            calls = "1 query calls" if self.functions == 1 else f"{self.functions:,} queries call"
            text += (
                f"\n{calls} a function (im...) that must be deployed; --builtin-parsers calls what every workspace has"
            )
        return text
