"""`sigma2kql hunt`: events of files as tables, and the same rules on Kusto and Log Analytics over loopback."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sigma2kql.cli.hit_rows import write_hits
from sigma2kql.cli.hunt import command
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source, Span
from sigma2kql.engines.remote import Rows
from sigma2kql.events.event_forms import windows_record
from sigma2kql.events.table_rows import windows_event
from sigma2kql.hunt import Outcome
from sigma2kql.hunt.hits import hits_of
from sigma2kql.model.tree import Compiled, Metadata, NativeQuery, Origin

pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")

RULE = """\
title: Encoded PowerShell
id: 11111111-2222-4333-8444-555555555555
level: high
logsource:
  product: windows
  category: process_creation
detection:
  selection:
    Image|endswith: '\\powershell.exe'
    CommandLine|contains: ' -enc '
  filter:
    ParentImage|endswith: '\\good.exe'
  condition: selection and not filter
"""


def sysmon(command_line: str, image: str = r"C:\Windows\powershell.exe", day: int = 1, **more: Any) -> dict[str, Any]:
    """A process creation as evtx_dump writes it."""
    return {
        "Event": {
            "System": {
                "Provider": {"#attributes": {"Name": "Microsoft-Windows-Sysmon"}},
                "EventID": 1,
                "TimeCreated": {"#attributes": {"SystemTime": f"2026-01-{day:02d}T08:00:00.5Z"}},
                "Channel": "Microsoft-Windows-Sysmon/Operational",
                "Computer": "host",
            },
            "EventData": {"Image": image, "CommandLine": command_line, "ProcessId": 7, **more},
        }
    }


def ndjson(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def run(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def rows(result: Result) -> list[dict[str, Any]]:
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "rule.yml"
    path.write_text(RULE)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    events = [
        sysmon("powershell -enc AA", day=1),
        sysmon("powershell -nop", day=2),
        sysmon("powershell -enc BB", day=3, ParentImage=r"C:\good.exe"),
        sysmon("powershell -ENC CC", day=4, ParentImage=None),
    ]
    (folder / "a.ndjson").write_text(ndjson(*events))
    return folder


# --------------------------------------------------------------------------------------------------------------------
# Files on this machine


def test_a_rule_is_run_over_windows_events(rule: Path, data: Path) -> None:
    result = run(rule, "--data", data, "-f", "ndjson")
    found = rows(result)
    assert result.return_value == 0
    assert [row["row"]["EventData"]["CommandLine"] for row in found] == ["powershell -enc AA", "powershell -ENC CC"]
    assert {k: v for k, v in found[0].items() if k not in ("row", "origin")} == {
        "id": "11111111-2222-4333-8444-555555555555",
        "title": "Encoded PowerShell",
        "level": "high",
        "path": str(rule),
        "table": "WindowsEvent",
        "tags": [],
        "time": "2026-01-01T08:00:00.500000Z",
        "host": "host",
        "account": None,
        "record_id": None,
        "matched": {"Image": r"C:\Windows\powershell.exe", "CommandLine": "powershell -enc AA"},
    }
    assert found[0]["origin"] == f"{data}/a.ndjson:1"
    assert found[0]["row"]["TimeGenerated"] == "2026-01-01T08:00:00.500000Z"
    assert found[0]["row"]["_Origin"] == f"{data}/a.ndjson:1"
    assert found[0]["row"]["Computer"] == "host"
    assert "4 events read, 4 rows made of them" in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--from", "2026-01-02"], 1),
        (["--to", "2026-01-02T00:00:00Z"], 1),
        (["--from", "2026-01-01T08:00:00.5Z", "--to", "2026-01-04T08:00:00.5Z"], 1),
        (["--since", "1d"], 0),
        (["--limit", "1"], 1),
    ],
)
def test_time_range_and_limit(rule: Path, data: Path, options: list[str], expected: int) -> None:
    assert len(rows(run(rule, "--data", data, "-f", "ndjson", *options))) == expected


def test_a_cut_result_is_said(rule: Path, data: Path) -> None:
    assert "W674" in run(rule, "--data", data, "--limit", "1").stderr
    assert "W674" not in run(rule, "--data", data, "--limit", "2").stderr


@pytest.mark.parametrize(("target", "table"), [("asim", "imProcessCreate"), ("xdr", "DeviceProcessEvents")])
def test_windows_events_are_shaped_for_another_target(rule: Path, data: Path, target: str, table: str) -> None:
    found = rows(run(rule, "--data", data, "-t", target, "-f", "ndjson"))
    assert [row["row"]["_Origin"].rpartition(":")[2] for row in found] == ["1", "4"]
    assert {row["table"] for row in found} == {table}


def test_events_of_other_logs_are_not_shaped_for_a_rule(rule: Path, data: Path) -> None:
    load = sysmon("powershell -enc XX")
    load["Event"]["System"]["EventID"] = 7
    (data / "b.ndjson").write_text(ndjson(load))
    result = run(rule, "--data", data, "-t", "xdr", "-f", "ndjson")
    assert len(rows(result)) == 2
    assert "5 events read, 4 rows made of them, 1 not asked for" in result.stderr


def test_exports_of_defender_tables_are_recognised(rule: Path, tmp_path: Path) -> None:
    row = {
        "Timestamp": "2026-01-01T00:00:00Z",
        "ActionType": "ProcessCreated",
        "DeviceName": "host",
        "FolderPath": r"C:\Windows\powershell.exe",
        "FileName": "powershell.exe",
        "ProcessCommandLine": "powershell -enc AA",
    }
    events = tmp_path / "export.ndjson.gz"
    events.write_bytes(gzip.compress(ndjson(row, {**row, "ProcessCommandLine": "powershell"}).encode()))
    found = rows(run(rule, "--data", events, "-f", "ndjson"))
    assert [(r["table"], r["row"]["ProcessCommandLine"]) for r in found] == [
        ("DeviceProcessEvents", "powershell -enc AA")
    ]
    assert "DeviceName" not in found[0]["row"]
    assert rows(run(rule, "--data", events, "-f", "ndjson", "--all-columns"))[0]["row"]["DeviceName"] == "host"


def test_plain_events_need_a_log_source(tmp_path: Path) -> None:
    rule = tmp_path / "rule.yml"
    rule.write_text(RULE.replace("windows", "linux").replace("\\powershell.exe", "/curl").replace("\\good.exe", "/g"))
    events = tmp_path / "e.json"
    events.write_text(json.dumps([{"Image": "/bin/curl", "CommandLine": "curl -enc x"}, {"Image": "/bin/sh"}]))
    unknown = run(rule, "--data", events, "-f", "ndjson")
    assert rows(unknown) == []
    assert "2 events have Sigma's field names, but `EventID` and `Channel` are missing" in unknown.stderr
    found = rows(run(rule, "--data", events, "-f", "ndjson", "--logsource", "linux/process_creation"))
    assert [row["row"]["_Origin"] for row in found] == [f"{events}:1#1"]


def test_a_correlation_and_hand_written_queries_run_too(tmp_path: Path, data: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "c.yml").write_text(
        RULE.replace("level: high\n", "name: enc\n")
        + "---\ntitle: Twice\ncorrelation:\n  type: event_count\n  rules: [enc]\n  group-by: [Computer]\n"
        "  timespan: 7d\n  condition: {eq: 2}\nlevel: high\n"
        "---\ntitle: Two\ncorrelation: {type: event_count, rules: [enc], group-by: [Computer], timespan: 7d,"
        " condition: {gte: 2}}\n"
        "---\ntitle: In order\ncorrelation: {type: temporal_ordered, rules: [enc, enc], group-by: [Computer],"
        " timespan: 7d}\n"
    )
    (rules / "q.kql").write_text("WindowsEvent | summarize n = count() by Computer")
    result = run(rules, "--data", data, "-f", "ndjson")
    found = rows(result)
    assert [(row["title"], row["row"].get("Computer")) for row in found] == [
        ("Twice", "host"),
        ("Two", "host"),
        ("In order", "host"),
        ("q", "host"),
    ]
    assert found[-1]["row"]["n"] == 4


def test_what_the_local_engine_lacks_is_an_error_of_that_rule(rule: Path, tmp_path: Path, data: Path) -> None:
    query = tmp_path / "q.kql"
    query.write_text("WindowsEvent | top-nested 1 of EventID by count()")
    result = run(query, rule, "--data", data, "-f", "ndjson")
    assert (result.return_value, len(rows(result))) == (1, 2)
    assert "q.kql:1:1: error[E601]" in result.stderr
    assert "hint: Kusto itself runs it: --cluster URL --database NAME, or --workspace ID" in result.stderr


def test_rules_on_tables_without_events_are_not_run_and_said(rule: Path, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "aws.yml"
    other.write_text(
        "title: x\nlogsource: {product: aws, service: cloudtrail}\ndetection: {a: {eventName: y}, condition: a}\n"
    )
    result = run(rule, other, "--data", data, "-f", "ndjson")
    assert (result.return_value, len(rows(result))) == (0, 2)
    assert "0 of 4 events can be seen by 1 rule, because none is of events of AWSCloudTrail" in result.stderr


def test_a_rule_that_fails_leaves_the_others(rule: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text(RULE.replace("|contains", "|contians"))
    (tmp_path / "q.kql").write_text("WindowsEvent | where nowhere == 1")
    result = run(tmp_path / "bad.yml", rule, tmp_path / "q.kql", "--data", data, "-f", "ndjson")
    assert (result.return_value, len(rows(result))) == (1, 2)
    assert "bad.yml:9:18: error[E211]" in result.stderr or "error[E211]" in result.stderr
    assert "q.kql:1:1: error[E602]" in result.stderr


def test_hostile_files_are_errors_of_their_own(rule: Path, data: Path) -> None:
    (data / "bomb.ndjson").write_text("[" * 100_000 + "\n")
    (data / "bytes.ndjson").write_bytes(b'{"a": "\xff"}\n')
    (data / "cut.json").write_text('{"a": [1, 2')
    (data / "empty.evtx").write_bytes(b"ElfFile\0" + b"\0" * 100)
    (data / "long.ndjson").write_text(ndjson(sysmon("powershell -enc " + "A" * 10_000_000)))
    result = run(rule, "--data", data, "-f", "ndjson", "--memory", "1GB")
    assert result.return_value == 1
    assert sorted(Path(row["row"]["_Origin"]).name for row in rows(result)) == [
        "a.ndjson:1",
        "a.ndjson:4",
        "long.ndjson:1",
    ]
    for name in ("bomb.ndjson", "bytes.ndjson", "cut.json", "empty.evtx"):
        assert f"{name}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.corpus
def test_recorded_attacks_are_found_and_a_truncated_file_is_said(regression_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("evtx", reason="pip install 'sigma2kql[test]'")
    events = sorted(regression_data.rglob("*.evtx"))[:200:20]
    folder = tmp_path / "evtx"
    folder.mkdir()
    for number, path in enumerate(events):
        shutil.copy(path, folder / f"{number}.evtx")
    (folder / "zz.evtx").write_bytes(events[0].read_bytes()[:5000])
    home = regression_data.parent
    rules = [home / path.parent.relative_to(regression_data).with_suffix(".yml") for path in events]
    rules = [path if path.exists() else next(home.rglob(path.name)) for path in rules]
    result = run(*rules, "--data", folder, "-f", "ndjson")
    found = {(row["path"], row["row"]["_Origin"].rpartition("/")[2].partition(".")[0]) for row in rows(result)}
    assert {(str(path), str(number)) for number, path in enumerate(rules)} <= found
    assert result.return_value == 1
    assert "zz.evtx" in result.stderr


def test_windows_row_splits_system_and_event_data() -> None:
    event = sysmon("x", ParentImage=None, Flag=True)
    event["Event"]["System"]["Level"] = "Warning"
    record = windows_record(event)
    assert record is not None
    row = windows_event(record)
    assert {k: row[k] for k in ("Provider", "EventID", "Channel", "Computer", "EventLevel")} == {
        "Provider": "Microsoft-Windows-Sysmon",
        "EventID": 1,
        "Channel": "Microsoft-Windows-Sysmon/Operational",
        "Computer": "host",
        "EventLevel": 2 + 1,
    }
    assert row["EventData"] == {
        "Image": r"C:\Windows\powershell.exe",
        "CommandLine": "x",
        "ProcessId": "7",
        "ParentImage": "",
        "Flag": "true",
    }


# --------------------------------------------------------------------------------------------------------------------
# The call and the product


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--engine", "kusto", "--cluster", "https://x.kusto.windows.net"],
        ["--engine", "duckdb", "--cluster", "https://x.kusto.windows.net"],
        ["--workspace", "w", "--cluster", "https://x", "--database", "d"],
        ["--data", ".", "--since", "soon"],
        ["--data", ".", "--since", "999999w"],
        ["--data", ".", "--since", "1d", "--from", "2026-01-01"],
        ["--data", ".", "--from", "2026-01-02", "--to", "2026-01-01"],
        ["--data", ".", "--from", "yesterday"],
        ["--data", ".", "--logsource", "//"],
    ],
)
def test_wrong_calls(rule: Path, args: list[str]) -> None:
    with pytest.raises(click.UsageError):
        CliRunner().invoke(command, [str(rule), *args], standalone_mode=False, catch_exceptions=False)


def result_of(title: str) -> Compiled:
    source = Source("r.yml", title)
    span = Span(source, 0, len(title))
    return Compiled(NativeQuery(Origin(source, 0, span), Metadata(title, "i", level="low"), "T", span, {}), "sentinel")


def written(form: str, *found: Rows, title: str = "t") -> str:
    stream = io.StringIO()
    hits = [hit for one in found for hit in hits_of(Outcome(result_of(title), one))]
    write_hits(form, hits, stream, 80, False, False)
    return stream.getvalue()


FOUND = Rows({"=a": "string", "n": "int"}, [("=cmd|' /C calc'!A0", -1), ("x\n\x1b[31m</script>", None)])
OTHER = Rows({"TimeGenerated": "datetime", "d": "dynamic"}, [(datetime(2026, 1, 1, tzinfo=UTC), {"k": [1]})])


def test_csv_has_all_columns_and_no_formulas_not_in_its_header_either() -> None:
    table = list(csv.DictReader(io.StringIO(written("csv", FOUND, OTHER))))
    assert [(row["rule_id"], row["'=a"], row["n"], row["TimeGenerated"], row["d"]) for row in table] == [
        ("i", "", "", "2026-01-01T00:00:00Z", '{"k": [1]}'),
        ("i", "'=cmd|' /C calc'!A0", "-1", "", ""),
        ("i", "x\n\x1b[31m</script>", "", "", ""),
    ]


def test_a_table_reaches_no_terminal_with_control_characters() -> None:
    text = written("table", FOUND, Rows({}, []), OTHER, title="evil\x1b[2J\ntitle")
    assert "\x1b" not in text
    assert text.count("evil\\x1b[2J\\x0atitle (i, r.yml): 3 rows") == 1
    assert "x\\x0a\\x1b[31m" in text
    assert all(len(line) <= 80 or "evil" in line for line in text.splitlines())


def test_a_report_is_one_page_that_no_event_can_write_into() -> None:
    page = written("html", FOUND, OTHER, title="</script><img src=x onerror=alert(1)>")
    assert page.count("</script>") == 1
    assert "<img" not in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)


def test_sarif_names_the_rule_and_the_record_of_each_hit() -> None:
    rows = Rows({"_Origin": "string"}, [("logs/a.evtx:#7",), ("b.json:3#1",)])
    (run,) = json.loads(written("sarif", rows))["runs"]
    places = [result["locations"][0]["physicalLocation"] for result in run["results"]]
    assert [(p["artifactLocation"]["uri"], p["region"]["startLine"]) for p in places] == [
        ("logs/a.evtx", 7),
        ("b.json", 3),
    ]
    assert {result["ruleId"] for result in run["results"]} == {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert {result["level"] for result in run["results"]} == {"note"}


def test_timesketch_takes_every_line() -> None:
    lines = [json.loads(line) for line in written("timesketch", FOUND, OTHER).splitlines()]
    assert len(lines) == 3
    assert all({"message", "datetime", "timestamp_desc"} <= line.keys() for line in lines)
    assert lines[0]["datetime"] == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(("level", "expected"), [("high", 1), ("critical", 0), ("low", 1)])
def test_rules_below_a_level_are_left_out(rule: Path, data: Path, level: str, expected: int) -> None:
    assert f"{expected} quer" in run(rule, "--data", data, "--min-level", level).stderr


def test_the_terminal_shows_the_evidence_and_a_summary(rule: Path, data: Path) -> None:
    result = run(rule, "--data", data)
    assert "high           Encoded PowerShell" in result.stdout
    assert re.search(r"CommandLine +powershell -enc AA", result.stdout)
    assert "hits by level: 2 high" in result.stderr
    assert "by host: host 2" in result.stderr


# --------------------------------------------------------------------------------------------------------------------
# Over the network, on loopback

SEED = """
CREATE TABLE DeviceProcessEvents(Timestamp TIMESTAMP, DeviceName VARCHAR, ActionType VARCHAR, FileName VARCHAR,
    FolderPath VARCHAR, ProcessCommandLine VARCHAR, InitiatingProcessFolderPath VARCHAR);
INSERT INTO DeviceProcessEvents
SELECT TIMESTAMP '2026-01-01' + i * INTERVAL 1 HOUR, 'host' || i, 'ProcessCreated', 'powershell.exe',
    'C:\\Windows\\powershell.exe', 'powershell ' || CASE WHEN i % 10 = 0 THEN '-enc AA' ELSE '' END, ''
FROM range(50) t(i);
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("azure.kusto.data", reason="pip install 'sigma2kql[azure]'")
    program = shutil.which("duckdb-kql", path=str(Path(sys.executable).parent)) or shutil.which("duckdb-kql")
    if program is None:
        pytest.skip("duckdb-kql is not installed (pip install 'sigma2kql[test]')")
    seed = tmp_path_factory.mktemp("kusto") / "seed.sql"
    seed.write_text(SEED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [program, "serve", "--init", str(seed), "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the endpoint ended"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def test_kusto_runs_every_rule_and_keeps_their_order(cluster: str, rule: Path, tmp_path: Path) -> None:
    rules = [tmp_path / f"{n}.kql" for n in range(6)]
    for number, path in enumerate(rules):
        path.write_text(f"DeviceProcessEvents | where DeviceName == 'host{number}' | project DeviceName")
    (tmp_path / "3.kql").write_text("DeviceProcessEvents | where")
    args = ("--cluster", cluster, "--database", "memory", "-t", "xdr", "-f", "ndjson", "--from", "2025-01-01")
    result = run(rule, *rules, *args, "--jobs", "3")
    found = rows(result)
    assert sorted(row["row"]["DeviceName"] for row in found[:5]) == ["host0", "host10", "host20", "host30", "host40"]
    assert [row["title"] for row in found[5:]] == ["0", "1", "2", "4", "5"]
    assert result.return_value == 1
    assert "3.kql:1:1: error[E673]" in result.stderr
    assert "7 queries run: 6 with hits, 10 rows, 1 failed" in result.stderr


class Shim:
    """A Log Analytics service that gives one row for every query, and an error for those that name `Bad`."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        shim = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                shim.asked.append(body)
                bad = "Bad" in body["query"]
                answer = (
                    {"error": {"code": "BadArgumentError", "message": "no such table"}}
                    if bad
                    else {
                        "tables": [
                            {
                                "name": "PrimaryResult",
                                "columns": [
                                    {"name": "TimeGenerated", "type": "datetime"},
                                    {"name": "EventData", "type": "dynamic"},
                                ],
                                "rows": [["2026-01-01T07:00:00Z", '{"Image":"a"}']],
                            }
                        ]
                    }
                )
                payload = json.dumps(answer).encode()
                self.send_response(400 if bad else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def service() -> Iterator[Shim]:
    pytest.importorskip("azure.monitor.query", reason="pip install 'sigma2kql[azure]'")
    shim = Shim()
    yield shim
    shim.server.shutdown()
    shim.server.server_close()


def test_loganalytics_is_asked_for_the_emitted_query_and_one_day(service: Shim, rule: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.kql").write_text("Bad | take 1")
    workspace = "11111111-2222-3333-4444-555555555555"
    result = run(tmp_path / "bad.kql", rule, "--workspace", workspace, "--service", service.url, "-f", "ndjson")
    [row] = rows(result)
    assert (row["title"], row["row"]) == (
        "Encoded PowerShell",
        {"TimeGenerated": "2026-01-01T07:00:00Z", "EventData": {"Image": "a"}},
    )
    assert "bad.kql:1:1: error[E673]" in result.stderr
    assert result.return_value == 1
    [asked] = [body for body in service.asked if "Bad" not in body["query"]]
    assert asked["query"].startswith("imProcessCreate\n| where ")
    assert asked["query"].endswith("| take 1001")
    start, stop = (datetime.fromisoformat(text) for text in asked["timespan"].split("/"))
    assert round((stop - start).total_seconds()) == 86_400


def test_an_address_with_credentials_is_refused_and_not_shown(rule: Path) -> None:
    pytest.importorskip("azure.kusto.data", reason="pip install 'sigma2kql[azure]'")
    with pytest.raises(Sigma2KqlError) as caught:
        CliRunner().invoke(
            command,
            [str(rule), "--cluster", "https://me:s3cret@x.kusto.windows.net", "--database", "d"],
            standalone_mode=False,
            catch_exceptions=False,
        )
    assert caught.value.diagnostics[0].code == "E671"
    assert "s3cret" not in str(caught.value)
