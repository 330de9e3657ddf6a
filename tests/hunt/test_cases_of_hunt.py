"""Events that a hunt saw wrongly once, each with its rule and the number of rows that are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sigma2kql.cli.hunt import command
from sigma2kql.events.event_forms import sigma_fields

pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")


def event(
    channel: str, provider: str, number: int, data: dict[str, Any], user: str = "", **system: Any
) -> dict[str, Any]:
    """As evtx_dump writes it; `user` names the element in UserData."""
    base = {"Provider": {"#attributes": {"Name": provider}}, "EventID": number, "Channel": channel, "Computer": "h"}
    time = {"TimeCreated": {"#attributes": {"SystemTime": "2024-01-01T00:00:00Z"}}}
    return {
        "Event": {"System": {**base, **time, **system}, **({"UserData": {user: data}} if user else {"EventData": data})}
    }


def rule(source: str, detection: str) -> str:
    head = "title: t\nid: 00000000-0000-4000-8000-000000000001"
    return f"{head}\nlogsource: {{product: windows, {source}}}\ndetection: {detection}\n"


AUDIT = "Microsoft-Windows-Security-Auditing"
PROCESS = event(
    "Security",
    AUDIT,
    4688,
    {
        "SubjectUserName": "bob",
        "SubjectDomainName": "D",
        "SubjectUserSid": "S-1-5-21-1",
        "NewProcessId": "0x10",
        "ProcessId": "0x4",
        "NewProcessName": "C:\\Windows\\whoami.exe",
        "CommandLine": "whoami /priv",
        "MandatoryLabel": "S-1-16-16384",
    },
)
REGISTRY = event(
    "Security",
    AUDIT,
    4657,
    {
        "ObjectName": "\\REGISTRY\\MACHINE\\SOFTWARE\\Run",
        "ObjectValueName": "x",
        "NewValue": "evil.exe",
        "ProcessName": "C:\\a.exe",
    },
)
NETWORK = event(
    "Security",
    AUDIT,
    5156,
    {
        "Application": "\\device\\harddiskvolume2\\a.exe",
        "Direction": "%%14593",
        "SourceAddress": "10.0.0.1",
        "SourcePort": "5000",
        "DestAddress": "198.51.100.7",
        "DestPort": "443",
        "Protocol": "6",
    },
)
VALUES = {"Data": {"#text": ["C:\\Users\\Public\\x.msi", "2652"]}}
LINES = {"Data": {"#text": ["Available", "\tHostName=ConsoleHost\n\tHostId=5cbb33bf\n\tEngineVersion=2.0"]}}
CLEARED = event(
    "System", "Microsoft-Windows-Eventlog", 104, {"SubjectUserName": "bob", "Channel": "Application"}, "LogFileCleared"
)
SAME = event(
    "Application", "X", 7, {"Level": "hello", "Task": "other", "EventID": "99", "Computer": "v"}, Level=2, Task=5
)
CASES: list[tuple[str, str, dict[str, Any], int]] = [
    (
        "category: process_creation",
        "{s: {Image|endswith: '\\whoami.exe', CommandLine|contains: '/priv'}, condition: s}",
        PROCESS,
        1,
    ),
    (
        "category: process_creation",
        "{s: {User: 'D\\bob', ProcessId: 16, IntegrityLevel: System}, condition: s}",
        PROCESS,
        1,
    ),
    (
        "category: process_creation",
        "{s: {Image|endswith: '\\whoami.exe'}, f: {OriginalFileName: a}, condition: s and not f}",
        PROCESS,
        1,
    ),
    ("service: security", "{s: {EventID: 4688, ProcessId: '0x4'}, condition: s}", PROCESS, 1),
    (
        "category: registry_set",
        "{s: {TargetObject: 'HKLM\\SOFTWARE\\Run\\x', Details|contains: evil}, condition: s}",
        REGISTRY,
        1,
    ),
    (
        "category: network_connection",
        "{s: {DestinationIp|cidr: 198.51.100.0/24, Initiated: 'true', DestinationPort: 443}, condition: s}",
        NETWORK,
        1,
    ),
    ("category: network_connection", "{s: {DestinationIp|cidr: 10.0.0.0/8}, condition: s}", NETWORK, 0),
    (
        "service: application",
        "{s: {Data|contains: '\\Users\\Public\\'}, condition: s}",
        event("Application", "MsiInstaller", 1040, VALUES),
        1,
    ),
    (
        "service: application",
        "{s: {Data|contains: '\\\\\\\\'}, condition: s}",
        event("Application", "MsiInstaller", 1040, VALUES),
        0,
    ),
    (
        "category: ps_classic_start",
        "{s: {Data|contains: ConsoleHost}, f: {Data|re: 'HostId=[a-z0-9]+\\s+EngineVersion='}, condition: s and not f}",
        event("Windows PowerShell", "PowerShell", 400, LINES),
        0,
    ),
    ("service: system", "{s: {EventID: 104, Channel: Application}, condition: s}", CLEARED, 1),
    ("service: system", "{s: {EventID: 104}, f: {Channel: System}, condition: s and not f}", CLEARED, 1),
    ("service: application", "{s: {Provider_Name: X}, condition: s}", SAME, 1),
]


def hunted(tmp_path: Path, text: str, data: dict[str, Any], *options: str) -> list[dict[str, Any]]:
    (tmp_path / "r.yml").write_text(text)
    (tmp_path / "e.json").write_text(json.dumps(data))
    call = [str(tmp_path / "r.yml"), "--data", str(tmp_path / "e.json"), "-f", "ndjson", *options]
    result = CliRunner().invoke(command, call, standalone_mode=False)
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(("source", "detection", "data", "rows"), CASES)
def test_an_event_gives_the_rows_that_it_should(
    source: str, detection: str, data: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    assert len(hunted(tmp_path, rule(source, detection), data)) == rows


@pytest.mark.parametrize("options", [["--table", "SecurityEvent"], ["--union"], ["-t", "asim"], ["-t", "xdr"]])
def test_4688_is_a_process_creation_in_every_table_that_has_it(options: list[str], tmp_path: Path) -> None:
    assert len(hunted(tmp_path, rule(*CASES[0][:2]), PROCESS, *options)) == 1


def test_names_that_the_data_share_with_system_are_kept(tmp_path: Path) -> None:
    (hit,) = hunted(tmp_path, rule("service: application", "{s: {Provider_Name: X}, condition: s}"), SAME)
    assert hit["row"]["EventData"] == {"Level": "hello", "Task": "other", "EventID": "99", "Computer": "v"}
    assert (hit["row"]["EventLevel"], hit["row"]["Task"], hit["row"]["EventID"]) == (2, 5, 7)


def test_another_rule_does_not_make_an_event_count_twice(tmp_path: Path) -> None:
    feed = rule("service: application", "{s: {Data|contains: x.msi}, condition: s}").replace(
        "title: t", "title: t\nname: feed"
    )
    counted = (
        "title: two\ncorrelation: {type: event_count, rules: [feed], group-by: [Computer], timespan: 1h, "
        "condition: {gte: 2}}\n"
    )
    other = (
        "title: any\nlogsource: {product: windows}\n"
        "detection: {s: {Level: 4}, keywords: [mimikatz], condition: s and keywords}\n"
    )
    assert hunted(tmp_path, f"{feed}---\n{counted}---\n{other}", event("Application", "M", 1040, VALUES, Level=4)) == []


def test_a_service_rule_reads_the_events_own_names() -> None:
    assert sigma_fields(PROCESS)["ProcessId"] == "0x4"
    assert sigma_fields(PROCESS, generic=True)["ProcessId"] == "16"
