"""Layers of the ATT&CK Navigator: one a target, one a source, one a difference of two targets.

Place in the flow: from counts to JSON that Navigator opens. Invariant: a layer is in format 4.5, a technique stands in
it once, and its score is the number of rules that find it.

Source: mitre-attack/attack-navigator, "Layer file format 4.5".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sigma2kql.coverage import NONE, Covered, Outcome
from sigma2kql.coverage.attack_names import attack, technique_url

LAYER = "4.5"
NAVIGATOR = "5.1.0"
FINDS = ("exact", "broader")  # a narrower query finds some of it: told in the comment, not scored
SHADES = ("#e3edf8", "#0a58b5")
ONLY = {"first": "#0a58b5", "second": "#c25b00", "both": "#6b7785"}
TITLES = 12  # of rules, in a comment


def target_layer(rules: Sequence[Covered], target: str, title: str = "") -> dict[str, Any]:
    """Every technique that a rule is tagged with; the score is the rules whose query finds it on this target."""
    found = {technique: _scored(those, target) for technique, those in _by_technique(rules).items()}
    return _layer(title or f"sigma2kql: {target}", f"Rules by technique, as they convert for {target}.", found)


def source_layer(rules: Sequence[Covered], target: str, source: str) -> dict[str, Any]:
    """The same for the rows of one source."""
    those = [rule for rule in rules if source in rule.on(target).sources]
    found = {technique: _scored(own, target, source) for technique, own in _by_technique(those).items()}
    return _layer(
        f"sigma2kql: {source} ({target})", f"Rules by technique, on the rows of {source} for {target}.", found
    )


def difference_layer(rules: Sequence[Covered], first: str, second: str) -> dict[str, Any]:
    """Which techniques only one of two targets finds; the score is the difference in rules."""
    rows = {}
    for technique, those in _by_technique(rules).items():
        here, there = (sum(_finds(rule.on(target)) for rule in those) for target in (first, second))
        if here or there:
            kind = "both" if here and there else "first" if here else "second"
            comment = f"{first}: {here} rules, {second}: {there} rules"
            rows[technique] = {"score": here - there, "comment": comment, "color": ONLY[kind]}
    legend = [(f"only {first}", ONLY["first"]), (f"only {second}", ONLY["second"]), ("both", ONLY["both"])]
    text = f"Techniques that rules find on {first}, on {second}, or on both."
    return _layer(f"sigma2kql: {first} against {second}", text, rows, legend)


def gap_layer(wanted: Iterable[tuple[str, int]], target: str, title: str) -> dict[str, Any]:
    """A list of techniques that is asked for: (technique, rules that find it)."""
    rows = {
        technique: {"score": number, "comment": f"{number} rules", "color": "#1a6b36" if number else "#b3202a"}
        for technique, number in wanted
    }
    legend = [("covered", "#1a6b36"), ("not covered", "#b3202a")]
    return _layer(f"sigma2kql: gaps ({target})", f"{title}, against the rules for {target}.", rows, legend)


def as_json(layer: Mapping[str, Any]) -> str:
    return json.dumps(layer, ensure_ascii=False, indent=2) + "\n"


def read_techniques(text: str) -> list[str]:
    """The techniques of a layer (those that are enabled, and scored or coloured where any is), or of a plain list.

    A list is any text: what looks like T1059 or T1059.001 is taken, what stands behind `#` is not.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        lines = [line.partition("#")[0] for line in text.splitlines()]
        found = [one.upper() for line in lines for one in re.findall(r"\b[Tt]\d{4}(?:\.\d{3})?\b", line)]
        return list(dict.fromkeys(found))
    rows = [row for row in _rows(data) if row.get("enabled", True) is not False]
    marked = [row for row in rows if row.get("score") not in (None, 0, "") or row.get("color")]
    names = [str(row.get("techniqueID", "")).upper() for row in marked or rows]
    return [name for name in dict.fromkeys(names) if re.fullmatch(r"T\d{4}(?:\.\d{3})?", name)]


def _rows(data: Any) -> list[dict[str, Any]]:
    """Of a layer, or of several in one file; a list of ids is a layer without anything said."""
    if isinstance(data, list):
        return [row for one in data for row in ([{"techniqueID": one}] if isinstance(one, str) else _rows(one))]
    rows = data.get("techniques") if isinstance(data, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


# --------------------------------------------------------------------------------------------------------------------


def _by_technique(rules: Iterable[Covered]) -> dict[str, list[Covered]]:
    found: dict[str, list[Covered]] = {}
    for rule in rules:
        for technique in rule.techniques:
            found.setdefault(technique, []).append(rule)
    return dict(sorted(found.items()))


def _finds(outcome: Outcome, source: str = "") -> bool:
    return (outcome.sources.get(source, "") if source else outcome.verdict) in FINDS and outcome.here != "dead"


def _scored(those: Sequence[Covered], target: str, source: str = "") -> dict[str, Any]:
    counts: dict[str, int] = {}
    for rule in those:
        outcome = rule.on(target)
        verdict = outcome.sources.get(source, outcome.verdict) if source else outcome.verdict
        for word in (verdict, outcome.here):
            if word:
                counts[word] = counts.get(word, 0) + 1
    finders = [rule for rule in those if _finds(rule.on(target), source)]
    titles = [rule.title for rule in finders[:TITLES] if rule.title]
    more = f"\nand {len(finders) - TITLES} more" if len(finders) > TITLES else ""
    return {
        "score": len(finders),
        "comment": "\n".join([", ".join(f"{number} {word}" for word, number in counts.items()), *titles]) + more,
        "metadata": [{"name": word, "value": str(number)} for word, number in counts.items()],
    }


def _layer(
    name: str, description: str, rows: Mapping[str, Mapping[str, Any]], legend: Sequence[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Only techniques of the matrix's own version: Navigator does not know others, and says nothing of them."""
    known = {key: row for key, row in rows.items() if key in attack().names and key not in attack().former}
    left = sorted(key for key in rows if key not in known and key != NONE)
    note = f" Not in ATT&CK v{attack().version}, left out: {', '.join(left)}." if left else ""
    most = max([row["score"] for row in known.values()], default=1)
    items = legend or [("no rule finds it", SHADES[0]), (f"{max(most, 1)} rules", SHADES[1])]
    return {
        "name": name,
        "versions": {"attack": attack().version, "navigator": NAVIGATOR, "layer": LAYER},
        "domain": "enterprise-attack",
        "description": description + note,
        "sorting": 3,
        "layout": {
            "layout": "side",
            "showID": True,
            "showName": True,
            "showAggregateScores": True,
            "countUnscored": False,
            "aggregateFunction": "sum",
            "expandedSubtechniques": "annotated",
        },
        "hideDisabled": False,
        "techniques": [
            {
                "techniqueID": key,
                **row,
                "enabled": True,
                "showSubtechniques": False,
                "links": [{"label": "ATT&CK", "url": technique_url(key)}],
            }
            for key, row in known.items()
        ],
        "gradient": {"colors": list(SHADES), "minValue": 0, "maxValue": max(most, 1)},
        "legendItems": [{"label": label, "color": color} for label, color in items],
        "showTacticRowBackground": False,
        "selectTechniquesAcrossTactics": True,
        "selectSubtechniquesWithParent": False,
        "selectVisibleTechniques": False,
    }
