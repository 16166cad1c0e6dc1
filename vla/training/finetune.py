"""Fine-tuning on new instructions: the same training loop with a starting point, and some of the old data as replay."""

from __future__ import annotations

from dataclasses import dataclass, field

from vla.config import Config, ConfigError, DataConfig, EvaluationConfig, TrainingConfig


@dataclass
class FinetuneSettings:
    """What is taught, from which checkpoint, and what must not be forgotten."""

    checkpoint: str
    """Folder that training wrote, or the name of a policy on the hub."""
    data: list[str]
    """Data sets with the new instructions."""
    replay: list[str] = field(default_factory=list)
    """Data sets the policy was trained on; without any it will forget what they taught."""
    output: str = "runs/finetuned"
    """Folder of the new run."""
    new_share: float = 0.25
    """Share of every batch that comes from the new data; the old gets the rest."""
    stride: int = 1
    """Of the new data every n-th frame is learnt from: all, where there are few."""
    replay_stride: int = 4
    """The same of the replay: as in the first training, so that none is encoded again."""
    steps: int = 2000
    """Optimizer steps."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    time_limit: float | None = None
    """Minutes after which training ends; the learning rate decays over these or the steps."""
    seed: int = 0
    """Of the data order and the noise."""


def finetune_config(settings: FinetuneSettings) -> Config:
    """The run's configuration: new and old data with their shares; `init_from` brings the checkpoint's model along.

    Raises:
        ConfigError: a share outside (0, 1).
    """
    if not 0 < settings.new_share < 1:
        raise ConfigError(
            f"new_share is {settings.new_share}; give the share of the batch for new data, between 0 and 1"
        )
    shares = None
    if settings.replay:
        new, old = settings.new_share, 1 - settings.new_share
        shares = [new / len(settings.data)] * len(settings.data) + [old / len(settings.replay)] * len(settings.replay)
    return Config(
        data=DataConfig(
            datasets=[*settings.data, *settings.replay],
            dataset_shares=shares,
            frame_stride=[settings.stride] * len(settings.data) + [settings.replay_stride] * len(settings.replay),
        ),
        training=TrainingConfig(
            steps=settings.steps,
            learning_rate=settings.learning_rate,
            time_limit=settings.time_limit,
            seed=settings.seed,
            warmup=min(100, settings.steps // 10),
        ),
        evaluation=EvaluationConfig(),
        init_from=settings.checkpoint,
        output=settings.output,
    )
