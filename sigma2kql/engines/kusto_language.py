"""Microsoft's own KQL parser and binder: which errors a query has against a schema, and which columns it gives.

Place in the flow: beside the emitter, a judge of finished KQL; nothing is run. Invariant: the package is Microsoft's
npm release found on this machine, never fetched and never shipped; positions are characters of the query text.

The parser is JavaScript. It runs in process through mini-racer (extra `kusto`), where it can reach neither files nor
network, or in a `node` child, which is given only the release whose files are known here. Where neither can be had,
`GrammarCheck` judges syntax alone with the grammar of duckdb-kql (extra `test`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from sigma2kql.diagnostics.diagnostic import Diagnostic, Severity, Sigma2KqlError, diagnostic, fail, frozen
from sigma2kql.system.child_process import ChildEnded, LineChild

PACKAGE = "@kusto/language-service-next"
VERSION = "12.4.1"
BUNDLE = {  # the files of the release and their SHA-256
    "bridge.min.js": "5edc505e5634daf2922197797740180d587d15b5f0f505c95ad7b5dd6b5daae8",
    "Kusto.Language.Bridge.min.js": "3a96a4ac1bff095ba49d6606e7d591f5d00519b529c51a6850032f62b0960a86",
}
DRIVER = Path(__file__).with_suffix(".js")
INSTALL = f"npm install {PACKAGE}@{VERSION}"
QUERY_SECONDS = 60.0
START_SECONDS = 120.0
HEAP_BYTES = 1 << 30
_ASTRAL = re.compile(r"[\U00010000-\U0010FFFF]")

Route: TypeAlias = Literal["mini-racer", "node"]


class FunctionSchema(TypedDict):
    """A stored function: its parameter list as KQL declares it, `(a:string='')`, and the columns of its table."""

    params: str
    columns: Mapping[str, str]


class KqlSchema(TypedDict, total=False):
    """What names in a query stand for: tables (column -> KQL type) and functions."""

    tables: Mapping[str, Mapping[str, str]]
    functions: Mapping[str, FunctionSchema]


@frozen
class KqlProblem:
    """One finding of a parser: its own code (`KS142`; empty for the grammar check) and characters of the query."""

    code: str
    severity: Severity
    message: str
    start: int
    length: int


class KqlCheck(Protocol):
    """What judges KQL text. `notices` says what this way of judging does not cover."""

    notices: tuple[Diagnostic, ...]

    def __enter__(self) -> KqlCheck: ...
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...
    def check(self, kql: str) -> list[KqlProblem]:
        """The findings in order of the text; empty where the query is sound."""


# --------------------------------------------------------------------------------------------------------------------
# The package


def find_bundle(option: str | None = None) -> Path | None:
    """The folder of the npm package: named by `option`, by KUSTO_JS, or in node_modules here or above; else None.

    A named folder may be the package itself or one that holds node_modules. Raises E650 where it is neither.
    """
    for named, how in ((option, "the option"), (os.environ.get("KUSTO_JS"), "KUSTO_JS")):
        if named:
            for folder in (Path(named), Path(named, PACKAGE), Path(named, "node_modules", PACKAGE)):
                if _is_bundle(folder):
                    return folder
            raise fail("E650", f"{how} names {named}, which does not hold {PACKAGE}", hint=f"install it: {INSTALL}")
    here = Path.cwd()
    for folder in (here, *here.parents):
        if _is_bundle(bundle := folder / "node_modules" / PACKAGE):
            return bundle
    return None


def _is_bundle(folder: Path) -> bool:
    return all((folder / name).is_file() for name in BUNDLE)


def _is_known_release(bundle: Path) -> bool:
    return all(hashlib.sha256((bundle / name).read_bytes()).hexdigest() == digest for name, digest in BUNDLE.items())


def missing(bundle: Path | None) -> tuple[str, ...]:
    """What has to be installed before `KustoLanguage` can run with this bundle; empty where it can."""
    lacks = []
    if bundle is None:
        lacks.append(f"the npm package {PACKAGE} ({INSTALL}; or name its folder)")
    if find_spec("py_mini_racer") is None and shutil.which("node") is None:
        lacks.append("a JavaScript engine (pip install 'sigma2kql[kusto]', or node)")
    return tuple(lacks)


def open_check(schema: KqlSchema | None = None, bundle: str | None = None) -> KqlCheck:
    """Microsoft's parser where it can be had, else the grammar check with a notice W650 that says what is missing.

    To be used as a context manager. Raises E650 (a named folder without the package) and E651 (nothing can judge).
    """
    folder = find_bundle(bundle)
    lacks = missing(folder)
    if not lacks and folder is not None:
        return KustoLanguage(schema, folder)
    if find_spec("duckdb_kql") is None:
        lacks = (*lacks, "or, for syntax alone, duckdb-kql (pip install 'sigma2kql[test]')")
        raise fail("E651", "KQL cannot be validated here", hint="install " + " and ".join(lacks))
    notice = diagnostic("W650", "only the grammar of the queries is checked", hint="install " + " and ".join(lacks))
    return GrammarCheck((notice,))


# --------------------------------------------------------------------------------------------------------------------
# The judges


class KustoLanguage:
    """Kusto.Language with a schema, alive between `__enter__` and `__exit__` (mini-racer hangs an exit without it)."""

    def __init__(self, schema: KqlSchema | None = None, bundle: Path | None = None, route: Route | None = None) -> None:
        """`route` None takes mini-racer where it is installed, else node. Raises E651 where something is missing."""
        self.notices: tuple[Diagnostic, ...] = ()
        self._schema: KqlSchema = schema or {}
        found = bundle or find_bundle()
        lacks = missing(found)
        if lacks or found is None:
            raise fail("E651", "Microsoft's KQL parser is not installed", hint="install " + " and ".join(lacks))
        self._bundle = found
        self.route: Route = route or ("node" if find_spec("py_mini_racer") is None else "mini-racer")
        self._engine: _InProcess | _Node | None = None
        self._last: tuple[str, dict[str, Any]] | None = None

    def __enter__(self) -> KustoLanguage:
        self._engine = _InProcess(self._bundle) if self.route == "mini-racer" else _Node(self._bundle)
        try:
            self._engine.ask("schema", self._schema, START_SECONDS)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the JavaScript engine; a second call does nothing."""
        engine, self._engine, self._last = self._engine, None, None
        if engine is not None:
            engine.close()

    def check(self, kql: str) -> list[KqlProblem]:
        """All findings on this query against the schema, in order of the text.

        Raises E652 where the parser gives no answer: it ran out of time, memory or stack on this query.
        """
        units = _units(kql)
        found = []
        for code, severity, message, start, length in self._analyse(kql)["problems"]:
            first = units(start)
            found.append(
                KqlProblem(code, _SEVERITIES.get(severity, "info"), message, first, units(start + length) - first)
            )
        return sorted(found, key=lambda problem: (problem.start, problem.code))

    def result_columns(self, kql: str) -> dict[str, str]:
        """The columns that the query gives, name -> KQL type, in order; empty where it gives no table. Raises E652."""
        return dict(self._analyse(kql)["columns"])

    def _analyse(self, kql: str) -> dict[str, Any]:
        if self._engine is None:
            raise RuntimeError("KustoLanguage is used outside its `with` block")
        if self._last is None or self._last[0] != kql:
            try:
                self._last = (kql, self._engine.ask("query", kql, QUERY_SECONDS))
            except Sigma2KqlError:
                self.close()  # an engine that was stopped inside a query answers out of step: start a new one
                self.__enter__()
                raise
        return self._last[1]


class GrammarCheck:
    """Syntax alone, by the grammar that duckdb-kql carries: names and types are not looked at."""

    def __init__(self, notices: tuple[Diagnostic, ...] = ()) -> None:
        self.notices = notices

    def __enter__(self) -> GrammarCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def check(self, kql: str) -> list[KqlProblem]:
        """The syntax errors of the query, in order of the text. Raises E652 where it is nested too deeply."""
        import duckdb_kql

        try:
            found = duckdb_kql.validate(kql)
        except RecursionError:
            raise fail("E652", "the query is nested too deeply for the grammar check") from None
        lines = kql.split("\n")
        problems = []
        for problem in found:
            before = sum(len(line) + 1 for line in lines[: problem.span.line - 1])
            start = min(before + problem.span.column, len(kql))  # lines count from 1, columns from 0
            problems.append(KqlProblem("", "error", problem.message, start, min(1, len(kql) - start)))
        return problems


_SEVERITIES: dict[str, Severity] = {"Error": "error", "Warning": "warning"}


def _units(text: str) -> Any:
    """A function from UTF-16 offsets in `text` to character offsets."""
    astral = [match.start() + index for index, match in enumerate(_ASTRAL.finditer(text))]  # their UTF-16 offsets
    if not astral:
        return lambda offset: offset
    return lambda offset: offset - bisect_left(astral, offset)


# --------------------------------------------------------------------------------------------------------------------
# The two ways to run JavaScript


class _InProcess:
    """mini-racer: V8 in this process, without files and network."""

    def __init__(self, bundle: Path) -> None:
        from py_mini_racer import MiniRacer

        self._context = MiniRacer()
        try:
            self._context.set_hard_memory_limit(HEAP_BYTES)
            for script in (*(bundle / name for name in BUNDLE), DRIVER):
                self._evaluate(script.read_text(encoding="utf-8") + "\n;0", START_SECONDS)
        except BaseException:
            self.close()
            raise

    def ask(self, what: str, value: Sequence[str] | Mapping[str, Any], seconds: float) -> Any:
        function = "setSchema" if what == "schema" else "analyse"
        return json.loads(str(self._evaluate(f"{function}({json.dumps(value)})", seconds)))

    def _evaluate(self, script: str, seconds: float) -> object:
        from py_mini_racer import JSEvalException, JSTimeoutException

        try:
            return self._context.eval(script, timeout_sec=seconds)
        except JSTimeoutException:
            with suppress(JSEvalException):  # lets the stopped script report before the context may be closed
                self._context.eval("0", timeout_sec=1)
            raise _no_answer(f"no answer within {seconds:.0f} seconds") from None
        except JSEvalException as error:
            raise _no_answer(str(error) or type(error).__name__) from None

    def close(self) -> None:
        self._context.close()


class _Node:
    """A node child that answers a JSON line per request line. It can do anything, so it gets only a known release."""

    def __init__(self, bundle: Path) -> None:
        if not _is_known_release(bundle):
            raise fail(
                "E653",
                f"{bundle} is not {PACKAGE} {VERSION} as Microsoft published it, so it is not run with node",
                hint=f"{INSTALL}, or pip install 'sigma2kql[kusto]' to run it where it can do no harm",
            )
        node = shutil.which("node")
        if node is None:
            raise fail("E651", "node is not installed", hint="install node, or pip install 'sigma2kql[kusto]'")
        self._child = LineChild([node, f"--max-old-space-size={HEAP_BYTES >> 20}", str(DRIVER), str(bundle)])

    def ask(self, what: str, value: Sequence[str] | Mapping[str, Any], seconds: float) -> Any:
        try:
            self._child.tell(json.dumps({what: value}), seconds)
            answer = json.loads(self._child.read(seconds))
        except ChildEnded as ended:
            raise _no_answer(str(ended)) from None
        if isinstance(answer, dict) and "failure" in answer:
            raise _no_answer(answer["failure"])
        return answer

    def close(self) -> None:
        self._child.close()


def _no_answer(reason: str) -> Sigma2KqlError:
    first = reason.strip().splitlines()[0][:200] if reason.strip() else "unknown"
    return fail("E652", f"Microsoft's KQL parser could not analyse the query: {first}")
