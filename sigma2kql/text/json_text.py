"""JSON text to the nodes of `nodes`, which know where they stand.

Place in the flow: beside `yaml_text`; the loader reads exported artifacts (`*.json`) with it. Invariant: `compose_json`
never raises and needs time and stack in proportion to the size of the text; a map never has one key twice.

JSON is not read as YAML, of which it is nearly a part: `\\ud83d\\ude00`, tabs and long numbers mean other things there.
Comments are skipped, as Azure Resource Manager does in templates (RFC 8259; "Syntax and structure of ARM templates").
"""

from __future__ import annotations

import re
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]
from math import isinf

from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic
from sigma2kql.text.nodes import MAX_DEPTH, YamlDocument, YamlList, YamlMap, YamlNode, YamlScalar

_GAP = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*(?:[^*]|\*(?!/))*\*/)*")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,300})(?:\.\d{1,300})?(?:[eE][+-]?\d{1,4})?(?![\w.])", re.ASCII)
_WORDS = {"true": True, "false": False, "null": None}
_LONE = re.compile("[\ud800-\udfff]")


class _NotJsonError(Exception):
    def __init__(self, problem: Diagnostic) -> None:
        super().__init__()
        self.problem = problem


def compose_json(source: Source) -> YamlDocument:
    """The one value of a JSON text, with every problem found; the root is None where it is not JSON (E105, E116)."""
    reader = _Reader(source)
    try:
        root: YamlNode | None = reader.whole()
    except _NotJsonError as stop:
        root = None
        reader.problems.insert(0, stop.problem)
    return YamlDocument(root, 0, len(source.text), reader.problems)


class _Reader:
    """Recursive descent; the depth is bounded, so that the stack is."""

    __slots__ = ("problems", "source", "text")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.text = source.text
        self.problems: list[Diagnostic] = []

    def whole(self) -> YamlNode:
        root = self.value(self.gap(0), 0)
        end = self.gap(root.end)
        if end < len(self.text):
            raise self.stop(end, "something stands behind the end of the value", "a file holds one value")
        return root

    def gap(self, at: int) -> int:
        found = _GAP.match(self.text, at)
        return found.end() if found else at

    def stop(self, at: int, message: str, hint: str = "") -> _NotJsonError:
        place = Span(self.source, at, min(at + 1, len(self.text)))
        return _NotJsonError(diagnostic("E116", f"not JSON: {message}", place, hint))

    def value(self, at: int, depth: int) -> YamlNode:
        if depth > MAX_DEPTH:
            place = Span(self.source, at, at + 1)
            raise _NotJsonError(diagnostic("E105", f"nested more than {MAX_DEPTH} levels deep", place))
        match self.text[at : at + 1]:
            case "{":
                return self.map(at, depth)
            case "[":
                return self.list(at, depth)
            case '"':
                return self.string(at)
            case "":
                raise self.stop(at, "the text ends where a value is to be")
            case _:
                return self.plain(at)

    def map(self, start: int, depth: int) -> YamlMap:
        values: dict[str, YamlNode] = {}
        keys: dict[str, YamlScalar] = {}
        at = self.gap(start + 1)
        while self.text[at : at + 1] != "}":
            if keys:
                at = self.comma(at, "}")
            if self.text[at : at + 1] != '"':
                raise self.stop(at, "a key in double quotes is to be here")
            key = self.string(at)
            at = self.gap(key.end)
            if self.text[at : at + 1] != ":":
                raise self.stop(at, f"a colon is to be behind the key `{key.text[:40]}`")
            value = self.value(self.gap(at + 1), depth + 1)
            if key.text in keys:
                self.duplicate(key, keys[key.text])
            else:
                values[key.text] = value
                keys[key.text] = key
            at = self.gap(value.end)
        return YamlMap(values, keys, start, at + 1)

    def list(self, start: int, depth: int) -> YamlList:
        items: list[YamlNode] = []
        at = self.gap(start + 1)
        while self.text[at : at + 1] != "]":
            if items:
                at = self.comma(at, "]")
            items.append(self.value(at, depth + 1))
            at = self.gap(items[-1].end)
        return YamlList(items, start, at + 1)

    def comma(self, at: int, closing: str) -> int:
        if self.text[at : at + 1] != ",":
            raise self.stop(at, f"a comma or `{closing}` is to be here")
        following = self.gap(at + 1)
        if self.text[following : following + 1] == closing:
            raise self.stop(at, f"no comma may stand before `{closing}`")
        return following

    def string(self, at: int) -> YamlScalar:
        try:
            text, end = scanstring(self.text, at + 1, True)
        except JSONDecodeError as error:
            raise self.stop(error.pos, error.msg[0].lower() + error.msg[1:]) from None
        if _LONE.search(text):
            raise self.stop(at, "half of a surrogate pair stands for no character")
        return YamlScalar(text, text, at, end)

    def plain(self, at: int) -> YamlScalar:
        number = _NUMBER.match(self.text, at)
        if number:
            word = number.group()
            value = float(word) if re.search("[.eE]", word) else int(word)
            if isinf(value):
                raise self.stop(at, "the number is too large")
            return YamlScalar(value, word, at, number.end(), plain=True)
        for word, meaning in _WORDS.items():
            if self.text.startswith(word, at) and not self.text[at + len(word) : at + len(word) + 1].isalnum():
                return YamlScalar(meaning, word, at, at + len(word), plain=True)
        raise self.stop(
            at, "a value is to be here: a map, a list, a text in double quotes, a number, true, false or null"
        )

    def duplicate(self, key: YamlScalar, first: YamlScalar) -> None:
        hint = f"it stands first on line {self.source.position(first.start)[0]}; only one of the two would count"
        at = Span(self.source, key.start, key.end)
        self.problems.append(diagnostic("E107", f"the key `{key.text}` stands here a second time", at, hint))
