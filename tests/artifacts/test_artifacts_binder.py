"""Microsoft's binder agrees: what an artifact names as a column, its query returns.

For every 25th rule of the corpus (SIGMA2KQL_WHOLE_CORPUS=1: all), alone and over all tables (`--union`), for the
correlations, for queries by hand, and for a folder of Microsoft's own documents that SIGMA2KQL_NATIVE names.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from sigma2kql.api import Input, Options, compile_inputs, output_columns, prepare_artifact, read_inputs
from sigma2kql.artifacts.kinds import Artifact, Detection
from sigma2kql.artifacts.query_columns import Output, read_columns
from sigma2kql.artifacts.settings import Settings
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError
from sigma2kql.engines.kusto_language import KustoLanguage
from sigma2kql.map.target import columns_of_table, load_target
from sigma2kql.model.tree import Compiled, Correlation, NativeQuery

WHOLE = bool(os.environ.get("SIGMA2KQL_WHOLE_CORPUS"))
NATIVE = os.environ.get("SIGMA2KQL_NATIVE", "")
SAME = {"int": "long"}  # an int and a long serve alike


def named(artifact: Artifact) -> Iterator[tuple[str, str]]:
    """(what it is for, column) pairs of an artifact, but for custom details, which take lists too."""
    for entity in artifact.entities:
        yield from ((entity.type, column) for _, column in entity.fields)
    details = getattr(artifact, "details", None)
    title = artifact.title if isinstance(artifact, Detection) else (details.name if details else "") or ""
    yield from (("title", column) for column in re.findall(r"\{\{(\w+)\}\}", title))


def made(done: Compiled, options: Options, form: str) -> Artifact | None:
    """The artifact; None where there is none."""
    try:
        return prepare_artifact(done, form, Settings(function=True), options).artifact
    except Sigma2KqlError:
        return None


def check(results: Iterable[Compiled], options: Options, kusto: KustoLanguage) -> int:
    """Every column named is returned, and the query with what was added to it binds; how many names there were."""
    seen = 0
    for done in results:
        if done.kql is None:
            continue
        own = {d.message for d in kusto.check(done.kql) if d.severity == "error"}
        for form in ("xdr-json", "arm"):
            artifact = made(done, options, form)
            if artifact is None:
                continue
            query = getattr(artifact, "function", None) or artifact.query
            assert {d.message for d in kusto.check(query) if d.severity == "error"} <= own, query
            returned = kusto.result_columns(query)
            for what, column in named(artifact):
                assert returned.get(column, "dynamic") != "dynamic", (done.document.meta.title, what, column)
                seen += 1
            assert {column for _, column in artifact.custom_details} <= returned.keys(), done.document.meta.title
            if isinstance(artifact, Detection) and own == set():
                check_required(artifact, done, returned)
        if not options.union:  # a column that our mapping of one table lacks may be renamed by its type in another's
            returned = kusto.result_columns(done.kql)
            check_output(output_columns(done, options), returned, done.kql, done.query is not None)
    return seen


# "Create custom detection rules", Required columns: by hand
REQUIRED = {"Device": {"Timestamp", "DeviceId", "ReportId"}, "Alert": {"Timestamp"}}


def check_required(artifact: Detection, done: Compiled, returned: Mapping[str, str]) -> None:
    """The columns that Defender asks for are in the result."""
    table = done.table or ""
    if load_target("xdr").service and any(table == entry.name for entry in load_target("xdr").entries):
        wanted = next((columns for start, columns in REQUIRED.items() if table.startswith(start)), None)
        assert (wanted or {"Timestamp", "ReportId"}) <= returned.keys(), artifact.query
    elif table:
        assert {"Timestamp", "TimeGenerated"} & returned.keys(), artifact.query


def check_output(read: Output, returned: Mapping[str, str], kql: str, own: bool) -> None:
    missing = {name: kind for name, kind in read.columns.items() if name not in returned}
    assert missing == {}, kql
    if read.whole and not own:
        assert set(read.columns) == set(returned) - {"match_id"}, kql


@pytest.fixture(scope="module")
def sample(corpus: list[Path]) -> list[str]:
    """The large ones always: their queries are compacted, and compute fewer columns."""
    return [str(path) for n, path in enumerate(corpus) if WHOLE or n % 25 == 0 or path.stat().st_size > 20_000]


@pytest.mark.corpus
@pytest.mark.parametrize(
    "options", [Options("sentinel"), Options("xdr"), Options("asim"), Options(union=True)], ids=repr
)
def test_entities_name_columns_of_the_result(options: Options, sample: list[str], kusto: KustoLanguage) -> None:
    results = [done for _, done in compile_inputs(read_inputs(sample), options)]
    assert check(results, options, kusto) > len(sample)


RULE = """
title: {title}
name: {name}
id: {id}
status: test
logsource: {{category: process_creation, product: windows}}
detection:
    selection: {{Image|endswith: '\\{name}.exe'}}
    condition: selection
"""
CORRELATION = """
title: Several of a kind
id: 0e95725d-7320-415d-80f7-004da920fc1{number}
correlation:
    type: {kind}
    rules: {rules}
    group-by: [Computer{more}]
    timespan: 10m
    {condition}
"""
KINDS = [
    ("event_count", "[one]", "condition: {gte: 1}"),
    ("event_count", "[one]", "condition: {gte: 10}"),
    ("event_count", "[one]", "condition: {lt: 3}"),
    ("value_count", "[one]", "condition: {gte: 4, field: User}"),
    ("temporal", "[one, two]", ""),
    ("temporal_ordered", "[one, two]", ""),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(kind[::2]))
@pytest.mark.parametrize("more", ["", ", ParentImage"])
@pytest.mark.parametrize("target", ["sentinel", "xdr"])
def test_columns_of_correlations_are_read_whole(
    kind: tuple[str, str, str], more: str, target: str, kusto: KustoLanguage
) -> None:
    texts = [
        RULE.format(title="One", name="one", id="0e95725d-7320-415d-80f7-004da920fc01"),
        RULE.format(title="Two", name="two", id="0e95725d-7320-415d-80f7-004da920fc02"),
        CORRELATION.format(kind=kind[0], rules=kind[1], condition=kind[2], more=more, number=3),
    ]
    options = Options(target)
    results = [done for _, done in compile_inputs([Input("r.yml", None, "---".join(texts).encode())], options)]
    done = results[-1]
    assert isinstance(done.document, Correlation)
    assert done.kql is not None, done.diagnostics
    returned = kusto.result_columns(done.kql)
    # the binder gives every scan a match_id; the page of the operator: only with `with_match_id`
    assert output_columns(done, options).columns.keys() == returned.keys() - {"match_id"}
    artifact = made(done, options, "sentinel-yaml")
    assert artifact is not None
    shown = {"Host", "Account", "Process"} | ({"File"} if target == "sentinel" else set())  # of the last event
    assert {entity.type for entity in artifact.entities} == shown
    check([done], options, kusto)


@pytest.mark.skipif(not NATIVE, reason="SIGMA2KQL_NATIVE names no folder of native documents")
def test_native_documents_too(kusto: KustoLanguage) -> None:
    """Those that state no entities themselves, as far as the binder knows their tables."""
    results = [done for _, done in compile_inputs(read_inputs([NATIVE]), Options())]
    judged = [
        done
        for done in results
        if isinstance(done.document, NativeQuery) and not done.document.data.get("entityMappings") and done.kql
    ]
    known = [done for done in judged if not any(p.severity == "error" for p in kusto.check(done.kql or ""))]
    print(len(results), len(judged), len(known), check(known, Options(), kusto))


QUERIES = [
    "DeviceNetworkEvents | where RemotePort == 1",
    "DeviceNetworkEvents | project DeviceName, Where = RemoteIP",
    "DeviceNetworkEvents | project-away Remote*, Timestamp | extend A = tostring(ReportId)",
    "DeviceNetworkEvents | project-keep Device*, Timestamp",
    "DeviceNetworkEvents | project-rename A = RemoteIP | project A, DeviceId",
    "DeviceNetworkEvents | summarize n = count(), make_set(RemoteIP) by DeviceId, bin(Timestamp, 1h)",
    "DeviceNetworkEvents | summarize arg_max(Timestamp, *) by DeviceId | project DeviceId, Timestamp, RemoteIP",
    "DeviceNetworkEvents | summarize arg_max(Timestamp, RemoteIP, DeviceName) by DeviceId",
    "DeviceNetworkEvents | summarize count(), dcount(RemoteIP), take_any(RemoteUrl), max(Timestamp) by DeviceId",
    "DeviceNetworkEvents | distinct DeviceId, RemoteIP",
    "DeviceNetworkEvents | count",
    "let A = DeviceNetworkEvents | project DeviceId, RemoteIP; A | join (A | project DeviceId, X = 1) on DeviceId",
    "let A = materialize(DeviceNetworkEvents | project DeviceId, RemoteIP); A | join kind=leftanti A on DeviceId",
    "DeviceEvents | join kind=rightsemi (DeviceInfo | project OSPlatform, DeviceId) on DeviceId",
    "DeviceNetworkEvents | join kind=inner (DeviceInfo) on DeviceId | where isnotempty(OSPlatform)",
    "DeviceNetworkEvents | lookup kind=leftouter (DeviceInfo | distinct DeviceId, OSPlatform) on DeviceId",
    "union DeviceNetworkEvents, (DeviceProcessEvents | project DeviceId, ProcessId)",
    "union isfuzzy=true withsource=T (DeviceNetworkEvents | project A = 1), (DeviceInfo | project A = 'x', DeviceId)",
    "DeviceNetworkEvents | mv-expand AdditionalFields | extend B = tostring(AdditionalFields.x)",
    "DeviceNetworkEvents | parse RemoteUrl with * '://' Domain:string '/' * | project Domain, DeviceId",
    "DeviceNetworkEvents | sort by Timestamp asc | extend P = prev(RemoteIP) | where P == RemoteIP | take 5",
    "DeviceNetworkEvents | evaluate bag_unpack(AdditionalFields)",
    "DeviceNetworkEvents | make-series n = count() on Timestamp step 1h by DeviceId",
    "_Im_Dns(starttime=ago(1d)) | project SrcIpAddr",
    "Nowhere | project A, B = tostring(C)",
    "DeviceNetworkEvents | summarize by DeviceId",
    "DeviceNetworkEvents | project-reorder RemoteIP, * | top 3 by Timestamp",
    "DeviceNetworkEvents | summarize (T, D) = arg_max(Timestamp, DeviceId) by RemoteIP",
    "DeviceNetworkEvents | summarize x = make_list(RemoteIP, 5), percentile(RemotePort, 5) by DeviceId",
    "print A = 1",
    "datatable(A:string)['x'] | extend B = A",
    "DeviceNetworkEvents | where (",
    "",
]


@pytest.mark.parametrize("query", QUERIES)
def test_columns_are_read_as_the_binder_binds_them(query: str, kusto: KustoLanguage) -> None:
    read = read_columns(query, partial(columns_of_table, load_target("xdr")))
    returned = kusto.result_columns(query)
    for name, kind in read.columns.items():
        if "Nowhere" not in query:
            assert SAME.get(kind, kind) in ("", SAME.get(returned[name], returned[name])), name
    if read.whole and "Nowhere" not in query:
        assert set(read.columns) == set(returned)


def test_what_is_read_is_told_apart_from_what_is_not() -> None:
    known = partial(columns_of_table, load_target("xdr"))
    assert read_columns("DeviceEvents | project A = DeviceId, B", known) == Output({"A": "string", "B": ""}, True)
    assert read_columns("Nowhere | where X", known) == Output({}, False)
    assert read_columns("let A = A; A", known) == Output({}, False)
    assert not read_columns("DeviceNetworkEvents", known).whole
    assert read_columns("(" * 3000, known) == Output()
