"""Language-conditioned robot policies: data, training, evaluation and inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla.models.observe import Goal
    from vla.models.policy import VLAPolicy

__version__ = "0.1.0"
__all__ = ["Goal", "VLAPolicy"]


def __getattr__(name: str) -> Any:
    """Imported when it is asked for: torch takes seconds, `vla --help` shouldn't."""
    if name == "VLAPolicy":
        from vla.models.policy import VLAPolicy

        return VLAPolicy
    if name == "Goal":
        from vla.models.observe import Goal

        return Goal
    raise AttributeError(f"module 'vla' has no attribute {name!r}")
