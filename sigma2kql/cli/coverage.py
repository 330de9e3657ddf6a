"""`sigma2kql coverage`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from sigma2kql.api import Compiler, Options, load_input, read_inputs
from sigma2kql.cli.output import Folder
from sigma2kql.cli.shared_options import compile_options, load_config, make_options, progress, standard_input
from sigma2kql.cli.summary import markdown_cell
from sigma2kql.coverage import KEYS, LIVENESS, VERDICTS, Count, Covered, count, cover, gaps, lights_up
from sigma2kql.coverage.attack_names import attack, technique_name
from sigma2kql.coverage.navigator import (
    as_json,
    difference_layer,
    gap_layer,
    read_techniques,
    source_layer,
    target_layer,
)
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic
from sigma2kql.diagnostics.render import printable
from sigma2kql.model.tree import Document
from sigma2kql.system.bounded_files import read_text

FORMS = ("text", "json", "csv", "markdown", "navigator")
SHOWN = 20  # rows of a text table that was not asked for by name
MOST = 20 << 20  # bytes of a list of techniques
SHADES = {"exact": ("█", "green"), "broader": ("▓", "yellow"), "narrower": ("▒", "magenta")}


@click.command("coverage")
@compile_options
@click.option(
    "-f", "--format", "form", type=click.Choice(FORMS), default="text", show_default=True, help="Form of the product."
)
@click.option(
    "--by", multiple=True, type=click.Choice(tuple(KEYS)), help="Count by this (repeatable; default: by everything)."
)
@click.option(
    "--gaps",
    "wanted",
    type=click.Path(dir_okay=False, exists=True),
    help="Techniques to look for: a layer of Navigator, or a list of ids (an actor's, say).",
)
@click.option("-o", "--output", metavar="PATH", help="A file, or for navigator a folder: one layer a file.")
def command(form: str, by: tuple[str, ...], wanted: str | None, output: str | None, **given: Any) -> int:
    """Count what rules cover: by technique, tactic, table, source, level, verdict and, with --profile, liveness.

    Several targets are given with commas (-t sentinel,xdr). As layers (--format navigator -o DIR/) there is one a
    target, one a source and one for the difference of two targets; without -o the first target's goes to stdout.
    With --profile it tells which connectors would bring most blind rules to life, in order.
    """
    options = make_options(load_config(given["config"]), given)
    names = list(dict.fromkeys(name.strip() for name in options.target.split(",") if name.strip()))
    rules = _rules(given["paths"], [replace(options, target=name) for name in names], given["quiet"])
    asked = read_techniques(_text(wanted)) if wanted is not None else []
    if wanted is not None and not asked:
        raise Sigma2KqlError([diagnostic("E804", f"no technique is named in {wanted}", None, "ids such as T1059.001")])
    if form == "navigator":
        _navigator(rules, names, asked, Path(wanted or "").name, output)
    else:
        chosen = by or tuple(key for key in KEYS if key != "liveness" or options.profile is not None)
        text = _product(form, rules, names, chosen, bool(by), asked, given["color"])
        if output is not None:
            Folder(Path(output).parent, inside=False).put(Path(output), text)
        else:
            sys.stdout.write(text)
    if not given["quiet"]:
        click.echo(_summary(rules, names), err=True)
    return 1 if any(all(rule.on(name).verdict == "failed" for name in names) for rule in rules) else 0


def _rules(paths: Sequence[str], options: Sequence[Options], quiet: bool) -> list[Covered]:
    """Every rule; filters are not rules, they change them."""
    inputs = list(read_inputs(paths, standard_input(paths)))
    documents: list[Document] = [document for one in inputs for document in load_input(one)]
    compilers = [Compiler(one, documents) for one in options]
    out = []
    with progress(len(documents), "converting", quiet) as advance:
        for document in documents:
            covered = cover([compiler.compile(document) for compiler in compilers])
            out += [covered] * (covered.kind != "filter")
            advance(1)
    return out


def _text(path: str) -> str:
    try:
        if os.path.getsize(path) > MOST:  # noqa: PTH202 - one call for a plain path
            raise Sigma2KqlError([diagnostic("E803", f"{path} is larger than any list of techniques")])
        return read_text(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Sigma2KqlError([diagnostic("E803", f"cannot read {path}: {error}")]) from error


def _summary(rules: Sequence[Covered], names: Sequence[str]) -> str:
    parts = [f"{name} {sum(rule.on(name).found for rule in rules):,} with a query" for name in names]
    return f"{len(rules):,} rule{'s' * (len(rules) != 1)}: {', '.join(parts)}"


# --------------------------------------------------------------------------------------------------------------------
# Layers


def _navigator(
    rules: Sequence[Covered], names: Sequence[str], asked: Sequence[str], title: str, output: str | None
) -> None:
    layers = {f"{name}.json": target_layer(rules, name) for name in names}
    layers |= {f"{a}-against-{b}.json": difference_layer(rules, a, b) for a in names for b in names if a < b}
    for name in names:
        for source in dict.fromkeys(source for rule in rules for source in rule.on(name).sources):
            layers[f"{name}-{_file(source)}.json"] = source_layer(rules, name, source)
        if asked:
            found = [(technique, row.queries if row else 0) for technique, row in gaps(rules, name, asked)]
            layers[f"{name}-gaps.json"] = gap_layer(found, name, title)
    if output is None:
        sys.stdout.write(as_json(layers[f"{names[0]}-gaps.json" if asked else f"{names[0]}.json"]))
    elif output.endswith(("/", os.sep)) or Path(output).is_dir():
        folder = Folder(Path(output))
        for file, layer in layers.items():
            folder.put(Path(output) / file, as_json(layer))
    else:
        Folder(Path(output).parent, inside=False).put(Path(output), as_json(next(iter(layers.values()))))


def _file(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "source"


# --------------------------------------------------------------------------------------------------------------------
# Tables


def _product(
    form: str,
    rules: Sequence[Covered],
    names: Sequence[str],
    by: Sequence[str],
    whole: bool,
    asked: Sequence[str],
    color: str,
) -> str:
    tables = {name: {key: count(rules, name, key) for key in by} for name in names}
    lacking = {name: gaps(rules, name, asked) for name in names} if asked else {}
    lit = {name: lights_up(rules, name) for name in names if any(rule.on(name).here for rule in rules)}
    match form:
        case "json":
            return _json(rules, tables, lacking, lit)
        case "csv":
            return _csv(tables)
        case "markdown":
            return _markdown(tables, lacking, lit)
        case _:
            on = color == "always" or (color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
            return _as_text(tables, lacking, lit, whole, on)


Tables = Mapping[str, Mapping[str, list[Count]]]
Gaps = Mapping[str, list[tuple[str, Count | None]]]
Lit = Mapping[str, list[tuple[str, tuple[Covered, ...]]]]


def _json(rules: Sequence[Covered], tables: Tables, lacking: Gaps, lit: Lit) -> str:
    def row(one: Count) -> dict[str, Any]:
        return {"key": one.key, "name": one.name or None, "rules": one.rules, **_numbers(one)}

    data: dict[str, Any] = {"attack": attack().version, "rules": len(rules), "targets": {}}
    for name, by in tables.items():
        data["targets"][name] = {key: [row(one) for one in rows] for key, rows in by.items()}
        if name in lacking:
            data["targets"][name]["gaps"] = [
                {"technique": t, "name": technique_name(t) or None, "queries": one.queries if one else 0}
                for t, one in lacking[name]
            ]
        if name in lit:
            data["targets"][name]["connectors"] = [
                {"connector": connector, "rules": len(those), "titles": [rule.title for rule in those]}
                for connector, those in lit[name]
            ]
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _numbers(one: Count) -> dict[str, int]:
    return {
        **{verdict.replace(" ", "_"): one.verdicts.get(verdict, 0) for verdict in VERDICTS},
        **({here: one.here.get(here, 0) for here in LIVENESS} if one.here else {}),
    }


def _csv(tables: Tables) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["target", "by", "key", "name", "rules", *(v.replace(" ", "_") for v in VERDICTS), *LIVENESS])
    for name, by in tables.items():
        for key, rows in by.items():
            for one in rows:
                verdicts = [one.verdicts.get(verdict, 0) for verdict in VERDICTS]
                here = [one.here.get(state, 0) for state in LIVENESS]
                writer.writerow([name, key, _cell(one.key), _cell(one.name), one.rules, *verdicts, *here])
    return out.getvalue()


def _cell(text: str) -> str:
    """A text that no table program takes for a formula."""
    text = printable(text)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _markdown(tables: Tables, lacking: Gaps, lit: Lit) -> str:
    lines: list[str] = []
    for name, by in tables.items():
        for key, rows in by.items():
            live = any(one.here for one in rows)
            shown = [*VERDICTS, *(LIVENESS if live else ())]
            lines += [f"## {name} by {key}", "", f"| {key} | rules | {' | '.join(shown)} |"]
            lines.append("|---|--:|" + "--:|" * len(shown))
            for one in rows:
                numbers = [one.verdicts.get(v, 0) for v in VERDICTS] + [one.here.get(h, 0) for h in LIVENESS if live]
                title = f"{markdown_cell(one.key)} {markdown_cell(one.name)}".strip()
                lines.append(f"| {title} | {one.rules} | {' | '.join(map(str, numbers))} |")
            lines.append("")
        if name in lacking:
            lines += [f"## {name}: techniques asked for", "", "| technique | queries |", "|---|--:|"]
            lines += [f"| {t} {markdown_cell(technique_name(t))} | {r.queries if r else 0} |" for t, r in lacking[name]]
            lines.append("")
        if lit.get(name):
            lines += [f"## {name}: connectors that would bring rules to life", "", "| connector | rules |", "|---|--:|"]
            lines += [f"| {markdown_cell(connector)} | {len(those)} |" for connector, those in lit[name]] + [""]
    return "\n".join(lines)


def _as_text(tables: Tables, lacking: Gaps, lit: Lit, whole: bool, color: bool) -> str:
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 140))
    lines: list[str] = []
    for name, by in tables.items():
        for key, rows in by.items():
            lines += [*([""] if lines else []), _bold(f"{name} by {key}", color)]
            lines += _rows(rows if whole else rows[:SHOWN], width, color)
            if not whole and len(rows) > SHOWN:
                lines.append(f"  and {len(rows) - SHOWN:,} more: --by {key} shows all")
        if name in lacking:
            missing = [technique for technique, row in lacking[name] if row is None or not row.queries]
            lines += [
                "",
                _bold(f"{name}: {len(missing)} of {len(lacking[name])} techniques asked for lack a query", color),
            ]
            lines += [f"  {technique:<10} {technique_name(technique)}" for technique in missing]
        if lit.get(name):
            lines += ["", _bold(f"{name}: connectors that would bring blind rules to life, in order", color)]
            for connector, those in lit[name]:
                titles = ", ".join(printable(rule.title) for rule in those[:3])
                lines.append(f"  {len(those):>6,}  {connector}: {titles}{', ...' if len(those) > 3 else ''}"[:width])
    legend = "  ".join(f"{block} {verdict}" for verdict, (block, _) in SHADES.items())
    return "\n".join([*lines, "", f"{legend}  · no query"]) + "\n"


def _bold(text: str, color: bool) -> str:
    return click.style(text, bold=True) if color else text


def _rows(rows: Sequence[Count], width: int, color: bool) -> list[str]:
    """Name, number, a bar with a part for each verdict, and the live rules where they are known."""
    names = [printable(f"{row.key} {row.name}".strip()) for row in rows]
    column = min(max([len(name) for name in names], default=0), width // 2)
    room = max(10, width - column - 22)
    most = max([row.rules for row in rows], default=1)
    lines = []
    for name, row in zip(names, rows, strict=True):
        shown = name if len(name) <= column else name[: column - 1] + "…"
        bar, size = "", 0
        for verdict, (block, shade) in SHADES.items():
            upto = round(
                room * sum(row.verdicts.get(v, 0) for v in list(SHADES)[: list(SHADES).index(verdict) + 1]) / most
            )
            part = block * (upto - size)
            size = upto
            bar += click.style(part, fg=shade) if color and part else part
        rest = round(room * row.rules / most) - size
        live = f" {row.here.get('live', 0):,} live" if row.here else ""
        lines.append(f"  {shown:<{column}} {row.rules:>6,} {bar}{'·' * rest}{live}")
    return lines
