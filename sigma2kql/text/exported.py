"""ARM templates, API answers and Graph bodies in the words of Azure-Sentinel's YAML.

Place in the flow: `load` reads native documents with it, `artifacts.read_back` takes its renames. Invariant: every
resource of a file gives exactly one result, a rule or the reasons why it is none (a saved function that a rule of the
file calls goes into that rule); a template expression is never taken for a text.

Source: alert rule API 2025-10-01-preview, saved searches 2025-07-01, Graph detectionRules (beta, before and since
2026).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, assert_never

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode, YamlScalar, span

NAME = re.compile(r"\[concat\(parameters\('\w+'\), ?'/(?:Microsoft\.SecurityInsights/)?([\w-]+)'\)\]", re.ASCII)
PLAIN_NAME = re.compile(r"([A-Za-z0-9][\w-]*)", re.ASCII)
ONLY_TEMPLATES = ("alertRuleTemplateName", "templateVersion", "lastModifiedUtc")  # the link to a gallery template
HUNTS = "hunting queries"  # the category of a saved search that is one
_REFERENCE = re.compile(r"\[(parameters|variables)\('([\w-]+)'\)\]", re.ASCII)
_GUID = re.compile(r"(?:sigma-)?([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})")
_NESTED = ("template", "mainTemplate")  # of Microsoft.Resources/deployments, of contentTemplates
_ASSETS = {"impactedDeviceAsset": "hosts", "impactedUserAsset": "accounts", "impactedMailboxAsset": "mailboxes"}
_IDENTIFIERS = (  # the end of an identifier of an impacted asset -> the field that it is today
    ("hosts", "deviceId", "deviceIdColumn"), ("hosts", "DeviceId", "deviceIdColumn"),
    ("hosts", "eviceName", "nameColumn"), ("accounts", "bjectId", "aadUserIdColumn"), ("accounts", "Upn", "upnColumn"),
    ("accounts", "Sid", "sidColumn"), ("mailboxes", "Address", "primaryAddressColumn"),
)  # fmt: skip


@dataclass(slots=True)
class Exported:
    """One resource: the keys of Azure-Sentinel's YAML, where its query stands, and what is wrong with it."""

    node: YamlNode
    data: dict[str, Any] = field(default_factory=dict)
    query: YamlScalar | None = None
    problems: list[Diagnostic] = field(default_factory=list)


def read_exported(source: Source, root: YamlNode) -> list[Exported] | None:
    """The resources of a document; None where it is no export. Gives at least one."""
    rows, template = _rows(root), _is_template(root)
    if rows is None:
        return None
    reader = _Reader(source, template, _known(root) if isinstance(root, YamlMap) and template else {})
    found = reader.read(rows)
    if not found:
        at = Span(source, root.start, min(root.start + 1, root.end))
        found.append(Exported(root, problems=[diagnostic("E718", "the file holds no rule", at)]))
    return found


def _is_template(root: YamlNode) -> bool:
    return (
        isinstance(root, YamlMap)
        and "resources" in root.values
        and not {"$schema", "contentVersion"}.isdisjoint(root.values)
    )


def _rows(root: YamlNode) -> list[YamlNode] | None:
    """The resources of a template, of a list answer, or the one resource that the document is."""
    if isinstance(root, YamlMap):
        inner = root.get("resources") if _is_template(root) else root.get("value")
        if _is_template(root) and isinstance(inner, YamlMap):  # languageVersion 2
            return list(inner.values.values())
        if _is_template(root):
            return inner.items if isinstance(inner, YamlList) else []
        if isinstance(inner, YamlList) and _are_resources(inner):
            return inner.items
        return [root] if _is_resource(root) else None
    return root.items if isinstance(root, YamlList) and root.items and _are_resources(root) else None


def _are_resources(rows: YamlList) -> bool:
    return all(_is_resource(row) for row in rows.items)


def _is_resource(node: YamlNode) -> bool:
    if not isinstance(node, YamlMap) or not {"detection", "query"}.isdisjoint(node.values):
        return False
    named = not {"kind", "type", "name"}.isdisjoint(node.values)
    return "queryCondition" in node.values or (named and isinstance(node.get("properties"), YamlMap))


def _known(template: YamlMap) -> dict[str, YamlScalar]:
    """Parameters with a default and variables that are plain values: what a reference to them stands for."""
    found: dict[str, YamlScalar] = {}
    for section in ("parameters", "variables"):
        told = template.get(section)
        for name, node in told.values.items() if isinstance(told, YamlMap) else ():
            value = node.get("defaultValue") if section == "parameters" and isinstance(node, YamlMap) else node
            if isinstance(value, YamlScalar) and not _is_expression(value.value):
                found[f"{section}/{name}"] = value
    return found


def _is_expression(value: object) -> bool:
    return isinstance(value, str) and value.startswith("[") and value.endswith("]") and not value.startswith("[[")


def arm_plain(text: str) -> str:
    """What Azure Resource Manager reads in a literal text."""
    return text[1:] if text.startswith("[[") and text.endswith("]") else text


# --------------------------------------------------------------------------------------------------------------------
# Resources


@dataclass(slots=True)
class _Reader:
    source: Source
    template: bool
    known: Mapping[str, YamlScalar]

    def read(self, rows: list[YamlNode]) -> list[Exported]:
        functions: dict[str, YamlScalar] = {}
        for row in rows:
            alias, query = self.inside(row, "functionAlias"), self.inside(row, "query")
            if isinstance(alias, YamlScalar) and alias.text and isinstance(query, YamlScalar):
                functions[alias.text] = query
        called: set[str] = set()
        found = [one for row in rows for one in self.row(row, functions, called)]
        return [one for one in found if one.data.get("functionAlias") not in called]

    def inside(self, row: YamlNode, key: str) -> YamlNode | None:
        properties = row.get("properties") if isinstance(row, YamlMap) else None
        if not isinstance(properties, YamlMap):
            return None
        return properties.get(key) or properties.get(key[:1].upper() + key[1:])

    def row(self, row: YamlNode, functions: Mapping[str, YamlScalar], called: set[str]) -> Iterator[Exported]:
        one = Exported(row)
        if not isinstance(row, YamlMap):
            one.problems.append(diagnostic("E718", "a resource is to be a map", span(self.source, row)))
            yield one
            return
        for key in _NESTED:  # resources within resources
            inner = self.inside(row, key)
            if isinstance(inner, YamlMap):
                deeper = _Reader(self.source, True, {**self.known, **_known(inner)})
                resources = inner.get("resources")
                yield from deeper.read(resources.items if isinstance(resources, YamlList) else [])
                return
        type_ = self.word(row, "type").partition("@")[0].lower()
        kind = self.word(row, "kind")
        properties = row.get("properties")
        if "queryCondition" in row.values:
            self.detection(one, row)
        elif isinstance(properties, YamlMap) and "queryCondition" in properties.values:
            self.detection(one, properties)
        elif isinstance(properties, YamlMap) and type_.endswith("/savedsearches"):
            self.search(one, row)
        elif isinstance(properties, YamlMap) and (type_.endswith("/alertrules") or kind in ("Scheduled", "NRT")):
            self.rule(one, row, kind, functions, called)
        else:
            what = f"a resource of type `{(type_ or kind)[:80]}`" if type_ or kind else "a resource without a type"
            self.fault(one, "E718", f"{what} is neither a rule nor a hunting query", row.get("type") or row)
        yield one

    def word(self, row: YamlMap, key: str) -> str:
        node = row.get(key)
        return node.text if isinstance(node, YamlScalar) else ""

    def fault(self, one: Exported, code: Code, message: str, node: YamlNode, hint: str = "") -> None:
        place = span(self.source, node)
        if isinstance(node, YamlMap | YamlList):
            place = place.sub(0, 1)
        one.problems.append(diagnostic(code, message, place, hint))

    # -- values

    def plain(self, one: Exported, node: YamlNode) -> Any:
        """The value without expressions; each that has no fixed value is a problem of `one`."""
        match node:
            case YamlMap():
                return {key: self.plain(one, value) for key, value in node.values.items()}
            case YamlList():
                return [self.plain(one, item) for item in node.items]
            case YamlScalar():
                return self.scalar(one, node)
            case _:
                assert_never(node)

    def scalar(self, one: Exported, node: YamlScalar) -> Any:
        value = node.value
        if self.template and _is_expression(value):
            reference = _REFERENCE.fullmatch(value)
            resolved = self.known.get(f"{reference[1]}/{reference[2]}") if reference else None
            if resolved is None:
                message = f"the expression {value[:60]!r} has no fixed value"
                self.fault(one, "E710", message, node, "replace it by its value, or export the deployed rule")
                return None
            value = resolved.value
        if isinstance(value, str):
            return arm_plain(value) if self.template else value
        return value if isinstance(value, int | float) or value is None else node.text

    def body(self, one: Exported, row: YamlMap) -> dict[str, Any]:
        properties = row.get("properties")
        assert isinstance(properties, YamlMap)
        return {
            key[:1].lower() + key[1:]: self.plain(one, value)
            for key, value in properties.values.items()
            if key not in ONLY_TEMPLATES
        }

    def name(self, row: YamlMap) -> str:
        """The resource's own name; empty where only a deployment knows it."""
        node = row.get("name")
        text = node.text if isinstance(node, YamlScalar) else ""
        reference = _REFERENCE.fullmatch(text)
        if reference and f"{reference[1]}/{reference[2]}" in self.known:
            text = self.known[f"{reference[1]}/{reference[2]}"].text
        found = NAME.fullmatch(text)
        return found[1] if found else text.rpartition("/")[2] if PLAIN_NAME.fullmatch(text.rpartition("/")[2]) else ""

    # -- kinds

    def rule(
        self, one: Exported, row: YamlMap, kind: str, functions: Mapping[str, YamlScalar], called: set[str]
    ) -> None:
        one.data = {**rule_data(self.name(row), kind or "Scheduled", self.body(one, row)), **_NO_CONNECTORS}
        if kind and kind not in ("Scheduled", "NRT"):
            self.fault(one, "E718", f"a rule of kind `{kind[:60]}` has no query: it is Microsoft's own", row)
        one.query = self.query(one, self.inside(row, "query"), row)
        alias = str(one.data.get("query") or "").strip().removesuffix("()")
        if alias in functions:
            called.add(alias)
            one.query = functions[alias]
            one.data["query"] = self.scalar(one, one.query)
            one.data["sigma2kql"] = {"function": True}

    def search(self, one: Exported, row: YamlMap) -> None:
        body = self.body(one, row)
        one.data = {**search_data(self.name(row), body), **_NO_CONNECTORS}
        one.query = self.query(one, self.inside(row, "query"), row)
        if body.get("functionAlias"):
            one.data["functionAlias"] = str(body["functionAlias"])
            self.fault(one, "E718", "a saved function that no rule of the file calls", row)
        elif str(body.get("category") or HUNTS).lower() != HUNTS:
            message = f"a saved search of the category `{str(body['category'])[:60]}` is no hunting query"
            self.fault(one, "E718", message, row)

    def detection(self, one: Exported, body: YamlMap) -> None:
        found = self.plain(one, body)
        one.data = {**detection_data(found), **_NO_CONNECTORS}
        condition = body.get("queryCondition")
        one.query = self.query(one, condition.get("queryText") if isinstance(condition, YamlMap) else None, body)
        acted = [key for key in ("automatedActions", "responseActions") if _at(found, "detectionAction", key)]
        if acted or found.get("automatedActions"):
            self.fault(one, "W756", "automated actions are left out: set them in the portal", body)

    def query(self, one: Exported, node: YamlNode | None, row: YamlMap) -> YamlScalar | None:
        if isinstance(node, YamlScalar) and isinstance(node.value, str) and node.value.strip():
            return node
        if not one.problems:
            self.fault(one, "E115", "the query must be text", node if node is not None else row)
        return None


_NO_CONNECTORS: Final[Mapping[str, Any]] = {"requiredDataConnectors": None}  # none of these forms has a place for them


# --------------------------------------------------------------------------------------------------------------------
# Renames


def rule_data(identifier: str, kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of an alert rule under the keys of Azure-Sentinel's YAML."""
    gone = ("displayName", "techniques", "subTechniques", *ONLY_TEMPLATES)
    data = {key: value for key, value in body.items() if key not in gone}
    data |= {"id": identifier, "name": body.get("displayName"), "kind": kind}
    data["description"] = body.get("description") or body.get("displayName")
    data["relevantTechniques"] = joined_techniques(_texts(body.get("techniques")), _texts(body.get("subTechniques")))
    return data


def search_data(identifier: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """A saved search under the keys of Azure-Sentinel's YAML: most of it stands in its tags."""
    rows = [{str(key).lower(): value for key, value in tag.items()} for tag in _maps(body.get("tags"))]
    tags = {str(row.get("name")): row.get("value") for row in rows}
    data = {
        "id": identifier,
        "name": body.get("displayName"),
        "description": tags.get("description") or body.get("displayName"),
        "query": body.get("query"),
        "tactics": _split(tags.get("tactics")),
        "relevantTechniques": _split(tags.get("techniques") or tags.get("relevantTechniques")),
    }
    return {key: value for key, value in data.items() if value is not None}


def detection_data(body: Mapping[str, Any]) -> dict[str, Any]:
    """A custom detection of Graph, in its form before or since 2026, under the keys of Azure-Sentinel's YAML."""
    template = _map(_at(body, "detectionAction", "alertTemplate"))
    identifier = _GUID.fullmatch(str(body.get("id") or ""))
    rows = _maps(template.get("tactics"))
    data: dict[str, Any] = {
        "id": identifier[1] if identifier else body.get("id"),
        "name": body.get("displayName") or template.get("title"),
        "description": template.get("description") or body.get("description"),
        "severity": template.get("severity"),
        "query": _at(body, "queryCondition", "queryText"),
        "tactics": [row.get("tactic") for row in rows] or _split(template.get("category")),
        "relevantTechniques": [id_ for row in rows for id_ in _nested(row)] or template.get("mitreTechniques"),
        "enabled": body.get("isEnabled") if "isEnabled" in body else body.get("status") in (None, "enabled"),
        "customDetails": template.get("customDetails"),
        "recommendedActions": template.get("recommendedActions"),
        "impactedEntities": template.get("entityMappings") or _assets(_maps(template.get("impactedAssets"))),
        **_schedule(_map(body.get("schedule"))),
    }
    if template.get("title") not in (None, data["name"]):
        data["alertDetailsOverride"] = {"alertDisplayNameFormat": template["title"]}
    return {key: value for key, value in data.items() if value not in (None, [], {})}


def _schedule(schedule: Mapping[str, Any]) -> dict[str, Any]:
    told = schedule.get("frequency") if "frequency" in schedule else schedule.get("period")
    if str(told) in ("PT0S", "0"):
        return {"kind": "NRT"}
    return {"kind": "Scheduled", "queryFrequency": told}


def _assets(assets: list[Mapping[str, Any]]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for asset in assets:
        kind = _ASSETS.get(str(asset.get("@odata.type")).rpartition(".")[2], "")
        name = str(asset.get("identifier") or "")
        for known, ending, column in _IDENTIFIERS:
            if kind == known and name.endswith(ending):
                found.setdefault(kind, []).append({column: name[:1].upper() + name[1:]})
                break
    return found


def _nested(row: Mapping[str, Any]) -> list[str]:
    pairs = [(str(t.get("technique")), _texts(t.get("subTechniques"))) for t in _maps(row.get("techniques"))]
    return [name for base, subs in pairs for name in subs or [base]]


def joined_techniques(bases: list[str], subs: list[str]) -> list[str]:
    """Techniques and sub-techniques in one list: a sub-technique in place of its base."""
    own = {base: [sub for sub in subs if sub.startswith(base + ".")] for base in bases}
    found = [name for base in bases for name in own[base] or [base]]
    return found + [sub for sub in subs if sub.split(".")[0] not in own]


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _split(value: object) -> list[str] | None:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else None


def _at(value: object, *keys: str) -> Any:
    for key in keys:
        value = _map(value).get(key)
    return value
