"""`sigma2kql hunt`."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from sigma2kql.api import Compiler, Options, load_input, read_inputs
from sigma2kql.cli.shared_options import (
    Report,
    compile_options,
    load_config,
    make_options,
    progress,
    standard_input,
    use_color,
)
from sigma2kql.diagnostics.diagnostic import Diagnostic, diagnostic, frozen
from sigma2kql.engines.remote import RemoteEngine, TimeRange
from sigma2kql.lint.judge import QUERY_SUFFIX, query_files, read_query
from sigma2kql.model.tree import Compiled, Correlation, Document, LogSource, Rule

if TYPE_CHECKING:
    from sigma2kql.hunt import Outcome

FORMATS = ("table", "ndjson", "csv", "sarif", "timesketch", "html")
LEVELS = ("critical", "high", "medium", "low", "informational")
ENGINES = ("duckdb", "kusto", "loganalytics")
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
REMOTE_JOBS = 4
BLIND = 8  # logs without events that are told one by one
REMOTE_SINCE = "1d"  # what a query over the network looks at where nothing is said: data there is not yours alone


@frozen
class Where:
    """Where to hunt, as the call says."""

    engine: str
    data: tuple[Path, ...]
    cluster: str | None
    database: str | None
    workspace: str | None
    service: str | None
    seconds: float | None


@click.command("hunt")
@compile_options
@click.option("--engine", type=click.Choice(ENGINES), help="Where to run (default: by the options below).")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="duckdb: file or folder of events (repeatable): EVTX, NDJSON, JSON, CSV, Parquet; also gz.",
)
@click.option("--cluster", metavar="URL", help="kusto: address of the cluster or Eventhouse.")
@click.option("--database", help="kusto: name of the database.")
@click.option("--workspace", "workspace_id", metavar="ID", help="loganalytics: id of the workspace (a GUID).")
@click.option("--service", metavar="URL", help="loganalytics: address of the API in another cloud.")
@click.option("--since", metavar="AGE", help="Rows at most this old: 30m, 12h, 7d, 2w (default over the network: 1d).")
@click.option("--from", "start", metavar="TIME", help="Rows from this time on (ISO 8601; UTC where it names no zone).")
@click.option("--to", "stop", metavar="TIME", help="Rows before this time (default: now).")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, help="Rows a rule.")
@click.option("--timeout", "seconds", type=click.FloatRange(1), help="Seconds a query.")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), help="Queries at once (duckdb: threads of each query).")
@click.option("--memory", default="2GB", show_default=True, help="duckdb: most memory of the database.")
@click.option("--logsource", metavar="P/C/S", help="duckdb: what plain events are: product/category/service.")
@click.option("--all-columns", is_flag=True, help="duckdb: load all columns of a table, not just those that are read.")
@click.option(
    "-f", "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="Form of the rows."
)
@click.option("--timeline", is_flag=True, help="Order the hits by time alone, one line each in the table.")
@click.option("--min-level", type=click.Choice(LEVELS[::-1]), help="Leave out rules below this level.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the rows to a file.")
def command(
    form: str,
    output: Path | None,
    limit: int,
    jobs: int | None,
    timeline: bool,
    min_level: str | None,
    **given: Any,
) -> int:
    """Run the queries of rules over data: files on this machine, Kusto, or a Log Analytics workspace.

    Rules are Sigma rules, query documents and *.kql files. Over the network you are who azure-identity finds (az login,
    managed identity, its environment variables); nothing secret is taken on the command line.
    """
    where = _where(given)
    span = _span(given, where.engine)
    options = replace(make_options(load_config(given["config"]), given), union=given["union"] or False)
    report = Report(given["diagnostics_format"], given["quiet"], use_color(given["color"]))
    started = time.perf_counter()
    documents = at_least(_documents(given["paths"]), min_level)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        if where.engine == "duckdb":
            given["limit"] = limit
            total, outcomes = stack.enter_context(_local(where, documents, options, given, span, report, counts, jobs))
        else:
            from sigma2kql.hunt import hunt

            engine, queries = stack.enter_context(_remote(where)), _compiled(documents, options, report)
            total, outcomes = len(queries), hunt(queries, engine, span, limit, jobs or REMOTE_JOBS)
        words = _run(total, outcomes, form, output, timeline, report, counts, given["color"])
    _finish(report, counts, words, time.perf_counter() - started)
    return 1 if report.failed or counts["failed"] or counts["input failed"] else 0


# --------------------------------------------------------------------------------------------------------------------
# The call


def _where(given: dict[str, Any]) -> Where:
    """Raises click.UsageError where the options of several engines, or not enough of one, are given."""
    names = {"duckdb": ["data"], "kusto": ["cluster", "database"], "loganalytics": ["workspace_id"]}
    said = [engine for engine, wanted in names.items() if any(given[name] for name in wanted)]
    engine = given["engine"] or (said[0] if said else None)
    if engine is None:
        raise click.UsageError("say where the data is: --data PATH, --cluster URL --database NAME, or --workspace ID")
    if others := [e for e in said if e != engine]:
        raise click.UsageError(f"options of {' and '.join(others)} do not go with --engine {engine}")
    missing = [f"--{name.removesuffix('_id')}" for name in names[engine] if not given[name]]
    if missing:
        raise click.UsageError(f"--engine {engine} needs {' and '.join(missing)}")
    if given["service"] and engine != "loganalytics":
        raise click.UsageError("--service is for --engine loganalytics")
    return Where(
        engine,
        given["data"],
        given["cluster"],
        given["database"],
        given["workspace_id"],
        given["service"],
        given["seconds"],
    )


def _span(given: dict[str, Any], engine: str) -> TimeRange | None:
    now = datetime.now(UTC)
    if given["since"] and given["start"]:
        raise click.UsageError("--since and --from exclude each other")
    stop = _moment("--to", given["stop"]) if given["stop"] else now
    since = given["since"] or (REMOTE_SINCE if engine != "duckdb" and not given["start"] else None)
    if given["start"]:
        start = _moment("--from", given["start"])
    elif since:
        found = re.fullmatch(r"(\d{1,6})([mhdw])", since)
        if found is None:
            raise click.UsageError(f"--since takes an age such as 30m, 12h, 7d or 2w, not `{since}`")
        try:
            start = stop - timedelta(seconds=int(found[1]) * _UNITS[found[2]])
        except OverflowError:
            raise click.UsageError(f"--since {since} is before all time") from None
    elif given["stop"]:
        start = datetime(1, 1, 1, tzinfo=UTC)
    else:
        return None
    if start >= stop:
        raise click.UsageError("the time range is empty: it ends before it starts")
    return TimeRange(start, stop)


def _moment(option: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"{option} takes a time such as 2026-01-31 or 2026-01-31T08:00:00Z, not `{text}`"
        ) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _logsource(text: str | None) -> LogSource | None:
    if text is None:
        return None
    parts = [part.strip().lower() or None for part in text.split("/")]
    if len(parts) > 3 or not any(parts):
        raise click.UsageError("--logsource takes product/category/service, such as windows/process_creation/")
    product, category, service = (*parts, None, None)[:3]
    return LogSource(category, product, service)


def at_least(documents: list[Document], level: str | None) -> list[Document]:
    """The rules of a level and above (one that states none is informational), and those that feed a correlation."""
    if level is None:
        return documents
    ranks = {name: number for number, name in enumerate(LEVELS)}
    fed = {r.name for d in documents if isinstance(d, Correlation) for r in d.rules}

    def kept(one: Document) -> bool:
        if not isinstance(one, Rule | Correlation) or {one.meta.id, one.meta.name} & fed:
            return True
        return ranks.get(one.meta.level or "", ranks["informational"]) <= ranks[level]

    return [one for one in documents if kept(one)]


def _documents(paths: Sequence[str]) -> list[Document]:
    rules = [path for path in paths if not path.endswith(QUERY_SUFFIX) or Path(path).is_dir()]
    found = [document for one in read_inputs(rules, standard_input(rules)) for document in load_input(one)]
    return [*found, *map(read_query, query_files(paths))]


# --------------------------------------------------------------------------------------------------------------------
# Engines


def _remote(where: Where) -> RemoteEngine:
    if where.engine == "kusto":
        from sigma2kql.engines.kusto import Kusto

        assert where.cluster is not None
        assert where.database is not None
        return Kusto(where.cluster, where.database, where.seconds or 240)
    from sigma2kql.engines.loganalytics import SERVICE, LogAnalytics

    assert where.workspace is not None
    return LogAnalytics(where.workspace, where.service or SERVICE, int(where.seconds or 180))


def _compiled(documents: Sequence[Document], options: Options, report: Report) -> list[tuple[Compiled, str]]:
    """Every result that has a query, with the time column that a range applies to."""
    from sigma2kql.hunt.queries import compile_one

    compiler = Compiler(options, documents)
    queries = []
    for document in documents:
        done = compile_one(compiler, document)
        if not report.add(done) and done.kql is not None:
            queries.append((done, _time(done, compiler.target.time)))
    return queries


def _time(done: Compiled, default: str | None) -> str:
    return done.query.time if done.query is not None else default or "TimeGenerated"


@contextmanager
def _local(
    where: Where,
    documents: Sequence[Document],
    options: Options,
    given: dict[str, Any],
    span: TimeRange | None,
    report: Report,
    counts: Counter[str],
    jobs: int | None,
) -> Iterator[tuple[int, Iterator[Outcome]]]:
    """How many queries there are to run over the events of files, and their outcomes."""
    from sigma2kql.engines.duckdb_process import DuckDBProcess
    from sigma2kql.hunt.gather import gather, survey
    from sigma2kql.hunt.local import hunt_tables
    from sigma2kql.hunt.queries import choose, plan_queries

    logsource = _logsource(given["logsource"])
    options = replace(options, prefilter=False)  # prefilters are for an index; there is none here
    settled = given["target"] or options.tables or options.builtin or logsource
    choices = (options,) if settled else choose(options, *survey(where.data))
    made = plan_queries(documents, choices, given["all_columns"])

    def unreadable(problem: Diagnostic) -> None:
        counts["input failed"] += problem.severity == "error"
        report.show([problem])

    with DuckDBProcess(given["memory"], jobs, where.seconds) as engine:
        if not given["quiet"] and sys.stderr.isatty():
            click.echo("reading events ...", err=True)
        gathered = gather(where.data, list(made.asked.values()), engine, unreadable, span, logsource)
        counts["events"] = gathered.events
        counts["rows read"] = gathered.rows.total()
        counts["not asked for"] = gathered.not_asked
        counts["out of range"] = gathered.out_of_range
        report.show(gathered.notices())
        for done in made.results:
            report.add(done)
        filled = {name: gathered.rows[name] for name in made.asked}
        total = sum(map(len, made.queries))
        yield total, hunt_tables(made, engine, filled, given["limit"])


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as an interrupt does: what it made for a while is removed."""
    import signal
    import threading

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {name: signal.signal(getattr(signal, name), end) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


# --------------------------------------------------------------------------------------------------------------------
# Running


def _run(
    total: int,
    outcomes: Iterator[Outcome],
    form: str,
    output: Path | None,
    timeline: bool,
    report: Report,
    counts: Counter[str],
    color: str,
) -> list[str]:
    """Writes the hits when all queries have run, and gives a summary of them in words."""
    from sigma2kql.cli.hit_rows import in_words, write_hits
    from sigma2kql.hunt.hits import Hit, hits_of

    hits: list[Hit] = []
    blind: Counter[str] = Counter()
    with progress(total, "hunting", report.quiet) as advance:
        for outcome in outcomes:
            counts["run"] += 1
            report.show(outcome.problems)
            if outcome.rows is None:
                counts["failed"] += 1
            else:
                counts["rows"] += len(outcome.rows.rows)
                counts["hits"] += bool(outcome.rows.rows)
                if outcome.seen == 0:
                    counts["idle"] += 1
                    blind[outcome.blind] += 1
                hits += hits_of(outcome)
            advance(1)
    report.show(_unseen(blind, counts["events"]))
    with _opened(output) as stream:
        colored = output is None and use_color(color) and sys.stdout.isatty()
        write_hits(form, hits, stream, _width(output), colored, timeline)
    return in_words(hits)


def _unseen(blind: Counter[str], events: int) -> Iterator[Diagnostic]:
    """What is to be said of rules that could look at none of the events (W694)."""
    for about, count in blind.most_common(BLIND):
        rules = f"{count:,} rule{'s' * (count != 1)}"
        yield diagnostic("W694", f"0 of {events:,} events can be seen by {rules}, because none is of {about}")
    if len(blind) > BLIND:
        rest = blind.most_common()[BLIND:]
        count = sum(number for _, number in rest)
        yield diagnostic("W694", f"0 of {events:,} events can be seen by {count:,} rules of {len(rest)} further logs")


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """stdout, or a file that is there once it is whole."""
    if output is None:
        yield sys.stdout
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            yield stream
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)


def _width(output: Path | None) -> int:
    import shutil

    return shutil.get_terminal_size().columns if output is None and sys.stdout.isatty() else 160


def _finish(report: Report, counts: Counter[str], words: list[str], seconds: float) -> None:
    if report.form != "text" or report.quiet:
        report.finish()
        return
    quiet, report.quiet = report.quiet, True
    report.finish()
    report.quiet = quiet
    run, failed, idle = counts["run"], counts["failed"], counts["idle"]
    text = f"{run:,} quer{'y' if run == 1 else 'ies'} run: {counts['hits']:,} with hits, {counts['rows']:,} rows"
    text += f", {failed:,} failed" if failed else ""
    text += f"; {idle:,} without events" if idle else ""
    text += f"; {report.failed:,} of {report.documents:,} documents not converted" if report.failed else ""
    if counts["events"]:
        text += f"; {counts['events']:,} events read, {counts['rows read']:,} rows made of them"
        text += f", {counts['not asked for']:,} not asked for" if counts["not asked for"] else ""
        text += f", {counts['out of range']:,} outside the time range" if counts["out of range"] else ""
    for line in words:
        click.echo(line, err=True)
    click.echo(f"{text}; {seconds:.1f} s", err=True)
