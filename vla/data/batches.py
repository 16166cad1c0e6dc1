"""From segments to training batches: everything about batch k, noise included, is a pure function of (seed, k).

Shapes: B global batch, b slots of one process, T history, H horizon, A action, S state, W keyframes, K noise samples,
F flat image features, Y X pixels, N segments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import torch

from vla.batch import Batch, Observation
from vla.config import Config
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.features import FeatureCache
from vla.data.keyframes import next_keyframes, switch_frames
from vla.data.sampler import StratifiedSampler, shares
from vla.data.segments import Segments

Reader = Callable[[np.ndarray], np.ndarray]  # [n] frames -> [n, ...]
LATEST_TIME = np.nextafter(np.float32(1), np.float32(0))  # rounding to float32 would reach 1 now and then


@dataclass
class TrainingData:
    """Data sets, the segments that are learnt from, and their strata."""

    datasets: list[EpisodeDataset]
    segments: Segments
    strata: list[str]  # S names
    stratum: np.ndarray  # [N] int64
    share: np.ndarray  # [S] float64
    stride: np.ndarray  # [N] int64: predictions are learnt from every so many frames of a segment

    @property
    def fingerprint(self) -> str:
        """Hex digest that changes when frames or segments do, wherever the data sets lie."""
        digest = hashlib.sha256(repr([dataset.fingerprint for dataset in self.datasets]).encode())
        for field in fields(self.segments):
            digest.update(repr(getattr(self.segments, field.name).tolist()).encode())
        return digest.hexdigest()

    @property
    def observations(self) -> np.ndarray:
        """[N] int64: number of frames of each segment that predictions are learnt from."""
        return -(-(self.segments.stop - self.segments.start) // self.stride)


def load_training_data(config: Config) -> TrainingData:
    """Open the data sets that `config` names and choose their segments.

    Raises:
        DatasetError: data sets that don't fit together, or nothing left to learn from.
    """
    settings = config.data
    datasets = [EpisodeDataset(path) for path in settings.datasets]
    for other in datasets[1:]:
        _check_same_layout(datasets[0], other)
    segments = Segments.concatenate([Segments.load(dataset, number) for number, dataset in enumerate(datasets)])
    keep = np.ones(len(segments), dtype=bool)
    if settings.only_success:
        keep &= segments.success
    if settings.sources is not None:
        keep &= np.isin(segments.source.astype(str), settings.sources)
    segments = segments.select(keep)
    if not len(segments):
        raise DatasetError(datasets[0].root, "segments", "no segment is left to learn from",
                           "Check data.sources and data.only_success")
    strata, stratum = _strata(segments, settings.stratify_by, by_dataset=settings.dataset_shares is not None)
    stride = _strides(config)[segments.dataset]
    data = TrainingData(datasets, segments, strata, stratum, np.ones(len(strata)) / len(strata), stride)
    data.share = _shares(data, config)
    return data


class BatchSource:
    """Builds batches for training."""

    def __init__(self, data: TrainingData, config: Config, caches: Sequence[FeatureCache] | None = None) -> None:
        """`caches`: image features by data set; None gives raw images."""
        self.data = data
        self._config = config
        self._caches = caches
        self._sampler = StratifiedSampler(
            data.stratum, data.observations, data.share, config.training.batch_size, config.training.seed
        )

    def batch(self, step: int, slots: slice = slice(None)) -> Batch:
        """The `slots` of global batch `step`."""
        stratum, segment, offset = self._sampler.batch(step)
        total = self._valid_components(segment, offset)
        model, training = self._config.model, self._config.training
        rng = np.random.default_rng([training.seed, step, 1])
        samples = model.diffusion.noise_samples
        action_dim = self.data.datasets[0].action_dim
        noise = rng.standard_normal((training.batch_size, samples, model.horizon, action_dim), dtype=np.float32)
        # One time in each of K equal parts of [0, 1): the same expectation as independent times, with less variance.
        time = (np.arange(samples) + rng.random((training.batch_size, samples))) / samples
        time = np.minimum(time.astype(np.float32), LATEST_TIME)
        withheld = rng.random(training.batch_size) < model.instruction_dropout

        stratum, segment, offset = stratum[slots], segment[slots], offset[slots]
        segments = self.data.segments
        stop = segments.stop[segment]
        frame = segments.start[segment] + self.data.stride[segment] * offset
        # Frames in their episode, clipped to the segment's end: what comes after belongs to another attempt.
        chunk = np.minimum(frame[:, None] + np.arange(model.horizon), stop[:, None] - 1)  # [b, H]
        past = frame[:, None] - np.arange(model.history)[::-1]  # [b, T]
        exists = past >= self._episode_start(segment)[:, None]
        past = np.maximum(past, self._episode_start(segment)[:, None])
        dataset = segments.dataset[segment]
        keyframes = self._keyframes(dataset, frame, stop - 1)  # [b, W]
        instructions = ["" if blank else text
                        for blank, text in zip(withheld[slots], segments.instruction[segment], strict=True)]
        observation = Observation(
            state=torch.from_numpy(self._gather(dataset, past, "state")),
            instruction=instructions,
            history_valid=torch.from_numpy(exists) if model.history > 1 else None,
            **self._pixels(dataset, past),
        )
        return Batch(
            observation=observation,
            action=torch.from_numpy(self._gather(dataset, chunk, "action")),
            valid=torch.from_numpy(frame[:, None] + np.arange(model.horizon) < stop[:, None]),
            keyframes=torch.from_numpy(self._gather(dataset, keyframes, "state")),
            stratum=torch.from_numpy(stratum),
            total=total,
            noise=torch.from_numpy(noise[slots]),
            time=torch.from_numpy(time[slots]),
        )

    def frames_used(self, number: int) -> np.ndarray:
        """Every frame of data set `number` that some batch may look at, history included: [n] sorted indices."""
        data, history = self.data, self._config.model.history
        rows = np.flatnonzero(data.segments.dataset == number)
        starts, stops = data.segments.start[rows], data.segments.stop[rows]
        first = data.datasets[number].episodes.start[data.segments.episode[rows]]
        used = np.zeros(data.datasets[number].num_frames, dtype=bool)
        for start, stop, stride, earliest in zip(starts, stops, data.stride[rows], first, strict=True):
            for age in range(history):
                used[np.maximum(np.arange(start, stop, stride) - age, earliest)] = True
        return np.flatnonzero(used)

    @cached_property
    def _switches(self) -> list[np.ndarray]:
        """Of each data set. Only batches need them, and finding them reads every action."""
        return [switch_frames(dataset.column("action")) for dataset in self.data.datasets]

    def _keyframes(self, dataset: np.ndarray, frame: np.ndarray, last: np.ndarray) -> np.ndarray:
        """[b, W] frames: the next keyframes after `frame` [b] in segments that end with `last` [b]."""
        keyframes = np.empty((len(frame), self._config.model.keyframes), dtype=np.int64)
        for number, switches in enumerate(self._switches):
            here = dataset == number
            keyframes[here] = next_keyframes(switches, frame[here], last[here], keyframes.shape[1])
        return keyframes

    def _valid_components(self, segment: np.ndarray, offset: np.ndarray) -> int:
        """Action components inside their segments, in the chunks of the global batch."""
        segments = self.data.segments
        left = segments.stop[segment] - segments.start[segment] - self.data.stride[segment] * offset
        return int(np.minimum(left, self._config.model.horizon).sum()) * self.data.datasets[0].action_dim

    def _episode_start(self, segment: np.ndarray) -> np.ndarray:
        segments = self.data.segments
        starts = np.zeros(len(segment), dtype=np.int64)
        for number, dataset in enumerate(self.data.datasets):
            here = segments.dataset[segment] == number
            starts[here] = dataset.episodes.start[segments.episode[segment[here]]]
        return starts

    def _pixels(self, dataset: np.ndarray, frames: np.ndarray) -> dict:
        """`features` or `images` of an Observation for `frames` [b, T]."""
        if self._caches is not None:
            readers = [cache.read for cache in self._caches]
            return {"features": torch.from_numpy(_read(readers, dataset, frames))}
        images = {}
        for camera in self.data.datasets[0].cameras:
            readers = [partial(data.frames, camera) for data in self.data.datasets]
            images[camera] = torch.from_numpy(_read(readers, dataset, frames))
        return {"images": images}

    def _gather(self, dataset: np.ndarray, frames: np.ndarray, column: str) -> np.ndarray:
        readers = [getattr(data, column) for data in self.data.datasets]
        return _read(readers, dataset, frames).astype(np.float32)


def _read(readers: Sequence[Reader], dataset: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """`frames` [b, m] of data sets `dataset` [b], each read by its own reader -> [b, m, ...]."""
    parts, rows = [], []
    for number in np.unique(dataset):
        here = np.flatnonzero(dataset == number)
        values = readers[number](frames[here].reshape(-1))
        parts.append(values.reshape(len(here), frames.shape[1], *values.shape[1:]))
        rows.append(here)
    # Back into the order that was asked for.
    return np.concatenate(parts)[np.argsort(np.concatenate(rows))]


def _strata(segments: Segments, key: str, by_dataset: bool) -> tuple[list[str], np.ndarray]:
    names, ids = (["all"], np.zeros(len(segments), dtype=np.int64)) if key == "none" else segments.stratum_ids(key)
    if not by_dataset:
        return names, ids
    pairs, joint = np.unique(np.stack([segments.dataset, ids]), axis=1, return_inverse=True)
    return [f"{number}/{names[i]}" for number, i in pairs.T], joint.reshape(-1)


def _shares(data: TrainingData, config: Config) -> np.ndarray:
    settings = config.data
    sizes = np.bincount(data.stratum, data.observations, len(data.strata))
    if settings.dataset_shares is None:
        return shares(sizes, data.strata, settings.weights, settings.power, settings.floor)
    if len(settings.dataset_shares) != len(settings.datasets):
        raise ValueError(f"data.dataset_shares has {len(settings.dataset_shares)} entries for "
                         f"{len(settings.datasets)} data.datasets; give each one")
    if min(settings.dataset_shares) <= 0:
        raise ValueError(f"data.dataset_shares is {settings.dataset_shares}, but a share of 0 or less means nothing; "
                         "leave the data set out")
    share = np.zeros(len(data.strata))
    owner = np.array([int(name.split("/", 1)[0]) for name in data.strata])
    for number, whole in enumerate(settings.dataset_shares):
        rows = np.flatnonzero(owner == number)
        names = [data.strata[row].split("/", 1)[1] for row in rows]
        share[rows] = whole * shares(sizes[rows], names, settings.weights, settings.power, settings.floor)
    return share / share.sum()


def _strides(config: Config) -> np.ndarray:
    """[number of data sets] int64"""
    stride, count = config.data.frame_stride, len(config.data.datasets)
    strides = stride if isinstance(stride, list) else [stride] * count
    if len(strides) != count:
        raise ValueError(f"data.frame_stride has {len(strides)} entries for {count} data.datasets; give each one, or a "
                         "single number")
    return np.array(strides, np.int64)


def _check_same_layout(first: EpisodeDataset, other: EpisodeDataset) -> None:
    for field in ("cameras", "state_dim", "action_dim", "fps"):
        ours, theirs = getattr(first, field), getattr(other, field)
        if ours != theirs:
            raise DatasetError(other.root, field, f"is {theirs}, but {first.root} has {ours}",
                               "Train on data sets of one layout together")
