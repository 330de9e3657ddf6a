"""Whom a custom detection is about, in the words of Graph: inferred from Defender's tables, translated for Sentinel's.

Place in the flow: asked by `common_values`, before the kind's own step. Invariant: an account that is given out can be
found by the service, and every column is in the result or can be computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from sigma2kql.artifacts import entities
from sigma2kql.artifacts.kinds import Entity
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.rule_facts import RuleFacts


def impacted(rule: RuleFacts) -> tuple[Entity, ...]:
    """The impacted entities of a custom detection, stated or inferred."""
    stated = rule.settings.impacted
    if stated is not None:
        rule.check_columns("impacted entities", [c for entity in stated for _, c in entity.fields])
        return stated
    if rule.settings.entities is not None:
        rule.check_columns("entity mappings", [c for entity in rule.settings.entities for _, c in entity.fields])
        return translated(rule.settings.entities, rule)
    for table in rule.tables:
        found = entities.infer_defender(table, rule.result)
        if found:
            return found
    most = rule.settings.max_entities
    mapped = entities.infer(rule.tables, rule.result, most, bool(rule.grouped))
    own = translated(mapped or entities.fitting(rule.settings.fallback_entities, rule.result, most), rule)
    return (*own, *entities.infer_graph(rule.tables, rule.result))


def translated(mapped: tuple[Entity, ...], rule: RuleFacts) -> tuple[Entity, ...]:
    """Sentinel's mappings in the words of Graph, those that it has a place for."""
    words = facts("custom-detections")["entities"]
    found: list[Entity] = []
    for entity in mapped:
        if entity.type not in words:
            continue
        names = words[entity.type]["fields"]
        pairs = [(names[name], column) for name, column in _parted(entity, rule) if name in names]
        one = Entity(words[entity.type]["to"], tuple(dict(pairs).items()))
        if entities.identifies_defender(one) and one not in found:
            found.append(one)
    return tuple(found)


def _parted(entity: Entity, rule: RuleFacts) -> Iterator[tuple[str, str]]:
    """The fields of an entity; a full name that may have a domain in front is taken apart, as Graph has it."""
    for name, column in entity.fields:
        if (entity.type, name) != ("Account", "FullName") or is_upn(column):
            yield name, column
        elif rule.computing:
            parts = {"Name": f"{column}Name", "NTDomain": f"{column}Domain", "FullName": f"{column}Upn"}
            rule.result.offer(parts["Name"], f'extract(@"[^\\]+$", 0, {column})', column)
            rule.result.offer(parts["NTDomain"], f'extract(@"^(.*)\\", 1, {column})', column)
            rule.result.offer(parts["FullName"], f'iff({column} contains "@", {column}, "")', column)
            yield from parts.items()


def is_upn(column: str) -> bool:
    """Whether a column is known to hold user principal names."""
    return any(fnmatchcase(column, glob) for glob in facts("custom-detections")["upn"])
