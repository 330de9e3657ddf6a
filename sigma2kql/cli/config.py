"""`sigma2kql.yml`: options that a repository keeps beside its rules; flags of the command line win over it.

Place in the flow: read before a command runs. Invariant: an unknown key or a value of the wrong shape is an error
with its position, never ignored.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Source, Span, diagnostic, did_you_mean, frozen
from sigma2kql.system.bounded_files import read_text
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode, YamlScalar, plain
from sigma2kql.text.yaml_text import compose

NAME = "sigma2kql.yml"
KEYS = (
    "target",
    "format",
    "mappings",
    "tables",
    "prefer",
    "sources",
    "placeholders",
    "builtin",
    "strict",
    "union",
    "time",
    "prefilter",
    "deploy",
    "directories",
    "profile",
)


@frozen
class Config:
    """What the file says; None or empty where it says nothing. `deploy` holds settings of artifacts."""

    path: Path | None = None
    target: str | None = None
    format: str | None = None
    mappings: tuple[Path, ...] = ()
    tables: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    placeholders: dict[str, tuple[str, ...]] = field(default_factory=dict)
    builtin: bool | None = None
    strict: bool | None = None
    union: bool | None = None
    time: str | None = None
    prefilter: bool | None = None
    deploy: dict[str, Any] = field(default_factory=dict)
    directories: dict[str, Any] = field(default_factory=dict)
    profile: Path | None = None
    spans: dict[str, Span] = field(default_factory=dict)


def find_config(start: Path) -> Path | None:
    """The nearest sigma2kql.yml in a folder or one above it."""
    for folder in (start, *start.parents):
        candidate = folder / NAME
        if candidate.is_file():
            return candidate
    return None


def read_config(path: Path) -> Config:
    """The configuration. Raises Sigma2KqlError with every problem in it; paths in it are relative to its folder."""
    try:
        source = Source(str(path), read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise Sigma2KqlError([diagnostic("E804", f"cannot read {path}: {error}")]) from error
    documents = compose(source)
    problems = [p for document in documents for p in document.problems if p.severity == "error"]
    root = documents[0].root if documents else None
    if root is None or problems:
        if problems:
            raise Sigma2KqlError(problems)
        return Config(path)
    if len(documents) > 1 or not isinstance(root, YamlMap):
        raise Sigma2KqlError([diagnostic("E804", "a configuration is one map", Span(source, root.start, root.end))])
    return _Reader(source, path, problems).read(root)


class _Reader:
    def __init__(self, source: Source, path: Path, problems: list[Diagnostic]) -> None:
        self.source = source
        self.path = path
        self.problems = problems

    def wrong(self, node: YamlNode, message: str, hint: str = "") -> None:
        self.problems.append(diagnostic("E804", message, Span(self.source, node.start, node.end), hint))

    def read(self, root: YamlMap) -> Config:
        values: dict[str, Any] = {}
        spans: dict[str, Span] = {}
        for name, node in root.values.items():
            if name not in KEYS:
                hint = did_you_mean(name, KEYS) or f"known: {', '.join(KEYS)}"
                self.wrong(root.key(name), f"unknown key `{name}`", hint)
                continue
            spans[name] = Span(self.source, node.start, node.end)
            values[name] = self._value(name, node)
        if self.problems:
            raise Sigma2KqlError(self.problems)
        return Config(self.path, **values, spans=spans)

    def _value(self, name: str, node: YamlNode) -> Any:
        match name:
            case "mappings":
                return tuple(self.path.parent / text for text in self._texts(name, node))
            case "profile":
                texts = self._texts(name, node)
                if len(texts) != 1:
                    self.wrong(node, "`profile` is one file")
                    return None
                return self.path.parent / texts[0]
            case "tables" | "prefer" | "sources":
                return tuple(self._texts(name, node))
            case "builtin" | "strict" | "prefilter" | "union":
                if not isinstance(node, YamlScalar) or not isinstance(node.value, bool):
                    self.wrong(node, f"`{name}` is true or false")
                    return None
                return node.value
            case "placeholders":
                if not isinstance(node, YamlMap):
                    self.wrong(node, "`placeholders` maps names to values")
                    return {}
                return {key: tuple(self._texts(key, value)) for key, value in node.values.items()}
            case "deploy" | "directories":
                if not isinstance(node, YamlMap):
                    self.wrong(node, f"`{name}` is a map")
                    return {}
                return plain(node)
            case _:
                texts = self._texts(name, node)
                if len(texts) != 1:
                    self.wrong(node, f"`{name}` is one text")
                    return None
                return texts[0]

    def _texts(self, name: str, node: YamlNode) -> list[str]:
        items = node.items if isinstance(node, YamlList) else [node]
        texts = []
        for item in items:
            if isinstance(item, YamlScalar) and item.value is not None:
                texts.append(item.value if isinstance(item.value, str) else item.text)
            else:
                self.wrong(item, f"`{name}` takes text or a list of texts")
        return texts
