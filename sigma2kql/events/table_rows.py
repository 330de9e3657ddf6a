"""A Windows event as the row that its collector writes into a table of Log Analytics.

Place in the flow: beside `event_forms`; hunting and proving stand on these rows. Invariant: a row holds what the event
holds, where the agent puts it, and nothing else; what the agent drops is not there. No mapping is asked.

Sources: https://learn.microsoft.com/azure/azure-monitor/reference/tables/windowsevent, ../event and ../securityevent;
rows recorded in Sentinel (OTRF Security-Datasets, Log4Shell; Azure-Sentinel Sample Data); Azure-Sentinel issues 12238
and 12585 on what SecurityEvent keeps in EventData alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sigma2kql.events.windows_event import WindowsRecord, text

Row = dict[str, Any]
NAMESPACE = "http://schemas.microsoft.com/win/2004/08/events/event"
LEVEL_NAMES = {0: "Information", 1: "Critical", 2: "Error", 3: "Warning", 4: "Information", 5: "Verbose"}
# Events whose elements the connector sets into columns; all others keep EventData alone. 4688 and the others of them
# have no EventData beside, the three of BOTH have (recorded rows).
PARSED = frozenset(
    int(number)
    for number in [
        "517",
        "528",
        "529",
        "538",
        "540",
        "624",
        "632",
        "633",
        "634",
        "675",
        "4611",
        "4624",
        "4625",
        "4634",
        "4647",
        "4648",
        "4657",
        "4661",
        "4662",
        "4663",
        "4670",
        "4672",
        "4673",
        "4674",
        "4688",
        "4689",
        "4697",
        "4704",
        "4705",
        "4706",
        "4717",
        "4718",
        "4719",
        "4720",
        "4722",
        "4723",
        "4724",
        "4725",
        "4726",
        "4727",
        "4728",
        "4729",
        "4730",
        "4731",
        "4732",
        "4733",
        "4734",
        "4735",
        "4737",
        "4738",
        "4739",
        "4740",
        "4741",
        "4742",
        "4743",
        "4754",
        "4755",
        "4756",
        "4757",
        "4758",
        "4764",
        "4767",
        "4778",
        "4779",
        "4798",
        "4799",
        "4800",
        "4801",
        "4802",
        "4803",
        "4825",
        "4886",
        "4887",
        "4888",
        "4898",
        "5140",
        "5145",
        "6416",
        "6423",
    ]
)
BOTH = frozenset({4663, 4670, 4689})


def windows_event(record: WindowsRecord) -> Row:
    """The row of WindowsEvent: System in columns, the elements of EventData or UserData by name in EventData, as text.

    How the agent names `Data` elements without a name is not documented: they stand as a list under `Data`.
    """
    system = record.system
    data: dict[str, Any] = record.data
    if record.unnamed:
        data = {**data, "Data": record.unnamed[0] if len(record.unnamed) == 1 else record.unnamed}
    return {
        "Computer": system.get("Computer"),
        "Channel": system.get("Channel"),
        "Provider": system.get("Provider_Name"),
        "EventID": system.get("EventID"),
        "EventLevel": system.get("Level"),
        "Task": system.get("Task"),
        "Opcode": system.get("Opcode"),
        "Keywords": system.get("Keywords"),
        "EventRecordId": system.get("EventRecordID"),
        "SystemUserId": system.get("Security_UserID"),
        "SystemProcessId": system.get("Execution_ProcessID"),
        "SystemThreadId": system.get("Execution_ThreadID"),
        "EventData": data,
    }


def event(record: WindowsRecord) -> Row:
    """The row of Event: the data as XML text, the values without names in ParameterXml too, the rendered message."""
    system = record.system
    level = system.get("Level")
    values = [*(v for v in record.data.values() if isinstance(v, str)), *record.unnamed]
    return {
        "Computer": system.get("Computer"),
        "EventLog": system.get("Channel"),
        "Source": system.get("Provider_Name"),
        "EventID": system.get("EventID"),
        "EventLevel": level,
        "EventLevelName": LEVEL_NAMES.get(level) if isinstance(level, int) else level,
        "EventCategory": system.get("Task"),
        "UserName": system.get("Security_UserName"),
        "EventData": f'<DataItem type="System.XmlData">{_xml_section(record)}</DataItem>',
        "ParameterXml": "".join(f"<Param>{_escaped(value)}</Param>" for value in values),
        "RenderedDescription": record.message,
    }


def security_event(record: WindowsRecord) -> Row | None:
    """The row of SecurityEvent; None for an event of another log."""
    system, data = record.system, record.data
    if system.get("Channel") != "Security":
        return None
    event_id = system.get("EventID")
    row: Row = {
        "Computer": system.get("Computer"),
        "Channel": "Security",
        "EventSourceName": system.get("Provider_Name"),
        "EventID": event_id,
        "Level": text(system.get("Level")),
        "Task": system.get("Task"),
        "Opcode": text(system.get("Opcode")),
        "Keywords": text(system.get("Keywords")),
        "EventRecordId": text(system.get("EventRecordID")),
    }
    if event_id in PARSED:
        row = {**{name: value for name, value in data.items() if name not in row}, **row}
        for who in ("Subject", "Target"):
            if f"{who}UserName" in data:
                row[f"{who}Account"] = f"{text(data.get(f'{who}DomainName'))}\\{text(data[f'{who}UserName'])}"
        if "TargetAccount" in row or "SubjectAccount" in row:
            logon = event_id in (4624, 4625, 4634, 4647)
            row["Account"] = row.get("TargetAccount" if logon else "SubjectAccount", row.get("TargetAccount"))
        if "NewProcessName" in data:
            row["Process"] = text(data["NewProcessName"]).rpartition("\\")[2]
    if event_id not in PARSED or event_id in BOTH:
        row["EventData"] = _xml_section(record, "\r\n  ", "\r\n")
    return row


def syslog(record: WindowsRecord) -> Row | None:
    """The row of Syslog that Sysmon for Linux writes; None for an event of Windows."""
    system = record.system
    if system.get("Provider_Name") != "Linux-Sysmon":
        return None
    return {
        "Computer": system.get("Computer"),
        "HostName": system.get("Computer"),
        "Facility": "user",
        "ProcessName": "sysmon",
        "SyslogMessage": record.line or f"<Event>{_xml_section(record)}</Event>",
    }


WRITERS: Mapping[str, Callable[[WindowsRecord], Row | None]] = {
    "WindowsEvent": windows_event,
    "Event": event,
    "SecurityEvent": security_event,
    "Syslog": syslog,
}


def _xml_section(record: WindowsRecord, before: str = "", last: str = "") -> str:
    """EventData, or UserData with its wrapper, as Windows renders it."""
    if record.wrapper:
        inner = "".join(_elements(record.data))
        return f'<UserData xmlns="{NAMESPACE}"><{record.wrapper}>{inner}</{record.wrapper}></UserData>'
    parts = [f'<Data Name="{_attribute(name)}">{_escaped(text(v))}</Data>' for name, v in record.data.items()]
    parts += [f"<Data>{_escaped(value)}</Data>" for value in record.unnamed]
    return f'<EventData xmlns="{NAMESPACE}">{"".join(before + part for part in parts)}{last}</EventData>'


def _elements(data: Mapping[str, Any]) -> Iterator[str]:
    for name, value in data.items():
        tag = name if name.replace("_", "").replace("-", "").replace(".", "").isalnum() else "Data"
        inner = "".join(_elements(value)) if isinstance(value, Mapping) else _escaped(text(value))
        yield f"<{tag}>{inner}</{tag}>"


def _escaped(value: str) -> str:
    """A text node as Windows renders it: quotes stay as they are."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _attribute(value: str) -> str:
    return _escaped(value).replace('"', "&quot;")
