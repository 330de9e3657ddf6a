"""Whatever `x` selects, `x*`, `*x` and `*x*` select too: one reading of a field, whatever its transform.

Rows are drawn at random, not shaped by our own mapping: the order of patterns holds on any row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sigma2kql.map.transforms import TRANSFORMS, Notes, Request
from sigma2kql.model.tree import ANY, Column, Field, Match, Text
from sigma2kql.reference.evaluate import holds

A, B = (Column(name, "string", (name,), name=name) for name in "AB")
HIVES = {"hives": {"HKLM": "HKEY_LOCAL_MACHINE", "HKU": ["HKEY_USERS", "HKEY_CURRENT_USER"]}, "control_sets": True}
FORMS: dict[str, list[tuple[tuple[Column, ...], Mapping[str, Any]]]] = {
    "translate": [((A,), {"a": "1", "ab": ["2", "3"], "b\\a": "4"})],
    "prefix": [((A,), {"text": "\\a"})],
    "replace": [((A,), {"from": "a", "to": "b"})],
    "hashes": [((A, B), {"MD5": "A", "SHA1": "B"})],
    "hex_to_decimal": [((A,), {})],
    "number_text": [((A,), {})],
    "basename": [((A,), {})],
    "host_of_url": [((A,), {})],
    "path_or_name": [((A, B), {})],
    "doubled_name": [((A,), {})],
    "user_split": [((A, B), {})],
    "user_name": [((A,), {})],
    "registry_path": [((A, B), HIVES), ((A, B), {**HIVES, "value": True}), ((A, B), {**HIVES, "value": False})],
    "registry_data": [((A, B), {"form": "xdr"}), ((A, B), {"form": "asim"})],
}
PIECES = st.sampled_from(
    ["a", "b", "\\", "HKLM", "HKEY_LOCAL_MACHINE", "CurrentControlSet", "0x1", "1", "7", ".x", "/"]
)
TEXTS = st.lists(PIECES, min_size=1, max_size=4).map("".join)
CELLS = st.lists(PIECES, max_size=4).map("".join) | st.sampled_from(["Dword", "QWord", "Binary", "String"])
SHAPES = {"x": ("x",), "x*": ("x", ANY), "*x": (ANY, "x"), "*x*": (ANY, "x", ANY)}
WITHIN = [("x", "x*"), ("x", "*x"), ("x*", "*x*"), ("*x", "*x*")]


def test_every_transform_is_tried() -> None:
    assert FORMS.keys() == TRANSFORMS.keys()


@pytest.mark.parametrize(("name", "number"), [(name, n) for name, forms in FORMS.items() for n in range(len(forms))])
@settings(max_examples=150, deadline=None)
@given(text=TEXTS, cells=st.tuples(CELLS, CELLS))
def test_a_wider_pattern_selects_what_a_narrower_one_does(
    name: str, number: int, text: str, cells: tuple[str, str]
) -> None:
    columns, options = FORMS[name][number]
    row = {"A": cells[0], "B": cells[1].replace("\\", "")}  # what stands behind the last backslash has none
    found: dict[str, bool] = {}
    for shape, parts in SHAPES.items():
        test = Text(tuple(text if part == "x" else part for part in parts))
        notes = Notes()
        tree = TRANSFORMS[name].rewrite(Request(Match(Field("F"), test), test, columns, options, notes, False))
        if not notes.never:  # a value that the column cannot hold, or that cannot be asked, is reported
            found[shape] = holds(tree, lambda column: read(column, row))
    for narrow, wide in WITHIN:
        if narrow in found and wide in found:
            assert found[wide] or not found[narrow], (narrow, wide)


def read(column: Column, row: Mapping[str, str]) -> str:
    """A column's text; of what is computed the two columns with a backslash between, or the host of an address."""
    if column.kind == "stored":
        return row[column.text]
    if column.key[0] == "host":
        return row[column.key[1]]
    left, right = (row[name] for name in column.key)
    whole = left if "isempty(B)" in column.text else right
    return whole if "" in (left, right) and not (left and right) else f"{left}\\{right}"
