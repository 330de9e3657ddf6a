"""examples/ is true: every command of its pages runs, and makes exactly what is checked in.

`pytest tests/test_examples.py --update` writes what the commands make; read the difference.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigma2kql.artifacts.read_back import read_artifacts
from sigma2kql.cli import COMMANDS, group

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
FOLDERS = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
SHELL = re.compile(r"(?<=^```sh\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)
ONLINE = ("deploy apply", "deploy plan --subscription", "deploy plan --prune")  # what needs a workspace


def commands(name: str) -> list[str]:
    """The lines of a page's shell blocks."""
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    return [line for block in SHELL.findall(page) for line in block.splitlines()]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A line `sigma2kql ...` in a folder, with the sigma2kql of this repository."""
    words = shlex.split(line)
    assert words[0] == "sigma2kql"
    call = [sys.executable, "-m", "sigma2kql", *words[1:]]
    return subprocess.run(call, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".terraform" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", FOLDERS)
def test_the_commands_of_a_page_make_what_is_checked_in(name: str, tmp_path: Path, update: bool) -> None:
    copy = tmp_path / "examples"
    shutil.copytree(EXAMPLES, copy)
    folder, made = copy, []
    for line in commands(name):
        if line.startswith("cd "):
            folder = copy / line.removeprefix("cd ")
        elif line.startswith("sigma2kql ") and not line.removeprefix("sigma2kql ").startswith(ONLINE):
            if " -o " in line:  # what a command makes is not there before
                target = folder / shlex.split(line)[-1]
                assert target.resolve().is_relative_to(folder)
                if target.is_dir() and not any(target.is_relative_to(done) for done in made):
                    shutil.rmtree(target)
                target.unlink(missing_ok=True) if not target.is_dir() else None
                made.append(target)
            ran = run(line, folder)
            assert (ran.returncode, "error[" in ran.stderr) == (0, False), f"{line}\n{ran.stderr}{ran.stdout}"
    if update:
        for target in made:
            place = EXAMPLES / target.relative_to(copy)
            if target.is_dir():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(target, place)
            else:
                shutil.copyfile(target, place)
    assert contents(copy / name) == contents(EXAMPLES / name), "stale: pytest tests/test_examples.py --update"


def test_every_folder_has_its_row() -> None:
    page = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[[\w-]+\]\(([\w-]+)\)", page, re.MULTILINE) == sorted(FOLDERS, key=page.find)


# --------------------------------------------------------------------------------------------------------------------
# What is made


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.json")), ids=lambda p: p.relative_to(EXAMPLES).as_posix())
def test_json_is_what_its_name_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    data = json.loads(text)
    if "resources" in data:
        kinds = {row["type"] for row in data["resources"]}
        hunting = kinds == {"Microsoft.OperationalInsights/workspaces/savedSearches"}
        assert hunting or kinds == {"Microsoft.OperationalInsights/workspaces/providers/alertRules"}
        assert list(data["parameters"]) == ["workspace"]  # the one that Repositories and deploy.sh pass
        assert len(read_artifacts(text, "hunting-arm" if hunting else "arm")) == len(data["resources"])


def test_repositories_layout() -> None:
    folder = EXAMPLES / "sentinel-repositories"
    config = json.loads((folder / "sentinel-deployment.config").read_text(encoding="utf-8"))
    assert set(config) == {"prioritizedcontentfiles", "excludecontentfiles", "parameterfilemappings"}
    assert all((folder / name).is_file() for name in config["prioritizedcontentfiles"])
    content = {path.suffix for sub in ("Detections", "Hunting") for path in (folder / sub).rglob("*") if path.is_file()}
    assert content == {".json"}  # the feature does not take YAML


def test_terraform_parses() -> None:
    hcl2 = pytest.importorskip("hcl2", reason="pip install python-hcl2")
    folder = EXAMPLES / "terraform"
    files = {path.relative_to(folder).as_posix(): hcl2.loads(path.read_text()) for path in folder.rglob("*.tf")}
    declared = {strip(name) for data in files.values() for block in data.get("variable", ()) for name in block}
    (call,) = (module for block in files["main.tf"]["module"] for module in block.values())
    assert set(map(strip, call)) - {"source", "__is_block__"} <= declared
    resources = [strip(kind) for data in files.values() for block in data.get("resource", ()) for kind in block]
    assert {path.rpartition("/")[0] for path in files} == {"", "rules"}  # a module is one folder
    assert len([kind for kind in resources if kind.endswith(("scheduled", "azapi_resource", "saved_search"))]) == 4


def strip(name: str) -> str:
    return name.strip('"')


def test_terraform_is_formatted() -> None:
    terraform = shutil.which("terraform")
    if terraform is None:
        pytest.skip("terraform is not installed")
    call = [terraform, "fmt", "-check", "-diff", "-recursive", str(EXAMPLES / "terraform")]
    ran = subprocess.run(call, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")


# --------------------------------------------------------------------------------------------------------------------
# Recipes


def steps(value: Any) -> Iterator[str]:
    """Every command line in a pipeline, wherever it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in ("run", "script", "inlineScript", "entry") and isinstance(item, str):
                yield from (line.strip() for line in item.splitlines())
            else:
                yield from steps(item)
    elif isinstance(value, list):
        for item in value:
            yield from steps(item)


RECIPES = ("github-actions/detections.yml", "azure-devops/azure-pipelines.yml", "pre-commit/.pre-commit-config.yaml")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_commands_of_a_recipe_run(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder that the recipe is for; what needs a workspace is checked for its options."""
    copy = tmp_path / "detections"
    shutil.copytree(EXAMPLES / "detections", copy)
    monkeypatch.chdir(copy)
    data = yaml.safe_load((EXAMPLES / recipe).read_text(encoding="utf-8"))
    lines = [line.partition(" > ")[0] for line in steps(data) if line.startswith("sigma2kql ")]
    assert lines
    for line in lines:
        if line.removeprefix("sigma2kql ").startswith(ONLINE):
            options(line)
            continue
        ran = run(line, copy)
        assert ran.returncode == 0, f"{line}\n{ran.stderr}"


def test_a_bad_rule_stops_every_recipe(tmp_path: Path) -> None:
    copy = tmp_path / "detections"
    shutil.copytree(EXAMPLES / "detections", copy)
    (copy / "rules" / "bad.yml").write_text("title: x\nlogsource: {category: dns_query}\ndetection: {condition: x}\n")
    for recipe in RECIPES:
        data = yaml.safe_load((EXAMPLES / recipe).read_text(encoding="utf-8"))
        first = next(line for line in steps(data) if line.startswith("sigma2kql "))
        assert run(first, copy).returncode == 1, recipe


@pytest.mark.parametrize("name", FOLDERS)
def test_commands_that_need_a_workspace_are_well_formed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    online = [line for line in commands(name) if line.removeprefix("sigma2kql ").startswith(ONLINE)]
    assert len(online) == (3 if name == "detections" else 0)
    monkeypatch.chdir(EXAMPLES / name)
    for line in online:
        options(line)


def options(line: str) -> None:
    """Parse a command line without running it. Raises click.UsageError for an option or a file that there is not."""
    import click

    command: click.Command = group
    words = shlex.split(line)[1:]
    context = click.Context(group)
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert command is not group or name in COMMANDS
        found = command.get_command(context, name)
        assert found is not None, line
        command = found
    command.make_context(command.name, words)


def test_the_script_is_one() -> None:
    script = EXAMPLES / "az-deployment" / "deploy.sh"
    shell = shutil.which("sh")
    assert shell is not None
    assert script.stat().st_mode & 0o111
    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0


def test_the_script_deploys_what_it_made(tmp_path: Path) -> None:
    """With an `az` that writes down how it was called."""
    copy, tools = tmp_path / "examples", tmp_path / "bin"
    shutil.copytree(EXAMPLES, copy)
    tools.mkdir()
    for name, text in (
        ("sigma2kql", f'#!/bin/sh\nexec "{sys.executable}" -m sigma2kql "$@"\n'),
        ("az", f'#!/bin/sh\necho "$@" >> "{tmp_path}/called"\n'),
    ):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    path = f"{tools}:/usr/bin:/bin"
    environment = {"PATH": path, "PYTHONPATH": str(ROOT)}
    call = [str(copy / "az-deployment" / "deploy.sh"), "soc group", "law-soc"]
    ran = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    called = (tmp_path / "called").read_text().splitlines()
    assert called == [
        f"deployment group create --name sigma2kql-{name} --resource-group soc group --template-file {name}.json "
        "--parameters workspace=law-soc --confirm-with-what-if"
        for name in ("rules", "hunting")
    ]
    assert contents(copy / "az-deployment") == contents(EXAMPLES / "az-deployment")
