"""Where the files that ship with the package lie.

Place in the flow: below everything that reads data. Invariant: one place knows that an installed package holds
`mappings` inside and a source tree holds it beside.
"""

from __future__ import annotations

from pathlib import Path


def mappings_folder() -> Path:
    """The shipped mapping files: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "mappings"
    return inside if inside.is_dir() else package.parent / "mappings"
