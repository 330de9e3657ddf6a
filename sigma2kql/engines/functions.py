"""Kusto functions that duckdb-kql lacks, or does in part, and DuckDB can say in one expression.

Place in the flow: below the DuckDB engine. Invariant: Kusto's value (Microsoft Learn, the page of each function), with
the empty text where an argument is null.
"""

from __future__ import annotations

# tohex(): a 64-bit number, negative ones as two's complement
NOW = "s2k_now"  # a function and DuckDB's variable that it reads: a query stays the same while the time goes on
_TEMPLATES = {
    "tohex": ("coalesce(lower(to_hex(CAST({0} AS BIGINT))), '')", (1,)),
    NOW: (f"CAST(getvariable('{NOW}') AS TIMESTAMP)", (0,)),
}


def register() -> None:
    """Teach duckdb-kql these names; doing it twice changes nothing."""
    from duckdb_kql.translate.functions import AGGREGATE_FUNCTIONS, SCALAR_FUNCTIONS, AggregateSpec, FunctionSpec

    class Bounded(AggregateSpec):
        """make_list() and make_set() with a second argument: no more elements than that."""

        def render(self, args: list[str]) -> str:
            text = super().render(args[:1])
            if len(args) == 1:
                return text
            inner = text.removeprefix("to_json(").removesuffix(")") if text.startswith("to_json(") else text
            cut = f"list_slice({inner}, 1, {args[1]})"
            return cut if inner is text else f"to_json({cut})"

    for name, (template, arities) in _TEMPLATES.items():
        SCALAR_FUNCTIONS.setdefault(name, FunctionSpec(name, "template", template, arities))
    for name in ("make_list", "make_set"):
        spec = AGGREGATE_FUNCTIONS[name]
        if type(spec) is AggregateSpec:
            AGGREGATE_FUNCTIONS[name] = Bounded(name, spec.template, spec.arities, spec.name_prefix, rules=spec.rules)
