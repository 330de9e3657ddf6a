"""Read a Sigma `|re` pattern (PCRE as rules write it) into a tree of what it means.

Place in the flow: below regex.py, which writes the tree as Kusto's dialect and draws conclusions from it. Invariant: a
tree holds only what a linear-time engine can decide; everything else is a `RegexProblem` that names the construct and
its place. Recursive descent; nesting is bounded, so a hostile pattern cannot exhaust the stack.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NoReturn

from sigma2kql.diagnostics.catalogue import Code
from sigma2kql.regex.pattern import (
    Char,
    Choice,
    Dot,
    Edge,
    Group,
    Node,
    Repeat,
    Sequence,
    Set,
    Switch,
    counted_size,
    largest_count,
)

MAX_DEPTH = 60
MAX_SIZE = 2000  # of counted parts, see counted_size; `\\w{209}` fills the 10 MiB that the Rust crate allows by default
MAX_COUNT = 1000  # RE2's bound; Kusto's own is not documented, larger counts exceed the size limit of the Rust crate


class RegexProblem(Exception):  # noqa: N818 - the loader's word for it; a Diagnostic is the error
    """What Kusto cannot run: characters `offset` to `end` of the pattern, the construct in words, and a way out.

    `code` is that of the diagnostic: E520 not regular, E521 malformed or unknown, E522 too large.
    """

    def __init__(self, construct: str, offset: int, end: int, hint: str = "", code: Code = "E521") -> None:
        super().__init__(construct)
        self.code = code
        self.construct = construct
        self.offset = offset
        self.end = max(end, offset + 1)
        self.hint = hint


@lru_cache(maxsize=1024)
def _char(value: str, fold: bool) -> Char:
    """Long patterns hold few different characters, and equal ones may be one object."""
    return Char(value, fold)


_QUANTIFIER = re.compile(r"\{(?:([0-9]{1,9})(,([0-9]{1,9})?)?|,([0-9]{1,9}))\}")
_PLAIN = re.compile(r"[\w\-/:;,=@%&~'\"<>!`]{2,}")  # no operator, nothing that flag x leaves out
_FLAGS = re.compile(r"\(\?(\^?[A-Za-z]*)(?:-([A-Za-z]*))?([:)])")
_NAMED_GROUP = re.compile(r"\(\?(?:P?<([A-Za-z_]\w*)>|'([A-Za-z_]\w*)')")
_POSIX = re.compile(r"\[:(\^?)(alnum|alpha|ascii|blank|cntrl|digit|graph|lower|print|punct|space|upper|word|xdigit):\]")
_PROPERTY = re.compile(r"\\([pP])(?:([LMNPSZC])|\{(\^?)([A-Za-z]{1,12})\})")
_CATEGORIES = frozenset(
    category + kind
    for category, kinds in {
        "L": "ultmo",
        "M": "nce",
        "N": "dlo",
        "P": "cdseifo",
        "S": "mcko",
        "Z": "slp",
        "C": "cfo",
    }.items()
    for kind in ("", *kinds)
)
SCRIPTS = frozenset(["Arabic", "Cyrillic", "Greek", "Han", "Hangul", "Hebrew", "Hiragana", "Katakana", "Latin", "Thai"])
_SIMPLE = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "e": "\x1b"}
_EDGES = {
    "A": Edge("start", "\\A"),
    "z": Edge("end", "\\z"),
    "b": Edge("word", "\\b"),
    "B": Edge("not word", "\\B"),
}
# \h of PCRE; Unicode's horizontal white space
_BLANKS = (*((c, c) for c in "\t \xa0\u1680\u180e\u202f\u205f\u3000"), ("\u2000", "\u200a"))
_NOT_REGULAR: Final = "E520"
_TOO_LARGE: Final = "E522"
_NO_LOOKAROUND = "Kusto has no lookaround: say it with a second value, a second field item or a filter"
_NO_BACKREFERENCE = "Kusto has no backreferences: list the texts that can repeat, one by one"
_NO_POSSESSIVE = "Kusto never backtracks: write it without the `+` or `?>` if both match the same"
_GROUP_PROBLEMS = (
    ("(?=", "lookahead `(?=`", _NO_LOOKAROUND),
    ("(?!", "negative lookahead `(?!`", _NO_LOOKAROUND),
    ("(?<=", "lookbehind `(?<=`", _NO_LOOKAROUND),
    ("(?<!", "negative lookbehind `(?<!`", _NO_LOOKAROUND),
    ("(?>", "atomic group `(?>`", _NO_POSSESSIVE),
    ("(?P=", "backreference `(?P=`", _NO_BACKREFERENCE),
    ("(?P>", "recursion `(?P>`", "write the group out where it is called"),
    ("(?&", "recursion `(?&`", "write the group out where it is called"),
    ("(?R)", "recursion `(?R)`", "Kusto has no recursion"),
    ("(?(", "conditional `(?(`", "write both cases as an alternation"),
    ("(?C", "callout `(?C`", "leave it out"),
    ("(*", "verb `(*`", "leave it out"),
)
_ESCAPE_PROBLEMS = {
    "k": ("backreference `\\k`", _NO_BACKREFERENCE),
    "g": ("backreference `\\g`", _NO_BACKREFERENCE),
    "G": ("anchor `\\G`", "leave it out, or use `^`"),
    "R": ("line break `\\R`", "write `(?:\\r\\n|\\n)`"),
    "X": ("grapheme `\\X`", "write `.`"),
    "C": ("single byte `\\C`", "write `.`"),
}


def parse(pattern: str, flags: str = "") -> Node:
    """The tree of a pattern; `flags` is a subset of "ims". Raises RegexProblem with offsets into the pattern."""
    return _Parser(pattern, flags).whole()


class _Parser:
    """The state of one reading: the position, the flags in force, the depth and the product of open counts."""

    def __init__(self, pattern: str, flags: str) -> None:
        self.text = pattern
        self.at = 0
        self.flags = frozenset(flags)
        self.depth = 0

    def whole(self) -> Node:
        for i, char in enumerate(self.text):
            if "\ud800" <= char <= "\udfff":
                raise RegexProblem("half of a surrogate pair", i, i + 1)
        node = self.choice()
        if self.at < len(self.text):
            self.refuse(
                "closing parenthesis without an opening one", self.at, hint="write `\\)` for the character itself"
            )
        product, place = largest_count(node), len(self.text)
        if product > MAX_COUNT:
            self.refuse(
                f"repetition of {product} (nested counts multiply)",
                0,
                place,
                f"Kusto bounds counts: use {MAX_COUNT} or less",
                _TOO_LARGE,
            )
        if counted_size(node) > MAX_SIZE:
            self.refuse(
                "counted repetitions that unfold to too much",
                0,
                hint="use smaller counts, or `*` and `+`",
                code=_TOO_LARGE,
            )
        return node

    def refuse(
        self, construct: str, start: int, end: int | None = None, hint: str = "", code: Code = "E521"
    ) -> NoReturn:
        raise RegexProblem(construct, start, self.at if end is None else end, hint, code)

    def starts(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def choice(self) -> Node:
        branches = [self.sequence()]
        while self.starts("|"):
            self.at += 1
            branches.append(self.sequence())
        return branches[0] if len(branches) == 1 else Choice(tuple(branches))

    def sequence(self) -> Node:
        items: list[Node] = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            if plain := _PLAIN.match(self.text, self.at):
                items.extend(self.plain(plain.end()))
                continue
            if self.skip_blank():
                continue
            if self.starts("\\E") or self.starts(
                "\\K"
            ):  # \K moves the start of the match; only whether it matches counts
                self.at += 2
            elif self.starts("\\Q"):
                items.extend(self.quoted())
                if items:
                    items[-1] = self.quantified(items[-1])
            else:
                atom = self.atom()
                if atom is not None:
                    items.append(self.quantified(atom))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def plain(self, end: int) -> list[Node]:
        """Characters up to `end` that stand for themselves; the last is quantified."""
        fold = "i" in self.flags
        found: list[Node] = [_char(c, fold) for c in self.text[self.at : end]]
        self.at = end
        found[-1] = self.quantified(found[-1])
        return found

    def skip_blank(self) -> bool:
        """Comments, and with flag x white space: no part of what is matched."""
        if self.starts("(?#"):
            end = self.text.find(")", self.at)
            if end < 0:
                self.refuse("comment that is not closed", self.at, len(self.text))
            self.at = end + 1
            return True
        if "x" not in self.flags:
            return False
        if self.text[self.at] == "#":
            self.at = (self.text + "\n").index("\n", self.at) + 1
            self.at = min(self.at, len(self.text))
            return True
        if self.text[self.at] in " \t\n\r\f\v":
            self.at += 1
            return True
        return False

    def quoted(self) -> list[Node]:
        end = self.text.find("\\E", self.at + 2)
        body = self.text[self.at + 2 :] if end < 0 else self.text[self.at + 2 : end]
        self.at = len(self.text) if end < 0 else end + 2
        return [self.char(c) for c in body]

    def char(self, value: str) -> Char:
        return _char(value, "i" in self.flags)

    def quantifier_here(self) -> bool:
        return self.at < len(self.text) and (self.text[self.at] in "*+?" or bool(_QUANTIFIER.match(self.text, self.at)))

    def quantified(self, atom: Node) -> Node:
        while self.at < len(self.text) and self.skip_blank():
            pass
        if not self.quantifier_here():
            return atom
        if isinstance(atom, Switch):
            self.refuse("quantifier with nothing to repeat", self.at, self.at + 1)
        low, high = self.quantifier()
        node = Repeat(atom, low, high, self.starts("?"))
        if self.starts("+"):
            self.at += 1
            self.refuse("possessive quantifier", self.at - 2, hint=_NO_POSSESSIVE, code=_NOT_REGULAR)
        self.at += node.lazy
        if self.quantifier_here():
            self.refuse("quantifier after a quantifier", self.at, self.at + 1, "put the inner part into parentheses")
        return node

    def quantifier(self) -> tuple[int, int | None]:
        char = self.text[self.at]
        if char in "*+?":
            self.at += 1
            return (1 if char == "+" else 0), (1 if char == "?" else None)
        found = _QUANTIFIER.match(self.text, self.at)
        assert found is not None
        start, self.at = self.at, found.end()
        if found[4] is not None:  # {,m}: Python and PCRE2 10.43 read 0 to m
            low, high = 0, int(found[4])
        else:
            low = int(found[1])
            high = low if found[2] is None else None if found[3] is None else int(found[3])  # type: ignore[assignment]
        if high is not None and high < low:
            self.refuse("count whose upper bound is below the lower one", start)
        if max(low, high or 0) > MAX_COUNT:
            self.refuse(
                f"repetition of {max(low, high or 0)}",
                start,
                hint=f"Kusto bounds counts: use {MAX_COUNT} or less",
                code=_TOO_LARGE,
            )
        return low, high

    def atom(self) -> Node | None:
        start, char = self.at, self.text[self.at]
        if char == "(":
            return self.group()
        if char == "[":
            return self.set()
        if char == "\\":
            return self.escape()
        if char in "*+?" or _QUANTIFIER.match(self.text, start):
            self.refuse(
                "quantifier with nothing to repeat", start, start + 1, f"write `\\{char}` for the character itself"
            )
        self.at += 1
        if char == ".":
            return Dot("s" in self.flags)
        if char == "^":
            return Edge("line start" if "m" in self.flags else "start", char)
        if char == "$":
            return Edge("line end" if "m" in self.flags else "end", char)
        return self.char(char)

    def group(self) -> Node | None:
        start = self.at
        for opening, construct, hint in _GROUP_PROBLEMS:
            if self.starts(opening):
                self.refuse(construct, start, start + len(opening), hint, _NOT_REGULAR)
        if re.compile(r"\(\?[+-]?[0-9]").match(self.text, start):
            self.refuse(
                "recursion into a group", start, start + 3, "write the group out where it is called", _NOT_REGULAR
            )
        before, on, off = self.flags, "", ""
        if self.starts("(?"):
            named, switched = _NAMED_GROUP.match(self.text, start), _FLAGS.match(self.text, start)
            if named:
                self.at = named.end()
            elif self.starts("(?|"):
                self.at += 3
            elif switched:
                on, off = self.switch(switched)
                if switched[3] == ")":
                    return Switch(on, off) if on or off else None
            else:
                self.refuse("unknown group", start, min(start + 3, len(self.text)))
        else:
            self.at += 1
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} nested groups", start, code=_TOO_LARGE)
        item = self.choice()
        if not self.starts(")"):
            self.refuse("group that is not closed", start, start + 1, "write `\\(` for the character itself")
        self.at += 1
        self.depth -= 1
        self.flags = before
        return Group(item, on, off)

    def switch(self, found: re.Match[str]) -> tuple[str, str]:
        """Apply `(?i-s` to the flags in force; give what of it Kusto has to be told."""
        on, off = found[1], found[2] or ""
        if on.startswith("^"):  # PCRE2: back to the defaults first
            on, off = on[1:], off + "".join(f for f in "imsx" if f not in on)
        for offset, flag in enumerate(on + off):
            if flag not in "imsxUuaJn":
                self.refuse(
                    f"unknown flag `{flag}`",
                    found.start(),
                    found.end(),
                    f"known flags are i, m, s and x ({offset + 1})",
                )
            if flag == "a" or (flag == "u" and offset >= len(on)):
                self.refuse(
                    "ASCII-only classes", found.start(), found.end(), "write the ranges, e.g. `[0-9]` for `\\d`"
                )
        self.at = found.end()
        self.flags = (self.flags | set(on) & set("imsx")) - set(off)
        return "".join(f for f in "ims" if f in on and f not in off), "".join(f for f in "ims" if f in off)

    # ---- escapes outside a set

    def escape(self) -> Node:
        start = self.at
        if start + 1 == len(self.text):
            self.refuse("backslash at the end", start, start + 1, "write `\\\\` for a backslash")
        char = self.text[start + 1]
        if char in _EDGES:
            self.at += 2
            if char == "b" and self.starts("{"):
                self.refuse("word boundary `\\b{`", start, self.at + 1, "write `\\b`")
            return _EDGES[char]
        if char == "Z":
            self.at += 2
            if self.at < len(self.text) and self.text[self.at] not in ")|$":
                self.refuse("`\\Z` before more text", start, hint="Kusto has `\\z`, the very end")
            return Sequence((Repeat(Char("\n"), 0, 1), _EDGES["z"]))
        if char == "N" and not self.text.startswith("{", start + 2):
            self.at += 2
            return Dot(False) if "s" not in self.flags else Set((("\n", "\n"),), True)
        if char in "123456789" and not re.compile("[1-3][0-7][0-7]").match(self.text, start + 1):
            self.refuse(f"backreference `\\{char}`", start, start + 2, _NO_BACKREFERENCE, _NOT_REGULAR)
        named = self.named_class()
        if named is not None:
            return named
        return self.char(self.escaped_char())

    def named_class(self) -> Set | None:
        """`\\d`, `\\w`, `\\s`, `\\h`, `\\p{..}` and their complements; Unicode, as Kusto reads them."""
        char = self.text[self.at + 1]
        if char in "dDwWsS":
            self.at += 2
            return Set(("\\" + char,))
        if char in "hH":
            self.at += 2
            return Set(_BLANKS, char == "H")
        if char in "pP":
            found = _PROPERTY.match(self.text, self.at)
            name = (found[2] or found[4]) if found else ""
            if found is None or (name not in _CATEGORIES and name not in SCRIPTS):
                self.refuse(
                    "unknown character property", self.at, self.at + 2, "use a general category, e.g. `\\p{Lu}`"
                )
            self.at = found.end()
            letter = "P" if (found[1] == "P") != bool(found[3]) else "p"
            return Set((f"\\{letter}{{{name}}}",))
        return None

    def escaped_char(self) -> str:
        """One character written with a backslash; the position stands on the backslash."""
        start, char = self.at, self.text[self.at + 1]
        self.at += 2
        if char in _SIMPLE:
            return _SIMPLE[char]
        if char in "xuUo01234567":
            return self.coded_char(start)
        if char == "c" and self.at < len(self.text) and "?" <= self.text[self.at].upper() <= "_":
            self.at += 1
            return chr(ord(self.text[self.at - 1].upper()) ^ 64)
        if char.isascii() and char.isalnum():
            construct, hint = _ESCAPE_PROBLEMS.get(char, (f"unknown escape `\\{char}`", "write `\\\\` for a backslash"))
            self.refuse(construct, start, hint=hint, code=_NOT_REGULAR if char in _ESCAPE_PROBLEMS else "E521")
        return char

    def coded_char(self, start: int) -> str:
        found = re.compile(
            r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|[xuU]\{([0-9A-Fa-f]{1,8})\}"
            r"|(0[0-7]{0,2}|[0-7]{1,3})|o\{([0-7]{1,8})\})"
        ).match(self.text, start)
        if found is None:
            self.refuse(
                "character code that is not complete", start, start + 2, "write two hexadecimal digits after `\\x`"
            )
        digits = found[5] or found[6]
        code = int(digits, 8) if digits else int(found[1] or found[2] or found[3] or found[4], 16)
        self.at = found.end()
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            self.refuse("character code outside Unicode", start)
        return chr(code)

    # ---- sets

    def set(self) -> Set:
        start = self.at
        self.at += 1
        negated = self.starts("^")
        self.at += negated
        items: list[tuple[str, str] | str] = []
        first = True
        while first or not self.starts("]"):
            if self.at >= len(self.text):
                self.refuse("set that is not closed", start, start + 1, "write `\\[` for the character itself")
            first = False
            place = self.at
            item = self.set_member()
            if item is None:
                continue
            if item == "\\h":
                items.extend(_BLANKS)
                continue
            if len(item) > 1:
                items.append(item)
                continue
            last = item
            if self.starts("-") and not self.text.startswith("-]", self.at) and self.at + 1 < len(self.text):
                back = self.at
                self.at += 1
                upper = self.set_member()
                if upper is None or len(upper) != 1:  # `[a-\d]`: the dash is itself
                    self.at = back
                else:
                    last = upper
            if last < item:
                self.refuse("range whose ends are reversed", place)
            items.append((item, last))
        self.at += 1
        if not items:
            self.refuse("empty set", start)
        return Set(tuple(items), negated, "i" in self.flags)

    def set_member(self) -> str | None:
        """One character, or the text of a named class; None for what stands for nothing (`\\E`)."""
        posix = _POSIX.match(self.text, self.at)
        if posix:
            self.at = posix.end()
            return f"[:{posix[1]}{posix[2]}:]"
        start, char = self.at, self.text[self.at]
        if char != "\\":
            self.at += 1
            return char
        if start + 1 == len(self.text):
            self.refuse("backslash at the end", start, start + 1, "write `\\\\` for a backslash")
        char = self.text[start + 1]
        if char == "b":
            self.at += 2
            return "\b"
        if char in "QE":
            if char == "Q":
                self.refuse("`\\Q` inside a set", start, start + 2, "escape the characters one by one")
            self.at += 2
            return None
        if char == "h":
            self.at += 2
            return "\\h"
        if char == "H":
            self.refuse("`\\H` inside a set", start, start + 2, "list what the set holds instead")
        named = self.named_class()
        if named is not None:
            return str(named.items[0])
        return self.escaped_char()
