"""Checks of native documents: Microsoft's hunting and analytics YAML as people really write it.

Place in the flow: `check` and `convert` call it for every `NativeQuery`. Invariant: only what makes a document
impossible to deploy is an error; every looser form that is accepted is a warning that says how it is read.

Source: Azure-Sentinel's template checks and review guidance; formats of the converted Defender queries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sigma2kql.artifacts import attack
from sigma2kql.artifacts.analytics_rule import QUERY_LIMIT
from sigma2kql.artifacts.kql_tokens import scan
from sigma2kql.artifacts.product_tables import connectors, facts
from sigma2kql.artifacts.rule_facts import GUID
from sigma2kql.artifacts.rule_texts import clean_line
from sigma2kql.artifacts.settings import DETECTION, KEYS, read_keys
from sigma2kql.diagnostics.diagnostic import Diagnostic, Span, diagnostic
from sigma2kql.model.tree import NativeQuery

OTHER_KEYS = frozenset({"id", "query", "techniques", "description-detailed", "alertRuleTemplateName", "sigma2kql"})


def validate_native(native: NativeQuery) -> tuple[Diagnostic, ...]:
    """Errors (E703, E705, E713) and warnings (W753, W756, W757, W762) of one document, in order of its keys."""
    span = native.origin.span
    found = [*_shape(native), *_values(native), *_attack(native)]
    query = native.query
    if not query.strip():
        found.append(diagnostic("E713", "the query is empty", native.query_span))
        return tuple(found)
    if len(query) > QUERY_LIMIT:
        message = f"the query has {len(query)} characters; a rule takes at most {QUERY_LIMIT}"
        found.append(diagnostic("W763", message, native.query_span))
    read = scan(query)
    found += _deprecated(native, read.functions, read.operators)
    found += _connectors(native, read.tables, span)
    return tuple(found)


def _shape(native: NativeQuery) -> Iterable[Diagnostic]:
    data, span = native.data, native.origin.span
    if not str(data.get("name") or native.meta.title).strip():
        yield diagnostic("E713", "the document has no name", span)
    if not data.get("description"):
        yield diagnostic("W756", "no description: the name stands in for it", span)
    if not isinstance(data.get("id"), str) or not GUID.fullmatch(str(data["id"]).lower()):
        yield diagnostic("W756", "no GUID as id: one is made from the id or the path", span)
    elif data["id"] != data["id"].lower():
        yield diagnostic("W756", "the id is not in lower case: it is folded", span)
    for key in data:
        if key not in KEYS and key not in DETECTION and key not in OTHER_KEYS:
            yield diagnostic("W756", f"unknown key `{clean_line(str(key))[:60]}` is left out", span)
    for key in ("tactics", "relevantTechniques", "techniques"):
        if isinstance(data.get(key), str):
            yield diagnostic("W756", f"`{key}` is a text where a list is asked for: read as a list", span)
    if "techniques" in data:
        yield diagnostic("W756", "`techniques` is read as `relevantTechniques`", span)


def _values(native: NativeQuery) -> Iterable[Diagnostic]:
    span = native.origin.span
    stated = {
        key: value for key, value in native.data.items() if value is not None and key not in ("name", "description")
    }
    read, bad = read_keys(stated, {**KEYS, **DETECTION})
    for key, wish in bad:
        yield diagnostic("W756", f"`{key}` is left out: it is to be {wish}", span)
    frequency, period = read.get("frequency"), read.get("period")
    if frequency and period and period < frequency:
        yield diagnostic("E705", "queryPeriod is shorter than queryFrequency, so rows would be skipped", span)
    for key, value in (("queryFrequency", frequency), ("queryPeriod", period)):
        if value is not None and not 300 <= value <= 14 * 86400:
            yield diagnostic("E705", f"{key} is {value} seconds; Sentinel takes 5 minutes to 14 days", span)


def _attack(native: NativeQuery) -> Iterable[Diagnostic]:
    read, _ = read_keys({
        "tactics": native.data.get("tactics"),
        "relevantTechniques": native.data.get("relevantTechniques") or native.data.get("techniques"),
    })  # fmt: skip
    found = attack.resolve(read.get("tactics", ()), read.get("techniques", ()))
    if found.unknown:
        names = ", ".join(map(clean_line, found.unknown))[:300]
        yield diagnostic("W753", f"not known to Sentinel, left out: {names}", native.origin.span)
    if found.added:
        yield diagnostic(
            "W764", f"techniques without their tactic: {', '.join(found.added)} is added", native.origin.span
        )


def _deprecated(native: NativeQuery, functions: Iterable[str], operators: Iterable[str]) -> Iterable[Diagnostic]:
    table = facts("kql")["deprecated"]
    for name in dict.fromkeys([*functions, *operators]):
        if name in table:
            at = re.search(rf"\b{re.escape(name)}\b", native.query)
            # the query's own characters stand in the source only where the block is not indented or folded
            span = native.query_span
            text = span.source.text[span.start : span.end]
            found = re.search(rf"\b{re.escape(name)}\b", text) if at else None
            place: Span = span.sub(found.start(), found.end()) if found else span
            yield diagnostic("W757", f"`{name}` is deprecated", place, f"use `{table[name]}`")


def _connectors(native: NativeQuery, tables: Iterable[str], span: Span) -> Iterable[Diagnostic]:
    if native.data.get("requiredDataConnectors", ()) is None:  # a form without a place for them
        return
    read, _ = read_keys({"requiredDataConnectors": native.data.get("requiredDataConnectors")})
    stated = read.get("connectors") or ()
    named = {kind.split(" ")[0] for connector in stated for kind in connector.types}
    ids = {connector.id for connector in stated}
    for table in tables:
        filled = connectors().get(table, ())
        if filled and table not in named and not ids & {connector for connector, _ in filled}:
            wish = ", ".join(dict.fromkeys(connector for connector, _ in filled))
            yield diagnostic("W762", f"no required data connector brings `{table}`", span, f"one of {wish}")
