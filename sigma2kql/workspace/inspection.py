"""The bounded queries that show what a workspace holds, and the profile that their answers make.

Place in the flow: above the engines, which run the queries; where only the portal may be used, people do. Invariant:
one query a table, over a stated time and a stated number of sampled rows; what comes back is names and counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, cast

from sigma2kql.diagnostics.diagnostic import Source, fail, frozen
from sigma2kql.map.target import Target
from sigma2kql.model.literals import identifier, quoted
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import compose
from sigma2kql.workspace.profile import Profile, Seen, TableProfile, parse_time

_FILLED = "bag_keys(pack_all(true)) to typeof(string)"  # the names of the columns that a row fills
MOST_VALUES = 5_000  # combinations of values that are counted in one table
COLUMNS = ("Table", "Kind", "Name", "Rows", "Last")


Marks = Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]]


@frozen
class Question:
    """One table or function, and the query that asks what is in it."""

    table: str
    kql: str


@cache
def counted_columns() -> Mapping[str, tuple[str, ...]]:
    """`mappings/workspace.yml`: by table, the columns whose values are names of a list, counted together."""
    return {table: tuple(columns) for table, columns in _told()["values"].items()}


def marks() -> Marks:
    """`mappings/workspace.yml`: by data source and table, the values that tell its rows from those of others."""
    return cast(Marks, _told()["marks"])


@cache
def _told() -> Mapping[str, Any]:
    text = (mappings_folder() / "workspace.yml").read_text(encoding="utf-8")
    (document,) = compose(Source("mappings/workspace.yml", text))
    assert document.root is not None
    return cast(Mapping[str, Any], plain(document.root))


def questions(target: Target, only: Sequence[str] = (), days: float = 7, sample: int = 10_000) -> Iterator[Question]:
    """One question for each table of the target (`only`: for these), and for both names of an ASIM parser."""
    for entry in target.entries:
        if only and entry.name not in only:
            continue
        table = entry.load()
        by = counted_columns().get(entry.name, ())
        for name in dict.fromkeys(filter(None, (table.name, table.builtin))):
            yield Question(name, _query(name, target.time or table.time, by, days, sample))


def _query(name: str, time: str, by: Sequence[str], days: float, sample: int) -> str:
    """The query of one table. A table that is not there gives no schema, and no error (`union isfuzzy=true`)."""
    when = identifier(time)
    parts = [
        f'(Recent | summarize Rows = count(), Last = max({when}) | extend Kind = "rows", Name = "")',
        '(Sample | summarize Rows = count() | extend Kind = "sample", Name = "")',
        f'(Sample | mv-expand Name = {_FILLED} | summarize Rows = count() by Name | extend Kind = "column")',
        '(Recent | getschema | project Name = ColumnName, Rows = long(0), Kind = "schema")',
    ]
    if by:
        values = ", ".join(f'tostring(column_ifexists({quoted(column)}, ""))' for column in by)
        parts.append(
            f"(Recent | summarize Rows = count(), Last = max({when}) by Name = tostring(pack_array({values}))"
            f' | top {MOST_VALUES} by Rows | extend Kind = "value")'
        )
    branches = ",\n    ".join(parts)
    return (
        f"let Recent = union isfuzzy=true (datatable({when}: datetime)[]), {identifier(name)}"
        f" | where {when} > ago({_span(days)});\n"
        f"let Sample = materialize(Recent | take {sample});\n"
        f"union\n    {branches}\n"
        f"| project Table = {quoted(name)}, Kind, Name, Rows, Last"
    )


def _span(days: float) -> str:
    return f"{int(days)}d" if float(days).is_integer() else f"{round(days * 24 * 60)}m"


# --------------------------------------------------------------------------------------------------------------------
# Answers


def make_profile(
    answers: Iterable[Mapping[str, Any]], target: Target, made: datetime, days: float, sample: int
) -> Profile:
    """The profile that rows of answers (keys as in COLUMNS) make.

    Raises Sigma2KqlError (E822) for a row of another form.
    """
    counted = _counted(target)
    by_table: dict[str, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(answers, 1):
        if not isinstance(row.get("Table"), str) or not isinstance(row.get("Kind"), str):
            wanted = ", ".join(COLUMNS)
            raise fail("E822", f"row {number} of the answers has no Table and Kind", hint=f"the columns are {wanted}")
        by_table.setdefault(row["Table"], []).append(row)
    tables: dict[str, TableProfile] = {}
    absent = set()
    for name, rows in by_table.items():
        found = _table(name, rows, days, counted.get(name, ()))
        if found is None:
            absent.add(name)
        else:
            tables[name] = found
    return Profile(made, days, sample, tables, frozenset(absent))


def _table(name: str, rows: Sequence[Mapping[str, Any]], days: float, by: tuple[str, ...]) -> TableProfile | None:
    """One table; None where it does not exist: then its schema has nothing but the column that the query made."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["Kind"], []).append(row)
    schema = [str(row["Name"]) for row in kinds.get("schema", ())]
    if len(schema) <= 1:
        return None
    total, sampled = (sum(_count(row) for row in kinds.get(kind, ())) for kind in ("rows", "sample"))
    filled = {str(row["Name"]): _count(row) for row in kinds.get("column", ())}
    seen = [one for row in kinds.get("value", ()) if (one := _seen(row, len(by))) is not None]
    last = max((moment for row in kinds.get("rows", ()) if (moment := _moment(row)) is not None), default=None)
    return TableProfile(
        name,
        total / days if days else 0.0,
        last,
        {column: filled.get(column, 0) / sampled if sampled else 0.0 for column in schema},
        by,
        tuple(sorted(seen, key=lambda one: (-one.rows, one.values))),
        len(seen) < MOST_VALUES,
    )


def _counted(target: Target) -> Mapping[str, tuple[str, ...]]:
    """As `counted_columns`, an ASIM parser under both its names."""
    counted = dict(counted_columns())
    for entry in target.entries:
        if entry.name in counted and (builtin := entry.load().builtin):
            counted[builtin] = counted[entry.name]
    return counted


def _seen(row: Mapping[str, Any], width: int) -> Seen | None:
    try:
        values = json.loads(str(row.get("Name") or "[]"))
    except ValueError:
        return None
    if not isinstance(values, list) or len(values) != width:
        return None
    return Seen(tuple("" if value is None else str(value) for value in values), _count(row), _moment(row))


def _count(row: Mapping[str, Any]) -> int:
    try:
        return int(float(str(row.get("Rows") or 0)))
    except ValueError:
        return 0


def _moment(row: Mapping[str, Any]) -> datetime | None:
    value = row.get("Last")
    if isinstance(value, datetime):
        return value
    return parse_time(str(value)) if value else None


def read_answers(source: Source) -> list[dict[str, Any]]:
    """Rows of an exported answer: CSV of the portal, a JSON list of objects, JSON lines, or an answer of the API.

    Raises Sigma2KqlError (E822) where it is none of these.
    """
    text = source.text.lstrip("\ufeff")
    stripped = text.lstrip()
    if stripped[:1] in ("[", "{"):
        rows = _json_rows(stripped)
    else:
        import csv

        rows = [_named(row) for row in csv.DictReader(text.splitlines())]
    if not rows or not all("Table" in row and "Kind" in row for row in rows):
        wanted = ", ".join(COLUMNS)
        raise fail(
            "E822",
            f"{source.path} is no answer of `workspace inspect --print`",
            hint=f"export the result of those queries as CSV or JSON; its columns are {wanted}",
        )
    return rows


def _json_rows(text: str) -> list[dict[str, Any]]:
    try:
        values = [json.loads(text)]
    except ValueError:
        try:
            values = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return []
    except RecursionError:
        return []
    rows: list[dict[str, Any]] = []
    for value in values[0] if len(values) == 1 and isinstance(values[0], list) else values:
        if isinstance(value, dict) and isinstance(value.get("tables"), list):
            for table in value["tables"]:
                names = [str(column.get("name")) for column in table.get("columns", ()) if isinstance(column, dict)]
                rows += [dict(zip(names, row, strict=False)) for row in table.get("rows", ()) if isinstance(row, list)]
        elif isinstance(value, dict):
            rows.append(_named(value))
    return rows


def _named(row: Mapping[Any, Any]) -> dict[str, Any]:
    """The portal writes `Last [UTC]` above a column of times."""
    return {str(name).partition(" [")[0].strip(): value for name, value in row.items()}
