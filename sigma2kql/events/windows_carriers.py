"""Windows events as log shippers and tools carry them, each by its own layout.

Place in the flow: under `event_forms`. Invariant: a carrier is known by names that it alone writes; every one gives the
same `WindowsRecord` for the same event, or says why it holds no event (`Unusable`).

Layouts: Winlogbeat 7 and 8 (elastic.co, "Exported fields: winlog"), Winlogbeat 6 (event_data beside log_name), ECS
(process.executable ..), NXLog im_msvistalog, Wazuh (win.system, win.eventdata), EvtxECmd --json, Get-WinEvent through
ConvertTo-Json, rows with Sigma's names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sigma2kql.events.windows_event import LEVELS, PROVIDERS, WindowsRecord, add_data, from_sections, number, text


class Unusable(Exception):  # noqa: N818 - becomes a notice where the event is
    """It is known what wrote this, and why no event can be made of it; the text says both."""


def carried(data: Mapping[str, Any]) -> WindowsRecord | None:
    """The Windows event in a record, or None where it is none. Raises Unusable."""
    for is_form, read in _CARRIERS:
        if is_form(data):
            return read(data)
    return None


def is_windows(data: Mapping[str, Any]) -> bool:
    """Whether a record is a Windows event in one of the layouts, whole or not."""
    return any(is_form(data) for is_form, _ in _CARRIERS)


def _system(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None and value != ""}


def _record(system: Mapping[str, Any], message: Any = None) -> WindowsRecord:
    """A record of these parts of System, its numbers as numbers."""
    record = WindowsRecord(_system(**system), message=message if isinstance(message, str) else "")
    for name in ("EventID", "Level", "Task", "Opcode", "Version", "EventRecordID", "Execution_ProcessID"):
        if name in record.system:
            record.system[name] = number(record.system[name])
    channel = record.system.get("Channel")
    if "Provider_Name" not in record.system and isinstance(channel, str) and channel in PROVIDERS:
        record.system["Provider_Name"] = PROVIDERS[channel]
    return record


def _whole(record: WindowsRecord, what: str) -> WindowsRecord:
    """Raises Unusable where the event does not say which event of which log it is."""
    missing = [name for name in ("EventID", "Channel") if record.system.get(name) in (None, "")]
    if "Channel" in missing and record.system.get("Provider_Name"):
        missing.remove("Channel")
    if missing:
        raise Unusable(
            f"look like {what}, but `{'` and `'.join(missing)}` {'is' if len(missing) == 1 else 'are'} missing"
        )
    return record


# --------------------------------------------------------------------------------------------------------------------
# The event's own sections


def has_sections(event: Any) -> bool:
    return isinstance(event, Mapping) and isinstance(event.get("System"), Mapping)


def _is_sections(data: Mapping[str, Any]) -> bool:
    return has_sections(data.get("Event")) or (
        has_sections(data) and ("EventData" in data or "UserData" in data or "Channel" in data["System"])
    )


def _sections(data: Mapping[str, Any]) -> WindowsRecord:
    event = data["Event"] if has_sections(data.get("Event")) else data
    record = from_sections(event)
    if isinstance(line := data.get("SyslogMessage"), str):
        record.line = line
    return _whole(record, "Windows events")


# --------------------------------------------------------------------------------------------------------------------
# Winlogbeat

_WINLOG = {
    "channel": "Channel",
    "event_id": "EventID",
    "provider_name": "Provider_Name",
    "provider_guid": "Provider_Guid",
    "computer_name": "Computer",
    "record_id": "EventRecordID",
    "opcode": "Opcode",
    "task": "Task",
    "version": "Version",
    "activity_id": "Correlation_ActivityID",
    "time_created": "TimeCreated_SystemTime",
    # Winlogbeat 6
    "log_name": "Channel",
    "source_name": "Provider_Name",
    "record_number": "EventRecordID",
}
# ECS -> the names of the events; the modules of Winlogbeat move these and may leave event_data without them
_ECS = {
    "process.executable": "Image",
    "process.command_line": "CommandLine",
    "process.pid": "ProcessId",
    "process.entity_id": "ProcessGuid",
    "process.working_directory": "CurrentDirectory",
    "process.parent.executable": "ParentImage",
    "process.parent.command_line": "ParentCommandLine",
    "process.parent.pid": "ParentProcessId",
    "process.parent.entity_id": "ParentProcessGuid",
    "process.pe.original_file_name": "OriginalFileName",
    "process.pe.company": "Company",
    "process.pe.description": "Description",
    "process.pe.product": "Product",
    "process.pe.file_version": "FileVersion",
    "file.path": "TargetFilename",
    "dll.path": "ImageLoaded",
    "registry.path": "TargetObject",
    "dns.question.name": "QueryName",
    "source.ip": "SourceIp",
    "source.port": "SourcePort",
    "destination.ip": "DestinationIp",
    "destination.port": "DestinationPort",
    "destination.domain": "DestinationHostname",
}
_ECS_SECURITY = {
    "process.executable": "NewProcessName",
    "process.command_line": "CommandLine",
    "process.parent.executable": "ParentProcessName",
    "source.ip": "IpAddress",
    "source.port": "IpPort",
    "user.name": "SubjectUserName",
    "user.domain": "SubjectDomainName",
}


def _is_winlog(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("winlog"), Mapping) or "winlog.event_id" in data or "winlog.channel" in data


def _winlog(data: Mapping[str, Any]) -> WindowsRecord:
    """Winlogbeat 7, 8 and Elastic Agent, nested or with dotted names."""
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
            elif rest == "" and part:
                winlog[part] = value
            else:
                winlog[f"{part}.{rest}"] = value
    return _beat(data, winlog, "an event of Winlogbeat")


def _is_winlog6(data: Mapping[str, Any]) -> bool:
    return "log_name" in data and ("event_data" in data or "event_id" in data or "source_name" in data)


def _winlog6(data: Mapping[str, Any]) -> WindowsRecord:
    return _beat(data, data, "an event of Winlogbeat 6")


def _beat(data: Mapping[str, Any], winlog: Mapping[str, Any], what: str) -> WindowsRecord:
    system = {_WINLOG[name]: value for name, value in winlog.items() if name in _WINLOG and value is not None}
    system.setdefault("EventID", _at(data, "event.code"))
    system.setdefault("Provider_Name", _at(data, "event.provider"))
    system.setdefault("Computer", _at(data, "host.name"))
    system.setdefault("TimeCreated_SystemTime", data.get("@timestamp") or _at(data, "event.created"))
    level = _at(data, "log.level") or data.get("level")
    if isinstance(level, str):
        system.setdefault("Level", LEVELS.get(level.lower()))
    for name, path in (("Execution_ProcessID", "process.pid"), ("Execution_ThreadID", "process.thread.id")):
        system.setdefault(name, _at(winlog, path))
    user = _at(winlog, "user.identifier")
    system.setdefault("Security_UserID", user)
    record = _record(system, data.get("message"))
    for section in ("event_data", "user_data"):
        held = winlog.get(section)
        if isinstance(held, Mapping):
            record.wrapper = text(held.get("xml_name", "")) if section == "user_data" else record.wrapper
            held = {name: value for name, value in held.items() if name != "xml_name"}
            record.unnamed += [text(held.pop(name)) for name in _positional(held)]
            add_data(record, held)
    security = record.system.get("Channel") == "Security"
    for path, name in (_ECS_SECURITY if security else _ECS).items():
        if name not in record.data and (value := _at(data, path)) not in (None, ""):
            record.data[name] = text(value)
    return _whole(record, what)


def _positional(held: Mapping[str, Any]) -> list[str]:
    """Winlogbeat calls `Data` elements without a name param1, param2 .. where the manifest names none."""
    names = [name for name in held if re.fullmatch(r"param\d+", name)]
    return sorted(names, key=lambda name: int(name[5:])) if len(names) == len(held) else []


def _at(data: Mapping[str, Any], path: str) -> Any:
    """A value by its dotted path, nested or with a dotted name."""
    if path in data:
        return data[path]
    here: Any = data
    for part in path.split("."):
        if not isinstance(here, Mapping) or part not in here:
            return None
        here = here[part]
    return here


# --------------------------------------------------------------------------------------------------------------------
# Wazuh


def _wazuh_part(data: Mapping[str, Any]) -> Any:
    for held in (data, data.get("data")):
        if isinstance(held, Mapping) and isinstance(win := held.get("win"), Mapping):
            return win
    return None


def _is_wazuh(data: Mapping[str, Any]) -> bool:
    win = _wazuh_part(data)
    return win is not None and isinstance(win.get("system"), Mapping)


_WAZUH = {
    "providerName": "Provider_Name",
    "providerGuid": "Provider_Guid",
    "eventID": "EventID",
    "version": "Version",
    "level": "Level",
    "task": "Task",
    "opcode": "Opcode",
    "keywords": "Keywords",
    "systemTime": "TimeCreated_SystemTime",
    "eventRecordID": "EventRecordID",
    "processID": "Execution_ProcessID",
    "threadID": "Execution_ThreadID",
    "channel": "Channel",
    "computer": "Computer",
}


def _wazuh(data: Mapping[str, Any]) -> WindowsRecord:
    """Wazuh writes every element's name with a small first letter; `param1` and its like have one already."""
    win = _wazuh_part(data)
    system = {_WAZUH[name]: value for name, value in win["system"].items() if name in _WAZUH}
    system.setdefault("TimeCreated_SystemTime", data.get("timestamp") or data.get("@timestamp"))
    record = _record(system, win["system"].get("message"))
    held = win.get("eventdata", win.get("userdata"))
    if isinstance(held, Mapping):
        add_data(record, {_capital(name): value for name, value in held.items()})
    return _whole(record, "an event of Wazuh")


def _capital(name: str) -> str:
    return name if re.fullmatch(r"param\d+|binary", name) else name[:1].upper() + name[1:]


# --------------------------------------------------------------------------------------------------------------------
# EvtxECmd


def _is_evtxecmd(data: Mapping[str, Any]) -> bool:
    return "EventId" in data and ("Payload" in data or "MapDescription" in data)


def _evtxecmd(data: Mapping[str, Any]) -> WindowsRecord:
    record = _record(
        {
            "EventID": data["EventId"],
            "Provider_Name": data.get("Provider"),
            "Channel": data.get("Channel"),
            "Computer": data.get("Computer"),
            "EventRecordID": data.get("EventRecordId") or data.get("RecordNumber"),
            "TimeCreated_SystemTime": data.get("TimeCreated"),
            "Level": LEVELS.get(text(data.get("Level")).lower(), data.get("Level")),
            "Keywords": data.get("Keywords"),
            "Security_UserID": data.get("UserId"),
            "Execution_ProcessID": data.get("ProcessId"),
            "Execution_ThreadID": data.get("ThreadId"),
        }
    )
    payload = data.get("Payload")
    if not isinstance(payload, str):
        raise Unusable("look like EvtxECmd's output without `Payload`, which holds the event's data")
    try:
        held = json.loads(payload) if payload else {}
    except (ValueError, RecursionError):
        raise Unusable("look like EvtxECmd's output, but `Payload` is no JSON") from None
    if isinstance(held, Mapping):
        add_data(record, held.get("EventData"))
        user = held.get("UserData")
        for name, value in user.items() if isinstance(user, Mapping) else ():
            record.wrapper = record.wrapper or name
            add_data(record, value)
    return _whole(record, "EvtxECmd's output")


# --------------------------------------------------------------------------------------------------------------------
# Get-WinEvent | ConvertTo-Json


def _is_get_winevent(data: Mapping[str, Any]) -> bool:
    return "Id" in data and "LogName" in data and ("ProviderName" in data or "Message" in data)


def _get_winevent(data: Mapping[str, Any]) -> WindowsRecord:
    """Its objects keep the values of the data without their names; the message of Sysmon names them."""
    when = data.get("TimeCreated")
    if isinstance(when, Mapping):  # PowerShell 5 adds the member DateTime
        when = when.get("value") or when.get("DateTime")
    if isinstance(when, str) and (found := re.search(r"/Date\((-?\d+)", when)):
        when = datetime.fromtimestamp(int(found[1]) / 1000, UTC).isoformat() if len(found[1]) < 16 else None
    user = data.get("UserId")
    record = _record(
        {
            "EventID": data["Id"],
            "Provider_Name": data.get("ProviderName"),
            "Channel": data["LogName"],
            "Computer": data.get("MachineName"),
            "EventRecordID": data.get("RecordId"),
            "TimeCreated_SystemTime": when,
            "Level": data.get("Level"),
            "Task": data.get("Task"),
            "Opcode": data.get("Opcode"),
            "Version": data.get("Version"),
            "Security_UserID": user.get("Value") if isinstance(user, Mapping) else user,
            "Execution_ProcessID": data.get("ProcessId"),
            "Execution_ThreadID": data.get("ThreadId"),
        },
        data.get("Message"),
    )
    _whole(record, "objects of Get-WinEvent")
    if record.system.get("Provider_Name") == "Microsoft-Windows-Sysmon":
        record.data.update(_of_message(record.message))
        if not record.data:
            raise Unusable("look like objects of Get-WinEvent without `Message`: the event's data have no names there")
        return record
    held = data.get("Properties")
    values = (
        [part.get("Value") if isinstance(part, Mapping) else part for part in held] if isinstance(held, list) else []
    )
    if record.system.get("Channel") in _WITHOUT_NAMES:
        record.unnamed += map(text, values)
        return record
    raise Unusable(
        "look like objects of Get-WinEvent, in which the event's data have no names: export EVTX (wevtutil epl) or XML "
        "($event.ToXml())"
    )


_WITHOUT_NAMES = frozenset({"Application", "Windows PowerShell"})  # classic logs: their data have no names at all


def _of_message(message: str) -> Iterable[tuple[str, str]]:
    """`Name: value` of each line behind the first, as Sysmon's messages are built."""
    for line in re.split(r"\r\n|\n", message)[1:]:
        name, colon, value = line.partition(":")
        if colon and name.isidentifier():
            yield name, value.removeprefix(" ")


# --------------------------------------------------------------------------------------------------------------------
# Flat events: NXLog, Logstash, and Sigma's own names

_NXLOG = {
    "SourceName": "Provider_Name",
    "ProviderGuid": "Provider_Guid",
    "Hostname": "Computer",
    "EventTime": "TimeCreated_SystemTime",
    "RecordNumber": "EventRecordID",
    "OpcodeValue": "Opcode",
    "Task": "Task",
    "ActivityID": "Correlation_ActivityID",
    "UserID": "Security_UserID",
    "ProcessID": "Execution_ProcessID",
    "ThreadID": "Execution_ThreadID",
    "ExecutionProcessID": "Execution_ProcessID",
    "Keywords": "Keywords",
    "Version": "Version",
    "SeverityValue": "Level",
}
# what NXLog, syslog and Logstash add of their own
_ADDED = frozenset(
    [
        "EventType",
        "Severity",
        "SeverityValue",
        "Category",
        "Opcode",
        "Domain",
        "AccountName",
        "AccountType",
        "UserID",
        "EventReceivedTime",
        "SourceModuleName",
        "SourceModuleType",
        "host",
        "port",
        "tags",
        "@version",
        "@timestamp",
        "ERROR_EVT_UNRESOLVED",
    ]
)
_SEVERITIES = {2: 4, 3: 3, 4: 2, 5: 1, 1: 5}  # NXLog's numbers -> Windows' levels
_FLAT = frozenset(
    [
        "EventID",
        "Channel",
        "Computer",
        "Provider_Name",
        "Provider_Guid",
        "Level",
        "Task",
        "Opcode",
        "Keywords",
        "Version",
        "EventRecordID",
    ]
)
_ATTRIBUTES = ("TimeCreated_", "Correlation_", "Execution_", "Security_", "Provider_")


def _is_nxlog(data: Mapping[str, Any]) -> bool:
    return "EventID" in data and "SourceName" in data and ("Channel" in data or "EventTime" in data)


def _nxlog(data: Mapping[str, Any]) -> WindowsRecord:
    system = {_NXLOG[name]: value for name, value in data.items() if name in _NXLOG}
    system |= {"EventID": data["EventID"], "Channel": data.get("Channel")}
    severity = number(data.get("SeverityValue"))
    system["Level"] = _SEVERITIES.get(severity) if isinstance(severity, int) else None
    if isinstance(stamp := data.get("@timestamp"), str):
        system["TimeCreated_SystemTime"] = stamp
    record = _record(system, data.get("Message"))
    taken = {*_NXLOG, *_ADDED, "EventID", "Channel", "Message"}
    # Sysmon's registry, pipe and WMI events have an element EventType; NXLog's own is one of these
    own = {"INFO", "AUDIT_SUCCESS", "AUDIT_FAILURE", "WARNING", "ERROR", "VERBOSE", "CRITICAL", ""}
    for name, value in data.items():
        if name not in taken or (name == "EventType" and text(value) not in own):
            record.data[name] = _plain(value)
    return _whole(record, "an event of NXLog")


def is_flat(data: Mapping[str, Any]) -> bool:
    """Whether a record has Sigma's names throughout and tells its own log."""
    return "EventID" in data and ("Channel" in data or "Provider_Name" in data) and "TimeGenerated" not in data


def _flat(data: Mapping[str, Any]) -> WindowsRecord:
    """Sigma's names throughout: System's are those that only System has."""
    system = {name: value for name, value in data.items() if name in _FLAT or name.startswith(_ATTRIBUTES)}
    if isinstance(system.get("Level"), str) and not system["Level"].isdecimal():
        system["Level"] = LEVELS.get(system["Level"].lower(), system["Level"])
    system.setdefault("TimeCreated_SystemTime", data.get("@timestamp"))
    record = _record(system, data.get("Message"))
    for name, value in data.items():
        if name == "Data":
            record.unnamed += map(text, value) if isinstance(value, list) else [text(value)]
        elif name not in system and name not in ("Message", "@timestamp"):
            record.data[name] = _plain(value)
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [part if isinstance(part, dict) else text(part) for part in value]
    return value if isinstance(value, dict) else text(value)


# --------------------------------------------------------------------------------------------------------------------
# What only looks like events


def _is_hayabusa(data: Mapping[str, Any]) -> bool:
    return "RuleTitle" in data and ("Details" in data or "RuleID" in data)


def _hayabusa(_: Mapping[str, Any]) -> WindowsRecord:
    raise Unusable("are hits of Hayabusa's rules (json-timeline), not events: hunt over the EVTX files themselves")


def _is_chainsaw(data: Mapping[str, Any]) -> bool:
    document = data.get("document")
    return isinstance(document, Mapping) and isinstance(document.get("data"), Mapping)


def _chainsaw(data: Mapping[str, Any]) -> WindowsRecord | None:
    return carried(data["document"]["data"])


_Reader = Callable[[Mapping[str, Any]], WindowsRecord | None]
_CARRIERS: tuple[tuple[Callable[[Mapping[str, Any]], bool], _Reader], ...] = (
    (_is_sections, _sections),
    (_is_winlog, _winlog),
    (_is_winlog6, _winlog6),
    (_is_wazuh, _wazuh),
    (_is_evtxecmd, _evtxecmd),
    (_is_get_winevent, _get_winevent),
    (_is_hayabusa, _hayabusa),
    (_is_chainsaw, _chainsaw),
    (_is_nxlog, _nxlog),
    (is_flat, _flat),
)
