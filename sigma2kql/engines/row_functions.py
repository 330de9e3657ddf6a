"""Functions over rows in order, which duckdb-kql refuses: prev(), next() and row_cumsum() after a sort; and exact
distinct counts.

Place in the flow: below the DuckDB engine, beside the rewriting of literals. Invariant: the order is the one that the
query sorts by; where it does not sort, or asks for more than is done here, the text stays as it is and is refused.

`sort by` gets a column with the number of each row, prev() and next() become lag and lead over it, row_cumsum() a
running sum over it (within a column that counts the restarts), and the columns are taken away again. Source: Microsoft
Learn, "Window functions", "prev()", "next()", "row_cumsum()", "sort operator", "count_distinct()".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile

from sigma2kql.engines.rewrites import tokens

ROW = "s2k_row"
_NUMBER = "s2k_row_number"
_LOOKS = {"prev": "s2k_prev", "next": "s2k_next"}
_SUM = "row_cumsum"
_PART = "s2k_part"
_PLACES = {"asc": "ASC NULLS FIRST", "desc": "DESC NULLS LAST"}  # null is the smallest value


def register() -> None:
    """Teach duckdb-kql the names that `ordered` writes, and the exact distinct counts; twice changes nothing."""
    from duckdb_kql.translate.functions import AGGREGATE_FUNCTIONS, SCALAR_FUNCTIONS, AggregateSpec, FunctionSpec

    class RowNumber(FunctionSpec):
        """The number of a row by (directions in one text, key, key ...)."""

        def render(self, args: list[str]) -> str:
            ways = args[0].strip("'").split()
            keys = (f"{key} {_PLACES[way]}" for key, way in zip(args[1:], ways, strict=True))
            return f"row_number() OVER (ORDER BY {', '.join(keys)})"

    SCALAR_FUNCTIONS.setdefault(_NUMBER, RowNumber(_NUMBER, "template", "{}"))
    for name, sql in (("s2k_prev", "lag"), ("s2k_next", "lead")):
        look = FunctionSpec(name, "template", f"{sql}({{1}}, {{2}}) OVER (ORDER BY {{0}})", (3,))
        SCALAR_FUNCTIONS.setdefault(name, look)
    running = "coalesce(sum({2}) OVER (PARTITION BY {1} ORDER BY {0} ROWS UNBOUNDED PRECEDING), 0)"
    SCALAR_FUNCTIONS.setdefault("s2k_sum", FunctionSpec("s2k_sum", "template", running, (3,)))
    count = "count(DISTINCT {0})"
    AGGREGATE_FUNCTIONS.setdefault("count_distinct", AggregateSpec("count_distinct", count, (1,)))
    only = AggregateSpec("count_distinctif", f"{count} FILTER (WHERE {{1}})", (2,))
    AGGREGATE_FUNCTIONS.setdefault("count_distinctif", only)


def ordered(kql: str) -> str:
    """The query with prev() and next() in the words of `register`."""
    return _statements(kql) if _looks(kql) else kql


def _statements(text: str) -> str:
    """One level of brackets: its statements and their pipelines, what stands in inner brackets first."""
    pipelines = ([_within(piece, _statements) for piece in split(one, "|")] for one in split(text, ";"))
    return ";".join("|".join(_pipeline(pieces)) for pieces in pipelines)


def _pipeline(pieces: list[str]) -> list[str]:
    """The operators of a pipeline; those between a sort and the last look at a neighbour must keep the order."""
    done = list(pieces)
    for at, piece in enumerate(pieces):
        if operator(piece) not in ("sort", "order") or (numbers := numbering(piece)) is None:
            continue
        after = takewhile(lambda n: operator(pieces[n]) in ("extend", "where"), range(at + 1, len(pieces)))
        looking = [n for n in after if operator(pieces[n]) == "extend" and _looks(pieces[n])]
        if looking:
            done[at] = f"{piece}\n| {numbers}\n"
            parts: dict[str, str] = {}
            for number in looking:
                known = len(parts)
                done[number] = "".join(_looked(list(tokens(pieces[number])), parts))
                made = [f"{part} = s2k_sum({ROW}, 0, toint({text}))" for text, part in [*parts.items()][known:]]
                if made:
                    done[number] = f" extend {', '.join(made)}\n|{done[number]}"
            done[looking[-1]] += f"\n| project-away {', '.join([ROW, *parts.values()])}\n"
    return done


def order_of(pieces: list[str]) -> str | None:
    """The operator that numbers the rows that a pipeline ends with: its last sort, behind which the order was kept."""
    for piece in reversed(pieces):
        match operator(piece):
            case "sort" | "order":
                return numbering(piece)
            case "extend" | "where":
                continue
            case _:
                return None
    return None


def operator(piece: str) -> str:
    """The first word of a pipeline's operator."""
    return next((text for kind, text in tokens(piece) if kind == "name"), "")


def numbering(piece: str) -> str | None:
    """The operator that numbers the rows of this `sort by`; None where its keys say more than a direction."""
    text = "".join(text for kind, text in tokens(piece) if kind != "comment")
    keys: list[str] = []
    ways: list[str] = []
    for key in split(text.partition(" by ")[2], ","):
        words = key.split()
        if not words or "nulls" in words:
            return None
        ways.append(words.pop() if words[-1] in _PLACES else "desc")
        keys.append(" ".join(words))
    return f'extend {ROW} = {_NUMBER}("{" ".join(ways)}", {", ".join(keys)})'


def split(text: str, mark: str) -> list[str]:
    """The text between marks that stand outside all brackets, literals and comments."""
    found, depth = [""], 0
    for kind, word in tokens(text):
        if kind == "other":
            if word == mark and depth == 0:
                found.append("")
                continue
            depth += (word in "([{") - (word in ")]}")
        found[-1] += word
    return found


def _within(text: str, change: Callable[[str], str]) -> str:
    """The text with `change` done to what stands in its outermost brackets."""
    out: list[str] = []
    inside: list[str] = []
    depth = 0
    for kind, word in tokens(text):
        if kind == "other" and word in ")]}":
            depth -= 1
            if depth == 0:
                out.append(change("".join(inside)))
                inside = []
        (inside if depth else out).append(word)
        depth += kind == "other" and word in "([{"
    return "".join(out + inside)


def _looks(text: str) -> bool:
    return any(kind == "name" and (word in _LOOKS or word == _SUM) for kind, word in tokens(text))


def _looked(found: list[tuple[str, str]], parts: dict[str, str]) -> Iterator[str]:
    """prev(c), prev(c, n), row_cumsum(c) and row_cumsum(c, restart), with the row; a further argument is left for the
    translator to refuse. `parts` receives the column that counts the restarts of each such text.
    """
    at = 0
    while at < len(found):
        kind, text = found[at]
        at += 1
        if kind != "name" or (text not in _LOOKS and text != _SUM) or at == len(found) or found[at][1] != "(":
            yield text
            continue
        inside, depth = "", 0
        for kind, word in found[at:]:
            at += 1
            depth += kind == "other" and word in "([{"
            depth -= kind == "other" and word in ")]}"
            if depth == 0:
                break
            inside += word
        arguments = split(inside[1:], ",")
        if text == _SUM:
            part = "0" if len(arguments) == 1 else parts.setdefault(arguments[1].strip(), f"{_PART}{len(parts)}")
            yield f"s2k_sum({', '.join([ROW, part, arguments[0], *arguments[2:]])})"
            continue
        yield f"{_LOOKS[text]}({', '.join([ROW, *arguments, *['1'][len(arguments) - 1 :]])})"
