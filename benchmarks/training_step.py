"""One training step with prompts, against the same step with PEFT's prefix tuning.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --backbone roberta-base --device cuda --precision bf16

What is timed: forward, cross entropy of a linear head, backward to prompts and head, one AdamW step. Both sides have
the same backbone, batch of random tokens, storage precision, number of virtual tokens, shifted positions (PEFT knows no
other), pooling and head. Before anything is timed, both start from the same numbers without dropout, and loss and
gradients must agree: what is compared is one computation.

Unit: milliseconds a step. Each repeat runs one step of each side, in turns that alternate; the numbers are medians over
`--repeats` after `--warmup` uncounted steps a side. The ratio is PEFT's median over ours: above 1, ours is faster.
`off` and `on` say whether the frozen backbone's own dropout acts. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning import Backbone, DeepPrompts, PromptBank, load_backbone
from ptuning.heads import make_head
from ptuning.model import PromptedModel

NUM_CLASSES = 8
SIDES = ("ptuning", "peft")


@dataclass
class Side:
    """One way to train: what gives logits, and what is trained.

    Attributes:
        logits: () -> (batch_size, NUM_CLASSES).
        prompts: the trained prompt parameter, in that side's own layout.
        head: the linear head.
        optimizer: over both.
    """

    logits: Callable[[], Tensor]
    prompts: nn.Parameter
    head: nn.Module
    optimizer: torch.optim.Optimizer

    def loss(self, labels: Tensor) -> Tensor:
        """Mean cross entropy."""
        return functional.cross_entropy(self.logits().float(), labels)

    def step(self, labels: Tensor) -> None:
        """What is timed."""
        self.loss(labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    batch = _batch(arguments)
    results = {mode: _compare(arguments, batch, mode) for mode in ("off", "on")}
    where = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else f"cpu, {arguments.threads} threads"
    print(
        f"{arguments.backbone}, {arguments.batch_size} x {arguments.seq_len} tokens"
        f"{' (ragged)' if arguments.ragged else ''}, {arguments.prompt_length} virtual tokens, "
        f"{arguments.precision}, {where}; medians of {arguments.repeats} after {arguments.warmup}"
    )
    print(f"{'backbone dropout':<18}{'ptuning ms':>12}{'peft ms':>12}{'ratio':>9}")
    for mode, result in results.items():
        print(f"{mode:<18}{result['ptuning_ms']:>12.1f}{result['peft_ms']:>12.1f}{result['ratio']:>9.3f}")
    print(json.dumps({"benchmark": "training_step", **vars(arguments), "device": where, "dropout": results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="minilm", help="a name that ptuning.load_backbone takes")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--ragged", action="store_true", help="rows of half to full length, padded")
    parser.add_argument("--prompt-length", type=int, default=20)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    return parser.parse_args()


def _batch(arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Random tokens, lengths and labels. The upper half of a vocabulary holds words, and no padding token."""
    vocab_size = load_backbone(arguments.backbone).description.vocab_size
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch_size, arguments.seq_len)
    shortest = arguments.seq_len // 2 if arguments.ragged else arguments.seq_len
    lengths = torch.randint(shortest, arguments.seq_len + 1, (arguments.batch_size,), generator=generator)
    lengths[0] = arguments.seq_len
    batch = {
        "input_ids": torch.randint(vocab_size // 2, vocab_size, shape, generator=generator),
        "attention_mask": (torch.arange(arguments.seq_len) < lengths.unsqueeze(1)).long(),
        "labels": torch.randint(NUM_CLASSES, (arguments.batch_size,), generator=generator),
    }
    return {name: tensor.to(arguments.device) for name, tensor in batch.items()}


def _compare(arguments: argparse.Namespace, batch: dict[str, Tensor], mode: str) -> dict[str, float]:
    sides = {"ptuning": _ours(arguments, batch, mode), "peft": _peft(arguments, batch, mode)}
    _start_equal(sides["ptuning"], sides["peft"])
    if mode == "off":
        _check_equal(sides["ptuning"], sides["peft"], batch["labels"], arguments.precision)
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for repeat in range(arguments.warmup + arguments.repeats):
        for name in SIDES if repeat % 2 else reversed(SIDES):
            seconds = _timed(sides[name], batch["labels"], arguments.device)
            if repeat >= arguments.warmup:
                times[name].append(seconds * 1000)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "ptuning_ms": round(medians["ptuning"], 3),
        "peft_ms": round(medians["peft"], 3),
        "ratio": round(medians["peft"] / medians["ptuning"], 4),
    }


def _timed(side: Side, labels: Tensor, device: str) -> float:
    _wait(device)
    started = time.perf_counter()
    side.step(labels)
    _wait(device)
    return time.perf_counter() - started


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _backbone(arguments: argparse.Namespace) -> Backbone:
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    return load_backbone(arguments.backbone, device=arguments.device, dtype=dtype)


def _head(backbone: Backbone, device: str) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    size = backbone.description.hidden_size
    return make_head("sequence", size, NUM_CLASSES, pooling=backbone.pooling, generator=generator).to(device)


def _ours(arguments: argparse.Namespace, batch: dict[str, Tensor], mode: str) -> Side:
    backbone = _backbone(arguments)
    description = backbone.description
    prompts = DeepPrompts(
        num_prompted_layers=description.num_layers,
        num_kv_heads=description.num_kv_heads,
        prompt_length=arguments.prompt_length,
        head_dim=description.head_dim,
        init_std=1.0,
        generator=torch.Generator().manual_seed(2),
    ).to(arguments.device)
    bank = PromptBank(description.num_layers)
    bank.add(prompts, positions="shifted")
    head = _head(backbone, arguments.device)
    model = PromptedModel(backbone, bank, [head], backbone_dropout="off" if mode == "off" else "checkpoint").train()
    assert prompts.prompts is not None
    return Side(
        lambda: model.logits(batch["input_ids"], batch["attention_mask"]),
        prompts.prompts,
        head,
        torch.optim.AdamW([prompts.prompts, *head.parameters()], lr=1e-3),
    )


def _peft(arguments: argparse.Namespace, batch: dict[str, Tensor], mode: str) -> Side:
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    backbone = _backbone(arguments)
    description = backbone.description
    config = PrefixTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION,
        num_virtual_tokens=arguments.prompt_length,
        num_layers=description.num_layers,
        num_attention_heads=description.num_heads,
        token_dim=description.hidden_size,
    )
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft asks transformers for things by their old names
    model: Any = get_peft_model(backbone.model, config)
    model.train()
    if mode == "off":
        backbone.model.eval()
    head = _head(backbone, arguments.device)
    prompts = model.prompt_encoder["default"].embedding.weight
    return Side(
        lambda: head(
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])[0], batch["attention_mask"]
        ),
        prompts,
        head,
        torch.optim.AdamW([prompts, *head.parameters()], lr=1e-3),
    )


@torch.no_grad()
def _start_equal(ours: Side, theirs: Side) -> None:
    theirs.prompts.copy_(_in_their_layout(ours.prompts))


def _in_their_layout(prompts: Tensor) -> Tensor:
    """(L, 2, H, P, D) -> (P, L * 2 * H * D), which is how PEFT keeps them."""
    return prompts.permute(3, 0, 1, 2, 4).flatten(1)


def _check_equal(ours: Side, theirs: Side, labels: Tensor, precision: str) -> None:
    """Both sides must compute the same loss, and the same gradients of prompts and head."""
    tolerance = 1e-4 if precision == "fp32" else 0.1
    losses, gradients = [], []
    for side in (ours, theirs):
        loss = side.loss(labels)
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


if __name__ == "__main__":
    main()
