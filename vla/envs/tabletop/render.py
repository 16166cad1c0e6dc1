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
    MAX_OBJECTS,
    PRESENT,
    SHAPE,
    SHAPES,
    SUCTION,
    TIP_RADIUS,
    VX,
    X,
    Y,
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
    rows = objects(state)
    held = np.arange(MAX_OBJECTS) == state[HELD]
    lying = (rows[:, PRESENT] > 0) & ~held
    image = _lying(rows[lying, :VX].astype(np.float32).tobytes(), scale).copy()
    draw = ImageDraw.Draw(image)
    for row in rows[held]:
        _draw_object(draw, row, True, scale)
    _draw_tip(draw, tip_position(state), bool(state[SUCTION]), scale)
    return np.asarray(image.reduce(_OVERSAMPLING))


@lru_cache(maxsize=8)
def _lying(rows: bytes, scale: int) -> Image.Image:
    """The table with the things `[n, VX]` that lie on it. Kept, because in most steps they stay where they are."""
    image = _background(scale).copy()
    draw = ImageDraw.Draw(image)
    for row in np.frombuffer(rows, np.float32).reshape(-1, VX):
        _draw_object(draw, row, False, scale)
    return image


def _draw_object(draw: ImageDraw.ImageDraw, row: np.ndarray, held: bool, scale: int) -> None:
    outline = _OUTLINES[SHAPES[int(row[SHAPE])]]
    cos, sin = np.cos(row[ANGLE]), np.sin(row[ANGLE])
    outline = scale * outline @ np.array([[cos, -sin], [sin, cos]])  # turned, and y down
    centre = _pixel(row[[X, Y]], scale)
    lift = scale * (_HELD_SHADOW if held else _LYING_SHADOW)
    _fill(draw, centre + lift + outline, _SHADOW)
    if held:
        _fill(draw, centre + 1.22 * outline, _TIP)
        _fill(draw, centre + 1.13 * outline, _HALO)
    _fill(draw, centre + outline, _FILLS[int(row[COLOUR])])


def _draw_tip(draw: ImageDraw.ImageDraw, position: np.ndarray, suction: bool, scale: int) -> None:
    x, y = map(float, _pixel(position, scale))
    for radius, colour in ((1.18, _HALO), (1.0, _TIP), (0.0 if suction else 0.6, _HALO)):
        r = radius * TIP_RADIUS * scale
        if r > 0:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _fill(draw: ImageDraw.ImageDraw, points: np.ndarray, colour: tuple[int, int, int]) -> None:
    draw.polygon(points.ravel().tolist(), fill=colour)


def _pixel(position: np.ndarray, scale: int) -> np.ndarray:
    return np.array([position[0] * scale, (1 - position[1]) * scale])


def _outline(shape: str) -> np.ndarray:
    """The drawn outline around the origin, first corner to the right: `[n, 2]`. Stars have notches."""
    radius = float(CIRCUMRADIUS[SHAPES.index(shape)])
    by_corner = {
        "disc": [radius] * 48,
        "square": [radius] * 4,
        "triangle": [radius] * 3,
        "star": [radius, radius / 2] * 5,
    }
    bearing = 2 * np.pi * np.arange(len(by_corner[shape])) / len(by_corner[shape])
    return np.array(by_corner[shape])[:, None] * np.stack([np.cos(bearing), np.sin(bearing)], axis=1)


_OUTLINES: Final = {shape: _outline(shape) for shape in SHAPES}
_LYING_SHADOW: Final = np.array([0.004, 0.006])
_HELD_SHADOW: Final = np.array([0.012, 0.016])


@lru_cache(maxsize=8)
def _background(scale: int) -> Image.Image:
    image = Image.new("RGB", (scale, scale), _RIM)
    rim = 0.012 * scale
    ImageDraw.Draw(image).rounded_rectangle((rim, rim, scale - 1 - rim, scale - 1 - rim), radius=2 * rim, fill=_TABLE)
    return image
