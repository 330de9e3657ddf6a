"""What Sigma has in one field and a table in two columns: users with their domains, registry paths and data.

Place in the flow: transforms of several columns. Invariant: that of the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, assert_never

from sigma2kql.diagnostics.diagnostic import Span
from sigma2kql.map.transforms.request import (
    ALWAYS,
    NEVER,
    PRESENT,
    Request,
    Transform,
    change_literals,
    literal,
)
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
    ANY,
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    Match,
    Not,
    Null,
    Number,
    Or,
    Part,
    Regex,
    SameAs,
    Test,
    Text,
)


def joined(test: Text, left: Column, right: Column, span: Span | None, bare: str) -> Expr[Column] | None:
    r"""A pattern over `left\right` as tests on the two stored columns; None where no such form exists.

    The right part holds no backslash. `bare` says which part stands alone where the other is empty: "left" (a registry
    key without a value name), "right" (a user without a domain) or "" (neither: both parts are always there).
    """
    parts, cased = test.parts, test.cased

    def on(column: Column, shape: tuple[Part, ...]) -> Expr[Column]:
        return ALWAYS if shape == (ANY,) else Match(column, Text(shape, cased), span)

    at = -1
    for i, part in enumerate(parts):
        if not isinstance(part, str):
            if part is not ANY:
                return None
        elif "\\" in part:
            at = i
    if at < 0:
        return _joined_without_separator(test, left, right, span, bare)
    first, text, rest = parts[:at], parts[at], parts[at + 1 :]
    assert isinstance(text, str)
    if rest not in ((), (ANY,)):
        return None
    before, _, after = text.rpartition("\\")
    if not (first or before or after or rest):
        return NEVER  # a separator with nothing on either side
    head = on(left, (*first, before) if before else first)
    tail = on(right, (after, *rest) if after else rest)
    if after == "" and rest == (ANY,):
        tail = Match(right, PRESENT, span) if bare else ALWAYS
    elif before == "" and first == (ANY,):
        head = Match(left, PRESENT, span) if bare == "right" else ALWAYS
    split = And((head, tail))
    if bare == "right":
        return split
    whole = Match(left, test, span)
    if rest:
        return Or((whole, split))
    if bare and not after:
        return And((whole, Match(right, Null(), span)))  # a key without a value's name has no separator behind it
    return Or((split, And((whole, Match(right, Null(), span))))) if bare else split


def _joined_without_separator(
    test: Text, left: Column, right: Column, span: Span | None, bare: str
) -> Expr[Column] | None:
    parts = test.parts
    on_left, on_right = Match(left, test, span), Match(right, test, span)
    match parts:
        case (str(),):
            if bare == "right":
                return And((on_right, Match(left, Null(), span)))
            return And((on_left, Match(right, Null(), span))) if bare else NEVER
        case (str(), p) if p is ANY:
            return on_left if bare != "right" else Or((on_left, And((on_right, Match(left, Null(), span)))))
        case (p, str()) if p is ANY:
            return on_right if bare != "left" else Or((on_right, And((on_left, Match(right, Null(), span)))))
        case (p, str(), q) if p is ANY and q is ANY:
            return Or((on_left, on_right))
        case _:
            return None


def concatenated(left: Column, right: Column, bare: str, name: str) -> Column:
    r"""`left\right` as one computed column, without the separator where a part is empty."""
    empty = right if bare == "left" else left
    whole = left if bare == "left" else right
    text = f'iff(isempty({empty.text}), {whole.text}, strcat({left.text}, @"\\", {right.text}))'.replace(
        '@"\\\\"', '@"\\"'
    )
    return Column(text, "string", left.reads + right.reads, "computed", (left.text, right.text), name)


def _user_split(request: Request) -> Expr[Column]:
    r"""DOMAIN\user in two columns: domain, name."""
    domain, name = request.columns
    match request.test:
        case Null():
            return Match(name, Null(), request.match.span)
        case Text((p,)) if p is ANY:
            return Match(name, PRESENT, request.match.span)
        case Text((*_, str(last))) if last.endswith("\\"):
            return request.notes.impossible(
                f"`{request.match.subject.name}` never ends with a backslash: no account has an empty name",
                request.match.span,
            )
        case Text() as test:
            split = (
                joined(test, domain, name, request.match.span, "right")
                if test.parts
                else Match(name, test, request.match.span)
            )
            if split is not None:
                return split
        case Regex() | Cidr() | Number() | Bool() | Exists() | SameAs() | DatePart():
            pass
        case _:
            assert_never(request.test)
    return Match(concatenated(domain, name, "right", "User"), request.test, request.match.span)


def _shape_user_split(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    domain, separator, name = value.rpartition("\\")
    return [(columns[0], domain if separator else ""), (columns[1], name)]


def _user_name(request: Request) -> Expr[Column]:
    r"""The column holds `user` of DOMAIN\user."""
    test = request.test
    if isinstance(test, Text):
        at = [i for i, p in enumerate(test.parts) if isinstance(p, str) and "\\" in p]
        if at:
            text = test.parts[at[-1]]
            assert isinstance(text, str)
            name = join_parts((text.rpartition("\\")[2],), test.parts[at[-1] + 1 :])
            if name in ((), (ANY,)):
                return request.notes.impossible(
                    f"`{request.match.subject.name}` holds only the user's name in this table: "
                    "a domain can never match",
                    request.match.span,
                )
            if test.parts[: at[-1]] != (ANY,) or text.rpartition("\\")[0]:
                request.lose("broader", "the column holds only the user's name: the domain is not tested")
            return request.anywhere(Text(name, test.cased))
    return request.anywhere(test)


def _shape_user_name(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value.rpartition("\\")[2])]


def _registry_path(request: Request) -> Expr[Column]:
    """Key plus value name in two columns, long hive names, either control set.

    `options: {value: true}`: every row has a value's name; `{value: false}`: no row has one.
    """
    key, value = request.columns
    test = request.test
    named = request.options.get("value")
    bare = "" if named is True else "left"
    if isinstance(test, Null) or (isinstance(test, Text) and test.parts in ((), (ANY,))):
        return Match(key, test, request.match.span)
    if not isinstance(test, Text):
        return Match(concatenated(key, value, "left", "RegistryPath"), test, request.match.span)
    found: list[Expr[Column]] = []
    for variant in _registry_spellings(test, request.options):
        if named is False:
            found.append(Match(key, variant, request.match.span))
            continue
        split = joined(variant, key, value, request.match.span, bare)
        if split is None:
            split = Match(concatenated(key, value, "left", "RegistryPath"), variant, request.match.span)
        found.append(split)
    return found[0] if len(found) == 1 else Or(tuple(found))


def _registry_spellings(test: Text, options: Mapping[str, Any]) -> list[Text]:
    """The pattern in every spelling that the table uses for its hive and its control set."""
    spellings = [test]
    hives: Mapping[str, Any] = options.get("hives", {})
    first = 0 if isinstance(test.parts[0], str) else 1
    text = test.parts[first] if first < len(test.parts) else None
    if isinstance(text, str):
        folded = f"{text.lower()}\\"
        for short, long in hives.items():
            if folded.startswith(f"{short.lower()}\\"):
                longs = long if isinstance(long, list) else [long]
                spellings = [
                    Text(
                        join_parts(test.parts[:first], (str(name) + text[len(short) :],), test.parts[first + 1 :]),
                        test.cased,
                    )
                    for name in longs
                ]
    if options.get("control_sets") and any(isinstance(p, str) and "controlset" in p.casefold() for p in test.parts):
        spellings += [
            changed
            for one in spellings
            if (changed := change_literals(one, lambda text: _CONTROL_SET.sub("ControlSet001", text))) != one
        ]
    return spellings


_CONTROL_SET = re.compile(r"(?i)(?<![^\\])CurrentControlSet(?=\\|$)")


def _shape_registry_path(
    value: str, columns: tuple[Column, ...], options: Mapping[str, Any]
) -> list[tuple[Column, Any]]:
    """The last element is the value's name where the event sets or deletes a value (`options: {value: false}` for
    keys). Nothing for what is no registry path: one that ends in a backslash, or holds a hive's name further on.
    """
    text = value
    hives: Mapping[str, Any] = options.get("hives", {})
    if text.endswith("\\") or any(re.search(rf"(?i).{re.escape(hive)}(\\|$)", text) for hive in hives):
        return []
    for short, long in hives.items():
        if text.lower().startswith(short.lower() + "\\"):
            text = str(long[0] if isinstance(long, list) else long) + text[len(short) :]
            break
    if options.get("value", True) is False:
        return [(columns[0], text), (columns[1], "")]
    key, separator, name = text.rpartition("\\")
    return [(columns[0], key if separator else text), (columns[1], name if separator else "")]


# What the column of the value's type says of numbers of 32 and 64 bits and of binary data.
_REGISTRY_TYPES = {"xdr": ("Dword", "QWord", "Binary"), "asim": ("Reg_DWord", "Reg_QWord", "Reg_Binary")}
_BEGUN = re.compile(r"(?i)([dq])word(?: \((?:0x)?)?")
_BINARY = re.compile(r"(?i)binary data")
_HEX32 = re.compile(r"(?i)0x([0-9a-f]{8})")
_DWORD = re.compile(r"(?i)DWORD \(0x([0-9a-f]{1,8})\)")
_QWORD = re.compile(r"(?i)QWORD \(0x([0-9a-f]{1,8})-0x([0-9a-f]{1,8})\)")


def _registry_data(request: Request) -> Expr[Column]:
    """What Sysmon's text says, on the data and the type of a value.

    Defender stores a number in decimal digits with its type beside it, and no binary data: such a row is empty. ASIM
    rows (form asim) hold either that or Sysmon's own text, without a type.
    """
    data, kind = request.columns
    form, test, span = request.options.get("form"), request.test, request.match.span
    dword, qword, binary = _REGISTRY_TYPES["xdr" if form == "xdr" else "asim"]
    plain: Expr[Column] = Match(data, test, span)
    text = NEVER if form == "xdr" else plain

    def of_type(*names: str) -> Expr[Column]:
        return Or(tuple(Match(kind, Text((name,)), span) for name in names))

    def number(digits: str, name: str) -> Expr[Column]:
        return And((Match(data, Text((digits,)), span), of_type(name)))

    word, whole = _only_word(test), literal(test)
    if isinstance(test, Null) or whole == "" or word.lower() == "(empty)":
        empty = And((Match(data, Null(), span), Not(of_type(binary))))
        return empty if isinstance(test, Null) or whole == "" else Or((empty, plain))
    if not isinstance(test, Text):
        return plain
    if found := _registry_number(word):
        return Or((text, number(found, qword if word[:1] in "qQ" else dword)))
    if _BINARY.fullmatch(word):
        return Or((text, of_type(binary)))
    if test.parts[-1] is ANY and (typed := _BEGUN.fullmatch(word)):
        return Or((text, of_type(qword if typed[1] in "qQ" else dword)))
    if found32 := _HEX32.fullmatch(word):
        return Or((plain, number(str(int(found32[1], 16)), dword)))
    if whole and whole.isdigit():
        return And((plain, Not(of_type(dword, qword))))
    if form == "xdr" and any(isinstance(p, str) and re.search(r"(?i)[dq]word \(", p) for p in test.parts):
        return request.notes.impossible(
            "a part of Sysmon's `DWORD (0x...)` text can never match: the column holds the number itself",
            span,
            "write the whole value",
        )
    return plain


def _only_word(test: Test[Column]) -> str:
    """The one literal of a text test, whatever may stand around it; "" where there are none or several."""
    words = [part for part in test.parts if part is not ANY] if isinstance(test, Text) else []
    return words[0] if len(words) == 1 and isinstance(words[0], str) else ""


def _registry_number(text: str) -> str | None:
    """The decimal digits of `DWORD (0x...)` and `QWORD (0x...-0x...)`."""
    if found := _DWORD.fullmatch(text):
        return str(int(found[1], 16))
    if found := _QWORD.fullmatch(text):
        return str((int(found[1], 16) << 32) | int(found[2], 16))
    return None


def _shape_registry_data(
    value: str, columns: tuple[Column, ...], options: Mapping[str, Any]
) -> list[tuple[Column, Any]]:
    if options.get("form") != "xdr":  # a bare number may be either the text of a number or the number
        return [] if value.isdigit() else [(columns[0], value)]
    number = _registry_number(value)
    if number is None and (value.isdigit() or re.search(r"(?i)[dq]word \(|^[dq]word|^binary data.", value)):
        return []
    kind = "String" if not number else "Dword" if value.lower().startswith("dword") else "QWord"
    data = number or value
    if value.lower() in ("(empty)", "binary data"):
        data, kind = "", "Binary" if value.lower() == "binary data" else "String"
    return list(zip(columns, (data, kind), strict=False))


TRANSFORMS: dict[str, Transform] = {
    "user_split": Transform(_user_split, _shape_user_split),
    "user_name": Transform(_user_name, _shape_user_name),
    "registry_path": Transform(_registry_path, _shape_registry_path),
    "registry_data": Transform(_registry_data, _shape_registry_data),
}
