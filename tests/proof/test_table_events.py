"""Rules that few generated events fit: events are built with the rows of the table in view, or a proof says why none
can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sigma2kql.api import Compiler, Input, Options, load_input
from sigma2kql.model.tree import Rule
from sigma2kql.proof import Result, Subject
from sigma2kql.proof.generate import generate
from sigma2kql.proof.labelled_rows import room_of
from sigma2kql.proof.prove import prove
from sigma2kql.proof.refute import contradiction, one_sided
from sigma2kql.proof.row_capacity import Room, synonym
from sigma2kql.proof.table_events import fitted
from sigma2kql.reference.evaluate import evaluate

pytest.importorskip("duckdb_kql")


def subject(logsource: str, detection: str, target: str) -> Subject:
    text = f"title: t\nid: 5f7b4c1e-0000-4000-8000-000000000001\nlogsource: {{{logsource}}}\ndetection:\n{detection}"
    (rule,) = load_input(Input("r.yml", None, text.encode()))
    assert isinstance(rule, Rule), rule
    compiler = Compiler(Options(target=target))
    done, mapped = compiler.compile(rule), compiler.map(rule)
    return Subject(done, compiler.where(rule), mapped.table, mapped.serve)


def proved(logsource: str, detection: str, target: str) -> Result:
    (result,) = prove([subject(logsource, detection, target)], 24)
    return result


SOURCES: Mapping[str, str] = {
    "web": "category: webserver",
    "proxy": "category: proxy",
    "registry": "category: registry_set, product: windows",
    "process": "category: process_creation, product: windows",
    "access": "category: process_access, product: windows",
    "file": "category: file_event, product: linux",
    "security": "product: windows, service: security",
    "defender": "product: windows, service: windefend",
    "cluster": "category: application, product: kubernetes, service: audit",
    "office": "product: m365, service: audit",
    "signin": "product: azure, service: signinlogs",
    "wmi": "category: wmi_event, product: windows",
}

# What makes each of them hard: one column under two fields, text of one kind only, a list of values, JSON.
HARD = [
    ("sentinel", "web", "{cs-uri-stem|contains: /shell/up, cs-uri-query|contains|all: [cmd=, run=]}"),
    ("asim", "proxy", "{c-uri|contains: /check.php, c-uri-query|contains|all: [lng=, ver=]}"),
    ("xdr", "proxy", "{c-uri|contains: /check.php, c-uri-query|contains|all: [lng=, ver=]}"),
    ("xdr", "proxy", "{cs-host: api.example.org, c-uri|contains: chat=1}"),
    ("xdr", "registry", "{TargetObject|contains: '\\Zones\\3\\', Details|contains: 'DWORD (0x00000001)'}"),
    ("xdr", "access", "{TargetImage|endswith: '\\lsass.exe', GrantedAccess: '0x1FFFFF'}"),
    ("xdr", "file", "{TargetFilename|re: '[^/]{90,}$'}"),
    ("xdr", "defender", "{EventID: 1121, ProcessName|endswith: '\\psexesvc.exe'}"),
    ("sentinel", "cluster", "{verb: create, capabilities: '*'}"),
    ("sentinel", "office", "{Operation: UserLoggedIn, RequestType: 'Cmsi:Cmsi', ResultStatus: Success}"),
    ("sentinel", "signin", "{AuthenticationRequirement: multiFactorAuthentication, Status|contains: Denied}"),
    ("asim", "security", "{EventID: 1102, Provider_Name: Microsoft-Windows-Eventlog}"),
]


@pytest.mark.parametrize(("target", "source", "selection"), HARD)
def test_ten_events_and_both_labels_where_rows_are_particular(target: str, source: str, selection: str) -> None:
    result = proved(SOURCES[source], f"  s: {selection}\n  condition: s\n", target)
    assert result.status == "passed", result
    assert result.events >= 10
    assert 5 <= result.positive <= result.events - 5


def test_a_filter_that_asks_for_a_number_is_passed_by_another_number() -> None:
    detection = "  s: {ParentImage|endswith: '\\a.exe'}\n  f: {LogonId: '0x3e7'}\n  n: {LogonId: null}\n"
    result = proved(SOURCES["process"], detection + "  condition: s and not f and not n\n", "xdr")
    assert (result.status, result.positive) == ("passed", 12)


def test_fitted_events_have_a_row_and_the_label_of_the_evaluator() -> None:
    hard = subject(SOURCES["web"], f"  s: {HARD[0][2]}\n  condition: s\n", "sentinel")
    room = room_of(hard)
    assert hard.where is not None
    samples = fitted(hard.where, room, 24, "1")
    assert samples == fitted(hard.where, room_of(hard), 24, "1")
    assert {sample.matches for sample in samples} == {True, False}
    for sample in samples:
        assert evaluate(hard.where, sample.event) == sample.matches
        assert room.takes(sample.event), sample


# --------------------------------------------------------------------------------------------------------------------
# Why there are none


def room_for(source: str, selection: str, target: str) -> tuple[Subject, Room]:
    found = subject(SOURCES[source], f"  s: {selection}\n  condition: s\n", target)
    return found, room_of(found)


def test_the_values_that_a_table_can_say() -> None:
    found, room = room_for("wmi", "{EventID: [19, 20, 21], User: x}", "sentinel")
    assert room.closed("EventID") == ["19", "20", "21"]
    assert room.closed("User") is None
    assert found.where is not None
    assert one_sided(found.where, room, False) == ""


def test_a_log_source_of_which_every_row_matches_is_told() -> None:
    found, room = room_for("wmi", "{EventID: [19, 20, 21]}", "sentinel")
    assert found.where is not None
    assert "`EventID` is '19' or '20' or '21' there" in one_sided(found.where, room, False)
    assert one_sided(found.where, room, True) == ""
    result = proved(SOURCES["wmi"], "  s: {EventID: [19, 20, 21]}\n  condition: s\n", "sentinel")
    assert (result.status, result.positive) == ("passed", result.events)
    assert result.reason.startswith("no row of this log source in Event can fail")
    part = proved(SOURCES["wmi"], "  s: {EventID: 19}\n  condition: s\n", "sentinel")
    assert 0 < part.positive < part.events


def test_values_that_a_table_does_not_tell_apart() -> None:
    found, room = room_for("security", "{EventID: 1102, Provider_Name: Microsoft-Windows-Eventlog}", "xdr")
    assert found.where is not None
    event: dict[str, Any] = {"EventID": "517", "Provider_Name": "Microsoft-Windows-Eventlog"}
    assert "does not tell `EventID` '517' from '1102'" in synonym(
        found.where, event, room.table, room.serve, room.names
    )


def test_a_file_name_that_stands_for_a_path_is_set_aside() -> None:
    """Some rows hold `tool.exe` for a path that ends so: the event whose whole path is `tool.exe` has the same row."""
    detection = "  s: {DestinationPort: 443}\n  f: {Image|endswith: '\\tool.exe'}\n  condition: s and not f\n"
    found = subject("category: network_connection, product: windows", detection, "asim")
    assert found.where is not None
    assert found.table is not None
    assert found.serve is not None
    for image, told in (("tool.exe", True), ("other.exe", False), ("C:\\tool.exe", False), ("", False)):
        event = {"DestinationPort": 443, "Image": image}
        assert bool(synonym(found.where, event, found.table, found.serve, ["DestinationPort", "Image"])) == told


CONTRADICTIONS = [
    "  s: {A: abc}\n  f: {A|contains: B}\n  condition: s and not f",
    "  s: {A: abc, B|contains: x}\n  t: {A: abd}\n  condition: s and t",
    "  s: {A|startswith: 'C:\\Windows\\'}\n  f: {A|startswith: 'c:\\win'}\n  condition: s and not f",
    "  s: {A: abc}\n  t: {A|re: '^[0-9]+$'}\n  condition: s and t",
    "  s: {A: null}\n  t: {A|contains: x}\n  condition: s and t",
    "  s: {A: abc}\n  t: {A: null}\n  condition: s and t",
    "  s: {A: [ab, ac]}\n  f: {A|startswith: a}\n  condition: s and not f",
]
CONSISTENT = [
    "  s: {A: abc}\n  f: {A|contains: d}\n  condition: s and not f",
    "  s: {A|contains: x}\n  t: {A|contains: y}\n  condition: s and t",
    "  s: {A|contains: bc}\n  f: {A|contains: abc}\n  condition: s and not f",
    "  s: {A: ABC}\n  t: {A|re: '^abc$'}\n  condition: s and t",
    "  s: {A: abc}\n  t: {A|re: '[^A]bc'}\n  condition: s and t",
    "  s: {A: abc}\n  f: {A|re: '^ABC$'}\n  condition: s and not f",
    "  s: {A: abc}\n  f: {A|cased: abc}\n  condition: s and not f",
    "  s: {A: abc}\n  t: {B: abd}\n  condition: s and t",
    "  s: {A: [ab, cd]}\n  f: {A|startswith: a}\n  condition: s and not f",
    "  s: {A: abc}\n  t: {A: null}\n  condition: s or t",
]


def where_of(detection: str) -> Any:
    text = f"title: t\nlogsource: {{category: test}}\ndetection:\n{detection}"
    (rule,) = load_input(Input("r.yml", None, text.encode()))
    assert isinstance(rule, Rule), rule
    return rule.where


@pytest.mark.parametrize("detection", CONTRADICTIONS)
def test_a_contradiction_is_seen(detection: str) -> None:
    assert contradiction(where_of(detection)).startswith("no event can match: `A` must be ")


@pytest.mark.parametrize("detection", CONSISTENT)
def test_no_contradiction_is_claimed_where_there_is_none(detection: str) -> None:
    assert contradiction(where_of(detection)) == ""


def test_a_tautology_is_a_contradiction_of_the_other_label() -> None:
    where = where_of("  s: {A: null}\n  t: {A: '*'}\n  condition: s or t")
    assert contradiction(where) == ""
    assert contradiction(where, wanted=False).startswith("no event can fail: `A` must be ")


ATOMS = st.tuples(
    st.sampled_from(["", "|contains", "|startswith", "|endswith", "|re", "|cased", "|contains|cased"]),
    st.sampled_from(["a", "ab", "abc", "B", "bc", "aBc", "b*c", "x"]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ATOMS, min_size=1, max_size=3), st.lists(ATOMS, max_size=2))
def test_what_is_called_contradictory_never_matches(asked: list[Any], barred: list[Any]) -> None:
    """No word of a small alphabet matches such a rule, nor does an event generated from it."""
    lines = [f"  s{i}: {{A{how}: '{text}'}}" for i, (how, text) in enumerate(asked)]
    lines += [f"  f{i}: {{A{how}: '{text}'}}" for i, (how, text) in enumerate(barred)]
    condition = " and ".join([f"s{i}" for i in range(len(asked))] + [f"not f{i}" for i in range(len(barred))])
    where = where_of("\n".join([*lines, f"  condition: {condition}"]))
    if not contradiction(where):
        return
    words = [""]
    for _ in range(4):
        words += [word + char for word in words if len(word) < 4 for char in "aAbBcCx"]
        words = list(dict.fromkeys(words))[:3000]
    assert not any(evaluate(where, {"A": word}) for word in words)
    assert not any(sample.matches for sample in generate(where, 12, "1"))
