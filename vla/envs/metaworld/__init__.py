"""Meta-World's fifty tasks of a Sawyer arm and ten of them, MT10, under LeRobot's protocol. The extra `metaworld`.

What is imported here needs neither Meta-World nor MuJoCo; `env`, `expert`, `render` and `suite` need both.
"""

from vla.envs.metaworld.protocol import LEROBOT, Protocol
from vla.envs.metaworld.state import ROBOT, STATE_SIZE
from vla.envs.metaworld.tasks import MT10, MT50, TASKS, TIERS, Task

__all__ = [
    "LEROBOT",
    "MT10",
    "MT50",
    "ROBOT",
    "STATE_SIZE",
    "TASKS",
    "TIERS",
    "Protocol",
    "Task",
]
