"""An event file as its readers see it: its bytes, unpacked and as UTF-8, its limits, and what was unreadable in it.

Place in the flow: below the readers of `events`. Invariant: whatever a file claims, at most `Limits.size` bytes of it
are unpacked and no more than one buffer of them is held; only regular files are opened.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Source, Span, diagnostic, fail, frozen

Kind: TypeAlias = Literal["ndjson", "json", "yaml", "csv", "parquet", "evtx", "xml", "log", "zeek"]
Report: TypeAlias = Callable[[Diagnostic], None]

BAD_RECORDS = 20  # after so many unreadable records a file is given up
CHUNK = 1 << 16
BOMB_BYTES = 64 << 20  # what a gz file may unpack to before its ratio counts
BOMB_RATIO = 250  # logs pack to a tenth or a fiftieth; a file of one repeated byte to a thousandth


@frozen
class Limits:
    """What an event file may cost. Sizes in bytes, unpacked; depths in levels."""

    size: int = 64 << 30  # one file
    document: int = 64 << 20  # what must be held at once: one JSON document that is not an array, one YAML file
    record: int = 16 << 20  # one event
    depth: int = 64
    record_seconds: float = 30.0  # for the next record of a foreign parser


DEFAULT_LIMITS = Limits()


@frozen
class Event:
    """One event as it was written. `origin` names its file and line or number (from 1), for a person to find it."""

    data: Mapping[str, Any]
    origin: str
    kind: Kind


class EventFile:
    """One file on its way: its path, its limits, and how many of its records were unreadable so far."""

    def __init__(self, path: Path, limits: Limits, report: Report | None) -> None:
        self.path, self.limits, self._report = path, limits, report
        self._bad = 0

    def bad(self, code: Code, message: str, line: int | None = None) -> None:
        """Reports an unreadable record and goes on; raises where nobody listens, and E666 after too many of them."""
        found = diagnostic(code, message, place(self.path, line))
        if self._report is None:
            raise Sigma2KqlError((found,))
        self._report(found)
        self._bad += 1
        if self._bad >= BAD_RECORDS:
            raise fail("E666", f"{self.path}: given up after {BAD_RECORDS} unreadable records", place(self.path, line))


def place(path: Path, line: int | None = None) -> Span:
    """The start of a line (from 1) of a file whose text is not held."""
    source = Source(str(path), "\n" * min(line - 1, 1 << 20) if line else "")
    return Span(source, len(source.text), len(source.text))


@contextmanager
def unpacked(path: Path, limits: Limits) -> Iterator[IO[bytes]]:
    """The file's bytes, gunzipped where it is gz (known by its first bytes).

    Reading raises E661 (it cannot be opened), E662 (more than the limits allow) and E663 (damaged gz) for this path.
    """
    if not path.is_file():  # a pipe or a device might never end
        raise fail("E661", f"{path} is not a file", place(path))
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw) if packed else raw)
            with io.BufferedReader(_Bounded(path, raw, stream, limits.size), CHUNK) as buffered:
                yield buffered
    except OSError as error:
        raise fail("E661", f"{path} cannot be read: {error.strerror or error}", place(path)) from None


def as_utf8(stream: IO[bytes], path: Path) -> IO[bytes]:
    """The same text as UTF-8 without a byte order mark; UTF-16 is known by its mark (Windows PowerShell writes it)."""
    head = cast("io.BufferedReader", stream).peek(4)[:3]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return io.BufferedReader(_Recoded(path, stream), CHUNK)
    if head == codecs.BOM_UTF8:
        stream.read(3)
    return stream


class _Bounded(io.RawIOBase):
    """Counts what is read of `stream`, which unpacks `raw`, and stops at the limit or at the ratio of a bomb."""

    def __init__(self, path: Path, raw: IO[bytes], stream: IO[bytes], limit: int) -> None:
        self._path, self._raw, self._stream, self._limit = path, raw, stream, limit
        self._packed = raw is not stream
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise fail("E663", f"{self._path} is damaged: {error}", place(self._path)) from None
        self._count += len(data)
        bomb = self._packed and self._count > BOMB_BYTES and self._count > BOMB_RATIO * self._raw.tell()
        if bomb or self._count > self._limit:
            raise fail(
                "E662",
                f"{self._path} unpacks to more than {BOMB_RATIO} times its size"
                if bomb
                else f"{self._path} holds more than {self._limit} bytes",
                place(self._path),
            )
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """UTF-16 with a mark, as UTF-8."""

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path, self._stream = path, stream
        self._decoder = codecs.getincrementaldecoder("utf-16")("strict")
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._rest:
            data = self._stream.read(CHUNK)
            try:
                self._rest = self._decoder.decode(data, final=not data).encode()
            except UnicodeError as error:
                raise not_text(self._path, str(error)) from None
            if not data:
                break
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def not_text(path: Path, reason: str, line: int | None = None) -> Sigma2KqlError:
    """E664: bytes that are no text."""
    return fail("E664", f"{path} is not UTF-8 text: {reason}", place(path, line), "save it as UTF-8")
