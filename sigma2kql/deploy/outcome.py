"""A plan carried out, one call a change.

Place in the flow: last. Invariant: changes are made in the plan's order, each has one outcome, and a failure costs the
others nothing - but a rule whose saved function failed is not tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from sigma2kql.deploy.plan import Change
from sigma2kql.deploy.services import Service
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic, frozen

Status = Literal["done", "failed", "skipped"]


@frozen
class Outcome:
    """What became of a change; `skipped`: there was nothing to do."""

    change: Change
    status: Status
    problem: Diagnostic | None = None


def apply(plan: Iterable[Change], service: Service) -> Iterator[Outcome]:
    """Carry the plan out. Never raises for what a service says of one rule."""
    failed: set[str] = set()  # names of saved searches
    for change in plan:
        try:
            done = _carry_out(change, service, failed)
        except Sigma2KqlError as error:
            if change.collection == "savedSearches":
                failed.add(change.name)
            yield Outcome(change, "failed", error.diagnostics[0])
        else:
            yield Outcome(change, "done" if done else "skipped")


def _carry_out(change: Change, service: Service, failed: set[str]) -> bool:
    match change.action:
        case "create" | "update":
            assert change.wanted is not None
            if change.collection == "alertRules":
                called = str(change.wanted.body["properties"]["query"]).strip()
                if called in failed:
                    raise Sigma2KqlError([diagnostic("E754", f"its saved function {called} could not be deployed")])
            service.put(change.wanted, change.found)
        case "delete":
            assert change.found is not None
            service.delete(change.found)
        case "unchanged" | "orphan" | "foreign":
            return False
    return True
