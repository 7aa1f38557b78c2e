"""What a kind of task has to know: rows to examples, logits to a loss, logits to predictions, predictions to scores."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ptuning.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ptuning.config import DataConfig
    from ptuning.data.batching import Batch, Example
    from ptuning.data.rows import Row
    from ptuning.data.sources import TaskData

Prediction = dict[str, Any]
"""What is said about one row; the keys depend on the kind."""


@dataclass(frozen=True)
class TaskKind(ABC):
    """One kind of task. Concrete kinds are frozen dataclasses; their fields are the options that are saved.

    Attributes:
        name: of the kind, one of `KINDS`.
        head_kind: which head it needs.
        label_role: the role that only labelled rows have.
        default_metric: the metric that picks the best epoch.
        max_length_default: tokens a sequence at most, special ones counted, where the config does not say.
    """

    name: ClassVar[str]
    head_kind: ClassVar[Literal["sequence", "token", "span", "choice"]]
    label_role: ClassVar[str] = "label"
    default_metric: ClassVar[str]
    max_length_default: ClassVar[int] = 128

    @classmethod
    @abstractmethod
    def from_data(cls, data: TaskData, settings: DataConfig | None = None) -> Self:
        """Return the kind with what the data say: label names, whether questions may have no answer, ...

        Args:
            data: loaded data.
            settings: of the run; options of a kind that they name come from there.
        """

    def for_causal(self) -> Self:
        """Return the kind for a backbone whose tokens see only what is to their left; most are what they are."""
        return self

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Outputs of the head: for each sequence, token or choice."""

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """Metrics that can pick the best epoch: always there, and higher is better."""

    @abstractmethod
    def encode(self, rows: Sequence[Row], tokenizer: Any, max_length: int, *, training: bool) -> list[Example]:
        """Tokenize rows, without padding.

        Args:
            rows: rows of roles. They get labels if all of them have one.
            tokenizer: a transformers tokenizer.
            max_length: tokens a sequence at most, special ones counted.
            training: whether the examples are to learn from: labels are required, and long rows may be cut.

        Returns:
            Examples in row order; at least one for each row.

        Raises:
            DataError: a row lacks what the kind needs, or does not fit into `max_length`.
            ConfigError: the tokenizer or `max_length` does not fit the kind.
        """

    @abstractmethod
    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, a scalar in float32 at least.

        Args:
            logits: (batch_size, num_outputs) for sequences, (batch_size, seq_len, num_outputs) for tokens and spans,
                (num_sequences,) for choices.
            batch: with labels.
        """

    @abstractmethod
    def num_terms(self, examples: Sequence[Example]) -> int:
        """Return how many terms `loss` is the mean of for a batch of these examples, which have labels.

        A batch that is cut gives the loss of the whole one when those of its pieces are weighted by their terms.
        """

    @abstractmethod
    def predict(self, logits: Sequence[Tensor], examples: Sequence[Example], rows: Sequence[Row]) -> list[Prediction]:
        """Return one prediction a row, in row order.

        Args:
            logits: for each example, on the CPU, float32, without padding: (num_outputs,) for sequences,
                (seq_len, num_outputs) for tokens and spans, (num_choices,) for choices.
            examples: of `encode` with these rows, in the order of `logits`.
            rows: the rows.
        """

    @abstractmethod
    def score(self, predictions: Sequence[Prediction], rows: Sequence[Row]) -> dict[str, float]:
        """Return all metrics of the predictions, `metric_names` among them.

        Raises:
            DataError: a row has no label, or there is not one prediction a row.
        """

    @abstractmethod
    def constant_predictions(self, rows: Sequence[Row]) -> list[Prediction]:
        """Return the most frequent answer of labelled rows as the prediction for each of them (for `score` only)."""

    @abstractmethod
    def is_constant(self, predictions: Sequence[Prediction]) -> bool:
        """Tell whether two or more predictions all say the same: the model may have collapsed."""

    def majority_score(self, rows: Sequence[Row], metric: str | None = None) -> float | None:
        """Return what always giving the rows' most frequent answer scores; None for rows without labels.

        Args:
            rows: the rows to score on.
            metric: one of `metric_names`; the default metric without it.
        """
        if not rows or not all(self.label_role in row for row in rows):
            return None
        return self.score(self.constant_predictions(rows), rows)[self.resolve_metric(metric)]

    def resolve_metric(self, metric: str | None) -> str:
        """Return the metric that picks the best epoch, `default_metric` for None.

        Raises:
            ConfigError: the kind has no such metric, or lower is better.
        """
        if metric is None:
            return self.default_metric
        if metric not in self.metric_names:
            raise ConfigError(
                f"training.metric is {metric!r}, but {self.name} is judged by one of {', '.join(self.metric_names)} "
                "(higher is better). Set training.metric to one of those, or leave it out."
            )
        return metric

    def to_dict(self) -> dict[str, Any]:
        """Return the kind's name as `kind`, and its options, as JSON values; those that are not in use are left out."""
        values: dict[str, Any] = {"kind": self.name}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                values[field.name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return what `to_dict` wrote.

        Raises:
            CheckpointError: it is of another kind, an option is unknown or does not fit, or a needed one is missing.
        """
        options = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if key != "kind"
        }
        fields = {field.name: field for field in dataclasses.fields(cls)}
        missing = [name for name, field in fields.items() if name not in options and _is_required(field)]
        unknown = [name for name in options if name not in fields]
        if values.get("kind") != cls.name or missing or unknown:
            raise CheckpointError(
                f"the task is saved as kind {values.get('kind')!r} with {', '.join(options) or 'no options'}, expected "
                f"kind {cls.name!r} with {', '.join(fields) or 'no options'}. "
                "It is damaged or from a newer version: restore it, or upgrade ptuning."
            )
        try:
            return cls(**options)
        except (ConfigError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"the task is saved as kind {cls.name!r} with options that do not fit: {str(error).rstrip('.')}. "
                "It is damaged: restore it from where it came from."
            ) from error


def has_labels(rows: Sequence[Row], roles: Sequence[str], label_role: str, *, training: bool) -> bool:
    """Check that rows have their roles, and tell whether all of them have labels.

    Args:
        rows: rows of roles.
        roles: what every row needs.
        label_role: `label`, `tags` or `answers`.
        training: whether labels are required.

    Raises:
        DataError: a role is missing.
    """
    needed = [*roles, label_role] if training else roles
    for index, row in enumerate(rows):
        for role in needed:
            if role not in row:
                raise DataError(
                    f"row {index + 1} has no {role!r}, only {', '.join(map(repr, row)) or 'nothing'}. Expected "
                    f"{', '.join(map(repr, needed))}; correct the row, or say which column it is in data.columns."
                )
    return bool(rows) and all(label_role in row for row in rows)


def in_full_precision(logits: Tensor) -> Tensor:
    """Return logits in float32 at least, as losses are computed."""
    return logits if logits.dtype.itemsize >= 4 else logits.float()


def labels_of(batch: Batch) -> Tensor:
    """Return the labels of a batch.

    Raises:
        DataError: it has none.
    """
    if batch.labels is None:
        raise DataError("the batch has no labels, expected one an example for a loss. Encode rows that have labels.")
    return batch.labels


def references_of(rows: Sequence[Row], label_role: str, predictions: Sequence[Prediction]) -> list[Any]:
    """Return the labels of rows, to score predictions against.

    Raises:
        DataError: a row has none, or there is not one prediction a row.
    """
    for index, row in enumerate(rows):
        if label_role not in row:
            raise DataError(
                f"row {index + 1} has no {label_role!r}, expected one to score against. Score labelled rows only."
            )
    if len(predictions) != len(rows):
        raise DataError(
            f"got {len(predictions)} predictions for {len(rows)} rows, expected one each. Predict all rows."
        )
    return [row[label_role] for row in rows]


def check_label_names(names: Sequence[str], what: str) -> None:
    """Check that there are at least two label names, all different.

    Raises:
        ConfigError: there are not.
    """
    if len(names) < 2 or len(set(names)) != len(names):
        raise ConfigError(f"label_names are {list(names)!r}, expected at least two different {what}. Set data.labels.")


def label_names_of(data: TaskData, kind: str) -> tuple[str, ...]:
    """Return the label names of loaded data.

    Raises:
        DataError: it has none.
    """
    if data.label_names is None:
        raise DataError(f"the data of {data.source} have no label names, which {kind} needs. Load them as {kind}.")
    return data.label_names


def check_direction(direction: str | None) -> None:
    """Check the option that kinds have for backbones whose tokens see only what is to their left.

    Raises:
        ConfigError: it is neither None nor `causal`.
    """
    if direction not in (None, "causal"):
        raise ConfigError(f"attention_direction of a kind is {direction!r}, expected causal or nothing. Correct it.")


def all_equal(values: Sequence[Any]) -> bool:
    """Tell whether there are at least two values, and all are equal."""
    return len(values) > 1 and all(value == values[0] for value in values)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
