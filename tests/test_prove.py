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
    raw = {"Event": {"System": {"EventID": 1, "Channel": "c"}, "EventData": HIT}}
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
    assert one["reason"].startswith("not converted: E402")


def test_a_minimal_counterexample(rule: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sigma2kql import operators

    monkeypatch.setitem(operators._OPERATORS, ("contains", False), ("has", "!has"))
    (one,) = results("-t", "asim", rule, "--generate")["results"]
    assert one["status"] == "failed"
    assert set(one["counterexample"]["event"]) == {"Image", "CommandLine"}


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
    assert sum(0 < r["must_match"] < r["events"] for r in judged) >= 0.95 * len(judged)
