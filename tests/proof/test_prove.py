"""`sigma2kql test`: events from every source are run through the emitted query and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result as Ran

from sigma2kql.cli.test import command

pytest.importorskip("duckdb_kql")

RULE = r"""title: Tool
id: 11111111-2222-3333-4444-555555555555
logsource: {product: windows, category: process_creation}
detection:
  selection:
    Image|endswith: '\tool.exe'
    CommandLine|contains: secret
  filter:
    User: SYSTEM
  condition: selection and not filter
level: high
"""
MANY_OF_THEM = """title: Many
correlation:
  type: event_count
  rules: [tool]
  group-by: [User]
  timespan: 5m
  condition: {gte: 3}
"""
WIDE = RULE.replace("windows", "linux").replace("\\tool.exe", "/tool")  # Defender does not tell Linux from macOS
HIT = {"Image": "C:\\tool.exe", "CommandLine": "a Secret b"}
MISS = {"Image": "C:\\tool.exe", "CommandLine": "nothing"}


def run(*args: object) -> Ran:
    return CliRunner().invoke(command, [str(a) for a in args], standalone_mode=False)


def results(*args: object) -> dict[str, Any]:
    ran = run(*args, "--format", "json")
    assert ran.exception is None, ran.exception
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "tool.yml"
    path.write_text(RULE)
    return path


def test_no_events_is_skipped(rule: Path) -> None:
    told = results("-t", "asim", rule)
    assert told["results"][0]["status"] == "skipped"
    assert told["results"][0]["reason"] == "no events"


@pytest.mark.parametrize("target", ["asim", "xdr", "sentinel"])
def test_events_under_the_key_tests(rule: Path, target: str) -> None:
    rule.write_text(RULE + f"tests:\n  match: [{json.dumps(HIT)}]\n  no_match: [{json.dumps(MISS)}]\n")
    (one,) = results("-t", target, rule)["results"]
    assert (one["status"], one["events"], one["matched"]) == ("passed", 2, 1)


@pytest.mark.parametrize("suffix", [".events.yml", ".events.json", ".events.ndjson"])
def test_events_in_a_file_beside_the_rule(rule: Path, suffix: str) -> None:
    beside = rule.with_name("tool" + suffix)
    if suffix.endswith("ndjson"):
        lines = [{"expect": "match", "event": HIT}, {"expect": "no_match", "event": MISS}]
        beside.write_text("\n".join(map(json.dumps, lines)))
    else:
        beside.write_text(json.dumps({"match": [HIT], "no_match": [MISS]}))
    told = results("-t", "asim", rule.parent)  # the file of events is not taken for a rule
    assert told["summary"]["rules"] == 1
    assert (told["results"][0]["status"], told["results"][0]["events"]) == ("passed", 2)


def test_a_wrong_expectation_fails_with_the_predicate_and_its_line(rule: Path) -> None:
    rule.with_name("tool.events.json").write_text(json.dumps({"match": [MISS]}))
    ran = run("-t", "asim", rule, "--format", "json")
    (one,) = json.loads(ran.stdout)["results"]
    assert ran.return_value == 1
    assert (one["status"], one["missed"], one["unexpected"]) == ("failed", 1, 0)
    example = one["counterexample"]
    assert 'contains "secret"' in example["why"]
    assert example["line"] == 7
    assert example["event"] == MISS


def test_an_unexpected_match_fails(rule: Path) -> None:
    rule.with_name("tool.events.json").write_text(json.dumps({"no_match": [HIT]}))
    (one,) = results("-t", "asim", rule)["results"]
    assert (one["status"], one["missed"], one["unexpected"]) == ("failed", 0, 1)


def test_several_rules_of_one_file_by_title(rule: Path) -> None:
    second = RULE.replace("Tool", "Other").replace("11111111", "99999999").replace("secret", "nothing")
    rule.write_text(f"{RULE}---\n{second}")
    told = {"Tool": {"match": [HIT]}, "99999999-2222-3333-4444-555555555555": {"match": [MISS], "no_match": [HIT]}}
    rule.with_name("tool.events.json").write_text(json.dumps(told))
    assert [r["status"] for r in results("-t", "asim", rule)["results"]] == ["passed", "passed"]


def test_a_malformed_file_of_events_fails_the_rule(rule: Path) -> None:
    rule.with_name("tool.events.json").write_text('{"match": 3}')
    ran = run("-t", "asim", rule, "--format", "json")
    (one,) = json.loads(ran.stdout)["results"]
    assert ran.return_value == 1
    assert one["status"] == "failed"
    assert "no map of fields" in one["reason"]


def test_raw_windows_events_and_rows_of_the_table(rule: Path) -> None:
    raw = {"Event": {"System": {"EventID": 1, "Channel": "Microsoft-Windows-Sysmon/Operational"}, "EventData": HIT}}
    row = {"TimeGenerated": "2025-01-01", "EventSchema": "ProcessEvent", "EventProduct": "Sysmon"}
    row |= {"TargetProcessName": HIT["Image"], "TargetProcessCommandLine": HIT["CommandLine"]}
    rule.with_name("tool.events.json").write_text(
        json.dumps({"match": [raw, row], "no_match": [{**row, "TargetProcessName": "x"}]})
    )
    (one,) = results("-t", "asim", rule)["results"]
    assert (one["status"], one["events"], one["matched"]) == ("passed", 3, 2)


def test_hunting_in_a_file(rule: Path, tmp_path: Path) -> None:
    events = tmp_path / "hunt.ndjson"
    events.write_text("\n".join(map(json.dumps, [HIT, MISS, {"EventID": 11, **HIT}])))
    (one,) = results("-t", "asim", rule, "--events", events)["results"]
    assert (one["status"], one["events"], one["matched"]) == ("passed", 2, 1)
    assert one["set_aside"] == 1  # a file event is no row of processes


def test_recorded_attacks_are_found_by_themselves(rule: Path, tmp_path: Path) -> None:
    folder = tmp_path / "regression_data" / "tool"
    folder.mkdir(parents=True)
    name = "11111111-2222-3333-4444-555555555555"
    events = {"Event": {"System": {"EventID": 1}, "EventData": HIT}}
    for suffix in (".json", ".evtx"):
        (folder / (name + suffix)).write_text(json.dumps(events))
    (folder / "info.yml").write_text(
        f"rule_metadata:\n  - id: {name}\n    title: Tool\nregression_tests_info:\n"
        f"  - {{name: t, type: evtx, match_count: 1, path: regression_data/tool/{name}.evtx}}\n"
    )
    (one,) = results("-t", "asim", rule)["results"]
    assert (one["status"], one["events"], one["matched"]) == ("passed", 1, 1)


def test_generated_events_and_every_format(rule: Path) -> None:
    (one,) = results("-t", "asim", rule, "--generate", "--per-rule", "20")["results"]
    assert one["status"] == "passed"
    assert one["events"] == 20
    assert 0 < one["must_match"] < 20
    table = run("-t", "asim", rule, "--generate").stdout
    assert "RESULT" in table.splitlines()[0]
    assert "passed" in table.splitlines()[1]
    suite = ElementTree.fromstring(run("-t", "asim", rule, "--generate", "--format", "junit").stdout)
    assert [case.get("name") for case in suite.iter("testcase")] == ["Tool"]


def test_a_rule_that_is_not_converted_is_skipped_and_says_why(rule: Path) -> None:
    rule.write_text(RULE.replace("CommandLine|contains", "Nowhere|contains"))
    (one,) = results("-t", "asim", rule, "--generate")["results"]
    assert one["status"] == "skipped"
    assert one["reason"].startswith("not converted: E414")


def test_a_minimal_counterexample(rule: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sigma2kql.kql import operators

    monkeypatch.setitem(operators._OPERATORS, ("contains", False), ("has", "!has"))
    monkeypatch.setattr(operators, "_form", operators._form.__wrapped__)
    (one,) = results("-t", "asim", rule, "--generate")["results"]
    assert one["status"] == "failed"
    assert set(one["counterexample"]["event"]) == {"Image", "CommandLine"}


def test_a_rule_that_contradicts_itself_is_unproven_not_passed(rule: Path) -> None:
    rule.write_text(RULE.replace("contains: secret", "contains|all: [secret]\n    Image: 'C:\\other.exe'"))
    ran = run("-t", "asim", rule, "--generate", "--format", "json")
    told = json.loads(ran.stdout)
    (one,) = told["results"]
    assert (one["status"], one["must_match"], one["missed"], one["unexpected"]) == ("skipped", 0, 0, 0)
    assert one["reason"].startswith("unproven: no event can match: `Image` must be ")
    summary = told["summary"]
    assert (summary["passed"], summary["skipped"], summary["unproven"], ran.return_value) == (0, 1, 1, 0)
    plain = run("-t", "asim", rule, "--generate")
    assert "unproven" in plain.stdout.splitlines()[1]
    assert "no event can match" in plain.stdout.splitlines()[2]
    assert "0 passed, 0 failed, 1 unproven, 0 skipped" in plain.stderr
    suites = ElementTree.fromstring(run("-t", "asim", rule, "--generate", "--format", "junit").stdout)
    (skipped,) = suites.iter("skipped")
    assert skipped.get("message", "").startswith("unproven: no event can match")
    assert next(suites.iter("testsuite")).get("skipped") == "1"


def test_a_query_of_which_nothing_is_demanded_is_unproven(rule: Path) -> None:
    """Of a broader query the matches alone are judged: events that must not match decide nothing."""
    rule.write_text(WIDE)
    hit, miss = ({**event, "Image": "/bin/tool"} for event in (HIT, MISS))
    reason = "broader: judged by the matches alone"
    for events, status, told in (
        ({"no_match": [miss]}, "skipped", f"unproven: {reason}"),
        ({"match": [hit], "no_match": [miss]}, "passed", reason),
    ):
        rule.with_name("tool.events.json").write_text(json.dumps(events))
        (one,) = results("-t", "xdr", rule)["results"]
        assert (one["status"], one["reason"]) == (status, told)


def test_the_events_are_counted_by_label(rule: Path) -> None:
    told = results("-t", "asim", rule, "--generate", "--per-rule", "20")
    (one,) = told["results"]
    assert (one["must_match"], one["must_not_match"]) == (10, 10)
    assert (told["summary"]["must_match"], told["summary"]["must_not_match"]) == (10, 10)


def test_a_rule_that_only_feeds_a_correlation_is_judged_by_its_own_query(
    rule: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule.write_text(f"{RULE}name: tool\n---\n{MANY_OF_THEM}")
    fed = results("-t", "asim", rule, "--generate")["results"][0]
    assert (fed["title"], fed["status"], fed["events"]) == ("Tool", "passed", 24)
    from sigma2kql.kql import operators

    monkeypatch.setitem(operators._OPERATORS, ("contains", False), ("has", "!has"))
    monkeypatch.setattr(operators, "_form", operators._form.__wrapped__)
    fed = results("-t", "asim", rule, "--generate")["results"][0]
    assert (fed["title"], fed["status"]) == ("Tool", "failed")


# --------------------------------------------------------------------------------------------------------------------
# The corpus


@pytest.mark.corpus
@pytest.mark.parametrize(("target", "at_least"), [("sentinel", 200), ("xdr", 190), ("asim", 185)])
def test_the_recorded_attacks_are_found(regression_data: Path, target: str, at_least: int) -> None:
    told = results("-t", target, regression_data.parent)["summary"]
    assert told["failed"] == 0
    assert told["passed"] >= at_least


@pytest.mark.corpus
@pytest.mark.parametrize("target", ["sentinel", "xdr", "asim"])
def test_a_sample_of_the_corpus_is_proven(corpus: list[Path], target: str) -> None:
    told = results("-t", target, *corpus[7::60], "--generate", "--per-rule", "16", "-j", "1")
    failed = [(r["path"], r["reason"], r["counterexample"]) for r in told["results"] if r["status"] == "failed"]
    assert failed == []
    judged = [r for r in told["results"] if r["status"] == "passed"]
    assert len(judged) >= 35
    assert [r["path"] for r in judged if r["events"] < 10 or not r["must_match"]] == []
    assert [
        r["path"] for r in judged if not r["must_not_match"] and "no row of this log source" not in r["reason"]
    ] == []


ROWS = """\
table: Proxy_CL
target: sentinel
columns: {Url_s: string, Agent_s: string}
serves: [{logsource: {category: proxy}}]
fields: {c-uri: Url_s, c-useragent: Agent_s}
"""
PROXY = """\
title: Evil
logsource: {category: proxy}
detection:
  selection: {c-uri|contains: evil}
  condition: selection
"""


def test_rows_of_a_table_of_ones_own_need_neither_type_nor_time(tmp_path: Path) -> None:
    """A mapping may have no time column, and an export names no table: its columns tell that it is a row."""
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "Proxy_CL.yml").write_text(ROWS)
    (tmp_path / "evil.yml").write_text(PROXY)
    events = tmp_path / "evil.events.yml"
    events.write_text("match:\n  - {Url_s: http://evil/, Agent_s: x}\nno_match:\n  - {Url_s: http://good/}\n")
    told = results(tmp_path / "evil.yml", "--mappings", tmp_path / "mappings")
    assert [(r["status"], r["matched"], r["missed"]) for r in told["results"]] == [("passed", 1, 0)]
    events.unlink()
    rows = tmp_path / "rows.ndjson"
    rows.write_text('{"Url_s": "http://evil/"}\n')
    told = results(tmp_path / "evil.yml", "--mappings", tmp_path / "mappings", "--events", rows)
    assert [r["status"] for r in told["results"]] == ["skipped"]
    assert "label" in told["results"][0]["reason"]  # not taken for an event that must not match


def test_processes_find_what_one_finds(tmp_path: Path) -> None:
    """What goes to another process can be sent: a table whose fields are read when they are asked for, too."""
    (tmp_path / "a.yml").write_text(f"{RULE}name: tool\n---\n{MANY_OF_THEM}")
    (tmp_path / "b.yml").write_text(WIDE)
    (tmp_path / "events.ndjson").write_text(f"{json.dumps(HIT)}\n{json.dumps(MISS)}\n")
    sources = ("--generate", "--per-rule", 6, "--events", tmp_path / "events.ndjson")
    one, two = (results(tmp_path, *sources, "-j", jobs) for jobs in (1, 2))
    for told in (one, two):
        told["summary"]["seconds"] = 0
        for result in told["results"]:
            result["seconds"] = 0
    assert two == one
    assert two["summary"]["passed"] >= 2
