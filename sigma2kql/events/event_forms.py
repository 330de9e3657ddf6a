"""What an event looks like, and its fields under the names that Sigma rules use.

Place in the flow: between the readers of event files and whatever judges events. Invariant: nothing of an event is
lost; where two names meet, the value that stands under the name in the log's own data wins over a derived one.

Forms: Windows events in any of the layouts that `windows_carriers` knows; rows of Log Analytics tables (exports of
WindowsEvent, Event, SecurityEvent and others), of Defender XDR tables and of ASIM parsers; anything else is taken to
have Sigma's field names already.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.events.windows_carriers import Unusable, carried, has_sections, is_flat, is_windows
from sigma2kql.events.windows_event import WindowsRecord, add_data, from_sections, generic_fields, number, text


class EventForm(Enum):
    """SIGMA_FIELDS: Sigma's names. WINDOWS_RAW: a Windows event with its sections. TABLE_ROW: columns of a table."""

    SIGMA_FIELDS = "sigma fields"
    WINDOWS_RAW = "windows raw"
    TABLE_ROW = "table row"


@frozen
class Recognised:
    """The form of an event, and for a table row the name of the table where the row tells it."""

    form: EventForm
    table: str | None = None


# ActionType prefixes of Defender XDR rows whose table is not named, in order; every other one is of DeviceEvents
ACTION_TABLES = (
    (("ProcessCreated", "OpenProcess"), "DeviceProcessEvents"),
    (("FileCreated", "FileDeleted", "FileModified", "FileRenamed"), "DeviceFileEvents"),
    (("Registry",), "DeviceRegistryEvents"),
    (("ImageLoaded",), "DeviceImageLoadEvents"),
    (("Logon",), "DeviceLogonEvents"),
    (("Connection", "InboundConnection", "ListeningConnection", "DnsConnection"), "DeviceNetworkEvents"),
)
# value of EventSchema -> the ASIM parser function whose rows have it, where it is not im<EventSchema>
ASIM_FUNCTIONS = {"ProcessEvent": "imProcessCreate", "RegistryEvent": "imRegistry"}
# tables of Windows events: their columns under Sigma's names
SYSTEM_COLUMNS = {
    "Event": {
        "EventLog": "Channel",
        "Source": "Provider_Name",
        "UserName": "Security_UserName",
        "EventCategory": "Task",
    },
    "WindowsEvent": {
        "Provider": "Provider_Name",
        "EventRecordId": "EventRecordID",
        "SystemUserId": "Security_UserID",
        "SystemProcessId": "Execution_ProcessID",
        "SystemThreadId": "Execution_ThreadID",
    },
    "SecurityEvent": {"EventSourceName": "Provider_Name", "EventRecordId": "EventRecordID"},
}


def recognise(data: Mapping[str, Any]) -> Recognised:
    """Which of the known forms an event has. Whatever is in none of them is taken to carry Sigma's field names."""
    table = _table(data)
    if table is not None:
        return Recognised(EventForm.TABLE_ROW, table)
    if is_windows(data) and not is_flat(data):
        return Recognised(EventForm.WINDOWS_RAW)
    return Recognised(EventForm.SIGMA_FIELDS)


def _table(data: Mapping[str, Any]) -> str | None:
    if "Event" in data or "winlog" in data:  # by far the most: spare them the looks that follow
        return None
    schema, kind, action = (data.get(key) for key in ("EventSchema", "Type", "ActionType"))
    if isinstance(schema, str) and schema and "EventProduct" in data:
        return ASIM_FUNCTIONS.get(schema, f"im{schema}")
    if isinstance(kind, str) and kind.isidentifier() and ("TimeGenerated" in data or "Timestamp" in data):
        return kind
    if isinstance(action, str) and ("DeviceId" in data or "DeviceName" in data):
        return next((table for starts, table in ACTION_TABLES if action.startswith(starts)), "DeviceEvents")
    if "TimeGenerated" in data and "EventID" in data:
        if "EventLog" in data:
            return "Event"
        if "Provider" in data and "EventData" in data:
            return "WindowsEvent"
        if "Activity" in data or "EventSourceName" in data:
            return "SecurityEvent"
    return None


def sigma_fields(data: Mapping[str, Any], generic: bool = False) -> dict[str, Any]:
    """The event's fields by Sigma's names (specification 2.1, "Field usage").

    Windows events: System elements (`Channel`, `EventID`, `Computer`), attributes as `Element_Attribute`
    (`Provider_Name`), event data by their names, those with blanks also without them. Rows of other tables and events
    that have Sigma's names already keep their names. `generic`: a name that Sigma's generic categories and the event
    use for two things (`ProcessId` of 4688) is the category's.
    """
    known = recognise(data)
    if known.form is EventForm.WINDOWS_RAW or known.table in SYSTEM_COLUMNS:
        try:
            record = windows_record(data)
        except Unusable:  # what it says is still to be read, as far as it goes
            event = data["Event"] if has_sections(data.get("Event")) else data
            record = from_sections(event) if has_sections(event) else None
        if record is not None:
            return generic_fields(record) if generic else {**generic_fields(record), **record.fields()}
    fields = dict(data)
    for name in [name for name in fields if " " in name]:
        fields.setdefault(name.replace(" ", ""), fields[name])
    return fields


def windows_record(data: Mapping[str, Any]) -> WindowsRecord | None:
    """The Windows event in a record of any form, None where it is none. Raises Unusable, with the reason in words."""
    table = _table(data)
    if table in SYSTEM_COLUMNS:
        return _of_row(data, SYSTEM_COLUMNS[table])
    return carried(data) if table is None else None


# rows of the tables of Windows events: columns that are the event's System; every other is of its data
_SYSTEM = frozenset(
    [
        "Channel",
        "Provider_Name",
        "Computer",
        "EventID",
        "Level",
        "Task",
        "Opcode",
        "Keywords",
        "EventRecordID",
        "Security_UserID",
        "Security_UserName",
        "Execution_ProcessID",
        "Execution_ThreadID",
        "TimeCreated_SystemTime",
    ]
)
# columns that the agents and the service add to every row
_ADDED = frozenset(
    [
        "Type",
        "TenantId",
        "SourceSystem",
        "MG",
        "ManagementGroupName",
        "_ResourceId",
        "_SubscriptionId",
        "TimeCollected",
        "EventOriginId",
        "AzureDeploymentID",
        "Role",
        "RawEventData",
        "EventLevelName",
        "EventLevel",
        "ParameterXml",
        "RenderedDescription",
        "Activity",
        "SystemTimeCreated",
        "Data",
        "TimeGenerated",
        "EventCategory",
    ]
)


def _of_row(data: Mapping[str, Any], names: Mapping[str, str]) -> WindowsRecord:
    """A row of a table of Windows events. Empty columns are absent fields: a table has them in every row."""
    record = WindowsRecord()
    for name, value in data.items():
        if value is None or value == "" or name == "EventData":
            continue
        own = names.get(name, name)
        if own in _SYSTEM:
            record.system[own] = number(value) if own in ("EventID", "EventRecordID", "Task") else value
        elif name not in _ADDED:
            record.data[own] = value if isinstance(value, dict | list) else text(value)
    system = record.system
    for name, wanted in (("EventLevel", "Level"), ("TimeGenerated", "TimeCreated_SystemTime")):
        if data.get(name) not in (None, ""):
            system.setdefault(wanted, data[name])
    add_data(record, data.get("EventData"))
    message = data.get("RenderedDescription")
    record.message = message if isinstance(message, str) else ""
    return record
