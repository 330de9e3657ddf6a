"""Recorded attacks of a SigmaHQ checkout: which rule must match which events.

Place in the flow: beside `events`, for `sigma2kql test`. Invariant: a set names only files inside its checkout; every
info.yml gives at least one set or a diagnostic.

Layout: `regression_data/<path of the rule without .yml>/info.yml`, with `rule_metadata` (id, title) and
`regression_tests_info` (name, type, path from the checkout's root, and match_count where it is known).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sigma2kql.diagnostics.diagnostic import Diagnostic, diagnostic, fail, frozen
from sigma2kql.events.event_file import Report, place
from sigma2kql.system.bounded_files import read_text

FOLDER = "regression_data"
INFO_BYTES = 1 << 16


@frozen
class RegressionSet:
    """One recorded attack. `events` is None where the info states no test; `json` holds the same events as JSON.

    `matches` is how many events the rule must match; None is unstated, which means at least one.
    """

    info: Path
    rule: Path | None
    rule_id: str
    title: str
    name: str
    events: Path | None
    json: Path | None
    provider: str
    matches: int | None


def find_checkout(path: Path) -> Path | None:
    """The nearest folder at or above `path` that holds regression_data/."""
    start = path.resolve()
    return next((folder for folder in (start, *start.parents) if (folder / FOLDER).is_dir()), None)


def regression_sets(path: Path, report: Report | None = None) -> Iterator[RegressionSet]:
    """The recorded attacks for a rule file, a folder of rules, a checkout or a part of its regression_data/.

    Sorted by path. An info.yml that cannot be used is given to `report`; without it E668 is raised.
    """
    checkout = find_checkout(path)
    if checkout is None:
        return
    inside = path.resolve().relative_to(checkout)
    parts = inside.parts[1:] if inside.parts[:1] == (FOLDER,) else inside.parts
    if path.is_file():
        parts = parts[:-1] if path.name == "info.yml" else (*parts[:-1], path.stem)
    start = checkout.joinpath(FOLDER, *parts)
    for info in sorted(start.rglob("info.yml")):
        try:
            yield from _sets(info, checkout)
        except _UnusableInfo as error:
            found = _unusable(info, str(error))
            if report is None:
                raise fail(found.code, found.message, found.span) from None
            report(found)


class _UnusableInfo(Exception):  # noqa: N818 - becomes a diagnostic where the file is known
    pass


def _unusable(info: Path, reason: str) -> Diagnostic:
    return diagnostic("E668", f"{info}: {reason}", place(info))


def _sets(info: Path, checkout: Path) -> Iterator[RegressionSet]:
    data = _load(info)
    rules = data.get("rule_metadata")
    first = rules[0] if isinstance(rules, list) and rules else None
    if not isinstance(first, dict) or not isinstance(first.get("id"), str):
        raise _UnusableInfo("it names no rule")
    rule = checkout / info.parent.relative_to(checkout / FOLDER).parent / f"{info.parent.name}.yml"
    common = (info, rule if rule.is_file() else None, first["id"], str(first.get("title", "")))
    tests = data.get("regression_tests_info") or []
    if not isinstance(tests, list):
        raise _UnusableInfo("regression_tests_info is not a list")
    if not tests:
        yield RegressionSet(*common, "", None, None, "", None)
    for test in tests:
        if not isinstance(test, dict) or not isinstance(test.get("path"), str):
            raise _UnusableInfo("a test names no event file")
        events = _inside(checkout, test["path"])
        count = test.get("match_count")
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise _UnusableInfo(f"match_count is {count!r}")
        json = events.with_suffix(".json")
        name, provider = str(test.get("name", "")), str(test.get("provider", ""))
        yield RegressionSet(*common, name, events, json if json.is_file() else None, provider, count)


def _load(info: Path) -> dict[str, Any]:
    import yaml

    try:
        if info.stat().st_size > INFO_BYTES:
            raise _UnusableInfo(f"it is longer than {INFO_BYTES} bytes")
        data = yaml.safe_load(read_text(info, INFO_BYTES, "utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise _UnusableInfo(f"it cannot be read: {str(error).splitlines()[0][:200]}") from None
    if not isinstance(data, dict):
        raise _UnusableInfo("it is not a map")
    return data


def _inside(checkout: Path, stated: str) -> Path:
    """The event file, which must exist and lie in the checkout, links resolved."""
    try:
        path = (checkout / stated).resolve()
        if not path.is_relative_to(checkout):
            raise _UnusableInfo(f"{stated} lies outside the checkout")
        if not path.is_file():
            raise _UnusableInfo(f"{stated} does not exist")
    except (OSError, ValueError):
        raise _UnusableInfo(f"{stated!r} is no path") from None
    return path
