"""What an alert says: whom and what it is about, the values that made it, and a title that names who and where.

Place in the flow: the second step of `describe`, between the facts of a rule and the values of its kind. Invariant:
every column that is named is in the result, or is computed by the lines that go behind the query; a query that is at
its limit is not made longer.

Sources: "Map data fields to entities", "Surface custom event details in alerts", "Customize alert details" (Microsoft
Sentinel); "Create custom detection rules" (Defender XDR).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sigma2kql.artifacts import entities
from sigma2kql.artifacts.computed_columns import is_long
from sigma2kql.artifacts.kinds import Entity
from sigma2kql.artifacts.rule_facts import RuleFacts, Tested
from sigma2kql.artifacts.rule_texts import cut
from sigma2kql.diagnostics.diagnostic import frozen

MOST_DETAILS = 20
MOST_PLACEHOLDERS = 3
DETAIL_NAME = 20  # characters of a custom detail's name
LONG_TEXTS = 1500  # characters that all long values together may take of the 2 KB of an alert's details
WHO = ("FullName", "Name", "upnColumn", "nameColumn", "aadUserIdColumn", "sidColumn", "AadUserId", "Sid")
WHERE = ("FullName", "HostName", "NetBiosName", "nameColumn")


@frozen
class AlertContent:
    """`title` is the rule's name with up to three `{{Column}}`, None where nothing of the result names who or where."""

    entities: tuple[Entity, ...]
    details: tuple[tuple[str, str], ...]
    title: str | None


def decide_content(rule: RuleFacts, name: str, longest: int, mapped: tuple[Entity, ...]) -> AlertContent:
    """What the alerts of a rule of this name say; the columns that are needed are taken.

    `longest` is the length of a title; `mapped` are the entities that were chosen.
    """
    rule.result.take(column for entity in mapped for _, column in entity.fields)
    stated = rule.settings.custom_details
    if stated is None:
        details = tuple(_details(rule))
    else:
        details = stated
        rule.check_columns("custom details", [column for _, column in details])
        rule.result.take(column for _, column in details)
    return AlertContent(mapped, details, _title(rule, name, longest, mapped))


# --------------------------------------------------------------------------------------------------------------------
# Custom details


def _details(rule: RuleFacts) -> Iterable[tuple[str, str]]:
    """The fields that a rule tests, in its own words, each with the column that holds it; of a correlation its groups
    and what was counted in them.
    """
    if rule.result.returned is None or rule.native:
        return
    names: set[str] = set()
    shown = _shown(rule)
    long = [column for _, column in shown if is_long(column)]
    for word, column in shown[:MOST_DETAILS]:
        yield _detail_name(word, names), _shortened(column, rule, len(long)) if column in long else column


def _shortened(column: str, rule: RuleFacts, among: int) -> str:
    """The column that holds the beginning of a text that may be long, one of so many."""
    if rule.types.get(column, "string") != "string":
        return column
    return _computed(f"{column}Short", f"substring({column}, 0, {LONG_TEXTS // among})", rule) or column


def _shown(rule: RuleFacts) -> list[tuple[str, str]]:
    """(word, column) for everything worth showing, columns once."""
    found: dict[str, str] = {}
    for name in rule.grouped:
        if rule.result.known(name):
            found.setdefault(name, name)
    for tested in rule.tested:
        column = _column(tested, rule)
        if column is not None:
            found.setdefault(column, tested.word)
    return [(word, column) for column, word in found.items()]


def _column(tested: Tested, rule: RuleFacts) -> str | None:
    """The column of the result that holds what was tested, computed where there is none yet."""
    returned = rule.result.returned or {}
    if tested.column and returned.get(tested.column) != "dynamic":
        return tested.column
    if tested.column:
        return _computed(f"{tested.column}Text", f"tostring({tested.column})", rule)
    if not all(name in returned for name in tested.reads):
        return None
    return _computed(re.sub(r"\W", "_", tested.name, flags=re.ASCII), tested.text, rule)


def _computed(name: str, text: str, rule: RuleFacts) -> str | None:
    """The column that is computed so, under this name or another; None where none may be."""
    if not rule.computing:
        return None
    for columns in (rule.result.taken, rule.result.offered):
        for known, expression in columns.items():
            if expression == text:
                rule.result.take([known])
                return known
    free = _free(name, rule)
    rule.result.compute(free, text)
    return free


def _free(name: str, rule: RuleFacts) -> str:
    """A name that no column of the result has, whatever its case."""
    taken = {one.lower() for one in (*(rule.result.returned or ()), *rule.result.taken, *rule.result.offered)}
    name = name if re.match(r"[A-Za-z_]", name) else f"_{name}"
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _detail_name(word: str, taken: set[str]) -> str:
    """A detail's name: letters, digits and underscores, at most twenty; the end of a long path says most."""
    parts = [part for part in re.split(r"\W+", word) if part]
    name = "_".join(parts)
    while len(name) > DETAIL_NAME and len(parts) > 1:
        del parts[0]
        name = "_".join(parts)
    name = re.sub(r"^[^A-Za-z]+", "", name, flags=re.ASCII)
    name = re.sub(r"[^A-Za-z0-9_]", "", name)[:DETAIL_NAME] or "Detail"
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{name[: DETAIL_NAME - len(str(number))]}{number}"
    taken.add(free.lower())
    return free


# --------------------------------------------------------------------------------------------------------------------
# The title


def _title(rule: RuleFacts, name: str, longest: int, mapped: Sequence[Entity]) -> str | None:
    if rule.native or rule.result.returned is None or "{{" in name:
        return None
    tail = _tail(rule, mapped)
    return cut(name, longest - len(tail)) + tail if tail else None


def _tail(rule: RuleFacts, mapped: Sequence[Entity]) -> str:
    """`: {{what}} by {{who}} on {{where}}`, as far as the result says."""
    if rule.grouped:
        keys = [key for key in rule.grouped if rule.result.single(key)][:MOST_PLACEHOLDERS]
        return ": " + ", ".join(f"{{{{{key}}}}}" for key in keys) if keys else ""
    named = entities.named_columns(rule.tables)
    who = _first(named.get("who", ()), rule) or _of(mapped, ("Account", "accounts", "Mailbox", "mailboxes"), WHO)
    where = _of(mapped, ("Host", "hosts"), WHERE)
    address = None if where else _of(mapped, ("IP", "ips"), ("Address", "addressColumn"))
    what = None if where else _first(named.get("what", ()), rule)
    rule.result.take(column for column in (who, what) if column)
    parts = ((": ", what), (" by ", who), (" on ", where), (" from ", address))
    return "".join(f"{word}{{{{{column}}}}}" for word, column in [p for p in parts if p[1]][:MOST_PLACEHOLDERS])


def _first(names: Iterable[str], rule: RuleFacts) -> str | None:
    return next((name for name in names if rule.result.single(name)), None)


def _of(mapped: Sequence[Entity], types: Sequence[str], identifiers: Sequence[str]) -> str | None:
    """The column of the first entity of such a type that a person can read best."""
    for entity in mapped:
        if entity.type in types:
            fields = dict(entity.fields)
            return next((fields[name] for name in identifiers if name in fields), entity.fields[0][1])
    return None
