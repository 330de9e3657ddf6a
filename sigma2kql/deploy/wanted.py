"""What is to be deployed and what is there, as the APIs name and hold it; and whose it is.

Place in the flow: the first half of a plan. Invariant: everything wanted carries its owner's marker in a place that the
service keeps: the last line of a rule's description, a tag of a saved search; and the marker names the resource that
it was written on, for a portal's "duplicate" copies the text: a copy is its maker's, not ours.

Analytics rules have no tags, and their other free texts reach alerts or link a gallery template; the description is
what portals show and every API returns. The name of the resource alone would not do: rules that were deployed from
ARM templates have the same GUID.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from sigma2kql.artifacts.bodies import detection_body
from sigma2kql.artifacts.kinds import Artifact, Detection
from sigma2kql.artifacts.resources import Resource, resources
from sigma2kql.artifacts.rule_texts import cut
from sigma2kql.artifacts.settings import Settings
from sigma2kql.diagnostics.diagnostic import Span, frozen

Collection = Literal["alertRules", "savedSearches", "detectionRules"]

DEFAULT_OWNER = "default"
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TAG = "sigma2kql"  # of a saved search; its value is the owner
DESCRIPTION, ALERT_DESCRIPTION = 5000, 600  # characters of a rule's and of a custom detection's description
_MARK = re.compile(rf"(?:^|\n)Deployed by sigma2kql \(owner: ({OWNER.pattern})(?:, id: ([^\s()]+))?\)\s*\Z")


@frozen
class Wanted:
    """One resource to be there: the collection and name it has in the API, and the body to send."""

    collection: Collection
    name: str
    title: str
    body: Mapping[str, Any]
    span: Span | None = None  # the document that it comes from


@frozen
class Found:
    """One resource that is there: its body as the API gave it, and what its marker says.

    `owner`: whose mark it is; `marked`: the resource that the mark was written on, None where it names none.
    """

    collection: Collection
    name: str
    title: str
    body: Mapping[str, Any]
    etag: str | None = None
    owner: str | None = None
    marked: str | None = None

    @property
    def copied(self) -> bool:
        """Somebody's copy of a rule of ours, its text and mark included."""
        return self.marked is not None and self.marked.lower() != self.name.lower()  # names have no case


def make_wanted(
    artifact: Artifact, settings: Settings, owner: str = DEFAULT_OWNER, span: Span | None = None
) -> list[Wanted]:
    """The resources of an artifact, a saved function before the rule that calls it, each marked as `owner`'s.

    Raises Sigma2KqlError (E715) for an id that cannot be the name of a resource.
    """
    assert OWNER.fullmatch(owner)
    if isinstance(artifact, Detection):
        body = detection_body(artifact)
        template = body["detectionAction"]["alertTemplate"]
        template["description"] = _marked(template["description"], owner, artifact.id, ALERT_DESCRIPTION)
        return [Wanted("detectionRules", artifact.id, artifact.name, body, span)]
    return [_resource(row, owner, span) for row in resources(artifact, settings)]


def _resource(row: Resource, owner: str, span: Span | None) -> Wanted:
    properties = dict(row.properties)
    title = str(properties["displayName"])
    if row.kind:
        properties["description"] = _marked(properties["description"], owner, row.name, DESCRIPTION)
        return Wanted("alertRules", row.name, title, {"kind": row.kind, "properties": properties}, span)
    properties["tags"] = [*properties.get("tags", ()), {"name": TAG, "value": f"{owner}/{row.name}"}]
    return Wanted("savedSearches", row.name, title, {"properties": properties}, span)


def _marked(description: str, owner: str, name: str, most: int) -> str:
    mark = f"\n\nDeployed by sigma2kql (owner: {owner}, id: {name})"
    return cut(description, most - len(mark)) + mark


def found(collection: Collection, item: Mapping[str, Any]) -> Found:
    """A resource of a list answer. Keys of properties start in lower case, whatever older tools wrote."""
    name = str(item.get("name") or item.get("id") or "").rpartition("/")[2]
    if collection == "detectionRules":
        name = str(item.get("id") or "")
        template = _map(_map(item.get("detectionAction")).get("alertTemplate"))
        return Found(collection, name, str(item.get("displayName") or ""), item, None, *_mark(template))
    properties = {key[:1].lower() + key[1:]: value for key, value in _map(item.get("properties")).items()}
    etag = item.get("etag") or item.get("eTag")
    mark = _mark(properties) if collection == "alertRules" else _tagged(properties.get("tags"))
    body = {"kind": item.get("kind"), "properties": properties}
    title = str(properties.get("displayName") or "")
    return Found(collection, name, title, body, etag if isinstance(etag, str) else None, *mark)


def _mark(described: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Owner and name that a description's mark gives."""
    mark = _MARK.search(str(described.get("description") or ""))
    return (mark[1], mark[2]) if mark else (None, None)


def _tagged(tags: object) -> tuple[str | None, str | None]:
    """Owner and name that the tag of a saved search gives."""
    for tag in tags if isinstance(tags, list) else ():
        lowered = {str(key).lower(): value for key, value in _map(tag).items()}
        if lowered.get("name") == TAG:
            owner, _, name = str(lowered.get("value")).partition("/")
            return owner, name or None
    return None, None


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
