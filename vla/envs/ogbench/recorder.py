"""The scene for `vla collect`."""

from __future__ import annotations

from typing import Any, cast

from vla.data.collect import CollectSettings
from vla.data.writer import Episode
from vla.envs.ogbench.env import OGBenchSceneEnv
from vla.envs.ogbench.expert import FAILURES, rollout
from vla.envs.ogbench.outcomes import BASE_FAMILIES, FAMILIES
from vla.envs.ogbench.play import play
from vla.envs.ogbench.state import ROBOT


class OGBenchSceneRecorder:
    """See `vla.data.collect.Recorder`. Raises ValueError for held-out combinations: the scene has none."""

    robot = ROBOT
    families: tuple[str, ...] = FAMILIES
    default_families: tuple[str, ...] = BASE_FAMILIES
    failures: tuple[str, ...] = FAILURES
    protocol: dict[str, Any] = {}  # noqa: RUF012 (no one changes it)

    def __init__(self, settings: CollectSettings):
        if settings.combinations == "held_out":
            raise ValueError("combinations: ogbench-scene keeps none out of training, so there are none to record")
        self._env = OGBenchSceneEnv(image_size=settings.image_size, actuation_noise=settings.actuation_noise)
        self._phrasings = settings.phrasings
        self._play, self._play_families = settings.play, settings.families or BASE_FAMILIES

    def record(self, scene_seed: int, family: str, failure: str | None, false_start: bool) -> Episode:
        if self._play:
            return play(self._env, scene_seed, self._play, self._play_families)
        options = {"family": family, "phrasings": self._phrasings}
        return rollout(self._env, scene_seed, options, cast(Any, failure), false_start)
