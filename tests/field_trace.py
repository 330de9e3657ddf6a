"""Follow one field name of one rule through a real run: which files it enters, from the rule's text to the query.

    python tests/field_trace.py                                     the field of the rule below
    python tests/field_trace.py RULE --field Image -t xdr

Told is every call of a function of the package that is handed the field: its name, the scalar, `Field`, `Column` or
test that stands for it. Trees that hold it among others are not told: they carry a rule, not a field. A function that
gives the field on, as any of these or as text of the query, is on its way; one that gives something else (a price, a
verdict, a term for the index) only looks at it. A file that is entered again after another is a way back.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "sigma2kql"
STAGES = {"load", "map", "kql", "reference", "artifacts", "engines", "events"}
RULE = """
title: Traced
logsource: {product: windows, category: process_creation}
detection:
  selection:
    CommandLine|contains: [whoami, ipconfig]
    User: SYSTEM
  filter:
    CommandLine|endswith: ' /all'
  condition: selection and not filter
"""


@dataclass(frozen=True)
class Move:
    """The field enters a file by a function, which gives it on or only looks at it."""

    file: str
    function: str
    looks: bool = False

    @property
    def stage(self) -> str:
        return self.file.partition("/")[0]


def moves(rule: str, field: str, target: str) -> tuple[list[Move], str]:
    """The moves of a field in order, without calls inside one file, and the query."""
    from sigma2kql.api import Compiler, Input, Options, load_input
    from sigma2kql.model.tree import And, Column, Field, FieldMap, Match, Not, Or
    from sigma2kql.text.nodes import YamlScalar

    compiler = Compiler(Options(target=target))
    found: list[Move] = []
    columns: set[str] = set()
    entered: dict[int, int] = {}

    def carries(value: Any) -> bool:
        match value:
            case str():
                return value == field or value in columns or value.partition("|")[0] == field
            case YamlScalar():
                return carries(getattr(value, "text", None))  # it may be about to be made
            case Field():
                return carries(getattr(value, "name", None))
            case Column():
                return getattr(value, "text", None) in columns
            case Match():
                return carries(getattr(value, "subject", None))
            case _:
                return False

    def gives_on(value: Any) -> bool:
        match value:
            case str():
                return " " in value and any(column in value for column in columns)  # a predicate
            case YamlScalar() | Field() | Column() | Match():
                return carries(value)
            case And() | Or():
                return any(map(gives_on, value.items))
            case Not():
                return gives_on(value.item)
            case FieldMap():
                return any(column.text in columns for column in value.columns)
            case tuple() | list():
                return any(map(gives_on, value))
            case _:
                return any(
                    gives_on(getattr(value, name)) for name in ("field", "item", "items") if hasattr(value, name)
                )

    def told(frame: FrameType, event: str, argument: Any) -> None:
        path = frame.f_code.co_filename
        if not path.startswith(str(HOME)) or frame.f_code.co_name.startswith("<"):
            return
        file = str(Path(path).relative_to(HOME))
        if event == "call":
            given = frame.f_code.co_varnames[: frame.f_code.co_argcount]
            if any(carries(frame.f_locals.get(name)) for name in given):
                entered[id(frame)] = len(found)
                found.append(Move(file, frame.f_code.co_qualname, looks=True))
        elif event == "return":
            found_at = getattr(argument, "field", argument)  # in a Standing, or as it is
            if isinstance(found_at, FieldMap) and id(frame) in entered:
                columns.update(column.text for column in found_at.columns)  # from here on the field is its columns
            at = entered.pop(id(frame), None)
            if at is not None and gives_on(argument):
                found[at] = replace(found[at], looks=False)

    sys.setprofile(told)
    try:
        (document,) = load_input(Input("rule.yml", None, rule.encode()))
        done = compiler.compile(document)
    finally:
        sys.setprofile(None)
    return list(by_file(found)), done.kql or ""


def by_file(found: Sequence[Move]) -> Iterator[Move]:
    """Without calls inside one file: a row gives the field on where one of its calls does."""
    for file, calls in groupby(found, lambda move: move.file):
        rows = list(calls)
        yield next((row for row in rows if not row.looks), replace(rows[0], file=file))


def entered_twice(found: Sequence[Move]) -> Iterator[str]:
    """The stages that the field comes back to after it was in another one."""
    stages = [move.stage for move in found if move.stage in STAGES]
    entered = [stage for stage, _ in groupby(stages)]
    yield from (stage for stage, count in Counter(entered).items() if count > 1)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rule", nargs="?", type=Path)
    parser.add_argument("--field", default="CommandLine")
    parser.add_argument("-t", "--target", default="sentinel")
    given = parser.parse_args(arguments)
    text = given.rule.read_text(encoding="utf-8") if given.rule else RULE
    found, query = moves(text, given.field, given.target)
    for move in found:
        print(f"{'' if not move.looks else '  '}{move.file:32} {move.function}{' (looks)' * move.looks}")
    on_the_way = {move.file for move in found if not move.looks}
    files = {move.file for move in found}
    back = sum(move.file in {m.file for m in found[:at]} for at, move in enumerate(found))
    print(f"\n{len(on_the_way)} files on the way, {len(files)} with those that look; {len(found)} moves, {back} back")
    print(f"stages entered twice: {', '.join(entered_twice(found)) or 'none'}\n\n{query}")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
