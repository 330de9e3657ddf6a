"""What makes two values of the tree equal, and which log sources a filter covers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sigma2kql.diagnostics.diagnostic import Source, Span
from sigma2kql.model.tree import Column, Field, LogSource, Match, Reference, Table, Text

SPAN, OTHER = Span(Source("a", "x"), 0, 1), Span(Source("b", "y"), 0, 1)
COLUMN = Column("a", "string", ("a",))
TABLE = Table("T", {"a": "string"}, ())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Field("a", SPAN), Field("a", OTHER)),
        (COLUMN, replace(COLUMN, name="b", key=("c",), kind="json", reads=("d",))),
        (Match(COLUMN, Text(("x",)), SPAN), Match(COLUMN, Text(("x",)), OTHER)),
        (LogSource("a", span=SPAN), LogSource("a", span=OTHER)),
        (Reference("a", SPAN), Reference("a", OTHER)),
        (TABLE, replace(TABLE, source=Source("a", ""))),
    ],
)
def test_where_something_was_read_makes_no_difference(one: object, other: object) -> None:
    assert one == other
    if not isinstance(one, Table):
        assert hash(one) == hash(other)


def test_what_is_asked_does() -> None:
    assert replace(COLUMN, text="b") != COLUMN
    assert replace(COLUMN, type="dynamic") != COLUMN
    assert Text(("x",)) != Text(("x",), cased=True)
    assert Field("a") != Field("A")


def test_a_log_source_covers_what_says_the_same() -> None:
    whole = LogSource("c", "p", "s")
    assert LogSource().covers(whole)
    for attribute in ("category", "product", "service"):
        assert LogSource(**{attribute: getattr(whole, attribute)}).covers(whole)
        for other in ("a", "z"):
            assert not replace(whole, **{attribute: other}).covers(whole)
        assert not whole.covers(replace(whole, **{attribute: None}))
