"""The fifty tasks of Meta-World, what a policy is told for each, and how they are grouped.

Names, numbers, texts and tiers are those of LeRobot's `metaworld_config.json`; names go without their version, `-v3`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Tier = Literal["easy", "medium", "hard", "very_hard"]


@dataclass(frozen=True)
class Task:
    """One task. Its place in `TASKS` is its number."""

    name: str
    tier: Tier  # how hard it is, as Seo et al. 2023 (Masked World Models for Visual Control) group them
    instruction: str


TASKS: Final = (
    Task("assembly", "hard", "Pick up a nut and place it onto a peg"),
    Task("basketball", "medium", "Dunk the basketball into the basket"),
    Task("bin-picking", "medium", "Grasp the puck from one bin and place it into another bin"),
    Task("box-close", "medium", "Grasp the cover and close the box with it"),
    Task("button-press-topdown", "easy", "Press a button from the top"),
    Task("button-press-topdown-wall", "easy", "Bypass a wall and press a button from the top"),
    Task("button-press", "easy", "Press a button"),
    Task("button-press-wall", "easy", "Bypass a wall and press a button"),
    Task("coffee-button", "easy", "Push a button on the coffee machine"),
    Task("coffee-pull", "medium", "Pull a mug from a coffee machine"),
    Task("coffee-push", "medium", "Push a mug under a coffee machine"),
    Task("dial-turn", "easy", "Rotate a dial 180 degrees"),
    Task("disassemble", "very_hard", "Pick a nut out of a peg"),
    Task("door-close", "easy", "Close a door with a revolving joint"),
    Task("door-lock", "easy", "Lock the door by rotating the lock clockwise"),
    Task("door-open", "easy", "Open a door with a revolving joint"),
    Task("door-unlock", "easy", "Unlock the door by rotating the lock counter-clockwise"),
    Task("drawer-close", "easy", "Push and close a drawer"),
    Task("drawer-open", "easy", "Open a drawer"),
    Task("faucet-close", "easy", "Rotate the faucet clockwise"),
    Task("faucet-open", "easy", "Rotate the faucet counter-clockwise"),
    Task("hammer", "medium", "Hammer a screw on the wall"),
    Task("hand-insert", "hard", "Insert the gripper into a hole"),
    Task("handle-press-side", "easy", "Press a handle down sideways"),
    Task("handle-press", "easy", "Press a handle down"),
    Task("handle-pull-side", "easy", "Pull a handle up sideways"),
    Task("handle-pull", "easy", "Pull a handle up"),
    Task("lever-pull", "easy", "Pull a lever down 90 degrees"),
    Task("peg-insert-side", "medium", "Insert a peg sideways"),
    Task("peg-unplug-side", "easy", "Unplug a peg sideways"),
    Task("pick-out-of-hole", "hard", "Pick up a puck from a hole"),
    Task("pick-place", "hard", "Pick and place a puck to a goal"),
    Task("pick-place-wall", "very_hard", "Pick a puck, bypass a wall and place the puck"),
    Task("plate-slide-back-side", "easy", "Get a plate from the cabinet sideways"),
    Task("plate-slide-back", "easy", "Get a plate from the cabinet"),
    Task("plate-slide-side", "easy", "Slide a plate into a cabinet sideways"),
    Task("plate-slide", "easy", "Slide a plate into a cabinet"),
    Task("push-back", "hard", "Push the puck to a goal"),  # push's text; see `Protocol.push_back_text`
    Task("push", "hard", "Push the puck to a goal"),
    Task("push-wall", "medium", "Bypass a wall and push a puck to a goal"),
    Task("reach", "easy", "Reach a goal position"),
    Task("reach-wall", "easy", "Bypass a wall and reach a goal"),
    Task("shelf-place", "very_hard", "Pick and place a puck onto a shelf"),
    Task("soccer", "medium", "Kick a soccer into the goal"),
    Task("stick-pull", "very_hard", "Grasp a stick and pull a box with the stick"),
    Task("stick-push", "very_hard", "Grasp a stick and push a box using the stick"),
    Task("sweep-into", "medium", "Sweep a puck into a hole"),
    Task("sweep", "medium", "Sweep a puck off the table"),
    Task("window-open", "easy", "Push and open a window"),
    Task("window-close", "easy", "Push and close a window"),
)
NUMBER: Final = {task.name: number for number, task in enumerate(TASKS)}

MT50: Final = tuple(task.name for task in TASKS)
MT10: Final = (
    "reach",
    "push",
    "pick-place",
    "door-open",
    "drawer-open",
    "drawer-close",
    "button-press-topdown",
    "peg-insert-side",
    "window-open",
    "window-close",
)
TIERS: Final = {
    tier: tuple(task.name for task in TASKS if task.tier == tier) for tier in ("easy", "medium", "hard", "very_hard")
}
