"""Training on a GPU: packed and padded, against PEFT and full fine-tuning, on a backbone of BERT-large's size.

    python benchmarks/speed_gpu.py --name gpu
    python benchmarks/speed_gpu.py --tiny --device cpu

The backbone has random weights and the rows have random words, in the lengths of RTE: neither makes a difference to the
time. For each prompt length all sides take their steps in turns, each in a process of its own: ours in bf16, in padded
batches of similar length and packed into one row without padding; PEFT's prefix tuning and full fine-tuning with AdamW
by `transformers.Trainer` with random batches and dynamic padding, in fp32 and in bf16 under autocast.

Tokens are real ones, padding and virtual ones left out. Peak memory is what torch allocated at most. The share is that
of the matrix products' time at the best bf16 or fp32 rate measured here (`speed_parts/floor.py`). All sides are in
memory at once: about 40 GB. The last line is one JSON object, with `--name` written to `benchmarks/results/` too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from speed_parts.epochs import EpochOfSide, our_side, time_epochs, usual_side
from speed_parts.floor import add_floor, matrices_of, spread_of
from speed_parts.machine import describe_machine
from speed_parts.options import Options
from speed_parts.random_backbone import LARGE, TINY, write_backbone, write_rows
from speed_parts.report import print_epochs, print_table
from speed_parts.rows import RealSet, tokenized_set

from ptuning import load_backbone
from ptuning.cli.quiet import quiet_libraries
from ptuning.planning.rate import matrix_rate

RESULTS = Path(__file__).resolve().parent / "results"
LONGEST = 256


def main() -> int:
    arguments = _arguments()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print("there is no CUDA device here. See that the script runs with --tiny --device cpu.", file=sys.stderr)
        return 1
    quiet_libraries()
    with tempfile.TemporaryDirectory() as directory:
        result = _measure(arguments, Path(directory))
    if arguments.name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{arguments.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


def _measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    model = directory / "backbone"
    write_backbone(model, TINY if arguments.tiny else LARGE)
    rows = 24 * arguments.batch_size if arguments.tiny else arguments.rows
    write_rows(directory / "rows", rows, longest=LONGEST)
    backbone = load_backbone(model)
    settings = {"task": "classification", "data.path": str(directory / "rows"), "training.device": arguments.device}
    made = tokenized_set(
        "rte_lengths", settings, backbone, longest=LONGEST, batch_size=arguments.batch_size, directory=directory
    )
    matrices = matrices_of(backbone)
    positions = spread_of([made.positions(batch) for batch in made.our_batches()])
    rates = {
        name: matrix_rate(matrices.shapes, positions, dtype, arguments.device)
        for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32))
    }
    results: dict[str, Any] = {}
    for prompt_length in map(int, arguments.prompt_lengths.split(",")):
        options = _options(arguments, str(model), directory, prompt_length)
        options.directory.mkdir()
        epochs = time_epochs(options, made, _sides(options, made, arguments))
        add_floor(epochs, matrices, rates)
        result = {"rows": len(made.examples), "tokens": made.num_tokens, "epochs": epochs, "ratios": _ratios(epochs)}
        results[str(prompt_length)] = result
        print_epochs(f"{prompt_length} virtual tokens", result)
        print_table("ours against", ["side", "speed", "our peak memory over its"], _comparison(epochs))
    return {
        "benchmark": "speed_gpu",
        "is_tiny": arguments.tiny,
        "machine": describe_machine(arguments.device, arguments.threads),
        "batch_size": made.batch_size,
        "max_length": made.longest,
        "matrix_rate_gflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "prompt_lengths": results,
    }


def _sides(options: Options, made: RealSet, arguments: argparse.Namespace) -> dict[str, EpochOfSide]:
    packed = {"training__packing": "on", "training__attention": "flex_attention"}
    warm_up = 4 if arguments.tiny else 40  # the first batches of each length compile kernels
    sides = {"ptuning padded": our_side(options, made, "bf16", warm_up=warm_up, training__packing="off")}
    if arguments.device.startswith("cuda"):  # torch has no backward of it on a CPU
        sides["ptuning packed"] = our_side(options, made, "bf16", warm_up=warm_up, **packed)
        # A packed batch has no padding: what it computes are its tokens.
        side, of_batch = sides["ptuning packed"], [made.tokens(batch) for batch in made.our_batches()]
        measured = of_batch[side.warm_up : side.warm_up + len(side.measured)]
        sides["ptuning packed"] = dataclasses.replace(side, measured=measured, epoch=of_batch)
    for method in ("peft", "full"):
        for precision in ("fp32", "bf16"):
            side = usual_side(options, made, method, options.usual_steps, precision=precision)
            sides[f"{method} {precision}"] = side
    return sides


def _ratios(epochs: dict[str, Any]) -> dict[str, Any]:
    """The faster of ours against each side: tokens a second over theirs, peak memory over theirs."""
    against = {name: {"speed": speed, "memory": memory} for name, speed, memory in _comparison(epochs)}
    return {"ours": _fastest(epochs), "against": against}


def _comparison(epochs: dict[str, Any]) -> list[tuple[str, float, float]]:
    best = epochs[_fastest(epochs)]
    return [
        (
            name,
            round(best["tokens_per_second"] / one["tokens_per_second"], 3),
            round(best["peak_mb"] / one["peak_mb"], 3),
        )
        for name, one in epochs.items()
    ]


def _fastest(epochs: dict[str, Any]) -> str:
    ours = [name for name in epochs if name.startswith("ptuning")]
    return max(ours, key=lambda name: epochs[name]["tokens_per_second"])


def _options(arguments: argparse.Namespace, model: str, directory: Path, prompt_length: int) -> Options:
    steps = 4 if arguments.tiny else 60
    return Options(
        backbone=model,
        model=model,
        device=arguments.device,
        threads=arguments.threads,
        prompt_length=prompt_length,
        upper_layers="last:2",
        batch_size=arguments.batch_size,
        our_steps=10_000 if not arguments.tiny else steps,
        usual_steps=steps,
        full_steps=steps,
        equal_steps=steps,
        repeats=1,
        stretches=5,
        blocks=5,
        epochs=1,
        usual_epochs=1.0,
        search_epochs=1,
        target=1.0,
        adapters_python=None,
        directory=directory / str(prompt_length),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rows", type=int, default=7680)
    parser.add_argument("--prompt-lengths", default="20,128", help="virtual tokens, with commas between them")
    parser.add_argument("--tiny", action="store_true", help="a tiny backbone and few steps, to see that it runs")
    parser.add_argument("--name", help="write benchmarks/results/NAME.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
