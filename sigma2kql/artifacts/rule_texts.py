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


def without_columns(text: str) -> str:
    """A text that Defender does not take for one with columns in it: `{{` is broken up."""
    return text.replace("{{", "{ {")


def without_orders(text: str) -> str:
    """A description that Defender's correlation does not take for an order (a tag at its very beginning)."""
    return re.sub(r"^(?:#(?:DONT|INC)_CORR#\s*)+", "", text)


def spoken(seconds: int) -> str:
    """`5 minutes`, `1 hour`, `14 days and 1 minute`."""
    parts = []
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}{'s' * (count != 1)}")
    return " and ".join(parts) or "0 seconds"


def cut(text: str, most: int) -> str:
    """At most `most` characters; what is cut ends in `...`."""
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."
