"""The nouns: a rule as a tree of tests, a table as data, a query and what became of a document.

Place in the flow: every stage takes and gives these; they hold no behaviour beyond construction. Invariant: values are
frozen; a tree over `Field` has not been mapped, a tree over `Column` has, and the type checker keeps the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, Span, frozen, immutable
from sigma2kql.model.query_facts import Liveness, Recurrence

S = TypeVar("S")

# --------------------------------------------------------------------------------------------------------------------
# What is tested


@frozen
class Field:
    """A field of the event by its Sigma name; `name` None stands for the whole event (keywords)."""

    name: str | None
    span: Span | None = field(default=None, compare=False, repr=False)


KqlType = Literal["string", "int", "long", "real", "decimal", "bool", "datetime", "timespan", "dynamic", "guid"]


@frozen
class Column:
    """A typed KQL expression that a predicate may stand on: a stored column, or something computed from stored ones.

    `text` is finished KQL; `reads` are the stored columns in it; `kind` says how it is reached (a stored column, a
    property of a dynamic one, JSON or XML text, a computed expression) and `key` which part, so that a row can be
    shaped for it and a term test can be put on the stored column.
    """

    text: str
    type: KqlType
    reads: tuple[str, ...] = field(compare=False)
    kind: Literal["stored", "property", "json", "xml", "pair", "computed"] = field(default="stored", compare=False)
    key: tuple[str, ...] = field(default=(), compare=False)
    name: str = field(default="", compare=False)  # what a query calls it when it has to be computed once and used often


# --------------------------------------------------------------------------------------------------------------------
# Tests: a closed set of meanings. Modifiers are gone; nobody downstream asks which one made a test.


class Wildcard(Enum):
    """ANY: any run of characters, also empty, also across lines. ONE: exactly one character."""

    ANY = "*"
    ONE = "?"

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is slow, and trees are hashed often


ANY = Wildcard.ANY
ONE = Wildcard.ONE


@frozen
class OneOf:
    """Exactly one of these characters (windash)."""

    chars: str


@frozen
class Placeholder:
    """`%name%` of the `expand` modifier, to be replaced before mapping."""

    name: str


Part: TypeAlias = str | Wildcard | OneOf | Placeholder


@frozen
class Text:
    """The whole text has this shape. Parts never hold two neighbouring strings, empty strings or ANY after ANY.

    `()` is the empty text. contains, startswith and endswith are shapes: `(ANY, "x", ANY)`, `("x", ANY)`, `(ANY, "x")`.
    """

    parts: tuple[Part, ...]
    cased: bool = False


@frozen
class Regex:
    """A match is found somewhere in the text. `flags` is a subset of "ims", sorted; case counts unless "i" is in it.

    `translated`: the pattern is in Kusto's dialect, holds its flags itself and finds nothing in the empty text.
    """

    pattern: str
    flags: str = ""
    translated: bool = False


@frozen
class Cidr:
    """The text is an address inside this network (canonical text, no host bits)."""

    network: str
    version: Literal[4, 6]


@frozen
class Number:
    """Compares as a number; a text field that holds the same canonical number compares too, and one that holds it as
    the rule has `written` it (`0x17` without quotes: events hold such numbers as text).
    """

    op: Literal["==", "<", "<=", ">", ">="]
    value: int | float
    written: str = ""


@frozen
class Bool:
    """Equals this truth value, also as the text true/false in any case."""

    value: bool


@frozen
class Null:
    """The field is missing or null."""


@frozen
class Exists:
    """The field is present, even if null or empty."""


@frozen
class SameAs(Generic[S]):
    """The text equals, contains, starts or ends with the text of another field; both must be present."""

    other: S
    shape: Literal["equals", "contains", "startswith", "endswith"] = "equals"
    cased: bool = False


@frozen
class DatePart:
    """A part of the timestamp (UTC, ISO week) compares with a number."""

    unit: Literal["minute", "hour", "day", "week", "month", "year"]
    op: Literal["==", "<", "<=", ">", ">="]
    value: int


Test: TypeAlias = Text | Regex | Cidr | Number | Bool | Null | Exists | SameAs[S] | DatePart

# --------------------------------------------------------------------------------------------------------------------
# Trees


@frozen
class Match(Generic[S]):
    """One test on one subject. `span` is the value in the rule that asks for it."""

    subject: S
    test: Test[S]
    span: Span | None = field(default=None, compare=False, repr=False)


@frozen
class And(Generic[S]):
    """All hold. `And(())` is true."""

    items: tuple[Expr[S], ...]


@frozen
class Or(Generic[S]):
    """At least one holds. `Or(())` is false."""

    items: tuple[Expr[S], ...]


@frozen
class Not(Generic[S]):
    """Does not hold (two-valued: a missing field fails every test, so its negation holds)."""

    item: Expr[S]


Expr: TypeAlias = And[S] | Or[S] | Not[S] | Match[S]

# --------------------------------------------------------------------------------------------------------------------
# Documents


@frozen
class LogSource:
    """Which log a rule speaks of; None is unstated. `span` is the whole logsource map."""

    category: str | None = None
    product: str | None = None
    service: str | None = None
    span: Span | None = field(default=None, compare=False, repr=False)

    def covers(self, other: LogSource) -> bool:
        """Whether every attribute stated here is the same there (Sigma filters, section "Log source")."""
        return (
            (self.category is None or self.category == other.category)
            and (self.product is None or self.product == other.product)
            and (self.service is None or self.service == other.service)
        )

    def __str__(self) -> str:
        """In words, as a rule states it: `product: windows, category: process_creation`."""
        stated = (("product", self.product), ("category", self.category), ("service", self.service))
        return ", ".join(f"{name}: {value}" for name, value in stated if value) or "any log source"


@frozen
class Metadata:
    """What a document says about itself. Lists are tuples; dates are ISO text; `custom` holds every unknown top-level
    key.
    """

    title: str = ""
    id: str | None = None
    name: str | None = None
    status: str | None = None
    level: str | None = None
    description: str = ""
    author: str = ""
    date: str | None = None
    modified: str | None = None
    license: str | None = None
    references: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    falsepositives: tuple[str, ...] = ()
    related: tuple[Mapping[str, str], ...] = ()
    custom: Mapping[str, Any] = field(default_factory=dict)


@frozen
class Origin:
    """Where a document stands: its source, its number in the file (from 0) and its extent."""

    source: Source
    index: int
    span: Span


@frozen
class Rule:
    """A detection rule. `where` is the finished tree; several conditions are one `Or`.

    `expands`: whether there may be placeholders in it.
    """

    origin: Origin
    meta: Metadata
    logsource: LogSource
    where: Expr[Field]
    warnings: tuple[Diagnostic, ...] = ()
    expands: bool = True


@frozen
class Reference:
    """The id or name of another rule, and where it is named."""

    name: str
    span: Span | None = field(default=None, compare=False, repr=False)


CorrelationType = Literal[
    "event_count",
    "value_count",
    "value_sum",
    "value_avg",
    "value_percentile",
    "value_median",
    "temporal",
    "temporal_ordered",
]


@frozen
class Threshold:
    """The condition of a correlation: all of `bounds` (operator, number) hold for the aggregate."""

    bounds: tuple[tuple[Literal["gt", "gte", "lt", "lte", "eq", "neq"], float], ...]
    fields: tuple[str, ...] = ()
    percentile: float | None = None


@frozen
class Correlation:
    """A rule over the matches of other rules. `timespan` is in seconds."""

    origin: Origin
    meta: Metadata
    type: CorrelationType
    rules: tuple[Reference, ...]
    group_by: tuple[Reference, ...]
    timespan: int
    threshold: Threshold | None
    expression: str | None = None  # temporal condition over rule names, e.g. "a and b or not c"
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # alias -> {rule name: field}
    generate: bool = False
    warnings: tuple[Diagnostic, ...] = ()


@frozen
class Filter:
    """A condition that is added (AND, as written) to the rules it names; `rules` empty means any.

    `expands`: whether there may be placeholders in it.
    """

    origin: Origin
    meta: Metadata
    logsource: LogSource
    rules: tuple[Reference, ...]
    where: Expr[Field]
    warnings: tuple[Diagnostic, ...] = ()
    expands: bool = True


@frozen
class NativeQuery:
    """A Microsoft hunting or analytics document: KQL already. `data` is the document as plain values."""

    origin: Origin
    meta: Metadata
    query: str
    query_span: Span
    data: Mapping[str, Any]
    warnings: tuple[Diagnostic, ...] = ()


@frozen
class Broken:
    """A document that could not be read; `diagnostics` holds at least one error."""

    origin: Origin
    meta: Metadata
    diagnostics: tuple[Diagnostic, ...]
    kind: Literal["detection", "correlation", "filter", "native"] = "detection"


Document: TypeAlias = Rule | Correlation | Filter | NativeQuery | Broken

# --------------------------------------------------------------------------------------------------------------------
# Tables and targets: data, read from mapping files

Exactness = Literal["exact", "broader", "narrower"]

# What a source puts into a column that is not what the table's fields say: nothing, as its events have no such thing;
# nothing, though they do; a file name without its path; a path with its file name once more behind it; something else,
# while another column of the field holds what is meant; something else.
FillingKind = Literal["never", "lost", "bare-name", "doubled", "beside", "differs"]


@frozen
class Filling:
    """How one source fills one column otherwise than the table's fields say, and what a test then misses or finds."""

    kind: FillingKind
    why: str


@frozen
class Writer:
    """A data source that writes rows of a table; `exactness` is that of its rows, whatever a rule tests."""

    source: str
    product: str | None = None  # rules of another product are not about its rows
    fills: Mapping[str, Filling] = field(default_factory=dict)  # by column
    exactness: Exactness = "exact"
    why: str = ""


@frozen
class FieldMap:
    """How one Sigma field stands in a table.

    Exactly one of: any of `columns` (after `transform`), a predicate per value, a constant text, nowhere (`never`), or
    by row `cases`, of which the first whose predicate holds decides.
    """

    columns: tuple[Column, ...] = ()
    transform: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # arguments of the transform
    values: Mapping[str, Expr[Column]] | None = None  # value -> predicate; any other value is `default`
    default: Expr[Column] | None = None  # None: any other value can never match
    constant: str | None = None
    never: str = ""  # why no event of these rows has the field: it is missing in all of them
    hint: str = ""  # which name may be meant, where it is `never`
    native: bool = False  # no mapping names it: it is a column of the table itself
    cases: tuple[tuple[Expr[Column], FieldMap], ...] = ()
    presence: tuple[Column, ...] = ()  # what emptiness is asked of, where that is not `columns`
    empty: str = ""  # the text that stands for a missing value (`-` in W3C logs), beside the empty one
    known: tuple[str, ...] = ()  # the only values the column holds, where that is so
    closed: str = ""  # why the column holds no other values than those listed
    exactness: Exactness = "exact"
    why: str = ""
    span: Span | None = field(default=None, compare=False, repr=False)


@frozen
class Elements:
    """The fields that the events of a log source have: written out, or those that the list of a log has for the
    EventIDs `ids` (None: any that the log has) of `channels` (where the list is of several).
    """

    names: frozenset[str] = frozenset()
    log: str = ""
    ids: frozenset[int] | None = None
    channels: tuple[str, ...] = ()


@immutable
class Serve:
    """One log source that a table carries: which rules, which rows, and what differs from the table's own fields.

    `event_ids` limits it to rules all of whose EventID values are among them. `others` maps every field not listed.
    """

    logsource: LogSource
    where: Expr[Column]
    event_ids: frozenset[int] = frozenset()
    fields: Mapping[str, FieldMap] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    others: FieldMap | None = None
    elements: Elements | None = None  # where stated, the only fields that its events have
    keywords: tuple[Column, ...] = ()
    exactness: Exactness = "exact"
    why: str = ""
    writers: tuple[Writer, ...] | None = None  # where stated, instead of all of the table's
    further: bool = False  # other events that the log source means too: asked beside the first, never in its place


@immutable
class Table:
    """A table or ASIM parser function with its columns (name -> type) and the log sources it serves."""

    name: str
    columns: Mapping[str, KqlType]
    serves: tuple[Serve, ...]
    builtin: str | None = None  # the built-in name of an ASIM parser function (_Im_...)
    time: str = "TimeGenerated"
    target: str = ""
    fields: Mapping[str, FieldMap] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    others: FieldMap | None = None
    keywords: tuple[Column, ...] = ()
    writers: tuple[Writer, ...] | None = None
    extends: str = ""  # the table whose mapping this one adds to: its own name, or another's
    source: Source | None = field(default=None, compare=False, repr=False)


@frozen
class Query:
    """One table and the rows wanted: those of the log source (`rows`) that the rule means (`where`).

    `time` is the timestamp column that a time range or a correlation stands on; `columns` are all that the table has.
    """

    table: str
    rows: Expr[Column]
    where: Expr[Column]
    time: str = "TimeGenerated"
    columns: Mapping[str, KqlType] = field(default_factory=dict)


Verdict = Literal["exact", "broader", "narrower"]


@immutable
class Compiled:
    """What became of one document. `kql` is None when it failed or gives no query of its own."""

    document: Document
    target: str
    kql: str | None = None
    table: str | None = None
    query: Query | None = None
    verdict: Verdict | None = None  # the worst of `verdicts`, among the sources assumed to be there
    columns: Mapping[str, str] = field(default_factory=dict)
    mapped: Mapping[str, str] = field(default_factory=dict)  # Sigma field -> what it became, in words
    diagnostics: tuple[Diagnostic, ...] = ()
    passed_over: tuple[str, ...] = ()  # tables that were considered and not taken, and why
    caveats: tuple[str, ...] = ()  # sources that fill a column of the rule otherwise, and what is missed there
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)  # by the source that writes the rows
    recurrence: Recurrence | None = None  # of a correlation
    here: Liveness | None = None  # in the workspace of a profile, where one is given
