"""Simulated environments. Importing this package registers them with gymnasium.

Everything is found by name and imported when asked for, since some need packages that are extras.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import gymnasium

if TYPE_CHECKING:
    from vla.data.collect import CollectSettings, Recorder
    from vla.evaluation.rollout import Suite
    from vla.tasks.outcomes import OutcomeGrammar

gymnasium.register(id="vla/Tabletop-v0", entry_point="vla.envs.tabletop.env:TabletopEnv")
gymnasium.register(id="vla/OGBenchScene-v0", entry_point="vla.envs.ogbench.env:OGBenchSceneEnv")
gymnasium.register(id="vla/MetaWorld-v0", entry_point="vla.envs.metaworld.env:MetaWorldEnv")

# What a policy can be evaluated on.
SUITES = {
    "tabletop": "vla.envs.tabletop.suite:TabletopSuite",
    "ogbench-scene": "vla.envs.ogbench.suite:OGBenchSceneSuite",
    "ogbench-challenges": "vla.envs.ogbench.challenges:ChallengeSuite",
    "metaworld-mt10": "vla.envs.metaworld.suite:MT10Suite",
    "metaworld-mt50": "vla.envs.metaworld.suite:MT50Suite",
}
# Where demonstrations can be recorded.
RECORDERS = {
    "tabletop": "vla.envs.tabletop.recorder:TabletopRecorder",
    "ogbench-scene": "vla.envs.ogbench.recorder:OGBenchSceneRecorder",
    "metaworld-mt10": "vla.envs.metaworld.recorder:MT10Recorder",
    "metaworld-mt50": "vla.envs.metaworld.recorder:MT50Recorder",
}
# Whose outcomes can be told from recorded states, by the embodiment that a data set names.
GRAMMARS = {"tabletop": "vla.envs.tabletop", "ogbench-scene": "vla.envs.ogbench"}


def load_suite(name: str) -> Suite:
    """The evaluation suite of an environment. Raises ValueError for an unknown name, RuntimeError without its extra."""
    return _load(SUITES, name)()


def load_recorder(name: str, settings: CollectSettings) -> Recorder:
    """The recorder of an environment. Raises ValueError for an unknown name, RuntimeError without its extra."""
    return _load(RECORDERS, name)(settings)


def load_grammar(embodiment: str) -> OutcomeGrammar[Any]:
    """The outcomes of an environment. Raises ValueError if there are none for the embodiment."""
    if embodiment not in GRAMMARS:
        raise ValueError(f"no outcomes are known for embodiment {embodiment!r}, only for {', '.join(GRAMMARS)}")
    return cast("OutcomeGrammar[Any]", import_module(GRAMMARS[embodiment]))


def _load(table: dict[str, str], name: str) -> Any:
    if name not in table:
        raise ValueError(f"environment {name!r} is unknown: use one of {', '.join(table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
