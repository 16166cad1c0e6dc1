"""The environment: determinism, physics, actions, goals, pictures."""

import subprocess
import sys
import time
import warnings
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import vla.envs  # noqa: F401 (registers)
from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.envs.tabletop import FAMILIES, Outcome, TabletopEnv, Thing
from vla.envs.tabletop.env import MAX_STEP, ROBOT
from vla.envs.tabletop.render import _lying, render
from vla.envs.tabletop.scenes import sample_scene
from vla.envs.tabletop.state import (
    CONTACT,
    HELD,
    RAISED,
    THINGS,
    TIP_X,
    TIP_Y,
    objects,
    positions,
    radii,
    slot_of,
    things_on_table,
    tip_gaps,
    tip_position,
)
from vla.envs.tabletop.world import World

seeds = st.integers(0, 2**31)


def play(seed: int, steps: int = 40, **kwargs) -> tuple[np.ndarray, np.ndarray]:
    env = TabletopEnv(**kwargs)
    observation, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    states, images = [], []
    for _ in range(steps):
        observation = env.step(rng.uniform(-1, 1, 3))[0]
        states.append(observation[ENVIRONMENT_STATE])
        images.append(observation.get(ROBOT.image, np.zeros(0)))
    return np.stack(states), np.stack(images)


def grab(env: TabletopEnv) -> int:
    """Move straight to the nearest thing and lift it; its slot."""
    for _ in range(60):
        state = env._state
        if state[HELD] >= 0:
            return int(state[HELD])
        nearest = int(tip_gaps(state).argmin())
        way = positions(state)[nearest] - tip_position(state)
        env.step(np.array([*(0.5 * way / np.linalg.norm(way)), 1.0]))
    raise AssertionError("nothing was lifted")


def test_registered_and_conforming() -> None:
    env = gymnasium.make("vla/Tabletop-v0", render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checker would like every space normalised and dimensions kept
        check_env(env.unwrapped)
    env.reset(seed=0)
    assert np.asarray(env.render()).shape == (128, 128, 3)


def test_same_seed_and_actions_give_identical_states_and_pixels() -> None:
    for first, second in zip(play(3, actuation_noise=0.2), play(3, actuation_noise=0.2), strict=True):
        np.testing.assert_array_equal(first, second)


def test_identical_in_another_process() -> None:
    code = (
        f"import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}; from test_tabletop import play;"
        "print(*play(5, render_observations=False)[0].ravel().tolist())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    np.testing.assert_array_equal(np.array(out.split(), float), play(5, render_observations=False)[0].ravel())


def test_noise_changes_the_motion_and_rendering_does_not() -> None:
    still = play(3, render_observations=False)[0]
    np.testing.assert_array_equal(still, play(3)[0])
    assert np.abs(still - play(3, actuation_noise=0.2, render_observations=False)[0]).max() > 0.01


@given(seeds, st.sampled_from(FAMILIES))
@settings(max_examples=20, deadline=None)
def test_scene_and_outcome_depend_on_seed_and_family_not_on_phrasings(seed: int, family: str) -> None:
    env = TabletopEnv(render_observations=False)
    first, train = env.reset(seed=seed, options={"family": family})
    second, held_out = env.reset(seed=seed, options={"family": family, "phrasings": "held_out"})
    np.testing.assert_array_equal(first[ENVIRONMENT_STATE], second[ENVIRONMENT_STATE])
    assert train["outcome"] == held_out["outcome"] and train["family"] == family
    assert train["instruction"] != held_out["instruction"]
    assert not train["success"]


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_scenes_have_three_to_six_different_things_apart_and_on_the_table(seed: int) -> None:
    state = sample_scene(np.random.default_rng(seed))
    things = things_on_table(state)
    assert 3 <= len(things) <= 6
    slots = list(things.values())
    centres, radius = positions(state)[slots], radii(state)[slots]
    assert (np.abs(centres - 0.5).max(axis=1) <= 0.5 - radius + 1e-6).all()
    distance = np.linalg.norm(centres[:, None] - centres, axis=-1) + np.eye(len(slots))
    assert (distance > radius[:, None] + radius).all()
    assert tip_gaps(state).min() > CONTACT


@given(seeds, st.lists(st.tuples(*[st.floats(-1, 1)] * 3), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_whatever_is_done_things_stay_on_the_table_and_nothing_moves_by_itself(seed: int, actions: list) -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=seed)
    for action in actions:
        observation, *_ = env.step(np.array(action))
        assert env.observation_space.contains(observation)
        state = observation[ENVIRONMENT_STATE]
        standing = radii(state) > 0
        inside = np.abs(positions(state) - 0.5).max(axis=1) <= 0.5 - radii(state) + 1e-6
        assert inside[standing].all()
    for _ in range(10):
        env.step(np.array([0, 0, -1.0]))
    rested = env._state.copy()
    env.step(np.array([0, 0, -1.0]))
    assert np.abs(positions(env._state) - positions(rested)).max() < 1e-3


def test_tip_moves_by_the_action_and_stays_on_the_table() -> None:
    env = TabletopEnv(render_observations=False)
    start = env.reset(seed=0, options={"outcome": Outcome("touch", THINGS[0])})[0][STATE]
    moved = env.step(np.array([0.5, 0, -1.0], np.float32))[0][STATE]
    np.testing.assert_allclose(moved[:2] - start[:2], [0.5 * MAX_STEP, 0], atol=1e-6)
    for _ in range(30):
        moved = env.step(np.array([5.0, -5.0, -1.0]))[0][STATE]
    np.testing.assert_allclose(moved[:2], [1 - 0.022, 0.022], atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_held_moves_rigidly_over_the_others_and_is_put_down(seed: int) -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=seed)
    slot = grab(env)
    before = env._state.copy()
    for _ in range(4):
        env.step(np.array([*(0.5 - tip_position(env._state)) * 4, 1.0]))
    after = env._state
    grip = positions(before)[slot] - tip_position(before)
    np.testing.assert_allclose(positions(after)[slot] - tip_position(after), grip, atol=1e-5)
    others = [other for other in things_on_table(after).values() if other != slot]
    np.testing.assert_allclose(objects(after)[others], objects(before)[others], atol=1e-5)
    for _ in range(4):
        env.step(np.array([0, 0, -1.0]))
    assert env._state[HELD] == -1
    centres, radius = positions(env._state), radii(env._state)
    inner = radius * 0.5  # every outline contains at least this circle, so overlaps beyond it are impossible
    for other in others:
        assert np.linalg.norm(centres[slot] - centres[other]) > inner[slot] + inner[other]


def test_tip_pushes_what_it_runs_into() -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=1, options={"outcome": Outcome.parse("region(red disc, centre)")})
    thing = Thing("red", "disc")
    slot = int(slot_of(env._state, thing))
    start = positions(env._state)[slot].copy()
    for _ in range(20):
        way = positions(env._state)[slot] - tip_position(env._state)
        env.step(np.array([*(way / np.linalg.norm(way)), -1.0]))
        assert env._state[RAISED] == 0
    assert np.linalg.norm(positions(env._state)[slot] - start) > 0.1
    assert tip_gaps(env._state).min() > -0.02


@pytest.mark.parametrize(("position", "name"), list(enumerate(["dx", "dy", "hold"])))
def test_nan_in_an_action_is_named(position: int, name: str) -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=0)
    before = env._state.copy()
    action = np.zeros(3)
    action[position] = np.nan
    with pytest.raises(ValueError, match=f"'{name}' is NaN"):
        env.step(action)
    np.testing.assert_array_equal(env._state, before)


def test_bad_requests_are_refused_clearly() -> None:
    env = TabletopEnv(render_observations=False)
    with pytest.raises(ValueError, match="3 numbers"):
        env.reset(seed=0)
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match="'familly' is unknown"):
        env.reset(seed=0, options={"familly": "touch"})
    with pytest.raises(ValueError, match="family 'fold' is unknown"):
        env.reset(seed=0, options={"family": "fold"})
    with pytest.raises(ValueError, match="phrasings 'test' are unknown"):
        env.reset(seed=0, options={"phrasings": "test"})
    with pytest.raises(ValueError, match="no table"):
        env.reset(seed=0, options={"allowed": lambda outcome: False})
    absent = next(thing for thing in THINGS if thing not in env.scene())
    with pytest.raises(ValueError, match=f"no {absent} on the table"):
        env.set_outcome(Outcome("touch", absent))


def test_reset_honours_outcome_families_and_allowed() -> None:
    env = TabletopEnv(render_observations=False)
    wanted = Outcome.parse("between(red disc, blue star, green square)")
    assert env.reset(seed=0, options={"outcome": wanted})[1]["outcome"] == wanted
    families = {env.reset(seed=s, options={"families": ("touch", "lift")})[1]["family"] for s in range(12)}
    assert families == {"touch", "lift"}
    for seed in range(5):
        options = {"family": "region", "allowed": lambda outcome: outcome.where == "centre"}
        assert env.reset(seed=seed, options=options)[1]["outcome"].where == "centre"


def test_set_outcome_changes_the_goal_not_the_table() -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=2)
    slot = grab(env)
    before = env._state.copy()
    held = env.scene()[slot]
    env.set_outcome(Outcome("lift", held))
    np.testing.assert_array_equal(env._state, before)
    _, reward, terminated, _, info = env.step(np.array([0, 0, 1.0]))
    assert reward == 1 and terminated and info["success"] and str(held) in info["instruction"]


def test_episode_is_truncated_at_the_limit() -> None:
    env = TabletopEnv(render_observations=False, max_steps=3)
    env.reset(seed=0, options={"family": "region"})
    assert [env.step(np.array([0, 0, -1.0]))[3] for _ in range(3)] == [False, False, True]


def test_solid_outlines_agree_with_the_measured_gap() -> None:
    """The physics stops the tip where `tip_gaps` says the outline is."""
    for seed in range(12):
        state = sample_scene(np.random.default_rng(seed))
        world = World(state)
        for slot, body in world._bodies.items():
            shape = next(iter(body.shapes))
            for point in np.random.default_rng(seed).uniform(0, 1, (20, 2)):
                tip_position(state)[:] = point
                distance = shape.point_query((float(state[TIP_X]), float(state[TIP_Y]))).distance
                gap = tip_gaps(state)[slot] + 0.022
                assert abs(gap - distance) < 1e-3


@pytest.mark.parametrize("size", [32, 128, 300])
def test_pictures_show_every_thing_in_its_colour_where_it_is(size: int) -> None:
    pure = {"red": (222, 45, 50), "green": (38, 166, 75), "blue": (40, 95, 220), "yellow": (250, 200, 20)}
    for seed in range(6):
        state = sample_scene(np.random.default_rng(seed))
        picture = render(state, size)
        assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
        for thing, slot in things_on_table(state).items():
            x, y = positions(state)[slot]
            assert tuple(picture[int((1 - y) * size), int(x * size)]) == pure[thing.colour]


def test_pictures_show_suction_and_what_is_held() -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=2)
    off = env.image()
    env.step(np.array([0, 0, 1.0]))
    on = env.image()
    assert (off != on).any(axis=-1).sum() > 5
    slot = grab(env)
    lifted, state = env.image(), env._state.copy()
    state[HELD] = -1
    assert (lifted != render(state)).any(axis=-1).sum() > 50
    assert slot == env._state[HELD]


def test_pictures_do_not_depend_on_what_was_drawn_before() -> None:
    env = TabletopEnv(render_observations=False)
    env.reset(seed=2)
    states = [env._state]
    grab(env)
    for _ in range(3):
        states.append(env._state)
        env.step(np.array([1, 1, 1.0]))
    pictures = [render(state) for state in states]
    for state, picture in reversed(list(zip(states, pictures, strict=True))):
        _lying.cache_clear()
        assert np.array_equal(render(state), picture)


def test_drawing_is_fast() -> None:
    state = sample_scene(np.random.default_rng(0))
    render(state)
    start = time.process_time()
    for _ in range(200):
        render(state)
    assert 200 / (time.process_time() - start) > 500  # about 2,000 on an idle core
