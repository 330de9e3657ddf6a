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

Each mutant runs in a fork of this process, which has collected the tests: nothing is written to the work tree, and
several runs do not disturb each other. Survivors that are known, each with its reason, stand in
survivors.md beside this file; others are printed with their difference, and end the run with 1.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import hashlib
import importlib.abc
import importlib.util
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
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
QUIET = ("-q", "-p", "no:xdist", "-p", "no:cacheprovider")
Place = tuple[str, str, int]  # file, qualified name and first line of a function


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


class Session:
    """A plugin of pytest: the tests are collected once, then each mutant runs them in a fork of this process.

    A change inside a function is put into the function as it stands; what the module says outside of functions takes
    effect only where it is imported, so that such a mutant gets a fresh pytest.
    """

    def __init__(self, chosen: Sequence[Mutant], jobs: int, logs: Path, trust: bool) -> None:
        self.chosen, self.jobs, self.logs, self.trust = chosen, jobs, logs, trust
        self.outcomes: list[tuple[Mutant, str]] = []
        self.known = known_survivors()

    def pytest_runtestloop(self, session: Any) -> bool:
        functions = live_functions()
        unsound = set() if self.trust else self.failing_anyway(session)
        session.items[:] = [item for item in session.items if item.nodeid not in unsound]
        waiting, running = list(self.chosen)[::-1], dict[int, tuple[Mutant, float, str]]()
        while waiting or running:
            while waiting and len(running) < self.jobs:
                mutant = waiting.pop()
                home = tempfile.mkdtemp(prefix="mutant-")
                child = os.fork()
                if child == 0:
                    try:
                        self.run(mutant, session, functions, home)
                    finally:
                        os._exit(1)
                running[child] = mutant, time.monotonic(), home
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended:
                alive = os.waitstatus_to_exitcode(status) == 0
                self.told(*running.pop(ended), "alive" if alive else "killed")
                continue
            for child, (mutant, began, home) in list(running.items()):
                if time.monotonic() - began > TIMEOUT and seconds_of(child) > TIMEOUT / 10:
                    os.killpg(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    del running[child]
                    self.told(mutant, began, home, "endless")
            time.sleep(0.02)
        return True

    def failing_anyway(self, session: Any) -> set[str]:
        """The tests that fail without any mutant: they are told, and would find every one."""
        told = self.logs / "failing"
        told.write_text("", encoding="utf-8")
        child = os.fork()
        if child == 0:
            from _pytest.runner import runtestprotocol

            os.dup2(os.open(self.logs / "unchanged.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            with told.open("a", encoding="utf-8") as failing:
                for item, following in zip(session.items, [*session.items[1:], None], strict=True):
                    if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                        failing.write(item.nodeid + "\n")
            os._exit(0)
        os.waitpid(child, 0)
        found = set(told.read_text(encoding="utf-8").splitlines())
        for name in sorted(found):
            os.write(3, f"fails without a mutant, left out: {name}\n".encode())
        return found

    def run(self, mutant: Mutant, session: Any, functions: Mapping[Place, list[FunctionType]], home: str) -> None:
        """In a child: ends it with 0 where no test noticed the mutant, else with 1."""
        os.setsid()
        out = os.open(self.logs / f"{os.getpid()}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.write(1, f"{mutant.name}\n".encode())
        try:
            put = put_into(functions, mutant)
        except SyntaxError:
            os._exit(1)
        if not put:
            fresh(mutant)
        from _pytest.runner import runtestprotocol

        session.config._tmp_path_factory._basetemp = Path(home)
        items = list(items_of(mutant.path, session.items))
        for item, following in zip(items, [*items[1:], None], strict=True):
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
                os.write(1, f"{item.nodeid}\n".encode())
                os._exit(1)
        os._exit(0)

    def told(self, mutant: Mutant, began: float, home: str, outcome: str) -> None:
        shutil.rmtree(home, ignore_errors=True)
        reason = self.known.get(f"{mutant.path.relative_to(ROOT / 'sigma2kql')} {change_of(mutant)}")
        outcome = "known survivor" if outcome == "alive" and reason else outcome
        self.outcomes.append((mutant, outcome))
        shown = f"\n{mutant.difference()}" if outcome == "alive" else ""
        os.write(3, f"{outcome}: {mutant.name}  ({time.monotonic() - began:.0f} s){shown}\n".encode())


def seconds_of(child: int) -> float:
    """The processor's time that a child took so far; on a busy machine it is less than what went by."""
    try:
        words = Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return TIMEOUT
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def items_of(path: Path, items: Sequence[Any]) -> Iterator[Any]:
    """The tests of a module's folder in their order."""
    folder = path.relative_to(ROOT / "sigma2kql").parts[0].removesuffix(".py")
    for tests, words in TESTS[folder]:
        for item in items:
            if item.nodeid.startswith(tests) and any(word in item.nodeid for word in words.split(" or ")):
                yield item


def live_functions() -> Mapping[Place, list[FunctionType]]:
    """Every function of the package that there is, by its place."""
    found: dict[Place, list[FunctionType]] = {}
    for one in gc.get_objects():
        if isinstance(one, FunctionType) and one.__code__.co_filename.startswith(str(ROOT / "sigma2kql")):
            code = one.__code__
            found.setdefault((code.co_filename, code.co_qualname, code.co_firstlineno), []).append(one)
    return found


def put_into(functions: Mapping[Place, list[FunctionType]], mutant: Mutant) -> bool:
    """Give the functions that a mutant changes their new code; False where it changes something else."""
    path = str(mutant.path)
    before = compile(mutant.path.read_text(encoding="utf-8"), path, "exec")
    after = compile(mutant.code(), path, "exec")

    def exchange(old: CodeType, new: CodeType) -> bool:
        live = functions.get((path, old.co_qualname, old.co_firstlineno))
        if live and old != new:
            for function in live:
                function.__code__ = new
            return True
        inner = [[c for c in code.co_consts if isinstance(c, CodeType)] for code in (old, new)]
        if len(inner[0]) != len(inner[1]):
            return False
        return any(exchange(one, other) for one, other in zip(*inner, strict=True) if one != other)

    return exchange(before, after)


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the mutated text for one module."""

    def __init__(self, mutant: Mutant) -> None:
        parts = mutant.path.relative_to(ROOT).with_suffix("").parts
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        self.path, self.code = mutant.path, mutant.code()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        within = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.path, loader=self, submodule_search_locations=within)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.code, str(self.path), "exec"), module.__dict__)


def fresh(mutant: Mutant) -> None:
    """In a child: the package imported anew with the mutant, and a pytest of its own. Does not come back."""
    folder = mutant.path.relative_to(ROOT / "sigma2kql").parts[0].removesuffix(".py")
    wanted = [f"{tests}:{words}" for tests, words in TESTS[folder]]
    code = "import sys; sys.path[:0] = [{!r}, {!r}]; import run; run.in_a_process(*sys.argv[1:])"
    place = code.format(str(ROOT), str(Path(__file__).parent))
    given = [str(mutant.path), mutant.operator, str(mutant.occurrence), *wanted]
    os.execv(sys.executable, [sys.executable, "-c", place, *given])


def in_a_process(path: str, operator: str, occurrence: str, *wanted: str) -> None:
    sys.meta_path.insert(0, _Mutated(Mutant(Path(path), operator, int(occurrence), 0, ((0, 0), (0, 0)))))
    import pytest

    quick_hypothesis()
    for one in wanted:
        tests, _, words = one.partition(":")
        named = f"({words}) and {LEFT_OUT}" if words else LEFT_OUT
        status = pytest.main(["-x", *QUIET, "-k", named, tests])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            os._exit(1)
    os._exit(0)


def quick_hypothesis() -> None:
    from hypothesis import HealthCheck, settings

    checks = list(HealthCheck)
    settings.register_profile(
        "mutation", derandomize=True, database=None, max_examples=40, deadline=None, suppress_health_check=checks
    )
    settings.load_profile("mutation")


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
    parser.add_argument("--trust", action="store_true", help="the tests are known to pass without a mutant")
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
    import pytest

    os.dup2(1, 3)  # pytest takes the standard output for itself
    quick_hypothesis()
    session = Session(chosen, given.jobs, given.logs, given.trust)
    folders = {m.path.relative_to(ROOT / "sigma2kql").parts[0].removesuffix(".py") for m in chosen}
    tests = dict.fromkeys(test for folder in sorted(folders) for test, _ in TESTS[folder])
    pytest.main([*QUIET, "-k", LEFT_OUT, *tests], plugins=[session])
    tally: dict[str, Counter[str]] = {}
    for mutant, outcome in session.outcomes:
        tally.setdefault(mutant.path.relative_to(ROOT / "sigma2kql").parts[0], Counter())[outcome] += 1
    for folder, counts in sorted(tally.items()):
        print(folder, share(counts))
    print("all", share(sum(tally.values(), Counter())))
    return int(any(outcome == "alive" for _, outcome in session.outcomes))


def share(counts: Counter[str]) -> str:
    found = counts["killed"] + counts["endless"]
    said = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    return f"{found}/{counts.total()} found = {found / counts.total():.1%} ({said})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
