"""The hits of a hunt as tables, lines, spreadsheets and reports.

Place in the flow: between `hunt` and the terminal or file. Invariant: what comes from events is data in every form: no
control character reaches a terminal, no formula a spreadsheet, no markup a page.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from sigma2kql.diagnostics.render import printable
from sigma2kql.hunt.hits import LEVELS, Hit

RULE = ("rule_id", "rule_title", "rule_level", "rule_path")
HIT = ("rule_tags", "time", "host", "account", "record_id", "origin", "matched")
CELL = 400  # characters of a value on a terminal
SHOWN = 5  # hits of one rule on a terminal
REST = 12  # further fields of an event on a terminal
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_SARIF = {"critical": "error", "high": "error", "medium": "warning", "low": "note", "informational": "note"}
_COLORS = {"critical": "\x1b[1;35m", "high": "\x1b[1;31m", "medium": "\x1b[33m", "low": "\x1b[36m"}
MITRE = re.compile(r"attack\.(t\d{4}(?:\.\d{3})?)", re.IGNORECASE)


def write_hits(form: str, hits: Sequence[Hit], stream: TextIO, width: int, color: bool, timeline: bool) -> None:
    """All hits in one of `FORMATS`, ordered by level and time, with `timeline` by time alone."""
    _WRITERS[form](sorted(hits, key=_by_time if timeline else _by_level), stream, width, color, timeline)


def _by_time(hit: Hit) -> tuple[bool, float, int]:
    return hit.time is None, hit.time.timestamp() if hit.time else 0.0, hit.rank()


def _by_level(hit: Hit) -> tuple[int, bool, float]:
    return hit.rank(), hit.time is None, hit.time.timestamp() if hit.time else 0.0


def _plain(value: Any) -> Any:
    """A value as JSON has it; times in ISO 8601."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value)


def as_dict(hit: Hit) -> dict[str, Any]:
    """A hit as NDJSON has it."""
    meta = hit.done.document.meta
    return {
        "id": meta.id,
        "title": meta.title,
        "level": meta.level,
        "path": hit.done.document.origin.source.path,
        "table": hit.done.table,
        "tags": list(meta.tags),
        "time": hit.time,
        "host": hit.host or None,
        "account": hit.account or None,
        "record_id": hit.record_id or None,
        "origin": hit.origin or None,
        "matched": dict(hit.matched),
        "row": dict(hit.row),
    }


def _ndjson(hits: Sequence[Hit], stream: TextIO, *_: Any) -> None:
    stream.writelines(json.dumps(as_dict(hit), ensure_ascii=False, default=_plain) + "\n" for hit in hits)


# --------------------------------------------------------------------------------------------------------------------
# CSV: a text that a spreadsheet would take for a formula gets a ' in front (OWASP: "CSV Injection")


def _csv(hits: Sequence[Hit], stream: TextIO, *_: Any) -> None:
    columns = dict.fromkeys(name for hit in hits for name in hit.row)
    out = csv.writer(stream, lineterminator="\n")
    out.writerow([*RULE, *HIT, *map(_cell, columns)])
    for hit in hits:
        told = as_dict(hit)
        rule = (told["id"] or "", told["title"], told["level"] or "", told["path"])
        about = (" ".join(told["tags"]), *(told[name] for name in HIT[1:]))
        out.writerow([*map(_cell, (*rule, *about)), *(_cell(hit.row.get(name)) for name in columns)])


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list | bool):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    if isinstance(value, datetime):
        return _plain(value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


# --------------------------------------------------------------------------------------------------------------------
# Terminal


def _table(hits: Sequence[Hit], stream: TextIO, width: int, color: bool, timeline: bool) -> None:
    """For each rule its hits with the evidence; with `timeline` one line a hit, by time."""
    if timeline:
        for hit in hits:
            evidence = ", ".join(f"{name}={_shown(value)}" for name, value in hit.matched.items())
            head = f"{_moment(hit)}  {_level(hit, color)}  {hit.host or '-'}  {hit.done.document.meta.title}"
            _line(stream, f"{head}: {evidence}" if evidence else head, width, color)
        return
    by_rule: dict[tuple[str, int], list[Hit]] = {}
    for hit in hits:
        origin = hit.done.document.origin
        by_rule.setdefault((origin.source.path, origin.index), []).append(hit)
    for number, own in enumerate(by_rule.values()):
        meta = own[0].done.document.meta
        about = ", ".join(part for part in (meta.id, own[0].done.document.origin.source.path) if part)
        count = f"{len(own):,} row{'s' * (len(own) != 1)}"
        tags = " ".join(dict.fromkeys(tag[1].upper() for tag in MITRE.finditer(" ".join(meta.tags))))
        stream.write("\n" * bool(number))
        _line(
            stream, f"{_level(own[0], color)}  {meta.title} ({about}): {count}{f'  {tags}' if tags else ''}", 0, color
        )
        for hit in own[:SHOWN]:
            _evidence(hit, stream, width)
        if len(own) > SHOWN:
            _line(stream, f"  .. and {len(own) - SHOWN:,} more (-f ndjson, csv or html has them all)", width, color)


def _evidence(hit: Hit, stream: TextIO, width: int) -> None:
    where = [_moment(hit), hit.host, hit.account, f"record {hit.record_id}" if hit.record_id else "", hit.origin]
    _line(stream, "  " + "  ".join(filter(None, where)), width, False)
    size = max((len(name) for name in hit.matched), default=0)
    for name, value in hit.matched.items():
        _line(stream, f"    {name:{size}}  {_shown(value)}", width, False)
    rest = list(hit.rest().items())
    if rest:
        more = f", {len(rest) - REST} more" if len(rest) > REST else ""
        _line(
            stream,
            "    " + ", ".join(f"{name}={_shown(value, 80)}" for name, value in rest[:REST]) + more,
            width,
            False,
        )


def _level(hit: Hit, color: bool) -> str:
    name = f"{hit.level:13}"
    return f"{_COLORS[hit.level]}{name}\x1b[0m" if color and hit.level in _COLORS else name


def _moment(hit: Hit) -> str:
    return f"{hit.time:%Y-%m-%d %H:%M:%S}" if hit.time is not None else "no time"


def _line(stream: TextIO, text: str, width: int, color: bool) -> None:
    """One line, without control characters of the data; colours are our own."""
    parts = re.split(r"(\x1b\[[\d;]*m)", text) if color else [text]
    clean = "".join(part if color and i % 2 else printable(part) for i, part in enumerate(parts))
    stream.write((clean if not width or len(clean) <= width else clean[: width - 1] + "…") + "\n")


def _shown(value: Any, most: int = CELL) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain).strip('"')
    return text if len(text) <= most else text[: most - 1] + "…"


# --------------------------------------------------------------------------------------------------------------------
# Other tools


def _sarif(hits: Sequence[Hit], stream: TextIO, *_: Any) -> None:
    """SARIF 2.1.0: a result a hit, at the file and record of its event."""
    rules: dict[str, dict[str, Any]] = {}
    results = []
    for hit in hits:
        meta = hit.done.document.meta
        name = meta.id or meta.title or hit.done.document.origin.source.path
        rules.setdefault(
            name,
            {
                "id": name,
                "shortDescription": {"text": meta.title or name},
                "fullDescription": {"text": meta.description or meta.title or name},
                "properties": {"tags": list(meta.tags), "level": hit.level},
            },
        )
        file, _colon, place = hit.origin.rpartition(":")
        number = re.match(r"#?(\d+)", place)
        region = {"region": {"startLine": max(int(number[1]), 1)}} if number and file else {}
        results.append(
            {
                "ruleId": name,
                "level": _SARIF.get(hit.level, "note"),
                "message": {"text": _message(hit)},
                "locations": [
                    {"physicalLocation": {"artifactLocation": {"uri": Path(file or place).as_posix()}, **region}}
                ],
                "properties": {
                    k: v for k, v in as_dict(hit).items() if k in ("time", "host", "account", "matched", "row")
                },
            }
        )
    driver = {"name": "sigma2kql hunt", "rules": list(rules.values())}
    log = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    stream.write(json.dumps(log, ensure_ascii=False, indent=1, default=_plain) + "\n")


def _message(hit: Hit) -> str:
    evidence = ", ".join(f"{name}={_shown(value)}" for name, value in hit.matched.items())
    return f"{hit.done.document.meta.title}{f': {evidence}' if evidence else ''}"


def _timesketch(hits: Sequence[Hit], stream: TextIO, *_: Any) -> None:
    """Lines that Timesketch imports: `message`, `datetime` and `timestamp_desc` are what it asks for."""
    for hit in hits:
        told = as_dict(hit)
        line = {
            "message": _message(hit),
            "datetime": hit.time or "1970-01-01T00:00:00Z",
            "timestamp_desc": "Event Logged" if hit.time else "No time",
            "rule": told["title"],
            "rule_id": told["id"],
            "level": hit.level,
            "tag": [hit.level, *told["tags"]],
            "computer_name": told["host"],
            "username": told["account"],
            "record_id": told["record_id"],
            "source": told["origin"],
            **{f"field_{name}": _shown(value, 4000) for name, value in hit.matched.items()},
        }
        stream.write(json.dumps(line, ensure_ascii=False, default=_plain) + "\n")


def _html(hits: Sequence[Hit], stream: TextIO, *_: Any) -> None:
    """One page without anything from elsewhere: the hits are data of a script that only ever writes text."""
    page = (Path(__file__).parent / "report.html").read_text(encoding="utf-8")
    data = [{**as_dict(hit), "level": hit.level, "row": {**hit.rest()}} for hit in hits]
    text = json.dumps(data, ensure_ascii=True, default=_plain)
    for char in "<>&":  # nothing in it can end the script or begin an element
        text = text.replace(char, f"\\u{ord(char):04x}")
    stream.write(page.replace("/*HITS*/[]", text))


_Writer = Callable[[Sequence[Hit], TextIO, int, bool, bool], None]
_WRITERS: Mapping[str, _Writer] = {
    "table": _table,
    "ndjson": _ndjson,
    "csv": _csv,
    "sarif": _sarif,
    "timesketch": _timesketch,
    "html": _html,
}
FORMATS = tuple(_WRITERS)


def in_words(hits: Sequence[Hit]) -> list[str]:
    """What a hunt found, in a few lines: levels, tactics, and the rules and hosts with most hits."""
    if not hits:
        return []
    levels = Counter(hit.level for hit in hits)
    tactics: Counter[str] = Counter()
    for hit in hits:
        tactics.update(
            {t[7:] for t in hit.done.document.meta.tags if re.fullmatch(r"attack\.[a-z][a-z_-]+", t.lower())}
        )
    lines = ["hits by level: " + ", ".join(f"{levels[name]:,} {name}" for name in LEVELS if levels[name])]
    counted: Iterable[tuple[str, Counter[str]]] = (
        ("by tactic", tactics),
        ("by rule", Counter(hit.done.document.meta.title for hit in hits)),
        ("by host", Counter(hit.host for hit in hits if hit.host)),
    )
    for what, counts in counted:
        if counts:
            lines.append(f"{what}: " + ", ".join(f"{printable(name)} {n:,}" for name, n in counts.most_common(5)))
    return lines
