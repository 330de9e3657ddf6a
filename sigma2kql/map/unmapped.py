"""Why no table of a target carries a rule, in words that help.

Place in the flow: beside map, loaded only where a rule is refused. Invariant: every table that was considered is named,
and what is advised is known from the indexes alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic, did_you_mean
from sigma2kql.map.field_places import Rows
from sigma2kql.map.target import Target, carriers, carries_field
from sigma2kql.model.tree import Rule


def refusal(
    rule: Rule, target: Target, refused: list[tuple[Rows, Sigma2KqlError]], event_ids: frozenset[int]
) -> Sigma2KqlError:
    """Why no table carries the rule, which others were considered, and who would carry it."""
    if refused:
        # what no event has is the rule's own fault: it is said rather than what the first table lacks
        first, error = next((one for one in refused if one[1].diagnostics[0].code == "E414"), refused[0])
        found = dict.fromkeys(
            f"{rows.table.name}: {e.diagnostics[0].message}"
            for rows, e in refused
            if rows.table.name != first.table.name and e.diagnostics[0].message != error.diagnostics[0].message
        )
        others = f"also considered: {'; '.join(found)}" if found else ""
        return Sigma2KqlError(
            replace(d, hint="; ".join(filter(None, (*_hints(d, rule, target, first), "" if n else others))))
            for n, d in enumerate(error.diagnostics)
        )
    source = rule.logsource
    hint = "a mapping file of your own can add one: see mappings/README.md"
    if known := carriers(source, target.name):
        hint = f"it is carried by {', '.join(f'{entry.name} (target {name})' for name, entry in known[:4])}"
    message = f"no table of target `{target.name}` carries the log source `{source}`"
    if any(True for _ in target.candidates(source)):
        message += f" with EventID {', '.join(map(str, sorted(event_ids)))}" if event_ids else " without an EventID"
    return Sigma2KqlError([diagnostic("E401", message, source.span, hint)])


def _hints(problem: Diagnostic, rule: Rule, target: Target, rows: Rows) -> tuple[str, ...]:
    """How to mend it; for a field that is missing here the name that may be meant, and the tables that have it."""
    if problem.code not in ("E402", "E414"):
        return (problem.hint,)
    name = problem.message.split("`")[1]
    known = frozenset((*rows.serve.fields, *rows.table.fields)) - {name}
    tables = [
        f"{e.name} (target {t})"
        for t, e in carriers(rule.logsource, target.name)
        if carries_field(t, e.name, rule.logsource, name) or name in e.load().columns
    ]
    elsewhere = f"it has a column in {', '.join(dict.fromkeys(tables[:4]))}" if tables else ""
    return (problem.hint or _meant(name, known), elsewhere)


_meant = lru_cache(maxsize=256)(did_you_mean)  # many rules ask for the same few fields
