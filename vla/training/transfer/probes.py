"""Fixed batches to measure imitation on: the same frames with the same noise for every policy.

Shapes: E episodes.
"""

from __future__ import annotations

import numpy as np
import torch

from vla.config import Config, ConfigError
from vla.data.batches import BatchSource, TrainingData, load_held_out_data, load_training_data
from vla.models.policy import VLAPolicy
from vla.training.transfer.arms import Arm, changed

EPISODES, DRAWS = 32, 16  # held-out episodes of a task that are measured at most, and observations of each
GRADIENT_BATCHES, GRADIENT_OBSERVATIONS = 8, 16  # of each task


def load_probe_data(arm: Arm) -> tuple[TrainingData, TrainingData]:
    """(training data, held-out data) of the arm's tasks: what is imitated, without failures for a critic.

    Raises:
        ConfigError: fewer than two episodes of a task are held out, which give no interval.
    """
    imitation = changed(arm.config, model={"critic": None})
    held_out = load_held_out_data(imitation)
    for task in arm.tasks:
        if len(by_episode(held_out, task).strata) < 2:
            raise ConfigError(f"data.held_out {arm.config.data.held_out} keeps one episode of {task!r}, and an "
                              "interval needs two; raise it, or leave the task out with --tasks")
    return load_training_data(imitation), held_out


def held_out_losses(policy: VLAPolicy, config: Config, held_out: TrainingData, task: str) -> list[float]:
    """The imitation loss in every held-out episode of the task [E], over DRAWS observations each.

    A critic must be off: its loss is no imitation.
    """
    episodes = by_episode(held_out, task)
    source = probe(policy, config, episodes, batch_size=len(episodes.strata))
    sums, counts = torch.zeros(2, len(episodes.strata), dtype=torch.float64)
    with torch.no_grad():
        for number in range(DRAWS):
            batches = source.batches(number)  # an observation of every episode
            loss, valid = policy(*(batch.to(policy.device) for batch in batches))
            stratum = torch.cat([batch.stratum for batch in batches])
            sums.index_add_(0, stratum, loss.double().cpu())
            counts.index_add_(0, stratum, valid.double().cpu())
    return (sums / counts).tolist()


def probe(policy: VLAPolicy, config: Config, data: TrainingData, batch_size: int) -> BatchSource:
    """Batches of `data`, in which every observation is told what to do."""
    model = policy.config.model.model_copy(update={"critic": None, "instruction_dropout": 0.0})
    config = changed(config.model_copy(update={"model": model}), training={"batch_size": batch_size})
    return BatchSource(data, config, tasks=policy.config.tasks)


def of_task(data: TrainingData, task: str) -> TrainingData:
    """The task's part of the data, as the only stratum."""
    rows = np.flatnonzero(data.stratum == data.strata.index(task))
    return _part(data, rows, [task], np.zeros(len(rows), np.int64))


def by_episode(data: TrainingData, task: str) -> TrainingData:
    """The task's part of at most EPISODES of its episodes, evenly spaced, each of which is a stratum."""
    rows = np.flatnonzero(data.stratum == data.strata.index(task))
    pairs = np.stack([data.segments.dataset[rows], data.segments.episode[rows]])
    names, episode = np.unique(pairs, axis=1, return_inverse=True)
    episode = episode.reshape(-1)
    chosen = np.linspace(0, names.shape[1] - 1, min(names.shape[1], EPISODES)).round().astype(np.int64)
    kept = np.isin(episode, chosen)
    strata = [f"{dataset}/{number}" for dataset, number in names.T[chosen]]
    return _part(data, rows[kept], strata, np.searchsorted(chosen, episode[kept]))


def _part(data: TrainingData, rows: np.ndarray, strata: list[str], stratum: np.ndarray) -> TrainingData:
    share = np.full(len(strata), 1 / len(strata))
    return TrainingData(data.datasets, data.segments.select(rows), strata, stratum, share, data.stride[rows])
