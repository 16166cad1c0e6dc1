"""From demonstrations to a policy that learns on: fine-tuning and one round of the closed loop, by command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tiny import run_config

from vla.cli import main
from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.segments import Segments
from vla.models.policy import VLAPolicy
from vla.tasks.audit import audit
from vla.training.trainer import train


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def trained(tmp_path: Path, encoders: dict[str, str]) -> tuple[Path, Path]:
    """A policy that knows two families a little, and its data."""
    data = tmp_path / "old"
    families = ("touch", "region")
    collect(CollectSettings(out=data, episodes=8, families=families, image_size=64, num_workers=0))
    return train(run_config(data, encoders, tmp_path / "run", training__steps=2)), data


def test_finetuning_measures_old_and_new_before_and_after(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, old = trained
    new = tmp_path / "new"
    collect(CollectSettings(out=new, episodes=4, families=("lift",), image_size=64, num_workers=0))
    arguments = [str(policy), "--data", str(new), "--replay", str(old), "--output", str(tmp_path / "tuned")]
    assert main(["finetune", *arguments, "--steps", "2", "--episodes", "3"]) == 0
    printed = capsys.readouterr().out
    assert all(family in printed for family in ("touch", "region", "lift"))
    assert any(line.strip("│ ").startswith("all ") for line in printed.splitlines())
    for folder, checkpoint in (("evaluation_before", policy), ("evaluation", tmp_path / "tuned/policy")):
        evaluation = json.loads((tmp_path / "tuned" / folder / "evaluation.json").read_text())
        assert evaluation["checkpoint"] == str(checkpoint) and evaluation["success"]["n"] == 3
    config = yaml.safe_load((tmp_path / "tuned/config.yaml").read_text())
    assert config["data"]["datasets"] == [str(new), str(old)] and config["data"]["frame_stride"] == [1, 4]
    assert set(VLAPolicy.from_pretrained(tmp_path / "tuned/policy").config.tasks) == {"touch", "region", "lift"}


def test_a_critic_learns_from_attempts_that_explore(
    trained: tuple[Path, Path], tmp_path: Path, encoders: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    policy, old = trained
    tried = tmp_path / "tried"
    for _ in range(2):  # the second time nothing is left to do
        arguments = [str(policy), "--out", str(tried), "--episodes", "3", "--explore", "0.5", "--seed", "800000"]
        assert main(["attempt", *arguments]) == 0
        assert "3 attempts" in capsys.readouterr().out
    assert set(Segments.load(EpisodeDataset(tried)).source) == {"attempt"}
    config = run_config(old, encoders, tmp_path / "judge", training__steps=2, model__critic={"actions": 4})
    config.data.datasets.append(str(tried))
    judge = VLAPolicy.from_pretrained(train(config))
    assert judge.critic is not None


def test_a_policy_learns_from_its_own_attempts(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, old = trained
    arguments = [str(policy), "--replay", str(old), "--output", str(tmp_path / "improved")]
    arguments += ["--rollouts", "6", "--steps", "2", "--episodes", "2"]
    assert main(["improve", *arguments]) == 0
    rollouts = EpisodeDataset(tmp_path / "improved/rollouts")
    recorded = Segments.load(rollouts)
    assert rollouts.num_episodes == 6 and set(recorded.task[recorded.source == "attempt"]) == {"touch", "region"}
    assert audit(rollouts) == []
    assert "touch" in capsys.readouterr().out
    assert VLAPolicy.from_pretrained(tmp_path / "improved/policy").config.tasks
    assert main(["improve", *arguments]) == 0  # nothing is left to do
    assert EpisodeDataset(tmp_path / "improved/rollouts").num_episodes == 6
