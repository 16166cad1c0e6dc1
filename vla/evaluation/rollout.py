"""A policy acting in simulated environments: what is asked of it, and what it then did.

Shapes: B episodes side by side, T history, H horizon, A action, S robot state, N states of an episode (the first
included), E numbers in `observation.environment_state`, Y X pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from vla.data.layout import ENVIRONMENT_STATE, STATE
from vla.envs.robot import Observation, Robot
from vla.models.observe import Goal
from vla.tasks.kinds import views_of
from vla.tasks.outcomes import AnyOutcome

# In words, or (nothing being said) by what an expert made of the scene: its last picture or state, or a video of it.
# "other" is something else that can be done in the scene, "shuffled" what is said in another one.
Prompt = Literal["right", "other", "empty", "held_out", "shuffled", "goal_image", "goal_state", "video"]
PROMPTS: tuple[Prompt, ...] = ("right", "other", "empty", "held_out")  # where a scene has several things to do
UNTOLD: tuple[Prompt, ...] = ("empty", "shuffled")  # what the scene was made for counts, though nobody asks for it
SHOWN: tuple[Prompt, ...] = ("goal_image", "goal_state", "video")
Combinations = Literal["all", "train", "held_out"]

Progress = Callable[[int, int], None]  # (finished, all) episodes


@dataclass(frozen=True)
class Case:
    """One episode to run: a scene, what the policy is told, and what counts.

    The scene is a pure function of `seed` and `options`, and the same for all prompts.
    """

    seed: int
    prompt: Prompt
    instruction: str  # told to the policy
    outcome: str  # canonical text of what counts as success: what the instruction asks for, or (`UNTOLD`) `original`
    original: str  # canonical text of what the scene was made for and the "right" prompt asks for
    family: str  # of `outcome`
    task: str  # of `outcome`, finer than the family, e.g. `region/top left`
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # of the environment's `reset`

    @property
    def stops_at_success(self) -> bool:
        """With other prompts the whole episode is watched, so that the original gets equal time to come about."""
        return self.prompt not in ("other", "empty")


@dataclass(frozen=True)
class Rollout:
    """One finished episode."""

    case: Case
    success: bool  # the case's outcome was achieved at some time
    original: bool  # the case's original outcome was
    steps: int  # until success; all where there was none
    states: np.ndarray  # [N, E] float32
    robot: np.ndarray  # [N, S] float32: what the robot felt
    actions: np.ndarray  # [N - 1, A] float32: what was played


@dataclass(frozen=True)
class Failure:
    """What happened instead of the outcome."""

    kind: Literal["wrong object", "right object, not there", "nothing"]
    achieved: tuple[str, ...]  # canonical outcomes that were brought about


class Policy(Protocol):
    """What evaluation needs of `vla.models.policy.VLAPolicy`."""

    @property
    def config(self) -> Any:
        """Has `cameras` (name -> [Y, X]), `tasks`; `model` has `horizon`, `history` and `diffusion.inference_steps`."""

    def act_batch(
        self,
        observations: list[Observation],
        instructions: list[str],
        seeds: Sequence[int],
        guidance: float = 1.0,
        goals: Sequence[Goal | None] | None = None,
        candidates: int = 1,
        embodiment: str | None = None,
        explore: float = 0.0,
    ) -> np.ndarray:
        """Action chunks `[B, H, A]` in the embodiment's units; `seeds` [B] key the noise of each."""


class Environment(Protocol):
    """The part of gymnasium's interface that is used. Observations have the environment state and no images."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Any]: ...

    def step(self, action: np.ndarray) -> tuple[Observation, Any, bool, bool, dict[str, Any]]: ...


class Suite(Protocol):
    """What an environment brings along to be evaluated on; `vla.envs.load_suite` finds it by name."""

    name: str
    robot: Robot  # that acts in it
    families: tuple[str, ...]  # of outcomes, all that can be asked for
    default_families: tuple[str, ...]
    prompts: tuple[Prompt, ...]  # that make sense in its scenes, the main one first; those that are `SHOWN` always do
    groups: Mapping[str, Sequence[str]]  # families whose rates are published together; none where there are no such

    def protocol(self, cameras: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """What is to be known beside the figures: how scenes are shown and told, where a published protocol differs."""

    def make_env(self, cameras: Mapping[str, Sequence[int]]) -> Environment:
        """An environment for a policy with these cameras. Raises ValueError for cameras it doesn't have."""

    def images(self, env: Any) -> Observation:
        """What the policy's cameras see now: `observation.images.NAME` -> uint8 `[Y, X, 3]`."""

    def cases(
        self,
        prompt: Prompt,
        episodes: int,
        families: Sequence[str] | None = None,
        seed: int = 1_000_000,
        combinations: Combinations = "all",
    ) -> list[Case]:
        """`episodes` scenes spread evenly over the families: the same ones, in the same order, for every prompt.

        `combinations` restricts the outcomes by the environment's rule of what is kept out of training. Raises
        ValueError for an unknown family.
        """

    def achieved(self, outcome: str, states: np.ndarray) -> np.ndarray:
        """Whether the outcome holds: `states [N, E]` -> bool `[N]`."""

    def demonstration(self, case: Case) -> np.ndarray:
        """The states `[N, E]` of an expert that does in the case's scene what it was made for."""

    def failure(self, outcome: str, states: np.ndarray) -> Failure:
        """What the episode `states [N, E]` did instead."""

    def by_chance(self, case: Case) -> bool:
        """Whether the case's original comes about if something feasible, drawn at random, is done in its scene.

        Only asked of a suite with the prompt "other".
        """

    def views(self, states: np.ndarray, cameras: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
        """What the policy's cameras saw: camera -> uint8 `[N, Y, X, 3]`."""

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        """Pictures for people: `states [N, E]` -> uint8 `[N, size, size, 3]`."""


def chosen_families(suite: Suite, families: Sequence[str] | None) -> tuple[str, ...]:
    """Those that are asked for, by default the suite's. Raises ValueError for one that it doesn't have."""
    chosen = tuple(families or suite.default_families)
    if unknown := set(chosen) - set(suite.families):
        raise ValueError(f"family {min(unknown)!r} is unknown: {suite.name} has {', '.join(suite.families)}")
    return chosen


def refuse_held_out(suite: Suite, combinations: Combinations) -> None:
    """For a suite without combinations that are kept out of training. Raises ValueError if these are asked for."""
    if combinations == "held_out":
        raise ValueError(f"combinations: {suite.name} keeps none out of training, so there are none to play")


def wording(prompt: Prompt, outcome: AnyOutcome, seed: int, phrase: Callable[..., str]) -> str:
    """What the policy is told in a scene of the seed; "" where it is told nothing in words.

    `phrase` is the grammar's, and its generator that of the environment's own instructions.
    """
    if prompt == "empty" or prompt in SHOWN:
        return ""
    return phrase(outcome, np.random.default_rng([seed, 2]), "held_out" if prompt == "held_out" else "train")


def rollout(
    policy: Policy,
    suite: Suite,
    cases: Sequence[Case],
    *,
    execute: int = 8,
    guidance: float = 1.0,
    candidates: int = 1,
    explore: float = 0.0,
    num_envs: int = 32,
    progress: Progress | None = None,
) -> list[Rollout]:
    """Run all cases, `num_envs` side by side; results are in the order of the cases.

    Receding horizon: of each chunk the first `execute` actions are played, then the policy predicts again. The noise
    of a prediction is a pure function of the case's seed and the number of predictions before it, so results depend on
    `num_envs` only as far as the policy's arithmetic depends on its batch size (rounding).

    Raises ValueError if the horizon is shorter than `execute`. Whatever the policy or the environment raises
    propagates: a crash is no failed episode.
    """
    horizon, history = policy.config.model.horizon, policy.config.model.history
    if not 0 < execute <= horizon:
        raise ValueError(f"execute is {execute}, but the policy predicts {horizon} actions: choose 1 to {horizon}")
    cameras = policy.config.cameras
    waiting = deque(enumerate(cases))
    finished: dict[int, Rollout] = {}
    running = [
        _Episode(*waiting.popleft(), suite, suite.make_env(cameras), cameras, history)
        for _ in range(min(num_envs, len(cases)))
    ]
    while running:
        chunks = policy.act_batch(
            [episode.observation() for episode in running],
            [episode.case.instruction for episode in running],
            [episode.next_seed() for episode in running],
            guidance,
            [episode.goal for episode in running],
            candidates,
            suite.robot.name,
            explore,
        )
        for place, episode in reversed(list(enumerate(running))):
            episode.play(chunks[place, :execute])
            if not episode.over:
                continue
            finished[episode.number] = episode.result()
            if waiting:
                running[place] = _Episode(*waiting.popleft(), suite, episode.env, cameras, history)
            else:
                del running[place]
            if progress is not None:
                progress(len(finished), len(cases))
    return [finished[number] for number in range(len(cases))]


class _Episode:
    """A case being run in an environment, until it is `over`."""

    def __init__(
        self,
        number: int,
        case: Case,
        suite: Suite,
        env: Environment,
        cameras: Mapping[str, Sequence[int]],
        history: int,
    ) -> None:
        self.number, self.case, self.env = number, case, env
        self.over = False
        self._suite = suite
        self._history = history
        self._predictions = 0
        self._steps_to_success: int | None = None
        self._recent: deque[Observation] = deque(maxlen=history)
        observation, _ = env.reset(seed=case.seed, options=dict(case.options))
        self._states, self._robot = [observation[ENVIRONMENT_STATE]], [observation[STATE]]
        self._actions: list[np.ndarray] = []
        self._remember(observation)
        self.goal = _goal(case, suite, cameras)

    def observation(self) -> Observation:
        """What the policy sees: the last observation or, with a history, the last T (at first fewer) stacked."""
        if self._history == 1:
            return self._recent[-1]
        return {key: np.stack([observation[key] for observation in self._recent]) for key in self._recent[0]}

    def next_seed(self) -> int:
        # Without the prompt in it: the four prompts of a scene differ in nothing but their words.
        sequence = np.random.SeedSequence([self.case.seed, self._predictions])
        self._predictions += 1
        return int(sequence.generate_state(1)[0])

    def play(self, actions: np.ndarray) -> None:
        """Play `actions [n, A]`, or as many as the episode has room for."""
        for left, action in zip(reversed(range(len(actions))), actions, strict=True):
            observation, _, _, truncated, _ = self.env.step(action)
            self._states.append(observation[ENVIRONMENT_STATE])
            self._robot.append(observation[STATE])
            self._actions.append(action)
            succeeded = self._succeeds()
            self.over = truncated or (succeeded and self.case.stops_at_success)
            if self.over:
                return
            if left < self._history:  # drawing costs more than physics: only what the next prediction looks at
                self._remember(observation)

    def result(self) -> Rollout:
        states = np.stack(self._states)
        return Rollout(
            case=self.case,
            success=self._steps_to_success is not None,
            original=bool(self._suite.achieved(self.case.original, states[1:]).any()),
            steps=self._steps_to_success or len(states) - 1,
            states=states,
            robot=np.stack(self._robot),
            actions=np.stack(self._actions),
        )

    def _succeeds(self) -> bool:
        succeeds = bool(self._suite.achieved(self.case.outcome, self._states[-1][None])[0])
        if succeeds and self._steps_to_success is None:
            self._steps_to_success = len(self._states) - 1
        return succeeds

    def _remember(self, observation: Observation) -> None:
        # The simulator's state is only for those who are told by it.
        hidden = {ENVIRONMENT_STATE} if self.case.prompt != "goal_state" else set()
        seen = {key: value for key, value in observation.items() if key not in hidden}
        self._recent.append({**seen, **self._suite.images(self.env)})


def _goal(case: Case, suite: Suite, cameras: Mapping[str, Sequence[int]]) -> Goal | None:
    """What is shown instead of said."""
    if case.prompt not in SHOWN:
        return None
    states = suite.demonstration(case)
    if case.prompt == "goal_state":
        return Goal(state=states[-1])
    if case.prompt == "video":
        views = views_of(["video"])
        way = np.round((len(states) - 1) * np.arange(1, views + 1) / views).astype(int)
        return Goal(images=suite.views(states[way], cameras))
    return Goal(images={camera: views[0] for camera, views in suite.views(states[-1:], cameras).items()})
