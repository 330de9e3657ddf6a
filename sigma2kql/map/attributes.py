"""What a rule's log source states beyond what the rows of a mapping state.

Place in the flow: beside the targets, which ask it when rows are found. Invariant: no attribute that a rule states is
passed over: it restates what the rows are, or it is said that they do not tell it, or they do not carry the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from functools import cache
from typing import Any, NamedTuple, cast

from sigma2kql.diagnostics.diagnostic import Diagnostic, Source, diagnostic, did_you_mean
from sigma2kql.model.tree import LogSource
from sigma2kql.system.shipped_files import mappings_folder
from sigma2kql.text.nodes import plain
from sigma2kql.text.yaml_text import compose

ATTRIBUTES = ("category", "product", "service")
_PLURALS = {"category": "categories", "product": "products", "service": "services"}


class _Restated(NamedTuple):
    """For log sources with one of `given` in each attribute, an attribute whose `values` add nothing."""

    given: Mapping[str, frozenset[str]]
    attribute: str
    values: frozenset[str]

    def concerns(self, asked: LogSource) -> bool:
        return all(getattr(asked, attribute) in values for attribute, values in self.given.items())


@cache
def _file() -> tuple[tuple[_Restated, ...], Mapping[str, frozenset[str]]]:
    """`mappings/logsources.yml`: what restates what, and the values that no mapping states."""
    path = mappings_folder() / "logsources.yml"
    (document,) = compose(Source("mappings/logsources.yml", path.read_text(encoding="utf-8")))
    assert document.root is not None
    told = cast(dict[str, Any], plain(document.root))
    restated = tuple(
        _Restated({key: frozenset(one) for key, one in entry["for"].items()}, attribute, frozenset(values))
        for entry in told["restates"]
        for attribute, values in entry.items()
        if attribute != "for"
    )
    return restated, {attribute: frozenset(told[plural]) for attribute, plural in _PLURALS.items()}


def untold(served: LogSource, asked: LogSource, known: Mapping[str, Set[str]]) -> str | None:
    """What of a rule's log source the rows do not tell, in words; empty where they tell all; None where they contradict
    it, or nobody knows the value.

    `known`: the values that the mappings state, by attribute.
    """
    said = []
    for attribute in ATTRIBUTES:
        value = getattr(asked, attribute)
        if not value or getattr(served, attribute) is not None:
            continue
        restated, more = _file()
        values = [one.values for one in restated if one.attribute == attribute and one.concerns(asked)]
        if any(value in one for one in values):
            continue
        if values or not (value in known[attribute] or value in more[attribute]):
            return None
        said.append(f"rows do not tell the {attribute}: those of others than {value} are found as well")
    return "; ".join(said)


def contradiction(asked: LogSource, known: Mapping[str, Set[str]]) -> Diagnostic | None:
    """Which attribute nobody knows, or does not go with the others; None where there is none."""
    restated, more = _file()
    for attribute in ATTRIBUTES:
        value = getattr(asked, attribute)
        if not value:
            continue
        names = {*known[attribute], *more[attribute]}
        if value not in names:
            message = f"no log source has the {attribute} `{value}`"
            hint = did_you_mean(value, sorted(names)) or "a mapping file of your own that states it makes it known"
            return diagnostic("E408", message, asked.span, hint)
        wanted = [one for one in restated if one.attribute == attribute and one.concerns(asked)]
        if wanted and not any(value in one.values for one in wanted):
            others = " and ".join(f"{a} `{getattr(asked, a)}`" for a in wanted[0].given)
            hint = f"leave it out, or write {', '.join(sorted(wanted[0].values))}"
            return diagnostic("E408", f"{attribute} `{value}` does not go with {others}", asked.span, hint)
    return None
