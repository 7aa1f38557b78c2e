"""Cloze queries over a passage: which of its entities fills the gap (ReCoRD, Zhang et al., arXiv 1810.12885).

Inputs, labels and the choice of an entity are those of THUDM/P-tuning-v2 (`tasks/superglue/dataset.py`), with one
departure: only the passage is cut, so that no query loses the entity that was put into it. Where a backbone fills the
gap itself they are those of THUDM/GLM (`tasks/superglue/dataset.py` and `pvp.py`).
"""

from __future__ import annotations

import dataclasses
import logging
import random
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
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.choice_loss import choice_loss
from ptuning.tasks.encoding import encode_texts, pieces
from ptuning.tasks.kind import Prediction, TaskKind, all_equal, has_labels, in_full_precision, labels_of, references_of
from ptuning.tasks.pattern_encoding import Texts, answer_ids, encode_in_pattern, required_pieces
from ptuning.tasks.patterns import Part, parse_pattern

logger = logging.getLogger(__name__)

_HIGHLIGHT = "@highlight\n"
_RIGHT = -1  # the output that says that an entity is an answer: the second of two, or the score
_MOST_WRONG = 9  # entities that an answer is learned beside


@final
@dataclass(frozen=True)
class Cloze(TaskKind):
    """The entity that fills the gap; rows have `passage`, `query` (with `@placeholder`), `entities`, and `answers`.

    Every different text among the `entities` is a sequence of its own: the passage, with its `@highlight` lines as
    a list, as the first segment, and the query with the entity in the gap as the second. Two outputs say whether the
    entity is an answer, which it is if it stands among the `answers` as it is written, in upper and lower case too.
    Where a sequence is too long, the passage is cut.

    With a pattern the gap of the query is the mask, which the entities fill. Each has one score then, and every answer
    of a training row is an example that sets it against up to nine entities that are none.

    Predictions: {"answer", "score", "scores": {entity: its share}}. The answer is the entity with the highest second
    output or score, of equal ones the last by name. Shares are the softmax of these over the entities of the row: they
    order the entities, and are no probabilities of being right. `score` is that of the answer.

    Scored are exact_match and f1, after SQuAD's normalization, each the best over the answers of a row.

    Args:
        pattern: what passage and query are put into for a backbone that fills blanks by pieces, with {passage} and
            {query}; None to read them as two segments.
        words: no words, where there is a pattern: entities answer.
    """

    pattern: str | None = None
    words: tuple[str, ...] | None = None

    name: ClassVar[str] = "cloze"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "sequence"
    label_role: ClassVar[str] = "answers"
    default_metric: ClassVar[str] = "f1"
    max_length_default: ClassVar[int] = 384

    def __post_init__(self) -> None:
        self._parts()
        if (self.pattern is None) != (self.words is None) or self.words:
            raise ConfigError(
                f"the pattern is {self.pattern!r} and label words are {self.words}, but what fills the gap of a query "
                "are its entities. Leave head.words out, and set data.pattern where head.kind is verbalizer alone."
            )

    @property
    def fills_blanks(self) -> bool:
        """Whether the entities themselves are the answers at the gap."""
        return self.pattern is not None

    def _parts(self) -> tuple[Part, ...] | None:
        """The pattern with the mask where the query's gap is, between what is in front of it and behind it."""
        if self.pattern is None:
            return None
        roles = ("passage", "query")
        parts: list[Part] = []
        for part in parse_pattern(self.pattern, roles, roles):
            if part.kind == "mask":
                raise ConfigError(
                    f"data.pattern is {self.pattern!r}, but the mask stands in the gap of the query. "
                    "Leave {mask} out."
                )
            if part.value != "query" or part.kind != "text":
                parts.append(part)
                continue
            parts.append(dataclasses.replace(part, value="before", is_whole=True))
            parts.append(Part("mask", is_spaced=True))
            parts.append(Part("text", "after", is_whole=True))  # with the space in front that it has
        return tuple(parts)

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
        parts = self._parts()
        if training and parts is None:  # in a pattern every answer is learned as it is written, an entity or not
            _warn_of_rows_without_right_entity(rows)
        if parts is not None and training:
            return _examples_of_answers(rows, tokenizer, max_length, parts)
        asked = [(index, entity) for index, row in enumerate(rows) for entity in _different(row["entities"])]
        types: list[list[int]] | None = None
        if parts is not None:
            ids = _encode_gaps(rows, asked, tokenizer, max_length, parts)
        else:
            passages = [_passage(row) for row in rows]
            queries = [rows[index]["query"].replace(PLACEHOLDER, entity) for index, entity in asked]
            _check_room(tokenizer, queries, asked, max_length)
            ids, types = encode_texts(
                tokenizer, [passages[index] for index, _ in asked], queries, max_length, cut="only_first"
            )
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
        if self.fills_blanks:
            return choice_loss(logits, batch)
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


def _passage(row: Row) -> str:
    return str(row["passage"].replace(_HIGHLIGHT, "- "))


def _examples_of_answers(rows: Sequence[Row], tokenizer: Any, max_length: int, parts: Sequence[Part]) -> list[Example]:
    """An example for each answer of a row: the answer first, then entities that are none."""
    candidates = [(index, own) for index, row in enumerate(rows) for own in _against_wrong(row)]
    asked = [(index, entity) for index, own in candidates for entity in own]
    sequences = iter(_encode_gaps(rows, asked, tokenizer, max_length, parts))
    return [
        Example(sequences=tuple(next(sequences) for _ in own), token_types=None, label=0, row=index)
        for index, own in candidates
    ]


def _against_wrong(row: Row) -> list[list[str]]:
    """Each different answer, and up to nine entities that are none; which of more depends on the query alone."""
    found = []
    for answer in _different(row["answers"]):
        wrong = [entity for entity in _different(row["entities"]) if entity not in row["answers"]]
        if len(wrong) > _MOST_WRONG:
            wrong = random.Random(f"{answer} {row['query']}").sample(wrong, _MOST_WRONG)
        found.append([answer, *wrong])
    return found


def _encode_gaps(
    rows: Sequence[Row], asked: Sequence[tuple[int, str]], tokenizer: Any, max_length: int, parts: Sequence[Part]
) -> list[list[int]]:
    """Token ids of passage and query, and of the entity that fills the gap."""
    required_pieces(tokenizer, "the entities are to fill the gap of the query themselves")
    halves = [rows[index]["query"].split(PLACEHOLDER, 1) for index, _ in asked]
    texts = {
        "passage": [_passage(rows[index]) for index, _ in asked],
        "before": [before.rstrip() for before, _ in halves],
        "after": [after for _, after in halves],
    }

    def shorten(index: int, own: Texts, room: int) -> Texts:
        return {role: ids[:room] for role, ids in own.items()}  # of the passage alone

    answers = answer_ids(tokenizer, parts, [entity for _, entity in asked])
    ids, _ = encode_in_pattern(tokenizer, parts, texts, max_length, shorten, answers=answers)
    return ids
