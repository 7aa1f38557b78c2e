"""Extractive question answering: the answer is a piece of the context, or there is none.

Windows and the choice of the answer are those of BERT's SQuAD code (Devlin et al., NAACL 2019), as the later scripts
of transformers have them, with one departure: all spans of a window are compared, not only those of its 20 best starts
and 20 best ends.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.nn import functional as F

from ptuning import metrics
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.errors import ConfigError, DataError
from ptuning.tasks.encoding import check_is_fast, pieces
from ptuning.tasks.kind import (
    Prediction,
    TaskKind,
    all_equal,
    check_direction,
    has_labels,
    in_full_precision,
    labels_of,
    references_of,
)

logger = logging.getLogger(__name__)

Offsets = Sequence[tuple[int, int] | None]
Candidates = dict[tuple[int, int], float]  # (start, end) characters -> sum of start and end logit

_MAX_ANSWER_TOKENS = 30
_N_BEST = 20
_MIN_ROOM = 16  # context tokens a window at least, unless the whole context fits


@final
@dataclass(frozen=True)
class QuestionAnswering(TaskKind):
    """The answer to a question; rows have `question`, `context`, and `answers`.

    `answers` is {"text": [...], "answer_start": [...]}, characters of the context; empty lists mean that there is none.

    Long contexts become overlapping windows of `max_length` tokens, each with the question in front. Training asks for
    the first and last token of the first listed answer. A window without the whole answer, or whose question has none,
    is asked for the first position of the sequence: the tokenizer's CLS token, or, where there is none (T5), the
    question's first token. With a causal backbone, which sees nothing there, it is the last position, for which an end
    token is put behind windows that have none. There the start of an answer is told from what stands to its left alone.

    Predictions: {"answer", "start", "end", "score", "no_answer_score", "n_best": [{"answer", "start", "end",
    "score"}]}. `start` and `end` are characters of the context, None for no answer (""). `score` is a probability over
    `n_best`: the 20 best different spans of at most 30 tokens, "no answer" among them where that is allowed.
    `no_answer_score` is the logit of no answer (the lowest over the windows) less that of the best span: no answer is
    given where it is above `no_answer_threshold`.

    Args:
        allow_no_answer: whether "no answer" may be predicted; from data: whether some question has none.
        no_answer_threshold: higher means more answers; `best_threshold` finds one.
        doc_stride: tokens that neighbouring windows share (fewer, where a long question leaves little room).
        attention_direction: `causal` where the backbone's tokens see only what is to their left.
    """

    allow_no_answer: bool = True
    no_answer_threshold: float = 0.0
    doc_stride: int = 128
    attention_direction: str | None = None

    name: ClassVar[str] = "question_answering"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "span"
    label_role: ClassVar[str] = "answers"
    default_metric: ClassVar[str] = "f1"
    max_length_default: ClassVar[int] = 384

    def __post_init__(self) -> None:
        if self.doc_stride < 0:
            raise ConfigError(f"doc_stride must be at least 0, got {self.doc_stride}. Use 128, or 0 for no overlap.")
        check_direction(self.attention_direction)

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        labelled = [row for row in data.train or data.validation or () if "answers" in row]
        return cls(allow_no_answer=not labelled or any(not row["answers"]["text"] for row in labelled))

    def for_causal(self) -> Self:
        return replace(self, attention_direction="causal")

    def null_position(self, length: int) -> int:
        """Return which position of a window of so many tokens says that the question has no answer."""
        return length - 1 if self.attention_direction == "causal" else 0

    @property
    def num_outputs(self) -> int:
        return 2

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("f1", "exact_match")

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        check_is_fast(tokenizer, self.name)
        labelled = has_labels(rows, ["question", "context"], self.label_role, training=training)
        examples: list[Example] = []
        unreached = 0
        end_token = _end_token(tokenizer) if self.attention_direction == "causal" else None
        for first, some in pieces(rows):
            encoded = tokenizer(
                [row["question"].lstrip() for row in some],
                [row["context"] for row in some],
                truncation=False,  # windows are cut here: whatever the tokenizer, and with any overlap
                padding=False,
                return_attention_mask=False,
                return_offsets_mapping=True,
                verbose=False,
            )
            for place, row in enumerate(some):
                parts = encoded.sequence_ids(place)
                ids = encoded["input_ids"][place]
                types = encoded["token_type_ids"][place] if "token_type_ids" in encoded else None
                if end_token is not None and (not parts or parts[-1] is not None):
                    parts, ids = [*parts, None], [*ids, end_token]
                    types = None if types is None else [*types, *(types[-1:] or [0])]
                # Without any context token: one window of the question alone.
                begin = parts.index(1) if 1 in parts else len(ids)
                num_context = parts.count(1)
                room = max_length - (len(ids) - num_context)
                if room < min(num_context, _MIN_ROOM):
                    raise _no_room(row, first + place, parts.count(0), room, max_length)
                offsets = encoded["offset_mapping"][place][begin : begin + num_context]
                answer = _answer_tokens(row["answers"], offsets) if labelled else None
                num_reached = 0
                for start, end in _windows(num_context, room, self.doc_stride):
                    label = None
                    if labelled:
                        null = self.null_position(len(ids) - num_context + end - start)
                        label = (null, null)
                        if answer is not None and start <= answer[0] and answer[1] < end:
                            label = (begin + answer[0] - start, begin + answer[1] - start)
                            num_reached += 1
                    examples.append(
                        Example(
                            sequences=(_cut(ids, begin, num_context, start, end),),
                            token_types=None if types is None else (_cut(types, begin, num_context, start, end),),
                            label=label,
                            row=first + place,
                            offsets=[
                                *[None] * begin,
                                *offsets[start:end],
                                *[None] * (len(ids) - begin - num_context),
                            ],
                        )
                    )
                unreached += bool(labelled and row["answers"]["text"] and not num_reached)
        if training and unreached:
            logger.warning(
                "the answers of %d of %d rows fit into no window of max_length %d, so these rows teach that there is "
                "no answer. Raise data.max_length.",
                unreached,
                len(rows),
                max_length,
            )
        return examples

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        labels = labels_of(batch)  # (batch_size, 2)
        is_padding = batch.attention_mask == 0
        # Without padding positions: how much a batch is padded must not change its loss.
        outputs = in_full_precision(logits).masked_fill(
            is_padding.unsqueeze(-1), float("-inf")
        )  # (batch_size, seq_len, 2)
        start = F.cross_entropy(outputs[..., 0], labels[:, 0])
        return (start + F.cross_entropy(outputs[..., 1], labels[:, 1])) / 2

    def num_terms(self, examples: Sequence[Example]) -> int:
        return len(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        candidates: list[Candidates] = [{} for _ in rows]
        null_scores = [float("inf")] * len(rows)
        for outputs, example in zip(logits, examples, strict=True):
            assert example.offsets is not None  # `encode` made it
            values = outputs.numpy().astype(np.float64)  # (seq_len, 2)
            row = example.row
            null_scores[row] = min(null_scores[row], float(values[self.null_position(len(values))].sum()))
            for (start, end), score in _best_spans(values, example.offsets, rows[row]["context"]):
                # Neighbouring windows share tokens, so they may share spans.
                candidates[row][start, end] = max(score, candidates[row].get((start, end), score))
        return [
            self._prediction(found, null_score, row["context"])
            for found, null_score, row in zip(candidates, null_scores, rows, strict=True)
        ]

    def _prediction(self, candidates: Candidates, null_score: float, context: str) -> Prediction:
        spans: list[tuple[float, tuple[int, int] | None]] = [(score, span) for span, score in candidates.items()]
        spans.sort(key=lambda item: (-item[0], item[1]))
        # A context without a visible character has no spans, whatever the scores.
        no_answer_score = null_score - spans[0][0] if spans else 0.0
        is_empty = not spans or (self.allow_no_answer and no_answer_score > self.no_answer_threshold)
        if self.allow_no_answer or not spans:
            spans = [*spans[: _N_BEST - 1], (null_score, None)]
            spans.sort(key=lambda item: -item[0])
        logits = np.array([score for score, _ in spans[:_N_BEST]])
        weights = np.exp(logits - logits.max())
        n_best = []
        for score, (_, span) in zip((weights / weights.sum()).tolist(), spans, strict=False):
            start, end = span or (None, None)
            answer = context[start:end] if span else ""
            n_best.append({"answer": answer, "start": start, "end": end, "score": score})
        chosen = next(item for item in n_best if (item["start"] is None) == is_empty)
        return {**chosen, "no_answer_score": no_answer_score, "n_best": n_best}

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return exact_match and f1; with unanswerable questions also has_answer_… of both and no_answer_accuracy."""
        answers = references_of(rows, self.label_role, predictions)
        return metrics.squad_em_f1(
            {str(index): prediction["answer"] for index, prediction in enumerate(predictions)},
            {str(index): own["text"] for index, own in enumerate(answers)},
        )

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        return [{"answer": ""} for _ in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        return all_equal([prediction["answer"] for prediction in predictions])


def with_threshold(predictions: Sequence[Prediction], threshold: float) -> list[Prediction]:
    """Return the predictions as they are with another `no_answer_threshold`.

    Args:
        predictions: of `QuestionAnswering.predict` with `allow_no_answer`.
        threshold: no answer is given where `no_answer_score` is above it.
    """
    decided = []
    for prediction in predictions:
        has_spans = any(item["start"] is not None for item in prediction["n_best"])
        is_empty = not has_spans or prediction["no_answer_score"] > threshold
        chosen = next(item for item in prediction["n_best"] if (item["start"] is None) == is_empty)
        decided.append({**prediction, **chosen})
    return decided


def best_threshold(predictions: Sequence[Prediction], rows: Sequence[Row]) -> float:
    """Return the `no_answer_threshold` with which F1 on labelled rows is highest.

    Of equally good ones, the one nearest to 0. Fit it on validation rows, not on those that are reported.

    Args:
        predictions: of `QuestionAnswering.predict`, with any threshold.
        rows: their rows, with answers.

    Raises:
        DataError: a row has no answers, or there is not one prediction a row.
    """
    references = references_of(rows, "answers", predictions)
    gains = []  # (score, what F1 gains by answering)
    for prediction, answers in zip(predictions, references, strict=True):
        best = next((item["answer"] for item in prediction["n_best"] if item["start"] is not None), "")
        answered, empty = (metrics.squad_em_f1({"": text}, {"": answers["text"]})["f1"] for text in (best, ""))
        gains.append((prediction["no_answer_score"], answered - empty))
    gains.sort()
    scores = np.array([score for score, _ in gains])
    totals = np.concatenate([[0.0], np.cumsum([gain for _, gain in gains])])  # by how many are answered
    thresholds = np.concatenate([[scores[0] - 1], (scores[:-1] + scores[1:]) / 2, [scores[-1] + 1]])
    # Equal scores are answered together.
    possible = np.concatenate([[True], scores[:-1] < scores[1:], [True]])
    is_best = possible & (totals >= totals[possible].max() - 1e-9)
    # Any value between two scores does: 0 where it lies between them.
    lowest = np.concatenate([[-np.inf], scores])
    highest = np.concatenate([scores, [np.inf]])
    if np.any(is_best & (lowest <= 0) & (highest > 0)):
        return 0.0
    return float(min(thresholds[is_best], key=abs))


def _end_token(tokenizer: Any) -> int:
    """Return the id of what is put behind a window of a causal backbone.

    Raises:
        ConfigError: the tokenizer has nothing that means an end.
    """
    for name in ("eos_token_id", "sep_token_id", "pad_token_id"):
        number = getattr(tokenizer, name, None)
        if number is not None:
            return int(number)
    raise ConfigError(
        f"the tokenizer is a {type(tokenizer).__name__} without an end, separator or padding token, but "
        "question answering with a causal backbone needs one, at which it says that there is no answer. Give it an "
        "eos_token, or set attention_direction to bidirectional."
    )


def _windows(num_context: int, room: int, doc_stride: int) -> list[tuple[int, int]]:
    """Return (first, end) context token of each window; at least half of each but the last is new."""
    step = room - min(doc_stride, room // 2)
    windows = [(0, min(room, num_context))]
    while windows[-1][1] < num_context:
        start = windows[-1][0] + step
        windows.append((start, min(start + room, num_context)))
    return windows


def _cut(values: list[int], begin: int, num_context: int, start: int, end: int) -> list[int]:
    """Keep the context tokens from `start` to `end`, and what stands around the context."""
    return values[:begin] + values[begin + start : begin + end] + values[begin + num_context :]


def _answer_tokens(answers: dict[str, list[Any]], offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first and last context token of the first answer; None without answer, or where it has no token."""
    if not answers["text"]:
        return None
    text, start = answers["text"][0], answers["answer_start"][0]
    start += len(text) - len(text.lstrip())
    end = start + len(text.strip())
    touching = [token for token, (left, right) in enumerate(offsets) if left < end and right > start]
    return (touching[0], touching[-1]) if touching else None


def _best_spans(logits: npt.NDArray[np.float64], offsets: Offsets, context: str) -> list[tuple[tuple[int, int], float]]:
    """Return the characters and the score of a window's best spans, in no order; spans of blanks are left out.

    Args:
        logits: (seq_len, 2), start and end.
        offsets: characters of each token in the context, None outside it.
        context: the whole context.
    """
    places = [place for place in offsets if place is not None]
    if not places:
        return []
    begin = next(position for position, place in enumerate(offsets) if place is not None)
    inside = logits[begin : begin + len(places)]  # (num_context, 2): context tokens stand together
    padding = np.full(_MAX_ANSWER_TOKENS - 1, -np.inf)
    ends = np.lib.stride_tricks.sliding_window_view(np.concatenate([inside[:, 1], padding]), _MAX_ANSWER_TOKENS)
    # totals[first, n]: the span of n + 1 tokens from `first` on; -inf behind the window's end.
    totals = (inside[:, :1] + ends).ravel()
    count = min(_N_BEST, totals.size)
    best = np.argpartition(totals, -count)[-count:]
    spans = []
    for index, score in zip(best.tolist(), totals[best].tolist(), strict=True):
        first, more = divmod(index, _MAX_ANSWER_TOKENS)
        if score == -np.inf:
            continue
        start, end = places[first][0], places[first + more][1]
        # Some tokenizers count the blank before a word to it.
        text = context[start:end]
        start, end = start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())
        if start < end:
            spans.append(((start, end), score))
    return spans


def _no_room(row: Row, index: int, question_tokens: int, room: int, max_length: int) -> DataError:
    name = f" (id {row['id']!r})" if "id" in row else ""
    return DataError(
        f"row {index + 1}{name}: its question has {question_tokens} tokens, which leaves {max(room, 0)} of max_length "
        f"{max_length} for the context, expected at least {_MIN_ROOM}. Shorten the question or raise data.max_length."
    )
