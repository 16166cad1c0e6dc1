"""Record demonstrations with scripted experts: which episodes, on how many processes, into which data set.

Episode `i` is a pure function of (settings, i): its family, its scene, its failure. So any number of workers records
the same data set, a run that was interrupted goes on where it stopped, and asking for more later only adds some.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np

from vla.config import EnvironmentName
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.video import encode_video
from vla.data.writer import Episode, EpisodeWriter
from vla.envs import load_recorder
from vla.envs.robot import Robot

SETTINGS = "vla/collection.json"
# Scenes for evaluation have seeds from here on; recorded ones stay below.
SCENE_SEEDS = 1_000_000
MAX_ATTEMPTS = 50
# Between the seeds of an episode's attempts: far, so that they don't meet the neighbouring episodes' first attempts.
ATTEMPT_STRIDE = 200_003
# Tasks a worker has waiting, so that none is idle while an earlier episode takes long.
QUEUE = 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CollectSettings:
    """Which episodes to record."""

    out: Path
    """Folder of the data set; an unfinished one of the same settings is gone on with."""
    episodes: int = 1000
    env: EnvironmentName = "tabletop"
    seed: int = 0
    families: tuple[str, ...] = ()
    """Instruction families; by default the environment's base families."""
    family_weights: str = ""
    """Relative shares, as `region=20,touch=1`; families that aren't named have 1."""
    combinations: Literal["all", "train", "held_out"] = "all"
    """Keep the environment's fixed rule of held-out (thing, family) combinations out, or record only those."""
    phrasings: Literal["train", "held_out"] = "train"
    """Which of the two sets of wordings the instructions come from."""
    actuation_noise: float = 0.15
    """Disturbance of the executed motion; the recorded action stays the intended one, so it shows how to recover."""
    false_start_rate: float = 0.3
    """Share of episodes that begin where an attempt has gone wrong (dropped on the way, put down in a wrong place, the
    wrong thing taken), so that a policy learns to try again; the mistake itself isn't recorded."""
    failure_rate: float = 0.0
    """Share of episodes in which the expert fails on purpose; kept with success = False."""
    play: int = 0
    """Record play instead: episodes of so many purposes one after the other, told to nobody; `vla relabel` tells."""
    image_size: int = 128
    num_workers: int = 2
    """Processes; 0 records in this one."""
    episodes_per_file: int = 100
    """Episodes committed together; at most so many are lost by a kill."""


class Recorder(Protocol):
    """An environment with its expert; each worker makes its own from the settings."""

    families: tuple[str, ...]  # what can be asked for
    default_families: tuple[str, ...]  # what is, if nothing else is said
    failures: tuple[str, ...]  # kinds of deliberate failure
    robot: Robot  # that is recorded
    protocol: dict[str, Any]  # how scenes are shown and told, if that isn't the environment's alone to say

    def record(self, scene_seed: int, family: str, failure: str | None, false_start: bool) -> Episode:
        """One episode with its frames as they were drawn, a pure function of the arguments."""
        ...


def collect(settings: CollectSettings, progress: Progress = lambda done, total: None) -> EpisodeDataset:
    """Record the episodes that are missing from `settings.out` and open the data set.

    Ctrl-C commits every finished episode before it is raised.

    Raises:
        ValueError: the settings contradict themselves or ask for what the environment can't do.
        DatasetError: `out` holds something else, or was recorded with other settings.
    """
    recorder = load_recorder(settings.env, settings)
    families = family_sequence(_weights(settings, recorder), settings.episodes)
    if settings.play and (settings.failure_rate or settings.family_weights):
        raise ValueError("play: has no instruction to fail at and draws families evenly; leave failure_rate and "
                         "family_weights at their defaults")
    for name in ("failure_rate", "false_start_rate"):
        if not 0 <= getattr(settings, name) <= 1:
            raise ValueError(f"{name} is {getattr(settings, name)}, it is a share between 0 and 1")
    layout = recorder.robot.layout(settings.image_size)
    with EpisodeWriter(settings.out, episodes_per_file=settings.episodes_per_file, **layout) as writer:
        _check_settings(settings, recorder.protocol, writer.num_episodes)
        missing = range(writer.num_episodes, settings.episodes)
        progress(writer.num_episodes, settings.episodes)
        for episode in _recorded(settings, [(number, families[number]) for number in missing]):
            writer.add_episode(episode)
            progress(writer.num_episodes, settings.episodes)
    return EpisodeDataset(settings.out)


def family_sequence(weights: dict[str, float], episodes: int) -> list[str]:
    """The family of each episode. After any number of them no family has more than one too many, and equal weights give
    counts that differ by at most one; a longer sequence begins with the shorter one."""
    names, share = list(weights), np.array(list(weights.values())) / sum(weights.values())
    counts, sequence = np.zeros(len(names)), []
    for number in range(episodes):
        chosen = int(np.argmax(share * (number + 1) - counts))
        counts[chosen] += 1
        sequence.append(names[chosen])
    return sequence


def record_episode(recorder: Recorder, settings: CollectSettings, number: int, family: str) -> Episode:
    """Episode `number`: tries scenes until the expert does as it should, fulfilling the instruction or failing at it.

    Raises:
        RuntimeError: no attempt did.
    """
    rng = np.random.default_rng([settings.seed, number])
    failure = str(rng.choice(recorder.failures)) if rng.random() < settings.failure_rate else None
    false_start = bool(rng.random() < settings.false_start_rate)
    first_seed = int(np.random.default_rng(settings.seed).integers(SCENE_SEEDS)) + number
    for attempt in range(MAX_ATTEMPTS):
        episode = recorder.record((first_seed + attempt * ATTEMPT_STRIDE) % SCENE_SEEDS, family, failure, false_start)
        if settings.play or bool(episode.success[-1]) == (failure is None):
            # Encoded here, in the worker: the writer then only copies packets.
            frames = cast(Mapping[str, np.ndarray], episode.images)
            fps = recorder.robot.fps
            return replace(episode, images={camera: encode_video(clip, fps) for camera, clip in frames.items()})
    raise RuntimeError(f"episode {number} ({family}, failure {failure}): {MAX_ATTEMPTS} attempts, none as it should be")


def _weights(settings: CollectSettings, recorder: Recorder) -> dict[str, float]:
    weights = dict.fromkeys(settings.families or recorder.default_families, 1.0)
    for pair in filter(None, settings.family_weights.split(",")):
        name, _, weight = pair.partition("=")
        if name not in weights:
            raise ValueError(f"family_weights: {name!r} isn't among the families {', '.join(weights)}")
        try:
            weights[name] = float(weight)
        except ValueError as error:
            raise ValueError(f"family_weights: {pair!r} should read like region=20") from error
    unknown = sorted(set(weights) - set(recorder.families))
    if unknown:
        raise ValueError(f"families: {unknown[0]!r} is unknown, choose among {', '.join(recorder.families)}")
    if min(weights.values()) < 0 or not 0 < sum(weights.values()) < float("inf"):
        raise ValueError(f"family_weights: shares must be at least 0, and one above it: {weights}")
    return weights


def _check_settings(settings: CollectSettings, protocol: dict[str, Any], episodes_there: int) -> None:
    """Remember what decides the episodes, so that a data set never holds episodes of two different settings."""
    path = Path(settings.out) / SETTINGS
    own = json.loads(json.dumps({key: value for key, value in asdict(settings).items()
                                 if key not in ("out", "episodes", "num_workers", "episodes_per_file")}))
    if protocol:
        own["protocol"] = protocol
    if not path.exists():
        if episodes_there:
            raise DatasetError(path, "", f"is missing beside {episodes_there} episodes", "Choose an empty folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(own, indent=4))
        return
    there = json.loads(path.read_text())
    differing = [key for key in own if own[key] != there.get(key)]
    if differing:
        key = differing[0]
        raise DatasetError(path, key, f"the data set was recorded with {there.get(key)!r}, now it is {own[key]!r}",
                           "Choose another folder, or the same settings")


def _recorded(settings: CollectSettings, tasks: list[tuple[int, str]]) -> Iterator[Episode]:
    """The episodes in order, a few being recorded ahead."""
    if settings.num_workers == 0 or not tasks:
        recorder = load_recorder(settings.env, settings)
        yield from (record_episode(recorder, settings, *task) for task in tasks)
        return
    with _one_thread_each():
        # Spawned: a fork of a process with threads (a progress bar is enough) can deadlock.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(settings.num_workers, context, _start_worker, (settings,))
        try:
            ahead: deque[Future[Episode]] = deque()
            for task in tasks:
                ahead.append(pool.submit(_work, *task))
                if len(ahead) > QUEUE * settings.num_workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread for linear algebra, instead of one a core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


_worker: dict[str, Any] = {}  # the one recorder of a worker process


def _start_worker(settings: CollectSettings) -> None:
    # Ctrl-C reaches every process of the terminal; only the main one decides what to do about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.update(recorder=load_recorder(settings.env, settings), settings=settings)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(number: int, family: str) -> Episode:
    return record_episode(_worker["recorder"], _worker["settings"], number, family)
