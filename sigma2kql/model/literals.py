"""Texts and names as KQL: the one place where a value of a rule becomes part of a query.

Place in the flow: below mapping and emission. Invariant: what is given back reads as exactly one literal or one name,
whatever the text holds; nothing can break out of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from unicodedata import category

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def is_word(name: str) -> bool:
    """Whether the name can stand bare (a keyword still cannot)."""
    return _IDENTIFIER.match(name) is not None


def quoted(text: str) -> str:
    r"""A KQL string literal that holds exactly this text and cannot be left from inside.

    Verbatim `@"..."` where a backslash stands in it, control and format characters as escapes (kql-semantics: a raw
    line end is a syntax error; other engines do not read `\u`, so printable text stays as it is).
    """
    if text.isprintable() or not any(_needs_escape(char) for char in text):
        if "\\" in text:
            return '@"' + text.replace('"', '""') + '"'
        return '"' + text.replace('"', '\\"') + '"'
    return '"' + "".join(_escaped(char) for char in text) + '"'


def lowered(text: str) -> str:
    """As tolower() gives it: letter by letter, where Python writes a sigma at the end of a word, and a dotted I,
    otherwise.
    """
    if text.isascii():
        return text.lower()
    return "".join(low if len(low := char.lower()) == 1 else char for char in text)


def decimal_text(value: int | float) -> str:
    """The text of a number as logs write it: 1.0 is 1, no exponent."""
    if value == int(value):
        return str(int(value))
    text = repr(value)
    return f"{value:.{len(text) + int(text.partition('e-')[2])}f}".rstrip("0") if "e" in text else text


def _needs_escape(char: str) -> bool:
    """Control, format (bidi marks, zero width) and line separating characters: invisible, or the end of a line."""
    return not char.isprintable() and category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs")


def _escaped(char: str) -> str:
    named = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}
    if char in named:
        return named[char]
    if not _needs_escape(char):
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


# Words that Microsoft's parser does not take as a bare name inside a predicate.
_KEYWORDS = frozenset(
    """
    and or not where in has contains startswith endswith matches between by on of to from with let set print project
    extend summarize count order sort asc desc nulls take limit top join union distinct search find parse evaluate
    invoke render serialize range datatable externaldata materialize toscalar kind hint isfuzzy true false null
    dynamic datetime timespan bool int long real decimal string guid typeof as pack table cluster database pattern
    declare restrict alias access database view sample reduce fork facet mv make consume getschema lookup partition
    scan step output
    """.split()  # noqa: SIM905 - a list of ninety literals would be a page
)


@lru_cache(maxsize=1024)
def identifier(name: str) -> str:
    """A column name as KQL: bare where it is a plain word and no keyword, else in brackets."""
    return name if _IDENTIFIER.match(name) and name.lower() not in _KEYWORDS else f"[{quoted(name)}]"


def steps(keys: Sequence[str], of_bag: bool = False) -> str:
    """A path into a dynamic value: `.a.b`, with brackets and a quoted text where a step is no plain word; `[0]` for
    an index (`of_bag`: the value has names and no indexes, so that a first step of digits is a name).
    """
    if of_bag and keys[0].isdigit():
        return f"[{quoted(keys[0])}]" + steps(keys[1:])
    return "".join(_step(key) for key in keys)


def _step(key: str) -> str:
    if len(key) > 1 and key[0] == "0":
        return f"[{quoted(key)}]"
    if _IDENTIFIER.match(key) and key.lower() not in _KEYWORDS:
        return f".{key}"
    return f"[{key}]" if key.isascii() and key.isdigit() and len(key) < 6 else f"[{quoted(key)}]"
