"""The registry of artifact formats: what each is called, written in, limited to, and deployed by.

Place in the flow: read by everything that offers, checks or documents formats; imports nothing of the stage, so that
the command line's choices cost nothing. Invariant: a format that is not here does not exist, and one that is here has
its case in tests/cases/artifacts and its row in docs/reference/artifacts.md (tests say what is missing).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from sigma2kql.diagnostics.diagnostic import did_you_mean, fail, frozen

Kind = Literal["alert", "hunt", "detection"]  # an analytics rule, a hunting query, a custom detection
Language = Literal["yaml", "arm", "bicep", "terraform", "graph"]  # what the text is written in


@frozen
class Limits:
    """What a format takes; 0 is no limit."""

    name: int = 256
    title: int = 256  # of an alert, with the columns in it as they are written
    description: int = 5000
    tactics: int = 0
    techniques: int = 0


@frozen
class Format:
    """A format of artifacts. `kind` None: a rule, or a hunting query for documents that are one."""

    language: Language
    extension: str
    kind: Kind | None
    bundle: bool = False  # whether several rules may stand in one text
    limits: Limits = Limits()
    function: bool = False  # whether a saved function can go along
    readable: bool = False  # whether a text of it can be read back


REVIEWED = Limits(name=100, description=5000, tactics=5, techniques=10)  # Azure-Sentinel's review guidance
FORMATS: Final[Mapping[str, Format]] = {
    "sentinel-yaml": Format("yaml", ".yaml", "alert", limits=REVIEWED, readable=True),
    "hunting-yaml": Format("yaml", ".yaml", "hunt", limits=REVIEWED, readable=True),
    "arm": Format("arm", ".json", "alert", bundle=True, function=True, readable=True),
    "hunting-arm": Format("arm", ".json", "hunt", bundle=True, readable=True),
    "bicep": Format("bicep", ".bicep", None, bundle=True, function=True),
    "terraform": Format("terraform", ".tf", None, bundle=True, function=True),
    "xdr-json": Format("graph", ".json", "detection", limits=Limits(name=120, title=120)),
    "xdr-bicep": Format("bicep", ".bicep", "detection", bundle=True, limits=Limits(name=120, title=120)),
}


def format_named(name: str) -> Format:
    """The format of that name. Raises E717."""
    if name not in FORMATS:
        raise fail("E717", f"unknown format `{name}`", hint=did_you_mean(name, FORMATS))
    return FORMATS[name]
