"""The reference semantics against the specification's words, case by case, and against a slower evaluator."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sigma2kql.model.text_shapes import matches
from sigma2kql.model.tree import (
    ANY,
    ONE,
    And,
    Bool,
    Cidr,
    DatePart,
    Exists,
    Expr,
    Field,
    Match,
    Not,
    Null,
    Number,
    OneOf,
    Or,
    Part,
    Placeholder,
    Regex,
    SameAs,
    Test,
    Text,
)
from sigma2kql.reference.evaluate import evaluate, field_of, trace


def on_f(test: Test[Field]) -> Expr[Field]:
    return Match(Field("F"), test)


CONTAINS_A = Text((ANY, "a", ANY))


@pytest.mark.parametrize(
    ("test", "yes", "no"),
    [
        (Text(("abc",)), ["abc", "ABC", "aBc"], ["abcd", "xabc", "abc\n", None, 1]),
        (Text(("abc",), cased=True), ["abc"], ["ABC", "Abc"]),
        (Text(("a", ANY)), ["a", "A1", "ab\nc"], ["ba"]),
        (Text((ANY, "a")), ["a", "ba"], ["ab", "a\n"]),
        (Text(("a", ANY, "a")), ["aa", "aba"], ["a", "ab"]),
        (Text((ANY, "a", ANY, "b", ANY)), ["ab", "xaxbx", "A\nB"], ["ba", "a", "b"]),
        (Text(("ab", ANY, "ba")), ["abba", "abxba"], ["aba"]),
        (Text((ANY, "ab", ANY, "ab", ANY, "c")), ["ababc", "xabyabzc"], ["abc", "abab"]),
        (Text(("a", ONE, "b")), ["axb", "a\nb", "aéb"], ["ab", "axxb"]),
        (Text((ANY, ONE)), ["a", "ab"], [""]),
        (Text((ANY, OneOf("-/–"), "Enc", ANY)), ["x -enc y", "/ENC", "–enc"], ["enc", "+enc"]),
        (Text((ANY, OneOf("^]-a"))), ["^", "]", "-", "A"], ["b", "\\"]),
        (Text(("é",)), ["é", "É"], ["e"]),
        (Text(("ä",), cased=True), ["ä"], ["Ä"]),
        (Text(("k",)), ["k", "K"], ["\u212a"]),
        (Text(("i",)), ["i", "I"], ["İ", "ı"]),
        (Text(("4624",)), ["4624", 4624], ["04624", 4624.5]),
        (Text(("true",)), ["True", True], [1]),
        (Text(("1",)), [1, 1.0], [True]),
        (Text((ANY,)), ["x", 0, False], [None, ""]),
        (Text((ANY, '"k":1', ANY)), [{"k": 1}], [{"k": 2}]),
        (Regex(r"a\d"), ["xa1y"], ["A1", "a"]),
        (Regex("^a$", "i"), ["A"], ["a\n", "ba"]),
        (Regex("^a$", "m"), ["b\na\nc"], ["b"]),
        (Regex("a.b", "s"), ["a\nb"], ["ab"]),
        (Regex("^4$"), [4, "4"], [44]),
        (Regex("(a*)*$"), ["b"], ["", None]),
        (Cidr("10.0.0.0/8", 4), ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203"], ["11.0.0.1", "", "-", "10.0.0.999"]),
        (
            Cidr("10.0.0.0/8", 4),
            ["10.0.0.0", "10.255.255.255"],
            ["010.1.2.3", "10.1.2", "10.1.2.3/8", "::a00:1", 167772161],
        ),
        (Cidr("fe80::/10", 6), ["fe80::1", "FEBF::", "fe80::1%eth0"], ["fec0::", "10.1.2.3", ""]),
        (Cidr("::ffff:0:0/96", 6), ["::ffff:1.2.3.4"], ["1.2.3.4"]),
        (Number("==", 4624), [4624, "4624", 4624.0], ["04624", "4624.0", " 4624", "4624\n", True, "x", None, "٤"]),
        (Number("==", 1), [1.0, "1"], [True, "1e0"]),
        (Number("==", 0.5), [0.5, "0.5"], ["0.50", ".5"]),
        (Number(">", 1024), [1025, "1025", 1024.5], [1024, "x", "", None]),
        (Number(">=", -1), [-1, "-1", 0], [-2]),
        (Number("<", 2**63), [2**63 - 1], [2**63, str(2**63)]),
        (Number("<=", 5), [5], [6]),
        (Bool(True), [True, "true", "TRUE"], [False, "yes", 1, "1"]),
        (Bool(False), [False, "False"], [True, 0, "", None]),
        (
            DatePart("hour", "==", 13),
            ["2024-05-06T13:59:00Z", "2024-05-06T15:00:00+02:00", "2024-05-06 13:00:00.1234567Z"],
            ["13"],
        ),
        (DatePart("hour", ">=", 22), [datetime(2024, 1, 1, 22)], [datetime(2024, 1, 1, 21, tzinfo=UTC), None, 22]),
        (DatePart("hour", "==", 23), [datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))], []),
        (DatePart("week", "==", 53), ["2021-01-01"], ["2021-01-04"]),
        (DatePart("minute", "<", 5), ["2024-01-01T00:04"], ["2024-01-01T00:05"]),
        (DatePart("day", "==", 31), ["2024-12-31"], ["2024-12-30", "2024-13-31"]),
        (DatePart("month", "==", 12), ["2024-12-31"], ["2024-11-30"]),
        (DatePart("year", "==", 1), ["0001-01-01T00:00:00Z"], ["0001-01-01T00:00:00+02:00"]),
    ],
)
def test_one_value(test: Test[Field], yes: list[Any], no: list[Any]) -> None:
    for value in yes:
        assert evaluate(on_f(test), {"F": value}), value
        assert not evaluate(Not(on_f(test)), {"F": value}), value
        assert evaluate(on_f(test), {"F": [None, {}, [value]]}), value  # any element of a list
    for value in no:
        assert not evaluate(on_f(test), {"F": value}), value
        assert evaluate(Not(on_f(test)), {"F": value}), value
    assert not evaluate(on_f(test), {})
    assert not evaluate(on_f(test), {"f": yes[0]})  # names are exact


GONE: list[dict[str, Any]] = [{}, {"F": None}, {"F": ""}]


@pytest.mark.parametrize(
    ("test", "kusto", "strict"),
    [
        (Null(), [True, True, True], [True, True, False]),
        (Exists(), [False, False, False], [False, True, True]),
        (Text(()), [True, True, True], [False, False, True]),
        (Text((ANY,)), [False, False, False], [False, False, True]),
        (Text((ANY, ANY)), [False, False, False], [False, False, True]),
        (Text(("a",)), [False, False, False], [False, False, False]),
        (Text((ONE,)), [False, False, False], [False, False, False]),
        (Regex("a*"), [False, False, False], [False, False, True]),
        (SameAs(Field("F")), [False, False, False], [False, False, True]),
        (Cidr("0.0.0.0/0", 4), [False, False, False], [False, False, False]),
        (Number("<", 5), [False, False, False], [False, False, False]),
        (Bool(False), [False, False, False], [False, False, False]),
        (DatePart("year", ">", 0), [False, False, False], [False, False, False]),
    ],
)
def test_missing_null_and_empty(test: Test[Field], kusto: list[bool], strict: list[bool]) -> None:
    assert [evaluate(on_f(test), e) for e in GONE] == kusto
    assert [evaluate(on_f(test), e, empty_is_missing=False) for e in GONE] == strict
    assert [evaluate(Not(on_f(test)), e) for e in GONE] == [not k for k in kusto]


def test_null_in_a_list() -> None:
    assert evaluate(on_f(Null()), {"F": []})
    assert evaluate(on_f(Null()), {"F": [None, ""]})
    assert not evaluate(on_f(Null()), {"F": [None, "a"]})
    assert evaluate(on_f(Null()), {"F": [None, "a"]}, empty_is_missing=False)


@pytest.mark.parametrize(
    ("shape", "cased", "yes", "no"),
    [
        (
            "equals",
            False,
            [("Ab", "aB"), (4, "4"), (["x", "y"], "Y")],
            [("a", "ab"), ("é", "É"), ("", ""), (None, None)],
        ),
        ("equals", True, [("Ab", "Ab")], [("Ab", "aB")]),
        ("contains", False, [("xABy", "ab")], [("ab", "abc")]),
        ("startswith", False, [("ABx", "ab")], [("xab", "ab")]),
        ("endswith", False, [("xAB", "ab")], [("abx", "ab"), ("abx", "")]),
    ],
)
def test_another_field(shape: Any, cased: bool, yes: list[tuple[Any, Any]], no: list[tuple[Any, Any]]) -> None:
    where = on_f(SameAs(Field("G"), shape, cased))
    assert [evaluate(where, {"F": f, "G": g}) for f, g in yes] == [True] * len(yes)
    assert [evaluate(where, {"F": f, "G": g}) for f, g in no] == [False] * len(no)
    assert not evaluate(where, {"F": "a"})


def test_trees_are_two_valued() -> None:
    a, b = on_f(Text(("a",))), Match(Field("G"), Number(">", 5))
    assert evaluate(And(()), {})
    assert not evaluate(Or(()), {})
    assert evaluate(Not(Or((a, b))), {"F": "x"})
    assert evaluate(And((a, Not(b))), {"F": "a"})
    assert not evaluate(Not(And((a, Not(b)))), {"F": "a"})


KEYWORD = Field(None)
EVENT = {"a": "Some Text", "b": {"c": ["deep 42", {"d": None}]}, "n": 1500, "t": True}


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (Text(("me te",)), True),
        (Text(("me te",), cased=True), False),
        (Text(("DEEP",)), True),
        (Text(("some", ANY, "xt")), True),
        (Text(("text", ANY, "some")), False),
        (Text(("some", ANY, "deep")), False),  # one value holds all of a keyword
        (Text((ANY, "o", ONE, "e")), True),
        (Text(("50",)), True),
        (Text(("tru",)), True),
        (Text(("b",)), False),  # names are not values
        (Number("==", 42), True),
        (Number("==", 43), False),
        (Regex("^deep"), True),
        (Null(), False),
    ],
)
def test_keywords(test: Test[Field], expected: bool) -> None:
    assert evaluate(Match(KEYWORD, test), EVENT) is expected


def test_fields_in_fields() -> None:
    assert evaluate(Match(Field("b.c"), Text(("deep 42",))), EVENT)
    assert evaluate(Match(Field("x.y"), Text(("1",))), {"x.y": "1", "x": {"y": "2"}})
    assert not evaluate(Match(Field("a.b"), Exists()), EVENT)


def test_trace_names_what_failed() -> None:
    a, b = on_f(Text(("a",))), on_f(CONTAINS_A)
    found = trace(And((a, Not(Or((b,))))), field_of({"F": "xa"}))
    assert (found.holds, [p.holds for p in found.parts]) == (False, [False, False])
    assert found.parts[0].expr == a
    assert found.parts[1].parts[0].parts[0].holds is True


def test_a_placeholder_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="admins"):
        matches(Text((Placeholder("admins"),)), "x")


def test_hostile_input_ends() -> None:
    many = (*(p for _ in range(40) for p in (ANY, "a")), ANY, "b")
    assert not matches(Text(many), "a" * 50_000)
    assert not evaluate(on_f(Regex("(a|a?)+c")), {"F": "a" * 20_000})
    deep: Any = "needle"
    for _ in range(50_000):
        deep = [deep]
    assert evaluate(Match(KEYWORD, Text(("needle",))), {"x": deep})
    assert evaluate(on_f(Text(("needle",))), {"F": deep})


# ---- shapes against backtracking

PIECES = st.one_of(st.sampled_from([ANY, ONE, OneOf("ab"), OneOf("-]")]), st.text("aAb-]É\n", min_size=1, max_size=2))


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=6), st.booleans(), st.text("aAb-]Éé\n", max_size=9))
def test_shapes(parts: list[Part], cased: bool, text: str) -> None:
    slow = "".join(_slow(p) for p in parts)
    beyond = any("É" in p for p in parts if isinstance(p, str))
    flags = re.DOTALL | (0 if cased else re.IGNORECASE | (0 if beyond else re.ASCII))
    assert matches(Text(tuple(parts), cased), text) == (re.fullmatch(slow, text, flags) is not None)


def _slow(part: Part) -> str:
    if isinstance(part, str):
        return re.escape(part)
    if isinstance(part, OneOf):
        return "(?:" + "|".join(map(re.escape, part.chars)) + ")"
    return ".*" if part is ANY else "."
