"""The training loop: `accelerate launch scripts/train.py --config ...`, or `vla train`.

Data, noise and order are pure functions of (seed, step), the learning rate of the step, and dropout is seeded every
step. What a checkpoint must carry is therefore only weights, optimizer moments and the step, and a run continues bit
for bit.

One process or several (DDP), on CPU or GPU; FSDP is untested. `accelerate launch --cpu` starts one process whatever
`--num_processes` says; `accelerate launch --multi_gpu --num_processes 2` starts two, also without a GPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from diffusers.training_utils import EMAModel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor

from vla.batch import Batch
from vla.cache import cache_dir
from vla.config import Config, ConfigError, ModelConfig
from vla.data.batches import BatchSource, TrainingData, goal_things, load_training_data
from vla.data.episodes import EpisodeDataset
from vla.data.features import FeatureCache
from vla.data.stats import Statistics, normalization
from vla.models.embodiment import Embodiment
from vla.models.normalizer import Normalizer
from vla.models.policy import VLAConfig, VLAPolicy, policy_folder
from vla.tasks.kinds import takes_state
from vla.training.checkpoint import (
    CheckpointError,
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    replace_folder,
    save_checkpoint,
    save_milestone,
)
from vla.training.metrics import Meter, MetricsFile
from vla.training.optim import (
    build_optimizer,
    gradient_norm,
    optimizer_tensors,
    restore_optimizer,
    set_learning_rate,
    trainable,
)

# Settings that may change when a run is continued: none of them touches what is learnt.
FREE_TO_CHANGE = (
    "output",
    "evaluation",
    "data.cache_features",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.milestones",
)


class TrainingError(RuntimeError):
    """Training can't go on. The message says at which step, why, and what to try."""


def train(config: Config, resume: bool = False) -> Path:
    """Train as `config` says; returns the folder of the finished policy.

    Raises:
        ConfigError: settings that don't go together.
        CheckpointError: the output holds another run, or the checkpoint to continue from is damaged, of other settings
            or of other data.
        TrainingError: the loss is not finite.
    """
    config = _checked(config)
    run = Path(config.output)
    start = _starting_point(run, config, resume)
    data = load_training_data(config)
    policy = _build_policy(config, data)
    accelerator = Accelerator(
        mixed_precision=config.training.precision,
        log_with="tensorboard",
        project_dir=run,
        cpu=not torch.cuda.is_available(),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=_leaves_some_unused(policy.config))],
    )
    if accelerator.is_main_process:
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    policy = policy.to(accelerator.device)
    with accelerator.main_process_first():
        caches = _feature_caches(config, data, policy, accelerator)
    trainer = Trainer(config, accelerator, policy, BatchSource(data, config, caches, policy.config.tasks))
    if policy.text.frozen:
        # Not before the trainer has put the policy where it belongs: moving forgets.
        policy.text.remember(data.segments.instruction)
    if start is not None:
        trainer.restore(load_checkpoint(start))
    trainer.run()
    return run / "policy"


class Trainer:
    """One run: model, optimizer, averaged weights, and where it is."""

    def __init__(self, config: Config, accelerator: Accelerator, policy: VLAPolicy, source: BatchSource) -> None:
        self.config = config
        self.accelerator = accelerator
        self.source = source
        self.policy = policy
        self.folder = Path(config.output)
        self.step = 0
        self._elapsed = 0.0
        self._began = time.monotonic()
        # Optimizer first: parameters keep their identity through DDP. No scheduler and no loader is prepared:
        # accelerate would step the one and shard the other by its own rules.
        self.optimizer = build_optimizer(policy, config.training)
        self.model, self.optimizer = accelerator.prepare(policy, self.optimizer)
        if config.training.compile:
            # In place, so that parameters keep their names; encoders look tokens and features up, which is no graph.
            policy.reader.compile()
            policy.head.compile()
        decay = config.training.ema
        self.average = EMAModel(trainable(policy).values(), decay=decay, foreach=True) if decay else None

    # ---- the loop

    def run(self) -> None:
        training = self.config.training
        self.accelerator.init_trackers("tensorboard")
        meter = Meter(self.source.data.strata, self.accelerator)
        if self.accelerator.is_main_process:
            self._metrics = MetricsFile(self.folder / "metrics.jsonl", self.step)
        with self._progress_bar() as advance, Prefetch(self._batches) as prefetch:
            while (progress := self._progress()) < 1:
                factor = set_learning_rate(self.optimizer, training, self.step, progress)
                meter.add(*self._optimize(prefetch.get(self.step)))
                self.step += 1
                if self.step % training.log_every == 0:
                    values = meter.summary() | {"learning_rate": factor * training.learning_rate}
                    self._log(values)
                    advance(values, self._progress())
                if self.step in training.milestones:
                    self.keep_weights()
                if self.step % training.checkpoint_every == 0:
                    self.checkpoint()
                if self.config.evaluation.every and self.step % self.config.evaluation.every == 0:
                    self.evaluate()
        self.checkpoint()
        if self.accelerator.is_main_process:
            replace_folder(self.folder / "policy", self._save_policy)
        self.accelerator.end_training()

    def _log(self, values: dict[str, float]) -> None:
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            self._metrics.append(self.step, values)

    def _optimize(self, micro_batches: list[list[Batch]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One optimizer step over micro-batches, each in a batch for every embodiment in it.

        Returns:
            Stratum, loss sum and count of every observation of this process [b], and the gradient's norm.
        """
        self.model.train()
        parts = []
        for number, batches in enumerate(micro_batches):
            seed_dropout(self.config.training.seed, self.step, number, self.accelerator.process_index)
            last = number == len(micro_batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model), self.accelerator.autocast():
                sums, counts = self.model(*(batch.to(self.accelerator.device) for batch in batches))
                # Divided by the global count before DDP averages over processes: every component weighs the same.
                loss = sums.sum() / batches[0].total * self.accelerator.num_processes
                self.accelerator.backward(loss)
            parts.append((torch.cat([batch.stratum for batch in batches]).to(sums.device), sums.detach(), counts))
        self.accelerator.unscale_gradients(self.optimizer)
        norm = gradient_norm(self.policy, self.config.training.clip)
        if not torch.isfinite(norm) and self.config.training.precision != "fp16":
            raise TrainingError(
                f"step {self.step}: the gradient is not finite, so the weights were left as they are. "
                "The last checkpoint is whole; lower training.learning_rate or check the data with `vla validate`."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(trainable(self.policy).values())
        stratum, sums, counts = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return stratum, sums, counts, norm.detach()

    def _batches(self, step: int) -> list[list[Batch]]:
        """This process's slots of the global batch, in `accumulation` parts of a batch for every embodiment."""
        training, world, rank = self.config.training, self.accelerator.num_processes, self.accelerator.process_index
        parts = training.accumulation
        if training.batch_size % (world * parts):
            raise TrainingError(
                f"training.batch_size {training.batch_size} can't be divided over {world} processes x "
                f"{parts} accumulation steps; make it a multiple of {world * parts}"
            )
        # Slots are ordered by stratum: taking every n-th gives each process and part a balanced share.
        return [self.source.batches(step, slice(rank + world * part, None, world * parts)) for part in range(parts)]

    def _progress(self) -> float:
        """Share of the run that is over: of the steps, or of the time where that is nearer its end."""
        training = self.config.training
        over = self.step / training.steps
        if training.time_limit is None:
            return over
        spent = torch.tensor(self.elapsed / 60 / training.time_limit, device=self.accelerator.device)
        return max(over, float(broadcast(spent)))  # the main process's clock counts

    @property
    def elapsed(self) -> float:
        """Seconds of training, over all continuations."""
        return self._elapsed + time.monotonic() - self._began

    # ---- saving, restoring, evaluating

    def checkpoint(self) -> None:
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            keep = self.config.training.keep_checkpoints
            save_checkpoint(self.folder / "checkpoints", self.state(), self._save_policy, keep)
        self.accelerator.wait_for_everyone()

    def keep_weights(self) -> None:
        """The trained weights as they are now, for `load_milestone`."""
        if self.accelerator.is_main_process:
            weights = {name: parameter.detach() for name, parameter in trainable(self.policy).items()}
            save_milestone(self.folder, self.step, weights)

    def state(self) -> TrainingState:
        parameters = trainable(self.policy)
        tensors = {f"raw/{name}": parameter.detach() for name, parameter in parameters.items()}
        moments = optimizer_tensors(self.policy, self.optimizer)
        tensors |= {f"optimizer/{name}": value for name, value in moments.items()}
        settings: dict[str, Any] = {
            "config": self.config.model_dump(mode="json"),
            "data": self.source.data.fingerprint,
            "processes": self.accelerator.num_processes,
        }
        if self.average is not None:
            shadows = zip(parameters, self.average.shadow_params, strict=True)
            tensors |= {f"average/{name}": value for name, value in shadows}
            settings["average_step"] = self.average.optimization_step
        if self.accelerator.scaler is not None:
            settings["scaler"] = self.accelerator.scaler.state_dict()
        return TrainingState(self.step, self.elapsed, tensors, settings)

    def restore(self, state: TrainingState) -> None:
        """Go on from `state`.

        Raises:
            CheckpointError: the data is not what it was.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            names = [name for name in state.tensors if name.startswith(prefix)]
            return {name.removeprefix(prefix): state.tensors[name] for name in names}

        if state.settings["data"] != self.source.data.fingerprint:
            raise CheckpointError(
                f"{self.folder}: frames or segments of {', '.join(self.config.data.datasets)} changed since step "
                f"{state.step}. Restore them, or start a new run from these weights with --init_from."
            )
        raw, average = part("raw/"), part("average/")
        parameters = trainable(self.policy)
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(raw[name])
            if self.average is not None:
                for name, shadow in zip(parameters, self.average.shadow_params, strict=True):
                    shadow.copy_(average[name])
                self.average.optimization_step = state.settings["average_step"]
        restore_optimizer(self.policy, self.optimizer, part("optimizer/"))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.settings["scaler"])
        self.step, self._elapsed = state.step, state.elapsed

    @contextmanager
    def averaged(self) -> Iterator[VLAPolicy]:
        """The policy with its averaged weights, for as long as the context lasts."""
        if self.average is None:
            yield self.policy
            return
        parameters = list(trainable(self.policy).values())
        raw = [parameter.detach().clone() for parameter in parameters]
        self.average.copy_to(parameters)
        try:
            yield self.policy
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, raw, strict=True):
                    parameter.copy_(value)

    def evaluate(self) -> None:
        """Success in the simulator, logged; other processes wait."""
        from vla.envs import load_suite
        from vla.evaluation.summary import evaluate

        settings = self.config.evaluation
        if self.accelerator.is_main_process and settings.env is not None:
            with self.averaged() as policy:
                policy.eval()
                suite = load_suite(settings.env)
                result = evaluate(policy, suite, settings, prompts=suite.prompts[:1])
            families = {f"success/{family}": rate.mean for family, rate in result.families.items()}
            self._log({"success": result.success.mean} | families)
        self.accelerator.wait_for_everyone()

    def _save_policy(self, folder: Path) -> None:
        with self.averaged() as policy:
            policy.save_pretrained(folder)

    @contextmanager
    def _progress_bar(self) -> Iterator[Any]:
        """A bar with the time left on a terminal, a line now and then in a log."""
        training = self.config.training
        columns = (TextColumn("training"), BarColumn(), TextColumn("{task.percentage:3.0f} %"), MofNCompleteColumn(),
                   TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[values]}"))
        with Progress(*columns, disable=not self.accelerator.is_main_process) as bar:
            task = bar.add_task("training", total=training.steps, completed=self.step, values="")

            def advance(values: dict[str, float], progress: float) -> None:
                shown = f"loss {values['loss']:.4f}  {values['observations_per_second']:.0f} obs/s"
                bar.update(task, completed=self.step, total=round(self.step / progress), values=shown)
                if self.accelerator.is_main_process and not bar.console.is_terminal:
                    bar.console.print(f"step {self.step}  {100 * progress:.0f} %  {shown}")

            yield advance


class Prefetch:
    """Builds the next batch in a thread while the current one is learnt from. Only that thread calls `build`."""

    def __init__(self, build: Callable[[int], list[list[Batch]]]) -> None:
        self._build = build
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: dict[int, Future[list[list[Batch]]]] = {}

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def get(self, step: int) -> list[list[Batch]]:
        future = self._next.pop(step, None) or self._pool.submit(self._build, step)
        batches = future.result()
        self._next = {step + 1: self._pool.submit(self._build, step + 1)}
        return batches


def seed_dropout(seed: int, step: int, part: int, rank: int) -> None:
    """Seed torch for one forward pass, so that a continued run drops what the uninterrupted one dropped.

    NumPy's SeedSequence mixes the four numbers; its output is the same in every version and on every machine.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, part, rank]).generate_state(1, np.uint64)[0]))


def fit_normalizers(policy: VLAPolicy, datasets: Sequence[EpisodeDataset]) -> None:
    """Offsets and scales of an embodiment from exact statistics over its data sets, merged."""
    number = policy.config.number_of(datasets[0].embodiment)
    _fit([(policy.normalize_state[number], "observation.state"), (policy.normalize_action[number], "action")],
         datasets, policy.config.model)  # fmt: skip
    fit_goal_normalizer(policy, datasets)


def fit_goal_normalizer(policy: VLAPolicy, datasets: Sequence[EpisodeDataset]) -> None:
    """The same for goal states, where the policy is told by these."""
    if policy.normalize_goal is None:
        return
    model, number = policy.config.model, policy.config.number_of(datasets[0].embodiment)
    normalizer = policy.normalize_goal[number]
    _fit([(normalizer, model.goal_state)], datasets, model)
    for sort in policy.config.embodiments[number].goal_things:
        normalizer.share(torch.tensor(sort))


def widen_normalizers(policy: VLAPolicy, datasets: Sequence[EpisodeDataset]) -> None:
    """Keep an embodiment's units, but let its actions reach as far as those of new data sets of it."""
    statistics = _statistics(datasets, "action")
    low, high = (torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (statistics.min, statistics.max))
    policy.normalize_action[policy.config.number_of(datasets[0].embodiment)].widen(low, high)


def _fit(columns: Sequence[tuple[Normalizer, str]], datasets: Sequence[EpisodeDataset], model: ModelConfig) -> None:
    for normalizer, column in columns:
        statistics = _statistics(datasets, column)
        offset, scale = normalization(statistics, model.normalization)
        normalizer.fit(*(torch.from_numpy(np.asarray(value, dtype=np.float32))
                         for value in (offset, scale, statistics.min, statistics.max)))


def _statistics(datasets: Sequence[EpisodeDataset], column: str) -> Statistics:
    return Statistics.of(*(dataset.column(column).reshape(len(dataset), -1) for dataset in datasets))


@dataclass
class Motion:
    """What is seen in sampled frames of an embodiment's data and in those that follow in their episodes."""

    embodiment: str
    features: dict[str, tuple[Tensor, Tensor]]  # camera -> [n, F] before, [n, F] after
    state: Tensor  # [n, S] in between, robot units


@torch.no_grad()
def sample_motion(policy: VLAPolicy, dataset: EpisodeDataset, samples: int = 256) -> Motion:
    """From `samples` frames, spread evenly over the data set."""
    frames = np.linspace(0, dataset.num_frames - 1, min(samples, dataset.num_frames)).astype(np.int64)
    stop = dataset.episodes.stop
    after = np.minimum(frames + 1, stop[np.searchsorted(stop, frames, side="right")] - 1)
    state = torch.from_numpy((dataset.state(frames) + dataset.state(after)) / 2).float()

    def encode(camera: str, frames: np.ndarray) -> Tensor:
        return policy.encode_images(torch.from_numpy(dataset.frames(camera, frames)))

    pairs = {camera: (encode(camera, frames), encode(camera, after)) for camera in dataset.cameras}
    return Motion(dataset.embodiment, pairs, state)


def calibrate(policy: VLAPolicy, motion: Motion) -> None:
    """Let the image cells stand for states of the embodiment; its states must be normalised already."""
    number = policy.config.number_of(motion.embodiment)
    policy.reader.calibrate(motion.features, policy.normalize_state[number](motion.state), number)


def _build_policy(config: Config, data: TrainingData) -> VLAPolicy:
    torch.manual_seed(config.training.seed)
    return _fresh_policy(config, data) if config.init_from is None else _trained_policy(config, data, config.init_from)


def _fresh_policy(config: Config, data: TrainingData) -> VLAPolicy:
    robots = data.by_embodiment.values()
    policy = VLAPolicy.build(
        config.model, cameras=data.datasets[0].cameras,
        embodiments=[_embodiment(config.model, datasets[0]) for datasets in robots],
        tasks=sorted(set(data.segments.task)), instructions=sorted(set(data.segments.instruction))[:200],
    )
    for datasets in robots:
        fit_normalizers(policy, datasets)
    motions = [sample_motion(policy, datasets[0]) for datasets in robots]
    policy.reader.standardize({
        camera: torch.cat([motion.features[camera][0] for motion in motions]) for camera in policy.config.cameras
    })
    for motion in motions:
        calibrate(policy, motion)
    return policy


def _trained_policy(config: Config, data: TrainingData, origin: str) -> VLAPolicy:
    """The policy at `origin`, with what the configuration asks for beside: a critic, kinds of task identifiers,
    adapters for embodiments that it doesn't know."""
    policy = VLAPolicy.from_pretrained(origin)
    if policy.critic is None and config.model.critic is not None:
        policy.add_critic(config.model.critic)
    if policy.config.model.task_kinds != config.model.task_kinds:
        _add_kinds(policy, config, data, origin)
    # Known tasks keep their numbers.
    policy.config.tasks += sorted(set(data.segments.task) - set(policy.config.tasks))
    known = [robot.name for robot in policy.config.embodiments]
    for name, datasets in data.by_embodiment.items():
        first = datasets[0]
        if name not in known:
            policy.add_embodiment(_embodiment(config.model, first))
        policy.check_layout(first.cameras, first.state_dim, first.action_dim, first.fps, name)
        if name in known:
            widen_normalizers(policy, datasets)
        else:
            fit_normalizers(policy, datasets)
            calibrate(policy, sample_motion(policy, first))
    return policy


def _add_kinds(policy: VLAPolicy, config: Config, data: TrainingData, origin: str) -> None:
    """Raises ConfigError if goal states are new and the policy knows a robot whose ones no data set shows."""
    robots, model = policy.config.embodiments, config.model
    if policy.normalize_goal is not None or not takes_state(model.task_kinds):
        policy.add_kinds(model, robots)
        return
    if missing := [robot.name for robot in robots if robot.name not in data.by_embodiment]:
        raise ConfigError(f"model.task_kinds: {origin} also acts with {missing[0]!r}, whose goal states none of "
                          "data.datasets shows; add one of its data sets")  # fmt: skip
    known = [data.by_embodiment[robot.name] for robot in robots]
    told = [_with_goals(robot, model, datasets[0]) for robot, datasets in zip(robots, known, strict=True)]
    policy.add_kinds(model, told)
    for datasets in known:
        fit_goal_normalizer(policy, datasets)


def _embodiment(model: ModelConfig, dataset: EpisodeDataset) -> Embodiment:
    robot = Embodiment(dataset.embodiment, dataset.state_dim, dataset.action_dim, dataset.fps)
    return _with_goals(robot, model, dataset)


def _with_goals(robot: Embodiment, model: ModelConfig, dataset: EpisodeDataset) -> Embodiment:
    """The robot, and what goal states say of its scene; itself where the policy isn't told by any."""
    if not takes_state(model.task_kinds):
        return robot
    things = goal_things(dataset, model)
    return replace(robot, goal_dim=dataset.column(model.goal_state).shape[1], goal_things=things)


def _feature_caches(
    config: Config, data: TrainingData, policy: VLAPolicy, accelerator: Accelerator
) -> list[FeatureCache] | None:
    """Image tokens of every frame that training may look at; None where the encoder learns or caching is off."""
    if not policy.vision.frozen or not config.data.cache_features:
        return None

    def encode(images: np.ndarray) -> np.ndarray:
        return policy.encode_images(torch.from_numpy(images).to(policy.device)).cpu().numpy()

    source = BatchSource(data, config)
    caches = []
    with Progress(disable=not accelerator.is_main_process) as bar:
        for number, dataset in enumerate(data.datasets):
            cache = FeatureCache(cache_dir() / "features", dataset, policy.vision.fingerprint(), policy.feature_sizes)
            task = bar.add_task(f"encoding images of {dataset.root.name}", total=None)
            cache.fill(source.frames_used(number), encode, partial(_show, bar, task))
            caches.append(cache)
    return caches


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _checked(config: Config) -> Config:
    """The configuration as it will be followed: a policy to start from brings its architecture along.

    Raises:
        ConfigError: settings contradict each other.
    """
    if config.evaluation.every and config.evaluation.env is None:
        raise ConfigError("evaluation.every is set, but evaluation.env is not; name the environment")
    if config.training.precision == "fp16" and not torch.cuda.is_available():
        raise ConfigError("training.precision is fp16, which needs a GPU; bf16 works on CPUs")
    if config.init_from is not None:
        config = config.model_copy(update={"model": _kept_model(config.model, config.init_from)})
    if config.data.goals == "lasting" and config.model.critic is not None:
        raise ConfigError("data.goals is lasting, but a critic is paid at a segment's end, short of such a goal; "
                          "train it with final, future or geometric ones")  # fmt: skip
    return config


def _kept_model(asked: ModelConfig, origin: str) -> ModelConfig:
    """The architecture of the policy at `origin`, which must be what is `asked` for.

    A critic and kinds of task identifiers may be new, because nothing that the policy does without depends on them.
    """
    kept = VLAConfig.from_pretrained(policy_folder(origin)).model
    if kept.critic is None:
        kept = kept.model_copy(update={"critic": asked.critic})
    if set(kept.task_kinds) < set(asked.task_kinds):
        goals = kept if takes_state(kept.task_kinds) else asked
        kept = kept.model_copy(update={"task_kinds": asked.task_kinds, "goal_state": goals.goal_state,
                                       "goal_state_ignores": goals.goal_state_ignores})  # fmt: skip
    wanted = _flat(asked.model_dump(mode="json", exclude_unset=True))
    theirs = _flat(kept.model_dump(mode="json"))
    if changed := [f"model.{key} is {value!r}, there {theirs.get(key)!r}"
                   for key, value in wanted.items() if value != theirs.get(key)]:  # fmt: skip
        raise ConfigError(
            f"init_from {origin} keeps its architecture, which differs: {', '.join(changed)}. "
            "Leave the section `model` out."
        )
    return kept


def _leaves_some_unused(config: VLAConfig) -> bool:
    """Whether parameters may be left without a gradient: DDP must know.

    An encoder's pooler, the blocks behind its last tap, the adapters of an embodiment that a batch has no frame of.
    """
    model = config.model
    return model.text.train != "none" or model.vision.train != "none" or len(config.embodiments) > 1


def is_finished(config: Config) -> bool:
    """Whether the run of this configuration has come to its end, with the data as they are now.

    Raises:
        CheckpointError: the output holds a run of other settings, or its last checkpoint is damaged.
    """
    config = _checked(config)
    latest = _starting_point(Path(config.output), config, resume=True)
    if latest is None or not (Path(config.output) / "policy").is_dir():
        return False
    last = load_checkpoint(latest)
    return last.step >= config.training.steps and last.settings["data"] == load_training_data(config).fingerprint


def _starting_point(run: Path, config: Config, resume: bool) -> Path | None:
    """The checkpoint to continue from, if any."""
    latest = latest_checkpoint(run / "checkpoints")
    if latest is None:
        return None
    if not resume:
        raise CheckpointError(
            f"{run}: holds a run already (at {latest.name}); continue it with --resume or choose another output"
        )
    before = _deciding(load_checkpoint(latest).settings["config"])
    after = _deciding(config.model_dump(mode="json"))
    changed = sorted(key for key in before | after if before.get(key) != after.get(key))
    if changed:
        raise CheckpointError(
            f"{latest}: was trained with other settings: "
            + ", ".join(f"{key} was {before.get(key)!r}, is {after.get(key)!r}" for key in changed)
            + ". Continue with the same ones, or start anew from its weights with --init_from."
        )
    return latest


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide what is learnt, by dotted key."""
    free = tuple(f"{key}." for key in FREE_TO_CHANGE)
    return {key: value for key, value in _flat(config).items() if not f"{key}.".startswith(free)}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
