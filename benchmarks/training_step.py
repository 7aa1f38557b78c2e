"""One training step with prompts, against the same step with PEFT's prefix tuning.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --backbone roberta-base --device cuda --precision bf16
    python benchmarks/training_step.py --precision bf16 --profile

What is timed: forward, cross entropy of a linear head, backward to prompts and head, one AdamW step. Both sides have
the same backbone, batch of random tokens, storage precision, number of virtual tokens, shifted positions (PEFT knows no
other), pooling and head. Before anything is timed, both start from the same numbers without dropout, and loss and
gradients must agree: what is compared is one computation.

Unit: milliseconds a step. Each repeat runs one step of each side, in turns that alternate; the numbers are medians over
`--repeats` after `--warmup` uncounted steps a side. The ratio is PEFT's median over ours: above 1, ours is faster.
`off` and `on` say whether the frozen backbone's own dropout acts. `--profile` adds where our step's time goes on a CPU,
by kind of operation, measured after the timing; `--plain-weights` leaves out what packed weights gain.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import torch
from speed_parts.profile import profile_step
from speed_parts.sides import Setup, check_equal, our_side, peft_side, start_equal, timed_step
from torch import Tensor

from ptuning import load_backbone
from ptuning.backbones import packed_weights

NUM_CLASSES = 8
SIDES = ("ptuning", "peft")


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.plain_weights:
        packed_weights.MOST_BYTES = 0
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
    for mode, result in results.items():
        if "profile" in result:
            shares = ", ".join(f"{kind} {share:.1%}" for kind, share in result["profile"].items())
            print(f"ours, dropout {mode}: {shares}")
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
    parser.add_argument("--compile", action="store_true", help="our layers compiled by torch.compile")
    parser.add_argument("--plain-weights", action="store_true", help="our weights are not packed")
    parser.add_argument("--profile", action="store_true", help="say where the time of our step goes")
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


def _compare(arguments: argparse.Namespace, batch: dict[str, Tensor], mode: str) -> dict[str, Any]:
    setup = Setup(arguments.backbone, arguments.device, arguments.prompt_length, NUM_CLASSES, has_dropout=mode == "on")
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    sides = {"ptuning": our_side(setup, dtype, compiled=arguments.compile), "peft": peft_side(setup, dtype)}
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    start_equal(sides["ptuning"], sides["peft"])
    if mode == "off":
        tolerance = 1e-4 if arguments.precision == "fp32" else 0.1
        check_equal(sides["ptuning"], sides["peft"], inputs, batch["labels"], tolerance)
    times: dict[str, list[float]] = {name: [] for name in SIDES}
    for repeat in range(arguments.warmup + arguments.repeats):
        for name in SIDES if repeat % 2 else reversed(SIDES):
            seconds = timed_step(sides[name], inputs, batch["labels"], arguments.device)
            if repeat >= arguments.warmup:
                times[name].append(seconds * 1000)
    medians = {name: statistics.median(values) for name, values in times.items()}
    profiled = {"profile": profile_step(sides["ptuning"], inputs, batch["labels"])} if arguments.profile else {}
    return {
        **profiled,
        "ptuning_ms": round(medians["ptuning"], 3),
        "peft_ms": round(medians["peft"], 3),
        "ratio": round(medians["peft"] / medians["ptuning"], 4),
    }


if __name__ == "__main__":
    main()
