"""Values and modifiers of the Sigma language: `field|mod|mod: value` to tests.

Place in the flow: the detection reader calls it for every value; after it nobody knows which modifier made a test.
Invariant: every `Text` that leaves is normalised as its docstring says, and what a modifier does not allow is refused,
never guessed. Source: Sigma specification 2.1, "Modifiers"; where it is silent, pySigma's reading.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Span, did_you_mean, frozen
from sigma2kql.language.strings import CLOSE, OPEN, hold, unescape, within
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
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
    OneOf,
    Or,
    Part,
    Regex,
    SameAs,
    Test,
    Text,
)
from sigma2kql.text.nodes import Fault, YamlScalar


@frozen
class Encoded:
    """Bytes of a re-encoded text (wide, utf16...), to be written as base64 by a later modifier."""

    data: bytes
    cased: bool


Draft: TypeAlias = "Test[Field] | Encoded | tuple[Text, ...]"  # a tuple holds alternatives


class Refused(Exception):  # noqa: N818  it is an answer, not a failure of the program
    """A value that a modifier does not take; the caller knows its place."""

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


# --------------------------------------------------------------------------------------------------------------------
# Text


def _as_text(draft: Draft, name: str, node: YamlScalar) -> Text:
    if isinstance(draft, Text):
        return draft
    if isinstance(draft, Encoded):  # the order check of the chain refuses this before a value is read
        raise Refused("E212", f"`{name}` cannot follow a change of encoding")
    kind = "null" if isinstance(draft, Null) else "a truth value" if isinstance(draft, Bool) else "a number"
    hint = "" if isinstance(draft, Null) else f"write '{node.text}' in quotes if the text is meant"
    raise Refused("E214", f"`{name}` needs text, not {kind}", hint)


def _as_literal(draft: Draft, name: str, node: YamlScalar) -> str:
    literal = ""
    for part in _as_text(draft, name, node).parts:
        if not isinstance(part, str):
            raise Refused("E215", f"`{name}` takes no wildcards", r"write `\*` or `\?` for the character itself")
        literal += part
    if not literal:
        raise Refused("E215", f"`{name}` needs at least one character")
    return literal


# --------------------------------------------------------------------------------------------------------------------
# The modifiers, one function each: what stood before and the value as written -> what stands after


_Shape: TypeAlias = Literal["contains", "startswith", "endswith"]


def _shaped(name: _Shape) -> Callable[[Draft, YamlScalar], Draft]:
    """contains, startswith and endswith: with anything before it, behind it or both."""

    def shape(draft: Draft, node: YamlScalar) -> Draft:
        if isinstance(draft, Regex):  # found anywhere already
            return draft
        if isinstance(draft, SameAs):
            return replace(draft, shape=name if draft.shape in ("equals", name) else "contains")
        text = _as_text(draft, name, node)
        return Text(within(text.parts, before=name != "startswith", behind=name != "endswith"), text.cased)

    return shape


def cased(draft: Draft, node: YamlScalar) -> Draft:
    if isinstance(draft, SameAs):
        return replace(draft, cased=True)
    return Text(_as_text(draft, "cased", node).parts, True)


_DASH = re.compile(r"\B[-/–—―]\b")
_DASHES = OneOf("-/–—―")


def windash(draft: Draft, node: YamlScalar) -> Draft:
    """Each dash or `/` before a word character and not after one may be any of the five that Windows programs take."""
    text = _as_text(draft, "windash", node)
    parts: list[Part] = []
    for part in text.parts:
        if not isinstance(part, str):
            parts.append(part)
            continue
        pieces = _DASH.split(part)
        parts.append(pieces[0])
        for piece in pieces[1:]:
            parts += (_DASHES, piece)
    return Text(join_parts(parts), text.cased)


def _utf16(name: str, encoding: str, mark: bytes = b"") -> Callable[[Draft, YamlScalar], Draft]:
    def encode(draft: Draft, node: YamlScalar) -> Draft:
        literal = _as_literal(draft, name, node)
        return Encoded(mark + literal.encode(encoding), _as_text(draft, name, node).cased)

    return encode


def _bytes(draft: Draft, name: str, node: YamlScalar) -> Encoded:
    if isinstance(draft, Encoded):
        return draft
    return Encoded(_as_literal(draft, name, node).encode(), _as_text(draft, name, node).cased)


def base64(draft: Draft, node: YamlScalar) -> Draft:
    from binascii import b2a_base64

    encoded = _bytes(draft, "base64", node)
    return Text((b2a_base64(encoded.data, newline=False).decode(),), encoded.cased)


def base64offset(draft: Draft, node: YamlScalar) -> Draft:
    """The stable part of the encoding at each of the three offsets that a value can have in a longer encoded text."""
    from binascii import b2a_base64

    encoded = _bytes(draft, "base64offset", node)
    alternatives = []
    for offset in range(3):
        text = b2a_base64(b" " * offset + encoded.data, newline=False).decode()
        end = (None, -3, -2)[(len(encoded.data) + offset) % 3]
        alternatives.append(Text((text[(0, 2, 3)[offset] : end],), encoded.cased))
    return tuple(alternatives)


def expand(draft: Draft, node: YamlScalar) -> Draft:
    r"""`%name%` becomes a placeholder; `\%` is a percent sign."""
    return hold(draft if isinstance(draft, Regex) else _as_text(draft, "expand", node))


def regular_expression(_draft: Draft, node: YamlScalar) -> Draft:
    if isinstance(node.value, bool) or not isinstance(node.value, (str, int, float)):
        raise Refused("E214", f"`re` needs text, not `{node.text}`", "write the pattern in quotes")
    if OPEN in node.text or CLOSE in node.text:
        raise Refused("E214", "the pattern holds a Unicode noncharacter (U+FDD0, U+FDD1)")
    return Regex(node.text)


def _flag(letter: str) -> Callable[[Draft, YamlScalar], Draft]:
    def add(draft: Draft, _node: YamlScalar) -> Draft:
        assert isinstance(draft, Regex)
        return replace(draft, flags="".join(sorted({*draft.flags, letter})))

    return add


def cidr(_draft: Draft, node: YamlScalar) -> Draft:
    if not isinstance(node.value, str):
        raise Refused("E214", f"`cidr` needs a network as text, not `{node.text}`")
    return _network(node.text)


@lru_cache(maxsize=4096)
def _network(text: str) -> Cidr:
    import ipaddress  # few rules need it

    _, slash, prefix = text.partition("/")
    try:
        if "%" in text or (slash and not (prefix.isascii() and prefix.isdigit())):
            raise ValueError(text)
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise Refused("E216", f"`{text}` is not an IPv4 or IPv6 network", "like 10.0.0.0/8 or fe80::/10") from None
    if network.network_address != ipaddress.ip_address(text.partition("/")[0]):
        hint = f"the network is `{network}`"
        raise Refused("E216", f"`{text}` has bits set behind its prefix", hint)
    return Cidr(str(network), 4 if network.version == 4 else 6)


def _compare(name: str, op: Any) -> Callable[[Draft, YamlScalar], Draft]:
    def compare(draft: Draft, node: YamlScalar) -> Draft:
        if isinstance(draft, (Number, DatePart)):
            return replace(draft, op=op)
        hint = f"write {node.text} without quotes" if re.fullmatch(r"[+-]?\d+(\.\d+)?", node.text) else ""
        raise Refused("E214", f"`{name}` needs a number, not `{node.text}`", hint)

    return compare


_RANGES: dict[str, tuple[int, int]] = {
    "minute": (0, 59),
    "hour": (0, 23),
    "day": (1, 31),
    "week": (1, 53),
    "month": (1, 12),
    "year": (1, 9999),
}


def _part_of_time(unit: Any) -> Callable[[Draft, YamlScalar], Draft]:
    def part(draft: Draft, node: YamlScalar) -> Draft:
        if not isinstance(draft, Number) or draft.value != int(draft.value):
            raise Refused("E214", f"`{unit}` needs a whole number, not `{node.text}`")
        return DatePart(unit, "==", int(draft.value))

    return part


def fieldref(_draft: Draft, node: YamlScalar) -> Draft:
    if not isinstance(node.value, str) or not node.text.strip():
        raise Refused("E214", f"`fieldref` needs the name of a field, not `{node.text}`")
    if "*" in node.text or "?" in node.text:
        raise Refused("E215", "`fieldref` takes no wildcards")
    return SameAs(Field(node.text))


def exists(_draft: Draft, node: YamlScalar) -> Draft:
    if not isinstance(node.value, bool):
        raise Refused("E214", f"`exists` needs true or false, not `{node.text}`")
    return Exists()


# --------------------------------------------------------------------------------------------------------------------
# The table


class Modifier(NamedTuple):
    """`after`: what may stand before it in the same key; nothing means that it must come first. `event`: also allowed
    for keywords, which have no field."""

    apply: Callable[[Draft, YamlScalar], Draft]
    after: frozenset[str]
    event: bool = False


_SHAPES = frozenset({"contains", "startswith", "endswith"})
_WIDE = frozenset({"wide", "utf16le", "utf16be", "utf16"})
_BASE64 = frozenset({"base64", "base64offset"})
_LITERAL = frozenset({"windash", "expand", "cased"})
_FLAGS = frozenset({"i", "m", "s", "ignorecase", "multiline", "dotall"})
_TIME = frozenset(_RANGES)
_FIRST: frozenset[str] = frozenset()
_LISTS = frozenset({"all", "neq"})  # about the item as a whole, wherever they stand

MODIFIERS: Mapping[str, Modifier] = {
    "contains": Modifier(_shaped("contains"), _SHAPES | _LITERAL | _BASE64 | _FLAGS | {"re", "fieldref"}, True),
    "startswith": Modifier(_shaped("startswith"), _SHAPES | _LITERAL | _BASE64 | _FLAGS | {"re", "fieldref"}),
    "endswith": Modifier(_shaped("endswith"), _SHAPES | _LITERAL | _BASE64 | _FLAGS | {"re", "fieldref"}),
    "cased": Modifier(cased, _SHAPES | _LITERAL | _BASE64 | {"fieldref"}, True),
    "windash": Modifier(windash, _SHAPES | _LITERAL, True),
    "expand": Modifier(expand, _SHAPES | _LITERAL | _FLAGS | {"re"}, True),
    "wide": Modifier(_utf16("wide", "utf-16-le"), frozenset({"cased"}), True),
    "utf16le": Modifier(_utf16("utf16le", "utf-16-le"), frozenset({"cased"}), True),
    "utf16be": Modifier(_utf16("utf16be", "utf-16-be"), frozenset({"cased"}), True),
    "utf16": Modifier(_utf16("utf16", "utf-16-le", b"\xff\xfe"), frozenset({"cased"}), True),
    "base64": Modifier(base64, _WIDE | _BASE64 | {"cased"}, True),
    "base64offset": Modifier(base64offset, _WIDE | {"base64", "cased"}, True),
    "re": Modifier(regular_expression, _FIRST, True),
    **{name: Modifier(_flag(name[0]), _FLAGS | _SHAPES | {"re", "expand"}, True) for name in ("i", "m", "s")},
    "ignorecase": Modifier(_flag("i"), _FLAGS | _SHAPES | {"re", "expand"}, True),
    "multiline": Modifier(_flag("m"), _FLAGS | _SHAPES | {"re", "expand"}, True),
    "dotall": Modifier(_flag("s"), _FLAGS | _SHAPES | {"re", "expand"}, True),
    "cidr": Modifier(cidr, _FIRST),
    "lt": Modifier(_compare("lt", "<"), _TIME),
    "lte": Modifier(_compare("lte", "<="), _TIME),
    "gt": Modifier(_compare("gt", ">"), _TIME),
    "gte": Modifier(_compare("gte", ">="), _TIME),
    **{unit: Modifier(_part_of_time(unit), _FIRST) for unit in _RANGES},
    "fieldref": Modifier(fieldref, _FIRST),
    "exists": Modifier(exists, _FIRST),
}
_KNOWN = frozenset(MODIFIERS) | _LISTS


class Chain(NamedTuple):
    """The modifiers of one key, checked: what is applied to each value, how values join, whether the whole is negated.

    Offsets of `faults` count from the first `|`. `wrap` says what contains, startswith and endswith come to where
    nothing else is applied: ANY before, ANY behind.
    """

    names: tuple[str, ...]
    steps: tuple[Callable[[Draft, YamlScalar], Draft], ...]
    all: bool
    neq: bool
    faults: tuple[Fault, ...]
    wrap: tuple[bool, bool] | None


NO_MODIFIERS = Chain((), (), False, False, (), (False, False))
KEYWORD = Chain((), (), False, False, (), (True, True))  # found anywhere in the event


@lru_cache(maxsize=4096)
def read_chain(text: str, keyword: bool) -> Chain:
    """The modifiers after the first `|` of a key (`contains|all`). Mistakes come as `faults`, each at its modifier."""
    faults: list[Fault] = []
    names: list[str] = []
    at: list[tuple[int, int]] = []
    start = 1
    for name in text.split("|"):
        place = (start, start + len(name))
        start = place[1] + 1
        if name in _KNOWN:
            names.append(name)
            at.append(place)
        elif name.strip() in _KNOWN or not name.strip():
            what = f"the modifier `{name}` has blanks around it" if name.strip() else "a modifier is empty"
            faults.append(Fault("E210", what, *place, "modifiers follow each other without blanks: field|a|b"))
        else:
            faults.append(Fault("E211", f"unknown modifier `{name}`", *place, did_you_mean(name, _KNOWN)))
    if not faults:
        faults = _order_faults(names, at, keyword)
    values = [name for name in names if name not in _LISTS]
    steps = () if faults else tuple(MODIFIERS[name].apply for name in values)
    wrap = None
    if not faults and _SHAPES.issuperset(values):
        wide = keyword or "contains" in values
        wrap = (wide or "endswith" in values, wide or "startswith" in values)
    return Chain(tuple(names), steps, "all" in names, "neq" in names, tuple(faults), wrap)


def _order_faults(names: list[str], at: list[tuple[int, int]], keyword: bool) -> list[Fault]:
    faults: list[Fault] = []
    before: list[str] = []
    for name, place in zip(names, at, strict=True):
        if name in _LISTS:
            continue
        entry = MODIFIERS[name]
        if keyword and not entry.event:
            faults.append(Fault("E217", f"`{name}` needs a field in front of it", *place))
        wrong = [b for b in before if b not in entry.after]
        if name in _FLAGS and "re" not in before:
            faults.append(Fault("E212", f"`{name}` must stand behind `re`", *place, f"write `re|{name}`"))
        elif wrong:
            other = wrong[-1]
            if name in MODIFIERS[other].after:
                hint = f"write `{name}|{other}`"
                faults.append(Fault("E212", f"`{name}` must stand before `{other}`", *place, hint))
            else:
                faults.append(Fault("E213", f"`{name}` cannot be combined with `{other}`", *place))
        if name in _BASE64:  # the encoding is settled
            before = [b for b in before if b not in _WIDE]
        before.append(name)
    for index, name in enumerate(names):
        if name in _WIDE and not _BASE64 & set(names[index + 1 :]) and not faults:
            hint = f"write `{name}|base64offset|contains`"
            faults.append(Fault("E212", f"`{name}` must stand before `base64` or `base64offset`", *at[index], hint))
        if name == "exists" and len(names) > 1 and not faults:
            faults.append(Fault("E213", "`exists` must be the only modifier", *at[index]))
    return faults


# --------------------------------------------------------------------------------------------------------------------
# Values


def read_value(node: YamlScalar) -> Test[Field]:
    """A value without modifiers. Raises Refused for dates, infinity and numbers beyond what a real holds."""
    value = node.value
    if type(value) is str:
        return Text(unescape(value))
    if value is None:
        return Null()
    if isinstance(value, bool):
        return Bool(value)
    if isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:
        hexadecimal = isinstance(value, int) and node.text[:2] in ("0x", "0X")
        return Number("==", value, node.text.lower() if hexadecimal else "")
    if isinstance(value, int):
        raise Refused("E221", f"no column holds a number of {len(node.text)} digits", "write it in quotes for the text")
    raise Refused("E221", f"`{node.text}` is not a value of the Sigma language", f"write '{node.text}' in quotes")


def read_test(chain: Chain, node: YamlScalar, subject: Field, at: Span) -> Expr[Field]:
    """One value of an item, which stands `at` its place, as a test on its field, alternatives as `Or`. Raises Refused.

    A keyword (a field without a name) is searched anywhere in the event, so its text gets ANY on both sides.
    """
    draft: Draft = _initial(chain, node, subject)
    for step in chain.steps:
        alternatives = draft if type(draft) is tuple else None
        draft = step(draft, node) if alternatives is None else tuple(step(one, node) for one in alternatives)  # type: ignore[misc]
    if type(draft) is tuple:
        keyword = subject.name is None
        shapes = [replace(one, parts=within(one.parts)) if keyword else one for one in draft]
        return Or(tuple(Match(subject, one, at) for one in shapes))
    assert not isinstance(draft, (tuple, Encoded))
    if subject.name is None and isinstance(draft, Text):
        draft = Text(within(draft.parts), draft.cased)
    elif isinstance(draft, DatePart):
        _check_range(draft)
    elif isinstance(draft, SameAs):
        draft = replace(draft, other=Field(draft.other.name, at))
    match: Match[Field] = Match(subject, draft, at)
    return Not(match) if isinstance(draft, Exists) and node.value is False else match


def _initial(chain: Chain, node: YamlScalar, subject: Field) -> Test[Field]:
    if type(node.value) is str and not (chain.names and chain.names[0] == "re"):
        return Text(unescape(node.value))
    if subject.name is not None or "re" in chain.names:
        return read_value(node)
    if node.value is None:
        raise Refused("E223", "null needs a field: nothing can be searched for")
    return Text((node.text,))


def _check_range(test: DatePart) -> None:
    low, high = _RANGES[test.unit]
    if test.op == "==" and not low <= test.value <= high:
        raise Refused("E218", f"`{test.unit}` is between {low} and {high}, never {test.value}")
