"""Tabletop: coloured shapes, a suction tip, and instructions over relations; the default environment."""

from vla.envs.tabletop.env import ROBOT, TabletopEnv
from vla.envs.tabletop.expert import EpisodeArrays, Expert, rollout
from vla.envs.tabletop.hindsight import LABELLER, VERSION, achievements
from vla.envs.tabletop.instructions import instructions, mentions, parse_instruction, phrase
from vla.envs.tabletop.outcomes import (
    BASE_FAMILIES,
    FAMILIES,
    Outcome,
    all_outcomes,
    brought_about,
    feasible,
    held_out_combination,
    parse_outcome,
)
from vla.envs.tabletop.play import play
from vla.envs.tabletop.state import COLOURS, SHAPES, STATE_SIZE, Thing

__all__ = [
    "BASE_FAMILIES",
    "COLOURS",
    "FAMILIES",
    "LABELLER",
    "ROBOT",
    "SHAPES",
    "STATE_SIZE",
    "VERSION",
    "EpisodeArrays",
    "Expert",
    "Outcome",
    "TabletopEnv",
    "Thing",
    "achievements",
    "all_outcomes",
    "brought_about",
    "feasible",
    "held_out_combination",
    "instructions",
    "mentions",
    "parse_instruction",
    "parse_outcome",
    "phrase",
    "play",
    "rollout",
]
