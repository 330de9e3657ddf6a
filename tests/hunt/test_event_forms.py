"""One process creation in every form in which responders have it: one row each, or a word why not."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sigma2kql.cli.hunt import command

pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")

RULE = """\
title: whoami
logsource: {product: windows, category: process_creation}
detection:
  selection: {Image|endswith: '\\whoami.exe', CommandLine|contains: '/priv'}
  condition: selection
"""
IMAGE, LINE, CHANNEL = r"C:\Windows\whoami.exe", "whoami /priv", "Microsoft-Windows-Sysmon/Operational"
PROVIDER, TIME = "Microsoft-Windows-Sysmon", "2024-01-01T00:00:00Z"
DATA = {"Image": IMAGE, "CommandLine": LINE}
NAMED = [{"@Name": name, "#text": value} for name, value in DATA.items()]
XML = (
    f"<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System><Provider Name='{PROVIDER}'/>"
    f"<EventID>1</EventID><Channel>{CHANNEL}</Channel><Computer>h</Computer><TimeCreated SystemTime='{TIME}'/></System>"
    f"<EventData><Data Name='Image'>{IMAGE}</Data><Data Name='CommandLine'>{LINE}</Data></EventData></Event>"
)


def dumped(**system: Any) -> dict[str, Any]:
    """As evtx_dump writes it."""
    base = {"Provider": {"#attributes": {"Name": PROVIDER}}, "EventID": 1, "Channel": CHANNEL, "Computer": "h"}
    time = {"TimeCreated": {"#attributes": {"SystemTime": TIME}}}
    return {"Event": {"System": {**base, **time, **system}, "EventData": DATA}}


FLAT = {"EventID": 1, "Channel": CHANNEL, "Computer": "h", **DATA}
FORMS: dict[str, str] = {
    "evtx_dump.jsonl": json.dumps(dumped()),
    "text_id.jsonl": json.dumps(dumped(EventID="1")),
    "qualifiers.jsonl": json.dumps(dumped(EventID={"#attributes": {"Qualifiers": 0}, "#text": 1})),
    "records.json": f"Record 1\n{json.dumps(dumped(), indent=2)}\nRecord 2\n{json.dumps(dumped(EventID=5))}\n",
    "records_xml.xml": f"Record 1\n<?xml version='1.0' encoding='utf-8'?>\n{XML}\n",
    "separate_attributes.json": json.dumps(
        [
            {
                "Event": {
                    "System": {"Provider_attributes": {"Name": PROVIDER}, "EventID": 1, "Channel": CHANNEL},
                    "EventData": DATA,
                }
            }
        ]
    ),
    "chainsaw.json": json.dumps([{"group": "Sigma", "name": "x", "document": {"kind": "evtx", "data": dumped()}}]),
    "xml2json.json": json.dumps(
        {
            "Event": {
                "System": {"Provider": {"@Name": PROVIDER}, "EventID": "1", "Channel": CHANNEL},
                "EventData": {"Data": NAMED},
            }
        }
    ),
    "velociraptor.json": json.dumps(
        {
            "System": {
                "Provider": {"Name": PROVIDER},
                "EventID": {"Value": 1},
                "Channel": CHANNEL,
                "TimeCreated": {"SystemTime": 1704067200.5},
            },
            "EventData": DATA,
        }
    ),
    "evtxecmd.json": json.dumps(
        {
            "EventId": 1,
            "Provider": PROVIDER,
            "Channel": CHANNEL,
            "Computer": "h",
            "MapDescription": "Process creation",
            "Payload": json.dumps({"EventData": {"Data": NAMED}}),
        }
    ),
    "get_winevent.json": json.dumps(
        {
            "Id": 1,
            "LogName": CHANNEL,
            "ProviderName": PROVIDER,
            "TimeCreated": "/Date(1704067200000)/",
            "Message": f"Process Create:\r\nImage: {IMAGE}\r\nCommandLine: {LINE}",
        }
    ),
    "wevtutil.xml": XML,
    "wevtutil_two.xml": XML + "\n" + XML.replace("whoami.exe", "other.exe"),
    "root.xml": f"<?xml version='1.0'?><Events>{XML}</Events>",
    "winlogbeat.json": json.dumps(
        {"winlog": {"channel": CHANNEL, "provider_name": PROVIDER, "event_id": 1, "event_data": DATA}}
    ),
    "winlogbeat_dotted.json": json.dumps(
        {
            "winlog.channel": CHANNEL,
            "winlog.event_id": "1",
            "winlog.provider_name": PROVIDER,
            "winlog.event_data.Image": IMAGE,
            "winlog.event_data.CommandLine": LINE,
        }
    ),
    "winlogbeat6.json": json.dumps(
        {"log_name": CHANNEL, "source_name": PROVIDER, "event_id": 1, "computer_name": "h", "event_data": DATA}
    ),
    "ecs.json": json.dumps(
        {
            "@timestamp": TIME,
            "winlog": {"channel": CHANNEL, "provider_name": PROVIDER, "event_id": "1"},
            "process": {"executable": IMAGE, "command_line": LINE},
        }
    ),
    "nxlog.json": json.dumps({"SourceName": PROVIDER, "Hostname": "h", "EventTime": "2024-01-01 00:00:00", **FLAT}),
    "wazuh.json": json.dumps(
        {
            "data": {
                "win": {
                    "system": {"providerName": PROVIDER, "eventID": "1", "channel": CHANNEL},
                    "eventdata": {"image": IMAGE, "commandLine": LINE},
                }
            }
        }
    ),
    "flat.json": json.dumps(FLAT),
    "flat_text.json": json.dumps({**FLAT, "EventID": "1", "Provider_Name": PROVIDER}),
}
SAID = {
    "hayabusa.json": ({"RuleTitle": "x", "Details": {}, "Channel": "Sysmon", "EventID": 1}, "hits of Hayabusa's rules"),
    "no_id.json": (dumped(EventID=None), "look like Windows events, but `EventID` is missing"),
    "no_names.json": (
        {"Id": 4688, "LogName": "Security", "ProviderName": "Microsoft-Windows-Security-Auditing", "Properties": []},
        "the event's data have no names: export EVTX",
    ),
    "no_log.json": ({"Image": IMAGE, "CommandLine": LINE}, "`EventID` and `Channel` are missing"),
}


@pytest.fixture(scope="module")
def hunted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, int], str]:
    """How many rows each file gave, and what was said."""
    folder = tmp_path_factory.mktemp("forms")
    (folder / "rule.yml").write_text(RULE)
    data = folder / "data"
    data.mkdir()
    for name, text in FORMS.items():
        (data / name).write_text(text)
    for name, (event, _) in SAID.items():
        (data / name).write_text(json.dumps(event))
    (data / "utf16.xml").write_bytes(f"<?xml version='1.0' encoding='utf-16'?>{XML}".encode("utf-16"))
    with zipfile.ZipFile(data / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logs/a.jsonl", FORMS["evtx_dump.jsonl"])
        archive.writestr("../../b.xml", FORMS["wevtutil.xml"])
        archive.writestr("readme.txt", "no events")
    (data / "bomb.xml").write_text("<!DOCTYPE a [<!ENTITY b 'c'>]><Event>&b;</Event>")
    result = CliRunner().invoke(
        command, [str(folder / "rule.yml"), "--data", str(data), "-f", "ndjson"], standalone_mode=False
    )
    assert result.exception is None, result.exception
    found: dict[str, int] = {}
    for line in result.stdout.splitlines():
        name = Path(json.loads(line)["row"]["_Origin"].partition("!")[0].partition(":")[0]).name
        found[name] = found.get(name, 0) + 1
    return found, result.stderr


@pytest.mark.parametrize("name", [*FORMS, "utf16.xml"])
def test_every_form_is_one_row(name: str, hunted: tuple[dict[str, int], str]) -> None:
    assert hunted[0].get(name) == 1


def test_an_archive_gives_its_members(hunted: tuple[dict[str, int], str]) -> None:
    assert hunted[0]["all.zip"] == 2


@pytest.mark.parametrize("name", SAID)
def test_what_is_no_event_is_said(name: str, hunted: tuple[dict[str, int], str]) -> None:
    assert name not in hunted[0]
    assert SAID[name][1] in hunted[1]


def test_a_document_type_is_refused(hunted: tuple[dict[str, int], str]) -> None:
    assert "bomb.xml" not in hunted[0]
    assert "bomb.xml:1:1: error[E665]" in hunted[1]
