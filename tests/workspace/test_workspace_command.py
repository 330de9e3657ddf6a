"""`workspace inspect` and `diff`, and `convert --profile`, as they are called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sigma2kql.cli import group
from sigma2kql.diagnostics.diagnostic import Source
from sigma2kql.workspace.profile import read_profile

RULES = """title: Failed Logon
id: 6a2c1d8f-2b57-4d6e-8a51-0f3a3d1f6b01
logsource: {product: windows, service: security}
detection:
    s: {EventID: 4625, TargetUserName: x}
    condition: s
---
title: Process
id: 6a2c1d8f-2b57-4d6e-8a51-0f3a3d1f6b02
logsource: {product: windows, category: process_creation}
detection:
    s: {Image|endswith: '\\x.exe'}
    condition: s
"""

PROFILE = """version: 1
made: 2026-11-29T12:00:00Z
days: 7
sample: 10000
tables:
  SecurityEvent:
    rows_a_day: 1000
    last: 2026-11-29T11:59:00Z
    by: [Channel, EventID]
    values:
      - {is: [Security, "4625"], rows: 7000}
  DeviceProcessEvents:
    rows_a_day: 1000
    last: 2026-11-29T11:59:00Z
    by: [ActionType]
    values:
      - {is: [ProcessCreated], rows: 7000}
  imProcessCreate: null
  _Im_ProcessCreate: null
  Event: null
  imAuthentication: null
  DeviceLogonEvents: null
  WindowsEvent: null
"""


def run(*args: object) -> Result:
    return CliRunner().invoke(group, [str(arg) for arg in args], standalone_mode=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("rules.yml").write_text(RULES)
    Path("workspace.yml").write_text(PROFILE)
    return tmp_path


def records(result: Result) -> list[dict[str, Any]]:
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.usefixtures("home")
def test_a_profile_chooses_the_table_that_has_the_events() -> None:
    logon, process = records(run("convert", "--profile", "workspace.yml", "-f", "ndjson", "rules.yml"))
    assert (logon["table"], logon["here"], logon["here_reasons"]) == ("SecurityEvent", "live", [])
    assert (process["table"], process["here"]) == ("DeviceProcessEvents", "live")
    assert any("imProcessCreate: finds nothing in this workspace" in text for text in process["passed_over"])


@pytest.mark.usefixtures("home")
def test_what_is_not_there_is_said_and_counted() -> None:
    Path("workspace.yml").write_text(PROFILE.replace('"4625"', '"4624"'))
    result = run("convert", "--profile", "workspace.yml", "-f", "ndjson", "rules.yml")
    logon, process = records(result)
    assert (logon["here"], logon["here_reasons"]) == ("blind", ["SecurityEvent has no row with EventID 4625"])
    assert [d["code"] for d in logon["diagnostics"]] == ["W420"]
    assert process["here"] == "live"
    assert "in this workspace: 1 live, 1 blind\n  1: SecurityEvent has no row with EventID 4625" in result.stderr


@pytest.mark.usefixtures("home")
def test_a_parser_that_exists_by_its_builtin_name_is_called_so() -> None:
    rows = "{rows_a_day: 5, last: 2026-11-29T11:59:00Z}"
    Path("workspace.yml").write_text(PROFILE.replace("_Im_ProcessCreate: null", f"_Im_ProcessCreate: {rows}"))
    _, process = records(run("convert", "--profile", "workspace.yml", "-f", "ndjson", "rules.yml"))
    assert process["kql"].splitlines()[0] == "_Im_ProcessCreate"
    assert process["here"] == "live"


@pytest.mark.usefixtures("home")
def test_a_plain_list_of_tables_is_a_hard_list() -> None:
    Path("tables.csv").write_text("TableName\nSecurityEvent\n")
    logon, process = records(run("convert", "--profile", "tables.csv", "-f", "ndjson", "rules.yml"))
    assert (logon["table"], process["table"]) == ("SecurityEvent", "SecurityEvent")
    assert "here" not in logon


@pytest.mark.usefixtures("home")
def test_two_profiles_show_which_rules_went_blind() -> None:
    Path("new.yml").write_text(PROFILE.replace('"4625"', '"4624"'))
    result = run("workspace", "diff", "workspace.yml", "new.yml", "rules.yml", "--format", "json")
    assert result.return_value == 1
    told = json.loads(result.stdout)
    assert [c["change"] for c in told["changes"] if c["worse"]] == [
        "no longer has rows with Channel Security, EventID 4625 (7,000 before)"
    ]
    assert [(r["title"], r["was"], r["is"]) for r in told["rules"]] == [("Failed Logon", "live", "blind")]
    assert run("workspace", "diff", "workspace.yml", "workspace.yml", "rules.yml").return_value == 0
    text = run("workspace", "diff", "workspace.yml", "new.yml").stdout
    assert "- SecurityEvent no longer has rows with Channel Security, EventID 4625 (7,000 before)\n" in text


@pytest.mark.usefixtures("home")
def test_printed_queries_and_their_answers_make_a_profile() -> None:
    printed = run("workspace", "inspect", "--print", "--table", "SecurityEvent", "--days", 3)
    assert printed.stdout.startswith("// SecurityEvent\nlet Recent = ")
    assert "ago(3d)" in printed.stdout
    Path("answer.csv").write_text(
        "Table,Kind,Name,Rows,Last\nSecurityEvent,rows,,30,2026-11-29T11:00:00Z\nSecurityEvent,schema,EventID,0,\n"
        "SecurityEvent,schema,TimeGenerated,0,\n"
    )
    made = run("workspace", "inspect", "--read", "answer.csv", "--days", 3, "-o", "made.yml")
    assert made.return_value == 0
    profile = read_profile(Source("made.yml", Path("made.yml").read_text()))
    assert profile.tables["SecurityEvent"].rows_a_day == 10


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--table", "SecurityEvents", "--print"), "unknown table `SecurityEvents` did you mean `SecurityEvent`?"),
        ((), "say one of --workspace ID"),
        (("--print", "--cluster", "https://x.example"), "say one of --workspace ID"),
        (("--cluster", "https://x.example"), "--cluster needs --database"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(args: tuple[str, ...], message: str) -> None:
    result = run("workspace", "inspect", *args)
    assert message in str(result.exception)


@pytest.mark.usefixtures("home")
def test_a_rule_that_no_source_can_ever_match_is_dead() -> None:
    Path("mappings").mkdir()
    Path("mappings/Proxy_CL.yml").write_text(
        "table: Proxy_CL\ntarget: sentinel\ncolumns: {TimeGenerated: datetime, Agent_s: string}\n"
        "sources: {cef: {never: {Agent_s: the appliance does not log it}}}\n"
        "serves: [{logsource: {category: proxy}}]\nfields: {c-useragent: Agent_s}\n"
    )
    Path("rule.yml").write_text(
        "title: t\nlogsource: {category: proxy}\ndetection:\n    s: {c-useragent: curl}\n    condition: s\n"
    )
    Path("workspace.yml").write_text(
        "version: 1\nmade: 2026-11-29T12:00:00Z\ndays: 7\nsample: 100\ntables:\n"
        "  Proxy_CL: {rows_a_day: 100, last: 2026-11-29T11:59:00Z}\n"
    )
    call = ("convert", "--profile", "workspace.yml", "--mappings", "mappings", "--table", "Proxy_CL", "-f", "ndjson")
    (done,) = records(run(*call, "rule.yml"))
    assert (done["here"], done["here_reasons"]) == (
        "dead",
        ["Proxy_CL: no source that writes it has what the rule asks for"],
    )
    assert "W421" in [d["code"] for d in done["diagnostics"]]


@pytest.mark.usefixtures("home")
def test_the_verdict_counts_the_sources_that_are_there() -> None:
    """Defender's rows hold the name on disk where Sysmon's hold the original one: without Defender it is exact."""
    Path("rule.yml").write_text(
        "title: t\nlogsource: {product: windows, category: process_creation}\ndetection:\n"
        "    s: {OriginalFileName: x.exe}\n    condition: s\n"
    )
    rows = "rows_a_day: 100, last: 2026-11-29T11:59:00Z"
    sysmon = 'values: [{is: [Microsoft-Windows-Sysmon/Operational, Microsoft-Windows-Sysmon, "1"], rows: 700}]'
    text = (
        "version: 1\nmade: 2026-11-29T12:00:00Z\ndays: 7\nsample: 100\ntables:\n"
        f"  Event: {{{rows}, by: [EventLog, Source, EventID], {sysmon}}}\n  imProcessCreate: {{{rows}}}\n"
    )
    Path("workspace.yml").write_text(text)
    (done,) = records(run("convert", "--profile", "workspace.yml", "-f", "ndjson", "rule.yml"))
    assert (done["table"], done["verdict"], done["here"]) == ("imProcessCreate", "exact", "live")
    Path("workspace.yml").write_text(text + f"  DeviceProcessEvents: {{{rows}}}\n")
    (done,) = records(run("convert", "--profile", "workspace.yml", "-t", "asim", "-f", "ndjson", "rule.yml"))
    assert done["verdicts"]["defender-endpoint"] == "narrower"


@pytest.mark.usefixtures("home")
def test_files_of_events_have_a_profile_too() -> None:
    """Two rows of an exported table, and a Windows event as evtx_dump writes it; counted by hand."""
    Path("data").mkdir()
    rows = [
        {"TimeGenerated": f"2026-11-2{day}T12:00:00Z", "Type": "DeviceProcessEvents", "ActionType": "ProcessCreated",
         "FileName": "a.exe", "ProcessCommandLine": text}
        for day, text in ((7, ""), (9, "a.exe -x"))
    ]  # fmt: skip
    Path("data/DeviceProcessEvents.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = run("workspace", "inspect", "--data", "data", "-o", "made.yml")
    assert made.return_value == 0, made.stderr
    profile = read_profile(Source("made.yml", Path("made.yml").read_text()))
    table = profile.tables["DeviceProcessEvents"]
    assert (profile.days, table.rows_a_day, table.whole) == (2, 1, True)
    assert (table.columns["FileName"], table.columns["ProcessCommandLine"], table.columns["SHA256"]) == (1, 0.5, 0)
    assert [(one.values, one.rows) for one in table.seen] == [(("ProcessCreated",), 2)]
    assert "SecurityEvent" in profile.absent
