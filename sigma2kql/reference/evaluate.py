"""What a rule means, in plain Python: the reference that emitted KQL and every engine are held against.

Place in the flow: beside the emitter, never before it; reads the finished tree and one event. Invariant: two-valued
(Sigma specification, "Detection"): a test that cannot be decided is false, so its negation is true.

Readings taken (Sigma leaves them open):
- missing, null and ''. With `empty_is_missing` (the default) they are one, as in a Kusto string column: null and ''
  both ask for emptiness, `*` and `exists` for a value, and a pattern, regular expression, number, network or other
  field never holds on emptiness. Without it: '' equals only '', `*` holds on '', null on missing and null.
- case. Literals fold A to Z, as Kusto's operators do; a literal with other cased letters is compared in lower case on
  both sides (`tolower` in KQL). Another field (`fieldref`) folds A to Z, a regular expression with `i` all of Unicode.
- several values. A list passes if any element does. A dict in a value's place is its JSON text.
- text of other types: numbers in decimal without a trailing `.0`, true/false, datetimes as Kusto prints them.
- networks. ::ffff:a.b.c.d counts as the IPv4 address a.b.c.d; otherwise the families never mix.
- keywords. A substring of any value of the event, however deep; a number counts by its text.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, Generic, TypeVar, assert_never

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.text_shapes import fold_ascii, matches
from sigma2kql.model.tree import (
    ANY,
    And,
    Bool,
    Cidr,
    DatePart,
    Exists,
    Expr,
    Field,
    Match,
    Not,
    Null,
    Number,
    Or,
    Regex,
    SameAs,
    Test,
    Text,
)
from sigma2kql.regex import search, translate

S = TypeVar("S")

MISSING: Final = object()  # a value that is not there at all


@frozen
class Anywhere:
    """The value of "the whole event": a keyword is a substring of one of these."""

    values: tuple[Any, ...]


@frozen
class Trace(Generic[S]):
    """A node of a tree, whether it holds, and the same of its parts."""

    expr: Expr[S]
    holds: bool
    parts: tuple[Trace[S], ...] = ()


def evaluate(where: Expr[Field], event: Mapping[str, Any], *, empty_is_missing: bool = True) -> bool:
    """Whether an event, keyed by Sigma field names, is what the rule asks for. A dot in a name steps into dicts too."""
    return holds(where, field_of(event), empty_is_missing=empty_is_missing)


def field_of(event: Mapping[str, Any]) -> Callable[[Field], Any]:
    """How a field's value is found in an event; for `holds` and `trace`."""

    def value(field: Field) -> Any:
        if field.name is None:
            return Anywhere(tuple(_leaves(event)))
        if field.name in event:
            return event[field.name]
        here: Any = event
        for step in field.name.split("."):
            if not isinstance(here, Mapping) or step not in here:
                return MISSING
            here = here[step]
        return here

    return value


def holds(expr: Expr[S], value: Callable[[S], Any], *, empty_is_missing: bool = True) -> bool:
    """Whether the tree holds. `value` gives each subject's value: a JSON value, a datetime, MISSING or Anywhere."""
    match expr:
        case And(items):
            return all(holds(i, value, empty_is_missing=empty_is_missing) for i in items)
        case Or(items):
            return any(holds(i, value, empty_is_missing=empty_is_missing) for i in items)
        case Not(item):
            return not holds(item, value, empty_is_missing=empty_is_missing)
        case Match(subject, test, _):
            return _passes(test, value(subject), value, empty_is_missing)
        case _:
            assert_never(expr)


def trace(expr: Expr[S], value: Callable[[S], Any], *, empty_is_missing: bool = True) -> Trace[S]:
    """As `holds`, with the outcome of every node, for explanations."""
    match expr:
        case And(items) | Or(items):
            parts = tuple(trace(i, value, empty_is_missing=empty_is_missing) for i in items)
            outcome = (all if isinstance(expr, And) else any)(p.holds for p in parts)
            return Trace(expr, outcome, parts)
        case Not(item):
            inner = trace(item, value, empty_is_missing=empty_is_missing)
            return Trace(expr, not inner.holds, (inner,))
        case Match():
            return Trace(expr, holds(expr, value, empty_is_missing=empty_is_missing))
        case _:
            assert_never(expr)


# --------------------------------------------------------------------------------------------------------------------
# One test on one value


def _passes(test: Test[S], value: Any, other: Callable[[S], Any], one_emptiness: bool) -> bool:
    if isinstance(value, Anywhere):
        return any(_occurs(test, v, one_emptiness) for v in value.values)
    elements = list(_elements(value))
    if one_emptiness:
        elements = [e for e in elements if e is not None and e != ""]
    match test:
        case Null():
            return not elements if one_emptiness else value is MISSING or None in elements
        case Exists():
            return bool(elements) if one_emptiness else value is not MISSING
        case Text(()) if one_emptiness:
            return not elements
        case SameAs(subject, shape, cased):
            fold: Callable[[str], str] = str if cased else fold_ascii
            theirs = [_text(e) for e in _elements(other(subject)) if e is not None and not (one_emptiness and e == "")]
            return any(_SHAPES[shape](fold(_text(e)), fold(t)) for e in elements if e is not None for t in theirs)
        case Text() | Regex() | Cidr() | Number() | Bool() | DatePart():
            return any(_element_passes(test, e) for e in elements if e is not None)
        case _:
            assert_never(test)


_SHAPES: Mapping[str, Callable[[str, str], bool]] = {
    "equals": operator.eq,
    "contains": operator.contains,
    "startswith": str.startswith,
    "endswith": str.endswith,
}


def _occurs(test: Test[S], value: Any, one_emptiness: bool) -> bool:
    """A keyword in one value of the event."""
    if value is None or (one_emptiness and value == ""):
        return False
    match test:
        case Text(parts, cased):
            return matches(Text((ANY, *parts, ANY), cased), _text(value))
        case Number("==", number):
            return _text(number) in _text(value)
        case Null() | Exists() | SameAs():
            return False
        case Regex() | Cidr() | Number() | Bool() | DatePart():
            return _element_passes(test, value)
        case _:
            assert_never(test)


def _element_passes(test: Test[S], value: Any) -> bool:
    """A test on one present value."""
    match test:
        case Text():
            return matches(test, _text(value))
        case Regex(pattern, flags):
            return search(_translated(pattern, flags), _text(value))
        case Cidr(network, _):
            return isinstance(value, str) and _inside(network, value)
        case Number(op, wanted):
            number = _number(value, _CANONICAL if op == "==" else _DECIMAL)
            if op == "==" and test.written and isinstance(value, str) and fold_ascii(value) == test.written:
                return True
            return number is not None and _COMPARE[op](number, wanted)
        case Bool(wanted):
            return value is wanted or (isinstance(value, str) and fold_ascii(value) == str(wanted).lower())
        case DatePart(unit, op, wanted):
            moment = _moment(value)
            return moment is not None and _COMPARE[op](_PARTS[unit](moment), wanted)
        case Null() | Exists() | SameAs():  # decided on the whole value
            return False
        case _:
            assert_never(test)


_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_PARTS: Mapping[str, Callable[[datetime], int]] = {
    "minute": lambda t: t.minute,
    "hour": lambda t: t.hour,
    "day": lambda t: t.day,
    "week": lambda t: t.isocalendar().week,
    "month": lambda t: t.month,
    "year": lambda t: t.year,
}
_translated = lru_cache(maxsize=4096)(translate)

# --------------------------------------------------------------------------------------------------------------------
# Values


def _elements(value: Any) -> Iterator[Any]:
    """The values of a field: of a list its elements, lists in lists flattened."""
    waiting = [] if value is MISSING else [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, list | tuple):
            waiting.extend(here)
        else:
            yield here


def _leaves(value: Any) -> Iterator[Any]:
    """Every value in an event that is not a container. Iterative: events are hostile, and may be deep."""
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Mapping):
            waiting.extend(here.values())
        elif isinstance(here, list | tuple):
            waiting.extend(here)
        else:
            yield here


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case datetime():
            return _utc(value).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
        case Mapping() | list():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        case _:
            return str(value)


_CANONICAL = re.compile(r"(?:0|-?[1-9][0-9]{0,39}|-?(?:0|[1-9][0-9]{0,39})\.[0-9]{0,39}[1-9])")
_DECIMAL = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?")


def _number(value: Any, form: re.Pattern[str]) -> int | float | None:
    """The number a value is, or that its text is in this form.

    Equal is only the canonical text (Sigma reading A5: no leading zeros, no `.0`); in order stands any decimal text.
    """
    if isinstance(value, str):
        if not form.fullmatch(value):
            return None
        return float(value) if "." in value else int(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


@lru_cache(maxsize=4096)
def _network(network: str) -> Any:
    return ip_network(network)


def _inside(network: str, text: str) -> bool:
    try:
        address: IPv4Address | IPv6Address | None = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and _network(network).version == 4:
        address = address.ipv4_mapped
    return address is not None and address in _network(network)


def _moment(value: Any) -> datetime | None:
    if isinstance(value, datetime):
        return _utc(value)
    if not isinstance(value, str):
        return None
    try:
        return _utc(datetime.fromisoformat(value))
    except (ValueError, OverflowError):
        return None


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def text_of(value: Any) -> str:
    """A value of an event or a row as text; what is missing or null is the empty text."""
    match value:
        case None:
            return ""
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
        case _:
            return "" if value is MISSING else str(value)
