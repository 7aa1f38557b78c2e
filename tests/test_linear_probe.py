from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from ptuning import linear_probe as module
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.data.batching import Example
from ptuning.linear_probe import best_probe, linear_probe
from ptuning.tasks.multiple_choice import MultipleChoice
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.training.run import PreparedTask, prepare_task

KINDS = (
    "classification",
    "regression",
    "multiple_choice",
    "token_classification",
    "semantic_role_labeling",
    "question_answering",
    "cloze",
)


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture
def prepare(tiny_run: Callable[..., Any], backbone: Backbone, tmp_path: Path) -> Callable[[str], PreparedTask]:
    return lambda kind: prepare_task(tiny_run(tmp_path / "run", kind), backbone)


def _probe(backbone: Backbone, task: PreparedTask) -> dict[str, dict[str, float]]:
    return linear_probe(backbone, task.kind, task.train, task.validation, task.data.validation or [])


def _features(backbone: Backbone, examples: list[Example], pooling: str) -> np.ndarray:
    """[CLS] or the mean of all real tokens, a sequence at a time and without padding."""
    rows = []
    for example in examples:
        hidden = backbone.model(input_ids=torch.tensor([example.sequences[0]]))[0][0]
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_scored_and_the_backbone_stays(
    kind: str, backbone: Backbone, prepare: Callable[[str], PreparedTask]
) -> None:
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    results = _probe(backbone, task := prepare(kind))
    pooled = kind in ("classification", "regression", "multiple_choice", "cloze")
    assert set(results) == ({"cls", "mean"} if pooled else {"tokens"})
    for metrics in results.values():
        assert set(task.kind.metric_names) <= set(metrics)
    after = backbone.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_classification_is_scikit_learns_own(
    pooling: str, backbone: Backbone, prepare: Callable[[str], PreparedTask]
) -> None:
    task = prepare("classification")
    fitted = LogisticRegression(max_iter=10_000).fit(
        _features(backbone, task.train, pooling), [example.label for example in task.train]
    )
    accuracy = fitted.score(
        _features(backbone, task.validation, pooling), [example.label for example in task.validation]
    )
    assert _probe(backbone, task)[pooling]["accuracy"] == pytest.approx(accuracy)


def test_regression_is_scikit_learns_own(backbone: Backbone, prepare: Callable[[str], PreparedTask]) -> None:
    task = prepare("regression")
    labels = np.array([example.label for example in task.train], dtype=np.float64)
    scaled = (labels - labels.mean()) / labels.std()
    fitted = Ridge().fit(_features(backbone, task.train, "mean"), scaled)
    predicted = fitted.predict(_features(backbone, task.validation, "mean")) * labels.std() + labels.mean()
    wanted = np.array([example.label for example in task.validation], dtype=np.float64)
    assert _probe(backbone, task)["mean"]["mse"] == pytest.approx(((predicted - wanted) ** 2).mean(), rel=1e-3)


def test_classes_that_no_training_row_has_are_never_predicted() -> None:
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0)).numpy()
    weight, bias = module._fit_classes(inputs, [0, 2] * 10, 4)
    probabilities = (torch.as_tensor(inputs) @ weight.T + bias).softmax(-1)
    assert not probabilities[:, [1, 3]].any()
    fitted = LogisticRegression(max_iter=1000).fit(inputs, [0, 2] * 10).predict_proba(inputs)
    torch.testing.assert_close(probabilities[:, [0, 2]], torch.as_tensor(fitted).float(), atol=1e-4, rtol=1e-4)


def _spans(count: int) -> tuple[list[torch.Tensor], list[Example]]:
    """Toy hidden states in which axis 0 marks the first and axis 1 the last token of the answer."""
    generator = torch.Generator().manual_seed(1)
    features, examples = [], []
    for index in range(count):
        length = 6 + index % 5
        start = 1 + index % (length - 3)
        end = start + index % 2
        states = torch.randn(length, 6, generator=generator) * 0.3
        states[start, 0] += 4
        states[end, 1] += 4
        features.append(states)
        examples.append(Example(([5] * length,), None, (start, end), index))
    return features, examples


def test_the_span_probe_solves_what_is_separable() -> None:
    features, examples = _spans(60)
    kind = QuestionAnswering(allow_no_answer=False)
    weight, bias = module.fit_linear(kind, features[:40], examples[:40])
    logits = [states @ weight.T + bias for states in features[40:]]
    found = [tuple(span.argmax(0).tolist()) for span in logits]
    assert found == [example.label for example in examples[40:]]


def test_the_span_probe_has_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    features, examples = _spans(30)
    kind = QuestionAnswering(allow_no_answer=False)
    transposed, bias = module.fit_linear(kind, features, examples)
    weight, bias = transposed.T.clone().requires_grad_(True), bias.clone().requires_grad_(True)
    total = weight.square().sum() / 2
    for states, example in zip(features, examples, strict=True):
        logits = states @ weight + bias
        assert isinstance(example.label, tuple)
        for side in (0, 1):
            total = total + F.cross_entropy(logits[None, :, side], torch.tensor([example.label[side]])) / 2
    gradients = torch.autograd.grad(total, [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-2
    assert float(weight.detach().abs().max()) > 0.5


def test_the_choice_probe_solves_what_is_separable() -> None:
    generator = torch.Generator().manual_seed(2)
    features, examples = [], []
    for index in range(40):
        num_choices = 2 + index % 3
        states = torch.randn(num_choices, 5, generator=generator) * 0.3
        states[index % num_choices, 3] += 3
        features.append(states)
        sequences = tuple([5, 6] for _ in range(num_choices))
        examples.append(Example(sequences, None, index % num_choices, index))
    weight, bias = module.fit_linear(MultipleChoice(), features[:30], examples[:30])
    logits = [(states @ weight.T + bias).squeeze(-1) for states in features[30:]]
    assert [int(scores.argmax()) for scores in logits] == [example.label for example in examples[30:]]


def test_the_better_pooling_is_the_one_to_beat() -> None:
    results = {"cls": {"f1": 0.4, "accuracy": 0.9}, "mean": {"f1": 0.6, "accuracy": 0.8}}
    assert best_probe(results, "f1") == ("mean", 0.6)
    assert best_probe(results, "accuracy") == ("cls", 0.9)
