"""OGBench's simulator with what we need of it. Importing this module needs the extra `ogbench` and a GL library."""

# Shapes: E numbers a state, S robot state.

from __future__ import annotations

import os
import sys
from functools import cached_property
from typing import Any, Literal

import gymnasium
import numpy as np

from vla.envs.ogbench.state import QPOS, UNLOCKED

if sys.platform == "linux" and "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported
try:
    import mujoco
    from ogbench.manipspace.envs.scene_env import SceneEnv
except ModuleNotFoundError as error:
    raise RuntimeError('the OGBench scene is an extra: pip install "vla[ogbench]"') from error
except (ImportError, AttributeError) as error:  # PyOpenGL raises either
    raise RuntimeError(
        f"no GL library ({error}): install libegl1 and libegl-mesa0, or libosmesa6 and set MUJOCO_GL=osmesa"
    ) from error


class Simulator(SceneEnv):
    """A UR5e arm, a cube, a drawer, a window, and two buttons that lock these; no target and no picture.

    Scenes are drawn at random or, with the mode `task`, are one of OGBench's five goals.
    """

    def __init__(self, mode: Literal["data_collection", "task"] = "data_collection") -> None:
        super().__init__(
            env_type="scene",
            mode=mode,
            ob_type="pixels",  # the colours of the visual version
            visualize_info=False,
            terminate_at_goal=False,
            width=1,
            height=1,
        )

    @cached_property
    def action_space(self) -> gymnasium.spaces.Box:
        """One that can be seeded; OGBench makes another whenever it is asked."""
        return gymnasium.spaces.Box(-1, 1, (5,), np.float32)

    def compute_observation(self) -> np.ndarray:
        """The state [E], so that OGBench's goals are such; pictures are drawn by `vla.envs.ogbench.render`."""
        return self.state()

    def state(self) -> np.ndarray:
        """The environment state float32 `[E]`, laid out as `vla.envs.ogbench.state` says."""
        effector = self.data.site("ur5e/robotiq/pinch").xpos
        return np.concatenate([self.data.qpos, self._cur_button_states, effector]).astype(np.float32)

    def restore(self, state: np.ndarray) -> None:
        """Show `state [E]`, at rest."""
        self.set_state(state[QPOS].astype(np.float64), np.zeros(self.model.nv), np.rint(state[UNLOCKED]).astype(int))

    def robot(self) -> np.ndarray:
        """What the robot feels: float32 `[S]`."""
        info = self.compute_ob_info()
        yaw = info["proprio/effector_yaw"]
        parts = [info["proprio/effector_pos"], np.cos(yaw), np.sin(yaw), info["proprio/gripper_opening"]]
        return np.concatenate([*parts, info["proprio/gripper_contact"]]).astype(np.float32)

    def info(self) -> dict[str, Any]:
        """What OGBench's oracles are told."""
        return self.compute_ob_info()


__all__ = ["Simulator", "mujoco"]  # MuJoCo for those who draw, so that it is imported here and nowhere earlier
