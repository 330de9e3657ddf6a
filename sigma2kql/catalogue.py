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


CATALOGUE: dict[str, Entry] = {}
