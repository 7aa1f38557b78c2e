"""What prompts add to a linear probe on the same frozen backbone.

    python benchmarks/compare_linear_probe.py --task classification --data my_dir
    python benchmarks/compare_linear_probe.py --task helpdesk/tickets --set training.epochs=4

Trains a run as `ptuning train` would (same options, same defaults), fits the probe on the same rows, and scores both on
the same validation rows. The probe is run to convergence; where the head pools, [CLS] and mean are both fitted and both
are printed. A run that is there already goes on, or is done; its settings must be these.

Metrics are fractions in [0, 1] (correlations in [-1, 1]); seconds are wall-clock, and of the CPU over all threads (of
this sitting alone, where a run goes on). One run, one seed: repeat with
`--set training.seed=...` for more. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

import ptuning
from ptuning.config import RunConfig, parse_settings
from ptuning.linear_probe import linear_probe
from ptuning.training.reporting import Terminal
from ptuning.training.run import output_directory, prepare_task


def main() -> None:
    arguments = _arguments()
    settings: dict[str, Any] = {"task": arguments.task, "backbone": arguments.backbone, "training.device": "cpu"}
    if arguments.data:
        settings["data.path"] = arguments.data
    if arguments.output:
        settings["output"] = arguments.output
    result = compare(ptuning.load_config(None, settings | parse_settings(arguments.set)))
    metric = result["metric"]
    print(
        f"{result['task']} on {result['backbone']}, {result['num_train_examples']} training examples, "
        f"{result['num_validation_rows']} validation rows"
    )
    print(f"{'':<24}{metric:>12}{'seconds':>10}{'CPU':>10}")
    for name, score in result["scores"].items():
        seconds, cpu = result["seconds"].get(name, 0.0), result["cpu_seconds"].get(name, 0.0)
        print(f"{name:<24}{score:>12.4f}{seconds:>10.1f}{cpu:>10.1f}")
    print(json.dumps({"benchmark": "compare_linear_probe", **result}))


def compare(config: RunConfig) -> dict[str, Any]:
    """Fits the probe, trains the prompts, and returns what both came to, as JSON values."""
    backbone = ptuning.load_backbone(config.backbone)
    prepared = prepare_task(config, backbone)
    rows = prepared.data.validation or []
    metric = prepared.kind.resolve_metric(config.training.metric or prepared.task.metric)

    started, cpu_started = time.monotonic(), time.process_time()
    probes = linear_probe(backbone, prepared.kind, prepared.train, prepared.validation, rows)
    scores = {f"linear probe, {pooling}": metrics[metric] for pooling, metrics in probes.items()}
    seconds = {name: (time.monotonic() - started) / len(probes) for name in scores}
    cpu_seconds = {name: (time.process_time() - cpu_started) / len(probes) for name in scores}

    directory = output_directory(config)
    is_there = (directory / "config.yaml").is_file()
    cpu_started = time.process_time()
    result = ptuning.train(config, resume=is_there, backbone=backbone, report=Terminal())
    scores["prompts"], seconds["prompts"] = result.metrics[metric], result.seconds
    cpu_seconds["prompts"] = time.process_time() - cpu_started
    majority = prepared.kind.majority_score(rows, metric)
    if majority is not None:
        scores["most frequent answer"] = majority
    return {
        "task": config.task,
        "data": config.data.path,
        "backbone": config.backbone,
        "run": str(directory),
        "seed": config.training.seed,
        "threads": torch.get_num_threads(),
        "num_train_examples": len(prepared.train),
        "num_validation_rows": len(rows),
        "steps": result.steps,
        "best_epoch": result.best_epoch,
        "metric": metric,
        "metrics": result.metrics,
        "scores": scores,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", required=True, help="preset or kind of task; see `ptuning tasks`")
    parser.add_argument("--data", help="directory or data set; presets have their own")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--output", help="directory of the run; default: runs/<task>-<data>")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of the run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
