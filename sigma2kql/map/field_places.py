"""The rows of a log source in a table, and how a rule's fields stand in them.

Place in the flow: below the targets, which hold the rows, and map, which asks them. Invariant: what is said of a field
is the same for every rule, and is found out when the first one asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from sigma2kql.map.accessors import asks_every_element, fill
from sigma2kql.map.event_elements import Ids, lacking, restated, unheard_of
from sigma2kql.map.row_facts import conjuncts, known_texts
from sigma2kql.map.sources import is_rare, writers_of
from sigma2kql.map.transforms.column_types import is_plain_text
from sigma2kql.model.literals import identifier
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import Column, FieldMap, Filling, Serve, Table


class Standing(NamedTuple):
    """How a field stands in rows, and what follows from that alone."""

    field: FieldMap
    texts: tuple[Column, ...]  # the text columns that a text is asked of as it is; empty where more is to be done
    words: str
    touches: bool  # whether it may be asked of a column that the rows' own condition speaks of
    told: bool  # whether it may be asked of a column of which that condition says all texts
    filled: tuple[str, ...]  # the columns it may be asked of that a source fills otherwise


class Rows:
    """The rows of one log source in one table, and what can be found out of them once for all rules."""

    __slots__ = (
        "assumed", "facts", "fields", "fills", "judged", "markup", "rare", "serve", "spoken", "stated", "strange",
        "table", "writers",
    )  # fmt: skip

    def __init__(
        self, table: Table, serve: Serve, product: str | None = None, assumed: frozenset[str] = frozenset()
    ) -> None:
        self.table = table
        self.serve = serve
        self.writers = writers_of(table, serve, product)  # None: unknown
        sources = frozenset([writer.source for writer in self.writers or ()])
        self.assumed = assumed & sources or sources  # those that are there; all where none is known to be
        self.rare = frozenset([source for source in sources - assumed if is_rare(source)])
        self.strange = bool(assumed and sources) and assumed.isdisjoint(sources)  # whether those are others
        self.fills: dict[str, list[tuple[int, Filling]]] = {}
        for number, writer in enumerate(self.writers or ()):
            for column, filling in writer.fills.items():
                self.fills.setdefault(column, []).append((1 << number, filling))
        self.stated = conjuncts(serve.where)
        self.spoken = {leaf.subject for leaf in leaves(serve.where)}
        self.facts = known_texts(serve.where)
        self.judged: dict[Any, Any] = {}  # what `by_source` has found of trees that meet the same columns
        self.markup = _markup(table, serve)
        self.fields: dict[tuple[str, Ids], Standing] = {}  # those that rules have asked for

    def standing(self, name: str, asked: Ids = None) -> Standing | str:
        """How a field stands in them, or the reason why it does not (empty where it is simply unknown).

        `asked`: the only EventIDs that the rule selects, where the rows are of events with a list of elements.
        """
        known = self.fields.get((name, asked))
        if known is not None:
            return known
        found = find_field(self.table, self.serve, name, asked)
        if isinstance(found, str):
            return found
        texts = tuple(dict.fromkeys(found.columns)) if is_plain_text(found) else ()
        touches = not self.spoken.isdisjoint(_asked(found))
        told = touches and not self.facts.keys().isdisjoint(_asked(found))
        filled = tuple([c for column in _asked(found) for c in column.reads if c in self.fills]) if self.fills else ()
        standing = Standing(found, texts, describe(found), touches, told, filled)
        self.fields[name, asked] = standing
        return standing


def find_field(table: Table, serve: Serve, name: str, asked: Ids = None) -> FieldMap | str:
    """How a field stands in the rows of a serve, or the reason why it does not (empty where it is simply unknown).

    `asked`: the only EventIDs that a rule selects.
    """
    if name in serve.fields:
        return serve.fields[name]
    native = serve.elements is not None and name in table.fields
    if not native and (again := restated(serve.logsource, name)) is not None:
        return again
    if name in serve.absent:
        return serve.absent[name]
    if serve.elements is not None and (never := lacking(serve.elements, name, asked)) is not None:
        of_other_events = asked is not None and lacking(serve.elements, name, None) is None
        return never if of_other_events else _native(table, name) or never
    if name in table.fields:
        return table.fields[name]
    if name in table.absent:
        return table.absent[name]
    others = serve.others or table.others
    if others is not None and asks_every_element(name) and others.columns[0].kind in ("property", "json"):
        return "one column cannot be asked for every element of a list: write the element's number, as in `a[0].b`"
    if others is not None:
        return fill(others, name)
    return _native(table, name) or unheard_of(serve.logsource, name) or ""


def _markup(table: Table, serve: Serve) -> frozenset[str]:
    """The stored columns that hold an event as XML in these rows: where its fields are read from XML, or those of all
    others of the table.
    """
    here = serve.others or table.others
    others = [one for one in ((here,) if here else [s.others for s in table.serves]) if one is not None]
    columns = [{c.reads[0] for c in one.columns if c.kind == "xml"} for one in others]
    return frozenset(set.intersection(*columns)) if columns else frozenset()


def _native(table: Table, name: str) -> FieldMap | None:
    """The column of the table that has this very name; rules are written in such names too."""
    kind = table.columns.get(name)
    if kind is None:
        return None
    return FieldMap((Column(identifier(name), kind, (name,), name=name),), native=True)


def describe(field: FieldMap) -> str:
    """A field's mapping in words, for people and for the `source` of the JSON output."""
    if field.cases:
        return " | ".join(describe(case) for _, case in field.cases)
    if field.values is not None:
        names = dict.fromkeys(c.subject.text for e in field.values.values() for c in leaves(e))
        return f"predicate on {', '.join(names)}" if names else "stated by the table"
    if field.never:
        return "in none of these events"
    if field.constant is not None:
        return f"always `{field.constant}`"
    text = " or ".join(column.text for column in field.columns)
    return f"{text} ({field.transform})" if field.transform else text


def _asked(field: FieldMap) -> Iterator[Column]:
    """Every column that a test on the field may be asked of."""
    yield from (*field.columns, *field.presence)
    predicates = [when for when, _ in field.cases] + list((field.values or {}).values())
    for predicate in (*predicates, *((field.default,) if field.default is not None else ())):
        yield from (leaf.subject for leaf in leaves(predicate))
    for _, case in field.cases:
        yield from _asked(case)
