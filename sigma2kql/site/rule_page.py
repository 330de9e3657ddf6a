"""What the page of one rule says, as plain values; no markup yet.

Place in the flow: between the results of a build and the template `rule.html.j2`. Invariant: every section is there,
and one that a rule states nothing for says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, assert_never
from urllib.parse import quote

from sigma2kql.api import Options, prepare_artifact
from sigma2kql.artifacts.artifact_text import assemble, render
from sigma2kql.artifacts.bodies import short_duration
from sigma2kql.artifacts.formats import FORMATS
from sigma2kql.artifacts.kinds import AlertRule, Artifact, Detection
from sigma2kql.artifacts.settings import Settings, merge_rule
from sigma2kql.coverage import Covered, Outcome
from sigma2kql.coverage.attack_names import (
    homes_of,
    other_generation,
    tactic_title,
    technique_name,
    technique_url,
)
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Source, frozen
from sigma2kql.language.strings import placeholders
from sigma2kql.model.simplify import simplify
from sigma2kql.model.tree import (
    And,
    Broken,
    Compiled,
    Correlation,
    Document,
    Expr,
    Filter,
    Match,
    NativeQuery,
    Not,
    Or,
    Rule,
)
from sigma2kql.model.words import in_words
from sigma2kql.site.code_lines import code_lines
from sigma2kql.site.data_needs import Events, Need, events, needs
from sigma2kql.site.history import Change
from sigma2kql.text.nodes import YamlMap
from sigma2kql.text.yaml_text import compose

if TYPE_CHECKING:
    from markupsafe import Markup

ROOM = 30_000  # characters of code on a page: what is beyond stands in a file beside it, and its beginning here
WIDEST = 12_000  # of one code
LEAST = 1_500  # of each code that is cut
NODES = 250  # lines of the tree
# Where a query is run by hand. Neither product documents a URL that carries the query, so these open its editor.
PORTALS = {
    "xdr": ("Defender, advanced hunting", "https://security.microsoft.com/v2/advanced-hunting"),
    "sentinel": (
        "Azure portal, Log Analytics",
        "https://portal.azure.com/#browse/Microsoft.OperationalInsights%2Fworkspaces",
    ),
}
SENTENCES = {
    "exact": "returns exactly the events that the rule means",
    "broader": "returns more than the rule means",
    "narrower": "returns less than the rule means",
    "no query": "gives no query of its own: it feeds a correlation",
    "failed": "no query",
}
# The codes that say why a query is not exact: for all rows, and for those of one source.
REASONS = {"broader": ("W401", "W407"), "narrower": ("W402", "W406", "W408")}
LANGUAGE_OF = {".yaml": "yaml", ".json": "json", ".bicep": "bicep", ".tf": "tf"}
ENDS = {"yaml": "yml", "kql": "kql", "json": "json", "bicep": "bicep", "tf": "tf"}


@frozen
class Code:
    """A tab: its id on the page, its label, the text and its coloured lines."""

    id: str
    label: str
    text: str
    lines: tuple[Markup, ...]
    file: str = ""  # beside the page, where the lines are only the first ones


@frozen
class Told:
    """What became of the rule on one target, in words."""

    outcome: Outcome
    sentences: tuple[str, ...]
    columns: Mapping[str, str]
    mapped: Mapping[str, str]
    passed_over: tuple[str, ...]
    caveats: tuple[str, ...]
    problems: tuple[Diagnostic, ...]
    needs: tuple[Need, ...]
    hash: str


@frozen
class Node:
    """A line of the tree: its words, the columns that it is asked of, what stands below."""

    words: str
    columns: str = ""
    items: tuple[Node, ...] = ()


@frozen
class Technique:
    id: str
    name: str
    url: str
    tactics: tuple[str, ...]
    former: str


@frozen
class Link:
    """Another rule: its page (empty where it is not on the site), its title, and how it is related."""

    page: str
    title: str
    how: str
    level: str = ""


@frozen
class Proven:
    """What running a target's query on events showed."""

    target: str
    status: str
    reason: str
    events: int
    positive: int
    matched: int
    attacks: int
    engine: str
    day: str
    kql: str  # hash of the query that was run


@frozen
class RulePage:
    """Everything that the page of one rule shows."""

    page: str
    rule: Covered
    name: str
    hypothesis: str
    stated: bool
    told: tuple[Told, ...]
    codes: tuple[Code, ...]
    events: tuple[Events, ...]
    tree: tuple[Node, ...]
    falsepositives: tuple[str, ...]
    tunable: tuple[tuple[str, str], ...]
    proofs: tuple[Proven, ...]
    proof_commands: tuple[str, ...]
    deployed: tuple[tuple[str, str], ...]
    entities: tuple[tuple[str, str], ...]
    deployed_why: str
    techniques: tuple[Technique, ...]
    tactics: tuple[str, ...]
    other_tags: tuple[str, ...]
    related: tuple[Link, ...]
    references: tuple[str, ...]
    license: str
    changes: tuple[Change, ...]
    open: tuple[tuple[str, str], ...]  # where a query can be run: words, URL
    path: str
    source_url: str

    @property
    def tables(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(table for told in self.told for table in told.outcome.tables))

    @property
    def problems(self) -> tuple[Diagnostic, ...]:
        """What was found, once for all targets."""
        found = {(d.code, d.message): d for told in self.told for d in told.problems}
        return tuple(found.values())


def text_of(done: Compiled) -> str:
    """The document as it was written."""
    origin = done.document.origin
    return origin.source.text[origin.span.start : origin.span.end] or origin.source.text


def rule_page(
    page: str,
    rule: Covered,
    results: Sequence[Compiled],
    settings: Settings,
    options: Mapping[str, Options],
    formats: Sequence[str],
    *,
    takes: Mapping[str, Sequence[str]],
    path: str,
    source_url: str,
    related: Sequence[Link],
    proofs: Sequence[Proven],
    changes: Sequence[Change],
) -> RulePage:
    """The values of one page. `options` are by target; `takes`: the formats of each target's product."""
    document = results[0].document
    meta = document.meta
    artifacts, artifact, why = _artifacts(results, settings, options, formats or _usual(document), takes)
    tactics = tuple(tactic_title(name) for name in rule.tactics)
    return RulePage(
        page=page,
        rule=rule,
        name=rule.title or meta.id or rule.path,
        hypothesis=_hypothesis(document, rule),
        stated=bool(_description(document)),
        told=tuple(tell(done, outcome) for done, outcome in zip(results, rule.outcomes, strict=True)),
        codes=_fitted([*_written(results), *artifacts], page),
        events=events(document, tuple(results)) if isinstance(document, Rule) else (),
        tree=_meaning(document, results),
        falsepositives=meta.falsepositives,
        tunable=_tunable(document, results[0]),
        proofs=tuple(proofs),
        proof_commands=tuple(
            f"sigma2kql test --generate -t {done.target} {path}"
            for done in results
            if done.kql is not None and not isinstance(document, NativeQuery)
        ),
        deployed=_deployed(artifact),
        entities=_entities(artifact),
        deployed_why=why,
        techniques=tuple(_technique(t) for t in rule.techniques),
        tactics=tactics,
        other_tags=tuple(tag for tag in rule.tags if not tag.lower().startswith("attack.")),
        related=tuple(related),
        references=meta.references,
        license=meta.license or "",
        changes=tuple(changes),
        open=tuple(PORTALS[kind] for kind in ("xdr", "sentinel") if _runs_in(kind, results)),
        path=path,
        source_url=source_url + quote(path) if source_url else "",
    )


def _technique(name: str) -> Technique:
    tactics = tuple(map(tactic_title, homes_of(name)))
    return Technique(name, technique_name(name), technique_url(name), tactics, other_generation(name))


def _runs_in(kind: str, results: Sequence[Compiled]) -> bool:
    return any(done.kql is not None and (done.target == "xdr") == (kind == "xdr") for done in results)


def _description(document: Any) -> str:
    if isinstance(document, NativeQuery):
        return str(document.data.get("description") or document.data.get("description-detailed") or "").strip()
    return str(document.meta.description).strip()


def _hypothesis(document: Any, rule: Covered) -> str:
    """The description; where there is none, the title as a hypothesis to hunt by."""
    told = _description(document)
    if told or not rule.title:
        return told
    subject = rule.logsource or ", ".join(rule.outcomes[0].tables) or "these logs"
    return f"If “{rule.title}” happens here, the events of {subject} show it as this rule states it."


def tell(done: Compiled, outcome: Outcome) -> Told:
    """A result in words."""
    wanted = REASONS.get(outcome.verdict, ())
    sentences = [d.message for d in done.diagnostics if d.code in wanted]
    if outcome.verdict == "failed":
        sentences = [outcome.problem]
    here = outcome.here
    return Told(
        outcome,
        (SENTENCES[outcome.verdict], *sentences, *((f"here: {here}", *outcome.reasons) if here else ())),
        done.columns,
        done.mapped,
        done.passed_over,
        done.caveats,
        tuple(d for d in done.diagnostics if d.code not in wanted),
        needs(done) if outcome.found else (),
        hashlib.sha256((done.kql or "").encode()).hexdigest()[:16] if done.kql else "",
    )


# --------------------------------------------------------------------------------------------------------------------
# Code


def _usual(document: Any) -> tuple[str, ...]:
    """The artifacts shown where nobody chose."""
    return ("hunting-yaml", "xdr-json") if isinstance(document, NativeQuery) else ("sentinel-yaml", "xdr-json")


def _fitted(codes: Sequence[tuple[str, str, str, str]], page: str) -> tuple[Code, ...]:
    """Codes (id, label, text, language) with their lines, as much of each as the page has room for."""
    out = []
    room = ROOM
    stem = page.removesuffix(".html")
    for name, label, text, language in codes:
        shown, file = text, ""
        most = max(LEAST, min(room, WIDEST))
        if len(text) > most:
            shown = text[:most]
            shown = shown[: shown.rfind("\n") + 1] or shown
            file = f"{stem}.{name}.{ENDS[language]}"
        room -= len(shown)
        out.append(Code(name, label, text, tuple(code_lines(shown, language)), file))
    return tuple(out)


def _written(results: Sequence[Compiled]) -> list[tuple[str, str, str, str]]:
    """The rule as it was written and the query for each target; queries that are equal, once."""
    rule = text_of(results[0])
    native = isinstance(results[0].document, NativeQuery)
    found = [("written", "As written" if native else "Sigma", rule, "yaml")]
    seen: set[str] = set()
    for done in results:
        if done.kql is None or (native and done.kql in seen):
            continue
        seen.add(done.kql)
        label = "KQL" if native else f"KQL {done.target}"
        found.append((f"kql-{_slug(done.target)}", label, done.kql, "kql"))
    return found


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def _artifacts(
    results: Sequence[Compiled],
    settings: Settings,
    options: Mapping[str, Options],
    formats: Sequence[str],
    takes: Mapping[str, Sequence[str]],
) -> tuple[list[tuple[str, str, str, str]], Artifact | None, str]:
    """The codes of artifacts, what was decided for the first, and why there is none in a format."""
    codes: list[tuple[str, str, str, str]] = []
    first: Artifact | None = None
    why = ""
    for form in formats:
        for done in results:
            if done.kql is None or form not in (takes.get(done.target) or FORMATS):
                continue
            try:
                own = merge_rule(settings, done.document.meta.custom, done.document.origin.span)
                prepared = prepare_artifact(done, form, own, options[done.target])
                text = assemble([render(prepared.artifact, form, own)], form)
            except Sigma2KqlError as error:
                why = f"{form}: {error.diagnostics[0].message}"
                continue
            first, why = first or prepared.artifact, ""
            codes.append((f"artifact-{_slug(form)}", form, text, LANGUAGE_OF[FORMATS[form].extension]))
            break
    return codes, first, why


def _deployed(artifact: Artifact | None) -> tuple[tuple[str, str], ...]:
    """What would be deployed, in words: severity, schedule, threshold."""
    match artifact:
        case AlertRule(schedule=None):
            return (("severity", artifact.severity), ("kind", "near real time"))
        case AlertRule(schedule=schedule) if schedule is not None:
            sign = {"gt": "more than", "lt": "fewer than", "eq": "exactly", "ne": "not exactly"}[schedule.operator]
            return (
                ("severity", artifact.severity),
                ("runs every", short_duration(schedule.frequency)),
                ("looks back", short_duration(schedule.period)),
                ("alerts on", f"{sign} {schedule.threshold} rows"),
                ("alerts", {"AlertPerResult": "one a row"}.get(artifact.aggregation or "", "one for all rows")),
                ("tactics", ", ".join(artifact.tactics)),
            )
        case Detection():
            every = short_duration(artifact.frequency) if artifact.frequency else "continuously"
            return (("severity", artifact.severity), ("runs", every))
        case _:
            return ()


def _entities(artifact: Artifact | None) -> tuple[tuple[str, str], ...]:
    if artifact is None:
        return ()
    rows = [(one.type, [f"{name} = {column}" for name, column in one.fields]) for one in artifact.entities]
    return tuple((kind, ", ".join(fields)) for kind, fields in rows)


# --------------------------------------------------------------------------------------------------------------------
# Meaning


def _meaning(document: Document, results: Sequence[Compiled]) -> tuple[Node, ...]:
    """The tree of what the rule means; each test knows the columns that it is asked of."""
    mapped = next((done.mapped for done in results if done.mapped), {})
    match document:
        case Rule() | Filter():
            return (_shortened(_node(simplify(document.where), mapped), [NODES]),)
        case Correlation():
            return _correlated(document)
        case NativeQuery() | Broken():
            return ()
        case _:
            assert_never(document)


def _node(expr: Expr[Any], mapped: Mapping[str, str]) -> Node:
    match expr:
        case And(items):
            return Node("all of", "", tuple(_node(item, mapped) for item in items))
        case Or(items):
            one = _values(items, mapped)
            return one or Node("any of", "", tuple(_node(item, mapped) for item in items))
        case Not(item):
            return Node("not", "", (_node(item, mapped),))
        case Match(subject, test):
            return Node(f"{subject.name or 'the event'} {in_words(test)}", mapped.get(subject.name or "", ""))
        case _:
            assert_never(expr)


def _shortened(node: Node, room: list[int]) -> Node:
    """The tree with at most so many lines; what is left out is counted."""
    room[0] -= 1
    kept = []
    for number, item in enumerate(node.items):
        if room[0] <= 0:
            kept.append(Node(f"and {len(node.items) - number:,} more"))
            break
        kept.append(_shortened(item, room))
    return Node(node.words, node.columns, tuple(kept))


def _values(items: Sequence[Expr[Any]], mapped: Mapping[str, str]) -> Node | None:
    """Many tests on one field under the field's name, each as short as it can be."""
    names = {item.subject.name if isinstance(item, Match) else "" for item in items}
    if len(items) < 2 or len(names) != 1 or not (name := names.pop()):
        return None
    tests = tuple(Node(in_words(item.test)) for item in items if isinstance(item, Match))
    return Node(f"{name}: any of", mapped.get(name, ""), tests)


def _correlated(document: Correlation) -> tuple[Node, ...]:
    rules = Node("of the rules", "", tuple(Node(one.name) for one in document.rules))
    words = [Node(f"{document.type.replace('_', ' ')} within {document.timespan:,} seconds")]
    if document.group_by:
        words.append(Node("for each " + ", ".join(one.name for one in document.group_by)))
    if document.threshold is not None:
        signs = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "eq": "=", "neq": "!="}
        bounds = " and ".join(f"{signs[name]} {number:g}" for name, number in document.threshold.bounds)
        fields = ", ".join(document.threshold.fields)
        words.append(Node(f"{f'values of {fields} ' if fields else ''}{bounds}"))
    if document.expression:
        words.append(Node(document.expression))
    return (rules, *words)


def _tunable(document: Document, done: Compiled) -> tuple[tuple[str, str], ...]:
    """What a team may change without changing what the rule looks for: its filters, and its placeholders."""
    if not isinstance(document, Rule):
        return ()
    found = [(f"%{name}%", "placeholder: give its values") for name, _ in placeholders(document.where)]
    composed = compose(Source("", text_of(done)))
    root = composed[0].root if composed else None
    detection = root.get("detection") if isinstance(root, YamlMap) else None
    if isinstance(detection, YamlMap):
        for name, node in detection.values.items():
            if name.startswith("filter"):
                kind = "optional: switch off what you do not run" if "optional" in name else "excludes"
                fields = ", ".join(dict.fromkeys(key.partition("|")[0] for key in _keys(node)))
                found.append((name, f"{kind} ({fields})" if fields else kind))
    return tuple(dict.fromkeys(found))


def _keys(node: Any) -> list[str]:
    if isinstance(node, YamlMap):
        return list(node.values)
    return [key for item in getattr(node, "items", ()) for key in _keys(item)]
