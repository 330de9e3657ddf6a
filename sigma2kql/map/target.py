"""`Target`: which tables may carry a rule, in order of preference, and what is known of them without reading them.

Place in the flow: the data that map stands on. Invariant: a table is read when a rule reaches it, and not before; what
the indexes say of it is what its file says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import (
    Diagnostic,
    Sigma2KqlError,
    Source,
    Span,
    diagnostic,
    did_you_mean,
    immutable,
)
from sigma2kql.map.event_elements import is_element, known_elements
from sigma2kql.map.field_places import Rows
from sigma2kql.map.sources import data_sources
from sigma2kql.map.table_file import read_table
from sigma2kql.map.target_file import Preference, Service, TargetSettings, read_target
from sigma2kql.model.query_facts import QueryLimits
from sigma2kql.model.tree import (
    KqlType,
    LogSource,
    Table,
)
from sigma2kql.system.bounded_files import read_text
from sigma2kql.system.shipped_files import mappings_folder

_FEW = 60  # names that a hint lists

# --------------------------------------------------------------------------------------------------------------------
# Targets


@immutable
class Entry:
    """A table of a target that is read only when a rule needs it, and the log sources it says it serves."""

    name: str
    logsources: tuple[LogSource, ...]
    load: Callable[[], Table]
    sources: frozenset[str] | None = None  # the data sources that write it; None: unknown


@immutable
class Target:
    """A name and its tables in order of preference. `time` overrides every table's timestamp column.

    `limits` are those of the product that runs its queries, `formats` the artifacts that it takes (none
    are known where it says nothing), `service` what its artifacts are deployed to.
    """

    name: str
    entries: tuple[Entry, ...]
    time: str | None = None
    title: str = ""
    limits: QueryLimits = QueryLimits()
    formats: tuple[str, ...] = ()
    service: Service | None = None
    prefer: tuple[Preference, ...] = ()
    assumed: frozenset[str] = frozenset()  # the data sources that are there; empty: any
    _served: dict[tuple[str | None, ...], list[int]] = field(default_factory=dict, compare=False, repr=False)
    _after: dict[tuple[LogSource, str], tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)
    _found: dict[LogSource, tuple[tuple[Entry, ...], list[tuple[Rows, ...]]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def serving(self, logsource: LogSource) -> tuple[Entry, ...]:
        """The tables that say they serve this log source, best first, without reading them."""
        if not self._served:
            for number, entry in enumerate(self.entries):
                for one in entry.logsources:
                    self._served.setdefault((one.category, one.product, one.service), []).append(number)
        asked = [(None, part or "") for part in (logsource.category, logsource.product, logsource.service)]
        found = {number for key in product(*asked) for number in self._served.get(key, ())}
        order = [name for step in self.prefer if _covers(step.logsource, logsource) for name in step.tables]
        rank = {name: number for number, name in reversed([*enumerate(order)])}

        def key(number: int) -> tuple[bool, int, int]:
            entry = self.entries[number]
            absent = bool(self.assumed) and entry.sources is not None and entry.sources.isdisjoint(self.assumed)
            return absent, rank.get(entry.name, len(order)), number

        return tuple([self.entries[number] for number in sorted(found, key=key)])

    def after(self, logsource: LogSource, table: str) -> tuple[str, ...]:
        """The tables of a log source that come behind one of them, each with that word for people."""
        known = self._after.get((logsource, table))
        if known is None:
            names = [entry.name for entry in self.serving(logsource)]
            later = names[names.index(table) + 1 :] if table in names else []
            known = self._after[logsource, table] = tuple(f"{name}: later in the order of tables" for name in later)
        return known

    def candidates(self, logsource: LogSource) -> Iterator[Rows]:
        """The rows of every table whose log source covers this one, best first; a table is read when it is reached."""
        known = self._found.get(logsource)
        if known is None:
            known = self._found[logsource] = (self.serving(logsource), [])
        entries, found = known
        for number, entry in enumerate(entries):
            if number == len(found):
                table = entry.load()
                found.append(
                    tuple(
                        [
                            Rows(table, s, logsource.product, self.assumed)
                            for s in table.serves
                            if not s.further and _covers(s.logsource, logsource)
                        ]
                    )
                )
            yield from found[number]


def further_rows(target: Target, table: Table, logsource: LogSource) -> Iterator[Rows]:
    """The rows of a table of which a log source means some beside those of its first source."""
    for serve in table.serves:
        if serve.further and _covers(serve.logsource, logsource):
            yield Rows(table, serve, logsource.product, target.assumed)


def _covers(served: LogSource, asked: LogSource) -> bool:
    """As `LogSource.covers`; an attribute that is '' must be unstated."""
    return (
        (served.category is None or served.category == (asked.category or ""))
        and (served.product is None or served.product == (asked.product or ""))
        and (served.service is None or served.service == (asked.service or ""))
    )


@cache
def _shipped_table(path: Path, target: str) -> Table:
    text = path.read_text(encoding="utf-8")
    return read_table(Source(f"mappings/{path.parent.name}/{path.name}", text), target, whole=False)


def _files(target: str) -> list[Path]:
    return [path for path in sorted((mappings_folder() / target).glob("*.yml")) if path.name != "target.yml"]


def build_index(target: str) -> dict[str, Any]:
    """What `mappings/<target>/index.json` holds: the checksum of each file and the log sources that it serves."""
    index: dict[str, Any] = {}
    for path in _files(target):
        table = _shipped_table(path, target)
        served = sorted(
            {(s.logsource.category, s.logsource.product, s.logsource.service) for s in table.serves}, key=repr
        )
        index[path.stem] = {
            "crc": crc32(path.read_bytes()),
            "serves": [list(s) for s in served],
            "sources": sorted(_sources(table) or ()),
        }
    return index


def _sources(table: Table) -> frozenset[str] | None:
    """Every source that writes the table; None where nobody says."""
    stated = [writers for writers in (table.writers, *(s.writers for s in table.serves)) if writers is not None]
    return frozenset(one.source for writers in stated for one in writers) if stated else None


def build_fields(target: str) -> dict[str, Any]:
    """What `mappings/<target>/fields.json` holds: by table and log source its fields, and those it surely lacks."""
    fields: dict[str, Any] = {}
    for path in _files(target):
        table = _shipped_table(path, target)
        rows: dict[tuple[str | None, ...], tuple[set[str], set[str]]] = {}
        for serve in (one for one in table.serves if not one.further):
            names, absent = rows.setdefault(
                (serve.logsource.category, serve.logsource.product, serve.logsource.service), (set(), set())
            )
            never = {name for name, one in {**table.fields, **serve.fields}.items() if one.never}
            known = {*serve.fields, *(name for name in table.fields if name not in serve.absent)} - never
            others = serve.others or table.others
            listed = known_elements(serve.elements) if serve.elements is not None else None
            names |= known | (set() if others is None else {OPEN} if listed is None else listed)
            absent |= {name for name in (*never, *serve.absent, *table.absent) if name not in known}
        fields[path.stem] = [[list(key), sorted(n), sorted(a - n)] for key, (n, a) in sorted(rows.items(), key=repr)]
    return fields


OPEN = "*"  # among the names of a table: it has a place for every field


@cache
def _fields(target: str) -> dict[str, list[tuple[LogSource, frozenset[str], frozenset[str]]]]:
    """The fields of every table, without reading the tables: only hints ask for them."""
    told = _stored(target, "fields") if _stored_index(target) is not None else None
    if told is None:
        told = build_fields(target)
    return {
        table: [(LogSource(*key), frozenset(names), frozenset(absent)) for key, names, absent in rows]
        for table, rows in told.items()
    }


@cache
def _index(target: str) -> dict[str, Any]:
    """The index, from its file where that is true to the folder, else made anew (a source tree being edited)."""
    return _stored_index(target) or build_index(target)


@cache
def _stored_index(target: str) -> dict[str, Any] | None:
    """The index from its file, where that is true to the files of the folder: an edit may leave size and time."""
    index = _stored(target, "index")
    found = {path.stem: crc32(path.read_bytes()) for path in _files(target)}
    return index if index is not None and found == {name: entry["crc"] for name, entry in index.items()} else None


def _stored(target: str, name: str) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads((mappings_folder() / target / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told


@cache
def _shipped_entries(target: str) -> dict[str, Entry]:
    folder = mappings_folder() / target
    return {
        name: Entry(
            name,
            tuple(LogSource(*served) for served in entry["serves"]),
            partial(_shipped_table, folder / f"{name}.yml", target),
            frozenset(entry["sources"]),
        )
        for name, entry in _index(target).items()
    }


@cache
def _shipped(target: str) -> Target:
    return Target(target, tuple(_shipped_entries(target).values()))


@cache
def _settings(target: str) -> TargetSettings | None:
    path = mappings_folder() / target / "target.yml"
    if not path.is_file():
        return None
    return read_target(Source(f"mappings/{target}/target.yml", path.read_text(encoding="utf-8")))


@cache
def carriers(logsource: LogSource, other_than: str) -> list[tuple[str, Entry]]:
    """The shipped tables of other targets whose log source covers this one: (target, table), from the indexes alone."""
    return [
        (name, entry) for name in target_names() if name != other_than for entry in _shipped(name).serving(logsource)
    ]


@cache
def carries_field(target: str, table: str, logsource: LogSource, name: str) -> bool:
    """Whether a shipped table has the field for this log source."""
    return any(
        name in names or (OPEN in names and name not in absent)
        for served, names, absent in _fields(target).get(table, ())
        if _covers(served, logsource)
    )


@cache
def is_known(name: str) -> bool:
    """Whether some event has a field of this name, or some shipped table."""
    return is_element(name) or any(
        name in names or name in absent
        for target in target_names()
        for rows in _fields(target).values()
        for _, names, absent in rows
    )


@cache
def columns_of_table(target: Target, name: str) -> Mapping[str, KqlType] | None:
    """The columns of a table or ASIM parser (by either name), of this target or a shipped one; None: unknown."""
    names = {name, re.sub(r"^_(Im|ASim)_", "im", name)}
    for entry in target.entries:
        if entry.name in names:
            return entry.load().columns
    for other in target_names():
        for known, entry in _shipped_entries(other).items():
            if known in names:
                return entry.load().columns
    return None


@cache
def target_names() -> list[str]:
    """The shipped targets."""
    return sorted(path.parent.name for path in mappings_folder().glob("*/target.yml"))


def load_target(
    name: str,
    folders: Sequence[Path] = (),
    only: Sequence[str] = (),
    prefer: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> Target:
    """A target by name, with the user's mapping folders on top.

    `only`: the tables that the workspace has; others are left out. `prefer`: tables that come first. `sources`: the
    data sources that are there; tables of others come last. Raises Sigma2KqlError for an unknown target, table or
    source, or a mapping file that is wrong.
    """
    own, stated = _user_files(folders, name)
    settings = _settings(name) if name in target_names() else None
    if settings is None and stated is None and not own:
        raise Sigma2KqlError([_unknown("E801", f"unknown target `{name}`", name, target_names())])
    told = settings or TargetSettings()
    told = stated.over(told) if stated is not None else told
    entries: dict[str, Entry] = {}
    for part in (name, *told.also):
        for table, entry in _shipped_entries(part).items():
            entries.setdefault(table, entry)
    for mine in own:
        merged = _extended(entries, mine) if mine.extends else mine
        served = tuple(s.logsource for s in merged.serves)
        entries[mine.name] = Entry(mine.name, served, partial(_same, merged), _sources(merged))
    _check_names(name, entries, only, prefer, sources)
    first = [table.name for table in own if table.extends != table.name]
    kept = tuple(entry for table, entry in entries.items() if not only or table in _named(only))
    order = (Preference((*_named(prefer), *first)), *told.prefer)
    return Target(name, kept, told.time, told.title, told.limits, told.formats, told.service, order, frozenset(sources))


def _named(tables: Sequence[str]) -> list[str]:
    """Tables by the names of mapping files: of an ASIM parser that is its name in a workspace."""
    return [re.sub(r"^_Im_", "im", table) for table in tables]


def _check_names(
    target: str, entries: Mapping[str, Entry], only: Sequence[str], prefer: Sequence[str], sources: Sequence[str]
) -> None:
    """Raises Sigma2KqlError for what is named and not known, or where no table would be left."""
    everywhere = {table for name in target_names() for table in _shipped_entries(name)}
    problems = [
        _unknown("E460", f"unknown table `{table}`", table, (*entries, *everywhere))
        for table in _named((*only, *prefer))
        if table not in entries and table not in everywhere
    ]
    known = data_sources() if sources else {}
    problems += [_unknown("E459", f"unknown source `{one}`", one, known) for one in sources if one not in known]
    if only and not problems and entries.keys().isdisjoint(_named(only)):
        message = f"target `{target}` has none of the tables {', '.join(f'`{table}`' for table in only)}"
        problems.append(diagnostic("E460", message, None, f"`sigma2kql targets {target}` lists its tables"))
    if problems:
        raise Sigma2KqlError(problems)


def _unknown(code: Code, message: str, name: str, known: Iterable[str]) -> Diagnostic:
    names = list(known)
    few = f"known: {', '.join(names)}" if len(names) < _FEW else ""
    return diagnostic(code, message, None, did_you_mean(name, names) or few)


def _same(table: Table) -> Table:
    return table


def _extended(entries: Mapping[str, Entry], own: Table) -> Table:
    """A user's table on top of the one that it extends. Raises Sigma2KqlError where that is not there."""
    if own.extends not in entries:
        at = Span(own.source, 0, 1) if own.source else None
        message = f"`{own.name}` extends `{own.extends}`, which is no table of target `{own.target}`"
        raise Sigma2KqlError([diagnostic("E460", message, at, did_you_mean(own.extends, entries))])
    base = entries[own.extends].load()
    return replace(
        base,
        name=own.name,
        columns={**base.columns, **own.columns},
        serves=own.serves + base.serves,
        fields={**base.fields, **own.fields},
        absent={**{k: v for k, v in base.absent.items() if k not in own.fields}, **own.absent},
        others=own.others or base.others,
        keywords=own.keywords or base.keywords,
        writers=base.writers or None if own.writers is None else own.writers,
    )


def mapping_stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Path, time and size of every file that may stand in a user's mapping folder: what changes when it is edited."""
    found: list[tuple[str, int, int]] = []
    for place in _places(folder):
        for path in (path for path in place.iterdir() if path.suffix.lower() in (".yml", ".yaml")):
            try:
                state = path.stat()
            except OSError:
                found.append((str(path), 0, 0))  # what cannot be read is told when it is read
            else:
                found.append((str(path), state.st_mtime_ns, state.st_size))
    return sorted(found)


def _places(folder: Path) -> list[Path]:
    """A mapping folder and the folders in it, as far as they can be listed; else they are told when they are read."""
    try:
        found = [folder, *filter(Path.is_dir, folder.iterdir())]
        return [place for place in found if os.access(place, os.R_OK | os.X_OK)]
    except OSError:
        return []


def _listed(folder: Path, needed: bool) -> list[Path]:
    """The YAML files of a folder, sorted. Raises OSError where it cannot be listed; `needed`: where it is missing."""
    if not needed and not folder.exists():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".yml", ".yaml"))


def _user_files(folders: Sequence[Path], target: str) -> tuple[list[Table], TargetSettings | None]:
    """The user's tables for this target, and what `target.yml` says of it (the last folder wins).

    Both from `*.yml` in the folders and in their sub-folder of the target's name.
    """
    tables: list[Table] = []
    told: TargetSettings | None = None
    problems: list[Diagnostic] = []
    for folder in folders:
        try:
            paths = [path for place in (folder, folder / target) for path in _listed(place, place == folder)]
        except OSError as error:
            problems.append(diagnostic("E450", f"cannot list the mapping folder {folder}: {error.strerror or error}"))
            continue
        for path in paths:
            try:
                source = Source(str(path), read_text(path))
                if path.name == "target.yml":
                    stated = read_target(source)
                    if stated.target in (None, target):
                        told = stated.over(told) if told is not None else stated
                    continue
                table = read_table(source, target)
            except Sigma2KqlError as error:
                problems.extend(error.diagnostics)
                continue
            except (OSError, UnicodeDecodeError) as error:
                problems.append(diagnostic("E450", f"cannot read the mapping file {path}: {error}"))
                continue
            if table.target == target:
                tables.append(table)
            elif table.target not in target_names() and (meant := did_you_mean(table.target, target_names())):
                at = Span(source, max(source.text.find("target:"), 0), max(source.text.find("target:"), 0) + 7)
                problems.append(diagnostic("E801", f"unknown target `{table.target}`", at, meant))
    if problems:
        raise Sigma2KqlError(problems)
    return tables, told
