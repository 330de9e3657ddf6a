"""What the engines over the network share: the rows they give, the range they ask for, and which addresses they accept.

Place in the flow: below `kusto` and `loganalytics`. Invariant: nothing secret passes through here; a token leaves this
machine over https only, and plain http reaches this machine only.
"""

from __future__ import annotations

import re
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic, fail, frozen

MESSAGE_CHARS = 500


@frozen
class TimeRange:
    """From `start` (included) to `end` (excluded); both know their time zone."""

    start: datetime
    end: datetime


@frozen
class Rows:
    """A result: column -> KQL type in order, the rows in that order, and what is to be said about its completeness."""

    columns: dict[str, str]
    rows: list[tuple[Any, ...]]
    notices: tuple[Diagnostic, ...] = ()


class RemoteEngine(Protocol):
    """Runs KQL where the data is; used as a context manager, by several threads at once where wanted."""

    def __enter__(self) -> RemoteEngine: ...
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...
    def run(self, kql: str, span: TimeRange | None = None, limit: int = 10_000, time: str = "TimeGenerated") -> Rows:
        """At most `limit` rows of the query over the rows whose column `time` lies in the range.

        Notices: W673 (partial result), W674 (there are more rows). Raises Sigma2KqlError with E672 or E673.
        """


def endpoint(url: str) -> tuple[str, bool]:
    """The address in normal form, and whether it is plain http on this machine.

    Raises E671 for anything else than https://host[:port][/path] or http on a loopback address; credentials, queries
    and separators of connection strings are refused.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise _unacceptable(url) from None
    if "@" in parts.netloc or parts.query or parts.fragment or not re.fullmatch(r"[A-Za-z0-9:/.\[\]_-]+", url):
        raise _unacceptable(url)
    local = parts.scheme == "http" and _is_loopback(host)
    if not host or not (local or parts.scheme == "https"):
        raise _unacceptable(url)
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}", local


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unacceptable(url: str) -> Sigma2KqlError:
    shown = re.sub(r"//[^/@]*@", "//***@", url.partition("?")[0].partition(";")[0])[:100]
    return fail("E671", f"`{shown}` is no https address of a service (http only on a loopback host)")


def limited(kql: str, limit: int) -> str:
    """The query cut to one row more than the limit, so that a cut shows. A query that draws is left as it is."""
    if re.search(r"\|\s*render\b[^|]*$", kql):
        return kql
    return f"{kql.rstrip().rstrip(';')}\n| take {limit + 1}"


def cut(columns: dict[str, str], rows: list[tuple[Any, ...]], limit: int, partial: str | None) -> Rows:
    """The rows up to the limit, with the notices that belong to them."""
    notices = []
    if partial is not None:
        notices.append(diagnostic("W673", f"the result is partial: {shorten(partial)}"))
    if len(rows) > limit:
        notices.append(diagnostic("W674", f"only the first {limit} rows are shown"))
    return Rows(columns, rows[:limit], tuple(notices))


def shorten(message: object) -> str:
    """A service's message on one line, without control characters."""
    text = " ".join("".join(char if char.isprintable() else " " for char in str(message)).split())
    return text if len(text) <= MESSAGE_CHARS else text[: MESSAGE_CHARS - 3] + "..."


def default_credential() -> Any:
    """The default chain of azure-identity. Raises E670 where the extra is missing."""
    try:
        from azure.identity import DefaultAzureCredential
    except ImportError:
        raise extra_missing("azure-identity") from None
    return DefaultAzureCredential()


def extra_missing(package: str) -> Sigma2KqlError:
    return fail("E670", f"{package} is not installed", hint="pip install 'sigma2kql[azure]'")


def refused(error: BaseException) -> Sigma2KqlError:
    """E673 with the service's own words."""
    return fail("E673", f"the query failed: {shorten(error)}")


def not_signed_in(error: BaseException) -> Sigma2KqlError:
    return fail("E672", f"signing in failed: {shorten(error)}", hint="az login, or the variables of azure-identity")
