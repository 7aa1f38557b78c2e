"""Multiple choice: one sequence a choice, one output each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor

from ptuning import metrics
from ptuning.backbones.pieces import piece_tokens
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.errors import DataError
from ptuning.tasks.choice_loss import choice_loss
from ptuning.tasks.encoding import check_is_fast, encode_texts
from ptuning.tasks.kind import Prediction, TaskKind, all_equal, has_labels, references_of
from ptuning.tasks.pattern_encoding import (
    Texts,
    answer_ids,
    cut_longest_first,
    encode_in_pattern,
    required_pieces,
)
from ptuning.tasks.patterns import Part, check_mask, check_words, parse_pattern, word_ids

logger = logging.getLogger(__name__)

WORD_NAMES = ("right", "wrong")
"""What the words at a pattern's mask say of a choice."""


@final
@dataclass(frozen=True)
class MultipleChoice(TaskKind):
    """The best of several choices; rows have `text`, perhaps `question`, `choices`, and `label` (its index).

    Each choice is a sequence of its own: the text, with the question behind it, as the first segment and the choice as
    the second. Rows may have different numbers of choices. Of a sequence that is too long the beginning of the first
    segment is cut, so that the choice stays whole, and the question, or the words that it goes on from, with it; a
    choice that fills `max_length` alone is cut at its end. Predictions: {"choice": index, "scores": [probability]}.

    Args:
        pattern: what they are put into instead, with {text} (and the question behind it) and {choice}; None to read
            them as two segments. It is cut in the same way.
        words: that stand for right and for wrong at the pattern's mask. Where there are none of them, not None, the
            choices themselves fill the mask: that takes a backbone that fills blanks by pieces, and the pattern has no
            {choice}.
    """

    pattern: str | None = None
    words: tuple[str, ...] | None = None

    name: ClassVar[str] = "multiple_choice"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "choice"
    default_metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        if self.fills_blanks:
            check_mask(self._parts(), "choices fill the mask themselves (head.words is empty)")
        else:
            check_words(self._parts(), self.words, WORD_NAMES)

    @property
    def fills_blanks(self) -> bool:
        """Whether the choices themselves are the answers at the pattern's mask."""
        return self.words == ()

    def _parts(self) -> tuple[Part, ...] | None:
        roles = ("text",) if self.fills_blanks else ("text", "choice")
        return None if self.pattern is None else parse_pattern(self.pattern, roles, roles)

    def word_ids(self, tokenizer: Any) -> list[list[int]] | None:
        """Return the token ids of the words for right and for wrong, None where there are none.

        Raises:
            ConfigError: the tokenizer does not know a word, or both have the same tokens.
        """
        parts = self._parts()
        return None if parts is None or not self.words else word_ids(tokenizer, parts, self.words, WORD_NAMES)

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        return cls()

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy",)

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        labelled = has_labels(rows, ["text", "choices"], self.label_role, training=training)
        for index, row in enumerate(rows):
            _check_choices(row, index)
        texts = [_first_segment(row) for row in rows for _ in row["choices"]]
        choices = [choice for row in rows for choice in row["choices"]]
        parts = self._parts()
        if parts is None:
            ids, types, cut_choices = _encode_segments(texts, choices, tokenizer, max_length)
        else:
            ids, types, cut_choices = self._encode_in_pattern(texts, choices, tokenizer, max_length, parts)
        if cut_choices:
            logger.warning(
                "%d of %d choices leave no room for their text in max_length %d, and are cut. Raise data.max_length.",
                cut_choices,
                len(choices),
                max_length,
            )
        ends = accumulate(len(row["choices"]) for row in rows)
        examples = []
        for index, (row, end) in enumerate(zip(rows, ends, strict=True)):
            own = slice(end - len(row["choices"]), end)
            examples.append(
                Example(
                    sequences=tuple(ids[own]),
                    token_types=None if types is None else tuple(types[own]),
                    label=int(row["label"]) if labelled else None,
                    row=index,
                )
            )
        return examples

    def _encode_in_pattern(
        self, texts: Sequence[str], choices: Sequence[str], tokenizer: Any, max_length: int, parts: Sequence[Part]
    ) -> tuple[list[list[int]], list[list[int]] | None, int]:
        cut: list[int] = []

        def shorten(index: int, own: Texts, room: int) -> Texts:
            left = room - len(own.get("choice", ()))
            if left > 0 and "text" in own:
                return {**own, "text": own["text"][-left:]}
            cut.append(index)
            return cut_longest_first(own, room)

        words = self.word_ids(tokenizer)
        both = {"text": texts} if self.fills_blanks else {"text": texts, "choice": choices}
        answers: Sequence[list[int]] | None = None
        if self.fills_blanks:
            required_pieces(tokenizer, "head.words has no words for right and wrong, and the pattern no {choice}")
            answers = answer_ids(tokenizer, parts, choices)
        elif words is not None and piece_tokens(tokenizer) is not None:
            answers = [[]] * len(texts)  # the words are asked for at the start of the piece
        num_masks = 1 if words is None else max(map(len, words))
        ids, types = encode_in_pattern(
            tokenizer, parts, both, max_length, shorten, num_masks=num_masks, answers=answers
        )
        return ids, types, len(cut)

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        return choice_loss(logits, batch)

    def num_terms(self, examples: Sequence[Example]) -> int:
        return len(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        predictions: list[Prediction] = [{} for _ in rows]
        for outputs, example in zip(logits, examples, strict=True):
            scores: list[float] = outputs.softmax(-1).tolist()
            predictions[example.row] = {"choice": scores.index(max(scores)), "scores": scores}
        return predictions

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return accuracy."""
        references = references_of(rows, self.label_role, predictions)
        return metrics.accuracy([prediction["choice"] for prediction in predictions], references)

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        choice = Counter(row["label"] for row in rows).most_common(1)[0][0]
        return [{"choice": choice} for _ in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        return all_equal([prediction["choice"] for prediction in predictions])


def _first_segment(row: Row) -> str:
    return f"{row['text']} {row['question']}" if "question" in row else str(row["text"])


def _encode_segments(
    texts: Sequence[str], choices: Sequence[str], tokenizer: Any, max_length: int
) -> tuple[list[list[int]], list[list[int]] | None, int]:
    """Tokenize texts and choices as two segments; return ids, types, and how many choices had to be cut."""
    ids, types = encode_texts(tokenizer, texts, choices, max_length)
    cut_choices = 0
    for place, (text, choice) in enumerate(zip(texts, choices, strict=True)):
        if len(ids[place]) < max_length:
            continue
        whole = _with_whole_choice(tokenizer, text, choice, max_length)
        cut_choices += whole is None
        if whole is not None:
            ids[place] = whole[0]
            if types is not None and whole[1] is not None:
                types[place] = whole[1]
    return ids, types, cut_choices


def _with_whole_choice(
    tokenizer: Any, text: str, choice: str, max_length: int
) -> tuple[list[int], list[int] | None] | None:
    """Tokenize a text and a choice, and cut the beginning of the text as far as needed.

    Returns:
        Token ids; and token types, or None where the tokenizer has none. None where no token of the text would be left.

    Raises:
        ConfigError: something has to be cut, and the tokenizer cannot say which text its tokens come from.
    """
    encoded = tokenizer(text, choice, truncation=False, return_attention_mask=False, verbose=False)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    excess = len(ids) - max_length
    if excess <= 0:
        return ids, types
    check_is_fast(tokenizer, "cutting the text and not the choice")
    own = [place for place, part in enumerate(encoded.sequence_ids(0)) if part == 0]
    if excess >= len(own):
        return None
    gone = set(own[:excess])
    stays = [place for place in range(len(ids)) if place not in gone]
    return [ids[place] for place in stays], None if types is None else [types[place] for place in stays]


def _check_choices(row: Row, index: int) -> None:
    count = len(row["choices"])
    if count < 2:
        raise DataError(f"row {index + 1} has {count} choices, expected at least 2. Correct or remove the row.")
    if "label" in row and not 0 <= row["label"] < count:
        raise DataError(
            f"row {index + 1} has the label {row['label']!r}, expected the number of its right choice, from 0 to "
            f"{count - 1}. Correct the row."
        )
