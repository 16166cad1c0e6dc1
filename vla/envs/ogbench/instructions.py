"""The instructions of the scene: a small grammar per family, in two splits that share no phrasing.

None asks for a button to be pressed as such: what that does depends on how it stands.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from vla.envs.ogbench.outcomes import OUTCOMES, Outcome
from vla.tasks.outcomes import Split

# {x} is the drawer or the window, {v} how it is opened and {p} how it is closed, {w} a side of the table.
_TEMPLATES: Final[dict[str, dict[Split, tuple[str, ...]]]] = {
    "open": {
        "train": (
            "open the {x}",
            "please open the {x}",
            "{v} the {x} open",
            "{v} open the {x}",
            "open up the {x}",
            "can you open the {x}",
            "get the {x} open",
            "take the handle and open the {x}",
            "{v} the handle of the {x} until it is open",
            "the {x} has to be open",
            "let the {x} be open",
            "the {x} must not stay closed",
            "the {x} is still closed",
        ),
        "held_out": (
            "the {x} should be open",
            "could you {v} the {x} wide open",
            "i want the {x} open",
            "the {x} should not remain shut",
            "leave the {x} open",
        ),
    },
    "close": {
        "train": (
            "close the {x}",
            "please close the {x}",
            "{p} the {x} closed",
            "close the {x} again",
            "can you close the {x}",
            "get the {x} closed",
            "take the handle and close the {x}",
            "{p} the handle of the {x} until it is closed",
            "the {x} has to be closed",
            "let the {x} be closed",
            "the {x} must not stay open",
            "the {x} is still open",
        ),
        "held_out": (
            "shut the {x}",
            "the {x} should be closed",
            "could you {p} the {x} shut",
            "i want the {x} closed",
            "leave the {x} closed",
        ),
    },
    "unlock": {
        "train": (
            "unlock the {x}",
            "please unlock the {x}",
            "can you unlock the {x}",
            "press the button that unlocks the {x}",
            "push the button of the {x} to unlock it",
            "unlock the {x} with its button",
            "use the button to unlock the {x}",
            "take the lock off the {x}",
            "the {x} has to be unlocked",
            "let the {x} be unlocked",
            "the {x} must not stay locked",
            "the {x} is still locked",
        ),
        "held_out": (
            "the {x} should be unlocked",
            "could you free the {x} by its button",
            "i want the {x} unlocked",
            "remove the lock from the {x}",
            "make it possible to move the {x}",
        ),
    },
    "lock": {
        "train": (
            "lock the {x}",
            "please lock the {x}",
            "can you lock the {x}",
            "press the button that locks the {x}",
            "push the button of the {x} to lock it",
            "lock the {x} with its button",
            "use the button to lock the {x}",
            "put the lock on the {x}",
            "the {x} has to be locked",
            "let the {x} be locked",
            "the {x} must not stay unlocked",
            "the {x} is still unlocked",
        ),
        "held_out": (
            "the {x} should be locked",
            "could you secure the {x} by its button",
            "i want the {x} locked",
            "leave the {x} locked",
            "make it impossible to move the {x}",
        ),
    },
    "place": {
        "train": (
            "put the cube on the {w}",
            "move the cube to the {w}",
            "place the cube on the {w} of the table",
            "take the cube to the {w}",
            "bring the cube to the {w} of the table",
            "carry the cube over to the {w}",
            "set the cube down on the {w}",
            "pick up the cube and put it on the {w}",
            "grab the cube and place it on the {w}",
            "please move the block to the {w}",
            "can you move the cube to the {w}",
            "the cube goes to the {w}",
            "the cube has to be on the {w}",
            "the block must lie on the {w} of the table",
        ),
        "held_out": (
            "the cube belongs on the {w}",
            "the cube should end up on the {w}",
            "relocate the cube to the {w}",
            "i want the cube on the {w} of the table",
            "could you transfer the block to the {w}",
        ),
    },
    "stow": {
        "train": (
            "put the cube in the drawer",
            "move the cube into the drawer",
            "place the cube in the drawer",
            "take the cube to the drawer and let it go there",
            "drop the cube into the drawer",
            "pick up the cube and put it in the drawer",
            "grab the cube and place it in the drawer",
            "please put the block in the drawer",
            "can you put the cube into the drawer",
            "the cube goes into the drawer",
            "the cube has to be in the drawer",
            "the block must lie in the drawer",
        ),
        "held_out": (
            "the cube belongs in the drawer",
            "the cube should end up in the drawer",
            "stow the cube in the drawer",
            "i want the cube inside the drawer",
            "could you store the block in the drawer",
        ),
    },
}

_VERBS: Final = {"drawer": {"v": "pull", "p": "push"}, "window": {"v": "slide", "p": "slide"}}


def instructions(outcome: Outcome, split: Split = "train") -> list[str]:
    """Every phrasing of the outcome in the split ("train" or "held_out"). Raises ValueError for another split."""
    if split not in ("train", "held_out"):
        raise ValueError(f"phrasings {split!r} are unknown: use 'train' or 'held_out'")
    words = {"x": outcome.thing, "w": outcome.where, **_VERBS.get(outcome.thing, {})}
    return [template.format(**words) for template in _TEMPLATES[outcome.family][split]]


def phrase(outcome: Outcome, rng: np.random.Generator, split: Split = "train") -> str:
    """One phrasing of the outcome, drawn by `rng`."""
    texts = instructions(outcome, split)
    return texts[rng.integers(len(texts))]


def parse_instruction(text: str) -> Outcome | None:
    """The outcome an instruction of the grammar (either split) asks for; None for any other text.

    Case, surrounding space and a final full stop do not matter.
    """
    return _meanings().get(text.strip().rstrip(".").lower())


@lru_cache(maxsize=1)
def _meanings() -> dict[str, Outcome]:
    splits: tuple[Split, ...] = ("train", "held_out")
    return {text: outcome for outcome in OUTCOMES for split in splits for text in instructions(outcome, split)}
