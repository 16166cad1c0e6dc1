"""What a batch holds: the frames its sampler chose, cut where their segment or episode ends, and all its randomness."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vla.config import Config, ConfigError, parse_config
from vla.data.batches import (
    LATEST_TIME,
    BatchSource,
    held_out_segments,
    load_held_out_data,
    load_training_data,
)
from vla.data.episodes import EpisodeDataset
from vla.data.errors import DatasetError
from vla.data.segments import Segments

Write = Callable[..., Path]


def make_config(*datasets: Path, data: dict[str, Any] | None = None, **model: Any) -> Config:
    return parse_config({
        "data": {"datasets": [str(path) for path in datasets], "only_success": False, **(data or {})},
        "model": {"horizon": 4, **model},
        "training": {"batch_size": 24},
    }, "test")


def make_source(config: Config) -> BatchSource:
    return BatchSource(load_training_data(config), config)


@pytest.fixture
def data(write: Write) -> Path:
    return write(range(5))


def find(values: np.ndarray, column: np.ndarray) -> int:
    """The frame with these values; the samples are random, so there is one."""
    [frame] = np.flatnonzero((column == values).all(axis=1))
    return int(frame)


def test_chunks_and_keyframes_end_with_their_segment(data: Path) -> None:
    config = make_config(data)
    source = make_source(config)
    dataset, segments = source.data.datasets[0], source.data.segments
    states, actions = dataset.column("observation.state"), dataset.column("action")
    cut = 0
    for step in range(4):
        batch = source.batches(step)[0]
        for row in range(24):
            frame = find(batch.observation.state[row, 0].numpy(), states)
            [segment] = np.flatnonzero((segments.start <= frame) & (frame < segments.stop))
            stop = segments.stop[segment]
            length = min(4, stop - frame)
            cut += length < 4
            assert batch.valid[row].tolist() == [n < length for n in range(4)]
            np.testing.assert_array_equal(batch.action[row, :length], actions[frame : frame + length])
            ends = np.repeat(states[stop - 1][None], 2, axis=0)  # random actions have no switch
            np.testing.assert_array_equal(batch.keyframes[row], ends)
            assert batch.observation.task.instruction[row] in ("", segments.instruction[segment])
        assert batch.total == int(batch.valid.sum()) * 3
    assert cut > 10


def test_the_past_ends_at_the_episode_not_at_the_segment(data: Path) -> None:
    """A segment in the middle of an episode sees what was before it."""
    dataset = EpisodeDataset(data)
    whole = Segments.load(dataset)
    replace(whole, start=np.minimum(whole.start + 1, whole.stop - 1)).save(data)
    source = make_source(make_config(data, history=3))
    states, starts = dataset.column("observation.state"), dataset.episodes.start
    missing = 0
    for step in range(4):
        observation = source.batches(step)[0].observation
        assert observation.history_valid is not None
        for row in range(24):
            frame = find(observation.state[row, -1].numpy(), states)
            start = starts[dataset.episodes.of(np.array([frame]))[0]]
            past = np.arange(frame - 2, frame + 1)
            assert observation.history_valid[row].tolist() == (past >= start).tolist()
            np.testing.assert_array_equal(observation.state[row], states[np.maximum(past, start)])
            missing += int((past < start).sum())
        assert observation.images["top"].shape == (24, 3, 32, 32, 3)
    assert missing > 10


def test_images_belong_to_their_states(write: Write) -> None:
    folders = [write(range(3), "a"), write(range(3, 6), "b")]
    source = make_source(make_config(*folders))
    batch = source.batches(0)[0]
    columns = [dataset.column("observation.state") for dataset in source.data.datasets]
    seen = Counter()
    for row in range(24):
        state = batch.observation.state[row, 0].numpy()
        [number] = [n for n, column in enumerate(columns) if (column == state).all(axis=1).any()]
        seen[number] += 1
        dataset = source.data.datasets[number]
        for camera in ("top", "side"):
            [image] = dataset.frames(camera, np.array([find(state, columns[number])]))
            np.testing.assert_array_equal(batch.observation.images[camera][row, 0], image)
    assert set(seen) == {0, 1}


@pytest.mark.parametrize("first", [0.5, 0.75, 0.9])
def test_data_sets_get_exactly_their_shares(write: Write, first: float) -> None:
    """Whatever their size and their tasks, over any number of batches."""
    folders = [write(range(9), "large"), write(range(2), "small")]
    source = make_source(make_config(*folders, data={"dataset_shares": [first, 1 - first]}))
    owner = np.array([int(name.split("/")[0]) for name in source.data.strata])
    counts = np.zeros(2)
    for step in range(10):
        counts += np.bincount(owner[source.batches(step)[0].stratum], minlength=2)
        np.testing.assert_allclose(counts, 24 * (step + 1) * np.array([first, 1 - first]), atol=len(owner))
    np.testing.assert_allclose(counts, [240 * first, 240 * (1 - first)], atol=1)


def test_naive_batches_follow_the_data_and_stratified_ones_do_not(write: Write) -> None:
    """Task `push` has the even episodes; drop most of the odd ones to make `open` rare."""
    data = write(range(12))
    dataset = EpisodeDataset(data)
    segments = Segments.load(dataset)
    segments.select((segments.task == "push") | (segments.episode == 1)).save(data)
    rare = int(dataset.episodes.length[1])
    share = rare / (rare + int(dataset.episodes.length[::2].sum()))

    def drawn(stratify_by: str) -> float:
        source = make_source(make_config(data, data={"stratify_by": stratify_by}, instruction_dropout=0.0))
        rare_states = dataset.column("observation.state")[dataset.episodes.start[1] : dataset.episodes.stop[1]]
        states = np.concatenate([source.batches(step)[0].observation.state[:, 0] for step in range(20)])
        return float(np.mean([(rare_states == state).all(axis=1).any() for state in states]))

    assert drawn("task") == 0.5
    assert abs(drawn("none") - share) < 0.02 and share < 0.25


def test_only_what_reached_its_instruction_is_learnt_by_default(write: Write) -> None:
    data = write(range(4))
    dataset = EpisodeDataset(data)
    segments = Segments.load(dataset)
    replace(segments, success=np.array([True, False, True, False])).save(data)
    chosen = load_training_data(make_config(data, data={"only_success": True})).segments
    assert chosen.episode.tolist() == [0, 2]
    replace(segments, success=np.zeros(4, bool)).save(data)
    with pytest.raises(DatasetError, match=r"no segment is left.*only_success"):
        load_training_data(make_config(data, data={"only_success": True}))


def test_slots_of_processes_and_parts_make_up_the_global_batch(data: Path) -> None:
    source = make_source(make_config(data))
    whole = source.batches(3)[0]
    for parts in (2, 3):
        slices = [source.batches(3, slice(n, None, parts))[0] for n in range(parts)]
        for n, part in enumerate(slices):
            assert part.total == whole.total
            for name in ("action", "valid", "keyframes", "stratum", "noise", "time"):
                assert torch.equal(getattr(part, name), getattr(whole, name)[n::parts]), name
            assert part.observation.task.instruction == whole.observation.task.instruction[n::parts]
            assert torch.equal(part.observation.images["top"], whole.observation.images["top"][n::parts])


def test_a_batch_is_a_function_of_seed_and_number(data: Path) -> None:
    config = make_config(data)
    straight = make_source(config)
    batches = [straight.batches(step)[0] for step in range(4)]
    again = make_source(config).batches(3)[0]
    reseeded = config.model_copy(update={"training": config.training.model_copy(update={"seed": 1})})
    other = make_source(reseeded).batches(3)[0]
    assert torch.equal(again.noise, batches[3].noise) and torch.equal(again.action, batches[3].action)
    assert not torch.equal(batches[2].noise, batches[3].noise) and not torch.equal(other.noise, again.noise)


def test_the_grid_moves_by_less_than_a_cell_for_a_batch_as_a_whole(data: Path) -> None:
    plain = make_source(make_config(data)).batches(5)[0]
    source = make_source(make_config(data, vision={"merge": 3, "jitter": True}))
    batches = [source.batches(step)[0] for step in range(40)]
    shifts = torch.stack([batch.shift for batch in batches if batch.shift is not None])
    assert {tuple(shift) for shift in shifts.tolist()} == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    [part] = source.batches(5, slice(1, None, 2))
    assert part.shift is not None and torch.equal(part.shift, shifts[5])
    assert plain.shift is None and torch.equal(batches[5].action, plain.action)  # nothing else is drawn otherwise


def test_times_spread_evenly_and_stay_below_one(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(make_config(data, diffusion={"noise_samples": 4}))
    times = source.batches(0)[0].time
    assert times.shape == (24, 4) and times.dtype == torch.float32
    assert torch.equal((times * 4).floor(), torch.arange(4).expand(24, 4).float())

    class Latest(np.random.Generator):
        def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
            return np.full(size, np.nextafter(1.0, 0.0), dtype)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Latest(np.random.Philox(0)))
    assert float(source.batches(0)[0].time.max()) == float(LATEST_TIME) < 1


def test_instructions_are_withheld_as_often_as_asked(data: Path) -> None:
    source = make_source(make_config(data, instruction_dropout=0.25))
    tasks = [source.batches(step, slice(0, 24))[0].observation.task for step in range(40)]
    instructions = [text for task in tasks for text in task.instruction]
    assert abs(np.mean([text == "" for text in instructions]) - 0.25) < 0.05


def test_frames_used_are_those_that_batches_show(data: Path) -> None:
    config = make_config(data, history=2, data={"frame_stride": 2})
    source = make_source(config)
    states = source.data.datasets[0].column("observation.state")
    seen = {find(state, states) for step in range(12)
            for state in source.batches(step)[0].observation.state.flatten(0, 1).numpy()}
    assert seen == set(source.frames_used(0).tolist())


def test_each_data_set_has_its_own_stride(data: Path, write: Write) -> None:
    config = make_config(data, write(range(5, 9), "more"), data={"frame_stride": [1, 3]})
    source = make_source(config)
    assert len(source.frames_used(0)) == source.data.datasets[0].num_frames
    starts = source.data.datasets[1].episodes.start
    lengths = source.data.datasets[1].episodes.length
    expected = [start + age for start, length in zip(starts, lengths, strict=True) for age in range(0, length, 3)]
    assert source.frames_used(1).tolist() == expected
    states = source.data.datasets[1].column("observation.state")
    shown = np.concatenate([source.batches(step)[0].observation.state.flatten(0, 1).numpy() for step in range(20)])
    seen = np.flatnonzero((states[:, None] == shown).all(axis=2).any(axis=1))
    assert seen.tolist() == expected
    with pytest.raises(ValueError, match="frame_stride"):
        make_source(make_config(data, data={"frame_stride": [1, 3]}))


def test_fingerprints_tell_frames_and_segments_but_not_places(write: Write, tmp_path: Path) -> None:
    one, two = write(range(4), "one"), write(range(4), "two")
    fingerprint = load_training_data(make_config(one)).fingerprint
    assert load_training_data(make_config(two)).fingerprint == fingerprint
    segments = Segments.load(EpisodeDataset(two))
    replace(segments, instruction=np.array(["other"] * 4, dtype=object)).save(two)
    assert load_training_data(make_config(two)).fingerprint != fingerprint
    assert load_training_data(make_config(write(range(5), "three"))).fingerprint != fingerprint


def test_data_sets_of_different_layouts_are_refused(write: Write) -> None:
    one, other = write(range(2), "one"), write(range(2), "other", fps=20)
    with pytest.raises(DatasetError, match=r"other/meta/info\.json: fps: is 20.*10.*same robot_type"):
        load_training_data(make_config(one, other))


@pytest.mark.parametrize(("shares", "message"), [([1.0], "1 entries for 2"), ([1.0, 0.0], "leave the data set out")])
def test_shares_that_fit_no_data_are_refused(write: Write, shares: list[float], message: str) -> None:
    folders = [write(range(2), "one"), write(range(2), "two")]
    with pytest.raises(ValueError, match=message):
        load_training_data(make_config(*folders, data={"dataset_shares": shares}))


def test_late_batches_cost_no_more_than_early_ones(data: Path) -> None:
    """Asking twice for a batch, as accumulation does, must not count through all earlier ones again."""
    source = make_source(make_config(data))
    source.batches(2000)
    quotas = source._sampler._quotas
    steps = []
    plain = quotas._next
    quotas._next = lambda: steps.append(1) or plain()  # type: ignore[method-assign]
    for _ in range(3):
        source.batches(2000, slice(0, None, 2))
    source.batches(2001)
    assert len(steps) <= 5


def test_a_thread_builds_the_same_batches(data: Path) -> None:
    source, other = make_source(make_config(data)), make_source(make_config(data))
    with ThreadPoolExecutor(1) as pool:
        threaded = list(pool.map(source.batches, range(5)))
    for step, [batch] in enumerate(threaded):
        assert torch.equal(batch.observation.images["top"], other.batches(step)[0].observation.images["top"])


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 2)), min_size=1, max_size=40), st.floats(0.01, 0.99))
def test_every_stratum_gives_its_share_of_whole_episodes(
    write: Write, tmp_path: Path, rows: list[tuple[int, int]], share: float
) -> None:
    if not (tmp_path / "data").exists():
        write(range(12))
    whole = Segments.load(EpisodeDataset(tmp_path / "data"))
    segments = whole.select(np.array([episode for episode, _ in rows]))
    _, stratum = np.unique([stratum for _, stratum in rows], return_inverse=True)
    taken = held_out_segments(segments, stratum, share)
    np.testing.assert_array_equal(taken, held_out_segments(segments, stratum, share))
    assert not set(segments.episode[taken]) & set(segments.episode[~taken])
    for number in set(stratum):
        own = set(segments.episode[stratum == number])
        given = len(own & set(segments.episode[taken]))
        assert given >= min(share * len(own) - 1e-6, len(own) - 1)
    if len(set(stratum)) == 1:
        assert (~taken).any() and len(set(segments.episode[taken])) <= share * len(set(segments.episode)) + 1


def test_strata_can_be_chosen_and_episodes_held_out(write: Write) -> None:
    data = write(range(8))  # of the tasks push and open in turn
    config = make_config(data, data={"strata": ["push"], "held_out": 0.25})
    learnt, measured = load_training_data(config), load_held_out_data(config)
    assert learnt.strata == measured.strata == ["push"]
    assert (len(learnt.segments), len(measured.segments)) == (3, 1)
    assert {*learnt.segments.episode, *measured.segments.episode} == {0, 2, 4, 6}
    with pytest.raises(ConfigError, match=r"data\.strata: the data have no task 'pusch'; did you mean 'push'\?"):
        load_training_data(make_config(data, data={"strata": ["pusch"]}))
    with pytest.raises(ConfigError, match=r"no episode of 'open' is left for measuring"):
        load_held_out_data(make_config(data))
