"""Verdicts by source: what a query finds on the rows of each source that writes its table, decided by the rule's tree.

The table is made up; what each test of it means on each source's rows is written down by hand.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sigma2kql.api import convert
from sigma2kql.cli import group
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, Source
from sigma2kql.map.sources import data_sources
from sigma2kql.map.table_file import read_table
from sigma2kql.map.target import load_target, target_names
from sigma2kql.model.tree import Compiled

# sysmon fills all; entra never has User and loses Other; okta has bare names in Path; duo has the name twice in File,
# and something else in User; iis writes rows of macOS as well; github is only about product linux.
TABLE = """\
table: Mixed_CL
target: demo
columns: {TimeGenerated: datetime, Md5: string, Imp: string, Path: string, Twice: string, Other: string, User: string,
  Host: string, Dvc: string}
sources:
  sysmon:
  entra: {never: [User, Imp], lost: {Other: its parser drops it}}
  okta: {bare_name: {Path: a bare name}}
  duo: {doubled: {Twice: the name twice}, differs: {User: an address}, beside: {Host: the other side}}
  iis: {exactness: broader, why: macOS as well}
  github: {product: linux, never: [Path]}
serves:
  - logsource: {category: demo}
  - {logsource: {category: own}, sources: [sysmon, entra]}
  - {logsource: {category: plain}, sources: {sysmon: {lost: {Path: not here}}}}
fields:
  Image: {any: [Path], transform: path_or_name}
  File: {column: Twice, transform: doubled_name}
  Hashes: {any: [Md5, Imp], transform: hashes, options: {MD5: Md5, IMPHASH: Imp}}
  Path: Path
  Other: Other
  User: User
  Host: {any: [Host, Dvc]}
"""


def rule(test: str, logsource: str = "category: demo, product: windows", condition: str = "a") -> str:
    return f"title: T\nlogsource: {{{logsource}}}\ndetection:\n  a: {test}\n  condition: {condition}\n"


@pytest.fixture
def mappings(tmp_path: Path) -> Path:
    (tmp_path / "Mixed_CL.yml").write_text(TABLE)
    return tmp_path


def compiled(mappings: Path, text: str, **options: object) -> Compiled:
    (done,) = convert(text, "demo", mappings=(mappings,), **options)
    assert done.kql is not None, done.diagnostics
    return done


NEVER = "(can never match)"


@pytest.mark.parametrize(
    ("test", "condition", "expected"),
    [
        ("{Path: x}", "a", {}),
        # what a source's events do not have is missing: an alternative on it is false, and all else decides
        ("{User: x}", "a", {"entra": NEVER, "duo": "narrower"}),
        ("[{User: x}, {Path: x}]", "a", {"duo": "narrower"}),
        ("{User: x, Path: x}", "a", {"entra": NEVER, "duo": "narrower"}),
        ("{User: x}", "not a", {"duo": "narrower"}),
        ("{User: null}", "a", {"duo": "narrower"}),
        ("{User: null, Path: x}", "not a", {"duo": "narrower"}),
        # what the table drops may have been there
        ("{Other: x}", "a", {"entra": NEVER}),
        ("[{Other: x}, {Path: x}]", "a", {"entra": "narrower"}),
        ("{Other: x}", "not a", {"entra": "broader"}),
        ("{Other: null}", "a", {"entra": "broader"}),
        ("{Path: x, Other: x}", "not a", {"entra": "broader"}),
        # a loss in a branch that can never hold is none; duo's own way of writing the user still is one
        ("[{Other: x, User: x}, {Path: x}]", "a", {"duo": "narrower"}),
        # bare names: the end of a path is met by its second form
        (r"{Image|endswith: ['\x.exe', 'y.exe', '/z']}", "a", {}),
        ("{Image: null}", "a", {}),
        (r"{Image: 'x.exe'}", "a", {}),
        (r"{Image|endswith: '\a\x.exe'}", "a", {"okta": NEVER}),
        (r"{Image|endswith: ['\a\x.exe', '\y.exe']}", "a", {"okta": "narrower"}),
        (r"{Image|startswith: 'C:\'}", "a", {"okta": NEVER}),
        (r"{Image|startswith: 'C:\'}", "not a", {"okta": "broader"}),
        (r"{Image|contains: 'x'}", "a", {"okta": NEVER}),
        (r"{Image|re: 'x$'}", "a", {"okta": NEVER}),
        # the name twice
        (r"{File|endswith: ['\a\x.exe', '.tmp']}", "a", {}),
        (r"{File|contains: '\v1.0\'}", "a", {"duo": "narrower"}),
        (r"{File|contains: ['\Temp\', '\v1.0\modules']}", "a", {}),
        (r"{File|contains: '.zip\'}", "a", {"duo": "narrower"}),
        (r"{File|re: 'x$'}", "a", {"duo": "narrower"}),
        # the column of the hash decides, not the field
        ("{Hashes|contains: 'MD5=0123456789abcdef0123456789abcdef'}", "a", {}),
        ("{Hashes|contains: 'IMPHASH=0123456789abcdef0123456789abcdef'}", "a", {"entra": NEVER}),
        # something else beside what is meant
        ("{Host: x}", "a", {"duo": "broader"}),
        ("{Host: x}", "not a", {"duo": "narrower"}),
    ],
)
def test_the_tree_decides(mappings: Path, test: str, condition: str, expected: dict[str, str]) -> None:
    done = compiled(mappings, rule(test, condition=condition))
    plain = {source: "narrower" if verdict == NEVER else verdict for source, verdict in expected.items()}
    assert dict(done.verdicts) == {
        **dict.fromkeys(("sysmon", "entra", "okta", "duo"), "exact"),
        "iis": "broader",
        **plain,
    }
    never = {d.message for d in done.diagnostics if d.code == "W408"}
    assert len(never) == len([v for v in expected.values() if v == NEVER])
    assert done.verdict == ("narrower" if "narrower" in plain.values() else "broader")


def test_only_the_sources_of_a_rule_count(mappings: Path) -> None:
    def sources(logsource: str) -> list[str]:
        return list(compiled(mappings, rule("{Path: x}", logsource)).verdicts)

    every = ["sysmon", "entra", "okta", "duo", "iis"]
    assert sources("category: demo, product: windows") == every
    assert sources("category: demo, product: linux") == [*every, "github"]
    assert sources("category: demo") == [*every, "github"]
    assert sources("category: own") == ["sysmon", "entra"]
    assert compiled(mappings, rule("{User: x}", "category: own")).verdict == "narrower"  # what the table says of entra
    assert compiled(mappings, rule("{User: x}", "category: plain")).verdict == "exact"
    assert compiled(mappings, rule("{Path: x}", "category: plain")).verdict == "narrower"


def test_what_is_said_names_source_field_and_place(mappings: Path) -> None:
    done = compiled(mappings, rule("[{User: x}, {Path: x}, {Other: x}]"))
    told = {(d.code, d.message): d.span for d in done.diagnostics}
    assert [*told] == [
        ("W406", "Mixed_CL: narrower on rows of Entra ID: `Other`: its parser drops it"),
        ("I406", "Mixed_CL: `User` is not in rows of Entra ID: a test on it is false there"),
        ("W406", "Mixed_CL: narrower on rows of Cisco Duo: `User`: an address"),
        ("W407", "Mixed_CL: broader on rows of IIS: macOS as well"),
    ]
    spans = [span.source.text[span.start : span.end] for span in told.values() if span is not None]
    assert "User" in spans
    assert "Other" in spans
    assert list(done.caveats) == [
        "Entra ID: `User`: its events do not have it",
        "Entra ID: `Other`: its parser drops it",
        "Cisco Duo: `User`: an address",
        "IIS: macOS as well",
    ]


def test_strict_refuses_what_a_source_misses(mappings: Path) -> None:
    (done,) = convert(rule("{Path: x}"), "demo", mappings=(mappings,), strict=True)
    assert done.kql is None
    assert [(d.code, d.severity) for d in done.diagnostics] == [("W407", "error")]


def test_a_correlation_and_a_union_have_those_of_their_rules(mappings: Path) -> None:
    text = rule("{User: x}").replace("title: T", "title: T\nname: one") + (
        "---\ntitle: C\ncorrelation: {type: event_count, rules: [one], group-by: [Path], timespan: 5m,"
        " condition: {gte: 3}}\n"
    )
    done = convert(text, "demo", mappings=(mappings,))[-1]
    assert done.verdicts["entra"] == "narrower"
    assert done.verdict == "narrower"
    union = compiled(mappings, rule("{User: x}"), union=True)
    assert union.verdicts == compiled(mappings, rule("{User: x}")).verdicts


def test_the_commands_show_them(mappings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = mappings / "rules" / "r.yml"
    path.parent.mkdir()
    path.write_text(rule("{User: x}"))

    def run(*arguments: str) -> str:
        assert group.main([*arguments, "--mappings", str(mappings)], standalone_mode=False) == 0
        return capsys.readouterr().out

    record = json.loads(run("convert", "-f", "ndjson", "-t", "demo", str(path)))
    assert record["verdicts"]["entra"] == "narrower"
    explained = run("explain", "-t", "demo", str(path)).splitlines()
    at = explained.index("by source:")
    assert explained[at + 1 : at + 3] == ["  sysmon: exact", "  entra: narrower"]
    listed = run("targets", "demo", "Mixed_CL").splitlines()
    at = listed.index("source entra: Entra ID")
    assert listed[at + 1] == "    User never: its events do not have it"
    assert listed[listed.index("serves category: own") + 1] == "  source sysmon: Sysmon"
    table = json.loads(run("targets", "demo", "Mixed_CL", "-f", "json"))
    assert table["sources"]["okta"]["columns"] == {"Path": {"is": "bare-name", "why": "a bare name"}}
    assert [list(serve["sources"] or ()) for serve in table["serves"]] == [[], ["sysmon", "entra"], ["sysmon"]]


def test_many_rules_of_one_reason_are_one_sentence(mappings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mappings / "rules").mkdir()
    for number in range(9):
        (mappings / "rules" / f"{number}.yml").write_text(
            rule("[{Path: x}, {Other: x}]").replace(": x", f": x{number}")
        )
    (mappings / "rules" / "own.yml").write_text(rule("[{Path: x}, {Other: x}]", "category: own"))
    group.main(["convert", "-t", "demo", "--mappings", str(mappings), str(mappings / "rules")], standalone_mode=False)
    told = capsys.readouterr().err.splitlines()
    assert "warning[W406]: Mixed_CL: narrower on rows of Entra ID: `Other`: its parser drops it (10 rules)" in told
    assert "warning[W407]: Mixed_CL: broader on rows of IIS: macOS as well (9 rules)" in told
    assert len(told) == 3


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("{Other: its parser drops it}", "{Other: ''}", "E458"),
        ("{Other: its parser drops it}", "[Other]", "E458"),
        ("{Other: its parser drops it}", "{Othr: its parser drops it}", "E454"),
        ("why: macOS as well", "from: here", "E458"),
        ("exactness: broader", "exactness: wide", "E451"),
        ("  okta: {", "  oktra: {", "E459"),
        ("doubled:", "dubled:", "E452"),
        ("[sysmon, entra]", "[sysmon, azure]", "E459"),
        ("[sysmon, entra]", "sysmon", "E451"),
    ],
)
def test_what_is_wrong_about_sources_is_said_at_its_place(old: str, new: str, code: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        read_table(Source("m.yml", TABLE.replace(old, new)), "demo")
    assert code in {d.code for d in caught.value.diagnostics}
    assert all(d.span is not None for d in caught.value.diagnostics)


def test_a_table_that_is_extended_keeps_its_sources(tmp_path: Path) -> None:
    (tmp_path / "imNetworkSession.yml").write_text("table: imNetworkSession\nextends: true\n")
    text = rule(r"{Image|contains: '\Temp\'}", "category: network_connection, product: windows")
    (shipped,), (extended,) = convert(text, "asim"), convert(text, "asim", mappings=(tmp_path,))
    assert extended.verdicts == shipped.verdicts
    assert shipped.verdicts["defender-endpoint"] == "narrower"


@pytest.mark.parametrize("target", target_names())
def test_every_shipped_table_says_who_writes_it(target: str) -> None:
    silent = [
        f"{table.name} {serve.logsource}"
        for table in (entry.load() for entry in load_target(target).entries)
        for serve in table.serves
        if table.writers is None and serve.writers is None
    ]
    assert silent == []


def test_every_source_has_a_title_and_a_way_and_writes_a_table() -> None:
    known = data_sources()
    assert all(one.title and one.comes for one in known.values())
    tables = [entry.load() for target in target_names() for entry in load_target(target).entries]
    used = {
        writer.source
        for table in tables
        for writers in (table.writers, *(serve.writers for serve in table.serves))
        for writer in writers or ()
    }
    assert used <= set(known)
    assert set(known) - used == {"defender-identity"}


def test_connectors_of_sources_are_sentinels() -> None:
    """The ids stand in a second file of ours, which a test holds against Microsoft's list."""
    path = Path(__file__).resolve().parents[2] / "mappings" / "deploy" / "connectors.yml"
    known = set(yaml.safe_load(path.read_text(encoding="utf-8"))["connectors"])
    named = {connector for source in data_sources().values() for connector in source.connectors}
    assert named - known == {
        "MicrosoftSysmonForLinux",
        "GoogleWorkspaceReportsAPI",
        "GitHubEcAuditLogPolling",
        "GitHubAuditDefinitionV2",
    }


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
