from __future__ import annotations

from typing import Any

import pytest
import torch

from ptuning.data import TaskData
from ptuning.errors import ConfigError
from ptuning.tasks.regression import Regression

ROWS = [{"text": "word " * index, "label": 100.0 * index} for index in range(1, 13)]


def _data(rows: list[dict[str, Any]]) -> TaskData:
    return TaskData(rows, None, None, None, {}, "here", ())


def test_from_data_takes_mean_and_standard_deviation_of_the_labels() -> None:
    assert Regression.from_data(_data([{"label": 1.0}, {"label": 5.0}])) == Regression(3.0, 2.0)
    assert Regression.from_data(_data([{"label": 4.0}, {"label": 4.0}])) == Regression(4.0, 1.0)


def test_perfect_logits_score_one_in_any_unit(tokenizer: Any, batch_loss: Any) -> None:
    kind = Regression.from_data(_data(ROWS))
    examples = kind.encode(ROWS, tokenizer, 32, training=True)
    logits = [torch.tensor([(row["label"] - kind.mean) / kind.standard_deviation]) for row in ROWS]
    predictions = kind.predict(logits, examples, ROWS)
    assert [prediction["value"] for prediction in predictions] == pytest.approx([row["label"] for row in ROWS])
    assert kind.score(predictions, ROWS) == pytest.approx({"pearson": 1.0, "spearman": 1.0, "mse": 0.0}, abs=1e-3)
    assert batch_loss(kind, logits, examples) == pytest.approx(0.0, abs=1e-6)


def test_the_loss_is_the_squared_error_in_standard_deviations(tokenizer: Any, batch_loss: Any) -> None:
    kind = Regression(10.0, 2.0)
    examples = kind.encode([{"text": "a", "label": 14.0}, {"text": "b", "label": 8.0}], tokenizer, 8, training=True)
    # targets 2 and -1
    assert batch_loss(kind, [torch.tensor([0.0]), torch.tensor([-2.0])], examples) == pytest.approx((4 + 1) / 2)


def test_predictions_nearly_equal_in_the_labels_unit_are_constant() -> None:
    kind = Regression(0.0, 100.0)
    assert kind.is_constant([{"value": 5.0}, {"value": 5.05}])
    assert not kind.is_constant([{"value": 5.0}, {"value": 7.0}])


def test_a_constant_scores_zero() -> None:
    assert Regression().majority_score(ROWS) == 0.0


def test_a_standard_deviation_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="standard_deviation 0.0, expected finite numbers, the second above 0"):
        Regression(1.0, 0.0)
