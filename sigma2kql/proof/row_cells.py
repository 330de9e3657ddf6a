"""Cells: what a row is to hold, part by part, until they make columns; and what a column of a mapping reads on a row.

Place in the flow: under `event_rows`. Invariant: reading is the inverse of placing, for every kind of column.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import zip_longest
from typing import Any, TypeAlias

from sigma2kql.model.tree import Column, Expr, KqlType, Table
from sigma2kql.proof.expressions import Cell, UnknownExpression, compute, read, step
from sigma2kql.reference.evaluate import MISSING, holds, text_of

Cells: TypeAlias = Mapping[Cell, Any]  # None: must stay empty


def cells_of(column: Column) -> list[Cell]:
    kind = column.kind
    if kind == "computed":
        return []
    return [
        (column.reads[0], kind, column.key[-1:] if kind in ("xml", "pair") else column.key if kind != "stored" else ())
    ]


def put(cells: Cells, cell: Cell, value: Any) -> Cells | None:
    """The cells with one more; None where it holds something else already."""
    if cell in cells:
        return cells if same(cells[cell], value) and (cells[cell] is None) == (value is None) else None
    return {**cells, cell: value}


class View:
    """The row that cells make, and what the columns of a mapping say on it."""

    def __init__(self, table: Table, cells: Cells) -> None:
        self.table = table
        self.clash = False
        self.row: dict[str, Any] = {name: "" if kind == "string" else None for name, kind in table.columns.items()}
        parts: dict[str, list[tuple[Cell, Any]]] = {}
        for cell, value in cells.items():
            if value is not None and value != "":
                parts.setdefault(cell[0], []).append((cell, value))
        for name, items in parts.items():
            self.row[name] = self._column(items)

    def _column(self, items: list[tuple[Cell, Any]]) -> Any:
        kinds = {cell[1] for cell, _ in items}
        whole = [value for cell, value in items if cell[1] == "stored"]
        parts = [(cell, value) for cell, value in items if cell[1] != "stored"]
        if not parts:
            return whole[0]
        if kinds & {"property", "json"}:
            tree = self._tree(parts, whole[0] if whole else None)
            return json.dumps(tree, ensure_ascii=False, separators=(",", ":")) if "json" in kinds else tree
        if "xml" in kinds:
            data = "".join(
                f'<Data Name="{html.escape(str(cell[2][0]))}">{_xml(text_of(value))}</Data>'
                for cell, value in parts
                if cell[1] == "xml"
            )
            more = "".join(str(value) for cell, value in parts if cell[1] == "fragment")
            return f'<DataItem type="System.XmlData"><EventData>{data}{more}</EventData></DataItem>'
        texts = [str(v) for v in whole]
        for cell, value in parts:
            text = text_of(value)
            texts.append(
                f'{cell[2][0]}="{text}"'
                if cell[1] == "pair" and " " in text
                else f"{cell[2][0]}={text}"
                if cell[1] == "pair"
                else str(value)
            )
        if whole and all(text in texts[0] for text in texts[1:]):
            return texts[0]
        return _joined(texts, kinds)

    def _tree(self, parts: list[tuple[Cell, Any]], whole: Any) -> Any:
        tree: Any = dict(whole) if isinstance(whole, dict) else [] if isinstance(parts[0][0][2][0], int) else {}
        for cell, value in parts:
            here = tree
            for number, key in enumerate(cell[2]):
                if isinstance(key, int):
                    here = self._element(here, key)
                    continue
                if not isinstance(here, dict):
                    self.clash = True
                    break
                if number == len(cell[2]) - 1:
                    if isinstance(here.get(key), dict | list) and here[key] != value:
                        self.clash = True
                    here[key] = value
                else:
                    following = cell[2][number + 1]
                    here = here.setdefault(key, [] if isinstance(following, int) else {})
        return tree

    def _element(self, here: Any, index: int) -> Any:
        if not isinstance(here, list):
            self.clash = True
            return {}
        while len(here) <= max(index, 0):
            here.append({})
        return here[index]

    def read(self, column: Column) -> Any:
        """What the column gives on this row; '' and None are emptiness."""
        return read_column(self.row, column)

    def holds(self, expr: Expr[Column]) -> bool:
        return holds(expr, self.read)


def _joined(texts: list[str], kinds: set[str]) -> str:
    """Pieces of one text; lists of elements without names are laid over each other."""
    lists = [_ELEMENT.findall(text) for text in texts]
    if all("".join(element for element, _ in found) == text for found, text in zip(lists, texts, strict=True)):
        rows = zip_longest(*lists, fillvalue=("", ""))
        return "".join(max(row, key=lambda item: (len(item[1]), len(item[0])))[0] for row in rows)
    return (" " if "pair" in kinds else "").join(texts)


_ELEMENT = re.compile(r"(<\w+>([^<]*)</\w+>)")


def read_column(row: Mapping[str, Any], column: Column) -> Any:
    """What a column of the mapping gives on a row; '' and None are emptiness, MISSING is what is not known here."""
    whole = row.get(column.reads[0]) if column.reads else None
    match column.kind:
        case "stored":
            return whole
        case "property" | "json":
            value = whole
            if column.kind == "json" and isinstance(value, str):
                try:
                    value = json.loads(value)
                except (ValueError, RecursionError):
                    return None
            for key in column.key:
                value = step(value, key)
            return value
        case "xml":
            name = re.escape(html.escape(column.key[-1]))
            found = re.search(f'<Data Name="{name}">([^<]*)</Data>', text_of(whole))
            return html.unescape(found[1]) if found else ""
        case "pair":
            found = re.search(f'(?:^|[^A-Za-z0-9_]){re.escape(column.key[-1])}="?([^" ]*)', text_of(whole))
            return found[1] if found else ""
        case "computed":
            try:
                return compute(read(column.text), row.get)
            except UnknownExpression:
                return MISSING


def _xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


# --------------------------------------------------------------------------------------------------------------------
# Values


def same(left: Any, right: Any) -> bool:
    return left is not MISSING and text_of(left) == text_of(right)


def same_hex(left: Any, right: Any) -> bool:
    return text_of(left).lower() == text_of(right).lower() and text_of(left)[:2] == "0x"


_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")


@lru_cache(maxsize=4096)
def _parse_datetime(text: str) -> str | None:
    try:
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f0Z")


def as_datetime(value: Any) -> str | None:
    if isinstance(value, datetime):
        value = value.isoformat()
    if not isinstance(value, str) or not value[:4].isdigit():
        return None
    return _parse_datetime(re.sub(r"(\.\d{6})\d+", r"\1", value.strip()))


def typed(value: Any, kind: KqlType) -> Any:
    """The value as a column of this type holds it; MISSING where it cannot."""
    if value is None or (value == "" and kind != "string"):
        return None
    match kind:
        case "string" | "guid":
            return text_of(value)
        case "int" | "long":
            if not _NUMBER.fullmatch(text_of(value)) or isinstance(value, bool):
                return MISSING
            number = int(text_of(value))
            return (
                number
                if -(1 << (31 if kind == "int" else 63)) <= number < 1 << (31 if kind == "int" else 63)
                else MISSING
            )
        case "real" | "decimal":
            try:
                return float(text_of(value))
            except ValueError:
                return MISSING
        case "bool":
            return {"true": True, "false": False}.get(text_of(value).lower(), MISSING)
        case "datetime":
            return as_datetime(value) or MISSING
        case _:
            return value
