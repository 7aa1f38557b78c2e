"""The linear probe: the same head on the frozen backbone without prompts, trained to convergence.

What prompts are worth is what they add to this. Hidden states are computed once. Labels and tags are fitted by
scikit-learn's LogisticRegression and numbers by its Ridge, both with their default penalty. Answer spans and choices,
whose classes are the positions of a sequence or the choices of a row, are fitted on the kind's own loss with the same
penalty by L-BFGS: a convex problem too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ptuning.backbones.loading import Backbone
from ptuning.data.batching import IGNORED_LABEL, Batch, Example, collate, evaluation_batches
from ptuning.data.rows import Row
from ptuning.heads.pooling import Pooling, pool
from ptuning.inference import TOKENS_AT_ONCE, padding_ids
from ptuning.tasks import TaskKind

_MOST_STEPS = 10_000
_NEVER = -1e4  # the logit of a class that no training row has


Fitted = tuple[Tensor, Tensor]
"""Weight (num_outputs, hidden_size) and bias (num_outputs,) of a linear head, float32."""


def linear_probe(
    backbone: Backbone,
    kind: TaskKind,
    train: Sequence[Example],
    validation: Sequence[Example],
    rows: Sequence[Row],
) -> dict[str, dict[str, float]]:
    """Fits a linear layer on frozen hidden states and scores it.

    Args:
        backbone: without prompts.
        kind: of the task.
        train: training examples with labels.
        validation: examples of `rows`.
        rows: labelled validation rows.

    Returns:
        Metrics by pooling: `cls` and `mean` where the head pools, `tokens` where it does not.
    """
    train_features = probe_features(backbone, kind, train, ("cls", "mean"))
    validation_features = probe_features(backbone, kind, validation, ("cls", "mean"))
    results = {}
    for pooling, features in train_features.items():
        weight, bias = fit_linear(kind, features, train)
        logits = [_logits(kind, own, weight, bias) for own in validation_features[pooling]]
        results[pooling] = kind.score(kind.predict(logits, validation, rows), rows)
    return results


@torch.inference_mode()
def probe_features(
    backbone: Backbone, kind: TaskKind, examples: Sequence[Example], poolings: Sequence[str]
) -> dict[str, list[Tensor]]:
    """What the probe of a task is fitted on, by one pass through the backbone.

    Args:
        backbone: without prompts.
        kind: of the task.
        examples: that are run through it.
        poolings: of heads that pool, some of `cls`, `mean` and `last`.

    Returns:
        By pooling, for each example, on the CPU in float32: (num_sequences, hidden_size). Where the head does not pool,
        by `tokens` alone: (seq_len, hidden_size). Of what is pooled nothing else is kept.
    """
    is_pooled = kind.head_kind in ("sequence", "choice")
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(examples) for name in _names(poolings, is_pooled)}
    sizes = [len(example.sequences) for example in examples]
    batches = evaluation_batches([e.length for e in examples], batch_tokens=TOKENS_AT_ONCE, num_sequences=sizes)
    device = next(backbone.model.parameters()).device
    backbone.model.eval()
    for indices in batches:
        batch = collate([examples[index] for index in indices], *padding_ids(backbone.tokenizer)).to(device)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.token_type_ids is not None:
            inputs["token_type_ids"] = batch.token_type_ids
        hidden = backbone.model(**inputs)[0].float()  # (num_sequences, seq_len, hidden_size)
        for name, features in found.items():
            if is_pooled:
                pooled = pool(hidden, batch.attention_mask, _pooling(name)).cpu()  # (num_sequences, hidden_size)
                own: Sequence[Tensor] = torch.split(pooled, [sizes[index] for index in indices])
            else:  # one sequence an example, of one token of padding where it has none
                lengths = [max(examples[index].length, 1) for index in indices]
                own = [states[:length].cpu() for length, states in zip(lengths, hidden, strict=True)]
            for index, tensor in zip(indices, own, strict=True):
                features[index] = tensor.clone()  # not a part of the whole batch
    return found


def _names(poolings: Sequence[str], is_pooled: bool) -> tuple[str, ...]:
    return tuple(dict.fromkeys(poolings)) if is_pooled else ("tokens",)


def _pooling(name: str) -> Pooling:
    return "mean" if name == "mean" else "last" if name == "last" else "cls"


def fit_linear(kind: TaskKind, features: Sequence[Tensor], train: Sequence[Example]) -> Fitted:
    """Fits a linear head to convergence.

    Args:
        kind: of the task.
        features: of `probe_features`, for `train`.
        train: examples with labels.
    """
    return _FITS[kind.head_kind](kind, list(features), train)


def _logits(kind: TaskKind, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What the head would give for one example."""
    logits = features @ weight.T + bias
    if kind.head_kind == "choice":
        return logits.squeeze(-1)
    return logits[0] if kind.head_kind == "sequence" else logits


def best_probe(results: dict[str, dict[str, float]], metric: str) -> tuple[str, float]:
    """Returns the better pooling and its score."""
    pooling = max(results, key=lambda name: results[name][metric])
    return pooling, results[pooling][metric]


def _fit_sequences(kind: TaskKind, features: list[Tensor], train: Sequence[Example]) -> Fitted:
    inputs, targets = torch.cat(features).numpy(), [example.label for example in train]
    if kind.num_outputs == 1:
        return _fit_numbers(kind, inputs, np.array(targets, dtype=np.float64))
    return _fit_classes(inputs, targets, kind.num_outputs)


def _fit_numbers(kind: Any, inputs: Any, targets: Any) -> Fitted:
    from sklearn.linear_model import Ridge

    fitted = Ridge().fit(inputs, (targets - kind.mean) / kind.standard_deviation)
    return torch.as_tensor(fitted.coef_, dtype=torch.float32)[None], torch.tensor([float(fitted.intercept_)])


def _fit_tokens(kind: TaskKind, features: list[Tensor], train: Sequence[Example]) -> Fitted:
    inputs, targets = [], []
    for states, example in zip(features, train, strict=True):
        assert isinstance(example.label, list)
        asked = [i for i, label in enumerate(example.label) if label != IGNORED_LABEL]
        inputs.append(states[asked])
        targets += [example.label[i] for i in asked]
    return _fit_classes(torch.cat(inputs).numpy(), targets, kind.num_outputs)


def _fit_classes(inputs: Any, targets: Sequence[Any], num_outputs: int) -> Fitted:
    """A logistic regression as a head; classes never seen have probability 0."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=_MOST_STEPS).fit(inputs, np.array(targets))
    own_weight, own_bias = (torch.as_tensor(part, dtype=torch.float32) for part in (fitted.coef_, fitted.intercept_))
    if len(fitted.classes_) == 2:  # kept as the second one's against the first one's
        own_weight, own_bias = torch.cat([-own_weight, own_weight]) / 2, torch.cat([-own_bias, own_bias]) / 2
    weight, bias = torch.zeros(num_outputs, inputs.shape[1]), torch.full((num_outputs,), _NEVER)
    seen = torch.as_tensor(fitted.classes_)
    weight[seen], bias[seen] = own_weight, own_bias
    return weight, bias


def _fit_by_loss(kind: TaskKind, features: list[Tensor], train: Sequence[Example]) -> Fitted:
    """Minimises sum of losses + |weight|^2 / 2, as LogisticRegression does, over weight and bias."""
    is_choice = kind.head_kind == "choice"
    weight = torch.zeros(features[0].shape[-1], kind.num_outputs, requires_grad=True)
    bias = torch.zeros(kind.num_outputs, requires_grad=True)
    order = sorted(range(len(train)), key=lambda index: train[index].length)
    batches: list[tuple[Tensor, Batch]] = []
    for start in range(0, len(order), 64):
        indices = order[start : start + 64]
        own = [features[index] for index in indices]
        inputs = torch.cat(own) if is_choice else pad_sequence(own, batch_first=True)
        batches.append((inputs, collate([train[index] for index in indices], 0)))

    def logits_of(inputs: Tensor) -> Tensor:
        logits = inputs @ weight + bias
        return logits.squeeze(-1) if is_choice else logits

    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_MOST_STEPS, tolerance_grad=1e-4, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        penalty = weight.square().sum() / 2
        penalty.backward()  # type: ignore[no-untyped-call]
        total = penalty.detach()
        for inputs, batch in batches:
            loss = kind.loss(logits_of(inputs), batch) * len(batch.examples)
            loss.backward()  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        return total

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach().T.contiguous(), bias.detach()


_FITS = {"sequence": _fit_sequences, "token": _fit_tokens, "span": _fit_by_loss, "choice": _fit_by_loss}
