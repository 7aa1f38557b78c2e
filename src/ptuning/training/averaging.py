"""A moving average of what is trained, over the optimizer steps: it is scored and saved in place of the weights.

Training goes on with the weights as they are, so averaging changes no step. A prompt and its head are averaged
together, with a decay that begins low, since the first weights are far from the last.

Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992, as an exponential average by
`torch.optim.swa_utils`. The decay of step n is min(decay, (1 + n) / (10 + n)), as TensorFlow's
`ExponentialMovingAverage` has it with `num_updates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ptuning.config import RunConfig
from ptuning.model import PromptedModel, candidate_parameters


class Averages:
    """The averages of those candidates that have `training.weight_averaging`.

    Args:
        model: with an entry and heads for each candidate.
        configs: of the candidates.
    """

    def __init__(self, model: PromptedModel, configs: Sequence[RunConfig]) -> None:
        self._own = {
            number: _Average(candidate_parameters(model, number, len(configs)), config.training.averaging_decay)
            for number, config in enumerate(configs)
            if config.training.weight_averaging == "ema"
        }

    def update(self, candidates: Iterable[int]) -> None:
        """Takes in what an optimizer step has made of some candidates."""
        for number in candidates:
            if number in self._own:
                self._own[number].update()

    @contextmanager
    def in_place_of_weights(self, candidate: int) -> Iterator[None]:
        """Puts a candidate's average into the model for a while; nothing happens where it has none."""
        own = self._own.get(candidate)
        if own is None:
            yield
            return
        own.exchange()
        try:
            yield
        finally:
            own.exchange()

    def tensors(self) -> dict[str, Tensor]:
        """Returns all that averages go on from, by name. What is copied into them counts."""
        return {
            name: tensor for number, own in self._own.items() for name, tensor in own.tensors(f"steps.{number}").items()
        }


class _Average:
    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self._names, self._weights, self._decay = list(parameters), nn.ParameterList(parameters.values()), decay
        self._averaged = AveragedModel(self._weights)

    def update(self) -> None:
        steps = int(self._averaged.n_averaged)  # is on the CPU, so that no device is waited for
        decay = min(self._decay, (1 + steps) / (10 + steps))
        self._averaged.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged.update_parameters(self._weights)

    @torch.no_grad()
    def exchange(self) -> None:
        for weight, average in zip(self._weights, self._averaged.parameters(), strict=True):
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)

    def tensors(self, name_of_steps: str) -> dict[str, Tensor]:
        averages = (parameter.detach() for parameter in self._averaged.parameters())
        return {**dict(zip(self._names, averages, strict=True)), name_of_steps: self._averaged.n_averaged}
