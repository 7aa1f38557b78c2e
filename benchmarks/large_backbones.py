"""Training prompts on a large frozen backbone: memory, seconds a step, the largest batch.

    python benchmarks/large_backbones.py --backbone glm-2b --storage bf16 --batch-size 1 4
    python benchmarks/large_backbones.py --backbone glm-10b --device cuda --output glm-10b.json
    python benchmarks/large_backbones.py --tiny
    python benchmarks/large_backbones.py --plan --device cuda --memory 80 --prompt-length 16 --batch-size 8

The backbone has the sizes of a published one and random weights, which make no difference to time or memory, so nothing
is downloaded. It is put straight into each storage: bf16; or int8 or nf4 for the weights of its layers, the rest in
bf16. What is timed: forward, cross entropy of a linear head on the first token, backward to prompts and head, one AdamW
step, at full length without padding. Each storage runs in a process of its own.

Units: seconds are the median of `--steps` steps after one; CPU seconds those of the process's threads, which other
programs on the machine hardly change. Memory on CUDA is the peak of what tensors take, all of it;
on a CPU the peak of the process's resident memory, of which libraries take `before_bytes` when nothing is loaded yet.
There glibc keeps much of what is freed, unless it is told not to:
`MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=0` in front of the command.
`largest batch`, on CUDA alone, is found by trying, to an eighth of itself.

Beside what is measured stands what `ptuning info --plan` says of the same training: its peak, largest batch and
seconds a step, with the rate of products that it measures here. `peak ratio` is planned over measured; of what was
measured on a CPU the `before_bytes` are taken off first, since a plan counts libraries apart.

Also calculated and not measured: what full fine-tuning needs for the same parameters without its activations:
16 bytes each (weights, gradients and AdamW's two states in float32), or 8 with all four in bfloat16.

With `--plan` nothing is measured: all backbones, or those that are named, are planned for a device that need not be
here, beside full fine-tuning (weights, gradients and AdamW's states in float32, products in bf16). Two Markdown tables
come out: memory, and the largest batch, which fills 95% of the memory less 1 GB for what CUDA takes.

The last line is one JSON object; `--output` writes it to a file too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from large_parts.building import STORAGES, random_backbone, stored_bytes
from large_parts.measuring import Setup, largest_batch, measure_steps, resident_bytes
from large_parts.predicting import plan_setup
from large_parts.sizes import SIZES, write_config
from large_parts.tables import batch_table, memory_table, plan_all
from speed_parts.machine import describe_machine

FINE_TUNING_BYTES = {"fp32": 16, "bf16": 8}
"""A parameter: weight, gradient and AdamW's two states."""

ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Variables that tell glibc when to give back to the system what is freed."""

TITLES = (
    "prompts",
    "batch",
    "weights GB",
    "peak GB",
    "planned GB",
    "peak ratio",
    "s/step",
    "CPU s",
    "planned s",
    "largest",
    "planned",
)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.case is not None:
        print(json.dumps(_measure(arguments, arguments.case, arguments.directory)))
        return
    if arguments.plan:
        _print_plans(arguments)
        return
    (backbone,) = arguments.backbone or ["glm-10b"]
    with tempfile.TemporaryDirectory() as directory:
        write_config(backbone, Path(directory), tiny=arguments.tiny)
        results = [case for storage in arguments.storage for case in _in_a_process(storage, directory)]
        for case in results:  # after all of them, since on a GPU the rate of products takes memory
            case.update(_planned(arguments, case, Path(directory)))
    parameters = results[0]["num_parameters"]
    needs = {precision: size * parameters for precision, size in FINE_TUNING_BYTES.items()}
    print(f"{backbone}, {parameters / 1e9:.2f}B parameters, {arguments.seq_len} tokens, {arguments.device}")
    print(f"{'storage':<9}" + "".join(f"{title:>12}" for title in TITLES))
    for case in results:
        print(f"{case['storage']:<9}" + "".join(f"{value:>12}" for value in _shown(case)))
    calculated = ", ".join(f"{size / 1e9:.1f} GB in {precision}" for precision, size in needs.items())
    print(f"full fine-tuning without activations, calculated: {calculated}")
    found = {
        "benchmark": "large_backbones",
        "backbone": "tiny" if arguments.tiny else backbone,
        "machine": describe_machine(arguments.device, arguments.threads),
        "allocator": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        "fine_tuning_bytes": needs,
        "results": results,
    }
    _print_object(found, arguments.output)


def _print_plans(arguments: argparse.Namespace) -> None:
    names, storages = arguments.backbone or list(SIZES), arguments.storage
    setup = _setup(arguments, arguments.prompt_length[0], arguments.batch_size[0])
    plans = plan_all(names, storages, setup, arguments.device, int(arguments.memory * 1e9), tiny=arguments.tiny)
    print(f"Memory, GB\n\n{memory_table(plans, storages)}\n")
    print(f"Largest batch in {arguments.memory:g} GB\n\n{batch_table(plans, storages)}\n")
    sizes = {"prompt_length": setup.prompt_length, "batch_size": setup.batch_size, "seq_len": setup.seq_len}
    device = {"device": arguments.device, "memory_gb": arguments.memory}
    _print_object({"benchmark": "large_backbones --plan", **sizes, **device, "plans": plans}, arguments.output)


def _print_object(found: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))


def _shown(case: dict[str, Any]) -> tuple[Any, ...]:
    """A row of the table, in the order of `TITLES`."""
    has_peak = case["peak_bytes"] is not None
    return (
        case["prompt_length"],
        case["batch_size"],
        f"{case['weights_bytes'] / 1e9:.2f}",
        f"{case['peak_bytes'] / 1e9:.2f}" if has_peak else "-",
        f"{case['planned_peak_bytes'] / 1e9:.2f}",
        f"{case['peak_ratio']:.2f}" if has_peak else "-",
        f"{case['seconds']:.2f}",
        f"{case['cpu_seconds']:.2f}",
        f"{case['planned_seconds']:.2f}",
        case["largest_batch"] or "-",
        case["planned_largest_batch"],
    )


def _planned(arguments: argparse.Namespace, case: dict[str, Any], directory: Path) -> dict[str, Any]:
    """What the planner says of a case.

    Raises:
        SystemExit: it is of another training, by what is trained.
    """
    setup = _setup(arguments, case["prompt_length"], case["batch_size"])
    plan = plan_setup(directory, case["storage"], setup, arguments.device)
    for what, planned, found in (
        ("parameters", plan.num_parameters, case["num_parameters"]),
        ("trained parameters", plan.trained_parameters, case["trained"]),
    ):
        if planned != found:
            raise SystemExit(
                f"the plan is of {planned:,} {what}, and {found:,} were measured: it is of another training."
            )
    measured = case["peak_bytes"]
    of_it = None if measured is None else measured - (case["before_bytes"] or 0)
    return {
        "planned_weights_bytes": plan.weights_bytes,
        "planned_peak_bytes": plan.peak_bytes,
        "peak_ratio": None if of_it is None else round(plan.peak_bytes / of_it, 3),
        "planned_seconds": None if plan.seconds_per_step is None else round(plan.seconds_per_step, 4),
        "planned_rate": plan.rate,
        "planned_largest_batch": plan.largest_batch_size,
        "planned_memory_bytes": plan.memory_bytes,
    }


def _setup(arguments: argparse.Namespace, prompt_length: int, batch_size: int) -> Setup:
    return Setup(prompt_length, batch_size, arguments.seq_len, arguments.gradient_checkpointing, arguments.steps)


def _in_a_process(storage: str, directory: str) -> list[dict[str, Any]]:
    own = ["--case", storage, "--directory", directory]
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], *own], stdout=subprocess.PIPE, text=True, check=True
    )
    cases: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return cases


def _measure(arguments: argparse.Namespace, storage: str, directory: Path) -> list[dict[str, Any]]:
    device = torch.device(arguments.device)
    before = resident_bytes()
    backbone = random_backbone(directory.name, directory, storage, device)
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
            setup = _setup(arguments, prompt_length, batch_size)
            measured = measure_steps(backbone, setup, device)
            most = largest_batch(backbone, setup, device) if device.type == "cuda" else None
            sizes = {"prompt_length": prompt_length, "batch_size": batch_size, "largest_batch": most}
            cases.append({**common, **sizes, **measured})
            print(json.dumps(cases[-1]), file=sys.stderr)
    return cases


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", choices=sorted(SIZES), nargs="+", help="one; with --plan several, or all")
    parser.add_argument("--storage", choices=list(STORAGES), nargs="+", default=["bf16", "int8", "nf4"])
    parser.add_argument("--prompt-length", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1])
    parser.add_argument("--seq-len", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plan", action="store_true", help="measure nothing: tables of plans")
    parser.add_argument("--memory", type=float, default=80, help="with --plan: of the device, in 10^9 bytes")
    parser.add_argument("--tiny", action="store_true", help="a tiny model of the family: only see that it runs")
    parser.add_argument("--output", type=Path, help="file for the JSON object")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if len(arguments.backbone or []) > 1 and not arguments.plan:
        parser.error("--backbone names several, and one is measured at a time. Name one, or add --plan.")
    if arguments.plan and len(arguments.prompt_length) + len(arguments.batch_size) > 2:
        parser.error("--plan takes one --prompt-length and one --batch-size. Give one of each.")
    return arguments


if __name__ == "__main__":
    main()
