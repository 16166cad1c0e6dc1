"""OGBench's own five goals: its scenes, its goals, its measure."""

from __future__ import annotations

import numpy as np
import pytest

from vla.data.layout import ENVIRONMENT_STATE
from vla.envs.ogbench.state import CUBE, DRAWER
from vla.evaluation.rollout import Case

try:
    from vla.envs.ogbench.challenges import CHALLENGES, ChallengeEnv, ChallengeSuite
    from vla.envs.ogbench.suite import OGBenchSceneSuite
except RuntimeError as missing:
    pytest.skip(str(missing), allow_module_level=True)

CAMERAS = {"front": (64, 64)}


@pytest.fixture(scope="module")
def env() -> ChallengeEnv:
    return ChallengeEnv(image_size=64)


def case(suite: ChallengeSuite, name: str, seed: int = 0) -> Case:
    return suite.cases("goal_image", 1, [name], seed)[0]


class TestGoals:
    @pytest.mark.parametrize("name", CHALLENGES)
    def test_what_counts_is_what_ogbench_counts(self, env: ChallengeEnv, name: str) -> None:
        """At the beginning, at the goal, and in states between in which some things are in place."""
        suite = ChallengeSuite()
        observation, info = env.reset(seed=3, options={"challenge": name})
        start, goal = observation[ENVIRONMENT_STATE], info["goal"]
        assert not suite.achieved(name, start[None])[0] and suite.achieved(name, goal[None])[0]
        counts = set()
        rng = np.random.default_rng(0)
        for _ in range(20):
            mixed = np.where(rng.random(len(start)) < 0.5, start, goal)
            mixed[CUBE] = (start, goal)[rng.integers(2)][CUBE]  # half a place is no place
            env.simulator.restore(mixed)
            theirs = env.simulator._compute_successes()
            ours = np.array([*theirs[0], *theirs[1], *theirs[2:]])
            counts.add(int(ours.sum()))
            assert suite.achieved(name, mixed[None])[0] == ours.all()
        assert len(counts) > 1

    def test_scenes_are_functions_of_the_seed(self, env: ChallengeEnv) -> None:
        first, other, again = (env.reset(seed=s, options={"challenge": "task1_open"}) for s in (1, 2, 1))
        np.testing.assert_array_equal(first[0][ENVIRONMENT_STATE], again[0][ENVIRONMENT_STATE])
        np.testing.assert_array_equal(first[1]["goal"], again[1]["goal"])
        assert not np.array_equal(first[0][ENVIRONMENT_STATE], other[0][ENVIRONMENT_STATE])

    def test_the_goal_is_shown_as_a_state_and_as_a_picture(self, env: ChallengeEnv) -> None:
        suite = ChallengeSuite()
        shown = suite.demonstration(case(suite, "task4_put_in_drawer"))
        assert suite.achieved("task4_put_in_drawer", shown).tolist() == [False, True]
        before, after = suite.views(shown, CAMERAS)["front"]
        assert before.shape == (64, 64, 3) and (before != after).any()

    def test_what_was_put_in_place_is_told(self) -> None:
        suite = ChallengeSuite()
        first, goal = suite.demonstration(case(suite, "task1_open"))
        halfway = first.copy()
        halfway[DRAWER] = goal[DRAWER]
        failure = suite.failure("task1_open", np.stack([first, halfway]))
        assert failure.achieved == ("drawer",)
        assert suite.failure("task1_open", np.stack([first, first])).kind == "nothing"

    def test_a_policy_that_learnt_the_scene_is_asked_for_all_five(self) -> None:
        """What a policy is evaluated on are the families that it learnt, where the suite has such."""
        assert not set(ChallengeSuite.families) & set(OGBenchSceneSuite.families)

    def test_unknown_ones_are_refused_by_name(self, env: ChallengeEnv) -> None:
        with pytest.raises(ValueError, match="challenge 'juggle' is unknown: OGBench has task1_open"):
            env.reset(seed=0, options={"challenge": "juggle"})
        with pytest.raises(ValueError, match="family 'juggle' is unknown: ogbench-challenges has task1_open"):
            ChallengeSuite().cases("goal_image", 5, ["juggle"])
        with pytest.raises(ValueError, match="has no 'right' prompt, only goal_image and goal_state"):
            ChallengeSuite().cases("right", 5)
