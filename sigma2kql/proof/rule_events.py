"""Events that come with a rule: in a file beside it, under its key `tests`, or as recorded attacks of a SigmaHQ
checkout.

Place in the flow: between the event readers and `prove`. Invariant: every event stated gives a `Labelled` or an
`Attack`, or a problem in words; nothing is taken for an event of another rule.

The form, in `<rule>.events.yml`, `.yaml` or `.json` and under `tests:`

    match: [{Image: 'C:\\x\\mimikatz.exe'}]      # Sigma's field names, raw Windows events, or rows of the table
    no_match: [{Image: 'C:\\x\\notepad.exe'}]

A file for several rules has such a map for each, by the rule's id or title. `<rule>.events.ndjson` has one event a
line: `{"expect": "match", "event": {...}, "rule": "<id or title, where the file has several>"}`.

A correlation is judged on streams, each a list of events. An event names its own time, or it is one second after the
one before; `{event: {...}, times: 20, every: 10s, after: 5m, rule: name}` repeats one, and says for which rule it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, frozen
from sigma2kql.events import event_files, read_events
from sigma2kql.events.regression import find_checkout, regression_sets
from sigma2kql.model.tree import Metadata

SUFFIXES = (".events.yml", ".events.yaml", ".events.json", ".events.ndjson")
LABELS: Mapping[str, bool] = {"match": True, "no_match": False}


@frozen
class Labelled:
    """An event, whether the rule must match it (None: the reference evaluator says) and where it comes from."""

    event: Mapping[str, Any]
    expected: bool | None
    origin: str


@frozen
class Stream:
    """Events for a correlation, and whether it must fire on them (None: the reference says)."""

    events: tuple[Mapping[str, Any], ...]
    expected: bool | None
    origin: str


@frozen
class Attack:
    """Events recorded together, of which so many must match (None: at least one)."""

    events: tuple[Mapping[str, Any], ...]
    origin: str
    matches: int | None = None


@frozen
class Stated:
    """What was found for one rule."""

    events: tuple[Labelled, ...] = ()
    attacks: tuple[Attack, ...] = ()
    problems: tuple[str, ...] = ()
    streams: tuple[Stream, ...] = ()


def stated_for(path: str, meta: Metadata, several: bool, attacks: Mapping[str, list[Attack]]) -> Stated:
    """The events of one rule of a file; `several` says that the file holds more rules, `attacks` are by rule id."""
    events: list[Labelled] = []
    problems: list[str] = []
    own = Path(path)
    try:
        files = [p for suffix in SUFFIXES if (p := own.with_name(own.stem + suffix)).is_file()]
    except (OSError, ValueError):
        files = []
    for file in files:
        _from_file(file, meta, several, events, problems)
    if "tests" in meta.custom:
        _from_map(meta.custom["tests"], f"{path}: tests", events, problems)
    return Stated(tuple(events), tuple(attacks.get(meta.id or "", ())), tuple(problems))


def streams_for(path: str, meta: Metadata) -> Stated:
    """The streams of one correlation: under its id or title in a file beside it, or under its key `tests`."""
    streams: list[Stream] = []
    problems: list[str] = []
    own = Path(path)
    names = {name for name in (meta.id, meta.title) if name}
    try:
        files = [p for suffix in SUFFIXES[:3] if (p := own.with_name(own.stem + suffix)).is_file()]
    except (OSError, ValueError):
        files = []
    for file in files:
        try:
            documents = [found.data for found in read_events(file)]
        except Sigma2KqlError:
            continue  # the rules of the file say so
        for part in (document[name] for document in documents for name in document if name in names):
            _streams(part, str(file), streams, problems)
    if "tests" in meta.custom:
        _streams(meta.custom["tests"], f"{path}: tests", streams, problems)
    return Stated(problems=tuple(problems), streams=tuple(streams))


def _streams(value: Any, origin: str, streams: list[Stream], problems: list[str]) -> None:
    if not isinstance(value, Mapping) or not value.keys() <= LABELS.keys():
        problems.append(f"{origin}: must be a map with `match` and `no_match`")
        return
    for label, listed in value.items():
        for number, events in enumerate(listed if isinstance(listed, list) else [listed], 1):
            if isinstance(events, list) and events and all(isinstance(event, Mapping) for event in events):
                streams.append(Stream(tuple(events), LABELS[label], f"{origin}: {label} {number}"))
            else:
                problems.append(f"{origin}: {label} {number} is no list of events")


def _from_file(file: Path, meta: Metadata, several: bool, events: list[Labelled], problems: list[str]) -> None:
    try:
        documents = [found.data for found in read_events(file)]
    except Sigma2KqlError as error:
        problems += [f"{d.code}: {d.message}" for d in error.diagnostics]
        return
    names = {name for name in (meta.id, meta.title) if name}
    if file.suffix == ".ndjson":
        for number, data in enumerate(documents, 1):
            if "rule" in data and data["rule"] not in names:
                continue
            expect, event = data.get("expect"), data.get("event")
            if not isinstance(expect, str) or expect not in LABELS or not isinstance(event, Mapping):
                problems.append(f'{file}:{number}: a line is {{"expect": "match" or "no_match", "event": {{...}}}}')
            else:
                events.append(Labelled(event, LABELS[expect], f"{file}:{number}"))
        return
    if len(documents) != 1:
        problems.append(f"{file}: holds one map with `match` and `no_match`")
        return
    document = documents[0]
    if not document.keys() <= LABELS.keys():
        mine = [document[name] for name in document if name in names]
        if not mine and not several:
            problems.append(f"{file}: neither `match` or `no_match`, nor the id or title of the rule")
        for part in mine:
            _from_map(part, str(file), events, problems)
    elif several:
        problems.append(f"{file}: the file has several rules: put their events under each rule's id or title")
    else:
        _from_map(document, str(file), events, problems)


def _from_map(value: Any, origin: str, events: list[Labelled], problems: list[str]) -> None:
    if not isinstance(value, Mapping) or not value.keys() <= LABELS.keys():
        problems.append(f"{origin}: must be a map with `match` and `no_match`")
        return
    for label, listed in value.items():
        items = listed if isinstance(listed, list) else [listed]
        for number, event in enumerate(items, 1):
            if isinstance(event, Mapping):
                events.append(Labelled(event, LABELS[label], f"{origin}: {label} {number}"))
            else:
                problems.append(f"{origin}: {label} {number} is no map of fields")


def recorded_attacks(paths: Iterable[str], report: Callable[[Diagnostic], None]) -> dict[str, list[Attack]]:
    """The recorded attacks for these rule files or folders, by rule id; what cannot be read is reported."""
    found: dict[str, list[Attack]] = {}
    seen: set[tuple[Path, str, Path | None]] = set()
    for path in map(Path, paths):
        if not path.exists() or find_checkout(path) is None:
            continue
        for one in regression_sets(path, report):
            source = one.json or one.events
            if source is None or (one.info, one.name, source) in seen:
                continue
            seen.add((one.info, one.name, source))
            try:
                events = tuple(event.data for event in read_events(source))
            except Sigma2KqlError as error:
                for problem in error.diagnostics:
                    report(problem)
                continue
            found.setdefault(one.rule_id, []).append(Attack(events, str(source), one.matches))
    return found


def events_to_hunt(path: Path, report: Callable[[Diagnostic], None]) -> list[Labelled]:
    """All events of a file or folder, without labels."""
    found: list[Labelled] = []
    for file in event_files(path):
        try:
            found += [Labelled(event.data, None, event.origin) for event in read_events(file, report=report)]
        except Sigma2KqlError as error:
            for problem in error.diagnostics:
                report(problem)
    return found
