"""`sigma2kql site`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import click

from sigma2kql.api import Compiler, Input, Options, load_input, read_inputs
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.settings import Settings, merge
from sigma2kql.cli.artifact_files import folder_settings
from sigma2kql.cli.config import Config
from sigma2kql.cli.output import Folder
from sigma2kql.cli.shared_options import (
    Report,
    compile_options,
    load_config,
    make_options,
    progress,
    standard_input,
    use_color,
)
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic
from sigma2kql.model.tree import Compiled, Document
from sigma2kql.site.build import MANIFEST, Built, Subject, Wanted, build
from sigma2kql.site.history import history
from sigma2kql.system.bounded_files import read_text

TARGETS = "sentinel,xdr"
SUFFIXES = (  # of what a build makes
    *(".html", ".css", ".js", ".json", ".atom", ".svg", ".yml", ".kql", ".bicep", ".tf"),
    *(".zip", ".mjs", ".wasm"),
)
FOLDERS = ("rules", "tables", "techniques", "assets", "playground")  # of a site, beside its files


@click.command("site")
@compile_options
@click.option("-o", "--output", metavar="DIR", required=True, help="Where the site is written to.")
@click.option("--title", default="Detection rules", show_default=True, help="Name of the site.")
@click.option("--base-url", default="", metavar="URL", help="Where the site will be served: feeds need it.")
@click.option("--source-url", default="", metavar="URL", help="Stands before a rule's path in the link to its source.")
@click.option(
    "--artifact",
    "formats",
    multiple=True,
    type=click.Choice(tuple(FORMATS)),
    help="Artifact shown on the pages (repeatable; default: sentinel-yaml, or hunting-yaml for hunts, and xdr-json).",
)
@click.option(
    "--playground",
    metavar="DIR",
    type=click.Path(file_okay=False, exists=True),
    help="Add a page that converts in the reader's browser (7 MB): DIR holds the npm package pyodide "
    "(and @kusto/language-service-next, for Microsoft's parser).",
)
@click.option("--prove", is_flag=True, help="Run each query on events made from its rule, and show what came of it.")
@click.option(
    "--history/--no-history", "with_history", default=True, help="Show each rule's commits where git is there."
)
@click.option(
    "--templates",
    multiple=True,
    type=click.Path(file_okay=False, exists=True),
    help="Folder of own templates, which stand in for the shipped ones of their name (repeatable).",
)
@click.option("--css", type=click.Path(dir_okay=False, exists=True), help="Own CSS: a company's variables and rules.")
def command(
    output: str,
    title: str,
    base_url: str,
    source_url: str,
    formats: tuple[str, ...],
    playground: str | None,
    prove: bool,
    with_history: bool,
    templates: tuple[str, ...],
    css: str | None,
    **given: Any,
) -> int:
    """Make a static site of rules: a page a rule, lists to search, tables and connectors, ATT&CK, feeds.

    The pages need no server: they open from the disk, too. A page is made anew only where what it shows has changed.
    Several targets are given with commas (-t sentinel,asim,xdr; default: sentinel,xdr). What is wrong with rules stands
    on the page of problems; only rules without a query for any target are told here.
    """
    config = load_config(given["config"])
    given["target"] = given.get("target") or config.target or TARGETS
    options = make_options(config, given)
    names = dict.fromkeys(name.strip() for name in options.target.split(",") if name.strip())
    by_target = {name: replace(options, target=name) for name in names}
    shipped: tuple[tuple[str, bytes], ...] = ()
    if playground is not None:
        from sigma2kql.site.playground import files

        shipped = tuple(files(Path(playground), list(names)))
    wanted = Wanted(
        playground=bool(shipped),
        files=shipped,
        title=title,
        base_url=_folder_url(base_url),
        source_url=_folder_url(source_url),
        formats=formats,
        templates=tuple(map(Path, templates)),
        css=_text(css) if css else "",
        profile=options.profile is not None,
        options=by_target,
        takes={name: Compiler(one).target.formats for name, one in by_target.items()},
    )
    root = Path(output)
    if root.exists() and not root.is_dir():
        raise Sigma2KqlError([diagnostic("E805", f"cannot write into {root}: it is a file")])
    report = Report(given["diagnostics_format"], given["quiet"], use_color(given["color"]))
    subjects = _subjects(given["paths"], wanted.options, config, with_history, report)
    old = _manifest(root)
    proofs: dict[str, Any] = {}
    if prove:
        from sigma2kql.cli.site_proofs import proven

        subjects, proofs = proven(subjects, given["paths"], wanted.options, old.get("proofs", {}), report.quiet)
    folder = Folder(root)
    done, manifest = build(subjects, wanted, old, lambda path, text: folder.put(root / path, text), proofs)
    _remove(root, done.removed)
    folder.put(root / MANIFEST, manifest)
    _finish(done, report, root)
    return 1 if report.failed else 0


def _subjects(
    paths: Sequence[str], options: Mapping[str, Options], config: Config, told: bool, report: Report
) -> list[Subject]:
    """Every document of the paths with its results for all targets."""
    inputs = list(read_inputs(paths, standard_input(paths)))
    loaded: list[tuple[Input, Document]] = [(one, document) for one in inputs for document in load_input(one)]
    compilers = [Compiler(one, [document for _, document in loaded]) for one in options.values()]
    base = merge(Settings(), config.deploy, config.spans.get("deploy"))
    settings: dict[str, Settings] = {}
    changes = history({one.path for one in inputs}) if told else {}
    out = []
    with progress(len(loaded), "converting", report.quiet) as advance:
        for one, document in loaded:
            results = tuple(compiler.compile(document) for compiler in compilers)
            report.add(_best(results))
            folder = str(PurePath(one.path).parent)
            if folder not in settings:
                settings[folder] = folder_settings(base, one, config)
            out.append(Subject(_shown(one), results, settings[folder], changes=changes.get(one.path, ())))
            advance(1)
    return out


def _best(results: Sequence[Compiled]) -> Compiled:
    """The first result without an error; what the others say stands on the rule's page."""
    good = [done for done in results if not any(d.severity == "error" for d in done.diagnostics)]
    return replace(good[0], diagnostics=()) if good else results[0]


def _shown(one: Input) -> str:
    """The path of a file as pages show it: as it was named, and never from the root of this machine's disk."""
    path = PurePath(one.path)
    if not path.is_absolute():
        return path.as_posix()
    if path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    return (path.relative_to(one.root.parent) if one.root is not None else PurePath(path.name)).as_posix()


def _folder_url(text: str) -> str:
    return text if not text or text.endswith("/") else text + "/"


def _text(path: str) -> str:
    try:
        return read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise Sigma2KqlError([diagnostic("E803", f"cannot read {path}: {error}")]) from error


def _manifest(root: Path) -> Mapping[str, Any]:
    """What the build before left; nothing where there was none, or where it cannot be read: all is made anew, then."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    texts = isinstance(found, dict) and found.get("version") == 1 and isinstance(found.get("rules"), dict)
    return {**found, "rules": {p: d for p, d in found["rules"].items() if (root / _safe(p)).is_file()}} if texts else {}


def _safe(path: object) -> PurePosixPath:
    """A path of the manifest, which anybody may have edited: below the site, in one of its folders."""
    parts = PurePosixPath(str(path)).parts
    good = parts and not {"..", "/"} & {*parts} and (len(parts) == 1 or parts[0] in FOLDERS)
    return PurePosixPath(*parts) if good else PurePosixPath("-")


def _remove(root: Path, paths: Sequence[str]) -> None:
    """Files that an earlier build made and this one does not."""
    for path in paths:
        file = root / _safe(path)
        if file.suffix in SUFFIXES and file.is_file() and not file.is_symlink():
            file.unlink()


def _finish(done: Built, report: Report, root: Path) -> None:
    report.finish()
    if not report.quiet:
        since = ""
        if done.new or done.changed or done.gone:
            since = f"; since the last build {done.new:,} new, {done.changed:,} changed, {done.gone:,} gone"
        click.echo(f"{root}: {done.pages:,} pages of rules, {done.rendered:,} of them made{since}", err=True)
