"""`convert -f ARTIFACT` as it is called: files and folders, bundles, settings from everywhere, native documents."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from artifact_checks import FORMATS, convert, parse, problems_of
from click.testing import CliRunner, Result

from sigma2kql.artifacts.product_tables import facts
from sigma2kql.cli import group
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError

RULE = """\
title: {title}
id: {id}
status: test
description: Something runs
level: {level}
tags: [attack.execution, attack.t1059.001]
logsource: {{category: process_creation, product: windows}}
detection:
  selection: {{Image|endswith: '\\{image}.exe'}}
  condition: selection
{more}"""
HUNT = """\
id: 0e95725d-7320-415d-80f7-00000000000{number}
name: Remote tool {number}
description: Talks to a remote tool
requiredDataConnectors:
- connectorId: MicrosoftThreatProtection
  dataTypes: [DeviceNetworkEvents]
tactics: [CommandAndControl]
relevantTechniques: [T1219]
query: |
  DeviceNetworkEvents
  | where RemoteUrl has 'tool.example'
  | project Timestamp, DeviceId, ReportId, DeviceName, RemoteUrl
"""


def rule(number: int = 1, title: str = "", level: str = "high", more: str = "") -> str:
    identifier = f"0e95725d-7320-415d-80f7-0000000001{number:02}"
    return RULE.format(title=title or f"Rule {number}", id=identifier, image=f"tool{number}", level=level, more=more)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules" / "windows").mkdir(parents=True)
    (tmp_path / "rules" / "one.yml").write_text(rule(1), encoding="utf-8")
    (tmp_path / "rules" / "windows" / "two.yml").write_text(rule(2, level="low"), encoding="utf-8")
    return tmp_path


def call(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(group, ["convert", *arguments], standalone_mode=False)
    if result.exception is not None and status == 2:
        return result
    assert result.exception is None, result.exception
    assert result.return_value == status, result.stderr
    return result


def files(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def properties(text: str, number: int = 0) -> dict[str, Any]:
    found = json.loads(text)["resources"][number]["properties"]
    assert isinstance(found, dict)
    return found


# --------------------------------------------------------------------------------------------------------------------
# Where it goes


@pytest.mark.parametrize("form", FORMATS)
def test_a_folder_mirrors_the_tree(form: str, home: Path) -> None:
    target = "xdr" if form.startswith("xdr-") else "sentinel"
    call("rules", "-f", form, "-t", target, "-o", "out/")
    names = [name for name in files(home / "out") if not name.endswith(("sigma2kql.tf", "bicepconfig.json"))]
    second = "rule_2" if form == "terraform" else "windows/rule_2"  # a module of Terraform is one folder
    assert [name.rpartition(".")[0] for name in names] == ["rule_1", second]


def test_one_rule_goes_to_standard_output_or_a_file(home: Path) -> None:
    text = call("rules/one.yml", "-f", "arm").stdout
    call("rules/one.yml", "-f", "arm", "-o", "one.json")
    assert (home / "one.json").read_text() == text
    assert properties(text)["displayName"] == "Rule 1"


def test_a_target_names_the_formats_that_it_takes(home: Path) -> None:
    """A table of one's own is no rule of Sentinel until its target says so."""
    (home / "own").mkdir()
    (home / "own" / "T.yml").write_text(
        "table: T_CL\ntarget: acme\ncolumns: {TimeGenerated: datetime, I: string}\n"
        "serves: [{logsource: {product: windows}}]\nfields: {Image: I, CommandLine: I}\n"
    )
    call("rules", "-t", "acme", "--mappings", "own")
    for form in FORMATS:
        refused = call("rules", "-t", "acme", "--mappings", "own", "-f", form, "-o", "out/", status=2).exception
        assert isinstance(refused, Sigma2KqlError)
        assert [d.code for d in refused.diagnostics] == ["E717"]
    assert not (home / "out").exists()
    (home / "own" / "target.yml").write_text("target: acme\nformats: [arm]\n")
    call("rules", "-t", "acme", "--mappings", "own", "-f", "arm", "-o", "out/")
    refused = call("rules", "-t", "acme", "--mappings", "own", "-f", "bicep", status=2).exception
    assert isinstance(refused, Sigma2KqlError)
    assert "it takes arm" in refused.diagnostics[0].hint
    (home / "own" / "target.yml").write_text("target: other\nformats: [bicep]\n")
    call("rules", "-t", "acme", "--mappings", "own", "-f", "bicep", "-o", "out/", status=2)


def test_several_rules_need_a_folder_or_a_bundle(home: Path) -> None:
    result = call("rules", "-f", "arm", status=2)
    assert "--bundle" in str(result.exception)
    assert "2 rules" in str(result.exception)
    assert len(list(yaml.safe_load_all(call("rules", "-f", "sentinel-yaml").stdout))) == 2
    assert "no form for several" in str(call("rules", "-f", "xdr-json", "-t", "xdr", "--bundle", status=2).exception)
    assert "not for kql" in str(call("rules", "--bundle", status=2).exception)


@pytest.mark.parametrize("form", ["arm", "hunting-arm", "bicep", "terraform"])
def test_a_bundle_is_one_template(form: str, home: Path, shared: Path) -> None:
    text = call("rules", "-f", form, "--bundle").stdout
    assert problems_of(form, text, shared) == []
    assert [text.count(f"0e95725d-7320-415d-80f7-0000000001{n:02}") > 0 for n in (1, 2, 3)] == [True, True, False]
    if form.endswith("arm"):
        assert len(json.loads(text)["resources"]) == 2
    call("rules", "-f", form, "--bundle", "-o", "all/")
    assert [(home / "all" / name).read_text() for name in files(home / "all")] == [text]


def test_files_that_did_not_change_are_not_written(home: Path) -> None:
    call("rules", "-f", "arm", "-o", "out/")
    before = {name: (home / "out" / name).stat().st_mtime_ns for name in files(home / "out")}
    (home / "rules" / "one.yml").write_text(rule(1, level="low"), encoding="utf-8")
    call("rules", "-f", "arm", "-o", "out/")
    after = {name: (home / "out" / name).stat().st_mtime_ns for name in files(home / "out")}
    assert [name for name in before if before[name] != after[name]] == ["rule_1.json"]


@pytest.mark.parametrize(
    "title", ["../../etc/cron.d/x", "/etc/passwd", "..", "C:\\Windows\\x", "CON", "a\u0000b", "\u202e"]
)
@pytest.mark.parametrize("form", ["sentinel-yaml", "terraform"])
def test_no_title_leaves_the_folder(form: str, title: str, home: Path) -> None:
    (home / "rules" / "one.yml").write_text(rule(1, title=json.dumps(title)), encoding="utf-8")
    before = set(files(home))
    call("rules/one.yml", "-f", form, "-o", "deep/out/")
    new = set(files(home)) - before
    assert all(re.fullmatch(r"deep/out/[a-z0-9][a-z0-9_-]*\.(yaml|tf)", name) for name in new)
    assert 1 <= len(new) <= 2


def test_rules_of_one_title_get_files_of_their_own(home: Path) -> None:
    (home / "rules" / "three.yml").write_text(rule(3, title="Rule 1"), encoding="utf-8")
    call("rules", "-f", "arm", "-o", "out/")
    assert files(home / "out") == ["rule_1-0e95725d.json", "rule_1.json", "windows/rule_2.json"]


def test_one_id_twice_in_a_bundle_is_refused(home: Path) -> None:
    (home / "rules" / "three.yml").write_text(rule(1, title="Again"), encoding="utf-8")
    result = call("rules", "-f", "arm", "--bundle", status=1)
    assert "error[E711]" in result.stderr
    assert len(json.loads(result.stdout)["resources"]) == 2


# --------------------------------------------------------------------------------------------------------------------
# Settings


def test_the_nearest_setting_wins(home: Path) -> None:
    (home / "sigma2kql.yml").write_text(
        "deploy: {queryFrequency: 30m, severity: Low, maxEntities: 1}\n"
        "directories:\n  rules/windows: {queryFrequency: 1d, queryPeriod: 2d}\n  rules: {severity: Medium}\n",
        encoding="utf-8",
    )
    own = "sigma2kql: {severity: Informational, customDetails: {Tool: TargetProcessName}}\n"
    (home / "rules" / "windows" / "two.yml").write_text(rule(2, more=own), encoding="utf-8")
    call("rules", "-f", "arm", "-o", "out/")
    one, two = (properties((home / "out" / n).read_text()) for n in ("rule_1.json", "windows/rule_2.json"))
    assert (one["queryFrequency"], one["severity"], len(one["entityMappings"])) == ("PT30M", "Medium", 1)
    assert (two["queryFrequency"], two["queryPeriod"], two["severity"]) == ("P1D", "P2D", "Informational")
    assert two["customDetails"] == {"Tool": "TargetProcessName"}


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ("deploy: {queryFreq: 1h}", "E701"),
        ("deploy: {severity: Huge}", "E702"),
        ("directories: {rules: fast}", "E804"),
        ("directories: {rules: {nope: 1}}", "E701"),
    ],
)
def test_settings_that_are_wrong_are_a_wrong_call(config: str, code: str, home: Path) -> None:
    (home / "sigma2kql.yml").write_text(config + "\n", encoding="utf-8")
    result = call("rules", "-f", "arm", "--bundle", status=2)
    text = f"{result.exception} {result.stderr}"
    assert code in text or any(d.code == code for d in getattr(result.exception, "diagnostics", ())), text


def test_a_wrong_setting_of_one_rule_costs_that_rule_only(home: Path) -> None:
    wrong = (
        "sigma2kql: {entityMappings: [{entityType: IP, fieldMappings: [{identifier: Address, columnName: Nope}]}]}\n"
    )
    (home / "rules" / "one.yml").write_text(rule(1, more=wrong), encoding="utf-8")
    result = call("rules", "-f", "arm", "-o", "out/", status=1)
    assert files(home / "out") == ["windows/rule_2.json"]
    assert "error[E707]" in result.stderr
    assert "Nope" in result.stderr


def test_a_correlation_looks_back_over_its_timespan(home: Path) -> None:
    correlation = """\
title: Often
id: 0e95725d-7320-415d-80f7-000000000199
correlation: {type: event_count, rules: [first], group-by: [Computer], timespan: 6h, condition: {gte: 10}}
level: high
"""
    text = rule(1).replace("status:", "name: first\nstatus:") + "---\n" + correlation
    (home / "rules" / "one.yml").write_text(text, encoding="utf-8")
    found = properties(call("rules/one.yml", "-f", "arm").stdout)
    # six hours for a result, six to know the bursts before, one run
    assert (found["queryFrequency"], found["queryPeriod"]) == ("PT1H", "PT13H")
    assert found["eventGroupingSettings"] == {"aggregationKind": "AlertPerResult"}
    assert found["entityMappings"][0]["entityType"] == "Host"


def test_a_query_over_all_tables_names_columns_that_agree(home: Path) -> None:
    found = properties(call("rules/one.yml", "-f", "arm", "--union").stdout)
    assert found["query"].startswith("union isfuzzy=true")
    named = {f["columnName"] for e in found["entityMappings"] for f in e["fieldMappings"]}
    assert "DeviceName" in named or "DvcHostname" in named


def test_a_query_over_the_limit_is_an_error_or_a_saved_function(home: Path) -> None:
    values = "\n".join(f"    - '{hashlib.sha256(bytes([n])).hexdigest()}'" for n in range(200))
    text = rule(1).replace("{Image|endswith: '\\tool1.exe'}", f"\n    CommandLine|contains:\n{values}")
    (home / "rules" / "one.yml").write_text(text, encoding="utf-8")
    result = call("rules/one.yml", "-f", "arm", status=1)
    assert result.stdout == ""
    assert "error[E703]" in result.stderr
    assert "function: true" in result.stderr
    (home / "sigma2kql.yml").write_text("deploy: {function: true}\n", encoding="utf-8")
    function, short = json.loads(call("rules/one.yml", "-f", "arm").stdout)["resources"]
    assert function["properties"]["functionAlias"] == short["properties"]["query"].strip()
    assert len(function["properties"]["query"]) > 10_000
    alias = function["properties"]["functionAlias"]
    assert short["dependsOn"] == [f"[resourceId('{function['type']}', parameters('workspace'),'{alias}')]"]
    call("rules/one.yml", "-f", "sentinel-yaml", status=1)


# --------------------------------------------------------------------------------------------------------------------
# Native documents


@pytest.fixture
def native(home: Path) -> Path:
    (home / "rules" / "hunt.yaml").write_text(HUNT.format(number=1), encoding="utf-8")
    return home


def test_native_queries_and_rules_stand_in_one_folder(native: Path) -> None:
    rows = [json.loads(line) for line in call("rules", "-f", "ndjson").stdout.splitlines()]
    assert [(row["kind"], row["verdict"]) for row in rows] == [
        ("native", "exact"), ("detection", "exact"), ("detection", "exact")
    ]  # fmt: skip
    assert "| where RemoteUrl has 'tool.example'" in call("rules/hunt.yaml").stdout


@pytest.mark.parametrize("form", FORMATS)
def test_a_native_query_goes_to_every_format(form: str, native: Path, shared: Path) -> None:
    text = call("rules/hunt.yaml", "-f", form, "-t", "xdr" if form.startswith("xdr-") else "sentinel").stdout
    assert problems_of(form, text, shared) == []
    assert "RemoteUrl has 'tool.example'" in text.replace("\\'", "'")
    if form == "xdr-json":
        template = parse(form, text)["detectionAction"]["alertTemplate"]
        assert list(template["entityMappings"]) == ["hosts", "urls"]
    if form in ("sentinel-yaml", "hunting-yaml"):
        assert [e["entityType"] for e in parse(form, text)["entityMappings"]] == ["Host", "URL"]


def seeds(shared: Path) -> list[str]:
    """The two hunting queries among the seeds as YAML documents: their pages lost the indentation."""
    found = []
    for path in sorted((shared / "seeds").glob("*.txt")):
        text = path.read_text(encoding="utf-8")
        if "\nKQL Query\n" in text and "\nrequiredDataConnectors:" in text:
            query = text[text.index("\nKQL Query\n") + 11 : text.index("\nid: ")]
            head = text[text.index("\nid: ") + 1 : text.index("\nquery: |")]
            keys = r"(id|name|description|requiredDataConnectors|tactics|relevantTechniques):"
            lines = [line if re.match(keys, line) else f"  {line}" for line in head.splitlines()]
            lines = [
                "    " + line.strip() if line.strip() in ("dataTypes:", "- DeviceNetworkEvents") else line
                for line in lines
            ]
            found.append("\n".join([*lines, "query: |", *(f"  {line}" for line in query.splitlines())]) + "\n")
    return found


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("form", [form for form in FORMATS if not form.startswith("xdr-")])
def test_the_seeds_go_to_every_format(form: str, number: int, home: Path, shared: Path) -> None:
    text = seeds(shared)[number]
    (home / "seed.yaml").write_text(text, encoding="utf-8")
    result = call("seed.yaml", "-f", form)
    own = yaml.safe_load(text)
    lacks = {"relevantTechniques: minItems", "tactics: minItems"} if number else set()
    if form == "sentinel-yaml":
        lacks.add("-: required entityMappings")  # the second summarises without any name of a host or an account
    found = set(problems_of(form, result.stdout, shared))
    assert found <= (lacks if number or form == "sentinel-yaml" else set()), found
    if form.endswith("yaml"):
        assert parse(form, result.stdout)["query"] == own["query"]
    assert ("W757" in result.stderr) == ("makeset" in text)  # `makeset` is deprecated


def test_what_a_custom_detection_cannot_watch_is_said(home: Path, shared: Path) -> None:
    for number, text in enumerate(seeds(shared)):
        (home / f"seed{number}.yaml").write_text(text, encoding="utf-8")
        result = call(f"seed{number}.yaml", "-f", "xdr-json", "-t", "xdr", status=1)
        assert "error[E708]" in result.stderr  # both summarise Timestamp and ReportId away


def test_another_process_says_the_same(native: Path) -> None:
    first, second = (convert(["rules"], "sentinel-yaml", cwd=native, hash_seed=seed)[1] for seed in ("1", "2"))
    assert first == second


# --------------------------------------------------------------------------------------------------------------------
# What a service takes of many rules


def told(result: Any) -> list[str]:
    return sorted(set(re.findall(r"\[([EW]\d+)\]", result.stderr)))


@pytest.mark.parametrize("form", ["sentinel-yaml", "arm", "bicep", "terraform"])
def test_the_second_rule_of_one_id_is_an_error_in_a_folder_too(form: str, home: Path) -> None:
    (home / "rules" / "again.yml").write_text(rule(1, title="Another"), encoding="utf-8")
    result = call("rules", "-f", form, "-o", "out/", status=1)
    assert told(result) == ["E711"]
    assert len([name for name in files(home / "out") if not name.endswith("sigma2kql.tf")]) == 2


@pytest.mark.parametrize("form", ["arm", "bicep"])
def test_a_bundle_beyond_the_limits_is_split_or_refused(form: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(facts("limits")["template"], "resources", 1)
    assert "E719" in str(call("rules", "-f", form, "--bundle", status=2).exception.diagnostics)
    call("rules", "-f", form, "--bundle", "-o", "all/")
    kind = "json" if form == "arm" else "bicep"
    assert files(home / "all") == [f"sigma2kql-1.{kind}", f"sigma2kql-2.{kind}", f"sigma2kql.{kind}"]
    parent = (home / "all" / f"sigma2kql.{kind}").read_text()
    if form == "arm":
        links = [row["properties"]["templateLink"]["relativePath"] for row in json.loads(parent)["resources"]]
        assert links == ["sigma2kql-1.json", "sigma2kql-2.json"]
        assert [len(json.loads((home / "all" / name).read_text())["resources"]) for name in links] == [1, 1]
    else:
        parse("bicep", parent)
        assert "module part2 'sigma2kql-2.bicep'" in parent


def test_more_rules_than_a_workspace_runs_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(facts("limits")["workspace"], "scheduled", 1)
    assert told(call("rules", "-f", "arm", "--bundle")) == ["W771"]


def test_custom_detections_of_one_name_are_told_apart(home: Path) -> None:
    (home / "rules" / "again.yml").write_text(rule(5, title="Rule 1"), encoding="utf-8")
    result = call("rules", "-f", "xdr-json", "-t", "xdr", "-o", "out/")
    assert "W772" in told(result)
    bodies = [json.loads((home / "out" / name).read_text()) for name in files(home / "out")]
    assert len({body["displayName"] for body in bodies}) == 3
    assert len({body["detectionAction"]["alertTemplate"]["title"] for body in bodies}) == 3


def test_a_rule_of_sentinel_over_defenders_tables_says_what_it_needs(home: Path) -> None:
    result = call("rules", "-f", "arm", "-t", "xdr", "--bundle")
    assert told(result) == ["W770"]
    assert "DeviceProcessEvents" in result.stderr
    assert "stream" in result.stderr


def test_auto_writes_a_folder_of_each_kind(home: Path) -> None:
    assert "-o DIR/" in str(call("rules", "-f", "auto", status=2).exception)
    call("rules", "-f", "auto", "-t", "xdr", "-o", "out/")
    assert all(name.endswith(".json") for name in files(home / "out"))
    body = json.loads((home / "out" / files(home / "out")[0]).read_text())
    assert body["@odata.type"] == "#microsoft.graph.security.detectionRule"
