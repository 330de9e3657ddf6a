"""What makes a test fit the type of the column that it is asked of.

Place in the flow: the last step of map, behind the transforms. Invariant: the test given means on the column what the
test asked means on the event's text; a value that the type cannot hold gives `Or(())` and a note.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import assert_never

from sigma2kql.map.transforms.request import PRESENT, Notes
from sigma2kql.model.literals import decimal_text, quoted
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
    ONE,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    FieldMap,
    Match,
    Null,
    Number,
    OneOf,
    Or,
    Regex,
    SameAs,
    Text,
)

# Kusto's whole numbers, in bits (Microsoft Learn, "Scalar data types")
_WHOLE = {"int": 32, "long": 64}


def _misfit(op: str, value: int | float, kind: str) -> str:
    """Why no whole number of this type can pass the test; empty where one can."""
    most = 2 ** (_WHOLE[kind] - 1)
    if op == "==" and not float(value).is_integer():
        return f"`{decimal_text(value)}` is no whole number, and the column holds nothing else"
    least, top = -most, most - 1
    outside = {"==": not least <= value <= top, "<": value <= least, "<=": value < least}
    outside |= {">": value >= top, ">=": value > top}
    return f"`{decimal_text(value)}` is beyond what the column can hold ({kind})" if outside[op] else ""


# Fields of unsigned numbers of 16 bits: EVENT_DESCRIPTOR.Id (Microsoft Learn, evntprov.h), ports (RFC 768)
SIXTEEN_BITS = frozenset({"EventID", "DestinationPort", "SourcePort", "dst_port", "src_port"})


def beyond(test: Number) -> str:
    """Why no number of 16 bits can pass the test; empty where one can."""
    value, most = test.value, 2**16 - 1
    outside = {"==": not 0 <= value <= most, "<": value <= 0, "<=": value < 0, ">": value >= most, ">=": value > most}
    shown = f"{test.op} {decimal_text(value)}" if test.op != "==" else decimal_text(value)
    return f"is a number from 0 to {most}, and never {shown}" if outside[test.op] else ""


def is_plain_text(field: FieldMap) -> bool:
    """Whether the field is text columns, and texts stand in them as they are."""
    special = field.cases or field.transform or field.empty or field.known
    if special or field.values is not None or field.constant is not None or not field.columns:
        return False
    return all(column.type == "string" and column.kind != "xml" for column in field.columns)


def typed(leaf: Match[Column], notes: Notes) -> Expr[Column]:
    """The same meaning as a test that the column's type takes."""
    column, test = leaf.subject, leaf.test
    if column.type == "string" and column.kind != "xml" and isinstance(test, Text) and test.parts:
        return leaf  # nearly always: a text that is asked of a text column
    match test:
        case Text(()):
            return Match(column, Null(), leaf.span)
        case Exists() if column.type in ("string", "dynamic"):
            return Match(column, PRESENT, leaf.span)
        case Number("==", value, written) if column.type in ("string", "dynamic", "guid"):
            texts = [decimal_text(value), *filter(None, (written,))]
            if column.type == "dynamic" and value == int(value):
                texts.append(f"{int(value)}.0")  # as a real of JSON is written
            found = [Match(column, Text((text,)), leaf.span) for text in texts]
            return found[0] if len(found) == 1 else Or(tuple(found))
        case Number(op, value) if column.type in _WHOLE and (why := _misfit(op, value, column.type)):
            return notes.impossible(why, leaf.span)
        case Text((str(text),)) if column.type in ("int", "long", "real", "decimal"):
            number = _number(text)
            if number is None:
                return notes.impossible(f"`{text}` is no number, and the column holds numbers", leaf.span)
            return typed(Match(column, Number("==", number), leaf.span), notes)
        case Text((str(text),)) if column.type == "bool":
            if text.lower() not in ("true", "false"):
                return notes.impossible(
                    f"`{text}` is neither true nor false, and the column holds nothing else", leaf.span
                )
            return Match(column, Bool(text.lower() == "true"), leaf.span)
        case Text() | Regex() | SameAs() if column.kind == "xml":
            return as_markup(leaf)
        case Text() | Regex() | Cidr() | Number() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return leaf
        case _:
            assert_never(test)


def _decoded(column: Column) -> Column:
    """An XML element with its entities resolved, for tests that look at single characters."""
    text = column.text
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        text = f"replace_string({text}, {quoted(entity)}, {quoted(char)})"
    return replace(column, text=text)


def as_markup(leaf: Match[Column]) -> Expr[Column]:
    """A test on a column that holds XML text: the text as XML writes it, or for tests that look at single characters
    the column with its entities resolved.

    Windows leaves `"` as it is in text (only attributes need the entity), other writers do not: both forms are asked.
    """
    column, test, span = leaf.subject, leaf.test, leaf.span
    if not isinstance(test, Text) or any(part is ONE or isinstance(part, OneOf) for part in test.parts):
        return Match(_decoded(column), test, span)
    forms = dict.fromkeys((_escaped(test, _ENTITIES[:3]), _escaped(test, _ENTITIES)))
    found = [Match(column, form, span) for form in forms]
    return found[0] if len(found) == 1 else Or(tuple(found))


_ENTITIES = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"))


def _escaped(test: Text, entities: tuple[tuple[str, str], ...]) -> Text:
    def escape(text: str) -> str:
        for char, entity in entities:
            text = text.replace(char, entity)
        return text

    return Text(join_parts([escape(p) if isinstance(p, str) else p for p in test.parts]), test.cased)


def _number(text: str) -> int | float | None:
    """The number whose canonical text this is, else None (leading zeros and 4624.0 are other texts)."""
    try:
        value = int(text) if text.lstrip("-").isdigit() else float(text)
        return value if math.isfinite(value) and decimal_text(value) == text else None
    except (ValueError, OverflowError):
        return None
