"""An analytics rule of Microsoft Sentinel: when it runs, what its alerts say, what it may hold.

Place in the flow: a third step of `describe`. Invariant: the schedule is one that the service takes, and every column
that the alert names is in the output, or that is an error.

Sources: "Scheduled analytics rules" and "Near-real-time rules" (Microsoft Sentinel).
"""

from __future__ import annotations

import re

from sigma2kql.artifacts.common_values import Common
from sigma2kql.artifacts.kinds import AlertRule, Incident, Schedule
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.rule_facts import RuleFacts, reach, severity_of
from sigma2kql.model.tree import Correlation

MINUTE, HOUR, DAY = 60, 3600, 86400
QUERY_LIMIT = 10_000
CUT = (
    "each run looks back {}, less than the correlation's timespan and the time between two runs: windows may be missed"
)


def describe_alert(rule: RuleFacts, common: Common) -> AlertRule:
    """The rule. What it cannot be is noted as an error."""
    settings = rule.settings
    near_real_time = settings.kind == "NRT"
    schedule = None if near_real_time else _schedule(rule)
    _check_details(rule)
    if near_real_time:
        _check_near_real_time(rule)
    if rule.scan.everything:
        rule.notes.say("E709", f"a rule's query may not hold `{rule.scan.everything[0]}`", "name the tables")
    _check_length(rule)
    severity = settings.severity or severity_of(rule.document)
    frequency = schedule.frequency if schedule else HOUR
    made = AlertRule(
        id=rule.id,
        name=common.name,
        description=common.description,
        severity=severity,
        query="",
        schedule=schedule,
        tactics=common.attack.tactics,
        techniques=common.attack.techniques,
        connectors=common.connectors,
        entities=common.entities,
        sentinel_entities=common.sentinel_entities,
        custom_details=common.custom_details,
        details=settings.details,
        aggregation=settings.aggregation
        or ("AlertPerResult" if isinstance(rule.document, Correlation) else "SingleAlert"),
        incident=settings.incident or (Incident(create=False) if severity == "Informational" else None),
        suppressed=bool(settings.suppressed),
        suppression=_minutes(settings.suppression or min(max(frequency, HOUR), DAY)),
        status=common.status,
        enabled=True if settings.enabled is None else settings.enabled,
        version=common.version,
        tags=common.tags,
        metadata=settings.metadata,
    )
    _check_grouping(made, rule)
    return made


def _schedule(rule: RuleFacts) -> Schedule:
    """Frequency and look-back; a correlation looks back by its time span and one run more, so that no window is cut."""
    document, settings, notes = rule.document, rule.settings, rule.notes
    if isinstance(document, Correlation):
        span = max(_minutes(reach(document)), 5 * MINUTE)
        frequency = _minutes(settings.frequency or min(span, HOUR))
        period = _minutes(settings.period or min(span + frequency, 14 * DAY))
        if span > 14 * DAY:
            notes.say("E705", f"the correlation spans {reach(document)} seconds; a rule looks back at most 14 days")
        elif period < span:
            notes.say("E705", "queryPeriod is shorter than the correlation's timespan")
        elif period < span + frequency:
            hint = "a longer queryPeriod, or a shorter queryFrequency"
            notes.say("W765", CUT.format(f"{period} seconds"), f"{hint}: {span} + {frequency} seconds in all")
    else:
        frequency = _minutes(settings.frequency or min(settings.period or HOUR, HOUR))
        period = _minutes(settings.period or frequency)
    for key, value in (("queryFrequency", frequency), ("queryPeriod", period)):
        if not 5 * MINUTE <= value <= 14 * DAY:
            notes.say("E705", f"{key} is {value} seconds; Sentinel takes 5 minutes to 14 days")
    if period < frequency:
        notes.say("E705", "queryPeriod is shorter than queryFrequency, so rows would be skipped")
    if period >= 2 * DAY and frequency < HOUR:
        notes.say("E705", "a query that looks back 2 days or more runs at most once an hour")
    return Schedule(frequency, period, settings.operator or "gt", settings.threshold or 0)


def _minutes(seconds: int) -> int:
    return -(-seconds // MINUTE) * MINUTE


def _check_details(rule: RuleFacts) -> None:
    """Every column that the alert's own details name is in the output."""
    details = rule.settings.details
    if details is not None:
        named = re.findall(r"\{\{(\w+)\}\}", f"{details.name or ''} {details.description or ''}")
        named += [name for name in (details.tactics_column, details.severity_column) if name]
        rule.check_columns("alert details", named + [column for _, column in details.properties])
    rule.check_columns("Sentinel entities", list(rule.settings.sentinel_entities or ()))


def _check_grouping(made: AlertRule, rule: RuleFacts) -> None:
    """Incidents are grouped by what the rule maps and details, and by nothing else.

    The lists are read where matchingMethod is Selected alone: the portal exports them filled for the other methods.
    """
    if made.incident is None or made.incident.grouping.matching != "Selected":
        return
    grouping = made.incident.grouping
    mapped = {entity.type for entity in made.entities}
    named = {name for name, _ in made.custom_details}
    strange = [x for x in grouping.entities if x not in mapped] + [x for x in grouping.custom if x not in named]
    if strange:
        rule.notes.say("E707", f"incidents are grouped by what the rule does not map: {', '.join(strange)}")


def _check_near_real_time(rule: RuleFacts) -> None:
    refused, read, notes = facts("kql")["nrt"], rule.scan, rule.notes
    held = [name for name in refused["functions"] if name in read.functions]
    held += [name for name in refused["operators"] if name in read.operators or name in read.words]
    if isinstance(rule.document, Correlation):
        notes.say("E706", "a near-real-time rule looks at one minute of rows, a correlation at its whole time span")
    if held:
        notes.say("E706", f"a near-real-time rule may not use {', '.join(dict.fromkeys(held))}", "use kind: Scheduled")


def _check_length(rule: RuleFacts) -> None:
    if rule.length > QUERY_LIMIT and not rule.settings.function:
        rule.notes.say(
            "E703",
            f"the query has {rule.length} characters of at most {QUERY_LIMIT}",
            "`function: true` saves it as a function that a short rule calls (arm, bicep, terraform)",
        )
