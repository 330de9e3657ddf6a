"""Deployment: what is wanted against what is there, and the calls that make the second the first.

Place in the flow: behind render. `wanted` gives bodies their marker of ownership, `plan` compares, `services` speaks
with Microsoft's APIs (or reads an exported state), `outcome` carries a plan out. Invariant: nothing that lacks this
owner's marker is ever changed or deleted, unless it was asked for by name of the option (`--adopt`).
"""

from __future__ import annotations

from sigma2kql.deploy.outcome import Outcome, apply
from sigma2kql.deploy.plan import Change, Difference, make_plan
from sigma2kql.deploy.services import Defender, Sentinel, Service, read_state
from sigma2kql.deploy.wanted import DEFAULT_OWNER, OWNER, Collection, Found, Wanted, make_wanted

__all__ = [
    "DEFAULT_OWNER",
    "OWNER",
    "Change",
    "Collection",
    "Defender",
    "Difference",
    "Found",
    "Outcome",
    "Sentinel",
    "Service",
    "Wanted",
    "apply",
    "make_plan",
    "make_wanted",
    "read_state",
]
