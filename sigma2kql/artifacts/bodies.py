"""An artifact as the plain value that each product takes: YAML document, ARM properties, Graph body.

Place in the flow: between `describe` (or `read`) and the templates. Invariant: the order of keys is fixed, and a body
holds everything of the artifact that the product has a place for.
"""

from __future__ import annotations

from typing import Any

from sigma2kql.artifacts.kinds import AlertDetails, AlertRule, Connector, Detection, Entity, Grouping, Hunt, Incident

LONG = {"gt": "GreaterThan", "lt": "LessThan", "eq": "Equal", "ne": "NotEqual"}
TAG_LIMIT = 240  # a tag value of a saved search


def short_duration(seconds: int) -> str:
    """`5m`, `1h`, `14d`: the largest unit that divides it."""
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds // 60}m"


def iso_duration(seconds: int) -> str:
    """ISO 8601 with days, hours, minutes and seconds."""
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if n)
    date = f"{days}D" if days else ""
    return f"P{date}T{time}" if time else f"P{date}" if date else "PT0S"


def document(artifact: AlertRule | Hunt) -> dict[str, Any]:
    """Azure-Sentinel's YAML of a rule or a hunting query."""
    return _analytics_document(artifact) if isinstance(artifact, AlertRule) else _hunting_document(artifact)


def _analytics_document(rule: AlertRule) -> dict[str, Any]:
    """Azure-Sentinel analytics rule YAML, in the customary order of keys."""
    document: dict[str, Any] = {
        "id": rule.id,
        "name": rule.name,
        "description": rule.description,
        "severity": rule.severity,
        "requiredDataConnectors": _connectors(rule.connectors),
    }
    if rule.schedule is not None:
        document["queryFrequency"] = short_duration(rule.schedule.frequency)
        document["queryPeriod"] = short_duration(rule.schedule.period)
        document["triggerOperator"] = rule.schedule.operator
        document["triggerThreshold"] = rule.schedule.threshold
    _put(document, "status", rule.status)
    document["tactics"] = list(rule.tactics)
    document["relevantTechniques"] = list(rule.techniques)
    _put(document, "tags", list(rule.tags))
    document["query"] = rule.query
    _put(document, "entityMappings", _entities(rule.entities))
    _put(document, "sentinelEntitiesMappings", [{"columnName": name} for name in rule.sentinel_entities])
    _put(document, "customDetails", dict(rule.custom_details))
    _put(document, "alertDetailsOverride", _details(rule.details))
    _put(document, "eventGroupingSettings", {"aggregationKind": rule.aggregation} if rule.aggregation else None)
    _put(document, "incidentConfiguration", _incident(rule.incident, short_duration))
    if rule.suppressed:
        document["suppressionEnabled"] = True
        document["suppressionDuration"] = short_duration(rule.suppression)
    document["version"] = rule.version
    document["kind"] = "NRT" if rule.schedule is None else "Scheduled"
    _put(document, "metadata", rule.metadata)
    return document


def _hunting_document(hunt: Hunt) -> dict[str, Any]:
    """Azure-Sentinel hunting query YAML."""
    document: dict[str, Any] = {
        "id": hunt.id,
        "name": hunt.name,
        "description": hunt.description,
    }
    _put(document, "status", hunt.status)
    document["requiredDataConnectors"] = _connectors(hunt.connectors)
    document["tactics"] = list(hunt.tactics)
    document["relevantTechniques"] = list(hunt.techniques)
    _put(document, "tags", list(hunt.tags))
    document["query"] = hunt.query
    _put(document, "entityMappings", _entities(hunt.entities))
    _put(document, "customDetails", dict(hunt.custom_details))
    document["version"] = hunt.version
    _put(document, "metadata", hunt.metadata)
    return document


def rule_properties(rule: AlertRule) -> dict[str, Any]:
    """Properties of `alertRules`, API 2025-10-01-preview (NRT and subTechniques exist in previews alone)."""
    properties: dict[str, Any] = {
        "displayName": rule.name,
        "description": rule.description,
        "severity": rule.severity,
        "enabled": rule.enabled,
        "query": rule.query,
    }
    if rule.schedule is not None:
        properties["queryFrequency"] = iso_duration(rule.schedule.frequency)
        properties["queryPeriod"] = iso_duration(rule.schedule.period)
        properties["triggerOperator"] = LONG[rule.schedule.operator]
        properties["triggerThreshold"] = rule.schedule.threshold
    properties["suppressionEnabled"] = rule.suppressed
    properties["suppressionDuration"] = iso_duration(rule.suppression)
    properties["tactics"] = list(rule.tactics)
    properties["techniques"] = base_techniques(rule.techniques)
    properties["subTechniques"] = sub_techniques(rule.techniques)
    _put(properties, "eventGroupingSettings", {"aggregationKind": rule.aggregation} if rule.aggregation else None)
    _put(properties, "customDetails", dict(rule.custom_details))
    _put(properties, "alertDetailsOverride", _details(rule.details))
    _put(properties, "entityMappings", _entities(rule.entities))
    _put(properties, "sentinelEntitiesMappings", [{"columnName": name} for name in rule.sentinel_entities])
    properties["incidentConfiguration"] = _incident(rule.incident or Incident(), iso_duration)
    return properties


def search_properties(hunt: Hunt) -> dict[str, Any]:
    """Properties of `savedSearches`: the category alone makes it a hunting query."""
    tags = [("description", _short(hunt.description))]
    if hunt.tactics:
        tags.append(("tactics", ",".join(hunt.tactics)))
    if hunt.techniques:
        tags.append(("techniques", _whole_words(hunt.techniques)))
    return {
        "category": "Hunting Queries",
        "displayName": hunt.name,
        "query": hunt.query,
        "version": 2,
        "tags": [{"name": name, "value": value} for name, value in tags],
    }


def function_properties(alias: str, name: str, query: str) -> dict[str, Any]:
    """Properties of a saved function that holds the query of a rule."""
    return {"category": "Functions", "displayName": name, "query": query, "functionAlias": alias, "version": 2}


def detection_body(detection: Detection, numbered: bool = False) -> dict[str, Any]:
    """The current body of Graph `security/rules/detectionRules` (not the one removed on 2026-10-01).

    `numbered`: each entity mapping has an `id`, as Bicep's type asks for and Graph's has not.
    """
    template: dict[str, Any] = {
        "title": detection.title,
        "description": detection.description,
        "severity": detection.severity,
        "tactics": [{"tactic": detection.tactic, "techniques": _nested(detection.techniques)}]
        if detection.tactic
        else [],
        "entityMappings": _collections(detection.entities, numbered),
    }
    _put(template, "recommendedActions", detection.recommended)
    _put(template, "customDetails", dict(detection.custom_details))
    schedule = {"frequency": iso_duration(detection.frequency)}
    if detection.lookback is not None:
        schedule["lookback"] = iso_duration(detection.lookback)
    action: dict[str, Any] = {"alertTemplate": template}
    _put(action, "automatedActions", {name: [dict(row) for row in rows] for name, rows in detection.actions})
    if detection.device_groups:
        action["organizationalScope"] = {"scopeType": "deviceGroup", "deviceGroups": list(detection.device_groups)}
    return {
        "@odata.type": "#microsoft.graph.security.detectionRule",
        "id": detection.id,
        "displayName": detection.name,
        "status": "enabled" if detection.enabled else "disabled",
        "queryCondition": {"queryText": detection.query},
        "schedule": schedule,
        "detectionAction": action,
    }


def base_techniques(techniques: tuple[str, ...]) -> list[str]:
    """`T1059` for each, once: the API refuses dotted ids among techniques."""
    return list(dict.fromkeys(technique.split(".")[0] for technique in techniques))


def sub_techniques(techniques: tuple[str, ...]) -> list[str]:
    """The dotted ones, by base."""
    return [t for base in base_techniques(techniques) for t in dict.fromkeys(techniques) if t.startswith(base + ".")]


def _nested(techniques: tuple[str, ...]) -> list[dict[str, Any]]:
    out = []
    for base in base_techniques(techniques):
        subs = [technique for technique in techniques if technique.startswith(base + ".")]
        out.append({"technique": base, **({"subTechniques": subs} if subs else {})})
    return out


def _collections(entities: tuple[Entity, ...], numbered: bool) -> dict[str, list[dict[str, str]]]:
    out: dict[str, list[dict[str, str]]] = {}
    for entity in entities:
        rows = out.setdefault(entity.type, [])
        rows.append({**({"id": f"{entity.type}{len(rows) + 1}"} if numbered else {}), **dict(entity.fields)})
    return out


def _put(body: dict[str, Any], key: str, value: Any) -> None:
    """Set a key that stays away where there is nothing to say."""
    if value is not None and value not in ([], {}):
        body[key] = value


def _connectors(connectors: tuple[Connector, ...]) -> list[dict[str, Any]]:
    return [{"connectorId": connector.id, "dataTypes": list(connector.types)} for connector in connectors]


def _entities(entities: tuple[Entity, ...]) -> list[dict[str, Any]]:
    return [
        {
            "entityType": entity.type,
            "fieldMappings": [{"identifier": name, "columnName": column} for name, column in entity.fields],
        }
        for entity in entities
    ]


def _details(details: AlertDetails | None) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if details is not None:
        _put(body, "alertDisplayNameFormat", details.name)
        _put(body, "alertDescriptionFormat", details.description)
        _put(body, "alertTacticsColumnName", details.tactics_column)
        _put(body, "alertSeverityColumnName", details.severity_column)
        _put(body, "alertDynamicProperties", [{"alertProperty": k, "value": v} for k, v in details.properties])
    return body


def _incident(incident: Incident | None, written: Any) -> dict[str, Any] | None:
    if incident is None:
        return None
    grouping: Grouping = incident.grouping
    return {
        "createIncident": incident.create,
        "groupingConfiguration": {
            "enabled": grouping.enabled,
            "reopenClosedIncident": grouping.reopen,
            "lookbackDuration": written(grouping.lookback),
            "matchingMethod": grouping.matching,
            "groupByEntities": list(grouping.entities),
            "groupByAlertDetails": list(grouping.details),
            "groupByCustomDetails": list(grouping.custom),
        },
    }


def _short(text: str) -> str:
    return text if len(text) <= TAG_LIMIT else text[: TAG_LIMIT - 3].rstrip() + "..."


def _whole_words(names: tuple[str, ...]) -> str:
    """Comma-joined, as many whole ones as a tag value holds."""
    out = ",".join(names)
    return out if len(out) <= TAG_LIMIT else out[: TAG_LIMIT + 1].rpartition(",")[0]
