"""ATT&CK of a rule as the products take it: tags of any version in, consistent tactics and techniques of v16 out.

Place in the flow: called by `describe`. Invariant: every technique given out has one of its own tactics among the
tactics given out (Azure-Sentinel's check "NoTechniquesWithoutMatchingTactics"), and no stated tactic disappears
silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from sigma2kql.artifacts.product_tables import facts, tactics, techniques
from sigma2kql.diagnostics.diagnostic import frozen

TECHNIQUE = re.compile(r"T\d{4}(?:\.\d{3})?")
OTHER_MATRICES = frozenset({"PreAttack", "ImpairProcessControl", "InhibitResponseFunction"})


@frozen
class Attack:
    """Tactics and techniques; `unknown` are stated but not Sentinel's, `added` are tactics that a technique implied."""

    tactics: tuple[str, ...]
    techniques: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    added: tuple[str, ...] = ()


def from_tags(tags: Iterable[str]) -> Attack:
    """The ATT&CK of Sigma tags (`attack.stealth`, `attack.t1218.011`; other name spaces are not ATT&CK tactics)."""
    names = [tag.lower()[7:] for tag in tags if tag.lower().startswith("attack.")]
    return resolve(
        [name for name in names if not re.fullmatch(r"[a-z]{1,2}\d{4}(\.\d{3})?", name)],  # groups, software, sources
        [name.upper() for name in names if re.fullmatch(r"t\d{4}(\.\d{3})?", name)],
    )


def resolve(stated_tactics: Iterable[str], stated_techniques: Iterable[str]) -> Attack:
    """Map to v16, drop what Sentinel does not know, and add the tactic that a technique is without."""
    known = {tactic.lower(): tactic for tactic in tactics()}
    chosen: list[str] = []
    unknown: list[str] = []
    for tactic in stated_tactics:
        name = known.get(re.sub(r"[ _-]", "", tactic).lower())
        tagged = facts("attack")["tags"].get(tactic.strip().lower().replace(" ", "-").replace("_", "-"))
        (chosen if name or tagged else unknown).append(name or tagged or tactic)
    kept: list[str] = []
    for technique in stated_techniques:
        former = former_technique(technique.strip().upper())
        valid = TECHNIQUE.fullmatch(former) and former.split(".")[0] in techniques()
        (kept if valid else unknown).append(former if valid else technique)
    added: list[str] = []
    for technique in kept:
        own = techniques()[technique.split(".")[0]]
        if not set(own) & {*chosen, *added}:
            added.append(next((tactic for tactic in own if tactic not in OTHER_MATRICES), own[0]))
    return Attack(_once([*chosen, *added]), _once(kept), _once(unknown), _once(added))


def complete(found: Attack, fallback_tactics: Iterable[str], fallback_techniques: Iterable[str]) -> Attack:
    """The same, with what a team wants for rules without a tactic, or without a technique.

    Of the techniques those that belong to a tactic of the rule: a fallback never says more of what a rule is about.
    """
    if not found.tactics:
        more = resolve(fallback_tactics, ())
        found = replace(found, tactics=more.tactics, unknown=_once([*found.unknown, *more.unknown]))
    if not found.techniques:
        more = resolve((), fallback_techniques)
        fitting = [t for t in more.techniques if set(techniques()[t.split(".")[0]]) & set(found.tactics)]
        found = replace(found, techniques=_once(fitting), unknown=_once([*found.unknown, *more.unknown]))
    return found


def former_technique(technique: str) -> str:
    """The v16 id of a technique that v19 renumbered; a new sub-technique of a renumbered one becomes its base's."""
    table = facts("attack")["former"]
    return str(table.get(technique) or table.get(technique.partition(".")[0], technique))


def limit(attack: Attack, most_tactics: int, most_techniques: int) -> tuple[Attack, tuple[str, ...]]:
    """The same within limits, and what was left out: first tactics that no technique needs, then from the end."""
    needed = {tactic for technique in attack.techniques for tactic in techniques()[technique.split(".")[0]]}
    ranked = sorted(attack.tactics, key=lambda tactic: tactic not in needed)[:most_tactics]
    names = tuple(tactic for tactic in attack.tactics if tactic in ranked)
    ids = tuple(t for t in attack.techniques if set(techniques()[t.split(".")[0]]) & set(names))[:most_techniques]
    out = tuple(x for x in (*attack.tactics, *attack.techniques) if x not in names and x not in ids)
    return Attack(names, ids, attack.unknown, attack.added), out


def single(attack: Attack) -> tuple[str | None, tuple[str, ...]]:
    """The one tactic of a custom detection and its techniques: the first that has a technique, else the first."""
    for tactic in attack.tactics:
        own = tuple(t for t in attack.techniques if tactic in techniques()[t.split(".")[0]])
        if own:
            return tactic, own
    return (attack.tactics[0] if attack.tactics else None), ()


def _once(items: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
