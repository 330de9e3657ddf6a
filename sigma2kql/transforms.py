"""How a value of a rule is rewritten for a column that holds it in another form, one function a transform, named from
YAML.

Place in the flow: used by map (`rewrite`) and by the shaping of events into rows (`shape`, the other direction).
Invariant: on rows that `shape` gives, the rewritten test holds exactly when the original holds on the event, except for
what the notes say; a value that the column can never hold gives `Or(())` and a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sigma2kql.errors import Span
from sigma2kql.literals import decimal_text
from sigma2kql.model import (
    ANY,
    And,
    Column,
    Exactness,
    Exists,
    Expr,
    Field,
    Match,
    Not,
    Null,
    Number,
    Or,
    Part,
    Regex,
    Test,
    Text,
)

ALWAYS: Expr[Column] = And(())
NEVER: Expr[Column] = Or(())
PRESENT = Text((ANY,))


@dataclass(frozen=True, slots=True)
class Loss:
    """One way in which the query differs from the rule, with the value that causes it."""

    exactness: Exactness
    why: str
    span: Span | None


@dataclass(slots=True)
class Notes:
    """What a mapping learns on its way: losses, and values that can never match (code, sentence, place, hint).

    `concerned`: fields whose caveat speaks of a test that was made; asked only of transforms in `SELECTIVE`.
    """

    losses: list[Loss] = field(default_factory=list)
    never: list[tuple[str, str, Span | None, str]] = field(default_factory=list)
    concerned: set[str | None] = field(default_factory=set)

    def lose(self, exactness: Exactness, why: str, span: Span | None, negated: bool) -> None:
        """Record a loss; under a negation broader becomes narrower and the reverse."""
        if negated and exactness != "exact":
            exactness = "narrower" if exactness == "broader" else "broader"
        self.losses.append(Loss(exactness, why, span))

    def impossible(self, message: str, span: Span | None, hint: str = "", code: str = "E410") -> Expr[Column]:
        """Record that a value can never match, and give the predicate that never holds."""
        self.never.append((code, message, span, hint))
        return NEVER


class Request(NamedTuple):
    """One test on one field, the columns it may stand on and the options of the transform."""

    match: Match[Field]
    test: Test[Column]
    columns: tuple[Column, ...]
    options: Mapping[str, Any]
    notes: Notes
    negated: bool
    closed: str = ""  # why the column holds no other values than those that the options list

    def anywhere(self, test: Test[Column]) -> Expr[Column]:
        """The test on any of the columns; emptiness must hold on all of them."""
        tests = tuple(Match(column, test, self.match.span) for column in self.columns)
        if len(tests) == 1:
            return tests[0]
        return And(tests) if isinstance(test, Null) or test == Text(()) else Or(tests)

    def any_text(self, texts: Sequence[str], cased: bool = False) -> Expr[Column]:
        """One of these whole texts."""
        return Or(tuple(self.anywhere(Text((text,) if text else (), cased)) for text in texts))

    def lose(self, exactness: Exactness, why: str) -> None:
        self.notes.lose(exactness, why, self.match.span, self.negated)

    def untestable(self, code: str, message: str, hint: str = "") -> Expr[Column]:
        """The value may be in the event, but the table does not hold it: nothing is selected, and that is a loss."""
        self.lose("narrower", message)
        return self.notes.impossible(message, self.match.span, hint, code)


Rewrite = Callable[[Request], Expr[Column]]
Shape = Callable[[str, tuple[Column, ...], Mapping[str, Any]], list[tuple[Column, Any]]]


class Transform(NamedTuple):
    rewrite: Rewrite
    shape: Shape


# --------------------------------------------------------------------------------------------------------------------
# Texts


def literal(test: Test[Any]) -> str | None:
    """The one text that the test means, where it means one (numbers by their canonical text)."""
    match test:
        case Text(parts):
            if not parts:
                return ""
            return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else None
        case Number("==", value):
            return decimal_text(value)
        case _:
            return None


def as_text(test: Test[Column]) -> Test[Column]:
    """A number as the text that a text column holds for it."""
    return Text((decimal_text(test.value),)) if isinstance(test, Number) and test.op == "==" else test


def join_parts(*groups: Sequence[Part]) -> tuple[Part, ...]:
    """Parts in a row, with neighbouring literals merged, empty ones dropped and ANY ANY collapsed."""
    parts: list[Part] = []
    for group in groups:
        for part in group:
            if part == "" or (part is ANY and parts and parts[-1] is ANY):
                continue
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
    return tuple(parts)


def change_literals(test: Text, change: Callable[[str], str]) -> Text:
    return Text(join_parts([change(p) if isinstance(p, str) else p for p in test.parts]), test.cased)


def _pattern(parts: Sequence[Part], cased: bool = False) -> re.Pattern[str]:
    """Text parts as a Python regular expression over a short, trusted text."""
    body = "".join(re.escape(p) if isinstance(p, str) else ".*" if p is ANY else "." for p in parts)
    return re.compile(body, re.DOTALL if cased else re.DOTALL | re.IGNORECASE)


def text_holds(test: Test[Any], text: str) -> bool:
    """Whether a text passes a text, number or regex test (for constants and closed lists of values)."""
    match test:
        case Text(parts, cased):
            return bool(_pattern(parts, cased).fullmatch(text))
        case Number() | Exists():
            return isinstance(test, Exists) or literal(test) == text
        case Regex(pattern, flags):
            try:
                return bool(re.search(f"(?{flags}){pattern}" if flags else pattern, text))
            except re.error:
                return False
        case _:
            return False


# --------------------------------------------------------------------------------------------------------------------
# One value for another


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
        case _:
            return request.anywhere(request.test)


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
        case _:
            return request.anywhere(request.test)


def _shape_replace(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    old, new = str(options["from"]), str(options["to"])
    return [(columns[0], re.sub(re.escape(old), lambda _: new, value, flags=re.IGNORECASE))]


# --------------------------------------------------------------------------------------------------------------------
# Numbers


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


# --------------------------------------------------------------------------------------------------------------------
# Paths, hosts


def _last_separator(text: str) -> int:
    return max(text.rfind("\\"), text.rfind("/"))


def _basename(request: Request) -> Expr[Column]:
    """The column holds the part after the last separator. Folders cannot be tested."""
    test = request.test
    if not isinstance(test, Text) or not any(isinstance(p, str) for p in test.parts):
        if isinstance(test, Regex):
            request.lose("narrower", "the column holds a bare file name: the pattern is searched in the name only")
        return request.anywhere(test)
    last = (
        max(i for i, p in enumerate(test.parts) if isinstance(p, str) and _last_separator(p) >= 0)
        if any(isinstance(p, str) and _last_separator(p) >= 0 for p in test.parts)
        else -1
    )
    if last < 0:
        if test.parts[-1] is ANY and test.parts[0] is ANY:
            request.lose("narrower", "the column holds a bare file name: folders are not searched")
        return request.anywhere(test)
    text = test.parts[last]
    assert isinstance(text, str)
    cut = _last_separator(text)
    name = join_parts((text[cut + 1 :],), test.parts[last + 1 :])
    if not name or name == (ANY,):
        return request.untestable(
            "E411",
            f"`{request.match.subject.name}` holds a bare file name in this table: a folder can never match",
            "test the file name",
        )
    folder = join_parts(test.parts[:last], (text[:cut],))
    if folder not in ((), (ANY,)):
        request.lose("broader", "the column holds a bare file name: the folder is not tested")
    if test.parts[-1] is ANY:
        request.lose("narrower", "the column holds a bare file name: folders of that name are not found")
    return request.anywhere(Text(name, test.cased))


def _shape_basename(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value[_last_separator(value) + 1 :])]


def _path_or_name(request: Request) -> Expr[Column]:
    r"""The column holds the whole path on some rows and the bare file name on others.

    `\x.exe` at the end of a path is `x.exe` as a bare name. What else is asked of a path cannot be asked of a bare
    name: such a test finds nothing on those rows (a caveat).
    """
    test, plain = request.test, request.anywhere(request.test)
    if not isinstance(test, Text | Regex) or test in (PRESENT, Text(())):
        return plain
    tail = test.parts[1:] if isinstance(test, Text) and test.parts[0] is ANY else ()
    if tail and isinstance(tail[0], str) and ANY not in tail and not any(map(_has_folder, tail)):
        if tail[0][0] not in "\\/":
            return plain
        name = Text(join_parts((tail[0][1:],), tail[1:]), isinstance(test, Text) and test.cased)
        if name.parts:
            return Or((plain, request.anywhere(name)))
    request.notes.concerned.add(request.match.subject.name)
    return plain


def _has_folder(part: Part) -> bool:
    return isinstance(part, str) and _last_separator(part) > 0


def _doubled_name(request: Request) -> Expr[Column]:
    r"""Some rows hold the path with its file name once more behind it: `C:\a\x.exe\x.exe`.

    Only what fixes a folder together with the name at the path's end needs a second test. What looks past a file's
    extension into the next folder, and regular expressions, see such a row differently (a caveat).
    """
    test, plain = request.test, request.anywhere(request.test)
    texts = [p for p in test.parts if isinstance(p, str)] if isinstance(test, Text) else []
    if isinstance(test, Regex) or any(map(_enters_file, texts)):
        request.notes.concerned.add(request.match.subject.name)
    if not isinstance(test, Text) or not texts or test.parts[-1] is ANY:
        return plain
    begin = max((i + 1 for i, p in enumerate(test.parts) if p is ANY), default=0)
    cuts = [i for i, p in enumerate(test.parts) if isinstance(p, str) and _last_separator(p) >= 0]
    at = cuts[-1] if cuts else -1
    if at < begin or (begin and at == begin and not _has_folder(test.parts[at])):
        return plain  # `*\x.exe`, `*.exe`: the name alone, which ends either form
    text = test.parts[at]
    assert isinstance(text, str)
    name = join_parts((text[_last_separator(text) :],), test.parts[at + 1 :])
    return (
        plain
        if name in (("\\",), ("/",))
        else Or((plain, request.anywhere(Text(join_parts(test.parts, name), test.cased))))
    )


def _enters_file(text: str) -> bool:
    r"""Whether a name with an extension is followed by a separator and what may be its beginning: `.zip\`."""
    *before, name, rest = ("", *re.split(r"[\\/]", text))
    return "." in name and (len(before) == 1 or name.lower().startswith(rest.lower()))


def _shape_path(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value)]


def _host_of_url(request: Request) -> Expr[Column]:
    """Compare with the host part of a URL, or the column itself where it has no scheme."""
    hosts = tuple(
        Column(
            f"extract(@'^(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:[^/?#@]*@)?([^/?#:]*)', 1, {column.text})",
            "string",
            column.reads,
            "computed",
            ("host", column.text),
            f"{column.name or column.text}Host",
        )
        for column in request.columns
    )
    return request._replace(columns=hosts).anywhere(request.test)


# --------------------------------------------------------------------------------------------------------------------
# Two columns that Sigma has in one


def joined(test: Text, left: Column, right: Column, span: Span | None, bare: str) -> Expr[Column] | None:
    r"""A pattern over `left\right` as tests on the two stored columns; None where no such form exists.

    The right part holds no backslash. `bare` says which part stands alone where the other is empty: "left" (a registry
    key without a value name), "right" (a user without a domain) or "" (neither: both parts are always there).
    """
    parts, cased = test.parts, test.cased

    def on(column: Column, *groups: Sequence[Part]) -> Expr[Column]:
        shape = join_parts(*groups)
        return ALWAYS if shape == (ANY,) else Match(column, Text(shape, cased), span)

    alone = Match(right if bare == "left" else left, Null(), span)
    cuts = [i for i, p in enumerate(parts) if isinstance(p, str) and "\\" in p]
    if not cuts:
        return _joined_without_separator(test, left, right, span, bare)
    at = cuts[-1]
    if any(part is not ANY for part in parts[at + 1 :]) or any(not isinstance(p, str) and p is not ANY for p in parts):
        return None
    text = parts[at]
    assert isinstance(text, str)
    before, _, after = text.rpartition("\\")
    head, tail = on(left, parts[:at], (before,)), on(right, (after,), parts[at + 1 :])
    if after == "" and parts[at + 1 :] == (ANY,):
        tail = Match(right, PRESENT, span) if bare else ALWAYS
    elif before == "" and parts[:at] == (ANY,):
        head = Match(left, PRESENT, span) if bare == "right" else ALWAYS
    split = And((head, tail))
    if bare == "right":
        return split
    if parts[-1] is ANY:
        return Or((on(left, parts), split))
    return Or((split, And((on(left, parts), alone)))) if bare else split


def _joined_without_separator(
    test: Text, left: Column, right: Column, span: Span | None, bare: str
) -> Expr[Column] | None:
    parts = test.parts
    on_left, on_right = Match(left, test, span), Match(right, test, span)
    match parts:
        case (str(),):
            return on_right if bare == "right" else And((on_left, Match(right, Null(), span))) if bare else NEVER
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
        case Text() as test:
            split = (
                joined(test, domain, name, request.match.span, "right")
                if test.parts
                else Match(name, test, request.match.span)
            )
            if split is not None:
                return split
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
    return Or(tuple(found))


def _registry_spellings(test: Text, options: Mapping[str, Any]) -> list[Text]:
    """The pattern in every spelling that the table uses for its hive and its control set."""
    spellings = [test]
    hives: Mapping[str, Any] = options.get("hives", {})
    first = next((i for i, p in enumerate(test.parts) if isinstance(p, str)), None)
    if first is not None and first <= 1:
        text = test.parts[first]
        assert isinstance(text, str)
        for short, long in hives.items():
            if text.lower() == short.lower() or text.lower().startswith(short.lower() + "\\"):
                longs = long if isinstance(long, list) else [long]
                spellings = [
                    Text(
                        join_parts(test.parts[:first], (str(name) + text[len(short) :],), test.parts[first + 1 :]),
                        test.cased,
                    )
                    for name in longs
                ]
    if options.get("control_sets"):
        current = re.compile(r"(?i)(?<![^\\])CurrentControlSet(?=\\|$)")
        spellings += [
            changed
            for one in spellings
            if (changed := change_literals(one, lambda text: current.sub("ControlSet001", text))) != one
        ]
    return spellings


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
    if re.fullmatch(r"(?i)binary data", word):
        return Or((text, of_type(binary)))
    if test.parts[-1] is ANY and (typed := re.fullmatch(r"(?i)([dq])word(?: \((?:0x)?)?", word)):
        return Or((text, of_type(qword if typed[1] in "qQ" else dword)))
    if found32 := re.fullmatch(r"(?i)0x([0-9a-f]{8})", word):
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
    if found := re.fullmatch(r"(?i)DWORD \(0x([0-9a-f]{1,8})\)", text):
        return str(int(found[1], 16))
    if found := re.fullmatch(r"(?i)QWORD \(0x([0-9a-f]{1,8})-0x([0-9a-f]{1,8})\)", text):
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


# --------------------------------------------------------------------------------------------------------------------
# Hashes

_HASH = re.compile(r"(?i)\b(MD5|SHA1|SHA256|SHA512|IMPHASH)=([0-9a-f]+)\b")
_HASHES = re.compile(r"[A-Za-z0-9]+=[0-9A-Fa-f]+(?:[,;|] ?[A-Za-z0-9]+=[0-9A-Fa-f]+)*")
_BY_LENGTH = {32: ("MD5", "IMPHASH"), 40: ("SHA1",), 64: ("SHA256",), 128: ("SHA512",)}


def _hashes(request: Request) -> Expr[Column]:
    """Sigma's `Hashes` text to the column of each algorithm."""
    named = {column.text: column for column in request.columns}
    by_algorithm = {str(k).upper(): named[v] for k, v in request.options.items()}
    test = request.test
    if isinstance(test, Null) or (isinstance(test, Text) and test.parts in ((), (ANY,))):
        return request.anywhere(test)
    pieces = [p for p in test.parts if isinstance(p, str)] if isinstance(test, Text) else []
    text = "".join(pieces)
    pairs = [_HASH.findall(piece) for piece in pieces]
    found = [pair for held in pairs for pair in held]
    if found and all(pairs):
        begun = isinstance(test, Text) and test.parts[-1] is ANY
        tests = [
            Match(by_algorithm[name.upper()], _hash_text(value, begun), request.match.span)
            if name.upper() in by_algorithm
            else None
            for name, value in found
        ]
        known = tuple(t for t in tests if t is not None)
        if known:
            if any(name.upper() == "IMPHASH" for name, _ in found):
                request.notes.concerned.add(request.match.subject.name)
            if len(known) < len(found):
                request.lose("broader", "not every hash of the value has a column")
            return And(known)
        names = ", ".join(name.upper() for name, _ in found)
        return request.untestable("E412", f"this table has no column for {names} hashes")
    bare = re.fullmatch(r"[0-9a-fA-F]+", text)
    if bare and len(text) in _BY_LENGTH:
        columns = tuple(by_algorithm[a] for a in _BY_LENGTH[len(text)] if a in by_algorithm)
        if columns:
            return request._replace(columns=columns).anywhere(Text((text,)))
    return request.untestable("E412", f"`{request.match.subject.name}` must name a whole hash here, as in `SHA256=...`")


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


def _shape_plain(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value)]


TRANSFORMS: dict[str, Transform] = {
    "translate": Transform(_translate, _shape_translate),
    "prefix": Transform(_prefix, _shape_prefix),
    "replace": Transform(_replace, _shape_replace),
    "basename": Transform(_basename, _shape_basename),
    "user_split": Transform(_user_split, _shape_user_split),
    "user_name": Transform(_user_name, _shape_user_name),
    "hashes": Transform(_hashes, _shape_hashes),
    "hex_to_decimal": Transform(_hex_to_decimal, _shape_hex),
    "number_text": Transform(_number_text, _shape_plain),
    "host_of_url": Transform(_host_of_url, _shape_plain),
    "registry_path": Transform(_registry_path, _shape_registry_path),
    "registry_data": Transform(_registry_data, _shape_registry_data),
    "path_or_name": Transform(_path_or_name, _shape_path),
    "doubled_name": Transform(_doubled_name, _shape_path),
}
SELECTIVE = frozenset(
    {"path_or_name", "doubled_name", "hashes"}
)  # say themselves which tests a field's caveat is about

__all__ = [
    "ALWAYS",
    "NEVER",
    "PRESENT",
    "SELECTIVE",
    "TRANSFORMS",
    "Loss",
    "Notes",
    "Request",
    "Transform",
    "literal",
    "text_holds",
]
