"""Caveats: which sources' rows differ behind a table, said where the query is shown, and only where it matters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sigma2kql.api import convert
from sigma2kql.cli import group
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.map.table_file import read_table
from sigma2kql.model.tree import Compiled

TABLE = """\
table: Mixed_CL
target: demo
caveat: source A keeps a week
columns: {TimeGenerated: datetime, Md5: string, Imp: string, Path: string, Other: string, User: string}
serves:
  - logsource: {category: demo}
    caveat: >-
      source B writes
      twice
  - logsource: {category: plain}
fields:
  Image: {any: [Path, Other], transform: path_or_name, caveat: a bare name from source C}
  File: {column: Path, transform: doubled_name, caveat: the name twice from source C}
  User: {column: User, caveat: empty from source D}
  Side: {cases: [{when: {User: x}, column: Path, caveat: from one side}, {column: Other}]}
  Hashes: {any: [Md5, Imp], transform: hashes, options: {MD5: Md5, IMPHASH: Imp}, caveat: no IMPHASH from source E}
  Path: Path
"""
ALWAYS = ["source B writes twice", "source A keeps a week"]


def rule(test: str, category: str = "demo", condition: str = "a") -> str:
    return f"title: T\nlogsource: {{category: {category}}}\ndetection:\n  a: {test}\n  condition: {condition}\n"


@pytest.fixture
def mappings(tmp_path: Path) -> Path:
    (tmp_path / "Mixed_CL.yml").write_text(TABLE)
    return tmp_path


def compiled(mappings: Path, text: str, **options: object) -> Compiled:
    (done,) = convert(text, "demo", mappings=(mappings,), **options)
    assert done.kql is not None, done.diagnostics
    return done


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("{Path: x}", []),
        ("{User: x}", ["`User`: empty from source D"]),
        ("{Side: x}", ["`Side`: from one side"]),
        (r"{Image|endswith: ['\x.exe', 'y.exe', '/z']}", []),
        ("{Image: null}", []),
        (r"{Image|endswith: '\a\x.exe'}", ["`Image`: a bare name from source C"]),
        (r"{Image|startswith: 'C:\'}", ["`Image`: a bare name from source C"]),
        (r"{Image|contains: 'x'}", ["`Image`: a bare name from source C"]),
        (r"{Image|re: 'x$'}", ["`Image`: a bare name from source C"]),
        (r"{Image: 'x.exe'}", ["`Image`: a bare name from source C"]),
        (r"{File|endswith: ['\a\x.exe', '.tmp']}", []),
        (r"{File|contains: '\v1.0\'}", ["`File`: the name twice from source C"]),
        (r"{File|contains: ['\Temp\', '\v1.0\modules']}", []),
        (r"{File|contains: '.zip\'}", ["`File`: the name twice from source C"]),
        ("{Hashes|contains: 'MD5=0123456789abcdef0123456789abcdef'}", []),
        ("{Hashes|contains: 'IMPHASH=0123456789abcdef0123456789abcdef'}", ["`Hashes`: no IMPHASH from source E"]),
        (r"{File|re: 'x$'}", ["`File`: the name twice from source C"]),
    ],
)
def test_a_result_names_what_concerns_it(mappings: Path, test: str, expected: list[str]) -> None:
    done = compiled(mappings, rule(test))
    assert list(done.caveats) == expected + ALWAYS
    assert done.verdict == "exact"
    assert compiled(mappings, rule(test, "plain")).caveats == (*expected, ALWAYS[1])


def test_a_caveat_holds_under_a_negation_and_is_said_once(mappings: Path) -> None:
    done = compiled(mappings, rule(r"[{Image|contains: '\a\'}, {Image|contains: '\b\'}, {User: x}]", condition="not a"))
    assert list(done.caveats) == ["`Image`: a bare name from source C", "`User`: empty from source D", *ALWAYS]


def test_a_correlation_has_those_of_its_rules(mappings: Path) -> None:
    text = rule("{User: x}").replace("title: T", "title: T\nname: one") + (
        "---\ntitle: C\ncorrelation: {type: event_count, rules: [one], group-by: [Path], timespan: 5m,"
        " condition: {gte: 3}}\n"
    )
    done = convert(text, "demo", mappings=(mappings,))[-1]
    assert list(done.caveats) == ["`User`: empty from source D", *ALWAYS]


def test_the_commands_show_them(mappings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mappings / "rules" / "r.yml"
    path.parent.mkdir()
    path.write_text(rule("{User: x}"))

    def run(*arguments: str) -> str:
        assert group.main([*arguments, "--mappings", str(mappings)], standalone_mode=False) == 0
        return capsys.readouterr().out

    told = ["`User`: empty from source D", *ALWAYS]
    record = json.loads(run("convert", "-f", "ndjson", "-t", "demo", str(path)))
    assert record["caveats"] == told
    explained = run("explain", "-t", "demo", str(path)).splitlines()
    at = explained.index("caveats:")
    assert explained[at + 1 : at + 4] == [f"  {text}" for text in told]
    listed = run("targets", "demo", "Mixed_CL").splitlines()
    assert "caveat: source A keeps a week" in listed
    assert listed[listed.index("serves category: demo") + 1] == "  caveat: source B writes twice"
    assert listed[listed.index("    User -> User") + 1] == "        caveat: empty from source D"
    table = json.loads(run("targets", "demo", "Mixed_CL", "-f", "json"))
    assert table["caveat"] == "source A keeps a week"
    assert [serve["caveat"] for serve in table["serves"]] == ["source B writes twice", None]
    assert {name: one["caveat"] for name, one in table["fields"].items()} == {
        "Image": "a bare name from source C",
        "File": "the name twice from source C",
        "User": "empty from source D",
        "Side": "from one side",
        "Hashes": "no IMPHASH from source E",
        "Path": None,
    }


@pytest.mark.parametrize("old", ["source A keeps a week", "empty from source D"])
@pytest.mark.parametrize(("new", "code"), [("''", "E458"), ("[a]", "E451"), ("null", "E451")])
def test_a_caveat_is_a_sentence(old: str, new: str, code: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        read_table(Source("m.yml", TABLE.replace(old, new)), "demo")
    (problem,) = {d.code: d for d in caught.value.diagnostics if d.code == code}.values()
    assert problem.span is not None
    assert problem.span.source.text[problem.span.start : problem.span.end] == new


def test_a_table_that_is_extended_keeps_its_caveat(tmp_path: Path) -> None:
    (tmp_path / "imNetworkSession.yml").write_text("table: imNetworkSession\nextends: true\n")
    text = rule(r"{Image|contains: '\Temp\'}").replace(
        "category: demo", "category: network_connection, product: windows"
    )
    (shipped,), (extended,) = convert(text, "asim"), convert(text, "asim", mappings=(tmp_path,))
    assert extended.caveats == shipped.caveats
    assert [c for c in shipped.caveats if "Defender for Endpoint" in c]


CLOSED = """\
table: Listed_CL
target: demo
columns: {TimeGenerated: datetime, Word: string}
serves: [{logsource: {category: demo}}]
fields:
  Values: {values: {a: {Word: A}}, closed: the parser drops the rest}
  Known: {column: Word, known: [a], closed: the parser drops the rest}
  Translated: {column: Word, transform: translate, options: {a: A}, closed: the parser drops the rest}
  Silent: {column: Word, known: [a]}
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Values", "can never hold this value in Listed_CL: the parser drops the rest"),
        ("Known", "never holds this value in Listed_CL: the parser drops the rest"),
        ("Translated", "can never hold this value in the table: the parser drops the rest"),
        ("Silent", "never holds this value in Listed_CL"),
    ],
)
def test_a_closed_list_says_why_it_is_whole(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "Listed_CL.yml").write_text(CLOSED)
    (problem,) = convert(rule(f"{{{name}: b}}"), "demo", mappings=(tmp_path,))[0].diagnostics
    assert (problem.code, problem.message, problem.hint) == ("E410", f"`{name}` {told}", "it holds `a`")


def test_a_reason_for_no_list_is_refused() -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        read_table(Source("m.yml", CLOSED.replace("known: [a]}", "closed: why}")), "demo")
    assert [d.code for d in caught.value.diagnostics] == ["E456"]
