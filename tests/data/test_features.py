"""The cache of image features changes no number, and no interruption."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from vla.data import features
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.features import FeatureCache
from vla.training.trainer import train

SIZES = {"top": 6, "side": 4}


def encode(images: np.ndarray) -> np.ndarray:
    """Four or six numbers of an image, telling the cameras apart by their width."""
    count = {32: 6, 40: 4}[images.shape[2]]
    return images.reshape(len(images), -1)[:, :count].astype(np.float16)


@pytest.fixture
def dataset(write: Callable[..., Path]) -> EpisodeDataset:
    return EpisodeDataset(write(range(6)))


def expected(dataset: EpisodeDataset, frames: np.ndarray) -> np.ndarray:
    return np.concatenate([encode(dataset.frames(camera, frames)) for camera in SIZES], axis=1)


def test_frames_are_encoded_once_and_only_those_asked_for(dataset: EpisodeDataset, tmp_path: Path) -> None:
    encoded: list[int] = []
    calls: list[tuple[int, int]] = []

    def counting(images: np.ndarray) -> np.ndarray:
        encoded.append(len(images))
        return encode(images)

    cache = FeatureCache(tmp_path, dataset, "encoder", SIZES)
    cache.fill(np.arange(5), counting, lambda done, total: calls.append((done, total)))
    assert sum(encoded) == 10 and calls[-1] == (10, 10)
    again = FeatureCache(tmp_path, dataset, "encoder", SIZES)
    again.fill(np.arange(8), counting)
    assert sum(encoded) == 16
    np.testing.assert_array_equal(again.read(np.array([7, 0, 3])), expected(dataset, np.array([7, 0, 3])))


def test_encoders_and_data_sets_have_their_own(dataset: EpisodeDataset, write: Callable, tmp_path: Path) -> None:
    other = EpisodeDataset(write(range(6, 12), "other"))
    for source, name in ((dataset, "one"), (dataset, "two"), (other, "one")):
        FeatureCache(tmp_path / "cache", source, name, SIZES)
    assert len(list((tmp_path / "cache").iterdir())) == 3


@pytest.mark.parametrize("survived", range(4))
def test_an_interrupted_fill_is_completed(
    dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """In a process that is killed while it encodes its n-th chunk."""
    monkeypatch.setattr(features, "CHUNK", 8)
    everything = np.arange(dataset.num_frames)
    pid = os.fork()
    if pid == 0:
        chunks = iter(range(survived))

        def killed(images: np.ndarray) -> np.ndarray:
            if next(chunks, None) is None:
                os.kill(os.getpid(), 9)
            return encode(images)

        FeatureCache(tmp_path, dataset, "encoder", SIZES).fill(everything, killed)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status)

    encoded: list[int] = []
    cache = FeatureCache(tmp_path, dataset, "encoder", SIZES)
    cache.fill(everything, lambda images: encoded.append(len(images)) or encode(images))
    assert sum(encoded) == 2 * dataset.num_frames - min(8 * survived, 2 * dataset.num_frames)
    np.testing.assert_array_equal(cache.read(everything), expected(dataset, everything))


def test_a_full_disk_is_told_before_it_kills(
    dataset: EpisodeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache(tmp_path, dataset, "encoder", SIZES)
    monkeypatch.setattr(features.shutil, "disk_usage", lambda _: features.shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(DatasetError, match=r"image features need.*VLA_CACHE.*data\.cache_features"):
        cache.fill(np.arange(5), encode)


def test_training_from_the_cache_is_training_from_images(
    tabletop: Path, encoders: dict[str, str], tmp_path: Path
) -> None:
    """Bit for bit: losses and weights."""
    losses, weights = [], []
    for cached in (True, False):
        config = tiny.run_config(tabletop, encoders, tmp_path / str(cached), data__cache_features=cached,
                                 training__steps=3)
        policy = train(config)
        lines = [json.loads(line) for line in (tmp_path / str(cached) / "metrics.jsonl").read_text().splitlines()]
        losses.append([{key: value for key, value in line.items() if key.startswith("loss")} for line in lines])
        weights.append(load_file(policy / "model.safetensors"))
    assert losses[0] == losses[1] and len(losses[0]) == 3
    for name, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][name])
