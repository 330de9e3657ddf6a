"""Reads plain values (YAML or JSON) as deployment values, in every spelling that Microsoft's content uses.

Place in the flow: under `settings` (a team's wishes), `native` (a document that exists) and `read` (an artifact read
back), so that one key means one thing wherever it is written. Invariant: a value is read whole or a ValueError says
what was expected.

Source of the keys and spellings: Azure-Sentinel analytics rule YAML and the alert rule API (2025-09-01).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from sigma2kql.artifacts.kinds import AlertDetails, Connector, Entity, Grouping, Incident, Operator
from sigma2kql.artifacts.product_tables import facts

COLUMN = re.compile(r"[A-Za-z_]\w{0,499}", re.ASCII)
DETAIL = re.compile(r"[A-Za-z]\w{0,19}", re.ASCII)
VERSION = re.compile(r"(?=.{5,20}$)\d+\.\d+\.\d+")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
ISO = re.compile(r"P(?=\d|T\d)(?:(\d+)W)?(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
OPERATORS: Mapping[str, Operator] = {
    "gt": "gt", "lt": "lt", "eq": "eq", "ne": "ne",
    "greaterthan": "gt", "lessthan": "lt", "equal": "eq", "equals": "eq", "notequal": "ne",
}  # fmt: skip
PROPERTIES = (
    "AlertLink", "ConfidenceLevel", "ConfidenceScore", "ExtendedLinks", "ProductName", "ProviderName",
    "ProductComponentName", "RemediationSteps", "Techniques", "SubTechniques",
)  # fmt: skip


def text(value: object) -> str:
    """Any text."""
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("a text")


def flag(value: object) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    raise ValueError("true or false")


def number(low: int, high: int) -> Callable[[object], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        raise ValueError(f"a whole number from {low} to {high}")

    return read


def choice(*names: str) -> Callable[[object], str]:
    """A reader of one of these words, in any case."""

    def read(value: object) -> str:
        folded = {name.lower(): name for name in names}
        if isinstance(value, str) and value.strip().lower() in folded:
            return folded[value.strip().lower()]
        raise ValueError("one of " + ", ".join(names))

    return read


def duration(value: object) -> int:
    """Seconds of `5m`, `1h`, `14d`, ISO 8601 (`PT1H`) or a .NET time span (`1.02:00:00`)."""
    if isinstance(value, str) and len(value) <= 40:
        plain = value.strip()
        short = re.fullmatch(r"(\d{1,9})([smhd])", plain.lower())
        if short:
            return int(short[1]) * UNITS[short[2]]
        iso = ISO.fullmatch(plain.upper())
        if iso:
            return sum(int(n or 0) * size for n, size in zip(iso.groups(), (604800, 86400, 3600, 60, 1), strict=True))
        span = re.fullmatch(r"(?:(\d{1,6})\.)?(\d{1,2}):(\d{2}):(\d{2})", plain)
        if span:
            return sum(int(n or 0) * size for n, size in zip(span.groups(), (86400, 3600, 60, 1), strict=True))
    raise ValueError("a duration such as 5m, 1h, 14d or PT1H")


def operator(value: object) -> Operator:
    """gt, lt, eq, ne or their long names."""
    if isinstance(value, str) and value.strip().lower() in OPERATORS:
        return OPERATORS[value.strip().lower()]
    raise ValueError("one of gt, lt, eq, ne")


def severity(value: object) -> str:
    """A severity of Sentinel; `critical` is High."""
    levels = facts("severity")["levels"]
    if isinstance(value, str) and value.strip().lower() in levels:
        return str(levels[value.strip().lower()])
    raise ValueError("one of Informational, Low, Medium, High")


def words(value: object) -> tuple[str, ...]:
    """A list of texts; one text is split at commas; nothing is an empty list."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(item.strip() for item in value if item.strip())
    raise ValueError("a list of texts")


def column(value: object) -> str:
    """The name of a column: a letter or underscore, then letters, digits, underscores."""
    if isinstance(value, str) and COLUMN.fullmatch(value):
        return value
    raise ValueError("the name of a column")


def version(value: object) -> str:
    """`1.2.3`."""
    if isinstance(value, str) and VERSION.fullmatch(value):
        return value
    raise ValueError("a version such as 1.0.0")


def entities(value: object) -> tuple[Entity, ...]:
    """Entity mappings: at most 10, each with 1 to 3 fields, with identifiers that the entity type has."""
    found: list[Entity] = []
    for item in _list(value, 10, "entity mappings"):
        kind = str(_get(item, "entityType"))
        known = facts("entities")["types"].get(kind)
        if known is None:
            raise ValueError("an entityType among " + ", ".join(facts("entities")["types"]))
        fields = []
        for part in _list(_get(item, "fieldMappings"), 3, "fields of an entity"):
            if _get(part, "identifier") not in known["identifiers"]:
                raise ValueError(f"an identifier of {kind}: " + ", ".join(known["identifiers"]))
            fields.append((str(_get(part, "identifier")), column(_get(part, "columnName"))))
        if not fields:
            raise ValueError("at least one field for every entity")
        found.append(Entity(kind, tuple(fields)))
    return tuple(found)


def impacted(value: object) -> tuple[Entity, ...]:
    """Entity mappings of a custom detection: Graph's collections, each a list of maps of fields to columns."""
    known = facts("entities")["graph"]
    if not isinstance(value, Mapping) or not all(name in known for name in value):
        raise ValueError("a map of " + ", ".join(known))
    found = []
    for name, rows in value.items():
        for row in _list(rows, 10, name):
            stated = {key: item for key, item in row.items() if key not in _NAMES} if isinstance(row, Mapping) else {}
            if not stated or not all(key in known[name] for key in stated):
                raise ValueError(f"for {name}: a map of " + ", ".join(known[name]))
            found.append(Entity(name, tuple((key, column(item)) for key, item in stated.items())))
    return tuple(found)


def actions(value: object) -> tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...]:
    """Automated actions of a custom detection: Graph's collections, each a list of maps of properties to columns."""
    known, isolation = facts("custom-detections")["actions"], facts("custom-detections")["isolation"]
    if not isinstance(value, Mapping) or not all(name in known for name in value):
        raise ValueError("a map of " + ", ".join(known))
    found = []
    for name, rows in value.items():
        read: list[Mapping[str, Any]] = []
        for row in _list(rows, 10, name):
            if not isinstance(row, Mapping) or not all(key in known[name]["keys"] for key in row):
                raise ValueError(f"for {name}: a map of " + ", ".join(known[name]["keys"]))
            if not any(all(key in row for key in needed) for needed in known[name]["needs"]):
                raise ValueError(f"for {name}: a map with " + " or ".join(map(" and ".join, known[name]["needs"])))
            read.append({key: _of_action(key, item, isolation) for key, item in row.items()})
        found.append((str(name), tuple(read)))
    return tuple(found)


def _of_action(key: str, value: object, isolation: list[str]) -> Any:
    if key == "isolationType":
        return choice(*isolation)(value)
    return list(words(value)) if key == "deviceGroupNames" else column(value)


_NAMES = ("id", "@odata.type")  # of a mapping, given anew


def sentinel_entities(value: object) -> tuple[str, ...]:
    """The columns that hold Sentinel entities."""
    return tuple(column(_get(item, "columnName")) for item in _list(value, 5, "mappings"))


def connectors(value: object) -> tuple[Connector, ...]:
    """Required data connectors; one map stands for a list of one, a text in place of data types for a list."""
    value = [value] if isinstance(value, Mapping) else value
    return tuple(
        Connector(text(_get(item, "connectorId")), words(_get(item, "dataTypes", None)))
        for item in _list(value, 1000, "connectors")
    )


def custom_details(value: object) -> tuple[tuple[str, str], ...]:
    """At most 20 pairs: a name of up to 20 letters and digits, and a column."""
    if value is None:
        return ()
    if not isinstance(value, Mapping) or len(value) > 20:
        raise ValueError("a map of at most 20 names to columns")
    for name in value:
        if not isinstance(name, str) or not DETAIL.fullmatch(name):
            raise ValueError(f"a name of at most 20 letters and digits, not {str(name)[:40]!r}")
    return tuple((name, column(item)) for name, item in value.items())


def alert_format(most: int) -> Callable[[object], str]:
    """A reader of texts of at most `most` characters with at most three `{{Column}}`, braces tight around the name."""

    def read(value: object) -> str:
        content = text(value)
        if len(content) > most:
            raise ValueError(f"at most {most} characters")
        marks = re.findall(r"\{\{(.*?)\}\}", content, re.DOTALL)
        if len(marks) > 3 or any(not COLUMN.fullmatch(mark) for mark in marks):
            raise ValueError("at most three {{Column}}, braces tight around the column")
        return content

    return read


def alert_details(value: object) -> AlertDetails | None:
    """alertDetailsOverride."""
    if value is None:
        return None
    name, description = _get(value, "alertDisplayNameFormat", None), _get(value, "alertDescriptionFormat", None)
    tactics, severities = _get(value, "alertTacticsColumnName", None), _get(value, "alertSeverityColumnName", None)
    pairs = (
        (choice(*PROPERTIES)(_get(item, "alertProperty")), column(_get(item, "value")))
        for item in _list(_get(value, "alertDynamicProperties", None), 50, "properties")
    )
    return AlertDetails(
        None if name is None else alert_format(256)(name),
        None if description is None else alert_format(5000)(description),
        None if not tactics else column(tactics),
        None if not severities else column(severities),
        tuple(pairs),
    )


def aggregation(value: object) -> str | None:
    """eventGroupingSettings, or the bare word in it."""
    if value is None:
        return None
    inner = _get(value, "aggregationKind") if isinstance(value, Mapping) else value
    return choice("SingleAlert", "AlertPerResult")(inner)


def incident(value: object) -> Incident | None:
    """incidentConfiguration."""
    if value is None:
        return None
    grouping = _get(value, "groupingConfiguration", None)
    if grouping is None:
        return Incident(flag(_get(value, "createIncident", True)), Grouping())
    chosen = Grouping(
        flag(_get(grouping, "enabled")),
        flag(_get(grouping, "reopenClosedIncident", False)),
        duration(_get(grouping, "lookbackDuration", "5h")),
        choice("AllEntities", "AnyAlert", "Selected")(_get(grouping, "matchingMethod", "AllEntities")),
        tuple(choice(*facts("entities")["types"])(item) for item in words(_get(grouping, "groupByEntities", None))),
        tuple(choice("DisplayName", "Severity")(item) for item in words(_get(grouping, "groupByAlertDetails", None))),
        words(_get(grouping, "groupByCustomDetails", None)),
    )
    if chosen.enabled and chosen.matching == "Selected" and not (chosen.entities or chosen.details or chosen.custom):
        raise ValueError("at least one groupBy list where matchingMethod is Selected")
    return Incident(flag(_get(value, "createIncident", True)), chosen)


def plain(value: object) -> Any:
    """Any value of texts, numbers, truth values, lists and maps with texts as keys (dates become texts)."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return str(value)


def items(value: object) -> tuple[Any, ...]:
    """A list of anything plain."""
    if value is None:
        return ()
    content = plain(value)
    return tuple(content) if isinstance(content, list) else (content,)


_REQUIRED = object()


def _get(value: object, key: str, default: object = _REQUIRED) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"a map with {key}")
    if key in value and value[key] is not None:
        return value[key]
    if default is _REQUIRED:
        raise ValueError(f"a map with {key}")
    return default


def _list(value: object, most: int, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple) or len(value) > most:
        raise ValueError(f"a list of at most {most} {what}")
    return list(value)
