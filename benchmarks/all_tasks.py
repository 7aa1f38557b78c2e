"""Every kind of task on real data: prompts beside a linear probe, default settings, one seed.

    PTUNING_DATA=my_data python benchmarks/all_tasks.py --output runs/all_tasks
    PTUNING_DATA=my_data python benchmarks/all_tasks.py --output runs/all_tasks --only rte,copa --seed 12

`PTUNING_DATA` is a directory with a directory for each set below, as JSON lines with the columns of the Hugging Face
copies; sets that are not there are named and left out. Each set is a run of `compare_linear_probe.py` in this process;
its result goes to OUTPUT/<set>.json when it is done, and what is there already is not run again. So a stopped program
goes on, and several may share the sets (`--only`).

The table has the deciding metric in percent: on the validation rows, which also picked the best epoch. Seconds are of
the CPU, over all threads, for training with an evaluation each epoch. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from compare_linear_probe import compare

import ptuning

SETS = {
    "boolq": "super_glue/boolq",
    "cb": "super_glue/cb",
    "copa": "super_glue/copa",
    "multirc": "super_glue/multirc",
    "record": "super_glue/record",
    "rte": "super_glue/rte",
    "wsc": "super_glue/wsc",
    "cola": "glue/cola",
    "sst2": "glue/sst2",
    "mrpc": "glue/mrpc",
    "stsb": "glue/stsb",
    "conll2003": "conll2003",
    "conll04": "conll2004",
    "wnut17": "wnut17",
    "srl_ewt": "srl/ewt",
    "squad": "squad",
    "squad_v2": "squad_v2",
}
"""Directory in `PTUNING_DATA` -> preset."""


def main() -> int:
    arguments = _arguments()
    if "PTUNING_DATA" not in os.environ:
        print("PTUNING_DATA is not set, expected a directory with the sets. Nothing was run.", file=sys.stderr)
        return 2
    data, output = Path(os.environ["PTUNING_DATA"]), arguments.output
    output.mkdir(parents=True, exist_ok=True)
    wanted = arguments.only.split(",") if arguments.only else list(SETS)
    unknown = sorted(set(wanted) - set(SETS))
    if unknown:
        print(f"--only names {', '.join(unknown)}, expected some of {', '.join(SETS)}.", file=sys.stderr)
        return 2
    results = []
    for name in wanted:
        if not (data / name).is_dir():
            print(f"{data / name} is not there, so {name} is left out.", file=sys.stderr)
            continue
        path = output / f"{name}.json"
        if not path.is_file():
            settings = {
                "task": SETS[name],
                "backbone": arguments.backbone,
                "data.path": str(data / name),
                "training.device": "cpu",
                "training.seed": arguments.seed,
                "output": str(output / name),
            }
            path.write_text(json.dumps(compare(ptuning.load_config(None, settings))) + "\n", encoding="utf-8")
        results.append({"set": name, **json.loads(path.read_text(encoding="utf-8"))})
    print("| set | preset | train | validation | metric | most frequent | linear probe | P-Tuning v2 | steps | CPU s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for result in results:
        scores = result["scores"]
        probe, pooling = max((score, name) for name, score in scores.items() if name.startswith("linear"))
        cells = [
            result["set"],
            f"`{result['task']}`",
            str(result["num_train_examples"]),
            str(result["num_validation_rows"]),
            result["metric"],
            f"{100 * scores['most frequent answer']:.1f}" if "most frequent answer" in scores else "-",
            f"{100 * probe:.1f} ({pooling.removeprefix('linear probe, ')})",
            f"{100 * scores['prompts']:.1f}",
            str(result["steps"]),
            f"{result['cpu_seconds']['prompts']:.0f}",
        ]
        print(f"| {' | '.join(cells)} |")
    print(json.dumps({"benchmark": "all_tasks", "seed": arguments.seed, "results": results}))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("runs/all_tasks"), help="directory of the runs")
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--only", help="sets, with commas between them")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
