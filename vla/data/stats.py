"""Exact statistics of recorded numbers, and the affine maps that normalise them.

Statistics of several data sets are taken over all their values. Averaging the quantiles of parts, as is often done, is
wrong: the 1 % quantile of a rising counter is near its start, the average of its parts' 1 % quantiles near its middle.

Shapes: N values of each dimension, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)
# Values that statistics are taken of at once: 32 MB.
BLOCK = 1 << 22
# A dimension whose half range is below this share of its magnitude, or below MIN_SPREAD in its own unit, counts as
# constant: scaled up, it would be sensor noise, and its inverse would drown in float32 rounding.
MIN_RELATIVE_SPREAD = 1e-4
MIN_SPREAD = 1e-6
# Farthest that a recorded value may be normalised to before the full range replaces the chosen spread.
MAX_NORMALIZED = 50.0

NormalizationMode = Literal["quantile", "mean_std", "min_max"]


@dataclass(frozen=True)
class Statistics:
    """Of each dimension of one feature, over all its values. All float64."""

    min: np.ndarray  # [D]
    max: np.ndarray  # [D]
    mean: np.ndarray  # [D]
    std: np.ndarray  # [D], of the population
    count: int
    q01: np.ndarray  # [D], interpolated linearly between order statistics
    q10: np.ndarray  # [D]
    q50: np.ndarray  # [D]
    q90: np.ndarray  # [D]
    q99: np.ndarray  # [D]

    @classmethod
    def of(cls, *parts: np.ndarray) -> Statistics:
        """Over the rows of all `parts`, each [N, D] (or [N]). Exact; takes BLOCK values into memory, or one dimension.

        Raises:
            ValueError: no values, parts of different width, or a value that isn't finite.
        """
        columns = [part.reshape(len(part), -1) for part in parts if len(part)]
        if not columns or len({column.shape[1] for column in columns}) != 1:
            raise ValueError(f"statistics need rows of one width, got shapes {[part.shape for part in parts]}")
        width = max(1, BLOCK // sum(map(len, columns)))
        return cls._join([
            cls._of_values(np.concatenate([column[:, first : first + width] for column in columns]).astype(np.float64))
            for first in range(0, columns[0].shape[1], width)
        ])

    @classmethod
    def of_histogram(cls, histogram: np.ndarray, count: int) -> Statistics:
        """Of 8-bit images in units of 0-1, from how often each of 256 values occurs: [D, 256]. `count` frames."""
        values = np.arange(256) / 255
        return replace(cls._join([cls._of_frequencies(values, frequency) for frequency in histogram]), count=count)

    def to_json(self, shape: tuple[int, ...] = (-1,)) -> dict[str, Any]:
        """As LeRobot's stats.json has it; `shape` is (3, 1, 1) for images."""
        return {name: getattr(self, name).reshape(shape).tolist() for name in self._arrays()} | {"count": [self.count]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Statistics:
        """The inverse of `to_json`."""
        count = int(np.ravel(values["count"])[0])
        return cls(count=count, **{name: np.asarray(values[name], np.float64).reshape(-1) for name in cls._arrays()})

    @classmethod
    def _of_values(cls, values: np.ndarray) -> Statistics:
        if not np.isfinite(values).all():
            raise ValueError(f"statistics need finite values, not as in row {np.argwhere(~np.isfinite(values))[0][0]}")
        quantiles = np.quantile(values, QUANTILES, axis=0)
        return cls(values.min(0), values.max(0), values.mean(0), values.std(0), len(values), *quantiles)

    @classmethod
    def _of_frequencies(cls, values: np.ndarray, frequency: np.ndarray) -> Statistics:
        total, cumulative = frequency.sum(), np.cumsum(frequency)
        seen = values[frequency > 0]
        mean = (values * frequency).sum() / total
        std = np.sqrt((frequency * (values - mean) ** 2).sum() / total)
        rank = np.asarray(QUANTILES) * (total - 1)
        below, above = (values[np.searchsorted(cumulative, side(rank), side="right")] for side in (np.floor, np.ceil))
        quantiles = (below + (above - below) * (rank - np.floor(rank)))[:, None]
        return cls(seen[:1], seen[-1:], np.array([mean]), np.array([std]), int(total), *quantiles)

    @classmethod
    def _join(cls, parts: list[Statistics]) -> Statistics:
        """Of dimensions that were taken apart."""
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in cls._arrays()}
        return cls(count=parts[0].count, **joined)

    @classmethod
    def _arrays(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "count"]


def normalization(stats: Statistics, mode: NormalizationMode = "quantile") -> tuple[np.ndarray, np.ndarray]:
    """(offset, scale), [D] float32 each: `(value - offset) / scale` normalises, `value * scale + offset` undoes it.

    `quantile` brings q01..q99 to [-1, 1], `min_max` the whole range; `mean_std` gives mean 0 and deviation 1. Guards:

    - A dimension that is nearly constant (half its range below MIN_RELATIVE_SPREAD of its magnitude, or below
      MIN_SPREAD) gets scale 1: it is shifted to about 0 and neither blown up nor lost.
    - If the chosen spread is so small that a recorded value would land beyond +-MAX_NORMALIZED (a gripper that is open
      in 99.5 % of the frames), the whole range is used for that dimension instead.

    Raises:
        ValueError: no such mode.
    """
    middle, half_range = (stats.max + stats.min) / 2, (stats.max - stats.min) / 2
    if mode == "quantile":
        offset, scale = (stats.q99 + stats.q01) / 2, (stats.q99 - stats.q01) / 2
    elif mode == "mean_std":
        offset, scale = stats.mean, stats.std
    elif mode == "min_max":
        offset, scale = middle, half_range
    else:
        raise ValueError(f"normalization is {mode!r}, choose quantile, mean_std or min_max")
    farthest = np.maximum(stats.max - offset, offset - stats.min)
    blown_up = farthest > MAX_NORMALIZED * scale
    offset, scale = np.where(blown_up, middle, offset), np.where(blown_up, half_range, scale)
    magnitude = np.maximum(np.abs(stats.min), np.abs(stats.max))
    constant = half_range <= np.maximum(MIN_SPREAD, MIN_RELATIVE_SPREAD * magnitude)
    return offset.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)
