"""From segments to training batches: everything about batch k, noise included, is a pure function of (seed, k).

Shapes: B global batch, b slots of one process, T history, H horizon, A action, S state, W keyframes, K noise samples,
F flat image features, V views, Y X pixels, N segments.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial

import numpy as np
import torch

from vla.batch import Batch, Consequence, Observation, TaskIdentifier
from vla.config import Config, ConfigError, DataConfig, ModelConfig
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.features import FeatureCache
from vla.data.goals import draw_goals, goal_reward, lasting_ends
from vla.data.keyframes import next_keyframes, switch_frames
from vla.data.layout import INFO, things_of
from vla.data.sampler import EPSILON, StratifiedSampler, shares
from vla.data.segments import ATTEMPT, Segments
from vla.tasks.kinds import LANGUAGE, shows_goal, takes_state, views_of

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
    def by_embodiment(self) -> dict[str, list[EpisodeDataset]]:
        """The data sets of each embodiment, in their order."""
        names = dict.fromkeys(dataset.embodiment for dataset in self.datasets)
        return {name: [dataset for dataset in self.datasets if dataset.embodiment == name] for name in names}

    @property
    def observations(self) -> np.ndarray:
        """[N] int64: number of frames of each segment that predictions are learnt from."""
        return -(-(self.segments.stop - self.segments.start) // self.stride)


def load_training_data(config: Config) -> TrainingData:
    """Open the data sets that `config` names and choose the segments to learn from.

    Raises:
        ConfigError: an unknown stratum, or one that is held out altogether.
        DatasetError: data sets that don't fit together, or nothing left to learn from.
    """
    return _load(config, held_out=False)


def load_held_out_data(config: Config) -> TrainingData:
    """The same of the episodes that `data.held_out` keeps out of training.

    Raises:
        As `load_training_data`.
    """
    return _load(config, held_out=True)


def _load(config: Config, held_out: bool) -> TrainingData:
    settings = config.data
    datasets = [EpisodeDataset(path) for path in settings.datasets]
    for number, dataset in enumerate(datasets):
        for earlier in datasets[:number]:
            _check_fits(earlier, dataset)
    segments = Segments.concatenate([Segments.load(dataset, number) for number, dataset in enumerate(datasets)])
    keep = np.ones(len(segments), dtype=bool)
    if config.model.critic is None:
        keep &= _imitated(segments, settings)
    if settings.sources is not None:
        keep &= np.isin(segments.source.astype(str), settings.sources)
    segments = segments.select(keep)
    if not len(segments):
        raise DatasetError(datasets[0].root, "segments", "no segment is left to learn from",
                           "Check data.sources and data.only_success; what a policy did is to be relabelled first")
    segments = segments.select(_chosen(segments, settings, held_out))
    strata, stratum = _strata(segments, settings)
    stride = _strides(config)[segments.dataset]
    data = TrainingData(datasets, segments, strata, stratum, np.ones(len(strata)) / len(strata), stride)
    data.share = _shares(data, config)
    return data


def goal_things(dataset: EpisodeDataset, model: ModelConfig) -> list[list[list[int]]]:
    """What goal states tell of, as `things_of` has it.

    Raises:
        ConfigError: the data set doesn't have the column, or none of the things that are to be ignored.
    """
    if model.goal_state not in dataset.features:
        raise ConfigError(f"model.goal_state is {model.goal_state}, which {dataset.root} doesn't have; use "
                          "observation.state, or neither goal_state in model.task_kinds nor lasting data.goals")
    try:
        return things_of(dataset.names(model.goal_state), model.goal_state_ignores)
    except ValueError as error:
        raise ConfigError(f"model.goal_state_ignores: in {model.goal_state} of {dataset.root} {error}") from error


@dataclass
class _Drawn:
    """What is random about a global batch."""

    stratum: np.ndarray  # [B] int64
    segment: np.ndarray  # [B] int64
    frame: np.ndarray  # [B] int64: the observation
    last: np.ndarray  # [B] int64: the last frame that is imitated
    goal: np.ndarray  # [B] int64: the frame that is to be reached
    given: dict[str, np.ndarray]  # kind of task identifier -> [B] bool
    noise: np.ndarray  # [B, K, H, A] float32, A being the greatest of all embodiments
    time: np.ndarray  # [B, K] float32
    total: int  # valid action components
    shift: np.ndarray | None  # [2] int64: of the grid of image cells, the same for the whole batch


class BatchSource:
    """Builds batches for training."""

    def __init__(
        self,
        data: TrainingData,
        config: Config,
        caches: Sequence[FeatureCache] | None = None,
        tasks: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            caches: image features by data set; None gives raw images.
            tasks: names in the order of their numbers; by default those of the data.
        """
        self.data = data
        self._tasks = list(tasks) if tasks is not None else sorted(set(data.segments.task))
        self._config = config
        self._caches = caches
        self._imitated = _imitated(data.segments, config.data)
        self._action_dim = np.array([dataset.action_dim for dataset in data.datasets])
        self._sampler = StratifiedSampler(
            data.stratum, data.observations, data.share, config.training.batch_size, config.training.seed
        )

    def batches(self, step: int, slots: slice = slice(None)) -> list[Batch]:
        """The `slots` of global batch `step`: a batch for each embodiment among them."""
        drawn = self._draw(step)
        chosen = np.arange(len(drawn.segment))[slots]
        embodiment = self.data.segments.embodiment[drawn.segment[chosen]]
        parts = [chosen[embodiment == name] for name in self.data.by_embodiment]
        return [self._batch(drawn, part) for part in parts if len(part)]

    def _draw(self, step: int) -> _Drawn:
        """Everything random about global batch `step`."""
        stratum, segment, offset = self._sampler.batch(step)
        model, training = self._config.model, self._config.training
        rng = np.random.default_rng([training.seed, step, 1])
        samples = model.diffusion.noise_samples
        shape = (training.batch_size, samples, model.horizon, self._action_dim.max())
        noise = rng.standard_normal(shape, dtype=np.float32)
        # One time in each of K equal parts of [0, 1): the same expectation as independent times, with less variance.
        time = (np.arange(samples) + rng.random((training.batch_size, samples))) / samples
        time = np.minimum(time.astype(np.float32), LATEST_TIME)
        withheld = rng.random(training.batch_size) < model.instruction_dropout
        given = self._given(rng, ~withheld)
        frame, last, goal = self._ends(rng, segment, offset, given)
        left = np.minimum(last - frame + 1, model.horizon)
        total = int((left * self._action_dim[self.data.segments.dataset[segment]]).sum())
        part = model.vision.merge // 2
        shift = rng.integers(-part, part + 1, size=2) if model.vision.jitter else None
        return _Drawn(stratum, segment, frame, last, goal, given, noise, time, total, shift)

    def _batch(self, drawn: _Drawn, slots: np.ndarray) -> Batch:
        """The `slots` [b] of what was drawn, all of one embodiment."""
        model, segments = self._config.model, self.data.segments
        segment, frame, last = drawn.segment[slots], drawn.frame[slots], drawn.last[slots]
        # Frames in their episode, clipped to the segment's end: what comes after belongs to another attempt.
        chunk = np.minimum(frame[:, None] + np.arange(model.horizon), last[:, None])  # [b, H]
        dataset = segments.dataset[segment]
        keyframes = self._keyframes(dataset, frame, last)  # [b, W]
        given = {kind: row[slots] for kind, row in drawn.given.items()}
        return Batch(
            observation=self._observation(segment, frame, drawn.goal[slots], given),
            action=torch.from_numpy(self._gather(dataset, chunk, "action")),
            valid=torch.from_numpy(frame[:, None] + np.arange(model.horizon) <= last[:, None]),
            keyframes=torch.from_numpy(self._gather(dataset, keyframes, "observation.state")),
            stratum=torch.from_numpy(drawn.stratum[slots]),
            total=drawn.total,
            noise=torch.from_numpy(drawn.noise[slots, ..., : self._action_dim[dataset[0]]]),
            time=torch.from_numpy(drawn.time[slots]),
            shift=None if drawn.shift is None else torch.from_numpy(drawn.shift),
            imitated=None if model.critic is None else torch.from_numpy(self._worth_imitating(segment, given)),
            consequence=None if model.critic is None else self._consequence(segment, frame, last, given),
        )

    def _observation(
        self, segment: np.ndarray, frame: np.ndarray, goal: np.ndarray, given: dict[str, np.ndarray]
    ) -> Observation:
        """What is seen at `frame` [b], and asked for: what `goal` [b] shows."""
        past = frame[:, None] - np.arange(self._config.model.history)[::-1]  # [b, T]
        earliest = self._episode_start(segment)[:, None]
        exists, past = past >= earliest, np.maximum(past, earliest)
        dataset = self.data.segments.dataset[segment]
        return Observation(
            state=torch.from_numpy(self._gather(dataset, past, "observation.state")),
            task=self._task(segment, frame, goal, given),
            history_valid=torch.from_numpy(exists) if self._config.model.history > 1 else None,
            embodiment=self.data.segments.embodiment[segment[0]],
            **self._pixels(dataset, past),
        )

    def _worth_imitating(self, segment: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
        """[b] bool: the frames show how to do what is asked for, which a policy's attempt as a whole never does."""
        attempt = self.data.segments.source[segment] == ATTEMPT
        return self._imitated[segment] | (_shown(given, len(segment)) & ~attempt)

    def _reached(self, segment: np.ndarray, given: dict[str, np.ndarray]) -> np.ndarray:
        """[b] bool: the frames do what is asked for. A goal drawn from them is reached, whatever they missed."""
        return self.data.segments.success[segment] | _shown(given, len(segment))

    def _consequence(
        self,
        segment: np.ndarray,
        frame: np.ndarray,
        last: np.ndarray,
        given: dict[str, np.ndarray],
    ) -> Consequence:
        """What comes of the actions that the critic judges, in slots [b]."""
        critic = self._config.model.critic
        assert critic is not None
        reached = self._reached(segment, given)
        end = self._reaching(segment, frame, last, given, critic.actions)
        after = np.minimum(frame + critic.actions, end)
        over = after == end
        reward = np.where(over & reached, critic.discount ** (end - frame), 0.0)
        discount = np.where(over, 0.0, critic.discount ** (after - frame))
        return Consequence(
            torch.from_numpy(reward.astype(np.float32)),
            torch.from_numpy(discount.astype(np.float32)),
            self._observation(segment, after, last, given),
        )

    def _reaching(
        self, segment: np.ndarray, frame: np.ndarray, last: np.ndarray, given: dict[str, np.ndarray], ahead: int
    ) -> np.ndarray:
        """[b]: the first of the next frames that is in the state of a drawn goal, else `last`, which is the goal."""
        model, dataset = self._config.model, self.data.segments.dataset[segment]
        if not takes_state(model.task_kinds):
            return last
        way = np.minimum(frame[:, None] + np.arange(ahead + 1), last[:, None])
        states = self._gather(dataset, np.append(way, last[:, None], axis=1), model.goal_state)
        states = states[..., self._goal_numbers[dataset[0]]]
        _, done = goal_reward(states[:, :-1], states[:, -1:], tolerance=self._config.data.goal_tolerance)
        there = way[np.arange(len(way)), done.argmax(axis=1)]
        return np.where(done.any(axis=1) & _shown(given, len(segment)), there, last)

    def _given(self, rng: np.random.Generator, told: np.ndarray) -> dict[str, np.ndarray]:
        """Which kinds of task identifiers each slot gets, [B] bool each; none where it isn't `told` [B] anything."""
        kinds = self._config.model.task_kinds
        if len(kinds) == 1:
            return {kinds[0]: told}
        first = rng.integers(len(kinds), size=len(told))
        more = rng.random((len(kinds), len(told))) < 0.5
        alone = rng.random(len(told)) < self._config.data.kinds_alone
        return {kind: told & ((first == n) | (more[n] & ~alone)) for n, kind in enumerate(kinds)}

    def _ends(
        self, rng: np.random.Generator, segment: np.ndarray, offset: np.ndarray, given: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(frame, last one that is imitated, goal) of every slot, [B] each."""
        segments, settings = self.data.segments, self._config.data
        frame = segments.start[segment] + self.data.stride[segment] * offset
        end = segments.stop[segment] - 1
        if not any(map(shows_goal, given)):
            return frame, end, end
        uniform, told = rng.random((len(frame), 1)), _told(given, len(frame))
        if settings.goals == "lasting":
            later = [self._lasting[row] for row in segment]
            goal = np.array([ends[int(chance * len(ends))] for ends, chance in zip(later, uniform[:, 0], strict=True)])
        else:
            goal = draw_goals(frame, end, settings.goals, uniform, settings.goal_discount)[:, 0]
        goal = np.where(told, end, goal)
        return frame, np.minimum(end, goal), goal

    def _task(
        self, segment: np.ndarray, frame: np.ndarray, goal: np.ndarray, given: dict[str, np.ndarray]
    ) -> TaskIdentifier:
        """What slots [b] are asked for: the `goal` [b] is what its frames lead to."""
        segments, kinds = self.data.segments, self._config.model.task_kinds
        dataset = segments.dataset[segment]
        spoken = given.get(LANGUAGE, np.zeros(len(segment), bool))
        task = TaskIdentifier(
            [text if said else "" for said, text in zip(spoken, segments.instruction[segment], strict=True)],
            {kind: torch.from_numpy(row) for kind, row in given.items() if kind != LANGUAGE},
        )
        if set(kinds) == {LANGUAGE}:
            return task
        task.number = torch.tensor([self._tasks.index(name) for name in segments.task[segment]])
        if takes_state(kinds):
            both = np.stack([frame, goal], axis=1)
            task.goal_state = torch.from_numpy(self._gather(dataset, both, self._config.model.goal_state))
        if views := views_of(kinds):
            way = frame[:, None] + np.round((goal - frame)[:, None] * np.arange(1, views + 1) / views).astype(np.int64)
            pixels = self._pixels(dataset, way)
            task.features, task.images = pixels.get("features"), pixels.get("images", {})
        return task

    def frames_used(self, number: int) -> np.ndarray:
        """Every frame of data set `number` that some batch may look at, history included: [n] sorted indices."""
        data, history = self.data, self._config.model.history
        rows = np.flatnonzero(data.segments.dataset == number)
        starts, stops = data.segments.start[rows], data.segments.stop[rows]
        first = data.datasets[number].episodes.start[data.segments.episode[rows]]
        used = np.zeros(data.datasets[number].num_frames, dtype=bool)
        critic = self._config.model.critic
        views, goals = views_of(self._config.model.task_kinds), self._config.data.goals
        whole = views > 1 or goals in ("future", "geometric")
        # The way to a lasting goal leads through other segments, and what lies between them.
        until = [self._lasting[row][-1] + 1 for row in rows] if whole and goals == "lasting" else stops
        for start, stop, goal, stride, earliest in zip(starts, stops, until, data.stride[rows], first, strict=True):
            for age in range(history):
                used[np.maximum(np.arange(start, stop, stride) - age, earliest)] = True
            if critic is not None:
                used[np.minimum(np.arange(start, stop, stride) + critic.actions, stop - 1)] = True
            if views:
                used[start if whole else stop - 1 : goal] = True
        return np.flatnonzero(used)

    @cached_property
    def _switches(self) -> list[np.ndarray]:
        """Of each data set. Only batches need them, and finding them reads every action."""
        return [switch_frames(dataset.column("action"), dataset.episodes.start) for dataset in self.data.datasets]

    @cached_property
    def _things(self) -> list[list[list[int]]]:
        """Of each data set: the numbers that a goal state tells of each thing."""
        sorts = [goal_things(data, self._config.model) for data in self.data.datasets]
        return [[thing for sort in own for thing in sort] for own in sorts]

    @cached_property
    def _goal_numbers(self) -> list[list[int]]:
        """Of each data set: the numbers that a goal state tells of."""
        return [[number for thing in things for number in thing] for things in self._things]

    @cached_property
    def _lasting(self) -> list[np.ndarray]:
        """Of each segment: the frames that are goals for it, sorted."""
        segments, settings = self.data.segments, self._config.data
        found: list[np.ndarray] = [np.empty(0, np.int64)] * len(segments)
        order = np.lexsort((segments.episode, segments.dataset))
        of_episode = np.stack([segments.dataset, segments.episode])[:, order]
        for rows in np.split(order, np.flatnonzero((np.diff(of_episode) != 0).any(axis=0)) + 1):
            number = segments.dataset[rows[0]]
            data = self.data.datasets[number]
            begin, stop = data.episodes.start[segments.episode[rows[0]]], segments.stop[rows].max()
            states = data.vectors(self._config.model.goal_state, np.arange(begin, stop))
            first, last = segments.start[rows] - begin, segments.stop[rows] - 1 - begin
            ends = lasting_ends(first, last, states, self._things[number], settings.goal_tolerance)
            for row, own in zip(rows, ends, strict=True):
                found[row] = begin + own
        return found

    def _keyframes(self, dataset: np.ndarray, frame: np.ndarray, last: np.ndarray) -> np.ndarray:
        """[b, W] frames: the next keyframes after `frame` [b] in segments that end with `last` [b]."""
        keyframes = np.empty((len(frame), self._config.model.keyframes), dtype=np.int64)
        for number, switches in enumerate(self._switches):
            here = dataset == number
            keyframes[here] = next_keyframes(switches, frame[here], last[here], keyframes.shape[1])
        return keyframes

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
        readers = [partial(data.vectors, column) for data in self.data.datasets]
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


def _told(given: dict[str, np.ndarray], size: int) -> np.ndarray:
    """[size] bool: the slots that are asked for what their segment ends with."""
    return _any([row for kind, row in given.items() if not shows_goal(kind)], size)


def _shown(given: dict[str, np.ndarray], size: int) -> np.ndarray:
    """[size] bool: the slots that are asked for nothing but a goal drawn from their own frames."""
    return _any([row for kind, row in given.items() if shows_goal(kind)], size) & ~_told(given, size)


def _any(rows: list[np.ndarray], size: int) -> np.ndarray:
    return np.any(rows, axis=0) if rows else np.zeros(size, bool)


def _imitated(segments: Segments, settings: DataConfig) -> np.ndarray:
    """[N] bool: what did as it was told and is no policy's attempt; on request also demonstrations that missed it."""
    missed = ~segments.success & (segments.source == "demonstration")
    return np.where(missed, not settings.only_success, segments.success & (segments.source != ATTEMPT))


def _chosen(segments: Segments, settings: DataConfig, held_out: bool) -> np.ndarray:
    """[N] bool: those of the strata asked for, in the episodes that are held out or in the others.

    Raises:
        ConfigError: there is no such stratum, or nothing of it among them.
    """
    names, stratum = _strata(segments, settings)
    wanted = names if settings.strata is None else settings.strata
    for name in wanted:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
            raise ConfigError(f"data.strata: the data have no {settings.stratify_by} {name!r}; {hint}")
    chosen = held_out_segments(segments, stratum, settings.held_out or 0.0) == held_out
    for name in wanted:
        if not chosen[stratum == names.index(name)].any():
            side = "for measuring" if held_out else "for training"
            raise ConfigError(f"data.held_out {settings.held_out}: no episode of {name!r} is left {side}; "
                              "change the share, or leave it out with data.strata")
    return chosen & np.isin(stratum, [names.index(name) for name in wanted])


def held_out_segments(segments: Segments, stratum: np.ndarray, share: float) -> np.ndarray:
    """[N] bool: the segments of evenly spaced episodes, at least `share` of those of every stratum ([N] int64).

    An episode is held out with all its segments, of whatever stratum: no frame is on both sides. Which ones depends on
    nothing but the order of the episodes. One episode of a stratum stays in training as far as that is up to it.
    """
    _, episode = np.unique(np.stack([segments.dataset, segments.episode]), axis=1, return_inverse=True)
    episode = episode.reshape(-1)
    taken = np.zeros(episode.max() + 1, dtype=bool)
    # Rare strata first: what they need may do for the others.
    for own in sorted((np.unique(episode[stratum == number]) for number in range(stratum.max() + 1)), key=len):
        free = own[~taken[own]]
        missing = min(math.ceil(share * len(own) - EPSILON), len(own) - 1) - (len(own) - len(free))
        if missing > 0:
            taken[free[(2 * np.arange(missing) + 1) * len(free) // (2 * missing)]] = True
    return taken[episode]


def _strata(segments: Segments, settings: DataConfig) -> tuple[list[str], np.ndarray]:
    key = settings.stratify_by
    names, ids = (["all"], np.zeros(len(segments), dtype=np.int64)) if key == "none" else segments.stratum_ids(key)
    if settings.dataset_shares is None:
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


def _check_fits(first: EpisodeDataset, other: EpisodeDataset) -> None:
    """Cameras are the same for all, everything else for those of one embodiment."""
    same_robot = first.embodiment == other.embodiment
    fixes = {"cameras": "Train on data sets with the same cameras together"}
    if same_robot:
        own = "If it is another robot or control mode, give it another robot_type in meta/info.json"
        fixes |= {"state_dim": own, "action_dim": own, "fps": own}
    for field, fix in fixes.items():
        ours, theirs = getattr(first, field), getattr(other, field)
        if ours != theirs:
            robot = f" for the same robot_type {first.embodiment!r}" if same_robot else ""
            raise DatasetError(other.root / INFO, field, f"is {theirs}, but {first.root} has {ours}{robot}", fix)
