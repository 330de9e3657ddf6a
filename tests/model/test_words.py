"""Tests in words: what `explain` shows of a rule's tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sigma2kql.cli import group
from sigma2kql.model.tree import (
    ANY,
    ONE,
    Bool,
    Cidr,
    DatePart,
    Exists,
    Field,
    Null,
    Number,
    OneOf,
    Placeholder,
    Regex,
    SameAs,
    Test,
    Text,
)
from sigma2kql.model.words import in_words


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (Text(("a",)), "is 'a'"),
        (Text(("a", ANY)), "starts with 'a'"),
        (Text((ANY, "a")), "ends with 'a'"),
        (Text((ANY, "a", ANY), cased=True), "contains 'a' (in this case of letters)"),
        (Text((ANY, "a*", ONE, ANY, OneOf("-/"), Placeholder("x"))), r"is like '*a\*?*[-/]%x%'"),
        (Text((ONE,)), "is like '?'"),
        (Text(()), "is empty"),
        (Text((ANY,)), "is not empty"),
        (Regex("^a", "i"), "matches /^a/i"),
        (Cidr("10.0.0.0/8", 4), "is an address in 10.0.0.0/8"),
        (Number("==", 1.0), "is the number 1"),
        (Number("<", 5), "is a number < 5"),
        (Bool(False), "is false"),
        (Null(), "is null or missing"),
        (Exists(), "exists"),
        (SameAs(Field("B"), "endswith"), "ends with the value of B"),
        (DatePart("hour", ">=", 22), "is a time whose hour is >= 22"),
    ],
)
def test_every_test_has_its_words(test: Test[Any], words: str) -> None:
    assert in_words(test) == words


def test_explain_shows_the_tree_in_words(tmp_path: Path) -> None:
    rule = tmp_path / "rule.yml"
    rule.write_text(
        "title: T\nlogsource: {product: windows, category: process_creation}\ndetection:\n"
        "  a: {Image|endswith: ['\\x.exe', '\\y.exe']}\n  b: {CommandLine|re: '^z'}\n  c: [word]\n"
        "  condition: a and not (b or c)\n"
    )
    lines = CliRunner().invoke(group, ["explain", str(rule), "-t", "sentinel"]).stdout.splitlines()
    at = lines.index("what the rule means:")
    assert lines[at + 1 : at + 9] == [
        "  all of",
        "    any of",
        "      Image ends with '\\x.exe'",
        "      Image ends with '\\y.exe'",
        "    not",
        "      any of",
        "        CommandLine matches /^z/",
        "        the event contains 'word'",
    ]
