"""Events become rows as the mapping says, backwards; what cannot be said is a problem with the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sigma2kql.diagnostics.diagnostic import Source
from sigma2kql.map.table_file import read_table
from sigma2kql.model.tree import Table
from sigma2kql.proof.event_rows import keyword_text, raw_row, shape
from sigma2kql.proof.expressions import compute, invert, read

MAPPING = r"""
table: T
target: t
columns:
  TimeGenerated: datetime
  EventId: int
  Actor: string
  Target: string
  Direction: string
  Domain: string
  User: string
  Md5: string
  Sha1: string
  Kind: string
  Props: dynamic
  Extra: string
  Xml: string
  Line: string
  Url: string
  Flag: bool
  Local: string
  Remote: string
serves:
  - logsource: {category: test}
    where: {Kind: Wanted, EventId: [1, 2]}
keywords: [Line]
fields:
  Image: {any: [Actor, Target]}
  EventID: EventId
  Elevated: Flag
  Initiated: {values: {'true': {Direction: Out}, 'false': {Direction: In}}}
  Log: {constant: audit}
  Path: {property: Props, key: file.path}
  Task: {json: Extra, key: TaskName}
  Data1: {xml: Xml}
  USER: {pair: Line}
  Account: {any: [Domain, User], transform: user_split}
  Hashes: {any: [Md5, Sha1], transform: hashes, options: {MD5: Md5, SHA1: Sha1}}
  Side: {cases: [{when: {Direction: In}, column: Local}, {column: Remote}]}
  Query: {expression: 'extract(@"\?([^#]*)", 1, Url)', type: string, reads: [Url]}
absent: {Parent: not there}
"""


@pytest.fixture(scope="module")
def table() -> Table:
    return read_table(Source("T.yml", MAPPING), "t")


def row_of(table: Table, event: dict[str, Any], *fields: str) -> dict[str, Any]:
    shaped = shape(event, table, table.serves[0], fields or event)
    assert shaped.problems == ()
    return {
        k: v for k, v in shaped.row.items() if v not in ("", None) and k not in ("TimeGenerated", "Kind", "EventId")
    }


@pytest.mark.parametrize(
    ("event", "row"),
    [
        ({"Image": "a.exe"}, {"Actor": "a.exe"}),
        ({"Elevated": "true"}, {"Flag": True}),
        ({"Initiated": "TRUE"}, {"Direction": "Out"}),
        ({"Log": "audit"}, {}),
        ({"Path": "/tmp/x"}, {"Props": {"file": {"path": "/tmp/x"}}}),
        ({"Task": "t"}, {"Extra": '{"TaskName":"t"}'}),
        ({"USER": "root"}, {"Line": "USER=root"}),
        ({"Account": "D\\u"}, {"Domain": "D", "User": "u"}),
        ({"Account": "u"}, {"User": "u"}),
        ({"Hashes": "MD5=" + "0" * 32}, {"Md5": "0" * 32}),
        ({"Side": "1.2.3.4", "Initiated": "false"}, {"Direction": "In", "Local": "1.2.3.4"}),
        ({"Side": "1.2.3.4", "Initiated": "true"}, {"Direction": "Out", "Remote": "1.2.3.4"}),
        ({"Query": "a=b"}, {"Url": "?a=b"}),
        ({"Image": "", "Account": None}, {}),
    ],
)
def test_a_field_stands_where_the_mapping_says(table: Table, event: dict[str, Any], row: dict[str, Any]) -> None:
    assert row_of(table, event) == row


def test_xml_text_has_entities(table: Table) -> None:
    assert '<Data Name="Data1">a &lt;&amp;&quot;</Data>' in row_of(table, {"Data1": 'a <&"'})["Xml"]


def test_the_log_source_s_predicate_holds_and_the_time_is_the_event_s(table: Table) -> None:
    shaped = shape({"Image": "a", "UtcTime": "2025-01-02 03:04:05.678"}, table, table.serves[0], ["Image"])
    assert (shaped.row["Kind"], shaped.row["EventId"]) == ("Wanted", 1)
    assert shaped.row["TimeGenerated"].startswith("2025-01-02T03:04:05.678")


def test_the_event_s_own_id_is_kept_or_refused(table: Table) -> None:
    assert shape({"EventID": 2}, table, table.serves[0]).row["EventId"] == 2
    assert shape({"EventID": 3}, table, table.serves[0]).problems == (
        "`EventID` cannot hold this value beside the others in T",
    )


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        ({"Parent": "x"}, "`Parent` has no column in T: not there"),
        ({"Log": "other"}, "`Log` is always `audit` in T"),
        ({"Initiated": "maybe"}, "`Initiated` never is 'maybe' in T"),
        ({"Hashes": "zq"}, "`Hashes` cannot hold 'zq' in T"),
        ({"Elevated": "maybe"}, "`Elevated` cannot hold this value beside the others in T"),
    ],
)
def test_what_cannot_be_said_is_a_problem(table: Table, event: dict[str, Any], problem: str) -> None:
    assert shape(event, table, table.serves[0], event).problems == (problem,)


def test_two_fields_that_want_one_column_to_differ(table: Table) -> None:
    shaped = shape({"Image": "a", "USER": "x y"}, table, table.serves[0], ["Image", "USER"])
    assert shaped.row["Actor"] == "a"  # the others are right all the same
    assert shaped.problems == ("`USER` cannot hold this value beside the others in T",)


def test_other_fields_are_added_where_there_is_room(table: Table) -> None:
    shaped = shape({"Image": "a", "Path": "p", "Nowhere": 1}, table, table.serves[0], ["Image"])
    assert shaped.row["Props"] == {"file": {"path": "p"}}
    assert shaped.problems == ()


def test_keywords_are_found_in_the_text_of_the_row(table: Table) -> None:
    shaped = shape({"Image": "a"}, table, table.serves[0], ["Image"])
    assert keyword_text(shaped.row, {"Image": "a", "Message": "needle"}, table, table.serves[0])["Line"] == "a\nneedle"


def test_a_row_of_the_table_is_typed(table: Table) -> None:
    shaped = raw_row({"EventId": "7", "Flag": "false", "Props": {"a": 1}, "Actor": None, "Unknown": 1}, table)
    assert (shaped.row["EventId"], shaped.row["Flag"], shaped.row["Actor"]) == (7, False, "")
    assert raw_row({"EventId": "x"}, table).problems == ("column EventId is int and cannot hold 'x'",)


@pytest.mark.parametrize(
    ("expression", "value", "row"),
    [
        ('iff(A == "-", "", A)', "x", {"A": "x"}),
        ('iff(isempty(A), "", strcat("{", A, "}"))', "{x}", {"A": "x"}),
        ("coalesce(A, extract(@'<Data Name=\"A\">([^<]*)</Data>', 1, B))", "x", {"A": "x"}),
        ('tostring(split(A, "\\\\")[-1])', "x", {"A": "x"}),
        ('replace_string(A, "+", " ")', "a b", {"A": "a b"}),
        ("tostring(parse_json(A).host)", "x", {"A": json.dumps({"host": "x"})}),
        ('strcat("0x", tohex(tolong(A)))', "0x1f", {"A": 31}),
        ('extract(@"(?:^|;)k=([^;]*)", 1, A)', "v", {"A": "k=v"}),
        ('case(A !in ("", "-"), strcat(B, @"\\", A), "none")', "D\\u", {"A": "u", "B": "D"}),
    ],
)
def test_a_computed_column_is_inverted_and_computed(expression: str, value: str, row: dict[str, Any]) -> None:
    node = read(expression)
    assert compute(node, row.get) == value
    cells = [{cell[0]: part for cell, part in placing} for placing in invert(node, value)]
    stored = [{k: json.dumps({"host": v}) if "parse_json" in expression else v for k, v in c.items()} for c in cells]
    assert row in stored
