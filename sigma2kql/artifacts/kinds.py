"""What is deployed, as values: an alert rule, a hunting query, a custom detection.

Place in the flow: `describe` and `read_back` make them, `bodies` turns them into what each product
wants. Invariant: values are within the products' limits once `describe` has given them out. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from sigma2kql.diagnostics.diagnostic import frozen


@frozen
class Entity:
    """One entity mapping: its type and (identifier, output column) pairs."""

    type: str
    fields: tuple[tuple[str, str], ...]


@frozen
class Connector:
    """A data connector that a rule needs, and the data types it must bring."""

    id: str
    types: tuple[str, ...]


@frozen
class AlertDetails:
    """What an alert says instead of the rule: formats may hold up to three `{{Column}}`."""

    name: str | None = None
    description: str | None = None
    tactics_column: str | None = None
    severity_column: str | None = None
    properties: tuple[tuple[str, str], ...] = ()


@frozen
class Grouping:
    """How alerts are grouped into incidents."""

    enabled: bool = False
    reopen: bool = False
    lookback: int = 5 * 3600
    matching: str = "AllEntities"
    entities: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    custom: tuple[str, ...] = ()


@frozen
class Incident:
    """Whether alerts make an incident, and how they are grouped."""

    create: bool = True
    grouping: Grouping = Grouping()


Operator = Literal["gt", "lt", "eq", "ne"]


@frozen
class Schedule:
    """How often a query runs and how far it looks back (seconds), and when its row count makes an alert."""

    frequency: int
    period: int
    operator: Operator = "gt"
    threshold: int = 0


@frozen
class AlertRule:
    """A Sentinel analytics rule. `schedule` None is the near-real-time kind.

    `function` holds the query where it is too long for a rule: it is saved as a function whose name `query` calls.
    """

    id: str
    name: str
    description: str
    severity: str
    query: str
    schedule: Schedule | None
    tactics: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    connectors: tuple[Connector, ...] = ()
    entities: tuple[Entity, ...] = ()
    sentinel_entities: tuple[str, ...] = ()
    custom_details: tuple[tuple[str, str], ...] = ()
    details: AlertDetails | None = None
    aggregation: str | None = None
    incident: Incident | None = None
    suppressed: bool = False
    suppression: int = 3600
    status: str | None = None
    enabled: bool = True
    version: str = "1.0.0"
    tags: tuple[Any, ...] = ()
    metadata: Any = None
    function: str | None = None


@frozen
class Hunt:
    """A Sentinel hunting query."""

    id: str
    name: str
    description: str
    query: str
    tactics: tuple[str, ...] = ()
    techniques: tuple[str, ...] = ()
    connectors: tuple[Connector, ...] = ()
    entities: tuple[Entity, ...] = ()
    custom_details: tuple[tuple[str, str], ...] = ()
    status: str | None = None
    version: str = "1.0.0"
    tags: tuple[Any, ...] = ()
    metadata: Any = None


@frozen
class Detection:
    """A custom detection of Defender. `frequency` 0 is the continuous kind; `entities` are in the words of Graph.

    `lookback` None is what the service takes by itself; `actions` are collections of Graph's automatedActionSet.
    """

    id: str
    name: str
    title: str
    description: str
    severity: str
    query: str
    frequency: int
    tactic: str | None
    techniques: tuple[str, ...]
    entities: tuple[Entity, ...]
    custom_details: tuple[tuple[str, str], ...] = ()
    recommended: str | None = None
    enabled: bool = False
    lookback: int | None = None
    actions: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] = ()
    device_groups: tuple[str, ...] = ()


def function_name(identifier: str) -> str:
    """The name of the saved function of a rule."""
    return "Sigma_" + identifier.replace("-", "")


Artifact: TypeAlias = AlertRule | Hunt | Detection
