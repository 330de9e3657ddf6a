"""DuckDB in a process of its own: what a query does, it ends; nothing stays behind; nothing is reached from it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.engines.duckdb_process import DuckDBProcess, memory_bytes
from sigma2kql.engines.remote import Rows
from sigma2kql.model.tree import KqlType

pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")

COLUMNS: dict[str, KqlType] = {"_Row": "long", "n": "int", "s": "string", "d": "dynamic", "t": "datetime"}
ROWS = [
    {"_Row": i, "n": i % 7, "s": f"C:\\Windows\\a{i}.exe", "d": {"Image": f"X{i}", "k": i}, "t": "2026-01-01T00:00:00Z"}
    for i in range(3000)
]
ENDLESS = (
    "T | extend one = 1 | join kind=inner (T | extend one = 1) on one | join kind=inner (T | extend one = 1) on one"
)


@pytest.fixture
def engine() -> Iterator[DuckDBProcess]:
    with DuckDBProcess(memory="300MB", seconds=1) as made:
        made.create("T", COLUMNS)
        assert made.append("T", COLUMNS, ROWS) == len(ROWS)
        yield made


def test_rows_come_back_with_their_types(engine: DuckDBProcess) -> None:
    rows = engine.run("T | where n == 3 | project s, d, t | take 1")
    (row,) = rows.rows
    assert row[0] == "C:\\Windows\\a3.exe"
    assert row[1] == {"Image": "X3", "k": 3}
    assert row[2].isoformat() == "2026-01-01T00:00:00+00:00"


def test_a_query_that_does_not_end_is_ended_and_the_next_one_runs(engine: DuckDBProcess) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        engine.run(f"{ENDLESS} | summarize count() by s")
    assert caught.value.diagnostics[0].code in ("E606", "E603")
    assert engine.run("T | count").rows == [(len(ROWS),)]


def test_a_query_that_takes_all_memory_fails_alone(engine: DuckDBProcess) -> None:
    engine.seconds = 20
    with pytest.raises(Sigma2KqlError) as caught:
        engine.run(f"{ENDLESS} | summarize make_list(strcat(s, s, s), 100000000)")
    assert caught.value.diagnostics[0].code in ("E603", "E606", "E601", "E602")
    assert engine.run("T | count").rows == [(len(ROWS),)]


def alone(engine: DuckDBProcess, query: str) -> Rows | Sigma2KqlError:
    try:
        return engine.run(query, None, 100)
    except Sigma2KqlError as error:
        return error


def code_or_rows(answer: object) -> object:
    return answer.rows if isinstance(answer, Rows) else answer.diagnostics[0].code  # type: ignore[attr-defined]


def test_many_queries_give_what_each_gives_by_itself(engine: DuckDBProcess) -> None:
    """The combined scan against one query after the other."""
    tests = [
        r's endswith @"\a12.exe"',
        r's startswith "c:\\WINDOWS" and tostring(d.Image) endswith "99"',
        's contains "A1%"',
        's contains "_"',
        "n > 5 or n == 0",
        'not(s contains "1")',
        'tostring(d.Image) =~ "x7"',
        'tostring(d.Image) in~ ("X1", "x2") and tostring(d.k) != "1"',
        's matches regex @"a\\d{4}\\.exe$"',
        "isempty(tostring(d.None)) and n == 6",
        'isnotempty(tostring(d["Image"])) and s has "a5"',
        'ipv4_is_in_range(s, "10.0.0.0/8")',
        'tostring(d.Image) contains "é" or s contains "ÄÖ"',
        "n == null_column",
    ]
    queries = [f"T\n| where n < 6\n| where {test}" for test in tests]
    queries.append(
        'T\n| where n < 6\n| extend Name = tostring(d.Image)\n| where Name contains "x2"\n| where Name != "X2"'
    )
    first, *answers = engine.select("T", "T\n| where n < 6", queries, 100)
    assert first == sum(row["n"] < 6 for row in ROWS)
    assert len(answers) == len(queries)
    for query, answer in zip(queries, answers, strict=True):
        assert code_or_rows(answer) == code_or_rows(alone(engine, query)), query
    assert sum(bool(a.rows) for a in answers if isinstance(a, Rows)) >= 8


def test_a_query_that_kills_the_process_costs_itself_alone(engine: DuckDBProcess) -> None:
    queries = ["T | where n == 1", f"{ENDLESS} | summarize count() by s", "T | where n == 2"]
    first, before, killed, after = engine.select("T", "T", queries, 10)
    assert first == len(ROWS)
    assert isinstance(killed, Sigma2KqlError)
    assert [len(one.rows) for one in (before, after) if isinstance(one, Rows)] == [10, 10]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500MB", 500_000_000),
        ("2GB", 2_000_000_000),
        ("1.5GiB", 1_610_612_736),
        ("10", 10),
        ("lots", None),
        ("-1GB", None),
    ],
)
def test_amounts_of_memory(text: str, size: int | None) -> None:
    assert memory_bytes(text) == size


def test_an_amount_that_is_none_is_said() -> None:
    with pytest.raises(Sigma2KqlError, match="no amount of memory"):
        DuckDBProcess(memory="lots")


# --------------------------------------------------------------------------------------------------------------------
# Nothing is reached from a query

ATTEMPTS = [
    "externaldata(a: string) ['FILE']",
    "externaldata(a: string) [@'FILE'] with (format='csv')",
    "T | union (externaldata(a: string) ['http://127.0.0.1:9/x'])",
    "datatable(a: string) ['x'] | union (externaldata(a: string) [h@'FILE'])",
    "read_csv('FILE')",
    "read_csv_auto('FILE')",
    "read_text('FILE')",
    "read_blob('FILE')",
    "read_json('FILE')",
    "read_parquet('FILE')",
    "['FILE']",
    "['read_text(''FILE'')']",
    'T | where s == read_text("FILE")',
    'T | extend x = read_text("FILE")',
    'T | extend x = content_of("FILE")',
    'T | extend x = getenv("HOME")',
    'T | extend x = current_setting("temp_directory")',
    'T | extend x = query("SELECT 1")',
    'T | where s == "" ; COPY T TO "FILE"',
    "T | where s == ''); COPY (SELECT 1) TO 'FILE'; --",
    "T | where s == '\\'); ATTACH ''FILE'' AS x; --'",
    'T | project x = s | render table; .export to csv ("FILE") <| T',
    ".export to csv ('FILE') <| T",
    ".show tables",
    ".drop table T",
    ".set-or-replace T <| print 1",
    ".ingest into table T ('FILE')",
    "evaluate python(typeof(*), 'open(\"FILE\")')",
    "T | evaluate sql_request('x', 'y')",
    "evaluate http_request('http://127.0.0.1:9/x')",
    "cluster('http://127.0.0.1:9').database('d').T",
    "INSTALL httpfs; LOAD httpfs",
    "PRAGMA database_list",
    "T | invoke read_text('FILE')",
]


@pytest.fixture(scope="module")
def shut() -> Iterator[DuckDBProcess]:
    with DuckDBProcess(seconds=10) as made:
        made.create("T", COLUMNS)
        made.append("T", COLUMNS, ROWS[:5])
        yield made


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_query_reaches_a_file_or_the_network(attempt: str, shut: DuckDBProcess, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nthe secret\n")
    before = sorted(tmp_path.iterdir())
    try:
        answer = repr(shut.run(attempt.replace("FILE", str(secret))).rows)
    except Sigma2KqlError as error:
        answer = "".join(problem.message for problem in error.diagnostics)
    assert "the secret" not in answer
    assert sorted(tmp_path.iterdir()) == before
    assert secret.read_text() == "a\nthe secret\n"
    assert shut.run("T | count").rows == [(5,)]


# --------------------------------------------------------------------------------------------------------------------
# Nothing stays behind


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"])
def test_temporary_data_is_gone_at_every_end(name: str, tmp_path: Path) -> None:
    rule, data, store = tmp_path / "rule.yml", tmp_path / "data.ndjson", tmp_path / "tmp"
    store.mkdir()
    rule.write_text("title: x\nlogsource: {product: windows}\ndetection: {a: {EventID: 1}, condition: a}\n")
    with data.open("w") as out:
        for i in range(60_000):
            out.write(json.dumps({"EventID": 1, "Channel": "C", "Computer": "h", "Text": f"{i}" * 50}) + "\n")
    call = [
        sys.executable,
        "-m",
        "sigma2kql",
        "hunt",
        str(rule),
        "--data",
        str(data),
        "-q",
        "-o",
        str(tmp_path / "out"),
    ]

    def as_on_a_terminal() -> None:
        """Whoever runs the tests in the background hands on that SIGINT is ignored."""
        if name != "SIGKILL":
            signal.signal(getattr(signal, name), signal.SIG_DFL)

    hunt = subprocess.Popen(
        call,
        env={**os.environ, "TMPDIR": str(store)},
        start_new_session=True,
        preexec_fn=as_on_a_terminal,  # noqa: PLW1509 - it only sets a signal's default
    )
    deadline = time.monotonic() + 60
    while not list(store.glob("sigma2kql-*/*.duckdb*")) and time.monotonic() < deadline and hunt.poll() is None:
        time.sleep(0.02)
    assert hunt.poll() is None
    hunt.send_signal(getattr(signal, name))
    hunt.wait(30)
    deadline = time.monotonic() + 30
    while list(store.glob("sigma2kql-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(store.glob("sigma2kql-*")) == []
    assert not (tmp_path / "out").exists()
