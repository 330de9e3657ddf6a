"""Parts of stored columns, as KQL: properties, JSON members, XML elements, pairs in a text.

Place in the flow: below the mapping files, which name such parts, and map, which makes them for fields that no file
names. Invariant: a part's name is placed so that it can be nothing but a name.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

from sigma2kql.model.literals import identifier, steps
from sigma2kql.model.tree import Column, FieldMap, KqlType

OTHERS = "\x00field"  # stands for the name of a field that no file names

_CASTS = {
    "int": "toint",
    "long": "tolong",
    "real": "toreal",
    "bool": "tobool",
    "datetime": "todatetime",
    "guid": "toguid",
}


def accessor(how: str, base: Column, key: tuple[str, ...], kind: KqlType, name: str, of_bag: bool = False) -> Column:
    """A part of a stored column: property of a dynamic one, of JSON text, an element of XML text, a pair in text.

    `of_bag`: the dynamic value has names, no indexes.
    """
    quote = "'"
    match how:
        case "property":
            path = f"{base.text}{steps(key, of_bag)}"
        case "json":
            path = f"parse_json({base.text}){steps(key, of_bag)}"
        case "xml":
            inner = re.escape(_xml(key[-1])).replace(quote, "''").replace("\\ ", " ")
            path = f"extract(@'<Data Name=\"{inner}\">([^<]*)</Data>', 1, {base.text})"
        case _:
            inner = re.escape(key[-1]).replace(quote, "''")
            path = f"extract(@'(?:^|[^A-Za-z0-9_]){inner}=\"?([^\" ]*)', 1, {base.text})"
    if how in ("property", "json"):
        text = path if kind == "dynamic" else f"{_CASTS.get(kind, 'tostring')}({path})"
    else:
        text = path if kind == "string" else f"{_CASTS.get(kind, 'tostring')}({path})"
    return Column(text, kind, base.reads, cast(Any, how), key, name)


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


_INDEX = re.compile(r"\{(\d+)\}|\[(\d+)\]")  # `a{0}.b` and `a[0].b` are `a.0.b`
_EVERY = re.compile(r"\{\}|\[(?:\*|any)?\]")


def asks_every_element(name: str) -> bool:
    """Whether a path speaks of every element of a list (`a{}.b`, `a[].b`, `a[*].b`, `a[any].b`)."""
    return _EVERY.search(name) is not None


def fill(others: FieldMap, name: str) -> FieldMap:
    """`others` for one field: the placeholder in every column replaced by the field's name, safely quoted."""
    columns = []
    for column in others.columns:
        base = Column(
            identifier(column.reads[0]),
            "dynamic" if column.kind == "property" else "string",
            column.reads[:1],
            name=column.reads[0],
        )
        key = tuple(
            part for k in column.key for part in (_INDEX.sub(r".\1\2", name).split(".") if k == OTHERS else [k])
        )
        columns.append(accessor(column.kind, base, key, column.type, name, of_bag=True))
    return replace(others, columns=tuple(columns))
