"""Sigma `|re` in Kusto's dialect: what is rewritten, what is refused, and that every rewriting keeps its meaning."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, assume, given, settings, strategies as st

from sigma2kql.diagnostics.catalogue import CATALOGUE
from sigma2kql.model.tree import ANY, ONE, OneOf, Part, Placeholder, Text
from sigma2kql.regex import RegexProblem, matches_empty, required_literals, search, translate, wildcard_regex

duckdb = pytest.importorskip("duckdb", reason="RE2, the second opinion, comes with the extra `test`")


@pytest.fixture(scope="module")
def re2() -> Iterator[object]:
    connection = duckdb.connect()
    yield lambda pattern, text: connection.execute("SELECT regexp_matches(?, ?)", [text, pattern]).fetchone()[0]
    connection.close()


@pytest.mark.parametrize(
    ("pattern", "flags", "expected"),
    [
        (r"net\s+user", "", r"net\s+user"),
        (r"a", "im", r"(?im)a"),
        (r"(a)(?<x>b)(?P<y>c)(?'z'd)(?|e)", "", r"(?:a)(?:b)(?:c)(?:d)(?:e)"),
        (r"\/\-\"\'\<\>\#\_", "", "/-\"'<>#_"),
        (r"\.\\\[\]\{\}\(\)\^\$\|\*\+\?", "", r"\.\\\[\]\{\}\(\)\^\$\|\*\+\?"),
        (r"a{x}{", "", r"a\{x\}\{"),
        (r"a]}", "", r"a\]\}"),
        (r"a{2}b{2,}c{2,3}d{,3}e{0,1}f{1,}", "", r"a{2}b{2,}c{2,3}d{0,3}e?f+"),
        (r"a+?b*?c??d{2}?", "", r"a+?b*?c??d{2}?"),
        (r"\Qa.b\E+", "", r"a\.b+"),
        (r"\Qa.b", "", r"a\.b"),
        (r"\cA\e\a\x41\x{42}\u0043\U00000044\0\012\101\o{105}", "", r"\x{1}\x{1B}\x{7}ABCD\x{0}\nAE"),
        (r"[[]", "", r"[\[]"),
        (r"[]a]", "", r"[\]a]"),
        (r"[^]a]", "", r"[^\]a]"),
        (r"[a&&b]", "", r"[a&b]"),
        (r"[a~~\--]", "", r"[a~-]"),
        (r"[+--]", "", r"[+-\-]"),
        (r"[%-&&]", "", r"[%-\&&]"),
        (r"[\w-.]", "", r"[\w.-]"),
        (r"[a-\d]", "", r"[a\d-]"),
        (r"[\^a]", "", r"[\^a]"),
        (r"[a^]", "", r"[a^]"),
        (r"[\b\/\<]", "", r"[\x{8}/<]"),
        (r"[[:alpha:][:^digit:]x]", "", r"[[:alpha:][:^digit:]x]"),
        (r"[[:nope:]]", "", r"[\[:nope]\]"),
        (r"\p{Lu}\pL\P{^Cyrillic}", "", r"\p{Lu}\p{L}\p{Cyrillic}"),
        (r"a(?#not \this)b", "", r"ab"),
        (r"(?x) a [ b] \  # c", "", r"a[ b] "),
        (r"(?i)a(?s-i:b)(?-i)c", "", r"(?i)a(?s-i:b)(?-i)c"),
        (r"(?u)(?U)a", "", r"a"),
        (r"\N", "", r"."),
        (r"\N", "s", r"(?s)[^\n]"),
        (r"foo\Z", "m", r"(?m)foo\n?\z"),
        (r"\Afoo$\z", "m", r"(?m)\Afoo$\z"),
        (r"foo\Kbar", "", r"foobar"),
        ("a\nb\t\u202e", "", r"a\nb\t\x{202E}"),
        (r"a|(b|)|", "", r"a|(?:b|)|"),
        (r"\d\D\w\W\s\S\b\B", "", r"\d\D\w\W\s\S\b\B"),
        ("(a)" * 17, "", "(?:a)" * 17),
        (r".{1000,}[^/]{900}\w{10}", "", r".{1000,}[^/]{900}\w{10}"),
    ],
)
def test_translation(pattern: str, flags: str, expected: str) -> None:
    assert translate(pattern, flags) == expected
    assert translate(expected) == expected


@pytest.mark.parametrize(
    ("pattern", "start", "end", "construct"),
    [
        (r"a(?=b)", 1, 4, "lookahead"),
        (r"a(?!b)", 1, 4, "negative lookahead"),
        (r"(?<=a)b", 0, 4, "lookbehind"),
        (r"(?<!a)b", 0, 4, "negative lookbehind"),
        (r"(a)\1", 3, 5, r"backreference `\1`"),
        (r"(?<n>a)\k<n>", 7, 9, "backreference"),
        (r"(?P<n>a)(?P=n)", 8, 12, "backreference"),
        (r"(a)\g{1}", 3, 5, "backreference"),
        (r"xa++", 2, 4, "possessive"),
        (r"x(?>a)", 1, 4, "atomic"),
        (r"a(?R)", 1, 5, "recursion"),
        (r"(a)(?1)", 3, 6, "recursion"),
        (r"(a)?(?(1)b)", 4, 7, "conditional"),
        (r"(*FAIL)", 0, 2, "verb"),
        (r"a\G", 1, 3, "anchor"),
        (r"a\R", 1, 3, "line break"),
        (r"a\X", 1, 3, "grapheme"),
        (r"a\y", 1, 3, r"unknown escape `\y`"),
        (r"\Za", 0, 2, "before more text"),
        (r"*a", 0, 1, "nothing to repeat"),
        (r"a|+", 2, 3, "nothing to repeat"),
        (r"(?i)*", 4, 5, "nothing to repeat"),
        (r"a**", 2, 3, "quantifier after"),
        (r"a{2}{3}", 4, 5, "quantifier after"),
        (r"a{3,2}", 1, 6, "upper bound"),
        (r"a{1001}", 1, 7, "repetition of 1001"),
        (r"(a{100}){11}", 0, 12, "repetition of 1100"),
        (r"\w{201}", 0, 7, "unfold"),
        (r"(?:ab|c){900}", 0, 13, "unfold"),
        (r"x(a", 1, 2, "not closed"),
        (r"a)", 1, 2, "without an opening"),
        (r"x[a", 1, 2, "not closed"),
        (r"[]", 0, 1, "not closed"),
        (r"[z-a]", 1, 4, "reversed"),
        (r"[\Qa\E]", 1, 3, "inside a set"),
        ("a\\", 1, 2, "backslash at the end"),
        (r"\xZ", 0, 2, "character code"),
        (r"\x{D800}", 0, 8, "outside Unicode"),
        (r"\p{Klingon}", 0, 2, "property"),
        (r"(?y)", 0, 4, "unknown flag"),
        (r"(?a)", 0, 4, "ASCII-only"),
        (r"(?:", 0, 1, "not closed"),
        (r"(?", 0, 2, "unknown group"),
        (r"a(?#b", 1, 5, "comment"),
        ("(" * 100_000, 60, 61, "nested"),
    ],
)
def test_refusal(pattern: str, start: int, end: int, construct: str) -> None:
    with pytest.raises(RegexProblem) as caught:
        translate(pattern)
    assert (caught.value.offset, caught.value.end) == (start, end)
    assert construct in caught.value.construct
    assert caught.value.code in CATALOGUE


def test_codes_tell_the_kinds_apart() -> None:
    for code, pattern in (("E520", "a(?!b)"), ("E520", r"(a)\1"), ("E521", "(a"), ("E522", "a{5000}")):
        with pytest.raises(RegexProblem) as caught:
            translate(pattern)
        assert caught.value.code == code


def test_hostile_patterns_end() -> None:
    for pattern in ("(a|" * 59 + ")" * 59, "a?" * 20_000, "[" + "a" * 100_000 + "]", "(?i)" * 20_000, "\\Q" * 20_000):
        search(translate(pattern), "aaaa")


# ---- meaning

ALPHABET = "abBk/-._ 1\n\\[&é"
TEXTS = st.text(ALPHABET + "ſ\u212aÉ", max_size=12)
_LEAVES = st.sampled_from(
    [
        *"abBk1/- é",
        *(r"\.", r"\\", r"\[", "&", "_", ".", r"\d", r"\w", r"\S", r"\s", "[ab]", "[^a]", "[a-k]", r"[\[&]"),
        *("[^\\n]", "[B-]", r"[\d_]", "^", "$", r"\b", r"\B", r"\A", "ab", "ak b", "\\n"),
    ]
)
PATTERNS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"(?:{p[0]}|{p[1]})"),
        inner.map(lambda p: f"({p})"),
        inner.map(lambda p: f"(?i:{p})"),
        inner.map(lambda p: f"(?s:{p})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,3}", "*?"])).map(
            lambda p: f"(?:{p[0]}){p[1]}"
        ),
    ),
    max_leaves=7,
)
FLAGS = st.sampled_from(["", "i", "m", "s", "ims"])
RELAXED = settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))


def python_search(pattern: str, flags: str, text: str) -> bool:
    """Python's own engine: `$` also stands before a final line feed there, so it is asked for the very end."""
    if "m" not in flags:
        pattern = re.sub(r"(?<!\\)\$", r"\\Z", pattern)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return re.search(pattern, text, sum(re.RegexFlag[f.upper()] for f in flags)) is not None


@RELAXED
@given(PATTERNS, FLAGS, TEXTS)
def test_meaning_is_that_of_python(pattern: str, flags: str, text: str) -> None:
    assume(text or r"\B" not in pattern)  # before Python 3.14, \B does not hold in the empty text
    translated = translate(pattern, flags)
    assert search(translated, text) == python_search(pattern, flags, text)
    assert translate(translated) == translated


@RELAXED
@given(PATTERNS, FLAGS, TEXTS)
def test_meaning_is_that_of_re2(re2: object, pattern: str, flags: str, text: str) -> None:
    assume(text.isascii() or not re.search(r"\\[wbBsS]", pattern))  # RE2 reads these as ASCII, Kusto as Unicode
    translated = translate(pattern, flags)
    assert search(translated, text) == re2(translated, text)  # type: ignore[operator]


@RELAXED
@given(PATTERNS, FLAGS)
def test_empty_text(pattern: str, flags: str) -> None:
    translated = translate(pattern, flags)
    assert matches_empty(translated) == search(translated, "")
    assert matches_empty("a*") is True
    assert matches_empty("a") is False


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("foo$", "foo\n", False),
        ("(?m)foo$", "foo\nbar", True),
        ("(?i)k", "\u212a", True),
        ("(?i)[j-l]", "\u212a", True),
        ("(?i)ß", "ẞ", True),
        ("(?i)i", "İ", False),
        (r"\d", "٣", True),
        (r"\bé\b", "xé", False),
        (r"\p{Cyrillic}", "powеrshell", True),
        ("[[:punct:]]", "a!", True),
        ("(a*)*b", "a" * 20_000, False),
        ("(a|aa)+$", "a" * 5_000 + "b", False),
        ("(x+x+)+y", "x" * 20_000, False),
        ("a.*b.*c.*d", "abc" * 20_000, False),
        (".{1000,}", "x" * 999, False),
        (".{1000,}", "x" * 1000, True),
    ],
)
def test_search(pattern: str, text: str, expected: bool) -> None:
    assert search(translate(pattern), text) is expected


# ---- what every match holds


def holds(shape: Text, text: str) -> bool:
    """A `Text` the slow and obvious way; other cases of ASCII letters only."""

    def part(p: Part) -> str:
        if isinstance(p, str):
            return re.escape(p)
        if isinstance(p, OneOf):
            return "[" + re.escape(p.chars) + "]"
        return ".*" if p is ANY else "."

    if not shape.cased:
        text = re.sub("[A-Z]", lambda m: m[0].lower(), text)
        shape = Text(
            tuple(re.sub("[A-Z]", lambda m: m[0].lower(), p) if isinstance(p, str) else p for p in shape.parts)
        )
    return re.fullmatch("".join(map(part, shape.parts)), text, re.DOTALL) is not None


@RELAXED
@given(PATTERNS, FLAGS, TEXTS)
def test_required_literals_are_required(pattern: str, flags: str, text: str) -> None:
    translated = translate(pattern, flags)
    if search(translated, text):
        for clause in required_literals(translated):
            assert any(holds(shape, text) for shape in clause)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"net\s+user", (((ANY, "net", ANY),), ((ANY, "user", ANY),))),
        (r"^C:\\x", ((("C:\\x", ANY),),)),
        (r"\.exe$", (((ANY, ".exe"),),)),
        (r"(?:foo|bar)[\\/]x", (((ANY, "foo", OneOf("/\\"), "x", ANY), (ANY, "bar", OneOf("/\\"), "x", ANY)),)),
        (r"(?:foo\d|bar)x", (((ANY, "foo", ANY), (ANY, "bar", ANY)), ((ANY, "x", ANY),))),
        (r"colou?r", (((ANY, "colour", ANY), (ANY, "color", ANY)),)),
        (r"(?:ab){2}", (((ANY, "abab", ANY),),)),
        (r"(?:ab)+", (((ANY, "ab", ANY),),)),
        (r"(?:ab)*|c", ()),
        (r"a|\d", ()),
        (r"\d+", ()),
    ],
)
def test_required_literals(pattern: str, expected: tuple[tuple[tuple[Part, ...], ...], ...]) -> None:
    assert required_literals(translate(pattern)) == tuple(tuple(Text(p, True) for p in c) for c in expected)


def test_required_literals_without_case() -> None:
    assert required_literals("(?i)WORM") == ((Text((ANY, "worm", ANY)),),)
    assert required_literals("[Ww]orm") == ((Text((ANY, "worm", ANY)),),)
    assert required_literals("(?i)ask") == ((Text((ANY, "a", OneOf("Ssſ"), OneOf("Kk\u212a"), ANY), False),),)


# ---- wildcards


@pytest.mark.parametrize(
    ("parts", "cased", "expected"),
    [
        (("a", ANY, "b"), False, "(?is)^a.*b$"),
        (("a", ANY, "b"), True, "(?s)^a.*b$"),
        ((ANY, "a", ANY, "b", ANY), False, "(?is)a.*b"),
        ((ANY, "1", ONE, "2"), False, "(?s)1.2$"),
        ((ANY, OneOf("-/–"), "enc", ANY), False, "(?i)[/–-]enc"),
        (("a.b\\[x]\n",), False, r"(?i)^a\.b\\\[x\]\n$"),
        ((ANY,), False, ""),
        ((), False, "^$"),
        ((ANY, ONE, ANY), False, "(?s)."),
        ((ANY, "cmd", ANY, "Σ"), False, "(?is)cmd.*(?-i:[Σσ])$"),  # not the ς that (?i) takes as well
        ((ANY, "Σ", ANY, "Σ"), True, "(?s)Σ.*Σ$"),
    ],
)
def test_wildcard_regex(parts: tuple[Part, ...], cased: bool, expected: str) -> None:
    assert wildcard_regex([parts], cased) == expected


@pytest.mark.parametrize(
    ("shapes", "cased", "expected"),
    [
        ([(ANY, " ", OneOf("-/"), "ma ", ANY), (ANY, " ", OneOf("-/"), "mini ", ANY)], False, "(?i) [/-](?:ma|mini) "),
        ([(ANY, "1", ONE), (ANY, "3", ONE)], False, "(?s)(?:1|3).$"),
        ([("a", ANY, "b"), (ANY, "c", ONE, ANY)], True, "(?s)^a.*b$|c."),
        ([(ANY, "see", ANY), (ANY, "seen", ANY), (ANY, "been", ANY)], True, "see|seen|been"),
        ([(ANY, "x.1", ANY), (ANY, "x.2", ANY)], True, r"x\.(?:1|2)"),
        ([(ANY, "a", ANY), (ANY, "a", ANY)], True, "a|a"),
    ],
)
def test_a_regex_for_several_shapes(shapes: list[tuple[Part, ...]], cased: bool, expected: str) -> None:
    assert wildcard_regex(shapes, cased) == expected


def test_a_placeholder_has_no_regex() -> None:
    with pytest.raises(ValueError, match="admins"):
        wildcard_regex([(Placeholder("admins"),)], False)


PIECES = st.one_of(
    st.sampled_from([ANY, ONE, OneOf("-/"), OneOf("^]"), OneOf("a-")]), st.text(ALPHABET, min_size=1, max_size=3)
)


@RELAXED
@given(st.lists(PIECES, max_size=5), st.booleans(), st.text(ALPHABET, max_size=8))
def test_wildcard_regex_means_the_shape(re2: object, parts: list[Part], cased: bool, text: str) -> None:
    shape = tuple(p for i, p in enumerate(parts) if not (p is ANY and i and parts[i - 1] is ANY))
    pattern = wildcard_regex([shape], cased)
    expected = search("(?s" + "i" * (not cased) + ")^" + "".join(_slow(p) for p in shape) + r"\z", text)
    assert search(pattern, text) == expected
    assert re2(pattern, text) == expected  # type: ignore[operator]


SHAPES = st.lists(PIECES, min_size=1, max_size=4).map(
    lambda parts: tuple(p for i, p in enumerate(parts) if not (p is ANY and i and parts[i - 1] is ANY))
)


@RELAXED
@given(st.lists(SHAPES, min_size=2, max_size=4), st.booleans(), st.text(ALPHABET, max_size=8))
def test_a_regex_for_several_shapes_means_any_of_them(
    re2: object, shapes: list[tuple[Part, ...]], cased: bool, text: str
) -> None:
    pattern = wildcard_regex(shapes, cased)
    expected = any(search(wildcard_regex([shape], cased), text) for shape in shapes)
    assert search(pattern, text) == expected
    assert re2(pattern, text) == expected  # type: ignore[operator]


def _slow(part: Part) -> str:
    if isinstance(part, str):
        return "".join(f"\\x{{{ord(c):x}}}" for c in part)
    if isinstance(part, OneOf):
        return "(?:" + "|".join(f"\\x{{{ord(c):x}}}" for c in part.chars) + ")"
    return "(?:.*)" if part is ANY else "(?:.)"
