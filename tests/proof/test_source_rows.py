"""The second opinion: a rule's query on rows as each source writes them, against its verdict for that source.

The sources and what they fill are made up here; what is expected of each rule is written down by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sigma2kql.cli.test import command
from sigma2kql.map import by_source

pytest.importorskip("duckdb_kql")

TABLE = """\
table: Mixed_CL
target: demo
columns: {TimeGenerated: datetime, Path: string, Side: string, Twice: string, User: string}
sources:
  sysmon:
  entra: {never: [User]}
  okta: {lost: {User: dropped}, bare_name: {Side: bare}}
  duo: {doubled: {Twice: twice}}
serves: [{logsource: {category: demo}}]
fields:
  Path: Path
  User: User
  Side: {any: [Side], transform: path_or_name}
  Twice: {column: Twice, transform: doubled_name}
"""


def proven(tmp_path: Path, detection: str, table: str = TABLE) -> dict[str, Any]:
    (tmp_path / "m").mkdir(exist_ok=True)
    (tmp_path / "m" / "Mixed_CL.yml").write_text(table)
    rule = tmp_path / "r.yml"
    rule.write_text(f"title: T\nlogsource: {{category: demo}}\ndetection: {{{detection}}}\n")
    arguments = [str(rule), "-t", "demo", "--mappings", str(tmp_path / "m"), "--generate", "--format", "json"]
    ran = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert ran.exception is None, ran.exception
    (result,) = json.loads(ran.stdout)["results"]
    told: dict[str, Any] = result
    return told


@pytest.mark.parametrize(
    ("detection", "verdicts"),
    [
        ("a: [{Path: x}, {User: y}], condition: a", {"entra": "exact", "okta": "narrower"}),
        ("a: {Path: x}, b: {User: y}, condition: a and not b", {"entra": "exact", "okta": "broader"}),
        (r"a: {Side|endswith: '\x.exe'}, condition: a", {"okta": "exact"}),
        (r"a: {Side|contains: '\dir\'}, condition: a", {"okta": "narrower"}),
        (r"a: {Twice|endswith: '\dir\x.exe'}, condition: a", {"duo": "exact"}),
        ("a: {Path: x}, condition: a", {}),
    ],
)
def test_rows_of_each_source_are_run(tmp_path: Path, detection: str, verdicts: dict[str, str]) -> None:
    told = proven(tmp_path, detection)
    assert told["status"] == "passed", told["reason"]
    assert {source: one["verdict"] for source, one in told["sources"].items()} == verdicts
    for one in told["sources"].values():
        assert one["events"]
        assert bool(one["missed"]) == (one["verdict"] == "narrower")
        assert bool(one["unexpected"]) == (one["verdict"] == "broader")


def test_a_verdict_that_is_wrong_fails_the_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_source, "_walk", lambda *_: by_source._PLAIN)
    told = proven(tmp_path, "a: [{Path: x}, {User: y}], condition: a")
    assert told["status"] == "failed"
    assert told["reason"] == "on rows of okta the query does not do what its verdict says"
