"""What is wished for one document's artifact: the configuration, then its folders inwards, then the rule itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from sigma2kql.artifacts import Settings, merge, merge_rule
from sigma2kql.config import Config
from sigma2kql.errors import fail
from sigma2kql.model import Document


def document_settings(config: Config, document: Document) -> Settings:
    """`deploy:` of the configuration, `directories:` whose folder the file lies in (shortest first), `sigma2kql:`.

    Folders are relative to the configuration file. Raises Sigma2KqlError with E701, E702.
    """
    settings = merge(Settings(), config.deploy, config.spans.get("deploy"))
    for folder in sorted(config.directories, key=lambda name: len(PurePath(name).parts)):
        wishes = _wishes(config, folder)
        if config.path is not None and _inside(Path(document.origin.source.path), config.path.parent / folder):
            settings = merge(settings, wishes, config.spans.get("directories"))
    return merge_rule(settings, document.meta.custom, document.origin.span)


def _wishes(config: Config, folder: str) -> Mapping[str, Any]:
    wishes = config.directories[folder]
    if not isinstance(wishes, Mapping):
        raise fail("E702", f"`{folder}` is to be a map of deployment settings", config.spans.get("directories"))
    return wishes


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
