"""An analytics rule of Microsoft Sentinel: when it runs, what its alerts say, what it may hold.

Place in the flow: a third step of `describe`. Invariant: the schedule is one that the service takes, and every column
that the alert names is in the output, or that is an error.

Sources: "Scheduled analytics rules" and "Near-real-time rules" (Microsoft Sentinel).
"""

from __future__ import annotations

import re
from dataclasses import replace

from sigma2kql.artifacts.common_values import Common
from sigma2kql.artifacts.kinds import AlertDetails, AlertRule, Grouping, Incident
from sigma2kql.artifacts.near_real_time import judge_near_real_time
from sigma2kql.artifacts.rule_facts import RuleFacts, severity_of
from sigma2kql.artifacts.schedule import HOUR, decide_schedule, decide_suppression
from sigma2kql.model.tree import Correlation

QUERY_LIMIT = 10_000


def describe_alert(rule: RuleFacts, common: Common) -> AlertRule:
    """The rule. What it cannot be is noted as an error."""
    settings = rule.settings
    near_real_time = settings.kind == "NRT"
    schedule = None if near_real_time else decide_schedule(rule)
    _check_details(rule)
    if near_real_time:
        _check_near_real_time(rule)
    if rule.scan.everything:
        rule.notes.say("E709", f"a rule's query may not hold `{rule.scan.everything[0]}`", "name the tables")
    _check_length(rule)
    severity = settings.severity or severity_of(rule.document)
    suppression = decide_suppression(rule, schedule.frequency if schedule else HOUR)
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
        details=_alert_details(settings.details, common.title),
        aggregation=settings.aggregation or _aggregation(rule, common, severity),
        incident=settings.incident or _incident(common, severity),
        suppressed=bool(settings.suppressed),
        suppression=suppression,
        status=common.status,
        enabled=True if settings.enabled is None else settings.enabled,
        version=common.version,
        tags=common.tags,
        metadata=settings.metadata,
    )
    _check_grouping(made, rule)
    return made


def _aggregation(rule: RuleFacts, common: Common, severity: str) -> str:
    """An alert for every row where its title says whom it is about; rules that fire often make one of all rows."""
    named = common.title is not None and severity in ("Medium", "High")
    return "AlertPerResult" if named or isinstance(rule.document, Correlation) else "SingleAlert"


def _incident(common: Common, severity: str) -> Incident:
    """Alerts about the same host and account are one incident; what only informs is none."""
    if severity == "Informational":
        return Incident(create=False)
    mapped = [entity.type for entity in common.entities]
    shared = tuple([kind for kind in mapped if kind in ("Host", "Account")]) or tuple(mapped[:1])
    shared = tuple(dict.fromkeys(shared))
    return Incident(grouping=Grouping(enabled=True, matching="Selected", entities=shared) if shared else Grouping())


def _alert_details(stated: AlertDetails | None, title: str | None) -> AlertDetails | None:
    """What was stated, with the title that names who and where, unless a title was stated."""
    if title is None or (stated is not None and stated.name is not None):
        return stated
    return replace(stated or AlertDetails(), name=title)


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
    if isinstance(rule.document, Correlation):
        rule.notes.say(
            "E706", "a near-real-time rule looks at one minute of rows, a correlation at its whole time span"
        )
    verdict = judge_near_real_time(rule.scan)
    if verdict.reasons:
        rule.notes.say("E706", f"a near-real-time rule may not use {', '.join(verdict.reasons)}", verdict.hint)


def _check_length(rule: RuleFacts) -> None:
    if rule.length > QUERY_LIMIT and not rule.settings.function:
        rule.notes.say(
            "E703",
            f"the query has {rule.length} characters of at most {QUERY_LIMIT}",
            "`function: true` saves it as a function that a short rule calls (arm, bicep, terraform)",
        )
