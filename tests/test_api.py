"""The stages composed: what is wrong with one document costs no other, not even a fault of the program."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sigma2kql import api
from sigma2kql.api import ConvertOptions, Options, convert
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError

RULES = """title: One
logsource: {category: process_creation, product: windows}
detection:
  a: {Image: x}
  condition: a
---
title: Two
logsource: {category: process_creation, product: windows}
detection:
  a: {Image: y}
  condition: a
"""


def failing(once: Callable[..., object]) -> Callable[..., object]:
    """The same function, but its first call meets something that it was not written for."""
    calls = iter([True])

    def call(*given: object) -> object:
        if next(calls, False):
            raise KeyError("surprise")
        return once(*given)

    return call


def test_a_fault_of_a_stage_costs_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIGMA2KQL_DEBUG", raising=False)
    monkeypatch.setattr(api, "map_rule", failing(api.map_rule))
    first, second = convert(RULES)
    assert [(d.code, d.message) for d in first.diagnostics] == [("E899", "internal error: KeyError: 'surprise'")]
    assert first.kql is None
    assert second.kql is not None
    assert second.kql.endswith('| where TargetProcessName =~ "y"')


def test_a_fault_of_the_loader_costs_one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SIGMA2KQL_DEBUG", raising=False)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yml").write_text(RULES, encoding="utf-8")
    monkeypatch.setattr(api, "load", failing(api.load))
    results = convert(tmp_path)
    assert [[d.code for d in one.diagnostics] for one in results] == [["E899"], [], []]


def test_the_place_of_a_fault_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGMA2KQL_DEBUG", "1")
    monkeypatch.setattr(api, "map_rule", failing(api.map_rule))
    with pytest.raises(KeyError):
        convert(RULES)


FILTER = """filter:
  rules: [11111111-1111-4111-8111-111111111111]
  selection: {User: nobody}
  condition: not selection
title: Not nobody
logsource: {category: process_creation, product: windows}
"""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FILTER, id="plain"),
        pytest.param("\ufeff" + FILTER, id="byte order mark"),
        pytest.param(FILTER.replace("filter:", '"filter":').replace("rules:", "'rules' :"), id="quoted"),
        pytest.param("".join(f"  {line}\n" for line in FILTER.splitlines()), id="indented"),
        pytest.param(FILTER.replace("\n", "\r"), id="carriage returns"),
        pytest.param(
            "{title: F, logsource: {category: process_creation}, filter: {rules: any, s: {User: nobody}, "
            "condition: not s}}",
            id="flow",
        ),
    ],
)
def test_a_filter_reaches_other_files_however_it_is_written(text: str, tmp_path: Path) -> None:
    rule = RULES.partition("---")[0] + "id: 11111111-1111-4111-8111-111111111111\n"
    (tmp_path / "a.yml").write_text(rule, encoding="utf-8")
    (tmp_path / "b.yml").write_bytes(text.encode())
    found = [done.kql for done in convert(tmp_path) if done.kql is not None]
    assert len(found) == 1
    assert 'TargetUsername !~ "nobody"' in found[0]


def test_a_correlation_takes_the_query_of_its_rule_from_another_file(tmp_path: Path) -> None:
    rule = RULES.partition("---")[0] + "name: one\n"
    (tmp_path / "a.yml").write_text(rule, encoding="utf-8")
    correlation = "{type: event_count, rules: [one], group-by: [User], timespan: 5m, condition: {gte: 3}}"
    (tmp_path / "b.yml").write_text(f'title: Often\n"correlation": {correlation}\n', encoding="utf-8")
    first, second = convert(tmp_path)
    assert first.kql is None
    assert second.kql is not None
    assert "summarize" in second.kql


def test_words_of_a_filter_in_a_rule_link_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = RULES.replace("title: One", "title: One\ndescription: 'no correlation, no rules: at all'")
    (tmp_path / "a.yml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(api.Compiler, "knowing", None)  # is called where files are linked
    assert len(convert(tmp_path)) == 2


def test_every_field_that_a_table_lacks_is_named() -> None:
    (done,) = convert(
        "title: Lacking\n"
        "logsource: {category: process_creation, product: windows}\n"
        "detection:\n"
        "  a: {Image: x, First: y}\n"
        "  b:\n"
        "    - Image|fieldref: Second\n"
        "    - Third: [z, w]\n"
        "  condition: a and not b\n"
    )
    problems = [d for d in done.diagnostics if d.severity == "error"]
    assert [(d.code, d.message.split("`")[1]) for d in problems] == [("E414", n) for n in ("First", "Second", "Third")]


@pytest.mark.parametrize("number", ["4624", "'²'"])
def test_an_event_id_is_a_number_in_decimal_digits(number: str) -> None:
    (done,) = convert(
        "title: Id\n"
        "logsource: {product: windows, service: security}\n"
        "detection:\n"
        f"  a: {{EventID: {number}}}\n"
        "  condition: a\n"
    )
    assert {d.code for d in done.diagnostics} == (set() if number == "4624" else {"E410"})
    assert (done.kql is not None) == (number == "4624")


def test_a_keyword_that_the_rows_state_already_is_not_asked_again(tmp_path: Path) -> None:
    (tmp_path / "Log_CL.yml").write_text(
        "table: Log_CL\ntarget: demo\ncolumns: {Line: string}\nkeywords: [Line, Line]\n"
        "serves:\n  - {logsource: {product: demo}, where: {Line|contains|nocase: evil}}\n",
        encoding="utf-8",
    )
    rule = "title: t\nlogsource: {product: demo}\ndetection:\n  k: [%s]\n  condition: k\n"
    (stated,), (other,) = (convert(rule % word, "demo", mappings=(tmp_path,)) for word in ("evil", "worse"))
    assert stated.kql == 'Log_CL\n| where Line contains "evil"'
    assert other.kql == 'Log_CL\n| where Line contains "evil"\n| where Line contains "worse"'


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tabels": ["T"]}, "did you mean `tables`?"),
        ({"mappings": "folder"}, "`mappings` is a list of folders"),
        ({"tables": [1]}, "`tables` is a list of names"),
        ({"strict": "yes"}, "`strict` is True or False"),
        ({"placeholders": ["a"]}, "`placeholders` maps names"),
    ],
)
def test_a_wrong_option_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(Sigma2KqlError) as raised:
        convert(RULES, **given)
    (found,) = raised.value.diagnostics
    assert (found.code, said in f"{found.message} {found.hint}") == ("E806", True)


def test_the_options_of_convert_are_those_of_options() -> None:
    assert {"target", *ConvertOptions.__annotations__} == {one.name for one in dataclasses.fields(Options)}


def test_what_is_given_out_cannot_be_changed() -> None:
    """Results and options in every process; every value while the tests run."""
    (done, *_) = convert(RULES)
    for value, name in ((done, "kql"), (Options(), "target"), (done.document, "meta"), (done.document.origin, "span")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, "changed")
    program = (
        "import dataclasses, sigma2kql\nfor value in (sigma2kql.Options(), *sigma2kql.convert('title: x\\n')):\n"
        "    try: value.target = 'x'\n    except dataclasses.FrozenInstanceError: print('held')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "SIGMA2KQL_FROZEN"}
    call = [sys.executable, "-c", program]
    elsewhere = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert elsewhere.stdout.split() == ["held", "held"]
