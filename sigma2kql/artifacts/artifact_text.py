"""Artifacts as texts: each rule rendered once, the texts put together where a format holds several.

Place in the flow: the second half of render, the last stage before a text leaves. Invariant: a text is read back before
it is given out and says exactly what was decided; templates place values and never build them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from sigma2kql.artifacts import bodies, languages
from sigma2kql.artifacts.formats import Format, format_named
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Detection, Hunt
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.resources import resources, symbol, terraform
from sigma2kql.artifacts.settings import Settings
from sigma2kql.diagnostics.diagnostic import fail, frozen
from sigma2kql.text.exported import arm_plain

if TYPE_CHECKING:
    from jinja2 import Template

ROOM, ROOM_OF_ONE = 65536, 16  # characters of a template beside its rules, and between two of them
# names that some system keeps for itself
KEPT = frozenset(
    ["con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in range(10)), "bicepconfig"]
)


@frozen
class Piece:
    """One rule's part of a text: so many resources; `scoped`: they name the workspace as their scope."""

    id: str
    text: str
    scoped: bool = False
    resources: int = 1


def render(artifact: Artifact, name: str, settings: Settings) -> Piece:
    """The artifact in the format `name`, checked. Raises Sigma2KqlError (E715, E716, E717)."""
    form = format_named(name)
    if form.kind is not None and not isinstance(artifact, _KINDS[form.kind]):
        raise fail("E717", f"{name} holds {_KINDS[form.kind].__name__} values only")
    match artifact:
        case Detection():
            return Piece(artifact.id, _of_detection(form, artifact))
        case AlertRule() | Hunt():
            scoped = settings.arm_form == "extension" and isinstance(artifact, AlertRule)
            number = 2 if isinstance(artifact, AlertRule) and artifact.function else 1
            return Piece(artifact.id, _of_sentinel(form, artifact, settings), scoped, number)
        case _:
            assert_never(artifact)


def assemble(pieces: Sequence[Piece], name: str, whole: bool = False) -> str:
    """One text of all pieces, in order. `whole`: it is to stand alone (Terraform's variable and providers go along).

    Raises Sigma2KqlError: E711 for two rules of one id, E712 where the format holds one rule a text.
    """
    form = format_named(name)
    if len(pieces) != 1 and not form.bundle:
        raise fail("E712", f"{name} holds one rule per file")
    identifiers: set[str] = set()
    for piece in pieces:
        if piece.id in identifiers:
            raise fail("E711", f"two rules would be deployed under {piece.id}", hint="give every rule its own id")
        identifiers.add(piece.id)
    texts = [piece.text for piece in pieces]
    match form.language:
        case "yaml" | "graph":
            return texts[0]
        case "arm":
            return _template("arm").render(pieces=texts)
        case "bicep":
            head = _template("xdr-bicep-head" if form.kind == "detection" else "bicep-head")
            return head.render(scoped=any(piece.scoped for piece in pieces)) + "\n".join(texts)
        case "terraform":
            return "\n".join([*(companions(name).values() if whole else ()), *texts])
        case _:
            assert_never(form.language)


def bundle_texts(pieces: Sequence[Piece], name: str) -> dict[str, str]:
    """All pieces as few texts as the service takes: file name -> text, one, or a parent and its numbered parts.

    Raises Sigma2KqlError: E711 as `assemble` does.
    """
    form = format_named(name)
    whole = f"sigma2kql{form.extension}"
    parts = _parts(pieces) if form.language in ("arm", "bicep") else [list(pieces)]
    if len(parts) < 2:
        return {whole: assemble(pieces, name, whole=True) if pieces else ""}
    assemble(pieces, name)  # ids are unique over all parts
    names = [f"sigma2kql-{number}{form.extension}" for number in range(1, len(parts) + 1)]
    texts = {part: assemble(held, name, whole=True) for part, held in zip(names, parts, strict=True)}
    # Bicep puts its modules into one template, which is as large as they are together
    if form.language == "bicep" and sum(map(len, texts.values())) > facts("limits")["template"]["bytes"]:
        return texts
    parent = _template(f"{form.language}-parent").render(names=names, scoped=form.kind != "detection")
    return {whole: parent, **texts}


def _parts(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Runs of pieces, each within what a template takes."""
    limits = facts("limits")["template"]
    parts: list[list[Piece]] = []
    size = resources = 0
    for piece in pieces:
        length = len(piece.text) + ROOM_OF_ONE
        if not parts or resources + piece.resources > limits["resources"] or size + length > limits["bytes"] - ROOM:
            parts.append([])
            size = resources = 0
        parts[-1].append(piece)
        size, resources = size + length, resources + piece.resources
    return parts


def companions(name: str) -> dict[str, str]:
    """Files that go once into a folder of single rules (file name -> text): Terraform's variable and providers, the
    extension that Bicep knows custom detections by.
    """
    form = format_named(name)
    if form.language == "terraform":
        return {"sigma2kql.tf": _template("terraform-head").render()}
    if form.language == "bicep" and form.kind == "detection":
        return {"bicepconfig.json": _template("bicepconfig").render()}
    return {}


def file_name(title: str, identifier: str, name: str, taken: set[str]) -> str:
    """A file name for a rule, safe on every system: ASCII letters, digits, `_` and `-`; `taken` is added to.

    Two rules of one title differ by their id. Never empty, hidden, reserved, longer than 110 characters or with a path.
    """
    stem = re.sub(r"[^a-z0-9]+", "_", title.lower()[:400]).strip("_")[:80].strip("_")
    plain = re.sub(r"[^a-z0-9]+", "", identifier.lower())
    if not stem or stem in KEPT or stem.split("_")[0] in KEPT:
        stem = f"rule_{stem}".strip("_")
    choices = [stem, f"{stem}-{plain[:8]}", *(f"{stem}-{plain[:8]}-{n}" for n in range(2, len(taken) + 3))]
    extension = format_named(name).extension
    found = next(choice for choice in choices if choice + extension not in taken) + extension
    taken.add(found)
    return found


# --------------------------------------------------------------------------------------------------------------------


_KINDS: Mapping[str, type[AlertRule | Hunt | Detection]] = {"alert": AlertRule, "hunt": Hunt, "detection": Detection}


def _of_detection(form: Format, detection: Detection) -> str:
    match form.language:
        case "graph":
            body = bodies.detection_body(detection)
            text = _template("xdr-json").render(body=body)
            _agrees(json.loads(text), body)
            return text
        case "bicep":
            body = bodies.detection_body(detection, numbered=True)
            return _template("xdr-bicep-resource").render(symbol=symbol("detection", detection.id), body=body)
        case "yaml" | "arm" | "terraform":
            raise fail("E717", "the format holds no custom detections")
        case _:
            assert_never(form.language)


def _of_sentinel(form: Format, artifact: AlertRule | Hunt, settings: Settings) -> str:
    match form.language:
        case "yaml":
            return _yaml(bodies.document(artifact))
        case "arm":
            rows = resources(artifact, settings)
            text = _template("arm-resources").render(resources=rows).rstrip("\n")
            found = [languages.map_texts(row["properties"], arm_plain) for row in json.loads(f"[{text}]")]
            _agrees(found, [row.properties for row in rows])
            return text
        case "bicep":
            return _template("bicep-resources").render(resources=resources(artifact, settings))
        case "terraform":
            return _template("terraform").render(resources=terraform(artifact, settings))
        case "graph":
            raise fail("E717", "the format holds custom detections only")
        case _:
            assert_never(form.language)


def _yaml(document: Mapping[str, Any]) -> str:
    import yaml

    text = _template("yaml").render(document=document)
    _agrees(yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)), document)  # noqa: S506 (safe)
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
