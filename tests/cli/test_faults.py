"""A fault of our own in one document costs that document: every command says so (E899) and delivers the others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner, Result

from sigma2kql.cli import group
from sigma2kql.diagnostics import catalogue

RULE = """title: Rule {number}
id: 0000000{number}-0000-4000-8000-000000000000
level: high
tags: [attack.execution, attack.t1059]
logsource: {{product: windows, category: process_creation}}
detection:
  selection: {{Image|endswith: '\\tool{number}.exe'}}
  condition: selection
"""

EVENT = {
    "EventID": 1,
    "Provider_Name": "Microsoft-Windows-Sysmon",
    "Channel": "Microsoft-Windows-Sysmon/Operational",
    "Image": "C:\\tool1.exe",
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIGMA2KQL_DEBUG", raising=False)
    (tmp_path / "rules").mkdir()
    for number in (1, 2):
        (tmp_path / "rules" / f"{number}.yml").write_text(RULE.format(number=number))
    (tmp_path / "events.json").write_text(json.dumps(EVENT))
    (tmp_path / "state.json").write_text('{"value": []}')
    return tmp_path


def first_fails(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The function works but for the first call."""
    from importlib import import_module

    module, _, name = place.rpartition(":")
    owner: Any = import_module(module)
    *outer, name = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    real: Callable[..., Any] = getattr(owner, name)
    calls: list[int] = []

    def broken(*args: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("a fault")
        return real(*args, **named)

    monkeypatch.setattr(owner, name, broken)


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(group, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    return result


@pytest.mark.parametrize(
    ("place", "arguments", "delivered"),
    [
        ("sigma2kql.api:load", ("convert", "rules"), "tool2"),
        ("sigma2kql.api:Compiler._compile", ("convert", "rules"), "tool2"),
        ("sigma2kql.api:Compiler._measured", ("convert", "rules"), "tool2"),
        ("sigma2kql.api:Compiler._compile", ("check", "rules"), ""),
        ("sigma2kql.lint.judge:_key", ("check", "rules"), ""),
        ("sigma2kql.cli.artifact_files:prepare_artifact", ("convert", "rules", "-f", "sentinel-yaml"), "tool2"),
        ("sigma2kql.cli.artifact_files:render", ("convert", "rules", "-f", "sentinel-yaml"), "tool2"),
        ("sigma2kql.cli.deploy:prepare_artifact", ("deploy", "plan", "--state", "state.json", "rules"), "Rule 2"),
        ("sigma2kql.cli.explain:_rule", ("explain", "rules"), "tool2"),
        ("sigma2kql.hunt.queries:_ask_for_rule", ("hunt", "rules", "--data", "events.json"), ""),
        ("sigma2kql.cli.test:stated_for", ("test", "rules", "--generate", "--per-rule", "4"), "passed"),
        ("sigma2kql.proof.prove:rows_of", ("test", "rules", "--generate", "--per-rule", "4"), "passed"),
        ("sigma2kql.proof.prove:_run", ("test", "rules", "--generate", "--per-rule", "4"), "passed"),
    ],
)
def test_a_fault_in_one_document_leaves_the_others(
    home: Path, monkeypatch: pytest.MonkeyPatch, place: str, arguments: tuple[str, ...], delivered: str
) -> None:
    if arguments[0] in ("test", "hunt"):
        pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")
    first_fails(monkeypatch, place)
    result = call(*arguments)
    assert "E899" in result.output
    assert result.return_value == 1
    assert delivered in result.stdout


def test_the_codes_as_a_type_are_those_of_the_catalogue(update: bool) -> None:
    """`--update` writes the type anew from the rows."""
    if update:
        path = Path(catalogue.__file__)
        text = path.read_text(encoding="utf-8")
        codes = re.findall(r'^    "([EWI]\d{3})": Entry', text, re.MULTILINE)
        rows: dict[str, list[str]] = {}
        for code in sorted(codes, key=lambda code: ("EWI".index(code[0]), code)):
            rows.setdefault(code[:2], []).append(f'"{code}",')
        lines = [" ".join(row[at : at + 14]) for row in rows.values() for at in range(0, len(row), 14)]
        literal = "Code = Literal[\n" + "".join(f"    {line}\n" for line in lines) + "]  # fmt: skip\n"
        path.write_text(re.sub(r"(?s)^Code = Literal\[\n.*?^\]  # fmt: skip\n", literal, text, flags=re.MULTILINE))
        assert len(codes) == len(set(codes))
    else:
        assert sorted(get_args(catalogue.Code)) == sorted(catalogue.CATALOGUE), (
            "pytest tests/cli/test_faults.py --update"
        )


def test_a_log_source_is_said_in_words(home: Path) -> None:
    assert "log source: product: windows, category: process_creation\n" in call("explain", "rules/1.yml").stdout
