"""Which kind of rule serves best, and whether it can run at once: the reasons, in words.

Place in the flow: asked by `api` for `-f auto` and for `explain`. Invariant: a choice has its reason, and a verdict on
near real time names the lists that it rests on.

Source: "Compare analytics rules and custom detections": Microsoft recommends custom detections for new rules.
"""

from __future__ import annotations

from sigma2kql.artifacts.custom_detection import sentinel_only
from sigma2kql.artifacts.describe import Prepared
from sigma2kql.artifacts.kinds import Detection
from sigma2kql.artifacts.kql_tokens import scan
from sigma2kql.artifacts.near_real_time import judge_continuous, judge_near_real_time
from sigma2kql.artifacts.query_columns import Output
from sigma2kql.artifacts.settings import Settings
from sigma2kql.model.tree import Compiled, Correlation

AGAINST = ("W765", "W766", "W767", "W768")  # what a custom detection cannot do as the rule asks


def reason_for_rule(settings: Settings, detection: Prepared | None) -> str | None:
    """Why an analytics rule serves better than this custom detection, or None."""
    if settings.kind == "Scheduled" and settings.suppressed:
        return "suppression is asked for, which custom detections do not have"
    lost = next((d for d in detection.diagnostics if d.code in AGAINST), None) if detection else None
    return lost.message if lost else None


def reason_for_detection(prepared: Prepared) -> str:
    """Why a custom detection serves."""
    assert isinstance(prepared.artifact, Detection)
    if prepared.artifact.frequency == 0:
        return "a custom detection runs it continuously"
    return "Microsoft recommends custom detections for new rules, and one can do all that is asked for"


def words_of_verdicts(done: Compiled, plain: str | None, output: Output, basis: str) -> list[str]:
    """A line each for the two kinds of rule. `plain` is the query without lists, where there is such a form."""
    query = done.kql or ""
    tables = tuple((done.table or "").split(", ")) if done.table else scan(query).tables
    if isinstance(done.document, Correlation):
        rule = detection = "no: a correlation looks at its whole time span"
    else:
        verdict = judge_near_real_time(scan(query))
        rule = f"no: {', '.join(verdict.reasons)}" if verdict.reasons else "yes"
        found = [judge_continuous(scan(text), tables, output.columns, basis) for text in (query, plain) if text]
        if not found[0].reasons:
            detection = "yes"
        elif not found[-1].reasons:
            detection = "yes, written without lists and prefilters"
        else:
            detection = f"no: {', '.join(found[-1].reasons)}"
        detection += f" (by what is {basis})"
    data = "Sentinel's data" if sentinel_only(tables) else "Defender's data"
    return [
        f"near real time as an analytics rule: {rule}",
        f"continuously as a custom detection on {data}: {detection}",
    ]
