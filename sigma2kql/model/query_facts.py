"""What is said of a query beside its tree: limits of the product, whether a workspace feeds it, how it recurs.

Place in the flow: the ground of the tree, which hands these on. Invariant: they hold facts, and no part of a rule.
"""

from __future__ import annotations

from typing import Literal

from sigma2kql.diagnostics.diagnostic import frozen, immutable


@immutable
class QueryLimits:
    """What the product that runs a target's queries takes of one; None: no number is published.

    `of` names the product in words; `characters` of the text; `days` that a run looks back. `depth`: how deep Kusto's
    parser follows an expression (a chain of n operands is n deep): longer chains are written as chains of chains.
    """

    of: str = "the product"
    characters: int | None = None
    days: int | None = None
    depth: int = 400

    @property
    def operands(self) -> int:
        """Of one chain: half of the depth, the rest is for what stands around it and in it."""
        return self.depth // 2


@frozen
class Liveness:
    """What a workspace makes of one query, and why (empty for a live one)."""

    state: Literal["live", "blind", "dead"]
    reasons: tuple[str, ...] = ()


@frozen
class Recurrence:
    """What a schedule has to know of a correlation's query; times are in seconds.

    `needed`: the events that one result is made of, so a run that looks back less than this and the time since the run
    before misses results. `look_back`: that, and as much more as tells whether a burst has been found before; a run
    looks back this and the time since the run before. `frequency`: how often to run, unless somebody says otherwise.
    `fresh`: the line to put behind the query so that a burst is found by one run: of the results those that came about
    since the run before, `{since}` in it standing for that time as a KQL time span; empty where there is none.
    `keys`: the result's columns that name the group; `details`: those that say what happened.
    """

    needed: int
    look_back: int
    frequency: int
    fresh: str = ""
    keys: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
