"""The pages that lead to rules: the list, tables and connectors, ATT&CK, what changed, the problems of a run.

Place in the flow: called by the build with every rule. Invariant: every rule can be reached without scripts, and no
page grows with the number of rules beyond `PER_PAGE` of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sigma2kql.coverage import LEVELS, NONE, Count, Covered, connectors_of, count
from sigma2kql.coverage.attack_names import attack, technique_name, technique_url
from sigma2kql.diagnostics.catalogue import CATALOGUE, Code
from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.site.data_needs import need_of
from sigma2kql.site.pages import Pages, page_name

if TYPE_CHECKING:
    from sigma2kql.site.build import Listed, Subject, Wanted

PER_PAGE = 150
SHADES = (1, 3, 10, 30)  # rules from which a cell is a shade darker
SHOWN = 25  # rules listed under one code of the page of problems


@frozen
class Cell:
    """A technique of the matrix: its rules, and 0 to 4 for each way to shade it."""

    id: str
    name: str
    count: int
    shade: int
    level: int
    live: int
    subs: tuple[tuple[str, str, int], ...]


@frozen
class Group:
    """A code of the problems of a run, with the first rules that have it."""

    code: str
    title: str
    severity: str
    why: str
    fix: str
    count: int
    rows: tuple[tuple[str, str, str, str], ...]  # page, name, targets, message


def overview_pages(
    pages: Pages,
    subjects: Sequence[Subject],
    listed: Sequence[Listed],
    wanted: Wanted,
    since: Mapping[str, list[list[str]]],
) -> Iterator[tuple[str, str]]:
    """Every overview: (path, text)."""
    targets = list(wanted.options)
    latest = sorted(listed, key=lambda one: (one.rule.date, one.page), reverse=True)[:100]
    yield "index.html", pages.render("index.html.j2", "index.html", {"latest": latest})
    yield from _listing(pages, "all.html", "All rules", listed)
    yield from _tables(pages, listed, targets, wanted.profile)
    yield from _techniques(pages, listed, wanted.profile)
    words = ("New since the last build", "Changed since the last build", "Gone since the last build")
    told = [(text, [row[:2] for row in since[key]]) for text, key in zip(words, since, strict=True)]
    yield "changes.html", pages.render("changes.html.j2", "changes.html", {"since": told, "latest": latest})
    groups = _problems(subjects, listed)
    yield "problems.html", pages.render("problems.html.j2", "problems.html", {"groups": groups})


def _listing(
    pages: Pages, path: str, heading: str, rules: Sequence[Listed], words: Sequence[str] = (), **more: Any
) -> Iterator[tuple[str, str]]:
    """A list of rules in as many pages as it takes."""
    stem = path.removesuffix(".html")
    number = max(1, -(-len(rules) // PER_PAGE))
    paths = [path, *(f"{stem}-{n}.html" for n in range(2, number + 1))]
    values = {"facts": (), "below": (), "link": "", **more}
    for at, place in enumerate(paths):
        part = rules[at * PER_PAGE : (at + 1) * PER_PAGE]
        files = [one.rpartition("/")[2] for one in paths]
        shown = {"heading": heading, "words": words, "list": part, "pages": files, "number": at + 1, **values}
        yield place, pages.render("listing.html.j2", place, shown)


# --------------------------------------------------------------------------------------------------------------------
# Tables


def _tables(pages: Pages, listed: Sequence[Listed], targets: Sequence[str], profile: bool) -> Iterator[tuple[str, str]]:
    rules = [one.rule for one in listed]
    parts = []
    for target in targets:
        rows = [(row, connectors_of(row.key)) for row in count(rules, target, "table") if row.key != NONE]
        parts.append((target, rows, _connectors(rules, target), _sources(rules, target)))
    yield "tables.html", pages.render("tables.html.j2", "tables.html", {"parts": parts, "profile": profile})
    by_table: dict[str, list[Listed]] = {}
    for one in listed:
        for table in one.tables:
            by_table.setdefault(table, []).append(one)
    for table, found in sorted(by_table.items()):
        need = need_of(table)
        facts = [("connectors", ", ".join(need.connectors) or "none known")]
        facts += [("reads", ", ".join(need.behind))] if need.behind else []
        facts += [("rows", need.collected)] if need.collected else []
        yield from _listing(pages, f"tables/{page_name(table)}.html", table, by_level(found), facts=facts)


def by_level(found: Sequence[Listed]) -> list[Listed]:
    return sorted(found, key=lambda one: (one.rank, one.name.lower(), one.page))


def _connectors(rules: Sequence[Covered], target: str) -> list[tuple[str, int, int, tuple[str, ...]]]:
    """Connector, the rules that it gives, those that only it gives, its tables."""
    gives: dict[str, int] = {}
    only: dict[str, int] = {}
    filled: dict[str, dict[str, None]] = {}
    for rule in rules:
        tables = rule.on(target).tables
        found = {name: table for table in tables for name in connectors_of(table)}
        for name, table in found.items():
            gives[name] = gives.get(name, 0) + 1
            filled.setdefault(name, {})[table] = None
        if len(found) == 1:
            (name,) = found
            only[name] = only.get(name, 0) + 1
    return [
        (name, number, only.get(name, 0), tuple(filled[name]))
        for name, number in sorted(gives.items(), key=lambda item: (-item[1], item[0]))
    ]


def _sources(rules: Sequence[Covered], target: str) -> list[tuple[Count, int]]:
    """Source with its counts, and the rules that are exact on its rows alone; empty where no table tells sources."""
    if not any(rule.on(target).sources for rule in rules):
        return []
    lost: dict[str, int] = {}
    for rule in rules:
        exact = [name for name, verdict in rule.on(target).sources.items() if verdict == "exact"]
        if len(exact) == 1:
            lost[exact[0]] = lost.get(exact[0], 0) + 1
    known = {name for rule in rules for name in rule.on(target).sources}
    return [(row, lost.get(row.key, 0)) for row in count(rules, target, "source") if row.key in known]


# --------------------------------------------------------------------------------------------------------------------
# ATT&CK


def _techniques(pages: Pages, listed: Sequence[Listed], profile: bool) -> Iterator[tuple[str, str]]:
    by_technique: dict[str, list[Listed]] = {}
    for one in listed:
        for technique in one.rule.techniques:
            by_technique.setdefault(technique, []).append(one)
    subs: dict[str, list[str]] = {}
    for technique in sorted(by_technique):
        base = technique.partition(".")[0]
        if base != technique:
            subs.setdefault(base, []).append(technique)
    everything: dict[str, list[Listed]] = {}
    for technique in {*by_technique, *subs}:
        held = [one for t in (technique, *subs.get(technique, ())) for one in by_technique.get(t, ())]
        everything[technique] = list({one.page: one for one in held}.values())
    columns = []
    for tactic in attack().tactics:
        cells = [_cell(t, everything, subs) for t in tactic.techniques]
        columns.append((tactic, cells, sum(cell.count > 0 for cell in cells)))
    unknown = sorted(t for t in everything if "." not in t and t not in attack().homes)
    note = f"Not in the matrix of v{attack().version}: {', '.join(unknown)}." if unknown else ""
    values = {"columns": columns, "profile": profile, "unknown": note}
    yield "attack.html", pages.render("attack.html.j2", "attack.html", values)
    for technique, found in sorted(everything.items()):
        name = technique_name(technique)
        below = [(t, technique_name(t).rpartition(": ")[2], len(everything[t])) for t in subs.get(technique, ())]
        link = technique_url(technique) if name else ""
        place = f"techniques/{page_name(technique)}.html"
        heading = f"{technique} {name}".strip()
        yield from _listing(pages, place, heading, by_level(found), below=below, link=link)


def _cell(technique: str, everything: Mapping[str, list[Listed]], subs: Mapping[str, list[str]]) -> Cell:
    rules = [one.rule for one in everything.get(technique, ()) if any(o.found for o in one.rule.outcomes)]
    levels = [len(LEVELS) - 1 - LEVELS.index(rule.level) for rule in rules if rule.level in LEVELS]
    live = sum(any(o.here == "live" for o in rule.outcomes) for rule in rules)
    below = tuple((t, technique_name(t).rpartition(": ")[2], len(everything[t])) for t in subs.get(technique, ()))
    return Cell(
        technique,
        technique_name(technique),
        len(rules),
        _shade(len(rules)),
        min(4, max(levels, default=0)),
        _shade(live),
        below,
    )


def _shade(number: int) -> int:
    return sum(number >= least for least in SHADES)


# --------------------------------------------------------------------------------------------------------------------
# Problems


def _problems(subjects: Sequence[Subject], listed: Sequence[Listed]) -> list[Group]:
    """By code, errors first, then by number; a message that several targets give is told once."""
    found: dict[Code, dict[tuple[str, str, str], list[str]]] = {}
    for subject, one in zip(subjects, listed, strict=True):
        for done in subject.results:
            for d in done.diagnostics:
                targets = found.setdefault(d.code, {}).setdefault((one.page, one.name, d.message), [])
                if done.target not in targets:
                    targets.append(done.target)
    order = {"error": 0, "warning": 1, "info": 2}
    groups = []
    for code, rows in found.items():
        entry = CATALOGUE[code]
        shown = tuple((page, name, " ".join(t), text) for (page, name, text), t in list(rows.items())[:SHOWN])
        groups.append(Group(code, entry.title, entry.severity, entry.why, entry.fix, len(rows), shown))
    return sorted(groups, key=lambda g: (order[g.severity], -g.count, g.code))
