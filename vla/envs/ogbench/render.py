"""The scene drawn from its recorded state, on a CPU.

MuJoCo's software rendering is bound by triangles, shadows and samples, hardly by pixels. Shadows and multisampling are
off, and so are the links of the arm and the body of the gripper: two thirds of the triangles, which OGBench's own
pixels show with an opacity of a tenth. The fingers are drawn opaque instead.
"""

# Shapes: N states, E numbers a state.

from __future__ import annotations

import atexit
from functools import lru_cache
from typing import Any, Final

import numpy as np

from vla.envs.ogbench.simulator import Simulator, mujoco

_CAMERA: Final = "front_pixels"
_MAX_SIZE: Final = 512
_VISUAL: Final = 2  # the group of the geoms that only show what the robot looks like


def render(states: np.ndarray, size: int) -> np.ndarray:
    """Pictures of `states [N, E]`: uint8 `[N, size, size, 3]`. Raises ValueError for a size beyond 512."""
    if not 0 < size <= _MAX_SIZE:
        raise ValueError(f"image size is {size}: choose 1 to {_MAX_SIZE} pixels")
    simulator, renderer = _simulator(), _renderer(size)
    pictures = []
    for state in states:
        simulator.restore(state)
        renderer.update_scene(simulator.data, camera=_CAMERA)
        pictures.append(renderer.render())
    return np.stack(pictures)


@lru_cache(maxsize=1)
def _simulator() -> Simulator:
    """One that is only drawn, never stepped."""
    simulator = Simulator()
    simulator.reset(seed=0)
    model = simulator.model
    model.light_castshadow[:] = 0
    model.vis.quality.offsamples = 0
    model.vis.global_.offwidth = model.vis.global_.offheight = _MAX_SIZE
    for geom in range(model.ngeom):
        body = model.body(model.geom_bodyid[geom]).name
        if model.geom_group[geom] == _VISUAL and body.startswith("ur5e/"):
            _hide(model, geom) if "robotiq" not in body or "base" in body else _make_opaque(model, geom)
    return simulator


@lru_cache(maxsize=4)
def _renderer(size: int) -> Any:
    renderer = mujoco.Renderer(_simulator().model, size, size)
    atexit.register(renderer.close)  # after MuJoCo has registered what ends its library, so that it comes before that
    return renderer


def _hide(model: Any, geom: int) -> None:
    model.geom_matid[geom] = -1  # else the material's colour would count
    model.geom_rgba[geom] = 0


def _make_opaque(model: Any, geom: int) -> None:
    model.mat_rgba[model.geom_matid[geom], 3] = 1
