"""Live or blind: rules against profiles whose answer is plain to see; and what differs between two profiles."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

import sigma2kql
from sigma2kql.model.tree import Query
from sigma2kql.workspace.changes import changes
from sigma2kql.workspace.liveness import liveness
from sigma2kql.workspace.profile import Profile, Seen, TableProfile

MADE = datetime(2026, 11, 29, 12, tzinfo=UTC)
RECENT = MADE - timedelta(minutes=5)


def table(
    name: str, by: str = "", values: str = "", columns: str = "", rows: float = 1000, **more: object
) -> TableProfile:
    """`values`: combinations, `;` between two and `,` within one; `columns`: names, `!` before one never filled."""
    seen = tuple(Seen(tuple(one.strip().split(",")), 1000, RECENT) for one in values.split(";") if one.strip())
    shares = {name.lstrip("!"): 0.0 if name.startswith("!") else 1.0 for name in columns.split()}
    return TableProfile(name, rows, RECENT, shares, tuple(by.split()), seen, **more)  # type: ignore[arg-type]


def profile(*tables: TableProfile, absent: tuple[str, ...] = ()) -> Profile:
    return Profile(MADE, 7, 10_000, {one.name: one for one in tables}, frozenset(absent))


def query(detection: str, logsource: str, name: str, target: str = "sentinel") -> Query:
    text = f"title: t\nlogsource: {logsource}\ndetection:\n    s: {detection}\n    condition: s\n"
    (done,) = sigma2kql.convert(text, target=target, tables=(name,))
    assert done.query is not None, done.diagnostics
    return done.query


SECURITY = "{product: windows, service: security}"
LOGON = "{EventID: 4625, TargetUserName: x}"
EITHER = "{EventID: [4625, 4740], TargetUserName: x}"


@pytest.mark.parametrize(
    ("detection", "one", "state", "reason"),
    [
        (LOGON, table("SecurityEvent", "EventID", "4625;4688"), "live", ""),
        (LOGON, table("SecurityEvent", "EventID", "4688"), "blind", "SecurityEvent has no row with EventID 4625"),
        (EITHER, table("SecurityEvent", "EventID", "4740"), "live", ""),
        (EITHER, table("SecurityEvent", "EventID", "4688"), "blind", "no row with EventID 4625 or 4740"),
        # more kinds of event than were counted: the one that is asked for may be among them
        (LOGON, table("SecurityEvent", "EventID", "4688", whole=False), "live", ""),
        # a table that is not counted by kind of event says nothing of them
        (LOGON, table("SecurityEvent"), "live", ""),
        (LOGON, table("SecurityEvent", rows=0), "blind", "has no row in the 7 days before 2026-11-29"),
        (
            LOGON,
            table("SecurityEvent", "EventID", "4625", "TimeGenerated EventID"),
            "blind",
            "no column `TargetUserName`",
        ),
        ("{EventID: 4625}", table("SecurityEvent", "EventID", "4625", "TimeGenerated EventID"), "live", ""),
        (
            LOGON,
            table("SecurityEvent", "EventID", "4625", "TimeGenerated EventID !TargetUserName"),
            "blind",
            "`TargetUserName` is empty in about 1,000 sampled rows",
        ),
    ],
)
def test_a_rule_of_security_events(detection: str, one: TableProfile, state: str, reason: str) -> None:
    found = liveness(query(detection, SECURITY, "SecurityEvent"), profile(one))
    assert found is not None
    assert found.state == state
    assert reason in "; ".join(found.reasons)


def test_what_the_rule_forbids_is_no_demand() -> None:
    asked = query("{EventID|neq: 4625}", SECURITY, "SecurityEvent")
    found = [liveness(asked, profile(table("SecurityEvent", "EventID", values))) for values in ("4625", "4625;4688")]
    assert [one.state for one in found if one is not None] == ["blind", "live"]


def test_values_are_met_together() -> None:
    """Sysmon's process events in Event are there where one kind of row has all three, not each somewhere."""
    asked = query("{Image: x}", "{product: windows, category: process_creation}", "Event")
    by = "EventLog Source EventID"
    apart = table("Event", by, "Microsoft-Windows-Sysmon/Operational,Microsoft-Windows-Sysmon,3;System,Disk,1")
    there = table("Event", by, "Microsoft-Windows-Sysmon/Operational,Microsoft-Windows-Sysmon,1")
    found = [liveness(asked, profile(one)) for one in (apart, there)]
    assert [one.state for one in found if one is not None] == ["blind", "live"]


def test_a_table_that_does_not_exist_or_fell_silent() -> None:
    asked = query(LOGON, SECURITY, "SecurityEvent")
    gone = liveness(asked, profile(absent=("SecurityEvent",)))
    assert gone is not None
    assert gone.reasons == ("SecurityEvent does not exist in the workspace",)
    assert liveness(asked, profile()) is None  # it was not asked for
    quiet = replace(table("SecurityEvent", "EventID", "4625"), last=MADE - timedelta(days=3))
    found = liveness(asked, profile(quiet))
    assert found is not None
    assert "SecurityEvent is silent since 2026-11-26 12:00" in found.reasons[0]
    rare = liveness(asked, profile(replace(quiet, rows_a_day=2)))
    assert rare is not None
    assert rare.state == "live"


def test_what_differs_between_two_profiles() -> None:
    old = profile(
        table("SecurityEvent", "EventID", "4625;4688", "EventID CommandLine Extra_s"), table("Syslog"), table("Event")
    )
    new = profile(
        table("SecurityEvent", "EventID", "4688;1102", "EventID !CommandLine"),
        replace(table("Syslog", rows=0), last=None),
        absent=("Event",),
    )
    assert [(c.table, c.text, c.worse) for c in changes(old, new)] == [
        ("Event", "no longer exists", True),
        ("SecurityEvent", "no longer fills `CommandLine` (100% of the rows before)", True),
        ("SecurityEvent", "no longer has the column `Extra_s`", True),
        ("SecurityEvent", "no longer has rows with EventID 4625 (1,000 before, last on 2026-11-29)", True),
        ("SecurityEvent", "has rows with EventID 1102 now (1,000)", False),
        ("Syslog", "has had no rows since 2026-11-29 11:55 (1,000 a day before)", True),
    ]
    assert list(changes(old, old)) == []
