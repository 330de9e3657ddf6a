"""The pages as files: what stands on them, what hostile rules cannot do, what a second build makes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import pytest
from conftest import HOSTILE, ROOT, build

from sigma2kql.site.build import SECTIONS

VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """The elements of a page, its links and the text of each element with an id."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"{path}: not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = {name: value or "" for name, value in attrs}
        self.tags.append((tag, held))
        if tag not in VOID:
            self.open.append((tag, held.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1][0] == tag, (tag, self.open)
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def attributes(self, tag: str, name: str) -> list[str]:
        return [held[name] for one, held in self.tags if one == tag and name in held]


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def hostile(site: Path) -> Page:
    return Page(site / "rules" / "5d3f6a0e-8a34-4f4e-9a53-2f1c6b7f2d10.html")


def test_every_page_is_well_formed_and_every_link_leads_somewhere(site: Path) -> None:
    for path in pages(site):
        page = Page(path)
        places = {held["id"] for _, held in page.tags if "id" in held}
        for link in (
            *page.attributes("a", "href"),
            *page.attributes("link", "href"),
            *page.attributes("script", "src"),
        ):
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("http", "https"), link
            elif parts.path:
                assert (path.parent / parts.path).resolve().is_relative_to(site.resolve()), (path, link)
                assert (path.parent / parts.path).is_file(), (path, link)
            else:
                assert parts.fragment in places, (path, link)


def test_no_page_has_a_script_or_a_style_of_its_own(site: Path) -> None:
    allowed = {f"assets/{name}.js" for name in ("theme", "site", "search", "rules")}
    for path in pages(site):
        page = Page(path)
        assert {src.replace("../", "") for src in page.attributes("script", "src")} <= allowed
        assert all("src" in held for tag, held in page.tags if tag == "script")
        assert not [tag for tag, _ in page.tags if tag in ("style", "iframe", "object", "svg", "img", "b", "base")], (
            path
        )
        assert not [name for _, held in page.tags for name in held if name.startswith("on") or name == "style"], path
        (policy,) = [held["content"] for tag, held in page.tags if held.get("http-equiv") == "Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_what_a_rule_says_is_text(site: Path) -> None:
    page = hostile(site)
    assert page.attributes("a", "href").count("https://example.com/plain") == 1
    assert not [href for href in page.attributes("a", "href") if "owned" in href or "script" in href.lower()]
    said = page.texts["main"]
    for text in (
        '<script>document.title="owned"</script>',
        "{{ 7*7 }}",
        "${7*7}",
        "javascript:window.owned=1",
        "<i>DRL</i>",
    ):
        assert text in said
    assert "</script><script>window.owned=1</script>" in page.texts["c-written"]


def test_a_rule_chooses_no_path(site: Path) -> None:
    made = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert all(re.fullmatch(r"(?:[a-z]+/)?\.?[A-Za-z0-9._-]+", path) for path in made), made
    assert not (site.parent / "escape.html").exists()
    assert sum(path.startswith("rules/") and path.endswith(".html") for path in made) == len(rules_of(site))


def rules_of(site: Path) -> list[list[object]]:
    script = (site / "assets" / "rules.js").read_text(encoding="utf-8")
    assert "<" not in script
    assert "\u2028" not in script
    rules: list[list[object]] = json.loads(script.removeprefix("window.sigma2kql=").removesuffix(";\n"))["rules"]
    return rules


@pytest.mark.parametrize("name", ["9ed89edd-d684-4325-b600-e6129ec04ece", "5d3f6a0e-8a34-4f4e-9a53-2f1c6b7f2d10"])
def test_every_section_is_there_and_filled_or_says_why_not(site: Path, name: str) -> None:
    paths = list(site.glob(f"rules/{name}*.html")) or sorted(site.glob("rules/*.html"))[:1]
    page = Page(paths[0])
    sections = [held["aria-labelledby"] for tag, held in page.tags if tag == "section" and "aria-labelledby" in held]
    for section, _ in SECTIONS:
        assert section in sections
    text = paths[0].read_text(encoding="utf-8")
    for part in re.split(r"<section aria-labelledby=", text)[1:]:
        body = re.sub(r"<h2.*?</h2>", "", part.partition("</section>")[0], flags=re.DOTALL)
        assert re.search(r">\s*[^<\s]", body), part[:60]


def test_the_page_says_table_columns_events_and_what_makes_them(site: Path) -> None:
    (path,) = [p for p in site.glob("rules/*.html") if "Program Starts Itself From a Folder" in p.read_text()[:2000]]
    text = Page(path).texts["main"]
    for told in (
        "imProcessCreate",
        "MicrosoftThreatProtection",
        "TargetProcessName",
        "event filter ProcessCreate",
        "Audit Process Creation",
    ):
        assert told in text


def test_a_second_build_makes_only_what_has_changed(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.mkdir()
    for path in (ROOT / "rules" / "windows").glob("*.yml"):
        (rules / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    out = tmp_path / "public"
    assert re.search(r"(\d+) pages of rules, \1 of them made", build(str(rules), "-o", str(out)))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    assert "0 of them made" in build(str(rules), "-o", str(out))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.rglob("*") if p.is_file()} == before
    one = rules / "encoded_download_command.yml"
    one.write_text(one.read_text(encoding="utf-8").replace("level: high", "level: critical"), encoding="utf-8")
    told = build(str(rules), "-o", str(out))
    assert "1 changed" in told
    assert len(json.loads((out / "changes.json").read_text())["changed"]) >= 1
    gone = rules / "script_host_with_random_name.yml"
    page = next(p for p in out.glob("rules/*.html") if "script_host_with_random_name.yml" in p.read_text())
    gone.unlink()
    assert "1 gone" in build(str(rules), "-o", str(out))
    assert not page.exists()


def test_a_manifest_that_somebody_wrote_removes_nothing_else(tmp_path: Path) -> None:
    kept = [tmp_path / "kept.html", tmp_path / "public" / "notes.txt", tmp_path / "public" / "other" / "page.html"]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    rules = {"../kept.html": "x", "/etc/passwd": "x", "other/page.html": "x"}
    manifest = {"version": 1, "rules": rules, "others": ["notes.txt", "../kept.html", str(kept[0])]}
    (tmp_path / "public" / ".sigma2kql-site.json").write_text(json.dumps(manifest))
    build(str(HOSTILE), "-o", str(tmp_path / "public"))
    assert [path.read_text() for path in kept] == ["mine"] * 3


def test_feeds_are_what_their_readers_take(site: Path, tmp_path: Path) -> None:
    build(str(ROOT / "rules"), str(HOSTILE), "-o", str(tmp_path), "--base-url", "https://rules.example/site")
    feed = ElementTree.fromstring((tmp_path / "feed.atom").read_text(encoding="utf-8"))
    space = {"a": "http://www.w3.org/2005/Atom"}
    for entry in feed.findall("a:entry", space):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", entry.findtext("a:updated", "", space))
        link = entry.find("a:link", space)
        assert link is not None
        assert link.attrib["href"].startswith("https://rules.example/site/rules/")
    items = json.loads((tmp_path / "feed.json").read_text(encoding="utf-8"))["items"]
    assert [item["date_modified"] for item in items] == sorted((i["date_modified"] for i in items), reverse=True)
    assert len(items) == len(feed.findall("a:entry", space)) > 5


def test_own_templates_and_css_stand_in(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "listing.html.j2").write_text(
        "{% extends 'base.html.j2' %}{% block main %}<h1>Ours: {{ heading }}</h1>{% endblock %}"
    )
    (tmp_path / "own.css").write_text(":root { --accent: #0a7; }")
    out = tmp_path / "public"
    build(str(ROOT / "rules"), "-o", str(out), "--templates", str(own), "--css", str(tmp_path / "own.css"))
    assert "Ours: All rules" in (out / "all.html").read_text()
    assert "assets/own.css" in (out / "index.html").read_text()
    (own / "listing.html.j2").write_text("{{ nothing.such }}")
    from click.testing import CliRunner

    from sigma2kql.cli import group
    from sigma2kql.diagnostics.diagnostic import Sigma2KqlError

    failed = CliRunner().invoke(group, ["site", str(ROOT / "rules"), "-o", str(out), "--templates", str(own)])
    assert isinstance(failed.exception, Sigma2KqlError)
    assert failed.exception.diagnostics[0].code == "E830"


def test_proofs_stand_on_the_page_and_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("duckdb_kql", reason="pip install 'sigma2kql[test]'")
    rules = str(ROOT / "rules" / "linux")
    build(rules, "-o", str(tmp_path), "--prove", "-t", "sentinel")
    pages_before = {path.name: path.read_text() for path in tmp_path.glob("rules/*.html")}
    assert all("DuckDB" in text for text in pages_before.values())
    proofs = json.loads((tmp_path / ".sigma2kql-site.json").read_text())["proofs"]
    assert [row[0] for row in proofs.values()] == ["passed"] * len(pages_before)
    assert all(row[2] > row[3] > 0 for row in proofs.values())  # events, of which those that must match
    assert "0 of them made" in build(rules, "-o", str(tmp_path), "--prove", "-t", "sentinel")
