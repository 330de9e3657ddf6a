"""What a document says about itself: title, id, dates, tags and the rest, and its log source.

Place in the flow: part of loading. Invariant: bad metadata never costs a rule; what could not be used is a warning at
its place. A log source decides what a rule means, so a bad one is an error. Source: Sigma specification 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from sys import intern
from typing import Any

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic, did_you_mean
from sigma2kql.model.tree import LogSource, Metadata
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode, YamlScalar, plain, span

STATUSES = ("stable", "test", "experimental", "deprecated", "unsupported")
LEVELS = ("informational", "low", "medium", "high", "critical")
RELATIONS = ("derived", "obsolete", "obsoletes", "merged", "renamed", "similar", "correlation")
MAX_TITLE = 256
MAX_DESCRIPTION = 65_535

_UUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_TAG = re.compile(r"[^\s.]+\.\S+")
_DATE = re.compile(r"(\d{4})([-/])(\d{1,2})\2(\d{1,2})")

# Keys of other places: at the top they say nothing.
_ELSEWHERE = {
    "condition": "it belongs under `detection`",
    "timeframe": "only a correlation looks at a span of time: `timespan` under `correlation`",
    "timespan": "it belongs under `correlation`",
}
_STRUCTURE = frozenset({"logsource", "detection", "correlation", "filter", "action", "taxonomy", "generate"})


@lru_cache(maxsize=8192)
def _day(text: str) -> str | None:
    found = _DATE.match(text.strip())
    try:
        return None if found is None else date(int(found[1]), int(found[3]), int(found[4])).isoformat()
    except ValueError:
        return None


@lru_cache(maxsize=8192)
def _has_namespace(tag: str) -> bool:
    return _TAG.fullmatch(tag) is not None


class MetadataReader:
    """Reads the metadata of one document; `problems` receives the warnings."""

    __slots__ = ("document", "problems", "source")

    def __init__(self, source: Source, document: YamlMap, problems: list[Diagnostic]) -> None:
        self.source = source
        self.document = document
        self.problems = problems

    def read(self) -> Metadata:
        """The metadata; unknown keys are kept in `custom` as plain values."""
        custom: dict[str, Any] = {}
        values: dict[str, Any] = {}
        for key, node in self.document.values.items():
            read = _READERS.get(key)
            if read is not None:
                value = read(self, key, node)
                if value is not None:
                    values[intern(key)] = value  # a call compares names that are not interned letter by letter
            elif key not in _STRUCTURE:
                custom[key] = plain(node)
                self._named(key)
        if "title" not in values:
            start = self.document.start
            self.warn("W201", "the document has no title", Span(self.source, start, start + 1))
        return Metadata(custom=custom, **values)

    def _named(self, key: str) -> None:
        """A key that the specification does not have is the author's own, unless it looks like one that it has."""
        at = span(self.source, self.document.key(key))
        if key in _ELSEWHERE:
            self.warn("W207", f"`{key}` has no effect here", at, _ELSEWHERE[key])
        elif hint := did_you_mean(key, (*_READERS, *_STRUCTURE, *_ELSEWHERE)):
            self.warn("W207", f"unknown key `{key}`", at, hint)

    def warn(self, code: Code, message: str, at: Span, hint: str = "") -> None:
        self.problems.append(diagnostic(code, message, at, hint))

    def text(self, key: str, node: YamlNode) -> str | None:
        if isinstance(node, YamlScalar):
            if type(node.value) is str:
                return node.text
            if node.value is None:
                return None
            self.warn("W201", f"`{key}` should be text", span(self.source, node), f"write '{node.text}' in quotes")
            return node.text
        self.warn("W201", f"`{key}` should be text and is left out", span(self.source, node))
        return None

    def title(self, key: str, node: YamlNode) -> str | None:
        text = self.text(key, node)
        if text is not None and len(text) > MAX_TITLE:
            self.warn("W201", f"the title is longer than {MAX_TITLE} characters", span(self.source, node))
        return text or None

    def description(self, key: str, node: YamlNode) -> str | None:
        text = self.text(key, node)
        if text is not None and len(text) > MAX_DESCRIPTION:
            self.warn("W201", f"the description is longer than {MAX_DESCRIPTION:,} characters", span(self.source, node))
        return text

    def identifier(self, _key: str, node: YamlNode) -> str | None:
        if isinstance(node, YamlScalar) and node.value is not None:
            if not _UUID.fullmatch(node.text):
                self.warn("W202", f"the id `{node.text}` is not a UUID", span(self.source, node))
            return node.text
        if not isinstance(node, YamlScalar):
            self.warn("W201", "`id` should be text and is left out", span(self.source, node))
        return None

    def one_of(self, key: str, node: YamlNode) -> str | None:
        known = STATUSES if key == "status" else LEVELS
        text = self.text(key, node)
        if text is None or text in known:
            return text
        folded = text.strip().lower()
        if folded in known:
            return folded
        hint = did_you_mean(folded, known) or f"one of {', '.join(known)}"
        self.warn(
            "W205", f"`{text}` is not a {key} of the Sigma language and is left out", span(self.source, node), hint
        )
        return None

    def day(self, key: str, node: YamlNode) -> str | None:
        if not isinstance(node, YamlScalar):
            self.warn("W204", f"`{key}` should be a date and is left out", span(self.source, node))
            return None
        if node.value is None:
            return None
        if type(node.value) is date:  # YAML reads no other form of a day
            return node.text
        found = _day(node.text)
        if found is not None:
            return found
        message = f"`{node.text}` is not a date and is left out"
        self.warn("W204", message, span(self.source, node), "write it as YYYY-MM-DD")
        return None

    def texts(self, key: str, node: YamlNode) -> tuple[str, ...] | None:
        if isinstance(node, YamlList):
            texts = [item.text for item in node.items if isinstance(item, YamlScalar) and item.value is not None]
            if len(texts) < len(node.items):
                self.warn("W206", f"entries of `{key}` that are not text are left out", span(self.source, node))
            return tuple(texts)
        if isinstance(node, YamlScalar):
            if node.value is None:
                return None
            self.warn("W206", f"`{key}` should be a list", span(self.source, node), "write `- ` before it")
            return (node.text,)
        self.warn("W206", f"`{key}` should be a list and is left out", span(self.source, node))
        return None

    def tags(self, key: str, node: YamlNode) -> tuple[str, ...] | None:
        tags = self.texts(key, node)
        if tags is None or all(map(_has_namespace, tags)):
            return tags
        for item in node.items if isinstance(node, YamlList) else ():
            if isinstance(item, YamlScalar) and item.value is not None and not _has_namespace(item.text):
                message = f"the tag `{item.text}` has no namespace"
                self.warn("W203", message, span(self.source, item), "like attack.t1059.001")
        return tags

    def related(self, key: str, node: YamlNode) -> tuple[Mapping[str, str], ...]:
        found: list[Mapping[str, str]] = []
        for item in node.items if isinstance(node, YamlList) else [node]:
            other = item.get("id") if isinstance(item, YamlMap) else None
            kind = item.get("type") if isinstance(item, YamlMap) else None
            if isinstance(other, YamlScalar) and isinstance(kind, YamlScalar) and kind.text in RELATIONS:
                found.append({"id": other.text, "type": kind.text})
            elif not (isinstance(item, YamlScalar) and item.value is None):
                hint = f"a list of maps with `id` and `type`, which is one of {', '.join(RELATIONS)}"
                self.warn("W201", f"an entry of `{key}` is left out", span(self.source, item), hint)
        return tuple(found)


_READERS = {
    "title": MetadataReader.title,
    "id": MetadataReader.identifier,
    "name": MetadataReader.text,
    "status": MetadataReader.one_of,
    "level": MetadataReader.one_of,
    "description": MetadataReader.description,
    "author": MetadataReader.text,
    "date": MetadataReader.day,
    "modified": MetadataReader.day,
    "license": MetadataReader.text,
    "references": MetadataReader.texts,
    "tags": MetadataReader.tags,
    "fields": MetadataReader.texts,
    "falsepositives": MetadataReader.texts,
    "related": MetadataReader.related,
}


def read_logsource(source: Source, document: YamlMap, problems: list[Diagnostic]) -> LogSource | None:
    """The log source of a rule or filter; None where there is an error, which is then in `problems`."""
    node = document.get("logsource")
    if node is None:
        at = Span(source, document.start, document.start + 1)
        hint = "it needs `logsource` with at least one of category, product and service"
        problems.append(diagnostic("E201", "the document has no log source", at, hint))
        return None
    if not isinstance(node, YamlMap):
        key = document.key("logsource")
        at = Span(source, key.start, max(node.end, key.end))
        problems.append(diagnostic("E202", "`logsource` must be a map", at, "like `category: process_creation`"))
        return None
    values: dict[str, str] = {}
    failed = False
    for name in ("category", "product", "service"):
        value = node.values.get(name)
        if value is None or (isinstance(value, YamlScalar) and value.value is None):
            continue
        text = value.text.strip() if isinstance(value, YamlScalar) and type(value.value) is str else ""
        if not text:
            hint = (
                "one rule speaks of one log source; write one document for each" if isinstance(value, YamlList) else ""
            )
            problems.append(diagnostic("E204", f"`{name}` of a log source must be text", span(source, value), hint))
            failed = True
            continue
        values[name] = folded = text.lower()
        if text != folded:
            message = f"log sources are written in lower case: `{text}` is read as `{folded}`"
            problems.append(diagnostic("W215", message, span(source, value)))
    if not values and not failed:
        hint = did_you_mean(next(iter(node.values), ""), ("category", "product", "service"))
        message = "the log source names no category, product or service"
        problems.append(diagnostic("E203", message, span(source, document.key("logsource")), hint))
        failed = True
    return None if failed else LogSource(span=span(source, node), **values)
