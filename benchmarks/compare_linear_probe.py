"""What prompts add to a linear probe on the same frozen backbone.

    python benchmarks/compare_linear_probe.py --task classification --data my_dir
    python benchmarks/compare_linear_probe.py --task helpdesk/tickets --set training.epochs=4

Trains a run as `ptuning train` would (same options, same defaults), fits the probe on the same rows, and scores both on
the same validation rows. The probe is run to convergence; where the head pools, [CLS] and mean are both fitted and both
are printed. A run that is there already goes on, or is done; its settings must be these.

Metrics are fractions in [0, 1] (correlations in [-1, 1]); seconds are wall-clock. One run, one seed: repeat with
`--set training.seed=...` for more. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import ptuning
from ptuning.config import parse_settings
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
    config = ptuning.load_config(None, settings | parse_settings(arguments.set))
    backbone = ptuning.load_backbone(config.backbone)
    prepared = prepare_task(config, backbone)
    rows = prepared.data.validation or []
    metric = prepared.kind.resolve_metric(config.training.metric or prepared.task.metric)

    started = time.monotonic()
    probes = linear_probe(backbone, prepared.kind, prepared.train, prepared.validation, rows)
    scores = {f"linear probe, {pooling}": metrics[metric] for pooling, metrics in probes.items()}
    seconds = {name: (time.monotonic() - started) / len(scores) for name in scores}

    directory = output_directory(config)
    is_there = (directory / "config.yaml").is_file()
    result = ptuning.train(config, resume=is_there, backbone=backbone, report=Terminal())
    scores["prompts"], seconds["prompts"] = result.metrics[metric], result.seconds
    majority = prepared.kind.majority_score(rows, metric)
    if majority is not None:
        scores["most frequent answer"] = majority

    print(f"{config.task} on {config.backbone}, {len(prepared.train)} training examples, {len(rows)} validation rows")
    print(f"{'':<24}{metric:>12}{'seconds':>10}")
    for name, score in scores.items():
        print(f"{name:<24}{score:>12.4f}{seconds.get(name, 0.0):>10.1f}")
    print(
        json.dumps(
            {
                "benchmark": "compare_linear_probe",
                "task": config.task,
                "data": config.data.path,
                "backbone": config.backbone,
                "run": str(directory),
                "seed": config.training.seed,
                "num_validation_rows": len(rows),
                "metric": metric,
                "scores": scores,
                "seconds": seconds,
            }
        )
    )


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
