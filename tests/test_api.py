"""The stages composed: what is wrong with one document costs no other, not even a fault of the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sigma2kql import api
from sigma2kql.api import convert

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
