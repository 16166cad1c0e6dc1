"""A scripted expert that brings any outcome about, on request also fails, and the episodes it records."""

# Shapes: T steps, E numbers a state, N nodes of the path graph, O obstacles.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.envs.tabletop.env import MAX_STEP, ROBOT, TabletopEnv
from vla.envs.tabletop.outcomes import Outcome, all_outcomes, feasible, free_spots, slack_at_spots
from vla.envs.tabletop.state import (
    ANGLE,
    HELD,
    PRESENT,
    SHAPES,
    TIP_RADIUS,
    X,
    Y,
    empty_state,
    objects,
    positions,
    radii,
    slot_of,
    things_on_table,
    tip_gap,
    tip_position,
)

Failure = Literal["wrong_object", "drops", "stops", "wrong_target"]

_GAIN: Final = 0.6  # of the remaining distance, what a step covers
_SLOWEST: Final = 0.012  # a step towards contact, in table units
_SUCTION_GAP: Final = 0.03  # the suction goes on this near to the thing
_ARRIVED: Final = 0.018  # a carried thing is put down this near to its spot
_PASSAGE: Final = 0.012  # room left between the tip and what it goes around
_FALSE_STARTS: Final[tuple[Failure, ...]] = ("drops", "wrong_target", "wrong_object")
_FALSE_START_SHARES: Final = (0.6, 0.2, 0.2)
_FALSE_START_STEPS: Final = (5, 30)  # at least, and fewer than


@dataclass(frozen=True)
class EpisodeArrays:
    """One recorded episode. Row t of `action` is what was intended on seeing row t of the observations."""

    images: dict[str, np.ndarray]  # camera -> uint8 [T, H, W, 3]; empty if the environment does not render
    state: np.ndarray  # float32 [T, 4]
    environment_state: np.ndarray  # float32 [T, E]
    action: np.ndarray  # float32 [T, 3]
    success: np.ndarray  # bool [T]: the outcome had been brought about when action t was over
    instruction: str
    outcome: Outcome | None  # None for play
    family: str


def rollout(
    env: TabletopEnv,
    seed: int,
    options: dict[str, Any] | None = None,
    expert_kwargs: dict[str, Any] | None = None,
    extra_steps: int = 2,
    false_start: bool = False,
) -> EpisodeArrays:
    """One episode of the expert, a pure function of its arguments.

    Goes on for `extra_steps` after the outcome (or a deliberate failure) has come about, within the step limit. After a
    `false_start` the record begins where an attempt went wrong: it shows how to get out of it, and not how to get in.
    """
    observation, info = env.reset(seed=seed, options=options)
    if false_start:
        observation = _false_start(env, observation, info["outcome"], np.random.default_rng([seed, 5]))
        if info["outcome"].holds(observation[ENVIRONMENT_STATE]):  # by accident
            observation, info = env.reset(seed=seed, options=options)
    expert = Expert(info["outcome"], np.random.default_rng([seed, 4]), **(expert_kwargs or {}))
    observations, actions, success = [], [], []
    succeeded = truncated = False
    while extra_steps > 0 or not (succeeded or expert.finished):
        extra_steps -= succeeded or expert.finished
        observations.append(observation)
        actions.append(expert.act(observation[ENVIRONMENT_STATE]))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        succeeded |= terminated
        success.append(succeeded)
        if truncated:  # one row more: what the last action led to must be seen, or its success could not be checked
            observations.append(observation)
            actions.append(expert.act(observation[ENVIRONMENT_STATE]))
            success.append(succeeded)
            break
    return record(observations, actions, success, info["instruction"], info["outcome"], info["family"])


def record(
    observations: Sequence[dict[str, np.ndarray]],
    actions: Sequence[np.ndarray],
    success: Sequence[bool],
    instruction: str,
    outcome: Outcome | None,
    family: str,
) -> EpisodeArrays:
    """The episode of T observations and what was done on seeing each."""
    return EpisodeArrays(
        images=ROBOT.pictures(observations),
        state=np.stack([o[STATE] for o in observations]),
        environment_state=np.stack([o[ENVIRONMENT_STATE] for o in observations]),
        action=np.stack(actions),
        success=np.array(success),
        instruction=instruction,
        outcome=outcome,
        family=family,
    )


def _false_start(
    env: TabletopEnv, observation: dict[str, np.ndarray], outcome: Outcome, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Fail in some way, as a whole or in part, and let the arm go on from there: what it then sees."""
    expert = Expert(outcome, rng, rng.choice(_FALSE_STARTS, p=_FALSE_START_SHARES))
    for _ in range(rng.integers(*_FALSE_START_STEPS)):
        observation, _, succeeded, _, _ = env.step(expert.act(observation[ENVIRONMENT_STATE]))
        if expert.finished or succeeded:
            break
    return observation


class Expert:
    """Acts towards `outcome`, or fails at it on purpose.

    Without a `failure` it is a pure function of the state. `wrong_object` does the same with another thing,
    `wrong_target` puts the thing somewhere else, `drops` lets go on the way, `stops` stops on the way. Where an outcome
    or a table leaves no such failure (nothing to drop in `touch`), it stops instead.
    """

    def __init__(self, outcome: Outcome, rng: np.random.Generator, failure: Failure | None = None) -> None:
        self._outcome = outcome
        self._rng = rng
        self._failure = failure
        self._planned = False
        self._steps_left = 0  # until it stops or drops
        self.finished = False  # whether a deliberate failure is complete

    def act(self, state: np.ndarray) -> np.ndarray:
        """The action float32 [3] in `state [E]`."""
        if self._failure is None:
            return expert_action(self._outcome, state)
        if not self._planned:
            self._plan_failure(state)
        if not self.finished and self._gives_up(state):
            self.finished = True
            return _action(np.zeros(2), hold=self._failure == "stops" and state[HELD] >= 0)
        self.finished |= bool(self._outcome.holds(state))
        return _stay(state) if self.finished else expert_action(self._outcome, state)

    def _gives_up(self, state: np.ndarray) -> bool:
        if self._failure == "stops":
            self._steps_left -= 1
            return self._steps_left <= 0
        if self._failure == "drops" and state[HELD] >= 0:
            self._steps_left -= 1
            return self._steps_left <= 0 or bool(self._outcome.slack(state) > -MAX_STEP)
        return False

    def _plan_failure(self, state: np.ndarray) -> None:
        self._planned = True
        wrong = self._wrong_outcomes(state) if self._failure in ("wrong_object", "wrong_target") else []
        if wrong:
            self._outcome = wrong[self._rng.integers(len(wrong))]
        elif self._failure == "drops" and self._outcome.places:
            self._steps_left = int(self._rng.integers(2, 7))  # of carrying; fewer if that would get it there
        else:
            self._failure, self._steps_left = "stops", int(self._rng.integers(2, 7))

    def _wrong_outcomes(self, state: np.ndarray) -> list[Outcome]:
        right = self._outcome
        if self._failure == "wrong_target":
            same_family = all_outcomes(state, (right.family,))
            return [o for o in same_family if o.thing == right.thing and o != right]
        named = {right.thing, *right.others}
        swapped = [replace(right, thing=thing) for thing in things_on_table(state) if thing not in named]
        return [outcome for outcome in swapped if feasible(outcome, state)]


def expert_action(outcome: Outcome, state: np.ndarray) -> np.ndarray:
    """The expert's action float32 [3] towards `outcome` in `state [E]`; stays still once it holds."""
    if outcome.holds(state):
        return _stay(state)
    slot, held = int(slot_of(state, outcome.thing)), int(state[HELD])
    if held < 0:
        return _approach(outcome, state, slot)
    if held != slot or not outcome.places:
        return _action(np.zeros(2), hold=False)
    return _carry(outcome, state, slot)


def _approach(outcome: Outcome, state: np.ndarray, slot: int) -> np.ndarray:
    """To the near side of the thing, around everything else; suction on just before contact unless to touch."""
    tip, goal = tip_position(state).astype(float), positions(state)[slot].astype(float)
    gap = float(tip_gap(state, np.array(slot), SHAPES.index(outcome.thing.shape)))
    waypoint = _next_waypoint(state, tip, goal, slot)
    distance = gap if waypoint is goal else float(np.linalg.norm(waypoint - tip)) / _GAIN
    step = _towards(waypoint - tip, max(_GAIN * distance, _SLOWEST))
    return _action(step, hold=outcome.family != "touch" and gap < _SUCTION_GAP)


def _carry(outcome: Outcome, state: np.ndarray, slot: int) -> np.ndarray:
    """To the nearest good spot, and down."""
    offset = _best_spot(outcome, state) - positions(state)[slot]
    distance = float(np.linalg.norm(offset))
    if distance < _ARRIVED:
        return _action(np.zeros(2), hold=False)
    return _action(_towards(offset, max(_GAIN * distance, _SLOWEST)), hold=True)


def _best_spot(outcome: Outcome, state: np.ndarray) -> np.ndarray:
    """The nearest free spot where the outcome holds with its margin, or with most of what can be had: [2].

    Where the thing is if there is no free spot at all.
    """
    slot = int(slot_of(state, outcome.thing))
    centre = positions(state)[slot]
    table = empty_state()  # what the spots depend on: where the other things are
    objects(table)[:, :ANGLE] = objects(state)[:, :ANGLE]
    objects(table)[slot, X : Y + 1] = 0
    good = _good_spots(outcome, table.tobytes())
    return good[_length(good - centre).argmin()] if len(good) else centre


@lru_cache(maxsize=64)
def _good_spots(outcome: Outcome, table: bytes) -> np.ndarray:
    """The spots `[M, 2]` to choose from on a `table [E]`. Kept, because they stay the same for a whole carry."""
    state = np.frombuffer(table, np.float32)
    spots = free_spots(outcome.thing, state)
    slack = slack_at_spots(outcome, state, spots)
    best = slack.max(initial=-np.inf)
    return spots[slack >= min(outcome.margin, best - 0.3 * abs(best))]


def _next_waypoint(state: np.ndarray, tip: np.ndarray, goal: np.ndarray, slot: int) -> np.ndarray:
    """The first corner [2] of the shortest way from the tip to the goal around all things but `slot`.

    It is `goal` itself where the straight way is free, or none is. The way is found in a visibility graph over points
    around each obstacle; obstacles shrink to leave the tip and the goal outside.
    """
    standing = objects(state)[:, PRESENT] > 0
    standing[slot] = False
    centres = positions(state)[standing].astype(float)
    room = np.minimum(_length(centres - tip), _length(centres - goal)) - 1e-3
    radius = np.minimum(radii(state)[standing] + TIP_RADIUS + _PASSAGE, room)
    if _clear(tip[None], goal[None], centres, radius).all():
        return goal
    ring = np.stack([np.cos(_BEARINGS), np.sin(_BEARINGS)], axis=1)
    nodes = (centres[:, None] + (1.1 * radius[:, None, None]) * ring).reshape(-1, 2)
    outside = (_length(nodes[:, None] - centres) > radius).all(axis=1)
    on_table = (np.abs(nodes - 0.5) <= 0.5 - TIP_RADIUS).all(axis=1)
    nodes = np.concatenate([nodes[outside & on_table], goal[None], tip[None]])
    length = _length(nodes[:, None] - nodes)
    length[~_clear(nodes[:, None], nodes[None], centres, radius)] = np.inf
    to_goal = length[:, -2].copy()
    for _ in range(len(centres) + 2):
        to_goal = np.minimum(to_goal, (length + to_goal).min(axis=1))
    first = int((length[-1] + to_goal)[:-1].argmin())
    found = np.isfinite(to_goal[-1]) and first < len(nodes) - 2
    return nodes[first] if found else goal


_BEARINGS: Final = 2 * np.pi * np.arange(12) / 12


def _clear(start: np.ndarray, stop: np.ndarray, centres: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Whether segments `[..., 2]` to `[..., 2]` keep out of all circles `[O, 2]`, `[O]`: `[...]`."""
    span = (stop - start)[..., None, :]
    offset = centres - start[..., None, :]
    along = np.clip(_dot(offset, span) / np.maximum(_dot(span, span), 1e-12), 0, 1)
    return np.all(_length(offset - along[..., None] * span) >= radius, axis=-1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`[..., 2]`, `[..., 2]` -> `[...]`; numpy's sum over so short an axis is slow."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1]


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(vectors, vectors))


def _towards(direction: np.ndarray, distance: float) -> np.ndarray:
    """A step of at most `distance` (table units) along `direction [2]`, in units of `MAX_STEP`, at most 1 long."""
    return direction / max(float(np.linalg.norm(direction)), 1e-9) * min(distance / MAX_STEP, 1.0)


def _stay(state: np.ndarray) -> np.ndarray:
    return _action(np.zeros(2), hold=state[HELD] >= 0)


def _action(step: np.ndarray, hold: bool | np.bool_) -> np.ndarray:
    return np.array([*step, 1.0 if hold else -1.0], np.float32)
