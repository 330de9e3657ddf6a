"""A team's wishes for what is deployed: schedule, kind, mappings, details, each left open or stated.

Place in the flow: the caller merges the configuration, a directory's settings and a rule's own `sigma2kql:` key into
one `Settings`, the nearest last; `describe` fills what is left open by the kind of rule. Invariant: a Settings value
holds only what passed its reader; None means that nobody said anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from sigma2kql.artifacts import deployment_values as values
from sigma2kql.artifacts.kinds import AlertDetails, Connector, Entity, Incident, Operator
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Span, diagnostic, did_you_mean, frozen


@frozen
class Settings:
    """What was asked for. Durations are seconds; None is left to the kind of rule."""

    name: str | None = None
    description: str | None = None
    severity: str | None = None
    status: str | None = None
    enabled: bool | None = None
    kind: str | None = None  # Scheduled or NRT
    version: str | None = None
    frequency: int | None = None
    period: int | None = None
    operator: Operator | None = None
    threshold: int | None = None
    suppressed: bool | None = None
    suppression: int | None = None
    tactics: tuple[str, ...] | None = None
    techniques: tuple[str, ...] | None = None
    connectors: tuple[Connector, ...] | None = None
    entities: tuple[Entity, ...] | None = None
    sentinel_entities: tuple[str, ...] | None = None
    custom_details: tuple[tuple[str, str], ...] | None = None
    details: AlertDetails | None = None
    aggregation: str | None = None
    incident: Incident | None = None
    tags: tuple[Any, ...] | None = None
    metadata: Any = None
    impacted: tuple[Entity, ...] | None = None  # of a custom detection, in the words of Graph
    recommended: str | None = None
    actions: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...] | None = None  # automated, of a custom detection
    device_groups: tuple[str, ...] | None = None  # the scope of a custom detection
    max_entities: int = 10  # what the service takes
    late: bool | None = None  # count in events that come late; None: where the table is known for it
    nrt: str = "documented"  # what a verdict on near real time rests on: documented or reported
    function: bool = False  # a query over the limit becomes a saved function
    arm_form: str = "nested"  # nested: what Sentinel Repositories takes; extension: a resource with a scope
    terraform_provider: str = "auto"  # azapi where azurerm has no argument for something that is set
    hunting: bool | None = None  # bicep and terraform: a hunting query rather than a rule
    fallback_tactics: tuple[str, ...] = ()  # for rules without one
    fallback_techniques: tuple[str, ...] = ()  # for rules without one: those that a tactic of the rule has
    fallback_entities: tuple[Entity, ...] = ()  # where none is inferred: those whose columns the query returns
    attribution: bool = True  # author, references and false positives at the end of the description


KEYS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "name": ("name", values.text),
    "description": ("description", values.text),
    "severity": ("severity", values.severity),
    "status": ("status", values.choice("Available", "InPreview", "Deprecated")),
    "enabled": ("enabled", values.flag),
    "kind": ("kind", values.choice("Scheduled", "NRT")),
    "version": ("version", values.version),
    "queryFrequency": ("frequency", values.duration),
    "queryPeriod": ("period", values.duration),
    "triggerOperator": ("operator", values.operator),
    "triggerThreshold": ("threshold", values.number(0, 10000)),
    "suppressionEnabled": ("suppressed", values.flag),
    "suppressionDuration": ("suppression", values.duration),
    "tactics": ("tactics", values.words),
    "relevantTechniques": ("techniques", values.words),
    "requiredDataConnectors": ("connectors", values.connectors),
    "entityMappings": ("entities", values.entities),
    "sentinelEntitiesMappings": ("sentinel_entities", values.sentinel_entities),
    "customDetails": ("custom_details", values.custom_details),
    "alertDetailsOverride": ("details", values.alert_details),
    "eventGroupingSettings": ("aggregation", values.aggregation),
    "incidentConfiguration": ("incident", values.incident),
    "tags": ("tags", values.items),
    "metadata": ("metadata", values.plain),
}
DETECTION: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {  # what only a custom detection has
    "impactedEntities": ("impacted", values.impacted),
    "recommendedActions": ("recommended", values.text),
    "automatedActions": ("actions", values.actions),
    "deviceGroups": ("device_groups", values.words),
}
CHOICES: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "maxEntities": ("max_entities", values.number(0, 10)),
    "lateEvents": ("late", values.flag),
    "nrt": ("nrt", values.choice("documented", "reported")),
    "function": ("function", values.flag),
    "armForm": ("arm_form", values.choice("nested", "extension")),
    "terraformProvider": ("terraform_provider", values.choice("auto", "azurerm", "azapi")),
    "hunting": ("hunting", values.flag),
    "fallbackTactics": ("fallback_tactics", values.words),
    "fallbackTechniques": ("fallback_techniques", values.words),
    "fallbackEntityMappings": ("fallback_entities", values.entities),
    "attribution": ("attribution", values.flag),
}


def merge(settings: Settings, mapping: Mapping[str, Any], span: Span | None = None) -> Settings:
    """`settings` with what `mapping` states (keys as in Azure-Sentinel's YAML, and this project's own choices).

    Raises Sigma2KqlError with one E701 (unknown key) or E702 (value) per problem, all at `span`.
    """
    table = {**KEYS, **DETECTION, **CHOICES}
    problems = [
        diagnostic("E701", f"unknown deployment setting `{_shown(key)}`", span, did_you_mean(str(key), table))
        for key in mapping
        if key not in table
    ]
    stated = {key: value for key, value in mapping.items() if key in table}
    read, bad = read_keys(stated, table)
    problems += [diagnostic("E702", f"`{key}` is to be {wish}", span) for key, wish in bad]
    if problems:
        raise Sigma2KqlError(problems)
    return replace(settings, **read)


def merge_rule(settings: Settings, custom: Mapping[str, Any], span: Span | None = None) -> Settings:
    """`settings` with a document's own `sigma2kql:` key (`Metadata.custom`), where it has one."""
    own = custom.get("sigma2kql")
    if own is None:
        return settings
    if not isinstance(own, Mapping):
        raise Sigma2KqlError((diagnostic("E702", "`sigma2kql` is to be a map of deployment settings", span),))
    return merge(settings, own, span)


def read_keys(
    mapping: Mapping[str, Any], table: Mapping[str, tuple[str, Callable[[object], Any]]] = KEYS
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The fields of Settings that `mapping` gives, and (key, what was expected) for values that do not fit.

    Keys outside `table` are left alone.
    """
    read: dict[str, Any] = {}
    bad: list[tuple[str, str]] = []
    for key, (name, reader) in table.items():
        if key in mapping:
            try:
                read[name] = reader(mapping[key])
            except ValueError as problem:
                bad.append((key, str(problem)))
    return read, bad


def loose(mapping: Mapping[str, Any], span: Span | None) -> tuple[dict[str, Any], list[Diagnostic]]:
    """What a document that exists already states; what does not fit is left out with a W756."""
    stated = {key: value for key, value in mapping.items() if value is not None}
    read, bad = read_keys(stated, {**KEYS, **DETECTION})
    notes = [diagnostic("W756", f"`{key}` is left out: it is to be {wish}", span) for key, wish in bad]
    return read, notes


def _shown(key: object) -> str:
    return str(key)[:60].encode("unicode_escape").decode("ascii")
