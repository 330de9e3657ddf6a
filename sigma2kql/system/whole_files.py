"""The one way out: a file is written whole or stays as it was.

Place in the flow: below everything that writes. Invariant: at every moment the path holds the old content or the new
one; nothing is written through a link that leads out of the folder that was named.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, data: bytes | memoryview, inside: Path | None = None) -> bool:
    """Write a file beside itself and put it in its place; False: it held that already. Raises OSError.

    `inside`: the folder that it may not leave, links resolved; a link in its place is replaced, not followed. Without
    it a link that the user named is followed, and a device (`/dev/stdout`) written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if inside is not None:
        if not path.parent.resolve().is_relative_to(inside.resolve()):
            raise OSError(errno.EXDEV, f"a link leads out of {inside}")
    elif path.is_symlink():
        path = path.resolve()
    state = _state(path)
    if state is not None and not stat.S_ISREG(state.st_mode) and not stat.S_ISLNK(state.st_mode):
        if inside is not None or stat.S_ISDIR(state.st_mode):
            raise OSError(errno.EISDIR, "it is a folder" if stat.S_ISDIR(state.st_mode) else "it is not a file")
        path.write_bytes(data)
        return True
    if state is not None and stat.S_ISREG(state.st_mode) and state.st_size == len(data) and path.read_bytes() == data:
        return False
    _replace(path, data, stat.S_IMODE(state.st_mode) if state is not None and stat.S_ISREG(state.st_mode) else None)
    return True


def _state(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes | memoryview, mode: int | None) -> None:
    import tempfile  # costs a tenth of a short run that writes no file

    file, name = tempfile.mkstemp(prefix=".sigma2kql-", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(file, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        os.chmod(name, mode)  # noqa: PTH101 - the name is the system's own
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
