"""Tables chosen by a profile: those in which a rule can find something come before those in which it cannot.

Place in the flow: asked by `api` for each rule. Invariant: a profile changes the order of tables, never what a query
means; where no table can find anything, the rule still converts, and is blind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.map.target import Target
from sigma2kql.model.query_facts import Liveness
from sigma2kql.model.tree import (
    Query,
)
from sigma2kql.workspace.inspection import marks
from sigma2kql.workspace.liveness import LIVE, liveness, standing
from sigma2kql.workspace.profile import Profile

ASIM = ("im", "_Im_")


@frozen
class Choice:
    """What a profile says to the choice of tables. `builtin`: ASIM parsers that exist by their built-in name only."""

    profile: Profile
    builtin: frozenset[str]
    sources: frozenset[str]  # the data sources that the profile shows to be there; empty where it shows none

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
    builtin = frozenset(e.name for e in absent if e.load().builtin in profile.tables)
    return Choice(profile, builtin, frozenset(_sources(profile, target)))


def _sources(profile: Profile, target: Target) -> Iterator[str]:
    """Every data source of whose rows the profile knows, by tables of its own (ASIM's hold those of all)."""
    known = marks()
    for entry in target.entries:
        table = profile.tables.get(entry.name)
        if table is None or entry.name.startswith(ASIM) or not _flows(standing(entry.name, profile)):
            continue
        for source in entry.sources or ():
            mark = known.get(source, {}).get(entry.name)
            if mark is None or any(_bears(mark, dict(zip(table.by, one.values, strict=True))) for one in table.seen):
                yield source


def _bears(mark: Mapping[str, Sequence[str]], values: Mapping[str, str]) -> bool:
    return all(values.get(column) in told for column, told in mark.items())


def _flows(found: Liveness | None) -> bool:
    return found is not None and found.state == "live"


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
