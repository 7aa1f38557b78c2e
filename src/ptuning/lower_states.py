"""Hidden states that the layers below the prompts gave, one stretch for every sequence, and batches of them."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ptuning.data.batching import Batch, Example


class LowerStates:
    """Hidden states of sequences, found by their tokens.

    Args:
        states: (num_tokens, hidden_size), those of all sequences one after another. Mostly memory-mapped.
        sequences: keys of the sequences and how many positions each has, in the order of `states`.
    """

    def __init__(self, states: Tensor, sequences: Iterable[tuple[bytes, int]]) -> None:
        self._states = states
        self._places: dict[bytes, tuple[int, int]] = {}
        start = 0
        for key, length in sequences:
            self._places[key] = (start, start + length)
            start += length

    def of(self, batch: Batch) -> Tensor | None:
        """Gathers the states of a batch.

        Args:
            batch: on any device.

        Returns:
            (num_sequences, seq_len, hidden_size) on the batch's device, zeros at padding; None where a sequence is not
            among these.
        """
        keys = [key for example in batch.examples for key in keys_of(example)]
        if not all(key in self._places for key in keys):
            return None
        gathered = self._states.new_zeros(*batch.input_ids.shape, self._states.shape[1])  # (B, N, C)
        for row, key in enumerate(keys):
            start, end = self._places[key]
            gathered[row, : end - start] = self._states[start:end]
        return gathered.to(batch.input_ids.device)


def keys_of(example: Example) -> Iterator[bytes]:
    """Each sequence of an example as a key, equal for equal tokens and token types."""
    token_types: tuple[list[int] | None, ...] = example.token_types or (None,) * len(example.sequences)
    for sequence, types in zip(example.sequences, token_types, strict=True):
        digest = hashlib.blake2b(array("q", sequence).tobytes(), digest_size=16)
        if types is not None:
            digest.update(array("q", types).tobytes())
        yield digest.digest()


def unique_sequences(examples: Iterable[Example]) -> dict[bytes, tuple[Example, int]]:
    """Every different sequence once, in order: its key, and the first example that has it with its number there."""
    found: dict[bytes, tuple[Example, int]] = {}
    for example in examples:
        for number, key in enumerate(keys_of(example)):
            found.setdefault(key, (example, number))
    return found


def map_states(path: str, num_tokens: int, hidden_size: int, dtype: torch.dtype, *, writing: bool = False) -> Tensor:
    """A file as a tensor (num_tokens, hidden_size), read when it is used.

    Args:
        path: of the file; when writing, it is made with its whole size.
        num_tokens: rows.
        hidden_size: columns.
        dtype: of the numbers.
        writing: whether what is put into the tensor goes to the file.

    Raises:
        OSError: there is no room on the disk. (A file that only claims its size would end the process at the first
            block without room.)
    """
    if writing:
        _allocate(path, num_tokens * hidden_size * dtype.itemsize)
    flat = torch.from_file(path, shared=writing, size=num_tokens * hidden_size, dtype=dtype)
    return flat.view(num_tokens, hidden_size)


def _allocate(path: str, num_bytes: int) -> None:
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return
        zeros = bytes(1 << 20)
        for start in range(0, num_bytes, len(zeros)):
            file.write(zeros[: num_bytes - start])
