"""Every diagnostic code once: severity, what it means, why it is so and how to mend it (`sigma2kql explain CODE`).

Place in the flow: below everything; data only. Invariant: a code, once released, keeps its meaning.
E1xx files and YAML, E2xx/W2xx the Sigma language, E3xx conditions, E4xx/W4xx mapping, E5xx/W5xx emission, E6xx
running, E7xx artifacts and deployment, E8xx the call itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Entry(NamedTuple):
    severity: Literal["error", "warning", "info"]
    title: str
    why: str
    fix: str


CATALOGUE: dict[str, Entry] = {
    # regular expressions in Kusto's dialect (E52x)
    "E520": Entry(
        "error",
        "the pattern asks for more than Kusto's regular expressions can say",
        "Kusto matches in linear time (Rust's regex crate): no lookaround, backreference, recursion, possessive part.",
        "Say it with further values or field items of the rule, or list the texts that the construct stands for.",
    ),
    "E521": Entry(
        "error",
        "the pattern is not a regular expression",
        "It is malformed, or uses an escape or flag that Kusto does not know. The place is shown under the value.",
        "Correct it; a backslash that means itself is written twice, punctuation that means itself after a backslash.",
    ),
    "E522": Entry(
        "error",
        "the pattern is too large",
        "Counted repetitions are unfolded when a pattern is compiled; the compiled size and the nesting are bounded.",
        "Use smaller counts, `*` or `+`, or fewer nested groups.",
    ),
    # running: Microsoft's parser (E650), event files (E66x), remote engines (E67x)
    "E650": Entry(
        "error",
        "the named folder does not hold Microsoft's KQL parser",
        "An option or the environment variable KUSTO_JS names a folder for the npm package @kusto/language-service-next.",
        "Name the folder of the package, or one that holds its node_modules; or name nothing, so that it is looked for.",
    ),
    "E651": Entry(
        "error",
        "KQL cannot be validated on this machine",
        "Validation needs the npm package @kusto/language-service-next and something to run it, or duckdb-kql for syntax.",
        "Install what the hint names.",
    ),
    "E652": Entry(
        "error",
        "the parser gave no verdict on a query",
        "It ran out of time, memory or stack; a query of an ordinary size is analysed in milliseconds.",
        "Split the rule, or shorten its lists of values.",
    ),
    "E653": Entry(
        "error",
        "this release of Microsoft's parser is not run with node",
        "Code run by node can do anything on this machine, so only the release whose files are known is handed to it.",
        "Install the release that the hint names, or mini-racer, which runs any release without files and network.",
    ),
    "W650": Entry(
        "warning",
        "only the syntax of the queries was checked",
        "Without Microsoft's parser unknown columns and wrong types are not found.",
        "Install what the hint names.",
    ),
}
