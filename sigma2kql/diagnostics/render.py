"""Diagnostics as people and tools read them: text with carets, JSON, GitHub annotations, SARIF.

Place in the flow: at the edge; only here is a diagnostic turned into text. Invariant: control characters of an input
never reach a terminal or a log line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from sigma2kql import __version__
from sigma2kql.diagnostics.catalogue import CATALOGUE
from sigma2kql.diagnostics.diagnostic import Diagnostic

_COLORS = {"error": "31", "warning": "33", "info": "36"}
_SARIF_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def printable(text: str) -> str:
    """The text with control and format characters (escape sequences, line ends, bidi marks) shown as codes.

    So is what build services take for a command of theirs: `##[`, `##vso[` (Azure Pipelines, "Logging commands") and a
    leading `::` (GitHub Docs, "Workflow commands").
    """
    if "##" in text:
        text = text.replace("##", "\\x23#")
    if text.lstrip().startswith("::"):
        text = text.replace("::", "\\x3a:", 1)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
        for char in text
    )


def as_text(diagnostic: Diagnostic, color: bool = False) -> str:
    """`path:line:column: error[E123]: message`, the source line with carets and a hint."""
    head = f"{diagnostic.severity}[{diagnostic.code}]"
    if color:
        head = f"\x1b[1;{_COLORS[diagnostic.severity]}m{head}\x1b[0m"
    message = f"{head}: {printable(diagnostic.message)}"
    lines = [message]
    span = diagnostic.span
    if span is not None:
        line, column = span.source.position(span.start)
        lines = [f"{printable(span.source.path)}:{line}:{column}: {message}"]
        lines += _excerpt(span.source.line(line), line, column, span.end - span.start, color)
    if diagnostic.hint:
        lines.append(f"hint: {printable(diagnostic.hint)}")
    return "\n".join(lines)


_NO_TAB = re.compile(r"[^\t]")


def _excerpt(text: str, line: int, column: int, length: int, color: bool) -> list[str]:
    """The source line and carets under the part that is meant; long lines are cut around it."""
    if not text.strip():
        return []
    start = max(0, column - 61) if len(text) > 120 else 0
    shown = text[start : start + 120]
    before = _NO_TAB.sub(" ", shown[: column - 1 - start])
    carets = "^" * max(1, min(length, len(shown) - (column - 1 - start)))
    if color:
        carets = f"\x1b[31m{carets}\x1b[0m"
    gutter = f"{line:>5} | "
    safe = shown
    if "##" in shown:
        safe = shown = shown.replace("##", "\N{REPLACEMENT CHARACTER}#")
    if not shown.isprintable():
        safe = "".join(char if char.isprintable() or char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in shown)
    return [f"{gutter}{safe}", f"{' ' * (len(gutter) - 2)}| {before}{carets}"]


def as_github(diagnostic: Diagnostic) -> str:
    """A workflow command that GitHub shows at the line (GitHub Docs: "Workflow commands")."""
    data = diagnostic.as_dict()
    kind = {"error": "error", "warning": "warning", "info": "notice"}[diagnostic.severity]
    message = printable(diagnostic.message) + (f"\nhint: {printable(diagnostic.hint)}" if diagnostic.hint else "")
    places = [
        f"{name}={_property(printable(str(data[key])))}"
        for name, key in (
            ("file", "path"),
            ("line", "line"),
            ("col", "column"),
            ("endLine", "end_line"),
            ("endColumn", "end_column"),
        )
        if data[key] is not None
    ]
    return f"::{kind} {','.join([*places, f'title={diagnostic.code}'])}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def as_sarif(diagnostics: Iterable[Diagnostic]) -> str:
    """One SARIF 2.1.0 log (OASIS), as code scanning services read it."""
    diagnostics = list(diagnostics)
    codes = sorted({d.code for d in diagnostics})
    rules = [
        {
            "id": code,
            "shortDescription": {"text": CATALOGUE[code].title},
            "fullDescription": {"text": CATALOGUE[code].why},
            "help": {"text": CATALOGUE[code].fix},
            "defaultConfiguration": {"level": _SARIF_LEVELS[CATALOGUE[code].severity]},
        }
        for code in codes
    ]
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "sigma2kql", "version": __version__, "rules": rules}},
                "results": [_sarif_result(d, codes.index(d.code)) for d in diagnostics],
            }
        ],
    }
    return json_text(log)


def _sarif_result(diagnostic: Diagnostic, rule: int) -> dict[str, object]:
    message = diagnostic.message + (f" ({diagnostic.hint})" if diagnostic.hint else "")
    result: dict[str, object] = {
        "ruleId": diagnostic.code,
        "ruleIndex": rule,
        "level": _SARIF_LEVELS[diagnostic.severity],
        "message": {"text": message},
    }
    data = diagnostic.as_dict()
    if data["path"] is not None:
        region = {
            "startLine": data["line"],
            "startColumn": data["column"],
            "endLine": data["end_line"],
            "endColumn": data["end_column"],
        }
        result["locations"] = [
            {"physicalLocation": {"artifactLocation": {"uri": _uri(data["path"])}, "region": region}}
        ]
    return result


def _uri(path: str) -> str:
    from urllib.parse import quote

    return quote(path.replace("\\", "/"))


_UNSAFE_IN_JSON = re.compile(r"##|[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")


def json_text(value: object) -> str:
    """JSON over several lines, whose texts neither command a build service nor turn a terminal around."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _UNSAFE_IN_JSON.sub(lambda m: "\\u0023#" if m[0] == "##" else f"\\u{ord(m[0]):04x}", text)


def render(diagnostics: Sequence[Diagnostic], form: str, color: bool = False) -> str:
    """All of them in one form: text, json (an array), github or sarif."""
    match form:
        case "json":
            return json_text([d.as_dict() for d in diagnostics])
        case "sarif":
            return as_sarif(diagnostics)
        case "github":
            return "\n".join(map(as_github, diagnostics))
        case _:
            return "\n".join(as_text(d, color) for d in diagnostics)
