r"""The value of a field as one KQL text, to group, count and show by: composed as the mapping takes it apart.

Place in the flow: between a mapped rule and the windows of its correlation. Invariant: two rows have equal texts when
the events had equal values, compared without regard to case, as Sigma compares; where several tables write one key in
different forms (`DOMAIN\user` and a bare name, hexadecimal and decimal numbers, a host with and without its domain),
all are brought to the form that all can be brought to, and that is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sigma2kql.diagnostics.diagnostic import Source, frozen
from sigma2kql.kql.query import predicate
from sigma2kql.map.event_elements import Ids
from sigma2kql.map.field_places import find_field
from sigma2kql.map.one_table import Mapped
from sigma2kql.map.transforms.pairs import concatenated
from sigma2kql.map.transforms.paths import host_of
from sigma2kql.model.literals import identifier, quoted
from sigma2kql.model.tree import Column, FieldMap
from sigma2kql.system.shipped_files import mappings_folder

FULL, BARE, ADDRESS, HOST, LOGON = "full_account", "bare_account", "address_account", "host", "logon"
ACCOUNTS = (FULL, BARE, ADDRESS)
_NUMBERS = frozenset({"hex_to_decimal", "number_text"})


@frozen
class Value:
    """A field's value in the rows of one table: a KQL expression of type string, and how it is written there."""

    text: str
    form: str = ""  # of `forms` in mappings/correlation.yml; empty: as the event has it
    empty: str = ""  # the text that stands for a missing value, beside the empty one and `-`
    folded: bool = False  # whether it has been made comparable already


@cache
def facts() -> Mapping[str, Any]:
    """The content of `mappings/correlation.yml`."""
    from sigma2kql.text.nodes import plain
    from sigma2kql.text.yaml_text import compose

    path = mappings_folder() / "correlation.yml"
    (document,) = compose(Source("mappings/correlation.yml", path.read_text(encoding="utf-8")))
    assert document.root is not None
    data: Mapping[str, Any] = plain(document.root)
    return data


@cache
def _form_of_name() -> Mapping[str, str]:
    return {name: form for form, names in facts()["forms"].items() for name in names}


def value_of(mapped: Mapped, name: str, asked: Ids = None) -> Value | str:
    """The value of a field, or the reason why the table has none (empty where it is simply unknown).

    `asked`: the only EventIDs that the rule selects.
    """
    assert mapped.serve is not None
    found = find_field(mapped.table, mapped.serve, name, asked)
    if isinstance(found, str) or found.never:
        # a table's own column is a name for itself, unless it stands for an element that other events of the log have
        kind = None if _of_other_events(mapped, name, asked) else mapped.table.columns.get(name)
        if kind is None:
            return found if isinstance(found, str) else found.never
        found = FieldMap((Column(identifier(name), kind, (name,)),))
    text = _text(found)
    if text is None:
        return "its value is spread over several columns"
    return Value(text, _form(found, name), found.empty)


def _of_other_events(mapped: Mapped, name: str, asked: Ids) -> bool:
    """Whether the field is one of the log's, though not of the events that the rule selects."""
    assert mapped.serve is not None
    found = find_field(mapped.table, mapped.serve, name) if asked else ""
    return isinstance(found, FieldMap) and not found.never


def _form(field: FieldMap, name: str) -> str:
    form = _form_of_name().get(name, "")
    if field.transform in _NUMBERS:
        return LOGON
    if form in ACCOUNTS:
        if field.transform == "user_split":
            return FULL
        split = field.transform == "user_name" or any("split(" in column.text for column in field.columns)
        return BARE if split else form
    return form


def compared(values: Sequence[Value]) -> tuple[list[str], str]:
    """Expressions that can be compared with one another, for one key in the rows of several rules; and what was done
    for it, in words.
    """
    forms = {value.form for value in values}
    if len({(value.text, value.form) for value in values}) > 1:
        if forms <= set(ACCOUNTS) and len(forms) > 1:
            return [_bare(value) for value in values], "by the account's name alone, without its domain"
        if forms == {HOST}:
            return [_short(value.text) for value in values], "by the host's name alone, without its domain"
        if LOGON in forms:
            return [_number(value.text) for value in values], ""
    if forms == {LOGON}:
        return [_number(value.text) for value in values], ""
    return [value.text if value.folded else f"tolower({value.text})" for value in values], ""


def _bare(value: Value) -> str:
    if value.form == BARE:
        return f"tolower({value.text})"
    if value.form == ADDRESS:
        return f'tolower(tostring(split({value.text}, "@")[0]))'
    return f'tolower(tostring(split({value.text}, @"\\")[-1]))'.replace('@"\\\\"', '@"\\"')


def _short(text: str) -> str:
    """The first label of a host's name; an address has no letter in it and stays."""
    return f'tolower(replace_regex({text}, @"^([^.]*[A-Za-z_-][^.]*)[.].*$", @"\\1"))'


def _number(text: str) -> str:
    """Hexadecimal and decimal texts of one number as one text; what is no number as it is."""
    return f"tolower(coalesce(tostring(tolong({text})), {text}))"


# --------------------------------------------------------------------------------------------------------------------
# One text of one field


def _text(field: FieldMap) -> str | None:
    """None: no one expression gives the value."""
    if field.cases:
        return _by_case(field.cases)
    if field.values is not None:
        words: dict[str, str] = {}  # of several words for the same rows (an event's old and new number) the longest
        for word, when in field.values.items():
            words[predicate(when)] = max(words.get(predicate(when), ""), word, key=len)
        pairs = [f"{when}, {quoted(word)}" for when, word in words.items()]
        return f'case({", ".join(pairs)}, "")' if pairs else None
    if field.constant is not None:
        return quoted(field.constant)
    columns = [column for column in field.columns if column.type != "dynamic"] or list(field.columns)
    if not columns:
        return None
    match field.transform:
        case "user_split":
            return concatenated(columns[0], columns[1], "right", "User").text
        case "registry_path" if field.options.get("value") is False:
            return columns[0].text
        case "registry_path":
            return concatenated(columns[0], columns[1], "left", "RegistryPath").text
        case "registry_data":
            return _string(columns[0])
        case "host_of_url":
            return _first([_string(host_of(column)) for column in columns])
        case "translate":
            return _translated(columns[0], field.options)
        case "prefix":
            text, own = _string(columns[0]), quoted(str(field.options["text"]))
            return f"iff({text} startswith {own}, substring({text}, strlen({own})), {text})"
        case "replace":
            old, new = quoted(str(field.options["from"])), quoted(str(field.options["to"]))
            return f"replace_string({_string(columns[0])}, {new}, {old})"
    return _first([_string(column) for column in dict.fromkeys(columns)])


def _translated(column: Column, options: Mapping[str, Any]) -> str:
    """The event's own word for the table's."""
    words: dict[str, str] = {}
    for word, texts in options.items():
        for text in texts if isinstance(texts, list) else [texts]:
            words[str(text)] = max(words.get(str(text), ""), str(word), key=len)
    pairs = [f"{_string(column)} =~ {quoted(text)}, {quoted(word)}" for text, word in words.items()]
    return f"case({', '.join(pairs)}, {_string(column)})" if pairs else _string(column)


def _by_case(cases: Sequence[tuple[Any, FieldMap]]) -> str | None:
    """What the first case that holds says."""
    texts = [_text(field) for _, field in cases]
    if any(text is None for text in texts):
        return None
    conditions = [predicate(when) for when, _ in cases]
    last = '""' if conditions[-1] != "true" else str(texts.pop())
    pairs = [f"{when}, {text}" for when, text in zip(conditions, texts, strict=False)]
    if len(pairs) == 1:
        return f"iff({pairs[0]}, {last})"
    return f"case({', '.join(pairs)}, {last})" if pairs else last


def _string(column: Column) -> str:
    return column.text if column.type == "string" else f"tostring({column.text})"


def _first(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"coalesce({', '.join(texts)})"
