"""A hunt as plainly as it can be written, to hold `sigma2kql hunt` against: plain_hunt.py EVTX_FOLDER RULES.

No tables, no KQL: an event's fields are the elements of its XML (as evtx_dump gives them), a rule's log source is what
SigmaHQ's taxonomy says (appendix of the specification: channel and EventID of each category and service), its condition
is the reference evaluator's. Prints the hits that one of the two has and the other lacks. Public recordings:
Yamato-Security/hayabusa-sample-evtx, OTRF/Security-Datasets, sbousseaden/EVTX-ATTACK-SAMPLES.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sigma2kql.api import load_input, read_inputs
from sigma2kql.model.tree import LogSource, Rule
from sigma2kql.reference.evaluate import evaluate

SYSMON = "Microsoft-Windows-Sysmon/Operational"
POWERSHELL = ("Microsoft-Windows-PowerShell/Operational", "PowerShellCore/Operational")
Wanted = tuple[tuple[str, ...], frozenset[int]]  # channels (lower case) and EventIDs; none: any


def _sysmon(*numbers: int) -> Wanted:
    return (SYSMON.lower(),), frozenset(numbers)


CATEGORIES: dict[str, tuple[Wanted, ...]] = {
    "process_creation": (_sysmon(1), (("security",), frozenset({4688}))),
    "file_change": (_sysmon(2),),
    "network_connection": (_sysmon(3), (("security",), frozenset({5156}))),
    "sysmon_status": (_sysmon(4, 16),),
    "process_termination": (_sysmon(5), (("security",), frozenset({4689}))),
    "driver_load": (_sysmon(6),),
    "image_load": (_sysmon(7),),
    "create_remote_thread": (_sysmon(8),),
    "raw_access_thread": (_sysmon(9),),
    "process_access": (_sysmon(10),),
    "file_event": (_sysmon(11),),
    "registry_add": (_sysmon(12),),
    "registry_delete": (_sysmon(12),),
    "registry_set": (_sysmon(13), (("security",), frozenset({4657}))),
    "registry_rename": (_sysmon(14),),
    "registry_event": (_sysmon(12, 13, 14), (("security",), frozenset({4657}))),
    "create_stream_hash": (_sysmon(15),),
    "pipe_created": (_sysmon(17, 18),),
    "wmi_event": (_sysmon(19, 20, 21),),
    "dns_query": (_sysmon(22),),
    "file_delete": (_sysmon(23, 26),),
    "file_delete_detected": (_sysmon(26),),
    "clipboard_change": (_sysmon(24),),
    "process_tampering": (_sysmon(25),),
    "file_block_executable": (_sysmon(27),),
    "file_block_shredding": (_sysmon(28),),
    "file_executable_detected": (_sysmon(29),),
    "sysmon_error": (_sysmon(255),),
    "ps_module": ((tuple(map(str.lower, POWERSHELL)), frozenset({4103})),),
    "ps_script": ((tuple(map(str.lower, POWERSHELL)), frozenset({4104})),),
    "ps_classic_start": ((("windows powershell",), frozenset({400})),),
    "ps_classic_provider_start": ((("windows powershell",), frozenset({600})),),
    "ps_classic_script": ((("windows powershell",), frozenset({800})),),
}
REGISTRY = {"registry_add": {"CreateKey"}, "registry_delete": {"DeleteKey", "DeleteValue"}}
SERVICES = {
    "security": ("Security",),
    "system": ("System",),
    "application": ("Application",),
    "sysmon": (SYSMON,),
    "powershell": POWERSHELL,
    "powershell-classic": ("Windows PowerShell",),
    "windefend": ("Microsoft-Windows-Windows Defender/Operational",),
    "taskscheduler": ("Microsoft-Windows-TaskScheduler/Operational",),
    "wmi": ("Microsoft-Windows-WMI-Activity/Operational",),
    "ntlm": ("Microsoft-Windows-NTLM/Operational",),
    "bits-client": ("Microsoft-Windows-Bits-Client/Operational",),
    "codeintegrity-operational": ("Microsoft-Windows-CodeIntegrity/Operational",),
    "dns-server": ("DNS Server",),
    "dns-client": ("Microsoft-Windows-DNS-Client/Operational",),
    "firewall-as": ("Microsoft-Windows-Windows Firewall With Advanced Security/Firewall",),
    "applocker": tuple(
        f"Microsoft-Windows-AppLocker/{name}"
        for name in ("MSI and Script", "EXE and DLL", "Packaged app-Deployment", "Packaged app-Execution")
    ),
    "printservice-admin": ("Microsoft-Windows-PrintService/Admin",),
    "printservice-operational": ("Microsoft-Windows-PrintService/Operational",),
    "terminalservices-localsessionmanager": ("Microsoft-Windows-TerminalServices-LocalSessionManager/Operational",),
    "msexchange-management": ("MSExchange Management",),
    "openssh": ("OpenSSH/Operational",),
    "shell-core": ("Microsoft-Windows-Shell-Core/Operational",),
    "smbclient-security": ("Microsoft-Windows-SmbClient/Security",),
    "smbclient-connectivity": ("Microsoft-Windows-SmbClient/Connectivity",),
    "appxdeployment-server": ("Microsoft-Windows-AppXDeploymentServer/Operational",),
    "security-mitigations": (
        "Microsoft-Windows-Security-Mitigations/KernelMode",
        "Microsoft-Windows-Security-Mitigations/UserMode",
    ),
}


# MS-DTYP 2.4.2.4, under the names that Sysmon gives them
LABELS = {"S-1-16-4096": "Low", "S-1-16-8192": "Medium", "S-1-16-12288": "High", "S-1-16-16384": "System"}


def plain(value: Any) -> Any:
    """A value as the XML has it."""
    if isinstance(value, dict):
        return plain(value["#text"]) if "#text" in value else {n: plain(v) for n, v in value.items() if n[:1] != "#"}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return str(value).lower() if isinstance(value, bool) else "" if value is None else value


def fields_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """The elements of an event by name, those of its data over System's but for what says which event it is."""
    system: dict[str, Any] = {}
    for name, value in event["System"].items():
        if isinstance(value, dict):
            attributes = value.get("#attributes", {})
            system |= {f"{name}_{key}": part for key, part in attributes.items()}
            if "#text" in value:
                system[name] = value["#text"]
        elif value is not None:
            system[name] = value
    data: dict[str, Any] = {}
    for section in (event.get("EventData"), *(event.get("UserData") or {}).values()):
        if isinstance(section, dict):
            data |= {n: plain(v) for n, v in section.items() if n not in ("#attributes", "xmlns")}
    if isinstance(event.get("EventData"), str):
        data["EventData"] = event["EventData"]
    own = {"Channel"} if system.get("EventID") == 104 and "Eventlog" in str(system.get("Provider_Name")) else set()
    kept = {n: v for n, v in data.items() if n in own or n not in {"EventID", "Channel", "Computer", "Provider_Name"}}
    fields = {**system, **kept}
    return fields | {n.replace(" ", ""): v for n, v in fields.items() if " " in n and n.replace(" ", "") not in fields}


def generic(fields: dict[str, Any]) -> dict[str, Any]:
    """Sigma's generic fields of events of the Security log (taxonomy: the fields of the categories)."""
    if fields.get("Channel") != "Security":
        return fields
    names: dict[int, dict[str, str]] = {
        4688: {"Image": "NewProcessName", "ParentImage": "ParentProcessName"},
        4689: {"Image": "ProcessName"},
        5156: {"Image": "Application"},
        4657: {"Image": "ProcessName", "Details": "NewValue"},
    }
    more = {ours: fields.get(theirs) for ours, theirs in names.get(fields.get("EventID", 0), {}).items()}
    if fields.get("EventID") == 5156:
        out = fields.get("Direction") == "%%14593"
        here, there = ("SourceAddress", "SourcePort"), ("DestAddress", "DestPort")
        source, target = (here, there) if out else (there, here)
        more |= {"SourceIp": fields.get(source[0]), "SourcePort": fields.get(source[1])}
        more |= {"DestinationIp": fields.get(target[0]), "DestinationPort": fields.get(target[1])}
        more["Initiated"] = str(out).lower()
    if fields.get("EventID") == 4657:
        key = str(fields.get("ObjectName")).replace("\\REGISTRY\\MACHINE", "HKLM").replace("\\REGISTRY\\USER", "HKU")
        more |= {"TargetObject": f"{key}\\{fields.get('ObjectValueName')}", "EventType": "SetValue"}
    if fields.get("EventID") == 4688:
        more |= {"User": _user(fields), "ProcessId": _number(fields.get("NewProcessId"))}
        more["ParentProcessId"] = _number(fields.get("ProcessId"))
        logon = fields.get("TargetLogonId")
        more["LogonId"] = fields.get("SubjectLogonId") if logon in (None, "", "-", "0x0") else logon
        more["IntegrityLevel"] = LABELS.get(str(fields.get("MandatoryLabel")))
    return {**fields, **{name: value for name, value in more.items() if value is not None}}


def _user(fields: Mapping[str, Any]) -> str:
    who = "Target" if fields.get("TargetUserName") not in (None, "", "-") else "Subject"
    if who == "Subject" and fields.get("SubjectUserSid") == "S-1-5-18":
        return "NT AUTHORITY\\SYSTEM"
    return f"{fields.get(who + 'DomainName')}\\{fields.get(who + 'UserName')}"


def _number(value: Any) -> Any:
    return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value


def is_of(source: LogSource, fields: Mapping[str, Any]) -> bool | None:
    """Whether an event is of a rule's log source; None where this reading does not know the log source."""
    channel, number = str(fields.get("Channel", "")).lower(), fields.get("EventID")
    if source.product not in (None, "windows"):
        return None
    if source.category is not None:
        wanted = CATEGORIES.get(source.category)
        if wanted is None:
            return None
        kinds = REGISTRY.get(source.category)
        if kinds is not None and fields.get("EventType") not in kinds:
            return False
        return any(channel in channels and number in numbers for channels, numbers in wanted)
    if source.service is not None:
        channels = SERVICES.get(source.service)
        return None if channels is None else channel in map(str.lower, channels)
    return True


def events_of(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every event with the file and number that `hunt` calls it by."""
    from evtx import PyEvtxParser

    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() == ".evtx" and p.is_file()):
        number = 0
        try:
            for record in PyEvtxParser(str(path)).records_json():
                number += 1
                yield f"{path}:#{number}", json.loads(record["data"])["Event"]
        except (RuntimeError, OSError, ValueError):
            continue


def plain_hits(folder: Path, rules: list[Rule]) -> tuple[dict[str, set[str]], set[str]]:
    """The events that each rule matches, by rule id, and the rules whose log source this reading does not know."""
    hits: dict[str, set[str]] = defaultdict(set)
    unknown: set[str] = set()
    about: dict[tuple[str, ...], list[Rule]] = {}  # the rules for each kind of event
    for origin, event in events_of(folder):
        own = fields_of(event)
        fields = generic(own)
        log = {**fields, "Channel": event["System"].get("Channel")}  # 104 has another in its data
        kind = tuple(repr(log.get(name)) for name in ("Channel", "EventID", "EventType"))
        if kind not in about:
            told = [(rule, is_of(rule.logsource, log)) for rule in rules]
            about[kind] = [rule for rule, mine in told if mine]
            unknown.update(rule.meta.id or "" for rule, mine in told if mine is None)
        for rule in about[kind]:
            if evaluate(rule.where, fields if rule.logsource.category else own):
                hits[rule.meta.id or ""].add(origin)
    return hits, unknown


def hunted_hits(folder: Path, rules: str) -> dict[str, set[str]]:
    """What `sigma2kql hunt` finds, by rule id."""
    found: dict[str, set[str]] = defaultdict(set)
    with TemporaryDirectory() as store:
        out = Path(store, "hits.ndjson")
        call = [sys.executable, "-m", "sigma2kql", "hunt", rules, "--data", str(folder), "-f", "ndjson", "-q"]
        subprocess.run([*call, "--limit", "1000000", "-o", str(out)], check=False)
        for line in out.read_text(encoding="utf-8").splitlines():
            hit = json.loads(line)
            found[hit["id"]].add(hit["origin"])
    return found


def main() -> None:
    folder, rules = Path(sys.argv[1]), sys.argv[2]
    documents = [document for one in read_inputs([rules]) for document in load_input(one)]
    own = [document for document in documents if isinstance(document, Rule)]
    expected, unknown = plain_hits(folder, own)
    found = hunted_hits(folder, rules)
    titles = {rule.meta.id or "": rule.meta.title for rule in own}
    both = sum(len(expected[name] & found[name]) for name in titles)
    print(
        f"{len(titles):,} rules, {both:,} hits of both; log source not known to the plain reading: {len(unknown)} rules"
    )
    for name, title in titles.items():
        lost, extra = expected[name] - found[name], found[name] - expected[name]
        if name not in unknown and (lost or extra):
            print(f"{title} ({name}): {len(lost)} lost, {len(extra)} more, e.g. {min(lost | extra)}")


if __name__ == "__main__":
    main()
