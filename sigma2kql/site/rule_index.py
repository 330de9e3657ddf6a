"""The index that the list of rules is searched by: one script, so that it can be read from a disk too.

Place in the flow: made after the pages, read by `assets/search.js`. Invariant: it is data, whatever rules say: nothing
in it ends the script or begins another.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sigma2kql.coverage import Covered
from sigma2kql.coverage.attack_names import technique_name

TEXT = 400  # characters of a description that words are searched in


class _Names:
    """Texts by number: most are shared by many rules."""

    def __init__(self) -> None:
        self.at: dict[str, int] = {}

    def number(self, text: str) -> int:
        return self.at.setdefault(text, len(self.at)) if text else -1


def index_script(rows: Sequence[tuple[str, Covered, str]], targets: Sequence[str]) -> str:
    """`rows` are page, rule and description. Keys as `assets/search.js` reads them."""
    names = {
        key: _Names()
        for key in ("levels", "statuses", "logs", "authors", "techniques", "verdicts", "tables", "sources", "liveness")
    }
    rules: list[list[Any]] = [
        [
            page,
            rule.title or page,
            names["levels"].number(rule.level),
            names["statuses"].number(rule.status),
            names["logs"].number(rule.logsource),
            names["authors"].number(rule.author),
            rule.date,
            [names["techniques"].number(t) for t in rule.techniques],
            " ".join(text.split())[:TEXT],
            [
                [
                    names["verdicts"].number(outcome.verdict),
                    [names["tables"].number(t) for t in outcome.tables if t],
                    [names["sources"].number(s) for s in outcome.sources if s],
                    names["liveness"].number(outcome.here),
                ]
                for outcome in rule.outcomes
            ],
        ]
        for page, rule, text in rows
    ]
    shown = {t: technique_name(t) for t in names["techniques"].at if technique_name(t)}
    index = {
        "targets": list(targets),
        **{key: list(held.at) for key, held in names.items()},
        "names": shown,
        "rules": rules,
    }
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":  # `</script>` and line ends of JavaScript, wherever the text may come to stand
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f"window.sigma2kql={text};\n"
