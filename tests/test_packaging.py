"""What a fresh machine installs: the lock holds all that is asked for, with hashes, wherever it is fetched from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / ".ci" / "lock.txt"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def locked() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for entry in re.split(r"\n(?=\S)", LOCK.read_text(encoding="utf-8")):
        if not entry.startswith("#"):
            one = Requirement(entry.partition("\\")[0].strip())
            found.setdefault(canonicalize_name(one.name), []).append(one)
    return found


def asked() -> list[Requirement]:
    extras = project()["project"]["optional-dependencies"]
    everything = [*project()["project"]["dependencies"], *project()["build-system"]["requires"]]
    # mutation testing is by hand, in an environment of its own: neither the set-up nor CI installs it
    everything += [one for extra, names in extras.items() if extra != "mutation" for one in names]
    return [one for one in map(Requirement, everything) if one.name != "sigma2kql"]


@pytest.mark.parametrize("wanted", asked(), ids=str)
def test_what_is_asked_for_is_locked(wanted: Requirement) -> None:
    """`.ci/lock` writes the lock anew."""
    versions = [next(iter(one.specifier)).version for one in locked()[canonicalize_name(wanted.name)]]
    assert all(wanted.specifier.contains(version) for version in versions)


@pytest.mark.parametrize("wanted", [one for one in asked() if not one.name.startswith("types-")], ids=str)
def test_a_next_major_is_not_taken_unseen(wanted: Requirement) -> None:
    assert {one.operator for one in wanted.specifier} & {"<", "==", "<="}


def test_every_locked_file_has_its_hash_and_no_address() -> None:
    text = LOCK.read_text(encoding="utf-8")
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert all(re.match(r"[\w.-]+==\S+", entry) and "--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"://|--index|--find-links|--extra-index|@ ", text)


def test_the_supported_versions_are_said_alike() -> None:
    classifiers = [c.rpartition(" ")[2] for c in project()["project"]["classifiers"] if ":: 3." in c]
    assert classifiers == list(PYTHONS)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert re.search(r"python: \[(.*)\]", workflow)[1] == ", ".join(f'"{one}"' for one in PYTHONS)  # type: ignore[index]
    assert f"{PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")
