"""The whole SigmaHQ corpus through every target: nothing lost, nothing silent, the same bytes twice, sound KQL.

CORPUS=all checks every query with Microsoft's parser (minutes); without it a fixed sample is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sigma2kql.api import Options, compile_inputs, read_inputs
from sigma2kql.cli.output import as_line
from sigma2kql.diagnostics.catalogue import CATALOGUE
from sigma2kql.map.target import load_target
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import Compiled, Correlation, Rule
from sigma2kql.reference.evaluate import MISSING, holds

pytestmark = pytest.mark.corpus
TARGETS = ["asim", "sentinel", "xdr"]
SAMPLE = None if os.environ.get("CORPUS") == "all" else 300
CARRIED = ("network_connection", "process_creation")


@cache
def compiled(files: tuple[Path, ...], target: str) -> tuple[Compiled, ...]:
    return tuple(one for _, one in compile_inputs(read_inputs([str(f) for f in files]), Options(target)))


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def results(corpus: list[Path], target: str) -> tuple[Compiled, ...]:
    return compiled(tuple(corpus), target)


def test_every_document_gives_one_result_with_a_reason(corpus: list[Path], results: tuple[Compiled, ...]) -> None:
    from collections import Counter

    import yaml

    wanted = Counter(
        {
            str(path): sum(1 for one in yaml.compose_all(path.read_bytes(), Loader=yaml.CSafeLoader) if one)
            for path in corpus
        }
    )
    assert Counter(one.document.origin.source.path for one in results) == wanted
    fed = {r.name for one in results if isinstance(one.document, Correlation) for r in one.document.rules}
    for one in results:
        assert all(d.code in CATALOGUE and d.span is not None for d in one.diagnostics)
        errors = [d for d in one.diagnostics if d.severity == "error"]
        if one.kql is None and not errors:
            assert {one.document.meta.id, one.document.meta.name} & fed
        assert (one.kql is None) or not errors
        assert (one.verdict is None) == bool(errors)
        if one.verdict not in (None, "exact"):
            assert {d.code for d in one.diagnostics} & {"W401", "W402", "W405", "W406", "W407", "W408", "W409", "W411"}


def test_the_two_log_sources_of_the_first_day_convert_or_name_the_field(corpus: list[Path]) -> None:
    carried = [
        one
        for one in compiled(tuple(corpus), "asim")
        if isinstance(one.document, Rule) and one.document.logsource.category in CARRIED
    ]
    assert len(carried) > 1500
    failed = [one for one in carried if one.kql is None]
    assert len(failed) < 40
    for one in failed:
        assert {d.code for d in one.diagnostics if d.severity == "error"} <= {"E402", "E405", "E410"}
        assert all("`" in d.message for d in one.diagnostics)


def test_two_runs_give_the_same_bytes(corpus: list[Path], results: tuple[Compiled, ...], target: str) -> None:
    """In another order, with a compiler of its own."""
    files = tuple(reversed(corpus))
    again = (one for _, one in compile_inputs(read_inputs([str(f) for f in files]), Options(target)))
    assert sorted(map(as_line, again)) == sorted(map(as_line, results))


def test_no_query_holds_for_a_row_without_values_unless_the_rule_does(results: tuple[Compiled, ...]) -> None:
    """On an event without any field, rule and query agree: what a negation means of a missing field is kept."""
    for one in results:
        if not isinstance(one.document, Rule) or one.query is None or one.verdict != "exact":
            continue
        rule = holds(one.document.where, lambda field: MISSING)
        query = holds(one.query.where, lambda column: MISSING)
        assert rule is query or not leaves(one.query.where) or _decided_by_rows(one), one.kql


def _decided_by_rows(one: Compiled) -> bool:
    """The table states part of the rule itself (its EventID, say), which no row is without."""
    assert isinstance(one.document, Rule)
    assert one.query is not None
    return bool(leaves(one.query.rows)) or any(
        text.startswith(("predicate", "stated", "always")) for text in one.mapped.values()
    )


def test_microsofts_parser_finds_no_fault(
    kusto_bundle: Path, kusto_schema: Mapping[str, Any], results: tuple[Compiled, ...], target: str
) -> None:
    from sigma2kql.engines.kusto_language import KustoLanguage

    queries = [one for one in results if one.kql is not None]
    if SAMPLE is not None:
        queries = queries[:: max(1, len(queries) // SAMPLE)]
    with KustoLanguage(own_tables(kusto_schema, target), kusto_bundle) as parser:  # type: ignore[arg-type]
        faults = [
            (one.document.origin.source.path, problem, one.kql)
            for one in queries
            for problem in parser.check(one.kql or "")
            if problem.severity == "error"
        ]
    assert not faults, json.dumps([(path, problem.message) for path, problem, _ in faults[:10]], indent=2)


def own_tables(schema: Mapping[str, Any], target: str) -> dict[str, Any]:
    """The published schema, and those tables of the target that only its mapping files know."""
    tables = dict(schema["tables"])
    for entry in load_target(target).entries:
        if entry.name not in tables and entry.name not in schema["functions"]:
            tables[entry.name] = dict(entry.load().columns)
    return {"tables": tables, "functions": schema["functions"]}
