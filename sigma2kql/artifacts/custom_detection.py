"""A custom detection of Defender XDR: what it watches, how often it runs, what it may hold.

Place in the flow: a part of `describe`. Invariant: every column that Defender needs is in the output,
or that is an error.

Source: "Create custom detection rules" (Defender XDR); Graph `security/rules/detectionRules`.
"""

from __future__ import annotations

from collections.abc import Mapping

from sigma2kql.artifacts import attack, entities
from sigma2kql.artifacts.analytics_rule import CUT
from sigma2kql.artifacts.common_values import Common
from sigma2kql.artifacts.kinds import Detection, Entity
from sigma2kql.artifacts.product_tables import facts
from sigma2kql.artifacts.rule_facts import RuleFacts, reach, severity_of
from sigma2kql.artifacts.rule_texts import cut
from sigma2kql.model.tree import Correlation

HOUR, DAY = 3600, 86400
LOOKBACK = {HOUR: 4 * HOUR, 3 * HOUR: 12 * HOUR, 12 * HOUR: 48 * HOUR, 24 * HOUR: 30 * DAY}


def describe_detection(rule: RuleFacts, common: Common) -> Detection:
    """The custom detection. What it cannot be is noted as an error."""
    settings = rule.settings
    found = _impacted(rule)
    if settings.kind == "NRT":
        _check_continuous(rule)
    tactic, techniques = attack.single(common.attack)
    lost = [x for x in (*common.attack.tactics, *common.attack.techniques) if x != tactic and x not in techniques]
    if lost:
        rule.notes.say("W759", f"a custom detection has one tactic; left out: {', '.join(lost)}")
    details = settings.details
    return Detection(
        id="sigma-" + rule.id,
        name=cut(common.name, 120),
        title=cut((details.name if details else None) or common.name, 120),
        description=cut((details.description if details else None) or common.description, 600),
        severity=(settings.severity or severity_of(rule.document)).lower(),
        query="",
        frequency=0 if settings.kind == "NRT" else _frequency(rule),
        tactic=tactic,
        techniques=techniques,
        entities=found,
        custom_details=common.custom_details,
        recommended=settings.recommended,
        enabled=True if settings.enabled is None else settings.enabled,
    )


def _impacted(rule: RuleFacts) -> tuple[Entity, ...]:
    """The impacted entities of a custom detection, stated or inferred; the columns that Defender needs are returned."""
    tables, columns, notes = rule.tables, rule.columns, rule.notes
    fits = next((fit for t in tables if (fit := entities.infer_defender(t, columns or {})) is not None), None)
    stated = rule.settings.impacted
    if stated is not None:
        rule.check_columns("impacted entities", [c for entity in stated for _, c in entity.fields])
    elif columns is None:
        notes.say("E708", "the columns that the query returns are not known, so no impacted entity can be named")
        return ()
    elif fits is None:
        hint = "convert for the target xdr, or name `impactedEntities` under `sigma2kql:`"
        notes.say("E708", f"a custom detection cannot watch `{', '.join(tables)}`", hint)
        return ()
    required, inferred = fits or ((_time_of(columns),), ())
    found = inferred if stated is None else stated
    open_ended = columns is None or (stated is not None and rule.more)
    missing = [] if open_ended else [name for name in required if name not in (columns or {})]
    if missing:
        notes.say("E708", f"a custom detection must return {', '.join(missing)}", "convert for the target xdr")
    elif not entities.suffices(found):
        notes.say("E708", "the query returns no column that names an impacted device, account, mailbox or address")
    return found


def _time_of(columns: Mapping[str, str] | None) -> str:
    """Of a table that is not Defender's own: it has its time under either name."""
    return "TimeGenerated" if "TimeGenerated" in (columns or {}) else "Timestamp"


def _frequency(rule: RuleFacts) -> int:
    """The longest run interval not above the wish whose fixed look-back covers the wanted one; for a correlation its
    time span and one run more, so that no window is cut.
    """
    document, settings, notes = rule.document, rule.settings, rule.notes
    correlation = isinstance(document, Correlation)
    span = reach(document) if isinstance(document, Correlation) else 0
    wanted = max(settings.period or 0, span)
    covering = [every for every, lookback in LOOKBACK.items() if lookback >= wanted]
    if not covering:
        notes.say("E705", "a custom detection looks back at most 30 days")
        return DAY
    fitting = [every for every in covering if not correlation or LOOKBACK[every] >= span + every]
    if not fitting:
        notes.say("W765", CUT.format("30 days"))
    asked = [every for every in fitting if every <= (settings.frequency or HOUR)]
    return max(asked, default=min(fitting or covering))


def _check_continuous(rule: RuleFacts) -> None:
    """One table, no comments, and only what a transformation at ingestion knows."""
    read, notes = rule.scan, rule.notes
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
