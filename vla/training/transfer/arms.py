"""The runs that are compared (arms), all by the ordinary trainer, with the same initial weights and schedule.

    multi_stratified    all K tasks; of every batch of B each gives exactly B / K observations
    multi_naive         all K tasks, each as often as there is data of it
    single              a run for each task, B / K observations of it a step

What is equal between `multi_stratified` and the `single` run of a task: the number of optimizer steps, the learning
rate in each of them, and the number of observations of the task in every step, and thus in all. What isn't is compute:
the multi-task run sees the observations of the other tasks as well.

Tasks are the strata of `data.stratify_by`. Normalisation comes from the whole data sets, for all arms alike.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vla.config import Config, ConfigError, Section
from vla.data.batches import load_training_data
from vla.envs import load_suite
from vla.training.trainer import is_finished, train

Kind = Literal["single", "multi_stratified", "multi_naive"]

HELD_OUT = 0.1  # share of the episodes, where the configuration doesn't say
MOMENTS = (0.05, 0.25, 0.5, 0.75, 1.0)  # of training, at which weights are kept to compare gradients


@dataclass(frozen=True)
class Arm:
    """One run."""

    kind: Kind
    tasks: tuple[str, ...]
    config: Config  # its output is the arm's folder
    scenes: int  # of each task, where there is a simulator

    @property
    def folder(self) -> Path:
        return Path(self.config.output)


def plan_arms(config: Config, out: Path) -> list[Arm]:
    """The arms for the strata that `config` names, with folders in `out`; `multi_stratified` comes first.

    Shares of the batch, milestones and outputs are the arms' own, whatever `config` says of them.

    Raises:
        ConfigError: arms can't be compared under these settings.
    """
    if config.data.stratify_by == "none":
        raise ConfigError("data.stratify_by is none, so there are no tasks to compare; use task")
    if config.training.time_limit is not None:
        raise ConfigError("training.time_limit is set, but arms are compared after equally many steps; "
                          "give --training.time_limit null and --training.steps")
    config = changed(
        config,
        data={"dataset_shares": None, "floor": 0.0, "weights": "uniform", "held_out": config.data.held_out or HELD_OUT},
        training={"milestones": moments(config.training.steps), "keep_checkpoints": 1},
        evaluation={"every": 0},
    )
    tasks = tuple(load_training_data(config).strata)
    _check(config, tasks)
    scenes = config.evaluation.episodes // len(tasks)

    def arm(kind: Kind, tasks: tuple[str, ...], folder: str, **sections: Mapping[str, Any]) -> Arm:
        return Arm(kind, tasks, changed(config, **sections).model_copy(update={"output": str(out / folder)}), scenes)

    # Micro-batches change memory and nothing else, and the few observations of one task may not divide into them.
    alone = {"batch_size": config.training.batch_size // len(tasks), "accumulation": 1, "milestones": []}
    return [
        arm("multi_stratified", tasks, "multi_stratified"),
        arm("multi_naive", tasks, "multi_naive", data={"weights": "power", "power": 1.0}, training={"milestones": []}),
        *(arm("single", (task,), f"single/{folder_name(task)}", data={"strata": [task]}, training=alone)
          for task in tasks),
    ]  # fmt: skip


def train_arm(arm: Arm) -> None:
    """Train it, or what is left of it; nothing if it is finished.

    Raises:
        CheckpointError: the folder holds a run of other settings or other data.
    """
    if not is_finished(arm.config):
        train(arm.config, resume=True)


def moments(steps: int) -> list[int]:
    """Steps after which gradients are compared, the last one included."""
    return sorted({max(1, round(share * steps)) for share in MOMENTS})


def folder_name(task: str) -> str:
    """A name for files, another one for every task."""
    words = re.sub(r"[^a-z0-9_-]+", "-", task.lower()).strip("-")[:60]
    return words if words == task else f"{words}-{hashlib.sha256(task.encode()).hexdigest()[:6]}"


def changed(config: Config, **sections: Mapping[str, Any]) -> Config:
    """The same configuration with other values in these sections."""

    def section(name: str) -> Section:
        return getattr(config, name).model_copy(update=dict(sections[name]))

    return config.model_copy(update={name: section(name) for name in sections})


def _check(config: Config, tasks: Sequence[str]) -> None:
    count, batch, key = len(tasks), config.training.batch_size, config.data.stratify_by
    if count < 2:
        raise ConfigError(f"data.stratify_by {key}: {tasks[0]!r} is the only one, and transfer needs two; "
                          "name more with --tasks, or stratify by another column")
    if batch < count:
        raise ConfigError(f"training.batch_size {batch} is smaller than the number of tasks, {count}; "
                          f"use at least {count}, better a multiple of it")
    if batch % count:
        lower = batch - batch % count
        raise ConfigError(f"training.batch_size {batch} is not a multiple of the number of tasks, {count}, so they "
                          f"can't get equal updates; use {lower} or {lower + count}")
    if config.evaluation.env is not None:
        _check_evaluation(config, tasks)


def _check_evaluation(config: Config, tasks: Sequence[str]) -> None:
    settings = config.evaluation
    assert settings.env is not None
    families = load_suite(settings.env).families
    if unknown := [task for task in tasks if task not in families]:
        raise ConfigError(f"evaluation.env {settings.env} has no family {unknown[0]!r}, so its success can't be "
                          "measured; measure losses alone with --evaluation.env null, or stratify by task")
    if settings.episodes < len(tasks):
        raise ConfigError(f"evaluation.episodes {settings.episodes} is less than one for each of {len(tasks)} tasks; "
                          f"use at least {len(tasks)}, better hundreds")
