"""The policy: pretrained encoders, context reader and diffusion head as one self-contained transformers model.

Shapes: B batch, T history, H horizon, A action, S state, K noise samples, F flat image features, W keyframes,
Y X pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from vla.batch import Batch, Observation, TaskIdentifier
from vla.config import CriticConfig, ModelConfig
from vla.models.context import Context, ContextReader
from vla.models.critic import Critic
from vla.models.embodiment import Adapters, Embodiment
from vla.models.head import DiffusionHead
from vla.models.normalizer import Normalizer
from vla.models.observe import Goal, Layout, ObservationError, RawObservation, stack
from vla.models.pointer import Choose, drawn_by, likeliest, nearest_to
from vla.models.pretrained import (
    image_statistics,
    load_backbone,
    load_tokenizer,
    quiet,
    text_tower,
    vision_tower,
)
from vla.models.text import TextEncoder
from vla.models.vision import VisionEncoder
from vla.tasks.kinds import takes_state

GREATEST_WEIGHT = 20.0  # that an advantage gives to an observation


class VLAConfig(PreTrainedConfig):
    """Everything needed to rebuild the policy without the data or the encoders' origin."""

    model_type = "vla"

    # Defaults only because transformers builds an empty configuration to compare with.
    architecture: dict[str, Any] = field(default_factory=dict)  # ModelConfig as plain data
    text_backbone: dict[str, Any] = field(default_factory=dict)  # the text encoder's own transformers config
    vision_backbone: dict[str, Any] = field(default_factory=dict)
    image_mean: list[float] = field(default_factory=list)
    image_std: list[float] = field(default_factory=list)
    cameras: dict[str, list[int]] = field(default_factory=dict)  # name -> [height, width], in the model's order
    robots: list[dict[str, Any]] = field(default_factory=list)  # `embodiments` as plain data
    tasks: list[str] = field(default_factory=list)  # the policy was trained on
    instructions: list[str] = field(default_factory=list)  # examples of those it was trained on

    @property
    def model(self) -> ModelConfig:
        return ModelConfig.model_validate(self.architecture)

    def denoise_in(self, steps: int) -> None:
        """A policy built from this takes so many steps from noise to a chunk. Raises ValueError if that is none."""
        if steps < 1:
            raise ValueError(f"denoising_steps is {steps}; a chunk takes at least one")
        diffusion = {**self.architecture["diffusion"], "inference_steps": steps}
        self.architecture = {**self.architecture, "diffusion": diffusion}

    @property
    def embodiments(self) -> list[Embodiment]:
        """Those that the policy can act with, in the order of their numbers."""
        return [Embodiment(**robot) for robot in self.robots]

    def number_of(self, embodiment: str | None = None) -> int:
        """The number of an embodiment given by name; of the only one, if there is but one, given None.

        Raises:
            ObservationError: there is none of this name, or several and none was named.
        """
        names = [robot.name for robot in self.embodiments]
        if embodiment in names:
            return names.index(embodiment)
        if embodiment is None and len(names) == 1:
            return 0
        asked = "none was named" if embodiment is None else f"is {embodiment!r}"
        raise ObservationError(f"embodiment: {asked}, but the policy was trained with {', '.join(map(repr, names))}; "
                               "name one of these, or fine-tune the policy on data of the new one")


class VLAPolicy(PreTrainedModel):
    """`pi(action chunk | observation, instruction)`.

    Train with `loss`; act with `act` (one raw observation) or `sample` (a batch).
    """

    config_class = VLAConfig
    config: VLAConfig
    main_input_name = "observation"

    def __init__(self, config: VLAConfig) -> None:
        super().__init__(config)
        model = config.model
        self.text = TextEncoder(_bare(config.text_backbone), model.text.max_tokens)
        self.vision = VisionEncoder(
            _bare(config.vision_backbone),
            model.vision.taps,
            config.image_mean,
            config.image_std,
            model.vision.image_size,
            model.vision.crop,
        )
        grids = {camera: self.vision.grids(*size) for camera, size in config.cameras.items()}
        self.feature_sizes = {camera: sum(grid.size for grid in taps) for camera, taps in grids.items()}
        robots = config.embodiments
        self.reader = ContextReader(model, grids, self.text.channels, robots)
        self.head = DiffusionHead(model, robots)
        self.critic = None if model.critic is None else Critic(model, model.critic, robots)
        self.normalize_state = Adapters(robots, lambda robot: Normalizer(robot.state_dim))
        self.normalize_action = Adapters(robots, lambda robot: Normalizer(robot.action_dim))
        self.normalize_goal = _goal_normalizers(model, robots)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Modules initialise themselves; transformers must not overwrite that."""

    # ---- building, saving, loading

    @classmethod
    def build(
        cls,
        model: ModelConfig,
        *,
        cameras: Mapping[str, Sequence[int]],
        embodiments: Sequence[Embodiment],
        tasks: Sequence[str] = (),
        instructions: Sequence[str] = (),
    ) -> VLAPolicy:
        """A new policy with pretrained encoders and a fresh reader and head.

        Raises:
            EncoderError: an encoder that can't be found or loaded.
        """
        text, vision = load_backbone(model.text.name), load_backbone(model.vision.name)
        mean, std = image_statistics(model.vision.name)
        policy = cls(VLAConfig(
            architecture=model.model_dump(mode="json"),
            text_backbone=text.config.to_dict(),
            vision_backbone=vision.config.to_dict(),
            image_mean=mean, image_std=std,
            cameras={name: list(size) for name, size in cameras.items()},
            robots=[asdict(embodiment) for embodiment in embodiments],
            tasks=list(tasks), instructions=list(instructions),
        ))
        policy.text.backbone.load_state_dict(text_tower(text).state_dict())
        policy.vision.backbone.load_state_dict(vision_tower(vision).state_dict())
        policy.text.tokenizer = load_tokenizer(model.text.name)
        policy._freeze()
        return policy

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        with quiet():
            # Parameters under their own names: the older ones that transformers would translate them to, where an
            # encoder has such, aren't what `from_pretrained` looks for.
            super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})
        self.text.tokenizer.save_pretrained(Path(save_directory) / "tokenizer")

    @classmethod
    def from_pretrained(cls, path: str | Path, denoising_steps: int | None = None) -> VLAPolicy:  # type: ignore[override]
        """Load what `policy_folder` finds under `path`, onto the CPU and in evaluation mode.

        Args:
            denoising_steps: from noise to a chunk; by default as it was configured. Fewer act sooner.

        Raises:
            FileNotFoundError: no policy there. ValueError: not one of this project, or damaged, or no step.
        """
        folder = policy_folder(path)
        # Built and filled by ourselves: transformers builds on the meta device, which loses the encoders' constants.
        config = VLAConfig.from_pretrained(folder)
        if not config.robots:
            raise ValueError(f"{folder / 'config.json'}: lists no robots; an earlier version wrote it, train it again")
        if denoising_steps is not None:
            config.denoise_in(denoising_steps)
        policy = cls(config)
        try:
            load_model(policy, folder / "model.safetensors")
        except SafetensorError as error:
            raise ValueError(f"{folder / 'model.safetensors'}: damaged ({error}); copy or train it again") from error
        policy.text.tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        policy._freeze()
        return policy.eval()

    def add_critic(self, settings: CriticConfig) -> None:
        """A fresh critic beside a policy that has none."""
        self.config.architecture = {**self.config.architecture, "critic": settings.model_dump(mode="json")}
        self.critic = Critic(self.config.model, settings, self.config.embodiments)

    def add_kinds(self, model: ModelConfig, robots: Sequence[Embodiment]) -> None:
        """Fresh modules for the kinds of task identifiers of `model` that the policy can't yet be told by.

        Args:
            robots: the embodiments that it knows, and what their goal states are, in the order of their numbers.
        """
        self.config.robots = [asdict(robot) for robot in robots]
        of_kinds = model.model_dump(mode="json", include={"task_kinds", "goal_state", "goal_state_ignores"})
        self.config.architecture = {**self.config.architecture, **of_kinds}
        self.reader.add_kinds(self.config.model, robots)
        if self.normalize_goal is None:
            self.normalize_goal = _goal_normalizers(model, robots)

    def add_embodiment(self, embodiment: Embodiment) -> None:
        """Fresh adapters for one more; what all share stays as it is."""
        self.config.robots = [*self.config.robots, asdict(embodiment)]
        for module in self.modules():
            if isinstance(module, Adapters):
                module.add(embodiment)

    def _freeze(self) -> None:
        model = self.config.model
        for encoder, setting in ((self.text, model.text.train), (self.vision, model.vision.train)):
            if setting == "none":
                encoder.backbone.requires_grad_(False)
            elif setting != "all":
                encoder.train_last_blocks(setting)
        self.train()  # puts frozen encoders into evaluation mode

    # ---- learning

    def encode_images(self, images: Tensor) -> Tensor:
        """[B, Y, X, 3] uint8 of one camera -> flat features [B, F]."""
        return self.vision(images)

    def read(self, observation: Observation, choose: Choose = likeliest, shift: Tensor | None = None) -> Context:
        """Context tokens for a batch of observations; `choose` as in `Pointer`, `shift` as in `ImageTokens`."""
        task, number = observation.task, self.config.number_of(observation.embodiment)
        text, mask = self.text(task.instruction)
        goal = None
        if task.goal_state is not None:
            assert self.normalize_goal is not None
            goal = self.normalize_goal[number](task.goal_state)
        # An empty string still has a start and an end token: the reader learns its own token for "nothing was said".
        mask = mask & torch.tensor([bool(i) for i in task.instruction], device=mask.device)[:, None]
        return self.reader(
            text, mask, task, self._features(observation), self._features(task), goal,
            self.normalize_state[number](observation.state), observation.history_valid, number, choose, shift,
        )

    def _features(self, seen: Observation | TaskIdentifier) -> dict[str, Tensor]:
        """camera -> [B, T or V, F]; none where nothing is shown."""
        if seen.features is not None:
            parts = seen.features.split(list(self.feature_sizes.values()), dim=-1)
            return dict(zip(self.feature_sizes, parts, strict=True))
        features = {}
        for camera, images in seen.images.items():
            flat = self.encode_images(rearrange(images, "b t y x c -> (b t) y x c"))
            features[camera] = rearrange(flat, "(b t) f -> b t f", b=len(images))
        return features

    def _encoded(self, observation: Observation) -> Observation:
        """The same with features in place of images, for what is read more than once."""
        return replace(observation, features=torch.cat(list(self._features(observation).values()), dim=-1), images={})

    def forward(self, *batches: Batch) -> tuple[Tensor, Tensor]:
        """Per-observation losses: (sums [B], counts [B]) over valid action components; divide after reducing.

        Args:
            batches: of one embodiment each; B counts the observations of all, one batch after the other.
        """
        sums, counts = zip(*map(self._losses, batches), strict=True)
        return torch.cat(sums), torch.cat(counts)

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        number = self.config.number_of(batch.observation.embodiment)
        keyframes = self.normalize_state[number](batch.keyframes)
        seen = batch.observation if self.critic is None else self._encoded(batch.observation)
        shift = batch.shift if self.training else None
        context = self.read(seen, nearest_to(keyframes), shift)
        action = self.normalize_action[number](_held(batch.action, batch.valid))
        error = self.head.loss(context, action, batch.noise, batch.time)  # [B, H, A]
        valid = batch.valid[:, :, None].expand_as(error)
        sums, counts = (error * valid).sum(dim=(1, 2)), valid.sum(dim=(1, 2))
        surprise = context.keyframes.surprise(keyframes)
        sums = sums + self.config.model.keyframe_weight * surprise * counts
        if self.critic is None:
            return sums, counts
        weight, missed = self._judge(self.critic, seen, batch, action, shift)
        return weight * sums + missed * counts, counts

    def _judge(self, critic: Critic, seen: Observation, batch: Batch, action: Tensor,
               shift: Tensor | None) -> tuple[Tensor, Tensor]:
        """How much imitating each normalised action [B, H, A] is worth, and the critic's own loss: [B] each."""
        assert batch.consequence is not None
        with torch.no_grad():  # as when acting: without knowing what came after
            before, after = (self.read(what, shift=shift) for what in (seen, batch.consequence.after))
        missed = critic.loss(before, action, batch.consequence.reward, batch.consequence.discount, after)
        weight = torch.ones_like(missed) if batch.imitated is None else batch.imitated.to(missed)
        if critic.settings.advantage_temperature is not None:
            advantage = critic.advantage(before, action) / critic.settings.advantage_temperature
            weight = weight * advantage.exp().clamp(max=GREATEST_WEIGHT)
        return weight, missed

    # ---- acting

    def act(self, observation: RawObservation, instruction: str = "", seed: int = 0, guidance: float = 1.0,
            goal: Goal | None = None, candidates: int = 1, embodiment: str | None = None) -> np.ndarray:
        """The next H actions, float32 [H, A] in robot units, for one raw observation (see `vla.models.observe`).

        Args:
            instruction: what is asked for in words; "" says nothing.
            seed: of the diffusion noise: the same call gives the same chunk.
            guidance: classifier-free guidance scale; more than 1 exaggerates what the instruction changes.
            goal: what is asked for in other ways, for a policy that was trained to understand them.
            candidates: chunks that are sampled; the critic chooses the best.
            embodiment: the robot that acts, by the `robot_type` of its data; by default the only one that was trained.

        Raises:
            ObservationError: the observation or the goal doesn't fit the policy, or it isn't clear for which robot.
            ValueError: several candidates, but no critic.
        """
        return self.act_batch([observation], [instruction], [seed], guidance, [goal], candidates, embodiment)[0]

    def act_batch(
        self,
        observations: Sequence[RawObservation],
        instructions: Sequence[str],
        seeds: Sequence[int],
        guidance: float = 1.0,
        goals: Sequence[Goal | None] | None = None,
        candidates: int = 1,
        embodiment: str | None = None,
        explore: float = 0.0,
    ) -> np.ndarray:
        """`act` for B robots of one kind at once: float32 [B, H, A].

        Where there is a single candidate, `explore` is the chance that it leads where the policy thinks it possible to
        go, each place as likely as it thinks it is, instead of to the likeliest.
        """
        config, model = self.config, self.config.model
        robot = config.embodiments[config.number_of(embodiment)]
        layout = Layout(config.cameras, robot.state_dim, model.history, list(model.task_kinds), config.tasks,
                        model.goal_state, robot.goal_dim, robot.name)
        observation = stack(observations, instructions, layout, goals).to(self.device)
        shape = (candidates, model.horizon, robot.action_dim)
        rngs = [np.random.default_rng(seed) for seed in seeds]
        noise = torch.from_numpy(np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in rngs]))
        noise = noise.to(self.device)
        chance = torch.from_numpy(np.stack([rng.random((candidates, model.keyframes), np.float32) for rng in rngs]))
        chance = chance.to(self.device)
        if candidates > 1:
            return self.sample_best(observation, noise, chance, guidance).cpu().numpy()
        explores = torch.tensor([rng.random() < explore for rng in rngs], device=self.device)
        return self.sample(observation, noise[:, 0], guidance, drawn_by(chance[:, 0], explores)).cpu().numpy()

    def check_layout(
        self, cameras: Mapping[str, Sequence[int]], state_dim: int, action_dim: int, fps: float,
        embodiment: str | None = None,
    ) -> None:
        """Raises ObservationError unless data or a robot of this layout fits the policy."""
        robot = self.config.embodiments[self.config.number_of(embodiment)]
        sizes = {name: list(size) for name, size in cameras.items()}
        for name, theirs, ours in (("cameras", sizes, self.config.cameras), ("state_dim", state_dim, robot.state_dim),
                                   ("action_dim", action_dim, robot.action_dim), ("fps", fps, robot.fps)):
            if theirs != ours:
                raise ObservationError(f"{name}: is {theirs}, but the policy was trained with {ours}")

    @torch.no_grad()
    def sample(self, observation: Observation, noise: Tensor, guidance: float = 1.0,
               choose: Choose = likeliest) -> Tensor:
        """Action chunks [B, H, A] in robot units from standard normal `noise` [B, H, A]."""
        context = self.read(observation, choose)
        unconditional = None
        if guidance != 1.0:
            unconditional = self.read(replace(observation, task=observation.task.withheld()))
        normalize = self.normalize_action[context.embodiment]
        bounds = normalize(normalize.low), normalize(normalize.high)
        return normalize.inverse(self.head.sample(context, noise, bounds, unconditional, guidance))

    @torch.no_grad()
    def sample_best(self, observation: Observation, noise: Tensor, chance: Tensor, guidance: float = 1.0) -> Tensor:
        """The chunks [B, H, A], robot units, that the critic thinks best of K sampled ones.

        Args:
            noise: [B, K, H, A] standard normal.
            chance: [B, K, W] in [0, 1), by which candidates lead elsewhere. The first leads to the likeliest keyframes.

        Raises:
            ValueError: the policy has no critic.
        """
        if self.critic is None:
            raise ValueError("the policy has no critic to choose among candidates; train one with model.critic")
        count = noise.shape[1]
        seen = self._encoded(observation)
        explores = (torch.arange(count, device=noise.device) > 0).repeat(len(noise))
        choose = drawn_by(rearrange(chance, "b k w -> (b k) w"), explores)
        chunks = self.sample(seen.repeat(count), rearrange(noise, "b k h a -> (b k) h a"), guidance, choose)
        chunks = rearrange(chunks, "(b k) h a -> b k h a", k=count)
        context = self.read(seen)
        best = self.critic.quality(context, self.normalize_action[context.embodiment](chunks)).argmax(dim=1)
        return chunks.take_along_dim(best[:, None, None, None], dim=1).squeeze(1)


def _goal_normalizers(model: ModelConfig, robots: Sequence[Embodiment]) -> Adapters[Normalizer] | None:
    """None where the policy isn't told by a goal state."""
    return Adapters(robots, lambda robot: Normalizer(robot.goal_dim)) if takes_state(model.task_kinds) else None


def policy_folder(path: str | Path) -> Path:
    """The folder of a policy: `path` itself, `policy/` in a training checkpoint or run, or a repository on the hub.

    Raises:
        FileNotFoundError: no policy there. ValueError: not one of this project.
    """
    folder = Path(path) if Path(path).exists() else Path(snapshot_download(str(path)))
    if (folder / "policy").is_dir():
        folder = folder / "policy"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no config.json here; give a folder that `vla train` or save_pretrained wrote"
        )
    if json.loads((folder / "config.json").read_text()).get("model_type") != VLAConfig.model_type:
        raise ValueError(f"{folder / 'config.json'}: model_type is not 'vla'; not a checkpoint of this project")
    return folder


def _held(action: Tensor, valid: Tensor) -> Tensor:
    """`action` [B, H, A] with the last valid one held beyond the segment's end (valid [B, H] is False there)."""
    last = valid.sum(dim=1, keepdim=True) - 1
    index = torch.arange(action.shape[1], device=action.device).minimum(last)
    return action.take_along_dim(index[:, :, None], dim=1)


def _bare(config: dict[str, Any]) -> PreTrainedModel:
    config = dict(config)
    return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
