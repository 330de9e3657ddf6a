"""What the tests stand on beside the code: the corpus, the schemas, Microsoft's parser. Each is skipped with a reason.

- `../shared` beside the repository root (or the folder that SIGMA2KQL_SHARED names) may hold `corpus/sigmahq` (a
  checkout of https://github.com/SigmaHQ/sigma with rules and regression_data) and `schemas` (columns of Microsoft's
  tables). Without it the tests marked `corpus` and those that compare with schemas are skipped.
- Microsoft's parser: `npm ci --prefix tests/node`, and `pip install -e '.[kusto]'` (mini-racer) or node on the path.
  KUSTO_JS may name another folder of the package.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

os.environ["SIGMA2KQL_FROZEN"] = "1"  # before anything of the package: values are frozen at run time too

from sigma2kql.engines.kusto_language import PACKAGE, FunctionSchema, KqlSchema, KustoLanguage, find_bundle, missing

ROOT = Path(__file__).resolve().parent.parent
KQL_TYPES = {"string", "int", "long", "real", "bool", "datetime", "timespan", "dynamic", "guid", "decimal"}
DEFAULTS = {  # of a filter parameter of an ASIM parser, by type
    "datetime": "datetime(null)",
    "int": "int(null)",
    "long": "long(null)",
    "bool": "bool(false)",
    "string": "'*'",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update", action="store_true", help="write what tests compare with (generated tables, cases) anew"
    )


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether to write the expected text anew instead of comparing with it."""
    return bool(request.config.getoption("--update"))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(os.environ.get("SIGMA2KQL_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        pytest.skip("no ../shared beside the repository (see tests/conftest.py)")
    return folder


@pytest.fixture(scope="session")
def corpus(shared: Path) -> list[Path]:
    """Every rule file of the SigmaHQ corpus, sorted."""
    home = shared / "corpus" / "sigmahq"
    if not home.is_dir():
        pytest.skip("no corpus/sigmahq in ../shared (see tests/conftest.py)")
    return sorted(path for folder in home.glob("rules*") for path in folder.rglob("*.yml"))


@pytest.fixture(scope="session")
def regression_data(shared: Path) -> Path:
    """The folder of recorded attacks of the SigmaHQ corpus."""
    home = shared / "corpus" / "sigmahq" / "regression_data"
    if not home.is_dir():
        pytest.skip("no corpus/sigmahq/regression_data in ../shared (see tests/conftest.py)")
    return home


@pytest.fixture(scope="session")
def kusto_bundle() -> Path:
    """The folder of Microsoft's parser: from KUSTO_JS, or installed in tests/node."""
    installed = ROOT / "tests" / "node" / "node_modules" / PACKAGE
    bundle = find_bundle(None if os.environ.get("KUSTO_JS") or not installed.is_dir() else str(installed))
    if lacks := missing(bundle):
        pytest.skip("missing " + " and ".join(lacks) + " (see tests/conftest.py)")
    assert bundle is not None
    return bundle


@pytest.fixture(scope="session")
def kusto_schema(shared: Path) -> KqlSchema:
    """Tables and ASIM parser functions of ../shared/schemas, and of our own mappings where those know more."""
    return published_schema(shared / "schemas")


@pytest.fixture(scope="session")
def kusto(kusto_bundle: Path, kusto_schema: KqlSchema) -> Iterator[KustoLanguage]:
    with KustoLanguage(kusto_schema, kusto_bundle) as parser:
        yield parser


# --------------------------------------------------------------------------------------------------------------------
# The schema


def published_schema(folder: Path) -> KqlSchema:
    """Microsoft's tables and ASIM functions as `folder` describes them, plus the tables that only our mappings know."""
    tables: dict[str, Mapping[str, str]] = {}
    everything = read(folder / "sentinel_all.json")
    for listing in (everything.get("tables", everything), read(folder / "sentinel.json")["tables"]):
        tables.update({name: columns_of(columns) for name, columns in listing.items()})
    for name, columns in read(folder / "xdr.json")["tables"].items():
        times = {"TimeGenerated": "datetime", "Timestamp": "datetime"}
        tables[name] = {**tables.get(name, {}), **columns_of(columns), **times}
    functions = asim_functions(read(folder / "asim.json"))
    for name, columns in mapped_tables():
        if name not in tables and name not in functions:
            tables[name] = columns
    return {"tables": tables, "functions": functions}


def asim_functions(schemas: Mapping[str, Any]) -> dict[str, FunctionSchema]:
    """Every ASIM parser name as a function with its filter parameters, and the watchlist function."""
    functions: dict[str, FunctionSchema] = {
        "_GetWatchlist": {
            "params": "(name:string='')",
            "columns": {"SearchKey": "string", "WatchlistItem": "dynamic"},
        }
    }
    for schema in schemas.values():
        columns = {**columns_of(schema["columns"]), **columns_of(schema.get("extension_columns") or {})}
        for alias, target in (schema.get("aliases") or {}).items():
            columns.setdefault(alias, columns.get(target, "string") if isinstance(target, str) else "string")
        columns.setdefault("TimeGenerated", "datetime")
        parameters = []
        for name, parameter in (schema.get("filter_parameters") or {}).items():
            kind = parameter.get("type") if parameter.get("type") in KQL_TYPES else "dynamic"
            parameters.append(f"{name}:{kind}={DEFAULTS.get(kind, 'dynamic([])')}")
        for kind, name in schema["parsers"].items():
            params = "()" if "parameterless" in kind else "(" + ", ".join(parameters) + ")"
            functions[name] = {"params": params, "columns": columns}
    return functions


def mapped_tables() -> Iterator[tuple[str, dict[str, str]]]:
    """Table name and columns of every mapping file that states them."""
    import yaml

    for path in sorted((ROOT / "mappings").rglob("*.yml")):
        for data in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(data, dict) and isinstance(data.get("table"), str) and isinstance(data.get("columns"), dict):
                for name in (data["table"], data.get("builtin")):
                    if isinstance(name, str):
                        yield name, columns_of(data["columns"])


def columns_of(columns: Mapping[str, Any]) -> dict[str, str]:
    """Column -> KQL type, from either form of the schema files; an unknown type reads as string."""
    kinds = {name: kind if isinstance(kind, str) else kind.get("type", "string") for name, kind in columns.items()}
    return {name: kind if kind in KQL_TYPES else "string" for name, kind in kinds.items()}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
