"""What can be said about an input, and where: `Source`, `Span`, `Diagnostic` and the one exception that carries them.

Place in the flow: below everything. Invariant: every complaint has a code of the catalogue and, wherever text was read,
a span in it; line and column are computed only when a diagnostic is printed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Literal, TypeVar, cast, dataclass_transform

from sigma2kql.diagnostics.catalogue import CATALOGUE, Code

Severity = Literal["error", "warning", "info"]


class Source:
    """One text that was read: its display path and its characters (a leading byte order mark is not one of them)."""

    __slots__ = ("_asked", "path", "text")

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text
        self._asked = (0, 1)  # the last offset whose line was asked for: the next is seldom before it

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character offset, both counted from 1, columns in characters."""
        offset = max(0, min(offset, len(self.text)))
        seen, line = self._asked if self._asked[0] <= offset else (0, 1)
        line += self.text.count("\n", seen, offset)
        self._asked = (offset, line)
        return line, offset - self.text.rfind("\n", 0, offset)

    def line(self, number: int) -> str:
        """The text of line `number` (from 1), without its line end; empty past the end."""
        lines = self.text.split("\n", number)
        return lines[number - 1].rstrip("\r") if number <= len(lines) else ""


T = TypeVar("T")


# What all dataclasses have in common: written out for each, as `dataclass` does, it would be compiled at every start.


def _shown(self: Any) -> str:
    shown = [f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if one.repr]
    return f"{type(self).__qualname__}({', '.join(shown)})"


def _equal(self: Any, other: object) -> Any:
    values = self._values
    return values(self) == values(other) if type(self) is type(other) else NotImplemented


def _hashed(self: Any) -> int:
    return hash(self._values(self))


# Whether all values are frozen at run time too, as in the tests (tests/conftest.py), where a mutation is then caught.
_ALL_FROZEN = bool(os.environ.get("SIGMA2KQL_FROZEN"))


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:
    """A slotted dataclass that the type checker holds frozen, and the run time where SIGMA2KQL_FROZEN is set.

    Such values are made by the hundred thousand: freezing at run time would more than triple the cost of making one.
    """
    return _made(cls, _ALL_FROZEN)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[T]) -> type[T]:
    """As `frozen`, and always so at run time: for values that are few, or in the hands of callers of the library."""
    return _made(cls, True)


def _made(cls: type[T], really: bool) -> type[T]:
    made: Any = dataclass(slots=True, eq=False, repr=False, frozen=really)(cls)
    compared = [one.name for one in fields(made) if one.compare]
    made._values = attrgetter(*compared) if compared else type
    made.__eq__, made.__hash__, made.__repr__ = _equal, _hashed, _shown
    return cast("type[T]", made)


@frozen
class Span:
    """Characters `start` (included) to `end` (excluded) of a source."""

    source: Source
    start: int
    end: int

    def sub(self, start: int, end: int) -> Span:
        """The part of this span from `start` to `end`, both counted from the start of this span."""
        return Span(self.source, self.start + start, min(self.start + end, self.end))


@frozen
class Diagnostic:
    """One finding: a code of the catalogue, a sentence about this input, its place and how to mend it."""

    code: Code
    message: str
    span: Span | None = None
    hint: str = ""
    severity: Severity = "error"

    def as_dict(self) -> dict[str, Any]:
        """The JSON form that the command line promises (docs/reference/output.md)."""
        start = end = (None, None)
        path: str | None = None
        if self.span is not None:
            path = self.span.source.path
            start = self.span.source.position(self.span.start)  # type: ignore[assignment]
            end = self.span.source.position(self.span.end)  # type: ignore[assignment]
        return {
            "code": self.code,
            "severity": self.severity,
            "message": self.message,
            "path": path,
            "line": start[0],
            "column": start[1],
            "end_line": end[0],
            "end_column": end[1],
            "hint": self.hint or None,
        }


def diagnostic(code: Code, message: str, span: Span | None = None, hint: str = "") -> Diagnostic:
    """A diagnostic with the severity that the catalogue gives its code."""
    return Diagnostic(code, message, span, hint, CATALOGUE[code].severity)


class Sigma2KqlError(Exception):
    """The one exception of the package: it carries one or more diagnostics, the first of them an error."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("; ".join(f"{d.code}: {d.message}" for d in self.diagnostics))


def fail(code: Code, message: str, span: Span | None = None, hint: str = "") -> Sigma2KqlError:
    """An exception with one diagnostic, to be raised by the caller."""
    return Sigma2KqlError((diagnostic(code, message, span, hint),))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known name, or an empty string where none is close."""
    from difflib import get_close_matches  # only on the way to an error: keep start-up short

    known = list(known)
    folded = {k.lower(): k for k in known}
    close = [folded[name.lower()]] if name.lower() in folded else get_close_matches(name, known, 1, 0.7)
    return f"did you mean `{close[0]}`?" if close else ""
