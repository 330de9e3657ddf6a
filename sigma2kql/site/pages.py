"""The templates: values in, HTML out.

Place in the flow: below the build. Invariant: every value is escaped; an unknown name in a template is an error; a
link that a rule gives is one only where it is http or https.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sigma2kql import __version__
from sigma2kql.coverage import LEVELS
from sigma2kql.coverage.attack_names import attack
from sigma2kql.diagnostics.diagnostic import Sigma2KqlError, diagnostic, frozen

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "object-src 'none'"
)
MENU = (
    ("index.html", "Rules"),
    ("attack.html", "ATT&CK"),
    ("tables.html", "Tables and connectors"),
    ("changes.html", "New and changed"),
    ("problems.html", "Problems"),
)
HOME = Path(__file__).resolve().parent


@frozen
class Site:
    """What all pages of a site have in common."""

    title: str
    base_url: str
    css: bool
    rules: int


def page_name(text: str) -> str:
    """A file name (without its end) for a table or technique: ASCII letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:100] or "x"


def safe_url(text: str) -> str:
    """The text as a link's target where it is an http or https URL of one line, else an empty text."""
    text = text.strip()
    if not re.fullmatch(r"https?://[^\s\x00-\x1f\"<>\\^`{|}]+", text, re.IGNORECASE):
        return ""
    try:
        return text if urlsplit(text).netloc else ""
    except ValueError:
        return ""


class Pages:
    """Renders pages of one site; `folders` are searched for templates before the shipped ones."""

    def __init__(self, site: Site, targets: Sequence[str], folders: Sequence[Path] = (), more: bool = False) -> None:
        from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
        from jinja2.sandbox import SandboxedEnvironment

        loader = ChoiceLoader([FileSystemLoader(folder) for folder in (*folders, HOME / "templates")])
        kind = SandboxedEnvironment if folders else Environment  # our own need no walls
        self.environment = kind(
            loader=loader, undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self.environment.filters.update({"page": page_name, "url": safe_url})
        self.environment.globals.update(
            site=site,
            targets=list(targets),
            version=__version__,
            policy=POLICY,
            menu=(*MENU, *((("playground.html", "Playground"),) if more else ())),
            levels=LEVELS,
            attack_version=attack().version,
        )

    def render(self, template: str, here_page: str, values: Mapping[str, Any]) -> str:
        """One page; `here_page` is its place on the site. Raises Sigma2KqlError where a template is at fault."""
        from jinja2 import TemplateError

        try:
            found = self.environment.get_template(template)
            return found.render(root="../" * here_page.count("/"), here_page=here_page, **values)
        except TemplateError as error:
            where = getattr(error, "filename", None) or template
            raise Sigma2KqlError([diagnostic("E830", f"{where}: {error.message or type(error).__name__}")]) from error
