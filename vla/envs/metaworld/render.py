"""Scenes drawn from their recorded states, on a CPU.

Software rendering is bound by shadows, samples and triangles, hardly by pixels. Reflections are off: no pixel shows
one, but the floor has everything drawn twice. All tasks share one GL context; each has its meshes and textures in it.
"""

# Shapes: N states, E numbers a state.

from __future__ import annotations

import atexit
from functools import lru_cache
from typing import Any, Final

import numpy as np

from vla.envs.metaworld.protocol import Protocol
from vla.envs.metaworld.simulator import Place, Simulator, mujoco
from vla.envs.metaworld.state import QPOS, ROBOT, SCENE, TASK
from vla.envs.metaworld.tasks import TASKS

_MAX_SIZE: Final = 1024
_TASKS: Final = 64  # that are kept ready to be drawn
_SCENES: Final = 512  # of a task that are remembered
_GEOMS: Final = 1000  # room for what is seen


def render(states: np.ndarray, size: int, protocol: Protocol) -> np.ndarray:
    """Pictures of `states [N, E]`: uint8 `[N, size, size, 3]`. Raises ValueError for a size beyond 1024."""
    if not 0 < size <= _MAX_SIZE:
        raise ValueError(f"image size is {size}: choose 1 to {_MAX_SIZE} pixels")
    _gl_context().make_current()
    pictures = np.empty((len(states), size, size, 3), np.uint8)
    for picture, state in zip(pictures, states, strict=True):
        stage = _stage(TASKS[int(state[TASK])].name, protocol.shadows, protocol.multisampling)
        stage.show(state)
        stage.draw(picture)
    return pictures


class _Stage:
    """One task to be drawn."""

    def __init__(self, task: str, shadows: bool, multisampling: bool) -> None:
        self._simulator = Simulator(task)
        self._model, self._data = self._simulator.model, self._simulator.data
        self._place = lru_cache(maxsize=_SCENES)(self._placed)
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = self._model.camera(ROBOT.camera).id
        self._visible = mujoco.MjvScene(self._model, maxgeom=_GEOMS)
        self._visible.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._visible.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._context = _context(self._model, shadows, multisampling)

    def show(self, state: np.ndarray) -> None:
        """Put everything where `state [E]` says."""
        model, data = self._model, self._data
        model.body_pos[:], model.site_pos[:] = self._place(int(state[SCENE]))
        data.qpos[:] = state[QPOS : QPOS + model.nq]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)

    def draw(self, picture: np.ndarray) -> None:
        """Into `picture` uint8 `[size, size, 3]`."""
        size, context = len(picture), self._context
        if size > min(context.offWidth, context.offHeight):
            mujoco.mjr_resizeOffscreen(size, size, context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)  # another task may have drawn before
        viewport = mujoco.MjrRect(0, 0, size, size)
        mujoco.mjv_updateScene(
            self._model, self._data, self._options, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._visible
        )
        mujoco.mjr_render(viewport, self._visible, context)
        mujoco.mjr_readPixels(picture, None, viewport, context)
        # GL counts rows from below, which Meta-World turns round; LeRobot flips both axes of that.
        picture[:] = picture[:, ::-1].copy()

    def _placed(self, seed: int) -> Place:
        """What a reset moves besides MuJoCo's positions."""
        self._simulator.reset(seed)
        return self._simulator.place


def _context(model: Any, shadows: bool, multisampling: bool) -> Any:
    """What the model's pictures are made of, in the GL context: meshes, textures, the picture itself."""
    quality = model.vis.quality
    published = quality.shadowsize, quality.offsamples
    quality.shadowsize, quality.offsamples = published[0] * shadows, published[1] * multisampling
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    quality.shadowsize, quality.offsamples = published
    return context


@lru_cache(maxsize=_TASKS)
def _stage(task: str, shadows: bool, multisampling: bool) -> _Stage:
    return _Stage(task, shadows, multisampling)


@lru_cache(maxsize=1)
def _gl_context() -> Any:
    context = mujoco.GLContext(_MAX_SIZE, _MAX_SIZE)
    atexit.register(_release)  # after MuJoCo has registered what ends its library, so that it comes before that
    return context


def _release() -> None:
    """Free the context, and before it what lies in it."""
    _stage.cache_clear()
    _gl_context.cache_clear()
