"""From a compiled rule and a team's wishes to what is deployed: every value decided, every limit kept or reported.

Place in the flow: the first half of render, one pass: what the query is (`rule_facts`), what all kinds have in common
(`common_values`), what the kind has of its own. Invariant: what comes out is within the limits of the format asked for;
what was cut, dropped or added is said in a diagnostic, and what cannot be is a Sigma2KqlError before anything is
written.

Source: Azure-Sentinel's template checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from sigma2kql.artifacts.analytics_rule import QUERY_LIMIT, describe_alert
from sigma2kql.artifacts.common_values import Common, decide_common
from sigma2kql.artifacts.custom_detection import describe_detection, family
from sigma2kql.artifacts.formats import Format, format_named
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Detection, Hunt, function_name
from sigma2kql.artifacts.query_columns import Output
from sigma2kql.artifacts.resources import beyond_azurerm
from sigma2kql.artifacts.rule_facts import RuleFacts, read_rule
from sigma2kql.artifacts.settings import Settings
from sigma2kql.diagnostics.diagnostic import Diagnostic, diagnostic, frozen
from sigma2kql.model.tree import Compiled


@frozen
class Prepared:
    """An artifact and what there is to say about it (no errors among it)."""

    artifact: Artifact
    diagnostics: tuple[Diagnostic, ...] = ()


def prepare(
    compiled: Compiled, name: str, settings: Settings, output_columns: Mapping[str, str] | Output | None = None
) -> Prepared:
    """Decide what `compiled` becomes in the format `name`, with warnings about what was cut, dropped or added.

    `output_columns` are the columns that the query returns (for a query of this project's own: all columns of its
    table; an `Output` says whether there may be more). Entity mappings are inferred from them and checked against
    them; a custom detection needs them.
    Raises Sigma2KqlError (E703 .. E709, E714, E717) with every reason why there can be no such artifact.
    """
    form = format_named(name)
    query, rule = read_rule(compiled, form, settings, output_columns)
    artifact = _describe(rule, decide_common(rule))
    if len(query) <= QUERY_LIMIT < len(rule.result.written(query)) and rule.kind != "detection":
        query, rule = read_rule(compiled, form, settings, output_columns, computing=False)
        artifact = _describe(rule, decide_common(rule))
    rule.notes.stop()
    artifact = _holding(artifact, rule.result.written(query), rule)
    lost = _lost_in_terraform(artifact, form, settings)
    if lost:
        rule.notes.say("W761", f"azurerm has no argument for {lost}")
    return Prepared(artifact, tuple(rule.notes.found))


def streamed(prepared: Prepared, compiled: Compiled) -> Prepared:
    """The same, with what Sentinel needs where its artifact reads Defender's own tables."""
    if isinstance(prepared.artifact, Detection):
        return prepared
    named = [table for table in (compiled.table or "").split(", ") if family(table)]
    message = "a rule of Sentinel over Defender's tables: " + (", ".join(named) or "its query")
    hint = "let the connector Microsoft Defender XDR stream these tables to the workspace, or use -f xdr-json"
    note = diagnostic("W770", message, compiled.document.origin.span, hint)
    return replace(prepared, diagnostics=(*prepared.diagnostics, note))


def _holding(artifact: Artifact, query: str, rule: RuleFacts) -> Artifact:
    """The artifact with its query: as it is, as a saved function, or as Defender takes it."""
    match artifact:
        case AlertRule() if len(query) > QUERY_LIMIT:
            return replace(artifact, query=function_name(rule.id) + "\n", function=query)
        case AlertRule() | Hunt():
            return replace(artifact, query=query)
        case Detection():
            return replace(artifact, query=query.rstrip().rstrip(";").rstrip())
        case _:
            assert_never(artifact)


def _describe(rule: RuleFacts, common: Common) -> Artifact:
    match rule.kind:
        case "alert":
            return describe_alert(rule, common)
        case "hunt":
            return _hunt(rule, common)
        case "detection":
            return describe_detection(rule, common)
        case _:
            assert_never(rule.kind)


def _hunt(rule: RuleFacts, common: Common) -> Hunt:
    if rule.length > QUERY_LIMIT:
        rule.notes.say("E703", f"the query has {rule.length} characters of at most {QUERY_LIMIT}")
    return Hunt(
        id=rule.id,
        name=common.name,
        description=common.description,
        query="",
        tactics=common.attack.tactics,
        techniques=common.attack.techniques,
        connectors=common.connectors,
        entities=common.entities,
        custom_details=common.custom_details,
        status=common.status,
        version=common.version,
        tags=common.tags,
        metadata=rule.settings.metadata,
    )


def _lost_in_terraform(artifact: Artifact, form: Format, settings: Settings) -> str:
    provider = settings.terraform_provider
    if form.language != "terraform" or provider != "azurerm" or not isinstance(artifact, AlertRule):
        return ""
    return ", ".join(beyond_azurerm(artifact))
