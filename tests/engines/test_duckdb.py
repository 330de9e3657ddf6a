"""The local engine: Kusto's meaning construct by construct, rows taken over faithfully, hostile input contained."""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.engines.duckdb import Engine
from sigma2kql.engines.rewrites import rewrite
from sigma2kql.model.tree import KqlType

pytest.importorskip("duckdb_kql", reason="running queries needs the extra `test`")

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "conformance.yml").read_text(encoding="utf-8"))
COLUMNS: dict[str, KqlType] = {
    "_id": "long",
    "s": "string",
    "u": "string",
    "i": "int",
    "n": "long",
    "r": "real",
    "b": "bool",
    "t": "datetime",
    "d": "dynamic",
    "g": "guid",
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1) as engine:
        engine.load("All", COLUMNS, [{"_id": i, **case.get("row", {})} for i, case in enumerate(CASES)])
        engine.load("T", COLUMNS, [{"s": "x"}])
        engine.load("T2", {"k": "string", "v": "long"}, [{"k": "a", "v": 1}, {"k": "a", "v": 2}, {"k": "b", "v": 3}])
        engine.load("T3", {"k": "string", "w": "string"}, [{"k": "a", "w": "x"}, {"k": "c", "w": "y"}])
        yield engine


def answer(engine: Engine, number: int, case: dict[str, Any]) -> Any:
    if "query" in case:
        return engine.run(case["query"])
    if "where" in case:
        return engine.matching(f"All | where _id == {number} | where {case['where']}") == {number}
    (row,) = engine.run(f"All | where _id == {number} | project x = {case['expr']}\n")
    return row["x"]


@pytest.mark.parametrize(
    ("number", "case"), list(enumerate(CASES)), ids=lambda c: c if isinstance(c, int) else c["page"]
)
def test_conformance(engine: Engine, number: int, case: dict[str, Any]) -> None:
    deviation = case.get("deviates")
    if deviation is None:
        expected = case["rows"] if "query" in case else case["is"]
        found = answer(engine, number, case)
        assert (found, type(found)) == (expected, type(expected)), case
        return
    assert deviation["why"]
    if "refuses" in deviation:
        with pytest.raises(Sigma2KqlError) as caught:
            answer(engine, number, case)
        assert caught.value.diagnostics[0].code == deviation["refuses"]
    else:  # an upgrade that mends it is to be noticed as well
        assert answer(engine, number, case) == deviation["gives"]
        assert deviation["gives"] != case.get("is", case.get("rows"))


def test_the_table_is_complete() -> None:
    assert len(CASES) >= 200
    assert all(case["page"] and ({"is", "rows"} & set(case)) for case in CASES)
    assert sum("deviates" in case for case in CASES) < len(CASES) // 10


# ---- rows


def test_values_arrive_as_kusto_would_hold_them() -> None:
    rows: list[dict[str, Any]] = [
        {"_id": 1, "s": None, "i": "80", "b": "TRUE", "r": 1, "t": datetime(2024, 1, 1), "extra": 1},
        {"_id": 2, "s": 5, "i": "x", "b": False, "r": "1e3", "t": datetime(2024, 1, 1, 2, tzinfo=UTC), "d": []},
        {"_id": 3, "s": {"a": "ü"}, "i": 2**40, "t": "2024-01-01T02:00:00.1234567+02:00", "d": {"x": None}},
        {"_id": 4, "s": 'a"\n\x00\ud800', "t": "never", "d": "text", "n": 2**62},
        {"_id": 5, "s": True, "i": 5.0, "d": float("nan")},
    ]
    with Engine(threads=1) as engine:
        assert engine.load("T", COLUMNS, iter(rows)) == 5
        found = {row["_id"]: row for row in engine.run("T")}
    assert [found[i]["s"] for i in range(1, 6)] == ["", "5", '{"a":"ü"}', 'a"\n\x00\ufffd', "true"]
    assert [found[i]["i"] for i in range(1, 6)] == [80, None, None, None, 5]
    assert [found[i]["b"] for i in range(1, 4)] == [True, False, None]
    assert [found[i]["r"] for i in range(1, 4)] == [1.0, 1000.0, None]
    assert [found[i]["d"] for i in range(1, 6)] == [None, [], {"x": None}, "text", None]
    assert found[4]["n"] == 2**62
    moments = [datetime(2024, 1, 1), datetime(2024, 1, 1, 2), datetime(2024, 1, 1, 0, 0, 0, 123456), None, None]
    assert [found[i]["t"] for i in range(1, 6)] == moments


def test_tables_are_replaced_and_may_be_empty() -> None:
    with Engine(threads=1) as engine:
        engine.load("T", {"_id": "long", "span": "timespan"}, [{"_id": 1, "span": timedelta(hours=2)}])
        assert engine.matching("T | where span > 1h") == {1}
        assert engine.load("T", {"_id": "long", "a b": "string"}, []) == 0
        assert engine.run("T | where ['a b'] == ''") == []
        engine.load("T", {"_id": "long", "a b": "string"}, ({"_id": i} for i in range(45_000)))
        assert len(engine.matching("T // all of them")) == 45_000


def test_columns_that_differ_in_case_are_refused() -> None:
    with Engine(threads=1) as engine, pytest.raises(Sigma2KqlError) as caught:
        engine.load("T", {"a": "string", "A": "string"}, [])
    assert caught.value.diagnostics[0].code in ("E602", "E604")


# ---- functions


def test_functions_take_arguments_by_name() -> None:
    with Engine(threads=1) as engine:
        engine.load(
            "Raw",
            {"_id": "long", "s": "string", "t": "datetime"},
            [{"_id": 1, "s": "a b", "t": "2024-01-01"}, {"_id": 2}],
        )
        engine.function(
            "_Im_Foo",
            "(starttime:datetime=datetime(null), words:dynamic=dynamic([]), result:string='*, )', off:bool=false)",
            "Raw | where not(off) | where isnull(starttime) or t >= starttime "
            "| where array_length(words) == 0 or s has_any (words) | where result == '*, )' or s == result",
        )
        for call, expected in (
            ("_Im_Foo", {1, 2}),
            ("_Im_Foo()", {1, 2}),
            ("_Im_Foo(starttime=datetime(2023-01-01))", {1}),
            ("_Im_Foo(off=true)", set()),
            ('_Im_Foo(words=dynamic(["B", "x,)"]), result = "a b")', {1}),
            ("_Im_Foo(datetime(null), result='')", {2}),
            ("union (_Im_Foo(result='')), (_Im_Foo(result='a b'))", {1, 2}),
        ):
            assert engine.matching(call) == expected, call
        for call in ("_Im_Foo(nope=1)", "_Im_Foo(1, 2, 3, 4, 5)"):
            with pytest.raises(Sigma2KqlError) as caught:
                engine.run(call)
            assert caught.value.diagnostics[0].code == "E602"
        with pytest.raises(Sigma2KqlError) as caught:
            engine.function("Bad", "(", "Raw | where (")
        assert caught.value.diagnostics[0].code == "E602"


@pytest.mark.parametrize(
    ("kql", "plain"),
    [
        (r'x == "\u0041\U00000042\x43\104\a"', 'x == "ABCD\a"'),
        (r"x == '\'\"\\\n'", r"x == '\'\"\\\n'"),
        ('x == h"a" or y == H@"b\\"', 'x == "a" or y == @"b\\"'),
        ('x == ```a\nb"\\```', r'x == "a\nb\"\\"'),
        ('x // "\\u0041\n| y', 'x // "\\u0041\n| y'),
        ('h == "h" and hx == "a" // h"x"', 'h == "h" and hx == "a" // h"x"'),
        (r'x == @"\u0041"', r'x == @"\u0041"'),
        ("f(b=1) | where f == 1 and s == 'f(b=1)'", "f('x', 1) | where f == 1 and s == 'f(b=1)'"),
        ("f (b=1)", "f (b=1)"),
        ("f(a == 1)", "f(a == 1)"),
        ("f(b=g(1, [2, 3]) // c\n)", "f('x', g(1, [2, 3]))"),
    ],
)
def test_rewriting(kql: str, plain: str) -> None:
    assert rewrite(kql, {"f": (("a", "'x'"), ("b", "2"))}) == plain


# ---- errors


@pytest.mark.parametrize(
    ("kql", "code"),
    [
        ("T | wherex", "E602"),
        ("", "E602"),
        ("Nope", "E602"),
        ("T | where nope == 1", "E602"),
        ("T | where i =~ 'a'", "E602"),
        ("T | where s matches regex 'a(?=b)'", "E601"),
        ("T | where ipv4_is_in_range(s)", "E601"),
        (".drop table T", "E601"),
        (".set-or-append T <| T", "E601"),
        ("T | where " + "(" * 100_000, "E605"),
        ("T | where " + "not(" * 1500 + 's == "x"' + ")" * 1500, "E605"),
    ],
)
def test_errors_are_diagnostics(engine: Engine, kql: str, code: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        engine.run(kql)
    assert caught.value.diagnostics[0].code == code
    assert engine.run("T | project s") == [{"s": "x"}]


def test_a_missing_id_is_an_error(engine: Engine) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        engine.matching("T2 | summarize c = count()")
    assert caught.value.diagnostics[0].code == "E602"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "duckdb_kql":
            raise ModuleNotFoundError("No module named 'duckdb_kql'", name="duckdb_kql")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Sigma2KqlError) as caught:
        Engine()
    assert caught.value.diagnostics[0].code == "E600"
    assert "sigma2kql[test]" in caught.value.diagnostics[0].hint


# ---- hostile input


def test_long_chains_run_and_leave_no_trace(engine: Engine) -> None:
    before = sys.getrecursionlimit(), threading.stack_size()
    chain = " or ".join(f's contains "v{i}"' for i in range(900))
    assert engine.run(f'T | where {chain} or s == "x" | project s') == [{"s": "x"}]
    assert engine.run("T | where " + "not(" * 1000 + 's == "x"' + ")" * 1000 + " | project s") == [{"s": "x"}]
    assert (sys.getrecursionlimit(), threading.stack_size()) == before


def test_nothing_outside_can_be_reached(tmp_path: Path) -> None:
    import duckdb

    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with Engine(threads=1) as engine:
        engine.load("T", {"_id": "long"}, [{"_id": 1}])
        assert engine.connection.sql(f"FROM read_csv('{secret}')").fetchall() == [(1,)]  # until the first query
        assert engine.matching("T") == {1}
        for sql in (f"FROM read_csv('{secret}')", "SET enable_external_access=true", f"ATTACH '{tmp_path}/x.db'"):
            with pytest.raises(duckdb.Error):
                engine.connection.execute(sql)
        for kql in (f"externaldata(a:string)['{secret}']", f"['{secret}']"):
            with pytest.raises(Sigma2KqlError):
                engine.run(kql)
        engine.load("T", {"_id": "long"}, [{"_id": 2}])
        assert engine.matching("T") == {2}


def test_deep_values_are_refused() -> None:
    bomb: Any = []
    for _ in range(100_000):
        bomb = [bomb]
    with Engine(threads=1) as engine:
        with pytest.raises(Sigma2KqlError) as caught:
            engine.load("T", {"d": "dynamic"}, [{"d": bomb}])
        assert caught.value.diagnostics[0].code == "E604"
        assert engine.load("T", {"s": "string"}, [{"s": "x" * 10_000_000}]) == 1
        assert engine.run("T | project n = strlen(s)") == [{"n": 10_000_000}]


def test_memory_is_bounded() -> None:
    with Engine(memory="50MB", threads=1) as engine, pytest.raises(Sigma2KqlError) as caught:
        engine.load("T", {"s": "string"}, ({"s": f"{i:05}" * 2_000_000} for i in range(40)))
    assert caught.value.diagnostics[0].code in ("E603", "E604")


# ---- addresses against the standard library

ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=4).map(lambda a: f"::ffff:{a}"),
    st.ip_addresses(v=6).map(lambda a: a.exploded.upper()),
    st.text("0123456789abcdef:./%", max_size=12),
)
NETWORKS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda n: ip_network(n, strict=False)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda n: ip_network(n, strict=False)),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ADDRESSES, min_size=20, max_size=40), st.lists(NETWORKS, min_size=1, max_size=3), st.data())
def test_addresses(engine: Engine, addresses: list[str], networks: list[Any], data: st.DataObject) -> None:
    inside = [str(n[data.draw(st.integers(0, n.num_addresses - 1))]) for n in networks]
    values = [*addresses, *inside]
    engine.load("Ip", {"_id": "long", "a": "string"}, [{"_id": i, "a": a} for i, a in enumerate(values)])
    v4 = ", ".join(f'"{n}"' for n in networks if n.version == 4)
    v6 = ", ".join(f'"{n}"' for n in networks if n.version == 6)
    parts = [f"ipv4_is_in_any_range(a, {v4})"] * bool(v4) + [f"ipv6_is_in_any_range(a, {v6})"] * bool(v6)
    every = engine.run(
        f'Ip | project _id, hit = coalesce({" or ".join(parts)}, false), one = ipv6_is_match(a, "{networks[0]}")'
    )
    for row in every:
        text = values[row["_id"]]
        if "/" in text or "%" in text:
            continue
        mapped = _mapped(text)
        assert row["hit"] == any(
            _in(text, n) or (n.version == 6 and mapped is not None and mapped in n) for n in networks
        )
        first = (
            ip_network(f"::ffff:{networks[0].network_address}/{96 + networks[0].prefixlen}")
            if networks[0].version == 4
            else networks[0]
        )
        assert row["one"] == (None if mapped is None else mapped in first)


def _in(text: str, network: Any) -> bool:
    try:
        return ip_address(text) in network
    except ValueError:
        return False


def _mapped(text: str) -> Any:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address if address.version == 6 else ip_address(f"::ffff:{address}")


def test_window_functions_scan_and_moments() -> None:
    """Values by hand, from the pages of row_cumsum(), scan, make_list() and ingestion_time()."""
    from datetime import datetime

    columns: dict[str, KqlType] = {"k": "string", "t": "datetime", "v": "long", "at": "datetime"}
    rows = [
        {"k": k, "t": f"2025-01-06T08:0{m}:00Z", "v": m, "at": "2025-01-06T09:00:00Z"} for k in "ab" for m in range(4)
    ]
    with Engine(arrival="at") as engine:
        engine.load("T", columns, rows)
        engine.now = datetime(2025, 1, 6, 8, 4)
        sums = (
            "T | sort by k asc, t asc | extend New = prev(k) != k | extend s = row_cumsum(v, New), all = row_cumsum(1)"
        )
        assert [(r["s"], r["all"]) for r in engine.run(sums)] == list(zip([0, 1, 3, 6] * 2, range(1, 9), strict=True))
        later = (
            "T | where k == 'a' | sort by k asc, t desc | scan declare (n: datetime, d: long) with (step s: true => "
            "n = iff(v == 2, t, iff(k == s.k, s.n, datetime(null))), "
            "d = case(isnull(s.d), 0, not(v > 1), s.d + 10, max_of(s.d, 7));)"
        )
        found = engine.run(later)
        assert [r["d"] for r in found] == [0, 7, 17, 27]
        assert [r["n"] and r["n"].minute for r in found] == [None, 2, 2, 2]
        assert len(engine.run("T | where t >= ago(1m) and now() > t")) == 2
        assert engine.run("T | take 1 | extend i = ingestion_time()")[0]["i"] == datetime(2025, 1, 6, 9)
        (row,) = engine.run("T | summarize l = make_list(v, 3), s = make_set(v, 2), every = make_set(v)")
        assert (len(row["l"]), len(row["s"]), len(row["every"])) == (3, 2, 4)
    with Engine() as engine:
        engine.load("T", columns, rows[:1])
        assert engine.run("T | extend i = ingestion_time()")[0]["i"] is None
