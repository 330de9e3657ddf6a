"""`sigma2kql convert -f ARTIFACT`: rules as what is deployed, one file a rule or all in one."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

import click

from sigma2kql.api import Input, Options, choose_format, fault, prepare_artifact, refuse_format
from sigma2kql.artifacts.artifact_text import Piece, assemble, bundle_texts, companions, file_name, render
from sigma2kql.artifacts.custom_detection import told_apart
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Detection
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.cli.config import Config
from sigma2kql.cli.output import Folder, folded
from sigma2kql.cli.shared_options import Report
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic, fail, frozen
from sigma2kql.model.tree import Compiled

AUTO = "auto"  # the kind of rule that serves each best
KINDS = {"xdr-json": "custom-detections", "arm": "analytics-rules"}  # the folders of -f auto


@frozen
class _Ready:
    """A rule whose artifact has been decided, for the format of that name."""

    one: Input
    done: Compiled
    form: str
    artifact: Artifact
    settings: Settings


def write_artifacts(
    results: Sequence[tuple[Input, Compiled]],
    form: str,
    bundled: bool,
    output: str | None,
    config: Config,
    options: Options,
    report: Report,
    nrt: str | None = None,
) -> None:
    """Every query as an artifact, to standard output, a file or a folder; limits are told before anything is written.

    Raises Sigma2KqlError for wrong settings and for a bundle that no service takes.
    """
    inputs = [one for one, _ in results]
    folder = output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir())
    if form == AUTO and (bundled or not folder):
        raise click.UsageError("-f auto writes a folder of each kind of rule: -o DIR/")
    if form != AUTO:
        refuse_format(options, form)
        if bundled and not FORMATS[form].bundle:
            raise click.UsageError(f"{form} has no form for several rules in one file")
    base = merge(Settings(), config.deploy, config.spans.get("deploy"))
    if nrt is not None:
        base = replace(base, nrt=nrt)
    ready = [
        r
        for one, done in results
        if done.kql is not None
        for r in _prepared(one, done, form, folder_settings(base, one, config), options, report)
    ]
    ready = _apart(_once(ready, report), report)
    _count(ready, report)
    pieces = [(r, p) for r in ready for p in _rendered(r, report)]
    if bundled:
        texts = bundle_texts([piece for _, piece in pieces], form)
        if len(texts) > 1 and not folder:
            message = f"{len(pieces)} rules make {len(texts) - 1} templates: at most 800 resources and 4 MB in one"
            raise fail("E719", message, hint="give a folder: -o DIR/")
        for name, text in texts.items():
            _put(text, output, inputs, PurePath(name))
    elif folder:
        _folder(pieces, Folder(Path(output or ""), inputs), report)
    else:
        text = _together([piece for _, piece in pieces], form)
        _put(text, output, inputs, PurePath(f"sigma2kql{FORMATS[form].extension}"))


def folder_settings(base: Settings, one: Input, config: Config) -> Settings:
    """The configuration's settings for the folder that a rule stands in, the nearest last."""
    place = Path(one.path).resolve()
    root = config.path.parent.resolve() if config.path else Path.cwd()
    for folder, own in sorted(config.directories.items(), key=lambda item: len(item[0])):
        if place.is_relative_to(root / folder):
            if not isinstance(own, Mapping):
                raise Sigma2KqlError(
                    [
                        diagnostic(
                            "E804", f"`directories: {folder}` is a map of settings", config.spans.get("directories")
                        )
                    ]
                )
            base = merge(base, own, config.spans.get("directories"))
    return base


def _prepared(
    one: Input, done: Compiled, form: str, settings: Settings, options: Options, report: Report
) -> list[_Ready]:
    """The artifact of one rule, or its diagnostics and nothing."""
    try:
        settings = merge_rule(settings, done.document.meta.custom, done.document.origin.span)
        if form == AUTO:
            form, prepared, _ = choose_format(done, settings, options)
        else:
            prepared = prepare_artifact(done, form, settings, options)
    except Sigma2KqlError as error:
        report.fail(done, error.diagnostics)
        return []
    except Exception as error:
        report.fail(done, [fault(error, done.document.origin.span)])
        return []
    report.show(prepared.diagnostics)
    return [_Ready(one, done, form, prepared.artifact, settings)]


def _once(ready: Iterable[_Ready], report: Report) -> list[_Ready]:
    """The first rule of every id: the second would take its place in the service."""
    seen: dict[str, str] = {}
    kept = []
    for r in ready:
        key = r.artifact.id.lower()
        if key in seen:
            span = r.done.document.origin.span
            message = f"{r.artifact.id} is the id of {seen[key]} already"
            report.fail(r.done, [diagnostic("E711", message, span, "give every rule its own id")])
        else:
            seen[key] = r.one.path
            kept.append(r)
    return kept


def _apart(ready: list[_Ready], report: Report) -> list[_Ready]:
    """Custom detections under unique names: where several have one, its id goes behind each."""
    names = Counter(r.artifact.name.lower() for r in ready if isinstance(r.artifact, Detection))
    for number, r in enumerate(ready):
        if isinstance(r.artifact, Detection) and names[r.artifact.name.lower()] > 1:
            message = f"{names[r.artifact.name.lower()]} custom detections are called {r.artifact.name}"
            report.show([diagnostic("W772", message, r.done.document.origin.span)])
            ready[number] = replace(r, artifact=told_apart(r.artifact))
    return ready


def _count(ready: Iterable[_Ready], report: Report) -> None:
    """More enabled rules than a workspace runs are told."""
    rules = [r.artifact for r in ready if isinstance(r.artifact, AlertRule) and r.artifact.enabled]
    scheduled = sum(rule.schedule is not None for rule in rules)
    for word, kind, count in (
        ("scheduled", "scheduled", scheduled),
        ("near-real-time", "nrt", len(rules) - scheduled),
    ):
        most = facts("limits")["workspace"][kind]
        if count > most:
            report.show([diagnostic("W771", f"{count:,} enabled {word} rules; a workspace takes {most}")])


def _rendered(r: _Ready, report: Report) -> list[Piece]:
    """The text of a rule, or its diagnostics and nothing."""
    try:
        return [render(r.artifact, r.form, r.settings)]
    except Sigma2KqlError as error:
        report.fail(r.done, error.diagnostics)
    except Exception as error:
        report.fail(r.done, [fault(error, r.done.document.origin.span)])
    return []


def _together(pieces: Sequence[Piece], form: str) -> str:
    """For one text: a single rule, or YAML documents in a row."""
    if len(pieces) > 1 and FORMATS[form].extension != ".yaml":
        other = " or --bundle for one template" if FORMATS[form].bundle else ""
        raise click.UsageError(f"{len(pieces)} rules: give a folder with -o DIR/{other}")
    return "---\n".join(assemble([piece], form) for piece in pieces)


def _put(text: str, output: str | None, inputs: Sequence[Input], name: PurePath) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        path = path / name
    Folder(path.parent, inputs, inside=False).put(path, text)


def _folder(pieces: Sequence[tuple[_Ready, Piece]], folder: Folder, report: Report) -> None:
    """One file a rule, in the tree of the input, named by its title; names that differ only in case are told apart."""
    root = folder.root
    taken: dict[str, set[str]] = {}
    auto = len({r.form for r, _ in pieces}) > 1
    for r, piece in pieces:
        # a Terraform module is one folder: files below it would not be read
        place = PurePath() if r.form == "terraform" else folder.folder_of(r.one)
        place = PurePath(KINDS[r.form]) / place if auto else place
        name = file_name(r.done.document.meta.title, piece.id, r.form, taken.setdefault(folded(place), set()))
        try:
            folder.put(root / place / name, assemble([piece], r.form))
        except Sigma2KqlError as error:  # the others may have room
            report.fail(r.done, error.diagnostics)
    for form in dict.fromkeys(r.form for r, _ in pieces):
        for name, text in companions(form).items():
            folder.put(root / name, text)
