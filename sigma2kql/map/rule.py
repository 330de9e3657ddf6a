"""map: a rule over Sigma fields becomes a query over the typed columns of one table.

Place in the flow: between load and emit. Invariant: of the tables that serve its log source a rule gets the first that
carries it best, and each that was passed over is named with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.map.event_elements import said_otherwise
from sigma2kql.map.field_places import Rows
from sigma2kql.map.one_table import Builtin, Mapped, Mapper, Uses
from sigma2kql.map.target import Target, further_rows
from sigma2kql.model.tree import (
    Expr,
    Field,
    Query,
    Rule,
)

Fits = Callable[[Query], bool]


def map_rule(
    rule: Rule, where: Expr[Field], target: Target, builtin: Builtin = False, fits: Sequence[Fits] = ()
) -> Mapped:
    """The rule on the best table of the target: the first that carries all of it exactly, else the first whose events
    lack a field of it and that carries the rest exactly, else the first that carries it.

    `where` is the rule's tree after placeholders and filters. `builtin` names ASIM parser functions by their built-in
    name. Tables whose query the first of `fits` refuses are taken only where there is no other, and then those that the
    next refuses last. Raises Sigma2KqlError: no table serves the log source, or none carries every field; each table
    considered is named.
    """
    uses = Uses(where)
    second: Mapped | None = None
    refused: list[tuple[Rows, Sigma2KqlError]] = []
    passed: list[str] = []
    unfit: list[str] = []
    for rows in _candidates(target, rule, uses):
        if rows.serve.event_ids and not uses.fit(rows.serve.event_ids):
            continue
        try:
            mapped = Mapper(rows, uses, builtin).run(where)
        except Sigma2KqlError as error:
            refused.append((rows, error))
            passed.append(f"{rows.table.name}: {error.diagnostics[0].message}")
            continue
        if fits and not fits[0](mapped.query):
            unfit.append(rows.table.name)
            passed.append(f"{rows.table.name}: finds nothing in this workspace")
            continue
        if mapped.exact_for_one and not mapped.lacks:
            return _with(mapped, [*passed, *target.after(rule.logsource, mapped.table.name)])
        passed.append(mapped.in_words)
        if second is None or (mapped.exact_for_one and not second.exact_for_one):
            second = mapped
    if second is not None:
        return _with(second, [p for p in passed if p != second.in_words])
    if unfit:
        return map_rule(rule, where, target, builtin, fits[1:])
    from sigma2kql.map.unmapped import refusal  # only on the way to an error: keep start-up short

    raise refusal(rule, target, refused, uses.event_ids or frozenset())


def _candidates(target: Target, rule: Rule, uses: Uses) -> Iterator[Rows]:
    """The rows that may carry a rule, best first: those of its log source, then of what says the same otherwise."""
    yield from target.candidates(rule.logsource)
    for logsource in said_otherwise(rule.logsource, uses.event_ids):
        yield from target.candidates(logsource)


def map_everywhere(rule: Rule, where: Expr[Field], target: Target, builtin: Builtin = False) -> tuple[Mapped, ...]:
    """The rule on every table that carries it: those that carry it exactly, or where there is none, the best other."""
    best = map_rule(rule, where, target, builtin)
    if not best.exact_for_one:
        return (best,)
    uses = Uses(where)
    found = {best.table.name: best}
    for rows in _candidates(target, rule, uses):
        if rows.table.name in found or (rows.serve.event_ids and not uses.fit(rows.serve.event_ids)):
            continue
        try:
            mapped = Mapper(rows, uses, builtin).run(where)
        except Sigma2KqlError:
            continue
        if mapped.exact_for_one:
            found[rows.table.name] = mapped
    return tuple(found.values())


def map_further(
    best: Mapped, rule: Rule, where: Expr[Field], target: Target, builtin: Builtin = False
) -> tuple[Mapped, ...]:
    """The rule on the other kinds of events that its table holds and the log source means: process creations are
    Sysmon's event 1 and the Security log's 4688. Those that carry the rule.
    """
    found, uses = [], Uses(where)
    for rows in further_rows(target, best.table, rule.logsource):
        try:
            found.append(Mapper(rows, uses, builtin).run(where))
        except Sigma2KqlError:  # nothing of it is left there, or it asks for what those events have no place for
            continue
    return tuple(found)


def _with(mapped: Mapped, passed: list[str]) -> Mapped:
    return replace(mapped, passed_over=tuple(dict.fromkeys(passed))) if passed else mapped
