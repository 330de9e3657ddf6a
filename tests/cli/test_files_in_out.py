"""What a run reads and writes: what could not be read is said and counted; no product takes the place of an input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sigma2kql.cli import group
from sigma2kql.cli.output import folded
from sigma2kql.diagnostics.diagnostic import Source, Span, diagnostic
from sigma2kql.diagnostics.render import as_text, printable, render

RULE = """title: Rule {number}
id: 0000000{number}-0000-4000-8000-000000000000
level: high
tags: [attack.execution, attack.t1059]
logsource: {{product: windows, category: process_creation}}
detection:
  selection: {{Image|endswith: '\\tool{number}.exe'}}
  condition: selection
"""
STATE = ("--state", "state.json")
PLAN = ("deploy", "plan", *STATE, "--prune", "-f", "json")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rules" / "inner").mkdir(parents=True)
    (tmp_path / "rules" / "1.yml").write_text(RULE.format(number=1))
    (tmp_path / "rules" / "inner" / "2.yml").write_text(RULE.format(number=2))
    (tmp_path / "state.json").write_text('{"value": []}')
    return tmp_path


def call(*arguments: str, status: int) -> Result:
    result = CliRunner().invoke(group, arguments, standalone_mode=False)
    assert result.exception is None, result.exception
    assert result.return_value == status, result.output
    return result


def hide(home: Path, how: str) -> None:
    """The second rule is there and is not read."""
    inner = home / "rules" / "inner"
    match how:
        case "a folder that cannot be listed":
            inner.chmod(0)
        case "a link to a folder":
            inner.rename(home / "elsewhere")
            inner.symlink_to(home / "elsewhere")
        case "a pipe":
            (inner / "2.yml").unlink()
            os.mkfifo(inner / "2.yml")
        case "a device":
            (inner / "2.yml").unlink()
            (inner / "2.yml").symlink_to("/dev/zero")
        case "two gigabytes":
            with (inner / "2.yml").open("wb") as file:
                file.truncate(2 << 30)


HIDDEN = ["a folder that cannot be listed", "a link to a folder", "a pipe", "a device", "two gigabytes"]


@pytest.mark.skipif(os.name != "posix", reason="pipes, devices and links are made otherwise on Windows")
@pytest.mark.parametrize("how", HIDDEN)
def test_an_incomplete_reading_is_said_and_prunes_nothing(home: Path, how: str) -> None:
    if how == HIDDEN[0] and os.geteuid() == 0:
        pytest.skip("root may list every folder")
    hide(home, how)
    try:
        told = call("convert", "rules", status=1)
        assert "E803" in told.stderr
        assert "tool1" in told.stdout
        assert "2 documents: 1 converted" in told.stderr
        planned = call(*PLAN, "rules", status=1)
        assert "E757" in planned.stderr
    finally:
        if how == HIDDEN[0]:
            (home / "rules" / "inner").chmod(0o755)


def test_a_suffix_in_capitals_is_a_rule_too(home: Path) -> None:
    (home / "rules" / "inner" / "2.yml").rename(home / "rules" / "inner" / "2.YML")
    assert "tool2" in call("convert", "rules", status=0).stdout
    assert "Rule 2" in call(*PLAN, "rules", status=0).stdout


def test_an_empty_folder_is_said(home: Path) -> None:
    (home / "nothing").mkdir()
    told = call("convert", "nothing", "rules", status=0)
    assert "W801" in told.stderr
    assert "nothing" in told.stderr


def test_a_product_takes_no_input_away(home: Path) -> None:
    before = (home / "rules" / "1.yml").read_bytes()
    for arguments in (
        ("rules/1.yml", "-o", "rules/1.yml"),
        ("rules/1.yml", "-f", "sentinel-yaml", "-o", "rules/1.yml"),
    ):
        result = CliRunner().invoke(group, ["convert", *arguments], standalone_mode=False)
        assert "one of the inputs" in str(result.exception)
    assert "would read it as a rule" in call("convert", "rules", "-f", "sentinel-yaml", "-o", "rules/", status=1).stderr
    assert (home / "rules" / "1.yml").read_bytes() == before
    assert sorted(p.name for p in (home / "rules").rglob("*.y*")) == ["1.yml", "2.yml"]


def test_a_file_that_cannot_be_written_leaves_the_others(home: Path) -> None:
    (home / "out" / "1.kql").mkdir(parents=True)
    told = call("convert", "rules", "-o", "out/", status=1)
    assert "E805" in told.stderr
    assert "tool2" in (home / "out" / "inner" / "2.kql").read_text()
    (home / "yaml" / "rule_1.yaml").mkdir(parents=True)
    told = call("convert", "rules", "-f", "sentinel-yaml", "-o", "yaml/", status=1)
    assert "E805" in told.stderr
    assert "tool2" in (home / "yaml" / "inner" / "rule_2.yaml").read_text()


@pytest.mark.parametrize(
    "names", [("A.yml", "a.yml"), ("\u00e9.yml", "e\u0301.yml"), ("Stra\u00dfe.yml", "STRASSE.yml")]
)
def test_twins_get_files_of_their_own(home: Path, names: tuple[str, str]) -> None:
    twins = home / "twins"
    twins.mkdir()
    for number, name in enumerate(names, 1):
        (twins / name).write_text(RULE.format(number=number))
    if len(list(twins.iterdir())) < 2:
        pytest.skip("this file system takes them for one")
    call("convert", "twins", "-o", "out/", status=0)
    assert len({folded(path) for path in (home / "out").iterdir()}) == 2


def test_folders_that_differ_in_case_share_their_names(home: Path) -> None:
    for number, folder in enumerate(("Win", "win"), 1):
        (home / "tree" / folder).mkdir(parents=True, exist_ok=True)
        (home / "tree" / folder / f"{number}.yml").write_text(
            RULE.format(number=number).replace(f"Rule {number}", "One")
        )
    call("convert", "tree", "-f", "sentinel-yaml", "-o", "out/", status=0)
    assert len({folded(path) for path in (home / "out").rglob("*.yaml")}) == 2


def test_standard_input_is_bounded(home: Path) -> None:
    program = "from sigma2kql.system import bounded_files as b; b.MOST = 1000; from sigma2kql.cli import main; main()"
    call_ = [sys.executable, "-c", program, "convert", "-"]
    done = subprocess.run(call_, input="#" * 5000, capture_output=True, text=True, check=False)
    assert (done.returncode, "E803" in done.stderr) == (2, True)


def test_mapping_files_that_cannot_be_read_are_told(home: Path) -> None:
    (home / "own").mkdir()
    (home / "own" / "A.YML").write_text("table: [\n")
    call("targets", "check", "own", status=1)
    result = CliRunner().invoke(group, ["convert", "rules", "--mappings", "own"], standalone_mode=False)
    assert "E104" in str(result.exception)  # capitals or not, it is a mapping file
    if os.name == "posix":
        (home / "own" / "A.YML").unlink()
        os.mkfifo(home / "own" / "b.yml")
        assert "a pipe" in call("targets", "check", "own", status=2).stderr
        result = CliRunner().invoke(group, ["convert", "rules", "--mappings", "own"], standalone_mode=False)
        assert "E450" in str(result.exception)


HOSTILE = "##vso[task.setvariable]x ##[error] \x1b]0;a\x07 \u202e \u2028"


@pytest.mark.parametrize("form", ["text", "github", "json", "sarif"])
def test_no_diagnostic_commands_a_build_service_or_a_terminal(form: str) -> None:
    source = Source(f"a{HOSTILE}.yml", f"title: {HOSTILE}\n")
    text = render([diagnostic("E899", HOSTILE, Span(source, 0, 60), HOSTILE)], form)
    assert "##" not in text
    assert not {"\x1b", "\x07", "\u202e", "\u2028"} & set(text)
    if form == "json":
        assert json.loads(text)[0]["message"] == HOSTILE
    if form == "sarif":
        assert json.loads(text)["runs"][0]["results"][0]["message"]["text"].startswith(HOSTILE)


def test_a_leading_command_of_github_is_shown_as_code() -> None:
    assert printable("::error::x") == "\\x3a:error::x"
    assert printable("  ::add-mask::x").lstrip() == "\\x3a:add-mask::x"
    assert printable("C::D") == "C::D"
    assert "\n::" not in "\n" + as_text(diagnostic("E899", "::warning::x"))


def test_usage_errors_are_printable(home: Path) -> None:
    call_ = [sys.executable, "-m", "sigma2kql", "convert", "a##vso[x]\x1b[31m"]
    done = subprocess.run(call_, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "##vso" not in done.stderr
    assert "\x1b" not in done.stderr
