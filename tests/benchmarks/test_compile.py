"""What compiling costs and what the queries will cost: pytest -m benchmarks -s tests/benchmarks/test_compile.py

Prints figures and asserts none. P: CPU of whole processes as ratios to a yardstick that runs in turn with them (medians
of RUNS pairs), so that a busy machine moves both. K: properties of the emitted queries. Needs the corpus (conftest.py).
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from sigma2kql.api import Options, compile_inputs, read_inputs
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import ANY, And, Column, Compiled, Expr, Match, Not, Number, Or, Rule, Text

pytestmark = pytest.mark.benchmarks

RUNS = int(os.environ.get("RUNS", "5"))
TARGETS = ("sentinel", "asim", "xdr")
PYTHON = [sys.executable]
TOOL = [sys.executable, "-m", "sigma2kql"]
NOTHING = [sys.executable, "-c", "pass"]
PARSE = """
import sys, os, yaml
for root in sys.argv[1:]:
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(('.yml', '.yaml')):
                for _ in yaml.load_all(open(os.path.join(folder, name), 'rb').read(), Loader=yaml.CSafeLoader): pass
"""
ABSENT = ("lark", "jinja2", "duckdb", "rich", "multiprocessing", "importlib.metadata", "difflib", "csv")
RULE = "title: t\nlogsource: {category: process_creation, product: windows}\ndetection:\n"


@pytest.fixture(autouse=True)
def by_hand(request: pytest.FixtureRequest) -> None:
    if "benchmarks" not in request.config.getoption("markexpr"):
        pytest.skip("run by hand: pytest -m benchmarks -s tests/benchmarks")
    if not hasattr(os, "wait4"):
        pytest.skip("this system does not account for single processes")


# --------------------------------------------------------------------------------------------------------------------
# Processes


def spend(command: Sequence[str]) -> tuple[float, float]:
    """CPU seconds and peak MiB of one process; bytecode files are used, as in an installation.

    The peak cannot be told below that of this process, which it is started from (about 40 MiB).
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, _, use = os.wait4(child.pid, 0)
    child.returncode = 0
    return use.ru_utime + use.ru_stime, use.ru_maxrss / (1024 if sys.platform != "darwin" else 1024 * 1024)


def ratio(command: Sequence[str], yardstick: Sequence[str], runs: int = RUNS) -> tuple[float, float, float]:
    """Medians over alternating runs, after one of each: CPU ratio, CPU seconds and peak MiB of the command."""
    spend(command), spend(yardstick)
    pairs = [(spend(command), spend(yardstick)) for _ in range(runs)]
    return (
        statistics.median(a[0] / b[0] for a, b in pairs),
        statistics.median(a[0] for a, _ in pairs),
        statistics.median(a[1] for a, _ in pairs),
    )


def convert(target: str, *paths: str | Path) -> list[str]:
    return [*TOOL, "convert", "-q", "-t", target, "-f", "ndjson", "-o", os.devnull, *map(str, paths)]


def show(*row: object) -> None:
    print("  ".join(f"{cell:<34}" if number == 0 else f"{cell!s:<22}" for number, cell in enumerate(row)), flush=True)


def test_processes(corpus: list[Path]) -> None:
    home = next(p for p in corpus[0].parents if p.name == "sigmahq")
    folders = sorted(home.glob("rules*"))
    files = sorted(home.glob("rules/windows/process_creation/*.yml"))
    simple = next(p for p in files if "condition: selection\n" in p.read_text(encoding="utf-8"))
    hard = next(p for p in files if re.search(r"condition: .* or \(", p.read_text(encoding="utf-8")))
    print()
    for name, arguments in (("P4 --version", ["--version"]), ("P4 --help", ["--help"])):
        show(name, f"{ratio([*TOOL, *arguments], NOTHING, RUNS * 2)[0]:.1f} x bare Python")
    for target in TARGETS:
        for what, path in (("simple", simple), ("nested", hard)):
            found = ratio(convert(target, path), NOTHING, RUNS * 2)
            show(f"P5 one rule, {what}, {target}", f"{found[0]:.1f} x bare Python")
    code = (
        "import sys; from sigma2kql.api import convert; convert(sys.argv[1]);"
        f"print(*[m for m in {ABSENT!r} if m in sys.modules] or ['none'])"
    )
    loaded = subprocess.run([*PYTHON, "-c", code, str(hard)], capture_output=True, text=True, check=True).stdout.strip()
    show("P6 needless modules of one rule", loaded)
    floor = [*PYTHON, "-c", PARSE, *map(str, folders)]
    for target in TARGETS:
        found = ratio(convert(target, *folders), floor)
        show(f"P1 P7 corpus, {target}", f"{found[0]:.2f} x parsing it", f"{found[1]:.2f} s", f"{found[2]:.0f} MiB")


def test_growth(corpus: list[Path]) -> None:
    """P8: 16,000 rules to 4,000. P9: 2,000 of one thing in one rule to 1,000."""
    print()
    with tempfile.TemporaryDirectory() as folder:
        texts = [path.read_bytes() for path in corpus[:4000]]
        cost = {}
        for count in (4_000, 16_000):
            home = Path(folder, str(count))
            home.mkdir()
            for number in range(count):
                (home / f"{number}.yml").write_bytes(texts[number % len(texts)])
            runs = [spend(convert("asim", home)) for _ in range(max(2, RUNS // 2))]
            cost[count] = (statistics.median(r[0] for r in runs), max(r[1] for r in runs))
        grown = cost[16_000][0] / cost[4_000][0]
        extra = (cost[16_000][1] - cost[4_000][1]) * 1024 / 12_000
        show("P8 CPU of 16,000 rules / 4,000", f"{grown:.2f}", f"{extra:.1f} KiB an extra rule")
        for what in ("values", "wildcards", "fields", "operands", "selections", "negations", "regex", "all", "cidr"):
            path = Path(folder, "one.yml")
            taken = []
            for count in (1_000, 2_000):
                path.write_text(RULE + grow(what, count), encoding="utf-8")
                taken.append([in_process(path) for _ in range(RUNS)])
            show(f"P9 2,000 {what} / 1,000", f"{min(taken[1]) / min(taken[0]):.2f}", f"{min(taken[1]) * 1000:.0f} ms")


def in_process(path: Path) -> float:
    import time

    start = time.process_time()
    list(compile_inputs(read_inputs([str(path)]), Options(target="xdr")))
    return time.process_time() - start


def grow(what: str, count: int) -> str:
    """A detection with so many of one thing."""
    numbers = range(count)
    match what:
        case "values":
            return "  a:\n    CommandLine:\n" + "".join(f"      - value{n}\n" for n in numbers) + "  condition: a\n"
        case "wildcards":
            return (
                "  a:\n    CommandLine|contains:\n"
                + "".join(f"      - 'x{n}*y{n}?z'\n" for n in numbers)
                + "  condition: a\n"
            )
        case "all":
            return (
                "  a:\n    CommandLine|contains|all:\n"
                + "".join(f"      - ' v{n} '\n" for n in numbers)
                + "  condition: a\n"
            )
        case "regex":
            body = "|".join(f"word{n}" for n in numbers)
            return f"  a:\n    CommandLine|re: '({body})'\n  condition: a\n"
        case "cidr":
            nets = "".join(f"      - 10.{n // 200}.{n % 200}.0/24\n" for n in numbers)
            return "  a:\n    CommandLine|cidr:\n" + nets + "  condition: a\n"
        case "fields":
            return (
                "  a:\n" + "".join(f"    - {{Image: i{n}, CommandLine: c{n}}}\n" for n in numbers) + "  condition: a\n"
            )
        case "operands":
            return "  a: {Image: a}\n  b: {Image: b}\n  condition: " + " or ".join(["(a and not b)"] * count) + "\n"
        case "selections":
            rows = "".join(f"  s{n}: {{Image|endswith: 'x{n}'}}\n" for n in numbers)
            return rows + "  condition: 1 of s*\n"
        case _:
            rows = "".join(f"  s{n}: {{Image|endswith: 'x{n}'}}\n" for n in numbers)
            return rows + "  condition: " + " and ".join(f"not s{n}" for n in numbers) + "\n"


# --------------------------------------------------------------------------------------------------------------------
# Queries: the measures that say whether Kusto's term index can help. The analysis here is this file's own.


def results(corpus: Sequence[Path], target: str, prefilter: bool = True) -> Iterator[Compiled]:
    paths = [str(path) for path in corpus]
    return (
        done for _, done in compile_inputs(read_inputs(paths), Options(target=target, prefilter=prefilter)) if done.kql
    )


def indexed(expr: Expr[Column]) -> bool:
    """An equality that must hold: the index answers it."""
    match expr:
        case Match(subject, Text((str(),))) | Match(subject, Number("==")):
            return subject.kind == "stored"
        case And(items):
            return any(map(indexed, items))
        case Or(items):
            return bool(items) and all(map(indexed, items))
        case _:
            return False


def terms(test: Text) -> list[str]:
    """Runs of three or more letters and digits that every matching text holds as a whole term."""
    found = []
    for number, part in enumerate(test.parts):
        if isinstance(part, str):
            first, last = number == 0, number == len(test.parts) - 1
            text = (" " if first else "A") + part + (" " if last else "A")
            found += re.findall(r"(?<=[ -/:-@\[-^`{-~])[A-Za-z0-9]{3,}(?=[ -/:-@\[-^`{-~])", text)
    return found


def gateable(expr: Expr[Column]) -> bool:
    match expr:
        case Match(subject, Text() as test):
            plain = subject.kind in ("stored", "property") and len(subject.reads) == 1
            return indexed(expr) or (plain and bool(terms(test)))
        case And(items):
            return any(map(gateable, items))
        case Or(items):
            return bool(items) and all(map(gateable, items)) and len(set(leaves(expr))) <= 128
        case _:
            return False


_GATE = re.compile(r"^\| where [^\n\"]* has(?:_any)? ", re.MULTILINE)
_STRING = re.compile(r'''@"(?:[^"]|"")*"|@'(?:[^']|'')*'|"(?:[^"\\]|\\.)*"''')


def or_chain(text: str) -> int:
    """The longest run of `or` inside one pair of parentheses."""
    depth, longest = [0], 0
    for token in re.findall(r"[()]|\bor\b|^\|", _STRING.sub("s", text), re.MULTILINE):
        if token == "(":
            depth.append(1)
        elif token == ")":
            depth.pop()
        elif token == "|":
            depth = [1]
        else:
            depth[-1] += 1
            longest = max(longest, depth[-1])
    return longest


def twice(expr: Expr[Column]) -> int:
    """How often an operand stands in its chain a second time."""
    match expr:
        case And(items) | Or(items):
            return len(items) - len(set(items)) + sum(map(twice, items))
        case Not(item):
            return twice(item)
        case _:
            return 0


def on_several(done: Compiled) -> bool:
    """A text that the query looks for in several columns, where the rule names one field for it."""
    assert done.query is not None
    assert isinstance(done.document, Rule)
    asked: dict[object, set[str | None]] = {}
    for leaf in leaves(done.document.where):
        asked.setdefault(leaf.test, set()).add(leaf.subject.name)
    if None in set().union(*asked.values()):
        return False  # keywords are searched in every column
    written: dict[object, set[str]] = {}
    for one in leaves(done.query.where):
        if isinstance(one.test, Text) and one.test.parts not in ((), (ANY,)):
            written.setdefault(one.test, set()).add(one.subject.text)
    return any(len(columns) > max(1, len(asked.get(test, ""))) for test, columns in written.items())


_FOLDABLE = re.compile(r"(\w+) (=~|==) s or \1 \2 s")
_FOLDABLE_IP = re.compile(r"(ipv[46]_is_(?:match|in_range)\(\w+, )s\) or \1s\)")


def measures(corpus: Sequence[Path], target: str) -> Mapping[str, object]:
    found = list(results(corpus, target))
    texts = [done.kql or "" for done in found]
    bare = sum(len(done.kql or "") for done in results(corpus, target, prefilter=False))
    flat = [" ".join(_STRING.sub("s", text).split()) for text in texts]
    gated = [_GATE.search(d.kql or "") is not None or (d.query is not None and indexed(d.query.where)) for d in found]
    can = [d.query is not None and gateable(d.query.where) for d in found]
    long = [d for d in found if len(d.kql or "") > 10_000]
    return {
        "queries": len(found),
        "K1 gated of gateable": f"{sum(g for g, c in zip(gated, can, strict=True) if c) / max(sum(can), 1):.3f}",
        "K1 gated share": f"{sum(gated) / max(len(gated), 1):.3f} (bound {sum(can) / max(len(can), 1):.3f})",
        "K2 gate overhead": f"{sum(map(len, texts)) / max(bare, 1):.3f}",
        "K3 over 10,000 unsaid": sum(all(p.code != "W501" for p in d.diagnostics) for d in long),
        "K3 longest or chain": max(map(or_chain, texts)),
        "K4 duplicate branches": sum(twice(d.query.where) for d in found if d.query),
        "K4 foldable in": sum(len(_FOLDABLE.findall(text)) for text in flat),
        "K4 foldable ip": sum(len(_FOLDABLE_IP.findall(text)) for text in flat),
        "K5 literal on 2+ columns": sum(on_several(d) for d in found if d.query and isinstance(d.document, Rule)),
        "chars: median, longest": f"{statistics.median(map(len, texts)):.0f}, {max(map(len, texts)):,}",
    }


def test_queries(corpus: list[Path]) -> None:
    rows = {target: measures(corpus, target) for target in TARGETS}
    print()
    show("", *TARGETS)
    for name in rows[TARGETS[0]]:
        show(name, *(rows[target][name] for target in TARGETS))
