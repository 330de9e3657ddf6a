"""Generated events have both labels, are the same for the same seed, and reach the edges that matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from sigma2kql.api import Input, load_input
from sigma2kql.model.tree import Expr, Field, Rule
from sigma2kql.proof.generate import Sample, generate
from sigma2kql.reference.evaluate import evaluate
from sigma2kql.regex import search, translate


def tree(detection: str) -> Expr[Field]:
    text = f"title: t\nlogsource: {{category: test}}\ndetection:\n{detection}"
    (rule,) = load_input(Input("r.yml", None, text.encode()))
    assert isinstance(rule, Rule), rule
    return rule.where


def events(detection: str, count: int = 40) -> list[Sample]:
    return generate(tree(detection), count, "1")


RULES = [
    "  s: {A|contains: [x, y], B|endswith: '.exe'}\n  f: {C|startswith: 'C:\\'}\n  condition: s and not f",
    "  s: {A|cidr: [10.0.0.0/8, 'fc00::/7']}\n  condition: s",
    "  s: {A|re: '^[a-f]{3}\\d+(foo|bar)$'}\n  condition: s",
    "  s: {EventID: 4624}\n  condition: s",
    "  s: {A: null, B|exists: true}\n  condition: s",
    "  s: {A|gt: 5, B: true}\n  condition: s",
    "  s: {A|fieldref: B}\n  condition: s",
    "  s: {A|contains|all: [one, two, three], A|endswith: end}\n  f: {A|contains: bad}\n  condition: s and not f",
    "  s: ['needle', 'pin']\n  condition: s",
    "  s: {A|windash|contains: ' -x '}\n  condition: not s",
]


@pytest.mark.parametrize("detection", RULES)
def test_both_labels_and_ten_events(detection: str) -> None:
    where = tree(detection)
    samples = generate(where, 24, "1")
    assert len(samples) >= 10
    assert 2 <= sum(s.matches for s in samples) <= len(samples) - 2
    assert all(evaluate(where, s.event) == s.matches for s in samples)
    assert samples == generate(where, 24, "1")


def test_another_seed_gives_other_events() -> None:
    where = tree(RULES[0])
    assert generate(where, 24, "1") != generate(where, 24, "2")


def test_each_alternative_matches_once() -> None:
    found = {s.event.get("A") for s in events("  s: {A: [a1, b2, c3, d4]}\n  condition: s") if s.matches}
    assert {"a1", "b2", "c3", "d4"} <= {str(value).lower() for value in found}


def test_each_filter_is_tripped() -> None:
    samples = events("  s: {A: x}\n  f1: {B: one}\n  f2: {C: two}\n  condition: s and not 1 of f*")
    misses = [s.event for s in samples if not s.matches and str(s.event.get("A")).lower() == "x"]
    assert any(str(e.get("B")).lower() == "one" for e in misses)
    assert any(str(e.get("C")).lower() == "two" for e in misses)


def test_networks_are_tried_just_inside_and_just_outside() -> None:
    labels = {s.event.get("A"): s.matches for s in events("  s: {A|cidr: 10.1.0.0/16}\n  condition: s", 200)}
    inside = {"10.1.0.0", "10.1.255.255", "::ffff:10.1.0.1"}
    outside = {"10.0.255.255", "10.2.0.0", "2001:db8::7", "10.0.0.999", ""}
    assert {a for a in inside | outside if labels.get(a) is True} == inside
    assert {a for a in inside | outside if labels.get(a) is False} == outside


def test_numbers_are_off_by_one_and_junk() -> None:
    labels = {s.event.get("A"): s.matches for s in events("  s: {A|gte: 5}\n  condition: s", 200)}
    assert (labels[4], labels[5], labels["5"], labels["zq"], labels[None]) == (False, True, True, False, False)


def test_wildcards_are_tried_with_nothing_and_over_lines() -> None:
    labels = {s.event.get("A"): s.matches for s in events("  s: {A: 'a*b?c'}\n  condition: s", 200)}
    assert labels["abxc"] is True
    assert labels["aa\nbbxc"] is True
    assert labels["abc"] is False


PIECES = st.sampled_from(["a", "[b-d]", r"\d", r"\w+", "x?", "(ab|cd)", ".", "[^a]", r"\s*", "e{2,3}"])


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=6))
def test_a_text_is_found_for_any_plain_pattern(pieces: list[str]) -> None:
    pattern = "".join(pieces)
    hits = [s.event["A"] for s in events(f"  s: {{A|re: '{pattern}'}}\n  condition: s", 12) if s.matches]
    assert any(search(translate(pattern), str(hit)) for hit in hits)
