"""Microsoft's APIs: what is deployed, and one call a change. Also the same from an exported list, without a network.

Place in the flow: between a plan and the world. Invariant: a token leaves this machine over https to a known host of
Microsoft only; nothing that was sent or signed is part of a message.

Sources: Microsoft Sentinel REST (Alert Rules: list, create or update, delete), Log Analytics REST (Saved Searches),
Microsoft Graph (security/rules/detectionRules), and their pages on throttling (429 with Retry-After).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urljoin, urlsplit

from sigma2kql import __version__
from sigma2kql.artifacts.languages import map_texts
from sigma2kql.artifacts.resources import RULE_VERSION, SEARCH_VERSION
from sigma2kql.deploy.plan import compare
from sigma2kql.deploy.wanted import Collection, Found, Wanted, found
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, fail
from sigma2kql.engines.remote import default_credential, endpoint, shorten
from sigma2kql.system.bounded_files import read_text
from sigma2kql.text.exported import NAME, arm_plain

SENTINEL = "https://management.azure.com"
SENTINELS = frozenset((SENTINEL, "https://management.usgovcloudapi.net", "https://management.chinacloudapi.cn"))
GRAPH = "https://graph.microsoft.com"
GRAPH_VERSION = "beta"  # the current body is documented there first
PAGES = 1000  # of one list
LONGEST_WAIT = 120  # seconds that a Retry-After may ask for before the call is given up
DEADLINE = 600  # seconds of one call, its retries and waits included
CREATIONS = 4  # times that a custom detection is sent whose making the service did not confirm
MOST_STATE = 200_000_000  # bytes of an exported list
Answer = TypeVar("Answer")
_SECRET = re.compile(
    r"(?i)bearer\s+\S+|eyJ[\w-]{8,}(?:\.[\w-]*)*|(?<=//)[^/@\s]+@|(?:client_secret|password|sig)=[^&\s]+"
)
_MISSING, _TIMED_OUT = 404, 408
_CONFLICTS = (409, 412)
_REPEATABLE = frozenset(("GET", "PUT", "PATCH", "DELETE"))  # of each, the second time changes nothing more
_BUSY, _PASSING = 429, frozenset((408, 500, 502, 503, 504))  # not carried out; perhaps carried out


class Service(Protocol):
    """A place that rules are deployed to; used as a context manager."""

    def __enter__(self) -> Service: ...
    def __exit__(self, kind: Any, error: Any, trace: Any) -> None: ...
    def read(self) -> Iterable[Found]:
        """Everything that is there. Raises Sigma2KqlError (E752, E753)."""

    def put(self, wanted: Wanted, there: Found | None) -> None:
        """Create, or change from `there`. Raises Sigma2KqlError (E752, E754, E758)."""

    def delete(self, there: Found) -> None:
        """Delete; what is gone already is no error. Raises Sigma2KqlError (E752, E754, E758)."""


class Client:
    """azure-core's pipeline for one address: sign-in, retries with back-off, JSON in and out, a deadline a call."""

    def __init__(
        self, url: str, known: Iterable[str], credential: Any = None, pause: float = 0.8, deadline: float = DEADLINE
    ) -> None:
        """`pause`: the first back-off, `deadline`: of one call with all its tries, both in seconds.

        Raises E751 for an address that is neither known nor local.
        """
        try:
            self.url, self._local = endpoint(url)
        except Sigma2KqlError as error:
            raise fail("E751", error.diagnostics[0].message) from None
        if not self._local and self.url not in known:
            raise fail("E751", f"{self.url} is no such service of Microsoft", hint=f"known: {', '.join(sorted(known))}")
        self._credential = credential
        self._pause = pause
        self._deadline = deadline
        self._open = ExitStack()
        self._client: Any = None
        self._retries: Any = None

    def __enter__(self) -> Client:
        """Raises E750 where the extra is missing."""
        try:
            from azure.core import PipelineClient
            from azure.core.pipeline import policies
            from azure.core.pipeline.transport import RequestsTransport
        except ImportError:
            raise fail("E750", "azure-identity is not installed", hint="pip install 'sigma2kql[azure]'") from None
        _silence()
        self._retries = _retry_policy(self._pause, self._deadline)
        chain: list[Any] = [
            policies.RequestIdPolicy(),
            policies.UserAgentPolicy(base_user_agent=f"sigma2kql/{__version__}"),
            self._retries,
        ]
        if not self._local:  # a service on this machine gets no token
            try:
                credential = self._credential or self._open.enter_context(default_credential())
            except Sigma2KqlError as error:
                raise fail("E750", error.diagnostics[0].message, hint=error.diagnostics[0].hint) from None
            chain.append(policies.BearerTokenCredentialPolicy(credential, f"{self.url}/.default"))
        transport = RequestsTransport(connection_timeout=30, read_timeout=120, use_env_settings=not self._local)
        self._client = self._open.enter_context(PipelineClient(self.url, policies=chain, transport=transport))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._open.__exit__(kind, error, trace)

    def call(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON (None where there is none). Raises E752 where signing in fails, E753 without an answer."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        request = HttpRequest(method, urljoin(self.url, url), json=body)

        def ask() -> tuple[int, str]:
            answer = self._client.send_request(request, retry_on_methods=_REPEATABLE)
            return answer.status_code, answer.text()

        try:
            status, text = within(self._deadline, ask)
        except ClientAuthenticationError as error:
            hint = "az login, or the variables of azure-identity"
            raise fail("E752", f"signing in failed: {discreet(error)}", hint=hint) from None
        except (AzureError, ValueError, TimeoutError) as error:
            raise fail("E753", f"{urlsplit(self.url).netloc} gave no answer: {discreet(error)}") from None
        try:
            return status, json.loads(text) if text else None
        except (ValueError, RecursionError):
            return status, None

    def wait(self, tries: int) -> None:
        """The pause before a try that is not the pipeline's to make: what the last answer asked for, or a back-off."""
        sleep(min(self._retries.asked or self._pause * 2**tries, LONGEST_WAIT))

    def pages(self, url: str) -> Iterator[Mapping[str, Any]]:
        """Every item of a list that is given in pages. Raises E753; a next page elsewhere is not asked for."""
        seen: set[str] = set()
        while url:
            status, answer = self.call("GET", url)
            if status != 200 or not isinstance(answer, Mapping) or not isinstance(answer.get("value"), list):
                raise fail("E753", f"what is deployed cannot be read: {said(status, answer)}", hint=_advice(status))
            yield from (item for item in answer["value"] if isinstance(item, Mapping))
            seen.add(url)
            url = str(answer.get("nextLink") or answer.get("@odata.nextLink") or "")
            following = urlsplit(urljoin(self.url, url))
            if url and f"{following.scheme}://{following.netloc}" != _origin(self.url):
                raise fail("E753", "the next page of the list is said to be on another host")
            if url in seen or len(seen) >= PAGES:
                raise fail("E753", "the list of what is deployed has no end")

    def change(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> None:
        """A call that is to succeed. Raises E758 for what was changed meanwhile, else E754 with the service's words."""
        self.judge(method, *self.call(method, url, body))

    @staticmethod
    def judge(method: str, status: int, answer: object) -> None:
        """Raises as `change` where the answer is a refusal."""
        if status in _CONFLICTS:
            raise fail("E758", f"it was changed or created meanwhile: {said(status, answer)}", hint="plan again")
        if not 200 <= status < 300 and not (method == "DELETE" and status == _MISSING):
            raise fail("E754", f"the service refused it: {said(status, answer)}", hint=_advice(status))


class Sentinel:
    """Analytics rules and saved searches of one workspace that Microsoft Sentinel is enabled on."""

    def __init__(self, subscription: str, group: str, workspace: str, client: Client) -> None:
        """Raises E751 for a subscription, group or workspace that cannot be one."""
        for what, value, form in (
            ("subscription", subscription, r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
            ("resource group", group, r"[\w.()-]{0,89}[\w()-]"),
            ("workspace", workspace, r"[A-Za-z0-9][A-Za-z0-9-]{2,61}[A-Za-z0-9]"),
        ):
            if not re.fullmatch(form, value):
                raise fail("E751", f"{value[:100]!r} cannot be the name of a {what}")
        group = quote(group)
        self._client = client
        self._base = (
            f"/subscriptions/{subscription}/resourceGroups/{group}"
            f"/providers/Microsoft.OperationalInsights/workspaces/{workspace}"
        )

    def __enter__(self) -> Sentinel:
        self._client.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._client.__exit__(kind, error, trace)

    def _url(self, collection: Collection, name: str = "") -> str:
        provider = "/providers/Microsoft.SecurityInsights" if collection == "alertRules" else ""
        version = RULE_VERSION if collection == "alertRules" else SEARCH_VERSION
        tail = f"/{quote(name, safe='')}" if name else ""
        return f"{self._base}{provider}/{collection}{tail}?{urlencode({'api-version': version})}"

    def read(self) -> Iterator[Found]:
        collections: tuple[Collection, ...] = ("alertRules", "savedSearches")
        for collection in collections:
            yield from (found(collection, item) for item in self._client.pages(self._url(collection)))

    def put(self, wanted: Wanted, there: Found | None) -> None:
        # the service refuses to replace a saved search without an etag, and a rule whose etag is old
        etag = None if there is None else there.etag or ("*" if wanted.collection == "savedSearches" else None)
        body = {**wanted.body, **({"etag": etag} if etag else {})}
        url = self._url(wanted.collection, wanted.name)
        try:
            self._client.change("PUT", url, body)
        except Sigma2KqlError as error:
            # the pipeline sends again after a 5xx: where the first was carried out, the second conflicts with it
            if error.diagnostics[0].code != "E758" or not self._holds(wanted, url):
                raise

    def _holds(self, wanted: Wanted, url: str) -> bool:
        status, item = self._client.call("GET", url)
        return status == 200 and isinstance(item, Mapping) and not any(compare(wanted, found(wanted.collection, item)))

    def delete(self, there: Found) -> None:
        self._client.change("DELETE", self._url(there.collection, there.name))


class Defender:
    """Custom detection rules of a tenant."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._base = f"/{GRAPH_VERSION}/security/rules/detectionRules"

    def __enter__(self) -> Defender:
        self._client.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._client.__exit__(kind, error, trace)

    def read(self) -> Iterator[Found]:
        return (found("detectionRules", item) for item in self._client.pages(self._base))

    def put(self, wanted: Wanted, there: Found | None) -> None:
        if there is None:
            there = self._create(wanted)
            if there is None or not any(compare(wanted, there)):
                return
        body = {key: value for key, value in wanted.body.items() if key not in ("@odata.type", "id")}
        self._client.change("PATCH", self._url(there.name), body)

    def delete(self, there: Found) -> None:
        self._client.change("DELETE", self._url(there.name))

    def _url(self, name: str) -> str:
        return f"{self._base}/{quote(name, safe='')}"

    def _create(self, wanted: Wanted) -> Found | None:
        """POST, which does not replace: without a clear answer, look whether the rule was made before it is sent again.

        Gives what was made all the same (perhaps in part), None after a plain success. Raises Sigma2KqlError (E752 to
        E754, E758).
        """
        doubt = False
        for tries in range(CREATIONS):
            status, answer, lost = 0, None, None
            try:
                status, answer = self._client.call("POST", self._base, wanted.body)
            except Sigma2KqlError as error:
                if error.diagnostics[0].code != "E753":
                    raise
                lost = error
            clear = 0 < status < 500 and status != _TIMED_OUT
            if clear and (not doubt or status < 300):
                break
            doubt = True  # from now on a refusal (409) may be about what an earlier try has made
            self._client.wait(tries)
            if made := self._made(wanted):
                return made
            if clear:
                break
        if lost is not None:
            raise lost
        self._client.judge("POST", status, answer)
        return None

    def _made(self, wanted: Wanted) -> Found | None:
        """The rule, if it is there. Raises E758 where it is another's, E753 and E754 where that cannot be known."""
        status, item = self._client.call("GET", self._url(wanted.name))
        if status == _MISSING:
            return None
        self._client.judge("GET", status, item)
        if not isinstance(item, Mapping) or str(item.get("id")).lower() != wanted.name.lower():
            return None
        there, ours = found("detectionRules", item), found("detectionRules", wanted.body)
        if (there.owner, there.marked) != (ours.owner, ours.marked):
            raise fail("E758", f"{wanted.name} was created meanwhile by somebody else", hint="plan again")
        return there


# --------------------------------------------------------------------------------------------------------------------
# An exported state


def read_state(paths: Iterable[Path], defender: bool) -> Iterator[Found]:
    """What was exported: a list API's answer (an object with `value`, or the list alone) or a template. Raises E756."""
    for path in paths:
        try:
            data = json.loads(read_text(path, MOST_STATE, "utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise fail("E756", f"cannot read {path}: {shorten(error)}") from None
        if isinstance(data, Mapping) and (data.get("nextLink") or data.get("@odata.nextLink")):
            raise fail("E756", f"{path} holds only the first page of a list", hint="put the pages' values into one")
        items = _items(data)
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise fail(
                "E756",
                f"{path} is no list of rules",
                hint="an object with `value` as the list API answers, or a template",
            )
        yield from (found(_collection(item, defender), item) for item in items)


def _items(data: Any) -> Any:
    """The resources of a list answer, of a list alone, or of a template as the portal exports it."""
    if not isinstance(data, Mapping):
        return data
    rows = data.get("resources")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        return data.get("value")
    return [{**map_texts(row, arm_plain), "name": _name(str(row.get("name") or "")), "id": ""} for row in rows]


def _name(text: str) -> str:
    named = NAME.fullmatch(text)
    return named[1] if named else text


def _collection(item: Mapping[str, Any], defender: bool) -> Collection:
    if defender:
        return "detectionRules"
    named = f"{item.get('type')} {item.get('id')}".lower()  # a template's resources have their type alone
    return "savedSearches" if "savedsearches" in named else "alertRules"


# --------------------------------------------------------------------------------------------------------------------


def discreet(message: object) -> str:
    """A message on one line without anything that signs in."""
    return shorten(_SECRET.sub("***", str(message)))


def said(status: int, answer: object) -> str:
    """What a service answered: the status, and code and message of the error where it gave them."""
    error = answer.get("error") if isinstance(answer, Mapping) else None
    words = [error.get("code"), error.get("message")] if isinstance(error, Mapping) else [error]
    return discreet(": ".join([str(status), *(str(word) for word in words if word)]))


def _advice(status: int) -> str:
    if status in (401, 403):
        return "the signed-in identity needs Microsoft Sentinel Contributor, or CustomDetection.ReadWrite.All in Graph"
    return "check subscription, resource group and workspace" if status == _MISSING else ""


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _silence() -> None:
    """The SDKs log what they try; their errors are reported once, by us."""
    import logging

    logging.getLogger("azure").addHandler(logging.NullHandler())


def within(seconds: float, ask: Callable[[], Answer]) -> Answer:
    """What `ask` gives, or TimeoutError: a socket's own timeout starts anew with every byte that drips in."""
    given: list[Answer] = []
    raised: list[Exception] = []

    def work() -> None:
        try:
            given.append(ask())
        except Exception as error:  # raised again by the caller
            raised.append(error)

    thread = Thread(target=work, daemon=True)  # one that hangs does not hold the end of the program up
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    if not given:
        raise TimeoutError(f"not within {seconds:g} seconds")
    return given[0]


def _retry_policy(pause: float, deadline: float) -> Any:
    from azure.core.pipeline.policies import RetryPolicy

    class Retries(RetryPolicy[Any, Any]):
        """429 and 5xx, after what Retry-After asks for; a wait beyond reason is a failure that is told."""

        asked: float | None = None  # seconds that the last answer asked to wait

        def is_retry(self, settings: dict[str, Any], response: Any) -> bool:
            self.asked = self.get_retry_after(response)
            status, method = response.http_response.status_code, response.http_request.method
            again = status == _BUSY or (status in _PASSING and method in _REPEATABLE)
            return again and settings["total"] > 0 and (self.asked or 0) <= LONGEST_WAIT

        def get_retry_after(self, response: Any) -> float | None:
            """Seconds or an HTTP date as seconds from now (RFC 9110, 10.2.3); what is neither asks for nothing."""
            try:
                return super().get_retry_after(response)
            except (ValueError, OverflowError):
                return None

    return Retries(
        retry_total=6, retry_status=5, retry_backoff_factor=pause, retry_backoff_max=LONGEST_WAIT, timeout=deadline
    )
