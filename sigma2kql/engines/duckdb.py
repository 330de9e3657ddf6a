"""Run KQL on this machine: a thin adapter over duckdb-kql and DuckDB (extra `test`).

Place in the flow: after emission; takes KQL text and rows, gives rows. Invariant: Kusto's meaning or an error, never a
guess. Strings are '' where Kusto's would be (it has no null strings), every other type has a null; what a value's text
cannot be read as becomes null, as at ingestion. The data is hostile: no file, network or extension is reachable, and
memory, threads and time are bounded.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeVar

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, fail, frozen
from sigma2kql.engines import functions, ip, row_functions as serial
from sigma2kql.engines.rewrites import Parameters, moments, nesting, rewrite
from sigma2kql.engines.scan_operator import NotUnderstood, Place, Scan, find_scan, read_scan, run_scan
from sigma2kql.model.tree import KqlType

T = TypeVar("T")

_BATCH = 20_000  # rows handed over at a time
_MAX_DEPTH = 20_000  # of expressions; Microsoft's parser stops far below (KS245)
_MAX_NESTING = 1_000  # of brackets; Microsoft's parser fails at 600, and this one takes quadratic time
_MOST_KEPT = 200  # translations of queries
_STACK = 512 * 1024 * 1024  # address space, not memory

_SQL_TYPES: Mapping[KqlType, str] = {
    "string": "VARCHAR",
    "int": "INTEGER",
    "long": "BIGINT",
    "real": "DOUBLE",
    "decimal": "DECIMAL(38,9)",
    "bool": "BOOLEAN",
    "datetime": "TIMESTAMP",
    "timespan": "INTERVAL",
    "dynamic": "JSON",
    "guid": "UUID",
}


@frozen
class Found:
    """What a query gave: the names of its columns, their SQL types, and the rows as DuckDB gives them."""

    columns: list[str]
    types: list[str]
    rows: list[tuple[Any, ...]]


class Engine:
    """Tables in memory, and KQL over them. Use it as a context manager; one query at a time.

    `memory` is DuckDB's limit ("2GB"), `threads` its number of threads (None: one per core), `timeout` seconds per
    query (None: no limit). `database` names a DuckDB file instead of memory. `arrival` names the column that
    ingestion_time() gives; without one it is null. `now`, which may be set at any time, is what now() and ago() reckon
    from (naive: UTC; None: the real time). Every error is a Sigma2KqlError.
    """

    now: datetime | None = None

    def __init__(
        self,
        *,
        database: str = ":memory:",
        memory: str = "2GB",
        threads: int | None = None,
        timeout: float | None = None,
        arrival: str = "",
    ) -> None:
        duckdb = _require()
        # beside a database on disk: whoever made its folder removes it, also where this process is killed
        folder = None if database == ":memory:" else os.path.dirname(os.path.abspath(database))  # noqa: PTH100, PTH120
        self._spill = TemporaryDirectory(prefix="sigma2kql-", dir=folder, ignore_cleanup_errors=True)
        config: dict[str, Any] = {
            "memory_limit": memory,
            "temp_directory": self._spill.name,
            "autoload_known_extensions": False,
            "autoinstall_known_extensions": False,
            "threads": threads or os.cpu_count() or 1,
        }
        self._timeout = timeout
        self._arrival = arrival
        self._locked = False
        self._translations: dict[tuple[str, str, str], str] = {}
        self._functions: dict[str, tuple[str, Parameters]] = {}
        self._schema: dict[str, list[str]] | None = None
        try:
            self.connection = duckdb.connect(database, config=config)
        except duckdb.Error as error:
            self._spill.cleanup()
            raise fail("E603", f"DuckDB cannot be started: {_first_line(error)}") from None
        self.connection.execute("SET TimeZone='UTC'")
        self.connection.execute("SET enable_progress_bar=false")  # DuckDB writes it to stdout, which is the product's
        self.connection.execute(f"SET max_expression_depth TO {_MAX_DEPTH}")
        self.connection.execute(ip.MACROS.replace("CREATE MACRO", "CREATE OR REPLACE TEMP MACRO"))
        ip.register()
        functions.register()
        serial.register()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget all tables."""
        self.connection.close()
        self._spill.cleanup()

    def lock(self) -> None:
        """From here on no file, network or extension can be reached; the first `run` does it too.

        Before it, `connection` may read files with DuckDB's own readers (a path is then the caller's to check).
        """
        if not self._locked:
            self.connection.execute("SET enable_external_access=false")
            self.connection.execute("SET lock_configuration=true")
            self._locked = True
        self._schema = None

    def load(self, table: str, columns: Mapping[str, KqlType], rows: Iterable[Mapping[str, Any]]) -> int:
        """Make (or replace) a table of these rows, and give their number.

        A row maps column names to JSON values, datetimes (naive: UTC) and timedeltas. What it lacks is '' or null; a
        key that is no column is left out. Raises E604 for rows that cannot be taken over.
        """
        self.create(table, columns)
        return self.append(table, columns, rows)

    def create(self, table: str, columns: Mapping[str, KqlType]) -> None:
        """Make (or replace) an empty table. Raises E604."""
        definition = ", ".join(
            f"{_identifier(n)} {_SQL_TYPES[kind]}{_DEFAULT if kind == 'string' else ''}" for n, kind in columns.items()
        )
        with self.reporting("E604", f"table {table}"):
            self.connection.execute(f"CREATE OR REPLACE TABLE {_identifier(table)} ({definition})")
        self._schema = None

    def append(self, table: str, columns: Mapping[str, KqlType], rows: Iterable[Mapping[str, Any]]) -> int:
        """Add rows to a table that was created with these columns; see `load`."""
        names = list(columns)
        struct = {f"c{i}": "JSON" if columns[n] == "dynamic" else "VARCHAR" for i, n in enumerate(names)}
        values = ", ".join(_value_sql(f"r.c{i}", columns[n]) for i, n in enumerate(names))
        insert = (
            f"INSERT INTO {_identifier(table)} SELECT {values} "  # noqa: S608 - identifiers are quoted, values are bound
            f"FROM (SELECT unnest(from_json(?, '{json.dumps([struct])}')) AS r)"
        )
        waiting, count = iter(rows), 0
        with self.reporting("E604", f"table {table}"):
            while batch := [[row.get(n) for n in names] for row in islice(waiting, _BATCH)]:
                self.connection.execute(insert, [_as_json(batch, columns)])
                count += len(batch)
        return count

    def function(self, name: str, parameters: str, body: str) -> None:
        """Define a stored function, as an ASIM parser is one: `parameters` as "(a:string='*', b:int=int(null))", a
        tabular `body`. It can then be called by position or by name. Raises E602 where it cannot be read."""
        from duckdb_kql.stored_functions import parse_functions

        declared = parameters.strip()
        if declared.startswith("(") and declared.endswith(")"):
            declared = declared[1:-1]
        text = f"function {name}({declared}) {{ {rewrite(body)} }}"
        try:
            parse_functions([text])
        except (ValueError, TypeError) as error:
            raise fail("E602", f"function {name}: {_first_line(error)}") from None
        self._functions[name] = (text, _parameters(declared))

    def run(self, kql: str) -> list[dict[str, Any]]:
        """The rows that a query gives; dynamic values as JSON values, datetimes as naive UTC."""
        found = self.rows(kql)
        dynamic = [i for i, kind in enumerate(found.types) if kind == "JSON"]
        done = []
        for row in found.rows:
            values = list(row)
            for i in dynamic:
                values[i] = None if values[i] is None else json.loads(values[i])
            done.append(dict(zip(found.columns, values, strict=True)))
        return done

    def matching(self, kql: str, id_column: str = "_id") -> set[int]:
        """The ids of the rows that a query lets through. The tables need the column, and the query must keep it."""
        return {row[0] for row in self.rows(f"{kql}\n| project {id_column}").rows}

    def rows(self, kql: str) -> Found:
        """What a query gives, as DuckDB has it."""
        if not self._locked:
            self.lock()
        if self.now is not None:
            self.connection.execute(f"SET VARIABLE {functions.NOW} = TIMESTAMP '{self.now:%Y-%m-%d %H:%M:%S.%f}'")
        settled = moments(kql, f"{functions.NOW}()" if self.now is not None else "", self._arrival)
        with self._staged(settled) as plain:
            return self.found(self.translated(plain))

    def found(self, sql: str) -> Found:
        """What translated SQL gives. Raises E603, E606."""
        with self.reporting("E603", "the query failed"), self._bounded():
            cursor = self.connection.execute(sql)
            description = cursor.description or []
            return Found([d[0] for d in description], [str(d[1]) for d in description], cursor.fetchall())

    def columns(self, table: str) -> dict[str, str]:
        """The columns of a table and their SQL types, in order; empty where there is no such table."""
        rows = self.connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", [table]
        )
        return dict(rows.fetchall())

    # ---- below

    # -- scan: what feeds it is a table, what it gives another, and the query goes on from there

    @contextmanager
    def _staged(self, kql: str) -> Iterator[str]:
        """The query with a view in place of each pipeline that ends in `scan`; the views are there for a while."""
        made: list[str] = []
        try:
            while (place := find_scan(kql)) is not None:
                made.append(name := f"s2k_scan{len(made) + 1}")
                self._scan(place, name)
                kql = f"{place.before} {name} {place.after}"
            yield kql
        finally:
            for name in made:
                self.connection.execute(f"DROP VIEW IF EXISTS {name}")
                self.connection.execute(f"DROP TABLE IF EXISTS {name}_in")
                self.connection.execute(f"DROP TABLE IF EXISTS {name}_out")
            self._schema = None if made else self._schema

    def _scan(self, place: Place, name: str) -> None:
        """Make the view `name`: the records that a scan puts out. Raises E601, E602."""
        try:
            scan = read_scan(place.scan)
        except NotUnderstood as error:
            raise fail("E601", f"this engine cannot run `scan` with `{error}`") from None
        numbers = serial.order_of(serial.split(place.pipeline, "|"))
        if numbers is None:
            raise fail("E601", "this engine runs `scan` behind a `sort by` only")
        unknown = scan.declared.keys() - {n for n, kind in scan.declared.items() if kind in _SQL_TYPES}
        if unknown:
            raise fail("E602", f"`{min(unknown)}` is declared with an unknown type")
        sql = self.translated(f"{place.statements}{place.pipeline}\n| {numbers}")
        self.connection.execute(f"CREATE TABLE {name}_in AS {sql}")
        columns: dict[str, Any] = {serial.ROW: "long", **scan.declared}
        rows = list(self._scanned(scan, f"{name}_in"))
        self.load(f"{name}_out", columns, (dict(zip(columns, row, strict=True)) for row in rows))
        declared = "".join(f", o.{_identifier(column)}" for column in scan.declared)
        self.connection.execute(
            f"CREATE VIEW {name} AS SELECT i.* EXCLUDE ({serial.ROW}){declared} "  # noqa: S608 - names are our own
            f"FROM {name}_out o JOIN {name}_in i USING ({serial.ROW})"
        )
        self._schema = None

    def _scanned(self, scan: Scan, table: str) -> Iterator[tuple[Any, ...]]:
        """The row number and the declared values of each match."""
        names = [name for name in scan.reads if name not in scan.declared]
        read = ", ".join([serial.ROW, *map(_identifier, names)])
        cursor = self.connection.execute(f"SELECT {read} FROM {table} ORDER BY {serial.ROW}")  # noqa: S608 - as above
        numbers: list[int] = []

        def records() -> Iterator[dict[str, Any]]:
            while batch := cursor.fetchmany(_BATCH):
                for number, *values in batch:
                    numbers.append(number)
                    yield dict(zip(names, values, strict=True))

        for at, values in run_scan(scan, records()):
            yield (numbers[at], *values)

    def translated(self, kql: str) -> str:
        """The SQL of a query. Raises E601, E602, E605."""
        import duckdb_kql
        from duckdb_kql.engine import schema

        if self._schema is None:
            self._schema = schema(self.connection)
        known, functions = self._schema, [text for text, _ in self._functions.values()]
        asked = (kql, repr(known), repr(functions))
        if asked in self._translations:  # one query over many tables of the same columns
            return self._translations[asked]

        if nesting(kql) > _MAX_NESTING:
            raise fail("E605", f"more than {_MAX_NESTING} brackets in one another")

        def translate() -> str:
            plain = serial.ordered(rewrite(kql, {name: p for name, (_, p) in self._functions.items()}))
            return str(duckdb_kql.to_sql(plain, schema=known, functions=functions or None, allow_write=False))

        try:
            sql = _with_deep_stack(translate)
            if len(self._translations) < _MOST_KEPT:
                self._translations[asked] = sql
            return sql
        except duckdb_kql.KqlUnsupportedError as error:
            raise fail("E601", f"this engine cannot run `{error.construct}`", hint=error.hint or "") from None
        except (duckdb_kql.KqlError, ValueError) as error:
            raise fail("E602", _first_line(error)) from None
        except RecursionError:
            raise fail("E605", "the query is nested too deeply") from None
        except (AssertionError, AttributeError, KeyError, TypeError, IndexError) as error:  # a fault of the translator
            raise fail("E601", f"this engine cannot read the query ({type(error).__name__}: {error})") from None

    @contextmanager
    def reporting(self, code: Code, what: str) -> Iterator[None]:
        """DuckDB's errors as ours."""
        duckdb = _require()
        try:
            yield
        except duckdb.InterruptException:
            raise fail("E606", f"{what}: more than {self._timeout:g} seconds") from None
        except duckdb.BinderException as error:  # a wrong type or an unknown name: Kusto refuses those as well
            raise fail("E602", _first_line(error)) from None
        except duckdb.CatalogException as error:
            raise fail("E602", _first_line(error)) from None
        except duckdb.Error as error:
            raise fail(code, f"{what}: {_first_line(error)}") from None
        except RecursionError:
            raise fail(code, f"{what}: a value is nested too deeply") from None

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        if self._timeout is None:
            yield
            return
        timer = threading.Timer(self._timeout, self.connection.interrupt)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


_DEFAULT = " NOT NULL DEFAULT ''"


def _require() -> Any:
    try:
        import duckdb
        import duckdb_kql  # noqa: F401 - extra
    except ImportError as error:
        raise fail(
            "E600", f"running queries on this machine needs `{error.name}`", hint="pip install 'sigma2kql[test]'"
        ) from None
    return duckdb


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:400]


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _value_sql(read: str, kind: KqlType) -> str:
    match kind:
        case "string":
            return f"coalesce({read}, '')"
        case "dynamic":
            return f"CASE WHEN json_type({read}) <> 'NULL' THEN {read} END"
        case "datetime":
            return f"CAST(TRY_CAST({read} AS TIMESTAMPTZ) AT TIME ZONE 'UTC' AS TIMESTAMP)"
        case _:
            return f"TRY_CAST({read} AS {_SQL_TYPES[kind]})"


def _as_json(batch: list[list[Any]], columns: Mapping[str, KqlType]) -> str:
    kinds = list(columns.values())
    text = json.dumps(
        [{f"c{i}": _jsonable(v, kinds[i]) for i, v in enumerate(row) if v is not None} for row in batch],
        ensure_ascii=False,
        default=_other_json,
    )
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair: Kusto, too, stores U+FFFD for what is no character
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _jsonable(value: Any, kind: KqlType) -> Any:
    if kind == "string" and not isinstance(value, str | bool | int | float | datetime | timedelta):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_other_json)
    if kind == "dynamic" and isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN has no JSON
        return None
    return value


def _other_json(value: Any) -> str:
    if isinstance(value, datetime):
        moment = value if value.tzinfo is None else value.astimezone(UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, timedelta):
        return f"{value // timedelta(microseconds=1)} microseconds"
    return str(value)


def _parameters(declared: str) -> Parameters:
    """Names and defaults of "a:string='*', b:int=int(null)"; "" where there is none."""
    found: list[tuple[str, str]] = []
    depth, piece, quote = 0, "", ""
    for char in declared + ",":
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == "," and depth == 0:
            if piece.strip():
                name, _, default = piece.partition("=")
                found.append((name.partition(":")[0].strip(), default.strip()))
            piece = ""
            continue
        else:
            depth += (char in "([{") - (char in ")]}")
        piece += char
    return tuple(found)


def _with_deep_stack(work: Callable[[], T]) -> T:
    """Do it as it is; where Python's recursion limit is in the way, once more in a thread with room.

    The limit and the stack size belong to the whole process, so both are put back whatever happens.
    """
    try:
        return work()
    except RecursionError:
        pass
    outcome: list[T] = []
    problem: list[BaseException] = []

    def attempt() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            problem.append(error)

    limit, stack = sys.getrecursionlimit(), threading.stack_size(_STACK)
    sys.setrecursionlimit(max(limit, 100_000))
    try:
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(stack)
    if problem:
        raise problem[0]
    return outcome[0]


__all__ = ["Engine", "Sigma2KqlError"]
