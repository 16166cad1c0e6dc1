"""What tests of model, data and training share: a small Tabletop data set and tiny encoders, made once a session."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Shells start background jobs deaf to Ctrl-C, and whatever tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tabletop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set of 12 demonstrations at 64 x 64 pixels."""
    from vla.data.collect import CollectSettings, collect

    folder = tmp_path_factory.mktemp("tabletop") / "data"
    collect(CollectSettings(folder, episodes=12, image_size=64, num_workers=0))
    return folder


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of random encoders: text `bert` and `t5`, vision `mobilenet` and `vit`, both towers in `clip`."""
    import tiny

    return tiny.save_encoders(tmp_path_factory.mktemp("encoders"))
