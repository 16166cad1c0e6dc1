"""The scene's outcomes, instructions and hindsight on made-up states: neither OGBench nor MuJoCo is needed."""

import importlib
import sys

import numpy as np
import pytest

from vla.envs import load_grammar
from vla.envs.ogbench import (
    FAMILIES,
    OUTCOMES,
    STATE_SIZE,
    Outcome,
    achievements,
    all_outcomes,
    feasible,
    instructions,
    parse_instruction,
    parse_outcome,
    phrase,
)
from vla.envs.ogbench.hindsight import APPROACH, PAUSE
from vla.envs.ogbench.outcomes import locked_out
from vla.envs.ogbench.state import (
    BUTTONS,
    CUBE,
    DRAWER,
    EFFECTOR,
    FINGER,
    OPEN_DRAWER,
    OPEN_WINDOW,
    UNLOCKED,
    UNLOCKED_DRAWER,
    WINDOW,
)
from vla.tasks.outcomes import Split

SPLITS: tuple[Split, ...] = ("train", "held_out")


def scene(drawer: float = 0.0, window: float = 0.0, unlocked: tuple[int, int] = (1, 1), cube=(0.37, 0.05, 0.02)):
    """A state with the hand out of the way: `[E]`."""
    state = np.zeros(STATE_SIZE, np.float32)
    state[DRAWER], state[WINDOW], state[UNLOCKED], state[CUBE] = drawer, window, unlocked, cube
    state[EFFECTOR] = (0.4, 0.0, 0.3)
    return state


def opening(frames: int = 10, waiting: int = 40) -> np.ndarray:
    """The drawer waits, opens, and stays open: `[2 * waiting + frames, E]`."""
    way = np.concatenate([np.zeros(waiting), np.linspace(0, OPEN_DRAWER, frames), np.full(waiting, OPEN_DRAWER)])
    return np.stack([scene(drawer) for drawer in way])


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_text_and_outcome_are_the_same(outcome: Outcome) -> None:
    assert parse_outcome(str(outcome)) == outcome and outcome.family in FAMILIES and outcome.intention_free


@pytest.mark.parametrize("text", ["", "open", "open(cube)", "place(cube)", "place(cube, up)", "open(drawer) ", "fly()"])
def test_no_other_text_is_an_outcome(text: str) -> None:
    with pytest.raises(ValueError, match="outcome"):
        parse_outcome(text)


def test_all_phrasings_of_all_outcomes_differ_and_mean_their_outcome() -> None:
    said = [(text, outcome) for outcome in OUTCOMES for split in SPLITS for text in instructions(outcome, split)]
    assert len({text for text, _ in said}) == len(said)
    assert all(parse_instruction(f" {text.capitalize()}. ") == outcome for text, outcome in said)
    for outcome in OUTCOMES:
        assert len(instructions(outcome, "train")) >= 8 and len(instructions(outcome, "held_out")) >= 4
        assert phrase(outcome, np.random.default_rng(1), "held_out") in instructions(outcome, "held_out")
    assert parse_instruction("press the drawer button") is None  # what that does depends on the lock
    with pytest.raises(ValueError, match="held_out"):
        instructions(OUTCOMES[0], "test")  # type: ignore[arg-type]


def test_what_a_lock_or_a_closed_drawer_forbids_is_not_feasible() -> None:
    drawer, window, stow = Outcome("open", "drawer"), Outcome("open", "window"), Outcome("stow", "cube")
    assert feasible(drawer, scene()) and feasible(window, scene())
    locked = scene(unlocked=(0, 1))
    assert not feasible(drawer, locked) and locked_out(drawer, locked) and feasible(window, locked)
    assert not locked_out(Outcome("close", "drawer"), locked)  # it is closed already
    assert feasible(Outcome("unlock", "drawer"), locked) and not feasible(Outcome("lock", "drawer"), locked)
    assert not feasible(stow, scene()) and feasible(stow, scene(drawer=OPEN_DRAWER))
    assert not feasible(Outcome("place", "cube", "left"), scene(cube=(0.33, -0.24, 0.066)))  # it lies in the drawer


def test_half_open_can_become_both() -> None:
    state = scene(drawer=OPEN_DRAWER / 2, window=OPEN_WINDOW / 2)
    both = {str(outcome) for outcome in all_outcomes(state, ("open", "close"))}
    assert both == {"open(drawer)", "close(drawer)", "open(window)", "close(window)"}
    assert not any(outcome.holds(state) for outcome in OUTCOMES if outcome.family in ("open", "close"))


def test_ogbench_s_tolerance_decides() -> None:
    for outcome, inside, outside in (
        (Outcome("open", "drawer"), scene(drawer=-0.121), scene(drawer=-0.119)),
        (Outcome("close", "drawer"), scene(drawer=-0.039), scene(drawer=-0.041)),
        (Outcome("open", "window"), scene(window=0.161), scene(window=0.159)),
        (Outcome("close", "window"), scene(window=0.039), scene(window=0.041)),
    ):
        assert outcome.holds(np.stack([inside, outside])).tolist() == [True, False]


def test_a_cube_counts_once_it_is_let_go() -> None:
    left = Outcome("place", "cube", "left")
    state = scene(cube=(0.37, -0.04, 0.02))
    assert left.holds(state)
    state[EFFECTOR], state[FINGER] = state[CUBE], 0.45
    assert not left.holds(state)
    inside = scene(drawer=OPEN_DRAWER, cube=(0.33, -0.24, 0.066))
    assert Outcome("stow", "cube").holds(inside) and not left.holds(inside)
    closed = scene(drawer=0.0, cube=(0.33, -0.40, 0.066))  # it went in with the drawer
    assert Outcome("stow", "cube").holds(closed)


def test_a_claim_is_cut_to_the_deed_and_its_approach() -> None:
    states = opening()
    (claim,) = achievements(states, np.arange(len(states)) == 0)
    deed = int(np.flatnonzero(states[:, DRAWER] < 0)[0])
    assert str(claim.outcome) == "open(drawer)" and claim.start == deed - APPROACH
    holds = claim.outcome.holds(states, claim.outcome.clearly_true)
    assert holds[claim.end] and not holds[: claim.end].any()


@pytest.mark.parametrize(("waiting", "start"), [(40, 28 - APPROACH), (50, 31), (70, 71 - APPROACH)])
def test_an_approach_does_not_reach_into_the_deed_before(waiting: int, start: int) -> None:
    """The drawer moves from frame `waiting` + 1 on, the button in frames 28 to 31; a short pause makes it one deed."""
    states = opening(waiting=waiting)
    states[:30, UNLOCKED_DRAWER] = 0
    states[28:31, BUTTONS.start] = (-0.01, -0.022, -0.01)
    unlocking, drawer = achievements(states, np.arange(len(states)) == 0)
    assert (str(unlocking.outcome), unlocking.start, unlocking.end) == ("unlock(drawer)", 28 - APPROACH, 30)
    assert (str(drawer.outcome), drawer.start) == ("open(drawer)", start)
    assert 41 - 31 <= PAUSE < 51 - 31


def test_episodes_looked_at_together_get_what_they_get_alone() -> None:
    parts = [opening(waiting=waiting) for waiting in (5, 30, 50)]
    first = np.concatenate([np.arange(len(part)) == 0 for part in parts])
    together = [(c.start, c.end, c.outcome) for c in achievements(np.concatenate(parts), first)]
    offsets = np.cumsum([0, *map(len, parts)])
    alone = [
        (claim.start + offset, claim.end + offset, claim.outcome)
        for part, offset in zip(parts, offsets, strict=False)
        for claim in achievements(part, np.arange(len(part)) == 0)
    ]
    assert together == alone and len(alone) == 3


def test_what_was_so_from_the_start_or_hardly_changed_is_not_claimed() -> None:
    still = np.stack([scene(drawer=OPEN_DRAWER)] * 20)
    assert achievements(still, np.arange(20) == 0) == []
    nudged = np.stack([scene(drawer=drawer) for drawer in np.linspace(-0.10, -0.15, 20)])
    assert achievements(nudged, np.arange(20) == 0) == []


def test_recordings_are_judged_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_grammar("ogbench-scene").ROBOT.environment_state_dim == STATE_SIZE
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.delitem(sys.modules, "vla.envs.ogbench.simulator", raising=False)
    with pytest.raises(RuntimeError, match=r'pip install "vla\[ogbench\]"'):
        importlib.import_module("vla.envs.ogbench.simulator")
