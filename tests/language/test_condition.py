"""Conditions: every form, against an evaluator of its own; every refusal at its place; hostile texts."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from lark.exceptions import UnexpectedInput

from sigma2kql.diagnostics.diagnostic import Source
from sigma2kql.language.condition import (
    MAX_DEPTH,
    Fault,
    Joined,
    _by_grammar,
    _parser,
    _well_formed,
    matching,
    parse,
    read_condition,
)
from sigma2kql.model.tree import And, Field, Match, Not, Null, Or
from sigma2kql.text.yaml_text import compose

NAMES = ["sel_a", "sel_b", "filter_main_x", "not_x", "_hidden", "or-1", "a.b"]
TREES = {name: Match(Field(name), Null()) for name in NAMES}


def read(text: str, names=TREES, prefix: str = "condition: "):
    """The tree of a condition, and `code line:column` with the marked text of each problem."""
    source = Source("x.yml", prefix + text)
    node = compose(source)[0].root.get("condition")
    problems = []
    used: set[str] = set()
    tree = read_condition(source, node, names, problems, used)
    places = [("{} {}:{}".format(p.code, *source.position(p.span.start)), p) for p in problems]
    return tree, [place for place, _ in places], [source.text[p.span.start : p.span.end] for _, p in places]


def holds(tree, true: set[str]) -> bool:
    match tree:
        case And(items):
            return all(holds(item, true) for item in items)
        case Or(items):
            return any(holds(item, true) for item in items)
        case Not(item):
            return not holds(item, true)
        case Match(Field(name), _):
            return name in true
    raise AssertionError(tree)


A, B, X, N, H, O, D = TREES.values()  # noqa: E741


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("sel_a", A),
        ("  sel_a  ", A),
        ("not sel_a", Not(A)),
        ("not not sel_a", Not(Not(A))),
        ("sel_a and sel_b or not_x", Or((And((A, B)), N))),
        ("sel_a or sel_b and not not_x", Or((A, And((B, Not(N)))))),
        ("(sel_a or sel_b) and not_x", And((Or((A, B)), N))),
        ("((sel_a))", A),
        ("not (sel_a or sel_b)", Not(Or((A, B)))),
        ("sel_a and not filter_main_x", And((A, Not(X)))),
        ("sel_a\n and\n sel_b", And((A, B))),
        ("1 of sel_*", Or((A, B))),
        ("any of sel_*", Or((A, B))),
        ("all of sel_*", And((A, B))),
        ("1  of  sel_*", Or((A, B))),
        ("1 of sel_a", A),
        ("all of sel_a", A),
        ("1 of *_a", A),
        ("1 of *e*_*", Or((A, B, X))),
        ("1 of them", Or((A, B, X, N, O, D))),
        ("all of them", And((A, B, X, N, O, D))),
        ("1 of _*", H),
        ("_hidden", H),
        ("1 of *hidden or sel_a", None),
        ("1 of or-*", O),
        ("or-1 and not_x", And((O, N))),
        ("a.b or 1 of a.*", Or((D, D))),
        ("sel_a and not 1 of filter_*", And((A, Not(X)))),
        ("(sel_a)and(sel_b)", And((A, B))),
        ("not(sel_a)", Not(A)),
    ],
)
def test_forms(text: str, tree: object) -> None:
    found, problems, _ = read(text)
    assert found == tree
    assert problems == ([] if tree else ["E303 1:17"])


@pytest.mark.parametrize("text", ["sel_a AND NOT sel_b", "sel_a Or sel_b", "ALL OF sel_*", "1 of THEM"])
def test_upper_case_operators_are_read_with_a_warning(text: str) -> None:
    found, problems, _ = read(text)
    same, _, _ = read(text.lower())
    assert found == same
    assert found is not None
    assert [problem[:4] for problem in problems] == ["W302"]


@pytest.mark.parametrize(
    ("text", "place", "marked"),
    [
        ("sel_a and sel_c", "E302 1:22", "sel_c"),
        ("Sel_a", "E302 1:12", "Sel_a"),
        ("sel_a and not 1 of filtre_*", "E303 1:31", "filtre_*"),
        ("sel_a sel_b", "E301 1:18", "sel_b"),
        ("sel_a and", "E301 1:21", ""),
        ("and sel_a", "E301 1:12", "and"),
        ("sel_a and or sel_b", "E301 1:22", "or"),
        ("sel_a && sel_b", "E301 1:18", "&"),
        ("sel_*", "E301 1:12", "sel_*"),
        ("1 of", "E301 1:16", ""),
        ("1 of and", "E301 1:17", "and"),
        ("()", "E301 1:13", ")"),
        ("(sel_a", "E307 1:12", "("),
        ("sel_a)", "E307 1:17", ")"),
        ("2 of sel_*", "E306 1:12", "2 of"),
        ("none of sel_*", "E306 1:12", "none of"),
        ("not of sel_*", "E306 1:12", "not of"),
        ("1 of (sel_a, sel_b)", "E306 1:12", "1 of ("),
        ("sel_a | count() by b > 3", "E305 1:18", "| count() by b > 3"),
        ("near sel_a and sel_b", "E305 1:12", "near"),
    ],
)
def test_refusals(text: str, place: str, marked: str) -> None:
    tree, places, marks = read(text)
    assert (tree, places, marks) == (None, [place], [marked])


def test_all_unknown_names_are_reported_with_hints() -> None:
    source = Source("x.yml", "condition: sel_aa or flter_main_x or zzz")
    problems = []
    read_condition(source, compose(source)[0].root.get("condition"), TREES, problems, set())
    assert [problem.hint for problem in problems[:2]] == ["did you mean `sel_a`?", "did you mean `filter_main_x`?"]
    assert problems[2].hint.startswith("known here: sel_a, sel_b")


@pytest.mark.parametrize(
    ("prefix", "text", "place"),
    [
        ("condition: ", "'sel_a and nix'", "E302 1:23"),
        ("condition: ", '"sel_a and nix"', "E302 1:23"),
        ("condition: ", "sel_a and\n  not\n  nix", "E302 3:3"),
        ("condition: >\n", "  sel_a\n  and nix\n", "E302 3:7"),
        ("condition: |\n", "    sel_a and\n\n    nix\n", "E302 4:5"),
        ("condition: >-\n", "  sel_a and\n  (nix", "E307 3:3"),
        ("condition: ", "'sel_a and'", "E301 1:22"),
    ],
)
def test_places_inside_quoted_and_folded_scalars(prefix: str, text: str, place: str) -> None:
    assert read(text, prefix=prefix)[1] == [place]


def test_used_names_and_failed_identifiers() -> None:
    source = Source("x.yml", "condition: sel_a and 1 of f*")
    used: set[str] = set()
    names = {**TREES, "filter_main_x": None}
    problems = []
    node = compose(source)[0].root.get("condition")
    assert read_condition(source, node, names, problems, used) is None
    assert (problems, used) == ([], {"sel_a", "filter_main_x"})


def test_trees_are_shared() -> None:
    tree, _, _ = read("1 of sel_* and not 1 of sel_*")
    assert isinstance(tree, And)
    assert tree.items[0] is tree.items[1].item


def test_pattern_matching_takes_whole_names() -> None:
    names = ["ab", "aab", "aba", "b", "a", "", "_ab"]
    assert matching("a*b", names) == ["ab", "aab"]
    assert matching("*b*", names) == ["ab", "aab", "aba", "b"]
    assert matching("*", names) == ["ab", "aab", "aba", "b", "a", ""]
    assert matching("a*a", names) == ["aba"]
    assert matching("_*", names) == ["_ab"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("not " * 20_000 + "sel_a", "E304"),
        ("(" * 20_000 + "sel_a" + ")" * 20_000, "E304"),
        ("(sel_a and " * 40 + "sel_b or (" * 40 + "sel_a" + ")" * 80, "E304"),
        ("sel_a or " * 50_000 + "sel_a", "E304"),
        ("(" * 60 + "sel_a", "E307"),
    ],
)
def test_hostile_conditions_are_errors(text: str, code: str) -> None:
    parsed = parse(text)
    assert isinstance(parsed, Fault)
    assert parsed.code == code


@pytest.mark.parametrize("grammar", [False, True], ids=["as it is read", "by the grammar"])
def test_operators_may_stand_in_64_levels(grammar: bool) -> None:
    def read_it(text: str) -> object:
        return _by_grammar(text) if grammar else _well_formed(text)

    deepest = "not " * MAX_DEPTH + "sel_a"
    assert isinstance(read_it(deepest), Joined)
    assert read_it(deepest).depth == MAX_DEPTH == 64
    with pytest.raises(Exception, match=r"^$"):
        read_it("not " + deepest)
    mixed = "(a or " * 30 + "not b and c" + ")" * 30
    assert read_it(mixed).depth == 32


def test_what_is_too_deep_or_too_long_is_said_at_its_beginning() -> None:
    deep, long = parse("not " * 65 + "sel_a"), parse("sel_a or " * 50_000 + "sel_a")
    assert isinstance(deep, Fault)
    assert isinstance(long, Fault)
    assert (deep.code, deep.start, deep.end) == ("E304", 0, 3)
    assert (long.code, long.start, long.end) == ("E304", 0, 0)
    assert not isinstance(parse("a or " * 39_999 + "a" * 5), Fault)  # of just so many characters


def test_many_operands_and_many_patterns() -> None:
    tree, problems, _ = read(" or ".join(["sel_a"] * 5_000))
    assert (len(tree.items), problems) == (5_000, [])
    names = {f"{'a' * 60}{i}": A for i in range(2_000)}
    patterns = ["1 of " + "a*" * i + "b" for i in range(20, 60)]
    assert {place[:4] for place in read(" or ".join(patterns), names)[1]} == {"E303"}


# An independent reader: the condition as a Python expression, tried on every assignment.

OPERANDS = st.sampled_from(["sel_a", "sel_b", "not_x", "1 of sel_*", "all of sel_*", "1 of them", "or-1"])
CONDITIONS = st.recursive(
    OPERANDS,
    lambda inner: st.one_of(
        inner.map(lambda c: f"not {c}" if " and " not in c and " or " not in c else f"not ({c})"),
        inner.map(lambda c: f"({c})"),
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map("".join),
    ),
    max_leaves=8,
)
SHORT = ["sel_a", "sel_b", "not_x", "or-1"]


@given(CONDITIONS)
def test_conditions_mean_what_python_says(text: str) -> None:
    code = text.replace("1 of sel_*", "(SA or SB)").replace("all of sel_*", "(SA and SB)")
    code = code.replace("1 of them", "(SA or SB or NX or O1)")
    for name, short in zip(SHORT, ["SA", "SB", "NX", "O1"], strict=True):
        code = code.replace(name, short)
    tree, problems, _ = read(text, {name: TREES[name] for name in SHORT})
    assert problems == []
    for values in itertools.product([False, True], repeat=4):
        true = {name for name, value in zip(SHORT, values, strict=True) if value}
        assert holds(tree, true) == bool(eval(code, dict(zip(["SA", "SB", "NX", "O1"], values, strict=True))))


@given(
    st.lists(
        st.sampled_from(
            ["and", "or", "not", "1", "of", "all", "any", "a", "a*", "them", "AND", "x.y", "(", ")", "1 of b*"]
        ),
        max_size=12,
    ),
    st.sampled_from([" ", "  ", "\n", ""]),
)
def test_the_short_way_agrees_with_the_grammar(words: list[str], between: str) -> None:
    text = between.join(words)
    short = _well_formed(text)
    if short is not None:
        assert _parser().parse(text) == short


@given(CONDITIONS)
def test_the_short_way_reads_every_condition_without_a_mistake(text: str) -> None:
    assert _parser().parse(text) == _well_formed(text)


@given(st.text(alphabet="ab 1of*()|nt\n.-_&", max_size=30))
def test_any_text_is_a_condition_or_a_located_fault(text: str) -> None:
    parsed = parse(text)
    if isinstance(parsed, Fault):
        assert 0 <= parsed.start <= parsed.end <= len(text)


def test_the_short_way_agrees_with_the_grammar_over_the_corpus(corpus: list[Path]) -> None:
    """Every condition of the corpus: what is read fast is what the grammar reads."""
    found: set[str] = set()
    for path in corpus:
        found.update(re.findall(r"(?m)^ {2,8}condition: *([^|>'\"#\s].*)$", path.read_text(encoding="utf-8")))
    assert len(found) > 300
    apart = [text for text in found if (short := _well_formed(text)) is not None and _parser().parse(text) != short]
    assert apart == []
    assert sum(_well_formed(text) is None for text in found) < len(found) / 100


WORDS = st.sampled_from(["and", "or", "not", "a", "b*", "1 of", "them", "(", ")", "&", ",", "x.y"])


@given(st.lists(WORDS, max_size=9).map(" ".join))
def test_what_the_grammar_reads_is_read_and_nothing_else(text: str) -> None:
    parsed = parse(text)
    try:
        tree = _parser().parse(text)
    except UnexpectedInput:
        assert isinstance(parsed, Fault)
    else:
        assert parsed == tree or (isinstance(parsed, Fault) and parsed.code == "E306")


@pytest.mark.parametrize(
    "text", ["a b", "a and and b", "a ) b", "1 of", "a & b", "not", "a or (b and)", "b* or a", "a 1 of b*"]
)
def test_a_mistake_stands_where_the_grammar_stops(text: str) -> None:
    with pytest.raises(UnexpectedInput) as caught:
        _parser().parse(text)
    parsed = parse(text)
    assert isinstance(parsed, Fault)
    token = getattr(caught.value, "token", None)
    at_end = token is not None and token.type == "$END"
    assert parsed.code in ("E301", "E307")
    if parsed.code == "E301":
        assert parsed.start == (len(text) if at_end else caught.value.pos_in_stream)
