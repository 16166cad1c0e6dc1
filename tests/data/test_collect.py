"""Collection: the same episodes whatever the workers, the interruptions and the final number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.data.collect import SETTINGS, CollectSettings, collect, family_sequence
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.segments import Segments

SCRIPT = Path(__file__).parents[2] / "data_scripts/collect_demos.py"


@pytest.fixture
def settings(tmp_path) -> CollectSettings:
    return CollectSettings(out=tmp_path / "data", episodes=9, image_size=32, num_workers=0, episodes_per_file=4)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_workers_change_nothing(settings, tmp_path):
    collect(settings)
    collect(replace(settings, out=tmp_path / "two", num_workers=2))
    assert contents(settings.out) == contents(tmp_path / "two")


def test_more_episodes_later_equal_all_at_once(settings, tmp_path):
    for episodes in (3, 3, 9):
        collect(replace(settings, episodes=episodes))
    at_once = collect(replace(settings, out=tmp_path / "at_once"))
    dataset = EpisodeDataset(settings.out)
    frames = np.arange(at_once.num_frames)
    assert np.array_equal(dataset.environment_state(frames), at_once.environment_state(frames))
    assert np.array_equal(dataset.frames("top", frames), at_once.frames("top", frames))
    assert dataset.episodes.instruction.tolist() == at_once.episodes.instruction.tolist()


def test_demonstrations_succeed_and_are_balanced(settings):
    segments = Segments.load(collect(replace(settings, episodes=12)))
    assert segments.success.all()
    assert set(Counter(segments.task).values()) == {2}
    assert (segments.outcome != "").all() and (segments.embodiment == "tabletop").all()


def test_deliberate_failures_are_kept(settings):
    segments = Segments.load(collect(replace(settings, episodes=12, failure_rate=0.5)))
    assert 2 <= (~segments.success).sum() <= 10


def test_seeds_differ(settings, tmp_path):
    other = collect(replace(settings, out=tmp_path / "other", seed=1, episodes=2))
    assert not np.array_equal(collect(replace(settings, episodes=2)).state(np.arange(3)), other.state(np.arange(3)))


def test_held_out_combinations_stay_out(settings, tmp_path):
    from vla.envs.tabletop import held_out_combination, parse_outcome

    for combinations, expected in (("train", False), ("held_out", True)):
        out = tmp_path / combinations
        segments = Segments.load(collect(replace(settings, out=out, combinations=combinations)))
        assert {held_out_combination(parse_outcome(outcome)) for outcome in segments.outcome} == {expected}


def test_other_settings_are_not_mixed_in(settings):
    collect(replace(settings, episodes=1))
    with pytest.raises(DatasetError, match=r"seed.*recorded with 0"):
        collect(replace(settings, seed=1))
    with pytest.raises(DatasetError, match=r"images\.top"):
        collect(replace(settings, image_size=48))


def test_data_from_elsewhere_is_not_added_to(settings):
    collect(replace(settings, episodes=1))
    (settings.out / SETTINGS).unlink()
    with pytest.raises(DatasetError, match="empty folder"):
        collect(settings)


@pytest.mark.parametrize(("change", "named"), [
    ({"families": ("fly",)}, "fly"),
    ({"family_weights": "fly=2"}, "fly"),
    ({"family_weights": "touch=much"}, "touch=much"),
    ({"family_weights": "touch=-1"}, "shares"),
    ({"failure_rate": 1.5}, "failure_rate"),
])
def test_impossible_settings_are_refused(settings, change, named):
    with pytest.raises(ValueError, match=named):
        collect(replace(settings, **change))


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.1, 50), min_size=1), st.integers(1, 200))
def test_family_quotas(weights, episodes):
    sequence = family_sequence(weights, episodes)
    assert sequence == family_sequence(weights, episodes + 10)[:episodes]
    counts, total = Counter(sequence), sum(weights.values())
    assert all(counts[name] < episodes * weight / total + 1 for name, weight in weights.items())
    if len(set(weights.values())) == 1:
        assert max(counts[name] for name in weights) - min(counts[name] for name in weights) <= 1


def test_weights_of_the_command_line(settings):
    segments = Segments.load(collect(replace(settings, families=("region", "touch"), family_weights="region=2")))
    assert Counter(segments.task) == {"region": 6, "touch": 3}


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(tmp_path):
    out = tmp_path / "data"
    command = [sys.executable, str(SCRIPT), "--out", str(out), "--image-size", "32", "--num-workers", "1",
               "--episodes-per-file", "2", "--episodes"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    process = subprocess.Popen([*command, "100000"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    for _ in range(300):
        if (out / "meta/info.json").exists():
            break
        signal.sigtimedwait([], 0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130 and b"go on" in error and b"Traceback" not in error
    there = EpisodeDataset(out).num_episodes
    assert there >= 2
    finished = subprocess.run([*command, str(there + 2)], env=environment, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0 and f"{there + 2} episodes" in finished.stdout


def test_a_killed_recording_leaves_no_process_behind(tmp_path):
    out = str(tmp_path / "data")
    command = [sys.executable, str(SCRIPT), "--out", out, "--episodes", "100000", "--image-size", "32"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recording:
        parent, workers = psutil.Process(recording.pid), []
        while len(workers) < 2:
            time.sleep(0.1)
            workers = [child for child in parent.children() if "spawn_main" in " ".join(child.cmdline())]
        recording.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_play_claims_nothing_and_needs_no_success(settings):
    dataset = collect(replace(settings, episodes=3, play=3))
    segments = Segments.load(dataset)
    assert not segments.success.any() and set(segments.outcome) == {""} and set(segments.task) == {"play"}
    with pytest.raises(ValueError, match="play"):
        collect(replace(settings, out=settings.out.with_name("other"), play=3, failure_rate=0.5))
