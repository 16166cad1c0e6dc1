"""The recorded state of the scene: what its numbers are, and what they say about things and hand.

MuJoCo's positions decide everything that can be seen; the locks are not among them, so the buttons' states follow.
"""

# Shapes: ... any leading axes, E numbers a state.

from __future__ import annotations

from typing import Final

import numpy as np

from vla.envs.robot import Robot

QPOS: Final = slice(0, 25)  # joint angles of arm and gripper, then the things; radians and metres
FINGER: Final = 6  # angle of a finger's joint, 0 is open
CUBE: Final = slice(14, 17)  # its centre
BUTTONS: Final = slice(21, 23)  # how far each is pressed
DRAWER: Final = 23  # 0 is closed, OPEN_DRAWER is open
WINDOW: Final = 24  # 0 is closed, OPEN_WINDOW is open
UNLOCKED: Final = slice(25, 27)  # 1 where the button's thing can be moved, 0 where it is locked
UNLOCKED_DRAWER, UNLOCKED_WINDOW = 25, 26
EFFECTOR: Final = slice(27, 30)  # the point between the fingertips
STATE_SIZE: Final = 30  # E
STATE_NAMES: Final = (
    *(f"arm.joint_{number}" for number in range(CUBE.start)),
    *(f"cube.{name}" for name in ("x", "y", "z", "qw", "qx", "qy", "qz")),
    "button_0.pressed", "button_1.pressed", "drawer.opening", "window.opening", "drawer.unlocked", "window.unlocked",
    "arm.x", "arm.y", "arm.z",
)  # fmt: skip

ROBOT: Final = Robot(
    name="ogbench-scene",
    fps=20,
    camera="front",
    # What it feels: the point between its fingertips (metres), the hand's yaw, how far the gripper is closed, and how
    # hard it presses; the last four in [-1, 1].
    state_names=("x", "y", "z", "cos_yaw", "sin_yaw", "closed", "contact"),
    # Wanted change of these in a step, in shares of the largest one.
    action_names=("dx", "dy", "dz", "dyaw", "dclosed"),
    environment_state_names=STATE_NAMES,
)

OPEN_DRAWER: Final = -0.16
OPEN_WINDOW: Final = 0.2
FINGER_RANGE: Final = 0.8  # radians from open to closed
TOLERANCE: Final = 0.04  # metres: OGBench's

_HANDLE: Final = -0.24  # y of the handle of the closed drawer
_GRASPED: Final = 0.25  # share of FINGER_RANGE from which on fingers around the cube hold it
_IN_HAND: Final = 0.04  # metres from the cube's centre to the point between the fingertips


def opening(states: np.ndarray) -> np.ndarray:
    """How far the gripper is closed, as OGBench counts: `[..., E]` -> `[...]`, 0 is open and 1 is closed."""
    return np.clip(states[..., FINGER] / FINGER_RANGE, 0, 1)


def held(states: np.ndarray) -> np.ndarray:
    """Whether the fingers are around the cube and not open: `[..., E]` -> bool `[...]`."""
    distance = np.linalg.norm(states[..., CUBE] - states[..., EFFECTOR], axis=-1)
    return (distance < _IN_HAND) & (opening(states) > _GRASPED)


def drawer_box(states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper corner of the room in the drawer: `[..., E]` -> `[..., 3]` each."""
    handle = _HANDLE - states[..., DRAWER]
    low = np.stack([np.full_like(handle, 0.21), handle - 0.27, np.full_like(handle, 0.05)], axis=-1)
    high = np.stack([np.full_like(handle, 0.45), handle - 0.07, np.full_like(handle, 0.15)], axis=-1)
    return low, high
