"""Run the queries of rules where the data is: on this machine's files, on Kusto, in a Log Analytics workspace.

Place in the flow: above the engines, below `sigma2kql hunt`; `plan` and `local` are its way over files. Invariant: each
rule gives one outcome, in order, and the failure of one leaves the others as they are.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from sigma2kql.api import fault
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, frozen
from sigma2kql.engines.remote import RemoteEngine, Rows, TimeRange
from sigma2kql.model.tree import Compiled

FATAL = frozenset({"E600", "E670", "E671", "E672"})  # no other query would fare better


@frozen
class Outcome:
    """What the queries of one rule gave: their rows, or why there are none. `seen`: how many events the rule could look
    at, where that is known; where it is none, `blind` says which events it is about.
    """

    done: Compiled
    rows: Rows | None
    problems: tuple[Diagnostic, ...] = ()
    seconds: float = 0.0
    seen: int | None = None
    blind: str = ""
    queries: tuple[Compiled, ...] = ()


def hunt(
    queries: Sequence[tuple[Compiled, str]], engine: RemoteEngine, span: TimeRange | None, limit: int, jobs: int = 1
) -> Iterator[Outcome]:
    """The outcomes of (result, its time column), in order; `jobs` queries at once, and at most twice as many waiting.

    Raises Sigma2KqlError where no query can succeed: an extra is missing, or signing in failed.
    """

    def one(query: tuple[Compiled, str]) -> Outcome:
        done, column = query
        assert done.kql is not None
        started = time.perf_counter()
        try:
            rows = engine.run(done.kql, span, limit, column)
        except Sigma2KqlError as error:
            if error.diagnostics[0].code in FATAL:
                raise
            return Outcome(done, None, placed(error.diagnostics, done), time.perf_counter() - started)
        except Exception as error:
            told = (fault(error, done.document.origin.span),)
            return Outcome(done, None, told, time.perf_counter() - started)
        return Outcome(done, rows, placed(rows.notices, done), time.perf_counter() - started)

    if jobs <= 1:
        yield from map(one, queries)
        return
    with ThreadPoolExecutor(jobs) as pool:
        waiting: deque[Future[Outcome]] = deque()
        try:
            for query in queries:
                waiting.append(pool.submit(one, query))
                if len(waiting) >= 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def placed(problems: Iterable[Diagnostic], done: Compiled) -> tuple[Diagnostic, ...]:
    """Problems of a query, at the place of its rule."""
    span = done.document.origin.span
    return tuple(d if d.span is not None else replace(d, span=span) for d in problems)
