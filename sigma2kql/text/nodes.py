"""The nodes of a text that was read, which know where they stand.

Place in the flow: the ground of all that reads documents; `yaml_text` and `json_text` make them. Invariant: what a node
says of its place are characters of its source, and every node of a document stands in at most `MAX_DEPTH` others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, assert_never

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic

if TYPE_CHECKING:
    from yaml.nodes import ScalarNode

MAX_DEPTH = 64


class YamlScalar:
    """One value: its YAML 1.1 reading, its text after unquoting, its place and whether it stands unquoted."""

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
        case _:
            assert_never(node)


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

    code: Code
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
