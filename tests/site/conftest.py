"""A browser for the tests of pages: Debian's Chromium with its driver (`apt-get install chromium chromium-driver`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sigma2kql.cli import group

ROOT = Path(__file__).resolve().parent.parent.parent
HOSTILE = Path(__file__).parent / "hostile"
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000"),
]


def build(*arguments: str) -> str:
    """`sigma2kql site` with these arguments; what it says on stderr."""
    done = CliRunner().invoke(group, ["site", *arguments], catch_exceptions=False)
    assert done.exit_code in (0, 1), done.stderr
    return done.stderr


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the rules that ship, and of hostile ones."""
    folder = tmp_path_factory.mktemp("site") / "public"
    build(str(ROOT / "rules"), str(HOSTILE), "-o", str(folder), "--title", "Our <rules> & more", "-t", "sentinel,xdr")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Chromium for all tests; skipped where it is not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install 'sigma2kql[dev]'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.set_script_timeout(120)
    yield opened
    opened.quit()
