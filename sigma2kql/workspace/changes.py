"""What became different between two profiles of a workspace, and which rules no longer find anything for it.

Place in the flow: above `liveness`, for `workspace diff`. Invariant: only what both profiles speak of is compared.
"""

from __future__ import annotations

from collections.abc import Iterator

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.workspace.liveness import silence
from sigma2kql.workspace.profile import Profile, TableProfile

RARE = 20  # rows in the time looked at, below which a kind of event may well be missing by chance


@frozen
class Change:
    """One difference: what of a table, and whether rules can go blind for it (`worse`) or see again."""

    table: str
    text: str
    worse: bool


def changes(old: Profile, new: Profile) -> Iterator[Change]:
    """The differences, table by table: gone, silent, without a column or a kind of event; and the reverse."""
    for name in sorted({*old.tables, *old.absent} & {*new.tables, *new.absent}):
        before, after = old.tables.get(name), new.tables.get(name)
        if before is None and after is None:
            continue
        if before is None or after is None:
            yield Change(name, "no longer exists" if after is None else "exists now", after is None)
            continue
        yield from _of_table(before, after, old, new)


def _of_table(before: TableProfile, after: TableProfile, old: Profile, new: Profile) -> Iterator[Change]:
    was, now = _flows(before, old), _flows(after, new)
    if was and not now:
        last = after.last or before.last
        since = f" since {last:%Y-%m-%d %H:%M}" if last is not None else ""
        yield Change(after.name, f"has had no rows{since} ({before.rows_a_day:,.0f} a day before)", True)
        return
    if now and not was:
        yield Change(after.name, f"has rows now ({after.rows_a_day:,.0f} a day)", False)
    for column in sorted(before.columns.keys() | after.columns.keys()):
        yield from _of_column(column, before, after)
    if before.by == after.by:
        yield from _of_values(before, after)


def _flows(table: TableProfile, profile: Profile) -> bool:
    return bool(table.rows_a_day) and silence(table, profile) is None


def _of_column(column: str, before: TableProfile, after: TableProfile) -> Iterator[Change]:
    was, now = before.columns.get(column), after.columns.get(column)
    if now is None:
        yield Change(after.name, f"no longer has the column `{column}`", True)
    elif was is None:
        yield Change(after.name, f"has the column `{column}` now", False)
    elif was and not now:
        yield Change(after.name, f"no longer fills `{column}` ({was:.0%} of the rows before)", True)
    elif now and not was:
        yield Change(after.name, f"fills `{column}` now ({now:.0%} of the rows)", False)


def _of_values(before: TableProfile, after: TableProfile) -> Iterator[Change]:
    was, now = ({one.values: one for one in table.seen} for table in (before, after))
    for values in [v for v, one in was.items() if v not in now and one.rows >= RARE] if after.whole else ():
        last = f", last on {was[values].last:%Y-%m-%d}" if was[values].last else ""
        named = _named(before.by, values)
        yield Change(after.name, f"no longer has rows with {named} ({was[values].rows:,} before{last})", True)
    for values in [v for v, one in now.items() if v not in was and one.rows >= RARE] if before.whole else ():
        yield Change(after.name, f"has rows with {_named(after.by, values)} now ({now[values].rows:,})", False)


def _named(by: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ", ".join(f"{column} {value or '(empty)'}" for column, value in zip(by, values, strict=True))
