"""Regression: a number for a text or a pair of texts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, final

from torch import Tensor
from torch.nn import functional as F

from ptuning import metrics
from ptuning.config import DataConfig
from ptuning.data.batching import Batch, Example
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData
from ptuning.errors import ConfigError
from ptuning.tasks.encoding import encode_texts, text_pairs
from ptuning.tasks.kind import Prediction, TaskKind, has_labels, in_full_precision, labels_of, references_of

_SAME = 1e-3  # standard deviations that predictions of a collapsed model lie apart at most


@final
@dataclass(frozen=True)
class Regression(TaskKind):
    """A number; rows have `text`, perhaps `text_pair`, and `label` (a float).

    The head's output is the value in standard deviations from the mean of the training labels, so that learning does
    not depend on the unit; the loss is the mean squared error in these. Predictions: {"value": in the labels' unit}.

    Args:
        mean: of the training labels.
        standard_deviation: of the training labels, above 0.
    """

    mean: float = 0.0
    standard_deviation: float = 1.0

    name: ClassVar[str] = "regression"
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]] = "sequence"
    default_metric: ClassVar[str] = "pearson"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.standard_deviation) and self.standard_deviation > 0):
            raise ConfigError(
                f"mean is {self.mean} and standard_deviation {self.standard_deviation}, expected finite numbers, the "
                "second above 0. Use those of the training labels, or 0 and 1."
            )

    @classmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        values = [float(row["label"]) for row in data.train or data.validation or () if "label" in row]
        if not values:
            return cls()
        # All labels equal: nothing to scale by.
        return cls(statistics.fmean(values), statistics.pstdev(values) or 1.0)

    @property
    def num_outputs(self) -> int:
        return 1

    @property
    def metric_names(self) -> tuple[str, ...]:
        return ("pearson", "spearman")

    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        labelled = has_labels(rows, ["text"], self.label_role, training=training)
        ids, types = encode_texts(tokenizer, [row["text"] for row in rows], text_pairs(rows), max_length)
        return [
            Example(
                sequences=(ids[index],),
                token_types=None if types is None else (types[index],),
                label=float(row["label"]) if labelled else None,
                row=index,
            )
            for index, row in enumerate(rows)
        ]

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        targets = (labels_of(batch) - self.mean) / self.standard_deviation
        return F.mse_loss(in_full_precision(logits).squeeze(-1), targets)  # both (batch_size,)

    def num_terms(self, examples: Sequence[Example]) -> int:
        return len(examples)

    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        predictions: list[Prediction] = [{} for _ in rows]
        for outputs, example in zip(logits, examples, strict=True):
            predictions[example.row] = {"value": self.mean + self.standard_deviation * float(outputs.item())}
        return predictions

    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return pearson, spearman and mse (in the labels' unit squared; lower is better, for reading only)."""
        references = [float(value) for value in references_of(rows, self.label_role, predictions)]
        values = [float(prediction["value"]) for prediction in predictions]
        correlations = metrics.pearson(values, references) | metrics.spearman(values, references)
        errors = [(value - reference) ** 2 for value, reference in zip(values, references, strict=True)]
        return correlations | {"mse": statistics.fmean(errors)}

    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        mean = statistics.fmean(row["label"] for row in rows)
        return [{"value": mean} for _ in rows]

    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        values = [prediction["value"] for prediction in predictions]
        return len(values) > 1 and max(values) - min(values) <= _SAME * self.standard_deviation
