"""Data sources: who writes the rows of a table, and what each of them puts into its columns.

Place in the flow: below the mapping files, which say it, and map, which asks for it. Invariant: a source that a mapping
names stands in `mappings/sources.yml`, and a column that is said to be filled otherwise is one of the table's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, cast, get_args

from sigma2kql.diagnostics.diagnostic import Source, did_you_mean, frozen
from sigma2kql.model.tree import Exactness, Filling, FillingKind, Serve, Table, Writer
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode, YamlScalar, plain
from sigma2kql.text.yaml_text import compose

KINDS: dict[str, FillingKind] = {kind.replace("-", "_"): kind for kind in get_args(FillingKind)}
_KEYS = ("product", *KINDS, "exactness", "why", "from")
_NEVER = "its events do not have it"
Problem = Callable[..., None]  # code, message, node, hint


@frozen
class DataSource:
    """What is known of a source: its name for people, the connectors that bring it, the way it takes, and whether so
    few have it that no table is chosen for its sake.
    """

    title: str
    connectors: tuple[str, ...] = ()
    comes: str = ""
    rare: bool = False


@cache
def data_sources() -> Mapping[str, DataSource]:
    """`mappings/sources.yml`: every source once, by the name that mappings, flags and verdicts use."""
    path = mappings_folder() / "sources.yml"
    (document,) = compose(Source("mappings/sources.yml", path.read_text(encoding="utf-8")))
    assert document.root is not None
    told = cast(dict[str, dict[str, Any]], plain(document.root))
    return {
        name: DataSource(one["title"], tuple(one.get("connectors", ())), one.get("comes", ""), bool(one.get("rare")))
        for name, one in told.items()
    }


def is_rare(source: str) -> bool:
    """Whether so few have a source that no table is chosen for its sake."""
    known = data_sources().get(source)
    return known is not None and known.rare


def title_of(source: str) -> str:
    """The name of a source as people write it."""
    known = data_sources().get(source)
    return known.title if known else source


# --------------------------------------------------------------------------------------------------------------------
# What a mapping file says under `sources`


def read_writers(node: YamlNode | None, columns: Iterable[str], problem: Problem) -> tuple[Writer, ...] | None:
    """The sources that a file or a serve names, in its order; None where it says nothing."""
    if node is None:
        return None
    named: list[tuple[str, YamlNode, YamlNode | None]]
    if isinstance(node, YamlList):
        named = [(item.text if isinstance(item, YamlScalar) else "", item, None) for item in node.items]
    elif isinstance(node, YamlMap):
        named = [(name, node.key(name), value) for name, value in node.values.items()]
    else:
        problem("E451", "`sources` is a list of names, or a map of them", node)
        return ()
    return tuple([_writer(name, at, form, columns, problem) for name, at, form in named])


def _writer(name: str, at: YamlNode, form: YamlNode | None, columns: Iterable[str], problem: Problem) -> Writer:
    if name not in data_sources():
        problem("E459", f"unknown source `{name}`", at, did_you_mean(name, data_sources()))
    if form is None or (isinstance(form, YamlScalar) and form.value is None):
        return Writer(name)
    if not isinstance(form, YamlMap):
        problem("E451", f"what source `{name}` fills must be a map", form)
        return Writer(name)
    for key in form.values:
        if key not in _KEYS:
            problem("E452", f"unknown key `{key}` in source `{name}`", form.key(key), did_you_mean(key, _KEYS))
    told = {key: _text(form.values[key], problem) for key in ("product", "exactness", "why") if key in form.values}
    exactness = told.get("exactness", "exact")
    if exactness not in get_args(Exactness):
        problem("E451", f"`exactness` of source `{name}` must be exact, broader or narrower", form.values["exactness"])
        exactness = "exact"
    if exactness != "exact" and not told.get("why"):
        problem("E458", f"source `{name}` is {exactness}: say `why`", form)
    fills = {
        column: Filling(kind, why)
        for key, kind in KINDS.items()
        if key in form.values
        for column, why in _fillings(key, form.values[key], columns, problem)
    }
    return Writer(name, told.get("product"), fills, cast(Exactness, exactness), told.get("why", ""))


def _fillings(key: str, node: YamlNode, columns: Iterable[str], problem: Problem) -> list[tuple[str, str]]:
    """Column and sentence; a list of columns is enough where the events have no such thing at all."""
    found: list[tuple[str, str, YamlNode]]
    if isinstance(node, YamlMap):
        found = [(name, _text(value, problem), node.key(name)) for name, value in node.values.items()]
    else:
        items = node.items if isinstance(node, YamlList) else [node]
        found = [(_text(item, problem), _NEVER if key == "never" else "", item) for item in items]
    for name, why, at in found:
        if name not in columns:
            problem("E454", f"column `{name}` is not declared in `columns`", at, did_you_mean(name, columns))
        if not why:
            problem("E458", f"say in one sentence what a test on `{name}` then misses or finds", at)
    return [(name, why) for name, why, _ in found]


def _text(node: YamlNode, problem: Problem) -> str:
    if isinstance(node, YamlScalar) and node.value is not None:
        return " ".join(node.text.split())
    problem("E451", "text is expected here", node)
    return ""


# --------------------------------------------------------------------------------------------------------------------
# Who writes the rows of a log source


def writers_of(table: Table, serve: Serve, product: str | None) -> tuple[Writer, ...] | None:
    """The sources of a log source: those that its serve names, with what the table says of them, else the table's;
    without those of another product. None where nobody says.
    """
    if serve.writers is None and table.writers is None:
        return None
    known = {writer.source: writer for writer in table.writers or ()}
    chosen = known.values() if serve.writers is None else [_merged(known.get(one.source), one) for one in serve.writers]
    return tuple([one for one in chosen if one.product is None or not product or one.product == product])


def _merged(of_table: Writer | None, of_serve: Writer) -> Writer:
    if of_table is None:
        return of_serve
    return replace(of_serve, product=of_serve.product or of_table.product, fills={**of_table.fills, **of_serve.fills})
