"""Translations of queries, kept on disk: the same KQL over the same tables and versions is the same SQL.

Place in the flow: beside the DuckDB engine. Invariant: a key says everything that a translation depends on; a cache
that cannot be read or written is an empty one, never an error.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FORM = "1"  # of the values; a change of the translation's own steps is one too
MOST = 40_000  # entries; the oldest go
VARIABLE = "SIGMA2KQL_CACHE"  # a folder in place of the user's; empty: no cache


def folder() -> Path | None:
    """Where the cache lies: the user's own cache folder of this system."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "sigma2kql"
    except RuntimeError:  # no home
        return None


def key(kql: str, depends: Iterable[Any]) -> str:
    """The name of a translation: the query and all that it depends on, as JSON values."""
    told = json.dumps([FORM, _versions(), list(depends), kql], sort_keys=True)
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def _versions() -> list[str]:
    found = []
    for package in ("duckdb", "duckdb-kql", "sigma2kql"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


class SqlCache:
    """Values by key in one SQLite file; several processes may use it at once."""

    def __init__(self) -> None:
        self._path: Path | None = None
        where = folder()
        if where is None:
            return
        try:
            where.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path = where / f"translations-{FORM}.sqlite"
            with closing(self._open()) as store:
                store.execute("CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, value BLOB) STRICT")
                store.commit()
        except (OSError, sqlite3.Error):
            self._path = None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(str(self._path), timeout=5)

    def read(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values that are known."""
        found: dict[str, Any] = {}
        if self._path is None:
            return found
        try:
            with closing(self._open()) as store:
                for name in keys:
                    row = store.execute("SELECT value FROM entry WHERE key = ?", (name,)).fetchone()
                    if row is not None:
                        found[name] = json.loads(zlib.decompress(row[0]))
        except (sqlite3.Error, zlib.error, ValueError, OSError):
            return {}
        return found

    def write(self, values: Mapping[str, Any]) -> None:
        """Keeps these values; the oldest make room."""
        if self._path is None or not values:
            return
        with suppress(sqlite3.Error, OSError), closing(self._open()) as store:
            packed = [(name, zlib.compress(json.dumps(value).encode())) for name, value in values.items()]
            store.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?)", packed)
            store.execute(
                "DELETE FROM entry WHERE rowid IN (SELECT rowid FROM entry ORDER BY rowid DESC LIMIT -1 OFFSET ?)",
                (MOST,),
            )
            store.commit()
