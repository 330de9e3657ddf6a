"""What an event looks like, and its fields under the names that Sigma rules use.

Place in the flow: between the readers of event files and whatever judges events. Invariant: nothing of an event is
lost; where two names meet, the value that stands under the name in the log's own data wins over a derived one.

Forms: Windows events as evtx_dump and SigmaHQ write them ({"Event": {"System", "EventData" | "UserData"}}) and as
Winlogbeat does; rows of Log Analytics tables (exports of WindowsEvent, Event, SecurityEvent and others), of Defender
XDR tables and of ASIM parsers; anything else is taken to have Sigma's field names already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from sigma2kql.diagnostics.diagnostic import frozen


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
    "Event": {"EventLog": "Channel", "Source": "Provider_Name", "UserName": "Security_UserName"},
    "WindowsEvent": {"Provider": "Provider_Name", "EventRecordId": "EventRecordID", "SystemUserId": "Security_UserID"},
    "SecurityEvent": {"EventSourceName": "Provider_Name", "EventRecordId": "EventRecordID"},
}
WINLOG_SYSTEM = {
    "channel": "Channel",
    "event_id": "EventID",
    "provider_name": "Provider_Name",
    "provider_guid": "Provider_Guid",
    "computer_name": "Computer",
    "record_id": "EventRecordID",
    "opcode": "Opcode",
    "task": "Task",
    "version": "Version",
}
IDENTITY = frozenset({"EventID", "Channel", "Computer", "Provider_Name"})  # event data never hides these
XML_CHARS = 16 << 20


def recognise(data: Mapping[str, Any]) -> Recognised:
    """Which of the known forms an event has. Whatever is in none of them is taken to carry Sigma's field names."""
    bare = _has_system(data) and ("EventData" in data or "UserData" in data)
    if bare or _has_system(data.get("Event")) or _is_winlog(data):
        return Recognised(EventForm.WINDOWS_RAW)
    table = _table(data)
    return Recognised(EventForm.TABLE_ROW, table) if table is not None else Recognised(EventForm.SIGMA_FIELDS)


def _has_system(event: Any) -> bool:
    return isinstance(event, Mapping) and isinstance(event.get("System"), Mapping)


def _table(data: Mapping[str, Any]) -> str | None:
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


def sigma_fields(data: Mapping[str, Any]) -> dict[str, Any]:
    """The event's fields by Sigma's names (specification 2.1, "Field usage").

    Windows events: System elements (`Channel`, `EventID`, `Computer`), attributes as `Element_Attribute`
    (`Provider_Name`), event data by their names, those with blanks also without them. Rows of other tables and events
    that have Sigma's names already keep their names.
    """
    match recognise(data):
        case Recognised(EventForm.WINDOWS_RAW):
            fields = _winlog(data) if _is_winlog(data) else _windows(data)
        case Recognised(EventForm.TABLE_ROW, table) if table in SYSTEM_COLUMNS:
            fields = _windows_row(data, SYSTEM_COLUMNS[table])
        case _:
            fields = dict(data)
    for name in [name for name in fields if " " in name]:
        fields.setdefault(name.replace(" ", ""), fields[name])
    return fields


# --------------------------------------------------------------------------------------------------------------------
# Windows events with their sections


def _windows(data: Mapping[str, Any]) -> dict[str, Any]:
    event = data["Event"] if _has_system(data.get("Event")) else data
    fields: dict[str, Any] = {}
    for name, value in event["System"].items():
        if isinstance(value, str | int):  # by far the most, and quicker to see than that it is no mapping
            fields[name] = value
        else:
            fields.update(_element(name, value))
    _add(fields, _event_data(event.get("EventData")))
    user = event.get("UserData")
    if isinstance(user, Mapping):
        for name, value in user.items():
            _add(fields, _event_data(value) if isinstance(value, Mapping) else {name: value})
    rendering = event.get("RenderingInfo")
    if isinstance(rendering, Mapping) and "Message" in rendering:
        fields.setdefault("Message", rendering["Message"])
    return fields


def _element(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """An element of System: its text under its name, its attributes under Name_Attribute."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    attributes = value.get("#attributes")
    for key, part in {**value, **(attributes if isinstance(attributes, Mapping) else {})}.items():
        if key == "#text":
            yield name, part
        elif key != "#attributes":
            yield f"{name}_{key.lstrip('@')}", part


def _event_data(section: Any) -> dict[str, Any]:
    """The named values of EventData or of the element inside UserData; unnamed `Data` elements stay under `Data`."""
    if isinstance(section, str) and section.lstrip()[:1] == "{":
        try:
            section = json.loads(section)
        except (ValueError, RecursionError):
            return {"EventData": section}
    if isinstance(section, str) and section.lstrip()[:1] == "<":
        return _event_data_xml(section)
    if not isinstance(section, Mapping):
        return {} if section is None or section == "" else {"EventData": section}
    fields: dict[str, Any] = {}
    for name, value in section.items():
        if name in {"#attributes", "xmlns"}:
            continue
        if isinstance(value, str):
            fields[name] = value
            continue
        plain = value
        if isinstance(value, Mapping) and "#text" in value:
            plain = value["#text"]
        fields[name] = plain[0] if isinstance(plain, list) and len(plain) == 1 else plain
    return fields


def _event_data_xml(text: str) -> dict[str, Any]:
    """EventData as the table Event stores it: `<DataItem ...><EventData><Data Name="Image">...</Data>...`."""
    from xml.etree import ElementTree  # documents with a DTD, the way to a bomb, are refused

    if len(text) > XML_CHARS or "<!" in text:
        return {"EventData": text}
    try:
        root = ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError:
        return {"EventData": text}
    fields: dict[str, Any] = {}
    unnamed = []
    for element in root.iter():
        if element.tag.rpartition("}")[2] == "Data":
            if name := element.get("Name"):
                fields[name] = element.text or ""
            else:
                unnamed.append(element.text or "")
    if unnamed:
        fields["Data"] = unnamed[0] if len(unnamed) == 1 else unnamed
    return fields or {"EventData": text}


def _add(fields: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name not in IDENTITY or name not in fields:
            fields[name] = value


# --------------------------------------------------------------------------------------------------------------------
# Other carriers of Windows events


def _is_winlog(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("winlog"), Mapping) or "winlog.event_id" in data


def _winlog(data: Mapping[str, Any]) -> dict[str, Any]:
    """Winlogbeat and Elastic Agent, nested or with dotted names."""
    winlog: dict[str, Any] = {}
    nested = data.get("winlog")
    if isinstance(nested, Mapping):
        winlog.update(nested)
    for name, value in data.items():
        if name.startswith("winlog."):
            part, _, rest = name[len("winlog.") :].partition(".")
            if rest and part in {"event_data", "user_data"}:
                section = winlog.get(part)
                winlog[part] = {**(section if isinstance(section, Mapping) else {}), rest: value}
            else:
                winlog[name[len("winlog.") :]] = value
    fields = {WINLOG_SYSTEM[name]: value for name, value in winlog.items() if name in WINLOG_SYSTEM}
    if isinstance(event_id := fields.get("EventID"), str) and event_id.isdecimal():
        fields["EventID"] = int(event_id)
    for section in ("event_data", "user_data"):
        _add(fields, _event_data(winlog.get(section)))
    if "message" in data:
        fields.setdefault("Message", data["message"])
    return fields


def _windows_row(data: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row of a table of Windows events. Empty columns are absent fields: a table has them in every row."""
    row = {name: value for name, value in data.items() if value is not None and value != ""}
    fields = {names.get(name, name): value for name, value in row.items() if name != "EventData"}
    _add(fields, _event_data(row.get("EventData")))
    if "RenderedDescription" in row:
        fields.setdefault("Message", row["RenderedDescription"])
    return fields
