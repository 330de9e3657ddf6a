"""Who, what and where in a query's output: entity mappings inferred from its columns, and checked against them.

Place in the flow: called by `decide` and `defender`. Invariant: a mapping that is inferred names only columns of the
output, has an identifying set of fields (`one_of`), and there are never more than asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sigma2kql.artifacts.kinds import Entity
from sigma2kql.artifacts.product_tables import facts


def infer(table: str | None, columns: Mapping[str, str], most: int) -> tuple[Entity, ...]:
    """Entities of a query over `table` that outputs `columns`, in order of preference, at most `most`.

    Where the table's own list fits nothing (a projection, a summary), columns that mean the same everywhere serve.
    """
    output = _single_valued(columns)
    for group in facts("entities")["sentinel"]:
        if any(fnmatchcase(table or "", glob) for glob in group["tables"]):
            found = _choose(group["entities"], output, _identifies)
            if found:
                return found[:most]
    return ()


def fitting(wanted: Iterable[Entity], columns: Mapping[str, str], most: int) -> tuple[Entity, ...]:
    """Those of a team's own mappings whose columns a query that outputs `columns` returns, at most `most`."""
    output = _single_valued(columns)
    return tuple(entity for entity in wanted if all(column in output for _, column in entity.fields))[:most]


def infer_defender(table: str | None, columns: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[Entity, ...]] | None:
    """The columns that a custom detection over `table` must return, and its entities; None where it cannot watch it."""
    output = _single_valued(columns)
    for group in facts("entities")["defender"]:
        if any(fnmatchcase(table or "", glob) for glob in group["tables"]):
            return tuple(group["returns"]), _choose(group["entities"], output, _identifies_defender)
    return None


def suffices(entities: Iterable[Entity]) -> bool:
    """Whether a custom detection has an impacted entity among these."""
    return any(entity.type in facts("entities")["needs_one_of"] for entity in entities)


def _single_valued(columns: Mapping[str, str]) -> frozenset[str]:
    """Columns that can hold an identifier: a dynamic one holds many, or a structure."""
    return frozenset(name for name, kind in columns.items() if kind != "dynamic")


def _choose(choices: Iterable[Mapping[str, Any]], output: frozenset[str], identifies: Any) -> tuple[Entity, ...]:
    found: list[Entity] = []
    for choice in choices:
        for kind, alternatives in choice.items():
            for fields in alternatives if isinstance(alternatives, list) else [alternatives]:
                present = tuple((name, column) for name, column in fields.items() if column in output)
                entity = Entity(kind, present)
                if identifies(entity) and entity not in found:
                    found.append(entity)
                    break
    return tuple(found)


def _identifies(entity: Entity) -> bool:
    names = {name for name, _ in entity.fields}
    return any(names.issuperset(group) for group in facts("entities")["types"][entity.type]["one_of"])


def _identifies_defender(entity: Entity) -> bool:
    names = {name for name, _ in entity.fields}
    if entity.type == "accounts":
        return any(names.issuperset(group) for group in facts("entities")["account_needs"])
    return bool(names)
