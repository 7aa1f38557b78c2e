from __future__ import annotations

import pytest

from ptuning.training.schedule import schedule_factor


def test_linear_rises_over_the_warmup_and_falls_to_zero_after_the_last_step() -> None:
    factor = schedule_factor("linear", epoch_ends=[5, 10], total_steps=10, warmup=0.2)
    assert [factor(step) for step in range(10)] == pytest.approx(
        [1 / 3, 2 / 3, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    )
    assert factor(10) == 0.0


def test_linear_without_warmup_starts_at_the_full_rate() -> None:
    factor = schedule_factor("linear", epoch_ends=[4], total_steps=4, warmup=0.0)
    assert [factor(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_constant_stays_after_the_warmup() -> None:
    factor = schedule_factor("constant", epoch_ends=[8], total_steps=8, warmup=0.25)
    assert [factor(step) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert factor(7) == 1.0


def test_exponential_is_multiplied_by_0_95_after_each_epoch_and_does_not_warm_up() -> None:
    factor = schedule_factor("exponential_per_epoch", epoch_ends=[3, 5, 9], total_steps=9, warmup=0.5)
    assert [factor(step) for step in range(9)] == pytest.approx([1, 1, 1, 0.95, 0.95, *[0.95**2] * 4])


def test_warmup_of_nearly_all_steps_divides_by_nothing() -> None:
    factor = schedule_factor("linear", epoch_ends=[2], total_steps=2, warmup=0.9)
    assert [factor(0), factor(1)] == pytest.approx([1 / 3, 2 / 3])
