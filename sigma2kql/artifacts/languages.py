"""One escape rule per language: a plain value becomes a literal that reads back as that value and as nothing else.

Place in the flow: the filters that templates place values with. Invariant: a literal is ASCII, and reading it back with
this module's own strict reader gives the value (checked each time for HCL and Bicep, whose files are not parsed whole).

Sources: RFC 8259; YAML 1.2.2 section 7.3; HCL native syntax specification, "Template Expressions"; Bicep "Data types,
strings"; ARM templates, "Template expressions" (a text from `[` to `]` is an expression, `[[` starts a literal).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sigma2kql.diagnostics.diagnostic import fail, frozen

PLAIN_YAML = re.compile(
    r"[A-Za-z_][A-Za-z0-9_./'+()-]*(?: [A-Za-z0-9_./'+(-][A-Za-z0-9_./,'+()-]*)*"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9]+[mhd]|[0-9]+\.[0-9]+\.[0-9]+"
)
WORDS_OF_YAML = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
PRINTABLE = re.compile(r"[\t\n\x20-\x7e]*")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ORDINARY = re.compile(r"""[^\\"'$%\n]+""")
SPECIAL = re.compile(r"""[^\x20-\x7e]|["'\\]""")
SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
HEREDOC = "KQL"


def json_literal(value: Any, indent: int = 0) -> str:
    """JSON, two spaces per level, every line but the first moved `indent` to the right."""
    return json.dumps(value, ensure_ascii=True, indent=2).replace("\n", "\n" + " " * indent)


def arm_literal(value: Any, indent: int = 0) -> str:
    """JSON whose texts Azure Resource Manager does not evaluate."""
    return json_literal(map_texts(value, arm_text), indent)


def arm_text(text: str) -> str:
    """A text that Azure Resource Manager reads as itself."""
    return "[" + text if text.startswith("[") and text.endswith("]") else text


def map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """The same value with every text changed; keys stay."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {key: map_texts(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(item, change) for item in value]
    return value


@frozen
class Expression:
    """Code of this project's own (a reference to a variable), never anything from a rule."""

    text: str


# --------------------------------------------------------------------------------------------------------------------
# YAML


def yaml_literal(value: Any, indent: int = 0) -> str:
    """A YAML value to stand after `key:`; it brings its own blank or line end. Lists start at the key's own column."""
    pad = " " * indent
    if isinstance(value, Mapping) and value:
        return "\n" + "\n".join(f"{pad}  {_yaml_pair(str(key), item, indent + 2)}" for key, item in value.items())
    if isinstance(value, list | tuple) and value:
        return "\n" + "\n".join(f"{pad}- {_yaml_item(item, indent)}" for item in value)
    if isinstance(value, str) and "\n" in value and _fits_block(value.removesuffix("\n")):
        lines = value.removesuffix("\n").split("\n")
        mark = "|" if value.endswith("\n") else "|-"
        return f" {mark}\n" + "\n".join(f"{pad}  {line}" if line else "" for line in lines)
    if isinstance(value, str):
        return " " + yaml_text(value)
    return " " + json.dumps(value)


def _yaml_pair(key: str, value: Any, indent: int) -> str:
    """`key: value`; a key of more than 1,024 characters must be marked as one (YAML 1.2.2, section 7.4.2)."""
    name = yaml_text(key)
    literal = yaml_literal(value, indent)
    return f"{name}:{literal}" if len(name) <= 1000 else f"? {name}\n{' ' * indent}:{literal}"


def _yaml_item(item: Any, indent: int) -> str:
    if isinstance(item, Mapping) and item:
        return yaml_literal(item, indent)[1:].lstrip(" ")
    if isinstance(item, list | tuple) and item:
        return json.dumps(item)
    return yaml_text(item) if isinstance(item, str) else json.dumps(item)


def _fits_block(body: str) -> bool:
    """Whether a block scalar holds exactly these lines: printable, no blank first, no empty last, none only blanks."""
    return (
        bool(PRINTABLE.fullmatch(body))
        and body[:1] not in ("", " ", "\t", "\n")
        and not body.endswith("\n")
        and all(line.strip(" \t") or not line for line in body.split("\n"))
    )


def yaml_text(text: str) -> str:
    """A flow scalar: plain where that can be nothing but this text, else double-quoted."""
    if PLAIN_YAML.fullmatch(text) and text.lower() not in WORDS_OF_YAML:
        return text
    return (
        '"' + SPECIAL.sub(lambda found: SHORT.get(found[0]) or _escape(found[0], "\\u{:04X}", "\\U{:08X}"), text) + '"'
    )


def _escape(char: str, narrow: str, wide: str) -> str:
    code = ord(char)
    if 0x20 <= code < 0x7F:
        return char
    return narrow.format(code) if code < 0x10000 else wide.format(code)


# --------------------------------------------------------------------------------------------------------------------
# HCL


def hcl_literal(value: Any, indent: int = 0) -> str:
    """An HCL expression, laid out as `terraform fmt` does; a text of whole printable lines becomes a here-document."""
    literal = _hcl(value, indent)
    return _checked(literal, value, HclReader)


def _hcl(value: Any, indent: int) -> str:
    pad = " " * (indent + 2)
    match value:
        case str():
            return _heredoc(value) or hcl_text(value)
        case Mapping() if value:
            return "{\n" + "".join(f"{pad}{line}\n" for line in _hcl_rows(value, indent + 2)) + " " * indent + "}"
        case list() | tuple() if any(isinstance(item, Mapping) for item in value):
            return "[\n" + "".join(f"{pad}{_hcl(item, indent + 2)},\n" for item in value) + " " * indent + "]"
        case list() | tuple():
            return "[" + ", ".join(hcl_text(item) if isinstance(item, str) else _hcl(item, 0) for item in value) + "]"
        case Mapping():
            return "{}"
        case Expression():
            return value.text
        case _:
            return json.dumps(value)


def hcl_attributes(attributes: Mapping[str, Any], indent: int = 0) -> list[str]:
    """Lines `name = value`; neighbours whose values open no bracket over a line end have their signs in one column."""
    for value in attributes.values():
        if not isinstance(value, Expression):
            hcl_literal(value, indent)
    return _hcl_rows(attributes, indent)


def _hcl_rows(attributes: Mapping[str, Any], indent: int) -> list[str]:
    rows = [(k if IDENTIFIER.fullmatch(k) else hcl_text(k), _hcl(v, indent)) for k, v in attributes.items()]
    wide = [value.endswith(("]", "}")) and "\n" in value for _, value in rows]
    lines: list[str] = []
    start = 0
    for index in range(len(rows) + 1):
        if index == len(rows) or wide[index]:
            width = max((len(name) for name, _ in rows[start:index]), default=0)
            lines += [f"{name:<{width}} = {value}" for name, value in rows[start:index]]
            lines += [f"{name} = {value}" for name, value in rows[index : index + 1]]
            start = index + 1
    return lines


def hcl_text(text: str) -> str:
    """A quoted template without interpolation: `${` and `%{` are doubled, a sign before them is written as a number."""
    out = SPECIAL.sub(lambda found: SHORT.get(found[0]) or _escape(found[0], "\\u{:04x}", "\\U{:08x}"), text)

    def double(found: re.Match[str]) -> str:
        signs = found.group(1)
        return "".join(f"\\u{ord(sign):04x}" for sign in signs[:-1]) + signs[-1] * 2 + "{"

    return '"' + re.sub(r"(\$+|%+)\{", double, out) + '"'


def _heredoc(text: str) -> str | None:
    """`<<KQL`, or None where the text is not made of printable lines, or holds what a here-document reads otherwise."""
    if not text.endswith("\n") or not PRINTABLE.fullmatch(text) or re.search(r"(?:\$\$|%%)\{", text):
        return None
    if any(line.strip() == HEREDOC for line in text.split("\n")):
        return None
    body = text.replace("${", "$${").replace("%{", "%%{")
    return f"<<{HEREDOC}\n{body}{HEREDOC}"


# --------------------------------------------------------------------------------------------------------------------
# Bicep


def bicep_literal(value: Any, indent: int = 0) -> str:
    """A Bicep expression, one property or element per line; a text of printable lines becomes a multi-line string."""
    return _checked(_bicep(value, indent), value, BicepReader)


def _bicep(value: Any, indent: int) -> str:
    pad = " " * (indent + 2)
    match value:
        case str():
            whole = value.endswith("\n") and PRINTABLE.fullmatch(value) and "'''" not in value
            return f"'''\n{value}'''" if whole else bicep_text(value)
        case Mapping():
            rows = (
                f"{pad}{k if IDENTIFIER.fullmatch(k) else bicep_text(k)}: {_bicep(v, indent + 2)}\n"
                for k, v in value.items()
            )
            return "{\n" + "".join(rows) + " " * indent + "}" if value else "{}"
        case list() | tuple():
            return (
                "[\n" + "".join(f"{pad}{_bicep(v, indent + 2)}\n" for v in value) + " " * indent + "]"
                if value
                else "[]"
            )
        case _:
            return json.dumps(value)


def bicep_text(text: str) -> str:
    """A single-quoted string without interpolation."""
    short = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    out = SPECIAL.sub(lambda found: short.get(found[0]) or _escape(found[0], "\\u{{{:x}}}", "\\u{{{:x}}}"), text)
    return "'" + out.replace("${", "\\${") + "'"


# --------------------------------------------------------------------------------------------------------------------
# Reading back


def _checked(literal: str, value: Any, reader: type[HclReader] | type[BicepReader]) -> str:
    try:
        same = reader(literal).whole() == map_texts(value, str)
    except ValueError:
        same = False
    if not same or not literal.isascii():
        raise fail("E716", f"a value could not be written so that it reads back: {str(value)[:60]!r}")
    return literal


class HclReader:
    """Reads exactly the literals that this module writes; anything else is a ValueError."""

    separators = " ,\n"
    assign = "="
    unicode = re.compile(r"\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def whole(self) -> Any:
        """The value of the whole text."""
        value = self.value()
        self.blanks()
        if self.at != len(self.text):
            raise ValueError(f"more after the value at {self.at}")
        return value

    def blanks(self) -> None:
        while self.at < len(self.text) and self.text[self.at] in self.separators:
            self.at += 1

    def ends(self, bracket: str) -> bool:
        self.blanks()
        return self.take(bracket)

    def take(self, what: str) -> bool:
        if self.text.startswith(what, self.at):
            self.at += len(what)
            return True
        return False

    def value(self) -> Any:
        self.blanks()
        if self.take("{"):
            return dict(self.pairs())
        if self.take("["):
            items: list[Any] = []
            while not self.ends("]"):
                items.append(self.value())
            return items
        for word, meaning in (("true", True), ("false", False), ("null", None)):
            if self.take(word):
                return meaning
        number = re.compile(r"-?\d+(?:\.\d+)?").match(self.text, self.at)
        if number:
            self.at = number.end()
            return json.loads(number.group())
        return self.string()

    def pairs(self) -> list[tuple[str, Any]]:
        found: list[tuple[str, Any]] = []
        while not self.ends("}"):
            name = IDENTIFIER.match(self.text, self.at)
            if name:
                self.at = name.end()
            key = name.group() if name else self.string()
            self.blanks()
            if not self.take(self.assign):
                raise ValueError(f"no {self.assign!r} at {self.at}")
            found.append((key, self.value()))
        return found

    def string(self) -> str:
        if self.take(f"<<{HEREDOC}\n"):
            end = re.compile(rf"^[ \t]*{HEREDOC}$", re.MULTILINE).search(self.text, self.at)
            if end is None:
                raise ValueError("here-document without end")
            body, self.at = self.text[self.at : end.start()], end.end()
            if re.search(r"(?<!\$)\$\{|(?<!%)%\{", body):
                raise ValueError("interpolation")
            return body.replace("$${", "${").replace("%%{", "%{")
        return self.quoted('"', ("$${", "%%{"), ("${", "%{"), {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"})

    def quoted(self, quote: str, doubled: tuple[str, ...], refused: tuple[str, ...], short: Mapping[str, str]) -> str:
        if not self.take(quote):
            raise ValueError(f"no value at {self.at}")
        out: list[str] = []
        while not self.take(quote):
            plain = ORDINARY.match(self.text, self.at)
            if plain:
                out.append(plain.group())
                self.at = plain.end()
                continue
            number = self.unicode.match(self.text, self.at)
            twice = next((mark for mark in doubled if self.text.startswith(mark, self.at)), None)
            if number:
                out.append(chr(int(number.group(number.lastindex or 0), 16)))
                self.at = number.end()
            elif twice:
                out.append(twice[1:])
                self.at += len(twice)
            elif self.take("\\"):
                out.append(short[self.text[self.at]] if self.text[self.at : self.at + 1] in short else self.bad())
                self.at += 1
            elif self.at >= len(self.text) or self.text[self.at] == "\n" or self.text.startswith(refused, self.at):
                self.bad()
            else:
                out.append(self.text[self.at])
                self.at += 1
        return "".join(out)

    def bad(self) -> str:
        raise ValueError(f"not a literal at {self.at}")


class BicepReader(HclReader):
    """The same for Bicep."""

    separators = " \n"
    assign = ":"
    unicode = re.compile(r"\\u\{([0-9a-f]+)\}")

    def string(self) -> str:
        if self.take("'''\n"):
            end = self.text.find("'''", self.at)
            if end < 0:
                raise ValueError("multi-line string without end")
            body, self.at = self.text[self.at : end], end + 3
            return body
        return self.quoted("'", ("\\${",), ("${",), {"\\": "\\", "'": "'", "n": "\n", "r": "\r", "t": "\t"})
