"""Whether tasks help or hurt each other: equal updates, gradients that agree or oppose, a report that resumes."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_trainer import stopped_at

from vla import cli
from vla.batch import Batch
from vla.config import Config, ConfigError
from vla.data.batches import BatchSource, load_held_out_data, load_training_data
from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.segments import Segments
from vla.data.writer import Episode, EpisodeWriter
from vla.evaluation.statistics import Mean, Rate
from vla.models.policy import VLAPolicy
from vla.training.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, load_milestone
from vla.training.trainer import _build_policy, is_finished, train
from vla.training.transfer import report
from vla.training.transfer.arms import folder_name, moments, plan_arms
from vla.training.transfer.conflict import Conflict, measure_conflict
from vla.training.transfer.page import transfer_page
from vla.training.transfer.probes import by_episode, held_out_losses, of_task, probe
from vla.training.transfer.report import Measured, compare

FAMILIES = ("lift", "region", "touch")
LAYOUT: dict[str, Any] = {"fps": 10, "cameras": {"top": (64, 64)}, "state_dim": 3, "action_dim": 2, "video": False}
MakeConfig = Callable[..., Config]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 episodes of `region`, 6 of each other family, in turn."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("families") / "data"
    with EpisodeWriter(root, **LAYOUT) as writer:
        for number in range(24):
            family = ("region", "touch", "region", "lift")[number % 4]
            writer.add_episode(Episode(
                images={"top": rng.integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)},
                state=rng.normal(size=(10, 3)).astype(np.float32), action=rng.normal(size=(10, 2)).astype(np.float32),
                success=np.arange(10) == 9, instruction=f"{family} {number}", task=family,
            ))
    return root


@pytest.fixture
def config(data: Path, encoders: dict[str, str], tmp_path: Path) -> MakeConfig:
    """Of 4 steps of 6."""
    plain = {"training__steps": 4, "training__batch_size": 6, "data__held_out": 0.4, "evaluation__episodes": 6}
    return lambda **values: tiny.run_config(data, encoders, tmp_path / "unused", **{**plain, **values})


class TestArms:
    def test_updates_per_task_are_equal(self, config: MakeConfig, tmp_path: Path) -> None:
        multi, naive, *singles = plan_arms(config(training__batch_size=9), tmp_path)
        assert [arm.kind for arm in (multi, naive, *singles)] == ["multi_stratified", "multi_naive", *["single"] * 3]
        assert multi.tasks == naive.tasks == FAMILIES and [arm.tasks for arm in singles] == [(f,) for f in FAMILIES]
        assert {arm.config.training.steps for arm in (multi, naive, *singles)} == {4}
        together, by_amount = drawn(multi.config), drawn(naive.config)
        assert (together == 3).all()
        for number, arm in enumerate(singles):
            np.testing.assert_array_equal(drawn(arm.config)[:, 0], together[:, number])
        assert by_amount.sum() == together.sum() and by_amount[:, 1].sum() > by_amount[:, 0].sum()

    def test_arms_differ_in_nothing_else(self, config: MakeConfig, tmp_path: Path) -> None:
        arms = plan_arms(config(), tmp_path)
        own = {"data": {"weights", "power", "strata"}, "training": {"batch_size", "accumulation", "milestones"},
               "output": True}  # fmt: skip
        assert len({json.dumps(arm.config.model_dump(mode="json", exclude=own)) for arm in arms}) == 1
        policies = [_build_policy(arm.config, load_training_data(arm.config)).state_dict() for arm in arms[:3]]
        for name, value in policies[0].items():
            assert all(torch.equal(value, other[name]) for other in policies[1:]), name

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"data__strata": ["tuch", "lift"]}, r"data\.strata: the data have no task 'tuch'; did you mean 'touch'\?"),
            ({"data__strata": ["touch"]}, r"'touch' is the only one, and transfer needs two; name more with --tasks"),
            ({"data__stratify_by": "none"}, r"data\.stratify_by is none"),
            ({"training__batch_size": 2}, r"batch_size 2 is smaller than the number of tasks, 3"),
            ({"training__batch_size": 8}, r"batch_size 8 is not a multiple of the number of tasks, 3.*use 6 or 9"),
            ({"training__time_limit": 1.0}, r"training\.time_limit is set.*--training\.time_limit null"),
            ({"evaluation__env": "tabletop", "data__stratify_by": "instruction", "training__batch_size": 24},
             r"evaluation\.env tabletop has no family .*--evaluation\.env null"),
            ({"evaluation__env": "tabletop", "evaluation__episodes": 2}, r"evaluation\.episodes 2 is less than one"),
        ],
    )  # fmt: skip
    def test_what_can_not_be_compared_is_named(
        self, config: MakeConfig, tmp_path: Path, values: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            plan_arms(config(**values), tmp_path)

    def test_folders_tell_all_tasks_apart(self) -> None:
        names = ["touch", "next_to", "Touch", "touch ", "öffne es", "öffne/es", "押す", "x" * 200, "x" * 201]
        folders = [folder_name(name) for name in names]
        assert folders[:2] == ["touch", "next_to"] and len(set(folders)) == len(names)
        assert all(name.isascii() and "/" not in name and len(name) < 80 for name in folders)

    def test_moments_are_steps_of_the_run(self) -> None:
        assert moments(400) == [20, 100, 200, 300, 400]
        assert moments(2) == [1, 2] and moments(1) == [1]


def drawn(config: Config) -> np.ndarray:
    """[steps, strata]: observations of each in every batch."""
    data = load_training_data(config)
    source = BatchSource(data, config)
    strata = [torch.cat([batch.stratum for batch in source.batches(step)]) for step in range(config.training.steps)]
    return np.stack([np.bincount(stratum, minlength=len(data.strata)) for stratum in strata])


class TestProbes:
    def test_nothing_that_is_measured_on_is_learnt_from(self, config: MakeConfig, tmp_path: Path) -> None:
        for arm in plan_arms(config(), tmp_path):
            learnt, measured = load_training_data(arm.config), load_held_out_data(arm.config)
            assert not set(learnt.segments.episode) & set(measured.segments.episode)
            for task in arm.tasks:
                ours = learnt.segments.task == task
                theirs = measured.segments.task == task
                assert theirs.sum() == {"region": 5}.get(task, 3) and ours.sum() == {"region": 7}.get(task, 3)

    def test_every_policy_is_measured_on_the_same(self, config: MakeConfig) -> None:
        """Whatever it was trained on; and losses are those of its episodes."""
        run = config()
        held_out = load_held_out_data(run)
        policy = tiny_policy(run)
        losses = held_out_losses(policy, run, held_out, "touch")
        assert len(losses) == 3 and len(set(losses)) == 3 and np.isfinite(losses).all()
        alone = config(data__strata=["touch"])
        assert held_out_losses(policy, alone, load_held_out_data(alone), "touch") == losses
        batches = probe(policy, run, by_episode(held_out, "touch"), 3).batches(0)
        assert sorted(batches[0].stratum.tolist()) == [0, 1, 2] and "" not in batches[0].observation.task.instruction

    def test_many_episodes_are_thinned_evenly(self, config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        held_out = load_held_out_data(config())
        monkeypatch.setattr("vla.training.transfer.probes.EPISODES", 3)
        part = by_episode(held_out, "region")
        every = sorted(set(of_task(held_out, "region").segments.episode))
        assert [name.split("/")[1] for name in part.strata] == [str(every[n]) for n in (0, 2, 4)]
        assert set(part.stratum) == {0, 1, 2} and set(part.segments.task) == {"region"}


def tiny_policy(config: Config) -> VLAPolicy:
    """Untrained, but lively: a fresh head answers zero to everything, and what leads to it gets no gradient."""
    policy = _build_policy(config, load_training_data(config))
    with torch.no_grad():
        for parameter in policy.head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return policy.eval()


class TestConflict:
    def test_copies_of_a_task_agree(self, data: Path, encoders: dict[str, str], tmp_path: Path) -> None:
        copied = shutil.copytree(data, tmp_path / "copied")
        segments = Segments.load(EpisodeDataset(copied))
        touch = segments.select(segments.task == "touch")
        again = replace(touch, task=np.full(len(touch), "again", object))
        Segments.concatenate([touch, again]).save(copied)
        config = tiny.run_config(copied, encoders, tmp_path / "run")
        found = conflict_of(config, tiny_policy(config))
        np.testing.assert_allclose(found.cosine, 1, atol=1e-5)
        assert found.agreement[0] == pytest.approx(found.agreement[1]) and 0 < found.agreement[0] < 1

    def test_opposed_targets_conflict(self, encoders: dict[str, str], tmp_path: Path) -> None:
        config = tiny.run_config(write_opposed(tmp_path / "opposed"), encoders, tmp_path / "run",
                                 model__keyframe_weight=1e-6)  # fmt: skip
        fresh = _build_policy(config, load_training_data(config)).eval()  # answers zero, in the middle between the two
        found = conflict_of(config, fresh, hide_actions)
        assert found.cosine[0, 1] < -0.9
        assert found.pairs.tolist() == [found.cosine[0, 1]]
        assert (found.agreement > 0).all()

    def test_it_is_a_function_of_weights_and_survives_json(self, config: MakeConfig) -> None:
        found, again = (conflict_of(config(), tiny_policy(config())) for _ in range(2))
        read = Conflict.from_json(json.loads(json.dumps(found.to_json())))
        for other in (again, read):
            np.testing.assert_array_equal(found.cosine, other.cosine)
            np.testing.assert_array_equal(found.agreement, other.agreement)
        np.testing.assert_array_equal(found.cosine, found.cosine.T)
        np.testing.assert_allclose(np.diag(found.cosine), 1, atol=1e-6)


def conflict_of(
    config: Config, policy: VLAPolicy, change: Callable[[Batch], Batch] = lambda batch: batch
) -> Conflict:
    """Between all strata, by batches that are changed before."""
    data = load_training_data(config)
    sources = [probe(policy, config, of_task(data, task), 8) for task in data.strata]

    def batches_of(source: BatchSource) -> Callable[[int], list[Batch]]:
        return lambda number: [change(batch) for batch in source.batches(number)]

    return measure_conflict(policy, [batches_of(source) for source in sources], step=3, batches=4)


def hide_actions(batch: Batch) -> Batch:
    """Noise alone is denoised: nothing of what is wanted can be seen in it, else copying it would be right for all."""
    return replace(batch, time=torch.full_like(batch.time, 0.999))


def write_opposed(root: Path) -> Path:
    """Two tasks that see and are told the same, and do the opposite."""
    rng = np.random.default_rng(0)
    with EpisodeWriter(root, **LAYOUT) as writer:
        for _ in range(6):
            images = rng.integers(0, 256, (10, 64, 64, 3), dtype=np.uint8)
            state = rng.normal(size=(10, 3)).astype(np.float32)
            for task, way in (("there", 1.0), ("back", -1.0)):
                writer.add_episode(Episode(
                    images={"top": images}, state=state, action=np.full((10, 2), way, np.float32),
                    success=np.arange(10) == 9, instruction="move it", task=task,
                ))
    return root


class TestMilestones:
    def test_weights_are_kept_as_trained(self, config: MakeConfig, tmp_path: Path) -> None:
        run = config(training__milestones=[1, 4]).model_copy(update={"output": str(tmp_path / "run")})
        assert not is_finished(run)
        train(run)
        assert is_finished(run)
        latest = latest_checkpoint(tmp_path / "run/checkpoints")
        assert latest is not None
        kept, last = load_milestone(tmp_path / "run", 4), load_checkpoint(latest).tensors
        assert kept and all(torch.equal(value, last[f"raw/{name}"]) for name, value in kept.items())
        early = load_milestone(tmp_path / "run", 1)
        assert early.keys() == kept.keys() and not all(torch.equal(early[name], kept[name]) for name in kept)
        with pytest.raises(CheckpointError, match=r"step-000002.*train again with 2 among training\.milestones"):
            load_milestone(tmp_path / "run", 2)
        with pytest.raises(CheckpointError, match=r"training\.seed was 0, is 1"):
            is_finished(run.model_copy(update={"training": run.training.model_copy(update={"seed": 1})}))


class TestReport:
    def test_differences_are_taken_episode_by_episode(self, config: MakeConfig, tmp_path: Path) -> None:
        arms = plan_arms(config(), tmp_path)
        transfer = compare(arms, made_up(arms), [], load_training_data(arms[0].config))
        lift = transfer.tasks["lift"]
        assert lift.gain.mean == pytest.approx(1) and lift.gain.ci95 == pytest.approx((1, 1))  # though episodes differ
        assert lift.loss["single"].ci95[0] < 0 < lift.loss["single"].ci95[1]
        assert [task.verdict for task in transfer.tasks.values()] == ["helps", "hurts", "open"]
        assert lift.stratified_gain == Mean(0.0, 3, (0.0, 0.0))
        assert transfer.observations_per_step == 2
        assert sum(task.naive_share for task in transfer.tasks.values()) == pytest.approx(1)
        assert transfer.tasks["region"].naive_share > lift.naive_share

    def test_the_page_is_whole_and_has_heat_maps(self, config: MakeConfig, tmp_path: Path) -> None:
        arms = plan_arms(config(data__datasets=[str(rename(tmp_path, config().data.datasets[0]))]), tmp_path)
        rng = np.random.default_rng(0)
        conflicts = [Conflict(step, np.corrcoef(rng.normal(size=(3, 4))), rng.random(3)) for step in (1, 4)]
        transfer = compare(arms, made_up(arms), conflicts, load_training_data(arms[0].config))
        text, checker = transfer_page(transfer), _Checker()
        checker.feed(text)
        assert checker.open == [] and not {"src", "href"} & set(checker.attributes) and "script" not in checker.tags
        assert "1 helped, 1 hurt" in text and "&lt;b&gt;lift" in text and "<b>lift" not in text
        assert checker.tags["rect"] == 2 * 9 and text.count('rect class="self"') == 2 * 3
        assert checker.tags["circle"] == 3 + 3 * 3 + 3 * 3 + 3  # gain, success, loss, gain over naive
        assert "after 4 steps (100&nbsp;%)" in text

    @pytest.mark.slow
    def test_a_broken_off_report_goes_on_to_the_same_numbers(
        self,
        encoders: dict[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(report, "GRADIENT_BATCHES", 2)
        data, families = tmp_path / "data", ("touch", "region", "lift")
        collect(CollectSettings(data, episodes=24, families=families, image_size=64, num_workers=0))
        config = tiny.run_config(data, encoders, tmp_path / "unused", training__steps=2, training__batch_size=4,
                                 training__checkpoint_every=1, evaluation__env="tabletop", evaluation__episodes=2)
        path = tmp_path / "run.yaml"
        path.write_text(json.dumps(config.model_dump(mode="json")))

        def command(folder: str) -> list[str]:
            return ["transfer-report", "--config", str(path), "--out", str(tmp_path / folder),
                    "--tasks", "touch", "region", "--data.held-out", "0.4"]  # fmt: skip

        assert cli.main(command("straight")) == 0
        printed = capsys.readouterr().out
        assert "3/4  single/region" in printed and "touch" in printed and "transfer.html" in printed
        with stopped_at(1, monkeypatch):
            cli.main(command("broken"))
        assert not (tmp_path / "broken/transfer.json").exists()
        assert cli.main(command("broken")) == 0
        straight, broken = (tmp_path / folder / "transfer.json" for folder in ("straight", "broken"))
        assert straight.read_text() == broken.read_text()
        written = json.loads(straight.read_text())
        assert set(written["tasks"]) == {"touch", "region"} and [c["step"] for c in written["conflicts"]] == [1, 2]
        assert written["tasks"]["touch"]["success"]["single"]["n"] == 1

        def never(*args: object, **values: object) -> None:
            raise AssertionError("done already")

        monkeypatch.setattr("vla.training.transfer.arms.train", never)
        monkeypatch.setattr(report, "evaluate", never)
        monkeypatch.setattr(report, "measure_conflict", never)
        assert cli.main(command("broken")) == 0
        assert straight.read_text() == broken.read_text()
        capsys.readouterr()
        assert cli.main([*command("broken"), "--training.seed", "1"]) == 2
        assert "training.seed was 0, is 1" in capsys.readouterr().err


class _Checker(HTMLParser):
    """Counts tags and attributes, and sees whether tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def made_up(arms: list[Any]) -> list[dict[str, Measured]]:
    """Sharing helps the first task by 1, hurts the second, and does nothing much to the third."""
    base = (-3.0, 0.0, 3.0)
    effect = [(1.0, 1.0, 1.0), (-1.0, -1.1, -1.0), (-1.0, 0.0, 1.0)]
    found = []
    for arm in arms:
        values = {}
        for task in arm.tasks:
            change = effect[arms[0].tasks.index(task)] if arm.kind == "single" else (0.0, 0.0, 0.0)
            losses = tuple(one + other for one, other in zip(base, change, strict=True))
            values[task] = Measured(losses, Rate.of([True, False]))
        found.append(values)
    return found


def rename(tmp_path: Path, data: str) -> Path:
    """The data with markup in the name of a task."""
    copied = shutil.copytree(data, tmp_path / "renamed")
    segments = Segments.load(EpisodeDataset(copied))
    names = [f"<b>{task}" if task == "lift" else task for task in segments.task]
    replace(segments, task=np.array(names, object)).save(copied)
    return copied
