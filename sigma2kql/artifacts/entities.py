"""Who, what and where in a query's result: entity mappings inferred from its columns.

Place in the flow: asked by `describe`. Invariant: a mapping that is inferred names only columns that the result has or
can have, has an identifying set of fields (`one_of`), and there are never more than asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sigma2kql.artifacts.computed_columns import ResultColumns
from sigma2kql.artifacts.kinds import Entity
from sigma2kql.artifacts.product_tables import facts


def infer(tables: Sequence[str], result: ResultColumns, most: int, grouped: bool = False) -> tuple[Entity, ...]:
    """Entities of a query over `tables`, in order of preference, at most `most`.

    Where the table's own list fits nothing (a projection, a summary), columns that mean the same everywhere serve;
    of a correlation's result (`grouped`), which has names of its own for what it groups by, these come first.
    """
    if result.returned is None:
        return ()
    if grouped:
        groups = list(_groups("sentinel", tables[0] if len(tables) == 1 else ""))
        every = [entity for group in reversed(groups) for entity in _choose(group["entities"], result, _identifies)]
        return tuple(dict.fromkeys(every))[:most]
    for group in _groups("sentinel", tables[0] if len(tables) == 1 else ""):
        found = _choose(group["entities"], result, _identifies)
        if found:
            return found[:most]
    return ()


def fitting(wanted: Iterable[Entity], result: ResultColumns, most: int) -> tuple[Entity, ...]:
    """Those of a team's own mappings whose columns a query returns, at most `most`."""
    return tuple(entity for entity in wanted if all(result.single(column) for _, column in entity.fields))[:most]


def infer_defender(table: str, result: ResultColumns) -> tuple[Entity, ...]:
    """Entities of a custom detection over a table of Defender; none for other tables."""
    for group in _groups("defender", table):
        return _choose(group["entities"], result, identifies_defender)
    return ()


def infer_graph(tables: Sequence[str], result: ResultColumns) -> tuple[Entity, ...]:
    """What a table of Sentinel names that Graph alone has a word for (resources of other clouds)."""
    group = next(iter(_groups("sentinel", tables[0] if len(tables) == 1 else "")), {})
    return _choose(group.get("graph", ()), result, identifies_defender)


def named_columns(tables: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Columns of a table that name `who` acted and on `what` for people, best first, where entities do not say it."""
    group = next(iter(_groups("sentinel", tables[0] if len(tables) == 1 else "")), {})
    return {key: _listed(group[key]) for key in ("who", "what") if key in group}


def suffices(entities: Iterable[Entity]) -> bool:
    """Whether a custom detection has an impacted entity among these."""
    return any(entity.type in facts("entities")["needs_one_of"] for entity in entities)


def _listed(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _groups(section: str, table: str) -> Iterable[Mapping[str, Any]]:
    return (g for g in facts("entities")[section] if any(fnmatchcase(table, glob) for glob in g["tables"]))


def _choose(
    choices: Iterable[Mapping[str, Any]], result: ResultColumns, identifies: Callable[[Entity], bool]
) -> tuple[Entity, ...]:
    found: list[Entity] = []
    for choice in choices:
        for kind, alternatives in choice.items():
            for fields in alternatives if isinstance(alternatives, list) else [alternatives]:
                present = tuple((name, column) for name, column in fields.items() if result.single(column))
                entity = Entity(kind, present)
                if identifies(entity) and entity not in found:
                    found.append(entity)
                    break
    return tuple(found)


def _identifies(entity: Entity) -> bool:
    names = {name for name, _ in entity.fields}
    return any(names.issuperset(group) for group in facts("entities")["types"][entity.type]["one_of"])


def identifies_defender(entity: Entity) -> bool:
    """Whether Defender can find what these columns name."""
    names = {name for name, _ in entity.fields}
    if entity.type == "accounts":
        return any(names.issuperset(group) for group in facts("entities")["account_needs"])
    return bool(names)
