"""Token classification: a BIO tag for each word, and the entities that the tags spell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor
from torch.nn import functional as F

from ptuning import metrics
from ptuning.data.batching import IGNORED_LABEL, Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.data.spans import bio_spans, iob1_to_bio, is_bio_tag
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.encoding import check_is_fast, pieces
from ptuning.tasks.kind import (
    Prediction,
    TaskKind,
    check_label_names,
    has_labels,
    label_names_of,
    labels_of,
    references_of,
)
from ptuning.tasks.words import split_words

logger = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class TokenClassification(TaskKind):
    """A BIO tag for each word; rows have `tokens` and `tags`, or raw `text` to predict for.

    The first piece of a word carries its tag; the others are not asked. A word without any piece (invisible
    characters) is predicted `O`. Training cuts sentences after `max_length`; otherwise long ones become several
    examples, cut between words, so that every word gets a prediction.

    Predictions: {"tokens": [word], "tags": [tag], "entities": [{"type", "text", "start", "end"}]}. For raw text `start`
    and `end` are characters, text[start:end] being the entity's text. For tokens they count tokens (the end is the one
    behind the last), and the text is the tokens joined by spaces. Predicted tags are always valid BIO: an `I-X` that
    follows neither `B-X` nor `I-X` is read as `B-X`.

    Args:
        label_names: the tags in index order, `O` among them.
    """

    label_names: tuple[str, ...]

    name: ClassVar[str] = "token_classification"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "token"
    label_role: ClassVar[str] = "tags"
    default_metric: ClassVar[str] = "f1"

    def __post_init__(self) -> None:
        check_label_names(self.label_names, "tags")
        wrong = [name for name in self.label_names if not is_bio_tag(name)]
        if wrong or "O" not in self.label_names:
            raise ConfigError(
                f"label_names are {', '.join(self.label_names)}, expected BIO tags: O, B-TYPE and I-TYPE. "
                f"{'Rename ' + ', '.join(wrong) if wrong else 'Add O'} in data.labels."
            )

    @classmethod
    def from_data(cls, data: TaskData) -> Self:
        return cls(label_names_of(data, cls.name))

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("f1", "precision", "recall", "accuracy")

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        check_is_fast(tokenizer, self.name)
        sentences = [_words(row, index)[0] for index, row in enumerate(rows)]
        labels = None
        if has_labels(rows, [], self.label_role, training=training):
            labels = [self._indices(row, index) for index, row in enumerate(rows)]
        capacity = max_length - int(tokenizer.num_special_tokens_to_add(pair=False))
        if capacity < 1:
            raise ConfigError(
                f"max_length is {max_length}, but the tokenizer adds {max_length - capacity} special tokens, so at "
                f"least {max_length - capacity + 1} are needed. Raise data.max_length."
            )
        needs_space = _needs_space(tokenizer)
        examples: list[Example] = []
        lost_words = cut_rows = 0
        for first, some in pieces(sentences):
            encoded = tokenizer(
                [[_spaced(word) for word in words] if needs_space else list(words) for words in some],
                is_split_into_words=True,
                truncation=False,
                padding=False,
                return_attention_mask=False,
                verbose=False,
            )
            for place in range(len(some)):
                word_ids = encoded.word_ids(place)
                chunks = _chunks(word_ids, capacity)
                if training and len(chunks) > 1:
                    lost_words += len({word_ids[position] for chunk in chunks[1:] for position in chunk})
                    cut_rows += 1
                    chunks = chunks[:1]
                ids = encoded["input_ids"][place]
                types = encoded["token_type_ids"][place] if "token_type_ids" in encoded else None
                index = first + place
                tags = None if labels is None else labels[index]
                examples += [_example(ids, types, word_ids, chunk, tags, index) for chunk in chunks]
        if cut_rows:
            logger.warning(
                "%d words in %d of %d rows lie beyond max_length %d and are not learned from. Raise data.max_length.",
                lost_words,
                cut_rows,
                len(rows),
                max_length,
            )
        return examples

    def _indices(self, row: Row, index: int) -> list[int]:
        if "tokens" not in row or len(row["tokens"]) != len(row["tags"]):
            raise DataError(
                f"row {index + 1} has {len(row['tags'])} tags for {len(row.get('tokens', ()))} tokens, expected one "
                "tag a token. Correct the row (raw text cannot have tags)."
            )
        for word, tag in zip(row["tokens"], row["tags"], strict=True):
            if tag not in self.label_names:
                raise DataError(
                    f"row {index + 1} has the tag {tag!r} at {word!r}, expected one of {', '.join(self.label_names)}. "
                    "Correct the row, or give all tags in data.labels."
                )
        return [self.label_names.index(tag) for tag in row["tags"]]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = labels_of(batch)
        total = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
        )
        return total / (labels != IGNORED_LABEL).sum().clamp(min=1)  # 0, not NaN, where no word is asked

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        split = [_words(row, index) for index, row in enumerate(rows)]
        tags = [["O"] * len(words) for words, _ in split]
        for outputs, example in zip(logits, examples, strict=True):
            assert example.offsets is not None  # `encode` made it
            best = outputs.argmax(-1).tolist()  # (seq_len,)
            for index, place in zip(best, example.offsets, strict=True):
                if place is not None:
                    tags[example.row][place[0]] = self.label_names[index]
        return [
            _prediction(words, spans, iob1_to_bio(own), row)
            for (words, spans), own, row in zip(split, tags, rows, strict=True)
        ]

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return precision, recall and f1 over entities, and the accuracy of tags over words."""
        references = references_of(rows, self.label_role, predictions)
        tags = [prediction["tags"] for prediction in predictions]
        entities = metrics.entity_f1(tags, references)
        words = metrics.accuracy([tag for own in tags for tag in own], [tag for own in references for tag in own])
        return entities | words

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        return [{"tags": ["O"] * len(row["tags"])} for row in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        return len(predictions) > 1 and len({tag for prediction in predictions for tag in prediction["tags"]}) == 1


def _words(row: Row, index: int) -> tuple[list[str], list[tuple[int, int]] | None]:
    """Return the words of a row, and for raw text the characters where they stand."""
    if "tokens" in row:
        return row["tokens"], None
    if "text" not in row:
        raise DataError(
            f"row {index + 1} has neither 'tokens' nor 'text', only {', '.join(map(repr, row)) or 'nothing'}. "
            "Give a list of words, or raw text."
        )
    spans = split_words(row["text"])
    return [row["text"][start:end] for start, end in spans], spans


def _needs_space(tokenizer: Any) -> bool:
    """Tell whether words of a byte-level tokenizer need the space that marks the beginning of a word in a text.

    `add_prefix_space=True` would do the same, but not every tokenizer class of transformers passes it on.
    """
    return "ByteLevel" in str(tokenizer.backend_tokenizer.pre_tokenizer)


def _spaced(word: str) -> str:
    return word if word[:1].isspace() else f" {word}"


def _chunks(word_ids: Sequence[int | None], capacity: int) -> list[list[int]]:
    """Return the token positions of each chunk: whole words, save that one with more than `capacity` pieces is cut."""
    words: dict[int, list[int]] = {}
    for position, word in enumerate(word_ids):
        if word is not None:
            words.setdefault(word, []).append(position)
    chunks: list[list[int]] = [[]]
    for positions in words.values():
        kept = positions[:capacity]
        if len(chunks[-1]) + len(kept) > capacity:
            chunks.append([])
        chunks[-1] += kept
    return chunks


def _example(
    ids: list[int],
    types: list[int] | None,
    word_ids: Sequence[int | None],
    chunk: list[int],
    tags: list[int] | None,
    row: int,
) -> Example:
    """Make an example of a chunk, between the special tokens that stand around the whole sentence."""
    inside = [position for position, word in enumerate(word_ids) if word is not None] or [len(ids)]
    positions = [*range(inside[0]), *chunk, *range(inside[-1] + 1, len(ids))]
    offsets: list[tuple[int, int] | None] = []
    label = []
    previous = None
    for word in (word_ids[position] for position in positions):
        is_first = word is not None and word != previous
        offsets.append((word, 0) if is_first and word is not None else None)
        label.append(tags[word] if is_first and word is not None and tags is not None else IGNORED_LABEL)
        previous = word
    return Example(
        sequences=([ids[position] for position in positions],),
        token_types=None if types is None else ([types[position] for position in positions],),
        label=None if tags is None else label,
        row=row,
        offsets=offsets,
    )


def _prediction(words: list[str], spans: list[tuple[int, int]] | None, tags: list[str], row: Row) -> Prediction:
    entities = []
    for kind, first, end in bio_spans(tags):
        if spans is None:
            entity = {"type": kind, "text": " ".join(words[first:end]), "start": first, "end": end}
        else:
            begin, stop = spans[first][0], spans[end - 1][1]
            entity = {"type": kind, "text": row["text"][begin:stop], "start": begin, "end": stop}
        entities.append(entity)
    return {"tokens": list(words), "tags": tags, "entities": entities}
