"""Recorded attacks of a SigmaHQ checkout: found from any path in it, never leaving it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError
from sigma2kql.events.regression import find_checkout, regression_sets

INFO = """
rule_metadata:
  - id: 11111111-2222-3333-4444-555555555555
    title: A rule
regression_tests_info:
  - name: Positive
    type: evtx
    provider: Sysmon
    match_count: 2
    path: regression_data/rules/windows/a_rule/x.evtx
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in ("a_rule", "b_rule"):
        folder = root / "regression_data/rules/windows" / name
        folder.mkdir(parents=True)
        (folder / "info.yml").write_text(INFO.replace("a_rule", name))
        (folder / "x.evtx").write_bytes(b"")
        rule = root / "rules/windows" / f"{name}.yml"
        rule.parent.mkdir(parents=True, exist_ok=True)
        rule.write_text("title: A rule")
    (root / "regression_data/rules/windows/a_rule/x.json").write_text("{}")
    (tmp_path / "outside.evtx").write_bytes(b"")
    return root


def test_a_set_names_its_rule_its_events_and_what_must_match(checkout: Path) -> None:
    [found] = regression_sets(checkout / "rules/windows/a_rule.yml")
    folder = checkout / "regression_data/rules/windows/a_rule"
    assert (found.rule, found.rule_id) == (
        checkout / "rules/windows/a_rule.yml",
        "11111111-2222-3333-4444-555555555555",
    )
    assert (found.events, found.json, found.matches) == (folder / "x.evtx", folder / "x.json", 2)
    assert (found.title, found.name, found.provider) == ("A rule", "Positive", "Sysmon")


@pytest.mark.parametrize("start", ["", "rules", "rules/windows", "regression_data", "regression_data/rules/windows"])
def test_a_folder_gives_all_below_it(checkout: Path, start: str) -> None:
    assert [found.info.parent.name for found in regression_sets(checkout / start)] == ["a_rule", "b_rule"]


def test_elsewhere_there_is_nothing(checkout: Path) -> None:
    assert find_checkout(checkout.parent) is None
    assert list(regression_sets(checkout.parent)) == []
    (checkout / "rules-other").mkdir()
    assert list(regression_sets(checkout / "rules-other")) == []


def test_an_info_without_tests_is_a_set_without_events(checkout: Path) -> None:
    info = checkout / "regression_data/rules/windows/a_rule/info.yml"
    info.write_text(INFO.partition("regression_tests_info")[0])
    [found] = regression_sets(info)
    assert (found.rule_id, found.events) == ("11111111-2222-3333-4444-555555555555", None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("regression_data/rules/windows/a_rule/x.evtx", "../outside.evtx"),
        ("regression_data/rules/windows/a_rule/x.evtx", "/etc/passwd"),
        ("regression_data/rules/windows/a_rule/x.evtx", "regression_data/none.evtx"),
        ("regression_data/rules/windows/a_rule/x.evtx", '"a\\0b"'),
        ("match_count: 2", "match_count: -1"),
        ("match_count: 2", "match_count: many"),
        ("    path:", "    no_path:"),
        ("id: 1", "no_id: 1"),
        ("rule_metadata:", "rule_metadata: ["),
        (INFO, "[" * 5000),
        (INFO, "just text"),
        (INFO, "a: !!python/object/apply:os.system [id]"),
    ],
)
def test_an_unusable_info_is_reported_and_the_others_follow(checkout: Path, old: str, new: str) -> None:
    info = checkout / "regression_data/rules/windows/a_rule/info.yml"
    info.write_text(INFO.replace(old, new))
    found: list[Diagnostic] = []
    sets: list[Any] = list(regression_sets(checkout, found.append))
    assert [one.info.parent.name for one in sets] == ["b_rule"]
    assert [(d.code, d.as_dict()["path"]) for d in found] == [("E668", str(info))]
    with pytest.raises(Sigma2KqlError):
        list(regression_sets(checkout))


def test_a_link_out_of_the_checkout_is_refused(checkout: Path) -> None:
    events = checkout / "regression_data/rules/windows/a_rule/x.evtx"
    events.unlink()
    events.symlink_to(checkout.parent / "outside.evtx")
    found: list[Diagnostic] = []
    assert len(list(regression_sets(checkout, found.append))) == 1
    assert [d.code for d in found] == ["E668"]


def test_the_recorded_attacks_of_sigmahq_are_found(regression_data: Path) -> None:
    found: list[Diagnostic] = []
    sets = list(regression_sets(regression_data.parent, found.append))
    assert found == []
    assert len({one.info for one in sets}) == len(list(regression_data.rglob("info.yml")))
    assert sum(one.events is not None for one in sets) >= 202
