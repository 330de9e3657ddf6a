"""Pages that the program itself knows best: every command with its options, every diagnostic code.

Run by `conf.py` before a build. What it writes is not committed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from sigma2kql.cli import COMMANDS, group
from sigma2kql.diagnostics.catalogue import CATALOGUE

SECTIONS = {
    "1": "Files and YAML",
    "2": "The Sigma language",
    "3": "Conditions",
    "4": "Mapping",
    "5": "Emission and regular expressions",
    "6": "Running",
    "7": "Artifacts and deployment",
    "8": "The call and the configuration",
}


def all_pages() -> dict[str, str]:
    """Place of each page below the folder, and its text."""
    pages = {"commands.md": commands_page(), "codes.md": codes_page()}
    pages |= {"mappings.md": _without_files("README.md"), "tables.md": _without_files("COVERAGE.md")}
    return pages | {f"codes/{code}.md": code_page(code) for code in CATALOGUE}


def write_pages(folder: Path) -> None:
    """All pages, each only where it differs: an unchanged file is not built again. What is no page any more goes."""
    for path in set(folder.rglob("*.md")) - {folder / name for name in all_pages()}:
        path.unlink()
    for name, text in all_pages().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _without_files(name: str) -> str:
    """A page of `mappings/`, whose links to files beside it are words here."""
    text = (Path(__file__).resolve().parent.parent / "mappings" / name).read_text(encoding="utf-8")
    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)[^)]+\)", r"\1", text)


def code_page(code: str) -> str:
    entry = CATALOGUE[code]
    return f"# {code}: {entry.title}\n\n*{entry.severity}*\n\n{entry.why}\n\n**How to fix.** {entry.fix}\n"


def codes_page() -> str:
    lines = [
        "# Diagnostic codes",
        "",
        "`sigma2kql explain CODE` says the same on the command line. A code keeps its meaning.",
    ]
    for digit, words in SECTIONS.items():
        found = sorted((code for code in CATALOGUE if code[1] == digit), key=lambda code: (code[1:], code))
        if found:
            lines += ["", f"## {words}", "", "| code | severity | what |", "|---|---|---|"]
            lines += [f"| [{c}](codes/{c}.md) | {CATALOGUE[c].severity} | {CATALOGUE[c].title} |" for c in found]
    names = "\n".join(f"codes/{code}" for code in sorted(CATALOGUE, key=lambda code: (code[1:], code)))
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", ":titlesonly:", "", names, "```", ""])


def commands_page() -> str:
    parts = ["# Commands", "", "What `sigma2kql COMMAND --help` prints."]
    for name in COMMANDS:
        for path, command in _commands(name):
            context = click.Context(command, info_name=f"sigma2kql {path}", max_content_width=100)
            parts += ["", f"## {path}", "", "```text", command.get_help(context), "```"]
    return "\n".join(parts) + "\n"


def _commands(name: str) -> Iterator[tuple[str, click.Command]]:
    """A command, and those below it."""
    command = group.get_command(click.Context(group), name)
    assert command is not None
    yield name, command
    if isinstance(command, click.Group):
        for below, inner in command.commands.items():
            yield f"{name} {below}", inner
