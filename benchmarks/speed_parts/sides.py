"""One training step with prompts, ours and PEFT's, that compute the same and are checked to.

Both sides have the same backbone, number of virtual tokens, shifted positions (PEFT knows no other), pooling and head.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning import Backbone, DeepPrompts, PromptBank, load_backbone
from ptuning.heads import make_head
from ptuning.model import PromptedModel

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Setup:
    """What both sides have in common.

    Attributes:
        backbone: a name that `ptuning.load_backbone` takes.
        device: of all.
        prompt_length: virtual tokens a layer.
        num_classes: of the head.
        has_dropout: whether the frozen backbone's own dropout acts.
    """

    backbone: str
    device: str
    prompt_length: int
    num_classes: int
    has_dropout: bool


@dataclass
class Side:
    """One way to train: what gives logits, and what is trained.

    Attributes:
        logits: input_ids and attention_mask, (batch_size, seq_len) each, to (batch_size, num_classes).
        prompts: the trained prompt parameter, in that side's own layout.
        head: the linear head.
        optimizer: over both.
        autocast: device type and dtype that products are cast to, or None.
    """

    logits: Callable[[Inputs], Tensor]
    prompts: nn.Parameter
    head: nn.Module
    optimizer: torch.optim.Optimizer
    autocast: tuple[str, torch.dtype] | None = None

    def loss(self, inputs: Inputs, labels: Tensor) -> Tensor:
        """Mean cross entropy."""
        with torch.autocast(*self.autocast) if self.autocast else nullcontext():
            logits = self.logits(inputs)
        return functional.cross_entropy(logits.float(), labels)

    def step(self, inputs: Inputs, labels: Tensor) -> None:
        """What is timed."""
        self.loss(inputs, labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def our_side(setup: Setup, dtype: torch.dtype, *, compiled: bool = False) -> Side:
    """Prompts of ours on a backbone that is stored in a dtype, its layers compiled or not."""
    backbone = load_backbone(setup.backbone, device=setup.device, dtype=dtype)
    description = backbone.description
    prompts = DeepPrompts(
        num_prompted_layers=description.num_layers,
        num_kv_heads=description.num_kv_heads,
        prompt_length=setup.prompt_length,
        head_dim=description.head_dim,
        init_std=1.0,
        generator=torch.Generator().manual_seed(2),
    ).to(setup.device)
    bank = PromptBank(description.num_layers)
    bank.add(prompts, positions="shifted")
    head = _head(backbone, setup)
    dropout: Literal["checkpoint", "off"] = "checkpoint" if setup.has_dropout else "off"
    model = PromptedModel(backbone, bank, [head], backbone_dropout=dropout, compiled=compiled).train()
    assert prompts.prompts is not None
    return Side(
        lambda inputs: model(inputs["input_ids"], inputs["attention_mask"])[0].logits,
        prompts.prompts,
        head,
        torch.optim.AdamW([prompts.prompts, *head.parameters()], lr=1e-3),
    )


def peft_side(setup: Setup, dtype: torch.dtype, *, autocast: torch.dtype | None = None) -> Side:
    """PEFT's prefix tuning on a backbone that is stored in a dtype, with products in another where it says so."""
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    backbone = load_backbone(setup.backbone, device=setup.device, dtype=dtype)
    description = backbone.description
    config = PrefixTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        num_virtual_tokens=setup.prompt_length,
        num_layers=description.num_layers,
        num_attention_heads=description.num_heads,
        token_dim=description.hidden_size,
    )
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft asks transformers for things by their old names
    model: Any = get_peft_model(backbone.model, config)
    model.train()
    if not setup.has_dropout:
        backbone.model.eval()
    head = _head(backbone, setup)
    prompts = model.prompt_encoder["default"].embedding.weight
    return Side(
        lambda inputs: head(model(**inputs)[0], inputs["attention_mask"]),
        prompts,
        head,
        torch.optim.AdamW([prompts, *head.parameters()], lr=1e-3),
        None if autocast is None else (torch.device(setup.device).type, autocast),
    )


def _head(backbone: Backbone, setup: Setup) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    size = backbone.description.hidden_size
    return make_head("sequence", size, setup.num_classes, pooling=backbone.pooling, generator=generator).to(
        setup.device
    )


@torch.no_grad()
def start_equal(ours: Side, theirs: Side) -> None:
    """Gives PEFT's prompts the numbers of ours."""
    theirs.prompts.copy_(_in_their_layout(ours.prompts))


def _in_their_layout(prompts: Tensor) -> Tensor:
    """(L, 2, H, P, D) -> (P, L * 2 * H * D), which is how PEFT keeps them."""
    return prompts.permute(3, 0, 1, 2, 4).flatten(1)


def check_equal(ours: Side, theirs: Side, inputs: Inputs, labels: Tensor, tolerance: float) -> None:
    """Makes sure that both sides compute the same loss, and the same gradients of prompts and head.

    Args:
        ours: with the backbone's dropout off, as the other.
        theirs: with equal prompts.
        inputs: of a batch.
        labels: (batch_size,).
        tolerance: of the loss, relative; of gradients, relative to the largest of a parameter.

    Raises:
        SystemExit: they differ, so there is nothing to compare.
    """
    losses, gradients = [], []
    for side in (ours, theirs):
        loss = side.loss(inputs, labels)
        loss.backward()
        losses.append(loss.item())
        gradient = side.prompts.grad
        if gradient is None or not bool(gradient.abs().max() > 0):
            raise SystemExit("a side's prompts get no gradient, so it does not train: nothing to compare")
        gradients.append((gradient, *(parameter.grad for parameter in side.head.parameters())))
        side.optimizer.zero_grad(set_to_none=True)
    mine, *head = gradients[0]
    for left, right in zip((_in_their_layout(mine), *head), gradients[1], strict=True):
        difference = float((left - right).abs().max() / right.abs().max())
        if difference > tolerance or abs(losses[0] - losses[1]) > tolerance * abs(losses[1]):
            raise SystemExit(f"the sides differ: losses {losses}, gradients by {difference:.2g} of the largest")


def timed_step(side: Side, inputs: Inputs, labels: Tensor, device: str) -> float:
    """Returns the seconds of a step."""
    _wait(device)
    started = time.perf_counter()
    side.step(inputs, labels)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
