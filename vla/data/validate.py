"""Check a data set thoroughly: everything that reading it piece by piece would only find out during training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.layout import STATS, image_keys
from vla.data.segments import Segments
from vla.data.stats import Statistics

# Of the range of a dimension: how far stored statistics may be off. LeRobot rounds; it also averages quantiles.
STATS_TOLERANCE = 0.01
FOR_LEROBOT = "Nothing here depends on it, LeRobot does: record or merge the data set again"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set."""

    file: str
    field: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return str(DatasetError(self.file, self.field, self.problem, self.fix))


def validate(
    dataset: EpisodeDataset | str | Path,
    decode: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Problem]:
    """All problems found; none if training can rely on the data set.

    Args:
        dataset: one that is open, or its folder.
        decode: also decode every frame of every camera.
        progress: called with what is being checked, how much is done, of how much.
    """
    try:
        dataset = dataset if isinstance(dataset, EpisodeDataset) else EpisodeDataset(dataset)
    except DatasetError as error:
        return [_problem(error)]
    checks = [*_column_checks(dataset), _check_counters, _check_tasks, _check_segments, _check_stats]
    checks += [_decoding(camera, progress) for camera in dataset.cameras if decode]
    problems: list[Problem] = []
    for done, check in enumerate(checks):
        progress("metadata and columns", done, len(checks))
        try:
            problems += check(dataset)
        except DatasetError as error:
            problems.append(_problem(error))
    progress("metadata and columns", len(checks), len(checks))
    return list(dict.fromkeys(problems))


Check = Callable[[EpisodeDataset], Iterator[Problem]]


def _problem(error: DatasetError) -> Problem:
    return Problem(error.file, error.field, error.problem, error.fix)


def _column_checks(dataset: EpisodeDataset) -> list[Check]:
    """One check a column: reading it verifies page checksums, row counts, widths, and that all numbers are finite."""
    images = image_keys(dataset.features)

    def reads(name: str) -> Check:
        def check(dataset: EpisodeDataset) -> Iterator[Problem]:
            # From the files: the unpacked copy would hide what happened to them since.
            for _ in dataset.read_column(name):
                pass
            yield from ()

        return check

    return [reads(name) for name in dataset.features if name not in images]


def _check_counters(dataset: EpisodeDataset) -> Iterator[Problem]:
    """The columns that LeRobot derives must agree with the episode table."""
    episode = np.repeat(np.arange(dataset.num_episodes), dataset.episodes.length)
    frame = np.arange(dataset.num_frames) - dataset.episodes.start[episode]
    due = {"index": np.arange(dataset.num_frames), "episode_index": episode, "frame_index": frame}
    for name, values in due.items():
        wrong = np.flatnonzero(dataset.column(name) != values)
        if len(wrong):
            row = wrong[0]
            yield Problem(str(dataset.root / "data"), name, f"is {dataset.column(name)[row]} in frame {row}, "
                          f"the episode table says {values[row]}", "Record or merge the data set again")
    drift = np.abs(dataset.column("timestamp") - frame / dataset.fps)
    if drift.max() > 0.5 / dataset.fps:
        row = int(drift.argmax())
        yield Problem(str(dataset.root / "data"), "timestamp", f"is {drift[row]:.3f} s off in frame {row}", FOR_LEROBOT)


def _check_tasks(dataset: EpisodeDataset) -> Iterator[Problem]:
    """Every frame's task_index must name an instruction, in its episode the one that the episode table has."""
    task_index = dataset.column("task_index")
    if task_index.min() < 0 or task_index.max() >= len(dataset.tasks):
        yield Problem(str(dataset.root / "data"), "task_index",
                      f"runs to {task_index.max()}, there are {len(dataset.tasks)} tasks", "Restore meta/tasks.parquet")
        return
    first = np.array(dataset.tasks, dtype=object)[task_index[dataset.episodes.start]]
    wrong = np.flatnonzero(first != dataset.episodes.instruction)
    if len(wrong):
        yield Problem(str(dataset.root / "meta" / "episodes"), "tasks", f"of episode {wrong[0]} isn't what its frames' "
                      "task_index names", "Check the row order of meta/tasks.parquet")


def _check_segments(dataset: EpisodeDataset) -> Iterator[Problem]:
    Segments.load(dataset)
    yield from ()


def _check_stats(dataset: EpisodeDataset) -> Iterator[Problem]:
    """stats.json must describe the frames there are. Quantiles aren't compared, LeRobot's own are not exact."""
    path = dataset.root / STATS
    if not path.exists():
        yield Problem(str(path), "", "is missing", FOR_LEROBOT)
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        yield Problem(str(path), "", f"isn't JSON ({error})", FOR_LEROBOT)
        return
    for name in ("observation.state", "action"):
        exact = Statistics.of(dataset.column(name))
        for field in ("min", "max", "mean", "std"):
            value = np.ravel(stored.get(name, {}).get(field, np.nan))
            tolerance = STATS_TOLERANCE * (exact.max - exact.min) + 1e-6
            if value.shape != exact.mean.shape or not (np.abs(value - getattr(exact, field)) <= tolerance).all():
                yield Problem(str(path), f"{name}.{field}", "isn't that of the recorded frames", FOR_LEROBOT)


def _decoding(camera: str, progress: Callable[[str, int, int], None]) -> Check:
    def check(dataset: EpisodeDataset) -> Iterator[Problem]:
        for episode in range(dataset.num_episodes):
            progress(f"frames of {camera}", episode, dataset.num_episodes)
            try:
                frames = np.arange(dataset.episodes.start[episode], dataset.episodes.stop[episode])
                dataset.frames(camera, frames)
            except DatasetError as error:
                yield _problem(error)
        progress(f"frames of {camera}", dataset.num_episodes, dataset.num_episodes)

    return check
