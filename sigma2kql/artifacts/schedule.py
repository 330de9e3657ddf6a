"""When an analytics rule runs and how far it looks back: no event lost, none twice.

Place in the flow: asked by `analytics_rule`. Invariant: a schedule is one that the service takes, and what the service
would refuse, or what would lose events, is noted.

Sources: "Scheduled analytics rules", "Handle ingestion delay" (Microsoft Sentinel); Azure-Sentinel's template checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigma2kql.artifacts.kinds import Schedule
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.rule_facts import RuleFacts
from sigma2kql.artifacts.rule_texts import spoken

MINUTE, HOUR, DAY = 60, 3600, 86400
CUT = (
    "each run looks back {}, less than the correlation's timespan and the time between two runs: windows may be missed"
)


def decide_schedule(rule: RuleFacts) -> Schedule:
    """Frequency and look-back; lines that the query needs for them are added to it."""
    settings, notes, limits = rule.settings, rule.notes, facts("limits")["schedule"]
    frequency, period = _of_correlation(rule) if rule.recurrence else _of_rule(rule)
    for key, value in (("queryFrequency", frequency), ("queryPeriod", period)):
        if not limits["least"] <= value <= limits["most"]:
            notes.say("E705", f"{key} is {spoken(value)}; Sentinel takes 5 minutes to 14 days")
    if period < frequency:
        notes.say("E705", "queryPeriod is shorter than queryFrequency, so rows would be skipped")
    if period >= limits["long"] and frequency < limits["long_frequency"]:
        notes.say("E705", "a query that looks back 2 days or more runs at most once an hour")
    return Schedule(frequency, period, settings.operator or "gt", settings.threshold or 0)


def decide_suppression(rule: RuleFacts, frequency: int) -> int:
    """Seconds that a rule is silent after an alert, never less than between two runs: the service refuses that."""
    settings, most = rule.settings, facts("limits")["schedule"]["suppression"]
    if settings.suppressed:
        if frequency > most:
            message = f"a rule that runs every {spoken(frequency)} cannot be suppressed: at most {spoken(most)}"
            rule.notes.say("E705", message)
        elif settings.suppression is not None and settings.suppression < frequency:
            message = f"suppressionDuration is {spoken(settings.suppression)}, shorter than queryFrequency"
            rule.notes.say("E705", message, f"suppressionDuration: {frequency // MINUTE}m or more")
        elif settings.suppression is not None and settings.suppression > most:
            rule.notes.say("E705", f"suppressionDuration is {spoken(settings.suppression)}; at most {spoken(most)}")
    return minutes(max(settings.suppression or HOUR, frequency))


def minutes(seconds: int) -> int:
    """Whole minutes, rounded up."""
    return -(-seconds // MINUTE) * MINUTE


def delay_of(table: str) -> int:
    """Seconds by which the events of a table are documented to come late; 0 where nothing is known."""
    known: Mapping[str, Any] = facts("limits")["delays"]
    return int(known[table]["minutes"]) * MINUTE if table in known else 0


# --------------------------------------------------------------------------------------------------------------------


def _of_rule(rule: RuleFacts) -> tuple[int, int]:
    """A plain rule looks back as long as it waits; where events come late, that much longer, and by when they came."""
    settings = rule.settings
    delay = max((delay_of(table) for table in rule.tables), default=0)
    frequency = minutes(settings.frequency or min(settings.period or HOUR, HOUR))
    if settings.late is False or (settings.late is None and (not delay or settings.period is not None)):
        return frequency, minutes(settings.period or frequency)
    line = f"| where ingestion_time() > ago({frequency // MINUTE}m)\n"
    if not rule.result.filter_source(line):
        if settings.late:
            why = "the time at which rows came is known directly behind a table alone"
            rule.notes.say("W769", f"late events are not counted in: {why}")
        return frequency, minutes(settings.period or frequency)
    return frequency, minutes(settings.period or min(frequency + (delay or HOUR), 14 * DAY))


def _of_correlation(rule: RuleFacts) -> tuple[int, int]:
    """A correlation looks back by what one result is made of and one run more, so that no window is cut."""
    settings, notes = rule.settings, rule.notes
    assert rule.recurrence is not None
    needed = max(minutes(rule.recurrence.needed), 5 * MINUTE)
    reach = max(minutes(rule.recurrence.look_back), needed)
    frequency = minutes(settings.frequency or rule.recurrence.frequency)
    period = minutes(settings.period or min(reach + frequency, 14 * DAY))
    if needed > 14 * DAY:
        notes.say("E705", f"the correlation spans {spoken(needed)}; a rule looks back at most 14 days")
    elif period < needed:
        notes.say("E705", "queryPeriod is shorter than the correlation's timespan")
    elif period < needed + frequency:
        hint = "a longer queryPeriod, or a shorter queryFrequency"
        notes.say("W765", CUT.format(spoken(period)), f"{hint}: {spoken(needed)} + {spoken(frequency)} in all")
    if rule.recurrence.fresh:
        rule.result.follow(rule.recurrence.fresh.replace("{since}", f"{frequency // MINUTE}m"))
    return frequency, period
