"""Native Microsoft queries: what is found in their KQL, what is said about them, what is let through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sigma2kql.artifacts.kql_tokens import scan
from sigma2kql.artifacts.native_checks import validate_native
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span
from sigma2kql.load.documents import load
from sigma2kql.model.tree import Broken, Metadata, NativeQuery, Origin

GUID = "d8b86b33-5eb1-5c84-bab7-d8cafb67dadc"
GOOD: dict[str, Any] = {
    "id": GUID,
    "name": "Hunt",
    "description": "Looks at it",
    "requiredDataConnectors": [{"connectorId": "MicrosoftThreatProtection", "dataTypes": ["DeviceNetworkEvents"]}],
    "tactics": ["CommandAndControl"],
    "relevantTechniques": ["T1219"],
}
FIREWALL = """
let EphemeralRangeStart = 49152;
let AliasPath = (SourcePath:(FolderPath:string, FileName:string))
{
SourcePath
| extend AliasPath = tolower(case(
//Modern style | SecurityEvent
FolderPath startswith 'c:\\\\users\\\\', strcat('%UserProfile%', FolderPath),
FolderPath))
};
let ServerConnections =
DeviceNetworkEvents
| where ActionType in ('InboundConnectionAccepted','ListeningConnectionCreated')
| distinct DeviceId, LocalPort;
union (
DeviceNetworkEvents
| join kind=leftsemi ServerConnections on DeviceId, LocalPort
| invoke AliasPath()
),(
DeviceFileEvents
| extend Port = RemotePort
)
| summarize Ports = makeset(Port) by AliasPath
"""


def native(data: Mapping[str, Any], query: str = "DeviceNetworkEvents\n| take 5") -> NativeQuery:
    text = f"query: |\n{query}"
    source = Source("hunts/h.yaml", text)
    span = Span(source, 0, len(text))
    return NativeQuery(Origin(source, 0, span), Metadata(), query, span.sub(9, len(text)), {**data, "query": query})


def codes(found: tuple[Diagnostic, ...]) -> list[str]:
    return [d.code for d in found]


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SecurityEvent", ["SecurityEvent"]),
        ("SecurityEvent | where A == 'Other | join Third'", ["SecurityEvent"]),
        ("// Commented\nSecurityEvent // | union B\n| take 1", ["SecurityEvent"]),
        ("A | join kind=inner hint.strategy=shuffle (B | where x) on Id", ["A", "B"]),
        ("A | join (B) on Id | lookup kind=leftouter C on Id", ["A", "B", "C"]),
        ("union isfuzzy=true withsource=T A, (B | take 1), C | where x", ["A", "B", "C"]),
        ("let T = A | where x;\nT | union B", ["A", "B"]),
        ("let t = 5; let f = (x:string) { A | where y == x }; f('B')", ["A"]),
        ("A | where Id in ((B | project Id)) and Name in (list) and (Flag)", ["A", "B"]),
        ("_Im_Dns(starttime=ago(1d)) | where x", ["_Im_Dns"]),
        ("let ips = toscalar(A | summarize make_set(Ip)); B | where Ip in (ips)", ["A", "B"]),
        ("datatable(a:string)['x'] | join A on a", ["A"]),
        ("A | extend x = (Flag) | where @'un\\' == x", ["A"]),
        ("A | where x == h'secret|B' or x == ```B\n| C```", ["A"]),
        ("print x = 'A'", []),
        (FIREWALL, ["DeviceNetworkEvents", "DeviceFileEvents"]),
    ],
)
def test_tables_are_found_where_rows_come_from(query: str, tables: list[str]) -> None:
    assert list(scan(query).tables) == tables


def test_functions_operators_and_comments_are_found_outside_texts() -> None:
    read = scan("A | where b == 'makelist(x)' // makeset(y)\n| summarize c = makeset(d)")
    assert "makeset" in read.functions
    assert "makelist" not in read.functions
    assert read.operators == ("where", "summarize")
    assert read.comments
    assert scan("search * | take 1").everything == ("search *",)
    assert scan("union * | take 1").everything == ("union *",)
    assert scan("A | where x == 'union *'").everything == ()


@settings(deadline=None)
@given(st.text(alphabet="aA|()';\"@`~\n/,= *{}letunionjoinin", max_size=80))
def test_any_text_can_be_scanned(query: str) -> None:
    read = scan(query)
    assert all(table in query for table in read.tables)


def test_a_good_document_has_nothing_said_about_it() -> None:
    assert validate_native(native(GOOD)) == ()


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({"id": None}, "W756", "no GUID"),
        ({"id": "not-a-guid"}, "W756", "no GUID"),
        ({"id": GUID.upper()}, "W756", "lower case"),
        ({"description": None}, "W756", "no description"),
        ({"tactics": "CommandAndControl"}, "W756", "`tactics` is a text"),
        ({"relevantTechniques": "T1219"}, "W756", "`relevantTechniques` is a text"),
        ({"relevantTechniques": None, "techniques": ["T1219"]}, "W756", "`techniques` is read as"),
        ({"tactics": ["CommandAndControl", "Ransomware"]}, "W753", "Ransomware"),
        ({"tactics": ["Execution"]}, "W764", "CommandAndControl is added"),
        ({"severity": "Huge"}, "W756", "`severity` is left out"),
        ({"strange": 1}, "W756", "`strange`"),
        ({"entityMappings": [{"entityType": "Ghost"}]}, "W756", "`entityMappings` is left out"),
        ({"queryFrequency": "1d", "queryPeriod": "1h"}, "E705", "shorter"),
        ({"queryPeriod": "30d"}, "E705", "14 days"),
        ({"requiredDataConnectors": []}, "W762", "DeviceNetworkEvents"),
        ({"name": ""}, "E713", "no name"),
    ],
)
def test_every_loose_form_is_said(change: Mapping[str, Any], code: str, part: str) -> None:
    found = validate_native(native({**GOOD, **change}))
    assert [code] == [d.code for d in found if part in d.message]


def test_deprecated_functions_are_pointed_at() -> None:
    document = native(GOOD, "DeviceNetworkEvents\n| summarize makeset(RemoteIP), makelist(RemotePort) by DeviceId")
    found = validate_native(document)
    assert codes(found) == ["W757", "W757"]
    assert [d.hint for d in found] == ["use `make_set`", "use `make_list`"]
    spans = [d.span for d in found if d.span is not None]
    assert [span.source.text[span.start : span.end] for span in spans] == ["makeset", "makelist"]


def test_other_connectors_that_bring_the_table_are_enough() -> None:
    stated = {"requiredDataConnectors": [{"connectorId": "WindowsSecurityEvents", "dataTypes": ["SecurityEvents"]}]}
    assert validate_native(native({**GOOD, **stated}, "SecurityEvent | take 1")) == ()


def test_one_connector_may_stand_without_a_list() -> None:
    stated = {"requiredDataConnectors": {"connectorId": "SecurityEvents", "dataTypes": "SecurityEvent"}}
    assert validate_native(native({**GOOD, **stated}, "SecurityEvent | take 1")) == ()


def test_an_empty_query_is_an_error_and_a_long_one_a_warning() -> None:
    assert codes(validate_native(native(GOOD, "  \n"))) == ["E713"]
    assert codes(validate_native(native(GOOD, "DeviceNetworkEvents" + " " * 10_000))) == ["W763"]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["id", "name", "description", "severity", "tactics", "relevantTechniques", "techniques", "tags",
                         "entityMappings", "customDetails", "queryFrequency", "requiredDataConnectors", "kind", "x"]),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=20)),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
            max_leaves=6,
        ),
    )
)  # fmt: skip
def test_no_document_makes_it_fail(data: dict[str, Any]) -> None:
    for found in validate_native(native(data)):
        assert found.severity in ("error", "warning")
        assert found.message


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        ("SigninLogs | extend A = UserId | where A == 'x'", ("SigninLogs",)),
        ("SigninLogs | project A = UserId | extend B = A", ("SigninLogs",)),
        ("let X = SigninLogs | where A == 1; X | take 5", ("SigninLogs",)),
        ("let N = toscalar(SigninLogs | count); AuditLogs | where C == N", ("SigninLogs", "AuditLogs")),
    ],
)
def test_a_column_behind_an_equals_sign_is_no_table(query: str, tables: tuple[str, ...]) -> None:
    assert scan(query).tables == tables


def test_a_problem_behind_the_last_rule_of_an_export_is_told_with_it() -> None:
    rule = '{"type":"Microsoft.SecurityInsights/alertRules","kind":"Scheduled","name":"%s","properties":%s}'
    body = '{"displayName":"x","query":"T","severity":"Low"}'
    text = '{"value":[' + ",".join(rule % (name, body) for name in "ab") + '],"c":1,"c":2}'
    first, last = load(Source("x.json", text))
    assert isinstance(first, NativeQuery)
    assert isinstance(last, Broken)
    assert [problem.code for problem in last.diagnostics] == ["E107"]
