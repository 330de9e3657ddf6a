"""Mapping files -> `Table`, and `Target`: which tables may carry a rule, in order of preference.

Place in the flow: the data that map stands on. Invariant: every column that a `Table` names anywhere is declared in its
`columns`, and a file that says something wrong is refused with the position of every mistake.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast, get_args

from sigma2kql.detection import read_detection
from sigma2kql.errors import Diagnostic, Sigma2KqlError, Source, Span, diagnostic, did_you_mean
from sigma2kql.folders import mappings_folder
from sigma2kql.literals import identifier, is_word, steps
from sigma2kql.model import (
    ANY,
    Column,
    DatePart,
    Exactness,
    Exists,
    Expr,
    Field,
    FieldMap,
    KqlType,
    LogSource,
    Match,
    Null,
    Number,
    SameAs,
    Serve,
    Table,
    Test,
    Text,
)
from sigma2kql.simplify import leaves, replace as replace_leaves, simplify
from sigma2kql.transforms import ALWAYS, TRANSFORMS
from sigma2kql.yamltree import YamlList, YamlMap, YamlNode as Node, YamlScalar, compose, plain

TYPES: tuple[str, ...] = get_args(KqlType)
_HOWS = ("column", "any", "property", "json", "xml", "pair", "expression", "values", "constant", "cases")
_EXTRAS = (
    "key",
    "type",
    "reads",
    "transform",
    "options",
    "known",
    "exactness",
    "why",
    "default",
    "when",
    "name",
    "presence",
    "empty",
    "caveat",
    "closed",
)
_FILE_KEYS = (
    "table", "target", "builtin", "time", "columns", "serves", "fields", "others", "absent", "keywords", "extends",
    "custom", "notes", "caveat",
)  # fmt: skip
_SERVE_KEYS = (
    "logsource",
    "where",
    "event_ids",
    "fields",
    "absent",
    "others",
    "elements",
    "keywords",
    "exactness",
    "why",
    "caveat",
)
_CASTS = {
    "int": "toint",
    "long": "tolong",
    "real": "toreal",
    "bool": "tobool",
    "datetime": "todatetime",
    "guid": "toguid",
}


# --------------------------------------------------------------------------------------------------------------------
# One file


class _Reader:
    """Reads one mapping file and collects every problem in it."""

    def __init__(self, source: Source, target: str) -> None:
        self.source = source
        self.target = target
        self.problems: list[Diagnostic] = []
        self.columns: dict[str, KqlType] = {}

    def problem(self, code: str, message: str, node: Node | None, hint: str = "") -> None:
        span = Span(self.source, node.start, node.end) if node is not None else Span(self.source, 0, 1)
        self.problems.append(diagnostic(code, message, span, hint))

    # -- shapes ------------------------------------------------------------------------------------------------------

    def mapping(self, node: Node | None, what: str) -> YamlMap:
        if isinstance(node, YamlMap):
            return node
        if node is not None:
            self.problem("E451", f"{what} must be a map", node)
        return YamlMap({}, 0, 0)

    def text(self, node: Node | None, what: str) -> str:
        if isinstance(node, YamlScalar) and node.value is not None:
            return node.value if isinstance(node.value, str) else node.text
        self.problem("E451", f"{what} must be text", node)
        return ""

    def texts(self, node: Node | None, what: str) -> list[tuple[str, Node]]:
        if node is None:
            return []
        items = node.items if isinstance(node, YamlList) else [node]
        return [(self.text(item, what), item) for item in items]

    def check_keys(self, node: YamlMap, known: Iterable[str], what: str) -> None:
        for name, (key, _) in node.entries.items():
            if name not in known:
                self.problem("E452", f"unknown key `{name}` in {what}", key, did_you_mean(name, known))

    # -- columns -----------------------------------------------------------------------------------------------------

    def read_columns(self, node: Node | None) -> None:
        for name, (key, value) in self.mapping(node, "`columns`").entries.items():
            kind = self.text(value, "a column type")
            if kind not in TYPES:
                self.problem(
                    "E453",
                    f"unknown type `{kind}` of column `{name}`",
                    value,
                    did_you_mean(kind, TYPES) or f"one of {', '.join(TYPES)}",
                )
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ .-]*", name):
                self.problem("E453", f"`{name}` is no column name", key)
            else:
                self.columns[name] = cast(KqlType, kind)

    def column(self, name: str, node: Node) -> Column:
        head, *path = name.split(".")
        if path and self.columns.get(head) == "dynamic":
            return accessor("property", self.column(head, node), tuple(path), "string", path[-1])
        if name not in self.columns:
            self.problem(
                "E454", f"column `{name}` is not declared in `columns`", node, did_you_mean(name, self.columns)
            )
        return Column(identifier(name), self.columns.get(name, "string"), (name,), name=name)

    def where(self, node: Node | None) -> Expr[Column]:
        """A Sigma detection whose fields are columns; text compares with case unless `nocase`."""
        if node is None or (isinstance(node, YamlMap) and not node.entries):
            return ALWAYS
        nocase = _without_nocase(node)
        tree = read_detection(self.source, nocase[0], self.problems)
        if tree is None:
            return ALWAYS

        def on_column(leaf: Match[Field]) -> Expr[Column]:
            name = leaf.subject.name
            node_at = YamlScalar(
                name or "", name or "", leaf.span.start if leaf.span else 0, leaf.span.end if leaf.span else 1
            )
            if name is None:
                self.problem("E455", "a predicate in a mapping names columns; keywords are not possible", node_at)
                return ALWAYS
            test: Test[Any] = leaf.test
            if isinstance(test, SameAs):
                test = replace(test, other=self.column(cast(Field, test.other).name or "", node_at))
            if isinstance(test, Text) and name not in nocase[1]:
                test = Text(test.parts, cased=test.parts not in ((), (ANY,)))
            if isinstance(test, Exists | DatePart | Null):
                pass
            return Match(self.column(name, node_at), test, leaf.span)

        return simplify(replace_leaves(tree, on_column))

    # -- fields ------------------------------------------------------------------------------------------------------

    def field_map(self, name: str, node: Node) -> FieldMap:
        """One entry of `fields` (or `others`, where `name` is a placeholder that is filled in later)."""
        span = Span(self.source, node.start, node.end)
        if isinstance(node, YamlScalar):
            return FieldMap((self.column(self.text(node, f"the column of `{name}`"), node),), span=span)
        form = self.mapping(node, f"the mapping of `{name}`")
        self.check_keys(form, (*_HOWS, *_EXTRAS), f"the mapping of `{name}`")
        hows = [how for how in _HOWS if how in form.entries]
        if len(hows) != 1:
            self.problem("E456", f"the mapping of `{name}` must have exactly one of {', '.join(_HOWS)}", node)
            return FieldMap(span=span)
        made = self._form(name, hows[0], form)
        return replace(made, span=span, **self._extras(name, form, made))

    def _form(self, name: str, how: str, form: YamlMap) -> FieldMap:
        node = form.entries[how][1]
        match how:
            case "column":
                return FieldMap((self.column(self.text(node, "`column`"), node),))
            case "any":
                items = node.items if isinstance(node, YamlList) else [node]
                return FieldMap(tuple(c for item in items for c in self.field_map(name, item).columns))
            case "property" | "json" | "xml" | "pair":
                base = self.column(self.text(node, f"`{how}`"), node)
                return FieldMap((accessor(how, base, self._key(name, form), self._type(form), name),))
            case "expression":
                return FieldMap((self._expression(name, self.text(node, "`expression`"), form),))
            case "values":
                values = {
                    str(key.text if not isinstance(key.value, str) else key.value): self.where(value)
                    for key, value in self.mapping(node, "`values`").entries.values()
                }
                default = self.where(form.entries["default"][1]) if "default" in form.entries else None
                return FieldMap(values=values, default=default)
            case "constant":
                return FieldMap(constant=self.text(node, "`constant`"))
            case _:
                return FieldMap(cases=tuple(self._cases(name, node)))

    def _cases(self, name: str, node: Node) -> Iterator[tuple[Expr[Column], FieldMap]]:
        items = node.items if isinstance(node, YamlList) else []
        if not items:
            self.problem("E451", "`cases` must be a list", node)
        for number, item in enumerate(items):
            form = self.mapping(item, "a case")
            when = self.where(form.entries["when"][1]) if "when" in form.entries else ALWAYS
            if ("when" in form.entries) == (number == len(items) - 1):
                self.problem("E456", "every case but the last has a `when`", item)
            yield when, self.field_map(name, item)

    def _key(self, name: str, form: YamlMap) -> tuple[str, ...]:
        if "key" not in form.entries:
            return (name,)
        node = form.entries["key"][1]
        if isinstance(node, YamlList):
            return tuple(text for text, _ in self.texts(node, "`key`"))
        return tuple(self.text(node, "`key`").split("."))

    def _type(self, form: YamlMap) -> KqlType:
        if "type" not in form.entries:
            return "string"
        kind = self.text(form.entries["type"][1], "`type`")
        if kind not in TYPES:
            self.problem("E453", f"unknown type `{kind}`", form.entries["type"][1], f"one of {', '.join(TYPES)}")
        return cast(KqlType, kind)

    def _expression(self, name: str, text: str, form: YamlMap) -> Column:
        reads = tuple(self.column(column, node).reads[0] for column, node in self.texts(form.get("reads"), "`reads`"))
        if not reads:
            self.problem(
                "E456", f"the expression of `{name}` must say which columns it `reads`", form.entries["expression"][0]
            )
        named = form.entries.get("name")
        return Column(text, self._type(form), reads, "computed", (), self.text(named[1], "`name`") if named else name)

    def _extras(self, name: str, form: YamlMap, made: FieldMap) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if "transform" in form.entries:
            node = form.entries["transform"][1]
            extras["transform"] = self.text(node, "`transform`")
            if extras["transform"] not in TRANSFORMS:
                self.problem(
                    "E457",
                    f"unknown transform `{extras['transform']}`",
                    node,
                    did_you_mean(extras["transform"], TRANSFORMS),
                )
            elif extras["transform"] in ("user_split", "registry_path", "registry_data") and len(made.columns) != 2:
                self.problem("E457", f"`{extras['transform']}` needs exactly two columns in `any`", node)
        if "options" in form.entries:
            extras["options"] = plain(form.entries["options"][1])
        if "presence" in form.entries:
            extras["presence"] = self.field_map(name, form.entries["presence"][1]).columns
        if "empty" in form.entries:
            extras["empty"] = self.text(form.entries["empty"][1], "`empty`")
        if "known" in form.entries:
            extras["known"] = tuple(text for text, _ in self.texts(form.entries["known"][1], "`known`"))
        if "caveat" in form.entries:
            extras["caveat"] = self.caveat(form)
        if "closed" in form.entries:
            extras["closed"] = self.text(form.entries["closed"][1], "`closed`")
            if not (form.entries.keys() & {"values", "known"} or extras.get("transform") == "translate"):
                self.problem(
                    "E456", "`closed` says why a list of values is whole: there is none", form.entries["closed"][0]
                )
        exactness, why = self.exactness(form, f"the mapping of `{name}`")
        return {**extras, "exactness": exactness, "why": why}

    def exactness(self, form: YamlMap, what: str) -> tuple[Exactness, str]:
        if "exactness" not in form.entries:
            return "exact", self.text(form.entries["why"][1], "`why`") if "why" in form.entries else ""
        node = form.entries["exactness"][1]
        value = self.text(node, "`exactness`")
        if value not in ("exact", "broader", "narrower"):
            self.problem("E451", f"`exactness` of {what} must be exact, broader or narrower", node)
            value = "exact"
        if value != "exact" and "why" not in form.entries:
            self.problem("E458", f"{what} is {value}: say `why`", node)
        return cast(Exactness, value), self.text(form.entries["why"][1], "`why`") if "why" in form.entries else ""

    def caveat(self, form: YamlMap) -> str:
        """On which sources' rows the table differs from what its other keys say; empty where nothing is said."""
        if "caveat" not in form.entries:
            return ""
        node = form.entries["caveat"][1]
        text = " ".join(self.text(node, "`caveat`").split())
        if not text:
            self.problem("E458", "`caveat` must name the source whose rows differ, and what is missed there", node)
        return text

    # -- the whole ---------------------------------------------------------------------------------------------------

    def shared(self, node: YamlMap) -> dict[str, Any]:
        """`fields`, `absent`, `others` and `keywords`, which a file and a serve both have."""
        entries = node.entries
        found: dict[str, Any] = {
            "fields": {
                name: self.field_map(name, value)
                for name, (_, value) in self.mapping(node.get("fields"), "`fields`").entries.items()
            },
            "absent": {
                name: self.text(value, f"the reason for `{name}`")
                for name, (_, value) in self.mapping(node.get("absent"), "`absent`").entries.items()
            },
            "keywords": tuple(
                column for item in _items(node.get("keywords")) for column in self.field_map("Keywords", item).columns
            ),
        }
        if "others" in entries:
            found["others"] = self.field_map(OTHERS, entries["others"][1])
        return found

    def serve(self, node: Node) -> Serve:
        form = self.mapping(node, "an entry of `serves`")
        self.check_keys(form, _SERVE_KEYS, "an entry of `serves`")
        logsource = self.mapping(form.get("logsource"), "`logsource`")
        if "logsource" not in form.entries:
            self.problem("E451", "an entry of `serves` needs a `logsource`", node)
        self.check_keys(logsource, ("category", "product", "service"), "`logsource`")
        parts = {
            name: self.text(value, f"`{name}`")
            for name, (_, value) in logsource.entries.items()
            if name in ("category", "product", "service")
        }
        ids = form.get("event_ids")
        exactness, why = self.exactness(form, "an entry of `serves`")
        return Serve(
            LogSource(parts.get("category"), parts.get("product"), parts.get("service")),
            self.where(form.get("where")),
            frozenset(int(text) for text, item in self.texts(ids, "`event_ids`") if self._is_number(text, item)),
            elements=self._elements(form),
            exactness=exactness,
            why=why,
            caveat=self.caveat(form),
            **self.shared(form),
        )

    def _elements(self, form: YamlMap) -> frozenset[str] | None:
        """The names of a closed list: written out, or those of the EventIDs in `where` from a list that is shipped."""
        node = form.get("elements")
        if not isinstance(node, YamlScalar):
            return frozenset(text for text, _ in self.texts(node, "`elements`")) if node is not None else None
        lists = shipped_elements(self.text(node, "`elements`"))
        if lists is None:
            self.problem("E451", f"there is no list of elements `{node.text}`", node, "write the names out as a list")
            return None
        ids = {leaf.test.value for leaf in leaves(self.where(form.get("where"))) if isinstance(leaf.test, Number)}
        return frozenset(name for number, names in lists.items() if not ids or number in ids for name in names)

    def _is_number(self, text: str, node: Node) -> bool:
        if text.isdigit():
            return True
        self.problem("E451", f"`{text}` is no EventID", node)
        return False


OTHERS = "\x00field"


@cache
def shipped_elements(name: str) -> Mapping[int, Sequence[str]] | None:
    """`mappings/<name>.yml`: the elements of a provider's events, by EventID."""
    path = mappings_folder() / f"{name}.yml"
    if not is_word(name) or not path.is_file():
        return None
    (document,) = compose(Source(f"mappings/{name}.yml", path.read_text(encoding="utf-8")))
    assert isinstance(document.root, YamlMap)
    return {int(number): plain(node) for number, (_, node) in document.root.entries.items()}


def _items(node: Node | None) -> list[Node]:
    if node is None:
        return []
    return list(node.items) if isinstance(node, YamlList) else [node]


def _without_nocase(node: Node) -> tuple[Node, frozenset[str]]:
    """The detection without the `nocase` modifier, and the columns that had it."""
    match node:
        case YamlMap():
            names: set[str] = set()
            entries = {}
            for name, (key, value) in node.entries.items():
                column, *modifiers = name.split("|")
                if "nocase" in modifiers:
                    names.add(column)
                    name = "|".join([column, *(m for m in modifiers if m != "nocase")])  # noqa: PLW2901
                    key = YamlScalar(name, name, key.start, key.end)  # noqa: PLW2901
                entries[name] = (key, value)
            return YamlMap(entries, node.start, node.end), frozenset(names)
        case YamlList():
            done = [_without_nocase(item) for item in node.items]
            return YamlList([item for item, _ in done], node.start, node.end), frozenset().union(
                *(names for _, names in done)
            )
        case _:
            return node, frozenset()


def accessor(how: str, base: Column, key: tuple[str, ...], kind: KqlType, name: str) -> Column:
    """A part of a stored column: property of a dynamic one, of JSON text, an element of XML text, a pair in text."""
    quote = "'"
    match how:
        case "property":
            path = f"{base.text}{steps(key)}"
        case "json":
            path = f"parse_json({base.text}){steps(key)}"
        case "xml":
            inner = re.escape(_xml(key[-1])).replace(quote, "''").replace("\\ ", " ")
            path = f"extract(@'<Data Name=\"{inner}\">([^<]*)</Data>', 1, {base.text})"
        case _:
            inner = re.escape(key[-1]).replace(quote, "''")
            path = f"extract(@'(?:^|[^A-Za-z0-9_]){inner}=\"?([^\" ]*)', 1, {base.text})"
    if how in ("property", "json"):
        text = path if kind == "dynamic" else f"{_CASTS.get(kind, 'tostring')}({path})"
    else:
        text = path if kind == "string" else f"{_CASTS.get(kind, 'tostring')}({path})"
    return Column(text, kind, base.reads, cast(Any, how), key, name)


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


def fill(others: FieldMap, name: str) -> FieldMap:
    """`others` for one field: the placeholder in every column replaced by the field's name, safely quoted."""
    columns = []
    for column in others.columns:
        base = Column(
            identifier(column.reads[0]),
            "dynamic" if column.kind == "property" else "string",
            column.reads[:1],
            name=column.reads[0],
        )
        key = tuple(part for k in column.key for part in (name.split(".") if k == OTHERS else [k]))
        columns.append(accessor(column.kind, base, key, column.type, name))
    return replace(others, columns=tuple(columns))


def read_table(source: Source, target: str) -> Table:
    """One mapping file. Raises Sigma2KqlError with every problem in it."""
    reader = _Reader(source, target)
    documents = compose(source)
    reader.problems.extend(p for document in documents for p in document.problems)
    node = documents[0].root if len(documents) == 1 else None
    if not isinstance(node, YamlMap):
        if not reader.problems:
            reader.problem("E451", "a mapping file holds one map", node)
        raise Sigma2KqlError(reader.problems)
    reader.check_keys(node, _FILE_KEYS, "a mapping file")
    entries = node.entries
    reader.read_columns(node.get("columns"))
    name = reader.text(node.get("table"), "`table`")
    if name and not is_word(name):
        reader.problem("E453", f"`{name}` is no table name", entries["table"][1])
    time = reader.text(entries["time"][1], "`time`") if "time" in entries else "TimeGenerated"
    reader.columns.setdefault(time, "datetime")
    table = Table(
        name,
        reader.columns,
        tuple(reader.serve(item) for item in _items(node.get("serves"))),
        builtin=reader.text(entries["builtin"][1], "`builtin`") if "builtin" in entries else None,
        time=time,
        target=reader.text(entries["target"][1], "`target`") if "target" in entries else target,
        caveat=reader.caveat(node),
        source=source,
        **reader.shared(node),
    )
    errors = [p for p in reader.problems if p.severity == "error"]
    if errors:
        raise Sigma2KqlError(errors)
    return table


# --------------------------------------------------------------------------------------------------------------------
# Targets


@dataclass(frozen=True, slots=True)
class Entry:
    """A table of a target that is read only when a rule needs it, and the log sources it says it serves."""

    name: str
    logsources: tuple[LogSource, ...]
    load: Callable[[], Table]


@dataclass(frozen=True, slots=True)
class Target:
    """A name and its tables in order of preference. `time` overrides every table's timestamp column."""

    name: str
    entries: tuple[Entry, ...]
    time: str | None = None
    title: str = ""
    _serving: dict[LogSource, tuple[Entry, ...]] = field(default_factory=dict, compare=False, repr=False)
    _found: dict[tuple[str, LogSource], tuple[tuple[Table, Serve], ...]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def serving(self, logsource: LogSource) -> tuple[Entry, ...]:
        """The tables that say they serve this log source, without reading them."""
        if logsource not in self._serving:
            self._serving[logsource] = tuple(
                entry for entry in self.entries if any(_covers(served, logsource) for served in entry.logsources)
            )
        return self._serving[logsource]

    def candidates(self, logsource: LogSource) -> Iterator[tuple[Table, Serve]]:
        """Every table and serve whose log source covers this one, best first; a table is read when it is reached."""
        for entry in self.serving(logsource):
            key = (entry.name, logsource)
            if key not in self._found:
                table = entry.load()
                self._found[key] = tuple((table, s) for s in table.serves if _covers(s.logsource, logsource))
            yield from self._found[key]


def _covers(served: LogSource, asked: LogSource) -> bool:
    """As `LogSource.covers`; an attribute that is '' must be unstated."""
    return (
        (served.category is None or served.category == (asked.category or ""))
        and (served.product is None or served.product == (asked.product or ""))
        and (served.service is None or served.service == (asked.service or ""))
    )


@cache
def _shipped_table(path: Path, target: str) -> Table:
    return read_table(Source(f"mappings/{path.parent.name}/{path.name}", path.read_text(encoding="utf-8")), target)


def _files(target: str) -> list[Path]:
    return [path for path in sorted((mappings_folder() / target).glob("*.yml")) if path.name != "target.yml"]


def build_index(target: str) -> dict[str, Any]:
    """What `mappings/<target>/index.json` holds: each file's size and the log sources that it serves."""
    index: dict[str, Any] = {}
    for path in _files(target):
        table = _shipped_table(path, target)
        served = sorted(
            {(s.logsource.category, s.logsource.product, s.logsource.service) for s in table.serves}, key=repr
        )
        index[path.stem] = {"size": path.stat().st_size, "serves": [list(s) for s in served]}
    return index


def build_fields(target: str) -> dict[str, Any]:
    """What `mappings/<target>/fields.json` holds: by table and log source its fields, and those it surely lacks."""
    fields: dict[str, Any] = {}
    for path in _files(target):
        table = _shipped_table(path, target)
        rows: dict[tuple[str | None, ...], tuple[set[str], set[str]]] = {}
        for serve in table.serves:
            names, absent = rows.setdefault(
                (serve.logsource.category, serve.logsource.product, serve.logsource.service), (set(), set())
            )
            known = {*serve.fields, *(name for name in table.fields if name not in serve.absent)}
            others = serve.others or table.others
            names |= known | set((serve.elements or ()) if others else ())
            names |= {OPEN} if others and serve.elements is None else set()
            absent |= {name for name in (*serve.absent, *table.absent) if name not in known}
        fields[path.stem] = [[list(key), sorted(n), sorted(a - n)] for key, (n, a) in sorted(rows.items(), key=repr)]
    return fields


OPEN = "*"  # among the names of a table: it has a place for every field


@cache
def _fields(target: str) -> dict[str, list[tuple[LogSource, frozenset[str], frozenset[str]]]]:
    """The fields of every table, without reading the tables: only hints ask for them."""
    try:
        told = json.loads((mappings_folder() / target / "fields.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        told = build_fields(target)
    return {
        table: [(LogSource(*key), frozenset(names), frozenset(absent)) for key, names, absent in rows]
        for table, rows in told.items()
    }


@cache
def _index(target: str) -> dict[str, Any]:
    """The index, from its file where that is true to the folder, else made anew (a source tree being edited)."""
    try:
        index: dict[str, Any] = json.loads((mappings_folder() / target / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return build_index(target)
    with os.scandir(mappings_folder() / target) as found:
        sizes = {f.name[:-4]: f.stat().st_size for f in found if f.name.endswith(".yml") and f.name != "target.yml"}
    return index if sizes == {name: entry["size"] for name, entry in index.items()} else build_index(target)


@cache
def _shipped_entries(target: str) -> dict[str, Entry]:
    folder = mappings_folder() / target
    return {
        name: Entry(
            name,
            tuple(LogSource(*served) for served in entry["serves"]),
            partial(_shipped_table, folder / f"{name}.yml", target),
        )
        for name, entry in _index(target).items()
    }


@cache
def _settings(target: str) -> dict[str, Any]:
    path = mappings_folder() / target / "target.yml"
    if not path.is_file():
        return {}
    (document,) = compose(Source(f"mappings/{target}/target.yml", path.read_text(encoding="utf-8")))
    assert document.root is not None
    return cast(dict[str, Any], plain(document.root))


@cache
def carriers(logsource: LogSource, other_than: str) -> list[tuple[str, Entry]]:
    """The shipped tables of other targets whose log source covers this one: (target, table), from the indexes alone."""
    return [
        (name, entry)
        for name in target_names()
        if name != other_than
        for entry in _shipped_entries(name).values()
        if any(_covers(served, logsource) for served in entry.logsources)
    ]


@cache
def carries_field(target: str, table: str, logsource: LogSource, name: str) -> bool:
    """Whether a shipped table has the field for this log source."""
    return any(
        name in names or (OPEN in names and name not in absent)
        for served, names, absent in _fields(target).get(table, ())
        if _covers(served, logsource)
    )


@cache
def columns_of_table(target: Target, name: str) -> Mapping[str, KqlType] | None:
    """The columns of a table or ASIM parser (by either name), of this target or a shipped one; None: unknown."""
    names = {name, re.sub(r"^_(Im|ASim)_", "im", name)}
    for entry in target.entries:
        if entry.name in names:
            return entry.load().columns
    for other in target_names():
        for known, entry in _shipped_entries(other).items():
            if known in names:
                return entry.load().columns
    return None


@cache
def target_names() -> list[str]:
    """The shipped targets."""
    return sorted(path.parent.name for path in mappings_folder().glob("*/target.yml"))


def load_target(name: str, folders: Sequence[Path] = (), only: Sequence[str] = ()) -> Target:
    """A target by name, with the user's mapping folders on top.

    `only`: the tables that the workspace has; others are left out. Raises Sigma2KqlError for an unknown target or a
    mapping file that is wrong.
    """
    own = _user_tables(folders, name)
    settings = _settings(name) if name in target_names() else {}
    if not settings and not own:
        known = target_names()
        raise Sigma2KqlError(
            [
                diagnostic(
                    "E801", f"unknown target `{name}`", None, did_you_mean(name, known) or f"known: {', '.join(known)}"
                )
            ]
        )
    entries: dict[str, Entry] = {}
    for part in (name, *settings.get("also", ())):
        for table, entry in _shipped_entries(part).items():
            entries.setdefault(table, entry)
    for mine in own:
        shipped = entries.get(mine.name)
        merged = _extended(shipped.load(), mine) if shipped and _extends(mine) else mine
        entries[mine.name] = Entry(mine.name, tuple(s.logsource for s in merged.serves), partial(_same, merged))
    first = [table.name for table in own if not _extends(table)]
    order = [*first, *(t for t in settings.get("prefer", ()) if t in entries and t not in first)]
    order += [t for t in entries if t not in order]
    kept = tuple(entries[t] for t in order if not only or t in only)
    return Target(name, kept, settings.get("time"), str(settings.get("title", "")))


def _same(table: Table) -> Table:
    return table


def _extends(table: Table) -> bool:
    return table.source is not None and re.search(r"(?m)^extends:\s*true\b", table.source.text) is not None


def _extended(base: Table, own: Table) -> Table:
    return replace(
        base,
        columns={**base.columns, **own.columns},
        serves=own.serves + base.serves,
        fields={**base.fields, **own.fields},
        absent={**{k: v for k, v in base.absent.items() if k not in own.fields}, **own.absent},
        others=own.others or base.others,
        keywords=own.keywords or base.keywords,
        caveat=own.caveat or base.caveat,
    )


def _user_tables(folders: Sequence[Path], target: str) -> list[Table]:
    """The user's tables for this target, from `*.yml` in the folders and in their sub-folder of the target's name."""
    tables: list[Table] = []
    problems: list[Diagnostic] = []
    for folder in folders:
        for path in sorted((*folder.glob("*.yml"), *folder.glob("*.yaml"), *(folder / target).glob("*.yml"))):
            if path.name == "target.yml":
                continue
            try:
                table = read_table(Source(str(path), path.read_text(encoding="utf-8")), target)
            except Sigma2KqlError as error:
                problems.extend(error.diagnostics)
                continue
            except (OSError, UnicodeDecodeError) as error:
                problems.append(diagnostic("E450", f"cannot read the mapping file {path}: {error}"))
                continue
            if table.target == target:
                tables.append(table)
    if problems:
        raise Sigma2KqlError(problems)
    return tables


def named_columns(where: Expr[Column]) -> Mapping[str, KqlType]:
    """The stored columns that a tree reads (type `dynamic` or text for those reached inside)."""
    found: dict[str, KqlType] = {}
    seen: set[int] = set()
    for leaf in leaves(where):
        if id(leaf.subject) in seen and not isinstance(leaf.test, SameAs):
            continue
        for column in (leaf.subject, leaf.test.other) if isinstance(leaf.test, SameAs) else (leaf.subject,):
            if id(column) not in seen:
                seen.add(id(column))
                for name in column.reads:
                    found.setdefault(name, column.type if column.kind == "stored" else "dynamic")
    return found
