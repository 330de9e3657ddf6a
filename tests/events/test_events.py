"""Event files: every format gives the same events, and hostile ones a diagnostic, in bounded memory and time."""

from __future__ import annotations

import gzip
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from sigma2kql import events
from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError
from sigma2kql.events import (
    DEFAULT_LIMITS,
    Event,
    EventForm,
    Limits,
    Recognised,
    event_files,
    read_events,
    read_paths,
    recognise,
    records as event_json,
    sigma_fields,
)
from sigma2kql.system.child_process import LineChild

ROWS = [{"Image": "C:\\a.exe", "n": 1}, {"Image": "é", "n": None}, {"Image": "", "deep": {"x": [1, True]}}]


def data_of(path: Path) -> list[Any]:
    return [event.data for event in read_events(path)]


def failure(path: Path, limits: Limits = DEFAULT_LIMITS) -> Diagnostic:
    with pytest.raises(Sigma2KqlError) as caught:
        list(read_events(path, limits))
    return caught.value.diagnostics[0]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def put(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return put


# --------------------------------------------------------------------------------------------------------------------
# Formats

NDJSON = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.ndjson", NDJSON + "\n\n"),
        ("a.jsonl", NDJSON.replace("\n", "\r\n")),
        ("a.json", json.dumps(ROWS)),
        ("a.json", json.dumps(ROWS, indent=4)),
        ("a.json", NDJSON),
        ("a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
        ("a.log", NDJSON),
        ("a.json", json.dumps({"value": ROWS, "@odata.nextLink": "https://x"})),
        ("a.json", json.dumps({"records": ROWS})),
        ("a.json", json.dumps({"hits": {"hits": [{"_id": "1", "_source": row} for row in ROWS]}})),
        ("a.yml", "".join(f"- {json.dumps(row)}\n" for row in ROWS)),
        ("a.yaml", "---\n".join(json.dumps(row) + "\n" for row in ROWS)),
        ("a.ndjson", "\ufeff" + NDJSON),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_the_same_events_in_every_format(write: Any, name: str, content: str, packed: bool) -> None:
    data = gzip.compress(content.encode()) if packed else content.encode()
    assert data_of(write(name + ".gz" * packed, data)) == ROWS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_as_windows_powershell_writes_it(write: Any, encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"
    for name, content in (("a.ndjson", NDJSON), ("a.json", json.dumps(ROWS, indent=1)), ("b.json", NDJSON)):
        assert data_of(write(name, (mark + content).encode(encoding))) == ROWS


def test_an_export_of_log_analytics_becomes_rows(write: Any) -> None:
    columns = [{"name": "TimeGenerated", "type": "datetime"}, {"name": "EventID", "type": "int"}]
    table = {"name": "PrimaryResult", "columns": columns, "rows": [["t", 1], ["u", 2]]}
    kusto = {"TableName": "T", "Columns": [{"ColumnName": "a"}], "Rows": [[1]]}
    assert data_of(write("a.json", json.dumps({"tables": [table], "statistics": {}}))) == [
        {"TimeGenerated": "t", "EventID": 1},
        {"TimeGenerated": "u", "EventID": 2},
    ]
    assert data_of(write("b.json", json.dumps({"Tables": [kusto, kusto]}))) == [{"a": 1}]


def test_a_record_of_the_defender_stream_becomes_its_row(write: Any) -> None:
    record = {"category": "AdvancedHunting-DeviceProcessEvents", "properties": {"ActionType": "ProcessCreated"}}
    [row] = data_of(write("a.json", json.dumps({"records": [record]})))
    assert row == {"Type": "DeviceProcessEvents", "ActionType": "ProcessCreated"}


def test_an_event_with_a_field_called_value_is_no_envelope(write: Any) -> None:
    event = {"value": [{"a": 1}], "Image": "x"}
    assert data_of(write("a.json", json.dumps(event))) == [event]


def test_csv_reads_quotes_lines_in_cells_and_other_separators(write: Any) -> None:
    assert data_of(write("a.csv", 'a,b\n"1,""x""\ny",\n')) == [{"a": '1,"x"\ny', "b": ""}]
    assert data_of(write("b.csv", "\ufeffa;b\r\n1;2\r\n")) == [{"a": "1", "b": "2"}]
    assert data_of(write("c.tsv", "a\tb\n1\t2\n")) == [{"a": "1", "b": "2"}]


def test_yaml_keeps_dates_as_text_and_other_values_as_they_are(write: Any) -> None:
    assert data_of(write("a.yml", "t: 2026-01-02 03:04:05\nn: 5\nb: true\nx: ~\n")) == [
        {"t": "2026-01-02 03:04:05", "n": 5, "b": True, "x": None}
    ]


def test_parquet_through_duckdb_with_times_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    duckdb = pytest.importorskip("duckdb", reason="pip install 'sigma2kql[test]'")
    monkeypatch.setenv("TZ", "America/New_York")
    path = tmp_path / "odd[1]*.parquet"
    other = tmp_path / "odd1x.parquet"
    with duckdb.connect() as connection:
        for file, number in ((path, 1), (other, 2)):
            connection.execute(
                "COPY (SELECT ?::INT AS n, 'é' AS s, {'x': [1, 2]} AS d, NULL AS e, 1.5::DECIMAL(4,2) AS m, "
                f"TIMESTAMPTZ '2026-01-02 03:04:05+00' AS t) TO '{file}'",
                [number],
            )
    [row] = data_of(path)
    assert row == {"n": 1, "s": "é", "d": {"x": [1, 2]}, "e": None, "m": 1.5, "t": "2026-01-02 03:04:05+00"}
    packed = tmp_path / "p.parquet.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert data_of(packed) == [row]


def test_origins_lead_to_the_line(write: Any) -> None:
    path = write("a.ndjson", '{"a":1}\n\n[{"a":2},{"a":3}]\n')
    assert [event.origin for event in read_events(path)] == [f"{path}:1", f"{path}:3#1", f"{path}:3#2"]
    path = write("a.json", '[\n {"a":1},\n\n {"a":2}]')
    assert [event.origin for event in read_events(path)] == [f"{path}:2#1", f"{path}:4#2"]


@pytest.mark.parametrize("name", ["a.ndjson", "a.json", "a.yml", "a.csv"])
def test_an_empty_text_file_has_no_events(write: Any, name: str) -> None:
    assert data_of(write(name, "")) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.dictionaries(st.text('ab"\\{}[],é', max_size=3), JSON, min_size=2, max_size=4), max_size=5),
    indent=st.sampled_from([None, 1]),
    chunk=st.integers(1, 9),
    array=st.booleans(),
    ascii_=st.booleans(),
)
def test_a_document_cut_anywhere_gives_the_same_events(
    tmp_path_factory: Any, *, rows: list[Any], indent: int | None, chunk: int, array: bool, ascii_: bool
) -> None:
    def dump(value: object) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_)

    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(dump(rows) if array else " ".join(map(dump, rows)), encoding="utf-8")
    before = event_json.CHUNK
    event_json.CHUNK = chunk
    try:
        assert data_of(path) == rows
    finally:
        event_json.CHUNK = before


# --------------------------------------------------------------------------------------------------------------------
# Hostile files

DEEP = 50_000


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.json", "[" * DEEP + "]" * DEEP, "E662"),
        ("a.json", '{"a":' * DEEP + "1" + "}" * DEEP, "E662"),
        ("a.ndjson", '{"a":' * DEEP + "1" + "}" * DEEP, "E662"),
        ("a.ndjson", '{"a":' * 65 + "1" + "}" * 65, "E662"),
        ("a.yml", "[" * DEEP, "E662"),
        ("a.yml", "a: &x [1]\nb: [*x, *x]\n", "E662"),
        ("a.json", '[{"a":1}', "E663"),
        ("a.json", '{"a":"x', "E663"),
        ("a.json", '{"a":1}]', "E665"),
        ("a.json", '[{"a":1}, 5]', "E665"),
        ("a.json", '[{"a":1} "x"]', "E665"),
        ("a.json", '{"a":1} garbage', "E665"),
        ("a.json", "garbage", "E665"),
        ("a.json", '{"a":}', "E665"),
        ("a.json", '{"a":NaN}', "E665"),
        ("a.json", '{"a":' + "9" * 5000 + "}", "E665"),
        ("a.ndjson", "5\n", "E665"),
        ("a.ndjson", "{\n", "E665"),
        ("a.ndjson", b'{"a":"\xff\xfe"}\n', "E664"),
        ("a.json", b'[{"a":"\xff"}]', "E664"),
        ("a.yml", b"a: \xff\n", "E664"),
        ("a.csv", b"a,b\n1,\xff\n", "E664"),
        ("a.ndjson", "\ufeff{}".encode("utf-16-le") + b"\x00", "E664"),
        ("a.yml", "a: !!python/object/apply:os.system [id]\n", "E665"),
        ("a.yml", "a: [\n", "E665"),
        ("a.yml", "5\n", "E665"),
        ("a.csv", "a,a\n1,2\n", "E665"),
        ("a.csv", "a,b\n1\n", "E665"),
        ("a.csv", 'a,b\n"1\n', "E665"),
        ("a.evtx", b"ElfFile\0", "E663"),
        ("a.evtx", b"", "E663"),
        ("a.evtx", b"nothing", "E663"),
        ("a.parquet", b"PAR1", "E663"),
        ("a.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1", "E663"),
        ("a.exe", b"MZ\0\0", "E660"),
        ("a.json.gz", gzip.compress(b'{"a":1}', mtime=0)[:-9], "E663"),
        ("a.json.gz", gzip.compress(b'{"a":1}', mtime=0)[:12] + b"\xff" * 20, "E663"),
    ],
)
def test_a_hostile_file_is_one_diagnostic(write: Any, name: str, content: str | bytes, code: str) -> None:
    if "evtx" in name:
        pytest.importorskip("evtx")
    if "parquet" in name:
        pytest.importorskip("duckdb")
    path = write(name, content)
    found = failure(path)
    assert (found.code, found.severity) == (code, "error")
    assert found.as_dict()["path"] == str(path)


def test_the_line_of_a_bad_record_is_told(write: Any) -> None:
    assert failure(write("a.ndjson", '{"a":1}\n\n{"a":\n')).as_dict()["line"] == 3
    assert failure(write("a.json", '[\n{"a":1},\n{"a":}\n]')).as_dict()["line"] == 3
    assert failure(write("a.csv", "a,b\n1,2\n1\n")).as_dict()["line"] == 3


def test_what_is_missing_or_no_file_is_said(tmp_path: Path) -> None:
    assert failure(tmp_path / "none.json").code == "E661"
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.json")
        assert failure(tmp_path / "pipe.json").code == "E661"


def test_a_bomb_of_gz_is_stopped_by_its_ratio(write: Any) -> None:
    found = failure(write("a.ndjson.gz", gzip.compress((b'{"a":"' + b"x" * (1 << 20) + b'"}\n') * 80)))
    assert found.code == "E662"
    assert "times its size" in found.message


def test_more_than_the_limits_allow_is_said(write: Any) -> None:
    small = Limits(size=1000, record=100)
    assert failure(write("a.ndjson", '{"a":1}\n' * 200), small).code == "E662"
    assert failure(write("a.ndjson", f'{{"a":"{"x" * 200}"}}\n'), small).code == "E662"
    assert failure(write("a.json", f'{{"a":"{"x" * 300_000}"}}'), Limits(document=100_000)).code == "E662"
    assert failure(write("a.csv", f"a,b\n{'x' * 200},1\n"), small).code == "E662"


def test_strings_of_ten_megabytes_are_read(write: Any) -> None:
    text = "x" * (10 << 20)
    for name in ("a.json", "a.ndjson"):
        assert data_of(write(name, json.dumps({"a": text}))) == [{"a": text}]
    assert data_of(write("a.csv", f"a,b\n{text},1\n")) == [{"a": text, "b": "1"}]


def test_lone_surrogates_become_replacement_characters(write: Any) -> None:
    assert data_of(write("a.ndjson", '{"a\\ud800":["\\udfff", "\\ud83d\\ude00"]}')) == [{"a\ufffd": ["\ufffd", "😀"]}]


def test_bad_records_are_reported_and_the_others_follow(write: Any) -> None:
    found: list[Diagnostic] = []
    path = write("a.ndjson", '{"a":1}\nnonsense\n{"a":2}\n' + "x" * 200 + '\n{"a":3}')
    rows = [event.data["a"] for event in read_events(path, Limits(record=100), found.append)]
    assert (rows, [(d.code, d.as_dict()["line"]) for d in found]) == ([1, 2, 3], [("E665", 2), ("E662", 4)])


def test_a_file_of_bad_records_is_given_up(write: Any) -> None:
    found: list[Diagnostic] = []
    with pytest.raises(Sigma2KqlError) as caught:
        list(read_events(write("a.ndjson", "nonsense\n" * 1000), DEFAULT_LIMITS, found.append))
    assert (caught.value.diagnostics[0].code, len(found)) == ("E666", 20)


def test_of_several_files_the_bad_ones_are_reported_and_the_others_read(write: Any, tmp_path: Path) -> None:
    write("d/b.json", "[" * 1000)
    write("d/c.ndjson", '{"a":1}')
    write("d/e/x.events.yml", "a: 2")
    write("d/e/rule.yml", "title: no event")
    write("d/notes.txt", "no event")
    found: list[Diagnostic] = []
    rows = [event.data for event in read_paths([tmp_path / "d", tmp_path / "none.json"], DEFAULT_LIMITS, found.append)]
    assert rows == [{"a": 1}, {"a": 2}]
    assert [d.code for d in found] == ["E662", "E661"]


def test_links_to_folders_are_not_followed(write: Any, tmp_path: Path) -> None:
    file = write("d/a.json", "{}")
    (tmp_path / "d" / "loop").symlink_to(tmp_path / "d")
    assert event_files(tmp_path / "d") == [file]


# --------------------------------------------------------------------------------------------------------------------
# EVTX


@pytest.fixture(scope="session")
def evtx_file(regression_data: Path) -> Path:
    pytest.importorskip("evtx", reason="pip install 'sigma2kql[test]'")
    return min(regression_data.rglob("*.evtx"))


def test_evtx_gives_what_its_json_twin_says(evtx_file: Path, tmp_path: Path) -> None:
    [event] = read_events(evtx_file)
    [twin] = read_events(evtx_file.with_suffix(".json"))
    assert event.kind == "evtx"
    assert sigma_fields(event.data).keys() == sigma_fields(twin.data).keys()
    packed = tmp_path / "a.evtx.gz"
    packed.write_bytes(gzip.compress(evtx_file.read_bytes()))
    assert [found.data for found in read_events(packed)] == [event.data]


@pytest.mark.parametrize("size", [100, 4096, 5000, 4096 + 32768])
def test_a_truncated_evtx_is_said(evtx_file: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.evtx"
    path.write_bytes(evtx_file.read_bytes()[:size])
    assert failure(path).code == "E663"


def test_fewer_records_than_the_chunks_state_is_said(evtx_file: Path, tmp_path: Path) -> None:
    broken = bytearray(evtx_file.read_bytes())
    first = int.from_bytes(broken[4096 + 8 : 4096 + 16], "little")
    broken[4096 + 16 : 4096 + 24] = (first + 5).to_bytes(8, "little")
    path = tmp_path / "lacking.evtx"
    path.write_bytes(broken)
    found: list[Diagnostic] = []
    rows = list(read_events(path, DEFAULT_LIMITS, found.append))
    assert [len(rows), *(d.message for d in found)] == [1, "damaged EVTX: only 1 of its 6 records could be read"]


def test_no_record_of_a_corrupt_evtx_is_lost_in_silence(evtx_file: Path, tmp_path: Path) -> None:
    whole = evtx_file.read_bytes()
    dice = random.Random(7)
    path = tmp_path / "corrupt.evtx"
    for _ in range(40):
        broken = bytearray(whole)
        for _ in range(dice.choice((1, 5, 50))):
            broken[dice.randrange(8, 8192)] = dice.randrange(256)
        path.write_bytes(broken)
        found: list[Diagnostic] = []
        rows = list(read_paths([path], Limits(record_seconds=3), found.append))
        assert rows or found


def child_that(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_IDLE", [])
    monkeypatch.setattr(events, "_idle_child", lambda: LineChild([sys.executable, "-c", script]))


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import time; time.sleep(600)", "no answer within"),
        ("import os; os.abort()", "ended with status"),
        ("while True: print('R{}')", "more records than it has room for"),
    ],
)
def test_a_parser_that_hangs_dies_or_runs_away_is_stopped(
    write: Any, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    pytest.importorskip("evtx")
    child_that(script, monkeypatch)
    path = write("a.evtx", b"ElfFile\0" + bytes(4088))
    with pytest.raises(Sigma2KqlError) as caught:
        list(read_events(path, Limits(record_seconds=0.3)))
    assert caught.value.diagnostics[0].code == "E663"
    assert words in caught.value.diagnostics[0].message


def test_an_evtx_read_in_part_leaves_the_next_one_whole(evtx_file: Path) -> None:
    reading: Iterator[Event] = read_events(evtx_file)
    first = next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert [event.data for event in read_events(evtx_file)] == [first.data]


def test_without_the_extra_the_error_says_what_to_install(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    for path in (write("a.evtx", b"ElfFile\0"), write("a.parquet", b"PAR1")):
        found = failure(path)
        assert (found.code, found.hint) == ("E667", "pip install 'sigma2kql[test]'")


# --------------------------------------------------------------------------------------------------------------------
# Forms


def raw(data: object, section: str = "EventData", **system: object) -> dict[str, Any]:
    attributes = {"#attributes": {"Name": "Microsoft-Windows-Sysmon", "Guid": "g"}}
    return {"Event": {"System": {"Provider": attributes, "EventID": 1, "Computer": "pc", **system}, section: data}}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (raw({}), Recognised(EventForm.WINDOWS_RAW)),
        (raw({})["Event"], Recognised(EventForm.WINDOWS_RAW)),
        ({"winlog": {"event_id": 1}}, Recognised(EventForm.WINDOWS_RAW)),
        ({"winlog.event_id": 1}, Recognised(EventForm.WINDOWS_RAW)),
        ({"Type": "SigninLogs", "TimeGenerated": "t"}, Recognised(EventForm.TABLE_ROW, "SigninLogs")),
        ({"Type": "Info", "Image": "x"}, Recognised(EventForm.SIGMA_FIELDS)),
        ({"TimeGenerated": "t", "EventID": 1, "EventLog": "l"}, Recognised(EventForm.TABLE_ROW, "Event")),
        (
            {"TimeGenerated": "t", "EventID": 1, "Provider": "p", "EventData": {}},
            Recognised(EventForm.TABLE_ROW, "WindowsEvent"),
        ),
        ({"TimeGenerated": "t", "EventID": 1, "Activity": "a"}, Recognised(EventForm.TABLE_ROW, "SecurityEvent")),
        ({"ActionType": "ProcessCreated", "DeviceId": "d"}, Recognised(EventForm.TABLE_ROW, "DeviceProcessEvents")),
        ({"ActionType": "RegistryValueSet", "DeviceId": "d"}, Recognised(EventForm.TABLE_ROW, "DeviceRegistryEvents")),
        (
            {"ActionType": "InboundConnectionAccepted", "DeviceName": "d"},
            Recognised(EventForm.TABLE_ROW, "DeviceNetworkEvents"),
        ),
        ({"ActionType": "AmsiScriptContent", "DeviceId": "d"}, Recognised(EventForm.TABLE_ROW, "DeviceEvents")),
        (
            {"EventSchema": "ProcessEvent", "EventProduct": "Sysmon", "Type": "Event", "TimeGenerated": "t"},
            Recognised(EventForm.TABLE_ROW, "imProcessCreate"),
        ),
        ({"Image": "x", "EventID": 1, "Channel": "c"}, Recognised(EventForm.SIGMA_FIELDS)),
        ({}, Recognised(EventForm.SIGMA_FIELDS)),
    ],
)
def test_forms_are_recognised(data: dict[str, Any], expected: Recognised) -> None:
    assert recognise(data) == expected


def test_system_elements_and_attributes_and_event_data_have_sigmas_names() -> None:
    event = raw({"Image": "a", "Threat Name": "b"}, EventID={"#attributes": {"Qualifiers": 5}, "#text": 7})
    assert sigma_fields(event) == {
        "Provider_Name": "Microsoft-Windows-Sysmon",
        "Provider_Guid": "g",
        "EventID": 7,
        "EventID_Qualifiers": 5,
        "Computer": "pc",
        "Image": "a",
        "Threat Name": "b",
        "ThreatName": "b",
    }


def test_user_data_is_lifted_out_of_its_wrapper() -> None:
    event = raw({"LogFileCleared": {"#attributes": {"xmlns": "x"}, "SubjectUserName": "me"}}, "UserData")
    fields = sigma_fields(event)
    assert fields["SubjectUserName"] == "me"
    assert "LogFileCleared" not in fields


def test_unnamed_data_stays_under_data() -> None:
    assert sigma_fields(raw({"Data": {"#text": ["a", "b"]}}))["Data"] == ["a", "b"]
    assert sigma_fields(raw({"Data": {"#text": ["a"]}}))["Data"] == "a"


def test_event_data_does_not_hide_the_identity_of_the_event() -> None:
    fields = sigma_fields(raw({"EventID": 99, "Computer": "other", "Version": "mine"}, Version=3))
    assert (fields["EventID"], fields["Computer"], fields["Version"]) == (1, "pc", "mine")


@pytest.mark.parametrize(
    "data",
    [
        {
            "winlog": {
                "channel": "Security",
                "event_id": "4688",
                "provider_name": "p",
                "computer_name": "pc",
                "event_data": {"CommandLine": "x"},
            },
            "message": "m",
        },
        {
            "winlog.channel": "Security",
            "winlog.event_id": 4688,
            "winlog.provider_name": "p",
            "winlog.computer_name": "pc",
            "winlog.event_data.CommandLine": "x",
            "message": "m",
        },
    ],
)
def test_winlogbeat_nested_and_dotted(data: dict[str, Any]) -> None:
    assert sigma_fields(data) == {
        "Channel": "Security",
        "EventID": 4688,
        "Provider_Name": "p",
        "Computer": "pc",
        "CommandLine": "x",
        "Message": "m",
    }


XML = (
    '<DataItem type="System.XmlData" time="t" sourceHealthServiceId="s"><EventData xmlns="http://x">'
    '<Data Name="Image">C:\\a &amp; b.exe</Data><Data Name="Empty" /></EventData></DataItem>'
)


@pytest.mark.parametrize(
    "row",
    [
        {"EventLog": "Sysmon", "Source": "p", "EventData": XML, "Type": "Event"},
        {"Channel": "Sysmon", "Provider": "p", "EventData": {"Image": "C:\\a & b.exe", "Empty": ""}},
        {"Channel": "Sysmon", "Provider": "p", "EventData": '{"Image": "C:\\\\a & b.exe", "Empty": ""}'},
        {
            "Channel": "Sysmon",
            "EventSourceName": "p",
            "Image": "C:\\a & b.exe",
            "EventData": '<EventData><Data Name="Empty"/></EventData>',
            "Status": "",
            "Activity": "x",
            "Task": None,
        },
    ],
)
def test_rows_of_windows_tables_have_sigmas_names(row: dict[str, Any]) -> None:
    fields = sigma_fields({"TimeGenerated": "t", "EventID": 1, "Computer": "pc", **row})
    assert fields.pop("TimeCreated_SystemTime") == "t"
    assert fields == {
        "Channel": "Sysmon",
        "Provider_Name": "p",
        "EventID": 1,
        "Computer": "pc",
        "Image": "C:\\a & b.exe",
        "Empty": "",
    }


@pytest.mark.parametrize("text", ["<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "<EventData><Data>", "<a/>"])
def test_xml_that_cannot_be_read_stays_text(text: str) -> None:
    row = {"TimeGenerated": "t", "EventID": 1, "EventLog": "l", "EventData": text}
    assert sigma_fields(row)["EventData"] == text


def test_rows_of_other_tables_and_sigma_fields_stay_as_they_are() -> None:
    for data in ({"ActionType": "ProcessCreated", "DeviceId": "d", "FileName": ""}, {"Image": None, "EventID": 1}):
        assert sigma_fields(data) == data


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["Event", "System", "EventData", "winlog", "Type", "TimeGenerated", "EventID", "EventLog", "a b"]
        ),
        JSON,
    )
)
def test_any_value_has_a_form_and_fields(data: dict[str, Any]) -> None:
    assert isinstance(recognise(data).form, EventForm)
    assert isinstance(sigma_fields(data), dict)
    assert isinstance(sigma_fields({"Event": {"System": data, "EventData": data, "UserData": data}}), dict)
    assert isinstance(sigma_fields({"winlog": data}), dict)


def test_every_recorded_attack_is_a_windows_event_with_a_channel(regression_data: Path) -> None:
    found: list[Diagnostic] = []
    seen = 0
    for event in read_paths([regression_data], DEFAULT_LIMITS, found.append):
        fields = sigma_fields(event.data)
        assert recognise(event.data).form is EventForm.WINDOWS_RAW
        assert {"Channel", "EventID", "Provider_Name", "Computer"} <= fields.keys()
        seen += 1
    assert seen >= 400
    assert found == []
