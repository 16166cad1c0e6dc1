"""Typed, validated configuration of one training run, read from YAML and overridable field by field.

pydantic checks names, types and ranges, of the file and of `--section.field value` alike. An unknown key is an error
that names it and its nearest valid neighbour, because a silently ignored key costs a training run.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Where policies can act: the keys of `vla.envs.SUITES`.
EnvironmentName = Literal["tabletop", "ogbench-scene", "ogbench-challenges", "metaworld-mt10", "metaworld-mt50"]


class ConfigError(ValueError):
    """A configuration that can't be used. The message names file, key and fix."""


class Section(BaseModel):
    # Strict, so that `steps: "100"` is an error instead of a guess; frozen, since a run's configuration never changes.
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class DataConfig(Section):
    """What is learnt from, and how much of each."""

    datasets: list[str] = Field(min_length=1)
    """LeRobot v3.0 data sets (folders). All share cameras; those of one embodiment (robot_type) also state and action
    layout, which may differ from those of another."""
    dataset_shares: list[float] | None = None
    """Share of the batch each data set gets, in their order; by default only `weights` decides."""
    stratify_by: Literal["task", "instruction", "source", "dataset", "embodiment", "none"] = "task"
    """Column of the segment table that a batch is balanced over; `none` draws frames uniformly (naive sampling)."""
    weights: Literal["uniform", "power"] | dict[str, float] = "uniform"
    """Shares of the strata: equal, proportional to frames^`power`, or explicit (relative) by name."""
    power: Fraction = 0.5
    """Exponent of `weights: power`; 1 is proportional to the number of frames, 0 is uniform."""
    floor: Fraction = 0.0
    """Least share that any stratum gets."""
    strata: list[str] | None = Field(default=None, min_length=1)
    """Learn only from these strata, by the names that `stratify_by` gives them; by default from all."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Share of the episodes of every stratum that is kept out of training, to measure on: evenly spaced ones, always
    the same, with all their segments. By default none; a stratum keeps at least one to learn from."""
    sources: list[str] | None = None
    """Use only segments of these sources (demonstration, attempt, hindsight, missed, ...); by default all."""
    only_success: bool = True
    """Imitate only segments that reached their instruction, not demonstrations that missed it. Of a policy's attempts
    only what relabelling finds in them is imitated. A critic learns from all."""
    frame_stride: Positive | list[Positive] = 1
    """Predict from every n-th frame of a segment: neighbours teach nearly the same and cost the same to encode. One for
    all data sets, or one for each in their order."""
    goals: Literal["final", "future", "geometric", "lasting"] = "final"
    """Which later frame is the goal (image, state, video) where no words say what is asked for. Of the segment: its
    last one, any, or one that is near in a geometric distribution. `lasting` also takes the ends of later segments of
    the episode that still show what this one changed (in `model.goal_state`): goals of several deeds, from play."""
    goal_discount: float = Field(default=0.98, gt=0, lt=1)
    """Of the geometric distribution."""
    kinds_alone: Fraction = 0.5
    """With several `model.task_kinds`, the share of the observations that is asked by one of them alone, each as often;
    the others get a random choice, of which a policy learns most about the kind that tells most."""
    goal_tolerance: float = Field(default=0.05, ge=0)
    """A goal state is reached within this distance (Euclidean, units of the column): an attempt is over then for a
    critic, whatever the recording went on to do. A thing within it hasn't changed, for lasting goals."""
    cache_features: bool = True
    """Keep the tokens of a frozen vision encoder on disk. Changes speed, never a number."""


class EncoderConfig(Section):
    """A pretrained encoder from transformers."""

    name: str
    """Hub name, local folder, or an embedded default (embedded/minilm, embedded/mobilenet-v2)."""
    train: Literal["none", "all"] | Annotated[int, Field(gt=0)] = "none"
    """Frozen, fully trained, or only the last n blocks."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of the trained part."""


class TextConfig(EncoderConfig):
    name: str = "embedded/minilm"
    max_tokens: Positive = 32
    """Instructions are cut after so many."""


class VisionConfig(EncoderConfig):
    name: str = "embedded/mobilenet-v2"
    taps: list[int] = [4, 11]
    """Hidden states that become tokens (indices as transformers counts them; -1 is the last). Several are brought to
    the finest grid and concatenated: early ones know where, late ones know what."""
    merge: Positive = 2
    """Neighbouring cells of the grid (n x n) that become one token: fewer tokens to attend to, nothing thrown away."""
    jitter: bool = False
    """Move the grid of merged cells against the pictures in training, by less than a cell and for every batch anew:
    where exactly in its cell a thing is, is learnt from fewer scenes."""
    crop: list[Fraction] | None = Field(default=None, min_length=4, max_length=4)
    """Look only at a part of every picture: its top, left, height and width, as shares of the picture's. The cells that
    would show what never matters then show in more detail what does."""
    image_size: Positive | None = None
    """Resize images to this many pixels a side before encoding; by default what the encoder demands, or as recorded."""

    @field_validator("crop")
    @classmethod
    def _inside(cls, crop: list[float] | None) -> list[float] | None:
        if crop is None:
            return None
        top, left, height, width = crop
        if height == 0 or width == 0 or top + height > 1 or left + width > 1:
            raise ValueError("should be [top, left, height, width] of a part of a picture, with top + height and "
                             f"left + width at most 1, got {crop}")
        return crop

    @model_validator(mode="after")
    def _jitters_in_cells(self) -> VisionConfig:
        if self.jitter and self.merge == 1:
            raise ValueError("jitter moves the grid by less than a merged cell, but merge is 1: merge more cells")
        return self


class DiffusionConfig(Section):
    """The generative model over action chunks."""

    objective: Literal["flow", "diffusion"] = "flow"
    """Flow matching (Lipman et al. 2022) or denoising diffusion (Ho et al. 2020)."""
    prediction: Literal["velocity", "epsilon", "sample"] = "sample"
    """What the network outputs; velocity means v-prediction under `diffusion` (Salimans & Ho 2022)."""
    sampler: Literal["euler", "ddpm", "ddim", "dpm++"] = "euler"
    """Solver at inference: euler for flow; ddpm, ddim or dpm++ for diffusion."""
    train_steps: Positive = 1000
    """Discrete diffusion times."""
    inference_steps: Positive = 6
    """Denoising steps for one chunk."""
    noise_samples: Positive = 2
    """Noises and times drawn per observation: the context is read once and shared by all."""

    @model_validator(mode="after")
    def _sampler_fits(self) -> DiffusionConfig:
        if (self.objective == "flow") != (self.sampler == "euler"):
            raise ValueError(
                f"sampler {self.sampler!r} doesn't solve objective {self.objective!r}: flow goes with euler, "
                "diffusion with ddpm, ddim or dpm++"
            )
        return self


class CriticConfig(Section):
    """What chunks and situations are worth, learnt beside imitation, from failures too (see vla/models/critic.py)."""

    actions: Positive = 8
    """Actions of a chunk that are judged: as many as are played before the policy looks again."""
    layers: Positive = 2
    """Blocks of each of the two judges."""
    discount: float = Field(default=0.98, gt=0, lt=1)
    """By which what is reached an action later is worth less."""
    expectile: float = Field(default=0.7, gt=0, lt=1)
    """Of what was recorded, how good an action counts as usual: 0.5 the mean, near 1 the best."""
    advantage_temperature: float | None = Field(default=None, gt=0)
    """Weigh what is imitated by exp(advantage / temperature), at most 20; none weighs all alike."""


class ModelConfig(Section):
    """Architecture of the policy: encoders, context reader, diffusion head."""

    text: TextConfig = TextConfig()
    vision: VisionConfig = VisionConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    width: Positive = 128
    """Channels of every token."""
    heads: Positive = 4
    """Attention heads."""
    reader_layers: Positive = 1
    """Blocks in which state and latent tokens hear the instruction and look around in the image grid."""
    latents: Positive = 8
    """Learned tokens that summarise what neither instruction nor keyframes tell."""
    head_layers: Positive = 3
    """Blocks of the diffusion transformer."""
    dropout: Fraction = 0.0
    horizon: Positive = 16
    """Actions in a chunk (H)."""
    actions_per_token: Positive = 4
    """Consecutive actions that form one token of the diffusion transformer."""
    history: Positive = 1
    """Observations the policy sees (T), the current one included."""
    instruction_dropout: Fraction = 0.1
    """Share of training observations whose instruction is withheld; makes classifier-free guidance possible."""
    task_kinds: list[Literal["language", "task_id", "goal_state", "goal_image", "video"]] = Field(
        default=["language"], min_length=1
    )
    """How the policy can be told what to do. With several kinds, `data.kinds_alone` of the training observations get
    one of them and the others a random choice, so that one policy understands each alone."""
    goal_state: Literal["observation.environment_state", "observation.state"] = "observation.environment_state"
    """The column that a goal state is a value of; the policy must then observe it, too."""
    goal_state_ignores: list[str] = []
    """Things of which a goal state tells nothing, by what comes before the dot in the names of that column: an arm,
    where it doesn't matter how it stands in the end."""
    keyframes: Positive = 2
    """The context points out where the robot will be at so many next keyframes (something is taken or let go, or the
    segment ends): a direct gradient for finding what the instruction names. Each builds on the one before."""
    references: Positive = 3
    """Things in the picture that an instruction can name at a time."""
    keyframe_weight: float = Field(default=1.0, gt=0)
    """Weight of the keyframes' loss beside that of the actions."""
    normalization: Literal["quantile", "mean_std", "min_max"] = "quantile"
    critic: CriticConfig | None = None
    """A critic, to weigh imitation and to choose among chunks; `{}` takes the defaults."""

    @model_validator(mode="after")
    def _sizes_divide(self) -> ModelConfig:
        if self.critic is not None and self.critic.actions > self.horizon:
            raise ValueError(f"critic.actions {self.critic.actions} is more than horizon {self.horizon}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.horizon % self.actions_per_token:
            raise ValueError(f"horizon {self.horizon} is not a multiple of actions_per_token {self.actions_per_token}")
        return self


class TrainingConfig(Section):
    """The optimisation."""

    steps: Positive = 10_000
    """Optimizer steps."""
    batch_size: Positive = 64
    """Observations in one optimizer step, over all processes and accumulation steps together."""
    accumulation: Positive = 1
    """Micro-batches one optimizer step is split into; changes memory, not the result."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate of everything but the encoders."""
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: Annotated[int, Field(ge=0)] = 100
    """Steps of linear warm-up before the cosine decay."""
    final_learning_rate: Fraction = 0.02
    """Share of the peak learning rate left at the last step."""
    clip: float = Field(default=1.0, gt=0)
    """Largest global gradient norm."""
    ema: Fraction = 0.999
    """Decay of the averaged weights that are saved and evaluated; 0 switches averaging off."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision."""
    compile: bool = False
    """torch.compile the policy."""
    time_limit: float | None = Field(default=None, gt=0)
    """Minutes. The learning rate decays over steps or this time, whichever ends first, and training ends there. A
    limited run depends on the machine's speed, so it can be resumed but not repeated bit for bit."""
    seed: Annotated[int, Field(ge=0)] = 0
    log_every: Positive = 50
    checkpoint_every: Positive = 1000
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept."""
    milestones: list[Positive] = []
    """Steps after which the trained weights, not averaged, are kept for good in `milestones/`, to look at how training
    went."""


class EvaluationConfig(Section):
    """Rollouts in a simulator."""

    env: EnvironmentName | None = None
    """Environment; none means training without rollouts."""
    every: Annotated[int, Field(ge=0)] = 0
    """Evaluate each so many steps during training; 0 only afterwards."""
    episodes: Positive = 120
    """Episodes, spread evenly over the families."""
    families: list[str] | None = None
    """Instruction families; by default those of the data."""
    execute: Positive = 8
    """Actions of a chunk that are played before the next prediction."""
    guidance: float = Field(default=1.0, ge=0)
    """Classifier-free guidance scale; 1 is none."""
    candidates: Positive = 1
    """Chunks sampled for every prediction; the policy's critic chooses the best."""
    num_envs: Positive = 32
    """Episodes stepped side by side."""
    seed: Annotated[int, Field(ge=0)] = 1_000_000
    """First seed of the evaluation scenes; training scenes come from smaller ones."""


class Config(Section):
    """One training run."""

    data: DataConfig
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    init_from: str | None = None
    """Start from this checkpoint's weights (fine-tuning) instead of from scratch; its architecture is kept."""
    output: str = "runs/run"
    """Folder for checkpoints, logs and results."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path` and apply overrides: words as a shell splits `--training.steps 100 --data.datasets data/a data/b`.

    Values are YAML, as in the file; several words are a list, none is `true`.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (with its nearest neighbour) or a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file; configs/ has examples")
    values = _parse_yaml(path.read_bytes(), str(path))
    config = parse_config(values, str(path))
    return parse_config(_overridden(values, overrides), "command line") if overrides else config


def parse_config(values: Any, origin: str) -> Config:
    """Validate a mapping; `origin` names where it came from in errors."""
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected a mapping of sections, got {type(values).__name__}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = "\n".join(f"  {problem}" for problem in _explain(error))
        raise ConfigError(f"{origin}: the configuration is not valid\n{problems}") from error


def config_fields(section: Section, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Every field of a configuration: dotted key, value, what it means."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from config_fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.description or ""


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans (1.1 reads `1e-3` as text and `precision: no` as false), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for (key, _), name in zip(node.value, keys, strict=True):
            if keys.count(name) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|True|false|False"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def _parse_yaml(text: str | bytes, origin: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin}: not valid YAML: {error}") from error


def _overridden(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `values` with the overrides in place."""
    result = copy.deepcopy(dict(values))
    for key, words in _options(overrides):
        *parents, last = key.split(".")
        section = result
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        parsed = [_parse_yaml(word, f"--{key} {word}") for word in words]
        if len(parsed) > 1 or (parsed and not isinstance(parsed[0], list) and _takes_list(key)):
            section[last] = parsed
        else:
            section[last] = parsed[0] if parsed else True
    return result


def _options(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """`--a.b-c 1 2 --d=3` as (`a.b_c`, [1, 2]), (`d`, [3])."""
    options: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options.append((key.replace("-", "_"), [value] if equals else []))
        elif options:
            options[-1][1].append(word)
        else:
            raise ConfigError(f"command line: {word!r} belongs to no option; write --section.field value")
    return options


def _takes_list(key: str) -> bool:
    annotation = _annotation(key.split("."))
    return any(get_origin(choice) is list for choice in (annotation, *get_args(annotation)))


def _explain(error: ValidationError) -> list[str]:
    """One line a field; what the alternatives of a union complain about is joined."""
    complaints: dict[str, list[str]] = {}
    for problem in error.errors():
        key = ".".join(_key(problem["loc"]))
        complaints.setdefault(key, []).append(_complaint(problem))
    return [f"{key}: {', or '.join(complaints[key])}" for key in complaints]


def _complaint(problem: Any) -> str:
    location = problem["loc"]
    if problem["type"] == "extra_forbidden":
        section = _annotation(location[:-1])
        valid = list(section.model_fields)
        near = difflib.get_close_matches(str(location[-1]), valid, n=1, cutoff=0.5)
        return "unknown key; " + (f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}")
    if problem["type"] == "missing":
        return "this key is required"
    message = problem["msg"].removeprefix("Value error, ")
    whole_section = problem["type"] == "value_error"
    return message if whole_section else f"{message[0].lower()}{message[1:]}, got {problem['input']!r}"


def _key(location: Sequence[str | int]) -> list[str]:
    """The parts a user would write: without pydantic's names for the alternatives of a union."""
    return [str(part) for part in location if not re.search(r"[\[(,]|^(constrained-)?(int|str|float)$", str(part))]


def _annotation(location: Sequence[str | int]) -> Any:
    """The declared type at a place in the configuration; None where nothing is declared."""
    annotation: Any = Config
    for part in location:
        fields = getattr(annotation, "model_fields", {})
        if part not in fields:
            return None
        annotation = fields[part].annotation
    return annotation
