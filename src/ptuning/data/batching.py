"""Examples, batches of them, and which examples share a batch.

Batches hold examples of similar length, because every padded position costs as much as a real one. Which examples
those are depends on the seed and the epoch alone, so that a run can be resumed in the middle of an epoch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ptuning.errors import DataError

IGNORED_LABEL = -100
"""Label of positions that a token loss leaves out (the default of torch's cross entropy)."""

_MEGABATCH = 50  # batches that are sorted by length together: little padding, yet other batch mates every epoch


@dataclass(frozen=True)
class Example:
    """What the model sees of one row, or of one window of a row.

    Attributes:
        sequences: token ids; one sequence, or one for each choice.
        token_types: token types of each sequence; None for tokenizers without.
        label: class index or number of the right choice (int), value (float), one class index a token with -100 where
            none is asked for (list), or first and last token of the answer (tuple); None without label.
        row: index of the row it came from.
        offsets: question answering: for each token its (start, end) characters in the context, None outside it;
            tagging: (word index, 0) at the first piece of a word, None elsewhere.
    """

    sequences: tuple[list[int], ...]
    token_types: tuple[list[int], ...] | None
    label: int | float | list[int] | tuple[int, int] | None
    row: int
    offsets: list[tuple[int, int] | None] | None = None

    @property
    def length(self) -> int:
        """Tokens in the longest sequence."""
        return max(len(sequence) for sequence in self.sequences)


def num_positions(sequence: Sequence[int]) -> int:
    """How many positions of a batch a sequence has for itself.

    One without tokens, as a tokenizer without special ones makes of an empty text, is one token of padding.
    """
    return max(len(sequence), 1)


@dataclass
class Batch:
    """Padded examples.

    Attributes:
        input_ids: (num_sequences, seq_len), int64. num_sequences is the number of examples, or of all their choices.
        attention_mask: (num_sequences, seq_len), int64, 1 at real tokens.
        token_type_ids: (num_sequences, seq_len), int64, or None.
        labels: (batch_size,) int64 for classes and choices, float32 for values; (batch_size, seq_len) int64 for tags,
            -100 at padding; (batch_size, 2) int64 for answers; None without labels.
        choices: number of sequences of each example, when they are choices.
        examples: what the batch was made of, in its order.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    labels: Tensor | None
    choices: tuple[int, ...] | None
    examples: list[Example]

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            token_type_ids=None if self.token_type_ids is None else self.token_type_ids.to(device),
            labels=None if self.labels is None else self.labels.to(device),
        )


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Put batches of one length under each other, without their labels, which may be of several kinds."""
    if len(batches) == 1:
        return replace(batches[0], labels=None)
    first = batches[0]
    sizes = [size for batch in batches for size in batch.choices or (1,) * len(batch.examples)]
    token_types = [batch.token_type_ids for batch in batches if batch.token_type_ids is not None]
    return Batch(
        input_ids=torch.cat([batch.input_ids for batch in batches]),
        attention_mask=torch.cat([batch.attention_mask for batch in batches]),
        token_type_ids=None if first.token_type_ids is None else torch.cat(token_types),
        labels=None,
        choices=tuple(sizes) if any(size > 1 for size in sizes) else None,
        examples=[example for batch in batches for example in batch.examples],
    )


def collate(
    examples: Sequence[Example], pad_token_id: int, pad_token_type_id: int = 0, *, seq_len: int | None = None
) -> Batch:
    """Pad examples on the right to the longest of them.

    Args:
        examples: at least one; all with labels of one kind, or all without.
        pad_token_id: token id at padded positions.
        pad_token_type_id: token type there.
        seq_len: pad to this many tokens instead, at least as many as the longest has.

    Raises:
        DataError: no examples, or some with and some without labels or token types.
    """
    if not examples:
        raise DataError("collate got no examples, expected at least one. Leave empty batches out.")
    sequences = [sequence for example in examples for sequence in example.sequences]
    lengths = [num_positions(sequence) for sequence in sequences]
    seq_len = seq_len or max(lengths)
    mask = [[1] * length + [0] * (seq_len - length) for length in lengths]
    token_types = None
    if any(example.token_types is not None for example in examples):
        if any(example.token_types is None for example in examples):
            raise DataError("collate got examples with and without token types. Encode them with one tokenizer.")
        types = [types for example in examples for types in example.token_types or ()]
        token_types = _padded(types, seq_len, pad_token_type_id)
    sizes = tuple(len(example.sequences) for example in examples)
    return Batch(
        input_ids=_padded(sequences, seq_len, pad_token_id),
        attention_mask=torch.tensor(mask, dtype=torch.int64),
        token_type_ids=token_types,
        labels=_labels(examples, seq_len),
        choices=sizes if any(size > 1 for size in sizes) else None,
        examples=list(examples),
    )


def _padded(sequences: Sequence[list[int]], seq_len: int, value: int) -> Tensor:
    rows = [sequence + [value] * (seq_len - len(sequence)) for sequence in sequences]
    return torch.tensor(rows, dtype=torch.int64)


def _labels(examples: Sequence[Example], seq_len: int) -> Tensor | None:
    labels = [example.label for example in examples]
    kinds = {type(label) for label in labels}
    if kinds == {type(None)}:
        return None
    if len(kinds) > 1:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"collate got labels of several types ({names}). Expected one kind of task, all rows labelled.")
    if kinds == {list}:
        return _padded([label for label in labels if isinstance(label, list)], seq_len, IGNORED_LABEL)
    return torch.tensor(labels, dtype=torch.float32 if kinds == {float} else torch.int64)


class LengthBatches:
    """Batches of examples of similar length, every example once an epoch.

    Each epoch the examples are shuffled, cut into stretches of about 50 batches, sorted by length inside each and cut
    into batches, whose order is shuffled. `batches(epoch)` depends on nothing but the arguments and the epoch.

    Args:
        lengths: tokens of each example; of the longest choice, where there are choices.
        batch_size: examples a batch; only the last stretch may leave a smaller one.
        batch_tokens: instead, positions a batch at most, padding and all choices counted. An example that is
            longer than that alone has a batch of its own.
        num_sequences: sequences of each example (its choices); 1 each without it.
        seed: with the epoch, decides the order.

    Raises:
        DataError: neither or both of batch_size and batch_tokens, one below 1, or no examples.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        num_sequences: Sequence[int] | None = None,
        seed: int = 11,
    ) -> None:
        self._sizes = _Sizes(lengths, batch_size, batch_tokens, num_sequences)
        self._seed = seed
        self._cached: tuple[int, list[list[int]]] | None = None

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch (from 0), as indices of examples."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._make(epoch))
        return [list(batch) for batch in self._cached[1]]

    def num_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has: the same for all with `batch_size`, not quite with `batch_tokens`."""
        if self._sizes.batch_size is not None:
            return -(-len(self._sizes.lengths) // self._sizes.batch_size)
        return len(self.batches(epoch))

    def _make(self, epoch: int) -> list[list[int]]:
        rng = random.Random(f"batches {self._seed} {epoch}")
        order = list(range(len(self._sizes.lengths)))
        rng.shuffle(order)
        stretch = self._sizes.examples_per_batch() * _MEGABATCH
        batches: list[list[int]] = []
        for start in range(0, len(order), stretch):
            # The sort is stable: equally long examples stay shuffled.
            part = sorted(order[start : start + stretch], key=self._sizes.lengths.__getitem__)
            batches += self._sizes.cut(part)
        rng.shuffle(batches)
        return batches


class MixedBatches:
    """Batches of one or several data sets, each batch from one of them.

    Which batches an epoch has, and in which order, depends on the arguments and the epoch alone.

    Args:
        streams: batches of each data set.
        counts: batches that an epoch takes of each. A data set whose own epoch is longer goes on in the next one where
            it stopped, and one whose own epoch is shorter starts again, in another order. Without it, every example of
            every data set comes once an epoch.
        seed: with the epoch, decides which data set is next.

    Raises:
        DataError: no streams, or not one count of at least 1 for each.
    """

    def __init__(self, streams: Sequence[LengthBatches], counts: Sequence[int] | None = None, *, seed: int = 11):
        if not streams or (counts is not None and (len(counts) != len(streams) or min(counts) < 1)):
            raise DataError(
                f"got {len(streams)} data sets and counts {None if counts is None else list(counts)}, expected at "
                "least one data set and for each a count of at least 1. Give both, or no counts."
            )
        self._streams = list(streams)
        self._counts = None if counts is None else list(counts)
        self._seed = seed
        self._reached = [(0, 0)] * len(self._streams)  # for each: batches before an own epoch, and that epoch

    def batches(self, epoch: int) -> list[tuple[int, list[int]]]:
        """Return the batches of an epoch (from 0), as (data set, indices of its examples)."""
        own = [self._of_stream(number, epoch) for number in range(len(self._streams))]
        order = [number for number, batches in enumerate(own) for _ in batches]
        random.Random(f"mixed {self._seed} {epoch}").shuffle(order)
        remaining = [iter(batches) for batches in own]
        return [(number, next(remaining[number])) for number in order]

    def num_batches(self, epoch: int) -> int:
        """Return how many batches an epoch has."""
        if self._counts is not None:
            return sum(self._counts)
        return sum(stream.num_batches(epoch) for stream in self._streams)

    def _of_stream(self, number: int, epoch: int) -> list[list[int]]:
        """The batches that an epoch takes of one data set, in the data set's own order."""
        stream = self._streams[number]
        if self._counts is None:
            return stream.batches(epoch)
        start, end = (self._counts[number] * at for at in (epoch, epoch + 1))
        before, own_epoch = self._reached[number]  # counting goes on from where the last call stopped
        if before > start:
            before, own_epoch = 0, 0
        taken: list[list[int]] = []
        while True:
            after = before + stream.num_batches(own_epoch)
            if start < after:
                taken += stream.batches(own_epoch)[max(0, start - before) : end - before]
            if end <= after:
                self._reached[number] = before, own_epoch
                return taken
            before, own_epoch = after, own_epoch + 1


def evaluation_batches(
    lengths: Sequence[int],
    *,
    batch_size: int | None = None,
    batch_tokens: int | None = None,
    num_sequences: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return batches for evaluation: longest examples first, so that memory runs out at once or not at all.

    The arguments are those of `LengthBatches`. No examples give no batches.
    """
    if not lengths:
        return []
    sizes = _Sizes(lengths, batch_size, batch_tokens, num_sequences)
    return sizes.cut(sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)))


class _Sizes:
    """How large batches may be: the part that training and evaluation share."""

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int | None,
        batch_tokens: int | None,
        num_sequences: Sequence[int] | None,
    ) -> None:
        if (batch_size is None) == (batch_tokens is None):
            raise DataError(
                f"got batch_size {batch_size} and batch_tokens {batch_tokens}, expected exactly one of them. "
                "Set training.batch_size or training.batch_tokens."
            )
        for name, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens)):
            if value is not None and value < 1:
                raise DataError(f"{name} must be at least 1, got {value}. Set training.{name}.")
        if not lengths:
            raise DataError("got no examples, expected at least one. Check the data.")
        if num_sequences is not None and len(num_sequences) != len(lengths):
            raise DataError(
                f"got {len(lengths)} lengths but {len(num_sequences)} num_sequences, expected one each. "
                "Pass both of all examples."
            )
        self.lengths = list(lengths)
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.widths = [1] * len(self.lengths) if num_sequences is None else list(num_sequences)

    def examples_per_batch(self) -> int:
        """Return how many examples a batch holds, on average."""
        if self.batch_size is not None:
            return self.batch_size
        assert self.batch_tokens is not None
        positions = sum(length * width for length, width in zip(self.lengths, self.widths, strict=True))
        return max(1, self.batch_tokens * len(self.lengths) // max(positions, 1))

    def cut(self, order: Sequence[int]) -> list[list[int]]:
        """Cut an order of examples into batches."""
        if self.batch_size is not None:
            return [list(order[start : start + self.batch_size]) for start in range(0, len(order), self.batch_size)]
        assert self.batch_tokens is not None
        batches: list[list[int]] = []
        longest = width = 0
        for index in order:
            longest, width = max(longest, self.lengths[index]), width + self.widths[index]
            if not batches or longest * width > self.batch_tokens:
                batches.append([])
                longest, width = self.lengths[index], self.widths[index]
            batches[-1].append(index)
        return batches
