r"""The proof of exactness: emitted KQL, run on an engine, selects the rows that the reference semantics selects.

Random trees over columns of every type and kind, random rows that nearly match them; the query is run on all rows at
once and its answer is compared row by row with `evaluate.holds` over the same tree. What is left out of the rows, since
engines differ there and neither Sigma nor Microsoft says what is right: addresses with a prefix length or blanks around
them, numbers beyond 15 digits in texts, the letters U+212A and U+017F (which a regex with `i` takes for k and s). And
what the engine does otherwise than Kusto is documented to: `\b` and `\w` know ASCII alone, `=~` between columns folds
all of Unicode.

    DIFFERENTIAL=deep python -m pytest tests/test_differential.py        # thousands of examples, other ones every time
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.kql.long_lists import compact
from sigma2kql.kql.query import emit
from sigma2kql.map.accessors import accessor
from sigma2kql.model.literals import identifier, quoted, steps
from sigma2kql.model.simplify import leaves, simplify
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
    ANY,
    ONE,
    And,
    Bool,
    Cidr,
    Column,
    DatePart,
    Exists,
    Expr,
    KqlType,
    Match,
    Not,
    Null,
    Number,
    OneOf,
    Or,
    Part,
    Query,
    Regex,
    SameAs,
    Test,
    Text,
)
from sigma2kql.reference.evaluate import MISSING, holds

pytest.importorskip("duckdb_kql", reason="the extra `test` is not installed")
from sigma2kql.engines.duckdb import Engine
from sigma2kql.engines.kusto_language import KustoLanguage

DEEP = os.environ.get("DIFFERENTIAL") == "deep"
EXAMPLES = int(os.environ.get("DIFFERENTIAL_EXAMPLES") or (4000 if DEEP else 150))
PROFILE = settings(
    max_examples=EXAMPLES,
    derandomize=not DEEP,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
FEWER = settings(PROFILE, max_examples=EXAMPLES // 3)

# --------------------------------------------------------------------------------------------------------------------
# One table with a column of every type, and what can be asked of it

TABLE: dict[str, KqlType] = {
    "_id": "int",
    "S": "string",
    "Path": "string",
    "where": "string",  # a keyword as a name
    "I": "int",
    "L": "long",
    "R": "real",
    "B": "bool",
    "T": "datetime",
    "G": "guid",
    "D": "dynamic",
    "J": "string",  # JSON
    "X": "string",  # XML
    "P": "string",  # pairs
}
Row = Mapping[str, Any]


class Subject(NamedTuple):
    """A column and the same thing in Python: what its expression gives on a row."""

    column: Column
    value: Callable[[Row], Any]


def stored(name: str) -> Subject:
    column = Column(identifier(name), TABLE[name], (name,), name=name)
    return Subject(column, lambda row: MISSING if row.get(name) is None else _cell(row[name], TABLE[name]))


def _cell(value: Any, kind: KqlType) -> Any:
    if kind == "datetime":
        return datetime.fromisoformat(value)
    return _json_text(value) if kind == "dynamic" else value


def _json_text(value: Any) -> Any:
    """A dynamic value as tostring() gives it."""
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return value if isinstance(value, str) or value is None else json.dumps(value)


def _step(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def part(how: str, base: str, key: str, kind: KqlType = "string") -> Subject:
    """A property of a dynamic column or of JSON text, an element of XML, a pair."""
    column = accessor(how, stored(base).column, tuple(key.split(".")), kind, key)

    def value(row: Row) -> Any:
        whole = row.get(base)
        if how == "xml":
            found = re.search(f'<Data Name="{re.escape(key)}">([^<]*)</Data>', whole or "")
            return found[1] if found else MISSING
        if how == "pair":
            found = re.search(rf'(?:^|[^A-Za-z0-9_]){re.escape(key)}="?([^" ]*)', whole or "")
            return found[1] if found else MISSING
        if how == "json":
            try:
                whole = json.loads(whole or "null")
            except ValueError:
                whole = None
        for step in key.split("."):
            whole = _step(whole, step)
        return _cast(whole, kind)

    return Subject(column, value)


def _cast(value: Any, kind: KqlType) -> Any:
    """tostring(), toint(), tobool(), todatetime() of a dynamic value; MISSING for null."""
    if value is None or (isinstance(value, dict | list) and kind != "string"):
        return MISSING
    text = _json_text(value)
    match kind:
        case "int":
            return int(text) if re.fullmatch(r"-?\d{1,9}", text) else MISSING
        case "bool":
            return text == "true" if text in ("true", "false") else MISSING
        case "datetime":
            return text if re.match(r"\d{4}-\d\d-\d\dT", text) else MISSING
        case _:
            return text


def before_question_mark(name: str) -> Subject:
    column = Column(f'tostring(split({name}, "?")[0])', "string", (name,), "computed", (name,), "Bare")
    return Subject(column, lambda row: (row.get(name) or "").split("?")[0])


TEXTS = [
    stored("S"),
    stored("Path"),
    stored("where"),
    part("property", "D", "p"),
    part("property", "D", "deep.er"),
    part("property", "D", 'odd "key"'),
    part("json", "J", "k"),
    part("xml", "X", "Image"),
    part("pair", "P", "USER"),
    before_question_mark("Path"),
]
OTHERS = [
    stored("I"),
    stored("L"),
    stored("R"),
    stored("B"),
    stored("T"),
    stored("G"),
    stored("D"),
    part("property", "D", "n", "int"),
    part("property", "D", "b", "bool"),
    part("property", "D", "t", "datetime"),
    part("json", "J", "n", "int"),
]
SUBJECTS = {subject.column: subject for subject in (*TEXTS, *OTHERS)}

# --------------------------------------------------------------------------------------------------------------------
# Trees

FRAGMENTS = [
    "cmd", "CMD", "exe", "enc", "Users", "abc", "ab", "b", "a", "1", "42", "443", "é", "É", "ß", "Σ", "漢", "😀",
    "\\", "\\\\", "/", "-", " -", ".", ":", " ", "_", "%", "*", "?", "$", "^", "[", "(", "{0}", "'", '"', "@\"", "`",
    "\n", "\r\n", "\t", "\x07", "\u202e", "\u2028", "//", "; drop", "| where", "\\u0041", "\\n", "&amp;", "=", ",",
]  # fmt: skip
NETWORKS = [
    Cidr("10.0.0.0/8", 4),
    Cidr("192.168.1.0/24", 4),
    Cidr("172.16.0.0/12", 4),
    Cidr("1.2.3.4/32", 4),
    Cidr("0.0.0.0/0", 4),
    Cidr("127.0.0.0/8", 4),
    Cidr("::1/128", 6),
    Cidr("fe80::/10", 6),
    Cidr("fc00::/7", 6),
    Cidr("::/0", 6),
    Cidr("2001:db8:42::/49", 6),
    Cidr("::ffff:a00:0/104", 6),
]
REGEXES = ["^{}", "{}$", "{}.*{}", "^{}$", "({}|{})", "[{}x]+y?", "{}+", "(?:{})?", "^.{{2,5}}$", r"\d+", "^$"]
OPS = ["==", "<", "<=", ">", ">="]
UNITS = ["minute", "hour", "day", "week", "month", "year"]
NUMBERS: list[int | float] = [0, 1, -1, 5, 42, 443, 65535, 1.5, -0.25, 2**31 - 1, 10**12]
GUIDS = ["6f1c1d0e-0000-4a3b-9c1d-00000000000a", "ffffffff-ffff-ffff-ffff-ffffffffffff"]
MOMENTS = ["2026-01-05T08:30:00.0000000Z", "2025-12-29T00:00:00.0000000Z", "2024-02-29T23:59:59.1230000Z"]

literals = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join)


@st.composite
def text_tests(draw: Any) -> Text:
    words = draw(literals)
    rest = draw(st.one_of(st.just(()), st.tuples(literals)))
    shape: tuple[Part, ...] = draw(
        st.sampled_from(
            [
                (words,), (words, ANY), (ANY, words), (ANY, words, ANY), (words, ANY, *rest), (ANY, words, ANY, *rest),
                (words, ONE, *rest), (ANY, words, ONE), (ANY, OneOf("-/–—―"), words, ANY), (ONE, ANY, words), (),
                (ANY,), (ONE,), (ANY, ONE, ANY), (words, ANY, *rest, ANY), (ANY, words, ONE, ANY, *rest),
            ]
        )
    )  # fmt: skip
    return Text(join_parts(shape), draw(st.booleans()))


@st.composite
def regex_tests(draw: Any) -> Regex:
    pattern = draw(st.sampled_from(REGEXES))
    filled = pattern.format(*(re.escape(draw(literals)) for _ in range(pattern.count("{}") or 1)))
    return Regex(filled, draw(st.sampled_from(["", "i", "s", "m", "ims"])))


numbers = st.builds(Number, st.sampled_from(OPS), st.sampled_from(NUMBERS))
part_numbers = st.builds(
    DatePart, st.sampled_from(UNITS), st.sampled_from(OPS), st.sampled_from([0, 1, 5, 8, 29, 2026])
)


@st.composite
def matches(draw: Any) -> Expr[Column]:
    """One test, on one column or on any of several."""
    column = draw(st.sampled_from(list(SUBJECTS))) if draw(st.booleans()) else draw(st.sampled_from(TEXTS)).column
    same = st.builds(
        SameAs,
        st.sampled_from([s.column for s in TEXTS if s.column != column]),
        st.sampled_from(["equals", "contains", "startswith", "endswith"]),
        st.booleans(),
    )
    any_test: list[st.SearchStrategy[Any]] = [text_tests(), st.just(Null()), st.just(Exists())]
    if column.type == "bool":
        any_test = [st.just(Null()), st.just(Exists()), numbers]  # its text is True or true, by the engine
    if column.type == "real":
        any_test = [st.just(Null()), st.just(Exists())]  # its text is 42 or 42.0, by the engine; map asks for numbers
    if column.type in ("int", "long", "real"):
        any_test += [numbers, numbers, numbers]
    if column.type in ("string", "dynamic"):
        any_test += [regex_tests(), st.sampled_from(NETWORKS), st.sampled_from(NETWORKS), numbers, text_tests()]
    if column.type in ("string", "bool", "int"):
        any_test.append(st.builds(Bool, st.booleans()))
    if column.type == "string":
        any_test += [same, part_numbers]
    if column.type == "datetime":
        any_test += [part_numbers, part_numbers, numbers]
    if column.type == "guid":
        any_test += [st.sampled_from(GUIDS).map(lambda g: Text((g.upper(),)))]
    test = draw(st.one_of(any_test))
    if column.type == "string" and draw(st.integers(0, 4)) == 0:
        several = draw(st.lists(st.sampled_from([s.column for s in TEXTS]), min_size=1, max_size=2))
        return Or(tuple(Match(c, test) for c in dict.fromkeys((column, *several))))
    if draw(st.integers(0, 3)) == 0:  # several values of one kind on one column
        tests = (test, *draw(st.lists(st.one_of(any_test), min_size=1, max_size=4)))
        return Or(tuple(Match(column, t) for t in tests))
    return Match(column, test)


trees: st.SearchStrategy[Expr[Column]] = st.recursive(
    matches(),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda items: And(tuple(items))),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: Or(tuple(items))),
        inner.map(Not),
        inner.map(Not),
    ),
    max_leaves=10,
)

# --------------------------------------------------------------------------------------------------------------------
# Rows that nearly match

ADDRESSES = [
    "10.1.2.3", "11.0.0.1", "192.168.1.255", "192.168.2.1", "8.8.8.8", "1.2.3.4", "1.2.3.5", "172.31.255.255",
    "172.32.0.0", "::1", "::2", "fe80::1", "febf::1", "fec0::1", "fd00::1", "2001:db8:42:7fff::1",
    "2001:db8:42:8000::1", "2606:4700::1111", "::ffff:10.1.2.3", "::ffff:8.8.8.8", "::ffff:c0a8:101", "FE80::A",
    "10.1.2.", "10.1.2.3.4", "010.1.2.3", "256.1.1.1", "localhost", "-", "10.1.2.3:443",
]  # fmt: skip


def near_text(test: Test[Column], random: Random) -> str:
    """A text that passes the test or misses it narrowly."""
    match test:
        case Text(parts):
            text = "".join(_some(p, random) for p in parts)
        case Regex(pattern):
            text = re.sub(r"\\(.)|[\^$(){}?+\[\]|]", r"\1", pattern)
        case Cidr(network):
            return random.choice([*ADDRESSES, network.partition("/")[0]])
        case Number(_, value):
            return random.choice([f"{value}", f"{value + 1}", f"{value - 1}", f"0{value}", f"{value}x"])
        case Bool(value):
            return random.choice(["true", "True", "FALSE", "false", "1", "yes"])
        case DatePart():
            return random.choice(MOMENTS)
        case _:
            text = random.choice(FRAGMENTS)
    return _changed(text, random)


def _some(one: Part, random: Random) -> str:
    if isinstance(one, str):
        return one
    if isinstance(one, OneOf):
        return random.choice([*one.chars, "+", ""])
    return random.choice(["", "x", "\n", "é", "zz", " "] if one is ANY else ["x", "\n", "漢", "", "yy"])


def _changed(text: str, random: Random) -> str:
    match random.randrange(9):
        case 0:
            return text.swapcase() if len(text.swapcase()) == len(text) else text
        case 1:
            return text[1:]
        case 2:
            return text[:-1]
        case 3:
            return text + random.choice(["\n", "x", " ", "."])
        case 4:
            return random.choice(["x", " ", "\\", "\n"]) + text
        case 5:
            return text * 2
        case 6:
            at = random.randrange(len(text) + 1)
            return text[:at] + random.choice(["x", "-", "_", "é"]) + text[at:]
        case _:
            return text


def make_row(tree: Expr[Column], random: Random, number: int) -> dict[str, Any]:
    asked: dict[Column, list[Test[Column]]] = {}
    shared: list[Test[Column]] = []
    compared = False
    for leaf in leaves(tree):
        asked.setdefault(leaf.subject, []).append(leaf.test)
        shared.append(leaf.test)
        if isinstance(leaf.test, SameAs):
            compared = True
            asked.setdefault(leaf.test.other, []).append(leaf.test)

    def text(subject: Subject) -> str | None:
        found = any_text(subject)
        return found if found is None or not compared else found.replace("É", "é").replace("Σ", "σ").replace("ς", "σ")

    def any_text(subject: Subject) -> str | None:
        tests = asked.get(subject.column, [])
        if not tests and random.random() < 0.5:
            return None
        if random.random() < 0.15:
            return random.choice([None, "", *ADDRESSES, *FRAGMENTS])
        return near_text(random.choice(tests or shared), random)

    def number_near(subject: Subject, top: int) -> int | None:
        values = [int(t.value) for t in asked.get(subject.column, []) if isinstance(t, Number)] or [0, 1, 42, 443]
        value = random.choice(values) + random.choice([-1, 0, 0, 0, 1])
        return None if random.random() < 0.2 or abs(value) > top else value

    by_name = {s.column.name if s.column.kind == "stored" else f"{s.column.reads[0]}.{s.column.name}": s for s in TEXTS}
    i, long = number_near(stored("I"), 2**31 - 1), number_near(stored("L"), 2**53)
    row: dict[str, Any] = {
        "_id": number,
        "S": text(by_name["S"]),
        "Path": text(by_name["Path" if random.random() < 0.7 else "Path.Bare"]),
        "where": text(by_name["where"]),
        "I": i,
        "L": long,
        "R": random.choice([None, 0.0, 1.5, -0.25, 42.0, 443.125, float(i or 0)]),
        "B": random.choice([None, True, False]),
        "T": random.choice([None, *MOMENTS]),
        "G": random.choice([None, *GUIDS]),
    }
    if random.random() < 0.3:  # two fields alike
        same = row["S"] or ""
        row["Path"] = random.choice([same, same.swapcase() if same.isascii() else same, f"{same}\\x"])
    row["D"] = _bag(
        {
            "p": text(by_name["D.p"]),
            "deep": _bag({"er": text(by_name["D.deep.er"])}, random),
            'odd "key"': text(by_name['D.odd "key"']),
            "n": random.choice([number_near(OTHERS[7], 10**8), "42", "x"]),
            "b": random.choice([True, False, "true", "junk", None]),
            "t": random.choice([*MOMENTS, "junk", None]),
        },
        random,
    )
    inner = _bag({"k": text(by_name["J.k"]), "n": number_near(OTHERS[10], 10**8)}, random)
    row["J"] = random.choice([json.dumps(inner, ensure_ascii=random.random() < 0.5), "", "no json"]) if inner else None
    image, user = text(by_name["X.Image"]), text(by_name["P.USER"])
    row["X"] = None if image is None else f'<a><Data Name="Id">1</Data><Data Name="Image">{image}</Data></a>'
    row["P"] = None if user is None else random.choice([f'pid=1 USER="{user}" x=y', f"USER={user}", f"MYUSER={user}"])
    return row


def _bag(values: dict[str, Any], random: Random) -> dict[str, Any] | None:
    kept = {k: v for k, v in values.items() if random.random() < 0.85 and (v is not None or random.random() < 0.5)}
    return kept if kept or random.random() < 0.5 else None


# --------------------------------------------------------------------------------------------------------------------
# The properties


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(threads=1) as one:
        yield one


@PROFILE
@given(tree=trees, seed=st.integers(0, 2**32), small=st.booleans())
def test_a_query_selects_the_rows_that_the_reference_selects(
    engine: Engine, tree: Expr[Column], seed: int, small: bool
) -> None:
    random = Random(seed)
    rows = [make_row(tree, random, number) for number in range(16)]
    where = simplify(tree) if small else tree
    expected = {row["_id"] for row in rows if holds(tree, lambda column, row=row: SUBJECTS[column].value(row))}
    query = Query("Rows", And(()), where, "T", TABLE)
    engine.load("Rows", TABLE, rows)
    for prefiltered in (False, True):
        agree(engine, emit(query, prefiltered), rows, expected)


def agree(engine: Engine, kql: str, rows: list[dict[str, Any]], expected: set[int]) -> None:
    try:
        found = engine.matching(kql)
    except Sigma2KqlError as error:
        raise AssertionError(f"{error}\n{kql}") from error
    wrong = sorted(expected ^ found)
    assert not wrong, "\n".join([kql, *(f"{'missed' if n in expected else 'not meant'}: {rows[n]}" for n in wrong[:3])])


@FEWER
@given(
    texts=st.lists(
        st.tuples(literals, st.sampled_from(["contains", "startswith", "endswith"])), min_size=8, max_size=14
    ),
    common=st.sampled_from(["", "", "abc", "C:\\Users\\", "\u202e", "$(", "\n"]),
    seed=st.integers(0, 2**32),
)
def test_a_long_list_as_one_regex_means_the_same(
    engine: Engine, texts: list[tuple[str, str]], common: str, seed: int
) -> None:
    column = stored("S").column
    whole = [(common + text, how) for text, how in texts]
    shapes = {"contains": lambda t: (ANY, t, ANY), "startswith": lambda t: (t, ANY), "endswith": lambda t: (ANY, t)}
    tree: Expr[Column] = Or(tuple(Match(column, Text(shapes[how](text))) for text, how in whole))
    random = Random(seed)
    rows = [make_row(tree, random, number) for number in range(16)]
    expected = {row["_id"] for row in rows if holds(tree, lambda column, row=row: SUBJECTS[column].value(row))}
    engine.load("Rows", TABLE, rows)
    agree(engine, emit(Query("Rows", And(()), compact(tree), "T", TABLE)), rows, expected)


@FEWER
@given(tree=trees, seed=st.integers(0, 2**32))
def test_simplify_keeps_the_meaning_and_has_nothing_left_to_do(tree: Expr[Column], seed: int) -> None:
    random = Random(seed)
    small = simplify(tree)
    assert simplify(small) == small
    assert len(leaves(small)) <= len(leaves(tree))
    for row in (make_row(tree, random, number) for number in range(8)):
        value = lambda column, row=row: SUBJECTS[column].value(row)  # noqa: E731
        assert holds(small, value) == holds(tree, value)


@FEWER
@given(tree=trees)
def test_the_same_tree_gives_the_same_text(tree: Expr[Column]) -> None:
    query = Query("Rows", And(()), tree, "T", TABLE)
    assert emit(query) == emit(copy.deepcopy(query))


# --------------------------------------------------------------------------------------------------------------------
# Literals and names

HOSTILE = [
    "\\",
    '"',
    "'",
    "\n",
    "\r",
    "\t",
    "\x00",
    "\x1b",
    "\x85",
    "\u2028",
    "\u202e",
    "\ufeff",
    "`",
    "%",
    "{",
    "; drop table T //",
    "漢",
]
texts_of_all_kinds = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.characters(exclude_categories=["Cs"])), max_size=12
)


@FEWER
@given(texts_of_all_kinds.map("".join))
def test_a_literal_reads_back_as_its_text(engine: Engine, text: str) -> None:
    text = text.replace("\x00", "")  # no text of a table holds it, and the engine ends at it
    (row,) = engine.run(f"print x = {quoted(text)}")
    assert row["x"] == text
    assert "\n" not in quoted(text)


NAMES = [  # of a column
    "where", "and", "my-field.x", 'a"b', "a'b", "a]b", "a\\b", "a\nb", "1st", "naïve", "日本", "; drop", "_x",
    "true", "count", "T | take 1", "\u202e", "//", "datetime", "c-uri", "@timestamp", " ", "in~", "[0]", "0",
]  # fmt: skip


@pytest.fixture(scope="module")
def parser(kusto_bundle: Path) -> Iterator[KustoLanguage]:
    with KustoLanguage({"tables": {"Rows": {"D": "dynamic"}}, "functions": {}}, kusto_bundle) as one:
        yield one


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_one_name_to_microsofts_parser(parser: KustoLanguage, name: str) -> None:
    """The only fault of a query is that it knows no such column: all of the name is that column."""
    start = "Rows | where "
    (problem,) = parser.check(f'{start}{identifier(name)} == "x"')
    assert (problem.code, problem.start, problem.length) == ("KS142", len(start), len(identifier(name)))
    assert parser.check(f'Rows | where tostring(D{steps([name, "a"])}) == "x"') == []
