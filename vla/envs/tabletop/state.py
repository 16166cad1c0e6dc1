"""What is on the table: things, their sizes, and the layout of `observation.environment_state`.

The table is the unit square, x to the right, y up. One float32 vector holds everything physical; the functions here
read it, one state or any number of them at once.
"""

# Shapes: ... any leading axes, E = STATE_SIZE, O = MAX_OBJECTS slots, K = OBJECT_SIZE numbers a slot.

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

COLOURS: Final = ("red", "green", "blue", "yellow")
SHAPES: Final = ("disc", "square", "triangle", "star")
MAX_OBJECTS: Final = 6
TIP_RADIUS: Final = 0.022
CONTACT: Final = 0.015  # the tip touches, and its suction reaches, whatever is nearer than this

# Columns of a state [E]. HELD is the slot the suction holds, -1 for none; the tip is RAISED (collides with nothing)
# while it holds, and after a release until nothing is under it.
TIP_X, TIP_Y, SUCTION, HELD, RAISED, _FIRST_OBJECT = range(6)
# Columns of a slot [K]. An empty slot has COLOUR = SHAPE = -1 and zeros.
PRESENT, COLOUR, SHAPE, X, Y, ANGLE, VX, VY, IS_HELD = range(9)
OBJECT_SIZE: Final = 9
STATE_SIZE: Final = _FIRST_OBJECT + MAX_OBJECTS * OBJECT_SIZE
_SLOT_NAMES: Final = ("present", "colour", "shape", "x", "y", "angle", "vx", "vy", "held")
STATE_NAMES: Final = (
    "tip.x", "tip.y", "tip.suction", "tip.held", "tip.raised",
    *(f"thing_{slot}.{name}" for slot in range(MAX_OBJECTS) for name in _SLOT_NAMES),
)

# By shape id. Solid outlines are regular polygons with a corner at the thing's angle (a disc is one with many sides, a
# star the hull of its points), of radii that make the four look the same size.
SIDES: Final = np.array([360, 4, 3, 5])
CIRCUMRADIUS: Final = np.array([0.064, 0.078, 0.085, 0.080])


@dataclass(frozen=True, order=True)
class Thing:
    """A kind of object; a table has at most one of each. Written `red disc`."""

    colour: str
    shape: str

    def __post_init__(self) -> None:
        if self.colour not in COLOURS or self.shape not in SHAPES:
            raise ValueError(
                f"no thing is called {self!s}: colours are {', '.join(COLOURS)}; shapes {', '.join(SHAPES)}"
            )

    def __str__(self) -> str:
        return f"{self.colour} {self.shape}"

    @classmethod
    def parse(cls, text: str) -> Thing:
        """The inverse of `str(thing)`. Raises ValueError for anything else."""
        colour, _, shape = text.partition(" ")
        return cls(colour, shape)

    @property
    def radius(self) -> float:
        """Of the circle around it, in table units."""
        return float(CIRCUMRADIUS[SHAPES.index(self.shape)])


_SLOT_NUMBERS: Final = np.arange(1, MAX_OBJECTS + 1)
THINGS: Final = tuple(Thing(colour, shape) for colour in COLOURS for shape in SHAPES)


def empty_state() -> np.ndarray:
    """A table with nothing on it, the tip in the middle: float32 [E]."""
    state = np.zeros(STATE_SIZE, np.float32)
    state[[TIP_X, TIP_Y]] = 0.5
    state[HELD] = -1
    objects(state)[:, [COLOUR, SHAPE]] = -1
    return state


def objects(states: np.ndarray) -> np.ndarray:
    """The slots of `states [..., E]`: a view `[..., O, K]`."""
    return states[..., _FIRST_OBJECT:].reshape(*states.shape[:-1], MAX_OBJECTS, OBJECT_SIZE)


def tip_position(states: np.ndarray) -> np.ndarray:
    """`[..., E]` -> `[..., 2]`, a view."""
    return states[..., TIP_X : TIP_Y + 1]


def positions(states: np.ndarray) -> np.ndarray:
    """Centres of all slots: `[..., E]` -> `[..., O, 2]`, a view."""
    return objects(states)[..., X : Y + 1]


def radii(states: np.ndarray) -> np.ndarray:
    """Radii of the circles around all slots, 0 where empty: `[..., E]` -> `[..., O]`."""
    slots = objects(states)
    return CIRCUMRADIUS[slots[..., SHAPE].astype(int)] * slots[..., PRESENT]


def slot_of(states: np.ndarray, thing: Thing) -> np.ndarray:
    """Which slot a thing is in, -1 where it is not on the table: `[..., E]` -> int `[...]`."""
    slots = objects(states)
    colour, shape = COLOURS.index(thing.colour), SHAPES.index(thing.shape)
    match = (slots[..., COLOUR] == colour) & (slots[..., SHAPE] == shape)
    return match @ _SLOT_NUMBERS - 1


def in_slot(values: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """The rows of `values [..., O, n]` for `slot [...]`: `[..., n]`."""
    if values.ndim == 2:  # a single state: plain indexing is far cheaper
        return values[slot]
    return np.take_along_axis(values, np.asarray(slot)[..., None, None], axis=-2)[..., 0, :]


def things_on_table(state: np.ndarray) -> dict[Thing, int]:
    """What is on the table of `state [E]`, in slot order, and the slot of each."""
    return {
        Thing(COLOURS[int(row[COLOUR])], SHAPES[int(row[SHAPE])]): slot
        for slot, row in enumerate(objects(state))
        if row[PRESENT]
    }


def tip_gap(states: np.ndarray, slot: np.ndarray, shape: np.ndarray | int) -> np.ndarray:
    """Distance from the tip's edge to the outline of the object in `slot [...]`, negative when it overlaps: `[...]`.

    `shape` is the object's shape id: one for all, or an array that broadcasts to `[...]`.
    """
    row = in_slot(objects(states), slot)
    offset = tip_position(states) - row[..., X : Y + 1]
    return polygon_distance(offset, row[..., ANGLE], SIDES[shape], CIRCUMRADIUS[shape]) - TIP_RADIUS


def tip_gaps(state: np.ndarray) -> np.ndarray:
    """The tip's gap to every slot of `state [E]`, infinite where empty: `[O]`."""
    rows = objects(state)
    shape = rows[:, SHAPE].astype(int)
    offset = tip_position(state) - rows[:, X : Y + 1]
    distance = polygon_distance(offset, rows[:, ANGLE], SIDES[shape], CIRCUMRADIUS[shape])
    return np.where(rows[:, PRESENT] > 0, distance - TIP_RADIUS, np.inf)


def polygon_distance(offset: np.ndarray, angle: np.ndarray, sides: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Signed distance from points at `offset [..., 2]` from the centre of a regular polygon, a corner at `angle`."""
    sector = 2 * np.pi / sides
    bearing = np.arctan2(offset[..., 1], offset[..., 0]) - angle
    from_normal = np.mod(bearing, sector) - sector / 2
    distance = np.hypot(offset[..., 0], offset[..., 1])
    above_face = distance * np.cos(from_normal) - radius * np.cos(sector / 2)
    beyond_corner = np.abs(distance * np.sin(from_normal)) - radius * np.sin(sector / 2)
    outside = np.hypot(np.maximum(above_face, 0), np.maximum(beyond_corner, 0))
    return outside + np.minimum(above_face, 0)
