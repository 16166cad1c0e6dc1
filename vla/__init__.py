"""Language-conditioned robot policies: data, training, evaluation and inference."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla.models.observe import Goal
    from vla.models.policy import VLAPolicy

__version__ = "0.1.0"
__all__ = ["Goal", "VLAPolicy"]


_HOMES = {"Goal": "vla.models.observe", "VLAPolicy": "vla.models.policy"}


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: torch takes seconds, `vla --help` shouldn't."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vla' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
