"""The rows of a rule as each source would have written them: what it never has is missing, what it loses is empty.

Place in the flow: beside labelled_rows, under `prove`. Invariant: a row is made only where the mapping says what the
source puts into every column that the rule reads; the label is what the rule means of the event that the source saw.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sigma2kql.map.field_places import find_field
from sigma2kql.map.sources import writers_of
from sigma2kql.model.tree import FieldMap, Rule, Writer
from sigma2kql.proof import Subject
from sigma2kql.proof.labelled_rows import Case, fields_of
from sigma2kql.reference.evaluate import evaluate

_EMPTY = ("never", "lost")
_PATH = re.compile(r".*[\\/]", re.DOTALL)


def by_source(subject: Subject, rows: Sequence[Case]) -> Iterator[tuple[str, list[Case]]]:
    """Each source whose rows differ in a column that the rule reads, with the rows."""
    table, serve, where = subject.table, subject.serve, subject.where
    document = subject.compiled.document
    if table is None or serve is None or where is None or not isinstance(document, Rule):
        return
    names = fields_of(where)
    places = {name: found for name in names if isinstance(found := find_field(table, serve, name), FieldMap)}
    for writer in writers_of(table, serve, document.logsource.product) or ():
        if not writer.fills or writer.exactness != "exact":
            continue
        absent = _absent(places, writer)
        if absent is None:
            continue
        made = [
            replace(case, event=event, expected=evaluate(where, event), row=_row(case.row, writer))
            for case in rows
            if case.attack is None and not case.raw
            for event in ({name: value for name, value in case.event.items() if name not in absent},)
        ]
        if made:
            yield writer.source, made


def _absent(places: Mapping[str, FieldMap], writer: Writer) -> set[str] | None:
    """The fields that the source's events do not have; None where nothing differs, or it is not known how."""
    absent: set[str] = set()
    differs = False
    for name, place in places.items():
        reads = [column for one in place.columns for column in one.reads]
        kinds = [writer.fills[column].kind for column in reads if column in writer.fills]
        if not kinds:
            continue
        whole = len(kinds) == len(reads)
        if not all(kind in (*_EMPTY, "bare-name", "doubled") for kind in kinds) or not (whole or _paths(kinds)):
            return None
        differs = True
        if all(kind == "never" for kind in kinds):
            absent.add(name)
    return absent if differs else None


def _paths(kinds: Sequence[str]) -> bool:
    return not any(kind in _EMPTY for kind in kinds)


def _row(row: Mapping[str, Any], writer: Writer) -> dict[str, Any]:
    made = dict(row)
    for column, filling in writer.fills.items():
        value = row.get(column)
        if not value:
            continue
        if filling.kind in _EMPTY:
            made[column] = "" if isinstance(value, str) else None
        elif isinstance(value, str) and (folder := _PATH.match(value)):
            name = value[folder.end() :]
            if filling.kind == "bare-name":
                made[column] = name
            elif filling.kind == "doubled" and name:
                made[column] = f"{value}{value[folder.end() - 1]}{name}"
    return made
