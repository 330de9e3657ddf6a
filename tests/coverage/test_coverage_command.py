"""`sigma2kql coverage`: what is counted, in every form; layers as the Navigator takes them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from sigma2kql.cli import group
from sigma2kql.coverage.attack_names import attack, homes_of, tactics_of, technique_name, techniques_of
from sigma2kql.coverage.navigator import read_techniques

RULE = """\
title: {title}
id: 0e95725d-7320-415d-80f7-0000000000{number:02}
status: test
level: {level}
tags: [{tags}]
logsource: {{{source}}}
detection: {{selection: {{{field}: 'value{number}'}}, condition: selection}}
"""
# attack.mitre.org, "Layer file format 4.5" (mitre-attack/attack-navigator, layers/spec/v4.5/layerformat.md)
COLOR = {"type": "string", "pattern": "^#[0-9a-f]{6}$"}
PAIR = {
    "type": "object",
    "required": ["name", "value"],
    "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
}
LAYER = {
    "type": "object",
    "required": ["name", "versions", "domain"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "domain": {"enum": ["enterprise-attack", "mobile-attack", "ics-attack"]},
        "versions": {
            "type": "object",
            "required": ["layer", "navigator"],
            "properties": {"layer": {"const": "4.5"}, "attack": {"pattern": r"^\d+$"}, "navigator": {"type": "string"}},
        },
        "description": {"type": "string"},
        "sorting": {"enum": [0, 1, 2, 3]},
        "layout": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "layout": {"enum": ["side", "flat", "mini"]},
                "aggregateFunction": {"enum": ["average", "min", "max", "sum"]},
                "expandedSubtechniques": {"enum": ["none", "all", "annotated"]},
                **{k: {"type": "boolean"} for k in ("showID", "showName", "showAggregateScores", "countUnscored")},
            },
        },
        "techniques": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["techniqueID"],
                "additionalProperties": False,
                "properties": {
                    "techniqueID": {"pattern": r"^T\d{4}(\.\d{3})?$"},
                    "score": {"type": "number"},
                    "comment": {"type": "string"},
                    "color": COLOR,
                    "enabled": {"type": "boolean"},
                    "showSubtechniques": {"type": "boolean"},
                    "metadata": {"type": "array", "items": PAIR},
                    "links": {
                        "type": "array",
                        "items": {"required": ["label", "url"], "properties": {"url": {"pattern": "^https://"}}},
                    },
                },
            },
        },
        "gradient": {
            "required": ["colors", "minValue", "maxValue"],
            "properties": {"colors": {"type": "array", "minItems": 2, "items": COLOR}},
        },
        "legendItems": {"type": "array", "items": {"required": ["label", "color"], "properties": {"color": COLOR}}},
        **{
            key: {"type": "boolean"}
            for key in (
                *("hideDisabled", "showTacticRowBackground", "selectTechniquesAcrossTactics"),
                *("selectSubtechniquesWithParent", "selectVisibleTechniques"),
            )
        },
    },
}


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Three rules: one on both targets, one that Defender does not carry, one without ATT&CK that none carries."""
    rows = [
        (
            "Runs",
            "high",
            "attack.execution, attack.t1059.001, attack.t1003",
            "product: windows, category: process_creation",
            "Image",
        ),
        ("Syslog =1+1 |x", "low", "attack.t1059.001, attack.t1562.001", "product: linux, service: sshd", "'|all'"),
        ("Nowhere", "medium", "", "product: nothing, service: nowhere", "Field"),
    ]
    for number, (title, level, tags, source, field) in enumerate(rows):
        body = RULE.format(number=number, title=f"'{title}'", level=level, tags=tags, source=source, field=field)
        (tmp_path / f"{number}.yml").write_text(body.replace("{'|all': 'value1'}", "['value1']"), encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> str:
    done = CliRunner().invoke(group, ["coverage", *arguments], catch_exceptions=False)
    assert done.exit_code in (0, 1), done.stderr
    return done.stdout


def test_every_rule_is_in_one_row_of_verdict_and_in_some_row_of_all_others(rules: Path) -> None:
    data = json.loads(run(str(rules), "-t", "sentinel,xdr", "-f", "json"))
    assert data["rules"] == 3
    for by in data["targets"].values():
        assert sum(row["rules"] for row in by["verdict"]) == 3
        assert all(sum(row["rules"] for row in rows) >= 3 for rows in by.values())


def test_techniques_count_for_their_base_too(rules: Path) -> None:
    rows = json.loads(run(str(rules), "-t", "xdr", "-f", "json", "--by", "technique"))["targets"]["xdr"]["technique"]
    counted = {row["key"]: (row["rules"], row["exact"], row["failed"]) for row in rows}
    assert counted == {
        "T1059": (2, 1, 1),
        "T1059.001": (2, 1, 1),
        "T1003": (1, 1, 0),
        "T1562": (1, 0, 1),
        "T1562.001": (1, 0, 1),
        "(none)": (1, 0, 1),
    }


def test_the_csv_has_the_same_counts_and_no_formula(rules: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run(str(rules), "-t", "xdr", "-f", "csv", "--by", "level"))))
    assert [(row["key"], row["rules"]) for row in rows] == [("high", "1"), ("medium", "1"), ("low", "1")]
    told = run(str(rules), "-f", "csv")
    assert not [cell for row in csv.reader(io.StringIO(told)) for cell in row if cell[:1] in ("=", "+", "@")]


def test_the_text_fits_the_terminal_and_says_what_it_leaves_out(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    text = run(str(rules), "-t", "sentinel")
    assert max(map(len, text.splitlines())) <= 70
    assert "█ exact" in text
    assert "\x1b[" not in text
    assert "\x1b[" in run(str(rules), "-t", "sentinel", "--color", "always")


def test_markdown_tables_have_as_many_cells_in_every_row(rules: Path) -> None:
    text = run(str(rules), "-f", "markdown", "-t", "sentinel,xdr")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def layers(rules: Path, folder: Path, *more: str) -> dict[str, Any]:
    run(str(rules), "-t", "sentinel,xdr", "-f", "navigator", "-o", f"{folder}/", *more)
    return {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}


def test_layers_are_what_the_navigator_takes(rules: Path, tmp_path: Path) -> None:
    found = layers(rules, tmp_path / "layers")
    assert {"sentinel.json", "xdr.json", "sentinel-against-xdr.json"} <= found.keys()
    assert any(name.startswith("xdr-defender") for name in found)
    for layer in found.values():
        jsonschema.validate(layer, LAYER)
        ids = [row["techniqueID"] for row in layer["techniques"]]
        assert len(ids) == len(set(ids))
        assert set(ids) <= attack().names.keys() - attack().former
        assert layer["gradient"]["minValue"] < layer["gradient"]["maxValue"]
    scores = {row["techniqueID"]: row["score"] for row in found["sentinel.json"]["techniques"]}
    assert scores == {"T1059.001": 2, "T1003": 1}
    assert "T1562.001" in found["sentinel.json"]["description"]
    colors = {row["techniqueID"]: row["comment"] for row in found["sentinel-against-xdr.json"]["techniques"]}
    assert colors["T1059.001"] == "sentinel: 2 rules, xdr: 1 rules"


def test_gaps_against_a_list_and_against_a_layer(rules: Path, tmp_path: Path) -> None:
    (tmp_path / "actor.txt").write_text("t1003  # dumps\nT1059.001 and T1055\n# T1190\n", encoding="utf-8")
    told = json.loads(run(str(rules), "-t", "xdr", "-f", "json", "--gaps", str(tmp_path / "actor.txt")))
    assert [(g["technique"], g["queries"]) for g in told["targets"]["xdr"]["gaps"]] == [
        ("T1003", 1),
        ("T1059.001", 1),
        ("T1055", 0),
    ]
    text = run(str(rules), "-t", "xdr", "--gaps", str(tmp_path / "actor.txt"))
    assert "1 of 3 techniques asked for lack a query" in text
    assert "T1055      Process Injection" in text
    layer = layers(rules, tmp_path / "layers", "--gaps", str(tmp_path / "actor.txt"))["xdr-gaps.json"]
    jsonschema.validate(layer, LAYER)
    (tmp_path / "layer.json").write_text(json.dumps(layer), encoding="utf-8")
    assert read_techniques((tmp_path / "layer.json").read_text(encoding="utf-8")) == ["T1003", "T1059.001", "T1055"]


def test_a_list_without_a_technique_is_a_wrong_call(rules: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("nothing", encoding="utf-8")
    done = CliRunner().invoke(group, ["coverage", str(rules), "--gaps", str(tmp_path / "empty.txt")])
    assert "E804" in str(done.exception)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"techniques": [{"techniqueID": "T1059"}, {"techniqueID": "T1003", "enabled": false}]}', ["T1059"]),
        ('{"techniques": [{"techniqueID": "T1059", "score": 0}, {"techniqueID": "T1003", "score": 3}]}', ["T1003"]),
        ('{"techniques": [{"techniqueID": "T1059", "color": "#ff0000"}, {"techniqueID": "T1003"}]}', ["T1059"]),
        ('["T1059.001", "t1003"]', ["T1059.001", "T1003"]),
        ('[{"techniques": [{"techniqueID": "T1059"}]}, {"techniques": [null, 3]}]', ["T1059"]),
        ("[" * 100_000, []),
        ('{"techniques": "T1059"}', []),
    ],
)
def test_lists_of_techniques(text: str, found: list[str]) -> None:
    assert read_techniques(text) == found


def test_names_of_both_generations() -> None:
    assert technique_name("T1059.001") == "Command and Scripting Interpreter: PowerShell"
    assert technique_name("T1562.001") == "Impair Defenses: Disable or Modify Tools"
    assert technique_name("T9999") == ""
    assert homes_of("T1562.001") == ("defense-impairment",)
    assert tactics_of(["attack.defense-evasion", "attack.t1059", "attack.g0007", "cve.2020.1"]) == (
        "stealth",
        "defense-impairment",
    )
    assert techniques_of(["attack.t1059.001", "ATTACK.T1059.001", "attack.s0002"]) == ("T1059.001",)


@pytest.mark.corpus
def test_every_technique_of_the_corpus_has_a_name(corpus: list[Path]) -> None:
    tags = {tag for path in corpus for tag in re.findall(r"attack\.t\d{4}(?:\.\d{3})?\b", path.read_text("utf-8"))}
    assert len(tags) > 300
    assert [t for t in techniques_of(tags) if not technique_name(t) or not homes_of(t)] == []
