"""Pieces of predicates, and how they are laid out as lines that an analyst could have written.

Place in the flow: the ground of emission: `operators` makes pieces, `query` lays them out. Invariant: what stands
between `and` and `or` stands in parentheses wherever reading without them would mean something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from sigma2kql.diagnostics.diagnostic import frozen

WIDTH = 120
_MOST_FLAT = WIDTH // len("_ or ")  # operands that a line can hold


@frozen
class Unsure:
    """A finished predicate that may be null instead of false."""

    text: str


@frozen
class Listed:
    """A predicate over a list of values, which may be broken over lines."""

    head: str
    values: tuple[str, ...]
    tail: str
    nullable: bool = False


@frozen
class Chain:
    """Pieces joined by `and` or `or`; `nullable` as a whole."""

    word: str
    items: tuple[Piece, ...]
    nullable: bool = False


@frozen
class Wrap:
    """A piece inside a call: `not(...)`, `coalesce(..., false)`."""

    head: str
    item: Piece
    tail: str
    nullable: bool = False


Piece = str | Unsure | Listed | Chain | Wrap  # a text is a finished predicate that is never null


def nullable(piece: Piece) -> bool:
    """Whether it may be null instead of false."""
    return isinstance(piece, Unsure) or (not isinstance(piece, str) and piece.nullable)


def flat(piece: Piece, inside: str = "") -> str:
    """On one line; `inside` is the word of the chain around it, for parentheses."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, Unsure):
        return piece.text
    if isinstance(piece, Chain):
        texts = [item if isinstance(item, str) else flat(item, piece.word) for item in piece.items]
        text = f" {piece.word} ".join(texts)
        return f"({text})" if inside and inside != piece.word else text
    inner = ", ".join(piece.values) if isinstance(piece, Listed) else flat(piece.item)
    return f"{piece.head}{inner}{piece.tail}"


def grouped_chains(piece: Piece, most: int) -> Piece:
    """The piece with chains of more than `most` operands as chains of chains in parentheses: a parser goes as deep as
    a chain is long.
    """
    if isinstance(piece, Wrap):
        item = grouped_chains(piece.item, most)
        return piece if item is piece.item else Wrap(piece.head, item, piece.tail, piece.nullable)
    if not isinstance(piece, Chain):
        return piece
    items = piece.items
    for item in items:
        if isinstance(item, Wrap | Chain):
            items = tuple([grouped_chains(item, most) for item in items])
            break
    while len(items) > most:
        items = tuple([Wrap("(", Chain(piece.word, items[i : i + most]), ")") for i in range(0, len(items), most)])
    return piece if items is piece.items else Chain(piece.word, items, piece.nullable)


def lines(head: str, piece: Piece, tail: str, indent: str) -> list[str]:
    """The piece between `head` and `tail`: on one line where it fits, else broken at its outermost joints."""
    if isinstance(piece, str):
        return [head + piece + tail]
    if isinstance(piece, Chain) and len(piece.items) > _MOST_FLAT:
        return _tall(head, piece, tail, indent)
    text = flat(piece)
    return [head + text + tail] if len(head) + len(text) + len(tail) <= WIDTH else _tall(head, piece, tail, indent)


def _tall(head: str, piece: Piece, tail: str, indent: str) -> list[str]:
    """The piece over several lines: `head` before its first, `tail` after its last, the others behind `indent`."""
    match piece:
        case str() | Unsure():
            return [head + flat(piece) + tail]
        case Listed():
            return list_lines(head + piece.head, piece.values, piece.tail + tail, indent + "    ")
        case Wrap():
            deeper = indent + "    " if isinstance(piece.item, Chain) else indent
            return lines(head + piece.head, piece.item, piece.tail + tail, deeper)
        case Chain():
            return _chain_lines(head, piece, tail, indent)
        case _:
            assert_never(piece)


def _chain_lines(head: str, chain: Chain, tail: str, indent: str) -> list[str]:
    found: list[str] = []
    *most, last = chain.items
    joint = f"{indent}{chain.word} "
    for item in most:
        if isinstance(item, str):
            found.append(head + item)
        else:
            found += _operand(head, item, "", indent)
        head = joint
    return found + _operand(head, last, tail, indent)


def _operand(head: str, piece: Piece, tail: str, indent: str) -> list[str]:
    """An operand of a chain; a chain inside a chain stands in parentheses."""
    if isinstance(piece, Chain):
        return lines(head + "(", piece, ")" + tail, indent + "    ")
    return lines(head, piece, tail, indent)


def list_lines(head: str, values: Sequence[str], tail: str, indent: str) -> list[str]:
    """A list of values filled into lines."""
    filled = [head]
    for number, value in enumerate(values):
        text = value + ("," if number < len(values) - 1 else tail)
        if len(filled[-1]) + len(text) + 1 > WIDTH and (number > 0 or len(filled) > 1):
            filled.append(indent + text)
        else:
            filled[-1] += ("" if number == 0 else " ") + text
    return filled
