"""Tests and kinds of document in words, for people who read what a rule means.

Place in the flow: beside the model; `explain` shows trees with it. Invariant: two different tests read differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from sigma2kql.model.literals import decimal_text
from sigma2kql.model.tree import (
    ANY,
    Bool,
    Broken,
    Cidr,
    Correlation,
    DatePart,
    Document,
    Exists,
    Filter,
    NativeQuery,
    Null,
    Number,
    OneOf,
    Part,
    Placeholder,
    Regex,
    Rule,
    SameAs,
    Test,
    Text,
    Wildcard,
)

_SAME = {"equals": "is", "contains": "contains", "startswith": "starts with", "endswith": "ends with"}


def in_words(test: Test[Any]) -> str:
    """What a test asks of a field: `ends with '\\cmd.exe'`."""
    match test:
        case Text(()):
            return "is empty"
        case Text((part,)) if part is ANY:
            return "is not empty"
        case Text(parts, cased):
            return _shape(parts) + " (in this case of letters)" * cased
        case Regex(pattern, flags):
            return f"matches /{pattern}/{flags}"
        case Cidr(network):
            return f"is an address in {network}"
        case Number(op, value):
            return f"is the number {decimal_text(value)}" if op == "==" else f"is a number {op} {decimal_text(value)}"
        case Bool(truth):
            return f"is {str(truth).lower()}"
        case Null():
            return "is null or missing"
        case Exists():
            return "exists"
        case SameAs(other, shape, cased):
            return f"{_SAME[shape]} the value of {other.name}" + " (in its case of letters)" * cased
        case DatePart(unit, op, value):
            return f"is a time whose {unit} is {op} {value}"
        case _:
            assert_never(test)


def _shape(parts: Sequence[Part]) -> str:
    inner = parts[parts[0] is ANY : len(parts) - (parts[-1] is ANY)]
    if len(inner) == 1 and isinstance(inner[0], str):
        how = ("contains" if parts[-1] is ANY else "ends with") if parts[0] is ANY else "starts with"
        return f"{'is' if len(parts) == 1 else how} '{inner[0]}'"
    return f"is like '{''.join(map(_part, parts))}'"


def _part(part: Part) -> str:
    match part:
        case str():
            return part.replace("*", r"\*").replace("?", r"\?")
        case OneOf(chars):
            return f"[{chars}]"
        case Placeholder(name):
            return f"%{name}%"
        case Wildcard():
            return part.value
        case _:
            assert_never(part)


def kind_of(document: Document) -> str:
    """detection, correlation, filter or native."""
    match document:
        case Rule():
            return "detection"
        case Correlation():
            return "correlation"
        case Filter():
            return "filter"
        case NativeQuery():
            return "native"
        case Broken(kind=told):
            return told
        case _:
            assert_never(document)
