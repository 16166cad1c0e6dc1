"""The instructions of the table: a small grammar per family, in two splits that share no phrasing.

Both splits have commands, questions, statements of what should be and of what is wrong. Held-out phrasings say it in
other words, to measure what a policy makes of sentences it was not trained on.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

import numpy as np

from vla.envs.tabletop.outcomes import FAMILIES, PLACES, RELATIONS, Outcome
from vla.envs.tabletop.state import COLOURS, SHAPES, Thing
from vla.tasks.outcomes import Split

# In a template, {x} is the thing, {y} and {z} the others, {w} the place, relation or landmark. A capital letter stands
# for the synonym.
_TEMPLATES: Final[dict[str, dict[Split, tuple[str, ...]]]] = {
    "region": {
        "train": (
            "put the {x} in the {w} of the table",
            "move the {x} to the {w} of the table",
            "place the {x} in the {w}",
            "move the {x} to the {w}",
            "take the {x} to the {w}",
            "bring the {x} to the {w} of the table",
            "carry the {x} over to the {w}",
            "set the {x} down in the {w}",
            "put the {x} down in the {W}",
            "move the {x} into the {W} of the table",
            "pick up the {x} and put it in the {w}",
            "grab the {x} and place it in the {w} of the table",
            "please put the {X} in the {w}",
            "please move the {x} to the {w}",
            "the {x} goes to the {w} of the table",
            "the {x} has to be in the {w}",
            "the {x} must lie in the {w} of the table",
            "can you take the {x} to the {w}",
            "let the {x} be in the {w}",
        ),
        "held_out": (
            "the {x} belongs in the {w} of the table",
            "the {x} should end up in the {w}",
            "relocate the {x} to the {w}",
            "could you deposit the {x} in the {w}",
            "transfer the {X} to the {W}",
            "i want the {x} in the {w} of the table",
        ),
    },
    "next_to": {
        "train": (
            "put the {x} next to the {y}",
            "move the {x} next to the {y}",
            "place the {x} beside the {y}",
            "put the {x} beside the {y}",
            "bring the {x} to the {y}",
            "move the {x} close to the {y}",
            "take the {x} over to the {y}",
            "set the {x} down next to the {y}",
            "pick up the {x} and put it next to the {y}",
            "grab the {x} and place it by the {y}",
            "place the {x} near the {y}",
            "please put the {X} next to the {y}",
            "move the {x} beside the {Y}",
            "carry the {x} to the side of the {y}",
            "the {x} goes next to the {y}",
            "the {x} has to be near the {y}",
            "the {x} must lie beside the {y}",
            "can you bring the {x} close to the {y}",
            "the {x} is too far from the {y}",
            "do not leave the {x} far from the {y}",
        ),
        "held_out": (
            "the {x} should end up beside the {y}",
            "the {x} belongs right by the {y}",
            "make the {x} a neighbour of the {y}",
            "i want the {x} adjacent to the {y}",
            "deliver the {X} to the {y}",
            "could you join the {x} to the {Y}",
        ),
    },
    "direction": {
        "train": (
            "put the {x} {w} the {y}",
            "move the {x} {w} the {y}",
            "place the {x} {w} the {y}",
            "bring the {x} {w} the {y}",
            "set the {x} down {w} the {y}",
            "take the {x} and put it {w} the {y}",
            "pick up the {x} and place it {w} the {y}",
            "carry the {x} so that it is {w} the {y}",
            "move the {x} so that it lies {w} the {y}",
            "put the {x} down {W} the {y}",
            "please put the {x} {w} the {y}",
            "place the {X} {w} the {y}",
            "put the {x} {w} the {Y}",
            "the {x} goes {w} the {y}",
            "the {x} has to be {w} the {y}",
            "the {x} must lie {w} the {y}",
            "can you move the {x} {w} the {y}",
            "let the {x} be {W} the {y}",
        ),
        "held_out": (
            "the {x} should end up {w} the {y}",
            "the {x} belongs {w} the {y}",
            "arrange the {x} {W} the {y}",
            "i want the {x} {w} the {y}",
            "could you position the {X} {w} the {y}",
            "relocate the {x} until it sits {W} the {Y}",
        ),
    },
    "separate": {
        "train": (
            "separate the {x} from the {y}",
            "move the {x} away from the {y}",
            "take the {x} away from the {y}",
            "put the {x} far from the {y}",
            "place the {x} far away from the {y}",
            "move the {x} far from the {y}",
            "carry the {x} away from the {y}",
            "bring the {x} away from the {y}",
            "pick up the {x} and move it away from the {y}",
            "grab the {x} and take it away from the {y}",
            "please separate the {x} from the {y}",
            "move the {X} away from the {y}",
            "take the {x} far away from the {Y}",
            "the {x} has to leave the {y}",
            "the {x} must not lie beside the {y}",
            "the {x} is not far enough from the {y}",
            "can you move the {x} away from the {y}",
            "do not leave the {x} next to the {y}",
            "keep the {x} away from the {y}",
            "the {x} must not be close to the {y}",
        ),
        "held_out": (
            "the {x} should not be near the {y}",
            "get the {x} well clear of the {y}",
            "pull the {x} apart from the {y}",
            "leave some distance between the {x} and the {y}",
            "the {X} is too close to the {y}",
            "could you isolate the {x} from the {Y}",
        ),
    },
    "touch": {
        "train": (
            "touch the {x}",
            "go to the {x}",
            "move to the {x}",
            "tap the {x}",
            "poke the {x}",
            "reach the {x}",
            "move the tip to the {x}",
            "touch the {x} with the tip",
            "go and touch the {x}",
            "bring the tip to the {x}",
            "please touch the {x}",
            "touch the {X}",
            "point at the {x}",
            "the tip has to be at the {x}",
            "the tip must touch the {x}",
            "can you touch the {x}",
        ),
        "held_out": (
            "make contact with the {x}",
            "the tip should end up at the {x}",
            "feel the {x}",
            "nudge against the {x}",
            "could you visit the {X}",
        ),
    },
    "away": {
        "train": (
            "move the {x} away from the {w}",
            "take the {x} away from the {w}",
            "move the {x} away from the {w} of the table",
            "put the {x} far from the {w}",
            "place the {x} away from the {w}",
            "carry the {x} away from the {w} of the table",
            "bring the {x} away from the {w}",
            "move the {x} far from the {w} of the table",
            "pick up the {x} and move it away from the {w}",
            "grab the {x} and take it away from the {w}",
            "please move the {x} away from the {w}",
            "move the {X} away from the {w}",
            "take the {x} away from the {W}",
            "the {x} has to leave the {w}",
            "the {x} must not lie at the {w} of the table",
            "the {x} is not far enough from the {w}",
            "can you move the {x} away from the {w}",
            "do not leave the {x} at the {w}",
            "keep the {x} away from the {W}",
            "the {x} must not be close to the {w}",
        ),
        "held_out": (
            "the {x} should not stay at the {w}",
            "the {x} is too close to the {w} of the table",
            "get the {x} well clear of the {w}",
            "remove the {X} from the {w} of the table",
            "could you clear the {x} off the {W}",
        ),
    },
    "lift": {
        "train": (
            "pick up the {x}",
            "lift the {x}",
            "grab the {x}",
            "take the {x}",
            "pick the {x} up",
            "lift up the {x}",
            "grasp the {x}",
            "hold the {x}",
            "go and pick up the {x}",
            "pick up the {x} and hold it",
            "please pick up the {x}",
            "lift the {X}",
            "take hold of the {x}",
            "the {x} has to be picked up",
            "the {x} must not lie on the table",
            "can you lift the {x}",
        ),
        "held_out": (
            "raise the {x} off the table",
            "the {x} should be in the air",
            "get a grip on the {x}",
            "keep the {x} up in the air",
            "could you hoist the {X}",
        ),
    },
    "between": {
        "train": (
            "put the {x} between the {y} and the {z}",
            "move the {x} between the {y} and the {z}",
            "place the {x} between the {y} and the {z}",
            "put the {x} in between the {y} and the {z}",
            "bring the {x} between the {y} and the {z}",
            "set the {x} down between the {y} and the {z}",
            "carry the {x} between the {y} and the {z}",
            "move the {x} in between the {y} and the {z}",
            "take the {x} and put it between the {y} and the {z}",
            "move the {x} to the middle of the {y} and the {z}",
            "please put the {x} between the {y} and the {z}",
            "place the {X} between the {y} and the {z}",
            "place the {x} in the gap between the {y} and the {z}",
            "the {x} goes between the {y} and the {z}",
            "the {x} has to be between the {y} and the {z}",
            "can you move the {x} between the {y} and the {z}",
        ),
        "held_out": (
            "the {x} should end up between the {y} and the {z}",
            "the {x} belongs between the {y} and the {z}",
            "i want the {x} halfway from the {y} to the {z}",
            "insert the {x} between the {y} and the {z}",
            "could you sandwich the {X} between the {y} and the {z}",
        ),
    },
}

_SHAPE_SYNONYMS: Final = {
    "disc": "circle",
    "square": "square block",
    "triangle": "triangular block",
    "star": "star-shaped block",
}
_PLACE_SYNONYMS: Final = (
    "upper left", "upper middle", "upper right",
    "centre left", "middle", "centre right",
    "lower left", "lower middle", "lower right",
)  # fmt: skip
# where -> (what the instructions say, its synonym)
_WHERE_WORDS: Final = {
    "region": dict(zip(PLACES, zip(PLACES, _PLACE_SYNONYMS, strict=True), strict=True)),
    "direction": dict(
        zip(
            RELATIONS,
            (
                ("to the left of", "just left of"),
                ("to the right of", "just right of"),
                ("above", "just above"),
                ("below", "just below"),
            ),
            strict=True,
        )
    ),
    "away": {"centre": ("centre", "middle"), "edge": ("edge", "border")},
}


def instructions(outcome: Outcome, split: Split = "train") -> list[str]:
    """Every phrasing of the outcome in the split ("train" or "held_out"). Raises ValueError for another split."""
    return [template.format(**_words(outcome)) for template in _templates(outcome.family, split)]


def phrase(outcome: Outcome, rng: np.random.Generator, split: Split = "train") -> str:
    """One phrasing of the outcome, drawn by `rng`."""
    templates = _templates(outcome.family, split)
    return templates[rng.integers(len(templates))].format(**_words(outcome))


def parse_instruction(text: str) -> Outcome | None:
    """The outcome an instruction of the grammar (either split) asks for; None for any other text.

    Case, surrounding space and a final full stop do not matter.
    """
    text = text.strip().rstrip(".").lower()
    for family, pattern in _patterns():
        match = pattern.fullmatch(text)
        if match is not None:
            return _outcome(family, match.groupdict())
    return None


def mentions(text: str) -> list[Thing]:
    """The things a free text names, synonyms included, in order, each once."""
    found = (_thing(match[0]) for match in _THING.finditer(text.lower()))
    return list(dict.fromkeys(found))


def _templates(family: str, split: Split) -> tuple[str, ...]:
    if split not in ("train", "held_out"):
        raise ValueError(f"phrasings {split!r} are unknown: use 'train' or 'held_out'")
    return _TEMPLATES[family][split]


def _words(outcome: Outcome) -> dict[str, str]:
    words = {}
    for letter, thing in zip("xyz", (outcome.thing, *outcome.others), strict=False):
        words[letter] = str(thing)
        words[letter.upper()] = f"{thing.colour} {_SHAPE_SYNONYMS[thing.shape]}"
    if outcome.where is not None:
        words["w"], words["W"] = _WHERE_WORDS[outcome.family][outcome.where]
    return words


def _outcome(family: str, words: dict[str, str]) -> Outcome | None:
    things = [_thing(words[letter]) for letter in "xyz" if letter in words]
    if len(set(things)) < len(things):
        return None
    where = next((w for w, said in _WHERE_WORDS.get(family, {}).items() if words["w"] in said), None)
    return Outcome(family, things[0], tuple(things[1:]), where)


def _thing(name: str) -> Thing:
    colour, shape = name.split(maxsplit=1)
    return Thing(colour, next(s for s in SHAPES if shape in (s, _SHAPE_SYNONYMS[s])))


_SHAPE_NAMES: Final = sorted([*SHAPES, *_SHAPE_SYNONYMS.values()], key=len, reverse=True)
_THING_PATTERN: Final = rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(_SHAPE_NAMES)})"
_THING: Final = re.compile(rf"\b{_THING_PATTERN}\b")


@lru_cache(maxsize=1)
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (family, _pattern(family, template))
        for family in FAMILIES
        for split in ("train", "held_out")
        for template in _TEMPLATES[family][split]
    ]


def _pattern(family: str, template: str) -> re.Pattern[str]:
    wheres = "|".join(word for said in _WHERE_WORDS.get(family, {}).values() for word in said)
    groups = {letter: rf"(?P<{letter}>{_THING_PATTERN})" for letter in "xyz"} | {"w": rf"(?P<w>{wheres})"}
    return re.compile(re.sub(r"\{(\w)\}", lambda match: groups[match[1].lower()], template))
