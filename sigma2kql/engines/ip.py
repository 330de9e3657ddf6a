"""Kusto's IP functions as DuckDB macros, and their registration with duckdb-kql, which refuses them by itself.

Place in the flow: below the DuckDB engine. Invariant: null exactly where Kusto gives null (Microsoft Learn, the page of
each function: an address or range that cannot be converted), and never null for the `has_ipv4` family. An address may
carry a prefix length of its own; the smaller of both counts. IPv6 functions read IPv4 text as ::ffff:a.b.c.d.
"""

from __future__ import annotations

import json
import re
from typing import Any

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_QUAD = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
_V4 = rf"{_QUAD}(?:/(?:3[0-2]|[12]?[0-9]))?"
_NOT_TERM = r"[^\p{L}\p{N}]"

# A macro repeats its argument wherever it uses it, so whatever is used twice is bound first:
# `list_transform([x], lambda y: ...)[1]` computes x once and calls it y. The names differ, because lambdas nest.
MACROS = rf"""
CREATE MACRO s2k_text(v) AS CASE WHEN typeof(v) = 'JSON' THEN TRY_CAST(v AS JSON) ->> '$' ELSE CAST(v AS VARCHAR) END;
CREATE MACRO s2k_texts(v) AS CASE WHEN typeof(v) = 'JSON' AND json_type(TRY_CAST(v AS JSON)) = 'ARRAY'
    THEN from_json(TRY_CAST(v AS JSON), '["VARCHAR"]') ELSE [s2k_text(v)] END;
CREATE MACRO s2k_quad(q) AS list_transform([string_split(q, '.')], lambda quad_o:
    CAST(quad_o[1] AS BIGINT) * 16777216 + CAST(quad_o[2] AS BIGINT) * 65536
    + CAST(quad_o[3] AS BIGINT) * 256 + CAST(quad_o[4] AS BIGINT))[1];
CREATE MACRO s2k_v4(v) AS list_transform([trim(v)], lambda v4_t: CASE WHEN regexp_full_match(v4_t, '{_V4}') THEN
    {{'a': s2k_quad(split_part(v4_t, '/', 1)),
      'b': CASE WHEN contains(v4_t, '/') THEN CAST(split_part(v4_t, '/', 2) AS INTEGER) ELSE 32 END}} END)[1];
CREATE MACRO s2k_v4_same(x, y, n) AS (xor(x.a, y.a) >> (32 - least(x.b, y.b, n))) = 0;
CREATE MACRO s2k_groups(s) AS list_transform([s], lambda groups_s: CASE WHEN groups_s = '' THEN CAST([] AS VARCHAR[])
    WHEN regexp_full_match(groups_s, '[0-9a-f]{{1,4}}(?::[0-9a-f]{{1,4}})*')
    THEN list_transform(string_split(groups_s, ':'), lambda groups_g: lpad(groups_g, 4, '0')) END)[1];
CREATE MACRO s2k_hex(v) AS list_transform([list_transform(string_split(v, '::'), lambda hex_s: s2k_groups(hex_s))],
    lambda hex_l: CASE
    WHEN len(hex_l) = 2 AND len(hex_l[1]) + len(hex_l[2]) <= 7 THEN array_to_string(hex_l[1], '')
        || repeat('0000', 8 - len(hex_l[1]) - len(hex_l[2])) || array_to_string(hex_l[2], '')
    WHEN len(hex_l) = 1 AND len(hex_l[1]) = 8 THEN array_to_string(hex_l[1], '') END)[1];
CREATE MACRO s2k_pair(q) AS list_transform([s2k_quad(q)], lambda pair_n:
    printf('%x:%x', pair_n // 65536, pair_n % 65536))[1];
CREATE MACRO s2k_undotted(v) AS list_transform([v], lambda dot_v: CASE
    WHEN regexp_full_match(dot_v, '{_QUAD}') THEN '::ffff:' || s2k_pair(dot_v)
    WHEN regexp_matches(dot_v, ':{_QUAD}$')
    THEN regexp_extract(dot_v, '^(.*:)[^:]*$', 1) || s2k_pair(regexp_extract(dot_v, '[^:]*$'))
    ELSE dot_v END)[1];
CREATE MACRO s2k_v6(v) AS list_transform([regexp_replace(lower(trim(v)), '%[^/]*', '')], lambda v6_t: {{
    'h': s2k_hex(s2k_undotted(split_part(v6_t, '/', 1))),
    'b': CASE WHEN NOT contains(v6_t, '/') THEN 128
              WHEN NOT regexp_full_match(v6_t, '[^/]*/(?:0|[1-9][0-9]{{0,2}})') THEN NULL
              WHEN contains(v6_t, '.') THEN 96 + nullif(least(CAST(split_part(v6_t, '/', 2) AS INTEGER), 33), 33)
              ELSE nullif(least(CAST(split_part(v6_t, '/', 2) AS INTEGER), 129), 129) END}})[1];
CREATE MACRO s2k_bits(h, n) AS left(h, n // 4) || CASE WHEN n % 4 = 0 THEN ''
    ELSE CAST(CAST('0x' || substr(h, n // 4 + 1, 1) AS INTEGER) >> (4 - n % 4) AS VARCHAR) END;
CREATE MACRO s2k_v6_same(x, y, n) AS CASE
    WHEN x.h IS NOT NULL AND y.h IS NOT NULL AND x.b IS NOT NULL AND y.b IS NOT NULL
    THEN list_transform([least(x.b, y.b, n)], lambda same_n: s2k_bits(x.h, same_n) = s2k_bits(y.h, same_n))[1] END;
CREATE MACRO s2k_any(l) AS list_transform([l], lambda any_l: list_bool_or(any_l) OR CASE
    WHEN list_bool_and(list_transform(any_l, lambda any_b: any_b IS NOT NULL)) THEN false END)[1];
CREATE MACRO s2k_ip_text(p) AS list_transform([p], lambda text_p: CASE
    WHEN regexp_full_match(text_p, '{_QUAD}') THEN replace(text_p, '.', '\.')
    WHEN regexp_full_match(text_p, '(?:{_OCTET}\.){{1,3}}') THEN replace(text_p, '.', '\.') || '{_OCTET}'
        || repeat('\.{_OCTET}', 3 - (len(text_p) - len(replace(text_p, '.', '')))) END)[1];
CREATE MACRO s2k_has_ip(t, p) AS
    coalesce(regexp_matches(t, '(?:^|{_NOT_TERM})(?:' || s2k_ip_text(p) || ')(?:{_NOT_TERM}|$)'), false);
"""

_LITERAL = re.compile(r"'(?:[^']|'')*'")
_ARRAY = re.compile(r"CAST\(('(?:[^']|'')*') AS JSON\)")


def register() -> None:
    """Teach duckdb-kql these names (a table of its own, one row per function; adding a row twice changes nothing)."""
    from duckdb_kql.translate.functions import SCALAR_FUNCTIONS, FunctionSpec

    class IpFunction(FunctionSpec):
        """A row that renders its SQL by the shape of its arguments."""

        def render(self, args: list[str]) -> str:
            if len(args) < 2 - (self.name == "ipv4_is_private"):
                raise ValueError(f"{self.name}() takes at least two arguments, got {len(args)}")
            return _render(self.name, args)

    for name in _FUNCTIONS:
        SCALAR_FUNCTIONS.setdefault(name, IpFunction(name, "template", "{}"))


_FUNCTIONS = (
    "ipv4_is_in_range",
    "ipv4_is_in_any_range",
    "ipv4_is_match",
    "ipv4_is_private",
    "ipv6_is_in_range",
    "ipv6_is_in_any_range",
    "ipv6_is_match",
    "has_ipv4",
    "has_any_ipv4",
    "has_ipv4_prefix",
    "has_any_ipv4_prefix",
)
_PRIVATE = ["'10.0.0.0/8'", "'172.16.0.0/12'", "'192.168.0.0/16'"]


def _render(name: str, args: list[str]) -> str:
    subject, rest = f"s2k_text({args[0]})", args[1:]
    if name.startswith("has_"):
        needles = _spread(rest)
        partial = name.endswith("_prefix")
        if needles is not None:
            return f"({' OR '.join(_has_sql(subject, n, partial) for n in needles)})"
        tests = f"list_transform({_flat(rest)}, lambda has_p: {_has_sql(subject, 'has_p', partial)})"
        return f"coalesce(list_bool_or({tests}), false)"
    version = name[3]
    limit = "128" if version == "6" else "32"
    if name.endswith("is_match") and len(rest) == 2:
        limit = f"CAST({rest.pop()} AS INTEGER)"
    ranges = _spread(_PRIVATE if name.endswith("private") else rest)
    read, same = f"s2k_v{version}", f"s2k_v{version}_same"
    if ranges is None:
        tests = f"list_transform({_flat(rest)}, lambda ip_r: {same}(ip_a, {read}(ip_r), {limit}))"
        return f"list_transform([{read}({subject})], lambda ip_a: s2k_any({tests}))[1]"
    known = ", ".join(f"{read}({r})" for r in ranges)  # constants, folded once
    pieces = " OR ".join(f"{same}(ip_l[1], ip_l[{i}], {limit})" for i in range(2, len(ranges) + 2))
    return f"list_transform([[{read}({subject}), {known}]], lambda ip_l: ({pieces}))[1]"


def _has_sql(subject: str, needle: str, partial: bool) -> str:
    """Only a whole address will do, unless `partial`: then also one to three octets, each with its dot."""
    found = f"s2k_has_ip({subject}, {needle})"
    return found if partial else f"(regexp_full_match({needle}, '{_QUAD}') AND {found})"


def _spread(args: list[str]) -> list[str] | None:
    """The SQL of each needle where all are constant texts or constant arrays of texts; else None."""
    found: list[str] = []
    for arg in args:
        array = _ARRAY.fullmatch(arg)
        if _LITERAL.fullmatch(arg):
            found.append(arg)
        elif array:
            values: Any = json.loads(array[1][1:-1].replace("''", "'"))
            if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
                return None
            found.extend("'" + v.replace("'", "''") + "'" for v in values)
        else:
            return None
    return found or None


def _flat(args: list[str]) -> str:
    return "flatten([" + ", ".join(f"s2k_texts({a})" for a in args) + "])"
