"""The way of a field's name from a rule's text to the query stays short: no stage twice, few files."""

from __future__ import annotations

import pytest
from field_trace import RULE, entered_twice, moves


@pytest.mark.parametrize(
    ("field", "target"),
    [("CommandLine", "sentinel"), ("CommandLine", "xdr"), ("User", "asim"), ("CommandLine", "asim")],
)
def test_a_field_takes_the_short_way(field: str, target: str) -> None:
    found, query = moves(RULE, field, target)
    assert query
    assert list(entered_twice(found)) == []
    files = {move.file for move in found if not move.looks}
    assert "language/detection.py" in files
    assert "kql/operators.py" in files
    transforms = {"map/transforms/pairs.py", "map/transforms/column_types.py"}  # a user in two columns
    assert len(files - transforms) <= 7, sorted(files)
