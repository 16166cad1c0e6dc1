"""The pointer: its mixture, its choices, and the calibration from motion."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vla.config import ModelConfig
from vla.models.embodiment import Embodiment
from vla.models.layers import grid_centres
from vla.models.pointer import SPREAD, Cells, Guess, Pointer, likeliest, locate, nearest_to

POSITIONS = grid_centres(8, 8)


def moving_robot(frames: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a robot is seen [n, 2] in [-0.8, 0.8], and how much every cell changes there [n, 64]."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(frames, 2, generator=generator) * 1.6 - 0.8
    distance = (seen[:, None] - POSITIONS).square().sum(dim=-1)
    return seen, torch.exp(-distance / 0.08)


def test_a_camera_is_calibrated_from_where_the_image_moves() -> None:
    seen, motion = moving_robot()
    slopes, intercepts = torch.tensor([[0.0, 2.0], [-3.0, 0.5]]), torch.tensor([0.3, -1.0])
    hidden = torch.rand(len(seen), 1, generator=torch.Generator().manual_seed(1))
    state = torch.cat([seen @ slopes.T + intercepts, hidden, torch.ones_like(hidden)], dim=1)
    found, offset, tells = locate(motion, POSITIONS, state)
    torch.testing.assert_close(found[:2], slopes, atol=0.1, rtol=0)
    torch.testing.assert_close(offset[:2], intercepts, atol=0.05, rtol=0)
    assert tells.tolist() == [True, True, False, False]


def test_a_robot_that_moves_in_depth_is_seen_though_its_place_in_the_picture_tells_no_coordinate() -> None:
    seen, motion = moving_robot(2000)
    generator = torch.Generator().manual_seed(1)
    depth, gripper = torch.randn(2, len(seen), 1, generator=generator)
    # Along a ray all points are seen at one place: x and y come with a depth that the picture doesn't show.
    state = torch.cat([seen + 0.6 * depth, depth, gripper], dim=1)
    explained = 1 - (state[:, :2] - seen).var(dim=0) / state[:, :2].var(dim=0)
    assert explained.max() < 0.5
    assert locate(motion, POSITIONS, state)[2].tolist() == [True, True, True, False]


def test_a_still_image_tells_nothing() -> None:
    seen, motion = moving_robot()
    slopes, _, tells = locate(torch.zeros_like(motion), POSITIONS, seen)
    assert slopes.isfinite().all()
    assert not tells.any()


def test_surprise_is_the_likelihood_of_a_mixture_over_what_is_seen() -> None:
    weight = torch.tensor([0.7, 0.3])
    means = torch.tensor([[0.0, 5.0], [1.0, -5.0]])
    guess = Guess(weight.log()[None, None], means[None, None], torch.tensor([1.0, 0.0]))
    true = torch.tensor([[[0.9, 0.0]]])
    densities = weight * torch.exp(-(((0.9 - means[:, 0]) / SPREAD) ** 2) / 2)
    assert math.isclose(guess.surprise(true).item(), -math.log(densities.sum()), rel_tol=1e-5)


def test_the_mode_is_where_most_weight_lies() -> None:
    # Three neighbours share what belongs to one place; a lone component has more than each of them.
    means = torch.tensor([[-0.02, 9.0], [0.0, -9.0], [0.02, 3.0], [1.0, 0.0]])
    weight = torch.tensor([0.22, 0.23, 0.22, 0.33])
    guess = Guess(weight.log()[None, None], means[None, None], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(guess.mode(), means[None, None, 1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_nearest_guess_makes_the_errors_of_the_guess_but_not_of_its_choice(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randint(-5, 6, (2, 3, 6, 2), generator=generator).float()
    log_weight = torch.randn(2, 3, 6, generator=generator).log_softmax(dim=-1)
    right = torch.randint(6, (2, 3, 1, 1), generator=generator)
    place = means.take_along_dim(right, dim=2).squeeze(2)
    guess = Guess(log_weight, means, torch.ones(2))
    torch.testing.assert_close(guess.nearest(place + 0.01), place, atol=1e-3, rtol=0)


class TestPointer:
    def test_what_builds_on_a_known_keyframe_builds_on_the_guess_nearest_to_it(self) -> None:
        pointer, arguments = make_pointer()
        truth = torch.randn(B, W, S)
        _, guess = call(pointer, arguments, truth)
        first, second = truth.clone(), truth.clone()
        first[:, 0] += 1
        second[:, 1] += 1
        # The first choice knows neither, the second one only the first.
        after_first, after_second = (call(pointer, arguments, other)[1] for other in (first, second))
        torch.testing.assert_close(after_first.log_weight[:, 0], guess.log_weight[:, 0], rtol=0, atol=0)
        assert (after_first.log_weight[:, 1] - guess.log_weight[:, 1]).abs().max() > 1e-4
        torch.testing.assert_close(after_second.log_weight, guess.log_weight, rtol=0, atol=0)

    def test_without_the_truth_it_builds_on_its_own_choice(self) -> None:
        pointer, arguments = make_pointer()
        tokens, guess = call(pointer, arguments)
        again, _ = call(pointer, arguments, guess.mode())
        assert tokens.shape == (B, W, D)
        torch.testing.assert_close(again, tokens, atol=0.2, rtol=0)

    def test_cells_that_do_not_exist_are_not_chosen(self) -> None:
        pointer, (words, words_mask, cells, now) = make_pointer()
        mask = torch.rand(B, N, generator=torch.Generator().manual_seed(5)) < 0.5
        spoilt = replace(cells, shows=cells.shows.masked_fill(~mask[:, :, None], 7.0), mask=mask)
        _, guess, _ = pointer(words, words_mask, words, words_mask, replace(cells, mask=mask), now, 0, likeliest)
        _, other, _ = pointer(words, words_mask, words, words_mask, spoilt, now, 0, likeliest)
        torch.testing.assert_close(other.log_weight, guess.log_weight)
        assert (guess.log_weight[..., :-1].exp().sum(dim=1)[~mask] == 0).all()

    def test_a_choice_moves_with_the_things_it_is_about(self) -> None:
        """What is learnt at one place of the table holds at another: but for two inputs that say where on the table it
        is, weights depend on relative places alone."""
        pointer, (words, words_mask, cells, now) = make_pointer()
        for absolute in (pointer.choice.where[0], pointer.phase[0][0]):
            absolute.weight.data.zero_()
        _, guess, _ = pointer(words, words_mask, words, words_mask, cells, now, 0, likeliest)
        elsewhere = replace(cells, states=cells.states + 0.3)
        _, moved, _ = pointer(words, words_mask, words, words_mask, elsewhere, now + 0.3, 0, likeliest)
        torch.testing.assert_close(moved.log_weight[:, 0], guess.log_weight[:, 0], atol=1e-4, rtol=0)

    def test_named_things_are_found_wherever_they_lie(self) -> None:
        """A small training with words and things that match by likeness: the second thing named is where to go."""
        things = torch.randn(6, D, generator=torch.Generator().manual_seed(3))
        pointer, _ = make_pointer()
        optimizer = torch.optim.Adam(pointer.parameters(), lr=3e-3)
        states, seen, heard = POSITIONS.clone(), torch.ones(S), torch.ones(16, 3, dtype=torch.bool)
        for step in range(300):
            generator = torch.Generator().manual_seed(step)
            named = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in range(16)])
            spots = torch.stack([torch.randperm(N, generator=generator)[:6] for _ in range(16)])
            shows = torch.zeros(16, N, D)
            shows[torch.arange(16)[:, None], spots] = things
            words = torch.stack([things[named[:, 0]], torch.zeros(16, D), things[named[:, 1]]], dim=1)
            goal = states[spots.take_along_dim(named[:, 1:], dim=1)].expand(-1, W, -1)
            cells = Cells(shows, shows, states, seen, None)
            guess = pointer(words, heard, words, heard, cells, torch.zeros(16, S), 0, nearest_to(goal))[1]
            optimizer.zero_grad()
            guess.surprise(goal).mean().backward()
            optimizer.step()
        assert ((guess.mode()[:, 0] - goal[:, 0]).norm(dim=-1) < 0.2).float().mean() > 0.9


B, W, S, D, N = 3, 2, 2, 32, 64


def make_pointer() -> tuple[Pointer, tuple[torch.Tensor, torch.Tensor, Cells, torch.Tensor]]:
    """A pointer with random weights everywhere, and the arguments of a call but for the truth."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    robot = Embodiment("robot", state_dim=S, action_dim=1, fps=10)
    pointer = Pointer(ModelConfig(width=D, heads=2, keyframes=W), [robot])
    words, shows, now = (torch.randn(*size, generator=generator) for size in ((B, 5, D), (B, N, D), (B, S)))
    cells = Cells(shows, shows, POSITIONS, torch.ones(S), None)
    return pointer, (words, torch.ones(B, 5, dtype=torch.bool), cells, now)


def call(pointer: Pointer, arguments: tuple[torch.Tensor, torch.Tensor, Cells, torch.Tensor],
         truth: torch.Tensor | None = None) -> tuple[torch.Tensor, Guess]:
    """With words and nothing else."""
    return pointer(*arguments[:2], *arguments, 0, likeliest if truth is None else nearest_to(truth))[:2]


def test_calibration_does_not_depend_on_what_memory_held_before() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(40, 64, generator=generator), torch.rand(64, 2, generator=generator),
              torch.rand(40, 3, generator=generator))
    first = locate(*inputs)
    for number in range(200):
        torch.full((3 + number % 5,), number, dtype=torch.int32)  # freed at once: garbage for whoever comes next
        assert all(torch.equal(a, b) for a, b in zip(first, locate(*inputs), strict=True))
