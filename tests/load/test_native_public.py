"""Microsoft's own documents, as they are published, to every format.

SIGMA2KQL_NATIVE names a folder of them (analytics rules and hunting queries as YAML; nothing of it belongs to this
project). `pytest -rP` shows how many are valid, and why the others are not.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from artifact_checks import FORMATS, convert, problems_of

NATIVE = os.environ.get("SIGMA2KQL_NATIVE", "")
# E708: what Defender cannot watch; E714: nor continuously
REFUSED = {"E703", "E705", "E708", "E709", "E713", "E714"}
LACKS = {"-: required entityMappings", "relevantTechniques: minItems", "tactics: minItems"}


@pytest.mark.skipif(not NATIVE, reason="SIGMA2KQL_NATIVE names no folder of native documents")
@pytest.mark.parametrize("form", FORMATS)
def test_public_documents_are_valid_or_lack_what_they_say(form: str, shared: Path, tmp_path: Path) -> None:
    target = "xdr" if form == "xdr-json" else "sentinel"
    _, _, said = convert([NATIVE], form, "-t", target, "-o", f"{tmp_path}/", cwd=tmp_path)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    causes = Counter(cause for path in files for cause in set(problems_of(form, path.read_text("utf-8"), shared)))
    refused = Counter(problem["code"] for problem in said if problem["severity"] == "error")
    print(form, len(files), dict(causes), dict(refused))
    assert set(causes) <= LACKS
    assert set(refused) <= REFUSED
