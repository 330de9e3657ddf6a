"""The products' own tables as data: ATT&CK, severities, connectors, entity columns, refused operators.

Place in the flow: read by every other module of this package, reads `mappings/deploy/*.yml`. Invariant: facts live in
those files alone; each is read once, when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sigma2kql.system.shipped_files import mappings_folder


@cache
def facts(name: str) -> Mapping[str, Any]:
    """The content of `mappings/deploy/<name>.yml`."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    with (mappings_folder() / "deploy" / f"{name}.yml").open(encoding="utf-8") as stream:
        data: Mapping[str, Any] = yaml.load(stream, loader)  # noqa: S506 (a safe loader either way)
    return data


@cache
def techniques() -> Mapping[str, tuple[str, ...]]:
    """Base technique -> the tactics that Sentinel's checks accept it under, in the order of ATT&CK."""
    table: dict[str, tuple[str, ...]] = {}
    for tactic, ids in facts("attack")["techniques"].items():
        for technique in ids.split():
            table[technique] = (*table.get(technique, ()), tactic)
    return table


@cache
def tactics() -> tuple[str, ...]:
    """The names of the tactics that Sentinel accepts, in the order of ATT&CK."""
    return tuple(facts("attack")["techniques"])


@cache
def connectors() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Table -> (connector, data type) pairs that fill it."""
    data = facts("connectors")
    table: dict[str, tuple[tuple[str, str], ...]] = {}
    for connector, names in data["connectors"].items():
        for name in names:
            kind = data["types"].get(connector, {}).get(name, name)
            table[name] = (*table.get(name, ()), (connector, kind))
    return table


def asim_schema(table: str) -> str | None:
    """The ASIM schema whose parser function `table` is, or None."""
    for prefix in ("_Im_", "_ASim_", "im", "ASim"):
        if table.startswith(prefix):
            for schema, names in facts("connectors")["schemas"].items():
                if table[len(prefix) :] in names:
                    return str(schema)
    return None


def tables_behind(table: str) -> tuple[str, ...]:
    """The tables that a name stands for: itself, or what an ASIM parser reads."""
    schema = asim_schema(table)
    return (table,) if schema is None else tuple(facts("connectors")["parsers"][schema])
