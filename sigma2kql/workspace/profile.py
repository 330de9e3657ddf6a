"""The profile of a workspace: its tables, how much is in them, which columns are filled, which kinds of event arrive.

Place in the flow: read by `convert --profile`, written by `workspace inspect`. Invariant: names and counts only. The
values of a column stand in it where mappings/workspace.yml lists that column as one of a list (event numbers, kinds of
action, products); nothing of an event's content does.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from typing import Any

from sigma2kql.diagnostics.diagnostic import (
    Diagnostic,
    Sigma2KqlError,
    Source,
    Span,
    diagnostic,
    did_you_mean,
    fail,
    frozen,
)
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode, YamlScalar, plain
from sigma2kql.text.yaml_text import compose

VERSION = 1
MAX_SIZE = 64 * 1024 * 1024  # characters of a profile; a large workspace has some thousand lines
_KEYS = ("version", "made", "days", "sample", "tables")
_TABLE_KEYS = ("rows_a_day", "last", "columns", "by", "values", "more")


@frozen
class Seen:
    """Rows that have the same values in the columns that the table is counted by."""

    values: tuple[str, ...]  # as text, in the order of those columns; '' is an empty one
    rows: int
    last: datetime | None = None


@frozen
class TableProfile:
    """One table, or one function that gives rows, as far as it was looked at."""

    name: str
    rows_a_day: float = 0.0
    last: datetime | None = None  # the newest row in the time looked at
    columns: Mapping[str, float] = field(default_factory=dict)  # every column -> share of sampled rows that fill it
    by: tuple[str, ...] = ()  # the columns that `seen` counts by
    seen: tuple[Seen, ...] = ()
    whole: bool = True  # whether `seen` has every combination: if not, one that is not in it may be there all the same


@frozen
class Profile:
    """A workspace at one time. A table that is not among `tables` was looked for and is not there, or was not asked."""

    made: datetime
    days: float  # how far back was looked
    sample: int  # the most rows that shares of columns come from
    tables: Mapping[str, TableProfile] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()  # tables that were looked for and do not exist
    path: str = field(default="", compare=False)


# --------------------------------------------------------------------------------------------------------------------
# Writing


def write_profile(profile: Profile) -> str:
    """The profile as YAML, in a stable order: what `read_profile` reads back as the same value."""
    lines = [
        "# What this workspace holds: names and counts, no content of events. Made by `sigma2kql workspace inspect`.",
        f"version: {VERSION}",
        f"made: {_scalar(_time(profile.made))}",
        f"days: {_number(profile.days)}",
        f"sample: {profile.sample}",
        "tables:" + ("" if profile.tables or profile.absent else " {}"),
    ]
    for name in sorted({*profile.tables, *profile.absent}):
        table = profile.tables.get(name)
        lines += [f"  {_scalar(name)}: null"] if table is None else _table_lines(table)
    return "\n".join(lines) + "\n"


def _table_lines(table: TableProfile) -> list[str]:
    lines = [f"  {_scalar(table.name)}:", f"    rows_a_day: {_number(table.rows_a_day)}"]
    if table.last is not None:
        lines.append(f"    last: {_scalar(_time(table.last))}")
    shares = ", ".join(f"{_scalar(name)}: {_number(share)}" for name, share in sorted(table.columns.items()))
    lines.append(f"    columns: {{{shares}}}")
    if table.by:
        lines.append(f"    by: [{', '.join(map(_scalar, table.by))}]")
        lines.append("    values:" + ("" if table.seen else " []"))
        for one in table.seen:
            last = f", last: {_scalar(_time(one.last))}" if one.last is not None else ""
            lines.append(f"      - {{is: [{', '.join(map(_scalar, one.values))}], rows: {one.rows}{last}}}")
    if not table.whole:
        lines.append("    more: true")
    return lines


def _scalar(text: str) -> str:
    """A text as YAML that reads back as that text: bare where it is a plain name, else in JSON's quotes."""
    bare = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text) and text.lower() not in _WORDS
    return text if bare else json.dumps(text)


_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.4g}" if value < 1 else f"{value:.1f}"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --------------------------------------------------------------------------------------------------------------------
# Reading


def read_profile(source: Source) -> Profile:
    """A profile from its YAML. Raises Sigma2KqlError (E821) with every problem in it, each at its place."""
    documents = compose(source, MAX_SIZE)
    problems = [p for document in documents for p in document.problems if p.severity == "error"]
    root = documents[0].root if len(documents) == 1 else None
    if not isinstance(root, YamlMap):
        raise Sigma2KqlError(problems or [diagnostic("E821", "a profile is one map", Span(source, 0, 1), _HINT)])
    reader = _Reader(source, problems)
    profile = reader.profile(root)
    if reader.problems:
        raise Sigma2KqlError(reader.problems)
    return profile


_HINT = "profiles are made by `sigma2kql workspace inspect`"


class _Reader:
    def __init__(self, source: Source, problems: list[Diagnostic]) -> None:
        self.source = source
        self.problems = problems

    def wrong(self, node: YamlNode, message: str, hint: str = _HINT) -> None:
        self.problems.append(diagnostic("E821", message, Span(self.source, node.start, node.end), hint))

    def keys(self, node: YamlMap, known: tuple[str, ...]) -> None:
        for name in node.values:
            if name not in known:
                self.wrong(node.key(name), f"unknown key `{name}`", did_you_mean(name, known) or _HINT)

    def profile(self, root: YamlMap) -> Profile:
        self.keys(root, _KEYS)
        for name in ("version", "made", "tables"):
            if name not in root.values:
                self.wrong(root, f"a profile needs `{name}`")
        version = root.get("version")
        if version is not None and plain(version) != VERSION:
            self.wrong(version, f"this is version {plain(version)} of profiles; known is {VERSION}")
        tables: dict[str, TableProfile] = {}
        absent: set[str] = set()
        node = root.get("tables")
        if isinstance(node, YamlMap):
            for name, value in node.values.items():
                if isinstance(value, YamlMap):
                    tables[name] = self.table(name, value)
                elif plain(value) is None:
                    absent.add(name)
                else:
                    self.wrong(value, f"`{name}` is a map, or null where the table does not exist")
        elif node is not None:
            self.wrong(node, "`tables` is a map of names")
        made = self.moment(root.get("made"), "made") or datetime.fromtimestamp(0, UTC)
        sample = int(self.number(root.get("sample"), "sample"))
        return Profile(made, self.number(root.get("days"), "days"), sample, tables, frozenset(absent), self.source.path)

    def table(self, name: str, node: YamlMap) -> TableProfile:
        self.keys(node, _TABLE_KEYS)
        columns: dict[str, float] = {}
        told = node.get("columns")
        if isinstance(told, YamlMap):
            columns = {column: self.number(share, column) for column, share in told.values.items()}
        elif told is not None:
            self.wrong(told, "`columns` maps names to the share of rows that fill them")
        by = tuple(self.texts(node.get("by"), "by"))
        values = node.get("values")
        items = values.items if isinstance(values, YamlList) else []
        if values is not None and not isinstance(values, YamlList):
            self.wrong(values, "`values` is a list")
        seen = [one for item in items if (one := self.seen(item, len(by))) is not None]
        more = node.get("more")
        return TableProfile(
            name,
            self.number(node.get("rows_a_day"), "rows_a_day"),
            self.moment(node.get("last"), "last"),
            columns,
            by,
            tuple(seen),
            more is None or plain(more) is not True,
        )

    def seen(self, item: YamlNode, width: int) -> Seen | None:
        if not isinstance(item, YamlMap):
            self.wrong(item, "an entry of `values` is a map: {is: [...], rows: 1}")
            return None
        self.keys(item, ("is", "rows", "last"))
        texts = tuple(self.texts(item.get("is"), "is"))
        if len(texts) != width:
            self.wrong(item, f"`is` has {len(texts)} values for the {width} columns of `by`")
            return None
        return Seen(texts, int(self.number(item.get("rows"), "rows")), self.moment(item.get("last"), "last"))

    def texts(self, node: YamlNode | None, name: str) -> Iterable[str]:
        if node is None:
            return []
        items = node.items if isinstance(node, YamlList) else [node]
        for item in items:
            if not isinstance(item, YamlScalar):
                self.wrong(item, f"`{name}` is a list of texts")
                return []
        return [item.text for item in items if isinstance(item, YamlScalar)]

    def number(self, node: YamlNode | None, name: str) -> float:
        if node is None:
            return 0.0
        value: Any = plain(node)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            self.wrong(node, f"`{name}` is a number from 0")
            return 0.0
        return float(value)

    def moment(self, node: YamlNode | None, name: str) -> datetime | None:
        if node is None:
            return None
        if isinstance(node, YamlScalar) and (found := parse_time(node.text)) is not None:
            return found
        self.wrong(node, f"`{name}` is a time such as 2026-01-31T08:00:00Z")
        return None


def parse_time(text: str) -> datetime | None:
    """A time in one of the forms of exports, in UTC (where it names no zone it is UTC); None: it is none."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        for form in ("%m/%d/%Y, %I:%M:%S.%f %p", "%m/%d/%Y, %I:%M:%S %p"):  # the portal's CSV
            try:
                moment = datetime.strptime(text.strip(), form)
                break
            except ValueError:
                continue
        else:
            return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def unreadable(path: str, why: str) -> Sigma2KqlError:
    """E821 for a file that cannot be read."""
    return fail("E821", f"cannot read the profile {path}: {why}", hint=_HINT)
