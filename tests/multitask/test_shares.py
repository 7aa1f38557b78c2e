from __future__ import annotations

import pytest

from ptuning.data.batching import LengthBatches, MixedBatches
from ptuning.errors import DataError
from ptuning.multitask.shares import batches_per_epoch


@pytest.mark.parametrize(
    ("sizes", "sampling", "temperature", "counts"),
    [
        ([57, 213], "proportional", 2.0, [57, 213]),
        ([57, 213], "uniform", 2.0, [135, 135]),
        ([3, 2], "uniform", 2.0, [3, 2]),  # 2.5 each: the first of equals is rounded up
        ([100, 400], "temperature", 2.0, [167, 333]),  # 10 : 20
        ([100, 400], "temperature", 1.0, [100, 400]),
        ([16, 81, 256], "temperature", 4.0, [78, 118, 157]),  # 2 : 3 : 4
        ([100, 400], "temperature", 1e9, [250, 250]),
        ([1, 1], "temperature", 3.0, [1, 1]),
    ],
)
def test_shares_of_an_epoch_are_what_the_sampling_says(
    sizes: list[int], sampling: str, temperature: float, counts: list[int]
) -> None:
    found = batches_per_epoch(sizes, sampling, temperature)  # type: ignore[arg-type]
    assert found == counts and sum(found) == sum(sizes)


def test_every_data_set_has_a_batch_an_epoch() -> None:
    for sizes in ([1, 999], [1, 1, 1, 500], [1, 2, 3], [7] * 9):
        for sampling in ("proportional", "uniform", "temperature"):
            counts = batches_per_epoch(sizes, sampling, 1.5)  # type: ignore[arg-type]
            assert min(counts) >= 1 and sum(counts) == sum(sizes)


def _streams() -> list[LengthBatches]:
    return [LengthBatches([5] * 10, batch_size=4, seed=3), LengthBatches([7] * 30, batch_size=4, seed=3)]


def test_without_counts_every_example_comes_once_an_epoch() -> None:
    batches = MixedBatches(_streams(), seed=4)
    for epoch in range(3):
        made = batches.batches(epoch)
        assert len(made) == batches.num_batches(epoch) == 3 + 8
        for number, size in ((0, 10), (1, 30)):
            assert sorted(i for part, indices in made if part == number for i in indices) == list(range(size))
    orders = [[part for part, _ in batches.batches(epoch)] for epoch in range(3)]
    assert orders[0] != orders[1] and orders[0] != sorted(orders[0])


def test_one_data_set_has_just_the_batches_that_it_has_alone() -> None:
    for sizes in ({"batch_size": 4}, {"batch_tokens": 60}):
        alone = LengthBatches(list(range(3, 40)), seed=5, **sizes)  # type: ignore[arg-type]
        batches = MixedBatches([alone], seed=5)
        for epoch in range(3):
            assert batches.batches(epoch) == [(0, indices) for indices in alone.batches(epoch)]


@pytest.mark.parametrize("sizes", [{"batch_size": 4}, {"batch_tokens": 40}])
def test_with_counts_each_data_set_is_an_endless_stream_of_its_own_epochs(sizes: dict[str, int]) -> None:
    streams = [LengthBatches(list(range(3, 3 + n)), seed=1, **sizes) for n in (9, 20)]  # type: ignore[arg-type]
    batches = MixedBatches(streams, [7, 2], seed=1)
    for number, count in ((0, 7), (1, 2)):
        taken = [i for epoch in range(6) for part, i in batches.batches(epoch) if part == number]
        endless = [i for own_epoch in range(42) for i in streams[number].batches(own_epoch)]
        assert taken == endless[: 6 * count]
    assert [batches.num_batches(epoch) for epoch in range(3)] == [9, 9, 9]


def test_epochs_of_a_small_data_set_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    num_batches = LengthBatches.num_batches

    def spy(stream: LengthBatches, epoch: int) -> int:
        asked.append(epoch)
        return num_batches(stream, epoch)

    monkeypatch.setattr(LengthBatches, "num_batches", spy)
    batches = MixedBatches([LengthBatches([3, 4, 5], batch_tokens=10, seed=1)], [6])
    for epoch in range(50):
        batches.batches(epoch)
    assert len(asked) <= 6 * 50 + 50  # each of them, and one more for each call: not their square
    assert batches.batches(3) == MixedBatches([LengthBatches([3, 4, 5], batch_tokens=10, seed=1)], [6]).batches(3)


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    first, second = MixedBatches(_streams(), [5, 6], seed=3), MixedBatches(_streams(), [5, 6], seed=3)
    second.batches(0), second.batches(4)
    assert first.batches(2) == second.batches(2)
    assert MixedBatches(_streams(), [5, 6], seed=4).batches(2) != first.batches(2)


@pytest.mark.parametrize("counts", [[1], [1, 0], [1, 2, 3]])
def test_counts_that_do_not_fit_are_refused(counts: list[int]) -> None:
    with pytest.raises(DataError, match="got 2 data sets and counts .* expected at least one data set and for each"):
        MixedBatches(_streams(), counts)
