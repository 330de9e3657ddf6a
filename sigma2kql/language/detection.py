"""One search identifier as a tree: maps, lists, keywords and values to `Expr[Field]`.

Place in the flow: between the YAML nodes and the condition; mapping files read their predicates with it too, so it
knows nothing of rules. Invariant: a node gives a tree only if everything in it was understood; every problem in it is
reported, not the first. Source: Sigma specification 2.1, "Detection"; the shapes it leaves open as pySigma reads them.
"""

from __future__ import annotations

import re

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, diagnostic
from sigma2kql.language.modifiers import KEYWORD, NO_MODIFIERS, Chain, Refused, read_chain, read_test
from sigma2kql.language.strings import unescape, within
from sigma2kql.model.tree import ANY, And, Expr, Field, Match, Not, Or, Placeholder, Regex, Text
from sigma2kql.text.nodes import YamlList, YamlMap, YamlNode, YamlScalar, locate, span, trap


def read_detection(source: Source, node: YamlNode, problems: list[Diagnostic]) -> Expr[Field] | None:
    """The tree of one search identifier; None where there is an error, which is then in `problems`."""
    return DetectionReader(source, problems).read(node)


class DetectionReader:
    """Reads search identifiers; `problems` receives what is wrong with them.

    `expands`: whether a value was read with the modifier `expand`, which alone makes placeholders.
    """

    __slots__ = ("expands", "problems", "source")

    def __init__(self, source: Source, problems: list[Diagnostic]) -> None:
        self.source = source
        self.problems = problems
        self.expands = False

    def report(self, code: Code, message: str, at: Span, hint: str = "") -> None:
        self.problems.append(diagnostic(code, message, at, hint))

    def read(self, node: YamlNode) -> Expr[Field] | None:
        """The tree of one search identifier; None where there is an error.

        A map is And over its items, a list Or over its elements, a scalar one keyword (searched in the whole event).
        """
        if isinstance(node, YamlScalar):
            return self.item(Field(None), KEYWORD, [node])
        if isinstance(node, YamlMap):
            parts = [self.entry(node.key(name), value) for name, value in node.values.items()]
        else:
            parts = [self.read(item) for item in node.items]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            self.report("E220", "the detection is empty", Span(self.source, node.start, node.end))
            return None
        exprs = [part for part in parts if part is not None]
        if len(exprs) < len(parts):
            return None
        return And(tuple(exprs)) if isinstance(node, YamlMap) else Or(tuple(exprs))

    def entry(self, key: YamlScalar, value: YamlNode) -> Expr[Field] | None:
        """One `field|modifiers: value or values`."""
        source = self.source
        text = key.text if key.value is not None else ""
        name, bar, modifiers = text.partition("|")
        if key.plain:
            field = Field(name or None, Span(source, key.start, key.start + len(name)))
        else:
            field = Field(name or None, locate(source, key, 0, len(name)))
        chain = read_chain(modifiers, not name) if bar else NO_MODIFIERS if name else KEYWORD
        for fault in chain.faults:
            self.problems.append(fault.diagnostic(source, key, len(name)))
        if isinstance(value, YamlScalar):
            values: list[YamlNode] = [value]
        elif isinstance(value, YamlList):
            values = value.items
        else:
            self.report("E221", "a map cannot be a value", Span(source, value.start, value.end))
            return None
        if not values:
            hint = "remove the item, or write null if a missing field is meant"
            self.report("E222", f"the list of values of `{text}` is empty", Span(source, value.start, value.end), hint)
            return None
        if chain.all and len(values) == 1 and not chain.faults:
            place = modifiers.split("|").index("all")
            start = len(name) + 1 + sum(len(m) + 1 for m in modifiers.split("|")[:place])
            at = locate(source, key, start, start + 3)
            self.report("W210", "`all` has no effect on a single value", at, "remove `all`, or list several values")
        return self.item(field, chain, values)

    def item(self, field: Field, chain: Chain, values: list[YamlNode]) -> Expr[Field] | None:
        names, _, every, negated, _, wrap = chain
        before, behind = wrap or (False, False)
        source = self.source
        exprs: list[Expr[Field]] = []
        for value in values:
            if (
                wrap is not None and type(value) is YamlScalar and type(text := value.value) is str
            ):  # nearly every value
                if "*" in text or "?" in text or "\\\\" in text or not text:
                    self.warn_literal(chain, value)
                    parts = within(unescape(text), before, behind)
                elif before:
                    parts = (ANY, text, ANY) if behind else (ANY, text)
                else:
                    parts = (text, ANY) if behind else (text,)
                exprs.append(Match(field, Text(parts), Span(source, value.start, value.end)))
            elif (expr := self.test(field, chain, value)) is not None:
                exprs.append(expr)
        if len(exprs) < len(values):
            return None
        if field.name is None or "expand" in names:
            self.look_again(field, chain, exprs)
        whole = exprs[0] if len(exprs) == 1 else And(tuple(exprs)) if every else Or(tuple(exprs))
        return Not(whole) if negated else whole

    def test(self, field: Field, chain: Chain, value: YamlNode) -> Expr[Field] | None:
        """Any value under any modifiers; None where there is an error."""
        if not isinstance(value, YamlScalar):
            what = "a map" if isinstance(value, YamlMap) else "a list"
            self.report("E221", f"{what} cannot be one of several values", span(self.source, value))
            return None
        if type(value.value) is not str:
            self.warn_trap(value)
        else:
            self.warn_literal(chain, value)
        if chain.faults:
            return None
        try:
            expr = read_test(chain, value, field, at := span(self.source, value))
        except Refused as refused:
            self.report(refused.code, refused.message, at, refused.hint)
            return None
        return expr if "re" not in chain.names or self.check_pattern(expr, value) else None

    def check_pattern(self, expr: Expr[Field], value: YamlScalar) -> bool:
        """Whether Kusto can run a regular expression; if not, the construct is reported at its place."""
        from sigma2kql.regex import RegexProblem, translate  # most rules need it for nothing else

        assert isinstance(expr, Match)
        assert isinstance(expr.test, Regex)
        try:
            translate(expr.test.pattern, expr.test.flags)
        except RegexProblem as problem:
            words = {"E520": "Kusto cannot run", "E522": "too large:"}.get(problem.code, "not a regular expression:")
            at = locate(self.source, value, problem.offset, problem.end)
            self.report(problem.code, f"{words} {problem.construct}", at, problem.hint)
            return False
        return True

    def warn_trap(self, value: YamlScalar) -> None:
        reading = trap(value)
        if reading and not reading.endswith("date"):  # a date is an error of its own
            hint = f"write '{value.text}' in quotes for the text, or the value itself"
            self.report(
                "W101", f"`{value.text}` without quotes is {reading} in YAML 1.1", span(self.source, value), hint
            )

    def warn_literal(self, chain: Chain, value: YamlScalar) -> None:
        r"""`\temp\*\x`: the star behind one backslash is a literal one, which no path can hold."""
        if "\\*" in value.text and "re" not in chain.names and _STAR_IN_PATH.search(value.text):
            hint = r"write `\\*` for a backslash and a wildcard"
            self.report(
                "W211",
                r"`\*` is the character `*` itself, not a backslash and a wildcard",
                span(self.source, value),
                hint,
            )

    def look_again(self, field: Field, chain: Chain, exprs: list[Expr[Field]]) -> None:
        """Keywords and what `expand` was applied to: warn of tests that cannot be meant."""
        expands = "expand" in chain.names
        self.expands |= expands
        for expr in exprs:
            if not (isinstance(expr, Match) and isinstance(expr.test, Text) and expr.span is not None):
                continue
            parts = expr.test.parts
            if field.name is None and parts == (ANY,):
                self.report("W213", "this keyword is found in every event", expr.span)
            if expands and not any(isinstance(part, Placeholder) for part in parts):
                self.report("W212", "`expand` finds no %placeholder% in this value", expr.span)


_STAR_IN_PATH = re.compile(r"\\\w[^\\\n]*\\\*|(?<!\\)\\\*\\")
