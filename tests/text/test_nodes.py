"""YAML to nodes: positions, YAML 1.1 readings, problems at their places, hostile texts."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, strategies as st

from sigma2kql.diagnostics.diagnostic import Source
from sigma2kql.text.nodes import YamlList, YamlMap, YamlScalar, locate, plain, trap
from sigma2kql.text.yaml_text import compose


def roots(text: str):
    return [document.root for document in compose(Source("x.yml", text))]


def problems(text: str) -> list[tuple[str, int, int]]:
    source = Source("x.yml", text)
    found = [problem for document in compose(source) for problem in document.problems]
    return [(problem.code, *source.position(problem.span.start)) for problem in found]


def test_nodes_know_their_characters() -> None:
    text = "a: 'b c'\n💥: [1, x y]\nd: |\n  foo\n  bar\n\ne:\n  - f # no\n"
    (root,) = roots(text)
    assert isinstance(root, YamlMap)
    assert [text[root.key(k).start : root.key(k).end] for k in root.values] == ["a", "💥", "d", "e"]
    found = [text[v.start : v.end] for v in root.values.values()]
    assert found == ["'b c'", "[1, x y]", "|\n  foo\n  bar", "- f"]
    assert plain(root) == {"a": "b c", "💥": [1, "x y"], "d": "foo\nbar\n", "e": ["f"]}


@pytest.mark.parametrize(
    ("text", "value", "reading"),
    [
        ("yes", True, "true"),
        ("off", False, "false"),
        ("true", True, ""),
        ("010", 8, "the number 8"),
        ("0x17", 23, "the number 23"),
        ("1:30", 90, "the number 90"),
        ("1_000", 1000, "the number 1000"),
        ("0429", "0429", ""),
        ("4624", 4624, ""),
        ("-1.5", -1.5, ""),
        ("~", None, ""),
        ("'yes'", "yes", ""),
        ("2020-13-45", "2020-13-45", ""),
        ("!!str 010", "010", ""),
    ],
)
def test_scalars_are_read_as_yaml_1_1_and_keep_their_text(text: str, value: object, reading: str) -> None:
    (root,) = roots(f"- {text}\n- x\n")
    assert isinstance(root, YamlList)
    node = root.items[0]
    assert isinstance(node, YamlScalar)
    assert (node.value, trap(node)) == (value, reading)
    assert node.text == text.removeprefix("!!str ").strip("'")


def test_a_date_is_a_trap() -> None:
    (root,) = roots("a: 2020-01-02\n")
    assert trap(root.get("a")) == "a date"
    assert plain(root) == {"a": "2020-01-02"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\nb: 2\na: 3\n", [("E107", 3, 1)]),
        ("a: *foo\n", [("E104", 1, 4)]),
        ("a: [1\n", [("E104", 1, 6)]),
        ("a: b: c\n", [("E104", 1, 5)]),
        ("a:\n\tb: 1\n", [("E104", 2, 1)]),
        ("a: 'x\nb: 1\n", [("E104", 1, 4)]),
        ("a: 1\nb: \x07\n", [("E103", 2, 4)]),
        ("a: \ud800\n", [("E103", 1, 4)]),
        ("? [a]\n: 1\n", [("E108", 1, 3)]),
        ("a: !!python/object:os.system x\n", [("E109", 1, 4)]),
        ("a: !!int x\n", [("E109", 1, 4)]),
        ("<<: 1\na: 2\n", [("E111", 1, 1)]),
        ("a: &a [*a]\n", [("E106", 1, 4)]),
        ("a: " + "[" * 65 + "]" * 65, [("E105", 1, 67)]),
    ],
)
def test_problems_stand_at_their_places(text: str, found: list[tuple[str, int, int]]) -> None:
    assert problems(text) == found


def test_the_hint_of_a_duplicate_key_names_the_first_line() -> None:
    (document,) = compose(Source("x.yml", "\na: 1\na: 2\n"))
    assert "line 2" in document.problems[0].hint


def test_one_bad_document_costs_no_other() -> None:
    text = "a: 1\n---\nb: [1\n---\nc: 3\n---\n# nothing\n---\nd: *x\n"
    assert [plain(root) if root else None for root in roots(text)] == [{"a": 1}, None, {"c": 3}, None]
    assert problems(text) == [("E104", 3, 6), ("E104", 9, 4)]


def test_aliases_and_merge_keys() -> None:
    text = "base: &b {x: 1, y: 2}\nlist: &l [*b]\nmine:\n  <<: *b\n  y: 3\nboth:\n  <<: [{p: 1}, {p: 2, q: 3}]\n"
    (root,) = roots(text)
    assert plain(root) == yaml.safe_load(text)


HOSTILE = {
    "brackets": "[" * 50_000,
    "braces": "{a: " * 50_000,
    "dashes": "- " * 50_000,
    "questions": "? " * 50_000,
    "dashes behind short lines": "# x\n" * 1_000 + "- " * 50_000,
    "stairs": "\n".join(" " * i + "a:" for i in range(2_000)),
    "tagged brackets": "!!x [ " * 50_000,
}


@pytest.mark.parametrize("name", ["dashes", "questions", "brackets", "closed"])
@pytest.mark.parametrize("levels", [65, 999, 1_000, 1_001, 1_100])
def test_deep_nesting_is_found_at_the_same_place_by_every_libyaml(name: str, levels: int) -> None:
    """Since 0.2.6 it refuses 1,000 levels itself, before it tells of the first."""
    one = {"dashes": "- ", "questions": "? "}.get(name, "[")
    text = one * levels + ("x" + "]" * levels if name == "closed" else "")
    # the key of a map is refused as a key, where the text is so short that it is composed before it is measured
    expected = ("E108", 1, 3) if name == "questions" and levels < 999 else ("E105", 1, 64 * len(one) + 1)
    assert problems(text) == [expected]


@pytest.mark.parametrize("name", HOSTILE)
def test_deep_nesting_is_an_error_at_its_place(name: str) -> None:
    assert [code for code, _, _ in problems(HOSTILE[name])] == ["E105"]


def test_aliases_cannot_expand_without_bound() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert [code for code, _, _ in problems("\n".join(lines))] == ["E106"]


def test_aliases_of_long_texts_count_by_their_length() -> None:
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 1_000)}]\n"
    assert [code for code, _, _ in problems(text)] == ["E106"]


def test_a_text_that_is_too_large_is_refused_unread() -> None:
    (document,) = compose(Source("x.yml", "a: " + "x" * 100), max_size=50)
    assert [problem.code for problem in document.problems] == ["E102"]


@pytest.mark.parametrize(
    ("yaml_text", "word"),
    [
        ("c: sel and nix\n", "nix"),
        ("c: 'sel and nix'\n", "nix"),
        ('c: "sel\\n and nix"\n', "nix"),
        ("c: >\n  sel\n  and nix\n", "nix"),
        ("c: |-\n    sel and\n\n    nix\n", "nix"),
        ("c: sel and\n  not\n  nix\n", "nix"),
        ("c: 'a\n\n  b nix'\n", "nix"),
    ],
)
def test_a_word_is_found_again_inside_its_scalar(yaml_text: str, word: str) -> None:
    source = Source("x.yml", yaml_text)
    node = compose(source)[0].root.get("c")
    start = node.text.index(word)
    at = locate(source, node, start, start + len(word))
    assert yaml_text[at.start : at.end] == word


@given(st.text(alphabet="ab :'\"\\n\n>|-[]{}#&*!%é💥\t?", max_size=60))
def test_any_text_gives_documents_and_places_inside_it(text: str) -> None:
    source = Source("x.yml", text)
    for document in compose(source):
        assert document.root is not None or document.problems
        for problem in document.problems:
            assert 0 <= problem.span.start <= problem.span.end <= len(text) + 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="aé💥 yesno0x:-_17'\"\\", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES, st.booleans())
def test_values_are_what_pyyaml_reads(value: object, flow: bool) -> None:
    text = yaml.safe_dump({"v": value}, default_flow_style=flow, allow_unicode=True)
    (root,) = roots(text)
    assert plain(root) == {"v": value}


def test_what_follows_a_broken_document_is_read_in_one_pass() -> None:
    """Comments and blank lines before a text that is no comment: reading them a second way would double with each."""
    text = "- a\nb: c\n---\n" + "        # a remark   \n\n" * 60 + "  x: y\n- z\n"
    roots = [document.root for document in compose(Source("rule.yml", text))]
    assert roots[-1] is None


def test_keys_know_where_they_stand_in_parts_and_merges() -> None:
    text = "a: [\n---\nbase: &b {'x y': 1, !!str z: 2}\nmore:\n  <<: *b\n  z: 3\n"
    broken, whole = compose(Source("t.yml", text))
    assert broken.root is None
    assert isinstance(whole.root, YamlMap)
    more = whole.root.get("more")
    assert isinstance(more, YamlMap)
    assert list(more.values) == ["x y", "z"]
    assert plain(more) == {"x y": 1, "z": 3}
    key = more.key("x y")
    assert (text[key.start : key.end], key.plain) == ("'x y'", False)
    assert more.key("z").start == text.index("z: 3")
    assert [text[k.start : k.end] for k in whole.root.keys().values()] == ["base", "more"]


def test_a_map_does_not_end_before_it_begins() -> None:
    (root,) = roots("base: &b x\nmore:\n  again: *b\n")
    assert isinstance(root, YamlMap)
    more = root.get("more")
    assert isinstance(more, YamlMap)
    assert (more.get("again").start, more.start, more.end) == (6, 19, 19)
