"""The event files in a zip archive, one by one.

Place in the flow: beside the readers of `events`. Invariant: nothing is unpacked to a name that the archive chose, and
no more than the limits of one file and the ratio of a bomb allow; what is encrypted, or no event file, is said.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sigma2kql.diagnostics.diagnostic import fail
from sigma2kql.events.event_file import BOMB_BYTES, BOMB_RATIO, CHUNK, EventFile, Limits, place

MEMBERS = 20_000


def is_zip(head: bytes) -> bool:
    """Whether a file begins as a zip archive does."""
    return head.startswith(b"PK\x03\x04")


def members(file: EventFile, known: frozenset[str]) -> Iterator[zipfile.ZipInfo]:
    """The members whose names end as event files do (also gz). Raises E663, E662."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise fail("E663", f"{file.path} is damaged: {error}", place(file.path)) from None
    if len(infos) > MEMBERS:
        raise fail("E662", f"{file.path} holds more than {MEMBERS:,} files", place(file.path))
    for info in infos:
        name = info.filename.lower().removesuffix(".gz")
        if not info.is_dir() and name[name.rfind(".") :] in known:
            yield info


@contextmanager
def unzipped(path: Path, info: zipfile.ZipInfo, limits: Limits) -> Iterator[Path]:
    """A member as a file of its own, with its own ending, for as long as it is read. Raises E662, E663."""
    if info.flag_bits & 1:
        raise fail("E663", f"{path}: `{info.filename}` is encrypted", place(path), "unpack it with its password")
    if info.file_size > limits.size or (
        info.file_size > BOMB_BYTES and info.file_size > BOMB_RATIO * max(info.compress_size, 1)
    ):
        raise fail("E662", f"{path}: `{info.filename}` unpacks to more than the limits allow", place(path))
    suffixes = "".join(Path(info.filename).suffixes[-2:])
    with TemporaryDirectory(prefix="sigma2kql-") as folder:
        target = Path(folder, f"events{suffixes if suffixes.replace('.', '').isalnum() else ''}")
        left = info.file_size
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as packed, target.open("wb") as out:
                while piece := packed.read(CHUNK):
                    left -= len(piece)
                    if left < 0:
                        raise fail("E662", f"{path}: `{info.filename}` is larger than it says", place(path))
                    out.write(piece)
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError) as error:
            raise fail("E663", f"{path}: `{info.filename}` is damaged: {error}", place(path)) from None
        yield target
