"""The site as a reader meets it: Chromium reads it from the disk, searches, filters, copies, asks nothing outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

AXE = ROOT / "tests" / "node" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture
def page(browser: Any, site: Path) -> Iterator[Any]:
    """Opens a page of the site; afterwards: no error was told, and nothing was asked for but files of the site."""
    browser.get_log("browser")
    browser.get_log("performance")

    def open_page(path: str) -> Any:
        browser.get("about:blank")
        browser.get(site.as_uri() + "/" + path)
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith((site.as_uri(), "about:"))] == []
    assert browser.execute_script("return window.owned") is None


def shown(browser: Any) -> list[str]:
    titles: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('table.list tbody a')].map((a) => a.textContent)"
    )
    return titles


def wait(browser: Any, script: str) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 20).until(lambda b: b.execute_script("return " + script))


def find(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def test_words_filters_and_the_address(page: Any, site: Path) -> None:
    browser = page("index.html")
    everything = shown(browser)
    find(browser, "#words").send_keys("remote t1219")
    wait(browser, "location.hash.includes('q=remote')")
    assert shown(browser) == [title for title in shown(browser) if "Remote" in title]
    assert 0 < len(shown(browser)) < len(everything)
    address = browser.current_url
    find(browser, "#clear").click()
    assert sorted(shown(browser)) == sorted(everything)
    find(browser, "input[name=level][value=high]").click()
    high = shown(browser)
    assert 0 < len(high) < len(everything)
    find(browser, "input[name=verdict][value=exact]").click()
    assert "level=high" in browser.current_url
    assert "verdict=exact" in browser.current_url
    browser.get("about:blank")
    browser.get(address)
    assert 0 < len(shown(browser)) < len(everything)
    assert find(browser, "#words").get_attribute("value") == "remote t1219"


def test_the_list_sorts_and_targets_change(page: Any) -> None:
    browser = page("index.html")
    find(browser, "table.list thead button").click()
    assert "sort=level" in browser.current_url
    first = shown(browser)[0]
    find(browser, "table.list thead button").click()
    assert shown(browser)[0] != first
    browser.execute_script(
        "const t = document.getElementById('target'); t.value = 'xdr'; t.dispatchEvent(new Event('change'))"
    )
    assert "target=xdr" in browser.current_url


def test_keys_search_and_walk(page: Any) -> None:
    browser = page("index.html")
    body = find(browser, "body")
    body.send_keys("/")
    assert browser.execute_script("return document.activeElement.id") == "words"
    browser.switch_to.active_element.send_keys("command\ue00c")  # Escape
    wait(browser, "location.hash.includes('command')")
    find(browser, "body").send_keys("jj")
    walked = browser.execute_script("return document.activeElement.textContent")
    assert walked == shown(browser)[1]
    find(browser, "body").send_keys("k")
    assert browser.execute_script("return document.activeElement.textContent") == shown(browser)[0]


def rule_with(site: Path, words: str) -> str:
    return next(
        p.relative_to(site).as_posix() for p in sorted(site.glob("rules/*.html")) if words in p.read_text()[:1500]
    )


def test_tabs_by_mouse_keys_and_address(page: Any, site: Path) -> None:
    path = rule_with(site, "Program Starts Itself")
    browser = page(path)
    tabs = browser.find_elements("css selector", "[role=tab]")
    assert [tab.text for tab in tabs] == ["Sigma", "KQL sentinel", "KQL xdr", "sentinel-yaml", "xdr-json"]
    assert find(browser, "#kql-sentinel").is_displayed()
    assert not find(browser, "#written").is_displayed()
    tabs[0].click()
    assert find(browser, "#written").is_displayed()
    tabs[0].send_keys("\ue014")  # right arrow
    assert find(browser, "#kql-sentinel").is_displayed()
    browser = page(path + "#artifact-xdr-json")
    assert find(browser, "#artifact-xdr-json").is_displayed()


def test_copy_gives_the_query_as_it_is(page: Any, site: Path) -> None:
    from sigma2kql.api import convert

    browser = page(rule_with(site, "Program Starts Itself"))
    browser.execute_script("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    find(browser, "#kql-sentinel button.copy").click()
    wait(browser, "window.copied")
    (rule,) = [p for p in (ROOT / "rules").rglob("*.yml") if "Program Starts Itself" in p.read_text()]
    assert browser.execute_script("return window.copied") == convert(rule)[0].kql
    assert find(browser, "#kql-sentinel button.copy").text == "Copied"


def test_the_matrix_shades_by_what_is_chosen(page: Any) -> None:
    browser = page("attack.html")
    cells = "return [...document.querySelectorAll('.cell:has(> a)')].map((c) => getComputedStyle(c).backgroundColor)"
    by_count = browser.execute_script(cells)
    find(browser, "input[value=level]").click()
    assert browser.execute_script(cells) != by_count
    assert not find(browser, ".subs").is_displayed()
    find(browser, "#subs").click()
    assert find(browser, ".subs").is_displayed()


def test_dark_is_kept(page: Any) -> None:
    browser = page("index.html")
    paper = "return getComputedStyle(document.documentElement).backgroundColor"
    light = browser.execute_script(paper)
    find(browser, "#theme").click()
    dark = browser.execute_script(paper)
    assert dark != light
    browser = page("tables.html")
    assert browser.execute_script(paper) == dark
    find(browser, "#theme").click()


def test_hostile_rules_stay_text(page: Any) -> None:
    browser = page("rules/5d3f6a0e-8a34-4f4e-9a53-2f1c6b7f2d10.html")
    assert "owned" not in browser.title.split("<")[0]
    assert find(browser, "h1").text.startswith('<script>document.title="owned"</script>')
    browser = page("index.html")
    assert any(title.startswith("<script>") for title in shown(browser))


def test_everything_is_readable_without_scripts(page: Any, site: Path) -> None:
    path = rule_with(site, "Program Starts Itself")
    page("index.html").execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser = page(path)
    try:
        assert find(browser, "#written pre").is_displayed()
        assert find(browser, "#kql-xdr pre").is_displayed()
        browser = page("index.html")
        assert len(browser.find_elements("css selector", "table.list tbody tr")) > 10
        assert "Search needs scripts" in find(browser, "noscript p").text
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ["index.html", "attack.html", "tables.html", "changes.html", "problems.html", "rule"])
def test_axe_finds_no_fault(page: Any, site: Path, path: str, theme: str) -> None:
    if not AXE.is_file():
        pytest.skip("npm ci --prefix tests/node")
    browser = page(rule_with(site, "Program Starts Itself") if path == "rule" else path)
    browser.execute_script(f"document.documentElement.dataset.theme = '{theme}'")
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"], "preload": False}
    found = browser.execute_async_script("axe.run(arguments[0]).then(arguments[1])", rules)
    told = [(v["id"], v["impact"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found["violations"]]
    assert told == []


@pytest.mark.parametrize("path", ["index.html", "attack.html", "tables.html", "rule"])
def test_a_narrow_screen_scrolls_down_only(page: Any, site: Path, path: str) -> None:
    browser = page("index.html")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    try:
        browser = page(rule_with(site, "Program Starts Itself") if path == "rule" else path)
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 375
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
