"""When files changed, from git where there is one.

Place in the flow: asked once a build, for all files. Invariant: git runs nothing that a repository's own configuration
names, and its absence, or its failure, is an empty history.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from sigma2kql.diagnostics.diagnostic import frozen

COMMITS = 20_000  # looked at
KEPT = 12  # a file
# What a configuration could make `git log` start: signatures, watchers, pagers.
QUIET = ("-c", "log.showSignature=false", "-c", "core.fsmonitor=false", "-c", "core.pager=cat", "-c", "core.hooksPath=")


@frozen
class Change:
    """One commit that touched a file: its short hash, its day and its first line."""

    commit: str
    day: str
    subject: str


def history(paths: Iterable[str], seconds: float = 60) -> Mapping[str, tuple[Change, ...]]:
    """The latest commits of each path, newest first; a path without any is absent."""
    wanted = {os.path.realpath(path): path for path in paths}
    found: dict[str, list[Change]] = {}
    for top in {top for folder in {Path(path).parent for path in wanted} if (top := _repository(folder))}:
        for file, change in _log(top, seconds):
            path = wanted.get(file)
            if path is not None and len(found.setdefault(path, [])) < KEPT:
                found[path].append(change)
    return {path: tuple(changes) for path, changes in found.items()}


def _repository(folder: Path) -> Path | None:
    return next((one for one in (folder, *folder.parents) if (one / ".git").exists()), None)


def _log(top: Path, seconds: float) -> list[tuple[str, Change]]:
    form = "--format=%x00%h%x1f%as%x1f%s"
    command = ["git", "--no-pager", *QUIET, "log", f"--max-count={COMMITS}", "--no-merges", "--name-only", "-z", form]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=top, capture_output=True, timeout=seconds, check=True, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return []
    out: list[tuple[str, Change]] = []
    change: Change | None = None
    for part in done.stdout.decode("utf-8", "replace").split("\0"):
        text = part.strip("\n")
        if text.count("\x1f") >= 2:
            commit, day, subject = text.split("\x1f", 2)
            change = Change(commit, day, subject)
        elif text and change is not None:
            out.append((os.path.realpath(top / text), change))
    return out
