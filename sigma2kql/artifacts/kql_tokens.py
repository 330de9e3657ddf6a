"""A light reading of KQL: its tokens, the tables it takes rows from, the functions and operators it uses.

Place in the flow: checks of native queries and of what a kind of rule may hold; nothing is rewritten. Invariant: never
fails, on any text; comments and strings are never taken for code. It knows no schema: a name is a table by where it
stands (Kusto "Tabular expression statements", "let", "union", "join").
"""

from __future__ import annotations

import re

from sigma2kql.diagnostics.diagnostic import frozen

TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*)
    |(?P<string>[hH]?(?:```.*?(?:```|$)|~~~.*?(?:~~~|$)
        |@"(?:[^"]|"")*(?:"|$)|@'(?:[^']|'')*(?:'|$)
        |"(?:\\.|[^"\\\n])*(?:"|(?=\n)|$)|'(?:\\.|[^'\\\n])*(?:'|(?=\n)|$)))
    |(?P<operator>(?:project|mv|make|top|sample|project-away|parse)-[a-z]+(?:-[a-z]+)*|!?in~|!(?:in|has|contains|startswith|endswith|between)\w*)
    |(?P<name>[A-Za-z_$][A-Za-z0-9_]*)
    |(?P<number>\d[\w.]*)
    |(?P<sign>\.\.|=>|==|!=|<>|=~|!~|<=|>=|[^\s])""",
    re.VERBOSE | re.DOTALL,
)
NOT_TABLES = frozenset([
    "print", "range", "datatable", "externaldata", "search", "find", "union", "evaluate", "let", "set",
    "declare", "alias", "restrict", "database", "cluster", "workspace", "app", "adx", "arg", "table", "view",
    "true", "false", "null", "dynamic", "datetime", "timespan", "kind", "hint", "withsource", "isfuzzy",
    "materialize", "toscalar", "pattern", "query_parameters",
])  # fmt: skip


@frozen
class Scan:
    """What a query holds, each in order of first appearance."""

    tables: tuple[str, ...]
    functions: tuple[str, ...]
    operators: tuple[str, ...]  # the word after each `|`
    words: tuple[str, ...]  # every name and word operator
    comments: bool
    everything: tuple[str, ...]  # `search *`, `union *`
    casts: tuple[str, ...] = ()  # the names that tostring() is called with


@frozen
class Token:
    kind: str
    text: str


def tokens(query: str) -> list[Token]:
    """The tokens of a query with its comments; an unfinished string reaches to the end of its line or of the text."""
    return [Token(str(found.lastgroup), found.group()) for found in TOKEN.finditer(query)]


def scan(query: str) -> Scan:
    """Read a query. Linear in its length."""
    everything = tokens(query)
    code = [token for token in everything if token.kind != "comment"]
    bound = _bound(code)
    pairs = list(zip(code, [*code[1:], Token("end", "")], strict=False))
    triples = zip(code, code[1:], code[2:], strict=False)
    functions = [a.text for a, b in pairs if a.kind == "name" and b.text == "("]
    operators = [b.text for a, b in pairs if a.text == "|" and b.kind in ("name", "operator")]
    words = [token.text for token in code if token.kind in ("name", "operator")]
    star = [f"{a.text} *" for a, b in pairs if a.text in ("search", "union") and b.text == "*"]
    found = [token.text for token in _sources(code) if token.text not in bound]
    return Scan(
        tuple(dict.fromkeys(found)),
        tuple(dict.fromkeys(functions)),
        tuple(dict.fromkeys(operators)),
        tuple(dict.fromkeys(words)),
        any(token.kind == "comment" for token in everything),
        tuple(dict.fromkeys(star)),
        tuple(dict.fromkeys(c.text for a, b, c in triples if (a.text, b.text) == ("tostring", "("))),
    )


def _bound(code: list[Token]) -> frozenset[str]:
    """Names that the query itself defines: after `let`, and parameters of its functions."""
    names = set()
    for index, token in enumerate(code[:-1]):
        following = code[index + 1]
        if token.text == "let" and following.kind == "name":
            names.add(following.text)
        if token.kind == "name" and following.text == ":":
            names.add(token.text)
    return frozenset(names)


def _sources(code: list[Token]) -> list[Token]:
    """Names that stand where rows come from."""
    found = []
    opened: list[tuple[bool, bool]] = []  # for each open bracket: does it hold only rows; was a union under way before
    union = False
    code = _without_options(code)
    for index, token in enumerate(code):
        before = code[index - 1].text if index else ";"
        after = code[index + 1].text if index + 1 < len(code) else ""
        match token.text:
            case "(" | "{":
                opened.append((union or token.text == "{" or before in ("join", "lookup"), union))
                union = False
            case ")" | "}" if opened:
                union = opened.pop()[1]
            case "union":
                union = True
            case "|" | ";":
                union = False
            case _ if token.kind == "name" and token.text not in NOT_TABLES:
                statement = before in (";", "{") or (before == "(" and bool(opened) and opened[-1][0])
                listed = union and before in ("union", ",")
                joined = before in ("join", "lookup")
                ended = after in ("|", ")", "}", ";", "", ",", "on") or _is_parser(token.text, after)
                named = before == "=" and index > 2 and code[index - 3].text == "let"
                piped = (before == "(" or named) and (after == "|" or _is_parser(token.text, after))
                if ((statement or listed or joined) and ended) or piped:
                    found.append(token)
            case _:
                pass
    return found


def _without_options(code: list[Token]) -> list[Token]:
    """The same without `name = value` after `union`, `join` and `lookup` (`kind=inner`, `hint.strategy=shuffle`)."""
    out: list[Token] = []
    index = 0
    while index < len(code):
        out.append(code[index])
        index += 1
        if out[-1].text in ("union", "join", "lookup"):
            while (size := _option(code, index)) > 0:
                index += size
    return out


def _option(code: list[Token], index: int) -> int:
    """How many tokens the option at `index` has; 0 where there is none."""
    texts = [token.text for token in code[index : index + 5]]
    if len(texts) > 2 and texts[1] == "=":
        return 3
    return 5 if len(texts) > 4 and texts[1] == "." and texts[3] == "=" else 0


def _is_parser(name: str, after: str) -> bool:
    return after == "(" and bool(re.match(r"(?:_Im_|_ASim_|im[A-Z]|ASim)", name))
