"""The table as a place to type prompts at: what is on it, whether a prompt fits it, and what became of the prompt."""

# Shapes: E numbers a state, N states since the prompt.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from vla.envs.stage import SceneStage
from vla.envs.tabletop.env import ROBOT
from vla.envs.tabletop.instructions import instructions, mentions, parse_instruction
from vla.envs.tabletop.outcomes import FAMILIES, PLACES, Outcome, outcomes_about
from vla.envs.tabletop.state import COLOURS, HELD, SHAPES, THINGS, Thing, positions, things_on_table, tip_gaps
from vla.envs.tabletop.suite import TabletopSuite
from vla.inference.stage import PromptError
from vla.tasks.outcomes import Split

_SPLITS: Final[tuple[Split, ...]] = ("train", "held_out")
MOVED: Final = 0.03  # a thing that is displaced by less was brushed, not moved


class TabletopStage(SceneStage):
    """See `vla.inference.stage.Stage`. Raises ValueError for cameras that the table doesn't have."""

    robot = ROBOT
    max_steps = 60

    def __init__(self, cameras: Mapping[str, Sequence[int]]) -> None:
        super().__init__(TabletopSuite(), cameras)
        self.reset()

    def reset(self, seed: int | None = None, prompt: str | None = None) -> None:
        options = {"outcome": _needed(prompt or "")} if seed is None else None
        self._show(seed, options)
        self._outcome: Outcome | None = None

    def scene(self) -> str:
        where = positions(self._state)
        things = [f"the {thing} ({_place(where[slot])})" for thing, slot in things_on_table(self._state).items()]
        return f"on the table: {', '.join(things)}"

    def begin(self, prompt: str) -> bool:
        if not prompt.strip():
            raise PromptError(f"the prompt is empty: say what to do, for example {self._example()!r}")
        missing = [str(thing) for thing in mentions(prompt) if thing not in things_on_table(self._state)]
        self._outcome = parse_instruction(prompt)
        if self._outcome is None:
            missing += _strangers(prompt)
        if missing:
            raise PromptError(f"there is no {missing[0]} here; {self.scene()}")
        self._begin_anew()
        return self._outcome is not None

    @property
    def done(self) -> bool:
        return self._outcome is not None and bool(self._outcome.holds(self._state))

    def verdict(self) -> str:
        if self._outcome is None:
            return f"it {_deeds(self._states)}"
        if not self.done:
            return f"not done; it {_deeds(self._states)}"
        return f"{'it was so already' if len(self._states) == 1 else 'done'}: {_sentence(self._outcome)}"

    def _example(self) -> str:
        first, second, *_ = things_on_table(self._state)
        return f"put the {first} next to the {second}"


def _needed(prompt: str) -> Outcome | None:
    """An outcome whose scenes have on the table what the prompt is about."""
    things = mentions(prompt)
    outcome = parse_instruction(prompt)
    if outcome is not None or not things:
        return outcome
    family = ("touch", "next_to", "between")[min(len(things), 3) - 1]
    return Outcome(family, things[0], tuple(things[1:3]))


def _place(position: np.ndarray) -> str:
    column, row = np.clip((position * 3).astype(int), 0, 2)
    return PLACES[3 * (2 - row) + column]


def _deeds(states: Sequence[np.ndarray]) -> str:
    """What the arm did over `states` (N of [E])."""
    first, last = states[0], states[-1]
    distance = np.linalg.norm(positions(last) - positions(first), axis=-1)  # [O]
    deeds = [
        _move(thing, slot, first, last) for thing, slot in things_on_table(last).items() if distance[slot] > MOVED
    ]
    return ", and ".join(deeds) if deeds else f"moved nothing, {_tip(last)}"


def _move(thing: Thing, slot: int, first: np.ndarray, last: np.ndarray) -> str:
    origin, goal = _place(positions(first)[slot]), _place(positions(last)[slot])
    route = f"within the {goal}" if origin == goal else f"from the {origin} to the {goal}"
    others = [other for other in things_on_table(last) if other != thing]
    beside = [f"next to the {other}" for other in others if Outcome("next_to", thing, (other,)).holds(last)]
    held = ["still held"] if last[HELD] == slot else []
    return ", ".join([f"moved the {thing} {route}", *beside, *held])


def _tip(state: np.ndarray) -> str:
    things = {slot: thing for thing, slot in things_on_table(state).items()}
    if state[HELD] >= 0:
        return f"and holds the {things[int(state[HELD])]}"
    return f"and the tip is nearest to the {things[int(tip_gaps(state).argmin())]}"


_SENTENCES: Final = {
    "region": "the {x} is in the {w} of the table",
    "next_to": "the {x} is next to the {y}",
    "direction": "the {x} is {w} the {y}",
    "separate": "the {x} is away from the {y}",
    "touch": "the tip touches the {x}",
    "away": "the {x} is away from the {w}",
    "lift": "the arm holds the {x}",
    "between": "the {x} is between the {y} and the {z}",
}
_RELATIONS: Final = {"left of": "to the left of", "right of": "to the right of"}


def _sentence(outcome: Outcome) -> str:
    """The outcome as a statement of fact."""
    things = dict(zip("xyz", (outcome.thing, *outcome.others), strict=False))
    where = _RELATIONS.get(outcome.where or "", outcome.where)
    return _SENTENCES[outcome.family].format(**things, w=where)


# A prompt outside the grammar is followed as well as may be, unless it names a thing that no table has: a colour that
# nothing has, a colour with a noun that is no shape, or after "the" a noun that the grammar doesn't know.
_NOUNS: Final = {
    *SHAPES, "circle", "block", "thing", "object", "shape", "item", "piece", "one", "corner", "side", "end", "half",
    "row", "line", "gap", "place", "spot", "position", "direction", "way", "scene", "world", "arm", "robot",
}  # fmt: skip
_FOREIGN_COLOURS: Final = {
    "purple", "violet", "orange", "pink", "brown", "black", "white", "grey", "gray", "cyan", "turquoise", "magenta",
    "golden", "silver",
}  # fmt: skip
# A colour or the article, and the one or two words after it.
_PHRASE: Final = re.compile(
    rf"\b(?:(?P<colour>{'|'.join([*COLOURS, *_FOREIGN_COLOURS])})|the) (?P<word>[a-z-]+)(?: (?P<next>[a-z-]+))?"
)


def _strangers(prompt: str) -> list[str]:
    """The things a free text names that no table has."""
    words = re.sub(r"\s+", " ", prompt.lower())
    starts = [match.start() for match in re.finditer(r"\b[a-z]", words)]
    phrases = (_PHRASE.match(words, start) for start in starts)
    return [stranger for phrase in phrases if phrase and (stranger := _stranger(phrase))]


def _stranger(phrase: re.Match[str]) -> str:
    """What the words name, if no table has it, else nothing."""
    colour, word, following = phrase["colour"], phrase["word"], phrase["next"]
    if colour in _FOREIGN_COLOURS or (colour and not _is_familiar(word)):
        return f"{colour} {word}"
    described = following is not None and following.removesuffix("s") in _NOUNS  # the *biggest* star
    return "" if colour or described or word in _FOREIGN_COLOURS or _is_familiar(word) else word


def _is_familiar(word: str) -> bool:
    return word.removesuffix("s") in _NOUNS or word in COLOURS or word in _vocabulary()


@lru_cache(maxsize=1)
def _vocabulary() -> frozenset[str]:
    """Every word of the grammar."""
    outcomes = [outcome for family in FAMILIES for outcome in outcomes_about(THINGS[: len(SHAPES)], family)]
    texts = [text for outcome in outcomes for split in _SPLITS for text in instructions(outcome, split)]
    return frozenset(" ".join(texts).split())
