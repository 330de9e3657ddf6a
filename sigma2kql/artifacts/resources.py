"""Artifacts as Azure resources: what ARM, Bicep and Terraform templates place.

Place in the flow: between `bodies` and the templates. Invariant: names and symbols are made of letters, digits, `-` and
`_` alone, so a template may place them in code; everything else goes through an escape rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any, assert_never

from sigma2kql.artifacts import bodies
from sigma2kql.artifacts.kinds import AlertRule, Hunt, function_name
from sigma2kql.artifacts.languages import Expression
from sigma2kql.artifacts.settings import Settings
from sigma2kql.diagnostics.diagnostic import fail, frozen

NESTED = "Microsoft.OperationalInsights/workspaces/providers/alertRules"
EXTENSION = "Microsoft.SecurityInsights/alertRules"
SEARCH = "Microsoft.OperationalInsights/workspaces/savedSearches"
RULE_VERSION = "2025-10-01-preview"
SEARCH_VERSION = "2025-07-01"
SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
# entity_mapping and sentinel_entity_mapping together: of a scheduled rule since azurerm 4.19, of a near-real-time one
AZURERM_ENTITIES, AZURERM_NRT_ENTITIES = 10, 5


@frozen
class Resource:
    """One resource of an ARM or Bicep template."""

    type: str
    version: str
    name: str
    path: str
    symbol: str
    properties: Mapping[str, Any]
    extension: bool = False
    kind: str = ""
    etag: str = ""
    after: str = ""
    after_symbol: str = ""


@frozen
class Block:
    """A block of a Terraform file: its type, labels, attributes and inner blocks."""

    name: str
    attributes: Mapping[str, Any]
    blocks: tuple[Block, ...] = ()
    labels: tuple[str, ...] = field(default=())


def resources(artifact: AlertRule | Hunt, settings: Settings) -> list[Resource]:
    """The resources of an artifact, a saved function before the rule that calls it."""
    match artifact:
        case AlertRule():
            return _rule(artifact, settings)
        case Hunt():
            return [_search(artifact.id, "hunt", bodies.search_properties(artifact))]
        case _:
            assert_never(artifact)


def _rule(rule: AlertRule, settings: Settings) -> list[Resource]:
    name = segment(rule.id)
    extension = settings.arm_form == "extension"
    alias = function_name(rule.id) if rule.function else ""
    before = []
    if rule.function:
        before = [_search(alias, "function", bodies.function_properties(alias, rule.name, rule.function))]
    return [
        *before,
        Resource(
            type=EXTENSION if extension else NESTED,
            version=RULE_VERSION,
            name=name,
            path=f"/Microsoft.SecurityInsights/{name}",
            symbol=symbol("rule", name),
            properties=bodies.rule_properties(rule),
            extension=extension,
            kind="NRT" if rule.schedule is None else "Scheduled",
            after=alias,
            after_symbol=before[0].symbol if before else "",
        ),
    ]


def _search(name: str, role: str, properties: Mapping[str, Any]) -> Resource:
    return Resource(
        SEARCH, SEARCH_VERSION, segment(name), f"/{segment(name)}", symbol(role, name), properties, etag="*"
    )


def segment(name: str) -> str:
    """`name` where it is safe as a part of a resource name. Raises E715."""
    if not SEGMENT.fullmatch(name):
        raise fail("E715", f"`{name[:60]!r}` cannot be the name of a resource", hint="use a GUID")
    return name


def symbol(role: str, name: str) -> str:
    """A name for a resource within a Bicep or Terraform file."""
    return f"{role}_{re.sub('[^A-Za-z0-9]', '_', name)}"


# --------------------------------------------------------------------------------------------------------------------
# Terraform


def terraform(artifact: AlertRule | Hunt, settings: Settings) -> list[Block]:
    """Resource blocks; a rule that says more than azurerm has arguments for becomes an azapi resource."""
    match artifact:
        case Hunt():
            return [_saved_search(artifact.id, bodies.search_properties(artifact))]
        case AlertRule():
            own = _azapi(artifact) if _wants_azapi(artifact, settings) else _azurerm(artifact)
            if not artifact.function:
                return [own]
            alias = function_name(artifact.id)
            return [_saved_search(alias, bodies.function_properties(alias, artifact.name, artifact.function)), own]
        case _:
            assert_never(artifact)


def _wants_azapi(rule: AlertRule, settings: Settings) -> bool:
    if settings.terraform_provider != "auto":
        return settings.terraform_provider == "azapi"
    return bool(beyond_azurerm(rule))


def beyond_azurerm(rule: AlertRule) -> list[str]:
    """What of a rule azurerm has no argument for."""
    most = AZURERM_ENTITIES if rule.schedule else AZURERM_NRT_ENTITIES
    many = len(rule.entities) + len(rule.sentinel_entities) > most
    return [*bodies.sub_techniques(rule.techniques), *([f"more than {most} entity mappings"] if many else [])]


def _saved_search(name: str, properties: Mapping[str, Any]) -> Block:
    attributes: dict[str, Any] = {
        "name": segment(name),
        "log_analytics_workspace_id": Expression("var.workspace_id"),
        "category": properties["category"],
        "display_name": properties["displayName"],
        "query": properties["query"],
    }
    if "functionAlias" in properties:
        attributes["function_alias"] = properties["functionAlias"]
    if "tags" in properties:
        attributes["tags"] = {tag["name"]: tag["value"] for tag in properties["tags"]}
    return Block("resource", attributes, (), ("azurerm_log_analytics_saved_search", symbol("sigma", name)))


def _after(rule: AlertRule) -> dict[str, Any]:
    called = symbol("sigma", function_name(rule.id))
    return {"depends_on": Expression(f"[azurerm_log_analytics_saved_search.{called}]")} if rule.function else {}


def _azapi(rule: AlertRule) -> Block:
    attributes = {
        "type": f"{EXTENSION}@{RULE_VERSION}",
        "name": segment(rule.id),
        "parent_id": Expression("var.workspace_id"),
        "body": {
            "kind": "NRT" if rule.schedule is None else "Scheduled",
            "properties": bodies.rule_properties(rule),
        },
        **_after(rule),
    }
    return Block("resource", attributes, (), ("azapi_resource", symbol("sigma", rule.id)))


def _azurerm(rule: AlertRule) -> Block:
    body = bodies.rule_properties(rule)
    names = {
        "display_name": "displayName", "description": "description", "severity": "severity", "enabled": "enabled",
        "query": "query", "query_frequency": "queryFrequency", "query_period": "queryPeriod",
        "trigger_operator": "triggerOperator", "trigger_threshold": "triggerThreshold",
        "suppression_enabled": "suppressionEnabled", "suppression_duration": "suppressionDuration",
        "tactics": "tactics", "techniques": "techniques", "custom_details": "customDetails",
    }  # fmt: skip
    attributes: dict[str, Any] = {
        "name": segment(rule.id),
        "log_analytics_workspace_id": Expression("var.workspace_id"),
        **{name: body[key] for name, key in names.items() if key in body},
        **_after(rule),
    }
    kind = "azurerm_sentinel_alert_rule_" + ("nrt" if rule.schedule is None else "scheduled")
    return Block("resource", attributes, tuple(_azurerm_blocks(rule)), (kind, symbol("sigma", rule.id)))


def _azurerm_blocks(rule: AlertRule) -> Iterable[Block]:
    yield Block("event_grouping", {"aggregation_method": rule.aggregation or "SingleAlert"})
    for entity in rule.entities:
        fields = (Block("field_mapping", {"identifier": name, "column_name": column}) for name, column in entity.fields)
        yield Block("entity_mapping", {"entity_type": entity.type}, tuple(fields))
    for column in rule.sentinel_entities:
        yield Block("sentinel_entity_mapping", {"column_name": column})
    if rule.details is not None:
        attributes = {
            "display_name_format": rule.details.name,
            "description_format": rule.details.description,
            "severity_column_name": rule.details.severity_column,
            "tactics_column_name": rule.details.tactics_column,
        }
        pairs = (Block("dynamic_property", {"name": name, "value": column}) for name, column in rule.details.properties)
        yield Block("alert_details_override", {k: v for k, v in attributes.items() if v is not None}, tuple(pairs))
    incident = bodies.rule_properties(rule)["incidentConfiguration"]
    grouping = incident["groupingConfiguration"]
    names = {
        "enabled": "enabled", "lookback_duration": "lookbackDuration",
        "reopen_closed_incidents": "reopenClosedIncident", "entity_matching_method": "matchingMethod",
        "by_entities": "groupByEntities", "by_alert_details": "groupByAlertDetails",
        "by_custom_details": "groupByCustomDetails",
    }  # fmt: skip
    inner = {name: grouping[key] for name, key in names.items() if grouping[key] != []}
    yield Block("incident", {"create_incident_enabled": incident["createIncident"]}, (Block("grouping", inner),))
