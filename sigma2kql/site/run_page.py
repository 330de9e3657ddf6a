"""What a run of `test` showed, as one page that stands alone.

Place in the flow: results of proof in, HTML out. Invariant: everything of it is in the one file, every value is
escaped, and nothing is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sigma2kql import __version__
from sigma2kql.proof import Result
from sigma2kql.site.pages import HOME

ORDER = {"failed": 0, "unproven": 1, "skipped": 2, "passed": 3}


def run_page(results: Sequence[Result], told: Mapping[str, Any]) -> str:
    """Failures first, each with the event that shows it; then the rest by result and path."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = (HOME / "assets" / "site.css").read_text(encoding="utf-8").replace("</", "<\\/")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(HOME / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["event"] = lambda value: json.dumps(value, ensure_ascii=False, indent=1, default=str)
    return environment.get_template("run.html.j2").render(
        style=Markup(style),  # noqa: S704 (our own file)
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        told=told,
        results=sorted(results, key=lambda r: (ORDER[r.status], r.path, r.line)),
        version=__version__,
    )
