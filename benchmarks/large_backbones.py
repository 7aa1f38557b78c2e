"""Training prompts on a large frozen backbone: memory, seconds a step, the largest batch.

    python benchmarks/large_backbones.py --backbone glm-2b --storage bf16 --batch-size 1 4
    python benchmarks/large_backbones.py --backbone glm-10b --device cuda --output glm-10b.json
    python benchmarks/large_backbones.py --tiny

The backbone has the sizes of a published one and random weights, which make no difference to time or memory, so nothing
is downloaded. It is put straight into each storage: bf16; or int8 or nf4 for the weights of its layers, the rest in
bf16. What is timed: forward, cross entropy of a linear head on the first token, backward to prompts and head, one AdamW
step, at full length without padding. Each storage runs in a process of its own.

Units: seconds are the median of `--steps` steps after one; CPU seconds those of the process's threads, which other
programs on the machine hardly change. Memory on CUDA is the peak of what tensors take, all of it;
on a CPU the peak of the process's resident memory, of which libraries take `before_bytes` when nothing is loaded yet.
`largest batch`, on CUDA alone, is found by trying, to an eighth of itself.

Beside it, calculated and not measured: what full fine-tuning needs for the same parameters without its activations:
16 bytes each (weights, gradients and AdamW's two states in float32), or 8 with all four in bfloat16.
The last line is one JSON object; `--output` writes it to a file too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from large_parts.building import STORAGES, random_backbone, stored_bytes
from large_parts.measuring import Setup, largest_batch, measure_steps, resident_bytes
from large_parts.sizes import SIZES, config_of
from speed_parts.machine import describe_machine

FINE_TUNING_BYTES = {"fp32": 16, "bf16": 8}
"""A parameter: weight, gradient and AdamW's two states."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.case is not None:
        print(json.dumps(_measure(arguments, arguments.case)))
        return
    results = [case for storage in arguments.storage for case in _in_a_process(storage)]
    parameters = results[0]["num_parameters"]
    needs = {precision: size * parameters for precision, size in FINE_TUNING_BYTES.items()}
    print(f"{arguments.backbone}, {parameters / 1e9:.2f}B parameters, {arguments.seq_len} tokens, {arguments.device}")
    titles = ("prompts", "batch", "weights GB", "peak GB", "s/step", "CPU s", "largest")
    print(f"{'storage':<9}" + "".join(f"{title:>12}" for title in titles))
    for case in results:
        peak = "-" if case["peak_bytes"] is None else f"{case['peak_bytes'] / 1e9:.2f}"
        shown = (
            case["prompt_length"],
            case["batch_size"],
            f"{case['weights_bytes'] / 1e9:.2f}",
            peak,
            f"{case['seconds']:.2f}",
            f"{case['cpu_seconds']:.2f}",
            case["largest_batch"] or "-",
        )
        print(f"{case['storage']:<9}" + "".join(f"{value:>12}" for value in shown))
    calculated = ", ".join(f"{size / 1e9:.1f} GB in {precision}" for precision, size in needs.items())
    print(f"full fine-tuning without activations, calculated: {calculated}")
    line = json.dumps(
        {
            "benchmark": "large_backbones",
            "backbone": "tiny" if arguments.tiny else arguments.backbone,
            "machine": describe_machine(arguments.device, arguments.threads),
            "fine_tuning_bytes": needs,
            "results": results,
        }
    )
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(json.loads(line), indent=2) + "\n", encoding="utf-8")
    print(line)


def _in_a_process(storage: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--case", storage], stdout=subprocess.PIPE, text=True, check=True
    )
    cases: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return cases


def _measure(arguments: argparse.Namespace, storage: str) -> list[dict[str, Any]]:
    device = torch.device(arguments.device)
    before = resident_bytes()
    config = config_of(arguments.backbone, tiny=arguments.tiny)
    backbone = random_backbone(arguments.backbone, config, storage, device)
    common = {
        "storage": storage,
        "num_parameters": backbone.description.num_parameters,
        "weights_bytes": stored_bytes(backbone.model),
        "before_bytes": before if device.type == "cpu" else None,
        "build_peak_bytes": resident_bytes("VmHWM") if device.type == "cpu" else torch.cuda.max_memory_allocated(),
        "seq_len": arguments.seq_len,
        "gradient_checkpointing": arguments.gradient_checkpointing,
    }
    cases = []
    for prompt_length in arguments.prompt_length:
        for batch_size in arguments.batch_size:
            setup = Setup(
                prompt_length, batch_size, arguments.seq_len, arguments.gradient_checkpointing, arguments.steps
            )
            measured = measure_steps(backbone, setup, device)
            most = largest_batch(backbone, setup, device) if device.type == "cuda" else None
            sizes = {"prompt_length": prompt_length, "batch_size": batch_size, "largest_batch": most}
            cases.append({**common, **sizes, **measured})
            print(json.dumps(cases[-1]), file=sys.stderr)
    return cases


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", choices=sorted(SIZES), default="glm-10b")
    parser.add_argument("--storage", choices=list(STORAGES), nargs="+", default=["bf16", "int8", "nf4"])
    parser.add_argument("--prompt-length", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiny", action="store_true", help="a tiny model of the family: only see that it runs")
    parser.add_argument("--output", type=Path, help="file for the JSON object")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
