"""Many queries over one table: the rows of their log source are set apart once, what queries share is computed once.

Place in the flow: above the DuckDB engine and `flat_sql`, inside the child of `duckdb_process`. Invariant: every query
selects the rows that it selects by itself; `tests/engines` holds the two equal. What cannot be shared runs by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, fail, frozen
from sigma2kql.engines.duckdb import Engine, Found
from sigma2kql.engines.flat_sql import Flat, flatten, placed
from sigma2kql.engines.sql_cache import SqlCache, key

NUMBER = "_Row"
_COLUMN = re.compile(r"'(?:[^']|'')*'|\"((?:[^\"]|\"\")+)\"")
_LOWERED = re.compile(r"'(?:[^']|'')*'|\b_l(\d+)\b")


def _named(flat: Flat) -> set[str]:
    """The columns that the conditions and the parts of a query name."""
    texts = " ".join((*flat.conditions, *flat.parts))
    return {found[1].replace('""', '"') for found in _COLUMN.finditer(texts) if found[1]}


@frozen
class Translated:
    """A query as SQL, and as conditions where it is a selection of rows."""

    sql: str
    flat: Flat | None


class CombinedScan:
    """Runs queries over the tables of an engine. A table needs the column `_Row`, which numbers its rows."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._cache = SqlCache()
        self._numbers = count()
        self._types: dict[tuple[str, str], str] = {}

    def select(
        self, table: str, rows: str, queries: Sequence[str], limit: int
    ) -> Iterator[int | Found | Sigma2KqlError]:
        """First how many rows of `table` the query `rows` selects, then for each of `queries`, which select among
        these rows alone, at most `limit` rows and one more, or why there are none.
        """
        self.engine.lock()
        known = self._translate(table, [rows, *queries])
        base, rest = known[0], known[1:]
        if isinstance(base, Sigma2KqlError):
            raise base
        shared = [one.flat for one in rest if isinstance(one, Translated) and one.flat is not None]
        names: dict[str, int] = {}
        for flat in shared:
            for part in flat.parts:
                names.setdefault(part, len(names))
        drop = frozenset(base.flat.conditions) if base.flat is not None and not base.flat.parts else frozenset()
        conditions = [placed(flat, names, drop) for flat in shared]
        name = f"s2k_part_{next(self._numbers)}"
        with self.engine.reporting("E603", "the query failed"):
            seen = self._set_apart(name, base.sql, names, conditions)
        yield seen
        waiting = iter(conditions)
        for one in rest:
            if isinstance(one, Sigma2KqlError):
                yield one
                continue
            condition = next(waiting) if one.flat is not None else None
            try:
                nothing = condition is not None and not seen
                yield Found([], [], []) if nothing else self._one(name, table, one, condition, limit)
            except Sigma2KqlError as error:
                yield error
        self.engine.connection.execute(f"DROP TABLE {name}")

    def _set_apart(self, name: str, rows: str, names: Mapping[str, int], conditions: Sequence[str]) -> int:
        """Makes the table of the rows of a log source, with the columns and the parts that conditions read."""
        texts = " ".join(conditions)
        columns = dict.fromkeys([NUMBER, *(found[1] for found in _COLUMN.finditer(texts) if found[1])])
        lowered = {int(found[1]) for found in _LOWERED.finditer(texts) if found[1]}
        read = [f'"{column}"' for column in columns]
        read += [f"{part} AS _x{number}" for part, number in names.items()]
        outer = "".join(f", lower(_x{number}) AS _l{number}" for number in sorted(lowered))
        inner = f"SELECT {', '.join(read)} FROM ({rows})"  # noqa: S608 - translated SQL and names of our own
        self.engine.connection.execute(f"CREATE TEMP TABLE {name} AS SELECT *{outer} FROM ({inner})")  # noqa: S608
        found = self.engine.connection.execute(f"SELECT count(*) FROM {name}").fetchone()  # noqa: S608
        assert found is not None
        return int(found[0])

    def _one(self, name: str, table: str, one: Translated, condition: str | None, limit: int) -> Found:
        if condition is None:
            return self.engine.found(f"SELECT * FROM ({one.sql}) LIMIT {limit + 1:d}")  # noqa: S608
        select = f"SELECT {NUMBER} FROM {name} WHERE {condition} LIMIT {limit + 1:d}"  # noqa: S608 - see `placed`
        numbers = [row[0] for row in self.engine.found(select).rows]
        if not numbers:
            return Found([], [], [])
        head = f'WITH _s0 AS (SELECT * FROM "{table}"'  # noqa: S608 - as the translator writes it
        assert one.sql.startswith(head)
        chosen = ", ".join(map(str, numbers))
        return self.engine.found(f'{head} WHERE "{NUMBER}" IN ({chosen}){one.sql[len(head) :]}')

    # -- translation -------------------------------------------------------------------------------------------------

    def _translate(self, table: str, queries: Sequence[str]) -> list[Translated | Sigma2KqlError]:
        """Every query as SQL, from the cache where it is known; a query that cannot be translated gives the error."""
        columns = self.engine.columns(table)
        keys = [key(query, (table, columns)) for query in queries]
        known = self._cache.read(keys)
        fresh: dict[str, Any] = {}
        done: list[Translated | Sigma2KqlError] = []
        for query, name in zip(queries, keys, strict=True):
            if name not in known:
                try:
                    sql = self.engine.translated(query)
                    flat = flatten(sql, list(columns), lambda text: self._type(table, text))
                except Sigma2KqlError as error:
                    done.append(error)
                    continue
                known[name] = fresh[name] = [
                    sql,
                    [flat.table, flat.conditions, flat.parts] if flat is not None else None,
                ]
            sql, parts = known[name]
            flat = Flat(parts[0], tuple(parts[1]), tuple(parts[2])) if parts is not None else None
            if flat is not None and (flat.table != table or not _named(flat) <= columns.keys()):
                flat = None  # it reads what the table does not have, and is to say so by itself
            done.append(Translated(sql, flat))
        self._cache.write(fresh)
        return done

    def _type(self, table: str, text: str) -> str:
        """The SQL type of an expression over a table."""
        if (table, text) not in self._types:
            with self.engine.reporting("E603", "the query failed"):
                row = self.engine.connection.execute(f'DESCRIBE SELECT {text} FROM "{table}"').fetchone()  # noqa: S608
            if row is None:
                raise fail("E603", "DuckDB tells no type")
            self._types[table, text] = str(row[1])
        return self._types[table, text]
