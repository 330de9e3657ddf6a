"""With the profile of a workspace: what is live, what is blind, and which connector would bring most."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from sigma2kql.cli import group

PROFILE = """\
version: 1
made: 2026-11-29T12:00:00Z
days: 7
sample: 10000
tables:
  SecurityEvent:
    rows_a_day: 1000
    last: 2026-11-29T11:59:00Z
    by: [Channel, EventID]
    values:
      - {is: [Security, "4625"], rows: 7000}
  WindowsEvent: null
  Event: null
  DeviceEvents: null
"""
RULE = """\
title: {title}
level: high
tags: [attack.t1078]
logsource: {{product: windows, service: security}}
detection: {{selection: {{EventID: {event}, SubjectUserName: x}}, condition: selection}}
"""


def test_live_blind_and_what_would_light_up(tmp_path: Path) -> None:
    (tmp_path / "live.yml").write_text(RULE.format(title="Live", event=4625), encoding="utf-8")
    (tmp_path / "blind.yml").write_text(RULE.format(title="Blind", event=4697), encoding="utf-8")
    (tmp_path / "profile.txt").write_text(PROFILE, encoding="utf-8")
    rules, profile = str(tmp_path), str(tmp_path / "profile.txt")
    done = CliRunner().invoke(group, ["coverage", rules, "--profile", profile, "-f", "json"], catch_exceptions=False)
    found = json.loads(done.stdout)["targets"]["sentinel"]
    assert {row["key"]: row["rules"] for row in found["liveness"]} == {"live": 1, "blind": 1}
    (first, *_) = found["connectors"]
    assert first["titles"] == ["Blind"]
    assert first["connector"] in ("SecurityEvents", "WindowsSecurityEvents")
    out = tmp_path / "public"
    site = ["site", rules, "--profile", profile, "-o", str(out), "-t", "sentinel", "-q"]
    CliRunner().invoke(group, site, catch_exceptions=False)
    pages = {p.name: p.read_text(encoding="utf-8") for p in out.glob("rules/*.html")}
    assert any('class="here h-blind"' in text and "here: blind" in text for text in pages.values())
    assert 'value="live"' in (out / "attack.html").read_text(encoding="utf-8")
