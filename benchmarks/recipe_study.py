"""Which settings of P-Tuning v2 learn best without a search for each task: one group of candidates at a time.

    PTUNING_DATA=my_data python benchmarks/recipe_study.py --group start --output benchmarks/results/recipe_study.jsonl
    PTUNING_DATA=my_data python benchmarks/recipe_study.py --group start --sets sst2,mrpc --rows 2000 --epochs 10
    python benchmarks/recipe_study.py --output benchmarks/results/recipe_study.jsonl --table

Candidates are compared on development rows that are held out of the training file (`data.selection: development`); the
validation files are not read. Every result is a line of OUTPUT, with its settings, seed, rows and epochs, the score of
the best epoch and of each, and the training losses; what is there already is not run again, so a stopped program goes
on and groups add up. Scores are in percent of the set's own metric. The table has, for each group, rows and epochs, the
mean over seeds.

A candidate is `NAME: settings`, laid over those of all (`COMMON`); fine-tuning's own small search is the group
`fine-tuning`, so that it is tried as honestly.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ptuning

SETS = {
    "sst2": "glue/sst2",
    "mrpc": "glue/mrpc",
    "stsb": "glue/stsb",
    "conll04": "conll2004",
    "wnut17": "wnut17",
    "srl_ewt": "srl/ewt",
    "squad_v2": "squad_v2",
}
"""Directory in `PTUNING_DATA` -> preset: the sets over which the default is to hold."""

COMMON: dict[str, Any] = {
    "backbone": "minilm",
    "data.selection": "development",
    "training.trunk_reuse": "off",
    "training.backbone_dropout": "off",
}

_STARTS: dict[str, dict[str, Any]] = {
    "std 0.02": {"prompts.init_std": 0.02},
    "std 1": {"prompts.init_std": 1.0},
    "tokens": {"prompts.init": "tokens"},
    "statistics": {"prompts.init": "statistics"},
}
_BASE = {"prompts.init": "statistics", "training.learning_rate": 2e-2}
_AT_001 = {"training.learning_rate": 1e-2}  # the default when what is recorded with it was run

GROUPS: dict[str, dict[str, dict[str, Any]]] = {
    "other methods": {
        **{f"lora, rate {rate:g}": {"method": "lora", "training.learning_rate": rate} for rate in (1e-3, 3e-3)},
        **{
            f"lora in every linear layer, rate {rate:g}": {
                "method": "lora",
                "lora.modules": ["query", "key", "value", "dense"],
                "training.learning_rate": rate,
            }
            for rate in (1e-3, 3e-3)
        },
        **{f"bitfit, rate {rate:g}": {"method": "bitfit", "training.learning_rate": rate} for rate in (3e-3, 1e-2)},
    },
    "fine-tuning": {
        f"fine-tuning {rate:g}": {
            "method": "fine-tuning",
            "training.learning_rate": rate,
            "training.backbone_dropout": "checkpoint",
        }
        for rate in (5e-5, 1e-4, 2e-4, 5e-4)
    },
    "start": {
        f"{name}, rate {rate:g}": {**start, "training.learning_rate": rate}
        for name, start in _STARTS.items()
        for rate in (5e-3, 1e-2, 2e-2, 4e-2, 8e-2)
    },
    "head rate": {
        f"head rate {rate:g}": {**_BASE, "training.head_learning_rate": rate} for rate in (5e-4, 2e-3, 5e-3, 2e-2)
    },
    "value rate": {
        f"keys {keys:g}, values {values:g}": {
            **_BASE,
            "training.learning_rate": keys,
            "training.value_learning_rate": values,
            "training.head_learning_rate": 2e-2,
        }
        for keys in (5e-3, 2e-2)
        for values in (2e-3, 5e-3, 2e-2, 8e-2)
    },
    "length": {f"length {length}": {**_BASE, "prompts.prompt_length": length} for length in (4, 8, 20, 50, 100)},
    "reparameterization": {
        **{
            f"mlp, rate {rate:g}": {"prompts.reparameterization": "mlp", "training.learning_rate": rate}
            for rate in (5e-4, 2e-3, 5e-3, 1e-2)
        },
        **{
            f"mlp, rate {rate:g}, head 0.01": {
                "prompts.reparameterization": "mlp",
                "training.learning_rate": rate,
                "training.head_learning_rate": 1e-2,
            }
            for rate in (2e-4, 1e-3, 2e-3, 5e-3)
        },
    },
    "warm-up": {f"warm-up {part:g}": {**_BASE, "training.warmup": part} for part in (0.0, 0.06, 0.2)},
    "schedule": {
        name: {**_BASE, "training.schedule": name} for name in ("linear", "constant", "exponential_per_epoch")
    },
    "backbone dropout": {name: {**_AT_001, "training.backbone_dropout": name} for name in ("checkpoint", "off")},
    "precision": {name: {**_AT_001, "training.precision": name} for name in ("bf16", "fp32")},
    "dropout": {
        "prompts 0.1": {**_BASE, "prompts.dropout": 0.1},
        "prompts 0.3": {**_BASE, "prompts.dropout": 0.3},
        "head 0": {**_BASE, "head.dropout": 0.0},
        "head 0.4": {**_BASE, "head.dropout": 0.4},
        "backbone as its checkpoint": {**_BASE, "training.backbone_dropout": "checkpoint"},
    },
    "weight decay": {f"weight decay {decay:g}": {**_BASE, "training.weight_decay": decay} for decay in (0.1, 1.0)},
    "layers": {layers: {**_BASE, "prompts.layers": layers} for layers in ("last:2", "last:4", "first:4")},
    "batch": {f"batch {size}": {**_BASE, "training.batch_size": size} for size in (4, 8, 16, 32)},
    "weight averaging": {
        "off": _BASE,
        **{
            f"decay {decay:g}": {**_BASE, "training.weight_averaging": "ema", "training.averaging_decay": decay}
            for decay in (0.9, 0.98, 0.995)
        },
        "constant rate, decay 0.995": {
            **_BASE,
            "training.schedule": "constant",
            "training.weight_averaging": "ema",
            "training.averaging_decay": 0.995,
        },
    },
    "gate": {
        f"gate {gate}, rate {rate:g}": {**_BASE, "prompts.gate": gate, "training.learning_rate": rate}
        for gate in ("none", "values")
        for rate in (1e-2, 2e-2, 4e-2)
    },
    "rate probe": {
        f"{name}, {how}": {**start, **rate}
        for name, start in _STARTS.items()
        for how, rate in {
            "rate 0.02": {"training.learning_rate": 2e-2},
            "probed": {"training.learning_rate_probe": True},
        }.items()
    },
}


def main() -> int:
    arguments = _arguments()
    output: Path = arguments.output
    done = read_lines(output)
    if arguments.table:
        print("\n".join(tables(done)))
        return 0
    if "PTUNING_DATA" not in os.environ:
        print("PTUNING_DATA is not set, expected a directory with the sets. Nothing was run.", file=sys.stderr)
        return 2
    data = Path(os.environ["PTUNING_DATA"])
    names = arguments.sets.split(",")
    unknown = sorted(set(names) - set(SETS)) + sorted({arguments.group} - set(GROUPS))
    if unknown:
        print(
            f"{', '.join(unknown)}: expected sets {', '.join(SETS)}, a group of {', '.join(GROUPS)}.", file=sys.stderr
        )
        return 2
    candidates = GROUPS[arguments.group]
    if arguments.only is not None:
        wanted = arguments.only.split(";")
        if strangers := sorted(set(wanted) - set(candidates)):
            print(f"--only names {', '.join(strangers)}, expected some of: {'; '.join(candidates)}.", file=sys.stderr)
            return 2
        candidates = {name: candidates[name] for name in wanted}
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        for name in names:
            if not (data / name).is_dir():
                print(f"{data / name} is not there, so {name} is left out.", file=sys.stderr)
                continue
            for candidate, own in candidates.items():
                key = {"set": name, "candidate": candidate, "seed": seed, "rows": arguments.rows}
                key |= {"epochs": arguments.epochs, "settings": own}
                if any(all(line[part] == value for part, value in key.items()) for line in done):
                    continue
                line = {**key, "group": arguments.group, **_run(data / name, SETS[name], own, seed, arguments)}
                output.parent.mkdir(parents=True, exist_ok=True)
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                done.append(line)
                print(f"{name} {candidate}: {100 * line['score']:.1f} in {line['seconds']:.0f} s", file=sys.stderr)
    print("\n".join(tables(done)))
    return 0


def _run(data: Path, task: str, own: dict[str, Any], seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains one candidate and returns what it reached on the development rows."""
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            **COMMON,
            "task": task,
            "data.path": str(data),
            "data.max_train_rows": arguments.rows,
            "training.epochs": arguments.epochs,
            "training.seed": seed,
            "output": str(Path(directory) / "run"),
            **own,
        }
        started = time.perf_counter()
        result = ptuning.train(ptuning.load_config(None, settings))
        lines = (Path(directory) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        resolved = ptuning.load_config(Path(directory) / "run" / "config.yaml")
    epochs = [json.loads(line) for line in lines]
    return {
        "metric": result.metric,
        "score": result.metrics[result.metric],
        "each": [round(epoch["validation"][result.metric], 4) for epoch in epochs],
        "train_loss": [round(epoch["train_loss"], 4) for epoch in epochs],
        "best_epoch": result.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
        "trained": result.counts["trained"],
        "learning_rate": resolved.training.learning_rate,
    }


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the results in a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def tables(lines: list[dict[str, Any]]) -> list[str]:
    """One table a group, rows and epochs, in Markdown: candidates by sets, means over seeds, and over sets if several.

    Args:
        lines: results, as `read_lines` gives them.
    """
    text: list[str] = []
    for group, rows, epochs in sorted({(line["group"], line["rows"] or 0, line["epochs"]) for line in lines}):
        own = [line for line in lines if (line["group"], line["rows"] or 0, line["epochs"]) == (group, rows, epochs)]
        sets = [name for name in SETS if any(line["set"] == name for line in own)]
        num_seeds = Counter(
            (one, name) for one, name, _ in {(line["candidate"], line["set"], line["seed"]) for line in own}
        )
        seeds = _span(num_seeds.values())
        is_even = seeds.isdecimal()
        about = f"{rows or 'all'} training rows, {epochs} epochs, {seeds} seed{'' if seeds == '1' else 's'}"
        text += ["", f"{group[0].upper()}{group[1:]}: {about}", ""]
        columns = [*(() if is_even else ("seeds",)), *sets, *(("mean",) if len(sets) > 1 else ())]
        text.append(f"| candidate | {' | '.join(columns)} |")
        text.append(f"| --- |{' --- |' * len(columns)}")
        for candidate in dict.fromkeys(line["candidate"] for line in own):
            means = []
            for name in sets:
                found = [line["score"] for line in own if (line["set"], line["candidate"]) == (name, candidate)]
                means.append(100 * statistics.fmean(found) if found else None)
            shown = [] if is_even else [_span(num for (one, _), num in num_seeds.items() if one == candidate)]
            shown += ["-" if mean is None else f"{mean:.1f}" for mean in means]
            whole = [mean for mean in means if mean is not None]
            if len(sets) > 1:
                shown.append(f"{statistics.fmean(whole):.1f}" if len(whole) == len(sets) else "-")
            text.append(f"| {candidate} | {' | '.join(shown)} |")
    return text[1:]


def _span(numbers: Iterable[int]) -> str:
    """Such as `1 to 3`, or `3` where all are."""
    found = sorted(set(numbers))
    return " to ".join(str(number) for number in dict.fromkeys((found[0], found[-1])))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/recipe_study.jsonl"), help="JSON lines, added to")
    parser.add_argument("--group", default="start", help=f"of candidates: {', '.join(GROUPS)}")
    parser.add_argument("--only", help="candidates of the group, with semicolons between them; default: all")
    parser.add_argument("--sets", default=",".join(SETS), help="with commas between them")
    parser.add_argument("--rows", type=int, help="training rows of a set at most")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=11, help="the first")
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
