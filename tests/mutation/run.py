"""Mutation testing: plant one small fault at a time in a module and see whether the tests of its stage notice.

    pip install -e '.[dev,mutation]'
    python tests/mutation/run.py sigma2kql/regex/parse.py        every mutant of a module
    python tests/mutation/run.py regex --sample 40 --seed 1      a sample of a folder
    python tests/mutation/run.py                                 the sample of 300 over the core
    python tests/mutation/run.py regex --only 'parse.py:214'     those on one line

The faults are Cosmic Ray's (operators of arithmetic, comparison and logic exchanged, conditions negated, numbers moved
by one, loops that do not run, exceptions that are not caught). What a mutant changes in annotations, asserts and sizes
of caches is left out: it means nothing when the program runs. A sample takes places first and then one change at each,
so that an operator with many exchanges counts no more than one with a single one.

Each mutant runs in a fork of this process, which has loaded what the tests need beside the package: nothing is written
to the work tree, and several runs do not disturb each other. Survivors that are known, each with its reason, stand in
survivors.md beside this file; others are printed with their difference, and end the run with 1.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import importlib.abc
import importlib.util
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import parso  # noqa: F401 - before Cosmic Ray, which meets it half loaded otherwise

ROOT = Path(__file__).resolve().parent.parent.parent
SURVIVORS = Path(__file__).with_name("survivors.md")
SAMPLE, SEED = 300, 2026
CORE = ("load", "language", "map", "kql", "model", "regex", "correlate")
CASES, DIFFERENTIAL = "tests/test_cases.py", "tests/test_differential.py"
# The tests that concern a folder, quickest first, each with which of them (as -k reads it): a mutant is run against
# them until one fails.
TESTS: dict[str, tuple[tuple[str, str], ...]] = {
    "regex": (("tests/regex", ""), (CASES, "emission or language/modifiers or correlations")),
    "language": (("tests/language", ""), (CASES, "language or errors or filters"), (CASES, "mapping")),
    "load": (("tests/load", ""), (CASES, "errors or language or filters or correlations/errors"), ("tests/text", "")),
    "map": ((CASES, "mapping"), ("tests/map", ""), (CASES, "errors or emission or language or filters")),
    "kql": (
        (CASES, "emission"),
        (CASES, "mapping or language or correlations"),
        ("tests/lint", ""),
        (DIFFERENTIAL, ""),
    ),
    "model": (("tests/model", ""), ("tests/reference", ""), (CASES, "emission or mapping"), (DIFFERENTIAL, "")),
    "correlate": ((CASES, "correlations"), ("tests/proof/test_prove_correlations.py", "")),
    "text": (("tests/text", ""), ("tests/load", ""), (CASES, "errors")),
    "reference": (("tests/reference", ""), (CASES, "language or emission")),
}
# What the parser of Microsoft and the corpus decide takes minutes; a mutant that only they would find counts as alive.
LEFT_OUT = "not microsoft and not public and not corpus"
TIMEOUT = 240  # seconds; a mutant that does not end is found


@dataclass(frozen=True)
class Mutant:
    path: Path
    operator: str
    occurrence: int
    line: int
    place: tuple[tuple[int, int], tuple[int, int]]

    @property
    def name(self) -> str:
        return f"{self.path.relative_to(ROOT / 'sigma2kql')}:{self.line} {self.operator} {self.occurrence}"

    def code(self) -> str:
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        made = mutate_code(self.path.read_text(encoding="utf-8"), get_operator(self.operator)(), self.occurrence)
        assert made is not None
        return str(made)

    def difference(self) -> str:
        before, after = self.path.read_text(encoding="utf-8").splitlines(), self.code().splitlines()
        return "\n".join(
            line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:2] not in ("--", "++")
        )


# --------------------------------------------------------------------------------------------------------------------
# Which mutants there are


def mutants(path: Path) -> Iterator[Mutant]:
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    text = path.read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(text)))
    idle = list(idle_places(ast.parse(text)))
    for name in operator_names():
        if name.rpartition("/")[2] in ("VariableReplacer", "VariableInserter", "NoOp", "RemoveDecorator"):
            continue
        operator = get_operator(name)()
        places = [place for node in nodes for place in operator.mutation_positions(node)]
        for occurrence, (start, end) in enumerate(places):
            if not any(first <= start and end <= last for first, last in idle):
                yield Mutant(path, name, occurrence, start[0], (start, end))


def idle_places(tree: ast.Module) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a change means nothing when the program runs: annotations, asserts, sizes of caches, types of casts."""
    for node in ast.walk(tree):
        found: list[ast.AST | None] = []
        match node:
            case ast.AnnAssign(annotation=annotation):
                found = [annotation]
                if ast.unparse(annotation) in ("TypeAlias", "Final"):
                    found = [node]
            case ast.FunctionDef(returns=returns, decorator_list=decorators):
                found = [returns, *(one for one in decorators if "cache" in ast.unparse(one))]
            case ast.arg(annotation=annotation):
                found = [annotation]
            case ast.Assert():
                found = [node]
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                found = [node]
            case ast.Call(func=ast.Name("cast"), args=[kind, *_]):
                found = [kind]
            case ast.Call(func=ast.Name("lru_cache")) | ast.Call(func=ast.Call(func=ast.Name("lru_cache"))):
                found = [node]
            case ast.Call(func=ast.Name("isinstance"), args=[_, kind]):  # `A | B` of classes
                found = [kind]
            case ast.Assign(value=ast.BinOp(op=ast.BitOr())) if node in tree.body:  # Piece = str | Unsure
                found = [node]
            case _:
                continue
        for one in found:
            if one is not None:
                yield (one.lineno, one.col_offset), (one.end_lineno, one.end_col_offset)  # type: ignore[attr-defined]


def sampled(paths: Sequence[Path], count: int, seed: int) -> list[Mutant]:
    """`count` places, each with one of the changes that can be made there; a family of operators is one at a place.

    A place is drawn by its own text, so that a change elsewhere in the code leaves the rest of a sample as it is.
    """
    drawn: list[tuple[str, list[Mutant]]] = []
    for path in paths:
        lines = path.read_text(encoding="utf-8").splitlines()
        by_place: dict[tuple[Any, ...], list[Mutant]] = {}
        for mutant in mutants(path):
            family = re.split(r"(?<=Operator)|_", mutant.operator)[0]
            by_place.setdefault((mutant.place, family), []).append(mutant)
        alike: Counter[str] = Counter()
        for (place, family), found in sorted(by_place.items()):
            (line, column), _ = place
            text = lines[line - 1]
            own = f"{path.name} {text.strip()} {column - len(text) + len(text.lstrip())} {family}"
            alike[own] += 1
            drawn.append((hashlib.sha256(f"{seed} {own} {alike[own]}".encode()).hexdigest(), found))
    chosen = sorted(drawn, key=lambda one: one[0])[:count]
    return [found[int(number, 16) % len(found)] for number, found in chosen]


# --------------------------------------------------------------------------------------------------------------------
# Running one


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutated text for one module."""

    def __init__(self, name: str, path: Path, code: str) -> None:
        self.name, self.path, self.code = name, path, code

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        within = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.path, loader=self, submodule_search_locations=within)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, str(self.path), "exec"), module.__dict__)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def run(mutant: Mutant, log: Path) -> None:
    """In a child: ends it with 0 where no test noticed the mutant, else with 1."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        finder = _Mutated(module_name(mutant.path), mutant.path, mutant.code())
        compile(finder.code, "", "exec")
    except SyntaxError:
        os._exit(1)
    sys.meta_path.insert(0, finder)
    import pytest
    from hypothesis import settings

    settings.register_profile("mutation", derandomize=True, database=None, max_examples=40, deadline=None)
    settings.load_profile("mutation")
    for tests, wanted in tests_of(mutant.path):
        words = f"({wanted}) and {LEFT_OUT}" if wanted else LEFT_OUT
        status = pytest.main(["-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-k", words, tests])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            os._exit(1)
    os._exit(0)


def fork(mutant: Mutant, log: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            run(mutant, log)
        finally:
            os._exit(1)
    return child


def tests_of(path: Path) -> tuple[tuple[str, str], ...]:
    folder = path.relative_to(ROOT / "sigma2kql").parts[0].removesuffix(".py")
    return TESTS[folder]


def run_all(chosen: Sequence[Mutant], jobs: int, logs: Path) -> Iterator[tuple[Mutant, str, float]]:
    """Each with what became of it (killed, alive, endless), and the seconds that it took."""
    waiting, running = list(chosen)[::-1], dict[int, tuple[Mutant, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            child = fork(mutant, logs / f"{abs(hash(mutant.name))}.log")
            running[child] = mutant, time.monotonic()
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended:
            mutant, began = running.pop(ended)
            yield mutant, "alive" if os.waitstatus_to_exitcode(status) == 0 else "killed", time.monotonic() - began
            continue
        for child, (mutant, began) in list(running.items()):
            if time.monotonic() - began > TIMEOUT:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                del running[child]
                yield mutant, "endless", TIMEOUT
        time.sleep(0.05)


# --------------------------------------------------------------------------------------------------------------------
# The command


def known_survivors() -> dict[str, str]:
    """The rows of survivors.md: the changed line as it stands -> the reason."""
    if not SURVIVORS.exists():
        return {}
    rows = re.findall(r"^\| `([^`]+)` \| `(.+?)` \| (.+?) \|$", SURVIVORS.read_text(encoding="utf-8"), re.MULTILINE)
    return {f"{path} {change}": reason for path, change, reason in rows}


def change_of(mutant: Mutant) -> str:
    """The lines that a mutant writes, on one line."""
    lines = [line[1:].strip() for line in mutant.difference().splitlines() if line.startswith("+")]
    return " ".join(lines).replace("|", "¦").replace("`", "'")


def modules(words: Sequence[str]) -> list[Path]:
    home = ROOT / "sigma2kql"
    found: list[Path] = []
    for word in words or CORE:
        given = ROOT / word if word.startswith("sigma2kql/") else home / word
        if given.is_dir():
            found += sorted(given.rglob("*.py"))
        else:
            found.append(given if given.suffix else given.with_suffix(".py"))
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="modules or folders of sigma2kql; without any, the core")
    parser.add_argument("--sample", type=int, help="how many mutants; all where modules are named")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default="", help="only mutants whose name this expression finds")
    parser.add_argument("--list", action="store_true", help="name the mutants, run none")
    parser.add_argument("--logs", type=Path, default=ROOT / "build" / "mutation")
    given = parser.parse_args(arguments)
    paths = modules(given.modules)
    count = given.sample or (10**9 if given.modules else SAMPLE)
    chosen = [m for m in sampled(paths, count, given.seed) if re.search(given.only, m.name)]
    if given.list:
        print(*(f"{m.name}\n    {change_of(m)}" for m in chosen), sep="\n")
        return 0
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = str(ROOT)
    given.logs.mkdir(parents=True, exist_ok=True)
    preload()
    known = known_survivors()
    tally: dict[str, Counter[str]] = {}
    new: list[Mutant] = []
    for mutant, outcome, seconds in run_all(chosen, given.jobs, given.logs):
        folder = str(mutant.path.relative_to(ROOT / "sigma2kql").parts[0])
        reason = known.get(f"{mutant.path.relative_to(ROOT / 'sigma2kql')} {change_of(mutant)}")
        told = "known survivor" if outcome == "alive" and reason else outcome
        tally.setdefault(folder, Counter())[told] += 1
        print(f"{told}: {mutant.name}  ({seconds:.0f} s)", flush=True)
        if outcome == "alive":
            print(mutant.difference(), flush=True)
            new += [] if reason else [mutant]
    for folder, counts in sorted(tally.items()):
        print(folder, share(counts))
    print("all", share(sum(tally.values(), Counter())))
    return int(bool(new))


def share(counts: Counter[str]) -> str:
    found = counts["killed"] + counts["endless"]
    said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{found}/{counts.total()} found = {found / counts.total():.1%} ({said})"


def preload() -> None:
    """What every child needs beside the package: loaded once."""
    import hypothesis.strategies
    import jsonschema
    import pytest
    import yaml

    del hypothesis, jsonschema, pytest, yaml
    for name in ("lark", "click", "jinja2", "duckdb", "duckdb_kql", "cosmic_ray.mutating", "sqlglot"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
