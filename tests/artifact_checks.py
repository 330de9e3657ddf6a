"""How the tests judge an artifact: the published JSON Schemas, readers of other people, Azure-Sentinel's consistency.

Nothing here comes from the code under test: the schemas and the table of techniques are those of ../shared, the readers
are PyYAML, the standard library, python-hcl2 and pycep.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sigma2kql.artifacts.artifact_text import assemble, render as render_piece
from sigma2kql.artifacts.describe import prepare
from sigma2kql.artifacts.kinds import Artifact
from sigma2kql.artifacts.settings import Settings
from sigma2kql.model.tree import Compiled

SCHEMAS = {  # the writer's profile where there is one
    "sentinel-yaml": "sentinel-analytics-yaml.strict.schema.json",
    "hunting-yaml": "sentinel-hunting-yaml.strict.schema.json",
    "arm": "arm-alert-rule.schema.json",
    "hunting-arm": "arm-saved-search.schema.json",
    "xdr-json": "xdr-detection-rule.schema.json",
}
FORMATS = (*SCHEMAS, "bicep", "terraform", "xdr-bicep")
V19 = {"attack.stealth": "DefenseEvasion", "attack.defense-impairment": "DefenseEvasion"}  # tactics that v16 has not


def convert(
    paths: Sequence[str], form: str, *options: str, cwd: Path, hash_seed: str = "0"
) -> tuple[int, str, list[dict[str, Any]]]:
    """The command as a user calls it: exit status, standard output, and what it said about the rules."""
    done = subprocess.run(
        [sys.executable, "-m", "sigma2kql", "convert", *paths, "-f", form, "--diagnostics-format", "json", *options],
        cwd=cwd,
        capture_output=True,
        env={"PYTHONHASHSEED": hash_seed, "PATH": "", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
        check=False,
    )
    problems = done.stderr.decode()
    assert done.returncode in (0, 1), problems
    return done.returncode, done.stdout.decode(), json.loads(problems)


def write(artifacts: Sequence[Artifact], name: str, settings: Settings, whole: bool = False) -> str:
    """Artifacts as one text."""
    return assemble([render_piece(artifact, name, settings) for artifact in artifacts], name, whole)


def render(
    compiled: Compiled | Artifact, name: str, settings: Settings, columns: Mapping[str, str] | None = None
) -> str:
    """One rule as a text of the format `name`; an artifact that was read is written as it is."""
    artifact = prepare(compiled, name, settings, columns).artifact if isinstance(compiled, Compiled) else compiled
    return write([artifact], name, settings)


def bundle(
    compiled: Sequence[Compiled],
    name: str,
    settings: Settings,
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Several rules in one text, in order. `columns` are by table."""
    found = [prepare(one, name, settings, (columns or {}).get(one.table or "")).artifact for one in compiled]
    return write(found, name, settings, whole=True)


def problems_of(form: str, text: str, shared: Path) -> list[str]:
    """What other people's readers and the schema say against an artifact, each as `place: rule that is broken`."""
    document = parse(form, text)
    if form not in SCHEMAS:
        return []
    parts = [(form, document)]
    if form == "arm":  # saved functions stand beside the rules that call them, and have a schema of their own
        for name, saved in (("arm", False), ("hunting-arm", True)):
            rows = [row for row in document["resources"] if row["type"].endswith("/savedSearches") == saved]
            parts += [(name, {**document, "resources": rows})] if rows else []
        parts = parts[1:]
    found = [error for name, part in parts for error in validator(SCHEMAS[name], shared).iter_errors(part)]
    return [f"{'/'.join(map(str, error.absolute_path)) or '-'}: {_broken(error)}" for error in found]


def _broken(error: Any) -> str:
    missing = error.message.split("'")[1] if error.validator == "required" else ""
    return f"{error.validator} {missing}".strip()


def parse(form: str, text: str) -> Any:
    """The artifact as the reader of its language sees it; raises what the reader raises."""
    match form:
        case "sentinel-yaml" | "hunting-yaml":
            return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        case "terraform":
            import hcl2

            return hcl2.load(io.StringIO(text))
        case "bicep":
            from pycep import BicepParser

            return BicepParser().parse(text=text)
        case "xdr-bicep":  # pycep does not know the statement `extension`
            from pycep import BicepParser

            head, _, rest = text.partition("\n\n")
            assert head == "extension MicrosoftSecurity"
            return BicepParser().parse(text=rest)
        case _:
            return json.loads(text)


@cache
def validator(name: str, shared: Path) -> Any:
    import jsonschema

    schema = json.loads((shared / "reference" / "deploy" / "schema" / name).read_text(encoding="utf-8"))
    if name.startswith("xdr"):
        schema = {**schema["$defs"]["current"], "$defs": schema["$defs"]}
    return jsonschema.Draft202012Validator(schema)


@cache
def tactics_of(shared: Path) -> Mapping[str, list[str]]:
    """Technique -> tactics, as Azure-Sentinel's own check has them."""
    table = json.loads((shared / "reference" / "deploy" / "tactics.json").read_text(encoding="utf-8"))
    found: Mapping[str, list[str]] = table["techniqueToTacticsKnownToSentinelCI"]
    return found


def inconsistent(tactics: Sequence[str], techniques: Sequence[str], shared: Path) -> list[str]:
    """The techniques of which no tactic is stated: each fails Azure-Sentinel's check."""
    table = tactics_of(shared)
    return [t for t in techniques if not set(table.get(t.split(".")[0], ())) & set(tactics)]


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """The documents of a rule file, read plainly."""
    for document in yaml.load_all(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(document, dict):
            yield document
