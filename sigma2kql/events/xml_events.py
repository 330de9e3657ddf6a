"""Windows events as XML: what wevtutil, ToXml of Get-WinEvent and Sysmon for Linux write, with a root or without.

Place in the flow: a reader of `events`. Invariant: a document type (the way to a bomb) is refused, one event is held at
a time, and its length and depth are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import IO, Any
from xml.parsers import expat

from sigma2kql.diagnostics.diagnostic import fail
from sigma2kql.events.event_file import CHUNK, Event, EventFile, place

ROOT = b"<s2k-events>"  # around events that stand side by side


class _Refused(Exception):  # noqa: N818 - becomes a diagnostic where the file is known
    pass


class _Node:
    """An element: its name without prefix, its attributes, its elements and its text."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name.rpartition(":")[2]
        self.attributes = {key: value for key, value in attributes.items() if not key.startswith("xmlns")}
        self.children: list[_Node] = []
        self.text = ""


def read_xml(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    """The `Event` elements of a document, or of several documents behind one another."""
    reader = _Reader(file)
    number = 0
    head = stream.read(CHUNK).lstrip()
    while head:
        yield from (Event(data, f"{file.path}:#{number + n}", "xml") for n, data in enumerate(reader.feed(head), 1))
        number += reader.given
        head = stream.read(CHUNK)
    yield from (Event(data, f"{file.path}:#{number + n}", "xml") for n, data in enumerate(reader.feed(b"", True), 1))


def event_of(text: str) -> dict[str, Any] | None:
    """The first event of a text, as its sections; None where it is not whole."""
    reader = _Reader(None)
    try:
        return next(iter(reader.feed(text.encode("utf-8", "replace"))), None)
    except (_Refused, expat.ExpatError):
        return None


class _Reader:
    """Takes text piece by piece and gives the events that are whole."""

    def __init__(self, file: EventFile | None) -> None:
        self._file = file
        self._record = file.limits.record if file is not None else 16 << 20
        self._depth = file.limits.depth if file is not None else 64
        self._stack: list[_Node] = []
        self._size = 0
        self._ready: list[dict[str, Any]] = []
        self.given = 0
        self._parser = expat.ParserCreate("utf-8")
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.EntityDeclHandler = self._refuse
        self._parser.Parse(ROOT)

    def feed(self, data: bytes, last: bool = False) -> list[dict[str, Any]]:
        """The events that this piece completes. Raises E662, E665 where there is a file, else what went wrong."""
        while (start := data.find(b"<?xml")) >= 0:  # each document's own declaration
            end = data.find(b"?>", start)
            data = data[:start] + (data[end + 2 :] if end >= 0 else b"")
        try:
            self._parser.Parse(data)
            if last and self._stack:
                raise _Refused("the last event is not whole")
        except expat.ExpatError as error:
            if self._file is None:
                raise
            line = self._parser.ErrorLineNumber
            raise fail("E665", f"not XML: {expat.ErrorString(error.code)}", place(self._file.path, line)) from None
        except _Refused as error:
            if self._file is None:
                raise
            line = self._parser.CurrentLineNumber
            raise fail("E662", f"not readable as events: {error}", place(self._file.path, line)) from None
        ready, self._ready = self._ready, []
        self.given = len(ready)
        return ready

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._stack and name.rpartition(":")[2] != "Event":
            return
        node = _Node(name, attributes)
        if self._stack:
            self._stack[-1].children.append(node)
        self._stack.append(node)
        self._grow(64 + sum(len(key) + len(value) for key, value in attributes.items()))
        if len(self._stack) > self._depth:
            raise _Refused(f"elements are nested more than {self._depth} levels deep")

    def _end(self, _: str) -> None:
        if self._stack:
            node = self._stack.pop()
            if not self._stack:
                self._ready.append(_sections(node))
                self._size = 0

    def _text(self, text: str) -> None:
        if self._stack:
            self._stack[-1].text += text
            self._grow(len(text))

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._record:
            raise _Refused(f"an event is longer than {self._record} bytes")

    def _refuse(self, *_: object) -> None:
        raise _Refused("it declares a document type")


def _sections(event: _Node) -> dict[str, Any]:
    """The event as evtx_dump writes it, with its values in order."""
    found: dict[str, Any] = {}
    for part in event.children:
        if part.name == "System":
            found["System"] = {child.name: _element(child) for child in part.children}
        elif part.name == "EventData":
            found["EventData"] = _data(part)
        elif part.name == "UserData":
            found["UserData"] = {child.name: _tree(child) for child in part.children}
        elif part.name == "RenderingInfo":
            found["RenderingInfo"] = {child.name: child.text for child in part.children}
    return {"Event": found}


def _element(node: _Node) -> Any:
    return (
        {"#attributes": node.attributes, "#text": node.text}
        if node.attributes and node.text
        else ({"#attributes": node.attributes} if node.attributes else node.text)
    )


def _data(section: _Node) -> Mapping[str, Any]:
    named = [{"@Name": n.attributes.get("Name", ""), "#text": n.text} for n in section.children if n.name == "Data"]
    return {"Data": named, **{n.name: n.text for n in section.children if n.name != "Data"}}


def _tree(node: _Node) -> Any:
    return {child.name: _tree(child) for child in node.children} if node.children else node.text
