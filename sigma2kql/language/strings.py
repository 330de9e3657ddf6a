"""Sigma strings: wildcards, escapes and placeholders.

Place in the flow: below the modifiers, which read values with it; placeholders are replaced before a rule is mapped.
Invariant: parts are normalised as the docstring of `Text` says, whatever is put in the place of a placeholder.
Source: Sigma specification 2.1, "String Wildcard", "Escaping", "Placeholder Pipeline".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import assert_never

from sigma2kql.diagnostics.diagnostic import Span, fail
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import ANY, ONE, And, Expr, Field, Match, Not, Or, Part, Placeholder, Regex, Test, Text

MAX_SUBSTITUTIONS = 10_000

_SPECIAL = re.compile(r"\\([\\*?])|([*?])")


def unescape(text: str) -> tuple[Part, ...]:
    r"""The parts of a Sigma string: `*` and `?` are wildcards, `\` before `\`, `*` or `?` makes that character literal.

    Any other backslash is itself (Sigma specification, "Escaping").
    """
    if "*" not in text and "?" not in text and "\\\\" not in text:
        return (text,) if text else ()
    parts: list[Part] = []
    literal = ""
    last = 0
    for found in _SPECIAL.finditer(text):
        literal += text[last : found.start()]
        last = found.end()
        if found[1]:
            literal += found[1]
            continue
        if literal:
            parts.append(literal)
            literal = ""
        if found[2] == "?":
            parts.append(ONE)
        elif not parts or parts[-1] is not ANY:
            parts.append(ANY)
    literal += text[last:]
    if literal:
        parts.append(literal)
    return tuple(parts)


def within(parts: tuple[Part, ...], before: bool = True, behind: bool = True) -> tuple[Part, ...]:
    """The same shape with anything before and behind it, or on one side."""
    if before and (not parts or parts[0] is not ANY):
        parts = (ANY, *parts)
    if behind and (not parts or parts[-1] is not ANY):
        parts = (*parts, ANY)
    return parts


# --------------------------------------------------------------------------------------------------------------------
# Placeholders

# A placeholder inside a pattern stands between two characters that no text may hold (Unicode noncharacters).
OPEN, CLOSE = "\ufdd0", "\ufdd1"
_NAMED = re.compile(r"\\%|%(\w[\w.-]*)%")
_HELD = re.compile(f"{OPEN}([^{CLOSE}]*){CLOSE}")


def hold(test: Text | Regex) -> Text | Regex:
    r"""The test with every `%name%` as a placeholder; `\%` is a percent sign."""
    if isinstance(test, Regex):
        return replace(test, pattern=_NAMED.sub(lambda m: f"{OPEN}{m[1]}{CLOSE}" if m[1] else "%", test.pattern))
    parts: list[Part] = []
    for part in test.parts:
        if not isinstance(part, str):
            parts.append(part)
            continue
        last = 0
        for found in _NAMED.finditer(part):
            parts += (part[last : found.start()], Placeholder(found[1]) if found[1] else "%")
            last = found.end()
        parts.append(part[last:])
    return Text(join_parts(parts), test.cased)


def placeholders(expr: Expr[Field]) -> list[tuple[str, Span | None]]:
    """The names of all placeholders in a tree, in order, each with the value that holds it.

    In a `Regex` a placeholder is part of the pattern text, between two marks; a pattern must not be used before this
    function finds nothing in it.
    """
    found: list[tuple[str, Span | None]] = []
    todo: list[Expr[Field]] = [expr]
    while todo:
        one = todo.pop()
        if isinstance(one, Match):
            test = one.test
            if isinstance(test, Text):
                found += [(part.name, one.span) for part in test.parts if isinstance(part, Placeholder)]
            elif isinstance(test, Regex) and OPEN in test.pattern:
                found += [(name, one.span) for name in _HELD.findall(test.pattern)]
        elif isinstance(one, Not):
            todo.append(one.item)
        else:
            todo += one.items[::-1]
    return found


def substitute(expr: Expr[Field], values: Mapping[str, Sequence[str]]) -> Expr[Field]:
    """The tree with every placeholder that `values` names replaced by its values, as `Or`; the others stay.

    A value is read as if it stood in the rule: `*` and `?` are wildcards, backslashes escape them; in a regular
    expression it is literal text. Several placeholders in one value give every combination.
    Raises Sigma2KqlError (E226) where there are more than 10,000 combinations.
    """
    match expr:
        case And(items):
            new = tuple(substitute(item, values) for item in items)
            return expr if all(a is b for a, b in zip(items, new, strict=True)) else And(new)
        case Or(items):
            new = tuple(substitute(item, values) for item in items)
            return expr if all(a is b for a, b in zip(items, new, strict=True)) else Or(new)
        case Not(item):
            inner = substitute(item, values)
            return expr if inner is item else Not(inner)
        case Match(subject, Text() | Regex() as test, at):
            names = dict.fromkeys(name for name, _ in placeholders(expr) if name in values)
            if not names:
                return expr
            choices = [[(name, value) for value in values[name]] for name in names]
            count = 1
            for choice in choices:
                count *= len(choice)
            if count > MAX_SUBSTITUTIONS:
                raise fail("E226", f"the placeholders of this value have {count:,} combinations", at)
            tests = dict.fromkeys(_filled(test, dict(combination)) for combination in product(*choices))
            matches = tuple(Match(subject, one, at) for one in tests)
            return matches[0] if len(matches) == 1 else Or(matches)
        case Match():
            return expr
        case _:
            assert_never(expr)


def _filled(test: Text | Regex, values: Mapping[str, str]) -> Test[Field]:
    match test:
        case Regex(pattern):
            filled = _HELD.sub(lambda m: re.escape(values[m[1]]) if m[1] in values else m[0], pattern)
            return replace(test, pattern=filled)
        case Text(parts):
            out: list[Part] = []
            for part in parts:
                if isinstance(part, Placeholder) and part.name in values:
                    out += unescape(values[part.name])
                else:
                    out.append(part)
            return replace(test, parts=join_parts(out))
        case _:
            assert_never(test)
