"""The profile of a workspace: its file, the queries that make it, and what their answers become."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.engines.kusto_language import KustoLanguage
from sigma2kql.map.target import load_target, target_names
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import Number, Text
from sigma2kql.workspace.inspection import counted_columns, make_profile, questions, read_answers
from sigma2kql.workspace.profile import Profile, Seen, TableProfile, read_profile, write_profile

MADE = datetime(2026, 11, 29, 12, tzinfo=UTC)
LAST = datetime(2026, 11, 29, 11, 59, 30, tzinfo=UTC)
PROFILE = Profile(
    MADE,
    7,
    10_000,
    {
        "SecurityEvent": TableProfile(
            "SecurityEvent",
            1234.5,
            LAST,
            {"EventID": 1.0, "CommandLine": 0.0, "odd name: #x": 0.25, "null": 0.0},
            ("Channel", "EventID"),
            (Seen(("Security", "4688"), 99, LAST), Seen(("", "tr'ick\"y\n: [x]"), 1)),
            whole=False,
        ),
        "Syslog": TableProfile("Syslog"),
    },
    frozenset({"WindowsEvent"}),
)


def test_a_profile_reads_back_as_itself() -> None:
    text = write_profile(PROFILE)
    assert read_profile(Source("workspace.yml", text)) == PROFILE
    assert write_profile(read_profile(Source("workspace.yml", text))) == text


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[]", 1, "a profile is one map"),
        ("version: 2\nmade: 2026-11-29\ntables: {}", 1, "version 2 of profiles"),
        ("version: 1\nmade: yesterday\ntables: {}", 2, "`made` is a time"),
        ("version: 1\nmade: 2026-11-29\ntabels: {}\ntables: {}", 3, "unknown key `tabels`"),
        ("version: 1\nmade: 2026-11-29\ntables:\n  T: 3", 4, "`T` is a map, or null"),
        ("version: 1\nmade: 2026-11-29\ntables:\n  T: {rows_a_day: -1}", 4, "`rows_a_day` is a number from 0"),
        ("version: 1\nmade: 2026-11-29\ntables:\n  T: {by: [A], values: [{is: [x, y]}]}", 4, "2 values for the 1 col"),
        ("version: 1\nmade: 2026-11-29\ntables:\n  T: {colums: {}}", 4, "unknown key `colums`"),
        ("version: 1\nmade: 2026-11-29\ntables: [T]", 3, "`tables` is a map of names"),
    ],
)
def test_what_is_wrong_in_a_profile_is_said_at_its_place(text: str, line: int, message: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        read_profile(Source("workspace.yml", text))
    found = [d for d in caught.value.diagnostics if message in d.message]
    assert [d.code for d in found] == ["E821"]
    assert found[0].as_dict()["line"] == line


# Rows as the portal exports them for the queries of `workspace inspect --print`.
ANSWERS = """Table,Kind,Name,Rows,"Last [UTC]"
SecurityEvent,rows,,700,"11/29/2026, 11:59:30.000 AM"
SecurityEvent,sample,,100,
SecurityEvent,schema,TimeGenerated,0,
SecurityEvent,schema,EventID,0,
SecurityEvent,schema,CommandLine,0,
SecurityEvent,column,TimeGenerated,100,
SecurityEvent,column,EventID,100,
SecurityEvent,column,CommandLine,25,
SecurityEvent,value,"[""Security"",""4688""]",600,"11/29/2026, 11:59:30.000 AM"
SecurityEvent,value,"[""Security"",""4624""]",100,"11/28/2026, 8:00:00.000 PM"
WindowsEvent,rows,,0,
WindowsEvent,schema,TimeGenerated,0,
"""


def _expected() -> Profile:
    table = TableProfile(
        "SecurityEvent",
        100.0,
        LAST,
        {"TimeGenerated": 1.0, "EventID": 1.0, "CommandLine": 0.25},
        ("Channel", "EventID"),
        (
            Seen(("Security", "4688"), 600, LAST),
            Seen(("Security", "4624"), 100, datetime(2026, 11, 28, 20, tzinfo=UTC)),
        ),
    )
    return Profile(MADE, 7, 10_000, {"SecurityEvent": table}, frozenset({"WindowsEvent"}))


def test_answers_make_a_profile() -> None:
    rows = read_answers(Source("answers.csv", ANSWERS))
    assert make_profile(rows, load_target("sentinel"), MADE, 7, 10_000) == _expected()


def test_answers_are_read_in_every_form_of_export() -> None:
    rows = [{k.partition(" [")[0]: v for k, v in row.items()} for row in csv.DictReader(io.StringIO(ANSWERS))]
    names = list(rows[0])
    forms = [
        json.dumps(rows),
        "\n".join(json.dumps(row) for row in rows),
        json.dumps({"tables": [{"columns": [{"name": n} for n in names], "rows": [list(r.values()) for r in rows]}]}),
    ]
    for text in forms:
        read = read_answers(Source("answers.json", text))
        assert make_profile(read, load_target("sentinel"), MADE, 7, 10_000) == _expected()


@pytest.mark.parametrize("text", ["", "a,b\n1,2", "[1, 2]", "{", "[[[[", '{"tables": [{}]}'])
def test_what_is_no_answer_is_said(text: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        read_answers(Source("answers.csv", text))
    assert [d.code for d in caught.value.diagnostics] == ["E822"]


def test_questions_are_bounded_and_ask_for_both_names_of_a_parser() -> None:
    asked = {q.table: q.kql for q in questions(load_target("asim"), (), 7, 500)}
    assert {"imProcessCreate", "_Im_ProcessCreate", "imRegistry", "_Im_RegistryEvent"} <= set(asked)
    for kql in asked.values():
        assert "ago(7d)" in kql
        assert "take 500" in kql


@pytest.mark.parametrize("name", ["sentinel", "xdr", "asim"])
def test_microsofts_parser_takes_every_question(name: str, kusto: KustoLanguage) -> None:
    own = {"OpenCanary_CL", "BitbucketAudit_CL", "EntraPimAlertIncidents_CL", "PaloAltoAppliance_CL"}
    for question in questions(load_target(name)):
        found = [f"{p.code} {p.text}" for p in kusto.check(question.kql)]
        assert found == [] or question.table in own, (question.table, found)


def test_every_discriminator_of_the_mappings_is_counted() -> None:
    """A column that decides which rows a log source has, by a whole value, is among those that a profile counts."""
    counted = counted_columns()
    free_text = {  # parts of paths and messages, which are content
        "FolderPath", "InitiatingProcessFolderPath", "SyslogMessage", "EventData", "RequestURL", "RawData", "FilePath",
        "ThreatTypes", "EventOriginalType",
    }  # fmt: skip
    lacking = {}
    for target in target_names():
        for entry in load_target(target).entries:
            table = entry.load()
            asked = {
                leaf.subject.text
                for serve in table.serves
                for leaf in leaves(serve.where)
                if leaf.subject.kind == "stored"
                and (isinstance(leaf.test, Number) or (isinstance(leaf.test, Text) and len(leaf.test.parts) == 1))
            }
            if missed := asked - free_text - set(counted.get(entry.name, ())):
                lacking[entry.name] = missed
    assert lacking == {}


def test_counted_columns_are_columns_of_their_table() -> None:
    tables = {entry.name: entry.load() for name in target_names() for entry in load_target(name).entries}
    wrong = {t: set(c) - set(tables[t].columns) for t, c in counted_columns().items() if t in tables}
    assert {t: c for t, c in wrong.items() if c} == {}
    assert set(counted_columns()) <= set(tables)
