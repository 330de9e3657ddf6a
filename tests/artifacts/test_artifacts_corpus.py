"""The artifacts of the whole corpus, through the command line: delivered, valid, consistent, the same every time.

Every 25th file of the corpus by default; with SIGMA2KQL_WHOLE_CORPUS=1 every rule of it. What the writer's profile asks
for and a rule does not have is never made up: such files are counted here, by cause.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from artifact_checks import FORMATS, SCHEMAS, V19, convert, documents, inconsistent, parse, problems_of, write

from sigma2kql.artifacts.read_back import read_artifacts
from sigma2kql.artifacts.settings import Settings

pytestmark = pytest.mark.corpus
WHOLE = bool(os.environ.get("SIGMA2KQL_WHOLE_CORPUS"))
STEP = 1 if WHOLE else 25
LACKS = {  # what the writer's profile asks for -> whether the rule (its ATT&CK tags) or its output columns lack it
    "tactics: minItems": "no ATT&CK tactic",
    "relevantTechniques: minItems": "no ATT&CK technique that Sentinel knows",
    "-: required entityMappings": "no output column that names an entity",
}
WITHOUT_ENTITIES = {  # tables none of whose columns names an entity -> why
    "NGINX_CL": "lines of text",
}
# techniques of ATT&CK that Azure-Sentinel's table does not have
UNKNOWN = {
    "attack.t1649",
    "attack.t1615",
    "attack.t1620",
    "attack.t1621",
    "attack.t1653",
    "attack.t1622",
    "attack.t1619",
}


@dataclass(frozen=True)
class Delivered:
    """What one call made of the corpus: files by id of the rule, queries by place, problems."""

    root: Path
    files: Mapping[str, str]
    problems: list[dict[str, Any]]


@pytest.fixture(scope="session")
def home(corpus: list[Path], shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of rules: the chosen part of the corpus in its tree, and a configuration."""
    root = tmp_path_factory.mktemp("corpus")
    base = shared / "corpus" / "sigmahq"
    for path in corpus[::STEP]:
        place = root / path.relative_to(base)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    (root / "sigma2kql.yml").write_text("deploy: {function: true}\n", encoding="utf-8")
    return root


def deliver(home: Path, form: str, out: str, hash_seed: str = "0") -> Delivered:
    target = "xdr" if form.startswith("xdr-") else "sentinel"
    folders = sorted(path.name for path in home.glob("rules*"))
    _, text, problems = convert(folders, form, "-t", target, "-o", f"{out}/{form}/", cwd=home, hash_seed=hash_seed)
    assert text == ""
    root = home / out / form
    found = [path for path in sorted(root.rglob("*.*")) if path.name != "bicepconfig.json"]
    files = {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in found}
    return Delivered(root, files, problems)


@pytest.fixture(scope="session")
def delivered(home: Path) -> Mapping[str, Delivered]:
    return {form: deliver(home, form, "out") for form in FORMATS}


@pytest.fixture(scope="session")
def queries(home: Path) -> Mapping[str, list[dict[str, Any]]]:
    """For each target, the documents of which the compiler gives a query."""
    import json

    folders = sorted(path.name for path in home.glob("rules*"))
    found = {}
    for target in ("sentinel", "xdr"):
        _, text, _ = convert(folders, "ndjson", "-t", target, cwd=home)
        found[target] = [row for row in map(json.loads, text.splitlines()) if row["kql"] is not None]
    return found


@pytest.fixture(scope="session")
def tags(home: Path) -> Mapping[str, list[str]]:
    return {
        str(document["id"]): [str(tag).lower() for tag in document.get("tags") or []]
        for path in sorted(home.glob("rules*/**/*.yml"))
        for document in documents(path)
        if "id" in document
    }


@pytest.mark.parametrize("form", FORMATS)
def test_every_query_is_delivered_or_an_error_says_why_not(
    form: str, delivered: Mapping[str, Delivered], queries: Mapping[str, list[dict[str, Any]]]
) -> None:
    done = delivered[form]
    wanted = queries["xdr" if form.startswith("xdr-") else "sentinel"]
    paths = {row["path"] for row in wanted}
    refused = {p["path"] for p in done.problems if p["severity"] == "error" and p["path"] in paths}
    files = [name for name in done.files if name != "sigma2kql.tf"]
    assert len(files) == len(wanted) - len(refused)
    codes = Counter(p["code"] for p in done.problems if p["severity"] == "error" and p["path"] in refused)
    print(form, len(files), dict(codes))
    assert set(codes) <= {"E703", "E708"}  # over the limit without a function; a table that no custom detection watches
    assert len(refused) <= 0.05 * len(wanted)


@pytest.mark.parametrize("form", FORMATS)
def test_every_artifact_is_read_by_others_and_fits_its_schema(
    form: str, delivered: Mapping[str, Delivered], shared: Path
) -> None:
    if form in ("bicep", "xdr-bicep"):
        pytest.importorskip("pycep", reason="pip install pycep-parser")
    if form == "terraform":
        pytest.importorskip("hcl2")
    files = delivered[form].files
    causes = {name: found for name, text in files.items() if (found := problems_of(form, text, shared))}
    counted = Counter(cause for found in causes.values() for cause in found)
    print(form, len(files), {LACKS.get(cause, cause): count for cause, count in counted.items()})
    assert {name: found for name, found in causes.items() if not set(found) <= LACKS.keys()} == {}


@pytest.mark.parametrize("form", ["sentinel-yaml", "hunting-yaml"])
def test_what_a_file_lacks_its_rule_lacks(
    form: str, delivered: Mapping[str, Delivered], tags: Mapping[str, list[str]], shared: Path
) -> None:
    for text in delivered[form].files.values():
        lacking = problems_of(form, text, shared)
        if "tactics: minItems" in lacking or "relevantTechniques: minItems" in lacking:
            document = parse(form, text)
            own = tags.get(document["id"], []) if form == "sentinel-yaml" else []
            named = [tag for tag in own if tag.startswith("attack.t") and tag[8:].partition(".")[0].isdigit()]
            assert set(named) <= UNKNOWN, (document["name"], named)
        if "-: required entityMappings" in lacking:
            table = parse(form, text)["query"].split()[0]
            assert table in WITHOUT_ENTITIES, table


@pytest.mark.parametrize("form", ["sentinel-yaml", "hunting-yaml"])
def test_what_a_file_lacks_is_a_warning_at_its_rule(
    form: str, delivered: Mapping[str, Delivered], shared: Path
) -> None:
    done = delivered[form]
    lacking = [problems_of(form, text, shared) for text in done.files.values()]
    warned = Counter(p["code"] for p in done.problems if p["severity"] == "warning" and p["line"] and p["hint"])
    assert warned["W754"] == sum("relevantTechniques: minItems" in found for found in lacking)
    if form == "sentinel-yaml":
        assert warned["W755"] == sum("-: required entityMappings" in found for found in lacking)


FALLBACK = """\
deploy:
  function: true
  fallbackTactics: [Execution]
  fallbackTechniques: [T1595, T1588, T1190, T1204, T1547, T1068, T1036, T1003, T1082, T1021, T1005, T1071, T1041, T1499]
"""


@pytest.mark.parametrize("form", ["sentinel-yaml", "hunting-yaml"])
def test_with_a_fallback_every_file_fits_the_strict_schema(form: str, home: Path, shared: Path) -> None:
    (home / "fallback.yml").write_text(FALLBACK, encoding="utf-8")
    folders = sorted(path.name for path in home.glob("rules*"))
    out = f"fallback/{form}"
    convert(folders, form, "--config", "fallback.yml", "-o", f"{out}/", cwd=home)
    texts = [path.read_text(encoding="utf-8") for path in sorted((home / out).rglob("*.yaml"))]
    assert len(texts) > 100 or not WHOLE
    faults = {text.split()[1]: found for text in texts if (found := problems_of(form, text, shared))}
    tables = {parse(form, text)["query"].split()[0] for text in texts if text.split()[1] in faults}
    assert {fault for found in faults.values() for fault in found} <= {"-: required entityMappings"}
    assert tables <= WITHOUT_ENTITIES.keys()
    found = [(d["name"], t) for d in (parse(form, text) for text in texts)
             for t in inconsistent(d["tactics"], d["relevantTechniques"], shared)]  # fmt: skip
    assert found == []


def test_techniques_have_a_tactic_of_theirs(delivered: Mapping[str, Delivered], shared: Path) -> None:
    """Azure-Sentinel's own check, over each format that states ATT&CK; what only v19 has carries its v16 tactic."""
    failures = []
    for form in ("sentinel-yaml", "hunting-yaml", "arm", "xdr-json"):
        for name, text in delivered[form].files.items():
            tactics, techniques = attack_of(form, parse(form, text))
            failures += [(form, name, t) for t in inconsistent(tactics, techniques, shared)]
    assert failures == []


def test_rules_of_tactics_that_only_v19_has_carry_their_own(
    delivered: Mapping[str, Delivered], tags: Mapping[str, list[str]]
) -> None:
    seen = 0
    for text in delivered["sentinel-yaml"].files.values():
        document = parse("sentinel-yaml", text)
        wanted = {V19[tag] for tag in tags[document["id"]] if tag in V19}
        assert wanted <= set(document["tactics"]) or len(document["tactics"]) == 5, document["name"]
        seen += bool(wanted)
    assert seen > 0.2 * len(delivered["sentinel-yaml"].files)


def attack_of(form: str, document: Any) -> tuple[list[str], list[str]]:
    if form == "arm":
        found = [r["properties"] for r in document["resources"] if r["type"].endswith("/alertRules")]
        assert len(found) == 1
        return found[0]["tactics"], [*found[0]["techniques"], *found[0]["subTechniques"]]
    if form == "xdr-json":
        rows = document["detectionAction"]["alertTemplate"]["tactics"]
        return [row["tactic"] for row in rows], [t["technique"] for row in rows for t in row["techniques"]]
    return document["tactics"], document["relevantTechniques"]


@pytest.mark.parametrize("form", sorted(SCHEMAS))
def test_another_process_gives_the_same_bytes(form: str, home: Path, delivered: Mapping[str, Delivered]) -> None:
    assert deliver(home, form, "again", hash_seed="4711").files == delivered[form].files


@pytest.mark.parametrize("form", ["arm", "hunting-arm", "bicep", "terraform"])
def test_all_rules_stand_in_one_template(form: str, home: Path, delivered: Mapping[str, Delivered]) -> None:
    folders = sorted(path.name for path in home.glob("rules*"))
    _, text, _ = convert(folders, form, "--bundle", cwd=home)
    opened = "\nresource " if form in ("bicep", "terraform") else '"apiVersion"'
    single = [one for name, one in delivered[form].files.items() if name != "sigma2kql.tf"]
    assert text.count(opened) == sum(f"\n{one}".count(opened) for one in single)
    if form.endswith("arm"):
        parse(form, text)


@pytest.mark.parametrize("form", ["sentinel-yaml", "hunting-yaml", "arm", "hunting-arm", "xdr-json"])
def test_an_artifact_goes_in_as_a_native_document_and_comes_out_the_same(
    form: str, home: Path, delivered: Mapping[str, Delivered]
) -> None:
    suffix = ".yaml" if form.endswith("yaml") else ".json"
    # of two files that differ by their ids alone, the one read first has the plain name: so by content
    wanted = sorted(text for name, text in delivered[form].files.items() if name.endswith(suffix))
    # a folder is searched for YAML alone
    named = [f"out/{form}/{name}" for name in delivered[form].files] if suffix == ".json" else [f"out/{form}"]
    target = "xdr" if form == "xdr-json" else "sentinel"
    convert(named, form, "-t", target, "-o", f"back/{form}/", cwd=home)
    root = home / "back" / form
    assert sorted(path.read_text(encoding="utf-8") for path in root.rglob(f"*{suffix}")) == wanted


@pytest.mark.parametrize("form", ["arm", "hunting-arm", "sentinel-yaml", "hunting-yaml"])
def test_an_artifact_that_was_read_is_written_the_same(form: str, delivered: Mapping[str, Delivered]) -> None:
    settings = Settings()
    changed = [
        n for n, text in delivered[form].files.items() if write(read_artifacts(text, form), form, settings) != text
    ]
    assert changed == []
