"""Training and search, in time and memory, against the alternatives and against what the machine can do.

    make bench
    python benchmarks/speed.py
    python benchmarks/speed.py --quick

`PTUNING_DATA` names a directory with `sst2/` and `rte/` as JSON lines, with the columns of the Hugging Face copies.
What needs a set that is not there is left out, and said to be.

Measured in one run, all sides in turns, each in a process of its own:

- an epoch of ours (`ptuning.train`), PEFT's prefix tuning and full fine-tuning (`transformers.Trainer`, random batches
  of 32, dynamic padding, fp32), with tokens a second, padding and peak memory; Adapters' prefix tuning too, where
  `--adapters-python` names an interpreter that has it (it wants an older transformers);
- a step of ours and of PEFT's on equal batches in equal precision, after both were seen to compute the same;
- seconds to a score on SST-2, and epochs of `layers: last:2` on a trunk that is computed once;
- rows a second without gradients;
- a search over learning rates as one population, against separate processes of `ptuning train`;
- the floor: what the matrix products of a step would take at the best rate measured here (`speed_parts/floor.py`).

Units are in the columns. Medians of blocks or repeats; warm-up steps are not counted; epochs that were measured in
part are extrapolated by positions and marked `~`. The last line is one JSON object, with `--name` written to
`benchmarks/results/` too. Its ratios are the worst over the sets; `share_of_floor` is floor over measured time of our
bf16 epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from speed_parts.epochs import WITH_DROPOUT, compare_epochs, ratio
from speed_parts.equal_steps import compare_equal_steps
from speed_parts.floor import Matrices, add_floor, matrices_of, spread_of
from speed_parts.inference import compare_inference
from speed_parts.learning import train_to_score, trunk_reuse_ratio
from speed_parts.machine import describe_machine
from speed_parts.options import Options
from speed_parts.population import LEARNING_RATES, ROWS, compare_search
from speed_parts.report import print_epochs, print_equal, print_inference, print_learning, print_search
from speed_parts.rows import SETS, RealSet, load_set

from ptuning import load_backbone
from ptuning.cli.quiet import quiet_libraries
from ptuning.devices import find_dtype
from ptuning.planning.rate import matrix_rate

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("epochs", "equal", "learning", "inference", "population")
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> int:
    arguments = _arguments()
    started = time.monotonic()
    torch.set_num_threads(arguments.threads)
    parts = arguments.only.split(",") if arguments.only else list(PARTS)
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        print(f"--only names {', '.join(unknown)}, expected some of {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    quiet_libraries()
    with tempfile.TemporaryDirectory() as directory:
        result = _measure(arguments, parts, Path(directory))
    result["minutes"] = round((time.monotonic() - started) / 60, 1)
    for line in result["not_measured"]:
        print(f"not measured: {line}")
    if arguments.name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{arguments.name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


def _measure(arguments: argparse.Namespace, parts: list[str], directory: Path) -> dict[str, Any]:
    options = _options(arguments, directory)
    backbone = load_backbone(options.backbone)
    matrices = matrices_of(backbone)
    rates: dict[str, float] = {}
    skipped = [f"{part} (--only)" for part in PARTS if part not in parts]
    sets: dict[str, Any] = {}
    for real_set in _real_sets(arguments, options, backbone, skipped):
        _raise_rates(rates, matrices, real_set, options)
        result: dict[str, Any] = {
            "rows": len(real_set.examples),
            "tokens": real_set.num_tokens,
            "max_length": real_set.longest,
            "batch_size": real_set.batch_size,
        }
        if "epochs" in parts:
            _say(f"{real_set.name}: an epoch of each side")
            result["epochs"] = compare_epochs(options, real_set)
        if "equal" in parts:
            _say(f"{real_set.name}: equal batches, equal precision")
            result["equal"] = compare_equal_steps(options, real_set)
        if "learning" in parts:
            _say(f"{real_set.name}: trained to a score")
            # RTE is more than a small backbone learns in a few epochs: its epochs are timed, no score is waited for.
            is_learned = real_set.name == "sst2"
            epochs = options.epochs if is_learned else 2
            result["learning"] = train_to_score(options, real_set, epochs=epochs, with_peft=is_learned)
        if "inference" in parts:
            _say(f"{real_set.name}: inference")
            result["inference"] = compare_inference(options, real_set)
        _raise_rates(rates, matrices, real_set, options)
        sets[real_set.name] = result
    search: dict[str, Any] = {}
    if "population" in parts and "sst2" in sets:
        _say("search over learning rates")
        data = Path(os.environ["PTUNING_DATA"]) / "sst2"
        rows, rates_tried = (arguments.rows or ROWS), LEARNING_RATES[: 2 if arguments.quick else None]
        search = compare_search(options, data, rows=min(rows, ROWS), rates=rates_tried)
    if not rates:  # no set is there
        shapes, device = matrices.shapes, options.device
        rates = {name: matrix_rate(shapes, [512, 2048], dtype, device) for name, dtype in _DTYPES.items()}
    for result in sets.values():
        add_floor(result.get("epochs", {}), matrices, rates)
    if not options.adapters_python:
        skipped.append("Adapters' prefix tuning: --adapters-python names no interpreter that has it")
    _print(sets, rates)
    if search:
        print_search(search)
    return {
        "benchmark": "speed",
        "is_quick": arguments.quick,
        **_headline(sets, options.device),
        "population_ratio": search.get("population_ratio"),
        "population_halving_ratio": search.get("population_halving_ratio"),
        "machine": describe_machine(options.device, options.threads),
        "backbone": options.backbone,
        "prompt_length": options.prompt_length,
        "matrix_rate_gflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "sets": sets,
        "search": search,
        "not_measured": skipped,
    }


def _real_sets(arguments: argparse.Namespace, options: Options, backbone: Any, skipped: list[str]) -> list[RealSet]:
    """The sets that are there; those that are not are added to what is skipped."""
    data = os.environ.get("PTUNING_DATA")
    if data is None:
        skipped.append(f"{', '.join(SETS)}: PTUNING_DATA is not set, expected the directory that has them")
        return []
    found = []
    for name in arguments.sets.split(","):
        if name not in SETS:
            raise SystemExit(f"--sets names {name}, expected some of {', '.join(SETS)}.")
        if not (Path(data) / name).is_dir():
            skipped.append(f"{name}: PTUNING_DATA has no directory of that name")
            continue
        found.append(
            load_set(
                name,
                Path(data),
                backbone,
                device=options.device,
                batch_size=options.batch_size,
                rows=arguments.rows,
                directory=options.directory,
            )
        )
    return found


def _options(arguments: argparse.Namespace, directory: Path) -> Options:
    quick = arguments.quick
    return Options(
        backbone=arguments.backbone,
        model=load_backbone(arguments.backbone).source,
        device=arguments.device,
        threads=arguments.threads,
        prompt_length=arguments.prompt_length,
        upper_layers=arguments.layers,
        batch_size=arguments.batch_size,
        our_steps=4 if quick else 120,
        usual_steps=2 if quick else 18,
        full_steps=2 if quick else 12,
        equal_steps=2 if quick else 16,
        repeats=1 if quick else 3,
        stretches=2 if quick else 6,
        blocks=2 if quick else 5,
        epochs=2,
        usual_epochs=0.5 if quick else 1.5,
        search_epochs=2 if quick else 4,
        target=arguments.target,
        adapters_python=arguments.adapters_python,
        directory=directory,
    )


def _raise_rates(rates: dict[str, float], matrices: Matrices, real_set: RealSet, options: Options) -> None:
    """Measures again, so that a busy moment does not lower the floor: the best of the whole run counts."""
    positions = spread_of([real_set.positions(batch) for batch in real_set.our_batches()])
    for name, dtype in _DTYPES.items():
        rates[name] = max(rates.get(name, 0.0), matrix_rate(matrices.shapes, positions, dtype, options.device))


def _headline(sets: dict[str, Any], device: str) -> dict[str, Any]:
    """The numbers that are asked for first: the worst over the sets."""
    dtype = find_dtype("auto", torch.device(device))
    (auto,) = [name for name, one in _DTYPES.items() if one == dtype]
    epochs = [r["epochs"] for r in sets.values() if "epochs" in r]
    usual = [ratio(result, "peft", f"ptuning {auto}") for result in epochs]
    equal = [mode["ratio"] for r in sets.values() for mode in r.get("equal", {}).values()]
    trunk = [trunk_reuse_ratio(r["learning"]) for r in sets.values() if "learning" in r]
    shares = {
        side: min((result[f"ptuning {side}"]["share_of_floor"] for result in epochs), default=None)
        for side in ("bf16", "fp32", f"bf16{WITH_DROPOUT}")
    }
    return {
        "precision_auto": auto,
        "epoch_ratio_peft_usual": min(usual, default=None),
        "epoch_ratio_peft_equal": min(equal, default=None),
        "trunk_reuse_ratio": min((value for value in trunk if value is not None), default=None),
        "share_of_floor": shares["bf16"],
        "share_of_floor_fp32": shares["fp32"],
        "share_of_floor_with_dropout": shares[f"bf16{WITH_DROPOUT}"],
    }


def _print(sets: dict[str, Any], rates: dict[str, float]) -> None:
    print("best matrix rate: " + ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items()))
    for name, result in sets.items():
        for part, show in (
            ("epochs", print_epochs),
            ("equal", print_equal),
            ("learning", print_learning),
            ("inference", print_inference),
        ):
            if part in result:
                show(name, result if part == "epochs" else result[part])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backbone", default="minilm", help="a name that ptuning.load_backbone takes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each process")
    parser.add_argument("--prompt-length", type=int, default=20)
    parser.add_argument("--batch-size", type=int, help="examples a batch; default: 32, with --quick 8")
    parser.add_argument("--layers", default="last:2", help="that have prompts where the trunk below is computed once")
    parser.add_argument("--rows", type=int, help="training and validation rows of a set at most")
    parser.add_argument("--target", type=float, default=0.8, help="accuracy on SST-2 that training is timed to")
    parser.add_argument("--sets", help=f"with commas between them; default: {','.join(SETS)}, with --quick sst2")
    parser.add_argument("--only", help=f"parts, with commas between them: {', '.join(PARTS)}")
    parser.add_argument("--quick", action="store_true", help="a few steps of each part, to see that it runs")
    parser.add_argument("--adapters-python", help="interpreter of an environment that has the adapters package")
    parser.add_argument("--name", help="write benchmarks/results/NAME.json")
    arguments = parser.parse_args()
    arguments.batch_size = arguments.batch_size or (8 if arguments.quick else 32)
    arguments.sets = arguments.sets or ("sst2" if arguments.quick else ",".join(SETS))
    if arguments.quick and arguments.rows is None:
        arguments.rows = 6 * arguments.batch_size
    return arguments


if __name__ == "__main__":
    sys.exit(main())
