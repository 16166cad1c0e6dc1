"""Quotas are exact over every window, draws cover a stratum evenly, and batch k depends on nothing but (seed, k)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.data.sampler import Quotas, StratifiedSampler, shares

weights = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=12)


@given(weights, st.integers(1, 64), st.integers(1, 60))
def test_after_every_batch_each_stratum_has_its_share_rounded_up_or_down(raw, batch_size, batches):
    share = np.array(raw) / np.sum(raw)
    quotas = Quotas(share, batch_size)
    previous = quotas.before(0)
    for k in range(1, batches + 1):
        taken = quotas.before(k)
        assert taken.sum() == k * batch_size
        assert (taken >= previous).all()
        assert (np.abs(taken - k * batch_size * share) < 1 + 1e-6).all()
        previous = taken


@given(weights, st.integers(1, 16), st.integers(0, 40))
def test_quotas_do_not_depend_on_what_was_asked_before(raw, batch_size, k):
    share = np.array(raw) / np.sum(raw)
    walked = Quotas(share, batch_size)
    for earlier in (k + 3, 0, k // 2):
        walked.before(earlier)
    np.testing.assert_array_equal(walked.before(k), Quotas(share, batch_size).before(k))


def sampler(seed: int = 0, batch_size: int = 8) -> StratifiedSampler:
    strata = np.array([0, 1, 0, 1, 1])
    lengths = np.array([5, 1, 7, 3, 2])
    return StratifiedSampler(strata, lengths, np.array([0.25, 0.75]), batch_size, seed)


def test_every_observation_of_a_stratum_comes_once_before_any_comes_again():
    drawn = [sampler().batch(k) for k in range(50)]
    for stratum, size in ((0, 12), (1, 6)):
        rows = [row for batch in drawn for row in zip(*batch, strict=True)]
        pairs = [(segment, offset) for s, segment, offset in rows if s == stratum]
        for start in range(0, len(pairs) - size, size):
            assert len(set(pairs[start : start + size])) == size


def test_draws_stay_inside_their_segment_and_stratum():
    strata, lengths = np.array([0, 1, 0, 1, 1]), np.array([5, 1, 7, 3, 2])
    for k in range(30):
        stratum, segment, offset = sampler().batch(k)
        assert (strata[segment] == stratum).all()
        assert (offset >= 0).all() and (offset < lengths[segment]).all()


def test_batches_are_a_pure_function_of_seed_and_number():
    straight = [sampler().batch(k) for k in range(20)]
    jumping = sampler()
    for k in (19, 3, 11, 0, 12):
        for one, other in zip(jumping.batch(k), straight[k], strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(not np.array_equal(a, b) for a, b in zip(sampler(seed=1).batch(0)[1:], straight[0][1:], strict=True))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=8), st.floats(0, 1), st.floats(0, 0.1))
def test_shares_sum_to_one_and_respect_the_floor(sizes, power, floor):
    share = shares(np.array(sizes), [str(i) for i in range(len(sizes))], "power", power, floor)
    assert share.sum() == pytest.approx(1)
    assert (share >= floor - 1e-9).all()
    larger = np.argsort(sizes)
    assert (np.diff(share[larger]) >= -1e-9).all()


def test_explicit_weights_must_name_every_stratum():
    sizes, names = np.array([10, 10]), ["touch", "region"]
    np.testing.assert_allclose(shares(sizes, names, {"touch": 3, "region": 1}), [0.75, 0.25])
    with pytest.raises(ValueError, match=r"missing \['region'\], unknown \['regoin'\]"):
        shares(sizes, names, {"touch": 1, "regoin": 1})
    with pytest.raises(ValueError, match="more than the whole batch"):
        shares(sizes, names, floor=0.6)


def test_a_late_batch_is_reached_in_no_time():
    import time

    began = time.perf_counter()
    Quotas(np.full(50, 0.02), 64).before(100_000)
    assert time.perf_counter() - began < 20
