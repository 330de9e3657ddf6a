"""`sigma2kql site --prove`: queries run on events while the site is made; what is unchanged is not run again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sigma2kql.api import Options, read_inputs
from sigma2kql.cli.shared_options import progress, standard_input
from sigma2kql.cli.test import subjects_with_events
from sigma2kql.diagnostics.diagnostic import Diagnostic
from sigma2kql.proof import Result
from sigma2kql.proof.prove import prove
from sigma2kql.proof.rule_events import recorded_attacks
from sigma2kql.site.build import Subject
from sigma2kql.site.rule_page import Proven, text_of

EVENTS = 24  # made for a rule, as `test --generate` does
KEYS = ("status", "reason", "events", "positive", "matched", "attacks", "engine", "day", "kql")


def proven(
    subjects: Sequence[Subject],
    paths: Sequence[str],
    options: Mapping[str, Options],
    known: Mapping[str, Any],
    quiet: bool,
) -> tuple[list[Subject], dict[str, Any]]:
    """The subjects with their proofs, and the proofs by what was run, for the manifest of the next build.

    Raises Sigma2KqlError where the engine is not installed.
    """
    inputs = list(read_inputs(paths, standard_input(paths)))
    problems: list[Diagnostic] = []  # of event files that belong to no rule here: `test` tells them
    attacks = recorded_attacks(paths, problems.append)
    kept: dict[str, Any] = {}
    found: list[list[Proven]] = [[] for _ in subjects]
    for at, (target, one) in enumerate(options.items()):
        asked = list(subjects_with_events(inputs, replace(one, union=False), attacks, ()))
        keys = [_key(subject, subjects[number].results[at]) for number, subject in enumerate(asked)]
        missing = [number for number, key in enumerate(keys) if key not in known]
        with progress(len(missing), f"proving {target}", quiet) as advance:
            results = prove([asked[number] for number in missing], EVENTS, "0", 1, advance)
            fresh = dict(zip(missing, map(_row, results, _told(asked, missing)), strict=True))
        for number, key in enumerate(keys):
            row = kept[key] = fresh.get(number) or known[key]
            if row and len(row) == len(KEYS) and row[0] != "skipped":
                found[number].append(Proven(target=target, **dict(zip(KEYS, row, strict=True))))
    return [replace(subject, proofs=tuple(p)) for subject, p in zip(subjects, found, strict=True)], kept


def _key(subject: Any, done: Any) -> str:
    """What a proof is of: the rule, its query, the events that were stated for it."""
    parts = (text_of(done), done.target, subject.compiled.kql, subject.events, subject.attacks, subject.streams)
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _told(asked: Sequence[Any], missing: Sequence[int]) -> Iterator[tuple[int, str]]:
    """Of each: its recorded attacks, and the hash of its query."""
    for number in missing:
        kql = asked[number].compiled.kql or ""
        yield len(asked[number].attacks), hashlib.sha256(kql.encode()).hexdigest()[:16]


def _row(result: Result, more: tuple[int, str]) -> list[Any]:
    attacks, kql = more
    engine = f"DuckDB {version('duckdb')}"
    day = datetime.now(UTC).date().isoformat()
    reason = result.reason if result.status != "passed" else ""
    return [result.status, reason, result.events, result.positive, result.matched, attacks, engine, day, kql]
