from __future__ import annotations

import random

import pytest
import torch

from ptuning.training.seed import generator_for, random_state, restore_random_state, seed_everything


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


def test_the_state_of_an_apple_gpu_is_kept_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = [torch.tensor([7], dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: on_gpu[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", on_gpu.append)
    state = random_state()
    assert state["mps"].tolist() == [7]
    restore_random_state(state)
    assert on_gpu[1:] == [state["mps"]]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    restore_random_state(state)  # taken up on another machine
    assert len(on_gpu) == 2 and "mps" not in random_state()


def test_a_generator_of_its_own_depends_on_name_and_seed_alone() -> None:
    first = torch.rand(3, generator=generator_for("head", 11))
    torch.rand(5)
    assert torch.equal(torch.rand(3, generator=generator_for("head", 11)), first)
    for other in (generator_for("head", 12), generator_for("pooler", 11), torch.Generator().manual_seed(11)):
        assert not torch.equal(torch.rand(3, generator=other), first)
