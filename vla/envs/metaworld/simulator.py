"""Meta-World's simulator of one task, with what we need of it. Importing this module needs the extra `metaworld`.

A task's model takes 20 MB and a fifth of a second to make, so all of its simulators share one. All that a scene changes
in a model is where some bodies and sites are attached; that is put there anew whenever a simulator has its turn.
"""

# Shapes: E numbers a state, S robot state, A action.

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any, Final, NamedTuple

import numpy as np

from vla.envs.metaworld.state import QPOS, ROBOT, SCENES, STATE_SIZE
from vla.envs.metaworld.tasks import NUMBER

if sys.platform == "linux" and "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported
try:
    import mujoco
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
except ModuleNotFoundError as error:
    raise RuntimeError('Meta-World is an extra: pip install "vla[metaworld]"') from error
except (ImportError, AttributeError) as error:  # PyOpenGL raises either
    raise RuntimeError(
        f"no GL library ({error}): install libegl1 and libegl-mesa0, or libosmesa6 and set MUJOCO_GL=osmesa"
    ) from error

_CAMERA_POSITION: Final = (0.75, 0.075, 0.7)  # LeRobot's, nearer than Meta-World's own

Place = tuple[np.ndarray, np.ndarray]  # where bodies and where sites are attached


class Simulator:
    """A Sawyer arm and the things of one task. Nothing is drawn here.

    `observation`, float64 `[39]`, is what Meta-World's experts are told; the robot feels the first S numbers of it.
    """

    def __init__(self, task: str) -> None:
        self.task, self._shared = task, _shared(task)
        self.model, self.place = self._shared.model, self._shared.place
        self._put()
        self._env = env = self._shared.kind()
        # The experts are told the goal; the space of observations has to be made anew for that.
        env._partially_observable = False
        del env.sawyer_observation_space
        # Scenes are drawn from the generator that `seed` sets. `set_task` would keep a single one instead.
        env._set_task_called, env._freeze_rand_vec, env.seeded_rand_vec = True, False, True
        self.data = env.data
        self.observation, self.scene, self.success = np.zeros(39), 0, False

    def reset(self, seed: int) -> None:
        """The scene of the seed, a pure function of it. Raises ValueError for one that a state can't hold exactly."""
        if not 0 <= seed < SCENES:
            raise ValueError(f"scene {seed} doesn't exist: Meta-World's have seeds from 0 to {SCENES - 1}")
        self.place = self._shared.place
        self._put()
        self._env.seed(seed)
        self.observation, _ = self._env.reset()
        self.place = _place(self.model)
        self.scene, self.success = seed, False

    def step(self, action: np.ndarray) -> None:
        """Play `action [A]`, for an eightieth of a second."""
        self._put()
        self.observation, _, _, _, info = self._env.step(action)
        self.success = bool(info["success"])

    @property
    def workspace(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest place of the hand: metres `[3]` each."""
        return self._env.hand_low, self._env.hand_high

    def robot(self) -> np.ndarray:
        """What the robot feels: float32 `[S]`."""
        return self.observation[: len(ROBOT.state_names)].astype(np.float32)

    def state(self) -> np.ndarray:
        """The environment state float32 `[E]`, laid out as `vla.envs.metaworld.state` says."""
        state = np.zeros(STATE_SIZE, np.float32)
        state[:QPOS] = NUMBER[self.task], self.scene, self.success
        state[QPOS : QPOS + self.model.nq] = self.data.qpos
        return state

    def _put(self) -> None:
        self.model.body_pos[:], self.model.site_pos[:] = self.place


class _Shared(NamedTuple):
    """What the simulators of a task have in common."""

    kind: Any  # Meta-World's class of the task, whose instances use `model`
    model: Any
    place: Place  # before any scene


@cache
def _shared(task: str) -> _Shared:
    theirs = ALL_V3_ENVIRONMENTS[f"{task}-v3"]
    model = theirs().model
    model.cam_pos[model.camera(ROBOT.camera).id] = _CAMERA_POSITION
    kind = type("Sharing", (theirs,), {"_initialize_simulation": lambda self: (model, mujoco.MjData(model))})
    return _Shared(kind, model, _place(model))


def _place(model: Any) -> Place:
    return model.body_pos.copy(), model.site_pos.copy()


__all__ = ["Place", "Simulator", "mujoco"]  # MuJoCo for those who draw, imported here and nowhere earlier
