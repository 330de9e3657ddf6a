"""What a row of a correlation shows of its events: host, account, process, file, address, whichever the tables have.

Place in the flow: beside the keys. Invariant: a column holds one field's value of one event, as the table has it; a
field that every table is said to have (as a property of a dynamic column) is shown only where the rule speaks of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sigma2kql.correlate.group_keys import facts, value_of
from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.map.event_elements import Ids, known_elements
from sigma2kql.map.field_places import find_field
from sigma2kql.map.one_table import Mapped
from sigma2kql.model.literals import identifier
from sigma2kql.model.tree import FieldMap, KqlType

# What a custom detection needs of the event that it shows (Microsoft Learn, "Create custom detection rules").
REQUIRED = ("ReportId", "DeviceId")


@frozen
class Piece:
    """One thing that is shown of a rule's events: its kind, and the column, expression and type in this table."""

    kind: str
    column: str
    text: str
    type: KqlType


def shown(mapped: Mapped, tested: Sequence[str], asked: Ids) -> Iterator[Piece]:
    """What is shown of a rule's events; `tested`: the fields that the rule tests or is grouped by; `asked`: the only
    EventIDs that it selects.
    """
    given: set[str] = set()
    for name in REQUIRED:
        kind = mapped.table.columns.get(name)
        if kind is not None and REQUIRED[0] in mapped.table.columns:  # other tables' DeviceId means something else
            given.add(name)
            yield Piece(name, name, identifier(name), kind)
    for kind_of_thing, names in facts()["evidence"].items():
        candidates = [name for name in names if name in tested]
        candidates += [name for name in names if name not in tested and _is_own(mapped, name, asked)]
        values = [value for name in candidates if (value := _value(mapped, name, asked)) is not None]
        stored = (value for value in values if value[0] in mapped.table.columns)  # entities are inferred from these
        found = next(stored, values[0] if values else None)
        if found is not None and found[0] not in given:
            given.add(found[0])
            yield Piece(kind_of_thing, *found)


def _is_own(mapped: Mapped, name: str, asked: Ids) -> bool:
    """Whether the table has the field for certain."""
    serve, table = mapped.serve, mapped.table
    assert serve is not None
    if name in serve.absent or name in table.absent:
        return False
    if name in serve.fields or name in table.fields or name in table.columns:
        return True
    return serve.elements is not None and name in (known_elements(serve.elements, asked) or ())


def _value(mapped: Mapped, name: str, asked: Ids) -> tuple[str, str, KqlType] | None:
    """A stored column by its own name, anything else under the field's name."""
    assert mapped.serve is not None
    found = find_field(mapped.table, mapped.serve, name, asked)
    if isinstance(found, FieldMap) and (found.values is not None or found.constant is not None):
        return None  # what the table's own words say more plainly
    if isinstance(found, FieldMap) and len(found.columns) == 1 and found.columns[0].kind == "stored":
        column = found.columns[0]
        if column.type != "dynamic" and not found.cases:
            return column.reads[0], column.text, column.type
    value = value_of(mapped, name, asked)
    return None if isinstance(value, str) else (name, value.text, "string")


def agreed(found: Sequence[Sequence[Piece]]) -> list[tuple[Piece, list[str | None]]]:
    """What the rules show, one column a kind, called as the first rule calls it; and what each rule gives for it.

    Where two disagree about the type, both give text. No two columns differ by case alone.
    """
    by_kind: dict[str, list[Piece | None]] = {}
    for number, pieces in enumerate(found):
        for piece in pieces:
            by_kind.setdefault(piece.kind, [None] * len(found))[number] = piece
    columns: list[tuple[Piece, list[str | None]]] = []
    taken: set[str] = set()
    for kind, held in by_kind.items():
        first = next(piece for piece in held if piece is not None)
        if first.column.lower() in taken:
            continue
        taken.add(first.column.lower())
        mixed = len({piece.type for piece in held if piece is not None}) > 1
        texts = [None if one is None else f"tostring({one.text})" if mixed else one.text for one in held]
        columns.append((Piece(kind, first.column, first.text, "string" if mixed else first.type), texts))
    return columns
