"""Rewrite the KQL that duckdb-kql would misread or refuse, without changing what it means.

Place in the flow: below the DuckDB engine. Invariant: only string literals and calls of known functions are touched.
duckdb-kql 1.1.2 reads `\\u0041`, h"..." and ```...``` wrongly without a word, and refuses named arguments.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
    | (?P<text>[hH]?(?:@"(?:[^"\r\n]|"")*"|@'(?:[^'\r\n]|'')*'|"(?:\\.|[^"\\\r\n])*"|'(?:\\.|[^'\\\r\n])*'
        |```.*?```|~~~.*?~~~))
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|([0-3][0-7]{2}|[0-7]{1,2})|(.))", re.DOTALL
)
_SHORT = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_SAFE = re.compile(r"""["'](?:[^\\]|\\[\\"'nrt])*["']""", re.DOTALL)
_NAMED = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=(?![=~])(.*)", re.DOTALL)

Parameters = tuple[tuple[str, str], ...]  # name and default, as KQL text


def rewrite(kql: str, functions: Mapping[str, Parameters] | None = None) -> str:
    """The query with plain literals, and calls of `functions` by position. Raises ValueError for an unknown name."""
    return "".join(_pieces(list(tokens(kql)), functions or {}))


def moments(kql: str, now: str = "", arrival: str = "") -> str:
    """The query with now() and ago() reckoned from `now`, an expression, and ingestion_time() read from the column
    `arrival`; "": the real time, and no ingestion time.
    """
    if not now and "ingestion_time" not in kql:
        return kql
    found, out, at = list(tokens(kql)), [], 0
    while at < len(found):
        kind, text = found[at]
        at += 1
        called = kind == "name" and at < len(found) and found[at][1] == "("
        if called and text == "ingestion_time":
            _, at = _arguments(found, at + 1)
            out.append(arrival or "datetime(null)")
        elif called and now and text in ("now", "ago"):
            arguments, at = _arguments(found, at + 1)
            sign = "-" if text == "ago" else "+"
            out.append(f"({now} {sign} ({arguments[0]}))" if arguments else now)
        else:
            out.append(text)
    return "".join(out)


def nesting(kql: str) -> int:
    """How many brackets stand in one another at most."""
    depth = deepest = 0
    for kind, text in tokens(kql):
        if kind == "other":
            depth += (text in "([{") - (text in ")]}")
            deepest = max(deepest, depth)
    return deepest


def tokens(kql: str) -> Iterator[tuple[str, str]]:
    """Kind (comment, text, name, other) and text of each token; string literals in a form that duckdb-kql reads."""
    for found in _TOKEN.finditer(kql):
        kind = found.lastgroup or "other"
        yield kind, _plain(found[0]) if kind == "text" else found[0]


def _plain(literal: str) -> str:
    """A string literal in the form that duckdb-kql reads rightly."""
    bare = literal.lstrip("hH")
    if bare[:3] in ("```", "~~~"):
        return _quoted(bare[3:-3])
    if bare.startswith("@") or _SAFE.fullmatch(bare):
        return bare
    return _quoted(_ESCAPE.sub(_unescaped, bare[1:-1]))


def _unescaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2] or found[3]
    if digits or found[4]:
        return chr(int(digits, 16) if digits else int(found[4], 8))
    return _SHORT.get(found[5], found[5])


def _quoted(text: str) -> str:
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(char, escape)
    return f'"{text}"'


def _pieces(tokens: list[tuple[str, str]], functions: Mapping[str, Parameters]) -> Iterator[str]:
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        at += 1
        yield text
        if kind != "name" or text not in functions or at == len(tokens) or tokens[at][1] != "(":
            continue
        arguments, at = _arguments(tokens, at + 1)
        yield "(" + ", ".join(_by_position(text, arguments, functions[text])) + ")"


def _arguments(tokens: list[tuple[str, str]], at: int) -> tuple[list[str], int]:
    """The arguments up to the closing parenthesis, and the place behind it."""
    found, depth = [""], 0
    while at < len(tokens):
        kind, text = tokens[at]
        at += 1
        if kind == "other":
            if text in ")]}" and depth == 0:
                break
            if text == "," and depth == 0:
                found.append("")
                continue
            depth += (text in "([{") - (text in ")]}")
        found[-1] += "" if kind == "comment" else text
    return ([] if found == [""] or not "".join(found).strip() else found), at


def _by_position(function: str, arguments: list[str], parameters: Parameters) -> list[str]:
    names = [name for name, _ in parameters]
    given: dict[str, str] = {}
    for place, argument in enumerate(arguments):
        named = _NAMED.match(argument)
        if named is None:
            if place >= len(names):
                raise ValueError(f"{function}() takes {len(names)} arguments")
            given[names[place]] = argument.strip()
        elif named[1] in names:
            given[named[1]] = named[2].strip()
        else:
            raise ValueError(f"{function}() has no parameter `{named[1]}`")
    last = max((names.index(n) + 1 for n in given), default=0)
    return [given.get(name, default) for name, default in parameters[:last]]
