"""Success rates and means that say how sure they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from typing import Any, TypeVar

Item = TypeVar("Item")

# Two-sided 95 % quantile of the standard normal.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Rate:
    """A share of `n` independent trials, with its 95 % Wilson interval. All are fractions, not per cent."""

    mean: float  # 0 where n is 0
    n: int
    ci95: tuple[float, float]  # (low, high)

    @classmethod
    def of(cls, successes: Iterable[bool]) -> Rate:
        outcomes = list(successes)
        count = sum(map(bool, outcomes))
        return cls(count / max(len(outcomes), 1), len(outcomes), wilson(count, len(outcomes)))

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "n": self.n, "ci95": list(self.ci95)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Rate:
        low, high = value["ci95"]
        return cls(value["mean"], value["n"], (low, high))

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.mean:.0%} ({low:.0%}-{high:.0%}, n = {self.n})"


def mean_rate(rates: Sequence[Rate]) -> Rate:
    """The unweighted mean of rates of independent trials.

    Its interval combines theirs by the method of variance estimates recovery (Zou & Donner 2008). Raises ValueError
    for no rates.
    """
    if not rates:
        raise ValueError("the mean of no rates: give at least one")
    mean = sum(rate.mean for rate in rates) / len(rates)
    below = sqrt(sum((rate.mean - rate.ci95[0]) ** 2 for rate in rates)) / len(rates)
    above = sqrt(sum((rate.ci95[1] - rate.mean) ** 2 for rate in rates)) / len(rates)
    return Rate(mean, sum(rate.n for rate in rates), (mean - below, mean + above))


@dataclass(frozen=True)
class Mean:
    """The mean of `n` independent numbers, with its 95 % interval."""

    mean: float
    n: int
    ci95: tuple[float, float]  # (low, high)

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Raises ValueError for fewer than two values."""
        low, high = mean_interval(values)
        return cls(fsum(values) / len(values), len(values), (low, high))

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "n": self.n, "ci95": list(self.ci95)}


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a mean by Student's t; its quantile is expanded in 1 / (n - 1) (Abramowitz & Stegun 26.7.5).

    Raises ValueError for fewer than two values: one says nothing about its own spread.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} values: an interval of a mean needs at least two")
    mean, free, z = fsum(values) / n, n - 1, Z95
    quantile = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    quantile += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * free**3)
    reach = quantile * sqrt(fsum((value - mean) ** 2 for value in values) / free / n)
    return mean - reach, mean + reach


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % score interval of a binomial proportion (Wilson 1927); (0, 1) if there were no trials.

    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials: successes must lie between 0 and the number of trials")
    if n == 0:
        return 0.0, 1.0
    share, shrink = successes / n, 1 + Z95**2 / n
    centre = (share + Z95**2 / (2 * n)) / shrink
    half_width = Z95 / shrink * sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    # The ends are exactly 0 and 1 in theory; rounding must not put the share itself outside.
    return min(max(centre - half_width, 0.0), share), max(min(centre + half_width, 1.0), share)


def rates_by(items: Sequence[Item], group: Callable[[Item], str], success: Callable[[Item], bool]) -> dict[str, Rate]:
    """The success rate of each group of `items`, by the group's name, in order of first appearance."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for item in items:
        groups[group(item)].append(success(item))
    return {name: Rate.of(successes) for name, successes in groups.items()}
