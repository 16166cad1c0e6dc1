"""The physics of the table: a top-down pymunk space in which the tip pushes, lifts, carries and puts down."""

# Shapes: E numbers a state.

from __future__ import annotations

from typing import Final

import numpy as np
import pymunk

from vla.envs.tabletop.state import (
    ANGLE,
    CIRCUMRADIUS,
    CONTACT,
    HELD,
    IS_HELD,
    PRESENT,
    RAISED,
    SHAPE,
    SHAPES,
    SIDES,
    SUCTION,
    TIP_RADIUS,
    TIP_X,
    TIP_Y,
    VX,
    VY,
    X,
    Y,
    objects,
    tip_gaps,
    tip_position,
)

STEP_SECONDS: Final = 0.1
_SUBSTEPS: Final = 4
_COLLIDES: Final = pymunk.ShapeFilter()
_PASSES: Final = pymunk.ShapeFilter(mask=0)


class World:
    """Things and a tip on the table, started from a state `[E]`.

    It simulates in float64 and shows itself in float32: a world restarted from `state()` is nearly, not exactly, equal.
    """

    def __init__(self, state: np.ndarray) -> None:
        self._state = state.astype(np.float32)
        self._space = pymunk.Space()
        self._space.damping = 1e-16  # what is pushed stops within a step
        self._space.collision_bias = 1e-8  # overlaps are gone within about two steps
        self._space.collision_slop = 0.001
        self._add_walls()
        self._tip = self._add_tip()
        slots = np.flatnonzero(objects(self._state)[:, PRESENT]).tolist()
        self._radius = {slot: float(CIRCUMRADIUS[int(objects(self._state)[slot, SHAPE])]) for slot in slots}
        self._bodies = {slot: self._add_object(slot) for slot in slots}
        self._motion = objects(self._state)[:, X : IS_HELD + 1]  # a view [O, 6]
        self._held = int(self._state[HELD])
        self._grip = (0.0, 0.0)
        if self._held >= 0:
            self._attach(self._held)

    def state(self) -> np.ndarray:
        """A copy of everything physical: float32 `[E]`."""
        return self._state.copy()

    def step(self, displacement: np.ndarray, suction: bool) -> None:
        """Move the tip by `displacement [2]` (table units) in `STEP_SECONDS`, suction on or off."""
        self._state[SUCTION] = suction
        if self._held >= 0 and not suction:
            self._release()
        for _ in range(_SUBSTEPS):
            if suction and self._held < 0:
                self._attach_in_reach()
            self._substep(displacement / _SUBSTEPS)
        if suction and self._held < 0:
            self._attach_in_reach()
        for slot, body in self._bodies.items():
            self._keep_on_table(slot, body)
        self._write_state()

    def _substep(self, displacement: np.ndarray) -> None:
        seconds = STEP_SECONDS / _SUBSTEPS
        start, goal = self._tip.position, self._within_reach(displacement)
        self._tip.velocity = (goal - start) / seconds
        if self._held >= 0:
            self._place(self._bodies[self._held], goal + self._grip)
        self._space.step(seconds)
        self._tip.position = goal
        self._tip.velocity = (0, 0)
        if self._state[RAISED] and self._held < 0 and self._gaps().min() > 0:
            self._set_raised(False)

    def _within_reach(self, displacement: np.ndarray) -> pymunk.Vec2d:
        """Where the tip gets: neither it nor what it holds leaves the table."""
        goal = []
        for start, way, grip in zip(self._tip.position, displacement.tolist(), self._grip, strict=True):
            low, high = TIP_RADIUS, 1 - TIP_RADIUS
            if self._held >= 0:
                margin = self._radius[self._held]
                low, high = max(low, margin - grip), min(high, 1 - margin - grip)
            goal.append(max(low, min(high, start + way)))
        return pymunk.Vec2d(*goal)

    def _attach_in_reach(self) -> None:
        gaps = self._gaps()
        if gaps.min() < CONTACT:
            self._attach(int(gaps.argmin()))

    def _attach(self, slot: int) -> None:
        self._held = slot
        self._grip = self._bodies[slot].position - self._tip.position
        self._filter(self._bodies[slot], _PASSES)
        self._set_raised(True)

    def _release(self) -> None:
        self._filter(self._bodies[self._held], _COLLIDES)
        self._held = -1

    def _set_raised(self, raised: bool) -> None:
        self._state[RAISED] = raised
        self._filter(self._tip, _PASSES if raised else _COLLIDES)

    def _keep_on_table(self, slot: int, body: pymunk.Body) -> None:
        margin = self._radius[slot]
        x, y = body.position
        if not (margin <= x <= 1 - margin and margin <= y <= 1 - margin):
            self._place(body, (min(max(x, margin), 1 - margin), min(max(y, margin), 1 - margin)))

    def _place(self, body: pymunk.Body, position: tuple[float, float]) -> None:
        body.position = position
        body.velocity = (0, 0)
        body.angular_velocity = 0

    def _gaps(self) -> np.ndarray:
        self._write_state()
        return tip_gaps(self._state)

    def _write_state(self) -> None:
        tip_position(self._state)[:] = self._tip.position
        self._state[HELD] = self._held
        for slot, body in self._bodies.items():
            angle = (body.angle + np.pi) % (2 * np.pi) - np.pi
            self._motion[slot] = (*body.position, angle, *body.velocity, slot == self._held)

    def _filter(self, body: pymunk.Body, shape_filter: pymunk.ShapeFilter) -> None:
        for shape in body.shapes:
            shape.filter = shape_filter

    def _add_walls(self) -> None:
        corners = [(-0.1, -0.1), (1.1, -0.1), (1.1, 1.1), (-0.1, 1.1)]
        for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
            self._space.add(pymunk.Segment(self._space.static_body, a, b, radius=0.1))

    def _add_tip(self) -> pymunk.Body:
        body = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        body.position = (float(self._state[TIP_X]), float(self._state[TIP_Y]))
        shape = pymunk.Circle(body, TIP_RADIUS)
        shape.friction = 0.3
        shape.filter = _PASSES if self._state[RAISED] else _COLLIDES
        self._space.add(body, shape)
        return body

    def _add_object(self, slot: int) -> pymunk.Body:
        row = objects(self._state)[slot]
        radius, sides = self._radius[slot], int(SIDES[int(row[SHAPE])])
        body = pymunk.Body()
        body.position, body.angle = (float(row[X]), float(row[Y])), float(row[ANGLE])
        body.velocity = (float(row[VX]), float(row[VY]))
        if SHAPES[int(row[SHAPE])] == "disc":
            shape: pymunk.Shape = pymunk.Circle(body, radius)
        else:
            bearing = 2 * np.pi * np.arange(sides) / sides
            shape = pymunk.Poly(body, (radius * np.stack([np.cos(bearing), np.sin(bearing)], axis=1)).tolist())
        shape.density, shape.friction = 100.0, 0.3
        self._space.add(body, shape)
        return body
