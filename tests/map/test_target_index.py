"""The committed index of each target's tables says what its mapping files say (`pytest --update` writes it anew)."""

from __future__ import annotations

import json

import pytest

from sigma2kql.map.target import build_fields, build_index, target_names
from sigma2kql.system.shipped_files import mappings_folder


@pytest.mark.parametrize("name", ["index", "fields"])
@pytest.mark.parametrize("target", target_names())
def test_the_index_is_true_to_the_mapping_files(target: str, name: str, update: bool) -> None:
    path = mappings_folder() / target / f"{name}.json"
    built = build_index(target) if name == "index" else build_fields(target)
    if update:
        lines = (f"{json.dumps(table)}: {json.dumps(entry)}" for table, entry in sorted(built.items()))
        path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8")) == built
