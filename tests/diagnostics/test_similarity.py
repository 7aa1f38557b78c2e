from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ptuning.diagnostics.similarity import best_match, compare_layers, compare_tasks


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_order_and_length_of_vectors_do_not_matter() -> None:
    one, other = _random(6, 8), _random(4, 8, seed=1)
    found = best_match(one, other)
    assert best_match(one.flip(0) * 3.0, other[[2, 0, 3, 1]] * 0.1) == pytest.approx(found)
    assert best_match(other, one) == pytest.approx(found), "both ways"
    assert best_match(one, one[[3, 1, 5, 0, 2, 4]]) == pytest.approx(1.0)
    assert -1.0 <= found < 0.9


def test_it_is_the_mean_of_each_vectors_best_cosine() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    other = torch.tensor([[3.0, 4.0]])  # cosines 0.6 and 0.8
    assert best_match(one, other) == pytest.approx(((0.6 + 0.8) / 2 + 0.8) / 2)


def test_tasks_are_compared_at_the_layers_that_all_have() -> None:
    first, second = _random(3, 2, 2, 5, 4), _random(2, 2, 2, 3, 4, seed=1)
    second[1, 0] = first[2, 0, :, [4, 0, 2]] * 2.0  # keys of layer 3: three of the first task's, turned around
    found = compare_tasks([first, second], [[0, 1, 3], [1, 3]], ["a", "b"])
    assert (found.between, found.layers, found.pairs) == ("tasks", (1, 3), (("a", "b"),))
    tokens = first.transpose(2, 3).flatten(3), second.transpose(2, 3).flatten(3)  # (L, 2, P, H * D)
    for axis, values in enumerate((found.keys, found.values)):
        expected = [best_match(tokens[0][at + 1, axis], tokens[1][at, axis]) for at in (0, 1)]
        assert list(values[0]) == pytest.approx(expected)
    assert found.keys[0][1] > 0.75 > found.values[0][1]


def test_three_tasks_are_three_pairs_and_one_against_itself_is_one() -> None:
    prompts = _random(2, 2, 2, 5, 4)
    found = compare_tasks([prompts, prompts.flip(3), -prompts], [[0, 1]] * 3, ["a", "b", "c"])
    assert found.pairs == (("a", "b"), ("a", "c"), ("b", "c"))
    assert found.keys[0] == pytest.approx((1.0, 1.0)) and max(found.keys[1]) < 0.9


def test_tasks_without_a_layer_in_common_have_nothing_to_compare() -> None:
    found = compare_tasks([_random(1, 2, 2, 3, 4), _random(1, 2, 2, 3, 4)], [[0], [1]], ["a", "b"])
    assert found.layers == () and found.keys == ((),)


def test_layers_of_one_task_are_compared_with_each_other() -> None:
    prompts = _random(3, 2, 2, 5, 4)
    prompts[2] = prompts[0].flip(2)
    found = compare_layers(prompts, [1, 4, 7])
    assert found.pairs == (("1", "4"), ("1", "7"), ("4", "7")) and found.layers == (1, 4, 7)
    assert found.keys[1] == found.values[1] == pytest.approx((1.0,))
    assert found.keys[0][0] < 0.9


def test_prompts_at_random_are_as_alike_as_chance_says() -> None:
    prompts = _random(24, 2, 4, 16, 16)
    found = compare_layers(prompts, range(24))
    mean = sum(value for (value,) in found.keys) / len(found.keys)
    assert found.chance == pytest.approx(mean, abs=0.01)
    wider = compare_layers(_random(2, 2, 4, 16, 64), [0, 1])
    assert 0.0 < wider.chance < found.chance < 0.5
