"""A correlation lived through: the deployed rule's own query, run by its own schedule, at many phases of the clock.

Every run sees what a run of Sentinel sees: events of the look-back that have come in by then; and now() is its time.
A burst is found once or twice, whatever the phase, and nothing else is found.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
import yaml

from sigma2kql.api import Compiler, Input, Options, load_input, prepare_artifact
from sigma2kql.artifacts.artifact_text import render
from sigma2kql.artifacts.settings import Settings
from sigma2kql.engines.duckdb import Engine
from sigma2kql.model.tree import KqlType

pytest.importorskip("duckdb_kql", reason="running queries needs the extra `test`")

DAY = datetime(2026, 1, 5)
COLUMNS: dict[str, KqlType] = {
    "TimeGenerated": "datetime",
    "Kind": "string",
    "Who": "string",
    "What": "string",
    "Size": "long",
    "Arrived": "datetime",
}
MAPPING = """
table: Demo_CL
target: demo
columns: {TimeGenerated: datetime, Kind: string, Who: string, What: string, Size: long}
serves: [{logsource: {category: demo}}]
fields: {Kind: Kind, Who: Who, What: What, Size: Size}
"""
TARGET = "title: Demo\nservice: sentinel\nformats: [sentinel-yaml]\n"
RULES = "---\n".join(
    f"title: {name}\nname: {name}\nlogsource: {{category: demo}}\n"
    f"detection: {{selection: {{Kind: {name}}}, condition: selection}}\n"
    for name in ("aa", "bb")
)
INNER = (
    "---\ntitle: Inner\nname: inner\n"
    "correlation: {type: event_count, rules: [aa], group-by: [Who], timespan: 1h, condition: {gte: 5}}\n"
)
Event = dict[str, Any]


class Deployed:
    """The rule as it is deployed: its query, how often it runs and how far it looks back."""

    def __init__(self, options: Options, correlation: str, more: str = "") -> None:
        text = f"{RULES}{more}---\ntitle: C\nlevel: high\ntags: [attack.t1110]\ncorrelation: {{{correlation}}}\n"
        documents = list(load_input(Input("rule.yml", None, text.encode())))
        done = Compiler(options, documents).compile(documents[-1])
        assert done.kql is not None, done.diagnostics
        prepared = prepare_artifact(done, "sentinel-yaml", Settings(), options)
        data = yaml.safe_load(render(prepared.artifact, "sentinel-yaml", Settings()).text)
        self.query = data["query"]
        self.frequency = _span(data["queryFrequency"])
        self.period = _span(data["queryPeriod"])


def _span(text: str) -> timedelta:
    found = re.fullmatch(r"(\d+)([mhd])", text)
    assert found is not None, text
    return timedelta(**{{"m": "minutes", "h": "hours", "d": "days"}[found[2]]: int(found[1])})


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Options:
    home = tmp_path_factory.mktemp("mappings") / "demo"
    home.mkdir()
    (home / "Demo_CL.yml").write_text(MAPPING)
    (home / "target.yml").write_text(TARGET)
    return Options("demo", mappings=(home.parent,))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1, arrival="Arrived") as engine:
        yield engine


def alerts(
    rule: Deployed, engine: Engine, events: Sequence[Event], phase: timedelta, first: datetime, until: datetime
) -> list[Event]:
    """The rows of all runs from the hour of `first` on; `phase`: after the full hour, when it runs."""
    found: list[Event] = []
    engine.load("AllEvents", COLUMNS, events)
    now = first.replace(minute=0, second=0) + phase
    while now <= until:
        engine.connection.execute(
            'CREATE OR REPLACE TABLE "Demo_CL" AS SELECT * FROM "AllEvents" '
            "WHERE TimeGenerated > ? AND TimeGenerated <= ? AND Arrived <= ?",
            [now - rule.period, now, now],
        )
        engine.now = now
        found += engine.run(rule.query)
        now += rule.frequency
    return found


def events_of(kind: str, start: datetime, number: int, every: float, late: int = 0, **more: Any) -> list[Event]:
    """A row of events, each of which comes in up to `late` seconds after it happened, not in order."""
    chance = random.Random(f"{kind}{start}{number}")
    made = []
    for n in range(number):
        time = start + timedelta(seconds=every * n)
        arrived = time + timedelta(seconds=chance.randint(0, late))
        made.append({"TimeGenerated": time, "Kind": kind, "Who": "x", "What": f"w{n}", "Size": 10, "Arrived": arrived})
    return [{**event, **more} for event in made]


COUNT = "type: event_count, rules: [aa], group-by: [Who], timespan: 5m, condition: {gte: 10}"
BURSTS = {
    "count": COUNT,
    "range": "type: event_count, rules: [aa], group-by: [Who], timespan: 5m, condition: {gte: 10, lt: 1000}",
    "values": "type: value_count, rules: [aa], group-by: [Who], timespan: 5m, condition: {field: What, gte: 10}",
    "sum": "type: value_sum, rules: [aa], group-by: [Who], timespan: 5m, condition: {field: Size, gte: 100}",
    "temporal": "type: temporal, rules: [aa, bb], group-by: [Who], timespan: 5m",
    "ordered": "type: temporal_ordered, rules: [aa, bb], group-by: [Who], timespan: 5m",
    "over a day": "type: event_count, rules: [aa], group-by: [Who], timespan: 1d, condition: {gte: 10}",
}


@pytest.mark.parametrize("late", [0, 240], ids=["at once", "late"])
@pytest.mark.parametrize("kind", BURSTS)
def test_a_burst_is_found_once_or_twice(kind: str, late: int, demo: Options, engine: Engine) -> None:
    """A hundred events in 200 seconds, noise of another before and behind it."""
    rule = Deployed(demo, BURSTS[kind])
    start = DAY + timedelta(hours=3, minutes=7, seconds=11)
    burst = events_of("aa", start, 100, 2, late) + events_of("bb", start + timedelta(seconds=100), 3, 7, late)
    noise = events_of("aa", DAY + timedelta(hours=2), 3, 3600, late, Who="y")
    phases = 2 if kind == "over a day" else 3
    numbers = []
    for n in range(phases):
        until = start + timedelta(hours=26) if kind == "over a day" else start + timedelta(minutes=30)
        rows = alerts(rule, engine, burst + noise, rule.frequency * n / phases, start, until)
        assert {row["Who"] for row in rows} == {"x"}
        numbers.append(len(rows))
    assert set(numbers) <= {1, 2}, numbers


def test_an_attack_of_a_day_is_one_burst(demo: Options, engine: Engine) -> None:
    rule = Deployed(demo, COUNT.replace("5m", "1h").replace("10}", "30}"))
    attack = events_of("aa", DAY + timedelta(hours=1, minutes=3), 24 * 60, 60, 200)
    for minutes in (0, 25):
        rows = alerts(rule, engine, attack, timedelta(minutes=minutes), DAY, DAY + timedelta(hours=28))
        assert len(rows) in (1, 2), [(row["FirstSeen"], row["LastSeen"]) for row in rows]


def test_two_bursts_two_hours_apart_are_two(demo: Options, engine: Engine) -> None:
    rule = Deployed(demo, COUNT)
    start = DAY + timedelta(hours=3, minutes=2)
    bursts = events_of("aa", start, 20, 3) + events_of("aa", start + timedelta(hours=2), 20, 3)
    for minutes in (0, 2, 4):
        rows = alerts(rule, engine, bursts, timedelta(minutes=minutes), start, start + timedelta(hours=3))
        assert {row["FirstSeen"].hour for row in rows} == {3, 5}
        assert len(rows) in (2, 3, 4)


def test_a_chain_looks_back_over_all_its_spans(demo: Options, engine: Engine) -> None:
    """The failures take nearly an hour, the success comes nearly an hour later: a success alone is none."""
    rule = Deployed(demo, "type: temporal_ordered, rules: [inner, bb], group-by: [Who], timespan: 1h", INNER)
    start = DAY + timedelta(hours=3, minutes=7)
    success = events_of("bb", start + timedelta(minutes=114), 1, 1, 60)
    chain = events_of("aa", start, 5, 14.4 * 60, 60) + success
    alone = [{**event, "Who": "y"} for event in success]
    for n in range(0, 12, 3):
        rows = alerts(rule, engine, chain + alone, timedelta(minutes=5 * n), start, start + timedelta(hours=6))
        assert {row["Who"] for row in rows} == {"x"}, n
        assert len(rows) in (1, 2)


@pytest.mark.parametrize("word", ["not", "NOT"])
def test_what_is_excluded_is_waited_for(word: str, demo: Options, engine: Engine) -> None:
    """The ticket nine minutes before or behind excludes; none at all, or one eleven minutes away, does not."""
    rule = Deployed(
        demo, f"type: temporal, rules: [aa, bb], group-by: [Who], timespan: 10m, condition: aa and {word} bb"
    )
    start = DAY + timedelta(hours=3, minutes=7)
    uses = [event for who in "pqrs" for event in events_of("aa", start, 1, 1, 30, Who=who)]
    tickets = [
        *events_of("bb", start + timedelta(minutes=9), 1, 1, 30, Who="q"),
        *events_of("bb", start - timedelta(minutes=9), 1, 1, 30, Who="r"),
        *events_of("bb", start + timedelta(minutes=11), 1, 1, 30, Who="s"),
    ]
    for n in range(0, 5, 2):
        rows = alerts(rule, engine, uses + tickets, timedelta(minutes=2 * n), start, start + timedelta(hours=1))
        assert {row["Who"] for row in rows} == {"p", "s"}
        assert len(rows) <= 4


def test_silence_is_found_once_and_a_heartbeat_is_none(demo: Options, engine: Engine) -> None:
    rule = Deployed(demo, "type: event_count, rules: [aa], group-by: [Who], timespan: 1h, condition: {lt: 3}")
    beats = events_of("aa", DAY + timedelta(minutes=4), 60, 600, Who="alive")
    beats += events_of("aa", DAY + timedelta(minutes=4), 18, 600, Who="dies")
    for minutes in (0, 20, 40):
        rows = alerts(rule, engine, beats, timedelta(minutes=minutes), DAY, DAY + timedelta(hours=9, minutes=50))
        assert [row["Who"] for row in rows] in (["dies"], ["dies", "dies"])
        assert rows[0]["FirstSeen"] == DAY + timedelta(hours=3)
