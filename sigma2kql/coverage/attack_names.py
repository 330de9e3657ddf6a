"""MITRE ATT&CK by name: tactics, techniques, the matrix; what a rule's tags say in them.

Place in the flow: data of `mappings/attack.yml`, read by coverage and the pages. Invariant: a tag that ATT&CK does not
know keeps its own spelling and is never dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

from sigma2kql.artifacts.attack import former_technique
from sigma2kql.diagnostics.diagnostic import Source, frozen
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import compose

_TECHNIQUE = re.compile(r"t\d{4}(?:\.\d{3})?")
_OTHER = re.compile(r"(?:g|s|c|m|ta|ds|dc|an|det)\d{3,4}(?:\.\d{3})?")  # groups, software, campaigns, data sources ...


@frozen
class Tactic:
    """A column of the matrix: `name` as in Navigator (`credential-access`), `id` TA0006, `title` for people."""

    name: str
    id: str
    title: str
    techniques: tuple[str, ...]  # base techniques, in the order of their ids


@frozen
class Attack:
    """The matrix of one version. `names`: technique -> name, those of former versions included."""

    version: str
    tactics: tuple[Tactic, ...]
    names: Mapping[str, str]
    former: frozenset[str]
    renamed: Mapping[str, tuple[str, ...]]  # tactic of a former version -> what it became
    homes: Mapping[str, tuple[str, ...]]  # base technique -> its tactics


@cache
def attack() -> Attack:
    """The shipped matrix (Enterprise)."""
    path = mappings_folder() / "attack.yml"
    (document,) = compose(Source("mappings/attack.yml", path.read_text(encoding="utf-8")))
    assert document.root is not None
    data = plain(document.root)
    tactics = tuple(
        Tactic(name, one["id"], one["name"], tuple(data["matrix"][name].split()))
        for name, one in data["tactics"].items()
    )
    homes: dict[str, tuple[str, ...]] = {}
    for tactic in tactics:
        for technique in tactic.techniques:
            homes[technique] = (*homes.get(technique, ()), tactic.name)
    renamed = {name: tuple(one["now"]) for name, one in data["former_tactics"].items()}
    names = {str(key): str(name) for key, name in {**data["techniques"], **data["former"]}.items()}
    return Attack(str(data["version"]), tactics, names, frozenset(map(str, data["former"])), renamed, homes)


def techniques_of(tags: Iterable[str]) -> tuple[str, ...]:
    """The techniques that tags name, as ATT&CK writes them (`T1059.001`), each once."""
    names = (tag.lower().removeprefix("attack.") for tag in tags if tag.lower().startswith("attack."))
    return tuple(dict.fromkeys(name.upper() for name in names if _TECHNIQUE.fullmatch(name)))


def tactics_of(tags: Iterable[str]) -> tuple[str, ...]:
    """The tactics that tags name, in today's names; one that ATT&CK does not know as it is written."""
    found: dict[str, None] = {}
    for tag in tags:
        name = tag.lower().removeprefix("attack.").replace("_", "-")
        if tag.lower().startswith("attack.") and not _TECHNIQUE.fullmatch(name) and not _OTHER.fullmatch(name):
            found.update(dict.fromkeys(attack().renamed.get(name, (name,))))
    return tuple(found)


def technique_name(technique: str) -> str:
    """`Command and Scripting Interpreter: PowerShell`; empty for one that ATT&CK does not know."""
    names = attack().names
    base = technique.partition(".")[0]
    own = names.get(technique, "")
    return f"{names[base]}: {own}" if own and base != technique and base in names else own


def tactic_title(name: str) -> str:
    return next((tactic.title for tactic in attack().tactics if tactic.name == name), name.replace("-", " ").title())


def homes_of(technique: str) -> tuple[str, ...]:
    """The tactics that a technique belongs to; those of what it became, for one that was given up."""
    base = technique.partition(".")[0]
    return attack().homes.get(base) or attack().homes.get(_successors().get(technique, ""), ())


@cache
def _successors() -> Mapping[str, str]:
    """Technique of a former version -> the base of today's: the other way round of what artifacts ask."""
    return {former_technique(name): name.partition(".")[0] for name in attack().names if former_technique(name) != name}


def other_generation(technique: str) -> str:
    """The id of the same technique in the version that Sentinel knows (v16); empty where it is the same."""
    former = former_technique(technique)
    return "" if former == technique else former


def technique_url(technique: str) -> str:
    return "https://attack.mitre.org/techniques/" + technique.replace(".", "/") + "/"
