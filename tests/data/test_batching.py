from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from ptuning.data.batching import Example, LengthBatches, collate, evaluation_batches
from ptuning.errors import DataError


def _example(*sequences: list[int], label: Any = None, types: bool = False, row: int = 0) -> Example:
    token_types = tuple([1] * len(sequence) for sequence in sequences) if types else None
    return Example(sequences, token_types, label, row)


def test_shorter_examples_are_padded_on_the_right() -> None:
    batch = collate([_example([5, 6, 7], label=1), _example([8], label=0)], pad_token_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.token_type_ids is None
    assert batch.choices is None
    assert batch.labels is not None and batch.labels.dtype == torch.int64 and batch.labels.tolist() == [1, 0]
    assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64


def test_token_types_are_padded_with_their_own_value() -> None:
    batch = collate([_example([5, 6], types=True), _example([7], types=True)], pad_token_id=0, pad_token_type_id=3)
    assert batch.token_type_ids is not None and batch.token_type_ids.tolist() == [[1, 1], [1, 3]]


def test_choices_are_rows_of_their_own() -> None:
    batch = collate([_example([1, 2], [3], label=0), _example([4], [5], [6, 7, 8], label=2)], pad_token_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 0], [3, 0, 0], [4, 0, 0], [5, 0, 0], [6, 7, 8]]
    assert batch.choices == (2, 3)
    assert batch.labels is not None and batch.labels.tolist() == [0, 2]
    assert batch.examples[1].length == 3


def test_tags_are_padded_with_the_label_that_losses_ignore() -> None:
    batch = collate([_example([1, 2, 3], label=[-100, 4, -100]), _example([1], label=[2])], pad_token_id=0)
    assert batch.labels is not None and batch.labels.tolist() == [[-100, 4, -100], [2, -100, -100]]


def test_values_are_float32_and_answers_are_pairs() -> None:
    values = collate([_example([1], label=2.5), _example([1], label=-1.0)], pad_token_id=0).labels
    assert values is not None and values.dtype == torch.float32 and values.tolist() == [2.5, -1.0]
    answers = collate([_example([1], label=(0, 0)), _example([1], label=(3, 5))], pad_token_id=0).labels
    assert answers is not None and answers.dtype == torch.int64 and answers.tolist() == [[0, 0], [3, 5]]


def test_a_batch_without_labels_has_none_and_moves_between_devices() -> None:
    batch = collate([_example([1], types=True)], pad_token_id=0)
    assert batch.labels is None
    moved = batch.to("meta")
    assert moved.input_ids.device.type == "meta" and batch.input_ids.device.type == "cpu"
    assert moved.token_type_ids is not None and moved.token_type_ids.device.type == "meta"
    assert moved.labels is None and moved.examples == batch.examples


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([], "collate got no examples, expected at least one. Leave empty batches out"),
        (
            [_example([1], label=1), _example([1])],
            r"labels of several types \(NoneType, int\). Expected one kind of task",
        ),
        ([_example([1], label=1), _example([1], label=1.0)], r"several types \(float, int\)"),
        ([_example([1], types=True), _example([1])], "with and without token types. Encode them with one tokenizer"),
    ],
)
def test_examples_that_do_not_belong_together_are_refused(examples: list[Example], words: str) -> None:
    with pytest.raises(DataError, match=words):
        collate(examples, pad_token_id=0)


LENGTHS = random.Random(7).choices(range(3, 60), k=1003)


@pytest.mark.parametrize("sizes", [{"batch_size": 16}, {"batch_tokens": 512}])
def test_every_example_comes_once_an_epoch(sizes: dict[str, int]) -> None:
    batches = LengthBatches(LENGTHS, **sizes)
    for epoch in range(3):
        made = batches.batches(epoch)
        assert sorted(index for batch in made for index in batch) == list(range(1003))
        assert batches.num_batches(epoch) == len(made)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = LengthBatches(LENGTHS, batch_size=16, seed=3), LengthBatches(LENGTHS, batch_size=16, seed=3)
    second.batches(5)
    assert first.batches(2) == second.batches(2)
    assert first.batches(2) != first.batches(3)
    assert first.batches(2) != LengthBatches(LENGTHS, batch_size=16, seed=4).batches(2)


def test_callers_cannot_change_the_batches() -> None:
    batches = LengthBatches([3, 4, 5], batch_size=2)
    batches.batches(0)[0].clear()
    assert sorted(index for batch in batches.batches(0) for index in batch) == [0, 1, 2]


def test_only_one_batch_of_a_stretch_is_smaller_than_the_batch_size() -> None:
    sizes = sorted(len(batch) for batch in LengthBatches(LENGTHS, batch_size=16).batches(0))
    assert sizes == [1003 % 16] + [16] * (1003 // 16)


def test_batches_of_similar_length_have_little_padding() -> None:
    in_file_order = [list(range(len(LENGTHS)))[start : start + 16] for start in range(0, len(LENGTHS), 16)]
    assert _padding_share(in_file_order) > 0.35
    assert _padding_share(LengthBatches(LENGTHS, batch_size=16).batches(0)) < 0.06


def _padding_share(batches: list[list[int]]) -> float:
    padded = sum(max(LENGTHS[index] for index in batch) * len(batch) for batch in batches)
    return 1 - sum(LENGTHS) / padded


def test_batch_tokens_counts_padding_and_choices() -> None:
    widths = [2 + index % 3 for index in range(1003)]
    batches = LengthBatches(LENGTHS, batch_tokens=400, num_sequences=widths).batches(1)
    positions = [max(LENGTHS[i] for i in batch) * sum(widths[i] for i in batch) for batch in batches]
    assert max(positions) <= 400
    assert sorted(index for batch in batches for index in batch) == list(range(1003))


def test_an_example_longer_than_batch_tokens_is_a_batch_of_its_own() -> None:
    batches = LengthBatches([5, 200, 5], batch_tokens=20).batches(0)
    assert sorted(sorted(batch) for batch in batches) == [[0, 2], [1]]


def test_evaluation_begins_with_the_longest_examples() -> None:
    assert evaluation_batches([3, 9, 5, 9], batch_size=3) == [[1, 3, 2], [0]]
    assert evaluation_batches([3, 9, 5, 9], batch_tokens=18) == [[1, 3], [2, 0]]
    assert evaluation_batches([], batch_size=3) == []


@pytest.mark.parametrize(
    ("lengths", "arguments", "words"),
    [
        ([3], {}, "batch_size None and batch_tokens None, expected exactly one of them. Set training.batch_size"),
        ([3], {"batch_size": 1, "batch_tokens": 1}, "expected exactly one of them"),
        ([3], {"batch_size": 0}, "batch_size must be at least 1, got 0. Set training.batch_size"),
        ([3], {"batch_tokens": -5}, "batch_tokens must be at least 1, got -5. Set training.batch_tokens"),
        ([], {"batch_size": 1}, "got no examples, expected at least one. Check the data"),
        (
            [3, 4],
            {"batch_size": 1, "num_sequences": [1]},
            "2 lengths but 1 num_sequences, expected one each. Pass both",
        ),
    ],
)
def test_wrong_sizes_are_refused(lengths: list[int], arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        LengthBatches(lengths, **arguments)


def test_a_sequence_without_tokens_is_one_of_padding() -> None:
    """Some tokenizers put no token of their own around a text, and make none of invisible characters."""
    empty, other = (Example(sequences=(ids,), token_types=None, label=None, row=0) for ids in ([], [5, 6, 7]))
    assert collate([empty], 9).input_ids.tolist() == [[9]] and collate([empty], 9).attention_mask.tolist() == [[1]]
    assert collate([empty, other], 9).attention_mask.tolist() == [[1, 0, 0], [1, 1, 1]]
