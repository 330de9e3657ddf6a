"""Microsoft Sentinel's workspace (Log Analytics) through azure-monitor-query.

Place in the flow: an engine; a finished query goes in, rows come out. Invariant: tokens come from azure-identity's
default chain and leave this machine over https only; a service on this machine gets a token that is worth nothing.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from sigma2kql.diagnostics.diagnostic import fail
from sigma2kql.engines.remote import (
    Rows,
    TimeRange,
    cut,
    default_credential,
    endpoint,
    extra_missing,
    limited,
    not_signed_in,
    refused,
)

SERVICE = "https://api.loganalytics.io"
# the clouds of Microsoft; a token is sent nowhere else
SERVICES = frozenset({SERVICE, "https://api.loganalytics.azure.com", "https://api.loganalytics.us"})
CHINA = "https://api.loganalytics.azure.cn"
UNAUTHORIZED = 401
LONGEST_SECONDS = 600  # of one query, by the service


class _NoToken:
    """Stands for a credential where none may be shown."""

    def get_token(self, *_scopes: str, **_options: Any) -> Any:
        from azure.core.credentials import AccessToken

        return AccessToken("none", 4_102_444_800)


class LogAnalytics:
    """A workspace by its id (not its name), connected between `__enter__` and `__exit__`."""

    def __init__(self, workspace: str, service: str = SERVICE, seconds: int = 180, credential: Any = None) -> None:
        """`seconds` bounds one query (at most 600). Raises E671 for a service that is neither Microsoft's nor local."""
        self._url, self._local = endpoint(service)
        if not self._local and self._url not in {*SERVICES, CHINA}:
            raise fail("E671", f"{self._url} is no Log Analytics service of Microsoft")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", workspace):
            raise fail("E671", "a workspace is named by its id, a GUID")
        self._workspace = workspace
        self._seconds = min(seconds, LONGEST_SECONDS)
        self._credential = credential
        self._open = ExitStack()
        self._client: Any = None

    def __enter__(self) -> LogAnalytics:
        """Raises E670 where the extra is missing."""
        try:
            from azure.monitor.query import LogsQueryClient
        except ImportError:
            raise extra_missing("azure-monitor-query") from None
        if self._local:
            credential: Any = _NoToken()
        else:
            credential = self._credential or self._open.enter_context(default_credential())
        self._client = self._open.enter_context(LogsQueryClient(credential, endpoint=self._url))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(
        self,
        kql: str,
        span: TimeRange | None = None,
        limit: int = 10_000,
        time: str = "TimeGenerated",  # noqa: ARG002
    ) -> Rows:
        """See `RemoteEngine.run`. The service applies the range to TimeGenerated, whatever `time` says."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.monitor.query import LogsQueryStatus

        try:
            answer = self._client.query_workspace(
                self._workspace,
                limited(kql, limit),
                timespan=None if span is None else (span.start, span.end),
                server_timeout=self._seconds,
                enforce_https=not self._local,
            )
        except (AzureError, ValueError) as error:
            # the SDK wraps what the credential raises
            unknown = isinstance(error.__context__, ClientAuthenticationError)
            if unknown or getattr(error, "status_code", None) == UNAUTHORIZED:
                raise not_signed_in(error) from None
            raise refused(error) from None
        partial = None
        tables = answer.tables if answer.status == LogsQueryStatus.SUCCESS else answer.partial_data
        if answer.status != LogsQueryStatus.SUCCESS:
            partial = str(answer.partial_error)
        if not tables:
            return cut({}, [], limit, partial)
        columns = dict(zip(tables[0].columns, tables[0].columns_types, strict=True))
        dynamic = [index for index, kind in enumerate(columns.values()) if kind == "dynamic"]
        return cut(columns, [_row(row, dynamic) for row in tables[0].rows], limit, partial)


def _row(row: Any, dynamic: list[int]) -> tuple[Any, ...]:
    """The values of a row; dynamic ones, which the service sends as text, decoded."""
    values = list(row)
    for index in dynamic:
        if isinstance(values[index], str):
            try:
                values[index] = json.loads(values[index])
            except (ValueError, RecursionError):
                continue
    return tuple(values)
