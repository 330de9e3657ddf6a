"""Every shipped mapping file against Microsoft's published schemas: tables, columns and their types.

A table marked `custom: true` is this project's own and stands nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.map.table_file import read_table
from sigma2kql.model.tree import FieldMap, Table

MAPPINGS = Path(__file__).resolve().parents[2] / "mappings"
FILES = [
    path
    for path in sorted(MAPPINGS.glob("*/*.yml"))
    if path.name != "target.yml" and path.parent.name not in ("deploy", "events")
]
# Defender's portal names the time Timestamp, Sentinel's copy of the same table TimeGenerated.
XDR_TIMES = {"Timestamp": "datetime", "TimeGenerated": "datetime"}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")


@cache
def table_of(path: Path, whole: bool = True) -> Table:
    source = Source(str(path.relative_to(MAPPINGS.parent)), path.read_text(encoding="utf-8"))
    return read_table(source, path.parent.name, whole)


@cache
def published(folder: Path, target: str) -> Mapping[str, Mapping[str, str]]:
    """Table or parser function -> column -> type, as the schema files of this target say."""

    def read(name: str) -> Any:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    if target == "asim":
        return {
            name: {**aliases(schema), **schema["extension_columns"], **schema["columns"]}
            for schema in read("asim.json").values()
            for name in schema["parsers"].values()
        }
    if target == "xdr":
        return {name: {**columns, **XDR_TIMES} for name, columns in read("xdr.json")["tables"].items()}
    everything = read("sentinel_all.json")
    curated = read("sentinel.json")["tables"]
    return {name: {**everything.get(name, {}), **curated.get(name, {})} for name in sorted({*everything, *curated})}


def aliases(schema: Mapping[str, Any]) -> dict[str, str]:
    return {
        alias: schema["columns"].get(meaning, "string") if isinstance(meaning, str) else "string"
        for alias, meaning in schema["aliases"].items()
    }


@pytest.fixture(scope="session")
def schemas(shared: Path) -> Path:
    folder = shared / "schemas"
    if not folder.is_dir():
        pytest.skip("no schemas in ../shared (see tests/conftest.py)")
    return folder


@each_file
def test_a_mapping_file_is_valid_and_named_after_its_table(path: Path) -> None:
    table = table_of(path)
    assert table.name == path.stem
    assert table.target == path.parent.name
    assert table.serves


@each_file
def test_every_column_stands_in_the_published_schema_with_its_type(path: Path, schemas: Path) -> None:
    if yaml.safe_load(path.read_text(encoding="utf-8")).get("custom") is True:
        pytest.skip("a table of this project's own")
    table = table_of(path)
    known = published(schemas, path.parent.name)
    assert table.name in known, f"no published table {table.name}"
    columns = known[table.name]
    unknown = sorted(name for name in table.columns if name not in columns)
    assert unknown == [], f"{table.name} has no such columns"
    mistyped = {
        name: f"{kind}, published as {columns[name]}" for name, kind in table.columns.items() if kind != columns[name]
    }
    assert mistyped == {}


@each_file
def test_the_built_in_function_has_the_same_schema(path: Path, schemas: Path) -> None:
    table = table_of(path)
    if table.builtin is None:
        assert path.parent.name != "asim", "an ASIM table names its built-in function"
        return
    known = published(schemas, path.parent.name)
    assert known[table.builtin] == known[table.name]


@each_file
def test_transforms_that_choose_a_column_choose_among_the_declared(path: Path) -> None:
    table = table_of(path)
    maps = [*table.fields.values(), *(one for serve in table.serves for one in serve.fields.values())]
    for one in maps:
        if one.transform == "hashes":
            assert set(one.options.values()) <= {column for c in one.columns for column in c.reads}


@each_file
def test_a_table_whose_fields_are_read_when_asked_for_is_the_same(path: Path) -> None:
    assert named_fields(table_of(path, whole=False)) == named_fields(table_of(path))
    assert table_of(path, whole=False) == table_of(path)


def test_a_field_that_is_read_when_asked_for_is_refused_then() -> None:
    text = "table: T_CL\ncolumns: {A: string}\nserves: []\nfields: {Good: A, Bad: B}\nabsent: {Ugly: [x]}\n"
    table = read_table(Source("T_CL.yml", text), "demo", whole=False)
    assert list(table.fields) == ["Good", "Bad"]
    assert [column.text for column in table.fields["Good"].columns] == ["A"]
    for read, code in ((lambda: table.fields["Bad"], "E454"), (lambda: table.absent["Ugly"], "E451")):
        with pytest.raises(Sigma2KqlError) as caught:
            read()
        assert caught.value.diagnostics[-1].code == code
    with pytest.raises(Sigma2KqlError) as caught:
        read_table(Source("T_CL.yml", text), "demo")
    assert {problem.code for problem in caught.value.diagnostics} == {"E454", "E451"}


def test_lossy_fields_say_what_is_lost() -> None:
    silent = [
        f"{path.parent.name}/{path.stem}: {name}"
        for path in FILES
        for name, one in named_fields(table_of(path))
        if one.exactness != "exact" and not one.why.strip()
    ]
    assert silent == []


def named_fields(table: Table) -> list[tuple[str, FieldMap]]:
    return [*table.fields.items(), *(entry for serve in table.serves for entry in serve.fields.items())]
