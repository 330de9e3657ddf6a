"""Results as text: the `kql` and `ndjson` formats, and where a folder of results is written.

Place in the flow: after compilation. Invariant: nothing a rule says chooses a path or leaves a comment line.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePath
from typing import Any, assert_never

from sigma2kql.api import Input
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic
from sigma2kql.diagnostics.render import printable
from sigma2kql.model.tree import Broken, Compiled, Correlation, Document, Filter, NativeQuery, Rule


def kind(document: Document) -> str:
    """detection, correlation, filter or native."""
    match document:
        case Rule():
            return "detection"
        case Correlation():
            return "correlation"
        case Filter():
            return "filter"
        case NativeQuery():
            return "native"
        case Broken(kind=told):
            return told
        case _:
            assert_never(document)


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
        "kind": kind(document),
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


class Folder:
    """Writes results below one folder in the tree of the input, one file a result; leaves equal files as they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.taken: set[str] = set()
        self.written = 0
        self.unchanged = 0

    def write(self, one: Input, number: int, several: bool, suffix: str, text: str) -> None:
        """The text under the input's own place; `number` tells documents of one file apart. Raises Sigma2KqlError."""
        self.put(self._place(one, number if several else None, suffix), text)

    def put(self, path: Path, text: str | bytes | memoryview) -> None:
        data = text.encode("utf-8") if isinstance(text, str) else text
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
                self.unchanged += 1
                return
            path.write_bytes(data)
        except OSError as error:
            raise Sigma2KqlError([diagnostic("E805", f"cannot write {path}: {error.strerror or error}")]) from error
        self.written += 1

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
        while str(folder / (candidate + suffix)).lower() in self.taken:
            count += 1
            candidate = f"{name}~{count}"
        path = folder / (candidate + suffix)
        self.taken.add(str(path).lower())
        return path
