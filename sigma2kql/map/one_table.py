"""One rule on the rows of one log source in one table: its tree over fields becomes a query over columns.

Place in the flow: under `rule`, which says which tables are tried. Invariant: the query selects exactly the rows that
the rule means, except for what its losses say; what the table cannot carry is an error that names field, table, reason.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import field, replace
from functools import cached_property
from typing import Any, TypeAlias, cast

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Span, diagnostic, frozen
from sigma2kql.map.by_source import BySource, judge
from sigma2kql.map.event_elements import Ids, event_ids, event_times
from sigma2kql.map.field_places import Rows, Standing, find_field
from sigma2kql.map.row_facts import conjuncts, contradiction, known_texts, settled
from sigma2kql.map.target import is_known
from sigma2kql.map.transforms import (
    ALWAYS,
    NEVER,
    PRESENT,
    TRANSFORMS,
    Loss,
    Notes,
    Request,
    reason,
    text_holds,
)
from sigma2kql.map.transforms.column_types import SIXTEEN_BITS, as_markup, beyond, typed
from sigma2kql.model.literals import decimal_text, identifier
from sigma2kql.model.simplify import all_of, any_of, leaves, negated, simplify
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
    ANY,
    And,
    Bool,
    Column,
    DatePart,
    Exists,
    Expr,
    Field,
    FieldMap,
    Match,
    Not,
    Null,
    Number,
    Or,
    Part,
    Query,
    SameAs,
    Serve,
    Table,
    Test,
    Text,
    Verdict,
)


@frozen
class Mapped:
    """A rule on one table: the query, how true it is, what each field became and what is worth a warning."""

    query: Query
    table: Table
    verdict: Verdict
    fields: Mapping[str, str]
    diagnostics: tuple[Diagnostic, ...]
    passed_over: tuple[str, ...] = ()
    serve: Serve | None = None
    caveats: tuple[str, ...] = ()
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    dead: str = ""  # why no source can ever match, where that is so
    exact_for_one: bool = True  # on the rows of at least one source that is there: what makes a table worth choosing
    lacks: tuple[str, ...] = ()  # fields of the rule that none of its events has here

    @property
    def in_words(self) -> str:
        """The table and how true the query is, for the list of those that were passed over."""
        lacks = f", whose events have no {', '.join(f'`{name}`' for name in self.lacks)}" if self.lacks else ""
        return f"{self.table.name}: {self.verdict}{lacks}"

    def columns(self, name: str) -> tuple[Column, ...]:
        """The columns that hold a field of the event; empty where there are none that could be grouped or shown."""
        assert self.serve is not None
        found = find_field(self.table, self.serve, name)
        return found.columns if isinstance(found, FieldMap) else ()


Builtin: TypeAlias = "bool | Set[str]"  # whether ASIM parsers are called by their built-in name; or which of them


_EMPTY = Text(())
_EMPTINESS = ((), (ANY,))  # the texts that ask whether a field is empty


class Uses:
    """What a tree asks for, found when it is first needed: nearly always every field has its place, and the table takes
    every EventID.
    """

    def __init__(self, where: Expr[Field]) -> None:
        self.where = where

    @cached_property
    def fields(self) -> dict[str | None, Span | None]:
        """Its fields with their first place."""
        found: dict[str | None, Span | None] = {}
        for leaf in leaves(self.where):
            found.setdefault(leaf.subject.name, leaf.subject.span or leaf.span)
            if isinstance(leaf.test, SameAs):
                found.setdefault(leaf.test.other.name, leaf.test.other.span or leaf.span)
        return found

    @cached_property
    def event_ids(self) -> Ids:
        """The only EventIDs that it selects; None where it leaves them open."""
        return event_ids(self.where)

    def fit(self, taken: frozenset[int]) -> bool:
        """Whether rows with these EventIDs are all that it selects."""
        return bool(self.event_ids) and (self.event_ids or frozenset()) <= taken


class Mapper:
    """Maps one rule onto one serve of one table."""

    __slots__ = ("asked", "fields", "name", "notes", "rows", "serve", "table", "times", "told", "touched", "uses")

    def __init__(self, rows: Rows, uses: Uses, builtin: Builtin) -> None:
        self.rows = rows
        self.table = rows.table
        self.serve = rows.serve
        self.uses = uses
        called = builtin if isinstance(builtin, bool) else rows.table.name in builtin
        self.asked = uses.event_ids if rows.serve.elements is not None else None
        self.name = rows.table.builtin if called and rows.table.builtin else rows.table.name
        self.notes = Notes()
        self.fields: dict[str | None, Standing] = {}
        self.times: dict[str, str] = {}  # names of the event's time -> the table's column
        self.touched = False  # whether a test may be about what the rows' own condition speaks of
        self.told = False  # whether it may be about a column of which that says all texts

    def run(self, where: Expr[Field]) -> Mapped:
        tree = self._tree(where, False)
        if self.notes.lacking and (unknown := [n for n in self.notes.lacking if n is not None and not self._known(n)]):
            raise Sigma2KqlError(self._lacking(unknown))
        stated = self.rows.stated if self.touched else ()
        tree, narrowed = settled(tree, self.rows.facts if self.told else {})
        if isinstance(tree, Or) and not tree.items:
            never = [diagnostic(*one) for one in self.notes.never]
            never += self._lacking(self.notes.lacking)
            raise Sigma2KqlError(never or [diagnostic("E410", "the rule can never match in this table", None)])
        parts = conjuncts(tree)
        if clash := contradiction((*stated, *parts)):
            raise Sigma2KqlError([clash])
        rows = self.serve.where
        if stated:
            tree = _joined([part for part in parts if part not in stated])
            if narrowed:
                rows = _joined(
                    [e for e in stated if not any(narrowed.get(c, t) < t for c, t in known_texts(e).items())]
                )
        exactness, warnings = self._losses()
        by_source = self._by_source(tree, exactness)
        query = Query(self.name, rows, tree, self.table.time, self.table.columns)
        return Mapped(
            query,
            self.table,
            by_source.verdict,
            {**{name: standing.words for name, standing in self.fields.items() if name is not None}, **self.times},
            (
                *[_selects_nothing(message, span, hint) for _, message, span, hint in self.notes.never],
                *[_is_missing(name, *told) for name, told in self.notes.lacking.items()],
                *self._native(),
                *warnings,
                *(by_source.diagnostics(self.uses.fields.get) if by_source.problems else ()),
            ),
            serve=self._own_serve(),
            caveats=by_source.reasons,
            verdicts=by_source.verdicts,
            dead=by_source.dead,
            exact_for_one=exactness == "exact" and by_source.exact_for_one,
            lacks=tuple([name for name in self.notes.lacking if name is not None]),
        )

    def _known(self, name: str) -> bool:
        """Whether a field that these events lack is one at all; else its name is a slip, wherever it stands."""
        return name in self.serve.fields or name in self.table.fields or is_known(name)

    def _lacking(self, names: Iterable[str | None]) -> list[Diagnostic]:
        told = [(name, *self.notes.lacking[name]) for name in names]
        return [diagnostic("E414", f"`{name}` can never match: {why}", span, hint) for name, why, span, hint in told]

    def _native(self) -> list[Diagnostic]:
        """A note for each field that is read as a column of the table itself."""
        names = [name for name, one in self.fields.items() if name is not None and one.field.native]
        hint = "only this table has it; Sigma's own name of the field is understood everywhere"
        return [
            diagnostic("I403", f"`{name}` is read as the column of {self.name}", self.uses.fields.get(name), hint)
            for name in names
        ]

    def _own_serve(self) -> Serve:
        """The serve, with what none of the rule's events has among its fields."""
        never = {name: one.field for name, one in self.fields.items() if name is not None and one.field.never}
        own = {name: field for name, field in never.items() if name not in self.serve.fields}
        return replace(self.serve, fields=ChainMap(own, cast(Any, self.serve.fields))) if own else self.serve

    def _losses(self) -> tuple[Verdict, list[Diagnostic]]:
        """How true the query is, and a warning for each way in which it is not."""
        if not self.notes.losses and self.serve.exactness == "exact":
            return "exact", []
        losses = [loss for loss in self.notes.losses if loss.exactness != "exact"]
        if self.serve.exactness != "exact":
            losses.insert(0, Loss(self.serve.exactness, self.serve.why, None))
        if not losses:
            return "exact", []
        first: dict[tuple[str, str], Loss] = {}
        for loss in losses:
            first.setdefault((loss.exactness, loss.why), loss)
        warnings = [
            diagnostic(
                "W401" if loss.exactness == "broader" else "W402",
                f"{self.name}: the query is {loss.exactness} than the rule: {loss.why}",
                loss.span,
            )
            for loss in first.values()
        ]
        return "narrower" if any(loss.exactness == "narrower" for loss in losses) else "broader", warnings

    def _by_source(self, where: Expr[Column], verdict: Verdict) -> BySource:
        """The verdict of each source that writes the rows."""
        named = {column: name for name, standing in self.fields.items() if name for column in standing.filled}
        return judge(where, self.rows, named, verdict, self.name)

    # -- fields ------------------------------------------------------------------------------------------------------

    def _standing(self, field: Field) -> Standing | None:
        """How a field stands in these rows; None for the whole event. Raises Sigma2KqlError where it does not."""
        name = field.name
        standing = self.fields.get(name)
        if standing is None and name is not None:
            found = self.rows.standing(name, self.asked)
            if isinstance(found, str):
                raise Sigma2KqlError(self._missing())
            self.fields[name] = standing = found
            self.touched |= found.touches
            self.told |= found.told
        return standing

    def _missing(self) -> list[Diagnostic]:
        """Every field of the rule that the table does not have, and why."""
        problems = []
        for name, span in self.uses.fields.items():
            if name is None:
                if not self._keyword_columns():
                    problems.append(
                        diagnostic("E403", f"{self.name} has no text that keywords could be searched in", span)
                    )
                continue
            found = self.rows.standing(name, self.asked)
            if isinstance(found, str):
                reason = f": {found}" if found else ""
                problems.append(diagnostic("E402", f"`{name}` has no column in {self.name}{reason}", span))
        return problems

    def _keyword_columns(self) -> tuple[Column, ...]:
        return self.serve.keywords or self.table.keywords

    # -- trees -------------------------------------------------------------------------------------------------------

    def _tree(self, expr: Expr[Field], turned: bool) -> Expr[Column]:
        """The tree over columns, as small as `simplify` would make it; `turned`: under an odd number of `not`."""
        if isinstance(expr, Match):
            return self._match(expr, turned)
        if isinstance(expr, Or):
            return self._alternatives(expr.items, turned)
        if isinstance(expr, And):
            done: list[Expr[Column]] = []
            self._conjuncts(expr.items, turned, done)
            return all_of(done)
        inner = self._tree(expr.item, not turned)
        return Not(inner) if isinstance(inner, Match) else negated(inner)

    def _conjuncts(self, items: tuple[Expr[Field], ...], turned: bool, done: list[Expr[Column]]) -> None:
        """Adds what has to hold all together, without the levels between."""
        for item in items:
            if isinstance(item, Match):
                done.append(self._match(item, turned))
            elif isinstance(item, And):
                self._conjuncts(item.items, turned, done)
            else:
                done.append(self._tree(item, turned))

    def _alternatives(self, items: tuple[Expr[Field], ...], turned: bool) -> Expr[Column]:
        """Any of the items; those on one field whose column depends on the row ask for the row once, not for each
        value.
        """
        lists: dict[str, list[Match[Field]]] = {}
        done: list[Expr[Column]] = []
        shapes: list[tuple[Part, ...]] = []
        subject: Field | None = None
        standing: Standing | None = None
        columns: tuple[Column, ...] = ()
        for item in items:
            if not isinstance(item, Match) or isinstance(item.test, DatePart):
                done.append(self._tree(item, turned))
                continue
            if item.subject is not subject:  # the values of a list have one subject
                subject = item.subject
                standing = self._standing(subject)
                columns = standing.texts if standing is not None else ()
                if standing is not None and standing.texts and standing.field.exactness != "exact":
                    self._lose(item, standing.field, turned)  # once for all values
            test = item.test
            if columns and isinstance(test, Text) and test.parts not in _EMPTINESS:
                shapes.append(test.parts)
                done.append(Match(columns[0], test, item.span))
                if len(columns) > 1:
                    done += [Match(column, test, item.span) for column in columns[1:]]
            elif standing is not None and subject.name is not None and standing.field.cases:
                lists.setdefault(subject.name, []).append(item)
            else:
                done.append(self._leaf(item, standing, turned))
        if len(set(shapes)) == len(items) and len(done) > 1:
            return Or(tuple(done))  # nearly always: different texts
        for name, found in lists.items():
            done.append(self._by_case(found, self.fields[name].field, turned))
        return any_of(done)

    def _match(self, leaf: Match[Field], turned: bool) -> Expr[Column]:
        """One test; a part of the event's own time, whatever a log calls it, is that of the table's time column."""
        name = leaf.subject.name
        if isinstance(leaf.test, DatePart) and name is not None and name in event_times():
            time = self.table.time
            self.times[name] = time
            return Match(Column(identifier(time), "datetime", (time,), name=time), leaf.test, leaf.span)
        return self._leaf(leaf, self._standing(leaf.subject), turned)

    def _leaf(self, leaf: Match[Field], standing: Standing | None, turned: bool) -> Expr[Column]:
        """One test on a field, or on the whole event."""
        if standing is None:
            return self._keyword(leaf)
        columns, field, test = standing.texts, standing.field, leaf.test
        if isinstance(test, Number) and leaf.subject.name in SIXTEEN_BITS and (why := beyond(test)):
            return self.notes.impossible(f"`{leaf.subject.name}` {why}", leaf.span)
        if field.exactness != "exact":
            self._lose(leaf, field, turned)
        if columns and isinstance(test, Text) and test.parts not in _EMPTINESS:
            if len(columns) == 1:
                return Match(columns[0], test, leaf.span)  # nearly always
            return Or(tuple([Match(column, test, leaf.span) for column in columns]))
        if isinstance(test, SameAs):
            other = self._standing(test.other)  # also where the test needs no column
            if other is not None and other.field.never:
                return self.notes.missing(test.other, other.field, test, leaf.span)
        return self._on(leaf, field, turned)

    def _lose(self, leaf: Match[Field], field: FieldMap, turned: bool) -> None:
        """Note what a test on the field misses or finds beside."""
        self.notes.lose(field.exactness, f"`{leaf.subject.name}`: {field.why}", leaf.span, turned)

    def _on(self, leaf: Match[Field], field: FieldMap, negated: bool) -> Expr[Column]:
        """One test on a field as the table has it, small already."""
        if field.never:
            return self.notes.missing(leaf.subject, field, leaf.test, leaf.span)
        if field.cases:
            return self._by_case([leaf], field, negated)
        if field.values is not None:
            return simplify(self._by_value(leaf, field))
        if field.constant is not None:
            if text_holds(leaf.test, field.constant):
                return ALWAYS
            if isinstance(leaf.test, Null):
                return NEVER
            return self.notes.impossible(
                f"`{leaf.subject.name}` is always `{field.constant}` in {self.name}", leaf.span
            )
        test = self._test(leaf)
        if field.presence and _asks_emptiness(test):
            return self._plain(Request(leaf, test, field.presence, {}, self.notes, negated))
        if field.empty and (changed := self._with_empty(leaf, test, field)) is not None:
            return simplify(changed)
        request = Request(leaf, test, field.columns, field.options, self.notes, negated, field.closed)
        if field.transform is not None:
            return self._fitted(TRANSFORMS[field.transform].rewrite(request))
        if field.known and (problem := self._unknown(leaf, field)) is not None:
            return problem
        return self._plain(request)

    def _fitted(self, expr: Expr[Column]) -> Expr[Column]:
        """A tree with every test as its column's type takes it, as small as `simplify` would make it."""
        if isinstance(expr, Match):
            return typed(expr, self.notes)
        if isinstance(expr, Not):
            return negated(self._fitted(expr.item))
        items = [typed(i, self.notes) if isinstance(i, Match) else self._fitted(i) for i in expr.items]
        return all_of(items) if isinstance(expr, And) else any_of(items)

    def _test(self, leaf: Match[Field]) -> Test[Column]:
        """The test with a compared field (SameAs) replaced by its column."""
        test = leaf.test
        if not isinstance(test, SameAs):
            return test
        other = self._standing(test.other)
        if other is None or len(other.field.columns) != 1 or other.field.transform:
            message = f"`{test.other.name}` cannot be compared with here: it is no single column of {self.name}"
            raise Sigma2KqlError(self._missing() or [diagnostic("E404", message, leaf.span)])
        return SameAs(other.field.columns[0], test.shape, test.cased)

    def _plain(self, request: Request) -> Expr[Column]:
        """Any of the columns, each by its type: a number on a text column and a text on a number column become equal
        texts.
        """
        test, span = request.test, request.match.span
        found = [typed(Match(column, test, span), self.notes) for column in request.columns]
        if len(found) == 1:
            return found[0]
        empties = isinstance(test, Null) or test == _EMPTY
        return all_of(found) if empties else any_of(found)

    def _with_empty(self, leaf: Match[Field], test: Test[Column], field: FieldMap) -> Expr[Column] | None:
        """The test where a text such as `-` stands for a missing value: that text is empty, and nothing else."""
        dash: Test[Column] = Text((field.empty,), cased=True)
        branches: list[Expr[Column]] = []
        for column in field.columns:
            is_dash: Expr[Column] = Match(column, dash, leaf.span)
            if isinstance(test, Null) or test == Text(()):
                branches.append(Or((Match(column, Null(), leaf.span), is_dash)))
            elif isinstance(test, Exists) or test == PRESENT:
                branches.append(And((Match(column, PRESENT, leaf.span), Not(is_dash))))
            elif text_holds(test, field.empty):
                branches.append(And((Match(column, test, leaf.span), Not(is_dash))))
            else:
                return None
        return And(tuple(branches)) if isinstance(test, Null) or test == Text(()) else Or(tuple(branches))

    def _unknown(self, leaf: Match[Field], field: FieldMap) -> Expr[Column] | None:
        if not isinstance(leaf.test, Text | Number | Bool) or leaf.test == PRESENT or leaf.test == Text(()):
            return None
        test: Test[Any] = Text((str(leaf.test.value).lower(),)) if isinstance(leaf.test, Bool) else leaf.test
        if any(text_holds(test, value) for value in field.known):
            return None
        return self.notes.impossible(
            f"`{leaf.subject.name}` never holds this value in {self.name}{reason(field.closed)}",
            leaf.span,
            f"it holds {', '.join(f'`{value}`' for value in field.known)}",
        )

    def _by_value(self, leaf: Match[Field], field: FieldMap) -> Expr[Column]:
        """The predicates of all values that pass the test."""
        assert field.values is not None
        test: Test[Any] = leaf.test
        if isinstance(test, Null) or test == Text(()):
            return Not(Or((*field.values.values(), *((field.default,) if field.default else ()))))
        if isinstance(test, Bool):
            test = Text((str(test.value).lower(),))
        passing = [predicate for value, predicate in field.values.items() if text_holds(test, value)]
        if passing:
            return Or(tuple(passing))
        if field.default is not None:
            return field.default
        return self.notes.impossible(
            f"`{leaf.subject.name}` can never hold this value in {self.name}{reason(field.closed)}",
            leaf.span,
            f"it holds {', '.join(f'`{value}`' for value in field.values)}",
        )

    def _by_case(self, tests: Sequence[Match[Field]], field: FieldMap, negated: bool) -> Expr[Column]:
        """Any of the tests on the column that the row's case names: each case excludes the ones before it."""
        branches: list[Expr[Column]] = []
        before: list[Expr[Column]] = []
        for when, case in field.cases:
            tested = Or(tuple(self._on(leaf, case, negated) for leaf in tests))
            branches.append(And((*(Not(b) for b in before), when, tested)))
            before.append(when)
        return simplify(Or(tuple(branches)))

    def _keyword(self, leaf: Match[Field]) -> Expr[Column]:
        """The text anywhere in the columns that hold the event's text."""
        test: Test[Any] = leaf.test
        if isinstance(test, Text):
            test = Text(join_parts((ANY,), test.parts, (ANY,)), test.cased)
        elif isinstance(test, Number):
            test = Text((ANY, decimal_text(test.value), ANY))
        columns = self._keyword_columns()
        if not columns:
            raise Sigma2KqlError(self._missing())
        self.touched = self.told = True
        tests = [Match(column, test, leaf.span) for column in columns]
        return any_of([as_markup(one) if one.subject.text in self.rows.markup else one for one in tests])


def _joined(parts: list[Expr[Column]]) -> Expr[Column]:
    """All of the conjuncts."""
    return parts[0] if len(parts) == 1 else And(tuple(parts))


def _selects_nothing(message: str, span: Span | None, hint: str) -> Diagnostic:
    return diagnostic("W410", f"{message}: this value selects nothing", span, hint)


def _is_missing(name: str | None, why: str, span: Span | None, hint: str) -> Diagnostic:
    return diagnostic(
        "I414", f"`{name}` is missing in all of these events, so that no value of it matches: {why}", span, hint
    )


def _asks_emptiness(test: Test[Any]) -> bool:
    if isinstance(test, Text):
        return test.parts in _EMPTINESS
    return isinstance(test, Null | Exists)
