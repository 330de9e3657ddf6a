"""Bytes and text to documents: the first stage of every run.

Place in the flow: it gives `Rule`, `Correlation`, `Filter`, `NativeQuery` or `Broken` to everything behind it.
Invariant: every YAML document gives exactly one result, with every problem found in it, except templates
(`action: global` and `action: reset`), which give none unless they are broken; no input raises anything from `load`.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from typing import Any, Literal

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic, did_you_mean, fail, frozen
from sigma2kql.language.condition import read_condition
from sigma2kql.language.detection import DetectionReader
from sigma2kql.load.metadata import LEVELS, MetadataReader, read_logsource
from sigma2kql.model.tree import (
    Broken,
    Correlation,
    Document,
    Expr,
    Field,
    Filter,
    Metadata,
    NativeQuery,
    Or,
    Origin,
    Reference,
    Rule,
)
from sigma2kql.text.nodes import YamlDocument, YamlList, YamlMap, YamlScalar, plain, span
from sigma2kql.text.yaml_text import MAX_SIZE, compose

MAX_MERGED = 4 * MAX_SIZE
MAX_EXPORT = 10 * MAX_SIZE  # one file holds all the rules of a workspace
MARKS = frozenset({"resources", "value", "properties", "queryCondition"})  # one of them is in every export

Kind = Literal["detection", "correlation", "filter", "native"]


def decode(path: str, data: bytes, max_size: int = MAX_SIZE) -> Source:
    """The text of a file: UTF-8, with or without a byte order mark. Raises Sigma2KqlError (E101, E102, E103)."""
    if path.endswith(".json"):
        max_size = max(max_size, MAX_EXPORT)
    if len(data) > max_size:
        message = f"the file has {len(data):,} bytes; at most {max_size:,} are read"
        raise fail("E102", message, Span(Source(path, ""), 0, 0))
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise fail("E101", "the file is UTF-16, not UTF-8", Span(Source(path, ""), 0, 0), "save it as UTF-8")
    try:
        source = Source(path, data.removeprefix(BOM_UTF8).decode())  # the codec utf-8-sig is written in Python
    except UnicodeDecodeError as error:
        start = len(error.object[: error.start].decode("utf-8"))
        source = Source(path, error.object.decode("utf-8", "replace"))
        message = f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
        raise fail("E101", message, Span(source, start, start + 1), "save the file as UTF-8") from None
    nul = source.text.find("\0")
    if nul >= 0:
        raise fail("E103", "the file holds a NUL character", Span(source, nul, nul + 1), "it may be UTF-16 or binary")
    return source


def load(source: Source) -> tuple[Document, ...]:
    """Every document of a text, in order, each with its problems. Never raises."""
    composed = _compose(source)
    if not composed:
        origin = Origin(source, 0, Span(source, 0, 0))
        empty = diagnostic("E110", "the file holds no document", Span(source, 0, 0))
        return (Broken(origin, Metadata(), (empty,)),)
    templates = None
    for document in composed:
        if isinstance(document.root, YamlMap) and "action" in document.root.values:
            templates = _Templates(source)
    documents: list[Document] = []
    for index, document in enumerate(composed):
        exported = _read_exported(source, index, document)
        if exported is not None:
            documents += exported
            continue
        result = _read(source, index, document, templates)
        if result is not None:
            documents.append(result)
    if not documents:
        at = Span(source, composed[-1].start, composed[-1].start + 1)
        lone = diagnostic("E117", "the file holds a template (`action`) and no rule that takes it", at)
        documents.append(Broken(Origin(source, 0, at), Metadata(), (lone,)))
    return tuple(documents)


def _compose(source: Source) -> tuple[YamlDocument, ...]:
    if not source.path.endswith(".json") and not (source.path == "<stdin>" and _JSON.match(source.text)):
        return compose(source)
    from sigma2kql.text.json_text import compose_json

    return (compose_json(source),) if source.text.strip() else ()


_JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"')  # standard input has no name that tells


def _read_exported(source: Source, index: int, document: YamlDocument) -> list[Document] | None:
    """What was exported from a workspace or a tenant, a document a resource; None for any other document."""
    root = document.root
    if not isinstance(root, YamlList) and not (isinstance(root, YamlMap) and not MARKS.isdisjoint(root.values)):
        return None
    from sigma2kql.text.exported import read_exported  # few files need it

    found = read_exported(source, root)
    if found is None:
        return None
    documents: list[Document] = []
    rest = list(document.problems)
    for number, one in enumerate(found):
        last = number == len(found) - 1
        own = [p for p in rest if last or (p.span is not None and p.span.start < one.node.end)]
        rest = [p for p in rest if p not in own]
        origin = Origin(source, index + number, span(source, one.node))
        documents.append(_native(origin, one.data, one.query, [*own, *one.problems]))
    return documents


def _read(source: Source, index: int, document: YamlDocument, templates: _Templates | None) -> Document | None:
    origin = Origin(source, index, Span(source, document.start, document.end))
    problems = list(document.problems)
    root = document.root
    if root is None:
        return Broken(origin, Metadata(), tuple(problems))
    if not isinstance(root, YamlMap):
        if not problems:
            at = Span(source, root.start, min(root.start + 1, root.end))
            problems.append(diagnostic("E112", "the document is not a map", at, "a rule starts with `title:`"))
        return Broken(origin, Metadata(), tuple(problems))
    merged = root if templates is None else templates.apply(root, problems)
    if merged is None:
        broken = any(problem.severity == "error" for problem in problems)
        return Broken(origin, Metadata(), tuple(problems)) if broken else None
    return _Reader(source, origin, merged, problems, DetectionReader(source, problems)).read()


# --------------------------------------------------------------------------------------------------------------------
# Templates (`action`)


class _Templates:
    """What `action` documents of one file leave behind: the template and the last rule, both before reading."""

    __slots__ = ("broken", "budget", "previous", "previous_size", "source", "template")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.template: YamlMap | None = None
        self.previous: YamlMap | None = None
        self.broken: YamlMap | None = None
        self.previous_size = 0
        self.budget = MAX_MERGED

    def apply(self, root: YamlMap, problems: list[Diagnostic]) -> YamlMap | None:
        """The document as it is to be read: with the template merged in, which wins; None for a template itself."""
        if "correlation" in root.values or ("filter" in root.values and "detection" not in root.values):
            return root
        node = root.get("action")
        if node is None:
            size = 0 if self.template is None else self.template.end - self.template.start
            if not self.affordable(size, root, problems):
                return root
            merged = root if self.template is None else merge(root, self.template)
            self.previous_size = size
        else:
            values = {key: value for key, value in root.values.items() if key != "action"}
            body = YamlMap(values, root.keys(), root.start, root.end)
            action = node.text if isinstance(node, YamlScalar) else ""
            if action in ("global", "reset"):
                self.template = body if action == "global" else None
                self.broken = body if action == "global" and problems else None
                return None
            if action != "repeat":
                hint = did_you_mean(action, ("global", "reset", "repeat")) or "one of global, reset, repeat"
                problems.append(diagnostic("E113", f"unknown action `{action}`", span(self.source, node), hint))
                return body
            below = self.previous or self.template or YamlMap({}, {}, root.start, root.end)
            if not self.affordable(self.previous_size, root, problems):
                return body
            merged = merge(below, body)
            merged.start, merged.end = root.start, root.end
        if self.broken is not None:
            line = self.source.position(self.broken.start)[0]
            at = Span(self.source, root.start, root.start + 1)
            problems.append(diagnostic("E114", f"the template on line {line} is broken, and with it this rule", at))
        self.previous = merged
        self.previous_size += root.end - root.start
        return merged

    def affordable(self, size: int, root: YamlMap, problems: list[Diagnostic]) -> bool:
        """Whether `size` more characters of templates may be read again; a short file could ask for it without end."""
        self.budget -= size
        if self.budget < 0:
            message = f"the templates of this file expand to more than {MAX_MERGED:,} characters"
            problems.append(diagnostic("E106", message, Span(self.source, root.start, root.start + 1)))
        return self.budget >= 0


def merge(below: YamlMap, above: YamlMap) -> YamlMap:
    """Both maps in one: maps merge, everything else is taken from `above`. The extent is that of `below`."""
    values = dict(below.values)
    for name, value in above.values.items():
        old = values.get(name)
        values[name] = merge(old, value) if isinstance(old, YamlMap) and isinstance(value, YamlMap) else value
    return YamlMap(values, {**below.keys(), **above.keys()}, below.start, below.end)


# --------------------------------------------------------------------------------------------------------------------
# Documents


@frozen
class _Reader:
    """Reads one document; `problems` collects what is wrong with it."""

    source: Source
    origin: Origin
    root: YamlMap
    problems: list[Diagnostic]
    identifiers: DetectionReader

    def read(self) -> Document:
        values = self.root.values
        if "detection" in values and not values.keys().isdisjoint(("correlation", "filter")):
            return self.one_of_several()
        if "correlation" in values:
            return self.correlation()
        if "filter" in values and "detection" not in values:
            return self.filter()
        if "detection" in values or "logsource" in values:
            return self.rule()
        if "query" in values and not values.keys().isdisjoint(_NATIVE):
            return self.native()
        if "title" in values:
            return self.rule()
        if not self.failed():  # else its kind may be among what could not be read
            at = Span(self.source, self.root.start, self.root.start + 1)
            hint = "a rule has `title`, `logsource` and `detection`; a Microsoft query has `name` and `query`"
            self.report("E112", "the document is neither a Sigma document nor a Microsoft query", at, hint)
        return self.broken("detection", Metadata())

    def one_of_several(self) -> Document:
        """A detection with the section of another kind beside it: an error, or the author's own note where it is text
        (public rules use `correlation` so).
        """
        others = [name for name in ("correlation", "filter") if name in self.root.values]
        for name in others:
            key = self.root.key(name)
            second = max(key, self.root.key("detection"), key=lambda one: one.start)
            if isinstance(self.root.values[name], YamlScalar):
                hint = "a key of your own is safer under another name"
                self.report(
                    "W207", f"`{name}` beside `detection` is a note, and has no effect", span(self.source, key), hint
                )
            else:
                hint = "write two documents, with `---` between them"
                self.report("E118", f"one document has both `detection` and `{name}`", span(self.source, second), hint)
        return self.rule()

    def report(self, code: Code, message: str, at: Span, hint: str = "") -> None:
        self.problems.append(diagnostic(code, message, at, hint))

    def failed(self) -> bool:
        return bool(self.problems) and any(problem.severity == "error" for problem in self.problems)

    def broken(self, kind: Kind, meta: Metadata) -> Broken:
        """The document as a failure; errors stand before warnings."""
        ordered = sorted(self.problems, key=lambda problem: problem.severity != "error")
        return Broken(self.origin, meta, tuple(ordered), kind)

    def metadata(self) -> Metadata:
        node = self.root.get("taxonomy")
        if node is not None and not (isinstance(node, YamlScalar) and node.text == "sigma"):
            hint = "only rules in Sigma's own field names (`taxonomy: sigma`) can be read"
            self.report("E205", "the taxonomy of this rule is not known", span(self.source, node), hint)
        return MetadataReader(self.source, self.root, self.problems).read()

    def section(self, name: str) -> YamlMap | None:
        node = self.root.get(name)
        if node is None:
            at = Span(self.source, self.root.start, self.root.start + 1)
            self.report("E201", f"the document has no `{name}`", at)
            return None
        if not isinstance(node, YamlMap):
            key = self.root.key(name)
            self.report("E202", f"`{name}` must be a map", Span(self.source, key.start, max(key.end, node.end)))
            return None
        return node

    # -- rules and filters

    def rule(self) -> Document:
        meta = self.metadata()
        logsource = read_logsource(self.source, self.root, self.problems)
        section = self.section("detection")
        where = None if section is None else self.where("detection", section)
        if logsource is None or where is None or self.failed():
            return self.broken("detection", meta)
        return Rule(self.origin, meta, logsource, where, tuple(self.problems), self.identifiers.expands)

    def filter(self) -> Document:
        meta = self.metadata()
        logsource = read_logsource(self.source, self.root, self.problems)
        section = self.section("filter")
        where = None
        rules: tuple[Reference, ...] = ()
        if section is not None:
            where = self.where("filter", section)
            rules = self.filtered_rules(section)
        if logsource is None or where is None or self.failed():
            return self.broken("filter", meta)
        return Filter(self.origin, meta, logsource, rules, where, tuple(self.problems), self.identifiers.expands)

    def filtered_rules(self, section: YamlMap) -> tuple[Reference, ...]:
        """The rules that a filter names; empty for any."""
        node = section.get("rules")
        if node is None:
            hint = "list ids or names of rules, or write `rules: any`"
            at = span(self.source, self.root.key("filter"))
            self.report("E240", "the filter does not say which rules it is for", at, hint)
            return ()
        if (isinstance(node, YamlScalar) and node.text == "any") or (isinstance(node, YamlList) and not node.items):
            return ()
        from sigma2kql.load.correlation_section import read_references  # few documents need it

        return read_references(self.source, "rules", node, "E240", self.problems)

    def where(self, key: Literal["detection", "filter"], section: YamlMap) -> Expr[Field] | None:
        """The tree of the section under `key`: every search identifier is read, used or not, then the conditions."""
        names: dict[str, Expr[Field] | None] = {}
        reserved = _RESERVED[key]
        reader = self.identifiers
        for name, node in section.values.items():
            if name not in reserved:
                names[name] = reader.read(node)
            elif name == "timeframe":
                hint = "only a correlation looks at a span of time"
                self.report("W214", "`timeframe` has no effect", span(self.source, section.key(name)), hint)
        if not names:
            self.report("E309", f"`{key}` has no search identifier", span(self.source, self.root.key(key)))
        used: set[str] = set()
        found: list[Expr[Field]] = []
        conditions = self.conditions(key, section)
        for condition in conditions:
            expr = read_condition(self.source, condition, names, self.problems, used)
            if expr is not None:
                found.append(expr)
        if not names or not found or len(found) < len(conditions):
            return None
        for name in names:
            if name not in used:
                message = f"the search identifier `{name}` is not used in the condition"
                self.report("W301", message, span(self.source, section.key(name)))
        return found[0] if len(found) == 1 else Or(tuple(found))

    def conditions(self, key: str, section: YamlMap) -> list[YamlScalar]:
        node = section.get("condition")
        if isinstance(node, YamlScalar) and node.value is not None:
            return [node]
        if node is None:
            hint = did_you_mean("condition", (name for name in section.values if name.lower().startswith("con")))
            self.report("E308", f"`{key}` has no condition", span(self.source, self.root.key(key)), hint)
            return []
        items = node.items if isinstance(node, YamlList) else [node]
        texts = [item for item in items if isinstance(item, YamlScalar) and item.value is not None]
        if not texts or len(texts) < len(items):
            at = node if node.end > node.start else section.key("condition")
            self.report("E308", "a condition must be text, or a list of texts", span(self.source, at))
        return texts

    # -- the others

    def correlation(self) -> Document:
        meta = self.metadata()
        found = self.section("correlation")
        if found is None:
            return self.broken("correlation", meta)
        from sigma2kql.load.correlation_section import CorrelationReader

        reader = CorrelationReader(self.source, self.root.key("correlation"), found, self.problems)
        section = reader.read()
        generate = section.generate or reader.flag("generate", self.root.get("generate"))
        if self.failed():
            return self.broken("correlation", meta)
        return Correlation(
            origin=self.origin,
            meta=meta,
            type=section.type,
            rules=section.rules,
            group_by=section.group_by,
            timespan=section.timespan,
            threshold=section.threshold,
            expression=section.expression,
            aliases=section.aliases,
            generate=generate,
            warnings=tuple(self.problems),
        )

    def native(self) -> Document:
        """A Microsoft hunting or analytics document: its query is taken as it is."""
        node = self.root.get("query")
        if not isinstance(node, YamlScalar) or not isinstance(node.value, str) or not node.text.strip():
            self.report("E115", "the query must be text", span(self.source, self.root.key("query")))
        query = node if isinstance(node, YamlScalar) else None
        return _native(self.origin, plain(self.root), query, self.problems)


def _native(
    origin: Origin, data: dict[str, Any], query: YamlScalar | None, problems: list[Diagnostic]
) -> NativeQuery | Broken:
    """A document of Microsoft's keys with the node of its query; broken where there is an error among the problems."""
    severity = str(data.get("severity", "")).lower()
    meta = Metadata(
        title=str(data.get("name") or data.get("title") or ""),
        id=None if data.get("id") is None else str(data["id"]),
        level=severity if severity in LEVELS else None,
        description=str(data.get("description") or ""),
        custom={"sigma2kql": data["sigma2kql"]} if "sigma2kql" in data else {},
    )
    if query is None or any(problem.severity == "error" for problem in problems):
        ordered = sorted(problems, key=lambda problem: problem.severity != "error")
        return Broken(origin, meta, tuple(ordered), "native")
    text = data["query"] if isinstance(data.get("query"), str) else query.text
    return NativeQuery(origin, meta, text, span(origin.source, query), data, tuple(problems))


_RESERVED = {  # what is no search identifier
    "detection": frozenset({"condition", "timeframe"}),
    "filter": frozenset({"condition", "timeframe", "rules"}),
}
_NATIVE = frozenset({"kind", "tactics", "requiredDataConnectors", "name"})
