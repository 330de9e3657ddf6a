"""The one way in for files that others wrote: regular files, of a size that is known before they are read.

Place in the flow: below everything that reads. Invariant: nothing hangs and nothing grows: a pipe, a device or a file
that is too large is an OSError before a byte of it is held, whatever links lead to it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

MOST = 64 << 20  # bytes of one file; the longest texts that are read anywhere have their own, smaller limits
_KINDS: dict[str, Callable[[int], bool]] = {
    "a folder": stat.S_ISDIR,
    "a pipe": stat.S_ISFIFO,
    "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode),
    "a socket": stat.S_ISSOCK,
}
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def read_file(path: str | Path, most: int = MOST) -> bytes:
    """What a file holds. Raises OSError: it cannot be read, is no regular file (links resolved), or holds more."""
    _check(os.stat(path), most)  # noqa: PTH116 - before it is opened: to open some devices does something
    file = os.open(path, _FLAGS)
    try:
        _check(os.fstat(file), most)
        parts, room = [], most
        for part in iter(partial(os.read, file, 1 << 16), b""):
            parts.append(part)
            room -= len(part)
            if room < 0:  # it grows, or says of itself that it is empty
                raise _too_large(most)
        return b"".join(parts)
    finally:
        os.close(file)


def read_text(path: str | Path, most: int = MOST, encoding: str = "utf-8") -> str:
    """The same as text, with line ends as they are written `\\n`. Raises UnicodeDecodeError beside OSError."""
    text = read_file(path, most).decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _check(state: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(state.st_mode):
        kind = next((name for name, fits in _KINDS.items() if fits(state.st_mode)), "no regular file")
        raise OSError(errno.EINVAL, f"it is {kind}, not a file")
    if state.st_size > most:
        raise _too_large(most, state.st_size)


def _too_large(most: int, size: int | None = None) -> OSError:
    held = f"{size:,}" if size is not None else "more"
    return OSError(errno.EFBIG, f"it holds {held} bytes; at most {most:,} are read")
