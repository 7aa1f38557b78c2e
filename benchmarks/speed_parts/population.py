"""A search over learning rates as one population, against a process of `ptuning train` for each.

The first 2,000 rows of SST-2 and all its validation rows, prompts at the last two layers. Times are those of whole
processes, from start to end, with evaluations and what they write. The processes run one after another; half of the
separate ones come before the population and half after it, since machines get warm. Every process starts with no
tokenized rows kept from before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speed_parts.options import Options
from speed_parts.workers import BENCHMARKS

LEARNING_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 1.5e-2, 2e-2, 3e-2, 5e-2)
ROWS = 2000
HALVING = 2
_REUSED = 2  # separate processes with trunk reuse that are measured; the others would take as long
_COMMAND = "from ptuning.cli import main; main()"


def compare_search(options: Options, data: Path, *, rows: int, rates: Sequence[float]) -> dict[str, Any]:
    """Runs the search in each way.

    Args:
        options: for prompts, batches, epochs and device.
        data: directory of SST-2.
        rows: training rows, from the first on.
        rates: learning rates of the candidates.

    Returns:
        Seconds and best scores of each way, and the ratios of seconds, as JSON values; None where prompts at all layers
        leave no trunk to reuse.
    """
    directory = options.directory / "search"
    own = directory / "data"
    own.mkdir(parents=True)
    for split, most in (("train", rows), ("validation", None if rows == ROWS else rows)):
        lines = (data / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (own / f"{split}.jsonl").write_text("".join(lines[:most]), encoding="utf-8")
    settings = {
        "task": "glue/sst2",
        "backbone": options.backbone,
        "data.path": str(own),
        "prompts.layers": options.upper_layers,
        "prompts.prompt_length": options.prompt_length,
        "training.batch_size": options.batch_size,
        "training.epochs": options.search_epochs,
        "training.device": options.device,
    }
    half = len(rates) // 2
    separate = [_train(options, settings, directory, number, rate, "off") for number, rate in enumerate(rates[:half])]
    population = _population(options, settings, directory / "population", rates, None)
    separate += [_train(options, settings, directory, half + n, rate, "off") for n, rate in enumerate(rates[half:])]
    halving = _population(options, settings, directory / "halving", rates, HALVING)
    has_trunk = options.upper_layers != "all"  # layers below the prompts, whose output can be kept
    tried = rates[:_REUSED] if has_trunk else []
    reused = [_train(options, settings, directory, n, rate, "on") for n, rate in enumerate(tried)]
    separate_seconds = sum(seconds for seconds, _ in separate)
    reuse_seconds = sum(seconds for seconds, _ in reused) * len(rates) / len(reused) if reused else None
    return {
        "rows": rows,
        "layers": options.upper_layers,
        "epochs": options.search_epochs,
        "learning_rates": list(rates),
        "separate_seconds": round(separate_seconds, 1),
        "separate_scores": [round(score, 4) for _, score in separate],
        "separate_reuse_seconds": None if reuse_seconds is None else round(reuse_seconds, 1),
        "is_separate_reuse_extrapolated": 0 < len(reused) < len(rates),
        "population": population,
        "halving": halving,
        "population_ratio": round(population["seconds"] / separate_seconds, 3),
        "population_halving_ratio": round(halving["seconds"] / separate_seconds, 3),
        "population_ratio_with_reuse": _ratio(population["seconds"], reuse_seconds),
        "population_halving_ratio_with_reuse": _ratio(halving["seconds"], reuse_seconds),
        "halving_score_below_best": round(max(population["scores"]) - halving["scores"][halving["best"]], 4),
    }


def _ratio(seconds: float, of: float | None) -> float | None:
    return None if of is None else round(seconds / of, 3)


def _train(
    options: Options, settings: dict[str, Any], directory: Path, number: int, rate: float, reuse: str
) -> tuple[float, float]:
    """Seconds and the best score of a process of its own."""
    output = directory / f"separate-{reuse}-{number}"
    own = {**settings, "training.learning_rate": rate, "training.trunk_reuse": reuse, "output": str(output)}
    sets = [argument for name, value in own.items() for argument in ("--set", f"{name}={value}")]
    seconds = _timed([sys.executable, "-c", _COMMAND, "train", "--quiet", *sets], options, output)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return seconds, max(json.loads(line)["validation"]["accuracy"] for line in lines)


def _population(
    options: Options, settings: dict[str, Any], output: Path, rates: Sequence[float], halving: int | None
) -> dict[str, Any]:
    """Seconds, scores and peak memory of all candidates in one process."""
    job = output.with_suffix(".json")
    config = {**settings, "output": str(output)}
    job.write_text(json.dumps({"config": config, "rates": list(rates), "halving": halving, "device": options.device}))
    seconds = _timed([sys.executable, "-m", "speed_parts.population_script", str(job)], options, output)
    result = json.loads(job.with_suffix(".result").read_text(encoding="utf-8"))
    return {"seconds": round(seconds, 1), **result}


def _timed(command: list[str], options: Options, output: Path) -> float:
    """Returns the seconds that a process takes.

    Raises:
        SystemExit: it failed; what it printed last is in the message.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(BENCHMARKS), os.getenv("PYTHONPATH")))),
        "OMP_NUM_THREADS": str(options.threads),
        "PTUNING_CACHE": str(output.with_suffix(".cache")),
    }
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-15:])
        raise SystemExit(f"a process of the search ended with status {done.returncode}:\n{tail}")
    return seconds
