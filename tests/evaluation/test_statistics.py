import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.evaluation.statistics import Mean, Rate, mean_interval, rates_by, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # From the closed form, and as other implementations print it.
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (5, 10, 0.23659, 0.76341), (81, 263, 0.25526, 0.36618)],
)
def test_wilson_has_known_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_is_symmetric_and_narrows(trials: tuple[int, int]) -> None:
    successes, n = trials
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))
    narrower = wilson(4 * successes, 4 * n)
    assert narrower[1] - narrower[0] < high - low


def test_no_trials_say_nothing() -> None:
    assert Rate.of([]) == Rate(0.0, 0, (0.0, 1.0))


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and the number of trials"):
        wilson(successes, n)


@given(st.lists(st.booleans(), max_size=50))
def test_rate_survives_json(outcomes: list[bool]) -> None:
    rate = Rate.of(outcomes)
    assert Rate.from_json(json.loads(json.dumps(rate.to_json()))) == rate


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_groups_partition_the_items(items: list[tuple[str, bool]]) -> None:
    rates = rates_by(items, lambda item: item[0], lambda item: item[1])
    assert set(rates) == {name for name, _ in items}
    assert sum(rate.n for rate in rates.values()) == len(items)
    assert round(sum(rate.n * rate.mean for rate in rates.values())) == sum(success for _, success in items)


@pytest.mark.parametrize(("n", "quantile", "tolerance"), [(3, 4.3027, 0.1), (5, 2.7764, 0.01), (10, 2.2622, 1e-3)])
def test_the_interval_of_a_mean_is_students(n: int, quantile: float, tolerance: float) -> None:
    values = [float(number) for number in range(n)]
    deviation = (n * (n + 1) / 12) ** 0.5
    low, high = mean_interval(values)
    assert (low + high) / 2 == pytest.approx((n - 1) / 2)
    assert (high - low) / 2 == pytest.approx(quantile * deviation / n**0.5, rel=tolerance)


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="at least two"):
        Mean.of([1.0])
