"""A child process that is asked and answers in lines, and cannot keep its asker waiting.

Place in the flow: below whatever runs foreign parsers outside this process. Invariant: every read ends, with a line or
with `ChildEnded`; a child that misses its time is killed, and none outlives its asker (its standard input closes).
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

TICK = 0.05


class ChildEnded(Exception):  # noqa: N818 - an event, not always an error
    """The child ended or was killed; the text says which."""


class LineChild:
    """A process with a line-wise standard input and output. Its standard error is discarded."""

    def __init__(self, command: Sequence[str], apart: bool = False) -> None:
        """`apart`: in a session of its own, where the terminal's signals do not reach it."""
        self._process = subprocess.Popen(  # noqa: S603 - no shell; the callers' commands are fixed
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=apart,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._deadline: float | None = None
        self._late = False
        threading.Thread(target=self._watch, daemon=True).start()

    def __enter__(self) -> LineChild:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tell(self, line: str, seconds: float) -> None:
        """Writes one line. Raises ChildEnded where the child is gone or does not take it in time."""
        self._deadline = time.monotonic() + seconds
        try:
            self._stdin.write(line.encode() + b"\n")
            self._stdin.flush()
        except OSError:
            raise self._ended(seconds) from None
        finally:
            self._deadline = None

    def read(self, seconds: float) -> bytes:
        """The next line without its end. Raises ChildEnded where none comes within `seconds`."""
        self._deadline = time.monotonic() + seconds
        try:
            line = self._stdout.readline()
        finally:
            self._deadline = None
        if not line.endswith(b"\n"):
            raise self._ended(seconds)
        return line[:-1]

    def close(self) -> None:
        """Kills the child; a second call does nothing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            with suppress(OSError):
                stream.close()

    def _ended(self, seconds: float) -> ChildEnded:
        self._process.kill()
        status = self._process.wait()
        return ChildEnded(f"no answer within {seconds:.3g} seconds" if self._late else f"it ended with status {status}")

    def _watch(self) -> None:
        while self._process.poll() is None:
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._late = True
                self._process.kill()
            time.sleep(TICK)
