"""Training prompts on a large frozen backbone: memory, seconds a step, the largest batch.

    python benchmarks/large_backbones.py --backbone glm-2b --storage bf16 --batch-size 1 4
    python benchmarks/large_backbones.py --backbone glm-10b --device cuda --output glm-10b.json
    python benchmarks/large_backbones.py --tiny
    python benchmarks/large_backbones.py --plan --device cuda --memory 80 --prompt-length 16 --batch-size 8

The backbone has the sizes of a published one and random weights, which make no difference to time or memory, so nothing
is downloaded. It is put straight into each storage: bf16; or int8 or nf4 for the weights of its layers, the rest in
bf16. What is timed: forward, cross entropy of a linear head on the first token, backward to prompts and head, one AdamW
step, at full length without padding. Each storage runs in a process of its own. What does not fit is a row that says
so, and so is what fails; all else is measured all the same. The exit status is 1 where something failed for another
reason than memory, after all that was measured is printed.

Units: seconds are the median of `--steps` steps after one; CPU seconds those of the process's threads, which other
programs on the machine hardly change. Memory on CUDA is the peak of what tensors take, all of it;
on a CPU the peak of the process's resident memory, of which libraries take `before_bytes` when nothing is loaded yet.
There glibc keeps much of what is freed, unless it is told not to:
`MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=0` in front of the command.
`largest batch`, on CUDA alone, is found by trying, to an eighth of itself; 0 where not even one row fits.

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
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from large_parts.asking import complete, count, size
from large_parts.building import STORAGES, random_backbone, stored_bytes
from large_parts.measuring import Setup, largest_batch, measure_steps, resident_bytes
from large_parts.outcomes import MEASURED, TOO_LARGE, Case, attempt, cases_of_process, is_failure
from large_parts.predicting import plan_setup
from large_parts.sizes import SIZES, write_config
from large_parts.tables import batch_table, memory_table, plan_all
from speed_parts.machine import describe_machine

from ptuning.backbones.loading import Backbone

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
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.case is not None:
        _measure(arguments, arguments.case, arguments.directory)
        return
    if arguments.plan:
        _print_plans(arguments)
        return
    (backbone,) = arguments.backbone or ["glm-10b"]
    with tempfile.TemporaryDirectory() as directory:
        write_config(backbone, Path(directory), tiny=arguments.tiny)
        results = [case for storage in arguments.storage for case in _in_a_process(arguments, storage, directory)]
        for case in results:  # after all of them, since on a GPU the rate of products takes memory
            case.update(_planned(arguments, case, Path(directory)))
    parameters = next((case["num_parameters"] for case in results if "num_parameters" in case), None)
    needs = {} if parameters is None else {name: each * parameters for name, each in FINE_TUNING_BYTES.items()}
    of_it = "" if parameters is None else f"{parameters / 1e9:.2f}B parameters, "
    print(f"{backbone}, {of_it}{arguments.seq_len} tokens, {arguments.device}")
    print(f"{'storage':<9}" + "".join(f"{title:>13}" for title in TITLES))
    for case in results:
        print(f"{case['storage']:<9}" + "".join(f"{value:>13}" for value in _shown(case)))
    for case in results:
        for error in ("error", "largest_batch_error", "plan_error"):
            if error in case:
                asked = f"{case['storage']}, {case['prompt_length']} prompts, batch {case['batch_size']}"
                print(f"{asked}: {error.replace('_', ' ')}: {case[error]}")
    calculated = ", ".join(f"{need / 1e9:.1f} GB in {precision}" for precision, need in needs.items())
    print(f"full fine-tuning without activations, calculated: {calculated or '-'}")
    found = {
        "benchmark": "large_backbones",
        "backbone": "tiny" if arguments.tiny else backbone,
        "machine": describe_machine(arguments.device, arguments.threads),
        "allocator": {name: os.environ[name] for name in ALLOCATOR if name in os.environ},
        "fine_tuning_bytes": needs,
        "results": results,
    }
    _print_object(found, arguments.output)
    if any(is_failure(case) for case in results):
        sys.exit(1)


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
    print(json.dumps(found), flush=True)  # first: whatever becomes of the file, it is seen
    if output is not None:
        output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def _shown(case: Case) -> tuple[str, ...]:
    """A row of the table, in the order of `TITLES`; the outcome in place of the peak where there is none."""

    def number(key: str, *, unit: float = 1.0) -> str:
        return "-" if case.get(key) is None else f"{case[key] / unit:.2f}"

    def whole(key: str) -> str:
        return "-" if case.get(key) is None else str(case[key])

    return (
        whole("prompt_length"),
        whole("batch_size"),
        number("weights_bytes", unit=1e9),
        number("peak_bytes", unit=1e9) if case["outcome"] == MEASURED else case["outcome"],
        number("planned_peak_bytes", unit=1e9),
        number("peak_ratio"),
        number("seconds"),
        number("cpu_seconds"),
        number("planned_seconds"),
        whole("largest_batch"),
        whole("planned_largest_batch"),
    )


def _planned(arguments: argparse.Namespace, case: Case, directory: Path) -> Case:
    """What the planner says of a case, or `plan_error`: what is wrong with its plan must not cost what was measured."""
    setup = _setup(arguments, case["prompt_length"], case["batch_size"])
    try:
        plan = plan_setup(directory, case["storage"], setup, arguments.device)
    except Exception as error:
        traceback.print_exc()
        return {"plan_error": f"{type(error).__name__}: {error}"}
    for what, planned, key in (
        ("parameters", plan.num_parameters, "num_parameters"),
        ("trained parameters", plan.trained_parameters, "trained"),
    ):
        found = case.get(key, planned)
        if planned != found:
            wrong = f"it is of {planned:,} {what}, and {found:,} were measured: of another training"
            return {"plan_error": wrong}
    measured = case.get("peak_bytes")
    of_it = None if measured is None else measured - (case["before_bytes"] or 0)
    return {
        "num_parameters": plan.num_parameters,
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


def _in_a_process(arguments: argparse.Namespace, storage: str, directory: str) -> list[Case]:
    own = ["--case", storage, "--directory", directory]
    asked = [(length, rows) for length in arguments.prompt_length for rows in arguments.batch_size]
    return list(cases_of_process([sys.executable, __file__, *sys.argv[1:], *own], storage, asked))


def _measure(arguments: argparse.Namespace, storage: str, directory: Path) -> None:
    """Writes each case of a storage as a line, as soon as it is known."""
    device = torch.device(arguments.device)
    made: list[Backbone] = []
    built = attempt(lambda: _build(made, directory, storage, device))
    outcome = built.pop("outcome")
    common = {
        "storage": storage,
        **built,
        "seq_len": arguments.seq_len,
        "gradient_checkpointing": arguments.gradient_checkpointing,
    }
    for prompt_length in arguments.prompt_length:
        for batch_size in arguments.batch_size:
            case = {**common, "prompt_length": prompt_length, "batch_size": batch_size, "largest_batch": None}
            if outcome == TOO_LARGE:
                case["outcome"] = TOO_LARGE
            else:
                case |= _measure_case(made[0], _setup(arguments, prompt_length, batch_size), device)
            print(json.dumps(case), flush=True)
            print(json.dumps(case), file=sys.stderr)


def _build(made: list[Backbone], directory: Path, storage: str, device: torch.device) -> Case:
    before = resident_bytes()
    backbone = random_backbone(directory.name, directory, storage, device)
    made.append(backbone)
    return {
        "num_parameters": backbone.description.num_parameters,
        "weights_bytes": stored_bytes(backbone.model),
        "before_bytes": before if device.type == "cpu" else None,
        "build_peak_bytes": resident_bytes("VmHWM") if device.type == "cpu" else torch.cuda.max_memory_allocated(),
    }


def _measure_case(backbone: Backbone, setup: Setup, device: torch.device) -> Case:
    case = attempt(lambda: measure_steps(backbone, setup, device))
    if device.type == "cuda":
        try:
            case["largest_batch"] = largest_batch(backbone, setup, device)
        except Exception as error:  # or what was measured before it would be lost
            traceback.print_exc()
            case["largest_batch_error"] = f"{type(error).__name__}: {error}"
    return case


def read_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Returns what is asked for, checked; `given` in place of the process's arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", choices=sorted(SIZES), nargs="+", help="one; with --plan several, or all")
    parser.add_argument("--storage", choices=list(STORAGES), nargs="+", default=["bf16", "int8", "nf4"])
    parser.add_argument("--prompt-length", type=count, nargs="+", help="16 and 128; with --plan one, 16")
    parser.add_argument("--batch-size", type=count, nargs="+", default=[1], help="with --plan one")
    parser.add_argument("--seq-len", type=count, default=256)
    parser.add_argument("--steps", type=count, default=3)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    parser.add_argument("--plan", action="store_true", help="measure nothing: tables of plans")
    parser.add_argument("--memory", type=size, help="with --plan: of the device, in 10^9 bytes; 80")
    parser.add_argument("--tiny", action="store_true", help="a tiny model of the family: only see that it runs")
    parser.add_argument("--output", type=Path, help="file for the JSON object")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    complete(parser, arguments)
    return arguments


if __name__ == "__main__":
    main()
