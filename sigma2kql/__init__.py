"""sigma2kql: Sigma detection rules to KQL for Microsoft Sentinel and Defender XDR.

Public are `convert` and the types that it takes and gives; they are imported when they are first asked for, so that
the command line starts fast. Everything else is private.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sigma2kql.api import Options, convert
    from sigma2kql.diagnostics.diagnostic import Diagnostic, Sigma2KqlError, Span
    from sigma2kql.model.tree import Compiled

__version__ = "0.1.0"
__all__ = ["Compiled", "Diagnostic", "Options", "Sigma2KqlError", "Span", "__version__", "convert"]


def __getattr__(name: str) -> object:
    """The public names, from the modules that hold them (PEP 562)."""
    homes = {"convert": "api", "Options": "api", "Compiled": "model.tree"}
    home = homes.get(name, "diagnostics.diagnostic")
    if name not in __all__ or name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{home}"), name)
