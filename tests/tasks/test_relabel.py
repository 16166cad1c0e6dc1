"""Relabelling adds what is true, once, and leaves the recording alone; the audit finds whatever isn't."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla.cli import main
from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.lock import writing
from vla.data.segments import SEGMENTS, Segments
from vla.data.writer import Episode, EpisodeWriter
from vla.envs.tabletop import STATE_SIZE, held_out_combination, parse_instruction, parse_outcome
from vla.tasks import relabel as module
from vla.tasks.audit import audit
from vla.tasks.relabel import PARTS, RelabelSettings, relabel

LABELLER = "tabletop-outcomes"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of the 40 episodes fail on purpose."""
    root = tmp_path_factory.mktemp("recorded") / "data"
    collect(CollectSettings(out=root, episodes=40, failure_rate=0.5, image_size=32, num_workers=0))
    return root


@pytest.fixture
def dataset(recorded: Path, tmp_path: Path) -> EpisodeDataset:
    return EpisodeDataset(shutil.copytree(recorded, tmp_path / "data"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): digest(path) for path in sorted(root.rglob("*")) if path.is_file()}


def test_failures_become_demonstrations_of_what_they_did(dataset: EpisodeDataset) -> None:
    before = Segments.load(dataset)
    found = relabel(dataset)
    after = Segments.load(dataset)
    assert found.episodes == 40 and found.failures == 20 and found.failures_used >= 8
    added = after.select(after.labeller == LABELLER)
    assert len(added) == found.segments == sum(found.families.values())
    assert set(added.source) == {"hindsight"} and added.success.all() and (added.reward == 1).all()
    for row in range(len(added)):
        outcome = parse_outcome(added.outcome[row])
        assert parse_instruction(added.instruction[row]) == outcome and outcome.family == added.task[row]
        holds = outcome.holds(dataset.environment_state(np.arange(added.start[row], added.stop[row])))
        assert holds[-1] and not holds[0]
        assert added.original_instruction[row] == dataset.episodes.instruction[added.episode[row]]
    recorded = after.select(after.labeller == "")
    assert recorded.to_table().equals(before.to_table())


def test_what_an_episode_was_told_and_did_is_not_added_again(dataset: EpisodeDataset) -> None:
    relabel(dataset)
    segments = Segments.load(dataset)
    own = {(e, o) for e, o, s, source in zip(segments.episode, segments.outcome, segments.success, segments.source,
                                             strict=True) if s and source == "demonstration"}
    assert own
    hindsight = segments.source == "hindsight"
    assert not own & set(zip(segments.episode[hindsight], segments.outcome[hindsight], strict=True))


def test_a_second_run_gives_the_same_bytes_and_no_frame_is_touched(dataset: EpisodeDataset) -> None:
    before = files(dataset.root)
    relabel(dataset)
    once = files(dataset.root)
    relabel(EpisodeDataset(dataset.root))
    assert files(dataset.root) == once
    assert {name: value for name, value in once.items() if name != SEGMENTS} == {
        name: value for name, value in before.items() if name != SEGMENTS
    }


def test_a_run_that_was_killed_goes_on_where_it_stopped(
    dataset: EpisodeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PART_EPISODES", 10)
    relabel(dataset)
    whole = digest(dataset.root / SEGMENTS)
    Segments.load(dataset).select(Segments.load(dataset).labeller == "").save(dataset.root)

    def killed(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        relabel(dataset, progress=killed)
    assert len(list((dataset.root / PARTS).rglob("*.parquet"))) == 2
    made = []
    rows = module._Labeller.rows
    monkeypatch.setattr(module._Labeller, "rows", lambda self, a, b: made.append((a, b)) or rows(self, a, b))
    relabel(dataset)
    assert made == [(20, 30), (30, 40)]
    assert digest(dataset.root / SEGMENTS) == whole and not (dataset.root / PARTS).exists()


def test_a_data_set_that_is_being_written_to_is_left_alone(dataset: EpisodeDataset) -> None:
    before = digest(dataset.root / SEGMENTS)
    with writing(dataset.root), pytest.raises(DatasetError, match="is being written to"):
        relabel(dataset)
    assert digest(dataset.root / SEGMENTS) == before
    relabel(dataset)


def test_names_under_a_heading_are_the_same_names(dataset: EpisodeDataset) -> None:
    info = dataset.root / "meta/info.json"
    recorded = json.loads(info.read_text())
    recorded["features"]["action"]["names"] = {"motors": recorded["features"]["action"]["names"]}  # as LeRobot may
    info.write_text(json.dumps(recorded))
    assert relabel(EpisodeDataset(dataset.root)).segments


def test_combinations_that_are_kept_out_stay_out(dataset: EpisodeDataset) -> None:
    relabel(dataset, RelabelSettings(combinations="train"))
    kept = Segments.load(dataset)
    outcomes = [parse_outcome(text) for text in kept.outcome[kept.source == "hindsight"]]
    assert outcomes and not any(held_out_combination(outcome) for outcome in outcomes)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"robot_type": "other robot"}, "robot_type"),
        ({"environment_state_dim": None}, "observation.environment_state"),
        ({"environment_state_dim": 7}, "observation.environment_state"),
        ({"action_names": ("x", "y", "grip")}, "action.names"),
    ],
)
def test_it_is_refused_where_a_label_would_not_be_honest(tmp_path: Path, change: dict, field: str) -> None:
    layout: dict = {
        "fps": 10, "cameras": {}, "state_dim": 4, "action_dim": 3, "robot_type": "tabletop",
        "action_names": ("dx", "dy", "hold"), "environment_state_dim": STATE_SIZE, **change,
    }  # fmt: skip
    size = layout["environment_state_dim"]
    episode = Episode(
        images={}, state=np.zeros((3, 4), np.float32), action=np.zeros((3, 3), np.float32), success=np.zeros(3, bool),
        instruction="touch the red disc", environment_state=None if size is None else np.zeros((3, size), np.float32),
    )  # fmt: skip
    with EpisodeWriter(tmp_path / "data", **layout) as writer:
        writer.add_episode(episode)
    with pytest.raises(DatasetError, match=field):
        relabel(EpisodeDataset(tmp_path / "data"))


def test_an_unknown_family_is_named(dataset: EpisodeDataset) -> None:
    with pytest.raises(ValueError, match="juggle"):
        relabel(dataset, RelabelSettings(families=("juggle",)))


def test_the_audit_finds_nothing_on_honest_data(dataset: EpisodeDataset) -> None:
    assert audit(dataset) == []
    relabel(dataset)
    assert audit(dataset) == []


LIES = {
    "success": lambda s, row: {"success": ~s.success, "reward": (~s.success).astype(np.float32)},
    "reward": lambda s, row: {"reward": s.reward + 0.5},
    "outcome": lambda s, row: {"outcome": np.roll(s.outcome, 1)},
    "instruction": lambda s, row: {"instruction": np.roll(s.instruction, 1)},
    "start": lambda s, row: {"start": s.start + 1},
    "stop": lambda s, row: {"stop": s.stop - 1},
}


@pytest.mark.parametrize("lie", LIES)
def test_the_audit_finds_every_planted_lie(dataset: EpisodeDataset, lie: str) -> None:
    relabel(dataset)
    honest = Segments.load(dataset)
    false = replace(honest, **LIES[lie](honest, 0))
    changed = honest.source == "hindsight" if lie in ("start", "stop") else np.ones(len(honest), bool)
    changed &= false.stop - false.start > 0
    if lie in ("outcome", "instruction"):  # a neighbour may say the same
        changed &= false.outcome != honest.outcome if lie == "outcome" else np.array(
            [parse_instruction(a) != parse_instruction(b)
             for a, b in zip(false.instruction, honest.instruction, strict=True)]
        )
    for row in np.flatnonzero(changed)[::7]:
        columns = {}
        for name, values in LIES[lie](honest, row).items():
            columns[name] = getattr(honest, name).copy()
            columns[name][row] = values[row]
        replace(honest, **columns).save(dataset.root)
        problems = audit(dataset)
        assert [f"row {row}," in problem.problem for problem in problems] == [True]


def test_the_command_reports_and_validate_checks(
    dataset: EpisodeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["relabel", str(dataset.root)]) == 0
    said = capsys.readouterr().out
    assert "of 20 failures achieved something else" in said
    page = (dataset.root / "vla/relabelling.html").read_text()
    assert page.count("data:image/jpeg") >= 4 and "told to" in page
    assert main(["validate", str(dataset.root)]) == 0
    segments = Segments.load(dataset)
    replace(segments, success=~segments.success, reward=(~segments.success).astype(np.float32)).save(dataset.root)
    assert main(["validate", str(dataset.root)]) == 1
