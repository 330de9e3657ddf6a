"""Wanted against found: what is to be created, changed (and how), deleted, left alone.

Place in the flow: between `wanted` and `outcome`. Invariant: a plan made right after it was applied holds no change,
so a value that a service writes otherwise (durations, order of a list, empty for missing) is no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from sigma2kql.artifacts.bodies import iso_duration
from sigma2kql.artifacts.deployment_values import duration
from sigma2kql.deploy.wanted import Collection, Found, Wanted
from sigma2kql.diagnostics.diagnostic import frozen

Action = Literal["create", "update", "unchanged", "delete", "orphan", "foreign"]

# what this project may write; anything else in an answer is the service's own
WRITABLE: Mapping[Collection, frozenset[str]] = {
    "alertRules": frozenset(
        ("displayName", "description", "severity", "enabled", "query", "queryFrequency", "queryPeriod",
         "triggerOperator", "triggerThreshold", "suppressionEnabled", "suppressionDuration", "tactics", "techniques",
         "subTechniques", "eventGroupingSettings", "customDetails", "alertDetailsOverride", "entityMappings",
         "sentinelEntitiesMappings", "incidentConfiguration")
    ),
    "savedSearches": frozenset(
        ("category", "displayName", "query", "version", "tags", "functionAlias", "functionParameters")
    ),
    "detectionRules": frozenset(("displayName", "status", "queryCondition", "schedule", "detectionAction")),
}  # fmt: skip
DURATIONS = frozenset(
    ("queryFrequency", "queryPeriod", "suppressionDuration", "lookbackDuration", "frequency")
)  # fmt: skip
# maps of a custom detection in which every key is a user's; beside others the service puts keys of its own
OWN_MAPS = frozenset(("customDetails", "entityMappings"))


@frozen
class Difference:
    """One property that is to change: dotted path, what is there, what is wanted (None: nothing)."""

    property: str
    before: Any
    after: Any


@frozen
class Change:
    """What a plan does with one resource.

    `orphan`: it carries this owner's marker, is no longer among the rules, and stays: pruning was not asked for, or the
    marker does not say which resource it was written on; `foreign`: a rule wants its name, but it carries no marker of
    this owner, or that of another rule (it is a copy).
    """

    action: Action
    collection: Collection
    name: str
    title: str
    wanted: Wanted | None = None
    found: Found | None = None
    differences: tuple[Difference, ...] = ()


def make_plan(
    wanted: Iterable[Wanted], found: Iterable[Found], owner: str, *, prune: bool = False, adopt: bool = False
) -> tuple[Change, ...]:
    """One change a resource: those wanted in their order, then the owner's others: rules before searches, by name.

    `prune`: delete the owner's resources that are not wanted; `adopt`: take over what carries no marker, another's, or
    that of the rule that it was copied from.
    """
    there = {_key(one): one for one in found}
    changes = [_change(one, there.pop(_key(one), None), owner, adopt) for one in wanted]
    rest = [one for one in there.values() if one.owner == owner and not one.copied]
    rest.sort(key=lambda one: (one.collection == "savedSearches", one.name))
    return (*changes, *(_left_over(one, prune) for one in rest))


def _left_over(one: Found, prune: bool) -> Change:
    """A marker without a name (of an older version) may have been copied: enough to report, not to delete."""
    action: Action = "delete" if prune and one.marked is not None else "orphan"
    return Change(action, one.collection, one.name, one.title, None, one)


def _key(one: Wanted | Found) -> tuple[str, str]:
    return one.collection, one.name.lower()  # names of resources have no case


def _change(wanted: Wanted, found: Found | None, owner: str, adopt: bool) -> Change:
    if found is None:
        return Change("create", wanted.collection, wanted.name, wanted.title, wanted)
    if (found.owner != owner or found.copied) and not adopt:
        return Change("foreign", wanted.collection, wanted.name, wanted.title, wanted, found)
    differences = tuple(compare(wanted, found))
    action: Action = "update" if differences else "unchanged"
    return Change(action, wanted.collection, wanted.name, wanted.title, wanted, found, differences)


def compare(wanted: Wanted, found: Found) -> Iterator[Difference]:
    """The properties that differ, in the order of the body."""
    collection = wanted.collection
    after, before = _held(collection, wanted.body), _held(collection, found.body)
    yield from _differences(before, after, "", collection != "detectionRules")


def _held(collection: Collection, body: Mapping[str, Any]) -> dict[str, Any]:
    """The comparable part of a body, flat: `kind` beside the properties."""
    inner = body if collection == "detectionRules" else body.get("properties") or {}
    held = {key: value for key, value in inner.items() if key in WRITABLE[collection]}
    if collection == "alertRules":
        held = {"kind": body.get("kind"), **held}
    plain = _plain(held)
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any, key: str = "") -> Any:
    """The value in one spelling: empty is missing, lists are sorted, durations are ISO 8601, line ends are `\\n`."""
    match value:
        case Mapping():
            inner = {str(k): _plain(v, str(k)) for k, v in value.items() if not str(k).startswith("@odata.")}
            return {k: v for k, v in inner.items() if v not in (None, "", [], {})}
        case list() | tuple():
            return sorted((_plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
        case str() if key in DURATIONS:
            try:
                return iso_duration(duration(value))
            except ValueError:
                return value
        case str():
            return value.replace("\r\n", "\n").rstrip()
        case _:
            return value


def _differences(before: Any, after: Any, path: str, closed: bool) -> Iterator[Difference]:
    """`closed`: a key that only the service has is a difference too."""
    if isinstance(before, dict) and isinstance(after, dict):
        extra = [key for key in before if key not in after] if closed else []
        for key in (*after, *extra):
            inner = closed or key in OWN_MAPS
            yield from _differences(before.get(key), after.get(key), f"{path}.{key}" if path else key, inner)
    elif before != after:
        yield Difference(path, before, after)
