"""Texts for people: titles and descriptions of rules as portals and checks take them.

Place in the flow: called by `describe` and `native`. Invariant: only titles, descriptions and the like pass here, never
a query; what comes out holds no control characters.
"""

from __future__ import annotations

import re

# Azure-Sentinel's checks refuse characters that are not ASCII, and word processors put these into rules
FOLDED = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u201c": '"', "\u201d": '"', "\u201e": '"',
    "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2026": "...", "\u00a0": " ",
    "\u202f": " ", "\u2022": "-",
})  # fmt: skip
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: str) -> str:
    """A text for people: typographic signs folded to ASCII, control characters made blanks, line ends `\\n`."""
    lines = text.replace("\r\n", "\n").translate(FOLDED)
    return "\n".join(line.rstrip() for line in CONTROL.sub(" ", lines).split("\n")).strip()


def clean_line(text: str) -> str:
    """The same on one line."""
    return " ".join(clean(text).split())


def cut(text: str, most: int) -> str:
    """At most `most` characters; what is cut ends in `...`."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
