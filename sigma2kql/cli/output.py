"""Results as text: the `kql` and `ndjson` formats, and where a folder of results is written.

Place in the flow: after compilation. Invariant: nothing a rule says chooses a path or leaves a comment line.
"""

from __future__ import annotations

import errno
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any

from sigma2kql.api import SUFFIXES, Input
from sigma2kql.diagnostics.diagnostic import fail
from sigma2kql.diagnostics.render import printable
from sigma2kql.model.tree import Compiled
from sigma2kql.model.words import kind_of
from sigma2kql.system.whole_files import write_whole


def as_kql(done: Compiled, header: bool = True) -> str:
    """The query, under two comment lines that say which rule it is."""
    assert done.kql is not None
    query = done.kql.rstrip("\r\n")
    if not header:
        return query
    meta, origin = done.document.meta, done.document.origin
    second = ", ".join(part for part in (meta.id, meta.level, origin.source.path) if part)
    return f"// {printable(meta.title)}\n// {printable(second)}\n{query}"


def as_record(done: Compiled) -> dict[str, Any]:
    """One object of the `ndjson` format (docs/reference/output.md)."""
    document = done.document
    meta, origin = document.meta, document.origin
    return {
        "path": origin.source.path,
        "line": origin.source.position(origin.span.start)[0],
        "index": origin.index,
        "kind": kind_of(document),
        "id": meta.id,
        "title": meta.title,
        "level": meta.level,
        "status": meta.status,
        "target": done.target,
        "table": done.table,
        "kql": done.kql,
        "verdict": done.verdict,
        "verdicts": dict(done.verdicts),
        "columns": dict(done.columns),
        "source": dict(done.mapped),
        "passed_over": list(done.passed_over),
        "caveats": list(done.caveats),
        **({"here": done.here.state, "here_reasons": list(done.here.reasons)} if done.here is not None else {}),
        "diagnostics": [d.as_dict() for d in done.diagnostics],
    }


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


def as_line(done: Compiled) -> str:
    return _encode(as_record(done))


def folded(path: PurePath) -> str:
    """One text for all paths that are one file on Windows or macOS: they differ in case or composition of letters."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _identity(path: Path) -> tuple[int, int]:
    try:
        state = path.stat()
    except OSError:
        return (0, 0)
    return state.st_dev, state.st_ino


class Folder:
    """Writes results below one folder in the tree of the input, one file a result; leaves equal files as they are."""

    def __init__(self, root: Path, inputs: Iterable[Input] = (), inside: bool = True) -> None:
        self.root = root
        self.inside = root if inside else None
        self.inputs = list(inputs)
        self._read: set[tuple[int, int]] | None = None
        self.taken: set[str] = set()
        self.written = 0
        self.unchanged = 0

    def write(self, one: Input, number: int, several: bool, suffix: str, text: str) -> None:
        """The text under the input's own place; `number` tells documents of one file apart. Raises Sigma2KqlError."""
        self.put(self._place(one, number if several else None, suffix), text)

    def put(self, path: Path, text: str | bytes | memoryview) -> None:
        """Write one file, whole or not at all. Raises Sigma2KqlError (E805), also for a file that is an input."""
        data = text.encode("utf-8") if isinstance(text, str) else text
        try:
            self._keep_inputs(path)
            if write_whole(path, data, self.inside):
                self.written += 1
            else:
                self.unchanged += 1
        except OSError as error:
            raise fail("E805", f"cannot write {path}: {error.strerror or error}") from error

    def _keep_inputs(self, path: Path) -> None:
        """Raises OSError for a product in the place of an input, or where the next run would read it as one."""
        if self._read is None:
            self._read = {_identity(Path(one.path)) for one in self.inputs if one.path != "<stdin>"} - {(0, 0)}
        if _identity(path) in self._read:
            raise OSError(errno.EEXIST, "it is one of the inputs")
        if path.suffix.lower() in SUFFIXES:
            place = path.parent.resolve()
            for root in {one.root for one in self.inputs if one.root is not None}:
                if place.is_relative_to(root.resolve()):
                    raise OSError(errno.EINVAL, f"it lies in {root}, so that the next run would read it as a rule")

    @staticmethod
    def folder_of(one: Input) -> PurePath:
        """Where the results of an input go, relative to the folder that was named; never through `..`."""
        relative = PurePath(one.path).relative_to(one.root).parent if one.root is not None else PurePath()
        return PurePath(*(part for part in relative.parts if part not in ("..", ".", "/", "\\")))

    def _place(self, one: Input, number: int | None, suffix: str) -> Path:
        """Two inputs of one name get different files."""
        name = PurePath(one.path).stem.strip("<>") or "rule"
        if number is not None:
            name += f"-{number + 1}"
        folder, count, candidate = self.root / self.folder_of(one), 1, name
        while folded(folder / (candidate + suffix)) in self.taken:
            count += 1
            candidate = f"{name}~{count}"
        path = folder / (candidate + suffix)
        self.taken.add(folded(path))
        return path
