"""Cloze queries over a passage: which of its entities fills the gap (ReCoRD, Zhang et al., arXiv 1810.12885).

Inputs, labels and the choice of an entity are those of THUDM/P-tuning-v2 (`tasks/superglue/dataset.py`), with one
departure: only the passage is cut, so that no query loses the entity that was put into it.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, final

import torch
from torch import Tensor
from torch.nn import functional as F

from ptuning import metrics
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import PLACEHOLDER, Row
from ptuning.data.sources import TaskData
from ptuning.errors import DataError
from ptuning.tasks.encoding import encode_texts, pieces
from ptuning.tasks.kind import Prediction, TaskKind, all_equal, has_labels, in_full_precision, labels_of, references_of

logger = logging.getLogger(__name__)

_HIGHLIGHT = "@highlight\n"
_RIGHT = 1  # the output that says that an entity is an answer


@final
@dataclass(frozen=True)
class Cloze(TaskKind):
    """The entity that fills the gap; rows have `passage`, `query` (with `@placeholder`), `entities`, and `answers`.

    Every different text among the `entities` is a sequence of its own: the passage, with its `@highlight` lines as
    a list, as the first segment, and the query with the entity in the gap as the second. Two outputs say whether the
    entity is an answer, which it is if it stands among the `answers` as it is written, in upper and lower case too.
    Where a sequence is too long, the passage is cut.

    Predictions: {"answer", "score", "scores": {entity: its share}}. The answer is the entity with the highest second
    output, of equal ones the last by name. Shares are the softmax of these outputs over the entities of the row: they
    order the entities, and are no probabilities of being right. `score` is that of the answer.

    Scored are exact_match and f1, after SQuAD's normalization, each the best over the answers of a row.
    """

    name: ClassVar[str] = "cloze"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "sequence"
    label_role: ClassVar[str] = "answers"
    default_metric: ClassVar[str] = "f1"
    max_length_default: ClassVar[int] = 384

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        return cls()

    @property
    def num_outputs(self) -> int:
        return 2

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("f1", "exact_match")

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        labelled = has_labels(rows, ["passage", "query", "entities"], self.label_role, training=training)
        for row in rows:  # `read_rows` refuses others, with their place
            assert PLACEHOLDER in row["query"] and row["entities"] and row.get("answers", True)
        asked = [(index, entity) for index, row in enumerate(rows) for entity in _different(row["entities"])]
        passages = [row["passage"].replace(_HIGHLIGHT, "- ") for row in rows]
        queries = [rows[index]["query"].replace(PLACEHOLDER, entity) for index, entity in asked]
        _check_room(tokenizer, queries, asked, max_length)
        ids, types = encode_texts(
            tokenizer, [passages[index] for index, _ in asked], queries, max_length, cut="only_first"
        )
        if training:
            _warn_of_rows_without_right_entity(rows)
        return [
            Example(
                sequences=(ids[place],),
                token_types=None if types is None else (types[place],),
                label=int(entity in rows[index]["answers"]) if labelled else None,
                row=index,
            )
            for place, (index, entity) in enumerate(asked)
        ]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(in_full_precision(logits), labels_of(batch))

    def num_terms(self, examples: Sequence[Example]) -> int:
        return len(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        outputs: list[list[float]] = [[] for _ in rows]
        for pair, example in zip(logits, examples, strict=True):
            outputs[example.row].append(float(pair[_RIGHT]))  # the examples of a row are in the order of its entities
        return [_prediction(_different(row["entities"]), own) for row, own in zip(rows, outputs, strict=True)]

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return exact_match and f1."""
        answers = references_of(rows, self.label_role, predictions)
        scores = metrics.squad_em_f1(
            {str(index): prediction["answer"] for index, prediction in enumerate(predictions)},
            {str(index): own for index, own in enumerate(answers)},
        )
        return {"exact_match": scores["exact_match"], "f1": scores["f1"]}

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        """The text that answers most rows, whether or not a row has it among its entities."""
        answer = Counter(text for row in rows for text in _different(row["answers"])).most_common(1)[0][0]
        return [{"answer": answer} for _ in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        return all_equal([prediction["answer"] for prediction in predictions])


def _different(texts: Sequence[str]) -> list[str]:
    """Each text once, in the order of their first places."""
    return list(dict.fromkeys(texts))


def _prediction(entities: Sequence[str], outputs: Sequence[float]) -> Prediction:
    shares = dict(zip(entities, torch.tensor(outputs).softmax(0).tolist(), strict=True))
    _, answer = max(zip(outputs, entities, strict=True))
    return {"answer": answer, "score": shares[answer], "scores": shares}


def _check_room(tokenizer: Any, queries: Sequence[str], asked: Sequence[tuple[int, str]], max_length: int) -> None:
    """Check that every query leaves room for a token of its passage."""
    special = int(tokenizer.num_special_tokens_to_add(pair=True))
    for start, some in pieces(queries):
        encoded = tokenizer(list(some), add_special_tokens=False, return_attention_mask=False, verbose=False)
        for place, ids in enumerate(encoded["input_ids"], start):
            if special + len(ids) >= max_length:
                index, entity = asked[place]
                raise DataError(
                    f"row {index + 1}: its query with {entity!r} has {len(ids)} tokens, beside {special} special ones, "
                    f"which leaves no room for the passage in max_length {max_length}. Raise data.max_length to more "
                    f"than {special + len(ids)}, or shorten the query."
                )


def _warn_of_rows_without_right_entity(rows: Sequence[Row]) -> None:
    count = sum(set(row["entities"]).isdisjoint(row["answers"]) for row in rows)
    if count:
        logger.warning(
            "%d of %d rows have none of their answers among their entities, as it is written, so these rows teach that "
            "no entity is right. Add the answers to the entities, or remove the rows.",
            count,
            len(rows),
        )
