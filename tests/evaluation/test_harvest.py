"""What a policy did is recorded as it was, and hindsight finds something in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from policies import FakePolicy, Oracle, PeekingSuite, Random

from vla.config import parse_config
from vla.data.batches import BatchSource, load_training_data
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.segments import Segments
from vla.envs.tabletop import held_out_combination, parse_outcome
from vla.envs.tabletop.render import render
from vla.evaluation.harvest import harvest
from vla.tasks.audit import audit
from vla.tasks.relabel import relabel

KINDS = ["language", "goal_state"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path_factory.mktemp("cache")))


def harvested(policy: FakePolicy, out: Path, episodes: int = 12) -> EpisodeDataset:
    return harvest(policy, PeekingSuite(), out, episodes)


def test_every_state_is_there_and_the_actions_lead_from_one_to_the_next(tmp_path: Path) -> None:
    dataset = harvested(Oracle(), tmp_path / "data", 6)
    segments = Segments.load(dataset)
    assert segments.success.all()
    assert not any(held_out_combination(parse_outcome(text)) for text in segments.outcome)
    for episode in range(6):
        frames = np.arange(dataset.episodes.start[episode], dataset.episodes.stop[episode])
        states = dataset.environment_state(frames)
        holds = parse_outcome(segments.outcome[episode]).holds(states)
        assert holds[-1] and not holds[:-1].any()
        np.testing.assert_array_equal(dataset.state(frames)[:, :2], states[:, :2])
        drawn = render(states[-1], 64).astype(int)
        assert np.abs(dataset.frames("top", frames[-1:])[0].astype(int) - drawn).mean() < 3


def test_labels_are_honest_whoever_acted(tmp_path: Path) -> None:
    dataset = harvested(Random(), tmp_path / "data")
    assert not Segments.load(dataset).success.all()
    assert audit(dataset) == []
    found = relabel(dataset)
    assert found.failures_used > 0 and audit(dataset) == []


def test_only_what_hindsight_finds_in_them_is_imitated(tmp_path: Path) -> None:
    """Not the way there: what is asked for is shown by the last thing that was done, from where that began."""
    dataset = harvested(Oracle(), tmp_path / "data", 6)
    config = parse_config({"data": {"datasets": [str(dataset.root)]}}, "test")
    with pytest.raises(DatasetError, match="no segment is left"):
        load_training_data(config)
    relabel(dataset)
    learnt = load_training_data(config).segments
    assert set(learnt.source) == {"hindsight"} and learnt.success.all()
    told = Segments.load(dataset).select(np.arange(6)).outcome
    assert {told[episode] for episode in learnt.episode} & set(learnt.outcome)
    critic = parse_config({"data": config.data.model_dump(), "model": {"critic": {}, "task_kinds": KINDS}}, "test")
    source = BatchSource(load_training_data(critic), critic)
    assert set(source.data.segments.source) == {"attempt", "hindsight"}  # an attempt has its worth
    for step in range(4):
        attempt = source.data.segments.source[source._draw(step).segment] == "attempt"
        [batch] = source.batches(step)
        assert batch.imitated is not None and attempt.any() and not batch.imitated.numpy()[attempt].any()


def test_exploring_is_the_policy_s(tmp_path: Path) -> None:
    policy = Random()
    harvest(policy, PeekingSuite(), tmp_path / "data", 2, explore=0.25)
    assert set(policy.explored) == {0.25}
    with pytest.raises(ValueError, match=r"explore is 1\.5"):
        harvest(policy, PeekingSuite(), tmp_path / "other", 2, explore=1.5)
    assert not (tmp_path / "other").exists()


def test_an_interrupted_harvest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vla.evaluation.harvest.GROUP", 4)
    whole = harvested(Random(), tmp_path / "whole")

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harvest(Random(), PeekingSuite(), tmp_path / "data", 12, progress=interrupted)
    assert EpisodeDataset(tmp_path / "data").num_episodes == 4
    dataset = harvested(Random(), tmp_path / "data")
    frames = np.arange(whole.num_frames)
    np.testing.assert_array_equal(dataset.environment_state(frames), whole.environment_state(frames))
    np.testing.assert_array_equal(dataset.action(frames), whole.action(frames))
