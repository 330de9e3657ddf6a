"""An artifact read back: Azure-Sentinel YAML and ARM templates become the values that they were rendered from.

Place in the flow: the other way round from `artifact_text`, so that teams can adopt what they already have. Invariant:
writing what was read gives a text that reads the same; what cannot be kept is an error, not a loss.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Hunt, Schedule
from sigma2kql.artifacts.languages import map_texts
from sigma2kql.artifacts.rule_facts import NAMESPACE
from sigma2kql.artifacts.settings import KEYS, read_keys
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source, Span, diagnostic
from sigma2kql.text.exported import NAME, ONLY_TEMPLATES, PLAIN_NAME, arm_plain, rule_data, search_data

MOST = 2_000_000  # characters of one text
DEEPEST = 50  # lists and maps within each other


def read_artifact(text: str, name: str) -> Artifact:
    """The one artifact of a text in the format `name`, one that is readable. Raises E710."""
    found = read_artifacts(text, name)
    if len(found) != 1:
        raise _bad(text, f"{len(found)} rules where one was expected")
    return found[0]


def read_artifacts(text: str, name: str) -> tuple[Artifact, ...]:
    """All artifacts of a text. Raises Sigma2KqlError (E710) for a text that is not of the format."""
    form = FORMATS.get(name)
    if form is None or not form.readable:
        raise _bad(text, f"{name} is not a format that can be read")
    if form.language == "arm":
        return tuple(_resources(text, name, form.kind == "hunt"))
    read = _hunt if form.kind == "hunt" else _alert
    return tuple(read(text, dict(document)) for document in _documents(text))


def _bad(text: str, message: str) -> Sigma2KqlError:
    return Sigma2KqlError((diagnostic("E710", message, Span(Source("artifact", text), 0, 0)),))


# --------------------------------------------------------------------------------------------------------------------
# Texts


def _documents(text: str) -> list[Mapping[str, Any]]:
    import yaml

    from sigma2kql.text.yaml_text import yaml_events

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if len(text) > MOST:
        raise _bad(text, "the text is too long")
    try:
        depth = 0
        for event in yaml_events(text):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
                raise _bad(text, "aliases are not read" if depth <= DEEPEST else "nested too deeply")
        found = list(yaml.load_all(text, loader))
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as problem:
        raise _bad(text, f"not YAML: {str(problem).splitlines()[0] if str(problem) else 'too deep'}") from None
    return [_mapping(text, document, "a document") for document in found]


def _mapping(text: str, value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _bad(text, f"{what} is to be a map with texts as keys")
    return value


def _resources(text: str, name: str, hunts: bool) -> Iterable[Artifact]:
    try:
        if len(text) > MOST:
            raise ValueError("too long")
        template = _mapping(text, json.loads(text), "a template")
    except (ValueError, RecursionError) as problem:
        raise _bad(text, f"not JSON: {problem}") from None
    rows = template.get("resources")
    listed = list(rows.values()) if isinstance(rows, Mapping) else rows
    if not isinstance(listed, list):
        raise _bad(text, "a template has resources")
    functions: dict[str, str] = {}
    found: list[tuple[str, str, dict[str, Any]]] = []
    for row in listed:
        resource = _mapping(text, row, "a resource")
        kind = str(resource.get("type")).split("@")[0].lower()
        inner = {
            key[:1].lower() + key[1:]: _literal(text, value)
            for key, value in _mapping(text, resource.get("properties"), "properties").items()
        }
        if kind.endswith("/savedsearches") and inner.get("functionAlias"):
            functions[str(inner["functionAlias"])] = str(inner.get("query"))
        elif kind.endswith("/savedsearches" if hunts else "/alertrules"):
            found.append((_identifier(text, resource.get("name")), str(resource.get("kind")), inner))
        else:
            raise _bad(text, f"a resource of type {kind} is not of the format {name}")
    read = _search if hunts else _rule
    return [read(text, identifier, kind, inner, functions) for identifier, kind, inner in found]


def _identifier(text: str, name: object) -> str:
    found = NAME.fullmatch(str(name)) or PLAIN_NAME.fullmatch(str(name))
    if found is None:
        raise _bad(text, f"the name {str(name)[:80]!r} is no plain name")
    return found[1]


def _literal(text: str, value: Any) -> Any:
    """A value without expressions; texts as Azure Resource Manager reads them."""

    def check(content: str) -> str:
        if content.startswith("[") and content.endswith("]") and not content.startswith("[["):
            raise _bad(text, f"the expression {content[:60]!r} has no fixed value")
        return arm_plain(content)

    return map_texts(value, check)


# --------------------------------------------------------------------------------------------------------------------
# Values


def _fields(
    text: str, data: Mapping[str, Any], keys: Mapping[str, tuple[str, Callable[[object], Any]]]
) -> dict[str, Any]:
    """The stated fields. Nothing may be left over, nothing may be wrong."""
    strange = [key for key in data if key not in keys and key not in ("id", "query", *ONLY_TEMPLATES)]
    if strange:
        raise _bad(text, f"keys that no artifact has: {', '.join(strange)[:200]}")
    read, bad = read_keys({key: value for key, value in data.items() if value is not None}, keys)
    if bad:
        raise _bad(text, "; ".join(f"{key} is to be {wish}" for key, wish in bad))
    missing = [key for key in ("name", "description") if key in keys and key not in read]
    if missing or not isinstance(data.get("query"), str) or not data["query"].strip():
        raise _bad(text, f"no {', '.join(missing) or 'query'}")
    return {**read, "id": str(data["id"]), "query": data["query"]} if data.get("id") else _unnamed(read, data)


def _unnamed(read: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    return {**read, "id": str(uuid.uuid5(NAMESPACE, f"read\n{read['name']}")), "query": data["query"]}


def _alert(text: str, data: dict[str, Any]) -> AlertRule:
    read = _fields(text, data, KEYS)
    if "severity" not in read:
        raise _bad(text, "no severity")
    timing = [read.pop(name, None) for name in ("frequency", "period", "operator", "threshold")]
    schedule = None
    if read.pop("kind", "Scheduled") == "Scheduled":
        frequency = timing[0] or timing[1] or 3600
        schedule = Schedule(frequency, timing[1] or frequency, timing[2] or "gt", timing[3] or 0)
    return AlertRule(schedule=schedule, **read)


def _hunt(text: str, data: dict[str, Any]) -> Hunt:
    fits = ("name", "description", "status", "version", "tactics", "relevantTechniques", "requiredDataConnectors",
            "entityMappings", "customDetails", "tags", "metadata")  # fmt: skip
    return Hunt(**_fields(text, data, {key: KEYS[key] for key in fits}))


def _rule(text: str, identifier: str, kind: str, body: dict[str, Any], functions: Mapping[str, str]) -> AlertRule:
    rule = _alert(text, rule_data(identifier, kind, body))
    function = functions.get(rule.query.strip())
    return rule if function is None else replace(rule, function=function)


def _search(text: str, identifier: str, kind: str, body: dict[str, Any], functions: Mapping[str, str]) -> Hunt:
    del kind, functions  # a saved search has no kind and calls nothing
    return _hunt(text, search_data(identifier, body))
