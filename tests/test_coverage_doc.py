"""mappings/COVERAGE.md is generated from the mapping files: `pytest tests/test_coverage_doc.py --update` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sigma2kql.map.target import Target, load_target, target_names
from sigma2kql.model.tree import LogSource, Serve, Table

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "mappings" / "COVERAGE.md"
HEAD = """# Coverage

Generated from the mapping files by `pytest tests/test_coverage_doc.py --update`; a test fails when it is stale.

A target's first table: the Microsoft table or ASIM parser, how many columns are declared, how many Sigma fields are
mapped by name (in all log sources of the table), whether any other field is reachable too (a dynamic property, an XML
element), and how many mappings lose something (broader or narrower: each gives its rules that verdict and says why).
The second: each log source with the tables that carry it, best first; (n) limits a table to n EventIDs.
An attribute that a log source here does not state may be anything in a rule.
"""


def coverage() -> str:
    """The page."""
    return "\n".join([HEAD, *(line for name in target_names() for line in _target(load_target(name)))])


def _target(target: Target) -> Iterator[str]:
    tables = [entry.load() for entry in target.entries]
    own = [table for table in tables if table.target == target.name]
    yield f"## {target.name}"
    yield ""
    yield f"{target.title}."
    if len(own) < len(tables):
        others = sorted({table.target for table in tables} - {target.name})
        yield f"Beside the tables below it takes those of {' and '.join(f'`{name}`' for name in others)}."
    yield ""
    yield "| table | columns | fields | any other field | lossy |"
    yield "|---|--:|--:|---|--:|"
    for table in own:
        fields = set(table.fields).union(*(serve.fields for serve in table.serves))
        every = table.others is not None or any(serve.others is not None for serve in table.serves)
        cells = (f"`{table.name}`", len(table.columns), len(fields), "yes" if every else "", _lossy(table) or "")
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    yield "| log source | tables |"
    yield "|---|---|"
    rows: dict[LogSource, dict[str, list[Serve]]] = {}
    for table in tables:
        for serve in table.serves:
            rows.setdefault(serve.logsource, {}).setdefault(table.name, []).append(serve)
    for source in sorted(rows, key=lambda s: (s.product or "", s.category or "", s.service or "")):
        order = [entry.name for entry in target.serving(source)]
        found = sorted(rows[source].items(), key=lambda row: order.index(row[0]))
        yield f"| {_words(source)} | {', '.join(_shown(*row) for row in found)} |"
    yield ""


def _lossy(table: Table) -> int:
    maps = [*table.fields.values(), *(one for serve in table.serves for one in serve.fields.values())]
    return sum(one.exactness != "exact" for one in maps) + sum(serve.exactness != "exact" for serve in table.serves)


def _shown(table: str, serves: list[Serve]) -> str:
    limited = all(serve.event_ids for serve in serves)
    return f"`{table}`" + (f" ({len(frozenset().union(*(s.event_ids for s in serves)))})" if limited else "")


def _words(source: LogSource) -> str:
    parts = (("product", source.product), ("category", source.category), ("service", source.service))
    return ", ".join(f"{key} {value}" if value else f"no {key}" for key, value in parts if value is not None) or "any"


def test_the_page_is_true(update: bool) -> None:
    text = coverage()
    if update:
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "stale: pytest tests/test_coverage_doc.py --update"


@pytest.mark.parametrize("name", target_names())
def test_the_page_counts_every_table(name: str) -> None:
    """Against the folder itself, not against what the page was generated with."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {name}\n")[1].split("\n## ")[0]
    listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    files = {path.stem for path in (ROOT / "mappings" / name).glob("*.yml")} - {"target"}
    assert sorted(listed) == sorted(files)
