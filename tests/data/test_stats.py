"""Statistics are exact however the values are split; normalisation is invertible and bounded for any data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla.data.stats import MAX_NORMALIZED, MIN_RELATIVE_SPREAD, MIN_SPREAD, Statistics, normalization

NUMBERS = st.floats(-1e6, 1e6, width=32)
TABLES = hnp.arrays(np.float32, st.tuples(st.integers(1, 60), st.integers(1, 4)), elements=NUMBERS)


@given(TABLES, st.lists(st.integers(0, 60), max_size=4))
def test_splitting_changes_nothing(values, cuts):
    whole = Statistics.of(values)
    parts = np.split(values, sorted(min(cut, len(values)) for cut in cuts))
    split = Statistics.of(*parts)
    assert split.to_json() == whole.to_json()
    assert whole.count == len(values)


@given(TABLES)
def test_agrees_with_numpy(values):
    stats, exact = Statistics.of(values), values.astype(np.float64)
    assert np.array_equal(stats.min, exact.min(0)) and np.array_equal(stats.max, exact.max(0))
    assert np.allclose(stats.mean, exact.mean(0)) and np.allclose(stats.std, exact.std(0), atol=1e-6)
    assert np.allclose(stats.q01, np.quantile(exact, 0.01, axis=0))
    assert np.allclose(stats.q90, np.quantile(exact, 0.90, axis=0))


def test_quantiles_of_parts_are_not_averaged():
    # A counter over 12 episodes, as LeRobot 4156 has it: averaging would put q01 at 139.
    episodes = np.split(np.arange(312.0)[:, None], 12)
    assert np.isclose(Statistics.of(*episodes).q01[0], 3.11)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(4), st.just(6), st.just(3))))
def test_histogram_is_as_good_as_the_pixels(images):
    histogram = np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
    stats, pixels = Statistics.of_histogram(histogram, len(images)), Statistics.of(images.reshape(-1, 3) / 255)
    for name in ("min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99"):
        assert np.allclose(getattr(stats, name), getattr(pixels, name), atol=1e-9)
    assert stats.count == len(images)


@given(TABLES)
def test_json_round_trip(values):
    stats = Statistics.of(values)
    assert Statistics.from_json(stats.to_json()).to_json() == stats.to_json()


@given(TABLES, st.sampled_from(["quantile", "mean_std", "min_max"]))
def test_normalization_is_bounded_and_invertible(values, mode):
    stats = Statistics.of(values)
    offset, scale = normalization(stats, mode)
    normalized = (values - offset) / scale
    assert np.isfinite(normalized).all() and (scale > 0).all()
    magnitude = np.maximum(np.abs(values).max(0), 1e-3)
    varies = (stats.max - stats.min) / 2 > np.maximum(MIN_SPREAD, MIN_RELATIVE_SPREAD * np.abs(values).max(0))
    assert (np.abs(normalized)[:, varies] <= MAX_NORMALIZED * 1.01).all()
    assert (scale[~varies] == 1).all()
    assert np.allclose(normalized * scale + offset, values, atol=1e-6 * magnitude.max(), rtol=1e-5)


@given(TABLES)
def test_min_max_fills_the_range(values):
    offset, scale = normalization(Statistics.of(values), "min_max")
    normalized = (values.astype(np.float64) - offset) / scale
    for dimension in np.flatnonzero(scale != 1):
        assert np.isclose(normalized[:, dimension].min(), -1, atol=1e-2)
        assert np.isclose(normalized[:, dimension].max(), 1, atol=1e-2)


def test_constant_and_rare_dimensions():
    constant = np.full((1000, 1), 0.7, np.float32)
    noise = 1000 + 1e-3 * np.random.default_rng(0).normal(size=(1000, 1))
    rare = np.zeros((1000, 1))
    rare[:3] = 1  # q01 = q99 = 0
    ordinary = np.random.default_rng(1).uniform(-2, 4, (1000, 1))
    offset, scale = normalization(Statistics.of(np.hstack([constant, noise, rare, ordinary])))
    assert scale.tolist()[:3] == [1, 1, 0.5]
    assert np.isclose(offset[0], 0.7) and np.isclose(scale[3], 2.94, atol=0.05)


@pytest.mark.parametrize("parts", [
    [], [np.zeros((0, 2))], [np.zeros((1, 2)), np.zeros((1, 3))], [np.array([[np.nan]])],
])
def test_impossible_statistics_are_refused(parts):
    with pytest.raises(ValueError, match="statistics need"):
        Statistics.of(*parts)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="quantile, mean_std or min_max"):
        normalization(Statistics.of(np.ones((2, 1))), "zscore")
