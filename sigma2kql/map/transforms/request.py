"""What a transform is given and what it may note, and the readings of tests that transforms and map share.

Place in the flow: the ground of this package. Invariant: what is noted as impossible gives the predicate that never
holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, assert_never

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.diagnostics.diagnostic import Span, frozen
from sigma2kql.model.literals import decimal_text
from sigma2kql.model.text_shapes import join_parts, matches
from sigma2kql.model.tree import (
    ANY,
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exactness,
    Exists,
    Expr,
    Field,
    FieldMap,
    Match,
    Null,
    Number,
    Or,
    Regex,
    SameAs,
    Test,
    Text,
)

ALWAYS: Expr[Column] = And(())
NEVER: Expr[Column] = Or(())
PRESENT = Text((ANY,))


@frozen
class Loss:
    """One way in which the query differs from the rule, with the value that causes it."""

    exactness: Exactness
    why: str
    span: Span | None


@dataclass(slots=True)
class Notes:
    """What a mapping learns on its way: losses, and values that can never match (code, sentence, place, hint).

    `lacking`: fields that none of the events has, with the reason, the place and a hint.
    """

    losses: list[Loss] = field(default_factory=list)
    never: list[tuple[Code, str, Span | None, str]] = field(default_factory=list)
    lacking: dict[str | None, tuple[str, Span | None, str]] = field(default_factory=dict)

    def lose(self, exactness: Exactness, why: str, span: Span | None, negated: bool) -> None:
        """Record a loss; under a negation broader becomes narrower and the reverse."""
        if negated and exactness != "exact":
            exactness = "narrower" if exactness == "broader" else "broader"
        self.losses.append(Loss(exactness, why, span))

    def impossible(self, message: str, span: Span | None, hint: str = "", code: Code = "E410") -> Expr[Column]:
        """Record that a value can never match, and give the predicate that never holds."""
        self.never.append((code, message, span, hint))
        return NEVER

    def missing(self, field: Field, place: FieldMap, test: Test[Any], span: Span | None) -> Expr[Column]:
        """What a test comes to on a field that none of the events has, which is recorded: only emptiness holds."""
        self.lacking.setdefault(field.name, (place.never, field.span or span, place.hint))
        return ALWAYS if isinstance(test, Null) or test == Text(()) else NEVER


class Request(NamedTuple):
    """One test on one field, the columns it may stand on and the options of the transform."""

    match: Match[Field]
    test: Test[Column]
    columns: tuple[Column, ...]
    options: Mapping[str, Any]
    notes: Notes
    negated: bool
    closed: str = ""  # why the column holds no other values than those that the options list

    def anywhere(self, test: Test[Column]) -> Expr[Column]:
        """The test on any of the columns; emptiness must hold on all of them."""
        columns, span = self.columns, self.match.span
        if len(columns) == 1:
            return Match(columns[0], test, span)
        tests = tuple([Match(column, test, span) for column in columns])
        return And(tests) if isinstance(test, Null) or test == Text(()) else Or(tests)

    def any_text(self, texts: Sequence[str], cased: bool = False) -> Expr[Column]:
        """One of these whole texts."""
        return Or(tuple(self.anywhere(Text((text,) if text else (), cased)) for text in texts))

    def lose(self, exactness: Exactness, why: str) -> None:
        self.notes.lose(exactness, why, self.match.span, self.negated)

    def untestable(self, code: Code, message: str, hint: str = "") -> Expr[Column]:
        """The value may be in the event, but the table does not hold it: nothing is selected, and that is a loss."""
        self.lose("narrower", message)
        return self.notes.impossible(message, self.match.span, hint, code)


Rewrite = Callable[[Request], Expr[Column]]
Shape = Callable[[str, tuple[Column, ...], Mapping[str, Any]], list[tuple[Column, Any]]]


class Transform(NamedTuple):
    rewrite: Rewrite
    shape: Shape


# --------------------------------------------------------------------------------------------------------------------
# Texts


def literal(test: Test[Any]) -> str | None:
    """The one text that the test means, where it means one (numbers by their canonical text)."""
    if isinstance(test, Text):
        parts = test.parts
        if not parts:
            return ""
        return parts[0] if len(parts) == 1 and isinstance(parts[0], str) else None
    return decimal_text(test.value) if isinstance(test, Number) and test.op == "==" else None


def as_text(test: Test[Column]) -> Test[Column]:
    """A number as the text that a text column holds for it."""
    return Text((decimal_text(test.value),)) if isinstance(test, Number) and test.op == "==" else test


def change_literals(test: Text, change: Callable[[str], str]) -> Text:
    return Text(join_parts([change(p) if isinstance(p, str) else p for p in test.parts]), test.cased)


def text_holds(test: Test[Any], text: str) -> bool:
    """Whether a text passes a text, number or regex test (for constants and closed lists of values)."""
    match test:
        case Text():
            return matches(test, text)
        case Number() | Exists():
            return isinstance(test, Exists) or literal(test) == text
        case Regex(pattern, flags):
            from sigma2kql.regex import search, translate  # most rules need it for nothing

            return search(translate(pattern, flags), text)
        case Cidr() | Bool() | Null() | SameAs() | DatePart():
            return False
        case _:
            assert_never(test)


def shape_plain(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value)]
