"""What is claimed of a trajectory is what the outcomes themselves say of its states."""

import numpy as np
import pytest

from vla.envs.tabletop import BASE_FAMILIES, FAMILIES, TabletopEnv, achievements, brought_about, rollout
from vla.envs.tabletop.outcomes import CLEARLY_TRUE, Outcome, outcomes_about
from vla.envs.tabletop.state import HELD, positions, slot_of, things_on_table


def episodes(count: int, family: str | None = None, **expert_kwargs) -> list[np.ndarray]:
    table = TabletopEnv(render_observations=False, actuation_noise=0.15)
    return [rollout(table, seed, {"family": family}, expert_kwargs).environment_state for seed in range(count)]


def first_frames(parts: list[np.ndarray]) -> np.ndarray:
    first = np.zeros(sum(map(len, parts)), bool)
    first[np.cumsum([0, *map(len, parts)])[:-1]] = True
    return first


@pytest.mark.parametrize("family", FAMILIES)
def test_every_claim_is_true_and_cut_to_the_attempt(family: str) -> None:
    claims = 0
    for states in episodes(12, family):
        for claim in achievements(states, np.arange(len(states)) == 0, FAMILIES):
            part = states[claim.start : claim.end + 1]
            holds = claim.outcome.holds(part, CLEARLY_TRUE[claim.outcome.family])
            assert claim.outcome.holds(part[-1]) and not claim.outcome.holds(part[0])
            assert holds[-1] and not holds[-2] and not holds[0]
            assert claim.start == 0 or (states[claim.start - 1, HELD] >= 0 > states[claim.start, HELD])
            claims += 1
    assert claims >= 12


def on_the_way(outcome: Outcome, states: np.ndarray) -> bool:
    """Whether an attempt did it on the way to something else: let go what it touches, or carried on what was there."""
    if not outcome.places:
        return bool(states[-2, HELD] >= 0)
    path = positions(states)[:, int(slot_of(states[0], outcome.thing))]
    right = outcome.slack(states) > CLEARLY_TRUE[outcome.family]
    return bool(np.linalg.norm(path[-1] - path[right.argmax()]) > 0.08)


def test_what_was_brought_about_is_claimed_unless_on_the_way_to_something_else() -> None:
    """Against every outcome there is about the things on the table, asked one by one."""
    checked = {False: 0, True: 0}
    for states in episodes(24):
        claimed = {
            (claim.start, claim.end, claim.outcome) for claim in achievements(states, np.arange(len(states)) == 0)
        }
        released = np.flatnonzero((states[:-1, HELD] >= 0) & (states[1:, HELD] < 0)) + 1
        ends = released[:1].tolist()  # the first attempt
        for family in BASE_FAMILIES:
            for outcome in outcomes_about(list(things_on_table(states[0])), family):
                for end in ends:
                    clearly = outcome.holds(states[end - 1 : end + 1], CLEARLY_TRUE[family])
                    if clearly.tolist() == [False, True] and brought_about(outcome, states[: end + 1]):
                        passed = on_the_way(outcome, states[: end + 1])
                        assert ((0, end, outcome) in claimed) != passed
                        checked[passed] += 1
    assert min(checked.values()) >= 8


def test_episodes_looked_at_together_get_what_they_get_alone() -> None:
    parts = episodes(10, failure="drops") + episodes(5)
    together = achievements(np.concatenate(parts), first_frames(parts), FAMILIES)
    alone, offset = [], 0
    for states in parts:
        for claim in achievements(states, np.arange(len(states)) == 0, FAMILIES):
            alone.append((claim.start + offset, claim.end + offset, claim.outcome))
        offset += len(states)
    assert [(claim.start, claim.end, claim.outcome) for claim in together] == alone


def test_a_thing_that_something_else_was_brought_to_did_nothing() -> None:
    for states in episodes(10, "next_to"):
        for claim in achievements(states, np.arange(len(states)) == 0, ("next_to",)):
            assert brought_about(claim.outcome, states[claim.start : claim.end + 1])
