"""What every kind of artifact has: identity, texts, ATT&CK, connectors, entities, custom details.

Place in the flow: the ground of `describe` and `defender`, which decide the rest. Invariant: what was cut, dropped or
added is noted, and so is what the format's own checks will ask for.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from sigma2kql.artifacts import attack, entities
from sigma2kql.artifacts.kinds import Connector, Entity
from sigma2kql.artifacts.kql_tokens import Scan
from sigma2kql.artifacts.product_tables import asim_schema, connectors, facts, tables_behind
from sigma2kql.artifacts.rule_texts import clean, clean_line, cut
from sigma2kql.artifacts.settings import Settings
from sigma2kql.diagnostics.diagnostic import Diagnostic, Span, diagnostic, frozen
from sigma2kql.model.tree import Compiled, Correlation, Metadata, NativeQuery

NAMESPACE = uuid.UUID("5d0c1f4e-6f1b-5c8e-9a57-2f6a3c1d7b90")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Kind = Literal["alert", "hunt", "detection"]


@frozen
class Limits:
    """What a format takes; 0 is no limit."""

    name: int = 256
    description: int = 5000
    tactics: int = 0
    techniques: int = 0


def reach(correlation: Correlation) -> int:
    """The seconds that one result of a correlation is made of: its time span, and another one where a rule stands under
    `not`, which must not match afterwards either.
    """
    return correlation.timespan * (2 if re.search(r"\bnot\b", correlation.expression or "") else 1)


class Notes(list[Diagnostic]):
    """What is found on the way; the span is the document's."""

    def __init__(self, span: Span, more: bool) -> None:
        super().__init__()
        self.span = span
        self.more = more  # the query may return more columns than are known

    def say(self, code: str, message: str, hint: str = "") -> None:
        self.append(diagnostic(code, message, self.span, hint))


@frozen
class Common:
    """What is common to every kind of artifact."""

    id: str
    name: str
    description: str
    query: str
    attack: attack.Attack
    connectors: tuple[Connector, ...]
    entities: tuple[Entity, ...]
    sentinel_entities: tuple[str, ...]
    custom_details: tuple[tuple[str, str], ...]
    status: str | None
    version: str
    tags: tuple[Any, ...]


def decide_common(
    compiled: Compiled,
    kind: Kind,
    *,
    limits: Limits,
    settings: Settings,
    columns: Mapping[str, str] | None,
    read: Scan,
    notes: Notes,
) -> Common:
    meta = compiled.document.meta
    found = _attack(compiled, settings, reviewed=bool(limits.tactics), notes=notes)
    if limits.tactics:
        found, out = attack.limit(found, limits.tactics, limits.techniques)
        if out:
            notes.say("W753", f"more ATT&CK than the format takes; left out: {', '.join(out)}")
    name, description = _texts(compiled, kind, settings=settings, limits=limits, found=found, notes=notes)
    native = isinstance(compiled.document, NativeQuery)
    tables = tables_of(compiled, read)
    status = settings.status or (None if native else facts("severity")["statuses"].get(meta.status or ""))
    return Common(
        id=identity(compiled, kind),
        name=name,
        description=description,
        query=compiled.kql.replace("\r\n", "\n").strip("\n") + "\n" if compiled.kql else "",
        attack=found,
        connectors=_connectors(tables) if settings.connectors is None else settings.connectors,
        entities=_entities(settings, tables, columns, asked=kind == "alert" or bool(limits.tactics), notes=notes)
        if kind != "detection"
        else (),
        sentinel_entities=_carried(tables, columns or {})
        if settings.sentinel_entities is None
        else settings.sentinel_entities,
        custom_details=_custom_details(settings, columns, notes),
        status=status,
        version=settings.version or "1.0.0",
        tags=_tags(tables) if settings.tags is None else settings.tags,
    )


def identity(compiled: Compiled, kind: Kind) -> str:
    """The GUID under which a document is deployed: its own where it has one and the kind is its own, else made from it.

    The same document gives the same GUID always; without an id, its path and its number in the file stand for it.
    """
    document = compiled.document
    native = isinstance(document, NativeQuery)
    own = str(document.data.get("id") or document.meta.id or "") if native else document.meta.id or ""  # type: ignore[union-attr]
    home = "hunt" if native and not _is_rule(document) else "alert"
    if GUID.fullmatch(own.lower()) and kind in (home, "detection"):
        return own.lower()
    path = document.origin.source.path.replace("\\", "/")
    seed = own or f"{path}#{document.origin.index}"
    return str(uuid.uuid5(NAMESPACE, f"{kind}\n{seed}"))


def _is_rule(document: Any) -> bool:
    """Whether a native document is an analytics rule rather than a hunting query."""
    return any(key in document.data for key in ("severity", "queryFrequency", "triggerOperator", "kind"))


def is_hunt(compiled: Compiled) -> bool:
    """Whether a document is a hunting query by itself."""
    return isinstance(compiled.document, NativeQuery) and not _is_rule(compiled.document)


def severity_of(compiled: Compiled) -> str:
    table = facts("severity")
    return str(table["levels"].get((compiled.document.meta.level or "").lower(), table["default"]))


def _attack(compiled: Compiled, settings: Settings, *, reviewed: bool, notes: Notes) -> attack.Attack:
    """`reviewed`: the format is that of Azure-Sentinel's repository, whose checks ask for tactic and technique."""
    found = attack.from_tags(compiled.document.meta.tags)
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
        native = isinstance(compiled.document, NativeQuery)
        way = f"state `{key}`" if native else f"tag the rule `attack.{tag}`, or set `{key}` under its `sigma2kql:`"
        fallback = "fallbackTactics" if not found.tactics else "fallbackTechniques"
        note = diagnostic("W754", message, notes.span, f"{way}, or `{fallback}` in the configuration")
        notes.append(note if reviewed else replace(note, severity="info"))
    return found


def tables_of(compiled: Compiled, read: Scan) -> tuple[str, ...]:
    """The tables of the query: those that were chosen, or those that a native one names."""
    if isinstance(compiled.document, NativeQuery) or not compiled.table:
        return read.tables
    return tuple(compiled.table.split(", "))


def _texts(
    compiled: Compiled, kind: Kind, *, settings: Settings, limits: Limits, found: attack.Attack, notes: Notes
) -> tuple[str, str]:
    """Name and description, clean and within their limits; a name that is cut stands whole in the description."""
    document = compiled.document
    meta = document.meta
    title, body = meta.title, meta.description
    if isinstance(document, NativeQuery):
        title = str(document.data.get("name") or title)
        body = str(document.data.get("description") or document.data.get("description-detailed") or body)
    whole = clean_line(settings.name or title) or identity(compiled, kind)
    name = cut(whole, limits.name)
    description = clean(settings.description or body) or whole
    if name != whole:
        notes.say("W751", f"the name has {len(whole)} characters of at most {limits.name}; it was cut")
        description = f"{description}\n\nTitle: {whole}"
    if settings.attribution and not isinstance(document, NativeQuery):
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


def _entities(
    settings: Settings,
    tables: tuple[str, ...],
    columns: Mapping[str, str] | None,
    *,
    asked: bool,
    notes: Notes,
) -> tuple[Entity, ...]:
    """`asked`: whether a mapping that is missing is to be told."""
    if settings.entities is None:
        most = settings.max_entities
        found = entities.infer(tables[0] if len(tables) == 1 else None, columns, most) if columns else ()
        found = found or entities.fitting(settings.fallback_entities, columns or {}, most)
        if not found and asked:
            notes.say(
                "W755",
                "no entity mapping: no output column is known to name a host, an account or another entity",
                "set `entityMappings` under `sigma2kql:` in the rule, or `fallbackEntityMappings` in the configuration",
            )
        return found
    check_columns("entity mappings", [c for entity in settings.entities for _, c in entity.fields], columns, notes)
    if len(settings.entities) > settings.max_entities:
        notes.say("W758", f"{len(settings.entities)} entity mappings, {settings.max_entities} kept", "set maxEntities")
    return settings.entities[: settings.max_entities]


def _carried(tables: tuple[str, ...], columns: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that hold Sentinel's own entities (rows of alerts)."""
    known = facts("entities")["carried"]
    return tuple(known[table] for table in tables[:1] if table in known and known[table] in columns)


def _custom_details(settings: Settings, columns: Mapping[str, str] | None, notes: Notes) -> tuple[tuple[str, str], ...]:
    details = settings.custom_details or ()
    check_columns("custom details", [column for _, column in details], columns, notes)
    return details


def check_columns(what: str, named: list[str], columns: Mapping[str, str] | None, notes: Notes) -> None:
    missing = [] if columns is None or notes.more else [name for name in dict.fromkeys(named) if name not in columns]
    if missing:
        notes.say("E707", f"{what} name columns that the query does not return: {', '.join(missing)}")
