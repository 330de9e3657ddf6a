"""Tables chosen by a profile: those in which a rule can find something come before those in which it cannot.

Place in the flow: asked by `api` for each rule. Invariant: a profile changes the order of tables, never what a query
means; where no table can find anything, the rule still converts, and is blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.map.target import Target
from sigma2kql.model.tree import Liveness, Query
from sigma2kql.workspace.liveness import LIVE, liveness, standing
from sigma2kql.workspace.profile import Profile


@frozen
class Choice:
    """What a profile says to the choice of tables. `builtin`: ASIM parsers that exist by their built-in name only."""

    profile: Profile
    builtin: frozenset[str]

    def is_live(self, query: Query) -> bool:
        """Whether the query can find something, by what the profile says."""
        found = liveness(query, self.profile)
        return found is not None and found.state == "live"

    def may_see(self, query: Query) -> bool:
        """The same, or the profile says nothing of the table."""
        found = liveness(query, self.profile)
        return found is None or found.state == "live"

    def has_rows(self, query: Query) -> bool:
        """Whether the table of the query has rows, as far as is known: a setting may be all it lacks."""
        found = standing(query.table, self.profile)
        return found is None or found.state == "live"


def choose_by(profile: Profile, target: Target) -> Choice:
    absent = [entry for entry in target.entries if entry.name in profile.absent]
    return Choice(profile, frozenset(e.name for e in absent if e.load().builtin in profile.tables))


def all_of_them(found: Iterable[Liveness | None]) -> Liveness:
    """For what needs each of several queries: blind where one of them is."""
    reasons = [reason for one in found if one is not None for reason in one.reasons]
    return Liveness("blind", tuple(dict.fromkeys(reasons))) if reasons else LIVE


def any_of_them(found: Sequence[Liveness | None]) -> Liveness:
    """For what needs one of several queries: live where one of them is."""
    return all_of_them(found) if all(one is not None and one.reasons for one in found) else LIVE


def of_tables(names: Iterable[str], profile: Profile) -> Liveness:
    """For a query that people wrote: whether the tables that it reads are there and have rows."""
    return all_of_them(standing(name, profile) for name in names)
