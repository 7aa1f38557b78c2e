"""A learning rate of their own for the values of prompts, which are one parameter with the keys.

AdamW moves an entry by its rate times what depends on that entry alone, its decay included. With another rate an entry
therefore moves just as the step moved it, times the ratio of the rates. The moments are the same, and so is the norm
that gradients are clipped by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ptuning.prompts import DeepPrompts

FACTOR = "value_factor"
"""Of a group of parameters: the rate of its values, as a multiple of its own."""


def give_values_their_rate(optimizer: torch.optim.Optimizer, prompts: Mapping[int, DeepPrompts]) -> None:
    """Lets every step of an optimizer move values by the rate of their own.

    Args:
        optimizer: AdamW; a group with a `FACTOR` says whose values it has by its `candidate`.
        prompts: of the candidates with such a group, without reparameterization.
    """
    before: dict[int, list[Tensor]] = {}

    @torch.no_grad()
    def remember(*_: Any) -> None:
        before.update({candidate: [part.clone() for part in own.value_parts()] for candidate, own in prompts.items()})

    @torch.no_grad()
    def stretch(*_: Any) -> None:
        factors = {group["candidate"]: group[FACTOR] for group in optimizer.param_groups if FACTOR in group}
        for candidate, parts in before.items():
            for part, was in zip(prompts[candidate].value_parts(), parts, strict=True):
                part.copy_(was.lerp(part, factors[candidate]))
        before.clear()

    optimizer.register_step_pre_hook(remember)
    optimizer.register_step_post_hook(stretch)
