"""Where things that can be computed again are kept: unpacked columns, converted encoders, image features."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$VLA_CACHE`, by default `~/.cache/vla`. Everything in it may be deleted at any time."""
    return Path(os.environ.get("VLA_CACHE", Path.home() / ".cache" / "vla"))
