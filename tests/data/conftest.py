"""Data sets to test with."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from samples import FIXTURES, LAYOUT, make_episode

from vla.data.writer import EpisodeWriter


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def lerobot_written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with two data sets that LeRobot itself wrote."""
    folder = tmp_path_factory.mktemp("lerobot")
    with tarfile.open(FIXTURES / "lerobot_written.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "lerobot_written"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes (or appends) the episodes of the given numbers; returns the folder."""

    def write(numbers: range, folder: str = "data", **options: object) -> Path:
        with EpisodeWriter(tmp_path / folder, **{**LAYOUT, "episodes_per_file": 4, **options}) as writer:
            for number in numbers:
                writer.add_episode(make_episode(number))
        return tmp_path / folder

    return write
