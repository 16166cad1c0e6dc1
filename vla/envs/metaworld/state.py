"""The recorded state of a scene. Task and scene are in it, because positions don't say all that a reset moved."""

from __future__ import annotations

from typing import Final

from vla.envs.robot import Robot

TASK: Final = 0  # number of the task
SCENE: Final = 1  # seed of the scene
SUCCESS: Final = 2  # 1 where the simulator says that the task is done
QPOS: Final = 3  # from here on MuJoCo's positions (metres and radians), arm and gripper first, then zeros
ROBOT_QPOS: Final = 9  # positions of arm and gripper
STATE_SIZE: Final = QPOS + 26  # E
SCENES: Final = 2**24  # seeds stay below, so that float32 holds them exactly

ROBOT: Final = Robot(
    name="metaworld-sawyer",
    fps=80,
    camera="corner2",
    # What it feels, LeRobot's `obs[:4]`: where the hand is (metres), how far the gripper is open (0 to 1).
    state_names=("x", "y", "z", "opening"),
    # Wanted change of the hand's position in a step, in shares of a centimetre, and how hard the gripper closes.
    action_names=("dx", "dy", "dz", "grip"),
    environment_state_names=("task", "scene", "success", *(f"qpos_{number}" for number in range(STATE_SIZE - QPOS))),
)
