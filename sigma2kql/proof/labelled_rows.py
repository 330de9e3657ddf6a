"""Events become the rows that a rule is run on, each with its label, or it is said why they cannot.

Place in the flow: above shape and generate, under `prove`. Invariant: the label of a row is what the reference
evaluator says of the event that the row holds, or what the user stated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sigma2kql.diagnostics.diagnostic import frozen
from sigma2kql.events.event_forms import SYSTEM_COLUMNS, EventForm, recognise, sigma_fields, windows_record
from sigma2kql.events.table_rows import WRITERS
from sigma2kql.events.windows_carriers import Unusable
from sigma2kql.map.field_places import find_field
from sigma2kql.model.simplify import leaves
from sigma2kql.model.tree import And, Expr, Field, FieldMap, Rule, SameAs, Serve, Table
from sigma2kql.proof import Subject
from sigma2kql.proof.event_rows import Shaped, keyword_text, raw_row, shape
from sigma2kql.proof.generate import Sample, generate
from sigma2kql.proof.row_capacity import Room, synonym
from sigma2kql.proof.row_cells import as_datetime, read_column
from sigma2kql.proof.rule_events import Labelled
from sigma2kql.proof.table_events import fitted
from sigma2kql.reference.evaluate import evaluate, holds

GENERATED = "generated"
SPARE = 2  # events made for each one wanted, as some cannot stand in the table
ENOUGH = 0.5  # of the events wanted of a label, below which more are made
UNIX = "/usr/zq"
PATHS = ("Image", "TargetFilename")  # that tell the platform of a row


@frozen
class Case:
    """One row to run: the event in Sigma's names, its label, and the row."""

    event: Mapping[str, Any]
    expected: bool
    origin: str
    row: Mapping[str, Any]
    attack: int | None = None
    raw: bool = False


def rows_of(subject: Subject, count: int = 0, seed: str = "0") -> tuple[list[Case], list[str]]:
    """The rows of a rule's own events and of `count` generated ones, and of each event that has no row the reason.

    Where few of the generated events have a row, more are made with the rows in view. The seed of each rule is its
    own, whatever other rules there are.
    """
    if not count or subject.where is None:
        return cases(subject, {})
    meta = subject.compiled.document.meta
    own = f"{seed}:{meta.id or meta.title}"
    wanted = {True: count // 2, False: count - count // 2}
    rows, notes = cases(_with(subject, generate(subject.where, count * SPARE, own, is_unix(subject))), wanted)
    made = Counter(case.expected for case in rows if case.origin.startswith(GENERATED))
    if all(made[label] >= number * ENOUGH for label, number in wanted.items()):
        return rows, notes
    known = [case.event for case in rows]
    samples = fitted(subject.where, room_of(subject), count * SPARE, own, is_unix(subject))
    fresh = [sample for sample in samples if sample.event not in known]
    lacking = {label: number - made[label] for label, number in wanted.items()}
    more, further = cases(_with(replace(subject, events=(), attacks=()), fresh), lacking)
    return rows + more, notes + further


def _with(subject: Subject, samples: Iterable[Sample]) -> Subject:
    made = tuple(Labelled(sample.event, sample.matches, f"{GENERATED} ({sample.how})") for sample in samples)
    return replace(subject, events=subject.events + made)


def room_of(subject: Subject) -> Room:
    """What the rows of the rule's table have room for, of the fields that it tests."""
    assert subject.table is not None and subject.serve is not None and subject.where is not None
    names = fields_of(subject.where)
    states = completed({}, subject.table, subject.serve, names)
    if is_unix(subject):
        states |= {name: UNIX for name in PATHS if name in names and name not in states}
    return Room(subject.table, subject.serve, names, states)


def is_unix(subject: Subject) -> bool:
    document = subject.compiled.document
    return isinstance(document, Rule) and document.logsource.product in ("linux", "macos")


def cases(subject: Subject, wanted: Mapping[bool, int]) -> tuple[list[Case], list[str]]:
    """The rows of a rule's events, and of each event that cannot be one the reason; of generated ones as many as are
    `wanted` of each label.
    """
    assert subject.table is not None and subject.serve is not None and subject.where is not None
    names = fields_of(subject.where)
    found: list[Case] = []
    notes: list[str] = []
    left = Counter(wanted)
    for one in subject.events:
        generated = one.origin.startswith(GENERATED)
        if generated and one.expected is not None and left[one.expected] <= 0:
            continue
        made = case_of(subject, one.event, one.expected, one.origin, names, notes)
        if made is not None:
            found.append(made)
            left[made.expected] -= generated
    for number, attack in enumerate(subject.attacks):
        for event in attack.events:
            made = case_of(subject, event, None, attack.origin, names, notes, number)
            if made is not None:
                found.append(made)
    return found, notes


def case_of(
    subject: Subject,
    event: Mapping[str, Any],
    expected: bool | None,
    origin: str,
    names: Sequence[str],
    notes: list[str],
    attack: int | None = None,
) -> Case | None:
    table, serve, where = subject.table, subject.serve, subject.where
    assert table is not None and serve is not None and where is not None
    known = recognise(event)
    named = known.form is EventForm.TABLE_ROW and known.table in (table.name, table.builtin)
    made = origin.startswith(GENERATED)  # by Sigma's field names, whatever columns are called
    if named or (known.form is EventForm.SIGMA_FIELDS and not made and is_row(event, table, serve, names)):
        shaped = raw_row(event, table)
        notes += [f"{origin}: {problem}" for problem in shaped.problems]
        if expected is None:
            notes.append(f"{origin}: a row of the table has no label of its own; give it under `match:` or `no_match:`")
            return None
        return Case(event, expected, origin, shaped.row, attack, raw=True)
    fields = sigma_fields(event, serve.logsource.category is not None)
    if expected is None or made:  # the table's source writes the same event without the fields that it never has
        fields = {name: value for name, value in fields.items() if not _never(table, serve, name)}
    if expected is not None and made:
        fields = completed(fields, table, serve, names)
        if is_unix(subject):
            fields.update({name: UNIX for name in PATHS if name in names and not fields.get(name)})
        expected = evaluate(where, fields)
        if told := synonym(where, fields, table, serve, names):
            notes.append(f"{origin}: {told}")
            return None
    label = evaluate(where, fields) if expected is None else expected
    windows = known.form is EventForm.WINDOWS_RAW or known.table in SYSTEM_COLUMNS
    shaped = (written(event, table, serve) if windows else None) or shape(fields, table, serve, names)
    if shaped.problems:
        notes.append(f"{origin}: {'; '.join(shaped.problems)}")
        if made or (shaped.foreign and expected is not True):
            return None
    row: Mapping[str, Any] = {} if shaped.foreign else shaped.row
    if row and not windows and None in fields_of(where, keywords=True):
        row = keyword_text(row, fields, table, serve)
    return Case(fields, label, origin, row, attack)


def written(event: Mapping[str, Any], table: Table, serve: Serve) -> Shaped | None:
    """The row that the collector of a table writes of a Windows event, as a hunt stands on it; None where it is not
    known how the table is written, or the event is none.
    """
    write = WRITERS.get(table.name)
    try:
        record = windows_record(event) if write is not None else None
    except Unusable:
        return None
    if write is None or record is None:
        return None
    made = write(record)
    told = (system := record.system).get("TimeCreated_SystemTime")
    shaped = raw_row({**(made or {}), table.time: as_datetime(told) or ""}, table)
    if made is None or not holds(serve.where, lambda column: read_column(shaped.row, column)):
        log = ", ".join(str(system.get(name)) for name in ("Channel", "Provider_Name", "EventID") if system.get(name))
        return Shaped(
            shaped.row, (f"an event of {log} is none of those that the query on {table.name} is about",), True
        )
    return Shaped(shaped.row)


def _never(table: Table, serve: Serve, name: str) -> bool:
    found = find_field(table, serve, name)
    return isinstance(found, FieldMap) and bool(found.never)


def is_row(event: Mapping[str, Any], table: Table, serve: Serve, names: Sequence[str]) -> bool:
    """Whether an event that names no table (no `Type`) is a row of this one all the same: it has columns of it alone,
    not all of them Sigma's fields too, and none of the fields that the rule tests.
    """
    told = event.keys() - {table.time, "Type"}
    plain = told - table.fields.keys() - serve.fields.keys()
    return bool(plain) and told <= table.columns.keys() and told.isdisjoint(names)


def completed(event: Mapping[str, Any], table: Table, serve: Serve, names: Sequence[str]) -> dict[str, Any]:
    """A generated event with the fields that no row of the table can lack: what the table itself states."""
    full = dict(event)
    for name in names:
        found = find_field(table, serve, name)
        if full.get(name) not in (None, "") or isinstance(found, str):
            continue
        if found.constant is not None:
            full[name] = found.constant
        elif found.values is not None and (stated := [v for v, where in found.values.items() if where == And(())]):
            full[name] = stated[0]
        elif found.transform == "registry_data":
            full[name] = "zq"
    return full


def fields_of(where: Expr[Field], keywords: bool = False) -> list[Any]:
    """The names of the fields that a tree tests; with `keywords` None stands for the whole event."""
    found: dict[str | None, None] = {}
    for leaf in leaves(where):
        found[leaf.subject.name] = None
        if isinstance(leaf.test, SameAs):
            found[leaf.test.other.name] = None
    return [name for name in found if name is not None or keywords]
