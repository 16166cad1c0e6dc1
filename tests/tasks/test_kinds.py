"""One policy that can be told in words, by number, by a state, a picture or a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from vla.batch import TaskIdentifier
from vla.config import Config, ConfigError, parse_config
from vla.data.batches import BatchSource, load_training_data
from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.layout import things_of
from vla.models.embodiment import Embodiment
from vla.models.observe import Goal, ObservationError
from vla.models.policy import VLAPolicy
from vla.tasks.kinds import Clues, GoalState, Scene, Sizes
from vla.tasks.relabel import relabel
from vla.training.trainer import train

KINDS = ["language", "task_id", "goal_state", "goal_image", "video"]
STATE = "observation.environment_state"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    out = tmp_path_factory.mktemp("kinds") / "data"
    return collect(CollectSettings(out=out, episodes=6, num_workers=0, image_size=64))


def make_config(data: EpisodeDataset, **values: Any) -> Config:
    model = {"horizon": 8, "task_kinds": KINDS, "instruction_dropout": 0.2, **values.pop("model", {})}
    return parse_config({"data": {"datasets": [str(data.root)], **values}, "model": model,
                         "training": {"batch_size": 64}}, "test")  # fmt: skip


def make_source(data: EpisodeDataset, **values: Any) -> BatchSource:
    config = make_config(data, **values)
    return BatchSource(load_training_data(config), config)


class TestBatches:
    def test_every_kind_comes_alone_and_with_others_and_not_at_all(self, recorded: EpisodeDataset) -> None:
        source = make_source(recorded)
        tasks = [source.batches(step)[0].observation.task for step in range(30)]
        spoken = [[text != "" for text in task.instruction] for task in tasks]
        given = np.concatenate([
            np.stack([said, *(task.given[kind].numpy() for kind in KINDS[1:])], axis=1)
            for task, said in zip(tasks, spoken, strict=True)
        ])
        count = given.sum(axis=1)
        assert abs((count == 0).mean() - 0.2) < 0.03
        assert (given[count == 1].mean(axis=0) > 0.15).all()  # alone, each about as often
        assert 0.3 < (count == 1).mean() < 0.55 and (count > 2).mean() > 0.1

    def test_kinds_come_alone_as_often_as_is_asked(self, recorded: EpisodeDataset) -> None:
        drawn = [make_source(recorded, kinds_alone=alone)._draw(0).given for alone in (0.0, 1.0)]
        together, apart = (np.stack(list(given.values())).sum(axis=0) for given in drawn)
        assert together.max() > 2 and set(apart) == {0, 1}

    @pytest.mark.parametrize("goals", ["final", "future", "geometric"])
    def test_what_is_asked_for_is_what_the_frames_lead_to(self, recorded: EpisodeDataset, goals: str) -> None:
        """The goal is the last frame that is imitated, and where words are given, what they ask for."""
        source = make_source(recorded, goals=goals)
        states, segments = recorded.column(STATE), source.data.segments
        earlier = 0
        for step in range(4):
            batch = source.batches(step)[0]
            task = batch.observation.task
            assert task.goal_state is not None
            for row in range(64):
                now, goal = (np.flatnonzero((states == value.numpy()).all(axis=1)) for value in task.goal_state[row])
                [segment] = np.flatnonzero((segments.start <= now[0]) & (now[0] < segments.stop))
                last = segments.stop[segment] - 1
                assert now[0] <= goal[-1] <= last
                assert int(batch.valid[row].sum()) in np.minimum(goal - now[0] + 1, 8)
                earlier += last not in goal
                if task.instruction[row] or task.given["task_id"][row]:
                    assert task.instruction[row] in ("", segments.instruction[segment]) and last in goal
                for camera, images in task.images.items():
                    np.testing.assert_array_equal(images[row, -1], recorded.frames(camera, goal[-1:])[0])
        assert (earlier > 0) == (goals != "final")

    def test_a_lasting_goal_lies_beyond_the_frames_that_are_imitated(self, tmp_path: Path) -> None:
        """What comes first is imitated towards the end of what comes next, if that leaves it as it was."""
        data = collect(CollectSettings(out=tmp_path / "play", episodes=4, play=2, num_workers=0, image_size=64))
        relabel(data)
        settings = {"task_kinds": KINDS, "goal_state_ignores": ["tip"]}
        source = make_source(data, goals="lasting", sources=["hindsight"], model=settings)
        states, segments, used = data.column(STATE), source.data.segments, source.frames_used(0)
        beyond = 0
        for step in range(6):
            batch = source.batches(step)[0]
            task = batch.observation.task
            for row, pair in enumerate(task.goal_state.numpy()):
                now, goal = (np.flatnonzero((states == value).all(axis=1))[-1] for value in pair)
                stops = segments.stop[(segments.start <= now) & (now < segments.stop)]
                assert batch.valid[row].sum() in np.minimum(stops - now, 8)
                beyond += (goal >= stops).all()
                assert np.isin(np.arange(now, goal + 1), used).all()  # a video shows the whole way
                if task.instruction[row] or task.given["task_id"][row]:
                    assert goal + 1 in stops
        assert beyond > 20

    def test_a_slice_is_a_slice_of_the_whole(self, recorded: EpisodeDataset) -> None:
        source = make_source(recorded, goals="future")
        whole, part = source.batches(3)[0], source.batches(3, slice(1, None, 2))[0]
        assert part.total == whole.total
        assert part.observation.task.instruction == whole.observation.task.instruction[1::2]
        for kind, given in whole.observation.task.given.items():
            assert torch.equal(part.observation.task.given[kind], given[1::2])
        assert torch.equal(part.observation.task.goal_state, whole.observation.task.goal_state[1::2])

    def test_every_view_is_encoded_beforehand(self, recorded: EpisodeDataset) -> None:
        few = make_source(recorded, frame_stride=100, model={"task_kinds": ["language", "goal_image"]})
        ends = few.data.segments.stop - 1
        assert np.isin(ends, few.frames_used(0)).all() and len(few.frames_used(0)) < recorded.num_frames
        every = make_source(recorded, frame_stride=100, model={"task_kinds": ["video"]})
        assert len(every.frames_used(0)) == recorded.num_frames


@pytest.fixture(scope="module")
def trained(recorded: EpisodeDataset, encoders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> VLAPolicy:
    run = tiny.run_config(recorded.root, encoders, tmp_path_factory.mktemp("run"), model__task_kinds=KINDS)
    return VLAPolicy.from_pretrained(train(run))


def test_a_goal_state_tells_only_what_is_to_change() -> None:
    """A whole state would be the fingerprint of a scene, to remember by what was done in it."""
    torch.manual_seed(0)
    robot = Embodiment("robot", 2, 2, 10, goal_dim=4, goal_things=things_of(["a", "b", "c", "d"]))
    kind = GoalState(Sizes(width=16, heads=2, embodiments=[robot]))
    cells, where = torch.randn(1, 1, 9, 16), torch.randn(1, 9, 16)

    def told(now: list[float], goal: list[float]) -> Clues:
        return kind(TaskIdentifier([""]), Scene(cells, where, None, torch.tensor([[now, goal]]), 0))

    clues = told([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.9, 0.4])
    assert clues.mask is not None and clues.wanted is not None
    assert clues.mask[0].tolist() == [True, False, False, True, False]
    elsewhere = told([0.7, -0.5, 0.3, 0.0], [0.7, -0.5, 0.9, 0.0])
    torch.testing.assert_close(elsewhere.tokens[clues.mask], clues.tokens[clues.mask])
    torch.testing.assert_close(elsewhere.wanted, clues.wanted)
    farther = told([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, -0.9, 0.4])
    assert farther.wanted is not None and not torch.allclose(farther.wanted, clues.wanted)
    there = told([0.1] * 4, [0.1] * 4)  # nothing is left to do
    assert there.wanted is not None and torch.isfinite(there.wanted).all()


def test_things_of_a_sort_are_told_alike_and_whole() -> None:
    """What is learnt of one holds for the others, and a thing that moves along one axis says where it is on both."""
    torch.manual_seed(0)
    names = ["tip.z", *(f"thing_{number}.{axis}" for number in range(3) for axis in "xy")]
    robot = Embodiment("robot", 2, 2, 10, goal_dim=7, goal_things=things_of(names))
    kind = GoalState(Sizes(width=16, heads=2, embodiments=[robot]))
    cells, where = torch.randn(1, 1, 9, 16), torch.randn(1, 9, 16)

    def told(number: int, place: tuple[float, float]) -> Clues:
        now = torch.zeros(7)
        now[1 + 2 * number : 3 + 2 * number] = torch.tensor(place)
        goal = now.clone()
        goal[1 + 2 * number] += 0.5  # along x alone
        return kind(TaskIdentifier([""]), Scene(cells, where, None, torch.stack([now, goal])[None], 0))

    first, third, elsewhere = told(0, (0.1, 0.2)), told(2, (0.1, 0.2)), told(2, (0.1, 0.9))
    assert first.mask is not None and first.mask[0].tolist() == [True, False, True, False, False]
    assert third.mask is not None and third.mask[0].tolist() == [True, False, False, False, True]
    torch.testing.assert_close(first.tokens[0, 2], third.tokens[0, 4])
    torch.testing.assert_close(first.wanted, third.wanted)
    assert elsewhere.wanted is not None and not torch.allclose(elsewhere.wanted, third.wanted)


def test_what_a_cell_is_told_depends_on_where_it_is_and_not_on_what_it_shows() -> None:
    """In a policy that follows words looks are loud: a cell asking by them hardly hears what is said of its place."""
    torch.manual_seed(0)
    robot = Embodiment("robot", 2, 2, 10, goal_dim=4, goal_things=things_of(["a", "b", "c", "d"]))
    kind = GoalState(Sizes(width=16, heads=2, embodiments=[robot]))
    heard: list[torch.Tensor] = []
    kind.ask.register_forward_hook(lambda module, asked, told: heard.append(told))
    cells, where, goal = torch.randn(1, 1, 9, 16), torch.randn(1, 9, 16), torch.randn(1, 2, 4)
    for shown, places in ((cells, where), (100 * cells, where), (cells, where.flip(1))):
        kind(TaskIdentifier([""]), Scene(shown, places, None, goal, 0))
    told, louder, turned = heard
    assert not torch.allclose(told[0, 0], told[0, 8])
    torch.testing.assert_close(louder, told)
    torch.testing.assert_close(turned, told.flip(1))


def test_things_that_do_not_matter_are_not_told(
    recorded: EpisodeDataset, encoders: dict[str, str], tmp_path: Path
) -> None:
    names = recorded.names(STATE)
    told = [names[number] for sort in things_of(names, ["tip"]) for thing in sort for number in thing]
    assert told == [name for name in names if not name.startswith("tip.")]
    model = {"model__task_kinds": KINDS, "model__goal_state_ignores": ["arm"]}
    with pytest.raises(ConfigError, match=r"model\.goal_state_ignores: in .*there is no 'arm', only tip, thing_0"):
        train(tiny.run_config(recorded.root, encoders, tmp_path, **model))


def test_a_recording_says_whose_its_numbers_are(recorded: EpisodeDataset, trained: VLAPolicy) -> None:
    names = recorded.names(STATE)
    [things] = [sort for sort in trained.config.embodiments[0].goal_things if len(sort) > 1]
    assert [names[number] for thing in things for number in thing if names[number].endswith(".x")] == [
        f"thing_{slot}.x" for slot in range(6)
    ]
    # One unit for all of them: the same place is the same number, whichever thing is there.
    assert trained.normalize_goal is not None
    normalizer = trained.normalize_goal[0]
    for values in (normalizer.offset, normalizer.scale):
        assert (values[torch.tensor(things)] == values[things[0]]).all()


class TestActing:
    def observation(self, data: EpisodeDataset, frame: int = 0) -> dict[str, np.ndarray]:
        at = np.array([frame])
        images = {f"observation.images.{camera}": data.frames(camera, at)[0] for camera in data.cameras}
        return {"observation.state": data.state(at)[0], STATE: data.environment_state(at)[0], **images}

    def goals(self, data: EpisodeDataset, frame: int) -> dict[str, Goal]:
        [camera] = data.cameras
        frames = data.frames(camera, np.arange(frame - 3, frame + 1))
        return {
            "task_id": Goal(task="touch"),
            "goal_state": Goal(state=data.environment_state(np.array([frame]))[0]),
            "goal_image": Goal(images={camera: frames[-1]}),
            "video": Goal(images={camera: frames}),
        }

    def test_each_kind_changes_what_is_done(self, trained: VLAPolicy, recorded: EpisodeDataset) -> None:
        observation = self.observation(recorded)
        blank = trained.act(observation)
        for goal in self.goals(recorded, 12).values():
            assert not np.array_equal(trained.act(observation, goal=goal), blank)

    def test_what_others_are_told_does_not_matter(self, trained: VLAPolicy, recorded: EpisodeDataset) -> None:
        """Rows with all kinds of tasks side by side act as they would alone."""
        observation = self.observation(recorded)
        goals = [None, *self.goals(recorded, 12).values()]
        words = ["touch the red disc", "", "", "", ""]
        together = trained.act_batch([observation] * 5, words, [0] * 5, goals=goals)
        for row, (said, goal) in enumerate(zip(words, goals, strict=True)):
            np.testing.assert_allclose(together[row], trained.act(observation, said, goal=goal), atol=1e-4)

    def test_a_goal_that_does_not_fit_is_refused(self, trained: VLAPolicy, recorded: EpisodeDataset) -> None:
        observation, [camera] = self.observation(recorded), recorded.cameras
        with pytest.raises(ObservationError, match="'juggle' is none of the policy's"):
            trained.act(observation, goal=Goal(task="juggle"))
        with pytest.raises(ObservationError, match=r"goal.state: shape \(3,\)"):
            trained.act(observation, goal=Goal(state=np.zeros(3)))
        with pytest.raises(ObservationError, match=r"goal\.state: component 0 is nan"):
            trained.act(observation, goal=Goal(state=np.full(recorded.environment_state_dim or 0, np.nan)))
        with pytest.raises(ObservationError, match=f"goal.images.{camera}: missing"):
            trained.act(observation, goal=Goal(images={"nose": np.zeros((64, 64, 3), np.uint8)}))
        with pytest.raises(ObservationError, match=rf"goal.images.{camera}: shape \(8, 8, 3\)"):
            trained.act(observation, goal=Goal(images={camera: np.zeros((8, 8, 3), np.uint8)}))
        without = {key: value for key, value in observation.items() if key != STATE}
        with pytest.raises(ObservationError, match=f"{STATE}: missing"):
            trained.act(without, goal=self.goals(recorded, 5)["goal_state"])

    def test_a_policy_of_words_alone_says_so(self, encoders: dict[str, str]) -> None:
        policy = tiny.build(tiny.model_config(encoders))
        with pytest.raises(ObservationError, match="goal_image: the policy was trained to be told by language"):
            policy.act(tiny.raw_observation(), goal=Goal(images={"top": np.zeros((64, 64, 3), np.uint8)}))


def test_a_goal_state_needs_its_column(recorded: EpisodeDataset, encoders: dict[str, str], tmp_path: Path) -> None:
    config = tiny.run_config(recorded.root, encoders, tmp_path, model__task_kinds=["goal_state"])
    info = recorded.root / "meta/info.json"
    kept = info.read_text()
    try:
        info.write_text(kept.replace(f'"{STATE}"', '"observation.other"'))
        with pytest.raises(ConfigError, match=f"{STATE}, which .* doesn't have"):
            train(replace_output(config, tmp_path / "other"))
    finally:
        info.write_text(kept)


def replace_output(config: Config, output: Path) -> Config:
    return config.model_copy(update={"output": str(output)})


def test_nothing_asked_is_nothing_asked(recorded: EpisodeDataset, trained: VLAPolicy) -> None:
    """What classifier-free guidance compares with."""
    source = make_source(recorded)
    observation = source.batches(0)[0].observation
    blank = replace(observation, task=observation.task.withheld())
    assert blank.task.instruction == [""] * 64 and not blank.task.given
