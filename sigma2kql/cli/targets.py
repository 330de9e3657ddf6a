"""`sigma2kql targets`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from sigma2kql.cli.shared_options import load_config
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source, did_you_mean
from sigma2kql.diagnostics.render import as_text, printable
from sigma2kql.map.field_places import describe
from sigma2kql.map.sources import title_of
from sigma2kql.map.table_file import read_table
from sigma2kql.map.target import Target, load_target, target_names
from sigma2kql.model.tree import FieldMap, LogSource, Table, Writer
from sigma2kql.system.bounded_files import read_text


@click.command("targets")
@click.argument("names", nargs=-1, metavar="[NAME [TABLE] | check DIR]")
@click.option(
    "--mappings",
    multiple=True,
    type=click.Path(file_okay=False, exists=True),
    help="Folder of more mapping files (repeatable).",
)
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(("text", "json")),
    default="text",
    show_default=True,
    help="Form of the listing.",
)
@click.option("--config", type=click.Path(dir_okay=False, exists=True), help="Configuration file.")
def command(names: tuple[str, ...], mappings: tuple[str, ...], form: str, config: str | None) -> int:
    """Show the targets; the tables and log sources of one; or the columns and Sigma fields of a table.

    `targets check DIR` validates the mapping files of a folder.
    """
    if names[:1] == ("check",):
        if len(names) != 2:
            raise click.UsageError("`targets check` takes one folder")
        return _check(Path(names[1]))
    folders = (*load_config(config).mappings, *map(Path, mappings))
    if not names:
        return _all(folders, form)
    target = load_target(names[0], folders)
    if len(names) == 1:
        return _target(target, form)
    if len(names) > 2:
        raise click.UsageError("`targets` takes a target and a table")
    tables = {entry.name: entry for entry in target.entries}
    if names[1] not in tables:
        raise click.UsageError(
            f"target `{target.name}` has no table `{names[1]}` {did_you_mean(names[1], tables)}".strip()
        )
    return _table(tables[names[1]].load(), form)


def _all(folders: tuple[Path, ...], form: str) -> int:
    targets = [load_target(name, folders) for name in target_names()]
    if form == "json":
        click.echo(
            json.dumps(
                [{"target": t.name, "title": t.title, "tables": [e.name for e in t.entries]} for t in targets], indent=2
            )
        )
    else:
        for target in targets:
            click.echo(f"{target.name:<10} {len(target.entries):>3} tables  {target.title}")
    return 0


def _parts(source: LogSource) -> dict[str, str | None]:
    return {"category": source.category, "product": source.product, "service": source.service}


def _target(target: Target, form: str) -> int:
    if form == "json":
        rows = [
            {
                "table": e.name,
                "serves": [_parts(s) for s in e.logsources],
            }
            for e in target.entries
        ]
        click.echo(
            json.dumps(
                {
                    "target": target.name,
                    "title": target.title,
                    "tables": rows,
                    "not_served": [_parts(s) for s in _not_served(target)],
                },
                indent=2,
            )
        )
        return 0
    for entry in target.entries:
        click.echo(entry.name)
        for source in entry.logsources:
            click.echo(f"    {source}")
    missing = _not_served(target)
    if missing:
        click.echo("not served (other targets carry it)")
        for source in missing:
            click.echo(f"    {source}")
    return 0


def _not_served(target: Target) -> list[LogSource]:
    """The log sources that another shipped target serves and this one does not."""
    known = {s for name in target_names() for entry in load_target(name).entries for s in entry.logsources}
    missing = [s for s in known if not target.serving(LogSource(s.category, s.product, s.service))]
    return sorted((s for s in missing if s != LogSource()), key=str)


def _table(table: Table, form: str) -> int:
    if form == "json":
        click.echo(json.dumps(_record(table), indent=2, ensure_ascii=False))
        return 0
    click.echo(f"{table.name}{f' ({table.builtin})' if table.builtin else ''}, timestamp {table.time}")
    click.echo("columns")
    for name, kind in table.columns.items():
        click.echo(f"    {name}: {kind}")
    _sources(table.writers, "")
    _fields("fields", table.fields, table.absent, "    ")
    for serve in table.serves:
        ids = f", EventID {', '.join(map(str, sorted(serve.event_ids)))}" if serve.event_ids else ""
        click.echo(f"serves {serve.logsource}{ids}")
        _sources(serve.writers, "  ")
        _fields("  fields of its own", serve.fields, serve.absent, "      ")
    return 0


def _fields(head: str, fields: Any, absent: Any, indent: str) -> None:
    if fields or absent:
        click.echo(head)
    for name, one in fields.items():
        loss = f" [{one.exactness}: {one.why}]" if one.exactness != "exact" else ""
        click.echo(f"{indent}{name} -> {describe(one)}{loss}")
    for name, why in absent.items():
        click.echo(f"{indent}{name}: no column ({why})")


def _record(table: Table) -> dict[str, Any]:
    def fields(maps: Any) -> dict[str, Any]:
        return {name: _field(one) for name, one in maps.items()}

    return {
        "table": table.name,
        "builtin": table.builtin,
        "target": table.target,
        "time": table.time,
        "columns": dict(table.columns),
        "fields": fields(table.fields),
        "absent": dict(table.absent),
        "sources": _writers(table.writers),
        "others": describe(table.others) if table.others else None,
        "serves": [
            {
                "logsource": {
                    "category": s.logsource.category,
                    "product": s.logsource.product,
                    "service": s.logsource.service,
                },
                "event_ids": sorted(s.event_ids),
                "fields": fields(s.fields),
                "absent": dict(s.absent),
                "exactness": s.exactness,
                "why": s.why or None,
                "sources": _writers(s.writers),
            }
            for s in table.serves
        ],
    }


def _field(one: FieldMap) -> dict[str, Any]:
    return {"is": describe(one), "exactness": one.exactness, "why": one.why or None}


def _writers(writers: tuple[Writer, ...] | None) -> dict[str, Any] | None:
    """Source -> what it fills otherwise than the fields say."""
    if writers is None:
        return None
    return {
        one.source: {
            "exactness": one.exactness,
            "why": one.why or None,
            "columns": {column: {"is": filling.kind, "why": filling.why} for column, filling in one.fills.items()},
        }
        for one in writers
    }


def _sources(writers: tuple[Writer, ...] | None, indent: str) -> None:
    """Who writes the rows, and which columns otherwise than the fields say."""
    for one in writers or ():
        loss = f" [{one.exactness}: {one.why}]" if one.exactness != "exact" else ""
        click.echo(f"{indent}source {one.source}: {title_of(one.source)}{loss}")
        for column, filling in one.fills.items():
            click.echo(f"{indent}    {column} {filling.kind}: {filling.why}")


def _check(folder: Path) -> int:
    if not folder.is_dir():
        raise click.UsageError(f"no such folder: {folder}")
    unlisted: list[OSError] = []
    found = [Path(at) / name for at, _, names in os.walk(folder, onerror=unlisted.append) for name in names]
    files = sorted(path for path in found if path.suffix.lower() in (".yml", ".yaml"))
    bad = 0
    for error in unlisted:
        click.echo(printable(f"{error.filename}: the folder cannot be listed: {error.strerror or error}"), err=True)
    for path in files:
        if path.name == "target.yml":
            continue
        try:
            read_table(Source(str(path), read_text(path)), path.parent.name)
        except Sigma2KqlError as error:
            bad += 1
            for diagnostic in error.diagnostics:
                click.echo(as_text(diagnostic), err=True)
        except (OSError, UnicodeDecodeError) as error:
            bad += 1
            unlisted += [error] if isinstance(error, OSError) else []
            click.echo(printable(f"{path}: {error}"), err=True)
    click.echo(
        f"{len(files):,} mapping file{'s' * (len(files) != 1)}: {len(files) - bad:,} good, {bad:,} faulty", err=True
    )
    return 2 if unlisted else 1 if bad else 0
