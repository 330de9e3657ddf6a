"""`sigma2kql deploy plan` and `sigma2kql deploy apply`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from difflib import unified_diff
from pathlib import Path
from typing import Any

import click

from sigma2kql import deploy
from sigma2kql.api import Options, compile_inputs, fault, prepare_artifact, read_inputs, service_of
from sigma2kql.artifacts.settings import Settings, merge, merge_rule
from sigma2kql.cli.artifact_files import folder_settings
from sigma2kql.cli.shared_options import (
    Report,
    compile_options,
    empty_folders,
    load_config,
    make_options,
    progress,
    standard_input,
    use_color,
)
from sigma2kql.deploy import Change, Found, Outcome, Service, Wanted
from sigma2kql.deploy.services import GRAPH, SENTINEL, SENTINELS, Client
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, diagnostic, frozen
from sigma2kql.diagnostics.render import printable
from sigma2kql.model.tree import Compiled

DONE = {"create": "created", "update": "updated", "delete": "deleted"}
SIGNS = {"create": "+", "update": "~", "delete": "-", "orphan": "?", "foreign": "!", "unchanged": "="}
CHANGES = 3  # exit status of --exit-code: 1 and 2 are failures here, as everywhere
SHOWN = 100  # characters of a value
LINES = 40  # of a difference between texts


@frozen
class Goal:
    """Where to: Microsoft Sentinel's workspace or the tenant's Defender XDR, or a file that says what is there."""

    defender: bool
    subscription: str | None
    group: str | None
    workspace: str | None
    url: str | None
    state: tuple[Path, ...]

    def connect(self) -> AbstractContextManager[Service]:
        """The service, to be entered. Raises click.UsageError for a missing option, Sigma2KqlError (E751)."""
        if self.defender:
            return deploy.Defender(Client(self.url or GRAPH, {GRAPH}))
        given = {"--subscription": self.subscription, "--resource-group": self.group, "--workspace": self.workspace}
        missing = [option for option, value in given.items() if not value]
        if missing:
            raise click.UsageError(f"Microsoft Sentinel needs {', '.join(missing)} (or --state FILE for a plan)")
        client = Client(self.url or SENTINEL, SENTINELS)
        return deploy.Sentinel(self.subscription or "", self.group or "", self.workspace or "", client)


@dataclass(slots=True)
class Work:
    """What was compiled and what is to be said about it."""

    wanted: list[Wanted]
    report: Report
    failures: int = 0  # of the deployment, beside the rules that failed
    empty: int = 0  # folders that were named and hold no rule: not checked out, or not mounted

    def fail(self, problem: Diagnostic) -> None:
        self.failures += 1
        self.report.show([problem])

    def status(self) -> int:
        return 1 if self.report.failed or self.failures else 0


@click.group("deploy")
def command() -> None:
    """Plan and apply rules to Microsoft Sentinel or Defender XDR.

    Only what carries the owner's mark is ever changed or deleted. The target says which of the two it goes to: xdr
    to Defender XDR, the others to Microsoft Sentinel.
    """


def _options(function: Callable[..., int]) -> Callable[..., int]:
    """What both commands take, beside what every command that compiles takes."""
    for option in reversed(
        (
            click.option("--subscription", envvar="AZURE_SUBSCRIPTION_ID", help="Subscription id (a GUID)."),
            click.option("--resource-group", "group", envvar="AZURE_RESOURCE_GROUP", help="Resource group."),
            click.option("--workspace", envvar="SENTINEL_WORKSPACE", help="Name of the Log Analytics workspace."),
            click.option(
                "--owner",
                default=deploy.DEFAULT_OWNER,
                show_default=True,
                help="Whose rules these are: one name for each repository that deploys to the same place.",
            ),
            click.option("--prune", is_flag=True, help="Delete the owner's rules that are not among the PATHs."),
            click.option("--adopt", is_flag=True, help="Take over rules of the same id that lack the owner's mark."),
            click.option(
                "-f",
                "--format",
                "form",
                type=click.Choice(("text", "json")),
                default="text",
                show_default=True,
                help="Form of the plan on stdout.",
            ),
            click.option("--service", "url", envvar="SIGMA2KQL_SERVICE", help="Address of the API in another cloud."),
        )
    ):
        function = option(function)
    return compile_options(function)


@click.command("plan")
@_options
@click.option(
    "--state",
    multiple=True,
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Compare with an export in place of the service: a list API's answer or an ARM template (repeatable).",
)
@click.option("--exit-code", is_flag=True, help="Exit status 3 when there are changes (1 and 2 stay failures).")
def _plan(form: str, exit_code: bool, **given: Any) -> int:
    """Show what `apply` would create, change and delete. Changes nothing.

    Exit status: 0 with or without changes; 3 with changes under --exit-code; 1 when a rule has an error.
    """
    goal, work = _start(given, form)
    if goal.state:
        found = list(deploy.read_state(goal.state, goal.defender))
    else:
        with goal.connect() as service:
            found = list(service.read())
    plan = _make(work, found, given)
    if form == "json":
        click.echo(_as_json(plan, goal, given["owner"]))
    else:
        _echo(_as_text(plan))
    work.report.finish("planned")
    _summarise(plan, goal, work.report)
    changed = exit_code and any(change.action in DONE for change in plan)
    return work.status() or (CHANGES if changed else 0)


@click.command("apply")
@_options
@click.option(
    "-y", "--yes", is_flag=True, help="Make the changes. Without it they are shown, and asked for on a terminal."
)
def _apply(form: str, yes: bool, **given: Any) -> int:
    """Create, change and (with --prune) delete, so that what is there is what the rules say.

    Without --yes nothing is changed, unless you confirm it on a terminal. Exit status: 1 when a rule has an error or a
    change failed; the others are made all the same.
    """
    goal, work = _start(given, form)
    with goal.connect() as service:
        plan = _make(work, list(service.read()), given)
        if form == "text":
            _echo(_as_text(plan))
        _summarise(plan, goal, work.report)
        pending = [change for change in plan if change.action in DONE]
        agreed = bool(pending) and (yes or _confirmed(len(pending)))
        outcomes = _carry_out(plan, service, form, work) if agreed else []
    if form == "json":
        click.echo(_as_json(plan, goal, given["owner"], outcomes))
    work.report.finish("planned")
    if pending and not agreed:
        click.echo("nothing was changed: give --yes to make these changes", err=True)
    elif outcomes and not work.report.quiet:
        made = Counter(DONE[o.change.action] for o in outcomes if o.status == "done")
        made["failed"] = sum(o.status == "failed" for o in outcomes)
        click.echo(", ".join(f"{count} {word}" for word, count in made.items() if count), err=True)
    return work.status()


plan_command = _plan
apply_command = _apply
command.add_command(plan_command)
command.add_command(apply_command)


# --------------------------------------------------------------------------------------------------------------------
# From rules to a plan


def _start(given: dict[str, Any], form: str) -> tuple[Goal, Work]:
    """The goal, and everything wanted. Options of this command are checked before anything is read."""
    if not deploy.OWNER.fullmatch(given["owner"]):
        raise click.UsageError("--owner takes up to 64 letters, digits, dots, dashes and underscores")
    told = {name: given.pop(name) for name in ("subscription", "group", "workspace", "url")}
    config = load_config(given["config"])
    options = make_options(config, given)
    goal = Goal(service_of(options) == "defender", **told, state=given.get("state", ()))
    if not goal.state:
        goal.connect()  # a wrong destination is told before the work
    inputs = list(read_inputs(given["paths"], standard_input(given["paths"])))
    work = Work([], Report(given["diagnostics_format"], given["quiet"], use_color(given["color"])))
    empty = empty_folders(given["paths"], inputs)
    work.report.show(empty)
    work.empty = len(empty)
    base = merge(Settings(), config.deploy, config.spans.get("deploy"))
    name = "xdr-json" if goal.defender else "bicep"  # the format that has a place for rules, hunts and functions
    seen: dict[tuple[str, str], str] = {}
    with progress(len(inputs), "compiling", work.report.quiet or form == "json") as advance:
        last = None
        for one, done in compile_inputs(inputs, options):
            if one is not last:
                advance(1)
                last = one
            if not work.report.add(done) and done.kql is not None:
                wish = folder_settings(base, one, config)
                _want(done, wish, options, name, given["owner"], work, seen)
    return goal, work


def _want(
    done: Compiled,
    settings: Settings,
    options: Options,
    name: str,
    owner: str,
    work: Work,
    seen: dict[tuple[str, str], str],
) -> None:
    """Add what one rule is deployed as, or say why it cannot be."""
    span = done.document.origin.span
    try:
        settings = merge_rule(settings, done.document.meta.custom, span)
        prepared = prepare_artifact(done, name, settings, options)
        made = deploy.make_wanted(prepared.artifact, settings, owner, span)
        _once(made, seen)
    except Sigma2KqlError as error:
        work.report.fail(done, error.diagnostics)
    except Exception as error:
        work.report.fail(done, [fault(error, span)])
    else:
        work.report.show(prepared.diagnostics)
        work.wanted += made


def _once(made: Iterable[Wanted], seen: dict[tuple[str, str], str]) -> None:
    """Two documents under one name: the second is an error, the first stands."""
    for one in made:
        key = (one.collection, one.name.lower())
        if key in seen:
            hint = "give every rule its own id"
            raise Sigma2KqlError(
                [diagnostic("E711", f"{one.name} is already deployed from {seen[key]}", one.span, hint)]
            )
        seen[key] = _path(one) or ""


def _make(work: Work, found: list[Found], given: dict[str, Any]) -> tuple[Change, ...]:
    """The plan; pruning is off where not every rule is known, for then the missing ones would be deleted."""
    incomplete = _incomplete(work) if given["prune"] else ""
    if incomplete:
        work.fail(diagnostic("E757", f"nothing is deleted: {incomplete}"))
    prune = given["prune"] and not incomplete
    plan = deploy.make_plan(work.wanted, found, given["owner"], prune=prune, adopt=given["adopt"])
    for change in plan:
        if change.action == "foreign":
            assert change.found is not None
            whose = _whose(change.found)
            message = f"{change.collection}/{change.name} ({change.found.title}) is there already and {whose}"
            span = change.wanted.span if change.wanted else None
            work.fail(diagnostic("E755", message, span, "--adopt takes it over"))
    return plan


def _incomplete(work: Work) -> str:
    """Why rules may be missing from what is wanted though they are still meant to run; empty where none are."""
    if work.report.failed:
        return f"{work.report.failed} of the rules failed"
    if not work.wanted:
        return "none of the PATHs gives a rule"
    return f"{work.empty} of the folders named hold no rule" if work.empty else ""


def _whose(found: Found) -> str:
    if found.owner is None:
        return "has no mark of sigma2kql"
    return f"is a copy of {found.marked}" if found.copied else f"is marked as {found.owner}'s"


# --------------------------------------------------------------------------------------------------------------------
# Making the changes


def _confirmed(count: int) -> bool:
    """Asked on a terminal only."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    return click.confirm(f"Make {count} change{'s' * (count != 1)}?", err=True)


def _carry_out(plan: Iterable[Change], service: Service, form: str, work: Work) -> list[Outcome]:
    outcomes = []
    for outcome in deploy.apply(plan, service):
        change = outcome.change
        if outcome.problem is not None:
            span = change.wanted.span if change.wanted else None
            message = f"{change.collection}/{change.name} ({change.title}): {outcome.problem.message}"
            work.fail(replace(outcome.problem, message=message, span=span))
        if form == "text" and outcome.status != "skipped":
            word = DONE[change.action] if outcome.status == "done" else f"failed to {change.action}"
            _echo([f"{word:<8} {_title(change)}  {change.collection}/{change.name}"])
        outcomes.append(outcome)
    return outcomes


# --------------------------------------------------------------------------------------------------------------------
# Showing a plan


def _as_text(plan: Iterable[Change]) -> list[str]:
    """A table of what changes, differences under it; what stays as it is is only counted."""
    shown = [change for change in plan if change.action != "unchanged"]
    width = min(70, max((len(_title(change)) for change in shown), default=0))
    lines = []
    for change in shown:
        name = f"{change.collection}/{printable(change.name)}"
        lines.append(f"{SIGNS[change.action]} {change.action:<7}  {_title(change):<{width}}  {name}")
        if change.action == "update":
            for difference in change.differences:
                lines += _difference(difference.property, difference.before, difference.after)
    return lines


def _difference(name: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        rows = list(unified_diff(before.split("\n"), after.split("\n"), n=0, lineterm=""))[2:]
        rows = [row for row in rows if not row.startswith("@@")]
        more = [f"... {len(rows) - LINES} more lines"] if len(rows) > LINES else []
        return [f"    {printable(name)}:", *(f"      {_short(printable(row))}" for row in [*rows[:LINES], *more])]
    return [f"    {printable(name)}: {_shown(before)} -> {_shown(after)}"]


def _shown(value: Any) -> str:
    return "(nothing)" if value is None else _short(printable(json.dumps(value, ensure_ascii=False)))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _title(change: Change) -> str:
    text = printable(change.title)
    return text if len(text) <= 70 else text[:67] + "..."


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _path(wanted: Wanted | None) -> str | None:
    return wanted.span.source.path if wanted is not None and wanted.span is not None else None


def _as_json(plan: tuple[Change, ...], goal: Goal, owner: str, outcomes: Iterable[Outcome] = ()) -> str:
    results = {(o.change.collection, o.change.name): o for o in outcomes}
    changes = []
    for change in plan:
        outcome = results.get((change.collection, change.name))
        row: dict[str, Any] = {
            "action": change.action,
            "collection": change.collection,
            "name": change.name,
            "title": change.title,
            "path": _path(change.wanted),
            "differences": [{"property": d.property, "before": d.before, "after": d.after} for d in change.differences],
        }
        if outcome is not None:
            row["status"] = outcome.status
            row["error"] = outcome.problem.as_dict() if outcome.problem else None
        changes.append(row)
    service = "defender" if goal.defender else "sentinel"
    body = {"service": service, "owner": owner, "summary": _counts(plan), "changes": changes}
    return json.dumps(body, ensure_ascii=False, indent=2)


def _counts(plan: Iterable[Change]) -> dict[str, int]:
    counts = Counter(change.action for change in plan)
    return {action: counts[action] for action in ("create", "update", "delete", "unchanged", "orphan", "foreign")}


def _stay(plan: Iterable[Change]) -> str:
    """What becomes of the orphans."""
    nameless = sum(
        change.action == "orphan" and change.found is not None and not change.found.marked for change in plan
    )
    stay = f"{nameless} with a mark that names no id may be copies: delete by hand" if nameless else ""
    return "--prune deletes them" + (f", but {stay}" if stay else "")


def _summarise(plan: tuple[Change, ...], goal: Goal, report: Report) -> None:
    if report.quiet:
        return
    counts = _counts(plan)
    where = "Defender XDR" if goal.defender else f"Microsoft Sentinel, workspace {goal.workspace or '(exported state)'}"
    text = f"{where}: {counts['create']} to create, {counts['update']} to change, {counts['delete']} to delete, "
    text += f"{counts['unchanged']} unchanged"
    if counts["orphan"]:
        text += f"; {counts['orphan']} of this owner's are no longer among the rules ({_stay(plan)})"
    if counts["foreign"]:
        text += f"; {counts['foreign']} not this owner's, left alone"
    click.echo(text, err=True)
