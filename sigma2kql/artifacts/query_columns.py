"""Which columns a query returns, read from its text: for queries that people wrote, correlations and unions.

Place in the flow: beside `scan`, before `describe`, which infers entities from what is found here. Invariant: a column
that is named here is in the output; `whole` says that there is no other. What is not understood leaves the list open.

Source: the result schema that Microsoft's pages state for each tabular operator (Kusto "Tabular operators"); a test
holds it against Microsoft's binder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final

from sigma2kql.artifacts.kql_tokens import Token, tokens
from sigma2kql.diagnostics.diagnostic import frozen

Known = Callable[[str], Mapping[str, str] | None]
OPENERS, CLOSERS = "([{", ")]}"
DEEPEST = 40
KEEP = frozenset(
    ["where", "filter", "take", "limit", "sort", "order", "top", "sample", "as", "render", "project-reorder", "consume"]
)
TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        ("tostring", "strcat", "strcat_delim", "tolower", "toupper", "substring", "extract", "replace_string",
         "replace_regex", "replace", "trim", "trim_start", "trim_end", "url_decode", "base64_decode_tostring",
         "format_datetime", "countryname", "strcat_array", "hash_sha256", "hash_md5", "format_ipv4"), "string"),
    **dict.fromkeys(("count", "countif", "dcount", "dcountif", "tolong"), "long"),
    **dict.fromkeys(("make_set", "make_list", "makeset", "makelist", "make_bag", "split", "parse_json", "todynamic",
                     "pack", "bag_pack", "pack_all", "set_union", "make_set_if", "make_list_if", "extract_all",
                     "pack_array", "array_concat", "parse_url"), "dynamic"),
    **dict.fromkeys(("todatetime", "now", "ago", "startofday", "endofday"), "datetime"),
    **dict.fromkeys(("todouble", "toreal", "percentile", "avg"), "real"),
    **dict.fromkeys(("toint"), "int"),
    **dict.fromkeys(("tobool", "isempty", "isnotempty", "isnull", "isnotnull"), "bool"),
}  # fmt: skip
SAME = frozenset(("min", "max", "take_any", "any", "arg_max", "arg_min", "bin", "floor", "materialize"))
OWN_NAME = frozenset(("min", "max", "sum", "avg", "dcount", "stdev", "variance"))  # gives `min_Column`
CHOICES = {"coalesce": 0, "iff": 1, "iif": 1, "max_of": 0, "min_of": 0}  # from which argument on a result comes
NAMED_AFTER = {"make_set": "set", "makeset": "set", "make_list": "list", "makelist": "list", "make_bag": "bag"}


@frozen
class Output:
    """Columns, name -> KQL type ("" where it is not known), and whether they are all."""

    columns: Mapping[str, str] = field(default_factory=dict)
    whole: bool = False


def read_columns(query: str, known: Known) -> Output:
    """The columns of a query's result. `known` gives the columns of a table or parser function by name, if any.

    Tables may have more columns than `known` tells, so only a query that lists its columns gives a whole Output.
    """
    code = [token for token in tokens(query) if token.kind != "comment"]
    *lets, last = [part for part in _split(code, ";") if part] or [[]]
    bound = {part[1].text: part[3:] for part in lets if len(part) > 3 and part[0].text == "let" and part[2].text == "="}
    try:
        return _Reader(known, bound).pipeline(last, 0)
    except RecursionError:
        return Output()


@dataclass(slots=True)
class _Reader:
    known: Known
    bound: Mapping[str, Sequence[Token]]
    read: dict[str, Output] = field(default_factory=dict)

    def pipeline(self, code: Sequence[Token], depth: int) -> Output:
        if depth > DEEPEST or not code:
            return Output()
        first, *stages = _split(code, "|")
        return self.stages(self.source(first, depth + 1), stages, depth + 1)

    def stages(self, found: Output, stages: Iterable[Sequence[Token]], depth: int) -> Output:
        for stage in stages:
            found = self.stage(found, stage, depth) if stage else Output()
        return found

    def source(self, code: Sequence[Token], depth: int) -> Output:
        match [token.text for token in code[:2]]:
            case ["(", *_] if _closes(code, 0) == len(code) - 1:
                return self.pipeline(code[1:-1], depth)
            case ["materialize", "("]:
                return self.pipeline(code[2:-1], depth)
            case ["union", *_]:
                return self.union(None, code[1:], depth)
            case [name] if code[0].kind == "name":
                return self.named(name, depth)
            case [name, "("] if code[0].kind == "name" and name not in self.bound:
                return Output(self.known(name) or {})
            case _:
                return Output()

    def named(self, name: str, depth: int) -> Output:
        if name not in self.bound:
            return Output(self.known(name) or {})
        if name not in self.read:
            self.read[name] = Output()  # a name that is bound to itself gives nothing
            self.read[name] = self.pipeline(self.bound[name], depth)
        return self.read[name]

    def union(self, first: Output | None, code: Sequence[Token], depth: int) -> Output:
        """Columns of all; one of two types in two tables is renamed after its type, and is left out.

        Where `known` lacks a column of one table, the renaming of the other table's is missed.
        """
        parts = [] if first is None else [first]
        open_ended = False
        for item in _split(_without_options(code), ","):
            open_ended |= not item or item[0].text == "*"
            parts.append(self.source(item, depth))
        kinds: dict[str, list[str]] = {}
        for part in parts:
            for name, kind in part.columns.items():
                kinds.setdefault(name, []).append(kind)
        agreed = {name: k[0] for name, k in kinds.items() if len(k) == 1 or (len(set(k)) == 1 and k[0])}
        whole = len(agreed) == len(kinds) and not open_ended and all(part.whole for part in parts)
        source = next((b.text for a, b in _options(code) if a == "withsource"), None)
        if source:
            agreed[source] = "string"
        return Output(agreed, whole)

    def stage(self, found: Output, code: Sequence[Token], depth: int) -> Output:
        name, rest = code[0].text, code[1:]
        match name:
            case _ if name in KEEP:
                return found
            case "extend" | "serialize":
                added, whole = _items(rest, found.columns)
                return Output({**found.columns, **added}, found.whole and (whole or not rest))
            case "project" | "distinct":
                if rest and rest[0].text == "*":
                    return found
                return Output(*_items(rest, found.columns))
            case "project-away" | "project-keep":
                globs = ["".join(token.text for token in item) for item in _split(rest, ",")]
                hit = {c for c in found.columns if any(fnmatchcase(c, glob) for glob in globs)}
                kept = {c: kind for c, kind in found.columns.items() if (c in hit) == (name == "project-keep")}
                return Output(kept, found.whole)
            case "project-rename":
                pairs = {item[2].text: item[0].text for item in _split(rest, ",") if len(item) == 3}
                return Output({pairs.get(c, c): kind for c, kind in found.columns.items()}, found.whole)
            case "summarize":
                return _summary(rest, found)
            case "count":
                return Output({"Count": "long"}, True)
            case "join" | "lookup":
                return self.join(name, found, rest, depth)
            case "union":
                return self.union(found, rest, depth)
            case "mv-expand":
                return _expanded(rest, found)
            case "parse" | "parse-where" | "parse-kv":
                return Output({c: k for c, k in found.columns.items() if c not in {t.text for t in rest[1:]}})
            case "scan":
                at = next((i for i, token in enumerate(rest) if token.text == "("), None)
                declared = rest[at + 1 : _closes(rest, at)] if at is not None and rest[0].text == "declare" else []
                added = {i[0].text: i[2].text for i in _split(declared, ",") if len(i) == 3}
                return Output({**found.columns, **added}, found.whole)
            case "partition":
                at = next((i for i, token in enumerate(rest) if token.text == "("), None)
                inner = rest[at + 1 : _closes(rest, at)] if at is not None else []
                return self.stages(found, _split(inner, "|"), depth + 1) if depth < DEEPEST else Output()
            case _:
                return Output()

    def join(self, name: str, left: Output, code: Sequence[Token], depth: int) -> Output:
        kind = next((b.text for a, b in _options(code) if a == "kind"), "")
        code = _without_options(code)
        end = _closes(code, 0) + 1 if code and code[0].text == "(" else 1
        right = self.source(code[:end], depth)
        if kind in ("leftsemi", "leftanti", "semi", "anti", "leftantisemi"):
            return left
        if kind in ("rightsemi", "rightanti", "rightantisemi"):
            return right
        if name == "lookup":
            return Output({**right.columns, **left.columns})
        columns = dict(left.columns)
        for column, of in right.columns.items():
            columns[_free(column, columns) if left.whole or column in columns else column] = of
        # what stands in both gets a number; where the left side is open, a right name may be such a one
        return Output(columns if left.whole else dict(left.columns), left.whole and right.whole)


def _free(name: str, taken: Mapping[str, str]) -> str:
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}{number}"
    return candidate


# --------------------------------------------------------------------------------------------------------------------
# Lists of columns


def _items(code: Sequence[Token], known: Mapping[str, str]) -> tuple[dict[str, str], bool]:
    """`A, B = expression, ...` as columns, and whether every one has a name that is seen."""
    columns: dict[str, str] = {}
    whole = True
    for item in _split(code, ","):
        match [token.text for token in item[:2]]:
            case [name, "="] if item[0].kind == "name":
                columns[name] = _type(item[2:], known)
            case [name] if item[0].kind == "name":
                columns[name] = known.get(name, "")
            case ["bin" | "floor", "("] if len(item) > 3 and item[3].text == ",":
                columns[item[2].text] = known.get(item[2].text, "")
            case _:
                whole = False
    return columns, whole


def _summary(code: Sequence[Token], found: Output) -> Output:
    code = _without_options(code)
    at = next((i for i, token in _top(code) if token.text == "by"), len(code))
    keys, whole = _items(code[at + 1 :], found.columns)
    columns: dict[str, str] = {}
    for item in _split(code[:at], ","):
        match [token.text for token in item]:
            case ["arg_max" | "arg_min", "(", by, ",", "*", ")"]:
                columns |= {by: found.columns.get(by, "")} | dict(found.columns)
                whole &= found.whole
            case ["arg_max" | "arg_min" as name, "(", *_]:
                inner, named = _items(item[2:-1], found.columns)
                columns |= inner
                whole &= named
            case [_, "=", "arg_max" | "arg_min", *_]:
                whole = False
                columns[item[0].text] = ""
            case [_, "=", *_] if item[0].kind == "name":
                columns[item[0].text] = _type(item[2:], found.columns)
            case ["count", "(", ")"]:
                columns["count_"] = "long"
            case [("take_any" | "any"), "(", name, ")"]:
                columns[name] = found.columns.get(name, "")
            case [name, "(", of, ")" | ",", *_] if item[2].kind == "name" and (name in NAMED_AFTER or name in OWN_NAME):
                columns[f"{NAMED_AFTER.get(name, name)}_{of}"] = _type(item, found.columns)
            case []:
                pass
            case _:
                whole = False
    return Output({**keys, **columns}, whole)


def _expanded(code: Sequence[Token], found: Output) -> Output:
    columns = dict(found.columns)
    for item in _split(_without_options(code), ","):
        texts = [token.text for token in item]
        kind = texts[texts.index("typeof") + 2] if "typeof" in texts[:-2] else ""
        if texts and item[0].kind == "name":
            columns[texts[0]] = kind
    return Output(columns, False)


def _type(code: Sequence[Token], known: Mapping[str, str]) -> str:
    """The type of an expression where its outermost call, its column or its literal tells it."""
    match [token.text for token in code]:
        case [name]:
            return "string" if code[0].kind == "string" else known.get(name, "")
        case [name, "(", *_] if _closes(code, 1) == len(code) - 1:
            if name in SAME and len(code) > 3 and code[3].text in (",", ")"):
                return known.get(code[2].text, "")
            if name in CHOICES:
                kinds = {_type(item, known) for item in _split(code[2:-1], ",")[CHOICES[name] :]}
                return kinds.pop() if len(kinds) == 1 else ""
            return TYPES.get(name, "")
        case _:
            return ""


# --------------------------------------------------------------------------------------------------------------------
# Brackets


def _top(code: Sequence[Token]) -> Iterable[tuple[int, Token]]:
    """The tokens that stand in no bracket."""
    depth = 0
    for index, token in enumerate(code):
        if token.kind == "sign" and token.text in CLOSERS:
            depth -= 1
        if depth == 0:
            yield index, token
        if token.kind == "sign" and token.text in OPENERS:
            depth += 1


def _split(code: Sequence[Token], sign: str) -> list[Sequence[Token]]:
    """The parts between a sign that stands in no bracket."""
    cuts = [index for index, token in _top(code) if token.kind == "sign" and token.text == sign]
    return [code[a:b] for a, b in zip([0, *(cut + 1 for cut in cuts)], [*cuts, len(code)], strict=True)]


def _closes(code: Sequence[Token], at: int) -> int:
    """Where the bracket that opens at `at` closes; the end of the text where it does not."""
    depth = 0
    for index in range(at, len(code)):
        if code[index].kind == "sign":
            depth += (code[index].text in OPENERS) - (code[index].text in CLOSERS)
        if depth == 0:
            return index
    return len(code)


def _options(code: Sequence[Token]) -> list[tuple[str, Token]]:
    """`name = value` and `hint.name = value` at the beginning: (name, value)."""
    found = []
    at = 0
    while (size := _option(code, at)) > 0:
        found.append((code[at + size - 3].text, code[at + size - 1]))
        at += size
    return found


def _without_options(code: Sequence[Token]) -> Sequence[Token]:
    at = 0
    while (size := _option(code, at)) > 0:
        at += size
    return code[at:]


def _option(code: Sequence[Token], at: int) -> int:
    texts = [token.text for token in code[at : at + 5]]
    if len(texts) > 2 and texts[1] == "=" and texts[0] in ("kind", "isfuzzy", "withsource", "bagexpansion"):
        return 3
    return 5 if len(texts) > 4 and texts[0] == "hint" and texts[1] == "." and texts[3] == "=" else 0
