"""What every kind of artifact has: texts, ATT&CK, connectors, entities, custom details.

Place in the flow: the second step of `describe`. Invariant: what was cut, dropped or added is noted, and so is what the
format's own checks will ask for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sigma2kql.artifacts import attack, entities
from sigma2kql.artifacts.alert_content import decide_content
from sigma2kql.artifacts.detection_entities import impacted
from sigma2kql.artifacts.kinds import Connector, Entity
from sigma2kql.artifacts.product_tables import asim_schema, connectors, facts, tables_behind
from sigma2kql.artifacts.rule_facts import RuleFacts
from sigma2kql.artifacts.rule_texts import clean, clean_line, cut, without_orders
from sigma2kql.diagnostics.diagnostic import diagnostic, frozen
from sigma2kql.model.tree import Metadata, NativeQuery


@frozen
class Common:
    """What is common to every kind of artifact."""

    name: str
    description: str
    attack: attack.Attack
    connectors: tuple[Connector, ...]
    entities: tuple[Entity, ...]
    sentinel_entities: tuple[str, ...]
    custom_details: tuple[tuple[str, str], ...]
    title: str | None  # of an alert, with columns in it
    status: str | None
    version: str
    tags: tuple[Any, ...]


def decide_common(rule: RuleFacts) -> Common:
    """Decide them, noting what was cut, dropped or added."""
    settings, limits = rule.settings, rule.format.limits
    found = _attack(rule)
    if limits.tactics:
        found, out = attack.limit(found, limits.tactics, limits.techniques)
        if out:
            rule.notes.say("W753", f"more ATT&CK than the format takes; left out: {', '.join(out)}")
    name, description = _texts(rule, found)
    mapped = impacted(rule) if rule.kind == "detection" else _entities(rule)
    content = decide_content(rule, name, limits.title, mapped)
    stated = None if rule.native else facts("severity")["statuses"].get(rule.document.meta.status or "")
    return Common(
        name=name,
        description=description,
        attack=found,
        connectors=_connectors(rule.tables) if settings.connectors is None else settings.connectors,
        entities=content.entities,
        sentinel_entities=_carried(rule) if settings.sentinel_entities is None else settings.sentinel_entities,
        custom_details=content.details,
        title=content.title,
        status=settings.status or stated,
        version=settings.version or "1.0.0",
        tags=_tags(rule.tables) if settings.tags is None else settings.tags,
    )


def _attack(rule: RuleFacts) -> attack.Attack:
    """A format that is reviewed is that of Azure-Sentinel's repository, whose checks ask for tactic and technique."""
    settings, notes = rule.settings, rule.notes
    found = attack.from_tags(rule.document.meta.tags)
    if settings.tactics is not None or settings.techniques is not None:
        found = attack.resolve(
            found.tactics if settings.tactics is None else settings.tactics,
            found.techniques if settings.techniques is None else settings.techniques,
        )
    found = attack.complete(found, settings.fallback_tactics, settings.fallback_techniques)
    if found.unknown:
        notes.say("W753", f"not known to Sentinel, left out: {', '.join(map(clean_line, found.unknown))}")
    lacking = [what for what, has in (("tactic", found.tactics), ("technique", found.techniques)) if not has]
    if lacking:
        message = f"no ATT&CK {' and no '.join(lacking)}: Azure-Sentinel's checks ask for at least one"
        tag, key = ("<tactic>", "tactics") if not found.tactics else ("t<number>", "relevantTechniques")
        way = f"state `{key}`" if rule.native else f"tag the rule `attack.{tag}`, or set `{key}` under its `sigma2kql:`"
        fallback = "fallbackTactics" if not found.tactics else "fallbackTechniques"
        note = diagnostic("W754", message, notes.span, f"{way}, or `{fallback}` in the configuration")
        notes.found.append(note if rule.format.limits.tactics else replace(note, severity="info"))
    return found


def _texts(rule: RuleFacts, found: attack.Attack) -> tuple[str, str]:
    """Name and description, clean and within their limits; a name that is cut stands whole in the description."""
    document, limits, notes = rule.document, rule.format.limits, rule.notes
    meta = document.meta
    title, body = meta.title, meta.description
    if isinstance(document, NativeQuery):
        title = str(document.data.get("name") or title)
        body = str(document.data.get("description") or document.data.get("description-detailed") or body)
    whole = clean_line(rule.settings.name or title) or rule.id
    name = cut(whole, limits.name)
    description = without_orders(clean(rule.settings.description or body)) or whole
    if name != whole:
        notes.say("W751", f"the name has {len(whole)} characters of at most {limits.name}; it was cut")
        description = f"{description}\n\nTitle: {whole}"
    if rule.settings.attribution and not rule.native:
        description = "\n\n".join(part for part in (description, _attribution(meta, found)) if part)
    if len(description) > limits.description:
        notes.say(
            "W752", f"the description has {len(description)} characters of at most {limits.description}; it was cut"
        )
    return name, cut(description, limits.description)


def _attribution(meta: Metadata, found: attack.Attack) -> str:
    """Whose rule it is (the Detection Rule License asks for it), what may be harmless, and what ATT&CK was left out."""
    rows = (
        ("False positives", "; ".join(meta.falsepositives)),
        ("References", " ".join(meta.references)),
        ("Author", meta.author),
        ("Sigma rule", meta.id or ""),
        ("License", meta.license or ""),
        ("Also tagged", ", ".join(found.unknown)),
    )
    return "\n".join(f"{name}: {clean_line(content)}" for name, content in rows if content.strip())


def _connectors(tables: tuple[str, ...]) -> tuple[Connector, ...]:
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(real for table in tables for real in tables_behind(table)):
        for connector, kind in connectors().get(name, ()):
            found.setdefault(connector, []).append(kind)
    return tuple(Connector(name, tuple(dict.fromkeys(kinds))) for name, kinds in found.items())


def _tags(tables: tuple[str, ...]) -> tuple[Any, ...]:
    schemas = dict.fromkeys(schema for table in tables if (schema := asim_schema(table)))
    return tuple({"Schema": f"ASim{schema}"} for schema in schemas)


def _entities(rule: RuleFacts) -> tuple[Entity, ...]:
    """Those stated, or inferred; where there is none and the format asks for one, that is noted."""
    settings, most = rule.settings, rule.settings.max_entities
    if settings.entities is None:
        found = entities.infer(rule.tables, rule.result, most, bool(rule.grouped))
        found = found or entities.fitting(settings.fallback_entities, rule.result, most)
        if not found and (rule.kind == "alert" or rule.format.limits.tactics):
            rule.notes.say(
                "W755",
                "no entity mapping: no output column is known to name a host, an account or another entity",
                "set `entityMappings` under `sigma2kql:` in the rule, or `fallbackEntityMappings` in the configuration",
            )
        return found
    rule.check_columns("entity mappings", [c for entity in settings.entities for _, c in entity.fields])
    if len(settings.entities) > most:
        rule.notes.say("W758", f"{len(settings.entities)} entity mappings, {most} kept", "set maxEntities")
    return settings.entities[:most]


def _carried(rule: RuleFacts) -> tuple[str, ...]:
    """The columns that hold Sentinel's own entities (rows of alerts)."""
    known = facts("entities")["carried"]
    columns = rule.result.returned or {}
    return tuple(known[table] for table in rule.tables[:1] if table in known and known[table] in columns)
