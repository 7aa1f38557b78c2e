"""Classification of a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor
from torch.nn import functional as F

from ptuning import metrics
from ptuning.backbones.pieces import piece_tokens
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.errors import DataError
from ptuning.tasks.encoding import cut_around, encode_texts, text_pairs
from ptuning.tasks.kind import (
    Prediction,
    TaskKind,
    all_equal,
    check_label_names,
    has_labels,
    in_full_precision,
    label_names_of,
    labels_of,
    references_of,
)
from ptuning.tasks.pattern_encoding import (
    Texts,
    cut_longer_side,
    cut_longest_first,
    encode_in_pattern,
    keep_marked,
)
from ptuning.tasks.patterns import Part, answers_in_pieces, check_words, parse_pattern, word_ids


@final
@dataclass(frozen=True)
class Classification(TaskKind):
    """One of several labels; rows have `text`, perhaps `text_pair`, and `label` (a name).

    Where a pair is too long, the end of the longer text is cut. A row may mark what must stay: `keep`, a list of
    [first, end] characters of `text`, and `keep_pair`, the same of `text_pair`. Such a row loses the tokens that are
    farthest from those marked; without `keep_pair` its whole `text_pair` stays.

    Rows may have a `group`, such as the question that they are answers to: where all have one, `exact_match` is scored
    too, the part of groups whose rows are all right.

    Predictions: {"label": name, "score": its probability, "scores": {name: probability}}.

    Args:
        label_names: in index order; of two, the second is the positive one.
        pattern: what the texts are put into, with {text} and, for pairs, {text_pair}; None to read them as they are.
        words: that stand for the labels at the pattern's mask, in label order.
    """

    label_names: tuple[str, ...]
    pattern: str | None = None
    words: tuple[str, ...] | None = None

    name: ClassVar[str] = "classification"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "sequence"
    default_metric: ClassVar[str] = "accuracy"

    def __post_init__(self) -> None:
        check_label_names(self.label_names, "labels")
        check_words(self._parts(), self.words, self.label_names)

    def _parts(self) -> tuple[Part, ...] | None:
        return None if self.pattern is None else parse_pattern(self.pattern, ("text", "text_pair"), ("text",))

    def word_ids(self, tokenizer: Any) -> list[list[int]] | None:
        """Return the token ids of each label's words, None where there are none.

        Raises:
            ConfigError: the tokenizer does not know a word, or two labels have the same tokens.
        """
        parts = self._parts()
        if parts is None or self.words is None:
            return None
        return word_ids(tokenizer, parts, self.words, self.label_names)

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        return cls(label_names_of(data, cls.name))

    @property
    def num_outputs(self) -> int:
        return len(self.label_names)

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy", "f1", "f1_macro", "f1_micro", "matthews")

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        labelled = has_labels(rows, ["text"], self.label_role, training=training)
        parts = self._parts()
        if parts is None:
            ids, types = _encode_plain(rows, tokenizer, max_length)
        else:
            ids, types = self._encode_in_pattern(rows, tokenizer, max_length, parts)
        each = len(ids) // max(len(rows), 1)  # sequences of a row
        return [
            Example(
                sequences=tuple(ids[index * each : (index + 1) * each]),
                token_types=None if types is None else tuple(types[index * each : (index + 1) * each]),
                label=self._index(row["label"], index) if labelled else None,
                row=index,
            )
            for index, row in enumerate(rows)
        ]

    def _encode_in_pattern(
        self, rows: Sequence[Row], tokenizer: Any, max_length: int, parts: Sequence[Part]
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        words = self.word_ids(tokenizer)
        has_piece = words is not None and piece_tokens(tokenizer) is not None
        answers = answers_in_pieces(words or ()) if has_piece else [[]]  # of each row
        texts: dict[str, Sequence[str]] = {"text": [row["text"] for row in rows for _ in answers]}
        pairs = text_pairs(rows)
        if rows and (pairs is not None) != any(part.value == "text_pair" for part in parts if part.kind == "text"):
            here, there = ("no", "it has {text_pair}") if pairs is None else ("a", "{text_pair} is not in it")
            raise DataError(
                f"row 1 has {here} 'text_pair', but {there}, the pattern {self.pattern!r}. Expected what the rows "
                "have; set data.pattern, or say in data.columns which columns are read."
            )
        if pairs is not None:
            texts["text_pair"] = [pair for pair in pairs for _ in answers]

        def shorten(index: int, own: Texts, room: int) -> Texts:
            row = rows[index // len(answers)]
            if row.get("keep"):
                return keep_marked(tokenizer, parts, row, own, room, max_length, number=index // len(answers) + 1)
            return cut_longer_side(parts, own, room) if has_piece else cut_longest_first(own, room)

        return encode_in_pattern(
            tokenizer,
            parts,
            texts,
            max_length,
            shorten,
            num_masks=1 if words is None else max(map(len, words)),
            answers=answers * len(rows) if has_piece else None,
        )

    def _index(self, label: str, row: int) -> int:
        try:
            return self.label_names.index(label)
        except ValueError:
            raise DataError(
                f"row {row + 1} has the label {label!r}, expected one of {', '.join(self.label_names)}. "
                "Correct the row, or give all names in data.labels."
            ) from None

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        if logits.ndim == 1:  # each label was a sequence of its own
            logits = logits.view(-1, self.num_outputs)
        return F.cross_entropy(in_full_precision(logits), labels_of(batch))

    def num_terms(self, examples: Sequence[Example]) -> int:
        return len(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        predictions: list[Prediction] = [{} for _ in rows]
        for outputs, example in zip(logits, examples, strict=True):
            scores = dict(zip(self.label_names, outputs.softmax(-1).tolist(), strict=True))
            label = max(scores, key=scores.__getitem__)
            predictions[example.row] = {"label": label, "score": scores[label], "scores": scores}
        return predictions

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return accuracy, f1 (of the second label of two, else f1_macro), f1_macro, f1_micro and matthews.

        Where all rows have a group also exact_match.
        """
        references = references_of(rows, self.label_role, predictions)
        labels = [prediction["label"] for prediction in predictions]
        macro = metrics.f1(labels, references, self.label_names, average="macro")
        micro = metrics.f1(labels, references, self.label_names, average="micro")
        binary = (
            metrics.f1(labels, references, self.label_names) if self.num_outputs == 2 else {"f1": macro["f1_macro"]}
        )
        scores = metrics.accuracy(labels, references) | binary | macro | micro | metrics.matthews(labels, references)
        if all("group" in row for row in rows):
            scores |= metrics.group_exact_match(labels, references, [row["group"] for row in rows])
        return scores

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        label = Counter(row["label"] for row in rows).most_common(1)[0][0]
        return [{"label": label} for _ in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        return all_equal([prediction["label"] for prediction in predictions])


def _encode_plain(
    rows: Sequence[Row], tokenizer: Any, max_length: int
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Tokenize texts or pairs as they are."""
    ids, types = encode_texts(tokenizer, [row["text"] for row in rows], text_pairs(rows), max_length)
    for index, row in enumerate(rows):
        if row.get("keep") and len(ids[index]) >= max_length:
            ids[index], own_types = cut_around(tokenizer, row, max_length, number=index + 1)
            if types is not None and own_types is not None:
                types[index] = own_types
    return ids, types
