"""Code as lines of HTML with classes for colours, made at build time.

Place in the flow: called when a page is rendered. Invariant: the text of the lines is the text of the code, whatever
it holds; nothing in it is markup.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

MOST = 8_000  # characters of a code that is coloured: colours treble a page, and tell little in a long list
LANGUAGES = {"yaml": "yaml", "kql": "kusto", "json": "json", "bicep": "bicep", "tf": "terraform"}
# The first letters of Pygments' short names of tokens, and our classes; all others stay uncoloured, and pages small.
CLASSES = (
    ("Token.Comment", "c"),
    ("Token.Literal.Scalar", ""),
    ("Token.Literal.String", "s"),
    ("Token.Literal.Number", "m"),
    ("Token.Literal", "s"),
    ("Token.Keyword", "k"),
    ("Token.Name.Tag", "t"),
    ("Token.Name.Attribute", "t"),
    ("Token.Operator.Word", "k"),
)
WORDS = frozenset([
    "contains", "contains_cs", "endswith", "endswith_cs", "startswith", "startswith_cs", "has", "has_cs", "has_any",
    "has_all", "in", "matches", "regex", "and", "or", "not", "by", "asc", "desc", "between",
])  # fmt: skip


def code_lines(text: str, language: str) -> list[Markup]:
    """The lines of a code without their ends, each closed in itself."""
    from markupsafe import Markup

    text = text.rstrip("\n").replace("\r\n", "\n")
    if len(text) > MOST or language not in LANGUAGES:
        return [Markup(escape(line)) for line in text.split("\n")]  # noqa: S704
    lines: list[list[str]] = [[]]
    for kind, value in _tokens(text, LANGUAGES[language]):
        for number, part in enumerate(value.split("\n")):
            if number:
                lines.append([])
            if part:
                lines[-1].append(f'<i class="{kind}">{escape(part)}</i>' if kind else escape(part))
    return [Markup("".join(line)) for line in lines]  # noqa: S704 (every part of it was escaped)


def _tokens(text: str, name: str) -> Iterator[tuple[str, str]]:
    """Neighbours of one class together."""
    held, parts = "", ""
    for kind, value in _lexer(name).get_tokens(text):
        chosen = _class(kind)
        if not chosen and name == "kusto" and value in WORDS:
            chosen = "k"
        if chosen != held and parts:
            if not value.isspace():
                yield held, parts
                held, parts = chosen, ""
        elif not parts:
            held = chosen
        parts += value
    yield held, parts.rstrip("\n")


@cache
def _lexer(name: str) -> Any:
    from pygments.lexers import get_lexer_by_name

    return get_lexer_by_name(name, stripnl=False, ensurenl=False)


@cache
def _class(kind: object) -> str:
    text = str(kind)
    return next((short for start, short in CLASSES if text.startswith(start)), "")
