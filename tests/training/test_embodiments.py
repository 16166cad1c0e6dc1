"""One run on the data of two robots with other states, actions and units."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from robots import ROBOTS, write_robot
from test_trainer import assert_same_run, losses, stopped_at

from vla.batch import Batch
from vla.config import Config
from vla.data.batches import BatchSource, load_training_data
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.models.observe import ObservationError
from vla.models.policy import VLAPolicy
from vla.training.trainer import _build_policy, train

H = 8
MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("robots")
    return {robot: write_robot(folder / robot, robot) for robot in ROBOTS}


@pytest.fixture
def config(data: dict[str, Path], encoders: dict[str, str], tmp_path: Path) -> MakeConfig:
    """`config(folder, **values)`: a run of 4 steps on both robots."""
    both = {"data__datasets": [str(path) for path in data.values()], "data__stratify_by": "embodiment"}
    return lambda folder="run", **values: tiny.run_config(
        Path("unused"), encoders, tmp_path / folder, **{**both, "training__steps": 4, **values}
    )


def raw_observation(path: Path, frame: int = 0) -> dict[str, np.ndarray]:
    dataset, at = EpisodeDataset(path), np.array([frame])
    return {"observation.state": dataset.state(at)[0], "observation.images.top": dataset.frames("top", at)[0]}


def assert_in_range(policy: VLAPolicy, robot: str, data: dict[str, Path]) -> None:
    """A chunk has the robot's shape and stays within what was recorded of it."""
    chunk = policy.act(raw_observation(data[robot]), "touch the red disc", embodiment=robot)
    actions = EpisodeDataset(data[robot]).column("action")
    assert chunk.shape == (H, ROBOTS[robot][1])
    assert (chunk >= actions.min(axis=0)).all() and (chunk <= actions.max(axis=0)).all()


class TestActing:
    def test_each_robot_is_told_in_its_own_units(self, config: MakeConfig, data: dict[str, Path]) -> None:
        run = config()
        policy = VLAPolicy.from_pretrained(train(run))
        assert np.isfinite(losses(run)).all()
        lines = [json.loads(line) for line in (Path(run.output) / "metrics.jsonl").read_text().splitlines()]
        assert all({"loss/arm", "loss/crane"} < set(line) for line in lines)
        for robot, (states, actions, *_) in ROBOTS.items():
            assert_in_range(policy, robot, data)
            policy.check_layout({"top": (64, 64)}, states, actions, 10, robot)
        with pytest.raises(ObservationError, match="state_dim: is 3, but the policy was trained with 5"):
            policy.check_layout({"top": (64, 64)}, 3, 4, 10, "crane")

    def test_a_robot_must_be_named_where_there_are_several(self, config: MakeConfig, data: dict[str, Path]) -> None:
        run = config()
        policy = _build_policy(run, load_training_data(run)).eval()
        for name, message in ((None, "none was named"), ("boat", "is 'boat'")):
            with pytest.raises(ObservationError, match=rf"embodiment: {message}, but .* with 'arm', 'crane'"):
                policy.act(raw_observation(data["arm"]), "touch the red disc", embodiment=name)
        with pytest.raises(ObservationError, match=r"observation\.state: shape \(3,\).* 5 components"):
            policy.act(raw_observation(data["arm"]), "touch the red disc", embodiment="crane")


class TestBatches:
    def test_a_batch_for_each_robot(self, config: MakeConfig) -> None:
        source = make_source(config())
        for step in range(4):
            arm, crane = source.batches(step)
            assert (arm.observation.embodiment, crane.observation.embodiment) == ("arm", "crane")
            assert len(arm.stratum) == len(crane.stratum) == 4  # quotas are exact
            assert arm.action.shape == (4, H, 2) and crane.action.shape == (4, H, 4)
            assert arm.observation.state.shape == (4, 1, 3) and crane.keyframes.shape == (4, 2, 5)
            assert arm.noise.shape == (4, 2, H, 2) and crane.noise.shape == (4, 2, H, 4)
            assert arm.total == crane.total == int(arm.valid.sum()) * 2 + int(crane.valid.sum()) * 4

    def test_slots_of_processes_make_up_the_global_batch(self, config: MakeConfig) -> None:
        """Also where one of them has no observation of a robot."""
        source = make_source(config())
        whole = source.batches(0)
        slices = [source.batches(0, slice(n, n + 3)) for n in (0, 3, 6)]
        assert [len(part) for part in slices] == [1, 2, 1]
        for batch in whole:
            mine = [part for parts in slices for part in parts
                    if part.observation.embodiment == batch.observation.embodiment]  # fmt: skip
            for name in ("action", "noise", "time", "stratum"):
                assert torch.equal(torch.cat([getattr(part, name) for part in mine]), getattr(batch, name)), name


class TestLearning:
    def test_what_is_shared_learns_from_all_by_their_weight(self, config: MakeConfig) -> None:
        run = config(model__critic={"layers": 1})
        policy = _build_policy(run, load_training_data(run))
        with torch.no_grad():  # a fresh head answers zero to everything, and what leads to it learns nothing
            for parameter in policy.head.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        batches = make_source(run).batches(0)
        mixed = gradients(policy, batches, batches[0].total)
        weights = [int(batch.valid.sum()) * batch.action.shape[-1] for batch in batches]
        alone = [gradients(policy, [batch], weight) for batch, weight in zip(batches, weights, strict=True)]
        shared = alone[0].keys() & alone[1].keys()
        assert "reader.latents" in shared and "head.blocks.0.talk.out.weight" in shared
        for name in shared:
            parts = [part[name] * weight / sum(weights) for part, weight in zip(alone, weights, strict=True)]
            torch.testing.assert_close(mixed[name], sum(parts), rtol=1e-3, atol=1e-5)
        assert min(mixed[name].abs().max() for name in ("reader.latents", "head.blocks.0.talk.out.weight")) > 1e-4
        own = {"head.action_in.{}.weight", "head.action_out.{}.weight", "critic.action_in.{}.weight",
               "reader.state.{}.0.weight", "reader.images.state.{}.of.top.weight"}  # fmt: skip
        for number, part in enumerate(alone):
            assert {name.format(number) for name in own} <= part.keys()
            assert not {name.format(1 - number) for name in own} & part.keys()
        assert mixed.keys() == alone[0].keys() | alone[1].keys()

    def test_a_continued_run_is_the_uninterrupted_one(
        self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = {"model__critic": {"layers": 1}, "model__task_kinds": ["language", "goal_state"],
                  "model__goal_state": "observation.state", "training__accumulation": 2}  # fmt: skip
        straight, broken = config("straight", **values), config("broken", **values)
        train(straight)
        with stopped_at(3, monkeypatch):
            train(broken)
        train(broken, resume=True)
        assert_same_run(straight, broken)
        assert losses(straight) == losses(broken)


class TestStartingPoint:
    def test_a_new_robot_comes_beside_the_known_one(self, config: MakeConfig, data: dict[str, Path]) -> None:
        source = train(config("first", data__datasets=[str(data["arm"])]))
        old = VLAPolicy.from_pretrained(source)
        second = config("second", data__datasets=[str(data["crane"])], init_from=str(source),
                        training__learning_rate=1e-12)  # fmt: skip
        policy = VLAPolicy.from_pretrained(train(second))
        assert [robot.name for robot in policy.config.embodiments] == ["arm", "crane"]
        for name, value in old.state_dict().items():
            torch.testing.assert_close(policy.state_dict()[name], value, rtol=0, atol=1e-6)
        for robot in ROBOTS:
            assert_in_range(policy, robot, data)
        observation = raw_observation(data["arm"])
        np.testing.assert_allclose(policy.act(observation, "touch it", embodiment="arm"),
                                   old.act(observation, "touch it"), atol=1e-5)  # fmt: skip


class TestRefusals:
    def test_one_robot_has_one_layout(self, config: MakeConfig, data: dict[str, Path], tmp_path: Path) -> None:
        other = write_robot(tmp_path / "other", "arm", 1, state_dim=4)
        with pytest.raises(DatasetError, match=r"other/meta/info\.json: state_dim: is 4, .* has 3 for the same "
                                               r"robot_type 'arm'.*another robot_type"):  # fmt: skip
            load_training_data(config(data__datasets=[str(data["arm"]), str(data["crane"]), str(other)]))

    def test_cameras_are_the_same_for_all(self, config: MakeConfig, data: dict[str, Path], tmp_path: Path) -> None:
        other = write_robot(tmp_path / "other", "crane", 1, camera="wrist")
        run = config(data__datasets=[str(data["arm"]), str(other)])
        with pytest.raises(DatasetError, match=r"other/meta/info\.json: cameras: is .*wrist.*the same cameras"):
            load_training_data(run)
        source = train(config("first", data__datasets=[str(data["arm"])]))
        with pytest.raises(ObservationError, match=r"cameras: is .*wrist.*, but the policy was trained with .*top"):
            train(config("second", data__datasets=[str(other)], init_from=str(source)))


def make_source(config: Config) -> BatchSource:
    return BatchSource(load_training_data(config), config)


def gradients(policy: VLAPolicy, batches: list[Batch], total: int) -> dict[str, torch.Tensor]:
    """Of the loss of these batches, where there is one."""
    policy.zero_grad()
    sums, _ = policy(*batches)
    (sums.sum() / total).backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
