"""A custom detection of Defender: what it watches, how often it runs, what it may hold.

Place in the flow: the third step of `describe` for the kind "detection"; `impacted` is asked by the second. Invariant:
every column that Defender needs is in the result, and what a rule asks for and the service cannot do is noted.

Sources: "Create custom detection rules" (Defender XDR); Graph `security/rules/detectionRules`; the numbers and lists
stand in mappings/deploy/custom-detections.yml.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from sigma2kql.artifacts import attack, entities
from sigma2kql.artifacts.common_values import Common
from sigma2kql.artifacts.kinds import Detection
from sigma2kql.artifacts.near_real_time import judge_continuous
from sigma2kql.artifacts.product_tables import facts, tables_behind
from sigma2kql.artifacts.rule_facts import RuleFacts, severity_of
from sigma2kql.artifacts.rule_texts import cut, spoken, without_columns
from sigma2kql.artifacts.schedule import CUT
from sigma2kql.model.tree import Correlation

HOUR = 3600
PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def describe_detection(rule: RuleFacts, common: Common) -> Detection:
    """The custom detection. What it cannot be is noted as an error."""
    settings, limits = rule.settings, facts("custom-detections")["limits"]
    _check_columns(rule, common)
    continuous = settings.kind == "NRT"
    if continuous:
        _check_continuous(rule)
    tactic, techniques = attack.single(common.attack)
    lost = [x for x in (*common.attack.tactics, *common.attack.techniques) if x != tactic and x not in techniques]
    if lost:
        rule.notes.say("W759", f"a custom detection has one tactic; left out: {', '.join(lost)}")
    _check_wishes(rule)
    details = settings.details
    title = _stated(rule, details.name if details else None) or common.title or without_columns(common.name)
    description = _stated(rule, details.description if details else None) or without_columns(common.description)
    _check_placeholders(rule, title, description)
    frequency = 0 if continuous else _frequency(rule)
    lookback = None if continuous else _lookback(rule, frequency)
    bicep = rule.format.language == "bicep"
    if bicep:
        _check_bicep(rule, frequency)
    return Detection(
        id="sigma-" + rule.id,
        name=cut(common.name, limits["title"]),
        title=cut(title, limits["title"]),
        description=cut(description, limits["description"]),
        severity=(settings.severity or severity_of(rule.document)).lower(),
        query="",
        frequency=frequency,
        lookback=None if bicep else lookback,
        tactic=tactic,
        techniques=techniques,
        entities=common.entities,
        custom_details=() if bicep else common.custom_details,
        recommended=settings.recommended,
        actions=_actions(rule),
        device_groups=settings.device_groups or (),
        enabled=True if settings.enabled is None else settings.enabled,
    )


def told_apart(detection: Detection) -> Detection:
    """The same under a name and a title of its own: its id goes behind both."""
    most = facts("custom-detections")["limits"]["title"]
    mark = f" [{detection.id.removeprefix('sigma-')}]"
    name = cut(detection.name, most - len(mark)) + mark
    return replace(detection, name=name, title=cut(detection.title, most - len(mark)) + mark)


# --------------------------------------------------------------------------------------------------------------------
# What it reads


def family(table: str) -> tuple[str, ...] | None:
    """The columns that every result over a table of Defender has; None for a table of Sentinel's."""
    for group in facts("custom-detections")["families"]:
        if any(fnmatchcase(table, glob) for glob in group["tables"]):
            return tuple(group["columns"])
    return None


def sentinel_only(tables: Sequence[str]) -> bool:
    """Whether no table of Defender is read, not behind a parser either."""
    return bool(tables) and not any(family(real) for table in tables for real in tables_behind(table))


def _check_columns(rule: RuleFacts, common: Common) -> None:
    """The columns that Defender needs are in the result."""
    returned = rule.result.returned
    if returned is None:
        if rule.settings.impacted is None:
            rule.notes.say(
                "E708", "the columns that the query returns are not known, so no impacted entity can be named"
            )
        return
    needed = list(dict.fromkeys(name for table in rule.tables for name in family(table) or ()))
    times = facts("custom-detections")["sentinel"]
    if not needed:
        missing = [] if any(name in returned for name in times) else [times[0]]
    elif rule.filters and len(rule.tables) == 1:
        missing = []  # rows are only filtered, so every column of the table stays
    else:
        missing = [name for name in needed if name not in returned]
    if missing and not rule.more:
        rule.notes.say("E708", f"a custom detection must return {', '.join(missing)}", "project them in the query")
    elif not entities.suffices(common.entities):
        hint = "name `impactedEntities` under `sigma2kql:`"
        rule.notes.say(
            "E708", "the query returns no column that names an impacted device, account, mailbox or address", hint
        )
    parsers = [table for table in rule.tables if tables_behind(table) != (table,)]
    if parsers:
        rule.notes.say(
            "W766", f"whether a custom detection can call {', '.join(parsers)} differs from tenant to tenant"
        )


def _check_continuous(rule: RuleFacts) -> None:
    verdict = judge_continuous(rule.scan, rule.tables, rule.types, rule.settings.nrt)
    if verdict.reasons:
        rule.notes.say(
            "E714", f"a continuous detection may not hold {', '.join(verdict.reasons)} ({verdict.basis})", verdict.hint
        )


def _check_wishes(rule: RuleFacts) -> None:
    """What an analytics rule can be told and a custom detection cannot."""
    settings = rule.settings
    if (settings.threshold or 0) > 0 or settings.operator not in (None, "gt"):
        rule.notes.say("E708", "a custom detection raises an alert for every row; it has no threshold")
    asked = {
        "suppressionEnabled": settings.suppressed,
        "eventGroupingSettings": settings.aggregation,
        "incidentConfiguration": settings.incident,
        "sentinelEntitiesMappings": settings.sentinel_entities,
        "alertDetailsOverride's columns": settings.details
        and (settings.details.properties or settings.details.tactics_column or settings.details.severity_column),
    }
    lost = [key for key, value in asked.items() if value]
    if lost and not rule.native:
        rule.notes.say("W767", f"a custom detection has no {', '.join(lost)}: left out")
    if rule.settings.device_groups and sentinel_only(rule.tables):
        rule.notes.say("E708", "a scope of device groups needs a table of Defender for Endpoint")


def _check_bicep(rule: RuleFacts, frequency: int) -> None:
    """What Graph has and the type of Bicep has not, in its preview of 2026-06-01."""
    if frequency and frequency not in facts("custom-detections")["frequencies"]:
        rule.notes.say("E705", f"Bicep has no custom frequency such as {spoken(frequency)}", "-f xdr-json has")
    lost = ["customDetails"] if rule.settings.custom_details else []
    lost += ["queryPeriod"] if rule.settings.period is not None else []
    if lost:
        rule.notes.say("W767", f"Bicep's custom detections have no {', '.join(lost)}: left out", "-f xdr-json has")


def _stated(rule: RuleFacts, text: str | None) -> str | None:
    """A title or description that was stated, unless it names columns that only Sentinel's tables have."""
    missing = [name for name in PLACEHOLDER.findall(text or "") if not rule.result.known(name)]
    if missing and rule.result.returned is not None and not rule.more:
        rule.notes.say("W767", f"the result has no {', '.join(missing)}, which alertDetailsOverride names: made anew")
        return None
    return text


def _check_placeholders(rule: RuleFacts, title: str, description: str) -> None:
    """At most three columns in title and description together."""
    columns = list(dict.fromkeys(PLACEHOLDER.findall(title + description)))
    rule.check_columns("alert details", columns)
    most = facts("custom-detections")["limits"]["columns"]
    if len(columns) > most:
        rule.notes.say("E707", f"title and description name {len(columns)} columns; Defender takes {most} in both")


def _actions(rule: RuleFacts) -> tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...]:
    """Those that were asked for by name; their columns are in the result."""
    asked = rule.settings.actions or ()
    columns = [value for _, rows in asked for row in rows for key, value in row.items() if key.endswith("Column")]
    rule.check_columns("automated actions", columns)
    return asked


# --------------------------------------------------------------------------------------------------------------------
# When it runs


def _frequency(rule: RuleFacts) -> int:
    """Seconds between two runs: what was asked for where the service takes it, else the nearest that loses nothing."""
    settings, notes = rule.settings, rule.notes
    rules = facts("custom-detections")
    needed = _needed(rule)
    if sentinel_only(rule.tables):
        custom = rules["custom"]
        wish = settings.frequency or (rule.recurrence.frequency if rule.recurrence else HOUR)
        if not custom["least"] <= wish <= custom["most"]:
            span = f"{spoken(custom['least'])} to {spoken(custom['most'])}"
            notes.say("E705", f"queryFrequency is {spoken(wish)}; a custom detection takes {span}")
        return int(wish)
    lookback: Mapping[int, int] = rules["frequencies"]
    wanted = max(settings.period or 0, needed)
    covering = [every for every, back in lookback.items() if back >= wanted]
    if not covering:
        notes.say("E705", f"a custom detection looks back at most {spoken(max(lookback.values()))}")
        return max(lookback)
    fitting = [every for every in covering if not rule.recurrence or lookback[every] >= needed + every]
    if not fitting:
        notes.say("W765", CUT.format("30 days"))
    wish = settings.frequency or HOUR
    asked = [every for every in fitting if every <= wish]
    chosen = max(asked, default=min(fitting or covering))
    if settings.frequency is not None and chosen != settings.frequency:
        choices = ", ".join(spoken(every) for every in lookback)
        notes.say(
            "W768",
            f"runs every {spoken(chosen)}, not every {spoken(settings.frequency)}: over Defender's tables a custom "
            f"detection runs every {choices}, or continuously",
            "kind: NRT, where the query allows it" if chosen > settings.frequency else "",
        )
    return chosen


def _lookback(rule: RuleFacts, frequency: int) -> int | None:
    """Seconds that a run looks back, where that is stated: on Sentinel's data alone, and where somebody needs it."""
    settings = rule.settings
    if not sentinel_only(rule.tables) or (settings.period is None and rule.recurrence is None):
        return None
    most = next(step["most"] for step in facts("custom-detections")["custom"]["lookback"] if frequency <= step["every"])
    needed = _needed(rule)
    wish = settings.period or min(max(needed + frequency, frequency), most)
    if wish < frequency:
        rule.notes.say("E705", "queryPeriod is shorter than queryFrequency, so rows would be skipped")
    if wish > most:
        rule.notes.say(
            "E705", f"queryPeriod is {spoken(wish)}; a custom detection that runs so often takes {spoken(most)}"
        )
    elif wish < needed + frequency and rule.recurrence:
        rule.notes.say("W765", CUT.format(spoken(wish)))
    return int(wish)


def _needed(rule: RuleFacts) -> int:
    """Seconds of events that one result is made of."""
    return rule.recurrence.needed if isinstance(rule.document, Correlation) and rule.recurrence else 0
