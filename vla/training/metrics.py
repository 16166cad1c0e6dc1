"""What training reports: losses by stratum between two log lines, and a file of all lines.

Shapes: b observations of one process in one step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor


class Meter:
    """Loss per stratum since the last summary, over all processes."""

    def __init__(self, strata: Sequence[str], accelerator: Accelerator) -> None:
        self._strata = strata
        self._accelerator = accelerator
        self._reset()

    def add(self, stratum: Tensor, sums: Tensor, counts: Tensor, norm: Tensor) -> None:
        """One step: stratum, loss sums and counts [b] of this process, and the gradient's norm."""
        self._sums.index_add_(0, stratum, sums.double())
        self._counts.index_add_(0, stratum, counts.double())
        self._seen += len(stratum)
        self._norm += norm.double()
        self._steps += 1

    def summary(self) -> dict[str, float]:
        """Mean losses since the last summary; numerators and denominators are reduced, never means."""
        sums, counts = (self._accelerator.reduce(value, "sum").cpu().numpy() for value in (self._sums, self._counts))
        seconds = time.monotonic() - self._since
        values = {
            "loss": float(sums.sum() / counts.sum()),
            "gradient_norm": float(self._norm / self._steps),
            "observations_per_second": self._seen * self._accelerator.num_processes / seconds,
        }
        values |= {f"loss/{name}": float(sums[i] / counts[i]) for i, name in enumerate(self._strata) if counts[i]}
        self._reset()
        return values

    def _reset(self) -> None:
        device = self._accelerator.device
        self._sums = torch.zeros(len(self._strata), dtype=torch.float64, device=device)
        self._counts = torch.zeros_like(self._sums)
        self._norm = torch.zeros((), dtype=torch.float64, device=device)
        self._seen = self._steps = 0
        self._since = time.monotonic()


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, `{"step": 50, "loss": 0.31, ...}`."""

    def __init__(self, path: Path, step: int) -> None:
        """Go on after `step`: what a run that was killed wrote beyond its last checkpoint will come again."""
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept))

    def append(self, step: int, values: Mapping[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def _step(line: str) -> float:
    """The step of a line; infinite for the torn one that a killed run may leave behind."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
