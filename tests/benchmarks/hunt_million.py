"""How long a hunt over many process events takes, and how much memory: python tests/benchmarks/hunt_million.py [N].

Writes N (default one million) process events as NDJSON, once as Windows events (Sysmon 1) and once as rows of
DeviceProcessEvents; gathers them and runs three queries, each form in a process of its own. Asserts counts, not times.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

RULE = """\
title: {title}
logsource: {{product: windows, category: process_creation}}
detection:
  a: {detection}
  condition: a
---
"""
RULES = {
    "contains": "{Image|endswith: '\\powershell.exe', CommandLine|contains: ' -enc '}",
    "regex": "{CommandLine|re: ' -enc [A-Za-z0-9+/]{6,}'}",
    "several": "{ParentImage|endswith: ['\\wmic.exe', '\\rundll32.exe'], CommandLine|contains|all: [' -enc ', aQBl]}",
}
NAMES = ("cmd", "powershell", "svchost", "wmic", "rundll32", "reg", "net", "whoami", "certutil", "notepad")
EVERY = 10_007  # one event in so many is an attack


def events(count: int, form: str) -> Iterator[dict[str, Any]]:
    dice = random.Random(1)
    for i in range(count):
        image, parent = (rf"C:\Windows\System32\{dice.choice(NAMES)}.exe" for _ in range(2))
        tail = "x" * dice.randrange(40)
        if i % EVERY == 0:
            image, parent, tail = (
                r"C:\Windows\System32\powershell.exe",
                r"C:\Windows\System32\wmic.exe",
                "-enc aQBlAHgA",
            )
        command = f"{image} /c {i} {tail}"
        when = f"2026-01-{1 + i % 28:02d}T{i % 24:02d}:{i % 60:02d}:{i // 7 % 60:02d}.{i % 1_000_000:06d}Z"
        yield (windows if form == "windows" else defender)(i, when, image, command, parent)


def windows(i: int, when: str, image: str, command: str, parent: str) -> dict[str, Any]:
    system = {
        "Provider": {"#attributes": {"Name": "Microsoft-Windows-Sysmon"}},
        "EventID": 1,
        "Level": 4,
        "TimeCreated": {"#attributes": {"SystemTime": when}},
        "EventRecordID": i,
        "Channel": "Microsoft-Windows-Sysmon/Operational",
        "Computer": f"host{i % 500}.example.com",
    }
    data = {
        "UtcTime": when,
        "ProcessGuid": f"{{{i:032x}}}",
        "ProcessId": i % 65536,
        "Image": image,
        "OriginalFileName": image.rpartition("\\")[2],
        "CommandLine": command,
        "CurrentDirectory": "C:\\Users\\a\\",
        "User": f"D\\u{i % 1000}",
        "IntegrityLevel": "High",
        "Hashes": f"SHA256={i:064x}",
        "ParentImage": parent,
        "ParentCommandLine": f"{parent} -k",
    }
    return {"Event": {"System": system, "EventData": data}}


def defender(i: int, when: str, image: str, command: str, parent: str) -> dict[str, Any]:
    folder, _, name = image.rpartition("\\")
    parent_folder, _, parent_name = parent.rpartition("\\")
    return {
        "Timestamp": when,
        "ActionType": "ProcessCreated",
        "DeviceId": f"{i % 500:040x}",
        "DeviceName": f"host{i % 500}.example.com",
        "FileName": name,
        "FolderPath": f"{folder}\\{name}",
        "ProcessCommandLine": command,
        "SHA256": f"{i:064x}",
        "AccountName": f"u{i % 1000}",
        "InitiatingProcessFileName": parent_name,
        "InitiatingProcessFolderPath": f"{parent_folder}\\{parent_name}",
        "InitiatingProcessCommandLine": f"{parent} -k",
    }


def measure(folder: Path, memory: str) -> None:
    from sigma2kql.api import Input, Options, load_input
    from sigma2kql.engines.duckdb_process import DuckDBProcess
    from sigma2kql.hunt.gather import gather, survey
    from sigma2kql.hunt.local import hunt_tables
    from sigma2kql.hunt.queries import choose, plan_queries

    data = folder / "events.ndjson"
    count = int((folder / "count").read_text())
    text = "".join(RULE.format(title=title, detection=detection) for title, detection in RULES.items())
    documents = load_input(Input("rules", None, text.encode()))
    made = plan_queries(documents, choose(Options(prefilter=False), *survey([data])))
    with DuckDBProcess(memory, os.cpu_count(), 600) as engine:
        started, worked = time.perf_counter(), time.process_time()
        done = gather([data], list(made.asked.values()), engine, print)
        spent = time.process_time() - worked
        print(f"  gathered {done.events:,} events in {time.perf_counter() - started:.1f} s (processor {spent:.1f} s)")
        assert min(done.rows.values()) == count
        started = time.perf_counter()
        for outcome in hunt_tables(made, engine, {name: done.rows[name] for name in made.asked}, 10_000):
            assert outcome.rows is not None, outcome.problems
            title = outcome.done.document.meta.title
            print(f"  query `{title}` on {outcome.done.table}: {len(outcome.rows.rows):,} rows")
            assert len(outcome.rows.rows) == -(-count // EVERY)
        print(f"  all queries in one scan: {time.perf_counter() - started:.2f} s")
    for who, what in (("this process", resource.RUSAGE_SELF), ("the database's", resource.RUSAGE_CHILDREN)):
        cpu = resource.getrusage(what)
        print(f"  {who}: peak memory {cpu.ru_maxrss >> 10:,} MB; processor {cpu.ru_utime + cpu.ru_stime:.1f} s")


def main() -> None:
    if len(sys.argv) > 2:
        measure(Path(sys.argv[1]), sys.argv[2])
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(f"{count:,} process events, {os.cpu_count()} cores, database limited to 1 GB")
    for form in ("windows", "defender"):
        with TemporaryDirectory() as folder:
            with Path(folder, "events.ndjson").open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(event) + "\n" for event in events(count, form))
            Path(folder, "count").write_text(str(count))
            print(f"{form}: {Path(folder, 'events.ndjson').stat().st_size >> 20:,} MB of NDJSON", flush=True)
            subprocess.run([sys.executable, __file__, folder, "1GB"], check=True)


if __name__ == "__main__":
    main()
