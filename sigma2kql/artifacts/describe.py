"""From a compiled rule and a team's wishes to what is deployed: every value decided, every limit kept or reported.

Place in the flow: the first half of render. Invariant: what comes out is within the limits of the format asked for;
what was cut, dropped or added is said in a diagnostic, and what cannot be is a Sigma2KqlError before anything is
written.

Sources: Azure-Sentinel's template checks; "Scheduled analytics rules" and "Near-real-time rules" (Microsoft Sentinel);
"Create custom detection rules" (Defender XDR).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from sigma2kql.artifacts.decide import (
    Common,
    Kind,
    Limits,
    Notes,
    check_columns,
    decide_common,
    reach,
    severity_of,
)
from sigma2kql.artifacts.defender import CUT, describe_detection
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Hunt, Incident, Schedule
from sigma2kql.artifacts.kql_tokens import Scan, scan
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.query_columns import Output
from sigma2kql.artifacts.settings import Settings, loose
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, frozen
from sigma2kql.model.tree import Compiled, Correlation, NativeQuery

MINUTE, HOUR, DAY = 60, 3600, 86400
QUERY_LIMIT = 10_000


@frozen
class Prepared:
    """An artifact and what there is to say about it (no errors among it)."""

    artifact: Artifact
    diagnostics: tuple[Diagnostic, ...] = ()


def describe(
    compiled: Compiled,
    kind: Kind,
    limits: Limits,
    settings: Settings,
    output_columns: Mapping[str, str] | Output | None = None,
) -> Prepared:
    """Decide every value of the artifact. `output_columns` (name -> type) are what the query returns, where known.

    Raises Sigma2KqlError (E703 .. E709, E714) with every reason why the artifact cannot be.
    """
    document = compiled.document
    more = isinstance(output_columns, Output) and not output_columns.whole
    notes = Notes(document.origin.span, more)
    if isinstance(output_columns, Output):
        output_columns = output_columns.columns or None
    if isinstance(document, NativeQuery):
        compiled = replace(compiled, kql=compiled.kql or document.query)
        settings = _with_native(settings, document, notes)
    if compiled.kql is None or not compiled.kql.strip():
        notes.say("E704", "the document gives no query, so there is nothing to deploy")
        raise Sigma2KqlError(notes)
    if output_columns is None and compiled.query is not None and not isinstance(document, Correlation | NativeQuery):
        output_columns = compiled.query.columns or compiled.columns  # rows are only filtered, so every column stays
    read = scan(compiled.kql)
    common = decide_common(
        compiled, kind, limits=limits, settings=settings, columns=output_columns, read=read, notes=notes
    )
    artifact: Artifact
    match kind:
        case "alert":
            _check_details(settings, output_columns, notes)
            artifact = _alert(compiled, common, settings, read, notes)
        case "hunt":
            artifact = _hunt(common, settings, notes)
        case "detection":
            artifact = describe_detection(compiled, common, settings, columns=output_columns, read=read, notes=notes)
    errors = [note for note in notes if note.severity == "error"]
    if errors:
        raise Sigma2KqlError([*errors, *(note for note in notes if note.severity != "error")])
    return Prepared(artifact, tuple(notes))


def _with_native(settings: Settings, document: NativeQuery, notes: Notes) -> Settings:
    """What the document states wins over what was wished for documents in general."""
    data = {key: value for key, value in document.data.items() if key not in ("name", "description")}
    if data.get("relevantTechniques") is None and data.get("techniques") is not None:
        data["relevantTechniques"] = data["techniques"]
    read, problems = loose(data, document.origin.span)
    notes += problems
    return replace(settings, **read)


# --------------------------------------------------------------------------------------------------------------------
# Sentinel


def _alert(compiled: Compiled, common: Common, settings: Settings, read: Scan, notes: Notes) -> AlertRule:
    near_real_time = settings.kind == "NRT"
    schedule = None if near_real_time else _schedule(compiled, settings, notes)
    if near_real_time:
        _check_near_real_time(compiled, read, notes)
    if read.everything:
        notes.say("E709", f"a rule's query may not hold `{read.everything[0]}`", "name the tables")
    query, function = _within_limit(common, settings, notes)
    severity = settings.severity or severity_of(compiled)
    frequency = schedule.frequency if schedule else HOUR
    rule = AlertRule(
        id=common.id,
        name=common.name,
        description=common.description,
        severity=severity,
        query=query,
        schedule=schedule,
        tactics=common.attack.tactics,
        techniques=common.attack.techniques,
        connectors=common.connectors,
        entities=common.entities,
        sentinel_entities=common.sentinel_entities,
        custom_details=common.custom_details,
        details=settings.details,
        aggregation=settings.aggregation
        or ("AlertPerResult" if isinstance(compiled.document, Correlation) else "SingleAlert"),
        incident=settings.incident or (Incident(create=False) if severity == "Informational" else None),
        suppressed=bool(settings.suppressed),
        suppression=_minutes(settings.suppression or min(max(frequency, HOUR), DAY)),
        status=common.status,
        enabled=True if settings.enabled is None else settings.enabled,
        version=common.version,
        tags=common.tags,
        metadata=settings.metadata,
        function=function,
    )
    _check_grouping(rule, notes)
    return rule


def _schedule(compiled: Compiled, settings: Settings, notes: Notes) -> Schedule:
    """Frequency and look-back; a correlation looks back by its time span and one run more, so that no window is cut."""
    document = compiled.document
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


def _check_details(settings: Settings, columns: Mapping[str, str] | None, notes: Notes) -> None:
    """Every column that the alert's own details name is in the output."""
    details = settings.details
    if details is not None:
        named = re.findall(r"\{\{(\w+)\}\}", f"{details.name or ''} {details.description or ''}")
        named += [name for name in (details.tactics_column, details.severity_column) if name]
        check_columns("alert details", named + [column for _, column in details.properties], columns, notes)
    check_columns("Sentinel entities", list(settings.sentinel_entities or ()), columns, notes)


def _check_grouping(rule: AlertRule, notes: Notes) -> None:
    """Incidents are grouped by what the rule maps and details, and by nothing else.

    The lists are read where matchingMethod is Selected alone: the portal exports them filled for the other methods.
    """
    if rule.incident is None or rule.incident.grouping.matching != "Selected":
        return
    grouping = rule.incident.grouping
    mapped = {entity.type for entity in rule.entities}
    named = {name for name, _ in rule.custom_details}
    strange = [x for x in grouping.entities if x not in mapped] + [x for x in grouping.custom if x not in named]
    if strange:
        notes.say("E707", f"incidents are grouped by what the rule does not map: {', '.join(strange)}")


def _check_near_real_time(compiled: Compiled, read: Scan, notes: Notes) -> None:
    refused = facts("kql")["nrt"]
    held = [name for name in refused["functions"] if name in read.functions]
    held += [name for name in refused["operators"] if name in read.operators or name in read.words]
    if isinstance(compiled.document, Correlation):
        notes.say("E706", "a near-real-time rule looks at one minute of rows, a correlation at its whole time span")
    if held:
        notes.say("E706", f"a near-real-time rule may not use {', '.join(dict.fromkeys(held))}", "use kind: Scheduled")


def _within_limit(common: Common, settings: Settings, notes: Notes) -> tuple[str, str | None]:
    if len(common.query) <= QUERY_LIMIT:
        return common.query, None
    if settings.function:
        return function_name(common.id) + "\n", common.query
    notes.say(
        "E703",
        f"the query has {len(common.query)} characters of at most {QUERY_LIMIT}",
        "`function: true` saves it as a function that a short rule calls (arm, bicep, terraform)",
    )
    return common.query, None


def function_name(identifier: str) -> str:
    """The name of the saved function of a rule."""
    return "Sigma_" + identifier.replace("-", "")


def _hunt(common: Common, settings: Settings, notes: Notes) -> Hunt:
    if len(common.query) > QUERY_LIMIT:
        notes.say("E703", f"the query has {len(common.query)} characters of at most {QUERY_LIMIT}")
    return Hunt(
        id=common.id,
        name=common.name,
        description=common.description,
        query=common.query,
        tactics=common.attack.tactics,
        techniques=common.attack.techniques,
        connectors=common.connectors,
        entities=common.entities,
        custom_details=common.custom_details,
        status=common.status,
        version=common.version,
        tags=common.tags,
        metadata=settings.metadata,
    )
