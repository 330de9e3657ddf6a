"""`target.yml` -> what a target says of itself: order of tables, limits of its product, artifact formats.

Place in the flow: below the targets, beside the mapping files. Invariant: a file that says something wrong is refused
with the position of every mistake; what it does not say is not made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Literal, get_args

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source, frozen, immutable
from sigma2kql.map.table_file import Reader
from sigma2kql.model.query_facts import QueryLimits
from sigma2kql.model.tree import (
    LogSource,
)
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode as Node, YamlScalar
from sigma2kql.text.yaml_text import compose

Service = Literal["sentinel", "defender"]
_KEYS = ("target", "title", "time", "prefer", "also", "limits", "formats", "service", "notes")
_LIMITS = ("of", "characters", "days", "depth")


@frozen
class Preference:
    """Tables in order, for rules of a log source (what it does not state may be anything), and why so."""

    tables: tuple[str, ...]
    logsource: LogSource = LogSource()
    why: str = ""


@immutable
class TargetSettings:
    """What the target's file says. `also`: other targets whose tables are its own too; `service`: what it deploys to.

    `said` are the keys that stand in the file.
    """

    title: str = ""
    time: str | None = None
    prefer: tuple[Preference, ...] = ()
    also: tuple[str, ...] = ()
    limits: QueryLimits = QueryLimits()
    formats: tuple[str, ...] = ()
    service: Service | None = None
    target: str | None = None
    said: frozenset[str] = frozenset()

    def over(self, below: TargetSettings) -> TargetSettings:
        """These settings where they are stated, else those below."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name in self.said}
        return replace(below, **own, said=self.said | below.said)


def read_target(source: Source) -> TargetSettings:
    """One `target.yml`. Raises Sigma2KqlError with every problem in it."""
    reader = Reader(source, True)
    documents = compose(source)
    reader.problems.extend(p for document in documents for p in document.problems)
    node = documents[0].root if len(documents) == 1 else None
    if not isinstance(node, YamlMap):
        if not reader.problems:
            reader.problem("E451", "target.yml holds one map", node)
        raise Sigma2KqlError(reader.problems)
    reader.check_keys(node, _KEYS, "target.yml")
    told: dict[str, Any] = {}
    for name, value in node.values.items():
        match name:
            case "title" | "time" | "target":
                told[name] = reader.text(value, f"`{name}`")
            case "prefer":
                told[name] = tuple(_preferences(reader, value))
            case "also" | "formats":
                told[name] = tuple(text for text, _ in reader.texts(value, f"`{name}`"))
            case "limits":
                told[name] = _limits(reader, reader.mapping(value, "`limits`"))
            case "service":
                told[name] = reader.text(value, "`service`")
                if told[name] not in get_args(Service):
                    reader.problem("E451", f"`service` is one of {', '.join(get_args(Service))}", value)
            case _:
                pass  # notes are for people; unknown keys are told above
    reader.refuse_errors()
    return TargetSettings(**told, said=frozenset(told))


def _preferences(reader: Reader, node: Node) -> Iterator[Preference]:
    """A list of tables, or of steps: tables for the rules of a log source, with the reason."""
    items = node.items if isinstance(node, YamlList) else [node]
    plain = [item for item in items if not isinstance(item, YamlMap)]
    if plain:
        yield Preference(tuple(reader.text(item, "a table of `prefer`") for item in plain))
    for item in items:
        if not isinstance(item, YamlMap):
            continue
        reader.check_keys(item, ("for", "tables", "why"), "a step of `prefer`")
        form = reader.mapping(item.get("for"), "`for`")
        reader.check_keys(form, ("category", "product", "service"), "`for`")
        parts = {key: reader.text(value, f"`{key}`") for key, value in form.values.items()}
        yield Preference(
            tuple(text for text, _ in reader.texts(item.get("tables"), "`tables`")),
            LogSource(parts.get("category"), parts.get("product"), parts.get("service")),
            reader.text(item.values["why"], "`why`") if "why" in item.values else "",
        )


def _limits(reader: Reader, node: YamlMap) -> QueryLimits:
    reader.check_keys(node, _LIMITS, "`limits`")
    told: dict[str, Any] = {}
    values: Mapping[str, Node] = node.values
    for name, value in values.items():
        if name == "of":
            told[name] = reader.text(value, "`of`")
        elif name in _LIMITS:
            number = value.value if isinstance(value, YamlScalar) else None
            if type(number) is int and number >= (32 if name == "depth" else 1):
                told[name] = number
            else:
                least = "32" if name == "depth" else "1"
                reader.problem("E451", f"`{name}` is a whole number of at least {least}", value)
    return QueryLimits(**told)
