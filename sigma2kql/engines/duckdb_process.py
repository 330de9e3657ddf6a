"""The DuckDB engine in a process of its own, which can be killed: whatever a query does, it ends.

Place in the flow: between hunting and `duckdb`, over `duckdb_child`. Invariant: a query takes no longer than its time
and the child no more address space than its memory (and a constant); a child that dies costs the query that killed it,
not the others. The database lies in a folder of its own, gone at every end: this process removes it, and where it was
killed itself the child does.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic, fail
from sigma2kql.engines.remote import Rows, TimeRange, cut, limited
from sigma2kql.model.tree import KqlType
from sigma2kql.system.child_process import ChildEnded, LineChild

SECONDS = 60.0  # for a query, where nothing is said
GRACE = 2.0  # seconds after which a query that does not stop by itself is killed
LOADING = 600.0  # seconds for a batch of rows
STARTING = 60.0
BATCH = 10_000
ELSEWHERE = "Kusto itself runs it: --cluster URL --database NAME, or --workspace ID"
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def memory_bytes(text: str) -> int | None:
    """`500MB`, `2GB`, `1.5GiB` in bytes; None where it is none of these."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    return None if found is None else int(float(found[1]) * _UNITS[found[2]])


class DuckDBProcess:
    """Tables on disk, and KQL over them; used as a context manager, one question at a time.

    `memory` is the database's limit ("2GB"), `threads` its number of threads, `seconds` a query's time.
    """

    def __init__(self, memory: str = "2GB", threads: int | None = None, seconds: float | None = None) -> None:
        size = memory_bytes(memory)
        if not size:
            raise fail("E603", f"`{memory}` is no amount of memory", hint="such as 500MB or 2GB")
        self._folder = TemporaryDirectory(prefix="sigma2kql-", ignore_cleanup_errors=True)
        self.seconds = seconds or SECONDS
        self._settings = {
            "database": str(Path(self._folder.name, "events.duckdb")),
            "memory": memory,
            "bytes": size,
            "threads": threads or 1,
            "seconds": self.seconds,
        }
        self._child: LineChild | None = None

    def __enter__(self) -> DuckDBProcess:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and removes the database."""
        if self._child is not None:
            self._child.close()
            self._child = None
        self._folder.cleanup()

    # -- tables ------------------------------------------------------------------------------------------------------

    def create(self, table: str, columns: Mapping[str, KqlType]) -> None:
        """Make an empty table. Raises E604."""
        self._ask({"do": "create", "table": table, "columns": columns}, STARTING)

    def append(self, table: str, columns: Mapping[str, KqlType], rows: Iterable[Mapping[str, Any]]) -> int:
        """Add rows to a table that was created with these columns, and give their number. Raises E604."""
        waiting, count = iter(rows), 0
        while batch := list(islice(waiting, BATCH)):
            count += self._ask({"do": "append", "table": table, "columns": columns, "rows": batch}, LOADING)
        return count

    # -- queries -----------------------------------------------------------------------------------------------------

    def run(
        self,
        kql: str,
        span: TimeRange | None = None,  # noqa: ARG002 - it was applied when the events were gathered
        limit: int = 10_000,
        time: str = "TimeGenerated",  # noqa: ARG002
    ) -> Rows:
        """See `RemoteEngine.run`."""
        try:
            return _rows(self._ask({"do": "run", "kql": limited(kql, limit)}, self.seconds), limit)
        except ChildEnded as ended:
            raise self._killed(ended) from None

    def select(
        self, table: str, rows: str, queries: Sequence[str], limit: int
    ) -> Iterator[int | Rows | Sigma2KqlError]:
        """See `CombinedScan.select`; a query that kills the child costs itself alone."""
        at = 0
        counted = False
        while True:
            self._tell({"do": "select", "table": table, "rows": rows, "queries": queries[at:], "limit": limit})
            try:
                held = self._answer(max(self.seconds, LOADING))
                if not counted:
                    counted = True
                    yield held
                while at < len(queries):
                    found: Rows | Sigma2KqlError
                    try:
                        found = _rows(self._answer(self.seconds), limit)
                    except Sigma2KqlError as error:
                        found = error
                    at += 1
                    yield found
            except ChildEnded as ended:
                self._drop()
                if not counted:
                    raise self._killed(ended) from None
                at += 1
                yield self._killed(ended)
                if at < len(queries):
                    continue
            return

    # -- the child ---------------------------------------------------------------------------------------------------

    def _ask(self, question: Mapping[str, Any], seconds: float) -> Any:
        self._tell(question)
        try:
            return self._answer(seconds)
        except ChildEnded:
            self._drop()
            if question["do"] == "run":
                raise
            raise fail("E604", f"table {question.get('table')}: the database's process ended") from None

    def _tell(self, question: Mapping[str, Any]) -> None:
        line = json.dumps(question, ensure_ascii=True, default=_plain)
        for attempt in (1, 2):
            child = self._started()
            try:
                child.tell(line, LOADING)
            except ChildEnded:
                self._drop()
                if attempt == 2:
                    raise fail("E603", "the database's process cannot be reached") from None
            else:
                return

    def _answer(self, seconds: float) -> Any:
        """What the child answers. Raises Sigma2KqlError where it failed, ChildEnded where there is none in time."""
        assert self._child is not None
        answer = json.loads(self._child.read(seconds + GRACE))
        if "fail" in answer:
            raise Sigma2KqlError(
                diagnostic(code, message, hint=ELSEWHERE if code == "E601" else hint)
                for code, message, hint in answer["fail"]
            )
        return answer["ok"]

    def _started(self) -> LineChild:
        if self._child is None:
            script = str(Path(__file__).with_name("duckdb_child.py"))
            # -P: the folder of the script must not shadow other modules; the package is found where this one was
            home = str(Path(__file__).resolve().parents[2])
            command = [sys.executable, "-P", "-c", _START, home, script]
            self._child = LineChild(command, apart=True)
            try:
                self._child.tell(json.dumps(self._settings), STARTING)
                self._answer(STARTING)
            except ChildEnded as ended:
                self._drop()
                raise fail("E603", f"the database's process cannot be started ({ended})") from None
        return self._child

    def _drop(self) -> None:
        if self._child is not None:
            with suppress(OSError):
                self._child.close()
            self._child = None

    def _killed(self, ended: ChildEnded) -> Sigma2KqlError:
        if "no answer" in str(ended):
            return fail("E606", f"the query failed: more than {self.seconds:g} seconds")
        return fail("E603", f"the query failed: out of memory ({self._settings['memory']}), or its process was ended")


_START = "import runpy, sys; sys.path.insert(0, sys.argv[1]); runpy.run_path(sys.argv[2], run_name='__main__')"


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return str(value)


def _rows(answer: Mapping[str, Any], limit: int) -> Rows:
    """A result with times and spans as Python has them."""
    rows = answer["rows"]
    for i, kind in enumerate(answer["types"]):
        if kind.startswith("TIMESTAMP"):
            for row in rows:
                row[i] = None if row[i] is None else datetime.fromisoformat(row[i]).replace(tzinfo=UTC)
        elif kind == "INTERVAL":
            for row in rows:
                row[i] = row[i] if row[i] is None or isinstance(row[i], str) else timedelta(microseconds=row[i])
    return cut(dict.fromkeys(answer["columns"], ""), [tuple(row) for row in rows], limit, None)
