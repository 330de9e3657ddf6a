"""Mapping files -> `Table`.

Place in the flow: below the targets, which read their tables with it. Invariant: every column that a `Table` names
anywhere is declared in its `columns`, and a file that says something wrong is refused with the position of every
mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar, assert_never, cast, get_args

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Source, Span, diagnostic, did_you_mean
from sigma2kql.language.detection import read_detection
from sigma2kql.map.accessors import OTHERS, accessor
from sigma2kql.map.event_elements import is_listed, texts_in
from sigma2kql.map.sources import read_writers
from sigma2kql.map.transforms import ALWAYS, TRANSFORMS
from sigma2kql.model.literals import identifier, is_word
from sigma2kql.model.simplify import leaves, replace as replace_leaves, simplify
from sigma2kql.model.tree import (
    ANY,
    Column,
    Elements,
    Exactness,
    Expr,
    Field,
    FieldMap,
    KqlType,
    LogSource,
    Match,
    Number,
    SameAs,
    Serve,
    Table,
    Test,
    Text,
)
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode as Node, YamlScalar, plain
from sigma2kql.text.yaml_text import compose

TYPES: tuple[str, ...] = get_args(KqlType)
_HOWS = ("column", "any", "property", "json", "xml", "pair", "expression", "values", "constant", "never", "cases")
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
    "closed",
)
_FIELD_KEYS = dict.fromkeys((*_HOWS, *_EXTRAS))  # in this order, and found at once
_FILE_KEYS = (
    "table", "target", "builtin", "time", "columns", "serves", "fields", "others", "absent", "keywords", "elements",
    "extends", "custom", "notes", "sources",
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
    "sources",
    "further",
)
_OF_TWO = ("user_split", "registry_path", "registry_data")  # transforms of two columns


T = TypeVar("T")

# --------------------------------------------------------------------------------------------------------------------
# One file


class _Later(Mapping[str, T]):
    """Entries that are read when they are first asked for: of a table's fields a run of rules asks for a fifth."""

    __slots__ = ("_nodes", "_read", "_seen")

    def __init__(self, nodes: Mapping[str, Node], read: Callable[[str, Node], T]) -> None:
        self._nodes = nodes
        self._read = read
        self._seen: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._seen:
            self._seen[name] = self._read(name, self._nodes[name])
        return self._seen[name]

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)

    def __reduce__(self) -> tuple[type[dict[str, T]], tuple[dict[str, T]]]:
        """For another process, all of them are read: what reads them cannot be sent."""
        return dict, (dict(self),)


class Reader:
    """Reads one mapping file and collects every problem in it; unless `whole`, its fields are read when asked for."""

    def __init__(self, source: Source, whole: bool) -> None:
        self.source = source
        self.whole = whole
        self.problems: list[Diagnostic] = []
        self.columns: dict[str, KqlType] = {}
        self.elements: Node | None = None  # of serves that say nothing of their own

    def problem(self, code: Code, message: str, node: Node | None, hint: str = "") -> None:
        span = Span(self.source, node.start, node.end) if node is not None else Span(self.source, 0, 1)
        self.problems.append(diagnostic(code, message, span, hint))

    # -- shapes ------------------------------------------------------------------------------------------------------

    def mapping(self, node: Node | None, what: str) -> YamlMap:
        if isinstance(node, YamlMap):
            return node
        if node is not None:
            self.problem("E451", f"{what} must be a map", node)
        return YamlMap({}, {}, 0, 0)

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
        for name in node.values:
            if name not in known:
                self.problem("E452", f"unknown key `{name}` in {what}", node.key(name), did_you_mean(name, known))

    def named(self, node: Node | None, what: str, read: Callable[[str, Node], T]) -> Mapping[str, T]:
        """The entries of a map, each read by its name and node."""
        if node is None:
            return {}
        nodes = self.mapping(node, what).values
        if self.whole:
            return {name: read(name, value) for name, value in nodes.items()}

        def checked(name: str, value: Node) -> T:
            entry = read(name, value)
            self.refuse_errors()
            return entry

        return _Later(nodes, checked)

    def refuse_errors(self) -> None:
        """Raises Sigma2KqlError where there is an error among the problems."""
        if errors := [p for p in self.problems if p.severity == "error"]:
            raise Sigma2KqlError(errors)

    # -- columns -----------------------------------------------------------------------------------------------------

    def read_columns(self, node: Node | None) -> None:
        columns = self.mapping(node, "`columns`")
        for name, value in columns.values.items():
            kind = self.text(value, "a column type")
            if kind not in TYPES:
                self.problem(
                    "E453",
                    f"unknown type `{kind}` of column `{name}`",
                    value,
                    did_you_mean(kind, TYPES) or f"one of {', '.join(TYPES)}",
                )
            elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_ .-]*", name):
                self.problem("E453", f"`{name}` is no column name", columns.key(name))
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
        if node is None or (isinstance(node, YamlMap) and not node.values):
            return ALWAYS
        nocase = _without_nocase(node)
        tree = read_detection(self.source, nocase[0], self.problems)
        if tree is None:
            return ALWAYS

        def on_column(leaf: Match[Field]) -> Expr[Column]:
            name = leaf.subject.name
            start, end = (leaf.span.start, leaf.span.end) if leaf.span else (0, 1)
            node_at = YamlScalar(name or "", name or "", start, end)
            if name is None:
                self.problem("E455", "a predicate in a mapping names columns; keywords are not possible", node_at)
                return ALWAYS
            test: Test[Any] = leaf.test
            if isinstance(test, SameAs):
                test = replace(test, other=self.column(cast(Field, test.other).name or "", node_at))
            if isinstance(test, Text) and name not in nocase[1]:
                test = Text(test.parts, cased=test.parts not in ((), (ANY,)))
            return Match(self.column(name, node_at), test, leaf.span)

        return simplify(replace_leaves(tree, on_column))

    # -- fields ------------------------------------------------------------------------------------------------------

    def field_map(self, name: str, node: Node) -> FieldMap:
        """One entry of `fields` (or `others`, where `name` is a placeholder that is filled in later)."""
        span = Span(self.source, node.start, node.end)
        if isinstance(node, YamlScalar):
            return FieldMap((self.column(self.text(node, f"the column of `{name}`"), node),), span=span)
        form = self.mapping(node, f"the mapping of `{name}`")
        self.check_keys(form, _FIELD_KEYS, f"the mapping of `{name}`")
        hows = [how for how in _HOWS if how in form.values]
        if len(hows) != 1:
            self.problem("E456", f"the mapping of `{name}` must have exactly one of {', '.join(_HOWS)}", node)
            return FieldMap(span=span)
        made = self._form(name, hows[0], form)
        return FieldMap(span=span, **made, **self._extras(name, form, made))

    def _form(self, name: str, how: str, form: YamlMap) -> dict[str, Any]:
        """What the key that says `how` states of a `FieldMap`."""
        node = form.values[how]
        match how:
            case "column":
                return {"columns": (self.column(self.text(node, "`column`"), node),)}
            case "any":
                items = node.items if isinstance(node, YamlList) else [node]
                return {"columns": tuple([c for item in items for c in self.field_map(name, item).columns])}
            case "property" | "json" | "xml" | "pair":
                base = self.column(self.text(node, f"`{how}`"), node)
                return {"columns": (accessor(how, base, self._key(name, form), self._type(form), name),)}
            case "expression":
                return {"columns": (self._expression(name, self.text(node, "`expression`"), form),)}
            case "values":
                values = {text: self.where(value) for text, value in self.mapping(node, "`values`").values.items()}
                default = self.where(form.values["default"]) if "default" in form.values else None
                return {"values": values, "default": default}
            case "constant" | "never":
                return {how: self.text(node, f"`{how}`")}
            case _:
                return {"cases": tuple(self._cases(name, node))}

    def _cases(self, name: str, node: Node) -> Iterator[tuple[Expr[Column], FieldMap]]:
        items = node.items if isinstance(node, YamlList) else []
        if not items:
            self.problem("E451", "`cases` must be a list", node)
        for number, item in enumerate(items):
            form = self.mapping(item, "a case")
            when = self.where(form.values["when"]) if "when" in form.values else ALWAYS
            if ("when" in form.values) == (number == len(items) - 1):
                self.problem("E456", "every case but the last has a `when`", item)
            yield when, self.field_map(name, item)

    def _key(self, name: str, form: YamlMap) -> tuple[str, ...]:
        if "key" not in form.values:
            return (name,)
        node = form.values["key"]
        if isinstance(node, YamlList):
            return tuple(text for text, _ in self.texts(node, "`key`"))
        return tuple(self.text(node, "`key`").split("."))

    def _type(self, form: YamlMap) -> KqlType:
        if "type" not in form.values:
            return "string"
        kind = self.text(form.values["type"], "`type`")
        if kind not in TYPES:
            self.problem("E453", f"unknown type `{kind}`", form.values["type"], f"one of {', '.join(TYPES)}")
        return cast(KqlType, kind)

    def _expression(self, name: str, text: str, form: YamlMap) -> Column:
        reads = tuple(self.column(column, node).reads[0] for column, node in self.texts(form.get("reads"), "`reads`"))
        if not reads:
            self.problem(
                "E456", f"the expression of `{name}` must say which columns it `reads`", form.key("expression")
            )
        named = form.get("name")
        return Column(text, self._type(form), reads, "computed", (), self.text(named, "`name`") if named else name)

    def _extras(self, name: str, form: YamlMap, made: Mapping[str, Any]) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        if "transform" in form.values:
            node = form.values["transform"]
            extras["transform"] = self.text(node, "`transform`")
            if extras["transform"] not in TRANSFORMS:
                self.problem(
                    "E457",
                    f"unknown transform `{extras['transform']}`",
                    node,
                    did_you_mean(extras["transform"], TRANSFORMS),
                )
            elif extras["transform"] in _OF_TWO and len(made.get("columns", ())) != 2:
                self.problem("E457", f"`{extras['transform']}` needs exactly two columns in `any`", node)
        if "options" in form.values:
            extras["options"] = plain(form.values["options"])
        if "presence" in form.values:
            extras["presence"] = self.field_map(name, form.values["presence"]).columns
        if "empty" in form.values:
            extras["empty"] = self.text(form.values["empty"], "`empty`")
        if "known" in form.values:
            extras["known"] = tuple(text for text, _ in self.texts(form.values["known"], "`known`"))
        if "closed" in form.values:
            extras["closed"] = self.text(form.values["closed"], "`closed`")
            if not (form.values.keys() & {"values", "known"} or extras.get("transform") == "translate"):
                self.problem("E456", "`closed` says why a list of values is whole: there is none", form.key("closed"))
        exactness, why = self.exactness(form, f"the mapping of `{name}`")
        return {**extras, "exactness": exactness, "why": why}

    def exactness(self, form: YamlMap, what: str) -> tuple[Exactness, str]:
        if "exactness" not in form.values:
            return "exact", self.text(form.values["why"], "`why`") if "why" in form.values else ""
        node = form.values["exactness"]
        value = self.text(node, "`exactness`")
        if value not in ("exact", "broader", "narrower"):
            self.problem("E451", f"`exactness` of {what} must be exact, broader or narrower", node)
            value = "exact"
        if value != "exact" and "why" not in form.values:
            self.problem("E458", f"{what} is {value}: say `why`", node)
        return cast(Exactness, value), self.text(form.values["why"], "`why`") if "why" in form.values else ""

    # -- the whole ---------------------------------------------------------------------------------------------------

    def shared(self, node: YamlMap) -> dict[str, Any]:
        """`fields`, `absent`, `others` and `keywords`, which a file and a serve both have."""
        found: dict[str, Any] = {
            "fields": self.named(node.get("fields"), "`fields`", self.field_map),
            "absent": self.named(node.get("absent"), "`absent`", self.reason),
            "keywords": tuple(
                {c: None for item in _items(node.get("keywords")) for c in self.field_map("Keywords", item).columns}
            ),
        }
        if "others" in node.values:
            found["others"] = self.field_map(OTHERS, node.values["others"])
        return found

    def extended(self, node: Node | None, name: str) -> str:
        """Whose mapping this file adds to: `true` is the shipped one of its own table, a name that of another."""
        if node is None or (isinstance(node, YamlScalar) and node.value is False):
            return ""
        return name if isinstance(node, YamlScalar) and node.value is True else self.text(node, "`extends`")

    def reason(self, name: str, node: Node) -> str:
        """Why a field is absent."""
        return self.text(node, f"the reason for `{name}`")

    def serve(self, node: Node) -> Serve:
        form = self.mapping(node, "an entry of `serves`")
        self.check_keys(form, _SERVE_KEYS, "an entry of `serves`")
        logsource = self.mapping(form.get("logsource"), "`logsource`")
        if "logsource" not in form.values:
            self.problem("E451", "an entry of `serves` needs a `logsource`", node)
        self.check_keys(logsource, ("category", "product", "service"), "`logsource`")
        parts = {
            name: self.text(value, f"`{name}`")
            for name, value in logsource.values.items()
            if name in ("category", "product", "service")
        }
        ids = form.get("event_ids")
        exactness, why = self.exactness(form, "an entry of `serves`")
        where = self.where(form.get("where"))
        return Serve(
            LogSource(parts.get("category"), parts.get("product"), parts.get("service")),
            where,
            frozenset(int(text) for text, item in self.texts(ids, "`event_ids`") if self._is_number(text, item)),
            elements=self._elements(form, where),
            exactness=exactness,
            why=why,
            writers=read_writers(form.get("sources"), self.columns, self.problem),
            further=isinstance(further := form.get("further"), YamlScalar) and further.value is True,
            **self.shared(form),
        )

    def _elements(self, form: YamlMap, where: Expr[Column]) -> Elements | None:
        """What the events have: names written out, or the list of a log, for the EventIDs in `where` or given here."""
        node = form.get("elements") or self.elements
        if node is None or isinstance(node, YamlList):
            return Elements(frozenset(text for text, _ in self.texts(node, "`elements`"))) if node is not None else None
        log, given = next(iter(node.values.items()), ("", node)) if isinstance(node, YamlMap) else ("", None)
        log = log or self.text(node, "`elements`")
        if not is_listed(log):
            self.problem("E451", f"there is no list of elements `{log}`", node, "write the names out as a list")
            return None
        ids = {int(text) for text, item in self.texts(given, "`elements`") if self._is_number(text, item)}
        ids |= {int(leaf.test.value) for leaf in leaves(where) if isinstance(leaf.test, Number)}
        return Elements(log=log, ids=frozenset(ids) or None, channels=tuple(dict.fromkeys(texts_in(where))))

    def _is_number(self, text: str, node: Node) -> bool:
        if text.isdigit():
            return True
        self.problem("E451", f"`{text}` is no EventID", node)
        return False


def _items(node: Node | None) -> list[Node]:
    if node is None:
        return []
    return list(node.items) if isinstance(node, YamlList) else [node]


def _without_nocase(node: Node) -> tuple[Node, frozenset[str]]:
    """The detection without the `nocase` modifier, and the columns that had it."""
    match node:
        case YamlMap():
            names: set[str] = set()
            values: dict[str, Node] = {}
            keys: dict[str, YamlScalar] = {}
            for name, value in node.values.items():
                key = node.key(name)
                column, *modifiers = name.split("|")
                if "nocase" in modifiers:
                    names.add(column)
                    name = "|".join([column, *(m for m in modifiers if m != "nocase")])  # noqa: PLW2901
                    key = YamlScalar(name, name, key.start, key.end)
                values[name] = value
                keys[name] = key
            return YamlMap(values, keys, node.start, node.end), frozenset(names)
        case YamlList():
            done = [_without_nocase(item) for item in node.items]
            return YamlList([item for item, _ in done], node.start, node.end), frozenset().union(
                *(names for _, names in done)
            )
        case YamlScalar():
            return node, frozenset()
        case _:
            assert_never(node)


def read_table(source: Source, target: str, whole: bool = True) -> Table:
    """One mapping file. Raises Sigma2KqlError with every problem in it.

    Unless `whole`, a field is read when it is asked for, and its problems are raised then.
    """
    reader = Reader(source, whole)
    documents = compose(source)
    reader.problems.extend(p for document in documents for p in document.problems)
    node = documents[0].root if len(documents) == 1 else None
    if not isinstance(node, YamlMap):
        if not reader.problems:
            reader.problem("E451", "a mapping file holds one map", node)
        raise Sigma2KqlError(reader.problems)
    reader.check_keys(node, _FILE_KEYS, "a mapping file")
    values = node.values
    reader.read_columns(node.get("columns"))
    name = reader.text(node.get("table"), "`table`")
    if name and not is_word(name):
        reader.problem("E453", f"`{name}` is no table name", values["table"])
    time = reader.text(values["time"], "`time`") if "time" in values else "TimeGenerated"
    reader.columns.setdefault(time, "datetime")
    reader.elements = node.get("elements")
    table = Table(
        name,
        reader.columns,
        tuple(reader.serve(item) for item in _items(node.get("serves"))),
        builtin=reader.text(values["builtin"], "`builtin`") if "builtin" in values else None,
        time=time,
        target=reader.text(values["target"], "`target`") if "target" in values else target,
        writers=read_writers(node.get("sources"), reader.columns, reader.problem),
        extends=reader.extended(values.get("extends"), name),
        source=source,
        **reader.shared(node),
    )
    reader.refuse_errors()
    return table
