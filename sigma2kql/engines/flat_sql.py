"""A translated query as the conditions on one table, so that many rules can share what they compute of its rows.

Place in the flow: between the translator and `combined_scan`. Invariant: every step puts an expression in the place of
one that DuckDB gives the same value for, on every row; what does not have the translator's plain form is left alone
(`flatten` gives None), and such a query runs as it is.

The translator writes a chain: WITH _s0 AS (SELECT * FROM "T"), _s1 AS (SELECT * FROM _s0 WHERE ..), ..
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from sigma2kql.diagnostics.diagnostic import frozen

_TEXT = r"'(?:[^']|'')*'"
_STAGE = re.compile(r"(_s\d+) AS \(")
_STAGES = re.compile(r"\b_s\d+\b")
_TEXTS = re.compile(_TEXT)
_ALIAS = re.compile(r' AS ("(?:[^"]|"")+")\Z')
# a part of a dynamic column as text, as the translator writes tostring(Column.Key)
_PART = re.compile(rf'coalesce\(json_extract\("((?:[^"]|"")+)", ({_TEXT})\) ->> \'\$\', \'\'\)')
_TYPED = re.compile(r'CASE WHEN typeof\(("(?:[^"]|"")+"|_x\d+)\) = \'JSON\' THEN ')
_ESCAPED = rf"replace\(replace\(replace\(({_TEXT}), '\\', '\\\\'\), '%', '\\%'\), '_', '\\_'\)"
_ILIKE = re.compile(rf"\((_x\d+) ILIKE ('%' \|\| )?{_ESCAPED}( \|\| '%')? ESCAPE '\\'\)")
_LOWER = re.compile(r"lower\((_x\d+)\)")
_RANGES = "list_transform([[s2k_"  # of the macros in `ip`: they are long, and rules share their ranges
_NAMED = re.compile(r"\b_x\d+\b")
_TOKEN = re.compile(rf'{_TEXT}|"(?:[^"]|"")*"|[()]|\bCASE\b|\bEND\b|\bELSE\b|,')


@frozen
class Flat:
    """`conditions` all of which hold for the rows that the query selects, over the table's columns and over `_x0`,
    `_x1`, .. : `parts` are their expressions, in order. `_l0` stands for lower(_x0).
    """

    table: str
    conditions: tuple[str, ...]
    parts: tuple[str, ...]


def flatten(sql: str, columns: Sequence[str], kind: Callable[[str], str]) -> Flat | None:
    """The query's conditions, where it is nothing but a selection of rows.

    `columns` are all that the table has, in order; `kind` tells the SQL type of an expression over them.
    """
    stages = _stages(sql)
    if stages is None:
        return None
    start = re.fullmatch(r'SELECT \* FROM "((?:[^"]|"")+)"', stages[0][1])
    if start is None:
        return None
    table = start[1].replace('""', '"')
    every = "SELECT " + ", ".join(f'"{name}"' for name in columns)
    parts: list[str] = []
    names: dict[str, str] = {}  # what `extend` called it -> what stands for it
    conditions: list[str] = []
    last = stages[0][0]
    for name, body in stages[1:]:
        head = f"SELECT * FROM {last} WHERE "  # noqa: S608 - text that is read
        if body.startswith(head):
            condition = _renamed(body.removeprefix(head), names)
            conditions.append(_with_parts(condition, parts))
        elif body.startswith(every + ", ") and body.endswith(f" FROM {last}"):
            for item in _split(body[len(every) + 2 : -len(f" FROM {last}")]):
                found = _ALIAS.search(item)
                if found is None:
                    return None
                names[found[1]] = _part(_renamed(item[: found.start()], names), parts)
            every += "".join(f", {alias}" for alias in names if alias not in every)
        else:
            return None
        last = name
    if any(_STAGES.search(_TEXTS.sub("", condition)) for condition in conditions):
        return None
    types: dict[str, str] = {}

    def known(expression: str) -> str:
        if expression not in types:
            text = parts[int(expression[2:])] if expression.startswith("_x") else expression
            types[expression] = kind(text)
        return types[expression]

    return Flat(table, tuple(_plain(_decided(c, known)) for c in conditions), tuple(parts))


def placed(flat: Flat, names: Mapping[str, int], drop: frozenset[str] = frozenset()) -> str:
    """The condition with the names that a table has for the parts (`names`: expression -> number), `drop` left out."""

    def put(found: re.Match[str]) -> str:
        return f"_{found[1]}{names[flat.parts[int(found[2])]]}" if found[1] else found[0]

    kept = [c for c in flat.conditions if c not in drop]
    return " AND ".join(_PLACE.sub(put, c) for c in kept) or "TRUE"


_PLACE = re.compile(rf"{_TEXT}|\b_([xl])(\d+)\b")

# --------------------------------------------------------------------------------------------------------------------


def _stages(sql: str) -> list[tuple[str, str]] | None:
    """The names and bodies of the chain, in order; None where the text is no such chain."""
    if not sql.startswith("WITH "):
        return None
    at, found = len("WITH "), []
    while True:
        head = _STAGE.match(sql, at)
        if head is None:
            return None
        end = _closing(sql, head.end())
        if end < 0:
            return None
        found.append((head[1], sql[head.end() : end]))
        rest = re.compile(r",\s*").match(sql, end + 1)
        if rest is None:
            last = f"SELECT * FROM {found[-1][0]}"  # noqa: S608 - text that is read
            return found if sql[end + 1 :].strip() == last else None
        at = rest.end()


def _closing(text: str, start: int) -> int:
    """Where the bracket that was opened before `start` is closed; -1 where it is not."""
    depth = 1
    for found in _TOKEN.finditer(text, start):
        depth += (found[0] == "(") - (found[0] == ")")
        if depth == 0:
            return found.start()
    return -1


def _split(text: str) -> Iterator[str]:
    """The items of a list."""
    depth = start = 0
    for found in _TOKEN.finditer(text):
        depth += (found[0] == "(") - (found[0] == ")")
        if found[0] == "," and depth == 0:
            yield text[start : found.start()].strip()
            start = found.end()
    yield text[start:].strip()


def _renamed(text: str, names: Mapping[str, str]) -> str:
    """The text with what was extended before in place of its name."""
    if not names:
        return text
    return _TOKEN.sub(lambda found: names.get(found[0], found[0]), text)


def _part(expression: str, parts: list[str]) -> str:
    if expression not in parts:
        parts.append(expression)
    return f"_x{parts.index(expression)}"


def _with_parts(condition: str, parts: list[str]) -> str:
    """The condition with the parts of dynamic columns by their names, and whole tests of an address among ranges."""
    done, at = [], 0
    while (start := condition.find(_RANGES, at)) >= 0:
        end = _closing(condition, start + len("list_transform("))
        if end < 0:
            break
        end += len("[1]") if condition.startswith("[1]", end + 1) else 0
        whole = condition[start : end + 1]
        done += [condition[at:start], _part(whole, parts) if not _NAMED.search(_TEXTS.sub("", whole)) else whole]
        at = end + 1
    condition = "".join(done) + condition[at:]
    return _PART.sub(lambda found: _part(found[0], parts), condition)


def _decided(text: str, kind: Callable[[str], str]) -> str:
    """The branch that the type of a column decides on, in place of each choice by type."""
    done, at = [], 0
    while (found := _TYPED.search(text, at)) is not None:
        ends = _branches(text, found.end())
        if ends is None:
            break
        middle, end = ends
        chosen = text[found.end() : middle] if kind(found[1]) == "JSON" else text[middle + len("ELSE") : end]
        done.append(text[at : found.start()])
        done.append(_decided(chosen.strip(), kind))
        at = end + len("END")
    return "".join(done) + text[at:]


def _branches(text: str, start: int) -> tuple[int, int] | None:
    """Where the ELSE and the END of a CASE stand whose THEN ends at `start`."""
    depth, middle = 0, -1
    for found in _TOKEN.finditer(text, start):
        word = found[0]
        if word == "CASE":
            depth += 1
        elif word == "ELSE" and depth == 0:
            middle = found.start()
        elif word == "END":
            if depth == 0:
                return (middle, found.start()) if middle >= 0 else None
            depth -= 1
    return None


def _plain(condition: str) -> str:
    """Text tests that ignore case as tests on the text in lower case, computed once: ILIKE lowers both sides itself."""

    def like(found: re.Match[str]) -> str:
        name, before, literal, after = found.groups()
        test = "contains" if before and after else "suffix" if before else "prefix" if after else ""
        lowered = f"_l{name[2:]}"
        literal = literal.lower() if literal.isascii() else f"lower({literal})"
        return f"{test}({lowered}, {literal})" if test else f"({lowered} = {literal})"

    return _LOWER.sub(lambda found: f"_l{found[1][2:]}", _ILIKE.sub(like, condition))
