"""Microsoft's parser: its findings, their places, the columns it binds, and every way it can be absent or fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.engines import kusto_language
from sigma2kql.engines.kusto_language import (
    GrammarCheck,
    KqlProblem,
    KqlSchema,
    KustoLanguage,
    find_bundle,
    missing,
    open_check,
)

SCHEMA: KqlSchema = {
    "tables": {"T": {"a": "string", "n": "int", "d": "dynamic", "odd name's": "string"}},
    "functions": {"F": {"params": "(since:datetime=datetime(null), who:string='*')", "columns": {"x": "string"}}},
}


@pytest.fixture(scope="module", params=["mini-racer", "node"])
def parser(request: pytest.FixtureRequest, kusto_bundle: Path) -> Iterator[KustoLanguage]:
    if request.param == "mini-racer" and find_spec("py_mini_racer") is None:
        pytest.skip("mini-racer is not installed (pip install 'sigma2kql[kusto]')")
    if request.param == "node" and shutil.which("node") is None:
        pytest.skip("node is not installed")
    with KustoLanguage(SCHEMA, kusto_bundle, request.param) as opened:
        yield opened


def codes(problems: list[KqlProblem]) -> list[str]:
    return [problem.code for problem in problems]


def test_a_sound_query_has_no_findings(parser: KustoLanguage) -> None:
    assert parser.check('T | where a has "x" and n > 3') == []


@pytest.mark.parametrize(
    ("kql", "expected"),
    [
        ("T | where b == 1", [("KS142", "b")]),
        ("Missing | take 1", [("KS204", "Missing")]),
        ('T | where n =~ "4699"', [("KS106", "=~")]),
        ("T | where", [("KS006", "")]),
        ("F(unknown=1)", [("KS196", "unknown")]),
    ],
)
def test_findings_have_code_and_place(parser: KustoLanguage, kql: str, expected: list[tuple[str, str]]) -> None:
    found = parser.check(kql)
    assert sorted((p.code, kql[p.start : p.start + p.length]) for p in found if p.severity == "error") == expected


def test_places_are_characters_also_behind_astral_ones(parser: KustoLanguage) -> None:
    kql = 'T | where a == "\U0001f600\U0001f600é" and b == 1 // \U0001f600'
    [problem] = parser.check(kql)
    assert (problem.code, problem.start, kql[problem.start : problem.start + problem.length]) == ("KS142", 25, "b")


def test_a_function_is_called_with_named_arguments_bare_and_empty(parser: KustoLanguage) -> None:
    for kql in ('F(who="me") | where x == ""', "F | project x", "F() | project x"):
        assert parser.check(kql) == []


def test_a_column_with_an_odd_name_is_reached(parser: KustoLanguage) -> None:
    assert codes(parser.check("T | where ['odd name\\'s'] == \"\"")) == []


def test_result_columns_come_in_order_with_types(parser: KustoLanguage) -> None:
    columns = parser.result_columns("T | extend t = now(), s = strlen(a) | project s, t, d, r = 1.5, b = n > 1")
    assert list(columns.items()) == [("s", "long"), ("t", "datetime"), ("d", "dynamic"), ("r", "real"), ("b", "bool")]


def test_a_query_without_a_table_gives_no_columns(parser: KustoLanguage) -> None:
    assert parser.result_columns("let x = 1;") == {}


def test_hostile_text_is_only_text(parser: KustoLanguage) -> None:
    for kql in ("');globals=null;('", "\u2028\u2029\x00", "\ud800", "`" * 5000):
        assert isinstance(parser.check(kql), list)
    assert parser.check("T | take 1") == []


def test_too_many_terms_are_a_finding_and_not_a_crash(parser: KustoLanguage) -> None:
    kql = "T | where " + " or ".join(f'a == "{i}"' for i in range(600))
    assert "KS245" in codes(parser.check(kql))
    assert parser.check("T | take 1") == []


def test_a_query_that_takes_too_long_is_given_up_and_the_next_one_is_judged(
    parser: KustoLanguage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kusto_language, "QUERY_SECONDS", 0.001)
        with pytest.raises(Sigma2KqlError) as caught:
            parser.check("T | where " + " and ".join(f"strlen(a) > {i}" for i in range(390)))
    assert caught.value.diagnostics[0].code == "E652"
    assert codes(parser.check("T | where b == 1")) == ["KS142"]


def test_it_is_not_used_outside_its_block(kusto_bundle: Path) -> None:
    with pytest.raises(RuntimeError):
        KustoLanguage({}, kusto_bundle).check("T")


@pytest.mark.parametrize("ending", ["", "raise SystemExit(3)"])
def test_the_interpreter_exits_after_use(kusto_bundle: Path, ending: str) -> None:
    script = f"""
from pathlib import Path
from sigma2kql.engines.kusto_language import KustoLanguage
with KustoLanguage({{}}, Path({str(kusto_bundle)!r})) as parser:
    print(len(parser.check("print 1")))
    {ending}
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == ("0\n", 3 if ending else 0)


# --------------------------------------------------------------------------------------------------------------------
# Where the package is, and where it is not


def package(folder: Path) -> Path:
    home = folder / "node_modules" / kusto_language.PACKAGE
    home.mkdir(parents=True)
    for name in kusto_language.BUNDLE:
        (home / name).write_text("throw new Error('must not run')")
    return home


def test_the_package_is_found_upwards_by_environment_and_by_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    above, by_environment, by_option = package(tmp_path), package(tmp_path / "e"), package(tmp_path / "o")
    monkeypatch.chdir(deep)
    monkeypatch.delenv("KUSTO_JS", raising=False)
    assert find_bundle() == above
    monkeypatch.setenv("KUSTO_JS", str(by_environment))
    assert find_bundle() == by_environment
    assert find_bundle(str(by_option)) == by_option
    assert find_bundle(str(tmp_path / "o")) == by_option


def test_a_named_folder_without_the_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for option in (str(tmp_path), None):
        monkeypatch.setenv("KUSTO_JS", str(tmp_path))
        with pytest.raises(Sigma2KqlError) as caught:
            find_bundle(option)
        assert caught.value.diagnostics[0].code == "E650"


def test_node_is_never_given_files_that_are_not_the_known_release(tmp_path: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    with pytest.raises(Sigma2KqlError) as caught, KustoLanguage({}, package(tmp_path), "node"):
        pass
    assert caught.value.diagnostics[0].code == "E653"


def test_a_bundle_that_fails_to_load_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("py_mini_racer")
    with pytest.raises(Sigma2KqlError) as caught, KustoLanguage({}, package(tmp_path), "mini-racer"):
        pass
    assert caught.value.diagnostics[0].code == "E652"


def test_without_a_package_the_grammar_is_checked_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("duckdb_kql")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUSTO_JS", raising=False)
    monkeypatch.setattr(kusto_language, "find_bundle", lambda option: None)
    with open_check(SCHEMA) as check:
        assert isinstance(check, GrammarCheck)
        [notice] = check.notices
        assert (notice.code, notice.severity) == ("W650", "warning")
        assert "npm install @kusto/language-service-next@12.4.1" in notice.hint
        assert check.check("Nowhere | where nothing == 1") == []
        kql = "T\n| where a ==== 1\n| take 1"
        problem = check.check(kql)[0]
        assert (problem.severity, kql[problem.start]) == ("error", "=")
        assert problem.start > kql.index("a")


def test_the_grammar_check_survives_deep_nesting() -> None:
    pytest.importorskip("duckdb_kql")
    with pytest.raises(Sigma2KqlError) as caught:
        GrammarCheck().check("print " + "(" * 20_000 + "1" + ")" * 20_000)
    assert caught.value.diagnostics[0].code == "E652"


def test_without_anything_the_error_names_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kusto_language, "find_bundle", lambda option: None)
    monkeypatch.setattr(kusto_language, "find_spec", lambda name: None)
    monkeypatch.setattr(kusto_language.shutil, "which", lambda name: None)
    assert [lack.split(" (")[0] for lack in missing(None)] == [
        "the npm package @kusto/language-service-next",
        "a JavaScript engine",
    ]
    with pytest.raises(Sigma2KqlError) as caught:
        open_check()
    assert caught.value.diagnostics[0].code == "E651"
    for way in ("npm install", "sigma2kql[kusto]", "node", "sigma2kql[test]"):
        assert way in caught.value.diagnostics[0].hint
