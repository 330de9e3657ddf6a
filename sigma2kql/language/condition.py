"""The condition of a rule: text and the trees of its search identifiers to one tree.

Place in the flow: last step of reading a rule. Invariant: every name and pattern in a condition stands for at least
one search identifier, or the rule is refused. A text is parsed once; trees of identifiers are shared, not copied.
The only module that imports lark, and only for a condition that has a mistake, to say which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, assert_never

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, did_you_mean
from sigma2kql.model.named_rules import folded_name
from sigma2kql.model.tree import And, Expr, Field, Not, Or
from sigma2kql.text.nodes import Fault, YamlScalar

if TYPE_CHECKING:
    from lark import Lark

MAX_DEPTH = 64
MAX_LENGTH = 200_000
MAX_COMPARED = 2_000_000
MAX_FAULTS = 50


class Named(NamedTuple):
    """One search identifier; offsets count from the start of the condition."""

    name: str
    start: int
    end: int


class Quantified(NamedTuple):
    """`1 of pattern` or `all of pattern`."""

    quantifier: Literal["any", "all"]
    pattern: str
    start: int
    end: int


class Joined(NamedTuple):
    """Operands of `and`, `or` or `not`, and how many of these levels are below."""

    operator: Literal["and", "or", "not"]
    operands: tuple[Condition, ...]
    depth: int


Condition: TypeAlias = Named | Quantified | Joined


class _TooDeep(Exception):  # noqa: N818
    pass


class _Actions:
    """What each rule of the grammar gives; lark calls these while it parses, so no tree of its own is built."""

    def start(self, items: list[Condition]) -> Condition:
        return items[0]

    def name(self, items: list[Any]) -> Condition:
        (token,) = items
        return Named(str(token), token.start_pos, token.end_pos)

    def quantified(self, items: list[Any]) -> Condition:
        quantifier, pattern = items
        kind: Literal["any", "all"] = "all" if quantifier[:3].lower() == "all" else "any"
        return Quantified(kind, str(pattern), quantifier.start_pos, pattern.end_pos)

    def negated(self, items: list[Condition]) -> Condition:
        return _join("not", items)

    def conjunction(self, items: list[Condition]) -> Condition:
        return _join("and", items)

    def disjunction(self, items: list[Condition]) -> Condition:
        return _join("or", items)


def _join(operator: Literal["and", "or", "not"], items: list[Condition]) -> Condition:
    depth = 1 + max(item.depth if isinstance(item, Joined) else 0 for item in items)
    if depth > MAX_DEPTH:
        raise _TooDeep
    return Joined(operator, tuple(items), depth)


@cache
def _parser() -> Lark:
    from pathlib import Path

    from lark import Lark  # takes a third of the time of a short run

    grammar = Path(__file__).with_name("condition.lark").read_text(encoding="utf-8")
    # the basic lexer: a keyword is never read as a name, wherever it stands
    return Lark(grammar, parser="lalr", lexer="basic", transformer=_Actions(), maybe_placeholders=False)


_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"")


@lru_cache(maxsize=256)
def parse_rule_names(text: str) -> Condition | Fault:
    """The structure of a condition over the names and ids of rules, which may be quoted; ids in small letters."""
    names: dict[str, str] = {}

    def stand_in(found: re.Match[str]) -> str:
        word = f"_{len(names)}".ljust(len(found[0]), "_")
        names[word] = found[1] or found[2]
        return word

    def named(node: Condition) -> Condition:
        match node:
            case Named(name, start, end):
                return Named(folded_name(names.get(name, name)), start, end)
            case Joined(word, operands, depth):
                return Joined(word, tuple(map(named, operands)), depth)
            case Quantified():
                return node
            case _:
                assert_never(node)

    parsed = parse(_QUOTED.sub(stand_in, text))
    return parsed if isinstance(parsed, Fault) else named(parsed)


# --------------------------------------------------------------------------------------------------------------------
# Parsing


@lru_cache(maxsize=2048)
def parse(text: str) -> Condition | Fault:
    """The structure of a condition, or what is wrong with it. Time and stack grow with the length of the text only."""
    if not text.strip():
        return Fault("E308", "the condition is empty", 0, len(text))
    if len(text) > MAX_LENGTH:
        return Fault("E304", f"the condition is longer than {MAX_LENGTH:,} characters", 0, 0)
    fault = _refused_forms(text) or _brackets(text)
    if fault is not None:
        return fault
    try:
        return _well_formed(text) or _by_grammar(text)
    except _TooDeep:
        return Fault("E304", f"operators are nested more than {MAX_DEPTH} levels deep", 0, 3, _FLATTEN)


def _by_grammar(text: str) -> Condition | Fault:
    """What the grammar gives, or the first mistake; the grammar decides what `_well_formed` leaves open."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedToken

    try:
        tree: Condition = _parser().parse(text)  # type: ignore[assignment]
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        return _unexpected(text, at, at + 1)
    except UnexpectedToken as error:
        if error.token.type == "$END":
            return Fault("E301", "the condition ends where a name is expected", len(text.rstrip()), len(text.rstrip()))
        return _unexpected(text, error.token.start_pos or 0, error.token.end_pos or len(text))
    except UnexpectedEOF:
        return Fault("E301", "the condition ends too early", len(text.rstrip()), len(text.rstrip()))
    return tree


_WORD = re.compile(r"[\w.*-]+|\S")
_KEYWORDS = frozenset({"and", "or", "not"})
_TOKEN = re.compile(
    r"\s*(?:(?P<bracket>[()])|(?P<quantifier>(?i:1|any|all))\s+(?i:of)\s+(?P<pattern>[\w.*-]+)"
    r"|(?P<word>[\w.-]++)(?!\*))"
)


class _Level:
    """What stands between two parentheses as far as it is read: closed disjuncts, open conjuncts, open negations."""

    __slots__ = ("conjuncts", "disjuncts", "negations")

    def __init__(self) -> None:
        self.disjuncts: list[Condition] = []
        self.conjuncts: list[Condition] = []
        self.negations = 0

    def add(self, operand: Condition) -> None:
        for _ in range(self.negations):
            operand = _join("not", [operand])
        self.negations = 0
        self.conjuncts.append(operand)

    def close(self) -> None:
        """The conjunction ends here."""
        self.disjuncts.append(self.conjuncts[0] if len(self.conjuncts) == 1 else _join("and", self.conjuncts))
        self.conjuncts = []

    def whole(self) -> Condition:
        self.close()
        return self.disjuncts[0] if len(self.disjuncts) == 1 else _join("or", self.disjuncts)


def _well_formed(text: str) -> Condition | None:
    """What the grammar gives for a condition without a mistake, without loading lark; None for everything else.

    Loading lark would double the time of a short run. Raises _TooDeep.
    """
    levels = [_Level()]
    complete = False  # whether an operand stands before this place
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            return None
        at = found.end()
        word = found["word"] or found["bracket"]
        operator = "" if word is None else word.lower()
        if complete:
            if operator == ")" and len(levels) > 1:
                inner = levels.pop().whole()
                levels[-1].add(inner)
                continue
            if operator == "or":
                levels[-1].close()
            elif operator != "and":
                return None
            complete = False
        elif operator == "(":
            levels.append(_Level())
        elif operator == "not":
            levels[-1].negations += 1
        else:
            operand = _operand(found)
            if operand is None:
                return None
            levels[-1].add(operand)
            complete = True
    return levels[0].whole() if complete and len(levels) == 1 else None


def _operand(found: re.Match[str]) -> Condition | None:
    word, pattern = found["word"], found["pattern"]
    if (word or pattern or "and").lower() in _KEYWORDS:
        return None
    if word is not None:
        return Named(word, found.start("word"), found.end())
    kind: Literal["any", "all"] = "all" if found["quantifier"].lower() == "all" else "any"
    return Quantified(kind, pattern, found.start("quantifier"), found.end())


_FLATTEN = "give part of it a search identifier of its own, or remove needless parentheses"
_COUNTED = re.compile(r"(?<![\w.*-])(?:(?!1\s)\d+|none|no|not)\s+of(?![\w.*-])", re.IGNORECASE)
_OF_LIST = re.compile(r"(?<![\w.*-])(?:1|any|all)\s+of\s*\(", re.IGNORECASE)
_NEAR = re.compile(r"(?<![\w.*-])near(?=\s+[\w(])", re.IGNORECASE)
_CORRELATE = "write a correlation rule (`correlation:` with event_count, value_count, temporal...)"


def _refused_forms(text: str) -> Fault | None:
    """Forms that are known from other dialects, each with what to write instead."""
    bar = text.find("|")
    if bar >= 0:
        what = "aggregations (`| count() ...`, `| near ...`) are no longer part of the Sigma language"
        return Fault("E305", what, bar, len(text.rstrip()), _CORRELATE)
    if near := _NEAR.match(text.lstrip()):
        lead = len(text) - len(text.lstrip())
        return Fault("E305", "`near` is no longer part of the Sigma language", lead, lead + near.end(), _CORRELATE)
    if counted := _COUNTED.search(text):
        hint = "write `not 1 of ...`" if counted[0][:1].lower() == "n" else "only `1 of`, `any of` and `all of` exist"
        return Fault(
            "E306", f"`{' '.join(counted[0].split())}` is not part of the Sigma language", *counted.span(), hint
        )
    if of_list := _OF_LIST.search(text):
        hint = "join the names with `or` or `and`, or give them a common prefix and use `1 of prefix*`"
        return Fault("E306", "`of` takes one name or pattern, not a list", of_list.start(), of_list.end(), hint)
    return None


def _brackets(text: str) -> Fault | None:
    opened: list[int] = []
    for found in re.finditer(r"[()]", text):
        at = found.start()
        if found[0] == ")":
            if not opened:
                return Fault("E307", "this parenthesis was never opened", at, at + 1)
            opened.pop()
            continue
        opened.append(at)
        if len(opened) > MAX_DEPTH:
            return Fault("E304", f"parentheses are nested more than {MAX_DEPTH} levels deep", at, at + 1, _FLATTEN)
    if opened:
        return Fault("E307", "this parenthesis is never closed", opened[-1], opened[-1] + 1)
    return None


def _unexpected(text: str, start: int, end: int) -> Fault:
    word = text[start:end]
    before = None
    for found in _WORD.finditer(text, 0, start):
        before = found[0]
    operand = before is not None and (before == ")" or before.lower() not in ("and", "or", "not", "of", "("))
    hint = ""
    if word in "&!,+/":
        message = f"`{word}` is not part of a condition"
        hint = "the operators are `and`, `or` and `not`"
    elif "*" in word and not operand:
        message = f"the pattern `{word}` stands alone"
        hint = f"write `1 of {word}` or `all of {word}`"
    elif operand and re.fullmatch(r"[\w.*-]+|\(", word):
        message = f"`and` or `or` is missing between `{before}` and `{word}`"
    elif before is not None and not operand:
        message = f"a name is missing between `{before}` and `{word}`"
    elif before is None:
        message = f"the condition cannot start with `{word}`"
    else:
        message = f"`{word}` is unexpected after `{before}`"
    return Fault("E301", message, start, end, hint)


# --------------------------------------------------------------------------------------------------------------------
# Resolving

_OPERATOR = re.compile(r"(?<![\w.*-])(?:and|or|not|of|all|any|them)(?![\w.*-])", re.IGNORECASE)


def read_condition(
    source: Source,
    node: YamlScalar,
    names: Mapping[str, Expr[Field] | None],
    problems: list[Diagnostic],
    used: set[str],
) -> Expr[Field] | None:
    """The tree of one condition over search identifiers; None where there is an error, which is then in `problems`.

    An identifier whose tree is None failed before: it is known, but gives no tree. `used` receives every identifier
    that the condition reaches. Identifiers with a leading `_` are reached by patterns that start with `_` only.
    """
    parsed = parse(node.text)
    if isinstance(parsed, Fault):
        problems.append(parsed.diagnostic(source, node))
        return None
    for found in _OPERATOR.finditer(node.text) if not node.text.islower() else ():
        if not found[0].islower() and found[0] not in names:
            fault = Fault("W302", f"`{found[0]}` is not in lower case", *found.span(), f"write `{found[0].lower()}`")
            problems.append(fault.diagnostic(source, node))
            break
    resolver = _Resolver(names, used)
    expr = resolver.resolve(parsed)
    if not resolver.faults:
        return expr
    problems += [fault.diagnostic(source, node) for fault in resolver.faults]
    return None


class _Resolver:
    """One walk over a parsed condition. A pattern is resolved once, and its tree is shared."""

    __slots__ = ("budget", "faults", "names", "patterns", "used")

    def __init__(self, names: Mapping[str, Expr[Field] | None], used: set[str]) -> None:
        self.names = names
        self.used = used
        self.faults: list[Fault] = []
        self.patterns: dict[tuple[str, str], Expr[Field] | None] = {}
        self.budget = MAX_COMPARED

    def resolve(self, tree: Condition) -> Expr[Field] | None:
        if isinstance(tree, Named):
            name, start, end = tree
            if name not in self.names:
                self.fault("E302", f"no search identifier is named `{name}`", start, end, name)
                return None
            self.used.add(name)
            return self.names[name]
        if isinstance(tree, Quantified):
            key = (tree.quantifier, tree.pattern)
            if key not in self.patterns:
                self.patterns[key] = self.quantified(tree)
            return self.patterns[key]
        inner = [self.resolve(operand) for operand in tree.operands]
        if tree.operator == "not":
            return None if inner[0] is None else Not(inner[0])
        return _joined(tree.operator, inner)

    def quantified(self, tree: Quantified) -> Expr[Field] | None:
        start = tree.end - len(tree.pattern)
        self.budget -= len(self.names)
        if self.budget < 0:
            self.fault("E304", "too many patterns over too many search identifiers", start, tree.end, "")
            return None
        reached = matching(tree.pattern, self.names)
        if not reached:
            message = f"no search identifier matches `{tree.pattern}`"
            self.fault("E303", message, start, tree.end, tree.pattern.strip("*"))
            return None
        self.used.update(reached)
        return _joined("and" if tree.quantifier == "all" else "or", [self.names[name] for name in reached])

    def fault(self, code: Code, message: str, start: int, end: int, name: str) -> None:
        """Note what is wrong, with the closest identifier; nobody reads the hundredth mistake in one condition."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(Fault(code, message, start, end, self.closest(name) if name else ""))

    def closest(self, name: str) -> str:
        known = list(islice(self.names, 200))
        return (
            did_you_mean(name[:200], known) or f"known here: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}"
        )


def _joined(operator: str, items: list[Expr[Field] | None]) -> Expr[Field] | None:
    exprs = [item for item in items if item is not None]
    if len(exprs) < len(items):
        return None
    if len(exprs) == 1:
        return exprs[0]
    return And(tuple(exprs)) if operator == "and" else Or(tuple(exprs))


def matching(pattern: str, names: Iterable[str]) -> list[str]:
    """The names that a pattern reaches: `them`, a whole name, or a name with `*` for any run of characters."""
    if pattern.lower() == "them":
        return [name for name in names if not name.startswith("_")]
    if "*" not in pattern:
        return [name for name in names if name == pattern]
    start, _, rest = pattern.partition("*")
    if start and not rest:  # nearly always
        return [name for name in names if name.startswith(start)]
    hidden = pattern.startswith("_")
    parts = pattern.split("*")
    return [name for name in names if (hidden or not name.startswith("_")) and _fits(name, parts)]


def _fits(name: str, parts: list[str]) -> bool:
    """Whether a name is the parts in order, with anything between them; in linear time, as a regex would not be."""
    first, *middle, last = parts
    at, end = len(first), len(name) - len(last)
    if at > end or not name.startswith(first) or not name.endswith(last):
        return False
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
