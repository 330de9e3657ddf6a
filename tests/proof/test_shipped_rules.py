"""The rules that ship as samples: every one converts, exactly for a source, and means what the events beside it say."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from sigma2kql.api import convert
from sigma2kql.model.tree import And, Compiled, Correlation, Filter, Rule
from sigma2kql.reference.evaluate import evaluate

HOME = Path(__file__).resolve().parents[2] / "rules"
FILES = sorted(path for path in HOME.rglob("*.yml") if ".events" not in path.name)


def compiled(path: Path) -> list[Compiled]:
    return convert(path)


def stated(path: Path, title: str) -> dict[str, list[dict[str, Any]]]:
    """`match` and `no_match` events of one rule."""
    given = yaml.safe_load(path.with_name(f"{path.stem}.events.yml").read_text(encoding="utf-8"))
    return given if given.keys() <= {"match", "no_match"} else given.get(title, {})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_rule_converts_exactly_for_a_source_and_only_sources_are_spoken_of(path: Path) -> None:
    for one in compiled(path):
        assert {d.code for d in one.diagnostics} <= {"W406", "W407", "W408", "I406"}
        if not isinstance(one.document, Filter):
            assert "exact" in one.verdicts.values()
            assert (one.verdict == "exact") == ({*one.verdicts.values()} == {"exact"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_rule_means_what_its_events_say(path: Path) -> None:
    documents = [one.document for one in compiled(path)]
    filters = [d for d in documents if isinstance(d, Filter)]
    for rule in (d for d in documents if isinstance(d, Rule)):
        where = rule.where
        for one in filters:
            if {r.name for r in one.rules} & {rule.meta.id, rule.meta.name}:
                where = And((where, one.where))
        events = stated(path, rule.meta.title)
        assert events["match"]
        assert events["no_match"]
        for event in events["match"]:
            assert evaluate(where, event), event
        for event in events["no_match"]:
            assert not evaluate(where, event), event


def test_they_show_the_whole_language() -> None:
    """A dozen rules, several documents in a file, a filter, a correlation; every id is its own random UUID."""
    documents = [one.document for path in FILES for one in compiled(path)]
    assert sum(isinstance(d, Rule) for d in documents) >= 12
    assert any(isinstance(d, Filter) for d in documents)
    assert any(isinstance(d, Correlation) for d in documents)
    ids = [d.meta.id or "" for d in documents]
    assert len(set(ids)) == len(ids)
    assert {UUID(one).version for one in ids} == {4}
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    for used in (
        "|cidr",
        "|re",
        "|windash",
        "|base64offset",
        "|fieldref",
        "keywords:",
        "product: linux",
        "product: azure",
    ):
        assert used in text
