"""README.md, docs/ and mappings/README.md are true: their commands run and print what is shown, their names exist.

`pytest tests/test_readme.py --update` writes the output of the console blocks anew; read the difference.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from runpy import run_path

import click
import pytest

from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.settings import CHOICES, KEYS
from sigma2kql.cli import COMMANDS, group
from sigma2kql.cli.config import KEYS as CONFIG_KEYS, Config, read_config
from sigma2kql.diagnostics.diagnostic import Source
from sigma2kql.map.table_file import _EXTRAS, _FILE_KEYS, _HOWS, _SERVE_KEYS, TYPES, read_table
from sigma2kql.map.target import target_names
from sigma2kql.map.transforms import TRANSFORMS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCS = sorted(p for p in (ROOT / "docs").rglob("*.md") if "generated_pages" not in p.parts and "_build" not in p.parts)
SHOWING = (README, *DOCS)  # their console blocks are run
PAGES = (
    *(*SHOWING, ROOT / "mappings" / "README.md"),
    *(*sorted((ROOT / ".github").glob("*.md")), ROOT / "CHANGELOG.md"),
)
FILE = re.compile(r"^<!-- file: (\S+) -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"(?<=^```console\n)(.*?)(?=^```$)", re.MULTILINE | re.DOTALL)


def text() -> str:
    """README and the documentation, one behind the other."""
    return "\n".join(page.read_text(encoding="utf-8") for page in SHOWING)


def blocks() -> list[tuple[Path, int]]:
    return [(page, n) for page in SHOWING for n in range(len(CONSOLE.findall(page.read_text(encoding="utf-8"))))]


def commands(*names: str) -> Iterator[click.Command]:
    """These commands, each with its own commands behind it."""
    for name in names:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from command.commands.values()


# --------------------------------------------------------------------------------------------------------------------
# README


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages show under their names; one that two pages show is the same on both."""
    folder = tmp_path_factory.mktemp("readme")
    for name, body in FILE.findall(text()):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        assert not path.exists() or path.read_text(encoding="utf-8") == body, name
        path.write_text(body, encoding="utf-8")
    return folder


def run(block: str, folder: Path) -> str:
    """A console block with what its commands print now: standard output, then standard error."""
    shown = []
    for line in block.splitlines():
        if not line.startswith("$ "):
            continue
        program, *arguments = shlex.split(line[2:])
        assert program == "sigma2kql"
        done = subprocess.run(
            [sys.executable, "-m", "sigma2kql", *arguments],
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        shown.append(line + "\n" + done.stdout + done.stderr)
    return "".join(shown)


def timeless(block: str) -> str:
    """Without times, which are not compared."""
    return re.sub(r" *\d[\d.,]* (?:ms|s)$|[\d.]+ s\b|\s+TIME$", " T", block, flags=re.MULTILINE)


@pytest.mark.parametrize(("page", "number"), blocks(), ids=lambda value: getattr(value, "stem", str(value)))
def test_a_command_prints_what_is_shown(page: Path, number: int, workshop: Path, update: bool) -> None:
    written = page.read_text(encoding="utf-8")
    block = CONSOLE.findall(written)[number]
    if "sigma2kql test" in block:
        pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")
    printed = run(block, workshop)
    if update and timeless(block) != timeless(printed):
        page.write_text(written.replace(f"```console\n{block}```", f"```console\n{printed}```", 1), encoding="utf-8")
        block = printed
    assert timeless(block) == timeless(printed)


def test_the_shown_configuration_is_read_and_names_every_key(workshop: Path) -> None:
    config = read_config(workshop / "sigma2kql.yml")
    assert config.placeholders == {"service_accounts": ("svc-sql", "svc-backup*")}
    assert config.target == "sentinel"
    shown = {key for key in CONFIG_KEYS if re.search(rf"^{key}:|`{key}:`", text(), re.MULTILINE)}
    assert shown == set(CONFIG_KEYS)
    assert {key for key in CONFIG_KEYS if key not in Config.__dataclass_fields__} == set()


def test_the_library_example_runs(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workshop)
    for example in re.findall(r"^```python\n(.*?)^```$", text(), re.MULTILINE | re.DOTALL):
        printed: list[tuple[object, ...]] = []
        exec(compile(example, "README.md", "exec"), {"print": lambda *values, told=printed: told.append(values)})
        assert len(printed[0]) == 3
        assert printed[0][1] == "imNetworkSession"


def test_the_set_up_is_what_the_gates_run() -> None:
    gates = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for line in (
        "pip install -r .ci/lock.txt",
        "pip install --no-build-isolation --no-deps -e .",
        "npm ci --prefix tests/node",
        "python -m pytest",
    ):
        assert line in text()
        assert line.split(" ", 1)[1] in gates.replace(" -q", "").replace(" --require-hashes", "").replace('"', "")


@pytest.mark.parametrize("name", [*COMMANDS, *FORMATS, *KEYS, *CHOICES, *target_names()])
def test_readme_names(name: str) -> None:
    assert re.search(rf"`{re.escape(name)}[` ]", text()), f"neither README nor docs name `{name}`"


def test_every_format_can_be_asked_for() -> None:
    command = import_module("sigma2kql.cli.convert").command
    (option,) = (p for p in command.params if p.name == "form")
    assert list(option.type.choices) == ["kql", "ndjson", *FORMATS, "auto"]


# --------------------------------------------------------------------------------------------------------------------
# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str) -> None:
    silent = [
        f"{command.name} {parameter.opts[0]}"
        for command in commands(name)
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert all(command.help for command in commands(name))
    assert silent == []


def test_options_that_readme_names_exist() -> None:
    known = {opt for command in commands(*COMMANDS) for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    prose = re.sub(r"^```sh\n.*?^```$", "", text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose))
    assert named - known == {"--help"}


# --------------------------------------------------------------------------------------------------------------------
# Pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    made = {f"generated_pages/{name}" for name in run_path(str(ROOT / "docs" / "generated.py"))["all_pages"]()}
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert [t for t in missing if t.removeprefix("../") not in made] == []


MAPPING_PAGE = (ROOT / "mappings" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", sorted({*_FILE_KEYS, *_SERVE_KEYS, *_HOWS, *_EXTRAS, *TRANSFORMS, *TYPES}), ids=lambda name: name
)
def test_the_mapping_page_names(name: str) -> None:
    written = rf"(?<![\w-]){name}(?![\w-])" if name in TYPES else rf"(?<![\w-]){name}[:`]"
    assert re.search(written, MAPPING_PAGE), f"mappings/README.md does not explain `{name}`"


def test_the_mapping_page_names_no_transform_that_is_not_there() -> None:
    table = MAPPING_PAGE.split("### Transforms")[1]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(TRANSFORMS)


def test_the_ten_lines_of_the_mapping_page_work() -> None:
    (shown,) = re.findall(r"## Ten lines that work\n+```yaml\n(.*?)^```$", MAPPING_PAGE, re.MULTILINE | re.DOTALL)
    table = read_table(Source("Proxy_CL.yml", shown), "sentinel")
    assert (table.name, table.target, len(table.fields)) == ("Proxy_CL", "sentinel", 4)
    assert len(shown.splitlines()) == 10
