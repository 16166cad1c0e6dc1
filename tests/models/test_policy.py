"""The policy as a whole: saving, loading, acting, and what its loss looks at."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.batch import Batch, Observation, TaskIdentifier
from vla.models.observe import ObservationError
from vla.models.policy import VLAPolicy

H, S, A, W, FPS = 8, 3, 2, 2, 10  # of tiny.model_config and tiny.build


@pytest.fixture(scope="module")
def policy(encoders: dict[str, str]) -> VLAPolicy:
    return tiny.build(tiny.model_config(encoders))


def make_batch(valid: list[int], *, seed: int = 0, history: int = 1, cameras: tuple[str, ...] = ("top",)) -> Batch:
    """Observations with so many valid actions each."""
    generator = torch.Generator().manual_seed(seed)
    size = len(valid)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(size, *shape, generator=generator)

    def image() -> torch.Tensor:
        return torch.randint(0, 256, (size, history, 64, 64, 3), generator=generator, dtype=torch.uint8)

    instructions = ["touch the red disc", "", "move the blue star"]
    return Batch(
        observation=Observation(
            state=normal(history, S),
            task=TaskIdentifier([instructions[row % 3] for row in range(size)]),
            images={camera: image() for camera in cameras},
        ),
        action=normal(H, A),
        valid=torch.arange(H) < torch.tensor(valid)[:, None],
        keyframes=normal(W, S),
        stratum=torch.zeros(size, dtype=torch.int64),
        total=sum(valid) * A,
        noise=normal(4, H, A),
        time=torch.rand(size, 4, generator=generator),
    )


class TestSaving:
    def test_a_loaded_policy_acts_the_same(self, policy: VLAPolicy, tmp_path: Path) -> None:
        policy.save_pretrained(tmp_path)
        loaded = VLAPolicy.from_pretrained(tmp_path)
        assert not loaded.training
        for seed, instruction in enumerate(["touch the red disc", ""]):
            chunk = loaded.act(tiny.raw_observation(seed), instruction, seed)
            np.testing.assert_array_equal(chunk, policy.act(tiny.raw_observation(seed), instruction, seed))

    @pytest.mark.parametrize(("asked", "made"), [(None, 6), (1, 1), (3, 3)])
    def test_denoising_steps_are_chosen_when_loading(
        self, policy: VLAPolicy, tmp_path: Path, asked: int | None, made: int
    ) -> None:
        policy.save_pretrained(tmp_path)
        loaded, calls = VLAPolicy.from_pretrained(tmp_path, denoising_steps=asked), []
        loaded.head.register_forward_hook(lambda *_: calls.append(1))
        loaded.act(tiny.raw_observation(), "touch the red disc")
        assert len(calls) == made

    def test_no_denoising_step_is_refused(self, policy: VLAPolicy, tmp_path: Path) -> None:
        policy.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="denoising_steps is 0; a chunk takes at least one"):
            VLAPolicy.from_pretrained(tmp_path, denoising_steps=0)

    @pytest.mark.parametrize(("text", "vision"), [("bert", "vit"), ("clip", "clip"), ("t5", "mobilenet")])
    def test_a_saved_policy_needs_its_encoders_no_more(
        self, encoders: dict[str, str], tmp_path: Path, text: str, vision: str
    ) -> None:
        names = {"text": shutil.copytree(encoders[text], tmp_path / "text"),
                 "vision": shutil.copytree(encoders[vision], tmp_path / "vision")}
        model = tiny.model_config(encoders, text__name=str(names["text"]), vision__name=str(names["vision"]),
                                  vision__taps=[0, -1])
        policy = tiny.build(model)
        chunk = policy.act(tiny.raw_observation(), "touch the red disc")
        policy.save_pretrained(tmp_path / "policy")
        shutil.rmtree(names["text"])
        shutil.rmtree(names["vision"])
        again = VLAPolicy.from_pretrained(tmp_path / "policy").act(tiny.raw_observation(), "touch the red disc")
        np.testing.assert_array_equal(again, chunk)

    def test_nothing_pickled_is_saved(self, policy: VLAPolicy, tmp_path: Path) -> None:
        policy.save_pretrained(tmp_path)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt"}

    def test_a_damaged_file_is_named(self, policy: VLAPolicy, tmp_path: Path) -> None:
        policy.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
            VLAPolicy.from_pretrained(tmp_path)

    def test_other_folders_are_refused(self, encoders: dict[str, str], tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no config\.json here"):
            VLAPolicy.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match="model_type is not 'vla'"):
            VLAPolicy.from_pretrained(encoders["bert"])


class TestActing:
    def test_a_chunk_is_a_function_of_observation_instruction_and_seed(self, policy: VLAPolicy) -> None:
        observation = tiny.raw_observation()
        chunk = policy.act(observation, "touch the red disc", seed=1)
        assert chunk.shape == (H, A) and chunk.dtype == np.float32
        torch.manual_seed(123)
        np.testing.assert_array_equal(policy.act(observation, "touch the red disc", seed=1), chunk)
        for other in (
            policy.act(tiny.raw_observation(7), "touch the red disc", seed=1),
            policy.act(observation, "move the blue star", seed=1),
            policy.act(observation, "touch the red disc", seed=2),
        ):
            assert np.abs(other - chunk).max() > 1e-4

    def test_robots_of_a_batch_do_not_disturb_each_other(self, policy: VLAPolicy) -> None:
        observations = [tiny.raw_observation(seed) for seed in range(3)]
        instructions = ["touch the red disc", "", "put the blue star to the left of the green disc"]
        together = policy.act_batch(observations, instructions, [0, 1, 2])
        alone = [policy.act(*arguments) for arguments in zip(observations, instructions, range(3), strict=True)]
        np.testing.assert_allclose(together, alone, atol=1e-5)

    def test_guidance_of_one_is_none_and_of_more_exaggerates(self, policy: VLAPolicy) -> None:
        observation = tiny.raw_observation()
        plain = policy.act(observation, "touch the red disc")
        np.testing.assert_array_equal(policy.act(observation, "touch the red disc", guidance=1.0), plain)
        assert np.abs(policy.act(observation, "touch the red disc", guidance=3.0) - plain).max() > 1e-4
        # Nothing to exaggerate without an instruction.
        withheld = policy.act(observation, "")
        np.testing.assert_allclose(policy.act(observation, "", guidance=3.0), withheld, atol=1e-5)

    def test_an_empty_instruction_is_the_withheld_token(self, policy: VLAPolicy) -> None:
        observation = make_batch([H, H]).observation
        with torch.no_grad():
            context = policy.read(replace(observation, task=TaskIdentifier(["", "   ".strip()])))
            words = policy.reader.withheld.expand(2, -1)
            torch.testing.assert_close(context.tokens[:, -2], words, rtol=0, atol=0)
            policy.reader.withheld += 1
            moved = policy.read(replace(observation, task=TaskIdentifier(["", "touch the red disc"]))).tokens
            policy.reader.withheld -= 1
            told = policy.read(replace(observation, task=TaskIdentifier(["", "touch the red disc"]))).tokens
        # Only the observation without an instruction sees the token.
        assert not torch.allclose(moved[0], told[0])
        torch.testing.assert_close(moved[1], told[1], rtol=0, atol=0)

    def test_actions_stay_in_the_range_of_the_data(self, encoders: dict[str, str]) -> None:
        policy = tiny.build(tiny.model_config(encoders))
        low, high = torch.tensor([-0.1, 2.0]), torch.tensor([0.1, 3.0])
        policy.normalize_action[0].fit(torch.tensor([0.0, 2.5]), torch.tensor([0.1, 0.5]), low, high)
        chunk = policy.act(tiny.raw_observation(), "touch the red disc")
        assert (chunk >= low.numpy()).all() and (chunk <= high.numpy()).all()


class TestLoss:
    @settings(max_examples=20, deadline=None)
    @given(
        valid=st.lists(st.integers(1, H), min_size=1, max_size=3),
        garbage=st.sampled_from([0.0, 1e6, np.inf, np.nan]),
    )
    def test_padded_actions_change_nothing(self, policy: VLAPolicy, valid: list[int], garbage: float) -> None:
        batch = make_batch(valid)
        spoilt = replace(batch, action=batch.action.masked_fill(~batch.valid[:, :, None], garbage))
        (sums, counts), (spoilt_sums, _) = policy(batch), policy(spoilt)
        torch.testing.assert_close(spoilt_sums, sums, rtol=0, atol=0)
        assert counts.tolist() == [n * A for n in valid]

    def test_losses_of_a_batch_are_those_of_its_rows(self, policy: VLAPolicy) -> None:
        batch = make_batch([H, 3, 1])
        sums, counts = policy(batch)
        for row in range(3):
            alone = row_of(batch, row)
            row_sums, row_counts = policy(alone)
            torch.testing.assert_close(row_sums[0], sums[row], rtol=1e-4, atol=1e-4)
            assert row_counts[0] == counts[row]

    def test_every_valid_action_counts(self, policy: VLAPolicy) -> None:
        batch = make_batch([5])
        plain, _ = policy(batch)
        for position in range(5):
            action = batch.action.clone()
            action[0, position] += 1
            assert not torch.equal(policy(replace(batch, action=action))[0], plain)

    def test_features_of_a_cache_are_as_good_as_images(self, policy: VLAPolicy) -> None:
        batch = make_batch([H, 3])
        images = batch.observation.images["top"]
        features = policy.encode_images(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        cached = replace(batch, observation=replace(batch.observation, images={}, features=features))
        torch.testing.assert_close(policy(cached)[0], policy(batch)[0], rtol=0, atol=0)


class TestVariants:
    def test_every_camera_counts(self, encoders: dict[str, str]) -> None:
        cameras = ("top", "wrist")
        policy = tiny.build(tiny.model_config(encoders), cameras=cameras)
        observation = tiny.raw_observation(cameras=cameras)
        chunk = policy.act(observation, "touch the red disc")
        for camera in cameras:
            other = observation | {f"observation.images.{camera}": np.zeros((64, 64, 3), np.uint8)}
            assert np.abs(policy.act(other, "touch the red disc") - chunk).max() > 1e-4
        sums, _ = policy(make_batch([H, 3], cameras=cameras))
        assert sums.isfinite().all()

    def test_the_past_counts_where_it_exists(self, encoders: dict[str, str]) -> None:
        policy = tiny.build(tiny.model_config(encoders, history=3))
        now = tiny.raw_observation(0)
        past = [tiny.raw_observation(seed) for seed in (1, 2)]

        def stacked(*steps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {key: np.stack([step[key] for step in steps]) for key in now}

        first = policy.act(now, "touch the red disc")
        np.testing.assert_array_equal(policy.act(stacked(now), "touch the red disc"), first)
        second = policy.act(stacked(past[0], now), "touch the red disc")
        third = policy.act(stacked(past[1], past[0], now), "touch the red disc")
        assert np.abs(second - first).max() > 1e-4 and np.abs(third - second).max() > 1e-4
        # What is said not to exist isn't looked at.
        observation = make_batch([H], history=3).observation
        valid = torch.tensor([[False, True, True]])
        other = replace(observation, state=observation.state.clone(), history_valid=valid)
        other.state[:, 0] = 100
        tokens = [policy.read(replace(o, history_valid=valid)).tokens[:, 1:] for o in (observation, other)]
        torch.testing.assert_close(*tokens)

    @pytest.mark.parametrize("train", ["none", "all", 1])
    @pytest.mark.parametrize("encoder", ["text", "vision"])
    def test_encoders_learn_as_far_as_they_are_told(self, encoders: dict[str, str], encoder: str, train: Any) -> None:
        policy = tiny.build(tiny.model_config(encoders, **{f"{encoder}__train": train})).train()
        sums, _ = policy(make_batch([H, 3]))
        sums.sum().backward()
        backbone = getattr(policy, encoder).backbone
        learning = {name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        if train == "none":
            assert not learning
        elif train == "all":
            assert {name.split(".")[0] for name in learning} >= ({"embeddings"} if encoder == "text" else {"conv_stem"})
        else:
            # The last one that the deepest tap lets run, not the last there is.
            block = "encoder.layer.1." if encoder == "text" else "layer.5."
            assert learning and all(name.startswith(block) for name in learning)
        assert not any(p.grad is not None for p in backbone.parameters() if not p.requires_grad)

    def test_batch_statistics_of_a_trained_encoder_stay(self, encoders: dict[str, str]) -> None:
        policy = tiny.build(tiny.model_config(encoders, vision__train="all")).train()
        before = {name: value.clone() for name, value in policy.vision.backbone.named_buffers()}
        policy(make_batch([H, H]))
        for name, value in policy.vision.backbone.named_buffers():
            assert torch.equal(value, before[name])

    def test_bf16_computes(self, policy: VLAPolicy) -> None:
        batch = make_batch([H, 3])
        plain, _ = policy(batch)
        with torch.autocast("cpu", torch.bfloat16):
            sums, _ = policy(batch)
        torch.testing.assert_close(sums, plain, rtol=0.1, atol=0.1)

    def test_a_policy_moves_with_all_it_remembers(self, encoders: dict[str, str]) -> None:
        policy = tiny.build(tiny.model_config(encoders))
        policy.act(tiny.raw_observation(), "touch the red disc")
        policy.double()  # as another device would
        assert not policy.text._known and not policy.vision._fused

    def test_a_robot_of_another_layout_is_refused(self, policy: VLAPolicy) -> None:
        policy.check_layout({"top": (64, 64)}, S, A, FPS)
        with pytest.raises(ObservationError, match="cameras"):
            policy.check_layout({"top": (32, 32)}, S, A, FPS)
        with pytest.raises(ObservationError, match="action_dim"):
            policy.check_layout({"top": (64, 64)}, S, A + 1, FPS)
        with pytest.raises(ObservationError, match=f"fps: is {2 * FPS}, but the policy was trained with {FPS}"):
            policy.check_layout({"top": (64, 64)}, S, A, 2 * FPS)


def row_of(batch: Batch, row: int) -> Batch:
    """The batch with one observation only."""
    rows = slice(row, row + 1)
    observation = batch.observation
    return replace(
        batch,
        observation=replace(
            observation,
            state=observation.state[rows],
            task=TaskIdentifier(observation.task.instruction[rows]),
            images={name: images[rows] for name, images in observation.images.items()},
        ),
        **{name: getattr(batch, name)[rows] for name in ("action", "valid", "keyframes", "stratum", "noise", "time")},
    )
