"""One runner for the Markdown case files under tests/cases/, which mirror the house; each says why its cases are so.

A `##` heading is a test; its fenced blocks are what goes in and what comes out (what stands before the first heading
holds for every case of the file):

    ```yaml rule        one or several Sigma documents
    ```yaml config      options: target, placeholders, builtin, strict, prefilter, tables, time
    ```yaml mapping     a mapping file of a user (its target is the default of the case)
    ```yaml target      target.yml of that mapping: the limits of its product
    ```kql expected     the queries, a blank line between two
    ```text error       every diagnostic as the command line prints it; without the block there is none
    ```text verdict     where it is given, how true each query is: exact, broader or narrower, a line each
    ```yaml events      match: and no_match: events in Sigma's names, decided by the reference evaluator; for several
                        rules such a map for each, by title
    ```yaml rows        match: and no_match: rows in the table's columns, on which the expected query is run; or tables:
                        (name -> rows) and result: (the rows that must come out, as far as a row here says)
    ```yaml rows by source     source -> rows as it writes them: match and no_match; `missed`, which the rule means and
                        the query cannot find there, and `beside`, which it finds against the rule's meaning: then the
                        verdict of that source says so
    ```yaml events and rows    both at once, where the columns have the names of the fields

`pytest tests/test_cases.py --update` writes what comes out into the files; read the difference before you commit it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigma2kql.api import Compiler, Input, Options, load_input
from sigma2kql.diagnostics.catalogue import CATALOGUE
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.diagnostics.render import as_text
from sigma2kql.language.strings import substitute
from sigma2kql.model.tree import And, Compiled, Correlation, Expr, Field, Filter, Rule
from sigma2kql.reference.evaluate import evaluate

HOME = Path(__file__).parent / "cases"
_BLOCK = re.compile(r"^```(\w+ [\w ]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EVENTS, ROWS, BOTH = "yaml events", "yaml rows", "yaml events and rows"
BY_SOURCE = "yaml rows by source"
KINDS = {
    "yaml rule",
    "yaml config",
    "yaml mapping",
    "yaml target",
    "kql expected",
    "text error",
    "text verdict",
    EVENTS,
    ROWS,
    BOTH,
    BY_SOURCE,
}


@dataclass(frozen=True)
class Case:
    """A section of a case file: its blocks, those of the beginning of the file under its own."""

    path: Path
    name: str
    blocks: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.path.relative_to(HOME).with_suffix('')}: {self.name}"


def read_cases(path: Path) -> Iterator[Case]:
    start, *sections = re.split(r"^## ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    shared = _blocks(start)
    for section in sections:
        name, _, text = section.partition("\n")
        yield Case(path, name.strip(), {**shared, **_blocks(text)})


def _blocks(text: str) -> dict[str, str]:
    found = dict(_BLOCK.findall(text))
    assert found.keys() <= KINDS, f"unknown block: {found.keys() - KINDS}"
    return found


# cases/artifacts has a runner of its own: test_cases_artifacts.py
FILES = [path for path in sorted(HOME.rglob("*.md")) if path.parent.name != "artifacts"]
CASES = [case for path in FILES for case in read_cases(path)]


# --------------------------------------------------------------------------------------------------------------------
# What comes out


@dataclass(frozen=True)
class Outcome:
    """All results of a case, its queries and its diagnostics as text."""

    results: Sequence[Compiled]
    kql: str
    problems: str
    codes: frozenset[str]


def compile_case(case: Case, folder: Path) -> Outcome:
    given = yaml.safe_load(case.blocks.get("yaml config", "{}")) or {}
    given |= {name: tuple(given[name]) for name in ("tables",) if name in given}
    if "yaml mapping" in case.blocks:
        (folder / "mappings").mkdir(exist_ok=True)
        (folder / "mappings" / "case.yml").write_text(case.blocks["yaml mapping"], encoding="utf-8")
        given.setdefault("mappings", (folder / "mappings",))
        named = re.search(r"^target: (\w+)", case.blocks["yaml mapping"], re.MULTILINE)
        given.setdefault("target", named[1] if named else "demo")
    if "yaml target" in case.blocks:
        (folder / "mappings" / "target.yml").write_text(case.blocks["yaml target"], encoding="utf-8")
    try:
        compiler = Compiler(Options(**given))
    except Sigma2KqlError as error:
        text = "\n".join(as_text(d) for d in error.diagnostics).replace(str(folder) + "/", "")
        return Outcome((), "", text, frozenset(d.code for d in error.diagnostics))
    documents = load_input(Input("rule.yml", None, case.blocks["yaml rule"].encode()))
    compiler = compiler.knowing(documents)
    results = [compiler.compile(document) for document in documents]
    problems = [d for one in results for d in one.diagnostics]
    return Outcome(
        results,
        "\n\n".join(one.kql for one in results if one.kql is not None),
        "\n".join(map(as_text, problems)),
        frozenset(d.code for d in problems),
    )


def meaning(rule: Rule, results: Sequence[Compiled], placeholders: Mapping[str, Sequence[str]]) -> Expr[Field]:
    """The rule's tree with filters added and placeholders replaced."""
    where = rule.where
    filters = [one.document for one in results if isinstance(one.document, Filter)]
    for one in filters:
        named = not one.rules or {r.name for r in one.rules} & {rule.meta.id, rule.meta.name}
        if named and one.logsource.covers(rule.logsource):
            where = And((where, one.where))
    return substitute(where, placeholders)


# --------------------------------------------------------------------------------------------------------------------
# The cases


@pytest.mark.parametrize("case", CASES, ids=str)
def test_case(case: Case, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    done = compile_case(case, tmp_path)
    if request.config.getoption("--update"):
        update(case, done)
        case = next(c for c in read_cases(case.path) if c.name == case.name)
    assert done.problems == case.blocks.get("text error", "").rstrip("\n")
    assert done.kql == case.blocks.get("kql expected", "").rstrip("\n")
    if "text verdict" in case.blocks:
        verdicts = [one.verdict for one in done.results if one.verdict is not None]
        assert verdicts == case.blocks["text verdict"].split()
    for kind in (EVENTS, BOTH):
        if kind in case.blocks:
            check_events(yaml.safe_load(case.blocks[kind]), case, done)
    for kind in (ROWS, BOTH):
        if kind in case.blocks:
            check_rows(yaml.safe_load(case.blocks[kind]), done)
    if BY_SOURCE in case.blocks:
        for source, given in yaml.safe_load(case.blocks[BY_SOURCE]).items():
            check_source(source, given, done)


def check_events(given: Mapping[str, Any], case: Case, done: Outcome) -> None:
    placeholders = (yaml.safe_load(case.blocks.get("yaml config", "")) or {}).get("placeholders", {})
    rules = [one.document for one in done.results if isinstance(one.document, Rule)]
    by_title = given if given.keys() - {"match", "no_match"} else {rules[0].meta.title: given}
    assert by_title.keys() <= {rule.meta.title for rule in rules}
    for rule in rules:
        stated = by_title.get(rule.meta.title, {})
        where = meaning(rule, done.results, placeholders)
        for wanted, events in ((True, stated.get("match", [])), (False, stated.get("no_match", []))):
            for event in events:
                assert evaluate(where, event) is wanted, f"{rule.meta.title}: {event}"


def check_source(source: str, given: Mapping[str, Any], done: Outcome) -> None:
    """The query selects what it is said to select of a source's rows; the source's verdict says what it does not."""
    (one,) = (one for one in done.results if one.kql is not None)
    assert given.keys() <= {"match", "no_match", "missed", "beside"}
    found = [*given.get("match", []), *given.get("beside", [])]
    check_rows({"match": found, "no_match": [*given.get("no_match", []), *given.get("missed", [])]}, done)
    allowed = ["narrower"] if given.get("missed") else ["broader", "narrower"] if given.get("beside") else ["exact"]
    assert one.verdicts[source] in allowed, source


def check_rows(given: Mapping[str, Any], done: Outcome) -> None:
    pytest.importorskip("duckdb_kql", reason="the extra `test` is not installed")
    from sigma2kql.engines.duckdb import Engine

    with Engine(threads=1) as engine:
        if "result" in given:
            (kql,) = (one.kql for one in done.results if isinstance(one.document, Correlation) and one.kql)
            columns = {q.table: q.columns for one in done.results if (q := one.query) is not None}
            for table, rows in given["tables"].items():
                engine.load(table, columns[table], rows)
            found = engine.run(kql)
            shown = [{k: row[k] for k in want} for row, want in zip(found, given["result"], strict=True)]
            assert shown == given["result"]
            return
        (one,) = (one for one in done.results if one.kql is not None)
        assert one.query is not None
        assert one.kql is not None
        rows = [*given.get("match", []), *given.get("no_match", [])]
        assert all(row.keys() <= one.query.columns.keys() for row in rows)
        numbered = [{**row, "_id": number} for number, row in enumerate(rows)]
        engine.load(one.query.table, {**one.query.columns, "_id": "int"}, numbered)
        wrong = engine.matching(one.kql) ^ set(range(len(given.get("match", []))))
        assert not wrong, [rows[number] for number in sorted(wrong)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(HOME)))
def test_headings_are_names(path: Path) -> None:
    names = [case.name for case in read_cases(path)]
    assert len(names) == len(set(names))


def test_microsofts_parser_finds_no_fault_in_any_expected_query(
    kusto_bundle: Path, kusto_schema: Any, tmp_path: Path
) -> None:
    from sigma2kql.engines.kusto_language import KustoLanguage

    queries: list[tuple[Case, str]] = []
    tables: dict[str, dict[str, str]] = {}
    for number, case in enumerate(case for case in CASES if "kql expected" in case.blocks):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = compile_case(case, folder)
        for one in done.results:
            if one.query is not None:
                tables.setdefault(one.query.table, {}).update(one.query.columns)
        queries += [(case, one.kql) for one in done.results if one.kql is not None]
    known = {**tables, **kusto_schema["tables"]}
    functions = kusto_schema["functions"]
    schema = {"tables": {n: c for n, c in known.items() if n not in functions}, "functions": functions}
    with KustoLanguage(schema, kusto_bundle) as parser:
        faults = [
            (str(case), kql, problem)
            for case, kql in queries
            for problem in parser.check(kql)
            if problem.severity == "error"
        ]
    assert faults == []


def test_a_mapping_file_that_is_no_text(tmp_path: Path) -> None:
    """It cannot stand in a Markdown file."""
    (tmp_path / "case.yml").write_bytes(b"table: T\xff\n")
    with pytest.raises(Sigma2KqlError) as caught:
        Compiler(Options("demo", mappings=(tmp_path,)))
    assert [d.code for d in caught.value.diagnostics] == ["E450"]


# --------------------------------------------------------------------------------------------------------------------
# Every code has a case

OWN_RANGES = re.compile(r"[EW][1-5]\d\d")


def test_every_code_of_the_language_is_shown_by_a_case_or_a_test() -> None:
    """Codes of files, language, conditions, mapping and emission: a case prints it, or a test names it."""
    shown = {code for case in CASES for code in re.findall(r"\[([EW]\d{3})\]", case.blocks.get("text error", ""))}
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))
    named = {code for code in CATALOGUE if f'"{code}"' in tests or f"'{code}'" in tests}
    assert sorted(code for code in CATALOGUE if OWN_RANGES.fullmatch(code) and code not in shown | named) == []


# --------------------------------------------------------------------------------------------------------------------
# --update


def update(case: Case, done: Outcome) -> None:
    """Write what came out into the section of the case."""
    text = case.path.read_text(encoding="utf-8")
    start = re.search(rf"^## {re.escape(case.name)}\n", text, re.MULTILINE)
    assert start is not None
    following = re.compile(r"^## ", re.MULTILINE).search(text, start.end())
    end = following.start() if following else len(text)
    section = text[start.end() : end]
    for kind, body in (("kql expected", done.kql), ("text error", done.problems)):
        section = _with_block(section, kind, body)
    case.path.write_text(text[: start.end()] + section + text[end:], encoding="utf-8")


def _with_block(section: str, kind: str, body: str) -> str:
    block = f"```{kind}\n{body}\n```"
    for found in _BLOCK.finditer(section):
        if found[1] == kind:
            if not body:
                return section[: found.start()].rstrip("\n") + "\n\n" + section[found.end() :].lstrip("\n")
            return section[: found.start()] + block + section[found.end() :]
    if not body:
        return section
    blocks = [found for found in _BLOCK.finditer(section) if found[1] not in (EVENTS, ROWS, BOTH)]
    at = blocks[-1].end() if blocks else len(section.rstrip("\n"))
    return f"{section[:at]}\n\n{block}{section[at:]}"
