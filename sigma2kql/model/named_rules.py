"""What a reference to a rule means: the document of that name or id, among all that were read together.

Place in the flow: the ground of correlations, filters and their judges. Invariant: a reference has one meaning or is an
error; a file's own documents come before those of other files, and ids are compared without regard to case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic, did_you_mean
from sigma2kql.model.tree import Correlation, Document, Filter, Reference, Rule

Place = tuple[str, int]  # path and number in the file


def place_of(document: Document) -> Place:
    """Where a document stands; no two that are read together share it."""
    return document.origin.source.path, document.origin.index


class NamedRules:
    """The rules and correlations that references may mean."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._found: dict[str, list[Rule | Correlation]] = {}
        self._titles: dict[str, str] = {}
        for document in documents:
            if isinstance(document, Rule | Correlation):
                for name in {folded_name(name) for name in (document.meta.name, document.meta.id) if name}:
                    self._found.setdefault(name, []).append(document)
                self._titles.setdefault(document.meta.title, document.meta.title)

    def find(self, reference: Reference, within: Document) -> Rule | Correlation:
        """The document that a reference in `within` means. Raises Sigma2KqlError (E406, E408)."""
        found = self.candidates(reference.name, within)
        if len(found) > 1:
            first, second = found[:2]
            places = " and ".join(f"{d.origin.source.path}:{_line(d)}" for d in (first, second))
            message = f"`{reference.name}` is the name of two rules, at {places}"
            hint = "give each its own name, or refer to one by its id"
            raise Sigma2KqlError([diagnostic("E408", message, second.origin.span, hint)])
        if found:
            return found[0]
        if reference.name in self._titles:
            message = f"`{reference.name}` is the title of a rule; a reference is a name or an id"
            raise Sigma2KqlError([diagnostic("E406", message, reference.span, "give it a `name`, and refer to that")])
        hint = did_you_mean(reference.name, self._found)
        message = f"there is no rule `{reference.name}` among the files given"
        raise Sigma2KqlError([diagnostic("E406", message, reference.span, hint)])

    def candidates(self, name: str, within: Document) -> Sequence[Rule | Correlation]:
        """All documents that a name may mean: those of the same file, or else those of all files."""
        found = self._found.get(folded_name(name), [])
        path = within.origin.source.path
        return [document for document in found if document.origin.source.path == path] or found

    def fed(self, documents: Iterable[Document]) -> set[Place]:
        """The places of those that only feed correlations: referred to, and by none that says `generate`."""
        feeding: dict[Place, bool] = {}
        for one in documents:
            if isinstance(one, Correlation):
                for document in (d for r in one.rules for d in self.candidates(r.name, one)):
                    place = place_of(document)
                    feeding[place] = feeding.get(place, True) and not one.generate
        return {place for place, only in feeding.items() if only}

    def covers(self, one: Filter, rule: Rule) -> bool:
        """Whether a filter is meant for a rule: it names the rule or none, and its log source covers the rule's."""
        names = {folded_name(name) for name in (rule.meta.id, rule.meta.name) if name}
        named = not one.rules or any(folded_name(reference.name) in names for reference in one.rules)
        return named and one.logsource.covers(rule.logsource)


def folded_name(name: str) -> str:
    """A name as it is compared: ids without regard to case, names as they are."""
    lowered = name.lower()
    return lowered if len(name) == 36 and not set(lowered) - set("0123456789abcdef-") else name


def _line(document: Document) -> int:
    return document.origin.source.position(document.origin.span.start)[0]
