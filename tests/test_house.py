"""The house keeps its order: which folder may know which, who may print, where the language's operators are written.

A folder is a stage, or the ground that stages stand on. A module imports only from folders below its own, or from
its own:

    system < diagnostics < model < text < regex < language
           < load, map, kql, reference, artifacts, engines, events  (the stages: none of them knows another)
           < correlate, workspace < api < proof, lint, deploy, coverage < hunt, site < cli

`api` alone composes the stages; `cli` alone prints and ends the process. A base name occurs once in the package.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent / "sigma2kql"

FLOORS: list[set[str]] = [
    {"__init__", "system"},
    {"diagnostics"},
    {"model"},
    {"text"},
    {"regex"},
    {"language"},
    {"load", "map", "kql", "reference", "artifacts", "engines", "events"},
    {"correlate", "workspace"},
    {"api"},
    {"proof", "lint", "deploy", "coverage"},
    {"hunt", "site"},
    {"cli"},
    {"__main__"},
]
STAGES = {"load", "map", "kql", "reference", "artifacts", "engines", "events"}
HEAVY = {
    *("lark", "jinja2", "markupsafe", "pygments", "duckdb", "duckdb_kql", "evtx", "azure"),
    *("multiprocessing", "py_mini_racer"),
}
# Libraries belong to the stage that needs them.
OWNERS = {
    "yaml": {"text", "artifacts", "events"},
    "lark": {"language"},
    "jinja2": {"artifacts", "site"},
    "markupsafe": {"site"},
    "pygments": {"site"},
    "click": {"cli"},
    "duckdb": {"engines", "events"},
    "duckdb_kql": {"engines"},
    "azure": {"engines", "deploy"},
}
PATHS = sorted(HOME.rglob("*.py"))


def folder_of(path: Path) -> str:
    """The folder that a module lies in; the module itself where it lies at the root."""
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


LEVEL = {name: number for number, floor in enumerate(FLOORS) for name in floor}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_a_module_knows_only_the_folders_below(path: Path) -> None:
    folder = folder_of(path)
    assert folder in LEVEL, f"say in FLOORS where `{folder}` belongs"
    above = [(name, line) for name, line in own_imports(path) if name != folder and LEVEL[name] >= LEVEL[folder]]
    assert above == []


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_stages_do_not_know_each_other(stage: str) -> None:
    known = {name for path in PATHS if folder_of(path) == stage for name, _ in own_imports(path)}
    assert known & (STAGES - {stage}) == set()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_heavy_imports_stand_in_the_function_that_needs_them(path: Path) -> None:
    at_start = {name.split(".")[0] for name, _ in imports(path, everywhere=False)}
    assert at_start & HEAVY == set()
    used = {name.split(".")[0] for name, _ in imports(path)}
    assert {library for library in used & OWNERS.keys() if folder_of(path) not in OWNERS[library]} == set()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    """The two programs that run as a child process speak to their parent on standard output."""
    if folder_of(path) in ("cli", "__main__") or path.name in ("evtx_child.py", "duckdb_child.py"):
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
# The only places that write operators; the last of them computes columns.
WRITERS = ("kql/operators.py", "kql/prefilter.py", "correlate/", "map/transforms/")
READERS = {
    "artifacts",
    "diagnostics",
    "lint",
    "cli",
    "deploy",
    "engines",
    "hunt",
    "proof",
    "site",
}  # they read, run or describe KQL


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_operators_are_written_in_one_place(path: Path) -> None:
    if folder_of(path) in READERS or path.relative_to(HOME).as_posix().startswith(WRITERS):
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
    assert (
        "Place in the flow" in text or folder_of(path) in ("__init__", "__main__", "cli") or path.name == "__init__.py"
    )


def test_the_program_starts_without_what_it_does_not_need() -> None:
    code = "import sys, sigma2kql.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(loaded) & (HEAVY | {"yaml"}) == set()


HOLDERS = {"_KNOWN_ROWS"}  # caches by identity whose values hold what their keys are the identity of


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_no_cache_knows_a_thing_by_its_identity_alone(path: Path) -> None:
    """An object that dies leaves its identity to another: what outlives a call holds what it is keyed by."""
    tree = tree_of(path)
    lasting = {
        name.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for name in ast.walk(node)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    keyed = {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript | ast.Call)
        and any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "id" for n in ast.walk(node))
        for name in ast.walk(node)
        if isinstance(name, ast.Name)
    }
    assert lasting & keyed - HOLDERS == set()


def test_every_code_of_the_catalogue_is_raised_somewhere() -> None:
    from sigma2kql.diagnostics.catalogue import CATALOGUE

    places = [path for path in PATHS if path.name != "catalogue.py"]
    written = "".join(path.read_text() for path in (*places, *(HOME.parent / "mappings").rglob("*.yml")))
    assert sorted(code for code in CATALOGUE if code not in written) == []


def test_a_base_name_occurs_once() -> None:
    """Whoever reads a module's name in a traceback or a search knows which file is meant."""
    names = Counter(path.stem for path in PATHS if path.stem not in ("__init__", "__main__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_tests_mirror_the_house() -> None:
    folders = {path.name for path in (HOME.parent / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert folders - {"benchmarks"} <= {path.name for path in HOME.iterdir() if path.is_dir()}


# --------------------------------------------------------------------------------------------------------------------
# Closed unions

# The kinds of value of which the whole set is known: a `match` over one of them names every member, so that mypy names
# the arms that a new member lacks. (Walks that see every node of every rule ask isinstance instead, and say why.)
UNIONS = {
    "Expr": {"And", "Or", "Not", "Match"},
    "Test": {"Text", "Regex", "Cidr", "Number", "Bool", "Null", "Exists", "SameAs", "DatePart"},
    "Part": {"Wildcard", "OneOf", "Placeholder"},
    "Document": {"Rule", "Correlation", "Filter", "NativeQuery", "Broken"},
    "YamlNode": {"YamlScalar", "YamlList", "YamlMap"},
    "Condition": {"Named", "Quantified", "Joined"},
    "regex Node": {"Char", "Dot", "Set", "Edge", "Sequence", "Choice", "Repeat", "Group", "Switch"},
    "Piece": {"Unsure", "Listed", "Chain", "Wrap"},
}


def test_the_unions_are_those_of_the_code() -> None:
    from typing import get_args, get_origin

    from sigma2kql.kql import layout
    from sigma2kql.language import condition
    from sigma2kql.model import tree
    from sigma2kql.regex import pattern
    from sigma2kql.text import nodes

    unions = {
        "Expr": tree.Expr,
        "Test": tree.Test,
        "Part": tree.Part,
        "Document": tree.Document,
        "YamlNode": nodes.YamlNode,
        "Condition": condition.Condition,
        "regex Node": pattern.Node,
        "Piece": layout.Piece,
    }
    members = {name: {(get_origin(one) or one).__name__ for one in get_args(union)} for name, union in unions.items()}
    assert {name: found - {"str"} for name, found in members.items()} == UNIONS


def classes(pattern: ast.pattern) -> Iterator[str]:
    """The classes that a pattern asks for at its top."""
    match pattern:
        case ast.MatchClass(ast.Name(name)):
            yield name
        case ast.MatchOr(patterns):
            for one in patterns:
                yield from classes(one)
        case ast.MatchAs(pattern=ast.pattern() as inner):
            yield from classes(inner)
        case _:
            return


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(HOME)))
def test_a_match_over_a_closed_union_names_all_of_it(path: Path) -> None:
    members = set().union(*UNIONS.values())
    silent = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Match) and members & {name for case in node.cases for name in classes(case.pattern)}:
            last = node.cases[-1].body[-1]
            if "assert_never(" not in ast.unparse(last):
                silent.append(f"line {node.lineno}: match {ast.unparse(node.subject)}")
    assert silent == []
