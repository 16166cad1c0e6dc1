"""Simulated environments. Importing this package registers them with gymnasium."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import gymnasium

if TYPE_CHECKING:
    from vla.evaluation.rollout import Suite
    from vla.tasks.outcomes import OutcomeGrammar

gymnasium.register(id="vla/Tabletop-v0", entry_point="vla.envs.tabletop.env:TabletopEnv")

# What a policy can be evaluated on, by name; imported when asked for, since some need packages that are extras.
SUITES = {"tabletop": "vla.envs.tabletop.suite:TabletopSuite"}


def load_suite(name: str) -> Suite:
    """The evaluation suite of an environment. Raises ValueError for an unknown name."""
    if name not in SUITES:
        raise ValueError(f"environment {name!r} is unknown: use one of {', '.join(SUITES)}")
    module, _, attribute = SUITES[name].partition(":")
    return getattr(import_module(module), attribute)()


# Whose outcomes can be told from recorded states, by the embodiment that a data set names.
GRAMMARS = {"tabletop": "vla.envs.tabletop"}


def load_grammar(embodiment: str) -> OutcomeGrammar[Any]:
    """The outcomes of an environment. Raises ValueError if there are none for the embodiment."""
    if embodiment not in GRAMMARS:
        raise ValueError(f"no outcomes are known for embodiment {embodiment!r}, only for {', '.join(GRAMMARS)}")
    return cast("OutcomeGrammar[Any]", import_module(GRAMMARS[embodiment]))
