"""How a value of a rule is rewritten for a column that holds it in another form, one function a transform, named from
YAML.

Place in the flow: used by map (`rewrite`) and by the shaping of events into rows (`event_rows`, the other direction).
Invariant: on rows that `event_rows` gives, the rewritten test holds exactly when the original holds on the event,
except for what the notes say; a value that the column can never hold gives `Or(())` and a note.
"""

from __future__ import annotations

from sigma2kql.map.transforms import pairs, paths, translations as values
from sigma2kql.map.transforms.request import (
    ALWAYS,
    NEVER,
    PRESENT,
    Loss,
    Notes,
    Request,
    Transform,
    as_text,
    literal,
    text_holds,
)
from sigma2kql.map.transforms.translations import reason

TRANSFORMS: dict[str, Transform] = {**values.TRANSFORMS, **paths.TRANSFORMS, **pairs.TRANSFORMS}

__all__ = [
    "ALWAYS",
    "NEVER",
    "PRESENT",
    "TRANSFORMS",
    "Loss",
    "Notes",
    "Request",
    "Transform",
    "as_text",
    "literal",
    "reason",
    "text_holds",
]
