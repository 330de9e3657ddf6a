"""What is new and changed, for readers and for scripts: Atom, JSON feed, `changes.json`.

Place in the flow: made after the pages. Invariant: an entry's id stays, its day is the rule's own; the same input
gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from sigma2kql.coverage import Covered
from sigma2kql.diagnostics.diagnostic import frozen

ENTRIES = 50
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@frozen
class Entry:
    """One rule in a feed."""

    id: str
    title: str
    day: str
    url: str
    author: str
    summary: str


def entries(rows: Sequence[tuple[str, Covered, str]], base_url: str) -> list[Entry]:
    """The latest rules by their own dates; `rows` are page, rule and description."""
    dated = [(rule.date, page, rule, text) for page, rule, text in rows if _DAY.fullmatch(rule.date)]
    dated.sort(key=lambda row: (row[0], row[1]), reverse=True)
    return [
        Entry(
            f"urn:uuid:{rule.id}" if re.fullmatch(r"[0-9a-f-]{36}", rule.id or "") else f"urn:sigma2kql:{page}",
            xml_text(rule.title or page),
            day,
            base_url + page,
            xml_text(rule.author) or "not stated",
            xml_text(text),
        )
        for day, page, rule, text in dated[:ENTRIES]
    ]


def xml_text(text: str) -> str:
    """The text without what XML cannot hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def json_feed(title: str, base_url: str, found: Sequence[Entry]) -> str:
    """JSON Feed 1.1 (jsonfeed.org/version/1.1)."""
    feed: dict[str, Any] = {"version": "https://jsonfeed.org/version/1.1", "title": title}
    if base_url:
        feed.update(home_page_url=base_url, feed_url=base_url + "feed.json")
    feed["items"] = [
        {
            "id": one.id,
            "url": one.url,
            "title": one.title,
            "content_text": one.summary,
            "date_modified": f"{one.day}T00:00:00Z",
            "authors": [{"name": one.author}],
        }
        for one in found
    ]
    return json.dumps(feed, ensure_ascii=False, indent=1) + "\n"
