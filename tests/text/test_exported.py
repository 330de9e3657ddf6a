"""What a workspace or a tenant exported goes in again: templates, API answers, Graph bodies; and JSON that is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from artifact_checks import write
from click.testing import CliRunner, Result
from hypothesis import given, settings, strategies as st

from sigma2kql.artifacts.kinds import AlertRule, Artifact, Detection, Entity, Hunt, Schedule
from sigma2kql.artifacts.read_back import read_artifacts
from sigma2kql.artifacts.settings import Settings, merge
from sigma2kql.cli import group
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.load.documents import decode, load
from sigma2kql.model.tree import Broken, NativeQuery
from sigma2kql.text.json_text import compose_json
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import MAX_SIZE

GUID = "0e95725d-7320-415d-80f7-0000000001{:02}"
QUERY = "DeviceNetworkEvents\n| where RemoteUrl has @'\\tool'\n"
HOST = Entity("Host", (("FullName", "DeviceName"),))
RULE = AlertRule(
    GUID.format(1),
    "[a rule]",
    "It's {{x}} ${y}",
    "High",
    QUERY,
    Schedule(1800, 7200, "lt", 3),
    ("Execution",),
    ("T1059.001", "T1204"),
    entities=(HOST,),
    custom_details=(("Url", "RemoteUrl"),),
    aggregation="AlertPerResult",
    suppressed=True,
    suppression=7200,
    enabled=False,
)
NEAR = AlertRule(
    GUID.format(2), "Near", "Now", "Low", QUERY, None, ("Impact",), (), entities=(HOST,), aggregation="SingleAlert"
)
HUNT = Hunt(GUID.format(3), "Hunt", "[looks]", QUERY, ("Discovery", "Impact"), ("T1082", "T1485.001"))
WATCH = Detection(
    "sigma-" + GUID.format(4),
    "Watch",
    "Watch {{DeviceName}}",
    "Watches",
    "medium",
    QUERY.rstrip(),
    3 * 3600,
    "Execution",
    ("T1059.001", "T1059.003", "T1204"),
    (Entity("hosts", (("nameColumn", "DeviceName"),)), Entity("urls", (("addressColumn", "RemoteUrl"),))),
    (("Url", "RemoteUrl"),),
    "Look at it",
    True,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, status: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(group, ["convert", *arguments], input=given, standalone_mode=False)
    assert result.exception is None, result.exception
    assert result.return_value == status, result.stderr
    return result


def edited(text: str, **changes: Any) -> str:
    """The template with properties of its first resource changed (None: taken away)."""
    template = json.loads(text)
    properties = template["resources"][0]["properties"]
    for key, value in changes.items():
        properties.pop(key, None) if value is None else properties.__setitem__(key, value)
    return json.dumps(template, indent=1)


ARM = write([RULE], "arm", Settings())

# --------------------------------------------------------------------------------------------------------------------
# Round trips


@pytest.mark.parametrize(
    ("name", "artifacts", "wishes"),
    [
        ("arm", [RULE], {}),
        ("arm", [RULE, NEAR], {}),
        ("arm", [RULE, NEAR], {"armForm": "extension"}),
        ("hunting-arm", [HUNT], {}),
        ("xdr-json", [WATCH], {}),
    ],
)
def test_what_was_written_comes_out_the_same(
    name: str, artifacts: list[Artifact], wishes: dict[str, Any], home: Path
) -> None:
    text = write(artifacts, name, merge(Settings(), wishes))
    (home / "exported.json").write_text(text, encoding="utf-8")
    (home / "sigma2kql.yml").write_text(json.dumps({"deploy": wishes}), encoding="utf-8")
    options = ["-t", "xdr"] if name == "xdr-json" else []
    more = ["--bundle"] if len(artifacts) > 1 else []
    assert call("exported.json", "-f", name, *options, *more).stdout == text
    assert call("-", "-f", name, *options, *more, given=text).stdout == text


def test_an_exported_rule_becomes_yaml_with_all_that_it_states(home: Path) -> None:
    (home / "exported.json").write_text(ARM, encoding="utf-8")
    document = yaml.safe_load(call("exported.json", "-f", "sentinel-yaml").stdout)
    (found,) = read_artifacts(yaml.safe_dump(document), "sentinel-yaml")
    assert isinstance(found, AlertRule)
    for field in ("id", "name", "description", "severity", "query", "schedule", "tactics", "techniques", "entities",
                  "custom_details", "aggregation", "suppressed", "suppression"):  # fmt: skip
        assert getattr(found, field) == getattr(RULE, field), field
    assert document["requiredDataConnectors"] == [
        {"connectorId": "MicrosoftThreatProtection", "dataTypes": ["DeviceNetworkEvents"]}
    ]


def test_a_long_rule_keeps_its_saved_function(home: Path) -> None:
    long = QUERY + "".join(f"| where RemoteUrl != '{number:08}'\n" for number in range(400))
    name = "Sigma_" + RULE.id.replace("-", "")
    rule = replace(RULE, query=name + "\n", function=long)
    text = write([rule], "arm", Settings())
    (home / "exported.json").write_text(text, encoding="utf-8")
    assert call("exported.json", "-f", "arm").stdout == text
    rows = [json.loads(line) for line in call("exported.json", "-f", "ndjson").stdout.splitlines()]
    assert [row["kql"] for row in rows] == [long]  # the function goes into its rule: one resource, one result


@pytest.mark.parametrize("wrapped", ["list", "value", "one", "version 2", "deployment"])
def test_resources_are_found_where_exports_hold_them(wrapped: str) -> None:
    template = json.loads(write([RULE, NEAR], "arm", Settings()))
    rows = template["resources"]
    answer = [{**row, "name": GUID.format(n + 1)} for n, row in enumerate(rows)]
    body: Any = {
        "list": answer,
        "value": {"value": answer},
        "one": answer[0],
        "version 2": {**template, "languageVersion": "2.0", "resources": {"a": rows[0], "b": rows[1]}},
        "deployment": {
            **template,
            "resources": [
                {"type": "Microsoft.Resources/deployments", "name": "x", "properties": {"template": template}}
            ],
        },
    }[wrapped]
    found = load(Source("x.json", json.dumps(body)))
    assert [d.meta.id for d in found] == [GUID.format(1), GUID.format(2)][: 1 if wrapped == "one" else 2]
    assert all(isinstance(d, NativeQuery) and d.query == QUERY for d in found)
    assert [d.origin.index for d in found] == list(range(len(found)))
    # only a template has expressions and doubles a bracket at the beginning of a text
    assert found[0].meta.title == ("[[a rule]" if wrapped in ("list", "value", "one") else "[a rule]")


def test_parameters_and_variables_of_a_fixed_value_are_read(home: Path) -> None:
    template = json.loads(edited(ARM, displayName="[variables('title')]", severity="[parameters('how')]"))
    template["variables"] = {"title": "From afar"}
    template["parameters"]["how"] = {"type": "string", "defaultValue": "Low"}
    (home / "x.json").write_text(json.dumps(template), encoding="utf-8")
    document = yaml.safe_load(call("x.json", "-f", "sentinel-yaml").stdout)
    assert (document["name"], document["severity"]) == ("From afar", "Low")


# --------------------------------------------------------------------------------------------------------------------
# Custom detections

LEGACY = """\
displayName: Encoded PowerShell
isEnabled: true
queryCondition:
  queryText: |
    DeviceNetworkEvents
    | project Timestamp, DeviceId, ReportId, DeviceName, AccountUpn = InitiatingProcessAccountUpn
schedule:
  period: "12H"
detectionAction:
  alertTemplate:
    title: "Encoded PowerShell"
    description: Runs it
    severity: high
    category: Execution
    mitreTechniques: [T1059.001]
    recommendedActions: Look
    impactedAssets:
      - "@odata.type": "#microsoft.graph.security.impactedDeviceAsset"
        identifier: deviceId
  responseActions:
    - "@odata.type": "#microsoft.graph.security.isolateDeviceResponseAction"
"""


def test_a_custom_detection_of_the_old_form_becomes_one_of_the_current(home: Path) -> None:
    (home / "old.yaml").write_text(LEGACY, encoding="utf-8")
    result = call("old.yaml", "-f", "xdr-json", "-t", "xdr")
    body = json.loads(result.stdout)
    template = body["detectionAction"]["alertTemplate"]
    assert (body["displayName"], body["status"], body["schedule"]) == (
        "Encoded PowerShell", "enabled", {"frequency": "PT12H"}
    )  # fmt: skip
    assert template["tactics"] == [
        {"tactic": "Execution", "techniques": [{"technique": "T1059", "subTechniques": ["T1059.001"]}]}
    ]
    assert template["entityMappings"] == {"hosts": [{"deviceIdColumn": "DeviceId"}]}
    assert template["recommendedActions"] == "Look"
    assert "automated actions are left out" in result.stderr  # nothing goes silently
    document = yaml.safe_load(call("old.yaml", "-f", "sentinel-yaml").stdout)
    assert (document["queryFrequency"], document["severity"], document["relevantTechniques"]) == (
        "12h", "High", ["T1059.001"]
    )  # fmt: skip


def test_a_wrapped_custom_detection_is_read(home: Path) -> None:
    body = json.loads(write([WATCH], "xdr-json", Settings()))
    document = {"schemaVersion": "1.0.0", "kind": "CustomDetection", "properties": body}
    (found,) = load(Source("x.yaml", yaml.safe_dump(document)))
    assert isinstance(found, NativeQuery)
    assert (found.meta.title, found.query) == ("Watch", WATCH.query)


def test_impacted_entities_name_columns_of_the_output(home: Path) -> None:
    (home / "old.yaml").write_text(LEGACY.replace("identifier: deviceId", "identifier: deviceName").replace(
        "DeviceName,", ""), encoding="utf-8")  # fmt: skip
    result = call("old.yaml", "-f", "xdr-json", "-t", "xdr", status=1)
    assert "error[E707]: impacted entities name columns that the query does not return: DeviceName" in result.stderr


def test_a_custom_detection_over_a_table_of_sentinel_is_kept_as_it_says(home: Path) -> None:
    query = "SigninLogs\n    | extend AccountObjectId = UserId\n    | project {}, AccountObjectId\n"
    user = LEGACY.replace("impactedDeviceAsset", "impactedUserAsset").replace("deviceId", "accountObjectId")
    start, end = user.index("DeviceNetworkEvents"), user.index("schedule:")
    (home / "x.yaml").write_text(user[:start] + query.format("TimeGenerated") + user[end:], encoding="utf-8")
    body = json.loads(call("x.yaml", "-f", "xdr-json", "-t", "xdr").stdout)
    assert body["detectionAction"]["alertTemplate"]["entityMappings"] == {
        "accounts": [{"aadUserIdColumn": "AccountObjectId"}]
    }
    (home / "x.yaml").write_text(user[:start] + query.format("Location") + user[end:], encoding="utf-8")
    result = call("x.yaml", "-f", "xdr-json", "-t", "xdr", status=1)
    assert "error[E708]: a custom detection must return TimeGenerated" in result.stderr


# --------------------------------------------------------------------------------------------------------------------
# What cannot be read is told at its place


@pytest.mark.parametrize(
    ("text", "code", "line", "column"),
    [
        ("", "E110", 1, 1),
        ("{", "E116", 1, 2),
        ('{"a": 1,}', "E116", 1, 8),
        ("{'a': 1}", "E116", 1, 2),
        ('{"a" 1}', "E116", 1, 6),
        ('{"a": 1}\n{"b": 2}', "E116", 2, 1),
        ('{"a": "x\ny"}', "E116", 1, 9),
        ('{"a": "\\x"}', "E116", 1, 8),
        ('{"a": "\\ud800"}', "E116", 1, 7),
        ('{"a": NaN}', "E116", 1, 7),
        ('{"a": 1e9999}', "E116", 1, 7),
        ('{"a": ' + "9" * 5000 + "}", "E116", 1, 7),
        ('{"a": 01}', "E116", 1, 7),
        ("[" * 100_000, "E105", 1, 66),
        ('{"query": "x", "name": "a",\n "name": "b"}', "E107", 2, 2),
        ("3", "E112", 1, 1),
        ("[]", "E112", 1, 1),
        ('{"$schema": "", "resources": []}', "E718", 1, 1),
        ('{"$schema": "", "resources": [3]}', "E718", 1, 31),
        ('{"$schema": "", "resources": [{"type": "a/b",\n "properties": {}}]}', "E718", 1, 40),
    ],
)
def test_bad_json_is_told_where_it_is(text: str, code: str, line: int, column: int) -> None:
    (found,) = load(Source("x.json", text))
    assert isinstance(found, Broken)
    told = found.diagnostics[0].as_dict()
    assert (told["code"], told["line"], told["column"]) == (code, line, column), told


@pytest.mark.parametrize(
    ("changes", "code", "at"),
    [
        ({"query": "[concat('SecurityEvent', '')]"}, "E710", "concat"),
        ({"displayName": "[resourceGroup().id]"}, "E710", "resourceGroup"),
        ({"query": None}, "E115", ""),
        ({"query": 7}, "E115", "7"),
        ({"query": " "}, "E115", ""),
        ({"queryFrequency": "[parameters('often')]"}, "E710", "often"),
        ({"queryFrequency": "PT2H", "queryPeriod": "PT1H"}, "E705", ""),
    ],
)
def test_a_rule_that_cannot_be_kept_is_an_error_at_its_place(
    changes: dict[str, Any], code: str, at: str, home: Path
) -> None:
    (home / "x.json").write_text(edited(ARM, **changes), encoding="utf-8")
    result = call("x.json", "-f", "arm", "--diagnostics-format", "json", status=1)
    found = [d for d in json.loads(result.stderr) if d["severity"] == "error"]
    assert [d["code"] for d in found] == [code]
    lines = (home / "x.json").read_text().splitlines()
    assert at in lines[found[0]["line"] - 1]
    assert result.stdout == ""


def test_groups_that_the_service_does_not_read_are_no_fault(home: Path) -> None:
    """The portal exports every list filled; only matchingMethod Selected reads them."""
    grouping = {"enabled": True, "reopenClosedIncident": False, "lookbackDuration": "PT5H", "groupByEntities": ["IP"]}
    for method, status in (("AllEntities", 0), ("Selected", 1)):
        incident = {"createIncident": True, "groupingConfiguration": {**grouping, "matchingMethod": method}}
        (home / "x.json").write_text(edited(ARM, incidentConfiguration=incident), encoding="utf-8")
        result = call("x.json", "-f", "arm", status=status)
        assert ("error[E707]" in result.stderr) == bool(status)


def test_one_fault_costs_one_rule(home: Path) -> None:
    template = json.loads(write([RULE, NEAR], "arm", Settings()))
    template["resources"][0]["properties"]["query"] = "[concat('a')]"
    template["resources"].append({"type": "Microsoft.Insights/workbooks", "name": "w", "properties": {}})
    template["resources"].append({**template["resources"][1], "kind": "Fusion"})
    (home / "x.json").write_text(json.dumps(template), encoding="utf-8")
    rows = [json.loads(line) for line in call("x.json", "-f", "ndjson", status=1).stdout.splitlines()]
    assert [(row["kind"], row["kql"]) for row in rows] == [
        ("native", None), ("native", QUERY), ("native", None), ("native", None)
    ]  # fmt: skip
    codes = [[d["code"] for d in row["diagnostics"] if d["severity"] == "error"] for row in rows]
    assert codes == [["E710"], [], ["E718"], ["E718"]]


def test_a_key_that_stands_twice_costs_the_rule_that_it_stands_in(home: Path) -> None:
    text = write([RULE, NEAR], "arm", Settings()).replace('"severity": "Low"', '"severity": "Low",\n"severity": "High"')
    (home / "x.json").write_text(text, encoding="utf-8")
    rows = [json.loads(line) for line in call("x.json", "-f", "ndjson", status=1).stdout.splitlines()]
    assert [[d["code"] for d in row["diagnostics"] if d["severity"] == "error"] for row in rows] == [[], ["E107"]]
    line = rows[1]["diagnostics"][0]["line"]
    assert text.splitlines()[line - 1] == '"severity": "High",'


def test_a_name_that_only_a_deployment_knows_costs_the_id(home: Path) -> None:
    template = json.loads(ARM)
    template["resources"][0]["name"] = "[concat(parameters('workspace'), '/x/', guid('y'))]"
    (home / "x.json").write_text(json.dumps(template), encoding="utf-8")
    assert "W756" in call("x.json", "-f", "arm").stderr
    template["resources"][0]["name"] = "[concat(parameters('workspace'), '/../../evil')]"
    (home / "x.json").write_text(json.dumps(template), encoding="utf-8")
    assert "evil" not in call("x.json", "-f", "arm").stdout


def test_an_export_may_be_larger_than_a_rule_file() -> None:
    decode("x.json", b" " * (MAX_SIZE + 1))
    for path, size in (("x.yml", MAX_SIZE), ("x.json", 10 * MAX_SIZE)):
        with pytest.raises(Sigma2KqlError, match="E102"):
            decode(path, b" " * (size + 1))


def test_a_folder_is_searched_for_yaml_alone(home: Path) -> None:
    (home / "rules").mkdir()
    (home / "rules" / "x.json").write_text(ARM, encoding="utf-8")
    (home / "rules" / "y.yml").write_text(LEGACY, encoding="utf-8")
    rows = [json.loads(line) for line in call("rules", "-f", "ndjson").stdout.splitlines()]
    assert [row["title"] for row in rows] == ["Encoded PowerShell"]


@given(st.text(max_size=40) | st.lists(st.sampled_from('{}[]:,"\\ tue019.-/*\n'), max_size=30).map("".join))
@settings(max_examples=400, deadline=None)
def test_json_is_read_as_the_standard_library_reads_it(text: str) -> None:
    """Where the standard library refuses, so does this reader, except for comments; where both read, they agree."""
    document = compose_json(Source("x.json", text))
    try:
        wanted = json.loads(text)
    except ValueError:
        assert document.root is None or "/" in text
        return
    doubled = any(problem.code == "E107" for problem in document.problems)
    strict = document.root is not None and not doubled
    assert strict or doubled or "Infinity" in text or "NaN" in text or "\\u" in text or "e" in text.lower()
    if document.root is not None and strict:
        assert plain(document.root) == wanted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_every_value_is_read_back(value: Any) -> None:
    document = compose_json(Source("x.json", json.dumps(value)))
    assert document.problems == []
    assert document.root is not None
    assert plain(document.root) == value


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_no_shape_of_an_export_raises(value: Any) -> None:
    for body in (
        {"$schema": "", "resources": value},
        {"$schema": "", "resources": [{"type": "x/alertRules", "kind": "Scheduled", "name": "a", "properties": value}]},
        {"$schema": "", "resources": [{"type": "x/savedSearches", "name": value, "properties": {"query": value}}]},
        {"value": [{"type": value, "name": "a", "properties": {"tags": value, "query": "T"}}]},
        {"queryCondition": {"queryText": "T"}, "detectionAction": value, "schedule": value},
        {"queryCondition": value, "detectionAction": {"alertTemplate": {"tactics": value, "impactedAssets": [value]}}},
    ):
        documents = load(Source("x.json", json.dumps(body)))
        assert documents
        assert all(isinstance(d, NativeQuery | Broken) for d in documents)
