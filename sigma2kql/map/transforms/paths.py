"""Columns that hold a part of a path or of an address, or more than the event said.

Place in the flow: transforms of single columns. Invariant: that of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sigma2kql.map.transforms.request import (
    PRESENT,
    Request,
    Transform,
    shape_plain,
)
from sigma2kql.model.text_shapes import join_parts
from sigma2kql.model.tree import (
    ANY,
    And,
    Column,
    Expr,
    Match,
    Not,
    Or,
    Part,
    Regex,
    Test,
    Text,
)


def _last_separator(text: str) -> int:
    return max(text.rfind("\\"), text.rfind("/"))


def _basename(request: Request) -> Expr[Column]:
    """The column holds the part after the last separator. Folders cannot be tested."""
    test = request.test
    if not isinstance(test, Text) or not any(isinstance(p, str) for p in test.parts):
        if isinstance(test, Regex):
            request.lose("narrower", "the column holds a bare file name: the pattern is searched in the name only")
        return request.anywhere(test)
    last = (
        max(i for i, p in enumerate(test.parts) if isinstance(p, str) and _last_separator(p) >= 0)
        if any(isinstance(p, str) and _last_separator(p) >= 0 for p in test.parts)
        else -1
    )
    if last < 0:
        if test.parts[-1] is ANY and test.parts[0] is ANY:
            request.lose("narrower", "the column holds a bare file name: folders are not searched")
        return request.anywhere(test)
    text = test.parts[last]
    assert isinstance(text, str)
    cut = _last_separator(text)
    name = join_parts((text[cut + 1 :],), test.parts[last + 1 :])
    if not name or name == (ANY,):
        return request.untestable(
            "E411",
            f"`{request.match.subject.name}` holds a bare file name in this table: a folder can never match",
            "test the file name",
        )
    folder = join_parts(test.parts[:last], (text[:cut],))
    if folder not in ((), (ANY,)):
        request.lose("broader", "the column holds a bare file name: the folder is not tested")
    if test.parts[-1] is ANY:
        request.lose("narrower", "the column holds a bare file name: folders of that name are not found")
    return request.anywhere(Text(name, test.cased))


def _shape_basename(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value[_last_separator(value) + 1 :])]


def _path_or_name(request: Request) -> Expr[Column]:
    """The column holds the whole path on some rows and the bare file name on others: what both can answer is asked of
    both.
    """
    test, plain = request.test, request.anywhere(request.test)
    bare = bare_form(test)
    if bare is None:
        begun = _begun_name(test)
        return plain if begun is None else Or((plain, *(_bare_and(begun, one) for one in request.columns)))
    return plain if bare is test else Or((plain, request.anywhere(bare)))


def _bare_and(test: Text, column: Column) -> Expr[Column]:
    folders = Or(tuple([Match(column, Text((ANY, separator, ANY))) for separator in "\\/"]))
    return And((Match(column, test), Not(folders)))


def _begun_name(test: Test[Column]) -> Text | None:
    r"""The beginning of a bare name where `*\name*` is asked of a path: any path ends in a name behind a separator."""
    if not isinstance(test, Text) or len(test.parts) < 3 or test.parts[0] is not ANY or test.parts[-1] is not ANY:
        return None
    text, *rest = test.parts[1:-1]
    if not isinstance(text, str) or text[0] not in "\\/" or _has_folder(text) or any(map(_has_separator, rest)):
        return None
    name = join_parts((text[1:],), rest, (ANY,))
    return Text(name, test.cased) if name != (ANY,) and ANY not in rest else None


def bare_form(test: Test[Column]) -> Test[Column] | None:
    r"""What is to be asked of a bare file name in place of a path; None where that cannot answer the test.

    `\x.exe` at the end of a path is `x.exe` as a bare name. A folder cannot be asked of it, and a text that may be
    anywhere in the path is not looked for in the folders.
    """
    if not isinstance(test, Text | Regex) or test in (PRESENT, Text(())):
        return test
    if isinstance(test, Text) and ANY not in test.parts and not any(map(_has_separator, test.parts)):
        return test
    tail = test.parts[1:] if isinstance(test, Text) and test.parts[0] is ANY else ()
    if tail and isinstance(tail[0], str) and ANY not in tail and not any(map(_has_folder, tail)):
        if tail[0][0] not in "\\/":
            return test
        name = Text(join_parts((tail[0][1:],), tail[1:]), isinstance(test, Text) and test.cased)
        if name.parts:
            return name
    return None


def _has_separator(part: Part) -> bool:
    return isinstance(part, str) and _last_separator(part) >= 0


def _has_folder(part: Part) -> bool:
    return isinstance(part, str) and _last_separator(part) > 0


def _doubled_name(request: Request) -> Expr[Column]:
    r"""Some rows hold the path with its file name once more behind it: `C:\a\x.exe\x.exe`.

    Only what fixes a folder together with the name at the path's end needs a second test. What looks past a file's
    extension into the next folder, and regular expressions, see such a row differently (`sees_doubled`).
    """
    test, plain = request.test, request.anywhere(request.test)
    texts = [p for p in test.parts if isinstance(p, str)] if isinstance(test, Text) else []
    if not isinstance(test, Text) or not texts or test.parts[-1] is ANY:
        return plain
    begin, at = 0, -1
    for i, part in enumerate(test.parts):
        if part is ANY:
            begin = i + 1
        elif isinstance(part, str) and _last_separator(part) >= 0:
            at = i
    if at < begin or (begin and at == begin and not _has_folder(test.parts[at])):
        return plain  # `*\x.exe`, `*.exe`: the name alone, which ends either form
    text = test.parts[at]
    assert isinstance(text, str)
    name = join_parts((text[_last_separator(text) :],), test.parts[at + 1 :])
    return (
        plain
        if name in (("\\",), ("/",))
        else Or((plain, request.anywhere(Text(join_parts(test.parts, name), test.cased))))
    )


def sees_doubled(test: Test[Column]) -> bool:
    """Whether a test comes out otherwise where the file's name stands once more behind the path."""
    return isinstance(test, Regex) or (
        isinstance(test, Text) and any(_enters_file(part) for part in test.parts if isinstance(part, str))
    )


def _enters_file(text: str) -> bool:
    r"""Whether a name with an extension is followed by a separator and what may be its beginning: `.zip\`."""
    end = _last_separator(text)
    if end < 0 or "." not in text[:end] or (text[end + 1 :] and text[:end].endswith(text[end:])):
        return False  # the last is the form of such rows itself
    begin = _last_separator(text[:end])
    name = text[begin + 1 : end]
    return "." in name and (begin < 0 or name.lower().startswith(text[end + 1 :].lower()))


def _shape_path(value: str, columns: tuple[Column, ...], options: Mapping[str, Any]) -> list[tuple[Column, Any]]:
    del options
    return [(columns[0], value)]


def _host_of_url(request: Request) -> Expr[Column]:
    """Compare with the host part of a URL, or the column itself where it has no scheme."""
    return request._replace(columns=tuple(map(host_of, request.columns))).anywhere(request.test)


def host_of(column: Column) -> Column:
    """The host part of a URL, or the column itself where it has no scheme."""
    return Column(
        f"extract(@'^(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:[^/?#@]*@)?([^/?#:]*)', 1, {column.text})",
        "string",
        column.reads,
        "computed",
        ("host", column.text),
        f"{column.name or column.text}Host",
    )


TRANSFORMS: dict[str, Transform] = {
    "basename": Transform(_basename, _shape_basename),
    "host_of_url": Transform(_host_of_url, shape_plain),
    "path_or_name": Transform(_path_or_name, _shape_path),
    "doubled_name": Transform(_doubled_name, _shape_path),
}
