"""Documents: kinds, templates, metadata, correlations, filters, native queries; the whole corpus."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.load.documents import decode, load
from sigma2kql.model.tree import (
    And,
    Broken,
    Correlation,
    Field,
    Filter,
    LogSource,
    Match,
    NativeQuery,
    Number,
    Or,
    Rule,
    Threshold,
)

RULE = """\
title: A rule
logsource:
  product: windows
  category: process_creation
detection:
  sel:
    a: 1
  condition: sel
"""
A, B = Match(Field("a"), Number("==", 1)), Match(Field("b"), Number("==", 2))


def problems(document) -> list[str]:
    """`code line:column` of everything said about a document."""
    found = document.diagnostics if isinstance(document, Broken) else document.warnings
    return ["{} {}:{}".format(p.code, *p.span.source.position(p.span.start)) for p in found]


def one(text: str):
    (document,) = load(Source("x.yml", text))
    return document


# --------------------------------------------------------------------------------------------------------------------
# Files


def test_bytes_are_utf_8_with_or_without_a_mark() -> None:
    assert decode("x", b"\xef\xbb\xbfa: \xc3\xa9").text == decode("x", b"a: \xc3\xa9").text == "a: é"


@pytest.mark.parametrize(
    ("data", "code", "place"),
    [
        ("a: 1".encode("utf-16"), "E101", (1, 1)),
        (b"a: 1\nb: \xe9t\xe9", "E101", (2, 4)),
        (b"a: 1\n\0", "E103", (2, 1)),
        (b"\0a: 1", "E103", (1, 1)),
        (b"a" * 101, "E102", (1, 1)),
    ],
)
def test_other_bytes_are_refused(data: bytes, code: str, place: tuple[int, int]) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        decode("x.yml", data, max_size=100)
    (problem,) = caught.value.diagnostics
    assert (problem.code, problem.span.source.path) == (code, "x.yml")
    assert problem.span.source.position(problem.span.start) == place
    assert problem.span.end - problem.span.start == (0 if code == "E102" or b"\xff\xfe" in data else 1)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["E110 1:1"]),
        ("# nothing\n---\n", ["E110 1:1"]),
        ("- a\n", ["E112 1:1"]),
        ("foo: bar\n", ["E112 1:1"]),
        ("a: [1\n", ["E104 1:6"]),
        ("a: &a [*a]\n", ["E106 1:4"]),
    ],
)
def test_what_is_no_document_is_broken(text: str, found: list[str]) -> None:
    document = one(text)
    assert isinstance(document, Broken)
    assert problems(document) == found


def test_each_document_gives_one_result() -> None:
    documents = load(Source("x.yml", f"{RULE}---\na: [1\n---\n{RULE}---\nfoo: 1\n"))
    assert [(type(d), d.origin.index) for d in documents] == [(Rule, 0), (Broken, 1), (Rule, 2), (Broken, 3)]


# --------------------------------------------------------------------------------------------------------------------
# Rules


def test_a_rule() -> None:
    rule = one(RULE)
    assert isinstance(rule, Rule)
    assert (rule.meta.title, rule.where, rule.warnings) == ("A rule", A, ())
    assert rule.logsource == LogSource("process_creation", "windows", None)
    text = rule.origin.source.text
    assert text[rule.where.span.start : rule.where.span.end] == "1"
    assert text[rule.where.subject.span.start : rule.where.subject.span.end] == "a"
    assert text[rule.origin.span.start : rule.origin.span.end] == text.rstrip("\n")


def test_several_conditions_are_alternatives() -> None:
    rule = one(RULE.replace("  condition: sel", "  other: {b: 2}\n  condition: [sel, other]"))
    assert rule.where == Or((A, B))


def rule(detection: str) -> str:
    return RULE[: RULE.index("detection:")] + detection


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (rule(""), ["E201 1:1"]),
        (rule("detection: x\n"), ["E202 5:1"]),
        (rule("detection:\n  condition: sel\n"), ["E309 5:1", "E302 6:14"]),
        (rule("detection:\n  sel: {a: 1}\n"), ["E308 5:1"]),
        (rule("detection:\n  sel: {a: 1}\n  condition:\n"), ["E308 7:3"]),
        (rule("detection:\n  sel: {a: 1}\n  condition: [sel, {}]\n"), ["E308 7:14"]),
        (rule("detection:\n  sel: {a: 1}\n  condition: []\n"), ["E308 7:14"]),
        (
            rule("detection:\n  sel: {a|b: 1, c: [], d: yes}\n  condition: nix\n"),
            ["E211 6:11", "E222 6:20", "E302 7:14", "W101 6:27"],
        ),
        (rule("detection:\n  sel: {a: 1}\n  sel: {a: 2}\n  condition: sel\n"), ["E107 7:3"]),
        (RULE.replace("  product: windows\n  category: process_creation", "  definition: x"), ["E203 2:1"]),
        (RULE.replace("product: windows", "product: [windows, linux]"), ["E204 3:12"]),
        (RULE.replace("logsource:\n  product: windows\n  category: process_creation\n", ""), ["E201 1:1"]),
        (
            RULE.replace("logsource:\n  product: windows\n  category: process_creation\n", "logsource: x\n"),
            ["E202 2:1"],
        ),
        (RULE + "taxonomy: ecs\n", ["E205 9:11"]),
    ],
)
def test_every_error_of_a_rule_is_reported(text: str, found: list[str]) -> None:
    document = one(text)
    assert isinstance(document, Broken)
    assert document.kind == "detection"
    assert problems(document) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (RULE.replace("  condition", "  unused: {b: 2}\n  condition"), ["W301 8:3"]),
        (RULE.replace("  condition", "  timeframe: 5m\n  condition"), ["W214 8:3"]),
        (RULE.replace("windows", "Windows"), ["W215 3:12"]),
        (RULE.replace("title: A rule\n", ""), ["W201 1:1"]),
        (RULE.replace("A rule", "x" * 257), ["W201 1:8"]),
        (RULE + "id: 12\n", ["W202 9:5"]),
        (RULE + "tags: [attack.t1059, nodot]\n", ["W203 9:22"]),
        (RULE + "date: 2024-13-01\n", ["W204 9:7"]),
        (RULE + "level: hihg\n", ["W205 9:8"]),
        (RULE + "status: done\n", ["W205 9:9"]),
        (RULE + "references: http://x\n", ["W206 9:13"]),
        (RULE + "author: [a]\n", ["W201 9:9"]),
        (RULE + "related: [{id: x}]\n", ["W201 9:11"]),
    ],
)
def test_what_is_only_suspicious_is_a_warning(text: str, found: list[str]) -> None:
    document = one(text)
    assert isinstance(document, Rule)
    assert problems(document) == found
    assert document.logsource == LogSource("process_creation", "windows")


def test_metadata() -> None:
    meta = one(
        RULE + "id: 7610a4ea-c06d-495f-a2ac-0a696abcfd3b\nname: n\nstatus: Test\nlevel: HIGH\ndate: 2024/1/2\n"
        "modified: 2024-03-04\nauthor: me\ndescription: |\n  text\ntags: [attack.t1059, cve.2021.44228]\n"
        "references: [a, b]\nfalsepositives: [c]\nfields: [d]\nlicense: MIT\ntaxonomy: sigma\nscope: [server]\n"
        "related: [{id: x, type: derived}]\nextra: {deep: [1, 2020-01-01]}\n"
    ).meta
    assert (meta.id, meta.name, meta.status, meta.level) == (
        "7610a4ea-c06d-495f-a2ac-0a696abcfd3b",
        "n",
        "test",
        "high",
    )
    assert (meta.date, meta.modified, meta.author, meta.description) == ("2024-01-02", "2024-03-04", "me", "text\n")
    assert (meta.tags, meta.references) == (("attack.t1059", "cve.2021.44228"), ("a", "b"))
    assert (meta.falsepositives, meta.fields, meta.license) == (("c",), ("d",), "MIT")
    assert meta.related == ({"id": "x", "type": "derived"},)
    assert meta.custom == {"scope": ["server"], "extra": {"deep": [1, "2020-01-01"]}}


# --------------------------------------------------------------------------------------------------------------------
# Templates

BARE = "title: {}\ndetection:\n  sel: {{{}}}\n  condition: sel\n"


def test_a_template_wins_over_later_rules_until_it_is_reset() -> None:
    text = "---\n".join(
        [
            "action: global\ntitle: T\nlogsource: {product: windows}\nlevel: low\n",
            BARE.format("x", "a: 1") + "level: high\n",
            "action: global\nlogsource: {product: linux}\ndetection: {sel: {b: 2}}\n",
            BARE.format("y", "a: 1"),
            "action: reset\n",
            BARE.format("z", "a: 1"),
        ]
    )
    first, second, third = load(Source("x.yml", text))
    assert (first.meta.title, first.meta.level, first.logsource.product, first.where) == ("T", "low", "windows", A)
    assert (second.meta.title, second.logsource.product, second.where) == ("y", "linux", And((A, B)))
    assert isinstance(third, Broken)
    assert problems(third) == ["E201 23:1"]
    assert [d.origin.index for d in (first, second, third)] == [1, 3, 5]


def test_repeat_takes_the_last_rule_and_wins() -> None:
    text = RULE + "---\naction: repeat\ntitle: Again\ndetection: {sel: {b: 2}}\n---\naction: repeat\nlevel: low\n"
    first, second, third = load(Source("x.yml", text))
    assert (first.where, second.where, third.where) == (A, And((A, B)), And((A, B)))
    assert [d.meta.title for d in (first, second, third)] == ["A rule", "Again", "Again"]


def test_bad_actions_and_broken_templates() -> None:
    documents = load(Source("x.yml", "action: golbal\ntitle: x\nlogsource: {product: a}\n"))
    assert problems(documents[0])[0] == "E113 1:9"
    documents = load(Source("x.yml", "action: global\ntitle: x\ntitle: y\n---\n" + RULE))
    assert [problems(document) for document in documents] == [["E107 3:1"], ["E114 5:1"]]


@pytest.mark.parametrize("action", ["action: global\n", ""])
def test_templates_cannot_expand_without_bound(action: str) -> None:
    head = (
        f"{action}title: x\nlogsource: {{product: windows}}\ndetection: {{condition: s, s: {{a: {'x' * 300_000}}}}}\n"
    )
    later = "---\naction: repeat\nlevel: low\n" if not action else "---\nlevel: low\n"
    documents = load(Source("x.yml", head + later * 100))
    assert problems(documents[-1])[0].startswith("E106")
    assert len(documents) == 100 + (not action)


# --------------------------------------------------------------------------------------------------------------------
# Correlations, filters, native queries

CORRELATION = """\
title: C
correlation:
  type: value_count
  rules: [a, b]
  group-by: [User]
  timespan: 15m
  condition:
    gte: 10
    lt: 20
    field: Target
  aliases:
    User: {a: SubjectUserName, b: TargetUserName}
  generate: true
"""


def test_a_correlation() -> None:
    found = one(CORRELATION)
    assert isinstance(found, Correlation)
    assert (found.type, found.timespan, found.generate, found.warnings) == ("value_count", 900, True, ())
    assert [r.name for r in found.rules] == ["a", "b"]
    assert [r.name for r in found.group_by] == ["User"]
    assert found.threshold == Threshold((("gte", 10), ("lt", 20)), ("Target",))
    assert found.aliases == {"User": {"a": "SubjectUserName", "b": "TargetUserName"}}


def test_a_temporal_correlation_with_an_expression() -> None:
    text = "title: C\ncorrelation:\n  type: temporal\n  rules: [a, b]\n  timespan: 1h\n  condition: a and not b\n"
    found = one(text)
    assert (found.expression, found.threshold, found.group_by) == ("a and not b", None, ())
    assert problems(one(text.replace("not b", "c"))) == ["E233 6:20", "E233 4:14"]
    assert problems(one(text.replace("not b", "(c"))) == ["E307 6:20"]
    assert isinstance(one(text.replace("  condition: a and not b\n", "")), Correlation)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("value_count", "value_cuont", ["E231 3:9"]),
        ("15m", "15 minutes", ["E232 6:13"]),
        ("15m", "0m", ["E232 6:13"]),
        ("  timespan: 15m\n", "", ["E230 2:1"]),
        ("  rules: [a, b]\n", "", ["E230 2:1"]),
        ("rules: [a, b]", "rules: []", ["E230 4:10"]),
        ("rules: [a, b]", "rules: [a, {}]", ["E230 4:14"]),
        ("    field: Target\n", "", ["E233 8:5"]),
        ("    gte: 10\n    lt: 20\n", "", ["E233 8:5"]),
        ("gte: 10", "gte: ten", ["E233 8:10"]),
        ("gte: 10", "gtee: 10", ["E233 8:5"]),
        ("value_count", "event_count", ["E233 10:5"]),
        ("value_count", "value_percentile", ["E233 8:5"]),
        ("generate: true", "generate: maybe", ["E230 13:13"]),
        ("User: {a: SubjectUserName, b: TargetUserName}", "User: x", ["E234 12:5"]),
        ("  generate", "  genrate", ["E230 13:3"]),
    ],
)
def test_every_error_of_a_correlation(old: str, new: str, found: list[str]) -> None:
    document = one(CORRELATION.replace(old, new))
    assert isinstance(document, Broken)
    assert document.kind == "correlation"
    assert problems(document) == found


FILTER = """\
title: F
logsource: {product: windows}
filter:
  rules: [one, two]
  sel: {a: 1}
  condition: not sel
"""


def test_a_filter() -> None:
    found = one(FILTER)
    assert isinstance(found, Filter)
    assert [r.name for r in found.rules] == ["one", "two"]
    assert found.where.item == A
    assert one(FILTER.replace("[one, two]", "any")).rules == ()
    assert one(FILTER.replace("[one, two]", "[]")).rules == ()
    assert problems(one(FILTER.replace("  rules: [one, two]\n", ""))) == ["E240 3:1"]
    assert problems(one(FILTER.replace("[one, two]", "[{}]"))) == ["E240 4:11"]


def test_a_native_query() -> None:
    text = "id: x\nname: N\nseverity: Medium\ntactics: [Execution]\nquery: |\n  T\n  | where a == 1\n"
    found = one(text)
    assert isinstance(found, NativeQuery)
    assert found.query == "T\n| where a == 1\n"
    assert (found.meta.title, found.meta.id, found.meta.level) == ("N", "x", "medium")
    assert found.data["tactics"] == ["Execution"]
    assert text[found.query_span.start :].startswith("|\n  T")
    broken = one("name: N\nquery:\n")
    assert (broken.kind, problems(broken)) == ("native", ["E115 2:1"])


# --------------------------------------------------------------------------------------------------------------------
# Everything

WORDS = [
    "title",
    "logsource",
    "detection",
    "condition",
    "correlation",
    "filter",
    "action",
    "query",
    "name",
    "sel",
    "a|re",
]
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([*WORDS, "global", "repeat", "1 of *", "*", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=15,
)


@given(st.lists(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=6), min_size=1, max_size=3))
def test_any_document_gives_a_result_with_a_reason(values) -> None:
    import yaml

    text = yaml.safe_dump_all(values)
    for document in load(Source("x.yml", text)):
        if isinstance(document, Broken):
            assert any(problem.severity == "error" for problem in document.diagnostics)
            assert all(0 <= p.span.start <= p.span.end <= len(text) for p in document.diagnostics)


@pytest.mark.corpus
def test_the_corpus_loads_without_a_broken_rule(corpus: list[Path]) -> None:
    documents = [document for path in corpus for document in load(decode(str(path), path.read_bytes()))]
    assert len(documents) == len(corpus)
    assert [d.diagnostics for d in documents if not isinstance(d, Rule)] == []
    warned = sorted((p.code, p.span.source.path.rpartition("/")[2]) for d in documents for p in d.warnings)
    assert {code for code, _ in warned} <= {"W211"}  # a literal star in a path, which is a mistake in two rules


@pytest.mark.parametrize(
    ("item", "expands"),
    [
        ("a: '%x%'", False),
        ("a|expand: '%x%'", True),
        ('"a|exp\\x61nd": "%x%"', True),
        ("a|re|expand: '%x%'", True),
        ("a|endswith|expand|neq: ['%x%', y]", True),
        ("'|expand': '%x%'", True),
    ],
)
def test_a_rule_knows_whether_it_holds_placeholders(item: str, expands: bool) -> None:
    assert one(RULE.replace("a: 1", item)).expands is expands


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1s", 1), ("2m", 120), ("3h", 10_800), ("1d", 86_400), ("1w", 604_800), ("1M", 2_592_000), ("1y", 31_536_000)],
)
def test_a_time_span_in_seconds(written: str, seconds: int) -> None:
    """A month has 30 days and a year 365 (Sigma correlation rules specification, "Timespan")."""
    text = f"title: C\ncorrelation:\n  type: event_count\n  rules: a\n  timespan: {written}\n  condition: {{gte: 2}}\n"
    document = one(text)
    assert isinstance(document, Correlation)
    assert document.timespan == seconds
    assert document.generate is False


@pytest.mark.parametrize("written", ["0s", "m", "1", "1 h", "-1h", "1.5h", "1H", "1234567890s"])
def test_what_is_no_time_span(written: str) -> None:
    text = f"title: C\ncorrelation:\n  type: event_count\n  rules: a\n  timespan: {written}\n  condition: {{gte: 2}}\n"
    document = one(text)
    assert isinstance(document, Broken)
    assert [problem.code for problem in document.diagnostics] == ["E232"]
