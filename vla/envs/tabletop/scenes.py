"""Random tables, and random tasks on them: pure functions of a seed."""

# Shapes: E numbers a state.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from vla.envs.tabletop.outcomes import BASE_FAMILIES, Outcome, feasible, outcomes_about
from vla.envs.tabletop.state import (
    ANGLE,
    COLOUR,
    COLOURS,
    MAX_OBJECTS,
    PRESENT,
    SHAPE,
    SHAPES,
    THINGS,
    TIP_RADIUS,
    Thing,
    X,
    Y,
    empty_state,
    objects,
    things_on_table,
    tip_position,
)

MIN_OBJECTS: Final = 3
_ATTEMPTS: Final = 500


def sample_task(
    seed: int,
    *,
    family: str | None = None,
    outcome: Outcome | None = None,
    families: Sequence[str] = BASE_FAMILIES,
    allowed: Callable[[Outcome], bool] | None = None,
) -> tuple[np.ndarray, Outcome]:
    """A table `[E]` and something to do on it.

    The outcome is `outcome` if given, else drawn from `family`, else from a family drawn from `families`; `allowed`
    rules outcomes out. Tables are drawn until one admits the task; ValueError if none of 500 does.
    """
    if outcome is None and family is None:
        family = str(np.random.default_rng([seed, 0]).choice(list(families)))
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, 1, attempt])
        if outcome is not None:
            state = sample_scene(rng, (outcome.thing, *outcome.others), neighbours=outcome.family == "separate")
            candidates = [outcome]
        else:
            state = sample_scene(rng, neighbours=family == "separate")
            candidates = outcomes_about(list(things_on_table(state)), str(family))
        for index in rng.permutation(len(candidates)):
            candidate = candidates[index]
            if (allowed is None or allowed(candidate)) and feasible(candidate, state):
                return state, candidate
    raise ValueError(
        f"no table of {_ATTEMPTS} admits {outcome or family}: ask for another outcome or allow more of them"
    )


def sample_scene(rng: np.random.Generator, required: Sequence[Thing] = (), neighbours: bool = False) -> np.ndarray:
    """A table `[E]` with three to six different things on it, the `required` ones among them.

    With `neighbours`, the first two required things (or two of any) lie close together.
    """
    count = max(int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1)), len(required))
    rest = [thing for thing in THINGS if thing not in required]
    drawn = rng.choice(len(rest), count - len(required), replace=False)
    things = [*required, *(rest[index] for index in drawn)]
    spots = _lay_out(rng, things, neighbours)
    state = empty_state()
    for slot, index in enumerate(rng.permutation(count)):
        row, thing = objects(state)[slot], things[index]
        row[[PRESENT, COLOUR, SHAPE]] = 1, COLOURS.index(thing.colour), SHAPES.index(thing.shape)
        row[[X, Y]] = spots[index]
        row[ANGLE] = rng.uniform(-np.pi, np.pi)
    tip_position(state)[:] = _tip_spot(rng, things, spots)
    return state


def _lay_out(rng: np.random.Generator, things: Sequence[Thing], neighbours: bool) -> list[np.ndarray]:
    """Spots `[2]` for all things, none closer than a passage between them (but for the neighbours)."""
    while True:
        spots: list[np.ndarray] = []
        for _ in range(40 * len(things)):
            index = len(spots)
            radius = things[index].radius
            beside = neighbours and index == 1
            if beside:
                bearing, distance = rng.uniform(0, 2 * np.pi), radius + things[0].radius + rng.uniform(0.004, 0.03)
                spot = spots[0] + distance * np.array([np.cos(bearing), np.sin(bearing)])
            else:
                spot = rng.uniform(radius, 1 - radius, 2)
            gaps = [
                np.hypot(*(spot - other)) - radius - thing.radius for other, thing in zip(spots, things, strict=False)
            ]
            on_table = bool((np.abs(spot - 0.5) <= 0.5 - radius).all())
            if on_table and min(gaps, default=1.0) > (0.0 if beside else 0.025):
                spots.append(spot)
            if len(spots) == len(things):
                return spots


def _tip_spot(rng: np.random.Generator, things: Sequence[Thing], spots: Sequence[np.ndarray]) -> np.ndarray:
    while True:
        spot = rng.uniform(0.05, 0.95, 2)
        gaps = [np.hypot(*(spot - other)) - thing.radius for other, thing in zip(spots, things, strict=True)]
        if min(gaps) > TIP_RADIUS + 0.03:
            return spot
