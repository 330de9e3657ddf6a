"""Artifacts of hand-made rules: right values, valid against the published schemas, hostile metadata stays data."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from artifact_checks import bundle, render, write
from hypothesis import HealthCheck, given, settings as running, strategies as st

from sigma2kql.artifacts.artifact_text import companions, file_name
from sigma2kql.artifacts.attack import from_tags, limit
from sigma2kql.artifacts.describe import prepare
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.kinds import AlertRule, Detection, Hunt
from sigma2kql.artifacts.languages import BicepReader, HclReader, map_texts
from sigma2kql.artifacts.product_tables import facts, techniques
from sigma2kql.artifacts.read_back import read_artifact
from sigma2kql.artifacts.rule_texts import clean, clean_line
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source, Span
from sigma2kql.model.query_facts import Recurrence
from sigma2kql.model.tree import (
    And,
    Compiled,
    Correlation,
    LogSource,
    Metadata,
    NativeQuery,
    Origin,
    Query,
    Reference,
    Rule,
)
from sigma2kql.text.exported import arm_plain

RELAXED = running(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
GUID = "7610a4ea-c06d-495f-a2ac-0a696abcfd3b"
XDR_COLUMNS = dict.fromkeys(
    ("Timestamp", "DeviceId", "ReportId", "DeviceName", "RemoteIP", "RemoteUrl", "InitiatingProcessAccountSid",
     "InitiatingProcessAccountName", "InitiatingProcessAccountDomain", "InitiatingProcessId",
     "InitiatingProcessCommandLine", "InitiatingProcessSHA1"), "string")  # fmt: skip
ASIM_COLUMNS = dict.fromkeys(("DvcHostname", "DvcDomain", "SrcIpAddr", "DstIpAddr", "ActorUsername", "Hash"), "string")
META = Metadata(
    title="Winlogon connects out",
    id=GUID,
    status="test",
    level="critical",
    description="Detects winlogon.exe talking to a public address",
    author="A. Author",
    references=("https://example.org/a",),
    falsepositives=("Unknown",),
    tags=("attack.stealth", "attack.command-and-control", "attack.t1218.011", "attack.t1071"),
)
HOSTILE = (
    "[concat(resourceGroup().id)]", "{{ config.items() }}", "{% for x in y %}", "${jndi:x}", "%{if true}boo%{endif}",
    "$${x} $$${y} %%{z} %%%{w}", "'''", '"""', "`id`", "\\", "\\'", '\\"', "line one\nline two", "tab\there",
    "\u202eevil\u202c", "nul\x00bell\x07", "caf\u00e9 \U0001f600", "--- !!python/object:os.system", "*alias", "KQL",
    "[[x]]", "[", "]", "a: b # c", "yes", "0x1F", "1e3", "../../etc/passwd", "CON", "@{x}", "#{x}", "\u2028",
    "x" * 10240, "${{ secrets.X }}", "trailing \\", "{{StartTimeISO}}",
)  # fmt: skip
JOINED = st.lists(st.sampled_from(HOSTILE), max_size=3).map("".join)
TEXT = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=60), JOINED)


def origin(path: str = "rules/a.yml", index: int = 0) -> Origin:
    source = Source(path, "title: x\n")
    return Origin(source, index, Span(source, 0, 8))


def detection(
    meta: Metadata = META, table: str = "DeviceNetworkEvents", kql: str = "", path: str = "rules/a.yml"
) -> Compiled:
    rule = Rule(origin(path), meta, LogSource("network_connection", "windows"), And(()))
    text = kql or f'{table}\n| where InitiatingProcessFileName endswith @"\\winlogon.exe"'
    return Compiled(rule, "xdr", text, table, Query(table, And(()), And(())), "exact", XDR_COLUMNS)


def correlation(timespan: int, fresh: str = "") -> Compiled:
    """One that runs as often as it spans, at most once in five minutes and at least once an hour."""
    document = Correlation(origin(), META, "event_count", (Reference("a"),), (), timespan, None)
    often = min(max(timespan, 300), 3600)
    return Compiled(
        document,
        "xdr",
        "DeviceNetworkEvents\n| summarize n = count() by DeviceName",
        "DeviceNetworkEvents",
        recurrence=Recurrence(timespan, timespan, often, fresh, ("DeviceName",)),
    )


def native(data: Mapping[str, Any], query: str = "SecurityEvent\n| take 5\n") -> Compiled:
    source = Source("hunts/h.yaml", query)
    where = Span(source, 0, len(query))
    document = NativeQuery(Origin(source, 0, where), Metadata(), query, where, {**data, "query": query})
    return Compiled(document, "sentinel", query)


def properties(text: str, number: int = 0) -> dict[str, Any]:
    """The properties of a resource as Azure Resource Manager reads them."""
    found = map_texts(json.loads(text)["resources"][number]["properties"], arm_plain)
    assert isinstance(found, dict)
    return found


def codes(error: pytest.ExceptionInfo[Sigma2KqlError]) -> list[str]:
    return [d.code for d in error.value.diagnostics if d.severity == "error"]


# --------------------------------------------------------------------------------------------------------------------
# Values


def test_a_detection_becomes_an_analytics_rule() -> None:
    document = yaml.safe_load(render(detection(), "sentinel-yaml", Settings(), XDR_COLUMNS))
    assert list(document) == [
        "id", "name", "description", "severity", "requiredDataConnectors", "queryFrequency", "queryPeriod",
        "triggerOperator", "triggerThreshold", "status", "tactics", "relevantTechniques", "query", "entityMappings",
        "alertDetailsOverride", "eventGroupingSettings", "incidentConfiguration", "version", "kind",
    ]  # fmt: skip
    assert document["id"] == GUID
    assert document["severity"] == "High"  # Sentinel has no critical
    assert document["requiredDataConnectors"] == [
        {"connectorId": "MicrosoftThreatProtection", "dataTypes": ["DeviceNetworkEvents"]}
    ]
    assert (document["queryFrequency"], document["queryPeriod"]) == ("1h", "1h")
    assert document["tactics"] == ["DefenseEvasion", "CommandAndControl"]  # v19 stealth is v16 defense evasion
    assert document["relevantTechniques"] == ["T1218.011", "T1071"]
    assert document["description"].endswith(
        f"False positives: Unknown\nReferences: https://example.org/a\nAuthor: A. Author\nSigma rule: {GUID}"
    )
    assert [mapping["entityType"] for mapping in document["entityMappings"]] == [
        "Host",
        "Account",
        "IP",
        "URL",
        "Process",
    ]


def test_arm_splits_sub_techniques_and_keeps_everything_required() -> None:
    found = properties(render(detection(), "arm", Settings(), XDR_COLUMNS))
    assert (found["techniques"], found["subTechniques"]) == (["T1218", "T1071"], ["T1218.011"])
    assert (found["queryFrequency"], found["suppressionEnabled"], found["suppressionDuration"]) == (
        "PT1H",
        False,
        "PT1H",
    )
    assert found["triggerOperator"] == "GreaterThan"


def test_arm_in_both_forms() -> None:
    nested = json.loads(render(detection(), "arm", Settings(), XDR_COLUMNS))["resources"][0]
    extension = json.loads(render(detection(), "arm", Settings(arm_form="extension"), XDR_COLUMNS))["resources"][0]
    assert nested["type"] == "Microsoft.OperationalInsights/workspaces/providers/alertRules"
    assert nested["name"] == f"[concat(parameters('workspace'),'/Microsoft.SecurityInsights/{GUID}')]"
    assert "scope" not in nested
    assert (extension["type"], extension["name"]) == ("Microsoft.SecurityInsights/alertRules", GUID)
    assert extension["scope"] == "[resourceId('Microsoft.OperationalInsights/workspaces', parameters('workspace'))]"
    assert nested["properties"] == extension["properties"]


def test_a_custom_detection_has_one_tactic_and_an_impacted_device() -> None:
    prepared = prepare(detection(), "xdr-json", Settings(), XDR_COLUMNS)
    body = json.loads(write([prepared.artifact], "xdr-json", Settings()))
    template = body["detectionAction"]["alertTemplate"]
    assert body["id"] == f"sigma-{GUID}"
    assert (template["severity"], template["tactics"]) == (
        "high",
        [{"tactic": "DefenseEvasion", "techniques": [{"technique": "T1218", "subTechniques": ["T1218.011"]}]}],
    )
    assert template["entityMappings"]["hosts"] == [{"deviceIdColumn": "DeviceId", "nameColumn": "DeviceName"}]
    assert [d.code for d in prepared.diagnostics] == ["W759"]
    assert "CommandAndControl, T1071" in prepared.diagnostics[0].message


@pytest.mark.parametrize("columns", [{"Timestamp": "datetime", "DeviceName": "string"}, ASIM_COLUMNS, None])
def test_a_custom_detection_needs_the_identity_of_the_event(columns: Mapping[str, str] | None) -> None:
    compiled = replace(detection(), query=None) if columns is not None else correlation(300)
    with pytest.raises(Sigma2KqlError) as error:
        prepare(compiled, "xdr-json", Settings(), columns)
    assert codes(error) == ["E708"]


@pytest.mark.parametrize(
    ("timespan", "frequency", "period"),
    [(300, "5m", "10m"), (60, "5m", "10m"), (3600, "1h", "2h"), (86400, "1h", "25h"), (14 * 86400, "1h", "14d")],
)
def test_a_correlation_looks_back_by_its_time_span_and_one_run(timespan: int, frequency: str, period: str) -> None:
    document = yaml.safe_load(render(correlation(timespan), "sentinel-yaml", Settings()))
    assert (document["queryFrequency"], document["queryPeriod"]) == (frequency, period)
    assert document["eventGroupingSettings"] == {"aggregationKind": "AlertPerResult"}
    assert "entityMappings" not in document  # what the summary returns is not known here


def test_a_correlation_that_tells_new_from_old_gets_the_time_between_two_runs() -> None:
    fresh = "| where Timestamp > ago({since})"
    document = yaml.safe_load(render(correlation(1800, fresh), "sentinel-yaml", Settings()))
    assert (document["queryFrequency"], document["queryPeriod"]) == ("30m", "1h")
    assert document["query"].splitlines()[-1] == "| where Timestamp > ago(30m)"
    document = yaml.safe_load(render(correlation(1800, fresh), "sentinel-yaml", Settings(frequency=600)))
    assert document["query"].splitlines()[-1] == "| where Timestamp > ago(10m)"


@pytest.mark.parametrize(
    ("timespan", "settings", "found"),
    [
        (3600, {}, []),
        (3600, {"queryPeriod": "2h"}, []),
        (3600, {"queryPeriod": "119m"}, ["W765"]),
        (3600, {"queryPeriod": "90m", "queryFrequency": "30m"}, []),
        (3600, {"queryPeriod": "59m", "queryFrequency": "30m"}, ["E705"]),
        (14 * 86400, {}, ["W765"]),  # the longest look-back: the run's own time does not fit beside it
    ],
)
def test_a_look_back_that_cuts_the_windows_of_a_correlation_is_said(
    timespan: int, settings: dict[str, str], found: list[str]
) -> None:
    try:
        notes = prepare(correlation(timespan), "arm", merge(Settings(), settings)).diagnostics
    except Sigma2KqlError as error:
        notes = error.diagnostics
    assert [d.code for d in notes if d.code in ("W765", "E705")] == found


@pytest.mark.parametrize(
    "settings",
    [
        {"queryFrequency": "4m", "queryPeriod": "5m"},
        {"queryFrequency": "2h", "queryPeriod": "1h"},
        {"queryFrequency": "30m", "queryPeriod": "2d"},
        {"queryPeriod": "15d", "queryFrequency": "1d"},
    ],
)
def test_schedules_that_the_service_refuses(settings: dict[str, str]) -> None:
    with pytest.raises(Sigma2KqlError) as error:
        render(detection(), "arm", merge(Settings(), settings))
    assert set(codes(error)) == {"E705"}


def test_a_correlation_over_more_than_14_days_is_refused() -> None:
    with pytest.raises(Sigma2KqlError) as error:
        render(correlation(15 * 86400), "sentinel-yaml", Settings())
    assert codes(error) == ["E705"]


def test_near_real_time_has_no_schedule_and_refuses_correlations_and_other_workspaces() -> None:
    near = merge(Settings(), {"kind": "nrt"})
    document = yaml.safe_load(render(detection(), "sentinel-yaml", near, XDR_COLUMNS))
    assert document["kind"] == "NRT"
    assert not {"queryFrequency", "queryPeriod", "triggerOperator", "triggerThreshold"} & set(document)
    assert json.loads(render(detection(), "arm", near))["resources"][0]["kind"] == "NRT"
    for compiled in (correlation(300), detection(kql="union workspace('w').SecurityEvent | take 1")):
        with pytest.raises(Sigma2KqlError) as error:
            render(compiled, "sentinel-yaml", near)
        assert codes(error) == ["E706"]


@pytest.mark.parametrize(
    ("kql", "refused"),
    [
        ("DeviceNetworkEvents | where FileName in~ ('a')", "in~"),
        ("DeviceNetworkEvents // note\n| where A == 1", "comments"),
        ("DeviceNetworkEvents | where ipv4_is_private(RemoteIP)", "ipv4_is_private"),
        ("DeviceNetworkEvents | summarize count()", "summarize"),
    ],
)
def test_continuous_detections_know_few_operators(kql: str, refused: str) -> None:
    with pytest.raises(Sigma2KqlError) as error:
        render(detection(kql=kql), "xdr-json", Settings(kind="NRT"), XDR_COLUMNS)
    assert codes(error) == ["E714"]
    assert refused in str(error.value)


def test_a_plain_query_can_run_continuously() -> None:
    prepared = prepare(detection(), "xdr-json", Settings(kind="NRT"), XDR_COLUMNS)
    assert isinstance(prepared.artifact, Detection)
    assert json.loads(write([prepared.artifact], "xdr-json", Settings()))["schedule"] == {"frequency": "PT0S"}
    assert [d.code for d in prepared.diagnostics] == ["W759"]


@pytest.mark.parametrize(
    ("timespan", "frequency"), [(300, "PT1H"), (5 * 3600, "PT3H"), (86400, "PT12H"), (5 * 86400, "P1D")]
)
def test_the_look_back_of_a_custom_detection_decides_how_often_it_runs(timespan: int, frequency: str) -> None:
    body = json.loads(render(correlation(timespan), "xdr-json", Settings(), XDR_COLUMNS))
    assert body["schedule"]["frequency"] == frequency


def test_a_custom_detection_of_the_longest_span_says_what_it_may_miss() -> None:
    prepared = prepare(correlation(30 * 86400), "xdr-json", Settings(), XDR_COLUMNS)
    assert "W765" in [d.code for d in prepared.diagnostics]
    assert "W765" not in [
        d.code for d in prepare(correlation(29 * 86400), "xdr-json", Settings(), XDR_COLUMNS).diagnostics
    ]


def test_a_long_query_is_reported_or_becomes_a_function() -> None:
    long = detection(kql="DeviceNetworkEvents\n| where A in (" + ", ".join(f"'{n:05}'" for n in range(1500)) + ")")
    for name in ("sentinel-yaml", "hunting-yaml", "arm", "bicep", "terraform"):
        with pytest.raises(Sigma2KqlError) as error:
            render(long, name, Settings(), XDR_COLUMNS)
        assert codes(error) == ["E703"]
    with pytest.raises(Sigma2KqlError):  # a YAML rule has no place for a function
        render(long, "sentinel-yaml", Settings(function=True), XDR_COLUMNS)
    text = render(long, "arm", Settings(function=True), XDR_COLUMNS)
    function, rule = json.loads(text)["resources"]
    alias = "Sigma_" + GUID.replace("-", "")
    assert function["properties"]["functionAlias"] == alias
    assert function["properties"]["query"].startswith("DeviceNetworkEvents")
    assert rule["properties"]["query"] == alias + "\n"
    assert alias in rule["dependsOn"][0]
    assert render(read_artifact(text, "arm"), "arm", Settings()) == text


def test_queries_over_everything_are_refused() -> None:
    with pytest.raises(Sigma2KqlError) as error:
        render(detection(kql="union * | where A == 1"), "sentinel-yaml", Settings())
    assert codes(error) == ["E709"]


def test_a_failed_rule_has_no_artifact() -> None:
    with pytest.raises(Sigma2KqlError) as error:
        render(replace(detection(), kql=None), "arm", Settings())
    assert codes(error) == ["E704"]


# --------------------------------------------------------------------------------------------------------------------
# ATT&CK


@pytest.mark.parametrize(
    ("tags", "tactics", "techniques"),
    [
        (("attack.defense-impairment", "attack.t1685"), ["DefenseEvasion"], ["T1562.001"]),
        (("attack.defense_evasion", "attack.t1070.001", "attack.t1685.005"), ["DefenseEvasion"], ["T1070.001"]),
        (("attack.execution", "attack.t1003"), ["Execution", "CredentialAccess"], ["T1003"]),  # the tactic is added
        (("attack.t1659", "attack.impact", "attack.g0001", "attack.ds0005", "cve.2024-1"), ["Impact"], []),
        (("attack.stealth", "attack.defense-impairment"), ["DefenseEvasion"], []),
    ],
)
def test_tags_of_any_version_become_consistent_v16(
    tags: tuple[str, ...], tactics: list[str], techniques: list[str]
) -> None:
    document = yaml.safe_load(render(detection(replace(META, tags=tags)), "sentinel-yaml", Settings()))
    assert (document["tactics"], document["relevantTechniques"]) == (tactics, techniques)


def test_what_sentinel_does_not_know_is_said_and_kept_in_the_description() -> None:
    prepared = prepare(detection(replace(META, tags=("attack.execution", "attack.t1649"))), "arm", Settings())
    assert "W753" in [d.code for d in prepared.diagnostics]
    assert "Also tagged: T1649" in prepared.artifact.description


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize(
    ("tags", "lacks"),
    [
        ((), "no ATT&CK tactic and no technique"),
        (("attack.execution",), "no ATT&CK technique"),
        (("attack.credential-access", "attack.t1649"), "no ATT&CK technique"),  # Azure-Sentinel's table lacks it
    ],
)
def test_attack_that_is_missing_is_a_warning_where_it_is_asked_for(
    tags: tuple[str, ...], lacks: str, name: str
) -> None:
    prepared = prepare(detection(replace(META, tags=tags)), name, Settings(), XDR_COLUMNS)
    (note,) = [d for d in prepared.diagnostics if d.code == "W754"]
    assert lacks in note.message
    assert note.severity == ("warning" if name in ("sentinel-yaml", "hunting-yaml") else "info")
    assert "sigma2kql:" in note.hint
    assert note.span is not None


FALLBACK = {
    "fallbackTactics": ["Execution"],
    "fallbackTechniques": ["T1204", "T1003.001", "T1059.001"],
    "fallbackEntityMappings": [
        {"entityType": "Host", "fieldMappings": [{"identifier": "HostName", "columnName": "Nowhere"}]},
        {"entityType": "IP", "fieldMappings": [{"identifier": "Address", "columnName": "Line"}]},
    ],
}


@pytest.mark.parametrize(
    ("tags", "tactics", "ids"),
    [
        ((), ["Execution"], ["T1204", "T1059.001"]),
        (("attack.credential-access",), ["CredentialAccess"], ["T1003.001"]),
        (("attack.credential-access", "attack.t1649"), ["CredentialAccess"], ["T1003.001"]),
        (("attack.t1110",), ["CredentialAccess"], ["T1110"]),  # what a rule states is never replaced
        (("attack.impact",), ["Impact"], []),  # no technique of the fallback is one of its tactic
    ],
)
def test_a_fallback_serves_rules_that_state_nothing(tags: tuple[str, ...], tactics: list[str], ids: list[str]) -> None:
    settings = merge(Settings(), FALLBACK)
    prepared = prepare(detection(replace(META, tags=tags)), "sentinel-yaml", settings, XDR_COLUMNS)
    document = yaml.safe_load(write([prepared.artifact], "sentinel-yaml", settings))
    assert (document["tactics"], document["relevantTechniques"]) == (tactics, ids)
    assert ("W754" in [d.code for d in prepared.diagnostics]) == (ids == [])


def test_fallback_entities_are_those_that_the_query_returns() -> None:
    settings = merge(Settings(), FALLBACK)
    compiled = replace(detection(table="Lines_CL"), query=None)
    for columns, found in (
        ({"Line": "string"}, [("IP", "Line")]),
        ({"Other": "string"}, []),
        ({"Computer": "string", "Line": "string"}, [("Host", "Computer")]),
    ):
        prepared = prepare(compiled, "arm", settings, columns)
        assert isinstance(prepared.artifact, AlertRule)
        assert [(e.type, e.fields[0][1]) for e in prepared.artifact.entities] == found
        assert ("W755" in [d.code for d in prepared.diagnostics]) == (found == [])


def test_many_tactics_are_cut_in_yaml_alone() -> None:
    names = ("execution", "persistence", "discovery", "collection", "impact", "exfiltration")
    rule = detection(replace(META, tags=(*(f"attack.{n}" for n in names), "attack.t1485", "attack.t1048")))
    document = yaml.safe_load(render(rule, "sentinel-yaml", Settings()))
    assert document["tactics"] == ["Execution", "Persistence", "Discovery", "Impact", "Exfiltration"]
    assert document["relevantTechniques"] == ["T1485", "T1048"]
    assert len(properties(render(rule, "arm", Settings()))["tactics"]) == 6


@pytest.mark.corpus
def test_every_technique_of_the_corpus_has_its_tactic_and_no_tactic_is_lost(corpus: list[Path]) -> None:
    table = facts("attack")["tags"]
    seen = 0
    for path in corpus:
        found = re.search(r"^tags:\n((?: *- .*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        tags = re.findall(r"- *['\"]?([\w.-]+)", found[1]) if found else []
        whole = from_tags(tags)
        for attack in (whole, limit(whole, 5, 10)[0]):
            for technique in attack.techniques:
                assert set(techniques()[technique.split(".")[0]]) & set(attack.tactics), path
        stated = {table[tag[7:].replace("_", "-")] for tag in tags if tag[7:].replace("_", "-") in table}
        assert stated <= set(whole.tactics), path
        seen += bool(stated)
    assert seen > 3000


# --------------------------------------------------------------------------------------------------------------------
# Entities, details, settings


def test_entities_come_from_the_output_alone() -> None:
    rule = detection()
    found = yaml.safe_load(render(rule, "sentinel-yaml", Settings(), {"RemoteIP": "string", "DeviceId": "string"}))
    assert [(m["entityType"], m["fieldMappings"]) for m in found["entityMappings"]] == [
        ("IP", [{"identifier": "Address", "columnName": "RemoteIP"}])
    ]
    asim = yaml.safe_load(render(detection(table="_Im_NetworkSession"), "sentinel-yaml", Settings(), ASIM_COLUMNS))
    assert [m["entityType"] for m in asim["entityMappings"]] == [
        "Host",
        "IP",
        "IP",
    ]
    assert asim["tags"] == [{"Schema": "ASimNetworkSession"}]


def test_columns_of_many_values_name_no_entity() -> None:
    columns = {"DeviceName": "dynamic", "RemoteIP": "string"}
    found = yaml.safe_load(render(detection(), "sentinel-yaml", Settings(), columns))
    assert [m["entityType"] for m in found["entityMappings"]] == ["IP"]
    alerts = {"Entities": "string", "SystemAlertId": "string"}
    carried = yaml.safe_load(render(detection(table="SecurityAlert"), "sentinel-yaml", Settings(), alerts))
    assert carried["sentinelEntitiesMappings"] == [{"columnName": "Entities"}]


def test_entities_that_are_stated_are_checked_against_the_output() -> None:
    stated = merge(Settings(), {"entityMappings": [
        {"entityType": "Host", "fieldMappings": [{"identifier": "HostName", "columnName": "Nope"}]}
    ]})  # fmt: skip
    with pytest.raises(Sigma2KqlError) as error:
        render(detection(), "arm", stated, XDR_COLUMNS)
    assert codes(error) == ["E707"]
    assert "Nope" in str(error.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"customDetails": {"Remote": "Nope"}},
        {"alertDetailsOverride": {"alertDisplayNameFormat": "{{Nope}}"}},
        {"alertDetailsOverride": {"alertSeverityColumnName": "Nope"}},
        {"incidentConfiguration": {"createIncident": True, "groupingConfiguration": {
            "enabled": True, "matchingMethod": "Selected", "groupByEntities": ["Mailbox"]}}},
    ],
)  # fmt: skip
def test_every_column_that_is_named_is_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(Sigma2KqlError) as error:
        render(detection(), "arm", merge(Settings(), settings), XDR_COLUMNS)
    assert codes(error) == ["E707"]


def test_settings_are_placed_in_every_format() -> None:
    settings = merge(Settings(), {
        "severity": "low", "queryFrequency": "PT2H", "queryPeriod": "4h", "triggerOperator": "GreaterThan",
        "triggerThreshold": 5, "suppressionEnabled": True, "suppressionDuration": "3h", "version": "2.1.0",
        "customDetails": {"Remote": "RemoteIP"}, "eventGroupingSettings": {"aggregationKind": "AlertPerResult"},
        "alertDetailsOverride": {"alertDisplayNameFormat": "Winlogon on {{DeviceName}}"}, "enabled": False,
        "requiredDataConnectors": [{"connectorId": "X", "dataTypes": ["T"]}], "entityMappings": [],
        "incidentConfiguration": {"createIncident": False}, "tactics": ["Impact"], "relevantTechniques": [],
    })  # fmt: skip
    document = yaml.safe_load(render(detection(), "sentinel-yaml", settings, XDR_COLUMNS))
    assert (document["severity"], document["queryFrequency"], document["queryPeriod"]) == ("Low", "2h", "4h")
    assert (document["triggerThreshold"], document["suppressionDuration"], document["version"]) == (5, "3h", "2.1.0")
    found = properties(render(detection(), "arm", settings, XDR_COLUMNS))
    assert (found["enabled"], found["suppressionEnabled"], found["suppressionDuration"]) == (False, True, "PT3H")
    assert found["alertDetailsOverride"] == {"alertDisplayNameFormat": "Winlogon on {{DeviceName}}"}
    assert found["incidentConfiguration"]["createIncident"] is False
    assert "entityMappings" not in found
    terraform = render(detection(), "terraform", settings, XDR_COLUMNS)
    assert 'resource "azurerm_sentinel_alert_rule_scheduled"' in terraform
    assert 'query_frequency            = "PT2H"' in terraform


@pytest.mark.parametrize(
    ("mapping", "code"),
    [
        ({"queryfrequency": "1h"}, "E701"),
        ({"queryFrequency": "soon"}, "E702"),
        ({"severity": "huge"}, "E702"),
        ({"entityMappings": [{"entityType": "Ghost", "fieldMappings": []}]}, "E702"),
        (
            {"entityMappings": [{"entityType": "IP", "fieldMappings": [{"identifier": "Name", "columnName": "A"}]}]},
            "E702",
        ),
        ({"customDetails": {"x" * 21: "A"}}, "E702"),
        ({"customDetails": {"A": "a b"}}, "E702"),
        ({"alertDetailsOverride": {"alertDisplayNameFormat": "{{ A }}"}}, "E702"),
        ({"incidentConfiguration": {"groupingConfiguration": {"enabled": True, "matchingMethod": "Selected"}}}, "E702"),
        ({"triggerThreshold": True}, "E702"),
        ({"version": "1"}, "E702"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(mapping: dict[str, Any], code: str) -> None:
    span = origin().span
    with pytest.raises(Sigma2KqlError) as error:
        merge(Settings(), mapping, span)
    assert [(d.code, d.span) for d in error.value.diagnostics] == [(code, span)]


def test_a_rule_own_settings_win() -> None:
    base = merge(Settings(), {"queryFrequency": "1d", "severity": "low"})
    own = merge_rule(base, {"sigma2kql": {"queryFrequency": "30m"}, "other": 1})
    assert (own.frequency, own.severity) == (1800, "Low")
    assert merge_rule(base, {}) is base
    with pytest.raises(Sigma2KqlError):
        merge_rule(base, {"sigma2kql": "fast"})


# --------------------------------------------------------------------------------------------------------------------
# Native documents


def test_a_native_hunt_goes_to_every_format_with_its_own_values() -> None:
    data = {
        "id": "D8B86B33-5EB1-5C84-BAB7-D8CAFB67DADC", "name": "Hunt", "description": "Looks\nat it",
        "requiredDataConnectors": [{"connectorId": "SecurityEvents", "dataTypes": ["SecurityEvent"]}],
        "tactics": "CommandAndControl, Ransomware", "relevantTechniques": "T1219",
    }  # fmt: skip
    compiled = native(data)
    document = yaml.safe_load(render(compiled, "hunting-yaml", Settings()))
    assert document["id"] == "d8b86b33-5eb1-5c84-bab7-d8cafb67dadc"
    assert document["requiredDataConnectors"] == data["requiredDataConnectors"]
    assert (document["tactics"], document["relevantTechniques"]) == (["CommandAndControl"], ["T1219"])
    assert (document["query"], document["description"]) == ("SecurityEvent\n| take 5\n", "Looks\nat it")
    rule = yaml.safe_load(render(compiled, "sentinel-yaml", Settings()))
    assert rule["id"] != document["id"]
    assert rule["query"] == document["query"]
    search = json.loads(render(compiled, "hunting-arm", Settings()))["resources"][0]
    assert search["properties"]["category"] == "Hunting Queries"
    assert "savedSearches" in render(compiled, "bicep", Settings())
    assert "azurerm_log_analytics_saved_search" in render(compiled, "terraform", Settings())
    assert "alertRules" in render(compiled, "bicep", Settings(hunting=False))


def test_a_native_rule_keeps_its_schedule_over_general_settings() -> None:
    data = {
        "id": GUID, "name": "Rule", "description": "d", "severity": "Low", "queryFrequency": "1d", "queryPeriod": "7d",
        "triggerOperator": "GreaterThan", "triggerThreshold": 3, "kind": "Scheduled", "tactics": ["Impact"],
        "entityMappings": [
            {"entityType": "Host", "fieldMappings": [{"identifier": "FullName", "columnName": "Computer"}]}
        ],
    }  # fmt: skip
    document = yaml.safe_load(render(native(data), "sentinel-yaml", merge(Settings(), {"queryFrequency": "5m"})))
    assert document["id"] == GUID
    assert (document["queryFrequency"], document["queryPeriod"], document["triggerThreshold"]) == ("1d", "7d", 3)
    assert document["triggerOperator"] == "gt"
    assert document["entityMappings"] == data["entityMappings"]
    assert 'resource "azurerm_sentinel_alert_rule_scheduled"' in render(native(data), "terraform", Settings())


# --------------------------------------------------------------------------------------------------------------------
# Files, bundles, determinism


def test_bundles_keep_order_and_refuse_one_id_twice() -> None:
    other = detection(replace(META, id="aaaaaaaa-0000-4000-8000-000000000001", title="Other"))
    text = bundle([detection(), other], "arm", Settings(), {"DeviceNetworkEvents": XDR_COLUMNS})
    assert [row["properties"]["displayName"] for row in json.loads(text)["resources"]] == [META.title, "Other"]
    with pytest.raises(Sigma2KqlError) as error:
        bundle([detection(), detection()], "arm", Settings())
    assert codes(error) == ["E711"]
    with pytest.raises(Sigma2KqlError) as error:
        bundle([detection(), other], "sentinel-yaml", Settings())
    assert codes(error) == ["E712"]


def test_terraform_declares_its_variable_once() -> None:
    whole = bundle([detection()], "terraform", Settings(), {"DeviceNetworkEvents": XDR_COLUMNS})
    assert whole.count('variable "workspace_id"') == 1
    assert 'variable "workspace_id"' not in render(detection(), "terraform", Settings())
    assert 'variable "workspace_id"' in companions("terraform")["sigma2kql.tf"]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_rule_gives_the_same_ascii_bytes(name: str) -> None:
    first, second = (render(detection(), name, Settings(), dict(XDR_COLUMNS)) for _ in range(2))
    assert first == second
    assert first.isascii()
    assert first.endswith("\n")


def test_rules_without_an_id_are_told_apart_by_path_and_number() -> None:
    bare = replace(META, id=None)
    one = prepare(detection(bare), "arm", Settings()).artifact.id
    assert prepare(detection(bare), "arm", Settings()).artifact.id == one
    assert prepare(detection(bare, path="rules/b.yml"), "arm", Settings()).artifact.id != one
    assert prepare(detection(bare, path="rules\\a.yml"), "arm", Settings()).artifact.id == one
    assert prepare(detection(bare), "hunting-arm", Settings()).artifact.id != one


@RELAXED
@given(title=TEXT, identifier=TEXT)
def test_file_names_are_safe_and_unique(title: str, identifier: str) -> None:
    taken: set[str] = set()
    names = [file_name(title, identifier, "arm", taken) for _ in range(3)]
    assert len(set(names)) == 3
    for name in names:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,115}\.json", name)
        assert name.split(".")[0].split("_")[0] not in ("con", "nul", "com1", "lpt9")


# --------------------------------------------------------------------------------------------------------------------
# Hostile metadata


@st.composite
def hostile_rules(draw: st.DrawFn) -> Compiled:
    meta = Metadata(
        title=draw(TEXT),
        id=draw(st.one_of(st.none(), st.just(GUID), TEXT)),
        status=draw(st.one_of(st.none(), TEXT)),
        level=draw(st.one_of(st.none(), TEXT)),
        description=draw(TEXT),
        author=draw(TEXT),
        license=draw(st.one_of(st.none(), TEXT)),
        references=tuple(draw(st.lists(TEXT, max_size=2))),
        tags=tuple(draw(st.lists(st.one_of(TEXT, TEXT.map("attack.".__add__)), max_size=3))),
        falsepositives=tuple(draw(st.lists(TEXT, max_size=2))),
    )
    query = "DeviceNetworkEvents\n| where A == " + draw(TEXT.filter(lambda text: len(text) < 200 and "\r" not in text))
    return replace(detection(meta, kql=query, path=draw(TEXT)), query=None)  # no text of ours: left as it is


@RELAXED
@given(compiled=hostile_rules())
def test_hostile_metadata_stays_data(compiled: Compiled) -> None:
    meta = compiled.document.meta
    assert compiled.kql is not None
    query = compiled.kql.strip("\n") + "\n"
    try:
        alert = prepare(compiled, "arm", Settings(), XDR_COLUMNS).artifact
    except Sigma2KqlError as error:
        assert {d.code for d in error.diagnostics if d.severity == "error"} <= {"E709"}  # noqa: PT017
        return
    assert isinstance(alert, AlertRule)
    assert alert.query == query
    whole = clean_line(meta.title)
    assert alert.name == (whole if len(whole) <= 256 else whole[:253].rstrip() + "...") or not whole
    assert clean(meta.description)[:4000] in alert.description

    text = write([alert], "arm", Settings())
    found = properties(text)
    assert (found["displayName"], found["description"], found["query"]) == (alert.name, alert.description, query)
    for resource in json.loads(text)["resources"]:  # only our own expressions are evaluated
        assert re.fullmatch(r"\[concat\(parameters\('workspace'\),'[\w/.-]+'\)\]", resource["name"])
        for value in texts(resource["properties"]):
            assert not (value.startswith("[") and value.endswith("]")) or value.startswith("[[")

    document = yaml.safe_load(render(compiled, "sentinel-yaml", Settings(), XDR_COLUMNS))
    assert document["query"] == query
    assert len(document["name"]) <= 100
    assert (
        clean_line(meta.title) in " ".join(f"{document['name']} {document['description']}".split())
        or len(document["description"]) > 4990
    )

    assert bicep_values(write([alert], "bicep", Settings()))["description"] == alert.description
    assert bicep_values(write([alert], "bicep", Settings()))["query"] == query
    for provider in ("azapi", "azurerm"):
        assert hcl_values(write([alert], "terraform", Settings(terraform_provider=provider)))["query"] == query

    body = json.loads(render(compiled, "xdr-json", Settings(), XDR_COLUMNS))
    assert body["queryCondition"]["queryText"] == query.rstrip().rstrip(";").rstrip()
    hunt = prepare(compiled, "hunting-yaml", Settings(), XDR_COLUMNS).artifact
    assert isinstance(hunt, Hunt)
    assert yaml.safe_load(write([hunt], "hunting-yaml", Settings()))["query"] == query


def texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for child in children for text in texts(child)]


def bicep_values(text: str) -> dict[str, Any]:
    """The properties of the one resource, read strictly; the frame around them is fixed."""
    head, _, rest = text.partition("  properties: ")
    assert re.fullmatch(
        r"param workspace string\n\nresource \w+ '[\w./@-]+' = \{\n"
        r"  name: '\$\{workspace\}[\w./-]+'\n(?:  kind: '\w+'\n)?",
        head,
    )
    assert rest.endswith("\n}\n")
    found = BicepReader(rest[: -len("\n}\n")]).whole()
    assert isinstance(found, dict)
    return found


def hcl_values(text: str) -> dict[str, Any]:
    """Every attribute of the one resource at any depth, read strictly; blocks are read through their attributes."""
    found: dict[str, Any] = {}
    at = text.index("{\n") + 2
    while at < len(text):
        block = re.compile(r" *(\w+) \{\n| *\}\n").match(text, at)
        if block:
            at = block.end()
            continue
        name = re.compile(r" *(\w+) *= ").match(text, at)
        assert name is not None, text[at : at + 80]
        at = name.end()
        reference = re.compile(r"var\.workspace_id\n").match(text, at)
        if reference:
            at = reference.end()
            continue
        reader = HclReader(text)
        reader.at = at
        value = reader.value()
        assert text[reader.at] == "\n"
        at = reader.at + 1
        found[name[1]] = value
        if name[1] == "body":
            found |= value["properties"]
    return found


# --------------------------------------------------------------------------------------------------------------------
# Round trip


@st.composite
def settings_of_any_kind(draw: st.DrawFn) -> Settings:
    column = st.sampled_from(sorted(XDR_COLUMNS))
    chosen: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "severity": st.sampled_from(["low", "High", "critical"]),
                "kind": st.sampled_from(["Scheduled", "NRT"]),
                "queryFrequency": st.sampled_from(["5m", "PT1H", "90m", "1d"]),
                "queryPeriod": st.sampled_from(["1d", "25h", "14d"]),
                "triggerOperator": st.sampled_from(["gt", "lt", "eq", "ne"]),
                "triggerThreshold": st.integers(0, 10000),
                "suppressionEnabled": st.booleans(),
                "suppressionDuration": st.sampled_from(["1h", "PT5H", "24h"]),
                "enabled": st.booleans(),
                "version": st.sampled_from(["1.2.3", "10.0.1"]),
                "status": st.sampled_from(["Available", "InPreview"]),
                "customDetails": st.dictionaries(st.sampled_from(["Remote", "Who"]), column),
                "alertDetailsOverride": st.fixed_dictionaries({
                    "alertDisplayNameFormat": column.map(lambda name: f"[on {{{{{name}}}}}]"),
                    "alertDynamicProperties": st.lists(
                        st.fixed_dictionaries({"alertProperty": st.just("ProductName"), "value": column}), max_size=2
                    ),
                }),
                "incidentConfiguration": st.fixed_dictionaries({
                    "createIncident": st.booleans(),
                    "groupingConfiguration": st.fixed_dictionaries({
                        "enabled": st.booleans(),
                        "lookbackDuration": st.sampled_from(["5h", "P1D"]),
                        "matchingMethod": st.sampled_from(["AllEntities", "AnyAlert"]),
                        "groupByAlertDetails": st.lists(st.sampled_from(["DisplayName", "Severity"]), unique=True),
                    }),
                }),
                "sentinelEntitiesMappings": st.lists(st.fixed_dictionaries({"columnName": column}), max_size=2),
                "requiredDataConnectors": st.lists(
                    st.fixed_dictionaries({"connectorId": TEXT.filter(str.strip), "dataTypes": st.just(["T"])}),
                    max_size=2,
                ),
                "tags": st.lists(TEXT, max_size=2),
                "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
            },
        )
    )  # fmt: skip
    return merge(Settings(), chosen)


@RELAXED
@given(compiled=hostile_rules(), settings=settings_of_any_kind())
@pytest.mark.parametrize("name", ["sentinel-yaml", "hunting-yaml", "arm", "hunting-arm"])
def test_what_is_read_back_is_written_the_same(name: str, compiled: Compiled, settings: Settings) -> None:
    try:
        text = render(compiled, name, settings, XDR_COLUMNS)
    except Sigma2KqlError as error:
        assert {d.code for d in error.diagnostics if d.severity == "error"} <= {"E705", "E709"}  # noqa: PT017
        return
    again = read_artifact(text, name)
    assert render(again, name, settings) == text
    assert read_artifact(render(again, name, settings), name) == again


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "sentinel-yaml"),
        ("[1, 2]", "sentinel-yaml"),
        ("a: &a [x, *a]", "sentinel-yaml"),
        ("id: x\nname: n\ndescription: d\nseverity: Low\nquery: T\nstrange: 1", "sentinel-yaml"),
        ("id: x\nname: n\ndescription: d\nquery: T", "sentinel-yaml"),
        ("id: x\nname: n\ndescription: d\nseverity: 2024-99-99\nquery: T", "sentinel-yaml"),
        ("[" * 100_000, "arm"),
        ("[" * 100_000, "sentinel-yaml"),
        ('{"resources": []}', "arm"),
        ('{"resources": [{"type": "Microsoft.Compute/virtualMachines", "properties": {}}]}', "arm"),
        ("x", "bicep"),
    ],
)
def test_texts_that_cannot_be_kept_whole_are_refused(text: str, name: str) -> None:
    with pytest.raises(Sigma2KqlError) as error:
        read_artifact(text, name)
    assert codes(error) == ["E710"]


def test_an_expression_of_a_template_is_refused() -> None:
    template = json.loads(render(detection(), "arm", Settings()))
    template["resources"][0]["properties"]["severity"] = "[parameters('severity')]"
    with pytest.raises(Sigma2KqlError) as error:
        read_artifact(json.dumps(template), "arm")
    assert codes(error) == ["E710"]


# --------------------------------------------------------------------------------------------------------------------
# Other people's readers


def sample() -> list[tuple[str, Compiled, Settings, Mapping[str, str] | None]]:
    rich = merge(Settings(), {
        "customDetails": {"Remote": "RemoteIP"}, "queryFrequency": "1d", "queryPeriod": "2d", "kind": "Scheduled",
        "alertDetailsOverride": {"alertDisplayNameFormat": "On {{DeviceName}}",
                                 "alertDynamicProperties": [{"alertProperty": "ProductName", "value": "DeviceName"}]},
        "incidentConfiguration": {"createIncident": True, "groupingConfiguration": {
            "enabled": True, "matchingMethod": "Selected", "groupByEntities": ["Host"], "lookbackDuration": "P1D"}},
    })  # fmt: skip
    hostile = replace(META, title=" ".join(HOSTILE), description="\n".join(HOSTILE))
    return [
        ("plain", detection(), Settings(), XDR_COLUMNS),
        ("rich", detection(), rich, XDR_COLUMNS),
        ("nrt", detection(), Settings(kind="NRT"), XDR_COLUMNS),
        ("extension", detection(), Settings(arm_form="extension"), XDR_COLUMNS),
        ("azurerm", detection(), Settings(terraform_provider="azurerm"), XDR_COLUMNS),
        ("rich azurerm", detection(), replace(rich, terraform_provider="azurerm"), XDR_COLUMNS),
        ("hostile", detection(hostile), Settings(), XDR_COLUMNS),
        ("hostile azurerm", detection(hostile), Settings(terraform_provider="azurerm"), XDR_COLUMNS),
    ]


SCHEMAS = {
    "sentinel-yaml": "sentinel-analytics-yaml.strict.schema.json",
    "hunting-yaml": "sentinel-hunting-yaml.strict.schema.json",
    "arm": "arm-alert-rule.schema.json",
    "hunting-arm": "arm-saved-search.schema.json",
    "xdr-json": "xdr-detection-rule.schema.json",
}


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("case", sample(), ids=lambda case: case[0])
def test_artifacts_are_valid_against_the_published_schemas(
    name: str, case: tuple[str, Compiled, Settings, Mapping[str, str] | None], shared: Path
) -> None:
    import jsonschema

    _, compiled, settings, columns = case
    schema = json.loads((shared / "reference" / "deploy" / "schema" / SCHEMAS[name]).read_text(encoding="utf-8"))
    if name == "xdr-json":
        schema = {**schema["$defs"]["current"], "$defs": schema["$defs"]}
    text = render(compiled, name, settings, columns)
    document = json.loads(text) if name not in ("sentinel-yaml", "hunting-yaml") else yaml.safe_load(text)
    jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("case", sample(), ids=lambda case: case[0])
def test_terraform_is_read_by_an_hcl_parser(case: tuple[str, Compiled, Settings, Mapping[str, str] | None]) -> None:
    hcl2 = pytest.importorskip("hcl2")
    _, compiled, settings, columns = case
    text = companions("terraform")["sigma2kql.tf"] + render(compiled, "terraform", settings, columns)
    document = hcl2.load(io.StringIO(text))
    (resource,) = document["resource"]
    (kind,) = (key.strip('"') for key in resource)
    assert kind.startswith(("azapi_resource", "azurerm_sentinel_alert_rule_"))
