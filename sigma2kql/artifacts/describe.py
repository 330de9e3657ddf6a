"""From a compiled rule and a team's wishes to what is deployed: every value decided, every limit kept or reported.

Place in the flow: the first half of render. Invariant: what comes out is within the limits of the format asked for;
what was cut, dropped or added is said in a diagnostic, and what cannot be is a Sigma2KqlError before anything is
written.

Sources: Azure-Sentinel's template checks; "Scheduled analytics rules" and "Near-real-time rules" (Microsoft Sentinel);
"Create custom detection rules" (Defender XDR).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sigma2kql.artifacts import attack, entities
from sigma2kql.artifacts.columns import Output
from sigma2kql.artifacts.facts import asim_schema, connectors, facts, tables_behind
from sigma2kql.artifacts.model import AlertRule, Artifact, Connector, Detection, Entity, Hunt, Incident, Schedule
from sigma2kql.artifacts.scan import Scan, scan
from sigma2kql.artifacts.settings import Settings, loose
from sigma2kql.artifacts.wording import clean, clean_line, cut
from sigma2kql.errors import Diagnostic, Sigma2KqlError, Span, diagnostic
from sigma2kql.model import Compiled, Correlation, Metadata, NativeQuery

NAMESPACE = uuid.UUID("5d0c1f4e-6f1b-5c8e-9a57-2f6a3c1d7b90")
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MINUTE, HOUR, DAY = 60, 3600, 86400
QUERY_LIMIT = 10_000
LOOKBACK = {HOUR: 4 * HOUR, 3 * HOUR: 12 * HOUR, 12 * HOUR: 48 * HOUR, 24 * HOUR: 30 * DAY}  # of a custom detection
_CUT = (
    "each run looks back {}, less than the correlation's timespan and the time between two runs: windows may be missed"
)

Kind = Literal["alert", "hunt", "detection"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a format takes; 0 is no limit."""

    name: int = 256
    description: int = 5000
    tactics: int = 0
    techniques: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artifact and what there is to say about it (no errors among it)."""

    artifact: Artifact
    diagnostics: tuple[Diagnostic, ...] = ()


class _Notes(list[Diagnostic]):
    """What is found on the way; the span is the document's."""

    def __init__(self, span: Span, more: bool) -> None:
        super().__init__()
        self.span = span
        self.more = more  # the query may return more columns than are known

    def say(self, code: str, message: str, hint: str = "") -> None:
        self.append(diagnostic(code, message, self.span, hint))


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is common to every kind of artifact."""

    id: str
    name: str
    description: str
    query: str
    attack: attack.Attack
    connectors: tuple[Connector, ...]
    entities: tuple[Entity, ...]
    sentinel_entities: tuple[str, ...]
    custom_details: tuple[tuple[str, str], ...]
    status: str | None
    version: str
    tags: tuple[Any, ...]


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
    notes = _Notes(document.origin.span, more)
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
    common = _common(compiled, kind, limits=limits, settings=settings, columns=output_columns, read=read, notes=notes)
    artifact: Artifact
    match kind:
        case "alert":
            _check_details(settings, output_columns, notes)
            artifact = _alert(compiled, common, settings, read, notes)
        case "hunt":
            artifact = _hunt(common, settings, notes)
        case "detection":
            artifact = _detection(compiled, common, settings, columns=output_columns, read=read, notes=notes)
    errors = [note for note in notes if note.severity == "error"]
    if errors:
        raise Sigma2KqlError([*errors, *(note for note in notes if note.severity != "error")])
    return Prepared(artifact, tuple(notes))


def _with_native(settings: Settings, document: NativeQuery, notes: _Notes) -> Settings:
    """What the document states wins over what was wished for documents in general."""
    data = {key: value for key, value in document.data.items() if key not in ("name", "description")}
    if data.get("relevantTechniques") is None and data.get("techniques") is not None:
        data["relevantTechniques"] = data["techniques"]
    read, problems = loose(data, document.origin.span)
    notes += problems
    return replace(settings, **read)


# --------------------------------------------------------------------------------------------------------------------
# What every kind has


def _common(
    compiled: Compiled,
    kind: Kind,
    *,
    limits: Limits,
    settings: Settings,
    columns: Mapping[str, str] | None,
    read: Scan,
    notes: _Notes,
) -> _Facts:
    meta = compiled.document.meta
    found = _attack(meta, settings, reviewed=bool(limits.tactics), notes=notes)
    if limits.tactics:
        found, out = attack.limit(found, limits.tactics, limits.techniques)
        if out:
            notes.say("W753", f"more ATT&CK than the format takes; left out: {', '.join(out)}")
    name, description = _texts(compiled, kind, settings=settings, limits=limits, found=found, notes=notes)
    native = isinstance(compiled.document, NativeQuery)
    tables = _tables(compiled, read)
    status = settings.status or (None if native else facts("severity")["statuses"].get(meta.status or ""))
    return _Facts(
        id=identity(compiled, kind),
        name=name,
        description=description,
        query=compiled.kql.replace("\r\n", "\n").strip("\n") + "\n" if compiled.kql else "",
        attack=found,
        connectors=_connectors(tables) if settings.connectors is None else settings.connectors,
        entities=_entities(settings, tables, columns, asked=kind == "alert" or bool(limits.tactics), notes=notes)
        if kind != "detection"
        else (),
        sentinel_entities=_carried(tables, columns or {})
        if settings.sentinel_entities is None
        else settings.sentinel_entities,
        custom_details=_custom_details(settings, columns, notes),
        status=status,
        version=settings.version or "1.0.0",
        tags=_tags(tables) if settings.tags is None else settings.tags,
    )


def identity(compiled: Compiled, kind: Kind) -> str:
    """The GUID under which a document is deployed: its own where it has one and the kind is its own, else made from it.

    The same document gives the same GUID always; without an id, its path and its number in the file stand for it.
    """
    document = compiled.document
    native = isinstance(document, NativeQuery)
    own = str(document.data.get("id") or document.meta.id or "") if native else document.meta.id or ""  # type: ignore[union-attr]
    home = "hunt" if native and not _is_rule(document) else "alert"
    if GUID.fullmatch(own.lower()) and kind in (home, "detection"):
        return own.lower()
    path = document.origin.source.path.replace("\\", "/")
    seed = own or f"{path}#{document.origin.index}"
    return str(uuid.uuid5(NAMESPACE, f"{kind}\n{seed}"))


def _is_rule(document: Any) -> bool:
    """Whether a native document is an analytics rule rather than a hunting query."""
    return any(key in document.data for key in ("severity", "queryFrequency", "triggerOperator", "kind"))


def is_hunt(compiled: Compiled) -> bool:
    """Whether a document is a hunting query by itself."""
    return isinstance(compiled.document, NativeQuery) and not _is_rule(compiled.document)


def _attack(meta: Metadata, settings: Settings, *, reviewed: bool, notes: _Notes) -> attack.Attack:
    """`reviewed`: the format is that of Azure-Sentinel's repository, whose checks ask for tactic and technique."""
    found = attack.from_tags(meta.tags)
    if settings.tactics is not None or settings.techniques is not None:
        found = attack.resolve(
            found.tactics if settings.tactics is None else settings.tactics,
            found.techniques if settings.techniques is None else settings.techniques,
        )
    found = attack.complete(found, settings.fallback_tactics, settings.fallback_techniques)
    if found.unknown:
        notes.say("W753", f"not known to Sentinel, left out: {', '.join(map(clean_line, found.unknown))}")
    lacking = [what for what, has in (("tactic", found.tactics), ("technique", found.techniques)) if not has]
    if lacking:
        tag, key = ("attack.<tactic>", "tactics") if not found.tactics else ("attack.t<number>", "relevantTechniques")
        note = diagnostic(
            "W754",
            f"no ATT&CK {' and no '.join(lacking)}: Azure-Sentinel's checks ask for at least one",
            notes.span,
            f"tag the rule `{tag}`, or set `{key}` under `sigma2kql:` in it or its fallback in the configuration",
        )
        notes.append(note if reviewed else replace(note, severity="info"))
    return found


def _tables(compiled: Compiled, read: Scan) -> tuple[str, ...]:
    """The tables of the query: those that were chosen, or those that a native one names."""
    if isinstance(compiled.document, NativeQuery) or not compiled.table:
        return read.tables
    return tuple(compiled.table.split(", "))


def _texts(
    compiled: Compiled, kind: Kind, *, settings: Settings, limits: Limits, found: attack.Attack, notes: _Notes
) -> tuple[str, str]:
    """Name and description, clean and within their limits; a name that is cut stands whole in the description."""
    document = compiled.document
    meta = document.meta
    title, body = meta.title, meta.description
    if isinstance(document, NativeQuery):
        title = str(document.data.get("name") or title)
        body = str(document.data.get("description") or document.data.get("description-detailed") or body)
    whole = clean_line(settings.name or title) or identity(compiled, kind)
    name = cut(whole, limits.name)
    description = clean(settings.description or body) or whole
    if name != whole:
        notes.say("W751", f"the name has {len(whole)} characters of at most {limits.name}; it was cut")
        description = f"{description}\n\nTitle: {whole}"
    if settings.attribution and not isinstance(document, NativeQuery):
        description = "\n\n".join(part for part in (description, _attribution(meta, found)) if part)
    if len(description) > limits.description:
        notes.say(
            "W752", f"the description has {len(description)} characters of at most {limits.description}; it was cut"
        )
    return name, cut(description, limits.description)


def _attribution(meta: Metadata, found: attack.Attack) -> str:
    """Whose rule it is (the Detection Rule License asks for it), what may be harmless, and what ATT&CK was left out."""
    rows = (
        ("False positives", "; ".join(meta.falsepositives)),
        ("References", " ".join(meta.references)),
        ("Author", meta.author),
        ("Sigma rule", meta.id or ""),
        ("License", meta.license or ""),
        ("Also tagged", ", ".join(found.unknown)),
    )
    return "\n".join(f"{name}: {clean_line(content)}" for name, content in rows if content.strip())


def _connectors(tables: tuple[str, ...]) -> tuple[Connector, ...]:
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(real for table in tables for real in tables_behind(table)):
        for connector, kind in connectors().get(name, ()):
            found.setdefault(connector, []).append(kind)
    return tuple(Connector(name, tuple(dict.fromkeys(kinds))) for name, kinds in found.items())


def _tags(tables: tuple[str, ...]) -> tuple[Any, ...]:
    schemas = dict.fromkeys(schema for table in tables if (schema := asim_schema(table)))
    return tuple({"Schema": f"ASim{schema}"} for schema in schemas)


def _entities(
    settings: Settings,
    tables: tuple[str, ...],
    columns: Mapping[str, str] | None,
    *,
    asked: bool,
    notes: _Notes,
) -> tuple[Entity, ...]:
    """`asked`: whether a mapping that is missing is to be told."""
    if settings.entities is None:
        most = settings.max_entities
        found = entities.infer(tables[0] if len(tables) == 1 else None, columns, most) if columns else ()
        found = found or entities.fitting(settings.fallback_entities, columns or {}, most)
        if not found and asked:
            notes.say(
                "W755",
                "no entity mapping: no output column is known to name a host, an account or another entity",
                "set `entityMappings` under `sigma2kql:` in the rule, or `fallbackEntityMappings` in the configuration",
            )
        return found
    _check_columns("entity mappings", [c for entity in settings.entities for _, c in entity.fields], columns, notes)
    if len(settings.entities) > settings.max_entities:
        notes.say("W758", f"{len(settings.entities)} entity mappings, {settings.max_entities} kept", "set maxEntities")
    return settings.entities[: settings.max_entities]


def _carried(tables: tuple[str, ...], columns: Mapping[str, str]) -> tuple[str, ...]:
    """The columns that hold Sentinel's own entities (rows of alerts)."""
    known = facts("entities")["carried"]
    return tuple(known[table] for table in tables[:1] if table in known and known[table] in columns)


def _custom_details(
    settings: Settings, columns: Mapping[str, str] | None, notes: _Notes
) -> tuple[tuple[str, str], ...]:
    details = settings.custom_details or ()
    _check_columns("custom details", [column for _, column in details], columns, notes)
    return details


def _check_columns(what: str, named: list[str], columns: Mapping[str, str] | None, notes: _Notes) -> None:
    missing = [] if columns is None or notes.more else [name for name in dict.fromkeys(named) if name not in columns]
    if missing:
        notes.say("E707", f"{what} name columns that the query does not return: {', '.join(missing)}")


def _check_details(settings: Settings, columns: Mapping[str, str] | None, notes: _Notes) -> None:
    """Every column that the alert's own details name is in the output."""
    details = settings.details
    if details is not None:
        named = re.findall(r"\{\{(\w+)\}\}", f"{details.name or ''} {details.description or ''}")
        named += [name for name in (details.tactics_column, details.severity_column) if name]
        _check_columns("alert details", named + [column for _, column in details.properties], columns, notes)
    _check_columns("Sentinel entities", list(settings.sentinel_entities or ()), columns, notes)


def _check_grouping(rule: AlertRule, notes: _Notes) -> None:
    """Incidents are grouped by what the rule maps and details, and by nothing else."""
    if rule.incident is None:
        return
    grouping = rule.incident.grouping
    mapped = {entity.type for entity in rule.entities}
    named = {name for name, _ in rule.custom_details}
    strange = [x for x in grouping.entities if x not in mapped] + [x for x in grouping.custom if x not in named]
    if strange:
        notes.say("E707", f"incidents are grouped by what the rule does not map: {', '.join(strange)}")


# --------------------------------------------------------------------------------------------------------------------
# Sentinel


def _alert(compiled: Compiled, common: _Facts, settings: Settings, read: Scan, notes: _Notes) -> AlertRule:
    near_real_time = settings.kind == "NRT"
    schedule = None if near_real_time else _schedule(compiled, settings, notes)
    if near_real_time:
        _check_near_real_time(compiled, read, notes)
    if read.everything:
        notes.say("E709", f"a rule's query may not hold `{read.everything[0]}`", "name the tables")
    query, function = _within_limit(common, settings, notes)
    severity = settings.severity or _severity(compiled)
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


def _severity(compiled: Compiled) -> str:
    table = facts("severity")
    return str(table["levels"].get((compiled.document.meta.level or "").lower(), table["default"]))


def _schedule(compiled: Compiled, settings: Settings, notes: _Notes) -> Schedule:
    """Frequency and look-back; a correlation looks back by its time span and one run more, so that no window is cut."""
    document = compiled.document
    if isinstance(document, Correlation):
        span = max(_minutes(document.timespan), 5 * MINUTE)
        frequency = _minutes(settings.frequency or min(span, HOUR))
        period = _minutes(settings.period or min(span + frequency, 14 * DAY))
        if span > 14 * DAY:
            notes.say("E705", f"the correlation spans {document.timespan} seconds; a rule looks back at most 14 days")
        elif period < span:
            notes.say("E705", "queryPeriod is shorter than the correlation's timespan")
        elif period < span + frequency:
            hint = "a longer queryPeriod, or a shorter queryFrequency"
            notes.say("W765", _CUT.format(f"{period} seconds"), f"{hint}: {span} + {frequency} seconds in all")
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


def _check_near_real_time(compiled: Compiled, read: Scan, notes: _Notes) -> None:
    refused = facts("kql")["nrt"]
    held = [name for name in refused["functions"] if name in read.functions]
    held += [name for name in refused["operators"] if name in read.operators or name in read.words]
    if isinstance(compiled.document, Correlation):
        notes.say("E706", "a near-real-time rule looks at one minute of rows, a correlation at its whole time span")
    if held:
        notes.say("E706", f"a near-real-time rule may not use {', '.join(dict.fromkeys(held))}", "use kind: Scheduled")


def _within_limit(common: _Facts, settings: Settings, notes: _Notes) -> tuple[str, str | None]:
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


def _hunt(common: _Facts, settings: Settings, notes: _Notes) -> Hunt:
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


# --------------------------------------------------------------------------------------------------------------------
# Defender XDR


def _detection(
    compiled: Compiled,
    common: _Facts,
    settings: Settings,
    *,
    columns: Mapping[str, str] | None,
    read: Scan,
    notes: _Notes,
) -> Detection:
    tables = _tables(compiled, read)
    fits = entities.infer_defender(tables[0] if tables else None, columns or {})
    found: tuple[Entity, ...] = ()
    if settings.impacted is not None and fits is not None:
        _check_columns("impacted entities", [c for e in settings.impacted for _, c in e.fields], columns, notes)
        fits = (fits[0], settings.impacted)
    if columns is None:
        notes.say("E708", "the columns that the query returns are not known, so no impacted entity can be named")
    elif fits is None:
        notes.say("E708", f"a custom detection cannot watch `{', '.join(tables)}`", "convert for the target xdr")
    else:
        required, found = fits
        missing = [name for name in required if name not in columns]
        if missing:
            notes.say("E708", f"a custom detection must return {', '.join(missing)}", "convert for the target xdr")
        elif not entities.suffices(found):
            notes.say("E708", "the query returns no column that names an impacted device, account, mailbox or address")
    if settings.kind == "NRT":
        _check_continuous(read, notes)
    tactic, techniques = attack.single(common.attack)
    lost = [x for x in (*common.attack.tactics, *common.attack.techniques) if x != tactic and x not in techniques]
    if lost:
        notes.say("W759", f"a custom detection has one tactic; left out: {', '.join(lost)}")
    details = settings.details
    return Detection(
        id="sigma-" + common.id,
        name=cut(common.name, 120),
        title=cut((details.name if details else None) or common.name, 120),
        description=cut((details.description if details else None) or common.description, 600),
        severity=(settings.severity or _severity(compiled)).lower(),
        query=common.query.rstrip().rstrip(";").rstrip(),
        frequency=0 if settings.kind == "NRT" else _frequency(compiled, settings, notes),
        tactic=tactic,
        techniques=techniques,
        entities=found,
        custom_details=common.custom_details,
        recommended=settings.recommended,
        enabled=True if settings.enabled is None else settings.enabled,
    )


def _frequency(compiled: Compiled, settings: Settings, notes: _Notes) -> int:
    """The longest run interval not above the wish whose fixed look-back covers the wanted one; for a correlation its
    time span and one run more, so that no window is cut.
    """
    correlation = isinstance(compiled.document, Correlation)
    span = compiled.document.timespan if isinstance(compiled.document, Correlation) else 0
    wanted = max(settings.period or 0, span)
    covering = [every for every, lookback in LOOKBACK.items() if lookback >= wanted]
    if not covering:
        notes.say("E705", "a custom detection looks back at most 30 days")
        return DAY
    fitting = [every for every in covering if not correlation or LOOKBACK[every] >= span + every]
    if not fitting:
        notes.say("W765", _CUT.format("30 days"))
    asked = [every for every in fitting if every <= (settings.frequency or HOUR)]
    return max(asked, default=min(fitting or covering))


def _check_continuous(read: Scan, notes: _Notes) -> None:
    """One table, no comments, and only what a transformation at ingestion knows."""
    rules = facts("kql")["continuous"]
    held = [name for name in read.operators if name not in rules["operators"]]
    held += [name for name in rules["refused"] if name in read.words]
    if read.comments:
        held.append("comments")
    if len(read.tables) > 1:
        held.append("more than one table")
    if held:
        notes.say(
            "E714", f"a continuous detection may not hold {', '.join(dict.fromkeys(held))}", "use kind: Scheduled"
        )
    else:
        notes.say("W760", "the continuous kind is written as the frequency PT0S, which Graph's pages do not state")
