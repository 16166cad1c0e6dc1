"""What sharing does to every task: trained arms are measured, each once, and put side by side.

Losses are of episodes that no arm learns from, with the averaged weights, as they are saved. All arms are measured on
the same observations with the same noise, so the difference of two is known better than either. Its interval is over
episodes: it says what other episodes would give, not what another training seed would.

Shapes: K tasks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import vla
from vla.data.batches import TrainingData
from vla.envs import load_suite
from vla.evaluation.statistics import Mean, Rate
from vla.evaluation.summary import evaluate
from vla.models.policy import VLAPolicy
from vla.training.checkpoint import load_milestone
from vla.training.optim import trainable
from vla.training.transfer.arms import Arm, Kind
from vla.training.transfer.conflict import Conflict, measure_conflict
from vla.training.transfer.probes import (
    DRAWS,
    EPISODES,
    GRADIENT_BATCHES,
    GRADIENT_OBSERVATIONS,
    held_out_losses,
    of_task,
    probe,
)

Progress = Callable[[int, int], None]  # (done, all)


@dataclass(frozen=True)
class Measured:
    """What one arm is worth on one of its tasks."""

    losses: tuple[float, ...]  # imitation loss of the held-out episodes, the same ones for every arm
    success: Rate | None  # in the simulator, on the same scenes for every arm; None without one

    def to_json(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "success": None if self.success is None else self.success.to_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Measured:
        return cls(tuple(value["losses"]), None if value["success"] is None else Rate.from_json(value["success"]))


@dataclass(frozen=True)
class TaskTransfer:
    """What sharing does to one task."""

    observations: int  # to learn from
    naive_share: float  # of a naive batch
    loss: dict[Kind, Mean]  # held-out imitation loss, over episodes
    gain: Mean  # the loss of `single` less that of `multi_stratified`, episode by episode: positive where sharing helps
    stratified_gain: Mean  # the loss of `multi_naive` less that of `multi_stratified`
    success: dict[Kind, Rate]  # empty without a simulator

    @property
    def verdict(self) -> Literal["helps", "hurts", "open"]:
        """What sharing does to the held-out loss; open where the interval of `gain` contains 0."""
        low, high = self.gain.ci95
        return "helps" if low > 0 else "hurts" if high < 0 else "open"

    def to_json(self) -> dict[str, Any]:
        return {
            "observations": self.observations,
            "naive_share": self.naive_share,
            "loss": {kind: mean.to_json() for kind, mean in self.loss.items()},
            "gain": self.gain.to_json(),
            "stratified_gain": self.stratified_gain.to_json(),
            "success": {kind: rate.to_json() for kind, rate in self.success.items()},
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Transfer:
    """The whole report. `to_json` is `transfer.json`."""

    tasks: dict[str, TaskTransfer]  # K, in the order of the rows of `conflicts`
    conflicts: tuple[Conflict, ...]  # over the training of `multi_stratified`, with its raw, not averaged weights
    steps: int  # of every arm
    observations_per_step: int  # of each task, in `multi_stratified` and in `single`
    config: dict[str, Any]  # of `multi_stratified`

    def to_json(self) -> dict[str, Any]:
        return {
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "conflicts": [conflict.to_json() for conflict in self.conflicts],
            "steps": self.steps,
            "observations_per_step": self.observations_per_step,
            "config": self.config,
            "version": vla.__version__,
        }


def measure_arm(arm: Arm, held_out: TrainingData, progress: Progress = lambda done, total: None) -> dict[str, Measured]:
    """What a trained arm is worth on each of its tasks; kept in its folder, so that it is measured once.

    Args:
        held_out: of all tasks, from `load_probe_data`.
    """

    def measure() -> dict[str, Any]:
        policy, measured = _load(arm), {}
        critic, policy.critic = policy.critic, None  # its loss is no imitation
        losses = {task: held_out_losses(policy, arm.config, held_out, task) for task in arm.tasks}
        policy.critic = critic
        for number, task in enumerate(arm.tasks):
            measured[task] = Measured(tuple(losses[task]), _success(policy, arm, task)).to_json()
            progress(number + 1, len(arm.tasks))
        return measured

    question = _question(arm, held_out) | {"episodes": EPISODES, "draws": DRAWS, "scenes": arm.scenes}
    found = _kept(arm.folder / "measured.json", question, measure)
    return {task: Measured.from_json(value) for task, value in found.items()}


def measure_conflicts(
    arm: Arm, training: TrainingData, progress: Progress = lambda done, total: None
) -> tuple[Conflict, ...]:
    """Conflicts of the arm's tasks at its milestones, with the weights as trained; kept in its folder.

    The same batches of training data at every moment, in evaluation mode: what changes between moments are the weights.
    """

    def measure() -> list[dict[str, Any]]:
        policy, steps, found = _load(arm), arm.config.training.milestones, []
        weights = trainable(policy)
        policy.critic = None  # its gradient ends at the context and isn't imitation
        sources = [probe(policy, arm.config, of_task(training, task), GRADIENT_OBSERVATIONS) for task in arm.tasks]
        tasks = [source.batches for source in sources]
        for number, step in enumerate(steps):
            _set(weights, load_milestone(arm.folder, step))
            found.append(measure_conflict(policy, tasks, step, GRADIENT_BATCHES).to_json())
            progress(number + 1, len(steps))
        return found

    question = _question(arm, training) | {"batches": GRADIENT_BATCHES, "observations": GRADIENT_OBSERVATIONS}
    return tuple(Conflict.from_json(value) for value in _kept(arm.folder / "conflict.json", question, measure))


def compare(
    arms: Sequence[Arm],
    measured: Sequence[Mapping[str, Measured]],
    conflicts: Sequence[Conflict],
    training: TrainingData,
) -> Transfer:
    """The report, from what `measure_arm` found for each of the arms of `plan_arms`."""
    multi = arms[0]
    tasks = {}
    for number, task in enumerate(multi.tasks):
        found = {arm.kind: values[task] for arm, values in zip(arms, measured, strict=True) if task in values}
        tasks[task] = _compare_task(found, training.observations, training.stratum == number)
    return Transfer(
        tasks=tasks,
        conflicts=tuple(conflicts),
        steps=multi.config.training.steps,
        observations_per_step=multi.config.training.batch_size // len(tasks),
        config=multi.config.model_dump(mode="json", exclude={"output"}),
    )


def _compare_task(found: Mapping[Kind, Measured], observations: np.ndarray, own: np.ndarray) -> TaskTransfer:
    """`observations` [N] of all segments, of which `own` [N] are the task's."""

    def more_than_stratified(kind: Kind) -> Mean:
        pairs = zip(found[kind].losses, found["multi_stratified"].losses, strict=True)
        return Mean.of([one - other for one, other in pairs])

    return TaskTransfer(
        observations=int(observations[own].sum()),
        naive_share=float(observations[own].sum() / observations.sum()),
        loss={kind: Mean.of(value.losses) for kind, value in found.items()},
        gain=more_than_stratified("single"),
        stratified_gain=more_than_stratified("multi_naive"),
        success={kind: value.success for kind, value in found.items() if value.success is not None},
    )


def _success(policy: VLAPolicy, arm: Arm, task: str) -> Rate | None:
    environment = arm.config.evaluation.env
    if environment is None:
        return None
    settings = arm.config.evaluation.model_copy(update={"families": [task], "episodes": arm.scenes})
    suite = load_suite(environment)
    return evaluate(policy, suite, settings, prompts=suite.prompts[:1]).success


def _load(arm: Arm) -> VLAPolicy:
    device: Any = "cuda" if torch.cuda.is_available() else "cpu"  # transformers' types of `to` know no device
    return VLAPolicy.from_pretrained(arm.folder).to(device)


@torch.no_grad()
def _set(parameters: Mapping[str, torch.nn.Parameter], values: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _question(arm: Arm, data: TrainingData) -> dict[str, Any]:
    """What a measurement depends on; not on where the folder lies."""
    return {"config": arm.config.model_dump(mode="json", exclude={"output"}), "data": data.fingerprint}


def _kept(path: Path, question: dict[str, Any], answer: Callable[[], Any]) -> Any:
    """What `answer` gives, as plain data, from `path` where the same question was answered before."""
    if path.is_file():
        known = json.loads(path.read_text())
        if known["question"] == question:
            return known["answer"]
    found = answer()
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"question": question, "answer": found}, indent=1) + "\n")
    os.replace(temporary, path)
    return found
