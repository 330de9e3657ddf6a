"""YAML text to nodes that know where they stand.

Place in the flow: first; the loader and the mapping files read their documents from here. Invariant: `compose` never
raises, never runs code that a text names, and needs time and stack in proportion to the size of the text: what is too
large, too deep or expands without end is refused before or while it is built.

Scalars are read as YAML 1.1 (as PyYAML does, which the public rules were tested with); the text as written is kept.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import yaml
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, ScalarNode, SequenceNode
from yaml.reader import Reader, ReaderError
from yaml.resolver import Resolver

from sigma2kql.errors import Diagnostic, Source, Span, diagnostic

MAX_SIZE = 5 * 1024 * 1024
MAX_DEPTH = 64
MAX_EXPANDED = 100_000
MAX_UNCHECKED = 2_000  # levels that the C composer can take on a small stack


class YamlScalar:
    """One value: its YAML 1.1 reading, its text after unquoting, whether it stands unquoted, and its characters."""

    __slots__ = ("end", "plain", "start", "text", "value")

    def __init__(self, value: Any, text: str, start: int, end: int, plain: bool = False) -> None:
        self.value = value
        self.text = text
        self.start = start
        self.end = end
        self.plain = plain


class YamlList:
    """A sequence of nodes."""

    __slots__ = ("end", "items", "start")

    def __init__(self, items: list[YamlNode], start: int, end: int) -> None:
        self.items = items
        self.start = start
        self.end = end


class YamlMap:
    """A mapping in written order: text of the key -> value. Keys are unique by their text.

    Few keys are asked for more than their text: `keys` may hold them as they were composed, which `read` reads.
    """

    __slots__ = ("_keys", "_read", "end", "start", "values")

    def __init__(
        self,
        values: dict[str, YamlNode],
        keys: Mapping[str, YamlScalar | ScalarNode],
        start: int,
        end: int,
        read: Callable[[ScalarNode], YamlScalar] | None = None,
    ) -> None:
        self.values = values
        self.start = start
        self.end = end
        self._keys = keys
        self._read = read

    def get(self, key: str) -> YamlNode | None:
        """The value under a key, or None where the key is absent."""
        return self.values.get(key)

    def key(self, text: str) -> YamlScalar:
        """The key of this text. Raises KeyError where it is absent."""
        key = self._keys[text]
        if isinstance(key, YamlScalar):
            return key
        assert self._read is not None
        return self._read(key)

    def keys(self) -> dict[str, YamlScalar]:
        """Every key."""
        return {text: self.key(text) for text in self._keys}


YamlNode: TypeAlias = YamlScalar | YamlList | YamlMap


class YamlDocument:
    """One document of a file: its root (None where it could not be composed), its extent and its problems."""

    __slots__ = ("end", "problems", "root", "start")

    def __init__(self, root: YamlNode | None, start: int, end: int, problems: list[Diagnostic]) -> None:
        self.root = root
        self.start = start
        self.end = end
        self.problems = problems


def span(source: Source, node: YamlNode) -> Span:
    """The characters of a node."""
    return Span(source, node.start, node.end)


def plain(node: YamlNode) -> Any:
    """The node as dicts, lists, text, numbers, bools and None; dates stay as they are written."""
    match node:
        case YamlMap():
            return {key: plain(value) for key, value in node.values.items()}
        case YamlList():
            return [plain(item) for item in node.items]
        case YamlScalar():
            return node.value if isinstance(node.value, (str, int, float)) or node.value is None else node.text


# --------------------------------------------------------------------------------------------------------------------
# Scalars


def _timestamp(reader: SafeConstructor, node: ScalarNode) -> date:
    """What PyYAML reads; a day without the second regular expression. Raises ValueError for a 32nd of January."""
    text = node.value
    return date.fromisoformat(text) if len(text) == 10 else reader.construct_yaml_timestamp(node)


_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = Resolver.yaml_implicit_resolvers
_HINTS = frozenset(_RESOLVERS) - {"=", "<"}  # `=` and `<<` have a meaning for keys at most
_PREFIX = "tag:yaml.org,2002:"
_CONSTRUCT = {
    _PREFIX + "null": SafeConstructor.construct_yaml_null,
    _PREFIX + "bool": SafeConstructor.construct_yaml_bool,
    _PREFIX + "int": SafeConstructor.construct_yaml_int,
    _PREFIX + "float": SafeConstructor.construct_yaml_float,
    _PREFIX + "timestamp": _timestamp,
}
_READER = SafeConstructor()


@lru_cache(maxsize=16384)
def _implicit(text: str) -> tuple[str, Any]:
    """Tag and value of an unquoted scalar; what only looks like a date or a number is text."""
    for tag, pattern in _RESOLVERS.get(text[:1], ()):
        if tag in _CONSTRUCT and pattern.match(text):
            try:
                return tag, _CONSTRUCT[tag](_READER, ScalarNode(tag, text))
            except (ValueError, OverflowError):
                break
    return _PREFIX + "str", text


_CANONICAL = re.compile(r"~|null|Null|NULL||true|True|TRUE|false|False|FALSE|[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?")


def trap(node: YamlScalar) -> str:
    """What YAML 1.1 makes of an unquoted scalar that YAML 1.2 readers read otherwise, in words; else an empty text.

    yes/no/on/off, octal, hexadecimal and binary numbers, sexagesimal numbers, underscores, dates.
    """
    value = node.value
    if not node.plain or isinstance(value, str) or _CANONICAL.fullmatch(node.text):
        return ""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}" if value - value == 0 else ""
        case None:
            return "null"
        case _:
            return "a date"


# --------------------------------------------------------------------------------------------------------------------
# Positions inside a scalar


class Fault(NamedTuple):
    """What is wrong with a part of a scalar; `start` and `end` count from the start of its text."""

    code: str
    message: str
    start: int
    end: int
    hint: str = ""

    def diagnostic(self, source: Source, node: YamlScalar, offset: int = 0) -> Diagnostic:
        """The same at its place in the source."""
        at = locate(source, node, offset + self.start, offset + self.end)
        return diagnostic(self.code, self.message, at, self.hint)


_ESCAPED_SPACE = re.compile(r"\\(?:[nrt ]|\r?\n)")


def locate(source: Source, node: YamlScalar, start: int, end: int) -> Span:
    """The characters of `node` that gave `start` to `end` of its text; the whole scalar where that is unclear.

    Words are followed through quotes, folding and block indentation by counting what is not white space.
    """
    raw = source.text[node.start : node.end]
    skip = 0
    if raw[:1] in ("'", '"'):
        skip = 1
        if raw[0] == '"':
            raw = _ESCAPED_SPACE.sub(lambda m: " " * len(m[0]), raw)
        raw = raw[:-1]
    elif raw[:1] in ("|", ">") and not node.plain:
        skip = raw.find("\n") + 1 or len(raw)
    elif node.plain and raw == node.text:
        return Span(source, node.start + start, node.start + max(end, start))
    solid = [i for i in range(skip, len(raw)) if not raw[i].isspace()]
    before = sum(1 for char in node.text[:start] if not char.isspace())
    inside = sum(1 for char in node.text[start:end] if not char.isspace())
    if len(solid) != sum(1 for char in node.text if not char.isspace()):
        return Span(source, node.start, node.end)
    if before >= len(solid):
        last = solid[-1] + 1 if solid else skip
        return Span(source, node.start + last, node.start + last)
    first = solid[before]
    last = solid[before + inside - 1] + 1 if inside else first
    return Span(source, node.start + first, node.start + last)


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
    """Refuse what would exhaust the composer's stack: libyaml dies of 50,000 `[`. Its events need no stack."""
    text = source.text
    if len(text) <= MAX_UNCHECKED:
        return None
    # A level needs a bracket, or stands further to the right than the one around it (a list in a map: as far).
    if text.count("[") + text.count("{") + 2 * max(map(len, text.split("\n"))) <= MAX_UNCHECKED:
        return None
    depth = 0
    opens = (yaml.SequenceStartEvent, yaml.MappingStartEvent)
    parser = _Composer(text)
    try:
        while parser.check_event():
            event = parser.get_event()
            if isinstance(event, opens):
                depth += 1
                if depth > MAX_DEPTH:
                    return _deep(source, event.start_mark.index)  # type: ignore[union-attr]
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                depth -= 1
    except (yaml.YAMLError, UnicodeError):
        pass  # composing reaches the same place, no deeper, and reports it
    finally:
        parser.dispose()
    return None


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
            return _nothing(start)
        self.count += _weight(node)
        if id(node) in self.open or self.count > MAX_EXPANDED:
            cyclic = id(node) in self.open
            if cyclic or not any(p.code == "E106" for p in self.problems):
                why = "an alias contains itself" if cyclic else f"aliases expand to more than {MAX_EXPANDED:,} nodes"
                self.problems.append(diagnostic("E106", why, Span(self.source, start, start + 1)))
            return _nothing(start)
        self.open.add(id(node))
        try:
            return self.sequence(node, depth) if isinstance(node, SequenceNode) else self.mapping(node, depth)
        finally:
            self.open.discard(id(node))

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
        if text[:1] in _HINTS and (len(text) < 6 or not text[0].isalpha()):  # words have at most five letters
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
        collection = self.collection
        scalar = self.scalar
        depth += 1
        items = [scalar(item) if type(item) is ScalarNode else collection(item, depth) for item in node.value]
        end = items[-1].end if items and not node.flow_style else node.end_mark.index + self.offset
        return YamlList(items, node.start_mark.index + self.offset, end)

    def mapping(self, node: MappingNode, depth: int) -> YamlMap:
        if node.tag:
            self.check_tag(node)
        collection = self.collection
        scalar = self.scalar
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
            values[text] = scalar(value) if type(value) is ScalarNode else collection(value, depth)
            keys[text] = known
        start = node.start_mark.index + self.offset
        if values and not node.flow_style:
            end = max(start, next(reversed(values.values())).end)
        else:
            end = node.end_mark.index + self.offset
        if merged:
            below = self.merged(merged, depth)
            values = {**below.values, **values}
            keys = {**below.keys(), **keys}
        return YamlMap(values, keys, start, end, scalar)

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
    parts = node.value if isinstance(node, SequenceNode) else [value for _, value in node.value]
    return 1 + len(parts) + sum(len(part.value) >> 8 for part in parts if isinstance(part, ScalarNode))


def _nothing(start: int) -> YamlScalar:
    return YamlScalar(None, "", start, start)
