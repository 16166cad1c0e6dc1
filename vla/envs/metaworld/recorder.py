"""The tasks for `vla collect`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np

from vla.data.collect import CollectSettings
from vla.data.writer import Episode
from vla.envs.metaworld.env import MetaWorldEnv
from vla.envs.metaworld.expert import rollout
from vla.envs.metaworld.protocol import Protocol
from vla.envs.metaworld.render import render
from vla.envs.metaworld.state import ROBOT
from vla.envs.metaworld.tasks import MT10, MT50

# Settings that ask for what there isn't, and why.
_MISSING = {
    "combinations": "a task has one thing, so none is kept out of training",
    "phrasings": "a task has a single text",
    "play": "a scene has a single task",
    "failure_rate": "the experts don't know how to fail on purpose",
}


class MT50Recorder:
    """See `vla.data.collect.Recorder`. Raises ValueError for settings that ask for what Meta-World doesn't have."""

    robot = ROBOT
    families: tuple[str, ...] = MT50
    default_families: tuple[str, ...] = MT50
    failures: tuple[str, ...] = ()

    def __init__(self, settings: CollectSettings):
        asked = {
            "combinations": settings.combinations == "held_out",
            "phrasings": settings.phrasings == "held_out",
            "play": settings.play > 0,
            "failure_rate": settings.failure_rate > 0,
        }
        for name, why in _MISSING.items():
            if asked[name]:
                raise ValueError(f"{name}: not for {settings.env}, where {why}; leave it at its default")
        protocol = Protocol(image_size=settings.image_size)
        self._env = MetaWorldEnv(protocol=protocol, actuation_noise=settings.actuation_noise, render_observations=False)
        self.protocol: dict[str, Any] = protocol.to_json()

    def record(self, scene_seed: int, family: str, failure: str | None, false_start: bool) -> Episode:
        episode = rollout(self._env, scene_seed, {"family": family}, false_start)
        if not episode.success[-1]:
            return episode  # thrown away, so nothing is drawn of it
        states, protocol = cast(np.ndarray, episode.environment_state), self._env.protocol
        return replace(episode, images={ROBOT.camera: render(states, protocol.image_size, protocol)})


class MT10Recorder(MT50Recorder):
    families = default_families = MT10
