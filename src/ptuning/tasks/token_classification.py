"""Token classification: a BIO tag for each word, and the entities that the tags spell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor

from ptuning import metrics
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.errors import DataError
from ptuning.tasks.encoding import check_is_fast
from ptuning.tasks.kind import Prediction, TaskKind, check_direction, has_labels, label_names_of, references_of
from ptuning.tasks.tagging import (
    Pieces,
    asked_piece,
    check_tag_names,
    num_asked,
    predicted_tags,
    room_for_words,
    tag_indices,
    tagging_loss,
    tokenize_words,
    warn_of_cut_words,
    window_example,
    word_spans,
)
from ptuning.tasks.words import split_words


@final
@dataclass(frozen=True)
class TokenClassification(TaskKind):
    """A BIO tag for each word; rows have `tokens` and `tags`, or raw `text` to predict for.

    The first piece of a word carries its tag; with a causal backbone the last one, which alone sees the whole word. The
    others are not asked. A word without any piece (invisible characters) is predicted `O`. Training cuts sentences
    after `max_length`; otherwise long ones become several examples, cut between words, so that every word gets a
    prediction.

    Predictions: {"tokens": [word], "tags": [tag], "entities": [{"type", "text", "start", "end"}]}. For raw text `start`
    and `end` are characters, text[start:end] being the entity's text. For tokens they count tokens (the end is the one
    behind the last), and the text is the tokens joined by spaces. Predicted tags are always valid BIO: an `I-X` that
    follows neither `B-X` nor `I-X` is read as `B-X`.

    Args:
        label_names: the tags in index order, `O` among them.
        attention_direction: `causal` where the backbone's tokens see only what is to their left.
    """

    label_names: tuple[str, ...]
    attention_direction: str | None = None

    name: ClassVar[str] = "token_classification"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "token"
    label_role: ClassVar[str] = "tags"
    default_metric: ClassVar[str] = "f1"

    def __post_init__(self) -> None:
        check_tag_names(self.label_names)
        check_direction(self.attention_direction)

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        return cls(label_names_of(data, cls.name))

    def for_causal(self) -> Self:
        return replace(self, attention_direction="causal")

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
            labels = [tag_indices(row, index, self.label_names) for index, row in enumerate(rows)]
        room = room_for_words(tokenizer, max_length)
        examples: list[Example] = []
        lost_words = cut_rows = 0
        for index, sentence in enumerate(tokenize_words(tokenizer, sentences)):
            chunks = _chunks(sentence, room)
            if training and len(chunks) > 1:
                lost_words += sum(len(chunk) for chunk in chunks[1:])
                cut_rows += 1
                chunks = chunks[:1]
            tags = None if labels is None else labels[index]
            for chunk in chunks:
                own = {word: sentence.words[word][:room] for word in chunk}
                positions = [position for word in chunk for position in own[word]]
                asked = {asked_piece(own[word], self.attention_direction): word for word in chunk}
                examples.append(window_example(sentence, positions, asked, tags, index))
        warn_of_cut_words(lost_words, cut_rows, len(rows), max_length)
        return examples

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return tagging_loss(logits, batch)

    def num_terms(self, examples: Sequence[Example]) -> int:
        return num_asked(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        split = [_words(row, index) for index, row in enumerate(rows)]
        tags = predicted_tags(logits, examples, [len(words) for words, _ in split], self.label_names)
        return [
            {"tokens": list(words), "tags": own, "entities": _entities(words, spans, own, row)}
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


def _chunks(sentence: Pieces, room: int) -> list[list[int]]:
    """Return the words of each chunk, those without pieces left out; one of more than `room` pieces is cut to that."""
    chunks: list[list[int]] = [[]]
    size = 0
    for word, positions in enumerate(sentence.words):
        kept = min(len(positions), room)
        if size + kept > room:
            chunks.append([])
            size = 0
        if kept:
            chunks[-1].append(word)
            size += kept
    return chunks


def _entities(words: list[str], spans: list[tuple[int, int]] | None, tags: list[str], row: Row) -> list[dict[str, Any]]:
    """Return the entities in words, or in the characters of raw text."""
    entities = word_spans(words, tags)
    if spans is not None:
        for entity in entities:
            start, end = spans[entity["start"]][0], spans[entity["end"] - 1][1]
            entity.update({"text": row["text"][start:end], "start": start, "end": end})
    return entities
