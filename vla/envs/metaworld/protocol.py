"""How the tasks are shown, told and timed: LeRobot's protocol, and where ours deviates from it.

What both share isn't a setting: the camera, the state, the actions (`vla.envs.metaworld.simulator`), that success ends
an episode, and scenes that are drawn anew for every seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from vla.envs.metaworld.tasks import NUMBER, TASKS


@dataclass(frozen=True)
class Protocol:
    """The settings of an environment; the defaults are ours, `LEROBOT` is what published figures were measured with."""

    image_size: int = 128
    """Pixels in each direction."""
    shadows: bool = False
    """Software rendering takes most of its time for them."""
    multisampling: bool = False
    """Smooth edges; the same."""
    push_back_text: str = "Push the puck back to a goal"
    """LeRobot tells push-back what it tells push, though the puck is to go the other way."""
    max_steps: int = 400
    """Actions after which an episode is over."""

    def instruction(self, task: str) -> str:
        """What a policy is told."""
        return self.push_back_text if task == "push-back" else TASKS[NUMBER[task]].instruction

    def to_json(self) -> dict[str, Any]:
        """The settings, and those that deviate: name -> LeRobot's value."""
        published = asdict(LEROBOT)
        deviations = {name: published[name] for name, value in asdict(self).items() if value != published[name]}
        return {**asdict(self), "lerobot_instead": deviations}


# lerobot/envs/metaworld.py and metaworld_config.json, version 0.6.1.
LEROBOT: Final = Protocol(480, shadows=True, multisampling=True, push_back_text="Push the puck to a goal")
