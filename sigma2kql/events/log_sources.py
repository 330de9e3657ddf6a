"""The log source of a record that is no Windows event, by the layout in which its service writes it.

Place in the flow: beside `event_forms`. Invariant: a layout is known by names that its documentation calls mandatory;
what is not known is no log source, and said.

Layouts: AWS CloudTrail record (docs.aws.amazon.com, "CloudTrail record contents"), Azure activity log and Entra ID logs
(learn.microsoft.com, "Azure activity log event schema", "Entra sign-in log schema"), GCP LogEntry with AuditLog
(cloud.google.com, "Understanding audit logs"), Okta LogEvent (developer.okta.com, System Log), Microsoft 365 unified
audit record (learn.microsoft.com, "Office 365 Management Activity API schema"), GitHub audit log, Zeek (_path).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Source = tuple[str | None, str | None, str | None]  # category, product, service

ZEEK_PATHS = frozenset(
    [
        "conn",
        "dns",
        "http",
        "dce_rpc",
        "smb_files",
        "smb_mapping",
        "kerberos",
        "rdp",
        "x509",
        "ssl",
        "ssh",
        "files",
        "ntlm",
    ]
)


def log_source(data: Mapping[str, Any]) -> Source | None:
    """Category, product and service of a record, None where its layout is not known."""
    path = data.get("_path")
    if isinstance(path, str) and path in ZEEK_PATHS and ("uid" in data or "ts" in data):
        return None, "zeek", path
    if isinstance(data.get("SyslogMessage"), str) and "type" in data:
        return None, "linux", "auditd"
    for names, source in _BY_NAMES:
        if all(_has(data, name) for name in names):
            return source
    return None


# the names that a record must have, nested ones with a dot; the first that fits
_BY_NAMES: tuple[tuple[tuple[str, ...], Source], ...] = (
    (("eventVersion", "eventSource", "eventName", "awsRegion"), (None, "aws", "cloudtrail")),
    (("protoPayload", "logName"), (None, "gcp", "gcp.audit")),
    (("eventType", "actor", "published", "uuid"), (None, "okta", "okta")),
    (("CreationTime", "Operation", "Workload", "RecordType"), (None, "m365", "audit")),
    (("operationName", "category", "properties.userPrincipalName", "properties.appId"), (None, "azure", "signinlogs")),
    (("operationName", "category", "properties.initiatedBy"), (None, "azure", "auditlogs")),
    (("operationName", "resourceId", "correlationId", "category"), (None, "azure", "activitylogs")),
    (("@timestamp", "action", "actor", "_document_id"), (None, "github", "audit")),
)


def _has(data: Mapping[str, Any], path: str) -> bool:
    here: Any = data
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return False
        here = here[part]
    return True


# what records look like that no reader makes events of, by names that they alone have
_LOOKS = (
    (("_source", "_index"), "look like hits of Elasticsearch"),
    (("SYSLOG_IDENTIFIER", "MESSAGE"), "look like journald's export, which holds lines of text"),
    (("agent", "rule", "decoder"), "look like alerts of Wazuh without the event"),
    (("event_type", "flow_id"), "look like Suricata's EVE"),
    (("Image",), "have Sigma's field names, but `EventID` and `Channel` are missing"),
    (("CommandLine",), "have Sigma's field names, but `EventID` and `Channel` are missing"),
)


def told_by(data: Mapping[str, Any]) -> str:
    """What is to be said of a record that could be placed nowhere."""
    for names, what in _LOOKS:
        if all(name in data for name in names):
            return what
    if "EventID" in data:
        return "name an `EventID`, but `Channel` or `Provider_Name` is missing"
    return "say neither their log nor their table"
