"""Kusto functions that duckdb-kql lacks and DuckDB can say in one expression.

Place in the flow: below the DuckDB engine. Invariant: Kusto's value (Microsoft Learn, the page of each function), with
the empty text where an argument is null.
"""

from __future__ import annotations

# tohex(): a 64-bit number, negative ones as two's complement
_TEMPLATES = {"tohex": ("coalesce(lower(to_hex(CAST({0} AS BIGINT))), '')", (1,))}


def register() -> None:
    """Teach duckdb-kql these names; doing it twice changes nothing."""
    from duckdb_kql.translate.functions import SCALAR_FUNCTIONS, FunctionSpec

    for name, (template, arities) in _TEMPLATES.items():
        SCALAR_FUNCTIONS.setdefault(name, FunctionSpec(name, "template", template, arities))
