"""The `correlation` section of a document: a rule over the matches of other rules.

Place in the flow: part of loading; what the references point at is settled later, over all documents. Invariant:
every attribute is understood or an error at its place, and a condition that nothing can meet is one. Source: Sigma
correlation rules specification 2.1; the additions of pySigma (value_median, percentile, temporal expressions which may
name the rules alone, a string for a list) are taken too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, assert_never, get_args

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic, did_you_mean
from sigma2kql.language.condition import Condition, Joined, Named, Quantified
from sigma2kql.model.named_rules import folded_name
from sigma2kql.model.thresholds import COUNTS, MOST, impossible
from sigma2kql.model.tree import CorrelationType, Reference, Threshold
from sigma2kql.text.nodes import Fault, YamlList, YamlMap, YamlNode, YamlScalar, locate, span

TYPES: tuple[str, ...] = get_args(CorrelationType)
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "M": 2_592_000, "y": 31_536_000}
OPERATORS = ("gt", "gte", "lt", "lte", "eq", "neq")
_KEYS = frozenset({"type", "rules", "group-by", "timespan", "condition", "aliases", "generate"})
MOST_TRIED = 12  # rules of a condition: all choices of them are tried
_TIMESPAN = re.compile(r"(\d{1,9})([smhdwMy])")


@dataclass(slots=True)
class Section:
    """A correlation section as read; what is missing had an error."""

    type: Any = None
    rules: tuple[Reference, ...] = ()
    group_by: tuple[Reference, ...] = ()
    timespan: int = 0
    threshold: Threshold | None = None
    expression: str | None = None
    aliases: dict[str, dict[str, str]] = field(default_factory=dict)
    generate: bool = False


class CorrelationReader:
    """Reads one correlation section; `problems` receives what is wrong with it."""

    __slots__ = ("key", "node", "problems", "source")

    def __init__(self, source: Source, key: YamlScalar, node: YamlMap, problems: list[Diagnostic]) -> None:
        self.source = source
        self.key = key
        self.node = node
        self.problems = problems

    def read(self) -> Section:
        section = Section()
        for name in self.node.values:
            if name not in _KEYS:
                key = self.node.key(name)
                self.report("E230", f"`{name}` is not part of a correlation", key, did_you_mean(name, _KEYS))
        section.type = self.kind()
        alone = section.type in ("temporal", "temporal_ordered") and self.node.get("rules") is None
        node = self.node.get("condition")
        alone = alone and isinstance(node, YamlScalar) and isinstance(node.value, str)
        section.rules = () if alone else self.references("rules", "E230", True)
        section.group_by = self.references("group-by", "E230", False)
        section.timespan = self.timespan()
        section.aliases = self.aliases()
        section.generate = self.flag("generate", self.node.get("generate"))
        self.condition(section)
        return section

    def report(self, code: Code, message: str, node: YamlNode, hint: str = "") -> None:
        self.problems.append(diagnostic(code, message, span(self.source, node), hint))

    def required(self, name: str) -> YamlNode | None:
        node = self.node.get(name)
        if node is None or (isinstance(node, YamlScalar) and node.value is None):
            self.report("E230", f"the correlation has no `{name}`", self.key)
            return None
        return node

    def kind(self) -> str | None:
        node = self.required("type")
        if node is None:
            return None
        text = node.text if isinstance(node, YamlScalar) else ""
        if text in TYPES:
            return text
        if text.removesuffix("_extended") in TYPES:
            hint = f"write `{text.removesuffix('_extended')}`: its condition may be an expression over names of rules"
            self.report("E231", f"`{text}` is not a type of correlation", node, hint)
            return None
        hint = did_you_mean(text, TYPES) or f"one of {', '.join(TYPES)}"
        self.report("E231", f"`{text}` is not a type of correlation" if text else "`type` must be text", node, hint)
        return None

    def references(self, name: str, code: Code, required: bool) -> tuple[Reference, ...]:
        node = self.required(name) if required else self.node.get(name)
        return read_references(self.source, name, node, code, self.problems, may_be_empty=not required)

    def timespan(self) -> int:
        node = self.required("timespan")
        if node is None:
            return 0
        text = node.text if isinstance(node, YamlScalar) else ""
        found = _TIMESPAN.fullmatch(text)
        if found is None or int(found[1]) == 0:
            hint = "a number and a unit: 30s, 5m, 1h, 7d"
            self.report("E232", f"`{text}` is not a time span" if text else "`timespan` must be text", node, hint)
            return 0
        return int(found[1]) * UNITS[found[2]]

    def flag(self, name: str, node: YamlNode | None) -> bool:
        if node is None or (isinstance(node, YamlScalar) and isinstance(node.value, bool)):
            return node is not None and bool(node.value)
        self.report("E230", f"`{name}` must be true or false", node)
        return False

    def aliases(self) -> dict[str, dict[str, str]]:
        node = self.node.get("aliases")
        aliases: dict[str, dict[str, str]] = {}
        if node is None:
            return aliases
        if not isinstance(node, YamlMap):
            self.report("E234", "`aliases` must be a map", node, "alias: {rule name: field}")
            return aliases
        for alias, value in node.values.items():
            if not isinstance(value, YamlMap) or not value.values:
                self.report("E234", f"the alias `{alias}` must be a map", node.key(alias), "alias: {rule name: field}")
                continue
            aliases[alias] = {}
            for rule, name in value.values.items():
                if isinstance(name, YamlScalar) and isinstance(name.value, str) and name.text:
                    aliases[alias][rule] = name.text
                else:
                    self.report("E234", f"the field of the alias `{alias}` in `{rule}` must be text", name)
        return aliases

    # -- condition

    def condition(self, section: Section) -> None:
        temporal = section.type in ("temporal", "temporal_ordered")
        node = self.node.get("condition")
        if node is None or (isinstance(node, YamlScalar) and node.value is None):
            if section.type is not None and not temporal:
                self.report(
                    "E233", f"a correlation of type {section.type} needs a condition", self.key, "like `gte: 10`"
                )
        elif section.type is None and isinstance(node, YamlScalar):
            return  # nobody knows what it should be
        elif isinstance(node, YamlMap):
            section.threshold = self.threshold(node, section.type, len(dict.fromkeys(section.rules)))
        elif isinstance(node, YamlScalar) and isinstance(node.value, str) and temporal:
            section.expression = self.expression(node, section)
        else:
            what = "a map, or for temporal correlations an expression over the names of the rules"
            self.report("E233", f"the condition must be {what}", node, "like `gte: 10`")

    def threshold(self, node: YamlMap, kind: str | None, rules: int = 0) -> Threshold | None:
        bounds: list[tuple[Any, float]] = []
        fields: tuple[str, ...] = ()
        percentile: float | None = None
        before = len(self.problems)
        for name, value in node.values.items():
            key = node.key(name)
            if name in OPERATORS or name == "percentile":
                number = self.number(name, value)
                if number is None:
                    continue
                if name != "percentile":
                    bounds.append((name, number))
                elif kind == "value_percentile" and 0 <= number <= 100:
                    percentile = number
                else:
                    self.report("E233", "`percentile` is a number from 0 to 100, for value_percentile only", key)
            elif name == "field":
                found = read_references(self.source, "field", value, "E233", self.problems)
                fields = tuple(reference.name for reference in found)
                if kind in ("event_count", "temporal", "temporal_ordered"):
                    self.report("E233", f"a correlation of type {kind} counts no field", key)
            else:
                self.report("E233", f"`{name}` is not part of the condition", key, did_you_mean(name, OPERATORS))
        if len(self.problems) == before:
            self.check_threshold(node, kind, bounds, fields, percentile)
            self.check_possible(node, kind, bounds, rules)
        return None if len(self.problems) > before else Threshold(tuple(bounds), fields, percentile)

    def check_threshold(
        self, node: YamlMap, kind: str | None, bounds: list[Any], fields: tuple[str, ...], percentile: float | None
    ) -> None:
        if not bounds:
            self.report("E233", "the condition compares with no number", node, f"one of {', '.join(OPERATORS)}")
        if kind is not None and kind.startswith("value_"):
            if not fields:
                self.report("E233", f"a correlation of type {kind} needs `field` in its condition", node)
            elif len(fields) > 1 and kind != "value_count":
                self.report("E233", f"a correlation of type {kind} takes one field", node)
        if kind == "value_percentile" and percentile is None:
            self.report("E233", "a correlation of type value_percentile needs `percentile` in its condition", node)

    def check_possible(self, node: YamlMap, kind: str | None, bounds: list[Any], rules: int) -> None:
        """A number that nothing can pass is a mistake. `rules`: how many there are, where that is known."""
        most = rules if rules and kind in ("temporal", "temporal_ordered") else None
        if impossible(bounds, kind in COUNTS, most):
            text = ", ".join(f"{op}: {number}" for op, number in bounds)
            why = f": there are {most} rules" if most is not None else ""
            if kind in COUNTS and any(number > MOST for _, number in bounds):
                why = f": no window is asked for more than {MOST:,} matches"
            self.report("E233", f"`{text}` can never hold{why}", node)

    def number(self, name: str, node: YamlNode) -> float | None:
        value = node.value if isinstance(node, YamlScalar) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
            self.report("E233", f"`{name}` must be a number", node)
            return None
        return value

    def expression(self, node: YamlScalar, section: Section) -> str | None:
        """A condition over rule names: it must parse, name exactly the rules listed (or, without a list, those that it
        names), and be possible.
        """
        from sigma2kql.language.condition import parse_rule_names

        parsed = parse_rule_names(node.text)
        if isinstance(parsed, Fault):
            self.problems.append(parsed.diagnostic(self.source, node))
            return None
        named: dict[str, Span] = {}
        for found in leaves_of(parsed):
            at = locate(self.source, node, found.start, found.end)
            if isinstance(found, Named):
                named.setdefault(found.name, at)
            else:
                self.problems.append(diagnostic("E233", "a correlation names its rules one by one", at))
        if self.node.get("rules") is None:
            section.rules = tuple(Reference(name, at) for name, at in named.items())
        known = {reference.name: reference for reference in section.rules}
        for name, at in named.items():
            if name not in known:
                message = f"`{name}` is not one of the rules of this correlation"
                self.problems.append(diagnostic("E233", message, at, did_you_mean(name, known)))
        for name, reference in known.items():
            if name not in named:
                at = reference.span or span(self.source, node)
                self.problems.append(diagnostic("E233", f"the condition does not mention the rule `{name}`", at))
        if len(named) <= MOST_TRIED and not _possible(parsed, list(named)):
            self.report("E233", "the condition can never hold when one of the rules matches", node)
        return node.text


def leaves_of(node: Condition) -> Iterator[Named | Quantified]:
    """The names and patterns of a condition, from left to right."""
    if isinstance(node, Joined):
        for operand in node.operands:
            yield from leaves_of(operand)
    else:
        yield node


def _possible(node: Condition, names: Sequence[str]) -> bool:
    """Whether some choice of rules that match, of at least one, meets the condition."""

    def holds(one: Condition, given: frozenset[str]) -> bool:
        match one:
            case Named(name):
                return name in given
            case Joined("not", (operand,)):
                return not holds(operand, given)
            case Joined(word, operands):
                return (all if word == "and" else any)(holds(operand, given) for operand in operands)
            case Quantified():
                return True
            case _:
                assert_never(one)

    sizes = range(1, len(names) + 1)
    return any(holds(node, frozenset(given)) for size in sizes for given in combinations(names, size))


def read_references(
    source: Source,
    name: str,
    node: YamlNode | None,
    code: Code,
    problems: list[Diagnostic],
    *,
    may_be_empty: bool = False,
) -> tuple[Reference, ...]:
    """A list of names, or one name; problems are reported with `code`."""
    if node is None:
        return ()
    items = node.items if isinstance(node, YamlList) else [node]
    found = []
    for item in items:
        at = Span(source, item.start, item.end)
        if isinstance(item, YamlScalar) and item.value is not None and item.text:
            found.append(Reference(folded_name(item.text), at))
        elif not (may_be_empty and isinstance(item, YamlScalar) and item is node):
            problems.append(diagnostic(code, f"`{name}` must hold names", at))
    if not items and not may_be_empty:
        problems.append(diagnostic(code, f"`{name}` is empty", span(source, node)))
    return tuple(found)
