"""Examples as a few flat arrays and back, equal in every value: what a file holds and memory reads fast.

ids               token ids of all sequences, one after the other
id_counts         (num_sequences,) tokens of each
sequence_counts   (num_examples,) sequences of each example
types             token types, as many as ids; not there where the tokenizer has none
rows              (num_examples,)
label_kinds       (num_examples,) place in `_KINDS`; the labels of each kind are in arrays of their own:
classes, values   whole numbers; float64
tags, tag_counts  lists of whole numbers, and the length of each
answers           (num_answers, 2)
offsets           (num_offsets, 2), -1 where there is None
offset_counts     (num_examples,) of each example, -1 without
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt

from ptuning.data.batching import Example

Arrays = dict[str, npt.NDArray[Any]]

_KINDS: tuple[type, ...] = (type(None), int, float, list, tuple)
_SMALLEST = (np.uint8, np.int16, np.uint16, np.int32, np.int64)
_MOST_SHARED = 1_000_000  # more different numbers than any vocabulary has


def to_arrays(examples: Sequence[Example]) -> Arrays:
    """Return examples as arrays.

    Args:
        examples: all with token types, or all without.
    """
    sequences = [sequence for example in examples for sequence in example.sequences]
    types = [own for example in examples for own in example.token_types or ()]
    if types:
        assert [len(own) for own in types] == [len(own) for own in sequences]  # a type for each token of each
    labels = [example.label for example in examples]
    offsets = [example.offsets for example in examples]
    tags = [label for label in labels if isinstance(label, list)]
    places = [place or (-1, -1) for place in chain.from_iterable(own or () for own in offsets)]
    return {
        "ids": _whole(chain.from_iterable(sequences)),
        "id_counts": _whole(map(len, sequences)),
        "sequence_counts": _whole(len(example.sequences) for example in examples),
        **({"types": _whole(chain.from_iterable(types))} if types else {}),
        "rows": _whole(example.row for example in examples),
        "label_kinds": _whole(_KINDS.index(type(label)) for label in labels),
        "classes": _whole(label for label in labels if isinstance(label, int)),
        "values": np.array([label for label in labels if isinstance(label, float)], dtype=np.float64),
        "tags": _whole(chain.from_iterable(tags)),
        "tag_counts": _whole(map(len, tags)),
        "answers": _whole(chain.from_iterable(label for label in labels if isinstance(label, tuple))).reshape(-1, 2),
        "offsets": _whole(chain.from_iterable(places)).reshape(-1, 2),
        "offset_counts": _whole(-1 if own is None else len(own) for own in offsets),
    }


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> list[Example]:
    """Return the examples that `to_arrays` was given.

    Raises:
        KeyError: an array is missing.
    """
    counts = arrays["id_counts"].tolist()
    sequences = _parts(_shared(arrays["ids"]), counts)
    types = _parts(_shared(arrays["types"]), counts) if "types" in arrays else None
    labels: tuple[Iterator[Any], ...] = (
        iter(()),
        iter(_shared(arrays["classes"])),
        iter(arrays["values"].tolist()),
        _parts(_shared(arrays["tags"]), arrays["tag_counts"].tolist()),
        map(tuple, arrays["answers"].tolist()),
    )
    starts, ends = (_shared(arrays["offsets"][:, side]) for side in (0, 1))
    places = [None if start < 0 else (start, end) for start, end in zip(starts, ends, strict=True)]
    num_offsets = arrays["offset_counts"].tolist()
    offsets = _parts(places, [max(count, 0) for count in num_offsets])
    examples = []
    for num_sequences, row, kind, own, has_offsets in zip(
        arrays["sequence_counts"].tolist(),
        _shared(arrays["rows"]),
        arrays["label_kinds"].tolist(),
        offsets,
        num_offsets,
        strict=True,
    ):
        examples.append(
            Example(
                sequences=tuple(next(sequences) for _ in range(num_sequences)),
                token_types=None if types is None else tuple(next(types) for _ in range(num_sequences)),
                label=next(labels[kind]) if kind else None,
                row=row,
                offsets=own if has_offsets >= 0 else None,
            )
        )
    return examples


def _whole(numbers: Iterable[int]) -> npt.NDArray[Any]:
    """Whole numbers in the smallest type that holds all of them."""
    array = np.fromiter(numbers, dtype=np.int64)
    if not array.size:
        return array.astype(np.uint8)
    least, most = int(array.min()), int(array.max())
    return array.astype(next(t for t in _SMALLEST if np.iinfo(t).min <= least and most <= np.iinfo(t).max))


def _shared(array: npt.NDArray[Any]) -> list[Any]:
    """The numbers of an array as a list, where each different number is one object: a third of the memory."""
    if not array.size:
        return []
    least, most = int(array.min()), int(array.max())
    if most - least > _MOST_SHARED:
        return list(array.tolist())
    objects = np.arange(least, most + 1).astype(object)
    numbers: list[Any] = objects[array.astype(np.int64) - least].tolist()
    return numbers


def _parts(numbers: list[Any], counts: Sequence[int]) -> Iterator[list[Any]]:
    """Yield the first so many of a list, the next so many, ..."""
    for end, count in zip(accumulate(counts), counts, strict=True):
        yield numbers[end - count : end]
