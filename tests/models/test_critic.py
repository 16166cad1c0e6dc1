"""The critic learns what recorded chunks are worth, and leaves the policy alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from vla.batch import Observation
from vla.config import Config, ConfigError, CriticConfig, ModelConfig, parse_config
from vla.data.batches import BatchSource, load_training_data
from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.observations import recorded_observation
from vla.data.segments import Segments
from vla.evaluation.ranking import auc, auc_interval, rank
from vla.models.context import Context
from vla.models.critic import Critic
from vla.models.embodiment import Embodiment
from vla.models.pointer import Guess
from vla.models.policy import VLAPolicy
from vla.tasks.audit import audit
from vla.tasks.relabel import RelabelSettings, relabel
from vla.training.trainer import train

H, A, D, R, S = 8, 2, 32, 2, 3


def make_critic(**settings: Any) -> Critic:
    torch.manual_seed(0)
    settings = {"actions": 4, "layers": 1, **settings}
    robot = Embodiment("robot", state_dim=S, action_dim=A, fps=10)
    model = ModelConfig(width=D, heads=2, horizon=H, references=R)
    return Critic(model, CriticConfig(**settings), [robot])


def context_of(tokens: torch.Tensor, named: torch.Tensor | None = None) -> Context:
    guess = Guess(torch.zeros(len(tokens), 1, 1), torch.zeros(len(tokens), 1, 1, 1), torch.ones(1))
    named = torch.zeros(len(tokens), R, S) if named is None else named
    return Context(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), guess, torch.zeros(len(tokens), S), named)


class TestCritic:
    def test_its_gradient_ends_at_the_context(self) -> None:
        critic, tokens = make_critic(), torch.randn(5, 3, D, requires_grad=True)
        half = torch.full((5,), 0.5)
        critic.loss(context_of(tokens), torch.randn(5, H, A), half, half, context_of(tokens)).sum().backward()
        assert tokens.grad is None
        assert all(p.grad is not None for name, p in critic.named_parameters() if "norms" not in name)

    def test_it_knows_where_the_named_things_are(self) -> None:
        critic, tokens, named = make_critic(), torch.randn(2, 3, D), torch.randn(2, R, S)
        value = critic.value(context_of(tokens, named))
        moved = named.clone()
        moved[1, 0] += 0.5
        changed = critic.value(context_of(tokens, moved)) != value
        assert changed.tolist() == [False, True]

    def test_only_the_judged_actions_count(self) -> None:
        critic, context, chunk = make_critic(), context_of(torch.randn(3, 2, D)), torch.randn(3, 1, H, A)
        later, sooner = chunk.clone(), chunk.clone()
        later[:, :, 4:] += 1
        sooner[:, :, 3] += 1
        quality = critic.quality(context, chunk)
        assert torch.equal(critic.quality(context, later), quality)
        assert not torch.equal(critic.quality(context, sooner), quality)

    def test_candidates_are_judged_each_by_itself(self) -> None:
        critic, context, chunks = make_critic(), context_of(torch.randn(3, 2, D)), torch.randn(3, 5, H, A)
        together = critic.quality(context, chunks)
        for number in range(5):
            torch.testing.assert_close(critic.quality(context, chunks[:, number : number + 1])[:, 0],
                                       together[:, number])  # fmt: skip

    @pytest.mark.parametrize("expectile", [0.5, 0.9])
    def test_worth_on_a_path_is_discounted_by_the_way_left(self, expectile: float) -> None:
        """Places 0 to 3 on the way to a goal. One chunk leads on, half the time; the other one ends the attempt."""
        critic = make_critic(expectile=expectile)
        optimizer = torch.optim.Adam(critic.parameters(), lr=4e-3, betas=(0.9, 0.99))
        generator = torch.Generator().manual_seed(1)
        places, chunks = torch.randn(5, 1, D, generator=generator), torch.randn(2, H, A, generator=generator)
        for _ in range(800):
            place = torch.randint(0, 4, (64,), generator=generator)
            action = torch.randint(0, 2, (64,), generator=generator)
            reward = ((place == 3) & (action == 0)).float() * 0.8
            discount = ((place < 3) & (action == 0)).float() * 0.8
            here, after = context_of(places[place]), context_of(places[place + 1])
            loss = critic.loss(here, chunks[action], reward, discount, after)
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
        quality = critic.quality(context_of(places[:4]), chunks.expand(4, -1, -1, -1)).detach()
        value = critic.value(context_of(places[:4])).detach()
        assert (quality[:, 1] < 0.05).all()
        assert (quality[1:, 0].diff() > 0).all() and abs(float(quality[3, 0]) - 0.8) < 0.05
        # Between the two recorded chunks: halfway, or near the better one.
        assert abs(float(value[3]) - (0.4 if expectile == 0.5 else 0.72)) < 0.08
        assert critic.advantage(context_of(places[3:4]), chunks[:1])[0] > 0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    out = tmp_path_factory.mktemp("critic") / "data"
    return collect(CollectSettings(out=out, episodes=12, num_workers=0, image_size=64, failure_rate=0.5))


def make_config(data: EpisodeDataset, **settings: Any) -> Config:
    return parse_config({
        "data": {"datasets": [str(data.root)], **settings},
        "model": {"horizon": 8, "critic": {"actions": 4, "discount": 0.9}},
        "training": {"batch_size": 48},
    }, "test")  # fmt: skip


def find_frame(data: EpisodeDataset, observation: Observation, row: int) -> int:
    """The frame that a row of a batch shows last, found by its picture and state."""
    state, image = observation.state[row, -1].numpy(), observation.images["top"][row, -1].numpy()
    for frame in np.flatnonzero((data.column("observation.state") == state).all(axis=1)):
        if np.array_equal(data.frames("top", np.array([frame]))[0], image):
            return int(frame)
    raise AssertionError("no such frame")


class TestConsequences:
    def test_failures_are_judged_and_not_imitated(self, recorded: EpisodeDataset) -> None:
        source = BatchSource(load_training_data(make_config(recorded)), make_config(recorded))
        segments = source.data.segments
        failures = 0
        for step in range(4):
            batch = source.batches(step)[0]
            assert batch.consequence is not None and batch.imitated is not None
            for row in range(48):
                frame = find_frame(recorded, batch.observation, row)
                [segment] = np.flatnonzero((segments.start <= frame) & (frame < segments.stop))
                left = int(segments.stop[segment]) - 1 - frame
                success = bool(segments.success[segment])
                failures += not success
                assert bool(batch.imitated[row]) == success
                assert float(batch.consequence.discount[row]) == pytest.approx(0.9**4 if left > 4 else 0)
                reward = 0.9**left if left <= 4 and success else 0
                assert float(batch.consequence.reward[row]) == pytest.approx(reward)
                [after] = recorded.state(np.array([frame + min(4, left)]))
                np.testing.assert_array_equal(batch.consequence.after.state[row, 0], after)
                assert batch.consequence.after.task.instruction == batch.observation.task.instruction
        assert failures > 20

    def test_without_a_critic_nothing_changes(self, recorded: EpisodeDataset) -> None:
        config = make_config(recorded)
        plain = config.model_copy(update={"model": config.model.model_copy(update={"critic": None})})
        batch = BatchSource(load_training_data(plain), plain).batches(0)[0]
        assert batch.imitated is None and batch.consequence is None

    def test_all_are_imitated_if_failures_are_not_left_out(self, recorded: EpisodeDataset) -> None:
        config = make_config(recorded, only_success=False)
        assert BatchSource(load_training_data(config), config).batches(0)[0].imitated.all()

    @pytest.mark.parametrize("ignored", [[], ["tip"]])
    def test_a_goal_state_is_reached_where_the_recording_first_comes_near(
        self, recorded: EpisodeDataset, ignored: list[str]
    ) -> None:
        config = make_config(recorded, goal_tolerance=0.05)
        kinds = {"task_kinds": ["goal_state"], "goal_state_ignores": ignored, "instruction_dropout": 0.0}
        config = config.model_copy(update={"model": config.model.model_copy(update=kinds)})
        source = BatchSource(load_training_data(config), config)
        segments, states = source.data.segments, recorded.column("observation.environment_state")
        names = recorded.names("observation.environment_state")
        states = states[:, [name.split(".")[0] not in ignored for name in names]]
        early = 0
        for step in range(4):
            batch = source.batches(step)[0]
            assert batch.consequence is not None
            for row in range(48):
                frame = find_frame(recorded, batch.observation, row)
                [segment] = np.flatnonzero((segments.start <= frame) & (frame < segments.stop))
                last = int(segments.stop[segment]) - 1
                distance = np.linalg.norm(states[frame : last + 1].astype(float) - states[last], axis=1)
                left = int((distance <= 0.05).argmax())
                early += left < min(4, last - frame)
                assert float(batch.consequence.reward[row]) == pytest.approx(0.9**left if left <= 4 else 0)
                assert float(batch.consequence.discount[row]) == pytest.approx(0.9**4 if left > 4 else 0)
        assert early > 10

    def test_what_is_said_to_be_missed_is_never_imitated(self, recorded: EpisodeDataset, tmp_path: Path) -> None:
        data = EpisodeDataset(shutil.copytree(recorded.root, tmp_path / "data"))
        found = relabel(data, RelabelSettings(misses=2))
        segments = Segments.load(data)
        missed = segments.source == "missed"
        assert found.missed == missed.sum() > 12 and not segments.success[missed].any()
        assert audit(data) == []
        config = make_config(data, only_success=False)
        source = BatchSource(load_training_data(config), config)
        assert (source.data.segments.source == "missed").any()
        asked = set(segments.instruction[missed]) - set(segments.instruction[~missed])
        for step in range(4):
            batch = source.batches(step)[0]
            for text, imitated in zip(batch.observation.task.instruction, batch.imitated, strict=True):
                assert not (text in asked and imitated)
        plain = config.model_copy(update={"model": config.model.model_copy(update={"critic": None})})
        assert not (load_training_data(plain).segments.source == "missed").any()


@pytest.fixture(scope="module")
def trained(recorded: EpisodeDataset, encoders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> VLAPolicy:
    run = tiny.run_config(recorded.root, encoders, tmp_path_factory.mktemp("run"),
                          model__critic={"actions": 4, "advantage_temperature": 0.1})  # fmt: skip
    return VLAPolicy.from_pretrained(train(run))


class TestPolicy:
    def raw(self, data: EpisodeDataset, frame: int) -> dict[str, np.ndarray]:
        at = np.array([frame])
        return {"observation.state": data.state(at)[0], "observation.images.top": data.frames("top", at)[0]}

    def test_one_candidate_is_what_it_does_anyway(self, trained: VLAPolicy, recorded: EpisodeDataset) -> None:
        observation = self.raw(recorded, 0)
        usual = trained.act(observation, "touch the red disc", 3)
        np.testing.assert_array_equal(trained.act(observation, "touch the red disc", 3, candidates=1), usual)

    def test_the_best_candidate_is_played(self, trained: VLAPolicy, recorded: EpisodeDataset) -> None:
        """Whatever the critic likes: here, the chunk that goes furthest to the right."""
        observation = self.raw(recorded, 0)
        one = trained.act(observation, "touch the red disc", 3)
        assert trained.critic is not None
        judge, chosen = trained.critic.quality, []

        def right(context: Context, chunks: torch.Tensor) -> torch.Tensor:
            chosen.append(chunks)
            return chunks[..., 0].sum(dim=-1)

        try:
            trained.critic.quality = right  # type: ignore[method-assign]
            best = trained.act(observation, "touch the red disc", 3, candidates=6)
        finally:
            trained.critic.quality = judge  # type: ignore[method-assign]
        [chunks] = chosen
        assert chunks.shape == (1, 6, 8, 3) and len(torch.unique(chunks[0].flatten(1), dim=0)) == 6
        candidates = trained.normalize_action[0].inverse(chunks)[0].numpy()
        np.testing.assert_allclose(candidates[0], one, atol=1e-5)  # the first is what it does anyway
        np.testing.assert_allclose(best, candidates[chunks[0, ..., 0].sum(dim=-1).argmax()], atol=1e-5)

    def test_exploring_it_goes_elsewhere_and_otherwise_where_it_did(
        self, trained: VLAPolicy, recorded: EpisodeDataset
    ) -> None:
        observations, texts = [self.raw(recorded, 0)] * 6, ["touch the red disc"] * 6
        usual = trained.act_batch(observations, texts, range(6))
        np.testing.assert_array_equal(trained.act_batch(observations, texts, range(6), explore=0.0), usual)
        [sometimes, always] = (trained.act_batch(observations, texts, range(6), explore=e) for e in (0.5, 1.0))
        alike = [[np.array_equal(*pair) for pair in zip(sometimes, other, strict=True)] for other in (usual, always)]
        assert np.any(alike, axis=0).all() and not all(alike[0]) and not all(alike[1])

    def test_candidates_need_a_critic(self, encoders: dict[str, str]) -> None:
        policy = tiny.build(tiny.model_config(encoders))
        with pytest.raises(ValueError, match=r"no critic .* model\.critic"):
            policy.act(tiny.raw_observation(), "touch it", candidates=2)

    def test_a_loaded_critic_judges_alike(self, trained: VLAPolicy, recorded: EpisodeDataset, tmp_path: Path) -> None:
        trained.save_pretrained(tmp_path)
        loaded = VLAPolicy.from_pretrained(tmp_path)
        first, second = rank(trained, recorded, 8), rank(loaded, recorded, 8)
        np.testing.assert_array_equal(first.worth, second.worth)
        assert first.successes + first.failures == 12 and 0 <= first.ci95[0] <= first.auc <= first.ci95[1] <= 1

    def test_lookers_and_rankings_see_the_past_that_the_policy_sees(
        self, encoders: dict[str, str], recorded: EpisodeDataset
    ) -> None:
        config = tiny.run_config(recorded.root, encoders, Path("unused"), model__critic={"actions": 4},
                                 model__history=3, model__instruction_dropout=0.0)  # fmt: skip
        seen = BatchSource(load_training_data(config), config).batches(0)[0].observation
        frames = np.array([find_frame(recorded, seen, row) for row in range(8)])
        again = recorded_observation(recorded, frames, seen.task.instruction, history=3)
        assert torch.equal(again.state, seen.state) and torch.equal(again.history_valid, seen.history_valid)
        assert torch.equal(again.images["top"], seen.images["top"])

    def test_imitation_is_what_it_was_without(self, encoders: dict[str, str], recorded: EpisodeDataset) -> None:
        """Of a batch of successes a policy learns the same from the same weights, critic or not."""
        config = tiny.run_config(recorded.root, encoders, Path("unused"), model__critic={"actions": 4},
                                 model__instruction_dropout=0.0)  # fmt: skip
        batch = BatchSource(load_training_data(config), config).batches(0)[0]
        batch = replace(batch, imitated=torch.ones(8, dtype=torch.bool))
        gradients = []
        robot = Embodiment(recorded.embodiment, recorded.state_dim, recorded.action_dim, recorded.fps)
        for critic in (None, config.model.critic):
            torch.manual_seed(0)
            policy = VLAPolicy.build(config.model.model_copy(update={"critic": critic}), cameras={"top": (64, 64)},
                                     embodiments=[robot])  # fmt: skip
            policy.load_state_dict(gradients[0][1] if gradients else policy.state_dict(), strict=False)
            policy(batch)[0].sum().backward()
            gradients.append((policy.reader.latents.grad.clone(), policy.state_dict()))
        torch.testing.assert_close(gradients[0][0], gradients[1][0])

    def test_in_training_it_looks_through_the_moved_grid_too(
        self, trained: VLAPolicy, encoders: dict[str, str], recorded: EpisodeDataset
    ) -> None:
        config = tiny.run_config(recorded.root, encoders, Path("unused"), model__critic={"actions": 4})
        batch = BatchSource(load_training_data(config), config).batches(0)[0]
        batch = replace(batch, imitated=torch.zeros(8, dtype=torch.bool))  # what is left is what the critic missed
        still, moved = (replace(batch, shift=torch.tensor(shift)) for shift in ([0, 0], [1, -1]))
        with torch.no_grad():
            assert torch.equal(trained.eval()(still)[0], trained(moved)[0])
            assert not torch.equal(trained.train()(still)[0], trained(moved)[0])
        trained.eval()


def test_more_actions_than_a_chunk_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"critic\.actions 9 is more than horizon 8"):
        parse_config({"data": {"datasets": ["a"]}, "model": {"horizon": 8, "critic": {"actions": 9}}}, "test")


def test_the_area_counts_pairs_in_the_right_order() -> None:
    assert auc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1
    assert auc(np.array([1.0, 3.0]), np.array([1.0, 2.0])) == (0.5 + 0 + 1 + 1) / 4
    low, high = auc_interval(0.9, 50, 50)
    assert low < 0.9 < high < 1 and auc_interval(0.9, 500, 500)[0] > low
