"""Pictures of the table, drawn from its state alone."""

# Shapes: E numbers a state, H = W pixels.

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from vla.envs.tabletop.state import (
    ANGLE,
    CIRCUMRADIUS,
    COLOUR,
    HELD,
    PRESENT,
    SHAPE,
    SHAPES,
    SUCTION,
    TIP_RADIUS,
    X,
    Y,
    corners,
    objects,
    tip_position,
)

_OVERSAMPLING: Final = 2
_TABLE: Final = (240, 236, 228)
_RIM: Final = (205, 196, 182)
_SHADOW: Final = (212, 206, 196)
_HALO: Final = (255, 255, 255)
_TIP: Final = (45, 45, 52)
_FILLS: Final = ((222, 45, 50), (38, 166, 75), (40, 95, 220), (250, 200, 20))


def render(state: np.ndarray, size: int = 128) -> np.ndarray:
    """The table of `state [E]` from above, y up: uint8 `[H, W, 3]`."""
    scale = size * _OVERSAMPLING
    image = _background(scale).copy()
    draw = ImageDraw.Draw(image)
    rows = objects(state)
    held = int(state[HELD])
    for slot in sorted(np.flatnonzero(rows[:, PRESENT]), key=lambda slot: slot == held):
        _draw_object(draw, rows[slot], slot == held, scale)
    _draw_tip(draw, tip_position(state), bool(state[SUCTION]), scale)
    return np.asarray(image.reduce(_OVERSAMPLING))


def _draw_object(draw: ImageDraw.ImageDraw, row: np.ndarray, held: bool, scale: int) -> None:
    centre, shape, angle = row[[X, Y]].astype(float), int(row[SHAPE]), float(row[ANGLE])
    fill = _FILLS[int(row[COLOUR])]
    lift = np.array([0.012, -0.016]) if held else np.array([0.004, -0.006])
    _fill(draw, shape, centre + lift, angle, 1.0, _SHADOW, scale)
    if held:
        _fill(draw, shape, centre, angle, 1.22, _TIP, scale)
        _fill(draw, shape, centre, angle, 1.13, _HALO, scale)
    _fill(draw, shape, centre, angle, 1.0, fill, scale)


def _fill(
    draw: ImageDraw.ImageDraw,
    shape: int,
    centre: np.ndarray,
    angle: float,
    size: float,
    colour: tuple[int, int, int],
    scale: int,
) -> None:
    if SHAPES[shape] == "disc":
        _circle(draw, centre, size * float(CIRCUMRADIUS[shape]), scale, fill=colour)
    else:
        draw.polygon(_pixels(corners(shape, centre, angle, size), scale).ravel().tolist(), fill=colour)


def _draw_tip(draw: ImageDraw.ImageDraw, centre: np.ndarray, suction: bool, scale: int) -> None:
    width = max(1, round(0.009 * scale))
    _circle(draw, centre, TIP_RADIUS + 0.004, scale, fill=_HALO)
    _circle(draw, centre, TIP_RADIUS, scale, fill=_TIP if suction else _HALO, outline=_TIP, width=width)


def _circle(draw: ImageDraw.ImageDraw, centre: np.ndarray, radius: float, scale: int, **style: object) -> None:
    x, y = _pixels(np.asarray(centre, float), scale)
    draw.ellipse((x - radius * scale, y - radius * scale, x + radius * scale, y + radius * scale), **style)  # type: ignore[arg-type]


def _pixels(points: np.ndarray, scale: int) -> np.ndarray:
    return np.array([0, scale]) + points * np.array([scale, -scale])


@lru_cache(maxsize=8)
def _background(scale: int) -> Image.Image:
    image = Image.new("RGB", (scale, scale), _RIM)
    rim = 0.012 * scale
    ImageDraw.Draw(image).rounded_rectangle((rim, rim, scale - 1 - rim, scale - 1 - rim), radius=2 * rim, fill=_TABLE)
    return image
