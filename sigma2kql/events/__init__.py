"""Events of a file, one by one: NDJSON, JSON and API exports, YAML, CSV, Parquet, EVTX, XML, logs; also gz and zip.

Place in the flow: before the engines and `sigma2kql test`, beside the loader of rules. Invariant: an event is a dict of
plain values (str, int, float, bool, None, lists, dicts); whatever of a file cannot be read is said by a diagnostic, and
memory is bounded by `Limits`, not by the file.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from glob import escape
from importlib.util import find_spec
from itertools import chain
from os import getpid
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, fail
from sigma2kql.events.event_file import (
    CHUNK,
    DEFAULT_LIMITS,
    Event,
    EventFile,
    Kind,
    Limits,
    Report,
    as_utf8,
    not_text,
    place,
    unpacked,
)
from sigma2kql.events.event_forms import EventForm, Recognised, recognise, sigma_fields
from sigma2kql.events.records import UNREADABLE, decode, events_in, lines, read_json, read_ndjson
from sigma2kql.events.text_logs import RECORD, WithoutRecords, is_log, read_log, read_zeek
from sigma2kql.events.xml_events import read_xml
from sigma2kql.events.zip_files import is_zip, members, unzipped
from sigma2kql.system.child_process import ChildEnded, LineChild

__all__ = [
    "DEFAULT_LIMITS",
    "Event",
    "EventForm",
    "Limits",
    "Recognised",
    "event_files",
    "read_events",
    "read_paths",
    "recognise",
    "sigma_fields",
]

SUFFIXES: dict[str, Kind] = {
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".yml": "yaml",
    ".yaml": "yaml",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".evtx": "evtx",
    ".xml": "xml",
    ".log": "log",
}
YAML_BYTES = 8 << 20
EVTX_HEADER, EVTX_CHUNK, EVTX_RECORD = 4096, 65536, 24  # bytes; a record has at least so many


def read_events(path: Path, limits: Limits = DEFAULT_LIMITS, report: Report | None = None) -> Iterator[Event]:
    """The events of one file, in order. What it is shows in its content first, then in its extension.

    Raises Sigma2KqlError with E660..E669 for a file that cannot be read (further). A single unreadable record is given
    to `report` and passed over; without `report` it raises too.
    """
    file = EventFile(path, limits, report)
    with ExitStack() as stack:
        stream = stack.enter_context(unpacked(path, limits))
        head = cast("Any", stream).peek(4096)
        if is_zip(head):
            yield from _read_zip(file, limits, report)
            return
        kind = _recognise_kind(path, head)
        if kind in {"evtx", "parquet"}:
            source = path
            if _is_packed(path):
                source = stack.enter_context(_spooled(stream))
            yield from (_read_evtx if kind == "evtx" else _read_parquet)(file, source)
        else:
            text = as_utf8(stream, path)
            if RECORD.match(head):
                text = io.BufferedReader(WithoutRecords(text), CHUNK)
            yield from _TEXT_READERS[kind](file, text)


def _read_zip(file: EventFile, limits: Limits, report: Report | None) -> Iterator[Event]:
    """The events of every event file in an archive, each with the member's name in its origin."""
    for info in members(file, frozenset(SUFFIXES)):
        try:
            with unzipped(file.path, info, limits) as path:
                for event in read_events(path, limits, report):
                    rest = event.origin.removeprefix(str(path))
                    yield replace(event, origin=f"{file.path}!{info.filename}{rest}")
        except Sigma2KqlError as error:
            if report is None:
                raise
            for found in error.diagnostics:
                told = found.message.replace(str(Path(*file.path.parts[:-1])), "")
                report(replace(found, message=f"{info.filename}: {told}", span=place(file.path)))


def event_files(path: Path) -> list[Path]:
    """The file itself, or every event file below the folder, sorted; symbolic links to folders are not followed.

    In a folder YAML is taken for events only in `*.events.yml`, since rules are YAML too.
    """
    if not path.is_dir():
        return [path]
    # Path.rglob follows no links to folders
    return sorted(file for file in path.rglob("*") if _is_event_file(file) and file.is_file())


def _is_event_file(path: Path) -> bool:
    kind = SUFFIXES.get(_suffix(path))
    if path.suffix.lower() == ".zip":
        return True
    return kind is not None and (kind != "yaml" or ".events." in path.name)


def read_paths(paths: Iterable[Path], limits: Limits, report: Report) -> Iterator[Event]:
    """The events of files and folders; a file that cannot be read is reported and the others follow."""
    for path in chain.from_iterable(map(event_files, paths)):
        try:
            yield from read_events(path, limits, report)
        except Sigma2KqlError as error:
            for found in error.diagnostics:
                report(found)


# --------------------------------------------------------------------------------------------------------------------
# What a file is


def _suffix(path: Path) -> str:
    return (Path(path.stem) if path.suffix.lower() == ".gz" else path).suffix.lower()


def _is_packed(path: Path) -> bool:
    with path.open("rb") as raw:
        return raw.read(2) == b"\x1f\x8b"


def _recognise_kind(path: Path, head: bytes) -> Kind:
    if head.startswith(b"ElfFile\0"):
        return "evtx"
    if head.startswith(b"PAR1"):
        return "parquet"
    kind = SUFFIXES.get(_suffix(path))
    if kind in {"evtx", "parquet"}:
        if not head:
            raise fail("E663", f"{path} is empty", place(path))
        raise fail("E663", f"{path} does not begin as its extension says", place(path))
    if head.startswith((b"#separator", b"#fields")):
        return "zeek"
    if kind == "yaml" or kind == "csv":  # noqa: PLR1714 - the type checker reads this form
        return kind
    text = head.decode("utf-16" if head[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig", "replace").lstrip()
    if RECORD.match(head):
        text = text.partition("\n")[2].lstrip()
        return "xml" if text[:1] == "<" else "json"
    if text[:1] == "<":
        return "xml"
    if text[:1] in {"{", "["} or (kind is not None and not text):
        first, end, rest = text.partition("\n")
        lines = bool(end and rest.strip()) and _is_json(first)
        return "ndjson" if kind == "ndjson" or lines else "json"
    if kind == "ndjson":
        return kind
    if is_log(text):
        return "log"
    if kind == "json":
        raise fail("E665", f"{path} does not begin as JSON does", place(path))
    raise fail("E660", f"{path} is no kind of event file", place(path), "known: " + ", ".join(sorted(SUFFIXES)))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# --------------------------------------------------------------------------------------------------------------------
# YAML and CSV


def _read_yaml(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    """Documents that are events or lists of them. Values are as YAML 1.1 reads them, but dates stay text."""
    import yaml

    text = stream.read(YAML_BYTES + 1)
    if len(text) > YAML_BYTES:
        raise fail("E662", f"YAML of more than {YAML_BYTES} bytes", place(file.path), "write NDJSON")
    try:
        decoded = text.decode()
        _check_yaml(file, decoded)
        documents = list(yaml.load_all(decoded, Loader=_event_loader()))  # a safe loader without dates
    except UnicodeDecodeError as error:
        raise not_text(file.path, error.reason, text.count(b"\n", 0, error.start) + 1) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise fail("E665", f"not YAML: {reason}", place(file.path, mark.line + 1 if mark else None)) from None
    for number, document in enumerate(documents, 1):
        if document is not None:
            yield from events_in(file, document, f"#{number}", "yaml")


def _check_yaml(file: EventFile, text: str) -> None:
    """Refuses aliases, with which a few lines grow without bound, and deep nesting, before anything is built."""
    import yaml

    from sigma2kql.text.yaml_text import yaml_events

    depth = 0
    for event in yaml_events(text):
        line = event.start_mark.line + 1  # type: ignore[union-attr]
        if isinstance(event, yaml.AliasEvent):
            raise fail("E662", "aliases are not read in event files", place(file.path, line), "write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > file.limits.depth:
            message = f"values are nested more than {file.limits.depth} levels deep"
            raise fail("E662", message, place(file.path, line))


@cache
def _event_loader() -> Any:
    import yaml

    safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    kept = ("null", "bool", "int", "float", "merge")

    class EventLoader(safe):  # type: ignore[misc]
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] in kept]
            for first, resolvers in safe.yaml_implicit_resolvers.items()
        }
        yaml_constructors = {  # noqa: RUF012
            tag: make
            for tag, make in safe.yaml_constructors.items()
            if tag is None or tag.rpartition(":")[2] in {*kept, "str", "seq", "map"}
        }

    return EventLoader


def _read_csv(file: EventFile, stream: IO[bytes]) -> Iterator[Event]:
    """Rows under a header line; the separator is the comma, semicolon or tab that the header holds most of."""
    import csv

    csv.field_size_limit(file.limits.record)  # the default of 128 KiB is less than a script block
    rows = _texts(file, stream)
    header = next(rows, "")
    separator = max(",;\t", key=header.count)
    reader = csv.reader(chain((header,), rows), delimiter=separator, strict=True)
    names: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise fail("E665", f"not CSV: {error}", place(file.path, reader.line_num)) from None
        if row is None:
            return
        if names is None:
            names = [name.removesuffix(" [UTC]") for name in row]  # Log Analytics' portal says the zone
            if len(set(names)) < len(names):
                raise fail("E665", "the header names a column twice", place(file.path, 1))
        elif len(row) == len(names):
            yield Event(dict(zip(names, row, strict=True)), f"{file.path}:{reader.line_num}", "csv")
        elif row:
            message = f"the row has {len(row)} values for {len(names)} columns"
            file.bad("E665", message, reader.line_num)


def _texts(file: EventFile, stream: IO[bytes]) -> Iterator[str]:
    for number, line in lines(file, stream):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise not_text(file.path, error.reason, number) from None


_TEXT_READERS: dict[Kind, Callable[[EventFile, IO[bytes]], Iterator[Event]]] = {
    "ndjson": read_ndjson,
    "json": read_json,
    "yaml": _read_yaml,
    "csv": _read_csv,
    "xml": read_xml,
    "log": read_log,
    "zeek": read_zeek,
}

# --------------------------------------------------------------------------------------------------------------------
# Parquet and EVTX: through foreign parsers, from a file on disk


@contextmanager
def _spooled(stream: IO[bytes]) -> Iterator[Path]:
    """What was packed, as a file on disk for as long as it is read."""
    with TemporaryDirectory(prefix="sigma2kql-") as folder:
        path = Path(folder, "events")
        with path.open("wb") as out:
            copyfileobj(stream, out)
        yield path


def _read_parquet(file: EventFile, source: Path) -> Iterator[Event]:
    try:
        import duckdb
    except ImportError:
        raise _extra_missing(file.path, "Parquet", "duckdb") from None
    try:
        with duckdb.connect(config={"threads": 1, "memory_limit": "1GB"}) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            # JSON spares this process the types that DuckDB can only give with further packages; a path is a pattern
            rows = connection.execute("SELECT to_json(row) FROM read_parquet(?) row", [escape(str(source.resolve()))])
            number = 0
            while batch := rows.fetchmany(500):
                for (text,) in batch:
                    number += 1
                    value = decode(file, text.encode(), None)
                    if value is not UNREADABLE:
                        yield Event(value, f"{file.path}:#{number}", "parquet")
    except duckdb.Error as error:
        raise fail("E663", f"not readable as Parquet: {str(error).splitlines()[0][:300]}", place(file.path)) from None


def _read_evtx(file: EventFile, source: Path) -> Iterator[Event]:
    """Records in order of the file. They are parsed in a child: the parser can loop for ever on a corrupt file."""
    if find_spec("evtx") is None:
        raise _extra_missing(file.path, "EVTX", "evtx")
    stated, most = _check_evtx(file, source)
    seconds = file.limits.record_seconds
    child = _idle_child()
    finished = False
    try:
        child.tell(json.dumps(str(source.resolve())), seconds)
        number = 0
        while (line := child.read(seconds)) != b".":
            if line[:1] == b"E":
                file.bad("E663", f"damaged EVTX: {line[1:].decode('utf-8', 'replace')}")
                continue
            number += 1
            if number > most:
                raise fail("E663", "damaged EVTX: it yields more records than it has room for", place(file.path))
            if len(line) > file.limits.record:
                file.bad("E662", f"record {number} is longer than {file.limits.record} bytes")
                continue
            value = decode(file, line[1:], None)
            if value is not UNREADABLE:
                yield from events_in(file, value, f"#{number}", "evtx")
        finished = True
        if number < stated:
            file.bad("E663", f"damaged EVTX: only {number} of its {stated} records could be read")
    except ChildEnded as ended:
        raise fail("E663", f"damaged EVTX: its parser was stopped ({ended})", place(file.path)) from None
    finally:
        if finished:
            _IDLE.append((getpid(), child))
        else:
            child.close()


def _check_evtx(file: EventFile, source: Path) -> tuple[int, int]:
    """How many records the file says it holds, and how many it has room for. Reports a truncated file.

    The parser is silent where chunks are missing or broken, so what it yields is held against these numbers.
    Layout (header, then chunks of 64 KiB with the numbers of their first and last record):
    https://learn.microsoft.com/openspecs/windows_protocols/ms-even6
    """
    size = source.stat().st_size
    stated = 0
    with source.open("rb") as raw:
        chunks = int.from_bytes(raw.read(128)[42:44], "little")
        if size < EVTX_HEADER + chunks * EVTX_CHUNK or (size - EVTX_HEADER) % EVTX_CHUNK:
            file.bad("E663", f"truncated EVTX: {size} bytes cannot hold the {chunks} chunks of its header in full")
        for at in range(EVTX_HEADER, size - 24, EVTX_CHUNK):
            raw.seek(at)
            first, last = (int.from_bytes(raw.read(8 * n)[-8:], "little") for n in (2, 1))
            if 0 < first <= last < first + EVTX_CHUNK // EVTX_RECORD:  # an unused chunk says otherwise
                stated += last - first + 1
    return stated, max(size, 1) // EVTX_RECORD


_IDLE: list[tuple[int, LineChild]] = []  # parsers that wait for the next file, with the process that started them


def _idle_child() -> LineChild:
    while _IDLE:
        owner, child = _IDLE.pop()
        if owner == getpid():  # after a fork the pipes are the parent's
            return child
    # -P: the folder of the script, which is this package, must not shadow other modules
    return LineChild([sys.executable, "-P", str(Path(__file__).with_name("evtx_child.py"))])


def _extra_missing(path: Path, kind: str, package: str) -> Sigma2KqlError:
    return fail("E667", f"{package} is missing, which reads {kind}", place(path), "pip install 'sigma2kql[test]'")
