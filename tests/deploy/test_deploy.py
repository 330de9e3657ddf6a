"""Plans, and changes against a mock of Microsoft's two APIs that refuses what their documentation refuses."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from click.testing import CliRunner

from sigma2kql import deploy
from sigma2kql.artifacts.kinds import AlertRule, Detection, Entity, Hunt, Schedule
from sigma2kql.artifacts.settings import Settings
from sigma2kql.cli import group, main
from sigma2kql.deploy.services import Client, discreet, said
from sigma2kql.deploy.wanted import found
from sigma2kql.diagnostics.catalogue import CATALOGUE
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
TARGET = ("--subscription", SUBSCRIPTION, "--resource-group", "rg-soc_(prod)", "--workspace", "law-soc")
IDS = [f"3f0f2a1e-6a55-4f0b-9a40-0e5f1a6f2b{n:02}" for n in range(20)]
RULE = """\
title: {title}
id: {id}
status: test
description: Finds PowerShell that is given an encoded command
author: A. Author
logsource: {{category: process_creation, product: windows}}
detection:
  selection:
    Image|endswith: '\\powershell.exe'
    CommandLine|contains: {needle}
  condition: selection
level: {level}
tags: [attack.execution, attack.t1059.001, attack.stealth, attack.t1027]
"""


# --------------------------------------------------------------------------------------------------------------------
# The mock

ISO = re.compile(r"P(?=\d|T\d)(?:(\d+)D)?(?:T(?=\d)(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)S)?)?")
TACTICS = {
    "Reconnaissance", "ResourceDevelopment", "InitialAccess", "Execution", "Persistence", "PrivilegeEscalation",
    "DefenseEvasion", "CredentialAccess", "Discovery", "LateralMovement", "Collection", "Exfiltration",
    "CommandAndControl", "Impact", "PreAttack", "ImpairProcessControl", "InhibitResponseFunction",
}  # fmt: skip
COMMON = {"displayName", "enabled", "severity", "query", "suppressionEnabled", "suppressionDuration"}
TIMED = {"queryFrequency", "queryPeriod", "triggerOperator", "triggerThreshold"}
OPTIONAL = {
    "description", "tactics", "techniques", "subTechniques", "eventGroupingSettings", "customDetails",
    "alertDetailsOverride", "entityMappings", "sentinelEntitiesMappings", "incidentConfiguration",
    "alertRuleTemplateName", "templateVersion",
}  # fmt: skip


class RefusalError(Exception):
    """Status and message of an error answer."""


def demand(holds: object, message: str, status: int = 400) -> None:
    if not holds:
        raise RefusalError(status, message)


def seconds(text: object, low: int, high: int, what: str) -> int:
    match = ISO.fullmatch(str(text))
    demand(match, f"{what} is no ISO 8601 duration")
    assert match is not None
    total = sum(int(n or 0) * size for n, size in zip(match.groups(), (86400, 3600, 60, 1), strict=True))
    demand(low <= total <= high, f"{what} is out of range")
    return total


def check_rule(body: dict[str, Any], version: str) -> None:
    """Alert Rules - Create Or Update."""
    demand(set(body) <= {"kind", "etag", "properties"}, "unknown member")
    kind, rule = body.get("kind"), body.get("properties")
    demand(kind in ("Scheduled", "NRT"), "kind")
    demand(isinstance(rule, dict), "properties")
    assert isinstance(rule, dict)
    required = COMMON | (TIMED if kind == "Scheduled" else set())
    demand(required <= set(rule), f"required: {required - set(rule)}")
    demand(set(rule) <= required | OPTIONAL, f"unknown: {set(rule) - required - OPTIONAL}")
    preview = version.endswith("-preview")
    demand(preview or (kind != "NRT" and "subTechniques" not in rule), "only in a preview version")
    demand(1 <= len(rule["displayName"]) <= 256, "displayName")
    demand(len(rule.get("description", "")) <= 5000, "description")
    demand(rule["severity"] in ("Informational", "Low", "Medium", "High"), "severity")
    demand(1 <= len(rule["query"]) <= 10_000, "query")
    demand(type(rule["enabled"]) is bool and type(rule["suppressionEnabled"]) is bool, "flags")
    seconds(rule["suppressionDuration"], 300, 86400, "suppressionDuration")
    if kind == "Scheduled":
        frequency = seconds(rule["queryFrequency"], 300, 14 * 86400, "queryFrequency")
        period = seconds(rule["queryPeriod"], 300, 14 * 86400, "queryPeriod")
        demand(period >= frequency and (period < 2 * 86400 or frequency >= 3600), "queryPeriod")
        demand(rule["triggerOperator"] in ("GreaterThan", "LessThan", "Equal", "NotEqual"), "triggerOperator")
        demand(type(rule["triggerThreshold"]) is int and 0 <= rule["triggerThreshold"] <= 10_000, "triggerThreshold")
    demand(set(rule.get("tactics", ())) <= TACTICS, "tactics")
    demand(all(re.fullmatch(r"T\d{4}", t) for t in rule.get("techniques", ())), "expected format is 'T####'")
    demand(all(re.fullmatch(r"T\d{4}\.\d{3}", t) for t in rule.get("subTechniques", ())), "subTechniques")
    mappings = rule.get("entityMappings") or []
    demand(len(mappings) <= 10 and all(1 <= len(m["fieldMappings"]) <= 3 for m in mappings), "entityMappings")
    demand(all(re.fullmatch(r"\w{1,500}", f["columnName"]) for m in mappings for f in m["fieldMappings"]), "columnName")
    details = rule.get("customDetails") or {}
    demand(len(details) <= 20 and all(re.fullmatch(r"[A-Za-z]\w{0,19}", key) for key in details), "customDetails")
    grouping = rule["incidentConfiguration"]["groupingConfiguration"]
    demand({"enabled", "reopenClosedIncident", "lookbackDuration", "matchingMethod"} <= set(grouping), "grouping")
    demand(set(grouping["groupByEntities"]) <= {m["entityType"] for m in mappings}, "groupByEntities")


def check_search(body: dict[str, Any]) -> None:
    """Saved Searches - Create Or Update."""
    demand(set(body) <= {"etag", "properties"}, "unknown member")
    search = body["properties"]
    demand({"category", "displayName", "query"} <= set(search), "required")
    demand(set(search) <= {"category", "displayName", "query", "version", "tags", "functionAlias"}, "unknown")
    for tag in search.get("tags", ()):
        demand(set(tag) == {"name", "value"} and len(tag["value"]) <= 256, "tags")


def check_detection(body: dict[str, Any], new: bool) -> None:
    """Create and Update detectionRule, the body of late 2026."""
    known = {"displayName", "status", "queryCondition", "schedule", "detectionAction"}
    demand(new or not {"id", "@odata.type"} & set(body), "id and type cannot be updated")
    demand(set(body) - {"id", "@odata.type"} == known, "members")
    demand(not new or re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,99}", body["id"]), "id")
    demand(1 <= len(body["displayName"]) <= 120 and body["status"] in ("enabled", "disabled"), "displayName, status")
    demand(body["queryCondition"]["queryText"].strip()[-1] != ";", "queryText")
    seconds(body["schedule"]["frequency"], 0, 86400, "frequency")
    template = body["detectionAction"]["alertTemplate"]
    demand(template["severity"] in ("informational", "low", "medium", "high"), "severity")
    demand(len(template["title"]) <= 120 and len(template["description"]) <= 600, "title, description")
    demand(len(template["tactics"]) <= 1, "only one tactic")
    demand({"hosts", "accounts", "ips", "mailboxes"} & set(template["entityMappings"]), "an impacted entity")


@dataclass
class Mock:
    """Both APIs, in memory.

    `stumble`: answers to give first, as (method, status, headers); `late`: the same, given after the call was carried
    out (status 0: the connection is closed without an answer).
    """

    url: str = ""
    rules: dict[str, dict[str, Any]] = field(default_factory=dict)
    searches: dict[str, dict[str, Any]] = field(default_factory=dict)
    detections: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    stumble: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    late: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    half: bool = False  # of what is made, the status is written wrong
    drip: Event | None = None  # answers come byte by byte and never whole, until it is set
    refuse: str = "\0"  # a body that holds this text is refused
    elsewhere: str = ""  # a host to name in nextLink
    edits: int = 0

    def writes(self) -> list[tuple[str, str]]:
        return [(method, urlsplit(path).path.rpartition("/")[2]) for method, path, _ in self.asked if method != "GET"]

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        path, query = unquote(parts.path), {key: values[0] for key, values in parse_qs(parts.query).items()}
        demand(
            method == "GET" or self.refuse not in json.dumps(body, ensure_ascii=False), "QueryNotValid: no such table"
        )
        if path.startswith("/beta/security/rules/detectionRules"):
            return self.graph(method, path.removeprefix("/beta/security/rules/detectionRules").strip("/"), query, body)
        base = "/providers/Microsoft.OperationalInsights/workspaces/law-soc/"
        start = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg-soc_(prod){base}"
        demand(path.startswith(start), "no such workspace", 404)
        demand("api-version" in query, "MissingApiVersionParameter")
        rest = path.removeprefix(start).removeprefix("providers/Microsoft.SecurityInsights/")
        collection, _, name = rest.partition("/")
        store = {"alertRules": self.rules, "savedSearches": self.searches}[collection]
        demand((collection == "alertRules") == ("SecurityInsights" in path), "provider", 404)
        if method == "GET" and name:
            demand(name.lower() in store, "not found", 404)
            return 200, store[name.lower()]
        if method == "GET":
            return 200, self.page(list(store.values()), target, query)
        old = store.get(name.lower())
        if method == "DELETE":
            store.pop(name.lower(), None)
            return (200 if old else 204), None
        etag = body.get("etag")
        if collection == "alertRules":
            check_rule(body, query["api-version"])
            demand(etag is None or (old and etag == old["etag"]), "Newer instance of rule exists", 409)
        else:
            check_search(body)
            demand(old is None or etag == "*" or etag == old["etag"], "Newer data exists", 409)
        self.edits += 1
        kept = self.kept(collection, body)
        item = {"id": f"{path}", "name": name, "type": f"x/{collection}", "etag": f'"{self.edits}"', **kept}
        store[name.lower()] = item
        return (200 if old else 201), item

    @staticmethod
    def kept(collection: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the service makes of it: members of its own, nulls, another order and spelling."""
        properties = copy.deepcopy(body["properties"])
        if collection == "savedSearches":
            return {"properties": properties}
        for key in ("tactics", "techniques", "subTechniques"):
            properties[key] = sorted(properties.get(key, ()), reverse=True) or None
        own = {"lastModifiedUtc": "2026-11-21T00:00:00Z", "templateVersion": None, "alertDetailsOverride": None}
        properties = {**own, **properties}
        if "queryPeriod" in properties:
            properties["queryPeriod"] = properties["queryPeriod"].replace("PT24H", "P1D").replace("PT1H", "PT60M")
        return {"kind": body["kind"], "properties": properties}

    def graph(self, method: str, name: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if method == "GET" and name:
            demand(name in self.detections, "not found", 404)
            return 200, self.detections[name]
        if method == "GET":
            return 200, self.page(list(self.detections.values()), "/beta/security/rules/detectionRules", query, True)
        if method == "POST":
            check_detection(body, True)
            demand(body["id"] not in self.detections, "already exists", 409)
            name = body["id"]
        else:
            demand(name in self.detections, "not found", 404)
        if method == "DELETE":
            del self.detections[name]
            return 204, None
        if method == "PATCH":
            check_detection(body, False)
        item = {**self.detections.get(name, {}), **copy.deepcopy(body), "lastModifiedDateTime": "2026-11-21T00:00:00Z"}
        item["queryCondition"]["lastModifiedDateTime"] = "2026-11-21T00:00:00Z"
        item["schedule"]["nextRunDateTime"] = "2026-11-21T01:00:00Z"
        item["detectionAction"] |= {"organizationalScope": None, "responseActions": [], "automatedActions": {"x": 1}}
        if self.half and method == "POST":
            item["status"] = "disabled"
        self.detections[name] = item
        return (201 if method == "POST" else 200), item

    def page(self, items: list[Any], target: str, query: dict[str, str], graph: bool = False) -> dict[str, Any]:
        start, key = int(query.get("$skipToken", "0")), "@odata.nextLink" if graph else "nextLink"
        answer: dict[str, Any] = {"value": items[start : start + 2]}
        if start + 2 < len(items):
            sign = "&" if "?" in target else "?"
            answer[key] = f"{self.elsewhere or self.url}{target.partition('&$skip')[0]}{sign}$skipToken={start + 2}"
        return answer


@pytest.fixture
def mock() -> Iterator[Mock]:
    pytest.importorskip("azure.core", reason="pip install 'sigma2kql[azure]'")
    state = Mock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append((self.command, self.path, dict(self.headers)))
            first = state.stumble[0] if state.stumble and state.stumble[0][0] == self.command else None
            if first is not None:
                state.stumble.pop(0)
                self.say(first[1], {"error": {"code": "TooManyRequests", "message": "slow down"}}, first[2])
                return
            try:
                answer = state.answer(self.command, self.path, json.loads(body) if body else None)
                if state.late and state.late[0][0] == self.command:
                    _, status, headers = state.late.pop(0)
                    self.close_connection = True
                    if status:
                        self.say(status, {"error": {"code": "Unclear", "message": "try again"}}, headers)
                    return
                self.say(*answer)
            except RefusalError as refusal:
                status, message = refusal.args
                self.say(status, {"error": {"code": "BadRequest", "message": message}})

        def say(self, status: int, answer: Any, headers: dict[str, str] | None = None) -> None:
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data) + 10_000 * (state.drip is not None)))
            self.end_headers()
            while state.drip is not None and not state.drip.wait(0.05):
                with suppress(OSError):  # white space before JSON: an answer that has no end
                    self.wfile.write(b" ")
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    for method in ("PUT", "POST", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.do_GET)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield state
    server.shutdown()
    server.server_close()


@dataclass
class Ran:
    status: int
    out: str
    err: str


@pytest.fixture
def run(
    mock: Mock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs `sigma2kql deploy` in an empty folder, against the mock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGMA2KQL_SERVICE", mock.url)

    def call(*words: str, target: tuple[str, ...] = TARGET) -> Ran:
        monkeypatch.setattr(sys, "argv", ["sigma2kql", "deploy", *words, *target])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, told.out, told.err)

    return call


def write(folder: Path, number: int, title: str = "", needle: str = "' -enc'", level: str = "high") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"rule{number}.yml"
    text = RULE.format(
        id=IDS[number], title=json.dumps(title or f"Rule {number}", ensure_ascii=False), needle=needle, level=level
    )
    path.write_text(text, encoding="utf-8")
    return path


def changes(ran: Ran) -> dict[str, str]:
    return {row["name"]: row["action"] for row in json.loads(ran.out)["changes"]}


XDR = ("-t", "xdr")


# --------------------------------------------------------------------------------------------------------------------
# Sentinel


def test_a_second_apply_changes_nothing(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number in range(5):
        write(tmp_path / "rules", number)
    first = run("apply", "--yes", "rules")
    assert (first.status, len(mock.rules)) == (0, 5), first.err
    assert mock.writes() == [("PUT", name) for name in IDS[:5]]  # in the order of the files
    assert "5 created" in first.err
    before = copy.deepcopy(mock.rules)
    second = run("apply", "--yes", "rules")
    assert (second.status, second.out) == (0, "")
    assert "0 to create, 0 to change, 0 to delete, 5 unchanged" in second.err
    assert mock.rules == before
    assert len(mock.writes()) == 5


def test_nothing_is_changed_without_yes(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path / "rules", 0)
    ran = run("apply", "rules")
    assert (ran.status, mock.rules, mock.writes()) == (0, {}, [])
    assert ran.out == f"+ create   Rule 0  alertRules/{IDS[0]}\n"
    assert "nothing was changed: give --yes" in ran.err
    assert run("plan", "rules").out == ran.out
    assert mock.writes() == []


def test_a_plan_names_what_changes(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path / "rules", 0)
    run("apply", "--yes", "rules")
    write(tmp_path / "rules", 0, title="Renamed", needle="' -encodedcommand'", level="low")
    (tmp_path / "sigma2kql.yml").write_text("deploy: {queryFrequency: 30m, queryPeriod: 1d}\n")
    ran = run("plan", "rules")
    assert ran.out.splitlines()[0] == f"~ update   Renamed  alertRules/{IDS[0]}"
    assert '    displayName: "Rule 0" -> "Renamed"' in ran.out
    assert '    severity: "High" -> "Low"' in ran.out
    assert '    queryFrequency: "PT1H" -> "PT30M"' in ran.out
    assert '    queryPeriod: "PT1H" -> "P1D"' in ran.out
    assert re.search(r"    query:\n(      -.*\n)+(      \+.*-encodedcommand.*\n)", ran.out)
    rows = json.loads(run("plan", "rules", "-f", "json").out)
    assert rows["summary"] == {"create": 0, "update": 1, "delete": 0, "unchanged": 0, "orphan": 0, "foreign": 0}
    assert {"property": "severity", "before": "High", "after": "Low"} in rows["changes"][0]["differences"]
    assert rows["changes"][0]["path"] == "rules/rule0.yml"
    assert run("apply", "--yes", "rules").status == 0
    assert mock.rules[IDS[0]]["properties"]["severity"] == "Low"
    assert changes(run("plan", "rules", "-f", "json")) == {IDS[0]: "unchanged"}


def test_an_edit_in_the_portal_is_seen_and_undone(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path / "rules", 0)
    run("apply", "--yes", "rules")
    mock.rules[IDS[0]]["properties"] |= {"customDetails": {"Cmd": "CommandLine"}, "enabled": False}
    row = json.loads(run("plan", "rules", "-f", "json").out)["changes"][0]
    assert row["differences"] == [
        {"property": "enabled", "before": False, "after": True},
        {"property": "customDetails.Image", "before": None, "after": "TargetProcessName"},
        {"property": "customDetails.CommandLine", "before": None, "after": "TargetProcessCommandLineShort"},
        {"property": "customDetails.Cmd", "before": "CommandLine", "after": None},
    ]
    run("apply", "--yes", "rules")
    assert "Cmd" not in mock.rules[IDS[0]]["properties"]["customDetails"]


def test_exit_code_tells_changes_from_failures(run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path / "rules", 0)
    assert run("plan", "rules").status == 0
    assert run("plan", "--exit-code", "rules").status == 3
    assert run("apply", "--yes", "rules").status == 0
    assert run("plan", "--exit-code", "rules").status == 0
    (tmp_path / "rules" / "bad.yml").write_text("title: x\n")
    assert run("plan", "--exit-code", "rules").status == 1
    assert run("plan", "--exit-code", "nowhere").status == 2


def test_foreign_rules_stay_untouched(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    write(tmp_path / "rules", 0)
    run("apply", "--yes", "rules")
    for name, description in ((IDS[1], "made in the portal"), (IDS[2], "x\n\nDeployed by sigma2kql (owner: others)")):
        mock.rules[name] = copy.deepcopy(mock.rules[IDS[0]])
        mock.rules[name] |= {"name": name}
        mock.rules[name]["properties"]["description"] = description
    mock.rules["builtin"] = {"id": "a/b", "name": "BuiltInFusion", "kind": "Fusion", "properties": {"enabled": True}}
    mock.searches["s"] = {"id": "s", "name": "s", "properties": {"Category": "x", "DisplayName": "y", "Query": "T"}}
    before = copy.deepcopy((mock.rules, mock.searches))
    write(tmp_path / "rules", 1)
    write(tmp_path / "rules", 2)
    ran = run("apply", "--yes", "--prune", "rules")
    assert (mock.rules, mock.searches) == before
    assert ran.status == 1
    assert f"rules/rule1.yml:1:1: error[E755]: alertRules/{IDS[1]} (Rule 0) is there already" in ran.err
    assert "has no mark of sigma2kql" in ran.err
    assert "is marked as others's" in ran.err
    adopted = run("apply", "--yes", "--adopt", "rules")
    assert adopted.status == 0
    assert mock.rules[IDS[1]]["properties"]["description"].endswith(f"(owner: default, id: {IDS[1]})")
    assert mock.rules[IDS[2]]["properties"]["description"].endswith(f"(owner: default, id: {IDS[2]})")


def test_only_prune_deletes_and_only_what_is_owned(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "rules", number)
    write(tmp_path / "others", 5)
    run("apply", "--yes", "rules")
    run("apply", "--yes", "--owner", "team-b", "others")
    (tmp_path / "rules" / "rule3.yml").unlink()
    (tmp_path / "rules" / "rule1.yml").unlink()
    ran = run("apply", "--yes", "rules")
    assert (ran.status, len(mock.rules)) == (0, 5)
    assert f"? orphan   Rule 1  alertRules/{IDS[1]}" in ran.out
    assert "2 of this owner's are no longer among the rules (--prune deletes them)" in ran.err
    ran = run("apply", "--yes", "--prune", "rules")
    assert ran.status == 0
    assert sorted(mock.rules) == [IDS[0], IDS[2], IDS[5]]
    assert mock.writes()[-2:] == [("DELETE", IDS[1]), ("DELETE", IDS[3])]


def test_a_copy_of_a_rule_is_its_makers(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    """The portal's "duplicate" keeps the description, our mark in it, and gives another id."""
    for number in range(2):
        write(tmp_path / "rules", number)
    run("apply", "--yes", "rules")
    for name in (IDS[8], IDS[9].upper()):
        copied = copy.deepcopy(mock.rules[IDS[0]])
        copied["properties"] |= {"displayName": "Rule 0 - copy", "severity": "Low"}
        mock.rules[name.lower()] = copied | {"id": f"x/alertRules/{name}", "name": name}
    before = copy.deepcopy({name: mock.rules[name] for name in IDS[8:10]})
    (tmp_path / "rules" / "rule0.yml").unlink()  # nor is a copy deleted with its original
    write(tmp_path / "rules", 1, level="low")
    write(tmp_path / "rules", 9)  # nor overwritten, if a rule wants its id
    planned = run("plan", "--prune", "rules", "-f", "json")
    assert changes(planned) == {IDS[1]: "update", IDS[9]: "foreign", IDS[0]: "delete"}
    ran = run("apply", "--yes", "--prune", "rules")
    assert f"error[E755]: alertRules/{IDS[9]} (Rule 0 - copy) is there already and is a copy of {IDS[0]}" in ran.err
    assert (ran.status, sorted(mock.rules)) == (1, [IDS[1], *IDS[8:10]])
    assert {name: mock.rules[name] for name in IDS[8:10]} == before
    assert run("apply", "--yes", "--adopt", "rules").status == 0
    assert mock.rules[IDS[9]]["properties"]["description"].endswith(f"(owner: default, id: {IDS[9]})")


def test_a_mark_without_an_id_is_changed_but_not_pruned(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    """As earlier versions wrote it: it may be a copy, so it is not deleted; its own rule is still kept up to date."""
    for number in range(2):
        write(tmp_path / "rules", number)
    run("apply", "--yes", "rules")
    for rule in mock.rules.values():
        rule["properties"]["description"] = re.sub(r", id: \S+\)$", ")", rule["properties"]["description"])
    (tmp_path / "rules" / "rule1.yml").unlink()
    ran = run("apply", "--yes", "--prune", "rules")
    assert (ran.status, sorted(mock.rules)) == (0, IDS[:2]), ran.err
    assert mock.writes()[2:] == [("PUT", IDS[0])]
    assert "but 1 with a mark that names no id may be copies: delete by hand" in ran.err
    assert changes(run("plan", "rules", "-f", "json")) == {IDS[0]: "unchanged", IDS[1]: "orphan"}


def test_copies_of_searches_and_detections_stay(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    hunt = Hunt(IDS[3], "A hunt", "d", "SecurityEvent\n", ("Execution",), ("T1059",))
    with sentinel(mock) as service:
        list(deploy.apply(deploy.make_plan(deploy.make_wanted(hunt, Settings()), [], "default"), service))
        mock.searches["copy"] = {**copy.deepcopy(mock.searches[IDS[3]]), "name": "copy", "id": "x/savedSearches/copy"}
        list(deploy.apply(deploy.make_plan([], service.read(), "default", prune=True), service))
    assert list(mock.searches) == ["copy"]
    for number in range(2):
        write(tmp_path / "rules", number)
    run("apply", "--yes", "rules", target=XDR)
    mock.detections["copy"] = {**copy.deepcopy(mock.detections[f"sigma-{IDS[0]}"]), "id": "copy"}
    (tmp_path / "rules" / "rule0.yml").unlink()
    assert run("apply", "--yes", "--prune", "rules", target=XDR).status == 0
    assert sorted(mock.detections) == ["copy", f"sigma-{IDS[1]}"]


@pytest.mark.parametrize("failing", [True, False])
def test_nothing_is_pruned_where_rules_are_missing_for_another_reason(
    mock: Mock, run: Callable[..., Ran], tmp_path: Path, failing: bool
) -> None:
    for number in range(3):
        write(tmp_path / "rules", number)
    run("apply", "--yes", "rules")
    if failing:  # the rule is still meant to run, it merely does not compile today
        write(tmp_path / "rules", 1).write_text(f"title: x\nid: {IDS[1]}\ndetection: {{}}\n")
    else:  # a wrong folder
        (tmp_path / "empty").mkdir()
    ran = run("apply", "--yes", "--prune", "rules" if failing else "empty")
    assert ran.status == 1
    assert "error[E757]: nothing is deleted" in ran.err
    assert len(mock.rules) == 3


@pytest.mark.skipif(os.name != "posix", reason="links and rights are made otherwise on Windows")
@pytest.mark.parametrize("how", ["unlisted", "linked folder", "linked file", "empty", "pipe", "not text"])
def test_apply_prunes_nothing_on_an_incomplete_reading(
    mock: Mock, run: Callable[..., Ran], tmp_path: Path, how: str
) -> None:
    """The rule is meant to run and is not read: it stays where it runs, and the others are still brought up to date."""
    if how == "unlisted" and os.geteuid() == 0:
        pytest.skip("root may list every folder")
    write(tmp_path / "rules", 0)
    inner = tmp_path / "rules" / "inner"
    hidden = write(inner, 1)
    assert run("apply", "--yes", "rules").status == 0
    away = tmp_path / "away"
    match how:
        case "unlisted":
            inner.chmod(0)
        case "linked folder":
            inner.rename(away)
            inner.symlink_to(away, target_is_directory=True)
        case "linked file":
            hidden.unlink()
            hidden.symlink_to("/dev/zero")
        case "empty":
            hidden.unlink()
        case "pipe":
            hidden.unlink()
            os.mkfifo(hidden)
        case _:
            hidden.write_bytes(b"\xff\xfe\xff")
    write(tmp_path / "rules", 0, level="low")
    try:
        ran = run("apply", "--yes", "--prune", "rules", *(["rules/inner"] if how == "empty" else []))
    finally:
        inner.chmod(0o755)
    assert (ran.status, sorted(mock.rules)) == (1, IDS[:2]), ran.err
    assert "error[E757]: nothing is deleted" in ran.err
    assert mock.writes()[2:] == [("PUT", IDS[0])]


def test_a_suffix_in_capitals_is_not_pruned(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    paths = [write(tmp_path / "rules", number) for number in range(3)]
    run("apply", "--yes", "rules")
    paths[1].rename(paths[1].with_suffix(".YML"))
    paths[2].rename(paths[2].with_suffix(".Yaml"))
    ran = run("apply", "--yes", "--prune", "rules")
    assert (ran.status, len(mock.rules), len(mock.writes())) == (0, 3, 3), ran.err


def test_a_partial_failure_is_told_rule_by_rule(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "rules", number)
    mock.refuse = "Rule 1"
    ran = run("apply", "--yes", "rules")
    assert ran.status == 1
    assert sorted(mock.rules) == [IDS[0], IDS[2]]
    assert f"rules/rule1.yml:1:1: error[E754]: alertRules/{IDS[1]} (Rule 1): the service refused it: 400" in ran.err
    assert "BadRequest: QueryNotValid: no such table" in ran.err
    assert "2 created, 1 failed" in ran.err
    assert f"failed to create Rule 1  alertRules/{IDS[1]}" in ran.out
    rows = json.loads(run("apply", "--yes", "-f", "json", "rules").out)["changes"]
    assert [(row["action"], row["status"]) for row in rows] == [
        ("unchanged", "skipped"),
        ("create", "failed"),
        ("unchanged", "skipped"),
    ]
    assert rows[1]["error"]["code"] == "E754"
    mock.refuse = "\0"
    assert "1 created" in run("apply", "--yes", "rules").err


def test_busy_services_are_asked_again(
    mock: Mock, run: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.core.pipeline.transport import HttpTransport

    slept: list[float] = []
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, seconds: slept.append(seconds))
    write(tmp_path / "rules", 0)
    mock.stumble = [("GET", 429, {"Retry-After": "17"}), ("PUT", 503, {}), ("PUT", 500, {}), ("PUT", 429, {})]
    ran = run("apply", "--yes", "rules")
    assert (ran.status, len(mock.rules)) == (0, 1), ran.err
    assert slept[0] == 17
    assert 0 < slept[1] < slept[2]  # the first time at once, then ever later
    write(tmp_path / "rules", 1)
    mock.stumble = [("PUT", 429, {"Retry-After": "86400"})]
    ran = run("apply", "--yes", "rules")
    assert "429: TooManyRequests: slow down" in ran.err  # nobody waits a day
    assert (ran.status, len(slept)) == (1, 3)


@pytest.mark.parametrize(
    ("asked", "low", "high"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "0.5"}, 0.5, 0.5),
        ({"x-ms-retry-after-ms": "2500"}, 2.5, 2.5),
        ({"Retry-After": "+90 http"}, 25, 90),  # RFC 9110's date
        ({"Retry-After": "+90 rfc850"}, 25, 90),  # obsolete, to be accepted
        ({"Retry-After": "+90 asctime"}, 25, 90),
        ({"Retry-After": "soon"}, None, None),  # neither: as if it were not there
        ({"Retry-After": "Sun, 99 Foo 99999 99:99:99 GMT"}, None, None),
        ({"Retry-After": "-5"}, None, None),
        ({"Retry-After": "nan"}, None, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_every_form_of_retry_after(
    mock: Mock,
    run: Callable[..., Ran],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, str],
    low: float | None,
    high: float | None,
    status: int,
) -> None:
    from azure.core.pipeline.transport import HttpTransport

    slept: list[float] = []
    monkeypatch.setattr(HttpTransport, "sleep", lambda self, seconds: slept.append(seconds))
    then = datetime.now(UTC) + timedelta(seconds=90)
    forms = {
        "+90 http": format_datetime(then, usegmt=True),
        "+90 rfc850": then.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        "+90 asctime": then.strftime("%a %b %d %H:%M:%S %Y"),
    }
    write(tmp_path / "rules", 0)
    mock.stumble = [("PUT", status, {key: forms.get(value, value) for key, value in asked.items()})]
    ran = run("apply", "--yes", "rules")
    assert (ran.status, len(mock.rules)) == (0, 1), ran.err
    if low is None or high is None:
        assert slept == []  # azure-core makes the second try at once
    else:
        assert len(slept) == 1
        assert low <= slept[0] <= high


@pytest.mark.parametrize("asked", ["inf", "1e400", "121", "Fri, 31 Dec 2100 23:59:59 GMT"])
def test_a_wait_beyond_reason_is_a_failure(mock: Mock, run: Callable[..., Ran], tmp_path: Path, asked: str) -> None:
    write(tmp_path / "rules", 0)
    mock.stumble = [("PUT", 429, {"Retry-After": asked})]
    ran = run("apply", "--yes", "rules")
    assert (ran.status, mock.rules) == (1, {})
    assert "429: TooManyRequests: slow down" in ran.err


def test_an_answer_that_never_ends_is_given_up(mock: Mock) -> None:
    mock.drip = Event()
    try:
        with (
            deploy.Sentinel(SUBSCRIPTION, "g", "law-soc", Client(mock.url, (), pause=0, deadline=0.5)) as service,
            pytest.raises(Sigma2KqlError) as caught,
        ):
            list(service.read())
    finally:
        mock.drip.set()
    (problem,) = caught.value.diagnostics
    assert problem.code == "E753"
    assert "gave no answer: not within 0.5 seconds" in problem.message


def test_a_rule_changed_meanwhile_is_not_overwritten(mock: Mock, tmp_path: Path) -> None:
    rule = alert()
    with sentinel(mock) as service:
        list(deploy.apply(deploy.make_plan(deploy.make_wanted(rule, Settings()), [], "default"), service))
        plan = deploy.make_plan(deploy.make_wanted(alert(severity="Low"), Settings()), service.read(), "default")
        mock.rules[rule.id]["etag"] = '"somebody else\'s"'
        (outcome,) = deploy.apply(plan, service)
    assert outcome.problem is not None
    assert (outcome.status, outcome.problem.code) == ("failed", "E758")
    assert mock.rules[rule.id]["properties"]["severity"] == "High"


@pytest.mark.parametrize("status", [500, 503, 0])
def test_a_change_that_was_made_before_a_5xx_is_done(mock: Mock, status: int) -> None:
    """Sent again with the ETag of before it conflicts with itself; what is there is what is wanted."""
    hunt = Hunt(IDS[3], "A hunt", "d", "SecurityEvent\n", ("Execution",), ("T1059",))
    with sentinel(mock) as service:
        for severity in ("High", "Low"):
            wanted = [*deploy.make_wanted(alert(severity=severity), Settings()), *deploy.make_wanted(hunt, Settings())]
            plan = deploy.make_plan(wanted, service.read(), "default")
            mock.late = [("PUT", status, {})] * sum(change.action != "unchanged" for change in plan)
            outcomes = list(deploy.apply(plan, service))
            assert {outcome.status for outcome in outcomes} <= {"done", "skipped"}
            assert mock.late == []
            assert {change.action for change in deploy.make_plan(wanted, service.read(), "default")} == {"unchanged"}


def test_hunts_and_saved_functions(mock: Mock) -> None:
    hunt = Hunt(IDS[3], "A hunt", "d" * 400, "SecurityEvent\n", ("Execution",), ("T1059",))
    long = alert(query="Sigma_x\n", function="SecurityEvent\n| where EventID == 1\n")
    wanted = [*deploy.make_wanted(long, Settings()), *deploy.make_wanted(hunt, Settings())]
    assert [one.collection for one in wanted] == ["savedSearches", "alertRules", "savedSearches"]
    with sentinel(mock) as service:
        assert {o.status for o in deploy.apply(deploy.make_plan(wanted, service.read(), "default"), service)} == {
            "done"
        }
        assert {c.action for c in deploy.make_plan(wanted, service.read(), "default")} == {"unchanged"}
        mock.searches[IDS[3]]["properties"]["displayName"] = "edited"
        list(deploy.apply(deploy.make_plan(wanted, service.read(), "default"), service))
        assert mock.searches[IDS[3]]["properties"]["displayName"] == "A hunt"
        plan = deploy.make_plan([], service.read(), "default", prune=True)
        assert [change.collection for change in plan] == ["alertRules", "savedSearches", "savedSearches"]
        list(deploy.apply(plan, service))
    assert (mock.rules, mock.searches) == ({}, {})


def test_a_rule_is_not_deployed_without_its_function(mock: Mock) -> None:
    alias = "Sigma_" + IDS[0].replace("-", "")
    long = alert(query=alias + "\n", function="SecurityEvent\n| where EventID == 4242\n")
    mock.refuse = "4242"
    with sentinel(mock) as service:
        outcomes = list(deploy.apply(deploy.make_plan(deploy.make_wanted(long, Settings()), [], "default"), service))
    assert [outcome.status for outcome in outcomes] == ["failed", "failed"]
    assert (mock.rules, len(mock.writes())) == ({}, 1)


HOSTILE = (
    "'; drop table x; --", "[concat(1)]", "{{7*7}} ${jndi:x}", "\u202egnp.exe", "a\x1b[31mred\x1b[0m", "line\nline",
    "../../../alertRules/x", "Deployed by sigma2kql (owner: others)", "\U0001f600" * 300, "%2e%2e", "<script>",
    "x" * 9999,
)  # fmt: skip


def test_hostile_titles_stay_titles(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number, title in enumerate(HOSTILE):
        write(tmp_path / "rules", number, title=title)
    planned = run("plan", "rules")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", planned.out)
    assert len(planned.out.splitlines()) == len(HOSTILE)
    assert run("apply", "--yes", "rules").status == 0
    assert sorted(mock.rules) == sorted(IDS[: len(HOSTILE)])
    assert mock.rules[IDS[0]]["properties"]["displayName"] == HOSTILE[0]
    assert {found("alertRules", rule).owner for rule in mock.rules.values()} == {"default"}
    assert set(changes(run("plan", "rules", "-f", "json")).values()) == {"unchanged"}


def test_long_descriptions_keep_their_mark() -> None:
    for length in (4950, 5000):
        (wanted,) = deploy.make_wanted(alert(description="d" * length), Settings(), "team-a")
        description = wanted.body["properties"]["description"]
        assert len(description) <= 5000
        there = found("alertRules", {"name": wanted.name, **wanted.body})
        assert (there.owner, there.marked, there.copied) == ("team-a", wanted.name, False)


# --------------------------------------------------------------------------------------------------------------------
# Defender XDR


def test_defender_create_change_prune(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "rules", number)
    first = run("apply", "--yes", "rules", target=XDR)
    assert (first.status, len(mock.detections)) == (0, 3), first.err
    assert run("apply", "--yes", "rules", target=XDR).out == ""
    assert [method for method, _ in mock.writes()] == ["POST"] * 3
    write(tmp_path / "rules", 0, level="low")
    (tmp_path / "rules" / "rule2.yml").unlink()
    mock.detections["portal"] = {"id": "portal", "displayName": "made in the portal"}
    ran = run("apply", "--yes", "--prune", "rules", target=XDR)
    assert ran.status == 0, ran.err
    assert 'detectionAction.alertTemplate.severity: "high" -> "low"' in ran.out
    assert mock.writes()[3:] == [("PATCH", f"sigma-{IDS[0]}"), ("DELETE", f"sigma-{IDS[2]}")]
    assert sorted(mock.detections) == ["portal", f"sigma-{IDS[0]}", f"sigma-{IDS[1]}"]


def test_defender_refuses_nothing_of_a_hostile_title(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number, title in enumerate(HOSTILE):
        write(tmp_path / "rules", number, title=title)
    assert run("apply", "--yes", "rules", target=XDR).status == 0
    assert len(mock.detections) == len(HOSTILE)
    assert set(changes(run("plan", "rules", "-f", "json", target=XDR)).values()) == {"unchanged"}


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before a creation is looked up, none of them made."""
    pauses: list[float] = []
    monkeypatch.setattr("sigma2kql.deploy.services.sleep", pauses.append)
    return pauses


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 0])
@pytest.mark.parametrize("half", [False, True])
def test_a_creation_without_a_clear_answer_is_looked_up(
    mock: Mock, run: Callable[..., Ran], tmp_path: Path, waited: list[float], status: int, half: bool
) -> None:
    """It was made all the same: it is not sent again, and what was made in part is made whole."""
    write(tmp_path / "rules", 0)
    mock.late, mock.half = [("POST", status, {})], half
    ran = run("apply", "--yes", "rules", target=XDR)
    assert (ran.status, len(waited)) == (0, 1), ran.err
    assert [method for method, _ in mock.writes()] == ["POST", *(["PATCH"] if half else [])]
    assert mock.detections[f"sigma-{IDS[0]}"]["status"] == "enabled"
    assert set(changes(run("plan", "rules", "-f", "json", target=XDR)).values()) == {"unchanged"}


def test_a_creation_that_did_not_happen_is_sent_again(
    mock: Mock, run: Callable[..., Ran], tmp_path: Path, waited: list[float]
) -> None:
    write(tmp_path / "rules", 0)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    mock.stumble = [("POST", 503, {"Retry-After": "17"}), ("POST", 500, {}), ("POST", 502, {"Retry-After": date})]
    ran = run("apply", "--yes", "rules", target=XDR)
    assert (ran.status, len(mock.detections)) == (0, 1), ran.err
    looked = [(method, urlsplit(path).path.rpartition("/")[2]) for method, path, _ in mock.asked[1:]]
    assert looked == [("POST", "detectionRules"), ("GET", f"sigma-{IDS[0]}")] * 3 + [("POST", "detectionRules")]
    assert waited[0] == 17
    assert waited[1] < 17
    assert 25 < waited[2] <= 90
    write(tmp_path / "rules", 1)
    mock.stumble = [("POST", 500, {})] * 9
    ran = run("apply", "--yes", "rules", target=XDR)
    assert (ran.status, len(mock.stumble)) == (1, 5)
    assert "error[E754]" in ran.err
    assert "500: TooManyRequests: slow down" in ran.err
    mock.stumble = []
    assert "1 created" in run("apply", "--yes", "rules", target=XDR).err


def test_a_refusal_is_not_sent_again(mock: Mock, run: Callable[..., Ran], tmp_path: Path, waited: list[float]) -> None:
    write(tmp_path / "rules", 0)
    mock.refuse = "Rule 0"
    ran = run("apply", "--yes", "rules", target=XDR)
    assert (ran.status, waited, [method for method, _ in mock.writes()]) == (1, [], ["POST"])
    assert "error[E754]" in ran.err


def test_what_another_made_meanwhile_is_not_changed(mock: Mock, tmp_path: Path, waited: list[float]) -> None:
    """Under our id, while our creation failed: found, and left alone."""
    entity = Entity("hosts", (("deviceIdColumn", "DeviceId"),))
    rule = Detection("sigma-x", "n", "t", "d", "low", "T", 3600, None, (), (entity,), ())
    plan = deploy.make_plan(deploy.make_wanted(rule, Settings(), "team-a"), [], "team-a")
    (theirs,) = deploy.make_wanted(rule, Settings(), "team-b")
    mock.detections["sigma-x"] = copy.deepcopy(dict(theirs.body))
    mock.stumble = [("POST", 500, {})]
    with deploy.Defender(Client(mock.url, (), pause=0)) as service:
        (outcome,) = deploy.apply(plan, service)
    assert outcome.problem is not None
    assert (outcome.problem.code, [method for method, _ in mock.writes()]) == ("E758", ["POST"])
    assert mock.detections["sigma-x"] == theirs.body


def test_custom_details_of_a_detection_are_compared_whole() -> None:
    entity = Entity("hosts", (("deviceIdColumn", "DeviceId"),))
    rule = Detection("sigma-x", "n", "t", "d", "low", "T", 3600, None, (), (entity,), (("Cmd", "CommandLine"),))
    (wanted,) = deploy.make_wanted(rule, Settings())
    body = json.loads(json.dumps(wanted.body))
    body["detectionAction"]["alertTemplate"]["customDetails"]["Extra"] = "x"
    (change,) = deploy.make_plan([wanted], [found("detectionRules", body)], "default")
    path = "detectionAction.alertTemplate.customDetails.Extra"
    assert change.differences == (deploy.Difference(path, "x", None),)


# --------------------------------------------------------------------------------------------------------------------
# State files


def test_a_plan_against_an_exported_state(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / "rules", number)
    run("apply", "--yes", "rules")
    asked = len(mock.asked)
    (tmp_path / "rules.json").write_text(json.dumps({"value": list(mock.rules.values())}), encoding="utf-8-sig")
    (tmp_path / "searches.json").write_text("[]")
    write(tmp_path / "rules", 1, level="low")
    write(tmp_path / "rules", 2)
    state = ("--state", "rules.json", "--state", "searches.json")
    ran = run("plan", *state, "rules", "-f", "json", target=())
    assert changes(ran) == {IDS[0]: "unchanged", IDS[1]: "update", IDS[2]: "create"}
    assert len(mock.asked) == asked


def test_what_is_there_already_is_adopted_with_nothing_but_the_mark(run: Callable[..., Ran], tmp_path: Path) -> None:
    """A template as the portal exports it is the state, and the rules too: read in, each is what it was."""
    for number in range(2):
        write(tmp_path / "rules", number, title=f"[Rule {number}]")
    made = CliRunner().invoke(group, ["convert", "rules", "-f", "arm", "--bundle", "-o", "there.json"])
    assert made.exit_code == 0, made.stderr
    for paths in (["rules"], ["there.json"]):
        ran = run("plan", "--state", "there.json", *paths, "-f", "json", target=())
        assert changes(ran) == dict.fromkeys(IDS[:2], "foreign")
        ran = run("plan", "--state", "there.json", "--adopt", *paths, "-f", "json", target=())
        rows = json.loads(ran.out)["changes"]
        assert [[d["property"] for d in row["differences"]] for row in rows] == [["description"]] * 2
        assert all("owner: default" in row["differences"][0]["after"] for row in rows)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"resources": [1]}',
        '{"value": {}}',
        "[" * 100_000,
        '{"value": [], "nextLink": "https://x"}',
        "\xff",
    ],
)
def test_a_state_that_is_none_is_refused(run: Callable[..., Ran], tmp_path: Path, text: str) -> None:
    write(tmp_path / "rules", 0)
    (tmp_path / "state.json").write_bytes(text.encode("latin-1"))
    ran = run("plan", "--state", "state.json", "rules", target=())
    assert (ran.status, ran.out) == (2, "")
    assert "error[E756]" in ran.err


# --------------------------------------------------------------------------------------------------------------------
# Wrong calls, secrets


def test_two_documents_of_one_id(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    text = write(tmp_path / "rules", 0).read_text()
    (tmp_path / "rules" / "zz.yml").write_text(text.replace(IDS[0], IDS[0].upper()))
    ran = run("apply", "--yes", "rules")
    assert ran.status == 1
    assert "rules/zz.yml:1:1: error[E711]" in ran.err
    assert "is already deployed from rules/rule0.yml" in ran.err
    assert list(mock.rules) == [IDS[0]]


@pytest.mark.parametrize(
    ("words", "said_"),
    [
        ((), "needs --subscription, --resource-group, --workspace"),
        (
            ("--subscription", "x", "--resource-group", "g", "--workspace", "law-soc"),
            "cannot be the name of a subscription",
        ),
        ((*TARGET[:3], "../..", *TARGET[4:]), "cannot be the name of a resource group"),
        ((*TARGET[:5], "law/x?y"), "cannot be the name of a workspace"),
        ((*TARGET, "--owner", "a b"), "--owner takes"),
        ((*TARGET, "--service", "https://management.azure.com.evil.example"), "E751"),
        ((*TARGET, "--service", "http://management.azure.com"), "E751"),
        ((*TARGET, "--service", "https://u:hunter2@management.azure.com"), "E751"),
    ],
)
def test_wrong_calls(run: Callable[..., Ran], tmp_path: Path, words: tuple[str, ...], said_: str) -> None:
    write(tmp_path / "rules", 0)
    ran = run("plan", "rules", target=words)
    assert (ran.status, ran.out) == (2, "")
    assert said_ in ran.err
    assert "hunter2" not in ran.err


def test_a_list_that_leads_elsewhere_is_not_followed(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "rules", number)
    run("apply", "--yes", "rules")
    mock.elsewhere = "https://evil.example"
    ran = run("plan", "rules")
    assert ran.status == 2
    assert "error[E753]: the next page of the list is said to be on another host" in ran.err


class Credential:
    """Gives a token, or says too much."""

    def __init__(self, failure: str = "") -> None:
        self.failure = failure

    def get_token(self, *scopes: str, **options: Any) -> Any:
        from azure.core.credentials import AccessToken
        from azure.core.exceptions import ClientAuthenticationError

        if self.failure:
            raise ClientAuthenticationError(self.failure)
        return AccessToken("s3cret-token", 4_102_444_800)


def test_a_local_service_gets_no_token(mock: Mock, run: Callable[..., Ran], tmp_path: Path) -> None:
    with Client(mock.url, (), Credential()) as client:
        list(deploy.Sentinel(SUBSCRIPTION, "rg-soc_(prod)", "law-soc", client).read())
    assert not any("Authorization" in headers for _, _, headers in mock.asked)


def test_signing_in_fails_without_a_secret_in_the_message() -> None:
    pytest.importorskip("azure.core", reason="pip install 'sigma2kql[azure]'")
    told = "bad: client_secret=hunter2&x Bearer hunter3 eyJ0eXAiOiJKV1Qi.hunter4.x https://u:hunter5@proxy"
    client = Client("https://graph.microsoft.com", {"https://graph.microsoft.com"}, Credential(told))
    with client, pytest.raises(Sigma2KqlError) as caught:
        list(deploy.Defender(client).read())
    assert caught.value.diagnostics[0].code == "E752"
    assert "hunter" not in str(caught.value)
    assert "bad: ***" in str(caught.value)
    assert "hunter" not in said(400, {"error": {"code": "x", "message": told}}) + discreet(told)


def test_the_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.core", None)
    with (
        pytest.raises(Sigma2KqlError) as caught,
        Client("https://graph.microsoft.com", {"https://graph.microsoft.com"}),
    ):
        pass
    assert caught.value.diagnostics[0].code == "E750"
    assert caught.value.diagnostics[0].hint == "pip install 'sigma2kql[azure]'"


def test_every_code_is_in_the_catalogue() -> None:
    folder = Path(deploy.__file__).parent
    texts = [path.read_text() for path in (*folder.glob("*.py"), folder.parent / "cli" / "deploy.py")]
    codes = set(re.findall(r'"(E7[5-9]\d)"', "".join(texts)))
    assert codes == {f"E75{n}" for n in range(9)}
    assert codes <= set(CATALOGUE)


# --------------------------------------------------------------------------------------------------------------------


def alert(**changed: Any) -> AlertRule:
    values: dict[str, Any] = {
        "id": IDS[0], "name": "A rule", "description": "d", "severity": "High", "query": "SecurityEvent\n",
        "schedule": Schedule(3600, 3600),
    }  # fmt: skip
    return AlertRule(**{**values, **changed})


def sentinel(mock: Mock) -> deploy.Sentinel:
    return deploy.Sentinel(SUBSCRIPTION, "rg-soc_(prod)", "law-soc", Client(mock.url, (), pause=0))
