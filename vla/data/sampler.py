"""Which observations make up batch k: exact quotas by stratum, a pure function of (seed, k).

No random state is carried along, so a run resumes exactly by knowing its step, and every process can name the whole
global batch and take its slice of it, whatever the number of processes.

Shapes: S strata, B batch, N segments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

EPSILON = 1e-9  # shares are floats; their multiples may miss a whole number by this much


def shares(
    sizes: np.ndarray,
    names: Sequence[str],
    weights: Literal["uniform", "power"] | Mapping[str, float] = "uniform",
    power: float = 0.5,
    floor: float = 0.0,
) -> np.ndarray:
    """Share of the batch of every stratum, [S] float64, summing to 1.

    Args:
        sizes: [S] number of observations in each stratum.
        weights: equal; proportional to `size ** power`; or relative weights by name.
        floor: least share of any stratum; the others give it up in proportion to their shares.

    Raises:
        ValueError: weights name an unknown stratum, leave one out or aren't positive; floors add up to more than 1.
    """
    if weights == "uniform":
        raw = np.ones(len(sizes))
    elif weights == "power":
        raw = np.asarray(sizes, dtype=float) ** power
    else:
        if set(weights) != set(names):
            raise ValueError(f"data.weights must name every stratum: missing {sorted(set(names) - set(weights))}, "
                             f"unknown {sorted(set(weights) - set(names))}")
        raw = np.array([weights[name] for name in names], dtype=float)
    if not (raw > 0).all():
        raise ValueError("data.weights must all be positive; leave a stratum out of the data to give it no share")
    if floor * len(sizes) > 1 + EPSILON:
        raise ValueError(f"data.floor {floor} for each of {len(sizes)} strata is more than the whole batch")
    return _raise_to_floor(raw / raw.sum(), floor)


def _raise_to_floor(share: np.ndarray, floor: float) -> np.ndarray:
    low = np.zeros(len(share), dtype=bool)
    while True:
        raised = np.where(low, floor, share * (1 - floor * low.sum()) / max(share[~low].sum(), EPSILON))
        newly_low = ~low & (raised < floor - EPSILON)
        if not newly_low.any():
            return raised
        low |= newly_low


@dataclass
class Quotas:
    """How many observations every stratum gives to each batch.

    After any number of batches the count of every stratum is its share of the total rounded down or up (the quota rule
    of apportionment, Balinski & Young 1975; the earliest deadline goes first, as in Tijdeman 1980). Counts follow from
    those of the batch before, so the first call for a late batch runs through the earlier ones: microseconds each.
    """

    share: np.ndarray  # [S]
    batch_size: int

    def __post_init__(self) -> None:
        self._batch = 0
        self._taken = np.zeros(len(self.share), dtype=np.int64)

    def before(self, batch: int) -> np.ndarray:
        """[S] int64: observations that each stratum gave to the batches before `batch`."""
        if batch < self._batch:
            self.__post_init__()
        while self._batch < batch:
            self._taken = self._taken + self._next()
            self._batch += 1
        return self._taken

    def of(self, batch: int) -> np.ndarray:
        """[S] int64: observations that each stratum gives to `batch`."""
        self.before(batch)
        return self._next()

    def _next(self) -> np.ndarray:
        due = (self._batch + 1) * self.batch_size * self.share
        must = np.maximum(np.floor(due + EPSILON).astype(np.int64) - self._taken, 0)
        may = np.ceil(due - EPSILON).astype(np.int64) - self._taken > must
        deadline = np.where(may, (self._taken + must + 1) / self.share, np.inf)
        extra = np.argsort(deadline, kind="stable")[: self.batch_size - must.sum()]
        must[extra] += 1
        return must


class StratifiedSampler:
    """Draws segments and frames. Within a stratum every frame comes once before any comes again, in shuffled order."""

    def __init__(self, strata: np.ndarray, lengths: np.ndarray, share: np.ndarray, batch_size: int, seed: int) -> None:
        """
        Args:
            strata: [N] stratum of every segment. lengths: [N] observations in every segment.
            share: [S] share of the batch of every stratum.
        """
        self.batch_size = batch_size
        self._seed = seed
        self._quotas = Quotas(share, batch_size)
        self._segments = [np.flatnonzero(strata == stratum) for stratum in range(len(share))]
        self._ends = [np.cumsum(lengths[segments]) for segments in self._segments]
        self._order: dict[int, tuple[int, np.ndarray]] = {}  # stratum -> (epoch, permutation) last used
        empty = [stratum for stratum, ends in enumerate(self._ends) if not len(ends) or ends[-1] == 0]
        if empty:
            raise ValueError(f"strata {empty} have no observation to draw")

    def batch(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(stratum, segment, observation within the segment), each [B] int64, ordered by stratum."""
        first = self._quotas.before(number)
        count = self._quotas.of(number)
        draws = [self._draw(stratum, first[stratum], first[stratum] + count[stratum]) for stratum in range(len(first))]
        segment, offset = (np.concatenate(parts) for parts in zip(*draws, strict=True))
        return np.repeat(np.arange(len(count)), count), segment, offset

    def _draw(self, stratum: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        ends = self._ends[stratum]
        epochs, positions = np.divmod(np.arange(first, last), ends[-1])
        drawn = np.array([self._permutation(stratum, epoch)[position]
                          for epoch, position in zip(epochs, positions, strict=True)], dtype=np.int64)
        row = np.searchsorted(ends, drawn, side="right")
        starts = ends[row] - np.diff(ends, prepend=0)[row]
        return self._segments[stratum][row], drawn - starts

    def _permutation(self, stratum: int, epoch: int) -> np.ndarray:
        known = self._order.get(stratum)
        if known is None or known[0] != epoch:
            order = np.random.default_rng([self._seed, stratum, epoch]).permutation(self._ends[stratum][-1])
            self._order[stratum] = known = (int(epoch), order)
        return known[1]
