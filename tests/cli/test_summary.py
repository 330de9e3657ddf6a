"""Reports: the Markdown summary of a run, and the page of a test run."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sigma2kql.cli import group

RULE = """\
title: 'Tool <b>x</b> | [a](javascript:1) `code` @team'
id: 0e95725d-7320-415d-80f7-000000000001
status: test
description: Something
author: me
date: 2026-01-01
level: high
logsource: {product: windows, category: process_creation}
detection: {selection: {Image|endswith: '\\tool.exe'}, condition: selection}
"""
WRONG = """\
title: '</td><script>alert(1)</script>'
logsource: {category: dns_query}
detection: {a: {QueryName|bad: x}, condition: a}
"""


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yml").write_text(RULE, encoding="utf-8")
    (tmp_path / "bad|name.yml").write_text(WRONG, encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments, catch_exceptions=False, standalone_mode=False)


def cells(text: str) -> None:
    """Every table has as many cells in each row, and nothing that a rule says is markup."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    assert not re.search(r"(?<!\\)<[a-z/]", text)
    assert not re.search(r"(?<!\\)\[[^\]]*(?<!\\)\]\(", text)


@pytest.mark.parametrize("command", ["convert", "check"])
def test_a_summary_counts_and_lists(rules: Path, command: str) -> None:
    run(command, str(rules), "--summary", "out/summary.md")
    text = (rules / "out" / "summary.md").read_text(encoding="utf-8")
    assert text.startswith(f"### sigma2kql {command}\n")
    assert "| documents | 2 |" in text
    assert re.search(r"\| failed: E211 .* \| 1 \|", text)
    assert re.search(r"\| error \| E211 \| .*bad\\\|name\.yml:3 \| unknown modifier", text)
    cells(text)


def test_github_gets_it_without_being_asked(rules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(rules / "step.md"))
    (rules / "step.md").write_text("before\n")
    run("convert", "good.yml")
    run("convert", "good.yml")
    text = (rules / "step.md").read_text(encoding="utf-8")
    assert text.startswith("before\n### sigma2kql convert")
    assert text.count("### sigma2kql convert") == 2


def test_a_summary_that_cannot_be_written_is_said(rules: Path) -> None:
    done = CliRunner().invoke(group, ["convert", "good.yml", "--summary", str(rules / "good.yml" / "x.md")])
    assert "E805" in str(done.exception)


def test_a_test_run_as_summary_and_as_a_page(rules: Path) -> None:
    pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")
    events = "match: []\nno_match:\n  - {Image: 'C:\\tool.exe', CommandLine: '</pre><script>alert(1)</script>'}\n"
    (rules / "good.events.yml").write_text(events, encoding="utf-8")
    done = run("test", str(rules), "--format", "html", "--summary", "s.md")
    assert done.return_value == 1
    text = (rules / "s.md").read_text(encoding="utf-8")
    assert "| failed | 1 |" in text
    assert "good.yml:1" in text
    cells(text)
    page = done.stdout
    tags: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))  # type: ignore[method-assign]
    parser.feed(page)
    assert not [tag for tag, _ in tags if tag in ("script", "b", "img", "link", "a")]
    assert "&lt;/pre&gt;&lt;script&gt;" in page
    (policy,) = [held["content"] for tag, held in tags if "http-equiv" in held]
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "C:\\\\tool.exe" in page
