"""The house keeps its order: which room may know which, who may print, where the language's operators are written.

A module imports only from rooms below its own, or from its own package; new modules are given their place here:

    catalogue < errors < model and the other ground (literals, yamltree, report ...)
              < words of the language (regex, modifiers, condition, simplify, transforms ...), events
              < sentences (detection, correlation, evaluate, operators)
              < mappingfile, facts < standing
              < loader, tables, prefilter, compact | artifacts and engines, which know no stage
              < refusal < mapping, kql < correlate < api < proof, check, output, deploy < hunt < cli

The stages (loader, mapping, kql, evaluate, artifacts, engines) never import each other: `api` alone composes them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent / "sigma2kql"

ROOMS: list[set[str]] = [
    {"__init__", "catalogue", "folders"},
    {"errors"},
    {"model", "literals", "yamltree", "report", "child"},
    {"accessors", "jsontree", "yamltext", "exported", "strings"},
    {"regex", "modifiers", "condition", "metadata", "simplify", "transforms", "events", "config", "wording"},
    {"detection", "correlation", "evaluate", "operators"},
    {"mappingfile", "facts"},
    {"standing"},
    {"loader", "tables", "prefilter", "compact", "artifacts", "engines"},
    {"refusal"},
    {"mapping", "kql"},
    {"correlate"},
    {"api"},
    {"proof", "check", "output", "deploy"},
    {"hunt"},
    {"cli"},
    {"__main__"},
]
STAGES = {"loader", "mapping", "kql", "evaluate", "artifacts", "engines"}
HEAVY = {"lark", "jinja2", "duckdb", "duckdb_kql", "evtx", "azure", "multiprocessing", "py_mini_racer"}
# Libraries belong to the stage that needs them.
OWNERS = {
    "yaml": {"yamltext", "artifacts", "events"},
    "lark": {"condition"},
    "jinja2": {"artifacts"},
    "click": {"cli"},
    "duckdb": {"engines", "events"},
    "duckdb_kql": {"engines"},
    "azure": {"engines", "deploy"},
}
PATHS = sorted(HOME.rglob("*.py"))


def room_of(path: Path) -> str:
    """The name of a module, or of the package that it is in."""
    relative = path.relative_to(HOME)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, everywhere: bool = True) -> Iterator[tuple[str, int]]:
    """Every module named in an import, with its line; not `everywhere`: those that run when the module is imported."""

    def visit(node: ast.AST) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and child.module:
                names = [alias.name for alias in child.names] if child.module == "sigma2kql" else [""]
                yield from ((f"{child.module}.{name}".rstrip("."), child.lineno) for name in names)
            elif everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(child)

    return visit(tree_of(path))


def own_imports(path: Path) -> Iterator[tuple[str, int]]:
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] == "sigma2kql" and len(parts) > 1 and parts[1] != "__version__":
            yield parts[1], line


LEVEL = {name: number for number, room in enumerate(ROOMS) for name in room}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_a_module_knows_only_the_rooms_below(path: Path) -> None:
    room = room_of(path)
    assert room in LEVEL, f"say in ROOMS where `{room}` belongs"
    above = [(name, line) for name, line in own_imports(path) if name != room and LEVEL[name] >= LEVEL[room]]
    assert above == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_do_not_know_each_other(stage: str) -> None:
    known = {name for path in PATHS if room_of(path) == stage for name, _ in own_imports(path)}
    assert known & (STAGES - {stage}) == set()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_heavy_imports_stand_in_the_function_that_needs_them(path: Path) -> None:
    at_start = {name.split(".")[0] for name, _ in imports(path, everywhere=False)}
    assert at_start & HEAVY == set()
    used = {name.split(".")[0] for name, _ in imports(path)}
    assert {library for library in used & OWNERS.keys() if room_of(path) not in OWNERS[library]} == set()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    """The two programs that run as a child process speak to their parent on standard output."""
    if room_of(path) in ("cli", "__main__") or path.name == "evtx_child.py":
        return
    spoken = [
        node.lineno
        for node in ast.walk(tree_of(path))
        if (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "exit", "quit")
        )
        or (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in {("sys", "exit"), ("sys", "stdout"), ("sys", "stderr"), ("os", "_exit")}
        )
    ]
    assert spoken == []


OPERATORS = re.compile(
    r"(?:^|[^\w`])(?:!?=~ |!~ |!?in~ |(?:contains|startswith|endswith|has)_cs\b|!(?:contains|startswith|endswith|has)\b"
    r"|has_a(?:ny|ll) |matches regex |ipv[46]_is_|is(?:not)?(?:empty|null)\(|datetime_part\()"
)
WRITERS = {"operators", "prefilter", "correlate", "transforms"}  # the last of them computes columns
READERS = {  # they read, run or describe KQL, and write none into a query
    "artifacts", "catalogue", "check", "cli", "deploy", "engines", "hunt", "proof",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_operators_are_written_in_one_place(path: Path) -> None:
    if room_of(path) in WRITERS | READERS:
        return
    tree = tree_of(path)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    written = [
        (node.lineno, node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documented
        and OPERATORS.search(node.value)
    ]
    assert written == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    text = ast.get_docstring(tree_of(path)) or ""
    assert text
    assert "Place in the flow" in text or room_of(path) in ("__init__", "__main__", "cli") or path.name == "__init__.py"


def test_the_program_starts_without_what_it_does_not_need() -> None:
    code = "import sys, sigma2kql.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & (HEAVY | {"yaml"}) == set()


def test_every_code_of_the_catalogue_is_raised_somewhere() -> None:
    from sigma2kql.catalogue import CATALOGUE

    places = [path for path in PATHS if path.name != "catalogue.py"]
    written = "".join(path.read_text() for path in (*places, *(HOME.parent / "mappings").rglob("*.yml")))
    assert sorted(code for code in CATALOGUE if code not in written) == []
