"""Azure Data Explorer and Eventhouse (any Kusto endpoint) through azure-kusto-data.

Place in the flow: an engine; a finished query goes in, rows come out. Invariant: tokens come from azure-identity's
default chain and go to hosts that the SDK trusts; an endpoint on this machine gets none.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any

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


class Kusto:
    """A database of a cluster, connected between `__enter__` and `__exit__`."""

    def __init__(self, cluster: str, database: str, seconds: float = 240, credential: Any = None) -> None:
        """`seconds` bounds one query; `credential` replaces the default chain. Raises E671 for a bad address."""
        self._url, self._local = endpoint(cluster)
        self._database = database
        self._seconds = seconds
        self._credential = credential
        self._open = ExitStack()
        self._client: Any = None

    def __enter__(self) -> Kusto:
        """Raises E670 where the extra is missing."""
        try:
            from azure.kusto.data import KustoClient, KustoConnectionStringBuilder
        except ImportError:
            raise extra_missing("azure-kusto-data") from None
        if self._local:
            connection = KustoConnectionStringBuilder.with_no_authentication(self._url)
        else:
            credential = self._credential or self._open.enter_context(default_credential())
            connection = KustoConnectionStringBuilder.with_azure_token_credential(self._url, credential)
        self._client = self._open.enter_context(KustoClient(connection))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(self, kql: str, span: TimeRange | None = None, limit: int = 10_000, time: str = "TimeGenerated") -> Rows:
        """See `RemoteEngine.run`. The range is given as the request's datetime scope, which Kusto applies to tables.

        https://learn.microsoft.com/kusto/api/rest/request-properties
        """
        from azure.core.exceptions import ClientAuthenticationError
        from azure.kusto.data import ClientRequestProperties
        from azure.kusto.data.exceptions import KustoAuthenticationError, KustoError
        from requests import RequestException

        properties: Any = ClientRequestProperties()  # type: ignore[no-untyped-call]
        properties.set_option(ClientRequestProperties.request_timeout_option_name, timedelta(seconds=self._seconds))
        properties.set_option("request_readonly", True)
        if span is not None:
            properties.set_option("query_datetimescope_from", span.start.isoformat())
            properties.set_option("query_datetimescope_to", span.end.isoformat())
            properties.set_option("query_datetimescope_column", time)
        try:
            answer = self._client.execute_query(self._database, limited(kql, limit), properties)
            table = answer.primary_results[0]
            columns = {column.column_name: column.column_type for column in table.columns}
            rows = [tuple(row) for row in table]
            partial = "; ".join(map(str, answer.get_exceptions())) if answer.errors_count else None
        except (KustoAuthenticationError, ClientAuthenticationError) as error:
            raise not_signed_in(error) from None
        except (KustoError, RequestException, LookupError, ValueError) as error:
            raise refused(error) from None
        return cut(columns, rows, limit, partial)
