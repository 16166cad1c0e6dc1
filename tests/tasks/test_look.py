"""Labels by looking are calibrated, honest about what they are worth, and leave open what can't be told."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.data.collect import CollectSettings, collect
from vla.data.episodes import EpisodeDataset
from vla.data.segments import Segments
from vla.models.pretrained import EncoderError
from vla.tasks.look import CriticLooker, TwoTowerLooker, calibrate, label_by_looking, score_attempts


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> EpisodeDataset:
    out = tmp_path_factory.mktemp("look") / "data"
    return collect(CollectSettings(out=out, episodes=10, num_workers=0, image_size=64, failure_rate=0.5))


def attempts(count: int, clear: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of first and last pictures; the last rises by `clear` standard deviations where it was done."""
    rng = np.random.default_rng(seed)
    success = rng.random(count) < 0.4
    first = rng.normal(size=count)
    return first, first + 0.5 * rng.normal(size=count) + 0.5 * clear * success, success


class TestCalibration:
    @settings(max_examples=20, deadline=None)
    @given(st.floats(0.5, 6), st.sampled_from([0.8, 0.9, 0.95]), st.integers(0, 1000))
    def test_claims_are_as_often_right_as_was_asked(self, clear: float, precision: float, seed: int) -> None:
        calibration, accuracy = calibrate(*attempts(4000, clear, seed), precision)
        assert calibration.accept > calibration.reject
        # Measured on the other half, so chance has its say.
        for right, claimed in ((accuracy.right, accuracy.claimed), (accuracy.right_misses, accuracy.misses)):
            if claimed > 50:
                assert right / claimed > precision - 4 * (precision * (1 - precision) / claimed) ** 0.5 - 0.02
        assert accuracy.claimed + accuracy.misses + accuracy.abstained == accuracy.attempts == 2000

    def test_the_clearer_the_pictures_the_less_is_left_open(self) -> None:
        blurred, clear = (calibrate(*attempts(4000, how, 0), 0.9)[1] for how in (1.0, 5.0))
        assert clear.abstained < 100 < blurred.abstained
        assert clear.right / clear.done > 0.9 > blurred.right / blurred.done

    def test_chances_are_what_they_say(self) -> None:
        first, last, success = attempts(8000, 2.0, 1)
        calibration, _ = calibrate(first, last, success)
        chance = calibration.chance(first, last)
        for low in (0.1, 0.3, 0.5, 0.7):
            here = (chance >= low) & (chance < low + 0.2)
            assert abs(success[here].mean() - chance[here].mean()) < 0.06

    def test_scores_that_mean_nothing_claim_nothing_much(self) -> None:
        rng = np.random.default_rng(0)
        first, last = rng.normal(size=(2, 2000))
        _, accuracy = calibrate(first, last, rng.random(2000) < 0.5, 0.9)
        assert accuracy.abstained > 0.95 * accuracy.attempts

    def test_too_little_is_refused(self) -> None:
        few = np.array([True, False, False, False])
        with pytest.raises(ValueError, match="too few attempts"):
            calibrate(np.zeros(4), np.ones(4), few)
        with pytest.raises(ValueError, match="precision is 1"):
            calibrate(*attempts(100, 1.0, 0), 1.0)


class Oracle:
    """Says yes to one instruction in the episodes with an even number."""

    name = "oracle"

    def scores(self, dataset: EpisodeDataset, frames: np.ndarray, instructions: Sequence[str]) -> np.ndarray:
        episodes = dataset.episodes.of(frames)
        last = dataset.episodes.stop[episodes] - 1 == frames
        asked = np.array([text == "touch the moon" for text in instructions])
        return np.where(last & asked & (episodes % 2 == 0), 5.0, -5.0)


def test_what_looks_done_becomes_a_segment_once(recorded: EpisodeDataset, tmp_path: Path) -> None:
    data = EpisodeDataset(shutil.copytree(recorded.root, tmp_path / "data"))
    success = np.tile([True, False], 50)
    calibration, accuracy = calibrate(np.full(100, -5.0), np.where(success, 5.0, -5.0), success)
    assert accuracy.right == accuracy.claimed == accuracy.done and accuracy.abstained == 0
    tasks = {"touch the moon": "touch", "move the moon": "region"}
    segments = label_by_looking(Oracle(), calibration, data, tasks, candidates=16)
    added = segments.select(segments.source == "vlm")
    assert added.episode.tolist() == list(range(0, data.num_episodes, 2))
    assert set(added.instruction) == {"touch the moon"} and set(added.task) == {"touch"}
    assert set(added.labeller) == {"oracle"} and (added.original_instruction != added.instruction).all()
    segments.save(data.root)
    again = label_by_looking(Oracle(), calibration, data, tasks, candidates=16)
    assert again.to_table() == segments.to_table()
    assert len(Segments.load(data)) == data.num_episodes + len(added)


def test_a_two_tower_model_looks_at_text_and_picture(recorded: EpisodeDataset, clip: str) -> None:
    looker, segments = TwoTowerLooker(clip), Segments.load(recorded)
    first, last = score_attempts(looker, recorded, segments)
    assert (np.abs(first) <= 1).all() and not np.array_equal(first, last)
    frames = np.zeros(2, np.int64)
    red, blue = looker.scores(recorded, frames, ["touch the red disc", "move the blue star"])
    assert red != blue


def test_a_model_that_cannot_look_says_why(encoders: dict[str, str], recorded: EpisodeDataset) -> None:
    with pytest.raises(EncoderError, match="BertModel without a text and an image tower"):
        TwoTowerLooker(encoders["bert"])
    with pytest.raises(EncoderError, match="cannot load 'nowhere/at-all'"):
        TwoTowerLooker("nowhere/at-all")
    with pytest.raises(ValueError, match=r"no critic to look with.*model\.critic"):
        CriticLooker(tiny.build(tiny.model_config(encoders)), "runs/plain")


@pytest.fixture(scope="module")
def clip(encoders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny CLIP with the image processor that belongs to one."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPProcessor

    folder = tmp_path_factory.mktemp("clip") / "clip"
    shutil.copytree(encoders["clip"], folder)
    size = {"height": 32, "width": 32}
    processor = CLIPImageProcessor(size=size, crop_size=size)
    CLIPProcessor(processor, AutoTokenizer.from_pretrained(folder, model_max_length=13)).save_pretrained(folder)
    return str(folder)
