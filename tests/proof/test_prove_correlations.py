"""Correlations: the emitted query, run on streams of events, fires for the groups that a plain reading gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result as Ran
from hypothesis import HealthCheck, given, settings, strategies as st

from sigma2kql import correlate
from sigma2kql.api import Compiler, Input, Options, load_input
from sigma2kql.cli.test import command
from sigma2kql.engines.duckdb import Engine
from sigma2kql.model.named_rules import NamedRules
from sigma2kql.model.tree import Rule
from sigma2kql.reference.correlations import Hit, firings

pytest.importorskip("duckdb_kql", reason="running queries needs the extra `test`")

START = datetime(2025, 1, 6, 8, 30)
NOW = START + timedelta(hours=1)
MAPPING = """
table: Demo_CL
target: demo
columns: {TimeGenerated: datetime, Kind: string, Who: string, Other: string, Size: long}
serves: [{logsource: {category: demo}}]
fields: {Kind: Kind, Who: Who, Other: Other, Size: Size}
"""
RULES = "---\n".join(
    f"title: {name}\nname: {name}\nlogsource: {{category: demo}}\n"
    f"detection: {{selection: {{Kind: {name}}}, condition: selection}}\n"
    for name in ("aa", "bb", "cc")
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Options:
    home = tmp_path_factory.mktemp("mappings")
    (home / "demo.yml").write_text(MAPPING)
    return Options("demo", mappings=(home,))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        yield engine


def correlation(text: str, more: str = "") -> str:
    return f"{RULES}{more}---\ntitle: Correlation\ncorrelation: {{{text}, timespan: 10m}}\n"


MANY = (
    "---\ntitle: Many\nname: many\n"
    "correlation: {type: event_count, rules: aa, group-by: Who, timespan: 5m, condition: {gte: 2}}\n"
)
BOTH = "---\ntitle: Both\nname: both\ncorrelation: {type: temporal, rules: [aa, bb], group-by: Who, timespan: 5m}\n"
KINDS = {
    "count": correlation("type: event_count, rules: aa, group-by: Who, condition: {gte: 3}"),
    "count of two rules": correlation("type: event_count, rules: [aa, bb], group-by: [Who, Other], condition: {gt: 2}"),
    "count without groups": correlation("type: event_count, rules: aa, condition: {gte: 2}"),
    "count of one": correlation("type: event_count, rules: aa, condition: {gte: 1}"),
    "count in a range": correlation("type: event_count, rules: aa, group-by: Who, condition: {gte: 2, lt: 4}"),
    "few": correlation("type: event_count, rules: aa, group-by: Who, condition: {lte: 1}"),
    "none": correlation("type: event_count, rules: aa, group-by: Who, condition: {eq: 0}"),
    "few values": correlation("type: value_count, rules: [aa, bb], condition: {field: Other, lt: 2}"),
    "small sum": correlation("type: value_sum, rules: aa, group-by: Who, condition: {field: Size, lte: -1}"),
    "few rules": correlation("type: temporal, rules: [aa, bb, cc], group-by: Who, condition: {lt: 2}"),
    "anything else": correlation("type: event_count, rules: aa, group-by: Who, condition: {neq: 2}"),
    "different values in a range": correlation(
        "type: value_count, rules: aa, group-by: Who, condition: {field: Size, gt: 1, lte: 2}"
    ),
    "exactly": correlation("type: event_count, rules: [aa, bb], group-by: Who, condition: {eq: 2}"),
    "values": correlation("type: value_count, rules: aa, group-by: Who, condition: {field: Other, gte: 2}"),
    "pairs of values": correlation("type: value_count, rules: [aa, bb], condition: {field: [Who, Other], gt: 2}"),
    "sum": correlation("type: value_sum, rules: aa, group-by: Who, condition: {field: Size, gt: 1234567}"),
    "mean": correlation("type: value_avg, rules: [aa, bb], group-by: Who, condition: {field: Size, gte: 600000.5}"),
    "percentile": correlation(
        "type: value_percentile, rules: aa, group-by: Who, condition: {field: Size, percentile: 75, gte: 700000}"
    ),
    "median": correlation("type: value_median, rules: aa, group-by: Who, condition: {field: Size, lt: 700000, gt: 0}"),
    "percentile with a fraction": correlation(
        "type: value_percentile, rules: [aa, bb], condition: {field: Size, percentile: 33.3, lte: 0}"
    ),
    "lowest": correlation("type: value_percentile, rules: aa, condition: {field: Size, percentile: 0, eq: 0}"),
    "other than the median": correlation("type: value_median, rules: aa, condition: {field: Size, neq: 0}"),
    "temporal": correlation("type: temporal, rules: [aa, bb, cc], group-by: Who"),
    "two of three": correlation("type: temporal, rules: [aa, bb, cc], group-by: Who, condition: {gte: 2}"),
    "all by equality": correlation("type: temporal, rules: [aa, bb], group-by: Who, condition: {eq: 2}"),
    "aliases": correlation("type: temporal, rules: [aa, bb], aliases: {one: {aa: Who, bb: Other}}, group-by: one"),
    "and not": correlation("type: temporal, rules: [aa, bb], group-by: Who, condition: aa and not bb"),
    "expression": correlation(
        "type: temporal, rules: [aa, bb, cc], group-by: Who, condition: (aa or bb) and not (cc and (not aa or bb))"
    ),
    "ordered": correlation("type: temporal_ordered, rules: [bb, aa, cc], group-by: [Who]"),
    "there and back": correlation("type: temporal_ordered, rules: [aa, bb, aa], group-by: [Who]"),
    "twice": correlation("type: temporal_ordered, rules: [aa, aa, bb, bb]"),
    "named in the condition alone": correlation("type: temporal, group-by: Who, condition: \"'aa' AND NOT cc\""),
    "ordered without groups": correlation("type: temporal_ordered, rules: [cc, aa], condition: {gte: 2}"),
    "of a correlation": correlation("type: temporal_ordered, rules: [many, bb], group-by: Who", MANY),
    "counted correlations": correlation("type: event_count, rules: both, group-by: Who, condition: {gte: 2}", BOTH),
    "alias of a correlation": correlation(
        "type: temporal, rules: [many, bb], aliases: {one: {many: Who, bb: Other}}, group-by: one", MANY
    ),
}
MOMENTS = [0, 1, 150, 299, 300, 301, 599, 600, 601, 900, 1199, 1200, 1201, 1800]
EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "at": st.sampled_from(MOMENTS),
            "Kind": st.sampled_from(["aa", "aa", "bb", "cc", "no"]),
            "Who": st.sampled_from(["x", "x", "y", ""]),
            "Other": st.sampled_from(["x", "y", "z", ""]),
            "Size": st.sampled_from([None, 0, 600_000, 600_001, 1_234_567, -5]),
        }
    ),
    max_size=9,
)


def meant(documents: list[Any], events: list[Mapping[str, Any]]) -> list[Hit]:
    def hits(rule: Rule) -> list[Hit]:
        return [Hit(START + timedelta(seconds=e["at"]), e) for e in events if e["Kind"] == rule.meta.name]

    return firings(documents[-1], NamedRules(documents), hits, NOW)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS)
def test_the_query_fires_where_the_meaning_does(
    kind: str, demo: Options, engine: Engine, events: list[Mapping[str, Any]]
) -> None:
    documents = list(load_input(Input("rule.yml", None, KINDS[kind].encode())))
    done = Compiler(demo, documents).compile(documents[-1])
    assert done.kql is not None, done.diagnostics
    columns: Any = yaml.safe_load(MAPPING)["columns"]
    rows = [{**e, "TimeGenerated": START + timedelta(seconds=e["at"])} for e in events]
    engine.load("Demo_CL", columns, rows)
    keys = [g.name for g in documents[-1].group_by]
    engine.now = NOW
    found = {tuple(row[key] for key in keys) for row in engine.run(done.kql)}
    assert found == {tuple(hit.fields[key] for key in keys) for hit in meant(documents, events)}


def rows_of(text: str, demo: Options, engine: Engine, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the query of the last document gives for these events."""
    documents = list(load_input(Input("rule.yml", None, text.encode())))
    done = Compiler(demo, documents).compile(documents[-1])
    assert done.kql is not None, done.diagnostics
    rows = [{**e, "TimeGenerated": START + timedelta(seconds=e["at"])} for e in events]
    engine.load("Demo_CL", yaml.safe_load(MAPPING)["columns"], rows)
    engine.now = NOW
    return sorted(engine.run(done.kql), key=lambda row: (str(row["FirstSeen"]), str(row.get("Who"))))


def seconds(row: Mapping[str, Any], *names: str) -> list[int]:
    return [int((row[name] - START).total_seconds()) for name in names]


def test_firings_whose_windows_overlap_are_one_row(demo: Options, engine: Engine) -> None:
    """A burst of 100 events is one row, another two hours later a second; what lies between belongs to neither."""
    burst = [{"at": 2 * n, "Kind": "aa", "Who": "X", "Size": n} for n in range(100)]
    noise = [{"at": 3600, "Kind": "aa", "Who": "x"}]
    later = [{"at": 7200 + n, "Kind": "aa", "Who": "x"} for n in range(3)]
    others = [{"at": 100 + n, "Kind": "aa", "Who": f"u{n}"} for n in range(50)]
    for text in ("condition: {gte: 3}", "condition: {gte: 3, lt: 1000}"):
        rows = rows_of(
            correlation(f"type: event_count, rules: aa, group-by: Who, {text}"),
            demo,
            engine,
            burst + noise + later + others,
        )
        assert [(row["Who"], row["EventCount"]) for row in rows] == [("x", 100), ("x", 3)]
        assert [seconds(row, "FirstSeen", "LastSeen", "TimeGenerated") for row in rows] == [
            [0, 198, 198],
            [7200, 7202, 7202],
        ]
        assert [len(row["SampleEvents"]) for row in rows] == [10, 3]
        assert rows[0]["Rules"] == ["aa"]


def test_what_leads_to_a_firing_belongs_to_it(demo: Options, engine: Engine) -> None:
    """The window reaches back ten minutes; the match eleven minutes before is another story."""
    events = [{"at": at, "Kind": kind, "Who": "x"} for at, kind in ((0, "aa"), (120, "aa"), (660, "bb"), (700, "cc"))]
    (row,) = rows_of(correlation("type: temporal, rules: [aa, bb], group-by: Who"), demo, engine, events)
    assert seconds(row, "FirstSeen", "LastSeen") == [120, 660]
    assert (sorted(row["Rules"]), row["EventCount"]) == (["aa", "bb"], 2)


def test_a_heartbeat_that_stops_is_missed_once(demo: Options, engine: Engine) -> None:
    """Six an hour never are fewer than three; silence begins with the first whole window without any."""
    beats = [{"at": 600 * n, "Kind": "aa", "Who": who} for who, last in (("x", 24), ("y", 9)) for n in range(last)]
    text = (
        f"{RULES}---\ntitle: C\ncorrelation: {{type: event_count, rules: aa, group-by: Who, timespan: 1h, condition: "
    )
    documents = [f"{text}{condition}}}\n" for condition in ("{lt: 3}", "{lt: 1}")]
    for document in documents:
        done = list(load_input(Input("rule.yml", None, document.encode())))
        kql = Compiler(demo, done).compile(done[-1]).kql
        assert kql is not None
        rows = [{**e, "TimeGenerated": START + timedelta(seconds=e["at"])} for e in beats]
        engine.load("Demo_CL", yaml.safe_load(MAPPING)["columns"], rows)
        engine.now = START + timedelta(hours=4)  # 12:30: the window from 12 is not over
        found = engine.run(kql)
        assert [(r["Who"], r["EventCount"], r["FirstSeen"].hour, r["LastSeen"].hour) for r in found] == [
            ("y", 0, 10, 12)
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type: temporal_ordered, rules: [aa, bb, cc], group-by: Who, condition: {gte: 2}", "an order is known only"),
        ("type: temporal_ordered, rules: [aa, bb], group-by: Who, condition: aa or bb", "an order is known only"),
        ("type: temporal, rules: [many, bb], group-by: Other", "does not group by `Other`"),
    ],
)
def test_what_cannot_be_said_is_an_error(demo: Options, text: str, message: str) -> None:
    documents = list(load_input(Input("rule.yml", None, correlation(text, MANY).encode())))
    done = Compiler(demo, documents).compile(documents[-1])
    assert [d.code for d in done.diagnostics] == ["E407"]
    assert message in done.diagnostics[0].message


# --------------------------------------------------------------------------------------------------------------------
# The command

FAILED = """title: Failed
name: failed
logsource: {product: windows, service: security}
detection: {selection: {EventID: 4625}, condition: selection}
---
title: Whoami
name: whoami
logsource: {product: windows, category: process_creation}
detection: {selection: {Image|endswith: '\\whoami.exe'}, condition: selection}
"""
ORDERED = (
    "---\ntitle: C\ncorrelation: {type: temporal_ordered, rules: [failed, whoami], group-by: Computer, timespan: 5m}\n"
)
COUNTED = (
    "---\ntitle: C\n"
    "correlation: {type: event_count, rules: [failed], group-by: Computer, timespan: 5m, condition: {gte: 4}}\n"
)


def run(*args: object) -> Ran:
    return CliRunner().invoke(command, [str(a) for a in args], standalone_mode=False)


def result(*args: object) -> dict[str, Any]:
    ran = run(*args, "--format", "json")
    assert ran.exception is None, ran.exception
    (one,) = (r for r in json.loads(ran.stdout)["results"] if r["title"] == "C")
    return dict(one)


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "rule.yml"
    path.write_text(FAILED + ORDERED)
    return path


@pytest.mark.parametrize("target", ["sentinel", "asim", "xdr"])
def test_streams_are_made_and_judged(rule: Path, target: str) -> None:
    one = result(rule, "--generate", "-t", target)
    assert one["status"] == "passed"
    assert (one["missed"], one["unexpected"]) == (0, 0)
    assert one["must_match"] >= 3


def test_stated_streams_over_two_tables(rule: Path) -> None:
    failed, whoami = {"EventID": 4625, "Computer": "a"}, {"Image": "C:\\whoami.exe", "Computer": "a"}
    told = {
        "match": [[failed, whoami], [{"event": failed, "times": 3, "every": "1m"}, {"event": whoami, "after": "5m"}]],
        "no_match": [
            [whoami, failed],
            [failed, {**whoami, "Computer": "b"}],
            [failed, {"event": whoami, "after": "301s"}],
        ],
    }
    rule.with_suffix(".events.json").write_text(json.dumps({"C": told}))
    one = result(rule)
    assert (one["status"], one["events"], one["matched"]) == ("passed", 12, 2)
    rule.with_suffix(".events.json").write_text(json.dumps({"C": {"match": told["no_match"]}}))
    one = result(rule)
    assert (one["status"], one["missed"]) == ("failed", 3)
    assert "stated to fire" in one["counterexample"]["why"]


def test_the_rule_of_a_file_may_have_no_events_beside_the_streams(rule: Path) -> None:
    rule.write_text(FAILED.partition("---")[0] + COUNTED)
    event = {"EventID": 4625, "Computer": "a"}
    rule.with_suffix(".events.json").write_text(json.dumps({"C": {"match": [[{"event": event, "times": 4}]]}}))
    told = json.loads(run(rule, "--format", "json").stdout)["results"]
    assert [(r["title"], r["status"]) for r in told] == [("Failed", "skipped"), ("C", "passed")]


def test_events_given_are_one_stream(rule: Path, tmp_path: Path) -> None:
    rule.write_text(FAILED + COUNTED)
    events = tmp_path / "events.json"
    moments = ["2026-01-05T08:59:00Z", "2026-01-05T09:00:00Z", "2026-01-05T09:01:00Z", "2026-01-05T09:04:00Z"]
    events.write_text(json.dumps([{"EventID": 4625, "Computer": "a", "TimeGenerated": moment} for moment in moments]))
    one = result(rule, "--events", events)
    assert (one["status"], one["events"], one["matched"]) == ("passed", 4, 1)
    events.write_text(json.dumps([{"EventID": 4625, "Computer": "a", "TimeGenerated": m} for m in moments[:3]]))
    assert result(rule, "--events", events)["matched"] == 0


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"match": [{"EventID": 4625}]}, "no list of events"),
        ({"match": [[{"event": {"EventID": 4625}, "every": "soon"}]]}, "`soon` is not a time span"),
        ({"match": [[{"event": {"EventID": 4625}, "times": 10**9}]]}, "`times` is a number"),
        ({"fires": []}, "must be a map with"),
    ],
)
def test_malformed_streams_fail_the_correlation(rule: Path, told: Any, message: str) -> None:
    rule.with_suffix(".events.json").write_text(json.dumps({"C": told}))
    one = result(rule)
    assert one["status"] == "failed"
    assert message in one["reason"]


# What a careless change of the emitter would do, and the streams that are made must tell: a piece and what it becomes.
MUTATIONS = [
    (COUNTED, "prev(TimeGenerated, 3)", "prev(TimeGenerated, 2)"),
    (COUNTED, "prev(TimeGenerated, 3) <= 5m", "prev(TimeGenerated, 3) < 5m"),
    (COUNTED, "prev(Computer, 3) == Computer and ", ""),
    (COUNTED, "\n    | where isnotempty(Computer)", ""),
    (COUNTED, "where Held >= 4", "where Held > 4"),
    (COUNTED, "Computer, Burst", "Computer = tostring(Depth), Burst"),
    (ORDERED, " and step1.Computer == Computer", ""),
    (ORDERED, "TimeGenerated - step1.TimeGenerated <= 5m", "TimeGenerated - step1.TimeGenerated <= 10m"),
    (ORDERED, "TimeGenerated asc, Step asc", "Step asc, TimeGenerated asc"),
    (ORDERED, "TimeGenerated asc, Step asc", "TimeGenerated asc, Step desc"),
]


@pytest.mark.parametrize(("text", "piece", "other"), MUTATIONS)
def test_a_broken_emitter_is_caught(
    rule: Path, monkeypatch: pytest.MonkeyPatch, text: str, piece: str, other: str
) -> None:
    rule.write_text(FAILED + text)
    whole = correlate._Builder.query

    def broken(self: Any, *args: Any) -> Any:
        kql = whole(self, *args)
        assert piece in kql, kql
        return kql.replace(piece, other)

    assert result(rule, "--generate")["status"] == "passed"
    monkeypatch.setattr(correlate._Builder, "query", broken)
    one = result(rule, "--generate")
    assert one["status"] == "failed"
    assert one["counterexample"]["event"]["events"]
