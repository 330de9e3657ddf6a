"""The process that runs queries for `duckdb_process`: one JSON command a line, one JSON answer a line (or several).

Place in the flow: run as a script, never imported. Invariant: the address space is bounded before the first row is
taken; when the asker is gone the database is removed. Answers: {"ok": ..} or {"fail": [[code, message, hint], ..]}.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

SLACK = 1 << 30  # bytes of address space beside the database's: code, stacks, what Python holds


def main() -> None:
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):  # the asker decides: it closes the pipe, or kills
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    settings = json.loads(sys.stdin.buffer.readline())
    try:
        serve(settings)
    finally:
        shutil.rmtree(Path(settings["database"]).parent, ignore_errors=True)


def serve(settings: dict[str, Any]) -> None:
    """Answers until the asker is gone."""
    from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic

    try:
        work = Work(settings)
    except Sigma2KqlError as error:
        say({"fail": told(error)})
        return
    say({"ok": True})
    for line in sys.stdin.buffer:
        if not line.endswith(b"\n"):  # the asker was gone before it had said it all
            break
        try:
            for answer in work.answers(json.loads(line)):
                say({"fail": told(answer)} if isinstance(answer, Sigma2KqlError) else {"ok": answer})
        except Sigma2KqlError as error:
            say({"fail": told(error)})
        except MemoryError:
            problem = diagnostic("E603", f"the query failed: out of memory ({settings['memory']})")
            say({"fail": told(Sigma2KqlError((problem,)))})
    with suppress(Exception):
        work.engine.close()


class Work:
    """The engine, and what is asked of it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from sigma2kql.engines.combined_scan import CombinedScan
        from sigma2kql.engines.duckdb import Engine

        self.engine = Engine(
            database=settings["database"],
            memory=settings["memory"],
            threads=settings["threads"],
            timeout=settings["seconds"],
        )
        self.scan = CombinedScan(self.engine)
        limit(settings["bytes"])

    def answers(self, asked: dict[str, Any]) -> Iterator[Any]:
        from sigma2kql.engines.duckdb import Found

        match asked["do"]:
            case "create":
                self.engine.create(asked["table"], asked["columns"])
                yield True
            case "append":
                yield self.engine.append(asked["table"], asked["columns"], asked["rows"])
            case "run":
                yield packed(self.engine.rows(asked["kql"]))
            case "select":
                for answer in self.scan.select(asked["table"], asked["rows"], asked["queries"], asked["limit"]):
                    yield packed(answer) if isinstance(answer, Found) else answer


def limit(size: int) -> None:
    """Bounds the address space to what is in use now and so many bytes more, where the system can."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + size + SLACK, used + size + SLACK))
    except (ImportError, OSError, ValueError, AttributeError):
        pass


def packed(found: Any) -> dict[str, Any]:
    """A result as JSON values: times in ISO 8601, spans in microseconds, dynamic values as they are."""
    rows = [list(row) for row in found.rows]
    for i, kind in enumerate(found.types):
        if kind == "JSON":
            for row in rows:
                row[i] = None if row[i] is None else json.loads(row[i])
    return {"columns": found.columns, "types": found.types, "rows": rows}


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value // timedelta(microseconds=1)
    return str(value)


def told(error: Any) -> list[list[str]]:
    return [[problem.code, problem.message, problem.hint or ""] for problem in error.diagnostics]


def say(answer: dict[str, Any]) -> None:
    text = json.dumps(answer, ensure_ascii=True, default=plain)
    sys.stdout.buffer.write(text.encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
