"""A Windows event in its parts, whatever carried it: what System says, what EventData or UserData says, kept apart.

Place in the flow: under `event_forms`, which knows the carriers, and `table_rows`, which writes the rows of tables.
Invariant: nothing of an event is lost or renamed; an element of the event's data never hides one of System, even where
both have one name (event 104 has `Channel` in both).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

# Elements of the event's data that rules mean by a name that System has too: event 104 names the log that was cleared.
OWN_NAMES = {("Microsoft-Windows-Eventlog", 104): ("Channel",)}
# System's names; data that bear one of them are asked for by rules only where System lacks it
IDENTITY = frozenset({"EventID", "Channel", "Computer", "Provider_Name"})
# Where a channel has one provider in the main, an event that names none is taken to be of it.
PROVIDERS = {
    "Microsoft-Windows-Sysmon/Operational": "Microsoft-Windows-Sysmon",
    "Security": "Microsoft-Windows-Security-Auditing",
    "Windows PowerShell": "PowerShell",
    "Microsoft-Windows-PowerShell/Operational": "Microsoft-Windows-PowerShell",
    "PowerShellCore/Operational": "PowerShellCore",
    "Microsoft-Windows-Windows Defender/Operational": "Microsoft-Windows-Windows Defender",
    "Microsoft-Windows-TaskScheduler/Operational": "Microsoft-Windows-TaskScheduler",
    "Microsoft-Windows-WMI-Activity/Operational": "Microsoft-Windows-WMI-Activity",
}
# mandatory labels (MS-DTYP 2.4.2.4) under the names that Sysmon gives them
INTEGRITY = {
    "S-1-16-0": "Untrusted",
    "S-1-16-4096": "Low",
    "S-1-16-8192": "Medium",
    "S-1-16-8448": "MediumPlus",
    "S-1-16-12288": "High",
    "S-1-16-16384": "System",
}
XML_CHARS = 16 << 20
LEVELS = {"critical": 1, "error": 2, "warning": 3, "information": 4, "verbose": 5}


@dataclass(slots=True)
class WindowsRecord:
    """`system`: elements by name, attributes as Element_Attribute, EventID a number where it is one.

    `data`: the named values of EventData or of the element in UserData, as text where they are plain. `unnamed`: the
    values of `Data` elements without a name. `wrapper`: the element in UserData, '' for EventData.
    """

    system: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    wrapper: str = ""
    message: str = ""
    line: str = ""  # the event as a line of syslog has it

    def fields(self) -> dict[str, Any]:
        """The event by Sigma's field names. A name that System and the data share is System's, but for those rules
        mean otherwise; the data's names with blanks stand also without them.
        """
        system = self.system
        fields = dict(system)
        told = system.get("EventID")
        own = OWN_NAMES.get((str(system.get("Provider_Name")), told if isinstance(told, int) else 0), ())
        fields.update({n: value for n, value in self.data.items() if n not in IDENTITY or n not in system or n in own})
        if self.unnamed:
            fields["Data"] = self.unnamed[0] if len(self.unnamed) == 1 else list(self.unnamed)
        if self.message:
            fields.setdefault("Message", self.message)
        for name in self.data:
            if " " in name:
                fields.setdefault(name.replace(" ", ""), self.data[name])
        return fields


def number(value: Any) -> Any:
    """A number that stands as text, as a number; anything else as it is."""
    if type(value) is str and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    return value


def text(value: Any) -> str:
    """A value as the event's XML has it."""
    kind = type(value)
    if kind is str:
        return value  # type: ignore[no-any-return]
    if kind is bool:
        return "true" if value else "false"
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if kind in (dict, list) else str(value)


# --------------------------------------------------------------------------------------------------------------------
# The event's own sections: {"System": .., "EventData" | "UserData": ..}


def from_sections(event: Mapping[str, Any]) -> WindowsRecord:
    """An event as evtx_dump, Chainsaw, Velociraptor or an XML converter writes it."""
    record = WindowsRecord()
    system = record.system
    for name, value in event["System"].items():
        if type(value) in (str, int):  # by far the most
            system[name] = value
        else:
            system.update(_element(name, value))
    _settle(system)
    if (section := event.get("EventData")) is not None:
        add_data(record, section)
    user = event.get("UserData")
    if isinstance(user, Mapping):
        for name, value in user.items():
            if name[:1] in "#@" or name == "xmlns":
                continue
            record.wrapper = record.wrapper or name
            if isinstance(value, Mapping):
                add_data(record, value)
            elif value is not None:
                record.data[name] = text(value)
    rendering = event.get("RenderingInfo")
    if isinstance(rendering, Mapping):
        record.message = text(rendering.get("Message"))
    elif isinstance(event.get("Message"), str):
        record.message = event["Message"]
    return record


def _settle(system: dict[str, Any]) -> None:
    """The parts of System that carriers write in several ways."""
    for name in ("EventID", "Level", "Task", "Opcode", "Version", "EventRecordID"):
        if name in system:
            system[name] = number(system[name])
    level = system.get("Level")
    if isinstance(level, str):
        system["Level"] = LEVELS.get(level.lower(), level)
    for name in ("Correlation", "Execution", "Security", "TimeCreated", "Provider"):  # empty elements
        if name in system and system[name] in (None, ""):
            del system[name]
    moment = system.get("TimeCreated_SystemTime")
    if isinstance(moment, int | float) and not isinstance(moment, bool):
        try:
            system["TimeCreated_SystemTime"] = datetime.fromtimestamp(moment, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            system["TimeCreated_SystemTime"] = str(moment)
    if not system.get("Provider_Name") and isinstance(system.get("Channel"), str):
        known = PROVIDERS.get(system["Channel"])
        if known is not None:
            system["Provider_Name"] = known


def _element(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """An element of System: its text under its name, its attributes under Name_Attribute."""
    if not isinstance(value, Mapping):
        yield name.removesuffix("_attributes"), value
        return
    name = name.removesuffix("_attributes")  # evtx_dump --separate-json-attributes, Chainsaw
    attributes = value.get("#attributes")
    for key, part in {**value, **(attributes if isinstance(attributes, Mapping) else {})}.items():
        if key in ("#text", "Value"):
            yield name, part
        elif key != "#attributes":
            yield f"{name}_{key.lstrip('@')}", part


def add_data(record: WindowsRecord, section: Any) -> None:
    """The values of EventData, or of the element in UserData, in any of the ways in which they are written."""
    if isinstance(section, str):
        section = _parsed(section)
    if isinstance(section, list):
        section = {"Data": section}
    if not isinstance(section, Mapping):
        if section is not None and section != "":
            record.data["EventData"] = text(section)
        return
    data = record.data
    for name, value in section.items():
        if type(value) is str and name != "Data":
            if name not in _LAYOUT:
                data[name] = value
        elif name == "Data":
            _add_elements(record, value)
        elif name in _LAYOUT or name.endswith("_attributes"):
            continue
        elif isinstance(value, Mapping):
            data[name] = text(value["#text"]) if "#text" in value else _nested(value)
        elif isinstance(value, list):
            data[name] = [part if isinstance(part, dict) else text(part) for part in value]
        else:
            data[name] = text(value)


_LAYOUT = frozenset({"#attributes", "@attributes", "xmlns", "@xmlns", "#text"})


def _nested(value: Mapping[str, Any]) -> Any:
    """Elements within an element of the data."""
    return {
        name: _nested(part) if isinstance(part, Mapping) else part
        for name, part in value.items()
        if name not in _LAYOUT
    }


def _add_elements(record: WindowsRecord, value: Any) -> None:
    """`Data` elements: named ones as {"@Name", "#text"} (an XML converter's way), the others by their text."""
    if isinstance(value, Mapping):
        attributes = value.get("#attributes")
        name = value.get(
            "@Name", value.get("Name", attributes.get("Name") if isinstance(attributes, Mapping) else None)
        )
        held = value.get("#text", value.get("@Value", value.get("Value", "")))
        if isinstance(name, str) and name:
            record.data[name] = text(held)
        elif isinstance(held, list):
            record.unnamed += map(text, held)
        elif "#text" in value or not value.keys() - _LAYOUT:
            record.unnamed.append(text(held))
        else:
            record.data["Data"] = _nested(value)
    elif isinstance(value, list):
        for part in value:
            _add_elements(record, part)
    elif value is not None:
        record.unnamed.append(text(value))


def _parsed(section: str) -> Any:
    """EventData that is text: JSON, or XML as the table Event stores it."""
    start = section.lstrip()[:1]
    if start == "{":
        try:
            return json.loads(section)
        except (ValueError, RecursionError):
            return section
    if start == "<":
        return data_of_xml(section)
    return section


def data_of_xml(section: str) -> Any:
    """`<EventData><Data Name="Image">..`, also in a `<DataItem>`, or `<UserData><X>..`; the text where it is none."""
    from xml.etree import ElementTree  # documents with a DTD, the way to a bomb, are refused

    if len(section) > XML_CHARS or "<!" in section:
        return section
    try:
        root = ElementTree.fromstring(section)  # noqa: S314
    except ElementTree.ParseError:
        return section
    found: dict[str, Any] = {}
    elements = [{"@Name": e.get("Name", ""), "#text": e.text or ""} for e in root.iter() if _tag(e.tag) == "Data"]
    if elements:
        found["Data"] = elements
    user = next((e for e in root.iter() if _tag(e.tag) == "UserData"), None)
    if user is not None:
        found.update((_tag(e.tag), e.text or "") for wrapper in user for e in wrapper)
    return found or section


def _tag(name: str) -> str:
    return name.rpartition("}")[2]


# --------------------------------------------------------------------------------------------------------------------
# Log sources that several kinds of Windows events are of: Sigma's own fields of an event that names them otherwise


def generic_fields(record: WindowsRecord) -> dict[str, Any]:
    """The event's fields with those of Sigma's generic log sources (taxonomy, appendix of the specification) added for
    events of the Security log that are of one: 4688, 4689 processes, 4657 registry, 5156 network connections.
    """
    fields = record.fields()
    if record.system.get("Channel") != "Security":
        return fields
    match record.system.get("EventID"):
        case 4688:
            more = {
                "Image": fields.get("NewProcessName"),
                "ParentImage": fields.get("ParentProcessName"),
                "User": _creator(fields),
                "ProcessId": _decimal(fields.get("NewProcessId")),
                "LogonId": _logon(fields),
                "ParentProcessId": _decimal(fields.get("ProcessId")),
                "IntegrityLevel": INTEGRITY.get(text(fields.get("MandatoryLabel"))),
            }
        case 4689:
            more = {"Image": fields.get("ProcessName"), "ProcessId": _decimal(fields.get("ProcessId"))}
        case 4657:
            more = {
                "EventType": "SetValue",
                "Image": fields.get("ProcessName"),
                "TargetObject": _registry_path(text(fields.get("ObjectName")), text(fields.get("ObjectValueName"))),
                "Details": fields.get("NewValue"),
            }
        case 5156 | 5157:
            outward = fields.get("Direction") == "%%14593"
            more = {
                "Image": fields.get("Application"),
                "Initiated": "true" if outward else "false",
                "SourceIp": fields.get("SourceAddress" if outward else "DestAddress"),
                "DestinationIp": fields.get("DestAddress" if outward else "SourceAddress"),
                "SourcePort": fields.get("SourcePort" if outward else "DestPort"),
                "DestinationPort": fields.get("DestPort" if outward else "SourcePort"),
                "Protocol": {"6": "tcp", "17": "udp"}.get(text(fields.get("Protocol")), fields.get("Protocol")),
            }
        case _:
            return fields
    return {**fields, **{name: value for name, value in more.items() if value is not None}}


def _creator(fields: Mapping[str, Any]) -> str | None:
    """Whose the new process is: the target where the event names one, else the subject (documentation of 4688)."""
    for who in ("Target", "Subject"):
        name = text(fields.get(f"{who}UserName"))
        if name not in ("", "-"):
            if fields.get(f"{who}UserSid") == "S-1-5-18":
                return "NT AUTHORITY\\SYSTEM"
            domain = text(fields.get(f"{who}DomainName"))
            return f"{domain}\\{name}" if domain not in ("", "-") else name
    return None


def _logon(fields: Mapping[str, Any]) -> str | None:
    """Whose logon the new process is in, as `_creator`."""
    target = text(fields.get("TargetLogonId"))
    return target if target not in ("", "-", "0x0") else fields.get("SubjectLogonId")


def _decimal(value: Any) -> str | None:
    try:
        return str(int(text(value), 0))
    except ValueError:
        return None if value is None else text(value)


_HIVES = (("\\REGISTRY\\MACHINE", "HKLM"), ("\\REGISTRY\\USER", "HKU"))


def _registry_path(key: str, name: str) -> str:
    for kernel, hive in _HIVES:
        if key.upper().startswith(kernel):
            key = hive + key[len(kernel) :]
            break
    return f"{key}\\{name}" if name else key
