"""A site from results: which page each rule has, what they say of each other, which pages are rendered anew.

Place in the flow: called by the command with compiled rules and a function that writes. Invariant: a page is rendered
where what it shows has changed since the build that left the manifest, and only there; what a build made and the next
does not is removed, and nothing else is.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path, PurePosixPath
from typing import Any

from sigma2kql import __version__
from sigma2kql.api import Options
from sigma2kql.artifacts.settings import Settings
from sigma2kql.coverage import LEVELS, Covered, cover
from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.model.tree import Compiled, Correlation, NativeQuery
from sigma2kql.site.feeds import entries, json_feed
from sigma2kql.site.history import Change
from sigma2kql.site.overviews import overview_pages
from sigma2kql.site.pages import HOME, Pages, Site, page_name
from sigma2kql.site.rule_index import index_script
from sigma2kql.site.rule_page import Link, Proven, RulePage, rule_page, text_of
from sigma2kql.system.shipped_files import mappings_folder

MANIFEST = ".sigma2kql-site.json"
EXAMPLE = """\
title: Mail Client Talks To A Public Address
status: experimental
level: medium
logsource: {product: windows, category: network_connection}
detection:
    selection:
        Image|endswith: '\\outlook.exe'
        Initiated: 'true'
    filter_local:
        DestinationIp|cidr: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16]
    condition: selection and not filter_local
"""
EVENTS = """\
- {Image: 'C:\\Office\\outlook.exe', Initiated: 'true', DestinationIp: 203.0.113.7}
- {Image: 'C:\\Office\\outlook.exe', Initiated: 'true', DestinationIp: 10.1.2.3}
"""
ALIKE = 8  # related rules by technique
GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SECTIONS = (
    ("query", "Query"),
    ("hypothesis", "Hypothesis"),
    ("meaning", "Meaning"),
    ("data", "Data"),
    ("caveats", "Caveats"),
    ("falsepositives", "False positives"),
    ("proof", "Proof"),
    ("deployment", "Deployment"),
    ("attack", "ATT&CK"),
    ("related", "Related"),
    ("references", "References"),
)

Put = Callable[[PurePosixPath, "str | bytes"], None]


@frozen
class Subject:
    """One document of the site: its results, one a target, and what is known of it from elsewhere."""

    path: str  # as shown; the results have the one that was read
    results: tuple[Compiled, ...]
    settings: Settings
    proofs: tuple[Proven, ...] = ()
    changes: tuple[Change, ...] = ()


@frozen
class Wanted:
    """How the site is to be. `formats` are artifacts shown on the pages; `source_url` stands before a rule's path."""

    title: str = "Detection rules"
    base_url: str = ""
    source_url: str = ""
    formats: tuple[str, ...] = ()  # empty: those of the kind of document
    templates: tuple[Path, ...] = ()
    css: str = ""
    playground: bool = False
    files: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)  # of the playground
    profile: bool = False
    options: Mapping[str, Options] = field(default_factory=dict)  # by target
    takes: Mapping[str, Sequence[str]] = field(default_factory=dict)  # target -> the formats that its product takes


@frozen
class Listed:
    """A rule as lists show it."""

    page: str
    name: str
    rule: Covered
    tables: tuple[str, ...]
    text: str  # its description

    @property
    def rank(self) -> int:
        return LEVELS.index(self.rule.level) if self.rule.level in LEVELS else len(LEVELS)


@frozen
class Built:
    """What a build did."""

    pages: int
    rendered: int
    removed: tuple[str, ...]
    new: int
    changed: int
    gone: int


def build(
    subjects: Sequence[Subject], wanted: Wanted, old: Mapping[str, Any], put: Put, proofs: Mapping[str, Any]
) -> tuple[Built, str]:
    """Write the site. `old` is the manifest of the build before (empty: none); `proofs` go into the new one.

    Gives what was done and the new manifest, which the caller writes last. Raises Sigma2KqlError for a template that is
    at fault.
    """
    targets = list(wanted.options)
    listed = _listed(subjects)
    site = Site(wanted.title, wanted.base_url, bool(wanted.css), len(listed))
    pages = Pages(site, targets, wanted.templates, wanted.playground)
    ground = _ground(wanted, targets)
    digests: dict[str, str] = {}
    rendered = 0
    before: Mapping[str, str] = old.get("rules", {}) if old.get("ground") == ground else {}
    related = _related(subjects, listed)
    beside: dict[str, list[str]] = {}
    for subject, one, links in zip(subjects, listed, related, strict=True):
        digests[one.page] = digest = _digest(subject, links)
        if before.get(one.page) == digest:
            beside[one.page] = old.get("beside", {}).get(one.page, [])
            continue
        page = _page(subject, one, links, wanted)
        put(PurePosixPath(one.page), pages.render("rule.html.j2", one.page, {"p": page, "sections": SECTIONS}))
        for code in page.codes:
            if code.file:
                put(PurePosixPath(code.file), code.text)
                beside.setdefault(one.page, []).append(code.file)
        rendered += 1
    since = _since(old, digests, listed)
    others = set()
    for path, text in _other_pages(pages, subjects, listed, wanted, since):
        put(PurePosixPath(path), text)
        others.add(path)
    others.update(path for paths in beside.values() for path in paths)
    manifest = {
        "version": 1,
        "ground": ground,
        "rules": digests,
        "titles": {one.page: one.name for one in listed},
        "others": sorted(others),
        "beside": {page: paths for page, paths in beside.items() if paths},
        "since": since,
        "proofs": dict(proofs),
    }
    made = {*digests, *others}
    gone = [path for path in (*old.get("rules", {}), *old.get("others", ())) if path not in made]
    done = Built(
        len(listed), rendered, tuple(gone), *(len(since[key]) if _differs(old, digests) else 0 for key in CHANGES)
    )
    return done, json.dumps(manifest, ensure_ascii=False, indent=0, sort_keys=True) + "\n"


# --------------------------------------------------------------------------------------------------------------------
# What is where


def _listed(subjects: Iterable[Subject]) -> list[Listed]:
    """Every rule with its page: by its id, which stays where a file moves; else by title and place."""
    taken: set[str] = set()
    out = []
    for subject in subjects:
        rule = cover(subject.results)
        own = (rule.id or "").lower()
        place = hashlib.sha256(f"{subject.path}#{rule.index}".encode()).hexdigest()[:8]
        stem = own if GUID.fullmatch(own) else f"{page_name(rule.title.lower())[:60].strip('.-') or 'rule'}-{place}"
        page = f"rules/{stem}.html"
        if page in taken:
            page = f"rules/{stem}-{place}.html"
        taken.add(page)
        tables = tuple(dict.fromkeys(table for outcome in rule.outcomes for table in outcome.tables))
        out.append(Listed(page, rule.title or rule.id or subject.path, rule, tables, description(subject.results[0])))
    return out


def description(done: Compiled) -> str:
    document = done.document
    if isinstance(document, NativeQuery):
        return str(document.data.get("description") or document.data.get("description-detailed") or "").strip()
    return str(document.meta.description).strip()


def _related(subjects: Sequence[Subject], listed: Sequence[Listed]) -> list[list[Link]]:
    """For each rule: the ids that it names, correlations and the rules that feed them, rules of the same technique."""
    by_name: dict[str, list[int]] = {}
    by_technique: dict[str, list[int]] = {}
    for number, one in enumerate(listed):
        meta = subjects[number].results[0].document.meta
        for name in {meta.id, meta.name} - {None}:
            by_name.setdefault(str(name), []).append(number)
        for technique in one.rule.techniques:
            by_technique.setdefault(technique, []).append(number)
    out: list[dict[str, Link]] = [{} for _ in listed]

    def link(at: int, to: int, how: str) -> None:
        out[at].setdefault(listed[to].page, Link(listed[to].page, listed[to].name, how, listed[to].rule.level))

    for number, subject in enumerate(subjects):
        document = subject.results[0].document
        for row in document.meta.related:
            name, how = str(row.get("id", "")), str(row.get("type", "related"))
            for to in by_name.get(name, ()):
                link(number, to, how)
            if name and name not in by_name:
                out[number][name] = Link("", name, how)
        if isinstance(document, Correlation):
            for to in (to for reference in document.rules for to in by_name.get(reference.name, ())):
                link(number, to, "correlated here")
                link(to, number, "correlation that uses this rule")
    for number, one in enumerate(listed):
        shared: dict[int, int] = {}
        for technique in one.rule.techniques:
            for to in by_technique[technique]:
                shared[to] = shared.get(to, 0) + 1
        shared.pop(number, None)
        alike = sorted(shared, key=lambda to: (-shared[to], listed[to].rank, listed[to].name, listed[to].page))
        for to in alike[:ALIKE]:
            same = [t for t in one.rule.techniques if t in listed[to].rule.techniques]
            link(number, to, f"same technique: {', '.join(same)}")
    return [list(links.values()) for links in out]


# --------------------------------------------------------------------------------------------------------------------
# What has changed


def _ground(wanted: Wanted, targets: Sequence[str]) -> str:
    """What every page stands on: a change of it renders all of them anew."""
    held = hashlib.sha256(f"{__version__}\0{wanted!r}\0{targets}".encode())
    facts = [mappings_folder() / name for name in ("attack.yml", "collection.yml", "deploy/connectors.yml")]
    templates = [path for folder in (HOME / "templates", *wanted.templates) for path in sorted(folder.rglob("*.j2"))]
    for path in (*facts, *templates, *sorted(HOME.glob("*.py"))):
        held.update(path.read_bytes())
    return held.hexdigest()


def _digest(subject: Subject, links: Sequence[Link]) -> str:
    """Of everything that the page of a rule is made from."""
    parts: list[Any] = [subject.path, subject.settings, subject.proofs, subject.changes, links]
    parts.append(text_of(subject.results[0]))
    for done in subject.results:
        parts += [done.target, done.kql, done.table, done.verdict, done.passed_over, done.caveats]
        parts += [dict(done.mapped), dict(done.columns), dict(done.verdicts), done.here]
        parts += [(d.code, d.message, d.hint, d.severity) for d in done.diagnostics]
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


CHANGES = ("new", "changed", "gone")


def _differs(old: Mapping[str, Any], digests: Mapping[str, str]) -> bool:
    return bool(old.get("rules")) and old["rules"] != digests


def _since(old: Mapping[str, Any], digests: Mapping[str, str], listed: Sequence[Listed]) -> dict[str, list[list[str]]]:
    """What is new, changed and gone against the build before (page, title, id); where nothing is, what was then."""
    if not _differs(old, digests):
        found: dict[str, list[list[str]]] = old.get("since") or {key: [] for key in CHANGES}
        return found
    was: Mapping[str, str] = old["rules"]
    rows = [(one.page, [one.page, one.name, one.rule.id or ""]) for one in listed]
    return {
        "new": [row for page, row in rows if page not in was],
        "changed": [row for page, row in rows if page in was and was[page] != digests[page]],
        "gone": [
            ["", old.get("titles", {}).get(page, page), PurePosixPath(page).stem] for page in was if page not in digests
        ],
    }


# --------------------------------------------------------------------------------------------------------------------
# Rendering


def _page(subject: Subject, one: Listed, links: Sequence[Link], wanted: Wanted) -> RulePage:
    return rule_page(
        one.page,
        one.rule,
        subject.results,
        subject.settings,
        wanted.options,
        wanted.formats,
        takes=wanted.takes,
        path=subject.path,
        source_url=wanted.source_url,
        related=links,
        proofs=subject.proofs,
        changes=subject.changes,
    )


def _other_pages(
    pages: Pages,
    subjects: Sequence[Subject],
    listed: Sequence[Listed],
    wanted: Wanted,
    since: Mapping[str, list[list[str]]],
) -> Iterator[tuple[str, str | bytes]]:
    """Everything beside the pages of rules: (path, text)."""
    for name in ("site.css", "theme.js", "site.js", "search.js", "icon.svg"):
        yield f"assets/{name}", (HOME / "assets" / name).read_text(encoding="utf-8")
    if wanted.playground:
        yield "assets/playground.js", (HOME / "assets" / "playground.js").read_text(encoding="utf-8")
        values = {"example": EXAMPLE, "events": EVENTS}
        yield "playground.html", pages.render("playground.html.j2", "playground.html", values)
        yield from wanted.files
    if wanted.css:
        yield "assets/own.css", wanted.css
    rows = [(one.page, one.rule, one.text) for one in listed]
    yield "assets/rules.js", index_script(rows, list(wanted.options))
    yield from overview_pages(pages, subjects, listed, wanted, since)
    found = entries(rows, wanted.base_url)
    updated = found[0].day if found else "1970-01-01"
    yield "feed.atom", pages.render("feed.atom.j2", "feed.atom", {"entries": found, "updated": updated})
    yield "feed.json", json_feed(wanted.title, wanted.base_url, found)
    changes = {key: [{"id": row[2], "title": row[1], "page": row[0] or None} for row in since[key]] for key in CHANGES}
    yield "changes.json", json.dumps(changes, ensure_ascii=False, indent=1) + "\n"
