"""YAML text to the nodes of `nodes`.

Place in the flow: first; the loader and the mapping files read their documents from here. Invariant: `compose` never
raises, never runs code that a text names, and needs time and stack in proportion to the size of the text: what is too
large, too deep or expands without end is refused before or while it is built.

Scalars are read as YAML 1.1 (as PyYAML does, which the public rules were tested with); the text as written is kept.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import Any, TypeAlias

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.reader import Reader, ReaderError
from yaml.resolver import Resolver

from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic
from sigma2kql.text.nodes import MAX_DEPTH, YamlDocument, YamlList, YamlMap, YamlNode, YamlScalar

MAX_SIZE = 5 * 1024 * 1024
MAX_EXPANDED = 100_000
MAX_UNCHECKED = 1_990  # characters with fewer levels than the C composer can take, and than libyaml refuses (1,000)

# --------------------------------------------------------------------------------------------------------------------
# Scalars


_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = Resolver.yaml_implicit_resolvers
_HINTS = frozenset(_RESOLVERS) - {"=", "<"}  # `=` and `<<` have a meaning for keys at most
_PREFIX = "tag:yaml.org,2002:"
_CONSTRUCT = {
    _PREFIX + "null": SafeConstructor.construct_yaml_null,
    _PREFIX + "bool": SafeConstructor.construct_yaml_bool,
    _PREFIX + "int": SafeConstructor.construct_yaml_int,
    _PREFIX + "float": SafeConstructor.construct_yaml_float,
    _PREFIX + "timestamp": SafeConstructor.construct_yaml_timestamp,
}
_READER = SafeConstructor()


@lru_cache(maxsize=16384)
def _implicit(text: str) -> tuple[str, Any]:
    """Tag and value of an unquoted scalar; what only looks like a date or a number is text."""
    if len(text) == 10 and text[4] == text[7] == "-":
        try:
            return _PREFIX + "timestamp", date.fromisoformat(text)
        except ValueError:
            return _PREFIX + "str", text
    for tag, pattern in _RESOLVERS.get(text[:1], ()):
        if tag in _CONSTRUCT and pattern.match(text):
            try:
                return tag, _CONSTRUCT[tag](_READER, ScalarNode(tag, text))
            except (ValueError, OverflowError):
                break
    return _PREFIX + "str", text


# --------------------------------------------------------------------------------------------------------------------
# Composing

_Parser: Any
try:
    from yaml.cyaml import CParser as _Parser  # type: ignore[attr-defined]
except ImportError:  # PyYAML without libyaml: the same composer in Python
    from yaml.composer import Composer as _PyComposer
    from yaml.parser import Parser as _PyParser
    from yaml.scanner import Scanner as _PyScanner

    class _Parser(Reader, _PyScanner, _PyParser, _PyComposer):  # type: ignore[no-redef]
        def __init__(self, text: str) -> None:
            Reader.__init__(self, text)
            _PyScanner.__init__(self)
            _PyParser.__init__(self)
            _PyComposer.__init__(self)


class _Composer(_Parser):  # type: ignore[misc]
    """Leaves every tag that is not written empty: resolving is cheaper afterwards, and only where it matters."""

    # Called for every node, so built-in functions: the tag is "" whatever it is asked for, the others do nothing.
    resolve = "".format
    descend_resolver = operator.is_
    ascend_resolver = tuple


_ANCHOR = re.compile(r"&(?<![^\s\[{,]&)[^\s,\[\]{}]+\s")  # starts with the literal: searched for at full speed
_DOCUMENT = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_NOTHING = re.compile(r"(?:\s++|#[^\n]*+|%[^\n]*+|---(?=\s|$)|\.\.\.(?=\s|$))*+\Z")  # never tries a second way


def compose(source: Source, max_size: int = MAX_SIZE) -> tuple[YamlDocument, ...]:
    """Every document of a text, in order; documents without content are left out. Never raises.

    A document that cannot be composed has the root None. One bad document does not cost another: where the stream
    fails, the text is split at its `---` lines and each part is composed by itself.
    """
    text = source.text
    refused = _too_large(source, max_size) or _too_deep(source)
    if refused is not None:
        return (YamlDocument(None, 0, len(text), [refused]),)
    documents, error = _compose_part(source, 0, len(text))
    if error is None:
        return tuple(documents)
    starts = sorted({0, *(m.start() for m in _DOCUMENT.finditer(text))})
    documents = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        if _NOTHING.match(text, start, end):
            continue
        found, error = _compose_part(source, start, end)
        documents.extend(found)
        if error is not None:
            documents.append(YamlDocument(None, start, start + len(text[start:end].rstrip()), [error]))
    return tuple(documents)


def _too_large(source: Source, max_size: int) -> Diagnostic | None:
    if len(source.text) <= max_size:
        return None
    size = f"{len(source.text):,} characters; at most {max_size:,} are read"
    return diagnostic("E102", f"the file has {size}", Span(source, 0, 0))


def _too_deep(source: Source) -> Diagnostic | None:
    """Refuse what would exhaust the composer's stack: older libyaml dies of 50,000 `[`. Its events need no stack."""
    text = source.text
    if len(text) <= MAX_UNCHECKED:
        return None
    # A level needs a bracket, or stands further to the right than the one around it (a list in a map: as far).
    few = MAX_UNCHECKED // 4
    if not _has_line(text, few) and not any(one in text and text.count(one) > few for one in "[{"):
        return None
    return _first_deep(source, 0, text)


def _first_deep(source: Source, start: int, text: str) -> Diagnostic | None:
    """The first value that is nested too deeply in a part of the source, which begins at `start`."""
    depth = 0
    try:
        for event in yaml_events(text):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    return _deep(source, start + event.start_mark.index)  # type: ignore[union-attr]
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except (yaml.YAMLError, UnicodeError):
        pass  # composing reaches the same place, no deeper, and reports it
    return None


def yaml_events(text: str) -> Iterator[yaml.Event]:
    """The events of a text, in order. Raises yaml.YAMLError as the parser does.

    libyaml refuses 1,000 levels since 0.2.6, and sees them long before it tells of the first: what stands before the
    refused place is read anew, so that whoever counts levels meets his own limit first, under every libyaml.
    """
    given, refused = 0, None
    while True:
        parser = _Composer(text)
        try:
            number = 0
            while parser.check_event():
                event = parser.get_event()
                number += 1
                if number > given:
                    given += 1
                    yield event
            return
        except yaml.MarkedYAMLError as error:
            if refused is not None:
                raise refused from None
            if not _refuses_depth(error):
                raise
            refused, text = error, text[: error.problem_mark.index]  # type: ignore[union-attr]
        finally:
            parser.dispose()


def _refuses_depth(error: Exception) -> bool:
    problem = getattr(error, "problem", None)
    return problem is not None and "nesting depth" in problem and error.problem_mark is not None  # type: ignore[attr-defined]


def _has_line(text: str, length: int) -> bool:
    """Whether there is a line of so many characters, without a look at each line."""
    at = 0
    while len(text) - at >= length:
        at = text.rfind("\n", at, at + length) + 1  # where the last line begins that begins in reach
        if not at:
            return True
    return False


def _deep(source: Source, offset: int) -> Diagnostic:
    return diagnostic("E105", f"nested more than {MAX_DEPTH} levels deep", Span(source, offset, offset + 1))


def _compose_part(source: Source, start: int, end: int) -> tuple[list[YamlDocument], Diagnostic | None]:
    text = source.text[start:end]
    documents: list[YamlDocument] = []
    try:
        parser = _Composer(text)
        try:
            shared = "&" in text and _ANCHOR.search(text) is not None
            while parser.check_node():
                builder = _Builder(source, start, shared)
                root = builder.build(parser.get_node(), 1)
                if isinstance(root, YamlScalar) and root.value is None and not builder.problems:
                    continue
                documents.append(YamlDocument(root, root.start, root.end, builder.problems))
        finally:
            parser.dispose()
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        return documents, _explain(source, start, text, error)
    return documents, None


_UNQUOTED = {
    "*": "a value that starts with `*` must stand in quotes: '*...'",
    "&": "a value that starts with `&` must stand in quotes",
    "%": "a value that starts with `%` must stand in quotes: '%...'",
    "@": "a value that starts with `@` must stand in quotes",
    "`": "a value that starts with a backquote must stand in quotes",
    "\t": "indent with blanks, not with tabs",
}


def _explain(source: Source, start: int, text: str, error: Exception) -> Diagnostic:
    """A parser's complaint as a diagnostic at its place, with the mistake that usually causes it as a hint."""
    if isinstance(error, RecursionError):
        return _deep(source, start)
    if (deep := _first_deep(source, start, text)) is not None:  # what is wrong behind it is of no interest
        return deep
    if isinstance(error, (ReaderError, UnicodeError)):
        found = Reader.NON_PRINTABLE.search(text)
        offset = start + (found.start() if found else 0)
        char = f"U+{ord(found[0]):04X}" if found else "a character"
        return diagnostic("E103", f"{char} is not allowed in YAML", Span(source, offset, offset + 1))
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    offset = start + min(mark.index, len(text)) if mark is not None else start
    problem = " ".join(filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))) or str(error)
    char = source.text[offset : offset + 1]
    hint = _UNQUOTED.get(char, "") if "alias" in problem or "cannot start" in problem or "anchor" in problem else ""
    if "mapping values are not allowed" in problem:
        hint = "a text that contains `: ` must stand in quotes; else check the indentation"
    elif "quoted scalar" in problem:
        hint = "a quotation mark is not closed"
        opened = getattr(error, "context_mark", None)
        offset = start + opened.index if opened is not None else offset
    elif not hint and ("expected" in problem):
        hint = "check the indentation and the quotes of this line and the one before"
    offset = max(
        start, min(offset, start + len(text.rstrip()))
    )  # an end of text is found at the start of the next part
    return diagnostic("E104", problem, Span(source, offset, min(offset + 1, len(source.text))), hint)


# --------------------------------------------------------------------------------------------------------------------
# Construction


_new = object.__new__
_Composed: TypeAlias = ScalarNode | SequenceNode | MappingNode


class _Builder:
    """Builds one document. `shared` says that the text may hold aliases: nodes are counted and watched for cycles."""

    __slots__ = ("count", "offset", "open", "problems", "shared", "source")

    def __init__(self, source: Source, offset: int, shared: bool) -> None:
        self.source = source
        self.offset = offset
        self.shared = shared
        self.problems: list[Diagnostic] = []
        self.open: set[int] = set()
        self.count = 0

    def build(self, node: _Composed, depth: int) -> YamlNode:
        return self.scalar(node) if isinstance(node, ScalarNode) else self.collection(node, depth)

    def collection(self, node: SequenceNode | MappingNode, depth: int) -> YamlNode:
        if self.shared or depth > MAX_DEPTH:
            return self.bounded(node, depth)
        return self.sequence(node, depth) if isinstance(node, SequenceNode) else self.mapping(node, depth)

    def bounded(self, node: SequenceNode | MappingNode, depth: int) -> YamlNode:
        """A collection that may be too deep, stand inside itself or be one of too many; nothing in the place of it."""
        start = node.start_mark.index + self.offset
        if depth > MAX_DEPTH:
            self.problems.append(_deep(self.source, start))
            return self.nothing(start)
        self.count += _weight(node)
        if id(node) in self.open or self.count > MAX_EXPANDED:
            cyclic = id(node) in self.open
            if cyclic or not any(p.code == "E106" for p in self.problems):
                why = "an alias contains itself" if cyclic else f"aliases expand to more than {MAX_EXPANDED:,} nodes"
                self.problems.append(diagnostic("E106", why, Span(self.source, start, start + 1)))
            return self.nothing(start)
        self.open.add(id(node))
        try:
            return self.sequence(node, depth) if isinstance(node, SequenceNode) else self.mapping(node, depth)
        finally:
            self.open.discard(id(node))

    def nothing(self, start: int) -> YamlScalar:
        return YamlScalar(None, "", start, start)

    def scalar(self, node: ScalarNode) -> YamlScalar:
        if node.tag:
            return self.tagged(node)
        made = _new(YamlScalar)  # calling the class would cost more than all else here
        made.value = made.text = text = node.value
        made.start = node.start_mark.index
        made.end = node.end_mark.index
        if self.offset:  # few texts are composed in parts
            made.start += self.offset
            made.end += self.offset
        style = node.style
        if style:
            made.plain = False
            if style in "|>":
                source = self.source.text
                while source[made.end - 1] in " \r\n":
                    made.end -= 1
            return made
        made.plain = True
        if (len(text) < 6 or text < ":") and text[:1] in _HINTS:  # words are short, numbers and dates stand before `:`
            made.value = _implicit(text)[1]
        return made

    def tagged(self, node: ScalarNode) -> YamlScalar:
        start, end = node.start_mark.index + self.offset, node.end_mark.index + self.offset
        text = node.value
        if node.tag in (_PREFIX + "str", "!"):
            return YamlScalar(text, text, start, end)
        tag, value = _implicit(text)
        if tag == node.tag:
            return YamlScalar(value, text, start, end)
        if node.tag in _CONSTRUCT:
            message = f"`{text}` is not of the type that its tag names"
        else:
            message = f"the tag `{node.tag}` is not supported"
        self.problems.append(diagnostic("E109", message, Span(self.source, start, end)))
        return YamlScalar(text, text, start, end)

    def sequence(self, node: SequenceNode, depth: int) -> YamlList:
        if node.tag:
            self.check_tag(node)
        items: list[YamlNode] = []
        depth += 1
        for item in node.value:  # a comprehension is a call of its own, and its calls cost more
            items.append(self.scalar(item) if type(item) is ScalarNode else self.collection(item, depth))  # noqa: PERF401
        end = items[-1].end if items and not node.flow_style else node.end_mark.index + self.offset
        return YamlList(items, node.start_mark.index + self.offset, end)

    def mapping(self, node: MappingNode, depth: int) -> YamlMap:
        if node.tag:
            self.check_tag(node)
        depth += 1
        values: dict[str, YamlNode] = {}
        keys: dict[str, YamlScalar | ScalarNode] = {}
        merged: list[tuple[_Composed, ScalarNode]] = []
        for key, value in node.value:
            if type(key) is not ScalarNode:
                self.bad_key(key)
                continue
            text = key.value
            known = self.tagged(key) if key.tag else key
            if text in values:
                self.duplicate(known, keys[text])
            if text == "<<" and known is key and not key.style:
                merged.append((value, key))
                continue
            last = values[text] = self.scalar(value) if type(value) is ScalarNode else self.collection(value, depth)
            keys[text] = known
        start = node.start_mark.index + self.offset
        if not values or node.flow_style:
            end = node.end_mark.index + self.offset
        else:
            end = max(start, last.end) if self.shared else last.end  # an alias may end before the map begins
        if merged:
            below = self.merged(merged, depth)
            values = {**below.values, **values}
            keys = {**below.keys(), **keys}
        return YamlMap(values, keys, start, end, self.scalar)

    def merged(self, merged: list[tuple[_Composed, ScalarNode]], depth: int) -> YamlMap:
        """What `<<` brings in: of several maps the first one wins (YAML 1.1 merge keys)."""
        values: dict[str, YamlNode] = {}
        keys: dict[str, YamlScalar] = {}
        for node, key in merged:
            value = self.build(node, depth)
            for part in value.items if isinstance(value, YamlList) else [value]:
                if isinstance(part, YamlMap):
                    values = {**part.values, **values}
                    keys = {**part.keys(), **keys}
                else:
                    at = Span(self.source, key.start_mark.index + self.offset, key.end_mark.index + self.offset)
                    self.problems.append(diagnostic("E111", "`<<` merges a map or a list of maps", at))
        return YamlMap(values, keys, 0, 0)

    def check_tag(self, node: MappingNode | SequenceNode) -> None:
        if node.tag not in ("!", _PREFIX + "map", _PREFIX + "seq"):
            start = node.start_mark.index + self.offset
            message = f"the tag `{node.tag}` is not supported"
            self.problems.append(diagnostic("E109", message, Span(self.source, start, start + 1)))

    def bad_key(self, node: MappingNode | SequenceNode) -> None:
        start = node.start_mark.index + self.offset
        hint = "a text that starts with `{` or `[` must stand in quotes"
        at = Span(self.source, start, start + 1)
        self.problems.append(diagnostic("E108", "a key must be text, not a list or a map", at, hint))

    def duplicate(self, again: YamlScalar | ScalarNode, before: YamlScalar | ScalarNode) -> None:
        key, first = (one if isinstance(one, YamlScalar) else self.scalar(one) for one in (again, before))
        line = self.source.position(first.start)[0]
        hint = f"it stands first on line {line}; only one of the two would count"
        at = Span(self.source, key.start, key.end)
        self.problems.append(diagnostic("E107", f"the key `{key.text}` stands here a second time", at, hint))


def _weight(node: SequenceNode | MappingNode) -> int:
    """What a collection adds to the size of its document: its entries, and one for every 256 characters of text."""
    weight = 1 + len(node.value)
    for part in node.value:
        value = part if isinstance(node, SequenceNode) else part[1]
        if type(value) is ScalarNode and len(value.value) > 255:
            weight += len(value.value) >> 8
    return weight
