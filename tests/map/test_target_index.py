"""The committed index of each target's tables says what its mapping files say (`pytest --update` writes it anew)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sigma2kql.artifacts.analytics_rule import QUERY_LIMIT
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.map.target import build_fields, build_index, load_target, target_names
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


RULE = """\
title: Rule
logsource: {product: %s, service: server}
detection:
  selection: {%s: x}
  condition: selection
"""


def test_an_edit_that_keeps_the_size_is_seen(tmp_path: Path) -> None:
    """A source tree whose mapping is edited in place: the same length, and the time it had."""
    root = Path(__file__).resolve().parent.parent.parent
    shutil.copytree(root / "sigma2kql", tmp_path / "sigma2kql", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(root / "mappings", tmp_path / "mappings")
    edited = tmp_path / "mappings" / "sentinel" / "Acme_CL.yml"
    edited.write_text(
        "table: Acme_CL\ncolumns: {TimeGenerated: datetime, Query: string}\n"
        "serves: [{logsource: {product: acme, service: server}}]\nfields: {query: Query}\n"
    )
    program = (
        "import json; from sigma2kql.map.target import *; "
        "from pathlib import Path; from sigma2kql.system.shipped_files import mappings_folder as at; "
        "[(at() / 'sentinel' / f'{n}.json').write_text(json.dumps(b('sentinel'))) "
        "for n, b in (('index', build_index), ('fields', build_fields))]"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, cwd=tmp_path)
    before = edited.stat()
    edited.write_text(edited.read_text().replace("acme", "emca").replace("query: Query", "quart: Query"))
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert edited.stat().st_size == before.st_size

    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "T.yml").write_text(
        "table: T\ntarget: asim\ncolumns: {TimeGenerated: datetime}\nserves: [{logsource: {product: emca}}]\n"
    )

    def convert(product: str, field: str, *options: str) -> str:
        call = [sys.executable, "-m", "sigma2kql", "convert", "-", *options]
        rule = RULE % (product, field)
        return subprocess.run(
            call, input=rule, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
        ).stderr

    assert "E401" in convert("acme", "query")
    assert "1 converted" in convert("emca", "quart")
    elsewhere = convert("emca", "quart", "-t", "asim", "--mappings", "own")  # said from the list of fields
    assert "it has a column in Acme_CL (target sentinel)" in elsewhere


@pytest.mark.parametrize("target", target_names())
def test_a_shipped_target_says_what_its_product_takes(target: str) -> None:
    known = load_target(target)
    assert known.formats
    assert set(known.formats) <= set(FORMATS)
    expected = {"sentinel": (QUERY_LIMIT, 14), "defender": (None, 30)}[known.service or ""]
    assert (known.limits.characters, known.limits.days) == expected
