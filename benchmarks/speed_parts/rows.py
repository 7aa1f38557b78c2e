"""Real sets, tokenized once for all sides, and the batches that an epoch of each side has."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ptuning
from ptuning import Backbone
from ptuning.data.batching import Example
from ptuning.training.loop import make_batches
from ptuning.training.run import PreparedTask, prepare_task

SETS = {"sst2": ("glue/sst2", 128), "rte": ("super_glue/rte", 256)}
"""Directory in `PTUNING_DATA` -> preset, and tokens a sequence at most: of RTE nearly all rows are whole then."""

SEED = 11


@dataclass(frozen=True)
class RealSet:
    """A set with the examples that all sides see.

    Attributes:
        name: of its directory.
        settings: what our side's `load_config` takes.
        prepared: tokenized by us; the others get the same ids.
        batch_size: examples a batch.
        longest: tokens a sequence at most.
    """

    name: str
    settings: Mapping[str, Any]
    prepared: PreparedTask
    batch_size: int
    longest: int

    @property
    def examples(self) -> list[Example]:
        """The training examples."""
        return self.prepared.train

    @property
    def num_tokens(self) -> int:
        """Real tokens of an epoch."""
        return sum(example.length for example in self.examples)

    def config(self, **overrides: Any) -> dict[str, Any]:
        """Settings of one of our runs, with `__` for the dot in their names."""
        return {**self.settings, **{name.replace("__", "."): value for name, value in overrides.items()}}

    def our_batches(self, epoch: int = 0) -> list[list[int]]:
        """Examples of each of our batches, in order: those of similar length together."""
        return make_batches(ptuning.load_config(None, dict(self.settings)), self.examples).batches(epoch)

    def random_batches(self) -> list[list[int]]:
        """Examples of each batch of a Trainer's epoch."""
        order = list(range(len(self.examples)))
        random.Random(SEED).shuffle(order)
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def positions(self, batch: Sequence[int]) -> int:
        """What a batch computes, padding included."""
        return len(batch) * max(self.examples[index].length for index in batch)

    def tokens(self, batch: Sequence[int]) -> int:
        """What of a batch is no padding."""
        return sum(self.examples[index].length for index in batch)

    def sample(self, batches: Sequence[Sequence[int]], count: int) -> list[list[int]]:
        """Draws full batches that stand for all: from each of `count` equal parts of them, by size, the middle one.

        Returns:
            The largest batch of all, for the warm-up and for the peak of memory, then the sample in a random order.
        """
        full = [list(batch) for batch in batches if len(batch) == self.batch_size]
        full.sort(key=self.positions)
        count = min(count, len(full))
        drawn = [full[(2 * part + 1) * len(full) // (2 * count)] for part in range(count)]
        random.Random(SEED).shuffle(drawn)
        return [full[-1], *drawn]

    def write(self, directory: Path, batches: Sequence[Sequence[int]] | None = None, *, name: str = "all") -> Path:
        """Writes rows for `usual_script.py`: those of some training batches in order, or all, and the validation rows.

        Args:
            directory: where to.
            batches: indices of training examples; None for all of them.
            name: tells the files of a set apart.
        """
        chosen = self.examples if batches is None else [self.examples[index] for batch in batches for index in batch]
        rows = {"train": _as_rows(chosen), "validation": _as_rows(self.prepared.validation)}
        path = directory / f"{self.name}-rows-{name}.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path


def load_set(
    name: str, data: Path, backbone: Backbone, *, device: str, batch_size: int, rows: int | None, directory: Path
) -> RealSet:
    """Reads a set and tokenizes it for a backbone.

    Args:
        name: one of `SETS`.
        data: directory of the sets.
        backbone: whose tokenizer it is.
        device: of the runs.
        batch_size: examples a batch; less where there are fewer rows.
        rows: of training and of validation at most; None for all.
        directory: where runs go.
    """
    task, longest = SETS[name]
    settings: dict[str, Any] = {"task": task, "data.path": str(data / name), "training.device": device}
    if rows is not None:
        settings |= {"data.max_train_rows": rows, "data.max_validation_rows": rows}
    return tokenized_set(name, settings, backbone, longest=longest, batch_size=batch_size, directory=directory)


def tokenized_set(
    name: str, given: Mapping[str, Any], backbone: Backbone, *, longest: int, batch_size: int, directory: Path
) -> RealSet:
    """Tokenizes the rows that some settings name.

    Args:
        name: of the set.
        given: settings of a run: its task and data, and where it runs.
        backbone: whose tokenizer it is.
        longest: tokens a sequence at most, where the backbone has positions for twice as many.
        batch_size: examples a batch; less where there are fewer rows.
        directory: where runs go.
    """
    limit = backbone.description.max_positions
    longest = longest if limit is None else min(longest, limit // 2)
    settings = {
        **given,
        "backbone": backbone.name,
        "data.max_length": longest,
        "training.batch_size": batch_size,
        "training.seed": SEED,
        "output": str(directory / f"run-{name}"),
    }
    prepared = prepare_task(ptuning.load_config(None, settings), backbone)
    return RealSet(name, settings, prepared, min(batch_size, len(prepared.train)), longest)


def _as_rows(examples: Sequence[Example]) -> list[dict[str, Any]]:
    rows = []
    for example in examples:
        row: dict[str, Any] = {"input_ids": example.sequences[0], "label": example.label}
        if example.token_types is not None:
            row["token_type_ids"] = example.token_types[0]
        rows.append(row)
    return rows
