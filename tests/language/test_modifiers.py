"""Values and modifiers: the table of tricky texts, each modifier, each refusal at its place."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.language.detection import read_detection
from sigma2kql.language.modifiers import MODIFIERS, read_chain
from sigma2kql.language.strings import placeholders, substitute, unescape
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
    ANY,
    ONE,
    And,
    Bool,
    Cidr,
    DatePart,
    Exists,
    Field,
    Match,
    Not,
    Null,
    Number,
    OneOf,
    Or,
    Placeholder,
    Regex,
    SameAs,
    Text,
)
from sigma2kql.text.yaml_text import compose

F = Field("f")
DASH = OneOf("-/–—―")


def read(text: str):
    """The tree of a detection, and `code line:column` of each problem."""
    source = Source("x.yml", text)
    (document,) = compose(source)
    problems = list(document.problems)
    tree = read_detection(source, document.root, problems)
    return tree, ["{} {}:{}".format(p.code, *source.position(p.span.start)) for p in problems]


def one(text: str):
    """The test of a detection that holds one value."""
    tree, problems = read(text)
    assert problems == []
    assert isinstance(tree, Match)
    return tree.test


# The table "Escapes" of the Sigma reading: what stands between single quotes, and its parts.
TRICKY = [
    (r"a\b", ("a\\b",)),
    (r"a\\b", ("a\\b",)),
    (r"a\\\b", ("a\\\\b",)),
    (r"a\\\\b", ("a\\\\b",)),
    (r"\\host\share", ("\\host\\share",)),
    (r"\\\\host\share", ("\\\\host\\share",)),
    (r"\\\\*", ("\\\\", ANY)),
    (r"\*", ("*",)),
    (r"\?", ("?",)),
    (r"C:\Users\*\x", ("C:\\Users*\\x",)),
    (r"\\*", ("\\", ANY)),
    (r"\\\*", ("\\*",)),
    ("a\\", ("a\\",)),
    ("a\\\\", ("a\\",)),
    ("a\\\\\\", ("a\\\\",)),
    (r"\a\*\b", ("\\a*\\b",)),
    ("**", (ANY,)),
    ("*?*", (ANY, ONE, ANY)),
    ("", ()),
    ("%a%", ("%a%",)),
    ("*", (ANY,)),
]


@pytest.mark.parametrize(("written", "parts"), TRICKY)
def test_escapes(written: str, parts: tuple[object, ...]) -> None:
    tree, problems = read(f"f: '{written}'")
    assert tree == Match(F, Text(parts))
    assert [p for p in problems if not p.startswith("W211")] == []


@pytest.mark.parametrize(
    ("item", "parts"),
    [
        (r"f|endswith: '\cmd.exe'", (ANY, "\\cmd.exe")),
        (r"f|contains: 'C:\'", (ANY, "C:\\", ANY)),
        ("f|contains: '*'", (ANY,)),
        ("f|contains: ''", (ANY,)),
        ("f|startswith: ''", (ANY,)),
        ("f|contains: '*a'", (ANY, "a", ANY)),
        ("f|contains: 'a*b'", (ANY, "a", ANY, "b", ANY)),
        ("f|startswith: 'a?b'", ("a", ONE, "b", ANY)),
        ("f|startswith|endswith: a", (ANY, "a", ANY)),
        (r"f|startswith: 'a\\'", ("a\\", ANY)),
        ("f|windash|contains: ' -a /b c-d'", (ANY, " ", DASH, "a ", DASH, "b c-d", ANY)),
        ("f|contains|windash: ' -a'", (ANY, " ", DASH, "a", ANY)),
        ("f|windash: '-x - /y/z --w'", (DASH, "x - ", DASH, "y/z -", DASH, "w")),
        ("f|expand: '%a%b%c.d%'", (Placeholder("a"), "b", Placeholder("c.d"))),
        ("f|expand|endswith: '%a%'", (ANY, Placeholder("a"))),
        (r"f|expand: '50\% %a%'", ("50% ", Placeholder("a"))),
        ("f|base64: 'foo'", ("Zm9v",)),
        (r"f|base64: '\*é'", (base64.b64encode("*é".encode()).decode(),)),
        ("f|wide|base64: 'ab'", (base64.b64encode(b"a\0b\0").decode(),)),
        ("f|utf16le|base64: 'ab'", (base64.b64encode(b"a\0b\0").decode(),)),
        ("f|utf16be|base64: 'ab'", (base64.b64encode(b"\0a\0b").decode(),)),
        ("f|utf16|base64: 'ab'", (base64.b64encode(b"\xff\xfea\0b\0").decode(),)),
    ],
)
def test_text_modifiers(item: str, parts: tuple[object, ...]) -> None:
    assert one(item) == Text(parts)


@pytest.mark.parametrize(
    ("item", "test"),
    [
        ("f|cased: aB", Text(("aB",), True)),
        ("f|cased|contains: aB", Text((ANY, "aB", ANY), True)),
        ("f|contains|cased: aB", Text((ANY, "aB", ANY), True)),
        (r"f|re: '\d\\*'", Regex(r"\d\\*")),
        ("f|re: 42", Regex("42")),
        ("f|re|s|i|m|i: a", Regex("a", "ims")),
        ("f|re|ignorecase: a", Regex("a", "i")),
        ("f|re|contains: a", Regex("a")),
        ("f|cidr: 10.0.0.0/8", Cidr("10.0.0.0/8", 4)),
        ("f|cidr: 10.0.0.1", Cidr("10.0.0.1/32", 4)),
        ("f|cidr: FE80::/10", Cidr("fe80::/10", 6)),
        ("f|cidr: '::1'", Cidr("::1/128", 6)),
        ("f|lt: 5", Number("<", 5)),
        ("f|lte: 5.5", Number("<=", 5.5)),
        ("f|gt: -1", Number(">", -1)),
        ("f|gte: 0", Number(">=", 0)),
        ("f|minute: 5", DatePart("minute", "==", 5)),
        ("f|hour|gte: 22", DatePart("hour", ">=", 22)),
        ("f|day: 31", DatePart("day", "==", 31)),
        ("f|week|lt: 2", DatePart("week", "<", 2)),
        ("f|month: 12", DatePart("month", "==", 12)),
        ("f|year: 2024", DatePart("year", "==", 2024)),
        ("f|fieldref: g", SameAs(Field("g"))),
        ("f|fieldref|contains: g", SameAs(Field("g"), "contains")),
        ("f|fieldref|startswith: g", SameAs(Field("g"), "startswith")),
        ("f|fieldref|endswith: g", SameAs(Field("g"), "endswith")),
        ("f|fieldref|cased: g", SameAs(Field("g"), "equals", True)),
        ("f|exists: true", Exists()),
        ("f: 4624", Number("==", 4624)),
        ("f: 1.0", Number("==", 1)),
        ("f: true", Bool(True)),
        ("f: null", Null()),
        ("f:", Null()),
        ("f: '4624'", Text(("4624",))),
    ],
)
def test_other_modifiers_and_values(item: str, test: object) -> None:
    assert one(item) == test


def test_exists_false_is_a_negation() -> None:
    assert read("f|exists: false") == (Not(Match(F, Exists())), [])


@pytest.mark.parametrize("value", ["foo", "é", "ab", "abcd"])
@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("behind", range(4))
def test_base64offset_finds_the_value_at_every_offset(value: str, before: int, behind: int) -> None:
    tree, problems = read(f"f|base64offset|contains: {value}")
    assert problems == []
    assert isinstance(tree, Or)
    encoded = base64.b64encode(b"x" * before + value.encode() + b"y" * behind).decode()
    shapes = [match.test.parts for match in tree.items]
    assert all(parts[0] is ANY and parts[2] is ANY for parts in shapes)
    assert shapes[before % 3][1] in encoded


def test_lists_all_and_neq() -> None:
    a, b = Match(F, Text((ANY, "a", ANY))), Match(F, Text((ANY, "b", ANY)))
    assert read("f|contains: [a, b]") == (Or((a, b)), [])
    assert read("f|contains|all: [a, b]") == (And((a, b)), [])
    assert read("f|all|contains: [a, b]") == (And((a, b)), [])
    assert read("f|contains|neq: [a, b]") == (Not(Or((a, b))), [])
    assert read("f|neq|contains|all: [a, b]") == (Not(And((a, b))), [])
    assert read("f|neq: null") == (Not(Match(F, Null())), [])
    assert read("f: [null, '']") == (Or((Match(F, Null()), Match(F, Text(())))), [])
    tree, _ = read("f|base64offset|contains|all: [foo, bar]")
    assert isinstance(tree, And)
    assert [type(item) for item in tree.items] == [Or, Or]


@pytest.mark.parametrize(
    ("item", "problems"),
    [
        ("f|contians: a", ["E211 1:3"]),
        ("f|Contains: a", ["E211 1:3"]),
        ("f|all|: [a, b]", ["E210 1:7"]),
        ("f|contains |all: [a, b]", ["E210 1:3"]),
        ("'f|contains|foo': a", ["E211 1:13"]),
        ("f|i: a", ["E212 1:3"]),
        ("f|endswith|re: a", ["E212 1:12"]),
        ("f|base64offset|wide: a", ["E212 1:16"]),
        ("f|contains|base64: a", ["E212 1:12"]),
        ("f|wide: a", ["E212 1:3"]),
        ("f|wide|contains: a", ["E213 1:8"]),
        ("f|re|cased: a", ["E213 1:6"]),
        ("f|cased|re: a", ["E213 1:9"]),
        ("f|cidr|contains: 10.0.0.0/8", ["E213 1:8"]),
        ("f|windash|base64: -a", ["E213 1:11"]),
        ("f|expand|base64: '%a%'", ["E213 1:10"]),
        ("f|lt|gt: 1", ["E213 1:6"]),
        ("f|lt|hour: 1", ["E212 1:6"]),
        ("f|exists|neq: true", ["E213 1:3"]),
        ("f|contains: [a, 5]", ["E214 1:17"]),
        ("f|startswith: null", ["E214 1:15"]),
        ("f|cased: true", ["E214 1:10"]),
        ("f|lt: '5'", ["E214 1:7"]),
        ("f|hour: 1.5", ["E214 1:9"]),
        ("f|exists: 1", ["E214 1:11"]),
        ("f|cidr: 10", ["E214 1:9"]),
        ("f|fieldref: 1", ["E214 1:13"]),
        ("f|re: null", ["E214 1:7"]),
        ("f|fieldref: 'a*'", ["E215 1:13"]),
        ("f|base64: 'a*'", ["E215 1:11"]),
        ("f|wide|base64: 'a?'", ["E215 1:16"]),
        ("f|base64offset: ''", ["E215 1:17"]),
        ("f|cidr: 10.0.0.1/8", ["E216 1:9"]),
        ("f|cidr: 10.0.0.0/33", ["E216 1:9"]),
        ("f|cidr: 10.0.0.0/255.0.0.0", ["E216 1:9"]),
        ("f|cidr: nonsense", ["E216 1:9"]),
        ("'|startswith': a", ["E217 1:3"]),
        ("'|lt': 1", ["E217 1:3"]),
        ("f|hour: 24", ["E218 1:9"]),
        ("f|week: 0", ["E218 1:9"]),
        ("f: {a: 1}", ["E221 1:4"]),
        ("f: [[a]]", ["E221 1:5"]),
        ("f: 2020-01-01", ["E221 1:4"]),
        ("f: .nan", ["E221 1:4"]),
        ("f: []", ["E222 1:4"]),
        ("f|foo: 2020-01-01\ng|bar: {}", ["E211 1:3", "E211 2:3", "E221 2:8"]),
    ],
)
def test_refusals_stand_at_the_modifier_or_the_value(item: str, problems: list[str]) -> None:
    tree, found = read(item)
    assert found == problems
    assert tree is None


def test_hints() -> None:
    source = Source("x.yml", "f|contians: a\ng|cidr: 10.1.2.3/8")
    problems = []
    read_detection(source, compose(source)[0].root, problems)
    assert [problem.hint for problem in problems] == ["did you mean `contains`?", "the network is `10.0.0.0/8`"]


@pytest.mark.parametrize(
    ("item", "problems"),
    [
        ("f: yes", ["W101 1:4"]),
        ("f: [1, 010]", ["W101 1:8"]),
        ("f|contains|all: a", ["W210 1:12"]),
        ("f|all|contains: [a]", ["W210 1:3"]),
        (r"f: '\temp\*.rar'", ["W211 1:4"]),
        (r"f: 'C:\*\x'", ["W211 1:4"]),
        (r"f: 'x \* y'", []),
        (r"f|re: '\temp\*.rar'", []),
        ("f|expand: abc", ["W212 1:11"]),
        ("'|contains': '*'", ["W213 1:14"]),
    ],
)
def test_warnings(item: str, problems: list[str]) -> None:
    tree, found = read(item)
    assert found == problems
    assert tree is not None


def test_keywords_are_found_anywhere() -> None:
    def k(*parts):
        return Match(Field(None), Text((ANY, *parts, ANY)))

    assert read("[a, 6]") == (Or((k("a"), k("6"))), [])
    assert read("a*b") == (k("a", ANY, "b"), [])
    assert read("'|all': [a, b]") == (And((k("a"), k("b"))), [])
    assert read("'': a") == (k("a"), [])
    assert read("null: [a, b]") == (Or((k("a"), k("b"))), [])
    assert read("'|re': a.b") == (Match(Field(None), Regex("a.b")), [])
    assert read("'|cased': a") == (Match(Field(None), Text((ANY, "a", ANY), True)), [])
    tree, _ = read("'|base64offset': foo")
    assert [match.test.parts[0] for match in tree.items] == [ANY, ANY, ANY]
    assert read("[a, null]") == (None, ["E223 1:5"])


def test_shapes() -> None:
    a, b = Match(Field("a"), Number("==", 1)), Match(Field("b"), Number("==", 2))
    assert read("{a: 1, b: 2}") == (And((a, b)), [])
    assert read("[{a: 1}, {b: 2}]") == (Or((a, b)), [])
    assert read("[{a: 1}, [{b: 2}, x]]") == (Or((a, Or((b, Match(Field(None), Text((ANY, "x", ANY))))))), [])
    assert read("{}") == (None, ["E220 1:1"])
    assert read("[]") == (None, ["E220 1:1"])
    assert read("[{a: 1}, {}]") == (None, ["E220 1:10"])


def test_values_and_fields_know_their_place() -> None:
    source = Source("x.yml", "'f|contains': [a, 'b']")
    tree = read_detection(source, compose(source)[0].root, [])
    assert isinstance(tree, Or)
    assert [source.text[m.span.start : m.span.end] for m in tree.items] == ["a", "'b'"]
    assert {source.text[m.subject.span.start : m.subject.span.end] for m in tree.items} == {"f"}


def test_placeholders_are_found_and_replaced() -> None:
    tree, _ = read("f|expand: '%a%-%b%'\ng|re|expand: '^%a%$'\nh: '%a%'")
    assert [name for name, _ in placeholders(tree)] == ["a", "b", "a"]
    done = substitute(tree, {"a": ["x*", "1.2"], "b": ["y"]})
    assert done == And(
        (
            Or((Match(F, Text(("x", ANY, "-y"))), Match(F, Text(("1.2-y",))))),
            Or((Match(Field("g"), Regex(r"^x\*$")), Match(Field("g"), Regex(r"^1\.2$")))),
            Match(Field("h"), Text(("%a%",))),
        )
    )
    assert placeholders(done) == []
    partly = substitute(tree, {"b": ["y"]})
    assert [name for name, _ in placeholders(partly)] == ["a", "a"]
    assert substitute(tree, {}) is tree


def test_too_many_combinations_are_refused() -> None:
    tree, _ = read("f|expand: '%a%%b%%c%'")
    with pytest.raises(Sigma2KqlError, match="E226"):
        substitute(tree, {name: [str(i) for i in range(100)] for name in "abc"})


def escape(parts) -> str:
    out = ""
    for part in parts:
        out += "".join("\\" + c if c in "\\*?" else c for c in part) if isinstance(part, str) else part.value
    return out


@given(st.lists(st.text(alphabet="ab\\*?%", min_size=1, max_size=5) | st.sampled_from([ANY, ONE]), max_size=6))
def test_unescape_undoes_escape(parts) -> None:
    assert unescape(escape(parts)) == join_parts(parts)


@given(st.text(alphabet="ab\\*?", max_size=12))
def test_parts_are_normalised(text: str) -> None:
    parts = unescape(text)
    assert parts == join_parts(parts)


# Modifiers that are one in all but name, or differ in their value only, may stand at the same places.
ALIKE = (
    ("i", "m", "s", "ignorecase", "multiline", "dotall"),
    ("wide", "utf16le", "utf16be", "utf16"),
    ("lt", "lte", "gt", "gte"),
    ("minute", "hour", "day", "week", "month", "year"),
    ("contains", "startswith", "endswith"),
)


@pytest.mark.parametrize("names", ALIKE, ids=lambda names: names[0])
def test_modifiers_that_are_alike_may_stand_at_the_same_places(names: tuple[str, ...]) -> None:
    for before in MODIFIERS:
        said = {name: bool(read_chain(f"{before}|{name}", False).faults) for name in names if name != before}
        assert len(set(said.values())) == 1, (before, said)
        said = {name: bool(read_chain(f"{name}|{before}", False).faults) for name in names if name != before}
        assert len(set(said.values())) == 1, (before, said)


@pytest.mark.parametrize(
    ("written", "allowed"),
    [
        ("re|i|m|s", True),
        ("re|ignorecase|multiline|dotall", True),
        ("re|contains|i", True),
        ("re|i|contains", True),
        ("re|i|ignorecase|contains", True),
        ("re|contains|ignorecase", True),
        ("re|startswith|multiline", True),
        ("re|endswith|dotall", True),
        ("i|re", False),
        ("contains|i", False),
        ("windash|contains", True),
        ("contains|windash", True),
        ("cased|base64offset|contains", True),
        ("wide|base64offset|contains", True),
        ("base64offset|wide", False),
        ("base64|base64", True),
        ("wide", False),
        ("cased|windash|endswith", True),
        ("cidr|contains", False),
        ("contains|cidr", False),
        ("hour|gte", True),
        ("gte|hour", False),
        ("contains|gte", False),
        ("fieldref|startswith", True),
        ("fieldref|cased", True),
        ("startswith|fieldref", False),
        ("exists|contains", False),
        ("contains|exists", False),
        ("expand|re", False),
        ("re|expand", True),
    ],
)
def test_the_order_of_modifiers(written: str, allowed: bool) -> None:
    assert bool(read_chain(written, False).faults) is not allowed


@pytest.mark.parametrize("name", sorted(MODIFIERS))
def test_which_modifiers_a_keyword_takes(name: str) -> None:
    """What compares a whole value with a number, a network or another field has no meaning for the whole event."""
    fields_only = {"startswith", "endswith", "cidr", "lt", "lte", "gt", "gte", "fieldref", "exists"}
    fields_only |= {"minute", "hour", "day", "week", "month", "year"}
    refused = "E217" in [fault.code for fault in read_chain(name, True).faults]
    assert refused is (name in fields_only)


def test_every_modifier_has_a_case() -> None:
    """A new modifier needs a rule under tests/cases that uses it."""
    cases = Path(__file__).parent.parent / "cases"
    used = {
        name
        for path in cases.rglob("*.md")
        for key in re.findall(r"[\w.'\"}{ -]\|([a-z0-9_|]+)['\"]?\s*:", path.read_text(encoding="utf-8"))
        for name in key.split("|")
    }
    assert sorted(MODIFIERS.keys() - used) == []
