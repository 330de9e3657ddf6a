"""The columns of a query's result, those that it could compute for its alert, and what is added to it for that.

Place in the flow: made with the facts of a rule, asked by everything that names columns of its result. Invariant: a
column is offered only where the query returns every column that it reads; what was taken is exactly what is added to
the query, and its own lines stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from sigma2kql.artifacts.kql_tokens import tokens
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.model.literals import quoted


@dataclass(slots=True)
class ResultColumns:
    """The columns of a query's result, name -> type, and those that it could compute; `taken` are to be added.

    `returned` None: they are not known, and nothing can be computed.
    """

    returned: Mapping[str, str] | None
    offered: dict[str, str] = field(default_factory=dict)  # name -> expression
    bases: dict[str, str] = field(default_factory=dict)  # name -> the offered column that it is computed from
    joined: Mapping[str, str] = field(default_factory=dict)  # name -> type, of what a join brings
    join: str = ""
    source: str = ""  # the table that the query begins with, where that is by itself on the first line
    taken: dict[str, str] = field(default_factory=dict)
    behind_source: str = ""
    behind_query: str = ""

    def known(self, name: str) -> bool:
        """Whether the result has this column, or can have it."""
        return name in (self.returned or ()) or name in self.offered or name in self.joined or name in self.taken

    def single(self, name: str) -> bool:
        """Whether a column is there, or can be, that holds one value: no list and no structure."""
        if self.returned is not None and name in self.returned:
            return self.returned[name] != "dynamic"
        return self.known(name)

    def take(self, names: Iterable[str]) -> None:
        """Have these computed, where they are not returned anyway."""
        for name in names:
            if name in (self.returned or ()) or name in self.taken:
                continue
            if name in self.joined:
                self.taken[name] = ""
            elif name in self.offered:
                self.take([self.bases[name]] if name in self.bases else [])
                self.taken[name] = self.offered[name]

    def offer(self, name: str, expression: str, base: str) -> None:
        """Let this be had, computed from the column `base`."""
        if not self.known(name):
            self.offered[name] = expression
            self.bases[name] = base

    def compute(self, name: str, expression: str) -> None:
        """Have a column computed that nobody offers."""
        self.taken[name] = expression

    def filter_source(self, line: str) -> bool:
        """Put a line directly behind the table; whether there is such a place."""
        if self.source:
            self.behind_source = line
        return bool(self.source)

    def follow(self, line: str) -> None:
        """Put a line behind the query, before what is computed."""
        self.behind_query = line.strip("\n") + "\n"

    def written(self, query: str) -> str:
        """The query with everything that was asked for. What is computed from computed columns comes after them."""
        if self.behind_source:
            query = query.replace("\n", "\n" + self.behind_source, 1)
        join = self.join if any(name in self.joined for name in self.taken) else ""
        first: list[str] = []
        then: list[str] = []
        for name, expression in self.taken.items():
            if expression:
                (then if self.taken.keys() & set(_reads(expression)) else first).append(f"{name} = {expression}")
        extends = ["| extend " + ",\n         ".join(named) + "\n" for named in (first, then) if named]
        return "".join([query, self.behind_query, join, *extends])


def result_columns(
    tables: tuple[str, ...], returned: Mapping[str, str] | None, computing: bool, source: str = ""
) -> ResultColumns:
    """The columns of a query over `tables`; not `computing`: no column may be added. `source` as in the value."""
    if returned is None or not computing:
        return ResultColumns(returned, source=source)
    offered = {name: quoted(value) for name, value in facts("columns")["algorithms"].items()}
    joined: Mapping[str, str] = {}
    join = ""
    for group in _groups(tables[0]) if len(tables) == 1 else ():
        if "join" in group:
            if group["key"] in returned:
                joined, join = group["columns"], group["join"]
            continue
        offered |= {
            name: expression
            for name, expression in group["columns"].items()
            if name not in returned and all(column in returned for column in _reads(expression))
        }
    return ResultColumns(returned, offered, joined=joined, join=join, source=source)


def _groups(table: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(g for g in facts("columns")["computed"] if any(fnmatchcase(table, glob) for glob in g["tables"]))


@cache
def _reads(expression: str) -> tuple[str, ...]:
    """The columns that an expression reads: names that are no call and no part of another."""
    code = tokens(expression)
    after = [*(token.text for token in code[1:]), ""]
    before = ["", *(token.text for token in code[:-1])]
    return tuple(
        token.text
        for token, left, right in zip(code, before, after, strict=True)
        if token.kind == "name" and right != "(" and left != "."
    )


def is_long(name: str) -> bool:
    """Whether the texts of a column may be longer than an alert's details take."""
    return any(fnmatchcase(name, glob) for glob in facts("columns")["long"])
