"""The table for `vla collect`."""

from __future__ import annotations

from typing import Any

from vla.data.collect import CollectSettings
from vla.data.writer import Episode
from vla.envs.tabletop.env import ROBOT, TabletopEnv
from vla.envs.tabletop.expert import rollout
from vla.envs.tabletop.outcomes import BASE_FAMILIES, COMBINATIONS, FAMILIES
from vla.envs.tabletop.play import play


class TabletopRecorder:
    """See `vla.data.collect.Recorder`."""

    robot = ROBOT
    families: tuple[str, ...] = FAMILIES
    default_families: tuple[str, ...] = BASE_FAMILIES
    failures: tuple[str, ...] = ("wrong_object", "drops", "stops", "wrong_target")
    protocol: dict[str, Any] = {}  # noqa: RUF012 (no one changes it)

    def __init__(self, settings: CollectSettings):
        self._env = TabletopEnv(image_size=settings.image_size, actuation_noise=settings.actuation_noise)
        self._allowed = COMBINATIONS[settings.combinations]
        self._options = {"phrasings": settings.phrasings, "allowed": self._allowed}
        self._play, self._play_families = settings.play, settings.families or self.default_families

    def record(self, scene_seed: int, family: str, failure: str | None, false_start: bool) -> Episode:
        if self._play:
            arrays = play(self._env, scene_seed, self._play, self._play_families, self._allowed)
        else:
            options = {**self._options, "family": family}
            arrays = rollout(self._env, scene_seed, options, {"failure": failure}, false_start=false_start)
        return Episode(
            images=arrays.images,
            state=arrays.state,
            action=arrays.action,
            success=arrays.success,
            instruction=arrays.instruction,
            environment_state=arrays.environment_state,
            task=arrays.family,
            outcome=str(arrays.outcome or ""),
        )
