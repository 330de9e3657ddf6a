"""`sigma2kql convert -f ARTIFACT`: rules as what is deployed, one file a rule or all in one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import click

from sigma2kql.api import Input, Options, fault, prepare_artifact, refuse_format
from sigma2kql.artifacts.artifact_text import Piece, assemble, companions, file_name, render
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.cli.config import Config
from sigma2kql.cli.output import Folder, folded
from sigma2kql.cli.shared_options import Report
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic, frozen
from sigma2kql.model.tree import Compiled


@frozen
class _Ready:
    """A rule whose artifact has been decided and rendered."""

    one: Input
    done: Compiled
    piece: Piece


def write_artifacts(
    results: Sequence[tuple[Input, Compiled]],
    form: str,
    bundled: bool,
    output: str | None,
    config: Config,
    options: Options,
    report: Report,
) -> None:
    """Every query as an artifact, to standard output, a file or a folder. Raises Sigma2KqlError for wrong settings."""
    refuse_format(options, form)
    inputs = [one for one, _ in results]
    base = merge(Settings(), config.deploy, config.spans.get("deploy"))
    ready = [
        r
        for one, done in results
        if done.kql is not None
        for r in _prepared(one, done, form, folder_settings(base, one, config), options, report)
    ]
    if bundled and not FORMATS[form].bundle:
        raise click.UsageError(f"{form} has no form for several rules in one file")
    if bundled:
        text = assemble([r.piece for r in ready], form, whole=True) if ready else ""
        _put(text, output, inputs, PurePath(f"sigma2kql{FORMATS[form].extension}"))
    elif output is not None and (output.endswith(("/", os.sep)) or Path(output).is_dir()):
        _folder(ready, form, Folder(Path(output), inputs), report)
    else:
        _put(_together(ready, form), output, inputs, PurePath(f"sigma2kql{FORMATS[form].extension}"))


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
    """The artifact of one rule, rendered, or its diagnostics and nothing."""
    try:
        settings = merge_rule(settings, done.document.meta.custom, done.document.origin.span)
        prepared = prepare_artifact(done, form, settings, options)
        piece = render(prepared.artifact, form, settings)
    except Sigma2KqlError as error:
        report.fail(done, error.diagnostics)
        return []
    except Exception as error:
        report.fail(done, [fault(error, done.document.origin.span)])
        return []
    report.show(prepared.diagnostics)
    return [_Ready(one, done, piece)]


def _together(ready: Sequence[_Ready], form: str) -> str:
    """For one text: a single rule, or YAML documents in a row."""
    if len(ready) > 1 and FORMATS[form].extension != ".yaml":
        other = " or --bundle for one template" if FORMATS[form].bundle else ""
        raise click.UsageError(f"{len(ready)} rules: give a folder with -o DIR/{other}")
    return "---\n".join(assemble([r.piece], form) for r in ready)


def _put(text: str, output: str | None, inputs: Sequence[Input], name: PurePath) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    path = Path(output)
    if output.endswith(("/", os.sep)) or path.is_dir():
        path = path / name
    Folder(path.parent, inputs, inside=False).put(path, text)


def _folder(ready: Sequence[_Ready], form: str, folder: Folder, report: Report) -> None:
    """One file a rule, in the tree of the input, named by its title."""
    root = folder.root
    taken: dict[str, set[str]] = {}
    for r in ready:
        # a Terraform module is one folder: files below it would not be read
        place = PurePath() if form == "terraform" else folder.folder_of(r.one)
        name = file_name(r.done.document.meta.title, r.piece.id, form, taken.setdefault(folded(place), set()))
        try:
            folder.put(root / place / name, assemble([r.piece], form))
        except Sigma2KqlError as error:  # the others may have room
            report.fail(r.done, error.diagnostics)
    if ready:
        for name, text in companions(form).items():
            folder.put(root / name, text)
