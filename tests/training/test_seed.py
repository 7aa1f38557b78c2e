from __future__ import annotations

import random

import torch

from ptuning.training.seed import random_state, restore_random_state, seed_everything


def test_the_same_seed_draws_the_same_numbers() -> None:
    seed_everything(5)
    first = torch.rand(3), random.random()
    seed_everything(5)
    assert torch.equal(torch.rand(3), first[0]) and random.random() == first[1]
    seed_everything(6)
    assert not torch.equal(torch.rand(3), first[0])


def test_a_restored_state_goes_on_with_the_numbers_that_would_have_come() -> None:
    seed_everything(5)
    torch.rand(7)
    state = random_state()
    expected = torch.rand(4)
    seed_everything(99)
    restore_random_state(state)
    assert torch.equal(torch.rand(4), expected)
