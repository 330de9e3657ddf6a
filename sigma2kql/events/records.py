"""JSON events: one per line, in arrays, or in the envelopes of exports, read as they come.

Place in the flow: a reader of `events`. Invariant: a document is held only as far as its first complete value; depth
and length are bounded before a value is decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any

from sigma2kql.diagnostics.diagnostic import fail
from sigma2kql.events.event_file import CHUNK, Event, EventFile, Kind, place

# keys under which exports keep their rows
ROW_KEYS = ("value", "records", "results", "Results")


def events_in(file: EventFile, value: Any, where: str, kind: Kind, line: int | None = None) -> Iterator[Event]:
    """The events in one decoded value: itself, the elements of an array, the rows of an export."""
    rows = list(_rows(value))
    for number, row in enumerate(rows, 1):
        if isinstance(row, Mapping):
            origin = where if len(rows) == 1 else f"{where}#{number}"
            yield Event(row, f"{file.path}:{origin}", kind)
        else:
            file.bad("E665", f"an event must be a map of fields, not {_KINDS.get(type(row), 'text')}", line)


_KINDS = {list: "a list", int: "a number", float: "a number", bool: "a truth value", type(None): "null"}


def _rows(value: Any) -> Iterator[Any]:
    """The events in a decoded document: arrays, exports of Log Analytics, Kusto, Defender and Elastic, else itself."""
    if isinstance(value, list):
        for item in value:
            yield from _rows(item) if isinstance(item, dict) else (item,)
        return
    if not isinstance(value, dict):
        yield value
        return
    tables = value.get("tables", value.get("Tables"))
    if isinstance(tables, list) and tables and all(isinstance(table, dict) for table in tables):
        yield from _table_rows(tables[0])  # the others are statistics
        return
    hits = value.get("hits")
    if isinstance(hits, dict) and isinstance(hits.get("hits"), list):
        yield from _rows(hits["hits"])
        return
    source = value.get("_source")
    if isinstance(source, dict):
        yield source
        return
    properties, category = value.get("properties"), value.get("category")
    if isinstance(properties, dict) and isinstance(category, str) and category.startswith("AdvancedHunting-"):
        yield {"Type": category.removeprefix("AdvancedHunting-"), **properties}  # the Defender XDR streaming API
        return
    for key in ROW_KEYS:
        rows = value.get(key)
        if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) and _is_envelope(value, key):
            yield from _rows(rows)
            return
    yield value


def _is_envelope(value: dict[str, Any], key: str) -> bool:
    beside = {name.lower() for name in value if name != key}
    return all(name in {"nextlink", "schema", "stats", "count"} or name.startswith("@odata.") for name in beside)


def _table_rows(table: dict[str, Any]) -> Iterator[Any]:
    columns = table.get("columns", table.get("Columns"))
    rows = table.get("rows", table.get("Rows"))
    if not isinstance(columns, list) or not isinstance(rows, list):
        yield table
        return
    named = [column for column in columns if isinstance(column, dict)]
    names = [str(column.get("name", column.get("ColumnName"))) for column in named]
    for row in rows:
        yield dict(zip(names, row, strict=False)) if isinstance(row, list) and len(row) == len(names) else row


def decode(file: EventFile, text: bytes, line: int | None) -> Any:
    """One JSON value of bounded depth, without NaN and lone surrogates. Returns `UNREADABLE` after reporting."""
    try:
        decoded = text.decode()
        if _depth(decoded, file.limits.depth) > file.limits.depth:
            file.bad("E662", f"a value is nested more than {file.limits.depth} levels deep", line)
            return UNREADABLE
        value = json.loads(decoded, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        file.bad("E664", f"not UTF-8: {error.reason} at byte {error.start} of the line", line)
    except (ValueError, RecursionError) as error:
        file.bad("E665", f"not JSON: {str(error)[:200]}", line)
    else:
        return _clean(value) if _SURROGATE.search(decoded) else value
    return UNREADABLE


UNREADABLE = object()
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON value")


def _depth(text: str, limit: int) -> int:
    """How deep the brackets of JSON text go, at most. Few brackets cannot go deep, which is cheap to see."""
    most = text.count("{") + text.count("[")
    if most <= limit:
        return most
    depth = deepest = 0
    for match in _STRUCTURE.finditer(text):
        char = match[0][0]
        if char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char != '"':
            depth -= 1
    return deepest


def _clean(value: Any) -> Any:
    """The value with lone surrogates, which no text can hold, replaced."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def read_ndjson(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    for number, line in lines(file, stream):
        if line.strip():
            value = decode(file, line, number)
            if value is not UNREADABLE:
                yield from events_in(file, value, str(number), "ndjson", number)


def lines(file: EventFile, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each line within the limit; a longer one is reported and passed over."""
    limit = file.limits.record
    number = 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit and not line.endswith(b"\n"):
            file.bad("E662", f"a line is longer than {limit} bytes", number)
            while (rest := stream.readline(1 << 20)) and not rest.endswith(b"\n"):
                pass
            continue
        yield number, line


def read_json(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    """The top-level values, and of an array each element, as soon as it is complete."""
    for number, (line, text) in enumerate(_json_values(file, stream), 1):
        value = decode(file, text, line)
        if value is not UNREADABLE:
            yield from events_in(file, value, f"{line}#{number}", "json", line)


_MARKS = re.compile(rb'["\[\]{}]')
_IN_STRING = re.compile(rb'["\\]')
_BETWEEN = re.compile(rb"[\s,]*")


class _Scan:
    """Where a scan of JSON stands: the bytes held, the brackets open, and the line of the first byte held."""

    __slots__ = ("at", "base", "buffer", "depth", "gap", "in_string", "line", "start")

    def __init__(self) -> None:
        self.buffer, self.line = b"", 1
        self.at = self.start = self.gap = 0  # looked at so far; begin of the open value; end of the last one
        self.depth = self.base = 0  # open brackets; of those, the top-level array
        self.in_string = False

    def cut(self) -> None:
        """Drops what is done with."""
        keep = self.start if self.depth > self.base else self.at
        self.line += self.buffer.count(b"\n", 0, keep)
        self.buffer = self.buffer[keep:]
        self.at, self.start, self.gap = self.at - keep, 0, 0


def _json_values(file: EventFile, stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Line and text of every object or array that stands alone or in a top-level array, once it is complete.

    What stands between them and is not a comma is reported; what is inside them is for the decoder to judge.
    """
    scan = _Scan()
    while chunk := stream.read(max(CHUNK, len(scan.buffer))):  # doubling keeps a long document linear
        scan.buffer += chunk
        yield from _complete_values(file, scan)
        if scan.depth == scan.base and not scan.in_string:
            _expect_nothing(file, scan, scan.at)
        scan.cut()
        if len(scan.buffer) > file.limits.document:
            message = f"a document is longer than {file.limits.document} bytes"
            raise fail("E662", message, place(file.path, scan.line), "write one event per line (NDJSON)")
    if scan.depth or scan.in_string:
        raise fail("E663", "the file ends in the middle of a document", place(file.path, scan.line))


def _complete_values(file: EventFile, scan: _Scan) -> Iterator[tuple[int, bytes]]:
    while mark := (_IN_STRING if scan.in_string else _MARKS).search(scan.buffer, scan.at):
        at, char = mark.start(), mark[0]
        scan.at = at + 1
        if scan.in_string:
            if char == b"\\":
                if scan.at == len(scan.buffer):  # the escaped character is not there yet
                    scan.at = at
                    return
                scan.at += 1
            else:
                scan.in_string = False
                scan.gap = scan.at
            continue
        if scan.depth == scan.base:
            _expect_nothing(file, scan, at + (char == b'"'))
        if char == b'"':
            scan.in_string = True
        elif char in b"[{":
            if char == b"[" and scan.depth == 0:
                scan.base = 1
            elif scan.depth == scan.base:
                scan.start = at
            scan.depth += 1
            if scan.depth - scan.base > file.limits.depth:
                message = f"values are nested more than {file.limits.depth} levels deep"
                raise fail("E662", message, place(file.path, scan.line))
            scan.gap = scan.at
        else:
            scan.depth -= 1
            scan.gap = scan.at
            if scan.depth < 0:
                raise fail("E665", "not JSON: a bracket is closed that none opened", place(file.path, scan.line))
            if scan.depth < scan.base:
                scan.base = 0
            elif scan.depth == scan.base:
                yield scan.line + scan.buffer.count(b"\n", 0, scan.start), scan.buffer[scan.start : scan.at]
    scan.at = len(scan.buffer)


def _expect_nothing(file: EventFile, scan: _Scan, end: int) -> None:
    """Reports anything but blanks and commas between the last value and `end`."""
    text = scan.buffer[scan.gap : end]
    if _BETWEEN.fullmatch(text) is None:
        line = scan.line + scan.buffer.count(b"\n", 0, scan.gap)
        shown = text.strip(b" ,\t\r\n")[:40].decode("utf-8", "replace")
        file.bad("E665", f"an event must be a map of fields, not `{shown}`", line)
    scan.gap = end
