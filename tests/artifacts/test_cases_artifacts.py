"""The runner for tests/cases/artifacts/*.md, which show what a rule becomes in each format.

A `##` heading is a test: a ```yaml rule block (one or several documents, the last of which is shown), perhaps a
```yaml deploy block of settings, and blocks of which the second word is a format: ```json arm. What stands before the
first heading holds for every case of the file. `pytest tests/test_cases_artifacts.py --update` writes what comes out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from artifact_checks import FORMATS as CHECKED, write

from sigma2kql.api import Compiler, Input, Options, load_input, prepare_artifact
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.diagnostics.render import as_text

HOME = Path(__file__).resolve().parents[1] / "cases" / "artifacts"
BLOCK = re.compile(r"^```(\w+) ([\w -]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILES = sorted(HOME.glob("*.md"))


def sections(text: str) -> list[str]:
    return re.split(r"^(?=## )", text, flags=re.MULTILINE)


CASES = [
    (path, number, section.partition("\n")[0][3:])
    for path in FILES
    for number, section in enumerate(sections(path.read_text(encoding="utf-8")))
    if number
]


def rendered(rule: str, settings: Settings, block: str) -> str:
    """The artifact of the last document, or the errors; `FORMAT TARGET` for another target than the format's own,
    `FORMAT warnings` for what is said of it.
    """
    form, _, more = block.partition(" ")
    target = more if more not in ("", "warnings") else "xdr" if form.startswith("xdr-") else "sentinel"
    options = Options(target)
    documents = load_input(Input("rule.yml", None, rule.encode()))
    compiler = Compiler(options).knowing(documents)
    done = [compiler.compile(document) for document in documents][-1]
    try:
        settings = merge_rule(settings, done.document.meta.custom, done.document.origin.span)
        prepared = prepare_artifact(done, form, settings, options)
    except Sigma2KqlError as error:
        return "\n".join(as_text(problem) for problem in error.diagnostics) + "\n"
    if more == "warnings":
        return "\n".join(as_text(problem) for problem in prepared.diagnostics) + "\n"
    return write([prepared.artifact], form, settings)


@pytest.mark.parametrize(("path", "number", "name"), CASES, ids=[f"{path.stem}: {name}" for path, _, name in CASES])
def test_case(path: Path, number: int, name: str, update: bool) -> None:
    parts = sections(path.read_text(encoding="utf-8"))
    given = {kind: body for _, kind, body in [*BLOCK.findall(parts[0]), *BLOCK.findall(parts[number])]}
    shown = {kind: body for _, kind, body in BLOCK.findall(parts[number]) if kind.split()[0] in FORMATS}
    assert {kind.split()[0] for kind in given} <= {"rule", "deploy", *FORMATS}
    assert shown
    settings = merge(Settings(), yaml.safe_load(given.get("deploy", "{}")))
    found = {form: rendered(given["rule"], settings, form) for form in shown}
    if update:
        parts[number] = BLOCK.sub(
            lambda block: f"```{block[1]} {block[2]}\n{found.get(block[2], block[3])}```", parts[number]
        )
        path.write_text("".join(parts), encoding="utf-8")
    else:
        assert found == shown


def test_every_format_is_shown() -> None:
    shown = {kind for path in FILES for _, kind, _ in BLOCK.findall(path.read_text(encoding="utf-8"))}
    missing = sorted(FORMATS.keys() - shown)
    assert missing == [], f"show a rule in {', '.join(missing)} in tests/cases/artifacts/formats.md"


def test_every_format_is_checked_from_outside() -> None:
    missing = sorted(FORMATS.keys() ^ set(CHECKED))
    assert missing == [], f"tests/artifact_checks.py has no schema or reader for {', '.join(missing)}"
