"""OGBench's `scene`: a UR5e arm, a cube, a drawer, a window and their locks. The extra `ogbench`.

What is here judges recordings and needs neither OGBench nor MuJoCo; `env`, `expert`, `play` and `suite` need both.
"""

from vla.envs.ogbench.hindsight import LABELLER, VERSION, achievements
from vla.envs.ogbench.instructions import instructions, parse_instruction, phrase
from vla.envs.ogbench.outcomes import (
    BASE_FAMILIES,
    FAMILIES,
    OUTCOMES,
    Outcome,
    all_outcomes,
    feasible,
    held_out_combination,
    parse_outcome,
)
from vla.envs.ogbench.state import ROBOT, STATE_SIZE

__all__ = [
    "BASE_FAMILIES",
    "FAMILIES",
    "LABELLER",
    "OUTCOMES",
    "ROBOT",
    "STATE_SIZE",
    "VERSION",
    "Outcome",
    "achievements",
    "all_outcomes",
    "feasible",
    "held_out_combination",
    "instructions",
    "parse_instruction",
    "parse_outcome",
    "phrase",
]
