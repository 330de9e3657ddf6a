"""What has to be there before a query can find anything: table, connector, events, the setting that makes them.

Place in the flow: facts of `mappings/collection.yml` and of the connectors, asked by a rule's page. Invariant: what is
not known is said to be unknown; nothing is made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sigma2kql.artifacts.product_tables import tables_behind
from sigma2kql.coverage import connectors_of, tables_in
from sigma2kql.diagnostics.diagnostic import Source, frozen
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import Compiled, Number, Rule, Text
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import compose


@frozen
class Need:
    """One table of a query and what fills it."""

    table: str
    behind: tuple[str, ...]  # the tables that an ASIM parser reads
    connectors: tuple[str, ...]
    collected: str


@frozen
class Events:
    """What a rule's log source is made of: EventIDs of a channel or of Sysmon, and what switches them on."""

    source: str
    ids: tuple[int, ...]
    settings: tuple[str, ...]


@cache
def _facts() -> Mapping[str, Any]:
    path = mappings_folder() / "collection.yml"
    (document,) = compose(Source("mappings/collection.yml", path.read_text(encoding="utf-8")))
    assert document.root is not None
    facts: dict[str, Any] = plain(document.root)
    return facts


def needs(done: Compiled) -> tuple[Need, ...]:
    """The tables of a query, each with what fills it."""
    return tuple(need_of(table) for table in tables_in(done))


@cache
def need_of(table: str) -> Need:
    behind = tuple(name for name in tables_behind(table) if name != table)
    told = _facts()["tables"]
    collected = told.get(table, "") or "; ".join(f"{name}: {told[name]}" for name in behind if name in told)
    return Need(table, behind, connectors_of(table), collected)


def events(rule: Rule, results: tuple[Compiled, ...]) -> tuple[Events, ...]:
    """The events that a rule reads, where its log source or its EventIDs tell."""
    source = rule.logsource
    ids = tuple(sorted({i for done in results for i in _event_ids(done)} | set(_stated(rule))))
    told: list[Events] = []
    kinds = _facts()["categories"].get(source.category or "") if source.product in (None, "windows") else None
    if kinds:
        if "sysmon" in kinds:
            told.append(Events("Sysmon", tuple(kinds["sysmon"]), _sysmon(kinds["sysmon"])))
        if "security" in kinds:
            told.append(Events("Windows Security", tuple(kinds["security"]), audit(kinds["security"])))
    elif source.service == "security" and source.product == "windows":
        told.append(Events("Windows Security", ids, audit(ids)))
    elif source.service == "sysmon":
        told.append(Events("Sysmon", ids, _sysmon(ids)))
    else:
        setting = _facts()["settings"].get(source.category or "") or _facts()["settings"].get(source.service or "")
        if ids or setting:
            told.append(Events(source.service or source.category or "", ids, (setting,) if setting else ()))
    return tuple(told)


def audit(ids: tuple[int, ...] | list[int]) -> tuple[str, ...]:
    """The audit policies that make these events of the channel Security."""
    facts = _facts()
    found = [f"Audit {name}" for name, made in facts["security"].items() if set(made) & set(ids)]
    more = {int(key): text for key, text in facts["security_more"].items()}
    return tuple(found + [more[i] for i in ids if i in more])


def _sysmon(ids: tuple[int, ...] | list[int]) -> tuple[str, ...]:
    names = {int(key): name for key, name in _facts()["sysmon"].items()}
    return tuple(dict.fromkeys(f"event filter {names[i]} in Sysmon's configuration" for i in ids if i in names))


def _event_ids(done: Compiled) -> Iterator[int]:
    """EventIDs that the rows of the log source are of."""
    if done.query is not None:
        for leaf in leaves(done.query.rows):
            if "EventID" in leaf.subject.reads and isinstance(leaf.test, Number) and leaf.test.op == "==":
                yield int(leaf.test.value)


def _stated(rule: Rule) -> Iterator[int]:
    for leaf in leaves(rule.where):
        if leaf.subject.name == "EventID":
            text = leaf.test.parts[0] if isinstance(leaf.test, Text) and len(leaf.test.parts) == 1 else ""
            if isinstance(leaf.test, Number) and leaf.test.op == "==":
                yield int(leaf.test.value)
            elif isinstance(text, str) and text.isdecimal() and len(text) < 7:
                yield int(text)
