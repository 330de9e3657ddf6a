"""What the events of a log have, and which events a category speaks of: the lists in `mappings/events/`.

Place in the flow: below the rows of a log source, which ask it about fields. Invariant: what is said to be in no event
is in none of those listed, and nothing is said of an event that is not listed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, assert_never

from sigma2kql.diagnostics.diagnostic import Source, did_you_mean
from sigma2kql.map.transforms import ALWAYS, literal
from sigma2kql.model.literals import is_word
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import And, Elements, Expr, Field, FieldMap, LogSource, Match, Not, Or, Text
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import compose

Ids = frozenset[int] | None  # EventIDs; None: any


class Channel(NamedTuple):
    """The events of one channel; `whole`: there are no others."""

    names: Mapping[int, frozenset[str]]
    whole: bool


def is_listed(name: str) -> bool:
    """Whether there is a list of events with this name."""
    return is_word(name) and name not in ("categories", "system") and _path(name).is_file()


def _path(name: str) -> Path:
    return mappings_folder() / "events" / f"{name}.yml"


@cache
def event_lists(name: str) -> Mapping[str, Channel] | None:
    """`mappings/events/<name>.yml`: the events of its channels; None where there is no such list."""
    if not is_listed(name):
        return None
    return {
        one["channel"]: Channel(
            {int(number): frozenset(filter(None, text.split(", "))) for number, text in one["events"].items()},
            one.get("whole", False),
        )
        for one in _documents(name) or ()
    }


@cache
def _documents(name: str) -> list[Any] | None:
    path = _path(name)
    if not path.is_file():
        return None
    documents = compose(Source(f"mappings/events/{name}.yml", path.read_text(encoding="utf-8")))
    return [plain(one.root) for one in documents if one.root is not None]


@cache
def _system() -> frozenset[str]:
    """The names that every event has outside its data."""
    (told,) = _documents("system") or [{}]
    return frozenset((*told["names"], *(name for name in told["time"] if name != "UtcTime")))


@cache
def event_times() -> frozenset[str]:
    """The names of an event's own time."""
    (told,) = _documents("system") or [{}]
    return frozenset(told["time"])


# --------------------------------------------------------------------------------------------------------------------
# Elements


@cache
def _channels(elements: Elements) -> tuple[Channel, ...]:
    if not elements.log:
        return (Channel({0: elements.names}, True),)
    lists = event_lists(elements.log) or {}
    if len(lists) == 1:
        return tuple(lists.values())
    return tuple([lists[name] for name in elements.channels if name in lists])


def known_elements(elements: Elements, asked: Ids = None) -> frozenset[str] | None:
    """All elements of the events that a log's rows with these EventIDs are; None where there may be others."""
    channels = _channels(elements)
    if not channels:
        return None
    ids = _ids(elements, asked)
    if ids is None:
        whole = all(channel.whole for channel in channels)
        return frozenset().union(*(e for c in channels for e in c.names.values())) if whole else None
    if not ids or not all(any(number in channel.names for channel in channels) for number in ids):
        return None
    return frozenset().union(*(c.names[n] for c in channels for n in ids if n in c.names))


def _ids(elements: Elements, asked: Ids) -> Ids:
    if not elements.log:
        return frozenset((0,))
    if elements.ids is None or asked is None:
        return asked if elements.ids is None else elements.ids
    return elements.ids & asked


@cache
def is_element(name: str) -> bool:
    """Whether an event of any list has an element of this name."""
    lists = [event_lists(path.stem) or {} for path in (mappings_folder() / "events").glob("*.yml")]
    return any(name in names for one in lists for channel in one.values() for names in channel.names.values())


def lacking(elements: Elements, name: str, asked: Ids) -> FieldMap | None:
    """That the field is in none of the events that a log's rows with these EventIDs are; None where it may be."""
    known = known_elements(elements, asked)
    if known is None or name in known or name in _system():
        return None
    ids = _ids(elements, asked)
    if not elements.log:
        why = "no such element in these events"
    elif ids is None:
        why = f"no such element in any {_TITLES.get(elements.log, '')}event of the log"
    else:
        why = f"no such element in {_TITLES.get(elements.log, '')}event {_numbers(ids)}"
    return FieldMap(never=why, hint=did_you_mean(name, known))


_TITLES = {"sysmon": "Sysmon ", "sysmon_linux": "Sysmon for Linux "}


def _numbers(ids: Iterable[int]) -> str:
    numbers = [str(number) for number in sorted(ids)]
    return numbers[0] if len(numbers) == 1 else f"{', '.join(numbers[:-1])} or {numbers[-1]}"


def event_ids(where: Expr[Field]) -> Ids:
    """The only EventIDs that events have which the tree selects; None where it leaves them open."""
    match where:
        case Match(subject, test):
            if subject.name != "EventID" or (text := literal(test)) is None or not text.isdecimal():
                return None
            return frozenset((int(text),))
        case And(items):
            found = None
            for item in items:
                ids = event_ids(item)
                found = ids if found is None else found if ids is None else found & ids
            return found
        case Or(items):
            each = [event_ids(item) for item in items]
            return frozenset().union(*(ids or () for ids in each)) if each and None not in each else None
        case Not():
            return None
        case _:
            assert_never(where)


# --------------------------------------------------------------------------------------------------------------------
# Categories

_RESTATED = {"EventID": "", "Channel": "channel", "Provider_Name": "provider", "Provider": "provider"}


def _events_of(logsource: LogSource) -> tuple[Mapping[str, Any], Mapping[str, list[int]]]:
    """The logs that are known, and for each log that a category stands in the EventIDs of the category."""
    (told,) = _documents("categories") or [{}]
    return told["logs"], told.get(logsource.product or "windows", {}).get(logsource.category, {})


@cache
def restated(logsource: LogSource, name: str) -> FieldMap | None:
    """How a field that only says again which events a log source speaks of stands in rows that do not hold it."""
    if name not in _RESTATED:
        return None
    key = _RESTATED[name]
    logs, events = _events_of(logsource)
    what = f"category {logsource.category}"
    if not logsource.category and logsource.service in logs and key:
        events, what = {str(logsource.service): []}, f"service {logsource.service}"
    if not events:
        return None
    words = [str(word) for log, ids in events.items() for word in (logs[log][key] if key else ids)]
    closed = f"the events of the {what} have no other"
    return FieldMap(values=dict.fromkeys(words, ALWAYS), closed=closed)


@cache
def unheard_of(logsource: LogSource, name: str) -> FieldMap | None:
    """That none of the events which a category speaks of has the field, whatever log they stand in."""
    if not logsource.product or name in _system():
        return None
    logs, events = _events_of(logsource)
    found = [
        lacking(Elements(log=logs[log]["list"], ids=frozenset(ids), channels=tuple(logs[log]["channel"])), name, None)
        for log, ids in events.items()
    ]
    return found[0] if found and None not in found else None


@cache
def said_otherwise(logsource: LogSource, asked: Ids) -> tuple[LogSource, ...]:
    """The log sources that speak of just the events of this one with these EventIDs: the category of a service's
    events, the service of a category's.
    """
    category, service, span = logsource.category, logsource.service, logsource.span
    if not asked or (category is None and service is None):
        return ()
    (told,) = _documents("categories") or [{}]
    events: Mapping[str, Mapping[str, list[int]]] = told.get(logsource.product or "windows", {})
    if category is None:
        found = (name for name, logs in events.items() if asked <= frozenset(logs.get(service or "", ())))
        return tuple([LogSource(name, logsource.product, service, span) for name in found])
    services = (log for log, ids in events.get(category, {}).items() if asked <= frozenset(ids))
    return tuple([LogSource(None, logsource.product, log, span) for log in services if service in (None, log)])


def texts_in(where: Expr[Any]) -> Iterator[str]:
    """The whole texts that a predicate on columns asks for: names of channels among them."""
    for leaf in leaves(where):
        if isinstance(leaf.test, Text) and (text := literal(leaf.test)):
            yield text
