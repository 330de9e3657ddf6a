"""The stages composed: files or text in, `Compiled` values out. The library's public face.

Place in the flow: above every stage; only here do they meet. Invariant: every document read gives exactly one result,
in input order, and no fault of one costs another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, assert_never

from sigma2kql.diagnostics.diagnostic import (
    Diagnostic,
    Sigma2KqlError,
    Source,
    Span,
    diagnostic,
    did_you_mean,
    fail,
    immutable,
)
from sigma2kql.kql import query as emission
from sigma2kql.kql.naming import columns_read, output_columns as columns_of_query
from sigma2kql.kql.or_chains import emit_without_lists
from sigma2kql.language.strings import placeholders, substitute
from sigma2kql.load.documents import decode, load
from sigma2kql.map.by_source import together
from sigma2kql.map.one_table import Mapped
from sigma2kql.map.rule import map_everywhere, map_further, map_rule
from sigma2kql.map.target import Target, columns_of_table, load_target, mapping_stamps
from sigma2kql.map.target_file import Service
from sigma2kql.model.named_rules import NamedRules, place_of
from sigma2kql.model.query_facts import Liveness
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import (
    And,
    Broken,
    Column,
    Compiled,
    Correlation,
    Document,
    Expr,
    Field,
    Filter,
    Match,
    Metadata,
    NativeQuery,
    Origin,
    Query,
    Rule,
)
from sigma2kql.system.bounded_files import read_file

if TYPE_CHECKING:
    from sigma2kql.artifacts.describe import Prepared
    from sigma2kql.artifacts.query_columns import Output
    from sigma2kql.artifacts.settings import Settings
    from sigma2kql.workspace.choice import Choice
    from sigma2kql.workspace.profile import Profile

SUFFIXES = (".yml", ".yaml")
STANDARD_INPUT = "-"
_RULES = re.compile(rb"(?:rules|correlation)[\"']?\s*:")  # every filter says which rules it is for
# Files that go through one stage before the next begins: a twentieth faster than one by one, as a stage stays in the
# processor's cache.
_AT_ONCE = 32


@immutable
class Options:
    """How to compile. `tables`: the tables that the workspace has (empty: any); `builtin`: ASIM functions by built-in
    name.

    `prefer`: tables that come first; `sources`: the data sources that are there (empty: any), whose tables come first
    and whose verdicts count. `time`: name of the timestamp column in place of the table's own; `placeholders`: values
    of `%name%`; `prefilter`: whether index prefilters are added; `union`: all tables that carry a rule, not the best;
    `strict`: a broader or narrower query is an error; `profile`: what the workspace really holds: tables are chosen by
    it.
    """

    target: str = "sentinel"
    mappings: tuple[Path, ...] = ()
    tables: tuple[str, ...] = ()
    prefer: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    placeholders: Mapping[str, Sequence[str]] = field(default_factory=dict)
    builtin: bool = False
    time: str | None = None
    union: bool = False
    strict: bool = False
    prefilter: bool = True
    profile: Profile | None = None


@immutable
class Input:
    """One file as read: the path as the user named it, the folder it was found under and its bytes (or why there are
    none).
    """

    path: str
    root: Path | None
    data: bytes
    problem: str = ""


def find_files(paths: Sequence[str]) -> Iterator[tuple[str, Path | None, str]]:
    """Every rule file of the paths, directories recursively and sorted; links to directories are not followed.

    Gives (path, folder it was found under; None where it was named itself, why it cannot be read): a folder that cannot
    be listed and a link to one are given with the reason, for what is in them is missing. Raises Sigma2KqlError for a
    missing path.
    """
    missing = [p for p in paths if p != STANDARD_INPUT and not Path(p).exists()]
    if missing:
        raise Sigma2KqlError(diagnostic("E802", f"no such file or directory: {path}") for path in missing)
    for path in paths:
        if path != STANDARD_INPUT and Path(path).is_dir():
            yield from _walk(path, Path(path))
        else:
            yield path, None, ""


def _walk(path: str, root: Path) -> Iterator[tuple[str, Path | None, str]]:
    unlisted: list[OSError] = []
    for folder, folders, files in os.walk(path, onerror=unlisted.append):
        folders.sort()
        for name in folders:
            inner = os.path.join(folder, name)  # noqa: PTH118 - keeps the path as it was named
            if os.path.islink(inner):  # noqa: PTH114
                yield inner, root, "a link to a folder is not followed: name the folder itself"
        for name in sorted(files):
            low = name.lower()
            if low.endswith(SUFFIXES) and ".events." not in low:  # the events of a rule lie beside it
                yield os.path.join(folder, name), root, ""  # noqa: PTH118
    for error in unlisted:
        yield str(error.filename or path), root, f"the folder cannot be listed: {error.strerror or error}"


def read_inputs(paths: Sequence[str], standard_input: bytes = b"") -> Iterator[Input]:
    """The files with their bytes; one that cannot be read says so in `problem`."""
    for path, root, problem in find_files(paths):
        if path == STANDARD_INPUT:
            yield Input("<stdin>", None, standard_input)
            continue
        if problem:
            yield Input(path, root, b"", problem)
            continue
        try:
            yield Input(path, root, read_file(path))
        except OSError as error:
            yield Input(path, root, b"", error.strerror or str(error))


def load_input(one: Input) -> tuple[Document, ...]:
    """The documents of one file; a file that cannot be read or decoded is one broken document."""
    try:
        if one.problem:
            raise Sigma2KqlError(
                [diagnostic("E803", f"cannot read the file: {one.problem}", Span(Source(one.path, ""), 0, 0))]
            )
        return load(decode(one.path, one.data))
    except Sigma2KqlError as error:
        problems = error.diagnostics
    except Exception as error:
        problems = (fault(error, Span(Source(one.path, ""), 0, 0)),)
    source = problems[0].span.source if problems[0].span else Source(one.path, "")
    return (Broken(Origin(source, 0, Span(source, 0, 0)), Metadata(), problems),)


def fault(error: Exception, where: Span) -> Diagnostic:
    """A fault of our own, which must not cost the other documents; raised again where its place is asked for.

    Every command takes one document at a time into a `try` that ends in this (`tests/cli/test_faults.py`).
    """
    if os.environ.get("SIGMA2KQL_DEBUG"):
        raise error
    hint = "please report it with the rule; SIGMA2KQL_DEBUG=1 shows where it happened"
    return diagnostic("E899", f"internal error: {type(error).__name__}: {error}", where, hint)


def compile_inputs(inputs: Iterable[Input], options: Options) -> Iterator[tuple[Input, Compiled]]:
    """Every document of the files, compiled, in order.

    Filters and correlations reach across files, so where one occurs all files are loaded first; else a few files are
    held at a time.
    """
    inputs = list(inputs)
    compiler = Compiler(options)
    if not any(map(_links, inputs)):
        for start in range(0, len(inputs), _AT_ONCE):
            loaded = [(one, document) for one in inputs[start : start + _AT_ONCE] for document in load_input(one)]
            yield from [(one, compiler.compile(document)) for one, document in loaded]
        return
    loaded = [(one, document) for one in inputs for document in load_input(one)]
    compiler = compiler.knowing([document for _, document in loaded])
    for one, document in loaded:
        yield one, compiler.compile(document)


def _links(one: Input) -> bool:
    """Whether a file holds a filter or a correlation; only what has their word is read to find out."""
    if not _RULES.search(one.data):
        return False
    return any(isinstance(document, Filter | Correlation) for document in load_input(one))


class ConvertOptions(TypedDict, total=False):
    """The options of `convert`: the fields of `Options` but the target (a test holds them together)."""

    mappings: Sequence[str | Path]
    tables: Sequence[str]
    prefer: Sequence[str]
    sources: Sequence[str]
    placeholders: Mapping[str, Sequence[str]]
    builtin: bool
    time: str | None
    union: bool
    strict: bool
    prefilter: bool
    profile: Profile | None


def _options(target: str, given: Mapping[str, object]) -> Options:
    """Options of a call. Raises Sigma2KqlError (E806) for one that is unknown or of another type."""
    problems = []
    read: dict[str, Any] = {}
    for name, value in given.items():
        kind = ConvertOptions.__annotations__.get(name)
        if kind is None:
            problems.append(diagnostic("E806", f"`convert` has no option `{name}`", None, did_you_mean(name, _NAMES)))
        elif name in _LISTS:
            several = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
            items = tuple(value) if several and isinstance(value, Iterable) else ()
            if not several or not all(isinstance(item, str | Path) for item in items):
                problems.append(diagnostic("E806", f"`{name}` is a list of {_LISTS[name]}, not {value!r}"))
            read[name] = tuple(map(Path, items)) if name == "mappings" and several else items
        elif name in _FLAGS and not isinstance(value, bool):
            problems.append(diagnostic("E806", f"`{name}` is True or False, not {value!r}"))
        elif name == "placeholders" and not isinstance(value, Mapping):
            problems.append(diagnostic("E806", f"`placeholders` maps names to lists of values, not {value!r}"))
        else:
            read[name] = value
    if problems:
        raise Sigma2KqlError(problems)
    return Options(target=target, **read)


_NAMES = tuple(ConvertOptions.__annotations__)
_LISTS = {"mappings": "folders", "tables": "names", "prefer": "names", "sources": "names"}
_FLAGS = frozenset({"builtin", "union", "strict", "prefilter"})


def convert(text_or_path: str | Path, target: str = "sentinel", **options: Unpack[ConvertOptions]) -> list[Compiled]:
    """Compile Sigma rules: a path (file or folder), or the text of a rule file (anything with a line end in it).

    `options` are those of `Options`. Gives one result a document. Raises Sigma2KqlError only for a wrong call (unknown
    target or option, missing path, faulty mapping file); what is wrong with a rule is in its result's `diagnostics`.
    """
    chosen = _options(target, options)
    if isinstance(text_or_path, str) and "\n" in text_or_path:
        inputs: Iterable[Input] = (Input("<text>", None, text_or_path.encode()),)
    else:
        inputs = read_inputs([str(text_or_path)])
    return [compiled for _, compiled in compile_inputs(inputs, chosen)]


def target_of(options: Options) -> Target:
    """The target that the options name. Raises Sigma2KqlError: it is unknown, or a mapping file is wrong."""
    stamps = tuple([stamp for folder in options.mappings for stamp in mapping_stamps(folder)])
    tables, prefer, sources = map(tuple, (options.tables, options.prefer, options.sources))
    return _loaded(options.target, options.mappings, tables, prefer, sources, stamps)


@lru_cache(maxsize=32)
def _loaded(
    name: str,
    mappings: tuple[Path, ...],
    tables: tuple[str, ...],
    prefer: tuple[str, ...],
    sources: tuple[str, ...],
    _stamps: tuple[tuple[str, int, int], ...],
) -> Target:
    """A target once read, as long as its mapping files are the same."""
    return load_target(name, mappings, tables, prefer, sources)


def refuse_format(options: Options, name: str) -> None:
    """Raises Sigma2KqlError (E717) where the target does not say that it takes this artifact format."""
    target = target_of(options)
    if name not in target.formats:
        takes = f"it takes {', '.join(target.formats)}; " if target.formats else ""
        hint = f"{takes}its target.yml names them: formats: [{name}]"
        raise fail("E717", f"the target `{target.name}` does not say that it takes {name}", hint=hint)


def service_of(options: Options) -> Service:
    """What the target's artifacts are deployed to. Raises Sigma2KqlError (E717) where the target does not say."""
    target = target_of(options)
    if target.service is None:
        hint = "name it in its target.yml: service: sentinel"
        raise fail("E717", f"the target `{target.name}` does not say what it deploys to", hint=hint)
    return target.service


def output_columns(done: Compiled, options: Options) -> Output:
    """The columns that a result's query returns, from its tree or from its text (unions, correlations, native)."""
    from sigma2kql.artifacts.query_columns import Output, read_columns

    if done.query is not None and not options.union:
        return Output(columns_of_query(done.query, done.kql or ""), whole=True)
    target = target_of(options)
    return read_columns(done.kql or "", partial(columns_of_table, target))


def prepare_artifact(done: Compiled, form: str, settings: Settings, options: Options) -> Prepared:
    """What a result becomes in an artifact format, every value decided. Raises Sigma2KqlError with every reason.

    A continuous detection that its operators forbid is tried once more without lists and prefilters.
    """
    from sigma2kql.artifacts.describe import prepare, streamed

    try:
        prepared = prepare(done, form, settings, output_columns(done, options))
    except Sigma2KqlError as error:
        if done.query is None or options.union or all(d.code != "E714" for d in error.diagnostics):
            raise
        plain = replace(done, kql=emit_without_lists(done.query, target_of(options).limits))
        prepared = prepare(plain, form, settings, output_columns(plain, options))
    if target_of(options).service == "defender":
        prepared = streamed(prepared, done)
    return prepared


def choose_format(done: Compiled, settings: Settings, options: Options) -> tuple[str, Prepared, str]:
    """For `-f auto`: the format of the kind of rule that serves best, what it becomes there, and the reason in words.

    Raises Sigma2KqlError where neither kind can be.
    """
    from sigma2kql.artifacts.rule_kind import reason_for_detection, reason_for_rule

    wanted = [name for name in ("xdr-json", "arm") if name in target_of(options).formats]
    try:
        detection = prepare_artifact(done, "xdr-json", settings, options) if "xdr-json" in wanted else None
        against = reason_for_rule(settings, detection)
    except Sigma2KqlError as error:
        detection, against = None, error.diagnostics[0].message
    if detection is not None and (against is None or "arm" not in wanted):
        return "xdr-json", detection, reason_for_detection(detection)
    return "arm", prepare_artifact(done, "arm", settings, options), against or "the target takes no custom detections"


def near_real_time(done: Compiled, settings: Settings, options: Options) -> list[str]:
    """Whether a rule can run at once, as an analytics rule and as a custom detection, in words with the reasons."""
    from sigma2kql.artifacts.rule_kind import words_of_verdicts

    plain = emit_without_lists(done.query, target_of(options).limits) if done.query and not options.union else None
    return words_of_verdicts(done, plain, output_columns(done, options), settings.nrt)


class Compiler:
    """Compiles documents for one target; knows the filters and rules that others refer to."""

    def __init__(self, options: Options, documents: Sequence[Document] = ()) -> None:
        self.options = options
        self.target = target_of(options)
        self.choice = self._choice()
        if self.choice is not None and self.choice.sources and not options.sources:
            self.target = target_of(replace(options, sources=tuple(sorted(self.choice.sources))))
        self.builtin = options.builtin or (self.choice.builtin if self.choice is not None else False)
        self.documents = documents
        self.filters = [d for d in documents if isinstance(d, Filter)]
        self.names = NamedRules(documents)
        self.fed = self.names.fed(documents)  # they give no query of their own

    def _choice(self) -> Choice | None:
        if self.options.profile is None:
            return None
        from sigma2kql.workspace.choice import choose_by  # only where a profile is given

        return choose_by(self.options.profile, self.target)

    def knowing(self, documents: Sequence[Document]) -> Compiler:
        """The same compiler with the documents that filters and correlations may refer to."""
        return Compiler(self.options, documents)

    def compile(self, document: Document) -> Compiled:
        """One document. Never raises for what the document says."""
        try:
            return self._finished(self._compile(document))
        except Sigma2KqlError as error:
            warnings = getattr(document, "warnings", ())
            return Compiled(document, self.target.name, diagnostics=(*_placed(error.diagnostics, document), *warnings))
        except RecursionError:
            where = document.origin.span
            return Compiled(document, self.target.name, diagnostics=(diagnostic("E106", "nested too deeply", where),))
        except Exception as error:
            return Compiled(document, self.target.name, diagnostics=(fault(error, document.origin.span),))

    def _finished(self, done: Compiled) -> Compiled:
        """What is said of a result as a whole: its length, what the workspace makes of it, whether it may be lossy."""
        if done.kql is not None and self.target.limits.characters is not None:
            done = self._measured(done, done.kql, self.target.limits.characters)
        if self.choice is not None:
            done = self._with_liveness(done, self.choice)
        return self._strict(done) if self.options.strict else done

    def _with_liveness(self, done: Compiled, choice: Choice) -> Compiled:
        """The result with what the workspace makes of it, and a warning where it finds nothing there."""
        here = done.here or self._liveness(done, choice)
        if here is None or here.state == "live":
            return replace(done, here=here)
        where, dead = done.document.origin.span, here.state == "dead"
        problems = [diagnostic("W421", r, where) if dead else diagnostic("W420", r, where) for r in here.reasons]
        told = [
            d for d in done.diagnostics if d.code != "W412" or self.options.sources
        ]  # the profile's own word for it
        return replace(done, here=here, diagnostics=(*told, *problems))

    def _liveness(self, done: Compiled, choice: Choice) -> Liveness | None:
        from sigma2kql.artifacts.kql_tokens import scan
        from sigma2kql.workspace.choice import all_of_them, any_of_them, of_tables
        from sigma2kql.workspace.liveness import liveness

        if done.query is not None:
            return liveness(done.query, choice.profile)
        match done.document:
            case Correlation(type=kind, rules=rules) as whole if done.kql is not None:
                parts = [self.names.find(reference, whole) for reference in rules]
                found = [liveness(self.map(part).query, choice.profile) for part in parts if isinstance(part, Rule)]
                return all_of_them(found) if kind.startswith("temporal") else any_of_them(found)
            case NativeQuery() if done.kql is not None:
                return of_tables(scan(done.kql).tables, choice.profile)
            case Rule() | Correlation() | Filter() | NativeQuery() | Broken():
                return None
            case _:
                assert_never(done.document)

    def _measured(self, done: Compiled, text: str, most: int) -> Compiled:
        """What is longer than the product takes is said; a query of Microsoft's own form has its own checks."""
        if len(text) <= most or isinstance(done.document, NativeQuery):
            return done
        message = f"the query has {len(text):,} characters; {self.target.limits.of} takes {most:,}"
        hint = "deploy it as a saved function, or split the rule"
        return replace(
            done, diagnostics=(*done.diagnostics, diagnostic("W501", message, done.document.origin.span, hint))
        )

    def _compile(self, document: Document) -> Compiled:
        match document:
            case Broken():
                return Compiled(document, self.target.name, diagnostics=document.diagnostics)
            case Rule():
                return self._rule(document)
            case Filter():
                return Compiled(
                    document, self.target.name, diagnostics=(*document.warnings, *self._filter_notes(document))
                )
            case Correlation():
                done = self.correlate(document)
                return replace(done, kql=None) if self.fed and place_of(document) in self.fed else done
            case NativeQuery():
                from sigma2kql.artifacts.native_checks import validate_native

                problems = (*document.warnings, *validate_native(document))
                failed = any(p.severity == "error" for p in problems)
                return Compiled(
                    document,
                    self.target.name,
                    None if failed else document.query,
                    verdict=None if failed else "exact",
                    diagnostics=problems,
                )
            case _:
                assert_never(document)

    def correlate(self, correlation: Correlation) -> Compiled:
        """A correlation with its query, also where it only feeds another. Raises Sigma2KqlError."""
        from sigma2kql.correlate import compile_correlation

        every = self._map_everywhere if self.options.union else lambda rule: (self.map(rule),)
        return compile_correlation(correlation, self.names, every, self.emit, self.target)

    # -- rules -------------------------------------------------------------------------------------------------------

    def _rule(self, rule: Rule) -> Compiled:
        mapped = self.map(rule)
        tests = leaves(mapped.query.where)
        if self.fed and place_of(rule) in self.fed:
            return self._compiled(rule, mapped, None, tests)
        if self.options.union:
            every = self._map_everywhere(rule)
            text = emission.emit_union([one.query for one in every], self.options.prefilter, self.target.limits)
            return replace(
                self._compiled(rule, mapped, text, tests),
                table=", ".join(one.table.name for one in every),
                passed_over=(),
                caveats=tuple(dict.fromkeys(caveat for one in every for caveat in one.caveats)),
                verdicts=together([one.verdicts for one in every]),
            )
        return self._compiled(rule, mapped, self.emit(mapped.query, tests), tests)

    def emit(self, query: Query, tests: Sequence[Match[Column]] | None = None) -> str:
        """The query as KQL within the limits of the target; `tests` are its leaves, where they are known already."""
        return emission.emit(query, self.options.prefilter, tests, self.target.limits)

    def _compiled(self, rule: Rule, mapped: Mapped, text: str | None, tests: Sequence[Match[Column]]) -> Compiled:
        """What became of a rule; `tests` are the leaves of its query."""
        problems = [*mapped.diagnostics, *rule.warnings]
        columns = columns_read([*leaves(mapped.query.rows), *tests])
        return Compiled(
            rule,
            self.target.name,
            text,
            mapped.table.name,
            mapped.query,
            mapped.verdict,
            {name: mapped.table.columns.get(name, kind) for name, kind in columns.items()},
            mapped.fields,
            _placed(problems, rule),
            mapped.passed_over,
            mapped.caveats,
            mapped.verdicts,
            here=Liveness("dead", (mapped.dead,)) if mapped.dead and self.choice is not None else None,
        )

    def map(self, rule: Rule) -> Mapped:
        """The rule with placeholders replaced and filters added, on its table. Raises Sigma2KqlError."""
        return self._timed(map_rule(rule, self.where(rule), self.target, self.builtin, self._fits()))

    def _fits(self) -> tuple[Callable[[Query], bool], ...]:
        """What a workspace's profile says of a table, from the strongest to the weakest."""
        return (self.choice.is_live, self.choice.may_see, self.choice.has_rows) if self.choice is not None else ()

    def _map_everywhere(self, rule: Rule) -> tuple[Mapped, ...]:
        """The same on every table that carries it. Raises Sigma2KqlError."""
        found = map_everywhere(rule, self.where(rule), self.target, self.builtin)
        return tuple(map(self._timed, found))

    def _timed(self, mapped: Mapped) -> Mapped:
        """Its time column is the one that the options or the target name."""
        if self.options.time is not None or self.target.time is not None:
            time = self.options.time or self.target.time or mapped.query.time
            if time != mapped.query.time:
                mapped = replace(mapped, query=replace(mapped.query, time=time))
        return mapped

    def further(self, rule: Rule) -> tuple[Compiled, ...]:
        """The rule on the other kinds of events that its table holds and its log source means."""
        done = []
        for mapped in map_further(self.map(rule), rule, self.where(rule), self.target, self.builtin):
            tests = leaves(mapped.query.where)
            text = emission.emit(mapped.query, self.options.prefilter, tests)
            done.append(self._compiled(rule, mapped, text, tests))
        return tuple(done)

    def where(self, rule: Rule) -> Expr[Field]:
        """The rule's tree with placeholders replaced and filters added. Raises Sigma2KqlError for a placeholder
        without values.
        """
        where = self._filled(rule)
        for one in self._filters(rule):
            where = And((where, self._filled(one)))
        return where

    def _filled(self, document: Rule | Filter) -> Expr[Field]:
        where = document.where
        if not document.expands:
            return where
        missing = [(name, span) for name, span in placeholders(where) if name not in self.options.placeholders]
        if missing:
            raise Sigma2KqlError(
                diagnostic(
                    "E405",
                    f"placeholder `%{name}%` has no values",
                    span,
                    f"give them in sigma2kql.yml: placeholders: {{{name}: [...]}}",
                )
                for name, span in missing
            )
        return substitute(where, self.options.placeholders)

    # -- filters -----------------------------------------------------------------------------------------------------

    def _filters(self, rule: Rule) -> Iterator[Filter]:
        for one in self.filters:
            if self.names.covers(one, rule):
                yield one

    def _filter_notes(self, one: Filter) -> Iterator[Diagnostic]:
        """A filter that names a rule which is not there, or no rule with a condition, does nothing for it: say so."""
        for reference in one.rules:
            found = self.names.candidates(reference.name, one)
            if not found:
                message = f"the filter names `{reference.name}`, which is not among the rules given"
                yield diagnostic("W403", message, reference.span)
            elif all(isinstance(document, Correlation) for document in found):
                message = f"the filter names `{reference.name}`, a correlation, which has no condition to add to"
                yield diagnostic("W403", message, reference.span, "name the rules that the correlation stands on")

    def _strict(self, done: Compiled) -> Compiled:
        lossy = {"W401", "W402", "W405", "W406", "W407", "W408", "W409", "W411"}
        if not any(d.code in lossy for d in done.diagnostics):
            return done
        raised = tuple(replace(d, severity="error") if d.code in lossy else d for d in done.diagnostics)
        return Compiled(done.document, done.target, diagnostics=raised)


def _placed(problems: Iterable[Diagnostic], document: Document) -> tuple[Diagnostic, ...]:
    """Every diagnostic has a place; without one of its own it is the whole document."""
    return tuple([d if d.span is not None else replace(d, span=document.origin.span) for d in problems])
