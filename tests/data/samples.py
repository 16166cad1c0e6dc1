"""Episodes to test with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vla.data.writer import Episode

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAYOUT = {
    "fps": 10,
    "cameras": {"top": (32, 32), "side": (24, 40)},
    "state_dim": 4,
    "action_dim": 3,
    "environment_state_dim": 6,
    "robot_type": "test",
}


def make_episode(number: int) -> Episode:
    """Episode `number`: 3 to 9 frames of a bright square that moves over a smooth ground, and random vectors."""
    rng = np.random.default_rng(number)
    length = int(rng.integers(3, 10))
    return Episode(
        images={camera: moving_square(rng, length, size) for camera, size in LAYOUT["cameras"].items()},
        state=rng.normal(size=(length, 4)).astype(np.float32),
        action=rng.normal(size=(length, 3)).astype(np.float32),
        success=np.arange(length) >= length - 1 - number % 2,
        instruction=["move it", "öffne die Schublade (открой ящик)", "押す 🟥"][number % 3],
        environment_state=rng.normal(size=(length, 6)).astype(np.float32),
        task=["push", "open"][number % 2],
        outcome=f"outcome {number}",
    )


def moving_square(rng: np.random.Generator, length: int, size: tuple[int, int]) -> np.ndarray:
    """[length, H, W, 3] uint8"""
    rows, columns = np.mgrid[: size[0], : size[1]]
    ground = np.stack([100 + rows, 120 + columns, np.full(size, 140)], -1).astype(np.uint8)
    frames = np.repeat(ground[None], length, axis=0)
    top, left = rng.integers(0, 10, 2)
    for step, frame in enumerate(frames):
        frame[top + step : top + step + 8, left + step : left + step + 8] = rng.integers(0, 256, 3)
    return frames
