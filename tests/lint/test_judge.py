"""`sigma2kql check`: what it says, where it points, and where it says it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sigma2kql.api import Options, compile_inputs, read_inputs
from sigma2kql.cli.check import command
from sigma2kql.kql.source_map import locate
from sigma2kql.model.simplify import leaves

RULE = """\
title: Download by a tool
id: 11111111-2222-4333-8444-555555555555
status: test
description: x
author: me
date: 2024-01-01
logsource:
  category: proxy
detection:
  a:
    c-useragent|contains:
      - curl
      - wget
  b:
    c-uri|endswith: '/x'
  c:
    sc-status: 200
  condition: a and b and not c
level: low
"""
MAPPING = """\
table: Proxy_CL
target: sentinel
columns: {TimeGenerated: datetime, Url_s: string, Agent_s: string, Status_d: int}
serves:
  - logsource: {category: proxy}
fields:
  c-uri: {expression: 'strlen(Url_s)', type: string, reads: [Url_s]}
  c-useragent: Agent_s
  sc-status: Status_d
"""


def check(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], standalone_mode=False)


def found(*args: object) -> list[tuple[str, int, int]]:
    """Code, line and column of each diagnostic."""
    result = check(*args, "-f", "json")
    return [(d["code"], d["line"], d["column"]) for d in json.loads(result.stdout)]


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "rules" / "rule.yml"
    path.parent.mkdir()
    path.write_text(RULE)
    return path


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    folder = tmp_path / "mappings"
    folder.mkdir()
    (folder / "Proxy_CL.yml").write_text(MAPPING)
    return folder


# --------------------------------------------------------------------------------------------------------------------
# The contract


def test_a_sound_rule_gives_no_product_and_status_0(rule: Path) -> None:
    result = check(rule)
    assert (result.return_value, result.stdout) == (0, "")
    assert "1 document: 1 sound" in result.stderr


def test_diagnostics_go_to_stderr_and_with_format_to_stdout(rule: Path, tmp_path: Path) -> None:
    rule.write_text(RULE.replace("|contains", "|contians"))
    plain = check(rule, "--diagnostics-format", "json")
    assert (plain.return_value, plain.stdout) == (1, "")
    product = check(rule, "-f", "json")
    assert json.loads(product.stdout) == json.loads(plain.stderr)
    assert [d["code"] for d in json.loads(product.stdout)] == ["E211"]
    sarif = tmp_path / "out" / "check.sarif"
    assert check(rule, "-f", "sarif", "-o", sarif).stdout == ""
    [run] = json.loads(sarif.read_text())["runs"]
    assert [(r["ruleId"], r["level"]) for r in run["results"]] == [("E211", "error")]


def test_strict_makes_a_warning_fail(rule: Path) -> None:
    rule.write_text(RULE.replace("level: low", "level: lowish"))
    assert check(rule).return_value == 0
    assert check(rule, "--strict").return_value == 1


def test_every_target_is_judged_and_what_loading_says_is_said_once(rule: Path) -> None:
    rule.write_text(RULE.replace("category: proxy", "category: proxyy").replace("level: low", "level: lowish"))
    codes = [code for code, _, _ in found("-t", "sentinel,xdr", rule)]
    assert (codes.count("W205"), codes.count("E401")) == (1, 2)


def test_a_missing_path_is_a_wrong_call() -> None:
    from sigma2kql.diagnostics.diagnostic import Sigma2KqlError

    with pytest.raises(Sigma2KqlError, match="E802"):
        CliRunner().invoke(command, ["nowhere.yml"], standalone_mode=False, catch_exceptions=False)


# --------------------------------------------------------------------------------------------------------------------
# Habits


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("id: 11111111-2222-4333-8444-555555555555\n", "", ("W240", 1, 1)),
        ("level: low\n", "", ("W243", 1, 1)),
        ("author: me\n", "", ("I240", 1, 1)),
        ("author: me\n", "author: me\nmodified: 2023-12-31\n", ("W244", 6, 1)),
        ("author: me\n", "author: me\ntags:\n  - attack.nonsense\n", ("W245", 7, 5)),
        ("author: me\n", "author: me\ntags:\n  - attack.t9999\n", ("W245", 7, 5)),
    ],
)
def test_habits(rule: Path, old: str, new: str, expected: tuple[str, int, int]) -> None:
    rule.write_text(RULE.replace(old, new))
    assert found(rule) == [expected]


def test_ids_and_titles_used_twice_point_to_the_second(rule: Path) -> None:
    (rule.parent / "zz.yml").write_text("# another\n" + RULE)
    result = json.loads(check(rule.parent, "-f", "json").stdout)
    assert [(d["code"], Path(d["path"]).name, d["line"]) for d in result] == [
        ("W242", "zz.yml", 2),
        ("W241", "zz.yml", 3),
    ]
    assert all("rule.yml:" in d["message"] for d in result)


def test_a_rule_that_only_feeds_a_correlation_needs_neither_id_nor_level(rule: Path) -> None:
    fed = RULE.replace("id: 11111111-2222-4333-8444-555555555555\n", "name: fed\n").replace("level: low\n", "")
    correlation = """\
---
title: Many downloads
id: 11111111-2222-4333-8444-555555555556
status: test
description: x
author: me
date: 2024-01-01
correlation: {type: event_count, rules: [fed], group-by: [src_ip], timespan: 1h, condition: {gte: 5}}
level: high
"""
    rule.write_text(fed + correlation)
    assert found(rule) == []


# --------------------------------------------------------------------------------------------------------------------
# Microsoft's parser


def test_a_wrong_type_in_a_mapping_is_shown_at_the_value_of_the_rule(
    rule: Path, mapping: Path, kusto_bundle: Path
) -> None:
    assert found(rule, "--mappings", mapping, "--kusto", "--kusto-bundle", kusto_bundle) == [("E690", 15, 21)]  # '/x'
    right = mapping.parent / "right"
    right.mkdir()
    (right / "Proxy_CL.yml").write_text(MAPPING.replace("strlen(", "tostring("))
    assert found(rule, "--mappings", right, "--kusto", "--kusto-bundle", kusto_bundle) == []


def test_hand_written_queries_are_judged_at_their_own_lines(tmp_path: Path, kusto_bundle: Path) -> None:
    (tmp_path / "q.kql").write_text('SecurityEvent\n| where EventID == "4688"\n| wher x\n')
    (tmp_path / "n.yaml").write_text(
        "id: 11111111-2222-4333-8444-555555555556\nname: n\ndescription: d\nquery: |\n"
        "    SecurityEvent\n    | where Computr == 'é' and EventID =~ 3\n"
        "requiredDataConnectors:\n  - connectorId: SecurityEvents\n    dataTypes: [SecurityEvent]\n"
    )
    places = found(tmp_path, "--kusto-bundle", kusto_bundle)
    assert places[:2] == [("W691", 6, 13), ("E691", 6, 40)]
    assert {place[:2] for place in places[2:]} == {("E691", 3), ("W691", 3)}


def test_asim_parsers_are_known_by_both_names(tmp_path: Path, kusto_bundle: Path) -> None:
    (tmp_path / "q.kql").write_text(
        'union imDns, (_Im_Dns(starttime=ago(1d)) | where DnsQuery has "x")\n| project DnsQuery, TimeGenerated\n'
    )
    assert found(tmp_path / "q.kql", "--kusto-bundle", kusto_bundle) == []


def test_without_the_parser_the_grammar_judges_and_the_call_says_what_to_install(
    tmp_path: Path, rule: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")
    monkeypatch.delenv("KUSTO_JS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.kql").write_text("SecurityEvent\n| where a ==\n")
    result = check("q.kql", rule, "--kusto")
    assert result.return_value == 1
    assert "npm install @kusto/language-service-next" in result.stderr
    assert "q.kql:3:1: error[E691]" in result.stderr


def test_hostile_query_files_are_errors_of_their_own(tmp_path: Path, rule: Path) -> None:
    (tmp_path / "bytes.kql").write_bytes(b"T | where a == '\xff\xfe'")
    (tmp_path / "empty.kql").write_text(" \n")
    (tmp_path / "gone.kql").symlink_to("/nowhere")
    result = check(tmp_path, "-f", "json")
    assert sorted(d["code"] for d in json.loads(result.stdout)) == ["E101", "E713", "E803"]
    assert "4 documents: 1 sound" in result.stderr


@pytest.mark.corpus
def test_every_value_of_the_corpus_has_its_place(corpus: list[Path]) -> None:
    """A value that is written out stands at its own place; long lists written as one regex have the whole operator."""
    judged = 0
    for _, done in compile_inputs(read_inputs([str(path) for path in corpus[::40]]), Options()):
        if done.kql is None or done.query is None:
            continue
        marks = locate(done.kql, done.query)
        assert marks, done.document.origin.source.path
        if "matches regex" in done.kql:
            continue
        judged += 1
        wanted = {(leaf.span.start, leaf.span.end) for leaf in leaves(done.query.where) if leaf.span}
        assert wanted <= {(span.start, span.end) for _, _, span in marks}, done.document.origin.source.path
    assert judged > 30


def test_every_habit_has_a_rule_that_lacks_it() -> None:
    """A new habit needs its row in the catalogue, and a test here in which it is found."""
    from sigma2kql.diagnostics.catalogue import CATALOGUE
    from sigma2kql.lint.judge import HABITS

    assert sorted(code for code in HABITS if code not in CATALOGUE) == []
    assert sorted(code for code in CATALOGUE if re.fullmatch(r"[WI]24\d", code) and code not in HABITS) == []
    shown = set(re.findall(r'\("([WI]24\d)", ', Path(__file__).read_text(encoding="utf-8")))
    assert sorted(HABITS.keys() - shown) == []
