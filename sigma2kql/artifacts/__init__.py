"""Artifacts: a compiled rule as what is deployed to Microsoft Sentinel or Defender XDR.

Place in the flow: render, the last stage before the text leaves. Invariant: an artifact is parsed back before it is
given out and holds exactly the values that were decided; the same input gives the same bytes.

`prepare` decides (and reports), `write` renders, `render` and `bundle` do both; `read_artifact` goes the other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sigma2kql.artifacts import bodies, describe, languages, resources
from sigma2kql.artifacts.decide import Kind, Limits, is_hunt
from sigma2kql.artifacts.describe import Prepared
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Detection, Hunt
from sigma2kql.artifacts.native_checks import validate_native
from sigma2kql.artifacts.query_columns import Output, read_columns
from sigma2kql.artifacts.read_back import read_artifact, read_artifacts
from sigma2kql.artifacts.resources import Resource, too_many_entities
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.diagnostics.diagnostic import diagnostic, did_you_mean, fail, frozen
from sigma2kql.model.tree import Compiled
from sigma2kql.text.exported import arm_plain

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = [
    "FORMATS",
    "Format",
    "Output",
    "Prepared",
    "Settings",
    "bundle",
    "companions",
    "file_name",
    "merge",
    "merge_rule",
    "prepare",
    "read_artifact",
    "read_artifacts",
    "read_columns",
    "render",
    "validate_native",
    "write",
]


@frozen
class Format:
    """A format of artifacts. `kind` None: a rule, or a hunting query for documents that are one."""

    extension: str
    kind: Kind | None
    bundle: bool  # whether several rules may stand in one text
    limits: Limits
    targets: tuple[str, ...] = ()  # the shipped targets whose queries it can carry; empty for any
    function: bool = False  # whether a saved function can go along


REVIEWED = Limits(name=100, description=5000, tactics=5, techniques=10)  # Azure-Sentinel's review guidance
FORMATS: Final[dict[str, Format]] = {
    "sentinel-yaml": Format(".yaml", "alert", False, REVIEWED),
    "hunting-yaml": Format(".yaml", "hunt", False, REVIEWED),
    "arm": Format(".json", "alert", True, Limits(), function=True),
    "hunting-arm": Format(".json", "hunt", True, Limits()),
    "bicep": Format(".bicep", None, True, Limits(), function=True),
    "terraform": Format(".tf", None, True, Limits(), function=True),
    "xdr-json": Format(".json", "detection", False, Limits(name=120), targets=("xdr",)),
}
RESERVED = frozenset(
    ["con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10)), "bicepconfig"]
)


def prepare(
    compiled: Compiled, name: str, settings: Settings, output_columns: Mapping[str, str] | Output | None = None
) -> Prepared:
    """Decide what `compiled` becomes in the format `name`, with warnings about what was cut, dropped or added.

    `output_columns` are the columns that the query returns (for a query of this project's own: all columns of its
    table; an `Output` says whether there may be more). Entity mappings are inferred from them and checked against
    them; a custom detection needs them.
    Raises Sigma2KqlError (E703 .. E709, E714, E717) where there can be no such artifact.
    """
    chosen = _format(name)
    kind = chosen.kind
    if kind is None:
        kind = "hunt" if (is_hunt(compiled) if settings.hunting is None else settings.hunting) else "alert"
    if not chosen.function:
        settings = replace(settings, function=False)
    found = describe.describe(compiled, kind, chosen.limits, settings, output_columns)
    lost = _lost_in_terraform(found.artifact, settings) if name == "terraform" else ""
    if lost:
        note = diagnostic("W761", f"azurerm has no argument for {lost}", compiled.document.origin.span)
        return replace(found, diagnostics=(*found.diagnostics, note))
    return found


def render(
    compiled: Compiled | Artifact, name: str, settings: Settings, output_columns: Mapping[str, str] | None = None
) -> str:
    """One rule as a text of the format `name`; an artifact that was read is written as it is."""
    artifact = (
        prepare(compiled, name, settings, output_columns).artifact if isinstance(compiled, Compiled) else compiled
    )
    return write([artifact], name, settings)


def bundle(
    compiled: Sequence[Compiled],
    name: str,
    settings: Settings,
    output_columns: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Several rules in one text, in order. `output_columns` are by table. Raises E711, E712 beside `prepare`'s."""
    by_table = output_columns or {}
    artifacts = [prepare(item, name, settings, by_table.get(item.table or "")).artifact for item in compiled]
    return write(artifacts, name, settings, whole=True)


def write(artifacts: Sequence[Artifact], name: str, settings: Settings, whole: bool = False) -> str:
    """Render artifacts. `whole`: the text is to stand alone (Terraform's variable and providers go along)."""
    chosen = _format(name)
    if len(artifacts) != 1 and not chosen.bundle:
        raise fail("E712", f"{name} holds one rule per file")
    identifiers = [artifact.id for artifact in artifacts]
    double = next((x for i, x in enumerate(identifiers) if x in identifiers[:i]), None) if len(artifacts) > 1 else None
    if double:
        raise fail("E711", f"two rules would be deployed under {double}", hint="give every rule its own id")
    match name:
        case "sentinel-yaml":
            return _yaml(bodies.analytics_document(_only(artifacts, AlertRule)[0]))
        case "hunting-yaml":
            return _yaml(bodies.hunting_document(_only(artifacts, Hunt)[0]))
        case "arm":
            return _arm(resources.resources(_only(artifacts, AlertRule), settings))
        case "hunting-arm":
            return _arm(resources.resources(_only(artifacts, Hunt), settings))
        case "bicep":
            return _template("bicep").render(resources=resources.resources(_deployed(artifacts), settings))
        case "terraform":
            head = companions(name)["sigma2kql.tf"] + "\n" if whole else ""
            return head + _template("terraform").render(resources=resources.terraform(_deployed(artifacts), settings))
        case _:
            return _json(bodies.detection_body(_only(artifacts, Detection)[0]))


def companions(name: str) -> dict[str, str]:
    """Files that go once into a folder of single rules (file name -> text): Terraform's variable and providers."""
    return {"sigma2kql.tf": _template("terraform-head").render()} if name == "terraform" else {}


def file_name(title: str, identifier: str, name: str, taken: set[str]) -> str:
    """A file name for a rule, safe on every system: ASCII letters, digits, `_` and `-`; `taken` is added to.

    Two rules of one title differ by their id. Never empty, hidden, reserved, longer than 110 characters or with a path.
    """
    stem = re.sub(r"[^a-z0-9]+", "_", title.lower()[:400]).strip("_")[:80].strip("_")
    plain = re.sub(r"[^a-z0-9]+", "", identifier.lower())
    if not stem or stem in RESERVED or stem.split("_")[0] in RESERVED:
        stem = f"rule_{stem}".strip("_")
    choices = [stem, f"{stem}-{plain[:8]}", *(f"{stem}-{plain[:8]}-{n}" for n in range(2, len(taken) + 3))]
    extension = _format(name).extension
    found = next(choice for choice in choices if choice + extension not in taken) + extension
    taken.add(found)
    return found


# --------------------------------------------------------------------------------------------------------------------


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise fail("E717", f"unknown format `{name}`", hint=did_you_mean(name, FORMATS))
    return FORMATS[name]


def _only(artifacts: Sequence[Artifact], kind: type[Any]) -> list[Any]:
    if not all(isinstance(artifact, kind) for artifact in artifacts):
        raise fail("E717", f"the format holds {kind.__name__} values only")
    return list(artifacts)


def _deployed(artifacts: Sequence[Artifact]) -> list[AlertRule | Hunt]:
    return [*_only([a for a in artifacts if not isinstance(a, AlertRule | Hunt)], AlertRule), *artifacts]


def _lost_in_terraform(artifact: Artifact, settings: Settings) -> str:
    if not isinstance(artifact, AlertRule) or settings.terraform_provider != "azurerm":
        return ""
    lost = bodies.sub_techniques(artifact.techniques)
    many = ["more than five entity mappings"] if too_many_entities(artifact) else []
    return ", ".join([*lost, *many])


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    text = _template("yaml").render(document=document)
    _agrees(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), document)  # noqa: S506 (safe)
    return text


def _json(body: Mapping[str, Any]) -> str:
    text = _template("xdr-json").render(body=body)
    _agrees(json.loads(text), body)
    return text


def _arm(rows: Sequence[Resource]) -> str:
    text = _template("arm").render(resources=rows)
    found = [languages.map_texts(row["properties"], arm_plain) for row in json.loads(text)["resources"]]
    _agrees(found, [row.properties for row in rows])
    return text


def _agrees(found: Any, wanted: Any) -> None:
    """What was written reads back as what was meant; anything else never leaves."""
    if found != languages.map_texts(wanted, str):
        raise fail("E716", "the artifact does not read back as what was written")


@cache
def _template(name: str) -> Template:
    import jinja2

    folder = Path(__file__).resolve().parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (every value goes through the escape rule of its language)
    )
    filters: dict[str, Callable[..., Any]] = {
        "yaml": languages.yaml_literal,
        "json": languages.json_literal,
        "arm": languages.arm_literal,
        "bicep": languages.bicep_literal,
        "hcl": languages.hcl_literal,
        "attributes": languages.hcl_attributes,
    }
    environment.filters.update(filters)
    return environment.get_template(f"{name}.j2")
