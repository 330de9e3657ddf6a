"""The playground: conversion in the browser gives what the command line gives, and asks nothing outside its site."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from conftest import ROOT, build

from sigma2kql.cli import group
from sigma2kql.site.playground import answer

NODE = ROOT / "tests" / "node" / "node_modules"
RULES = 300
SAME = ("title", "table", "kql", "verdict", "verdicts", "columns", "source", "caveats")


class _Files(http.server.SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name of the base class)
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a site with a playground, served on this machine."""
    if not (NODE / "pyodide").is_dir():
        pytest.skip("npm ci --prefix tests/node")
    folder = tmp_path_factory.mktemp("playground")
    build(str(ROOT / "rules" / "web"), "-o", str(folder), "--playground", str(NODE), "-t", "sentinel,xdr")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def wait(browser: Any, script: str, seconds: int = 120) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, seconds).until(lambda b: b.execute_script("return " + script))


def same(record: dict[str, Any]) -> tuple[object, ...]:
    """What has to be equal: all but the path, which the browser does not know."""
    told = [(d["code"], d["message"], d["line"], d["column"], d["hint"]) for d in record["diagnostics"]]
    return (*(record[key] for key in SAME), told)


def command_line(paths: list[Path], target: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(group, ["convert", "-q", "-f", "ndjson", "-t", target, *map(str, paths)])
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_answer_is_the_command_lines() -> None:
    paths = sorted((ROOT / "rules").rglob("*.yml"))
    for path in (p for p in paths if ".events." not in p.name):
        found = json.loads(answer(path.read_text(encoding="utf-8"), "xdr"))["results"]
        assert [same(one) for one in found] == [same(one) for one in command_line([path], "xdr")]


def test_events_are_tried_and_a_fault_in_them_is_told() -> None:
    rule = "title: x\nlogsource: {category: process_creation}\ndetection: {a: {Image: x}, condition: a}\n"
    for events in (
        "- {Image: X}\n- {Image: y}",
        '{"Image": "x"}\n{"Image": "z"}',
        "match: [{Image: x}]\nno_match: [{}]",
    ):
        tried = json.loads(answer(rule, "sentinel", events))["results"][0]["events"]
        assert [one["matches"] for one in tried] == [True, False]
    assert "error[E1" in json.loads(answer(rule, "sentinel", "a: [1"))["problem"]


def test_a_browser_converts_as_the_command_line_does(browser: Any, served: str, request: pytest.FixtureRequest) -> None:
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(served + "/playground.html")
    wait(browser, "document.getElementById('state').textContent.startsWith('converted')")
    assert "imNetworkSession" in browser.find_element("id", "answer").text
    assert browser.find_elements("css selector", "#answer ol li")[0].text.startswith("matches")
    paths = [p for p in sorted((ROOT / "rules").rglob("*.yml")) if ".events." not in p.name]
    try:
        corpus = request.getfixturevalue("corpus")
        paths = corpus[:: max(1, len(corpus) // RULES)][:RULES]
    except pytest.skip.Exception:
        pass
    script = """
        const [texts, target, done] = arguments;
        (async () => {
          const found = [];
          for (const text of texts) found.push((await window.sigma2kqlConvert(text, target, "")).answer);
          done(found);
        })();
    """
    for start in range(0, len(paths), 50):
        part = paths[start : start + 50]
        texts = [path.read_bytes().decode("utf-8") for path in part]
        answers = browser.execute_async_script(script, texts, "sentinel")
        for path, text in zip(part, answers, strict=True):
            expected = [same(one) for one in command_line([path], "sentinel")]
            assert [same(one) for one in json.loads(text)["results"]] == expected, path
    if (NODE / "@kusto" / "language-service-next").is_dir():
        wait(browser, "document.getElementById('answer').textContent.includes(\"Microsoft's parser: no error\")")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []


def test_a_link_holds_the_rule(browser: Any, served: str) -> None:
    browser.get(served + "/playground.html")
    wait(browser, "document.getElementById('state').textContent.startsWith('converted')")
    area = browser.find_element("id", "rule")
    area.clear()
    area.send_keys(
        "title: Shared\nlogsource: {category: dns_query}\ndetection: {a: {QueryName|contians: x}, condition: a}\n"
    )
    wait(browser, "document.getElementById('answer').textContent.includes('E211')")
    link = browser.current_url
    browser.get("about:blank")
    browser.get(link)
    wait(browser, "document.getElementById('answer').textContent.includes('E211')")
    assert "title: Shared" in browser.find_element("id", "rule").get_attribute("value")
    browser.find_element("css selector", "#answer button").click()
    selected = "const a = document.getElementById('rule'); return a.value.slice(a.selectionStart, a.selectionEnd)"
    assert browser.execute_script(selected) == "contians"


def test_from_a_disk_it_says_what_it_needs(browser: Any, tmp_path: Path) -> None:
    if not (NODE / "pyodide").is_dir():
        pytest.skip("npm ci --prefix tests/node")
    build(str(ROOT / "rules" / "web"), "-o", str(tmp_path), "--playground", str(NODE))
    browser.get(tmp_path.as_uri() + "/playground.html")
    assert "http.server" in browser.find_element("id", "state").text


def test_without_the_package_the_call_is_wrong(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        group, ["site", str(ROOT / "rules" / "web"), "-o", str(tmp_path / "out"), "--playground", str(tmp_path)]
    )
    assert "E831" in str(done.exception)
