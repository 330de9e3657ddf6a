"""Every constant of a mapping is a word that a source really writes: channels, providers, ActionTypes.

The lists are those of ../shared/schemas (windows-events.json: recorded events and manifests; xdr.json: the action
types of the portal), and what stands in OTHERS with its own source.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sigma2kql.diagnostics.diagnostic import Source
from sigma2kql.map.event_elements import event_lists
from sigma2kql.map.table_file import read_table
from sigma2kql.map.transforms import literal
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import Column, Expr, FieldMap, Table

MAPPINGS = Path(__file__).resolve().parents[2] / "mappings"
# Not in the lists, each with the source that has it.
OTHERS = {
    # wevtutil el of Windows 10 and 11; no recorded event at hand
    "Microsoft-ServiceBus-Client/Admin",
    "Microsoft-ServiceBus-Client/Operational",
    "Microsoft-Windows-Application-Experience/Program-Compatibility-Assistant",
    "Microsoft-Windows-Application-Experience/Program-Telemetry",
    "Microsoft-Windows-DHCP-Server/Operational",
    # Microsoft's documentation of Defender for Endpoint, "Review events and errors using Event Viewer"
    "Microsoft-Windows-SENSE/Operational",
    # the vendor's source, zeronetworks/rpcfirewall
    "RPCFW",
    # the provider of events written by CveEventWrite before Windows 10 1909
    "Audit-CVE",
}


def predicates(table: Table) -> Iterator[Expr[Column]]:
    """Every predicate of a mapping file."""
    fields: list[FieldMap] = list(table.fields.values())
    for serve in table.serves:
        yield serve.where
        fields += serve.fields.values()
    while fields:
        one = fields.pop()
        yield from (one.values or {}).values()
        yield from (when for when, _ in one.cases)
        fields += [case for _, case in one.cases]


@pytest.fixture(scope="module")
def constants() -> dict[tuple[str, str], set[str]]:
    """(table, column) -> the whole texts that its mapping asks for."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for target in ("asim", "sentinel", "xdr"):
        for path in sorted((MAPPINGS / target).glob("*.yml")):
            if path.name == "target.yml":
                continue
            table = read_table(Source(path.name, path.read_text(encoding="utf-8")), target)
            for predicate in predicates(table):
                for leaf in leaves(predicate):
                    if text := literal(leaf.test):
                        found[table.name, leaf.subject.text].add(text)
    return found


def schema(shared: Path, name: str) -> Any:
    return json.loads((shared / "schemas" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("table", "column"), [("Event", "EventLog"), ("WindowsEvent", "Channel")])
def test_channels_are_called_as_events_call_them(shared: Path, constants: Any, table: str, column: str) -> None:
    events = schema(shared, "windows-events.json")
    assert constants[table, column] - events["channels"].keys() - OTHERS == set()
    assert constants[table, column] & events["_channel_names"].keys() == set()  # display names


@pytest.mark.parametrize(("table", "column"), [("Event", "Source"), ("WindowsEvent", "Provider")])
def test_providers_are_those_of_events(shared: Path, constants: Any, table: str, column: str) -> None:
    channels = schema(shared, "windows-events.json")["channels"].values()
    known = {provider for channel in channels for provider in channel["provider"]}
    assert constants[table, column] - known - OTHERS == set()


def test_action_types_are_those_of_the_table(shared: Path, constants: Any) -> None:
    known = schema(shared, "xdr.json")["action_types"]
    wrong = {
        (table, text)
        for (table, column), texts in constants.items()
        if column == "ActionType" and table in known
        for text in texts - set(known[table])
    }
    assert wrong == set()


def test_the_lists_of_events_say_what_their_source_does(shared: Path) -> None:
    events = schema(shared, "windows-events.json")["channels"]
    for name in ("security", "sysmon", "sysmon_linux", "windows"):
        lists = event_lists(name)
        assert lists
        for channel, listed in lists.items():
            for number, names in listed.names.items():
                told = events[channel]["events"][str(number)]
                more = {n for other in told.get("also", ()) for n in other["elements"]}
                assert names - {"User"} == ({*told["elements"]} | more) - {"User"}, (channel, number)
