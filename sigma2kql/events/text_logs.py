"""Lines of logs: Sysmon for Linux and auditd as syslog has them, Zeek's logs, and evtx_dump's numbered records.

Place in the flow: readers of `events`. Invariant: a line that is no event of the log is passed over, never guessed at.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, Any

from sigma2kql.events.event_file import Event, EventFile
from sigma2kql.events.records import lines
from sigma2kql.events.xml_events import event_of

RECORD = re.compile(rb"Record \d+\s*")  # evtx_dump puts it before each record
_AUDIT = re.compile(r"\btype=([A-Z][A-Z0-9_]*) (?:msg=)?audit\((\d+)\.(\d+):(\d+)\):? ?")
_PAIR = re.compile(r"""([A-Za-z_][\w.-]*)=("[^"]*"|'[^']*'|\S+)""")
_ZEEK_EMPTY = "(empty)"


def is_log(head: str) -> bool:
    """Whether the first lines of a text are of Sysmon for Linux or auditd."""
    return any("<Event" in line or _AUDIT.search(line) for line in head.splitlines()[:20])


def read_log(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    """Events of Sysmon for Linux (XML in a line) and records of auditd (key=value); other lines are passed over."""
    for number, raw in lines(file, stream):
        line = raw.decode("utf-8", "replace").strip()
        origin = f"{file.path}:{number}"
        start = line.find("<Event")
        if start >= 0:
            event = event_of(line[start:])
            if event is None:
                file.bad("E665", "the event's XML is not whole", number)
            else:
                event["Event"].setdefault("System", {})
                yield Event({**event, "SyslogMessage": line[start:]}, origin, "log")
        elif (found := _AUDIT.search(line)) is not None:
            yield Event(_audit(found, line), origin, "log")


def _audit(found: re.Match[str], line: str) -> dict[str, Any]:
    """A record of auditd by Sigma's names: `type` and the keys of the record."""
    fields: dict[str, Any] = {"type": found[1]}
    for name, value in _PAIR.findall(line[found.end() :]):
        if value[:1] == "'":
            fields.update((n, v.strip('"')) for n, v in _PAIR.findall(value[1:-1]))
        else:
            fields[name] = value.strip('"')
    seconds, milliseconds = int(found[2]), found[3]
    moment = datetime.fromtimestamp(min(seconds, 1 << 34), UTC)
    return {**fields, "TimeGenerated": f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds}Z", "SyslogMessage": line}


def read_zeek(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    """A log of Zeek with its header lines; `_path` says which log it is. Unset fields are left out."""
    names: list[str] = []
    path, unset, empty = "", "-", _ZEEK_EMPTY
    for number, raw in lines(file, stream):
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if line.startswith("#"):
            key, _, rest = line[1:].partition("\t")
            match key:
                case "fields":
                    names = rest.split("\t")
                case "path":
                    path = rest
                case "unset_field":
                    unset = rest
                case "empty_field":
                    empty = rest
                case _:
                    pass
            continue
        values = line.split("\t")
        if len(values) != len(names):
            file.bad("E665", f"the line has {len(values)} values for {len(names)} fields", number)
            continue
        fields: dict[str, Any] = {n: "" if v == empty else v for n, v in zip(names, values, strict=True) if v != unset}
        yield Event({"_path": path, **fields}, f"{file.path}:{number}", "zeek")


class WithoutRecords(io.RawIOBase):
    """evtx_dump's output without the lines `Record 1`, `Record 2` .. between the records."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            line = self._stream.readline(1 << 20)
            if not line:
                return 0
            self._rest = b"\n" if RECORD.fullmatch(line) else line
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
