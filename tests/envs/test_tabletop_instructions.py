"""Instructions: the two splits share nothing, and every phrasing means exactly one outcome."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.envs.tabletop import FAMILIES, Outcome, Thing, instructions, mentions, parse_instruction, phrase
from vla.envs.tabletop.outcomes import outcomes_about
from vla.envs.tabletop.state import COLOURS, SHAPES, THINGS
from vla.tasks.outcomes import Split

outcomes = st.builds(
    lambda things, family, index: (found := outcomes_about(things, family))[index % len(found)],
    st.permutations(THINGS).map(lambda things: things[:3]),
    st.sampled_from(FAMILIES),
    st.integers(0, 1000),
)


@given(outcomes)
@settings(max_examples=100, deadline=None)
def test_every_phrasing_means_its_outcome_and_names_its_things(outcome: Outcome) -> None:
    train, held_out = instructions(outcome), instructions(outcome, "held_out")
    assert len(set(train)) >= 12 and len(set(held_out)) >= 4
    assert not set(train) & set(held_out)
    for text in train + held_out:
        assert parse_instruction(text) == outcome, text
        assert mentions(text) == [outcome.thing, *outcome.others]
        assert len(text.split()) <= 16


@pytest.mark.parametrize("family", FAMILIES)
def test_most_phrasings_are_short(family: str) -> None:
    texts = [
        text for split in ("train", "held_out") for text in instructions(outcomes_about(THINGS[5:8], family)[0], split)
    ]
    assert sorted(len(text.split()) for text in texts)[len(texts) // 2] <= 13


def test_all_phrasings_of_all_outcomes_differ() -> None:
    things = [Thing("red", "disc"), Thing("red", "square"), Thing("blue", "disc")]
    texts = [
        text
        for family in FAMILIES
        for outcome in outcomes_about(things, family)
        for split in ("train", "held_out")
        for text in instructions(outcome, split)
    ]
    assert len(texts) == len(set(texts))


@given(outcomes, st.integers(0, 2**31), st.sampled_from(["train", "held_out"]))
@settings(max_examples=30, deadline=None)
def test_a_drawn_phrase_is_one_of_the_split(outcome: Outcome, seed: int, split: Split) -> None:
    text = phrase(outcome, np.random.default_rng(seed), split)
    assert text in instructions(outcome, split)
    assert text == phrase(outcome, np.random.default_rng(seed), split)


def test_spelling_that_does_not_matter() -> None:
    assert parse_instruction(" Touch the Red disc. ") == Outcome("touch", Thing("red", "disc"))


@pytest.mark.parametrize("text", ["", "make me a sandwich", "touch the red", "put the red disc next to the red disc"])
def test_other_texts_mean_nothing(text: str) -> None:
    assert parse_instruction(text) is None


def test_mentions_understands_synonyms_and_keeps_order() -> None:
    found = mentions(
        "Is the yellow triangular block near the RED CIRCLE or the red circle? And the reddisc, the pink star?"
    )
    assert found == [Thing("yellow", "triangle"), Thing("red", "disc")]
    assert mentions("the green square block") == [Thing("green", "square")]
    assert mentions("hello") == []


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out"):
        instructions(Outcome("touch", THINGS[0]), "test")  # type: ignore[arg-type]


def test_every_word_for_a_thing_is_mentioned() -> None:
    assert [mentions(f"{colour} {shape}") for colour in COLOURS for shape in SHAPES] == [[thing] for thing in THINGS]
