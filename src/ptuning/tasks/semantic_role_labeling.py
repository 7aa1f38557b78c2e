"""Semantic role labeling: who did what to whom, as a BIO tag for each word, for one given predicate a row.

Why the predicate is marked in place by default: in 400 steps on rows of the English Web Treebank with minilm, one seed
(11), on the CPU, the better of the two validations had f1 0.301 marked and 0.184 appended, which is the official code's
input. Asterisks with token type 1 for what they enclose had 0.300, so types are left alone. A run this short can tell
such inputs apart, and says nothing of what either reaches in the end:

    ptuning train --task semantic_role_labeling --data $PTUNING_DATA/srl_ewt --backbone minilm \
        --set training.max_steps=400 --set data.predicate_input=appended
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, final, get_args

from torch import Tensor

from ptuning import metrics
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.errors import ConfigError, DataError
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

logger = logging.getLogger(__name__)

PredicateInput = Literal["marked", "appended"]

_MARKS = ("*", "*")  # in every vocabulary
_SEPARATOR = "[SEP]"
_PREDICATE_TAGS = ("B-V", "I-V")


@final
@dataclass(frozen=True)
class SemanticRoleLabeling(TaskKind):
    """The roles of one predicate, as a BIO tag for each word; rows have `tokens`, `predicate_index`, and `tags`.

    `predicate_index` is the predicate's word, counted from 0; a sentence with several predicates is as many rows. With
    `predicate_input` `marked` the predicate stands between two asterisks. `appended` is the input of the official
    P-Tuning v2 code: behind the words, as one sequence, the word `[SEP]` and the predicate's word again.

    A sentence that is too long is shown in windows of whole words. The first one holds the predicate in its middle, and
    training sees that one alone. Otherwise further windows ask for the other words; there the marked predicate stands
    behind words that come before it and in front of words that come after it. The predicate is never cut.

    Predictions: {"tokens": [word], "predicate_index": word, "tags": [tag], "roles": [{"type", "text", "start",
    "end"}]}; `start` and `end` count words (the end is the one behind the last). Tags are always valid BIO, and what
    the model says of the predicate's own word stays as it is: as in CoNLL-2005, `V` is scored apart from the arguments.

    Args:
        label_names: the tags in index order, `O` among them.
        predicate_input: how the predicate is shown.
        attention_direction: `causal` where the backbone's tokens see only what is to their left: then the last piece of
            a word carries its tag, and words in front of the predicate do not know it.
    """

    label_names: tuple[str, ...]
    predicate_input: PredicateInput = "marked"
    attention_direction: str | None = None

    name: ClassVar[str] = "semantic_role_labeling"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "token"
    label_role: ClassVar[str] = "tags"
    default_metric: ClassVar[str] = "f1"

    def __post_init__(self) -> None:
        check_tag_names(self.label_names)
        if self.predicate_input not in get_args(PredicateInput):
            raise ConfigError(
                f"predicate_input is {self.predicate_input!r}, expected {' or '.join(get_args(PredicateInput))}. "
                "Set data.predicate_input to one of those."
            )
        check_direction(self.attention_direction)

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        """Return the kind; where `V` is elsewhere than `predicate_index` says, which is then hardly meant, warn."""
        verbs = [row for row in data.train or [] if "B-V" in row.get("tags", ())]
        elsewhere = sum(row["tags"][row["predicate_index"]] not in _PREDICATE_TAGS for row in verbs)
        if elsewhere:
            logger.warning(
                "In %d of %d train rows the word at predicate_index has not the tag V, and another word has. "
                "Expected its number counted from 0.",
                elsewhere,
                len(verbs),
            )
        names = label_names_of(data, cls.name)
        asked = None if settings is None else settings.predicate_input
        return cls(names) if asked is None else cls(names, asked)

    def for_causal(self) -> Self:
        """Return the kind for a causal backbone, and warn: what it asks there can hardly be known.

        Raises:
            ConfigError: the predicate is appended, where no word could see it.
        """
        if self.predicate_input == "appended":
            raise ConfigError(
                "predicate_input is appended, but the backbone's tokens see only what is to their left: no word would "
                "see its predicate, and all predicates of a sentence would get the same roles. Set "
                "data.predicate_input to marked, or attention_direction to bidirectional."
            )
        logger.warning(
            "The backbone's tokens see only what is to their left, so words in front of a predicate are asked for "
            "their role without knowing it. Set attention_direction to bidirectional, or use an encoder."
        )
        return replace(self, attention_direction="causal")

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return (
            "f1",
            "precision",
            "recall",
            "f1_with_predicate",
            "precision_with_predicate",
            "recall_with_predicate",
        )

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        check_is_fast(tokenizer, self.name)
        labels = None
        if has_labels(rows, ["tokens", "predicate_index"], self.label_role, training=training):
            labels = [self._indices(row, index, training) for index, row in enumerate(rows)]
        for row in rows:  # `read_rows` refuses others, with their place
            assert 0 <= row["predicate_index"] < len(row["tokens"])
        room = room_for_words(tokenizer, max_length)
        shown = _mark if self.predicate_input == "marked" else _append
        examples: list[Example] = []
        lost_words = cut_rows = 0
        sentences = tokenize_words(tokenizer, [shown(row["tokens"], row["predicate_index"]) for row in rows])
        for index, (row, sentence) in enumerate(zip(rows, sentences, strict=True)):
            layout = self._layout(sentence, row["predicate_index"], len(row["tokens"]))
            windows = layout.windows(room)
            if windows is None:
                raise _no_room(row, index, layout, room, max_length)
            if training and len(windows) > 1:
                lost_words += sum(len(asked) for _, asked in windows[1:])
                cut_rows += 1
                windows = windows[:1]
            tags = None if labels is None else labels[index]
            for positions, asked in windows:
                examples.append(window_example(sentence, positions, asked, tags, index))
        warn_of_cut_words(lost_words, cut_rows, len(rows), max_length)
        return examples

    def _indices(self, row: Row, index: int, training: bool) -> list[int]:
        """Return the labels of a row; a role that is none of ours can be scored, as missed, but not be learned."""
        if not training:
            names = set(self.label_names)
            row = {**row, "tags": [tag if tag in names else "O" for tag in row["tags"]]}
        return tag_indices(row, index, self.label_names)

    def _layout(self, sentence: Pieces, predicate: int, num_words: int) -> _Layout:
        """Tell a sentence's own words from what shows its predicate."""
        if self.predicate_input == "appended":
            behind = [position for word in sentence.words[num_words:] for position in word]
            return _Layout(sentence.words[:num_words], predicate, behind, self.attention_direction)
        words = [*sentence.words[:predicate], sentence.words[predicate + 1], *sentence.words[predicate + 3 :]]
        marked = [position for word in sentence.words[predicate : predicate + 3] for position in word]
        return _Layout(words, predicate, marked, self.attention_direction)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return tagging_loss(logits, batch)

    def num_terms(self, examples: Sequence[Example]) -> int:
        return num_asked(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        tags = predicted_tags(logits, examples, [len(row["tokens"]) for row in rows], self.label_names)
        return [
            {
                "tokens": list(row["tokens"]),
                "predicate_index": row["predicate_index"],
                "tags": own,
                "roles": word_spans(row["tokens"], own),
            }
            for row, own in zip(rows, tags, strict=True)
        ]

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return precision, recall and f1 over arguments as CoNLL-2005 has them, and `…_with_predicate`.

        The latter are over all spans, those of the predicate included and continuations counted by themselves, as the
        official P-Tuning v2 code scores.
        """
        references = references_of(rows, self.label_role, predictions)
        tags = [prediction["tags"] for prediction in predictions]
        spans = metrics.entity_f1(tags, references)
        return metrics.role_f1(tags, references) | {f"{name}_with_predicate": value for name, value in spans.items()}

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        return [{"tags": ["O"] * len(row["tags"])} for row in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        """Tell whether no word but the predicate, which is given, is told from the others."""
        tags = {tag for prediction in predictions for tag in prediction["tags"] if tag not in _PREDICATE_TAGS}
        return len(predictions) > 1 and len(tags) <= 1


def _mark(words: Sequence[str], predicate: int) -> list[str]:
    return [*words[:predicate], _MARKS[0], words[predicate], _MARKS[1], *words[predicate + 1 :]]


def _append(words: Sequence[str], predicate: int) -> list[str]:
    return [*words, _SEPARATOR, words[predicate]]


@dataclass(frozen=True)
class _Layout:
    """Where a sentence's words and what shows its predicate stand.

    Attributes:
        words: positions of the pieces of each word.
        predicate: which word it is.
        shown: positions that every window has: the marked predicate, or what is appended.
        attention_direction: of the kind.
    """

    words: list[list[int]]
    predicate: int
    shown: list[int]
    attention_direction: str | None

    def windows(self, room: int) -> list[tuple[list[int], dict[int, int]]] | None:
        """Return (positions, asked: position -> word) of each window, or None where the predicate leaves no room.

        Every word with pieces is asked in exactly one window. A word with more pieces than there is room is cut.

        Args:
            room: tokens a window at most.
        """
        left = room - len(self.shown)
        own = set(self.shown)
        costs = [len([position for position in word if position not in own]) for word in self.words]
        others = sum(cost > 0 for cost in costs) - (costs[self.predicate] > 0)
        if left < costs[self.predicate] or (others and left < 1):
            return None
        costs = [min(cost, left) for cost in costs]
        start, end = _grow(costs, self.predicate, self.predicate + 1, left)
        windows = [self._window(range(start, end), range(start, end), left)]
        count = len(costs)
        for low, high, first, last in ((0, self.predicate, 0, start), (self.predicate + 1, count, end, count)):
            for begin, stop in _parts(costs, first, last, left):
                # What room is left is for words around: known already, but they help to understand the others.
                around = _grow(costs, begin, stop, left, low, high)
                windows.append(self._window(range(*around), range(begin, stop), left))
        return windows

    def _window(self, words: range, asked: range, left: int) -> tuple[list[int], dict[int, int]]:
        own = set(self.shown)
        positions = set(self.shown)
        for word in words:
            positions.update([position for position in self.words[word] if position not in own][:left])
        there = {word: [position for position in self.words[word] if position in positions] for word in asked}
        return sorted(positions), {
            asked_piece(pieces, self.attention_direction): word for word, pieces in there.items() if pieces
        }


def _grow(
    costs: Sequence[int], start: int, end: int, room: int, low: int = 0, high: int | None = None
) -> tuple[int, int]:
    """Widen the words from `start` to `end` on both sides by as many pieces, as long as `room` lasts."""
    high = len(costs) if high is None else high
    before = behind = 0
    free = room - sum(costs[start:end])
    while True:
        can_before = start > low and costs[start - 1] <= free
        can_behind = end < high and costs[end] <= free
        if can_before and (before <= behind or not can_behind):
            start -= 1
            before += costs[start]
            free -= costs[start]
        elif can_behind:
            behind += costs[end]
            free -= costs[end]
            end += 1
        else:
            return start, end


def _parts(costs: Sequence[int], first: int, last: int, room: int) -> list[tuple[int, int]]:
    """Cut the words from `first` to `last` into parts of at most `room` pieces; words without any make no part."""
    parts: list[tuple[int, int]] = []
    size = 0
    for word in range(first, last):
        if not parts or size + costs[word] > room:
            parts.append((word, word))
            size = 0
        parts[-1] = (parts[-1][0], word + 1)
        size += costs[word]
    return [(start, end) for start, end in parts if any(costs[start:end])]


def _no_room(row: Row, index: int, layout: _Layout, room: int, max_length: int) -> DataError:
    name = f" (id {row['id']!r})" if "id" in row else ""
    word = row["tokens"][row["predicate_index"]]
    return DataError(
        f"row {index + 1}{name}: its predicate {word[:40]!r} takes {len(layout.words[layout.predicate])} tokens, which "
        f"leaves no room for the other words in max_length {max_length}. The predicate is never cut: shorten it or "
        "raise data.max_length."
    )
