"""Engines over the network, over loopback: a real Kusto endpoint, a Log Analytics shim, and what must never happen."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.engines.kusto import Kusto
from sigma2kql.engines.loganalytics import LogAnalytics
from sigma2kql.engines.remote import TimeRange, endpoint, limited, shorten

DAY = TimeRange(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
SEED = """
CREATE TABLE Events(TimeGenerated TIMESTAMP, Computer VARCHAR NOT NULL, Port INTEGER, Extra JSON);
INSERT INTO Events
SELECT TIMESTAMP '2026-01-01' + i * INTERVAL 1 HOUR, 'host' || i, i, '{"k":' || i || '}' FROM range(50) t(i);
"""


class Credential:
    """Counts who asks for a token."""

    def __init__(self) -> None:
        self.asked = 0

    def get_token(self, *scopes: str, **options: Any) -> Any:
        from azure.core.credentials import AccessToken

        self.asked += 1
        return AccessToken("s3cret-token", 4_102_444_800)

    def __enter__(self) -> Credential:
        return self

    def __exit__(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("azure.kusto.data", reason="pip install 'sigma2kql[azure]'")
    command = shutil.which("duckdb-kql", path=str(Path(sys.executable).parent)) or shutil.which("duckdb-kql")
    if command is None:
        pytest.skip("duckdb-kql is not installed (pip install 'sigma2kql[test]')")
    seed = tmp_path_factory.mktemp("kusto") / "seed.sql"
    seed.write_text(SEED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [command, "serve", "--init", str(seed), "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "the endpoint ended"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def shim() -> Iterator[Callable[..., tuple[str, list[dict[str, Any]]]]]:
    """A service on this machine that gives one answer and keeps what it was asked."""
    servers = []

    def start(answer: object, status: int = 200) -> tuple[str, list[dict[str, Any]]]:
        asked: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked.append({"path": self.path, "headers": dict(self.headers), "body": json.loads(body)})
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}", asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def code(caught: pytest.ExceptionInfo[Sigma2KqlError]) -> str:
    return caught.value.diagnostics[0].code


# --------------------------------------------------------------------------------------------------------------------
# Kusto


def test_kusto_gives_typed_rows(cluster: str) -> None:
    with Kusto(cluster, "memory") as engine:
        result = engine.run("Events | where Port == 7 | project TimeGenerated, Computer, Port, Extra")
    assert result.columns == {"TimeGenerated": "datetime", "Computer": "string", "Port": "int", "Extra": "dynamic"}
    assert result.rows == [(datetime(2026, 1, 1, 7, tzinfo=UTC), "host7", 7, {"k": 7})]
    assert result.notices == ()


def test_kusto_cuts_at_the_row_limit_and_says_so(cluster: str) -> None:
    with Kusto(cluster, "memory") as engine:
        result = engine.run("Events // every one", limit=10)
        exact = engine.run("Events", limit=50)
    assert (len(result.rows), [notice.code for notice in result.notices]) == (10, ["W674"])
    assert (len(exact.rows), exact.notices) == (50, ())


@pytest.mark.parametrize("kql", ["Events | where", "Nowhere | take 1"])
def test_kusto_reports_what_the_service_refuses(cluster: str, kql: str) -> None:
    with Kusto(cluster, "memory") as engine, pytest.raises(Sigma2KqlError) as caught:
        engine.run(kql)
    assert code(caught) == "E673"


def test_kusto_that_nobody_serves_is_an_error_and_not_a_traceback() -> None:
    pytest.importorskip("azure.kusto.data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with Kusto(url, "memory") as engine, pytest.raises(Sigma2KqlError) as caught:
        engine.run("Events")
    assert code(caught) == "E673"


def v2(rows: list[Any], *, errors: bool = False) -> list[Any]:
    status = {"ClientRequestId": "x", "ActivityId": "y", "SubActivityId": "z", "ParentActivityId": "w"}
    table = {
        "FrameType": "DataTable",
        "TableId": 1,
        "TableKind": "PrimaryResult",
        "TableName": "PrimaryResult",
        "Columns": [{"ColumnName": "a", "ColumnType": "long"}],
        "Rows": rows,
    }
    completion = {
        "FrameType": "DataTable",
        "TableId": 2,
        "TableKind": "QueryCompletionInformation",
        "TableName": "QueryCompletionInformation",
        "Columns": [
            {"ColumnName": name, "ColumnType": "string"}
            for name in ("ClientRequestId", "Payload", "LevelName", "Level")
        ],
        "Rows": [[status["ClientRequestId"], '{"Text":"ran out of memory"}', "Error", 2]] if errors else [],
    }
    return [{"FrameType": "DataSetHeader"}, table, completion, {"FrameType": "DataSetCompletion", "HasErrors": False}]


def test_kusto_gives_the_rows_of_a_partial_result_and_says_so(shim: Any) -> None:
    pytest.importorskip("azure.kusto.data")
    url, _ = shim(v2([[1], [2]], errors=True))
    with Kusto(url, "memory") as engine:
        result = engine.run("T")
    assert result.rows == [(1,), (2,)]
    [notice] = result.notices
    assert notice.code == "W673"
    assert "ran out of memory" in notice.message


def test_kusto_is_asked_for_the_time_range_and_told_not_to_write(shim: Any) -> None:
    pytest.importorskip("azure.kusto.data")
    url, asked = shim(v2([]))
    with Kusto(url, "hunting") as engine:
        engine.run("T", DAY, 5, "Timestamp")
    assert (asked[0]["body"]["db"], asked[0]["body"]["csl"]) == ("hunting", "T\n| take 6")
    options = json.loads(asked[0]["body"]["properties"])["Options"]
    assert options["query_datetimescope_from"] == "2026-01-01T00:00:00+00:00"
    assert options["query_datetimescope_to"] == "2026-01-02T00:00:00+00:00"
    assert options["query_datetimescope_column"] == "Timestamp"
    assert options["request_readonly"] is True


def test_kusto_shows_no_token_to_this_machine(shim: Any) -> None:
    pytest.importorskip("azure.kusto.data")
    url, asked = shim(v2([]))
    credential = Credential()
    with Kusto(url, "hunting", credential=credential) as engine:
        engine.run("T")
    assert credential.asked == 0
    assert "Authorization" not in asked[0]["headers"]


# --------------------------------------------------------------------------------------------------------------------
# Log Analytics

TABLE = {
    "name": "PrimaryResult",
    "columns": [
        {"name": "TimeGenerated", "type": "datetime"},
        {"name": "Computer", "type": "string"},
        {"name": "EventData", "type": "dynamic"},
    ],
    "rows": [["2026-01-01T07:00:00Z", "host7", '{"Image":"a"}'], ["2026-01-01T08:00:00Z", "", None]],
}


def test_loganalytics_gives_typed_rows(shim: Any) -> None:
    pytest.importorskip("azure.monitor.query")
    url, asked = shim({"tables": [TABLE]})
    with LogAnalytics("11111111-2222-3333-4444-555555555555", url) as engine:
        result = engine.run("WindowsEvent", DAY, 100)
    assert result.columns == {"TimeGenerated": "datetime", "Computer": "string", "EventData": "dynamic"}
    assert result.rows == [
        (datetime(2026, 1, 1, 7, tzinfo=UTC), "host7", {"Image": "a"}),
        (datetime(2026, 1, 1, 8, tzinfo=UTC), "", None),
    ]
    assert asked[0]["path"] == "/v1/workspaces/11111111-2222-3333-4444-555555555555/query"
    assert asked[0]["body"]["query"] == "WindowsEvent\n| take 101"
    assert asked[0]["body"]["timespan"] == "2026-01-01T00:00:00.000Z/2026-01-02T00:00:00.000Z"


def test_loganalytics_cuts_at_the_row_limit_and_says_so(shim: Any) -> None:
    pytest.importorskip("azure.monitor.query")
    url, _ = shim({"tables": [TABLE]})
    with LogAnalytics("w", url) as engine:
        result = engine.run("T", limit=1)
    assert (len(result.rows), [notice.code for notice in result.notices]) == (1, ["W674"])


def test_loganalytics_gives_the_rows_of_a_partial_result_and_says_so(shim: Any) -> None:
    pytest.importorskip("azure.monitor.query")
    url, _ = shim({"tables": [TABLE], "error": {"code": "PartialError", "message": "took too long"}})
    with LogAnalytics("w", url) as engine:
        result = engine.run("T")
    assert (len(result.rows), [notice.code for notice in result.notices]) == (2, ["W673"])


@pytest.mark.parametrize(("status", "expected"), [(400, "E673"), (403, "E673"), (401, "E672")])
def test_loganalytics_reports_what_the_service_refuses(shim: Any, status: int, expected: str) -> None:
    pytest.importorskip("azure.monitor.query")
    url, _ = shim({"error": {"code": "BadArgumentError", "message": "no such column"}}, status)
    with LogAnalytics("w", url) as engine, pytest.raises(Sigma2KqlError) as caught:
        engine.run("T")
    assert code(caught) == expected


def test_loganalytics_shows_no_token_to_this_machine(shim: Any, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("azure.monitor.query")
    url, asked = shim({"tables": [TABLE]})
    credential = Credential()
    with caplog.at_level(logging.DEBUG), LogAnalytics("w", url, credential=credential) as engine:
        engine.run("T")
    assert credential.asked == 0
    assert "s3cret" not in json.dumps(asked)
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("workspace", ["../other", "a/b", "", "w?x=1", "w" * 65])
def test_a_workspace_is_an_id_only(workspace: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        LogAnalytics(workspace)
    assert code(caught) == "E671"


def test_loganalytics_is_asked_at_microsoft_only() -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        LogAnalytics("w", "https://api.loganalytics.io.example.org")
    assert code(caught) == "E671"
    LogAnalytics("w", "https://api.loganalytics.us/")


# --------------------------------------------------------------------------------------------------------------------
# Shared


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://help.kusto.windows.net", ("https://help.kusto.windows.net", False)),
        ("https://help.kusto.windows.net:443/", ("https://help.kusto.windows.net:443", False)),
        ("http://127.0.0.1:31415", ("http://127.0.0.1:31415", True)),
        ("http://localhost:1/x/", ("http://localhost:1/x", True)),
        ("http://[::1]:80", ("http://[::1]:80", True)),
    ],
)
def test_addresses_that_are_accepted(url: str, expected: tuple[str, bool]) -> None:
    assert endpoint(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "http://help.kusto.windows.net",
        "http://127.0.0.1.example.org",
        "http://localhost@example.org",
        "https://user:p4ss@help.kusto.windows.net",
        "https://help.kusto.windows.net;AppKey=p4ss",
        "https://help.kusto.windows.net?sig=p4ss",
        "https://",
        "https://[",
        "https://x:99999",
        "ftp://127.0.0.1",
        "help",
        "",
        "https://a\nb",
    ],
)
def test_addresses_that_are_refused_and_never_shown_with_their_secrets(url: str) -> None:
    with pytest.raises(Sigma2KqlError) as caught:
        endpoint(url)
    assert code(caught) == "E671"
    assert "p4ss" not in str(caught.value)


def test_a_limit_survives_a_comment_and_spares_a_drawing() -> None:
    assert limited("T // | take 9", 3) == "T // | take 9\n| take 4"
    assert limited("let x = 1;\nT;\n", 3) == "let x = 1;\nT\n| take 4"
    assert limited("T | summarize count() by a | render piechart", 3) == "T | summarize count() by a | render piechart"


def test_a_message_is_one_line_without_control_characters() -> None:
    assert shorten("a\x1b[31m\nb\r\n  c") == "a [31m b c"
    assert len(shorten("x" * 10_000)) == 500


@pytest.mark.parametrize("engine", [Kusto("https://help.kusto.windows.net", "d"), LogAnalytics("w")])
def test_without_the_extra_the_error_says_what_to_install(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("azure.kusto.data", "azure.monitor.query"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(Sigma2KqlError) as caught, engine:
        pass
    assert code(caught) == "E670"
    assert "sigma2kql[azure]" in caught.value.diagnostics[0].hint


def test_a_failing_sign_in_is_said_as_such() -> None:
    pytest.importorskip("azure.monitor.query")
    from azure.core.exceptions import ClientAuthenticationError

    class Refusing(Credential):
        def get_token(self, *scopes: str, **options: Any) -> Any:
            raise ClientAuthenticationError("no credential in the chain")

    with LogAnalytics("w", credential=Refusing()) as engine, pytest.raises(Sigma2KqlError) as caught:
        engine.run("T")
    assert code(caught) == "E672"
