"""One value for another: translated and prefixed texts, numbers in other notations, hashes.

Place in the flow: transforms of single columns. Invariant: that of the package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, assert_never

from sigma2kql.map.transforms.request import (
    PRESENT,
    Request,
    Transform,
    as_text,
    change_literals,
    literal,
    shape_plain,
    text_holds,
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
    Null,
    Number,
    Part,
    Regex,
    SameAs,
    Text,
)


def reason(why: str) -> str:
    """Behind a sentence, where there is one."""
    return f": {why}" if why else ""


def _translate(request: Request) -> Expr[Column]:
    """Sigma value -> column text(s); values not listed can never match."""
    if not isinstance(request.test, Text | Number | Regex):
        return request.anywhere(request.test)
    if request.test == PRESENT:
        return request.anywhere(request.test)
    texts: dict[str, None] = {}
    for name, text in request.options.items():
        if text_holds(request.test, str(name)):
            texts.update(dict.fromkeys(map(str, text) if isinstance(text, list) else (str(text),)))
    if not texts:
        known = ", ".join(f"`{name}`" for name in request.options)
        return request.notes.impossible(
            f"`{request.match.subject.name}` can never hold this value in the table{reason(request.closed)}",
            request.match.span,
            f"it holds {known}",
        )
    return request.any_text(tuple(texts))


def _shape_translate(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    for name, text in options.items():
        if str(name).lower() == value.lower():
            return [(columns[0], text[0] if isinstance(text, list) else text)]
    texts = {str(t).lower() for text in options.values() for t in (text if isinstance(text, list) else [text])}
    return [] if value.lower() in texts else [(columns[0], value)]  # the table's own word is no word of the event


def _prefix(request: Request) -> Expr[Column]:
    """The column holds a fixed text in front of the value."""
    text = str(request.options["text"])
    match request.test:
        case Text(parts, cased) if parts and parts != (ANY,):
            if parts[0] is ANY and not _overlaps(text, parts[1]):
                return request.anywhere(request.test)
            return request.anywhere(Text(join_parts((text,), parts), cased))
        case Regex(pattern, flags):
            anchored = pattern.startswith("^")
            if not anchored:
                return request.anywhere(request.test)
            return request.anywhere(Regex("^" + re.escape(text) + pattern[1:], flags))
        case Text() | Cidr() | Number() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return request.anywhere(request.test)
        case _:
            assert_never(request.test)


def _overlaps(prefix: str, part: Part) -> bool:
    """Whether a match of a floating part could begin inside the prefix."""
    if not isinstance(part, str):
        return True
    low, own = part.lower(), prefix.lower()
    return low in own or any(low.startswith(own[i:]) for i in range(len(own)))


def _shape_prefix(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    return [(columns[0], f"{options['text']}{value}" if value else value)]


def _replace(request: Request) -> Expr[Column]:
    old, new = str(request.options["from"]), str(request.options["to"])
    match request.test:
        case Text() as test:
            return request.anywhere(change_literals(test, lambda text: text.replace(old, new)))
        case Regex(pattern, flags):
            return request.anywhere(Regex(pattern.replace(old, re.escape(new)), flags))
        case Cidr() | Number() | Bool() | Null() | Exists() | SameAs() | DatePart():
            return request.anywhere(request.test)
        case _:
            assert_never(request.test)


def _shape_replace(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    old, new = str(options["from"]), str(options["to"])
    return [(columns[0], re.sub(re.escape(old), lambda _: new, value, flags=re.IGNORECASE))]


def _hex(text: str) -> int | None:
    return int(text, 16) if re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}", text) else None


def _hex_to_decimal(request: Request) -> Expr[Column]:
    text = literal(request.test)
    number = _hex(text) if text else None
    if number is not None:
        return request.anywhere(Text((str(number),)))
    if isinstance(request.test, Text) and any(isinstance(p, str) for p in request.test.parts) and text is None:
        return request.notes.impossible(
            f"a pattern of `{request.match.subject.name}` cannot be tested: the column holds a decimal number",
            request.match.span,
        )
    return request.anywhere(request.test)


def _shape_hex(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    number = _hex(value)
    return [(columns[0], value if number is None else str(number))]


def _number_text(request: Request) -> Expr[Column]:
    """Numbers stand as decimal or as hex text: both are tested."""
    text = literal(request.test)
    if text is None or text == "":
        return request.anywhere(request.test)
    number = _hex(text) if _hex(text) is not None else int(text) if re.fullmatch(r"[0-9]{1,20}", text) else None
    if number is None:
        return request.anywhere(as_text(request.test))
    return request.any_text(tuple(dict.fromkeys((text, str(number), hex(number)))))


_HASH = re.compile(r"\b((?i:MD5|SHA1|SHA256|SHA512|IMPHASH))=([0-9a-fA-F]+)\b")
_HASHES = re.compile(r"[A-Za-z0-9]+=[0-9A-Fa-f]+(?:[,;|] ?[A-Za-z0-9]+=[0-9A-Fa-f]+)*")
_BY_LENGTH = {32: ("MD5", "IMPHASH"), 40: ("SHA1",), 64: ("SHA256",), 128: ("SHA512",)}


def _hashes(request: Request) -> Expr[Column]:
    """Sigma's `Hashes` text to the column of each algorithm."""
    test = request.test
    if isinstance(test, Null) or (isinstance(test, Text) and test.parts in ((), (ANY,))):
        return request.anywhere(test)
    pieces = [p for p in test.parts if isinstance(p, str)] if isinstance(test, Text) else []
    found: list[tuple[str, str]] = []
    named = bool(pieces)
    for piece in pieces:
        held = _HASH.findall(piece)
        named = named and bool(held)
        found += held
    if named:
        begun = isinstance(test, Text) and test.parts[-1] is ANY
        names = [name.upper() for name, _ in found]
        known: list[Expr[Column]] = []
        for name, (_, value) in zip(names, found, strict=True):
            column = _hash_column(request, name)
            if column is not None:
                known.append(Match(column, _hash_text(value, begun), request.match.span))
        if known:
            if len(known) < len(found):
                request.lose("broader", "not every hash of the value has a column")
            return And(tuple(known)) if len(known) > 1 else known[0]
        return request.untestable("E412", f"this table has no column for {', '.join(names)} hashes")
    text = "".join(pieces)
    if len(text) in _BY_LENGTH and re.fullmatch(r"[0-9a-fA-F]+", text):
        columns = [column for a in _BY_LENGTH[len(text)] if (column := _hash_column(request, a)) is not None]
        if columns:
            return request._replace(columns=tuple(columns)).anywhere(Text((text,)))
    return request.untestable("E412", f"`{request.match.subject.name}` must name a whole hash here, as in `SHA256=...`")


def _hash_column(request: Request, algorithm: str) -> Column | None:
    """The column that the options give for an algorithm."""
    text = request.options.get(algorithm)
    if text is None:
        text = next((text for name, text in request.options.items() if str(name).upper() == algorithm), None)
    for column in request.columns:
        if column.text == text:
            return column
    return None


def _hash_text(value: str, begun: bool) -> Text:
    """A whole hash, or where the value is `begun` and no whole one, its beginning."""
    return Text((value, ANY) if begun and len(value) not in _BY_LENGTH else (value,))


def _shape_hashes(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    by_algorithm = {str(k).upper(): next(c for c in columns if c.text == v) for k, v in options.items()}
    found = _HASH.findall(value) if _HASHES.fullmatch(value) else []
    if found:
        return [(by_algorithm[name.upper()], text) for name, text in found if name.upper() in by_algorithm]
    bare = re.fullmatch(r"[0-9A-Fa-f]+", value)
    names = [a for a in _BY_LENGTH.get(len(value), ()) if a in by_algorithm] if bare else []
    return [(by_algorithm[names[0]], value)] if names else []


TRANSFORMS: dict[str, Transform] = {
    "translate": Transform(_translate, _shape_translate),
    "prefix": Transform(_prefix, _shape_prefix),
    "replace": Transform(_replace, _shape_replace),
    "hashes": Transform(_hashes, _shape_hashes),
    "hex_to_decimal": Transform(_hex_to_decimal, _shape_hex),
    "number_text": Transform(_number_text, shape_plain),
}
