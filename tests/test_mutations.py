"""A broken emitter must be caught by the events that are generated from the rule, whichever way it is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from sigma2kql import api
from sigma2kql.api import Compiler, Input, Options, load_input
from sigma2kql.kql import operators, query as kql
from sigma2kql.map import field_places as standing
from sigma2kql.model.tree import Expr, Not, Rule
from sigma2kql.proof import Result, Subject
from sigma2kql.proof.prove import prove

pytest.importorskip("duckdb_kql")

PROCESS = """
title: Process
logsource: {product: windows, category: process_creation}
detection:
  selection:
    Image|endswith: '\\\\tool.exe'
    CommandLine|contains: ['secret', 'dump']
    OriginalFileName: Tool.EXE
  filter:
    ParentImage|startswith: 'C:\\\\Program Files\\\\'
  condition: selection and not filter
"""
NETWORK = """
title: Network
logsource: {product: windows, category: network_connection}
detection:
  selection: {DestinationPort: 443}
  filter: {DestinationIp|cidr: '10.0.0.0/8'}
  condition: selection and not filter
"""

Break = Callable[[pytest.MonkeyPatch], None]


def drop_not(patch: pytest.MonkeyPatch) -> None:
    sound = kql._piece

    def broken(expr: Expr[Any], negated: bool) -> Any:
        return sound(expr.item if isinstance(expr, Not) else expr, negated)

    patch.setattr(kql, "_piece", broken)


def swap_contains_and_has(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(operators._OPERATORS, ("contains", False), ("has", "!has"))


def lose_the_null_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(operators, "_guarded", lambda piece, negated: piece)


def take_the_wrong_column(patch: pytest.MonkeyPatch) -> None:
    sound = standing.find_field
    patch.setattr(
        standing,
        "find_field",
        lambda table, serve, name, *more: sound(table, serve, "ParentImage" if name == "Image" else name, *more),
    )
    patch.setattr(api, "_loaded", api._loaded.__wrapped__)  # a target remembers what was found in its tables


def compare_with_case(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(operators._OPERATORS, ("equals", False), ("==", "!="))
    patch.setitem(operators._LISTS, False, ("in", "!in"))


def proved(text: str) -> Result:
    (document,) = load_input(Input("rule.yml", None, text.encode()))
    assert isinstance(document, Rule)
    compiler = Compiler(Options(target="asim"))
    done, mapped = compiler.compile(document), compiler.map(document)
    (result,) = prove([Subject(done, compiler.where(document), mapped.table, mapped.serve)], 24)
    return result


@pytest.mark.parametrize("text", [PROCESS, NETWORK])
def test_the_sound_emitter_passes(text: str) -> None:
    result = proved(text)
    assert (result.status, result.missed, result.unexpected) == ("passed", 0, 0)
    assert result.events >= 10
    assert 0 < result.positive < result.events


@pytest.mark.parametrize(
    ("text", "mutation"),
    [
        (PROCESS, drop_not),
        (PROCESS, swap_contains_and_has),
        (NETWORK, lose_the_null_guard),
        (PROCESS, take_the_wrong_column),
        (PROCESS, compare_with_case),
    ],
)
def test_each_mutation_is_caught(text: str, mutation: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kql, "_KNOWN_ROWS", {})  # what is written once would outlast the mutation, or not show it
    monkeypatch.setattr(operators, "_form", operators._form.__wrapped__)
    mutation(monkeypatch)
    result = proved(text)
    assert result.status == "failed"
    assert result.counterexample is not None
