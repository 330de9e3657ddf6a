"""Columns of a schema that carry a field of the taxonomy: each is used by a mapping, or stands here with the reason.

Which column carries which field is what ../shared/schemas/taxonomy.json says of each log source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAPPINGS = Path(__file__).resolve().parents[2] / "mappings"
# Not used, and why.
LEFT = {
    "DnsEvents.IPAddresses": "holds addresses only, where the field means every kind of answer",
    "imAuditEvent.ActorOriginalUserType": "only some parsers fill it, each with words of its own",
    "imAuditEvent.EventSubType": "no parser of the mapped sources fills it",
    "imNetworkSession.DstDomain": "a part of DstFQDN, which is asked",
}


def destinations(taxonomy: Any) -> Iterator[tuple[str, str]]:
    """(table, column) for each column that carries a field of a log source."""
    for logsource in taxonomy["logsources"].values():
        for family in ("asim", "xdr", "sentinel"):
            told = logsource["families"].get(family) or {}
            for one in told.get("destinations", ()):
                for place in (one.get("fields") or {}).values():
                    for column in place.get("columns", ()) if isinstance(place, dict) else ():
                        name = column if isinstance(column, str) else column.get("column", "")
                        if re.fullmatch(r"\w+", name):
                            yield one["table"], name


def test_no_column_that_carries_a_field_is_forgotten(shared: Path) -> None:
    taxonomy = json.loads((shared / "schemas" / "taxonomy.json").read_text(encoding="utf-8"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in MAPPINGS.glob("*/*.yml")}
    pairs = sorted(set(destinations(taxonomy)))
    assert len(pairs) > 100
    used = [(table, column) for table, column in pairs if table in texts]
    forgotten = [f"{table}.{column}" for table, column in used if not re.search(rf"\b{column}\b", texts[table])]
    assert forgotten == sorted(LEFT)
