"""Files in and out: nothing hangs, nothing is half written, nothing is written where it was not asked for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sigma2kql.system import whole_files
from sigma2kql.system.bounded_files import read_file, read_text
from sigma2kql.system.whole_files import write_whole

UNIX = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and links are made otherwise on Windows")


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_a_regular_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x\r\ny")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_file(tmp_path / "link") == b"x\r\ny"
    assert read_text(tmp_path / "link") == "x\ny"
    assert read_file(tmp_path / "a", most=4) == b"x\r\ny"


@UNIX
def test_what_never_ends_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    sparse(tmp_path / "large", 2 << 30)
    (tmp_path / "five").write_bytes(b"12345")
    for name, most, said in (
        ("pipe", 9, "a pipe"),
        ("zero", 9, "a device"),
        ("large", 64 << 20, "2,147,483,648 bytes"),
        ("five", 4, "5 bytes"),
        (".", 9, "a folder"),
        ("loop", 9, "symbolic"),
        ("none", 9, "No such file"),
    ):
        with pytest.raises(OSError, match=said):
            read_file(tmp_path / name, most)


@UNIX
def test_a_file_that_says_it_is_empty_is_bounded_too() -> None:
    if not Path("/proc/self/environ").is_file():
        pytest.skip("no /proc here")
    with pytest.raises(OSError, match="more bytes"):
        read_file("/proc/self/environ", most=1)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new and longer")
    assert (path.read_bytes(), sorted(p.name for p in tmp_path.iterdir())) == (b"old", ["a"])


@UNIX
def test_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    program = (
        "import os, sys, time; from pathlib import Path; from sigma2kql.system import whole_files as w\n"
        "w.os.fsync = lambda file: (print('writing', flush=True), time.sleep(60))\n"
        "w.write_whole(Path(sys.argv[1]), b'n' * 100000)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    assert path.read_bytes() == b"old"


@UNIX
def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    out.mkdir()
    other.mkdir()
    (other / "kept").write_bytes(b"kept")
    (out / "sub").symlink_to(other)
    (out / "file").symlink_to(other / "kept")
    with pytest.raises(OSError, match="leads out"):
        write_whole(out / "sub" / "new", b"x", inside=out)
    assert write_whole(out / "file", b"x", inside=out)
    assert not (out / "file").is_symlink()
    assert (other / "kept").read_bytes() == b"kept"
    (tmp_path / "named").symlink_to(other / "kept")
    assert write_whole(tmp_path / "named", b"y")  # a link that the user names is meant
    assert (other / "kept").read_bytes() == b"y"


def test_an_equal_file_is_left_alone_and_its_mode_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert write_whole(path, b"x")
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()
    path.chmod(0o640)
    before = path.stat().st_mtime_ns
    time.sleep(0.01)
    assert not write_whole(path, b"x")
    assert path.stat().st_mtime_ns == before
    assert write_whole(path, b"y")
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="folder"):
        write_whole(tmp_path, b"x")


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
