"""Seconds from the start of the process `ptuning train` to the end of its first optimizer step.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --task classification --data my_dir --repeats 9

Each repeat starts three processes, one after the other: `cold`, with nothing in the cache of tokenized rows; `warm`,
with what the cold one left there; and `floor`, which only imports torch and transformers and loads the same backbone
and tokenizer, as any program on them must. The files themselves are in the system's memory: one uncounted round is run
first. Medians over `--repeats`, in seconds. Beside them where the time goes:

    imports   until the command has imported what it needs
    backbone  weights, tokenizer and numbers of the backbone
    data      rows read, checked and tokenized, or their tokens read from the cache
    step      prompts, head and optimizer made, and one step

The last line is one JSON object. The cache and the runs are in a temporary directory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PHASES = ("imports", "backbone", "data", "step")

# The command as it is. What is timed is wrapped once the command's own imports are done, so that their order stays.
_TRAIN = """
import os, sys, time
from ptuning.cli import main, quiet

times = {}

def stamped(function, name, then=None):
    def call(*arguments, **options):
        result = function(*arguments, **options)
        times.setdefault(name, time.time())
        if then is not None:
            then()
        return result
    return call

def stop():
    print("times", *(times[name] for name in ("imports", "backbone", "data", "step")), flush=True)
    os._exit(0)

def wrap():
    import torch
    from ptuning.training import run
    run.load_backbone_of = stamped(run.load_backbone_of, "backbone")
    run.prepare_task = stamped(run.prepare_task, "data")
    torch.optim.AdamW.step = stamped(torch.optim.AdamW.step, "step", stop)

quiet.quiet_libraries = stamped(quiet.quiet_libraries, "imports", wrap)
sys.argv = ["ptuning", "train", *sys.argv[1:]]
main()
"""

_FLOOR = """
import sys, time
import torch
from transformers import AutoModel, AutoTokenizer
AutoModel.from_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(sys.argv[1])
print("times", time.time(), flush=True)
"""


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as directory:
        result = measure(arguments, Path(directory))
    print(
        f"{arguments.task} on {arguments.backbone}; {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} CPUs; medians of {arguments.repeats}, seconds"
    )
    print(f"{'':<8}{'in all':>9}" + "".join(f"{phase:>10}" for phase in PHASES))
    for name in ("cold", "warm"):
        own = result[name]
        print(f"{name:<8}{own['seconds']:>9.2f}" + "".join(f"{own[phase]:>10.2f}" for phase in PHASES))
    print(f"{'floor':<8}{result['floor']['seconds']:>9.2f}")
    print(json.dumps({"benchmark": "start_up", **vars(arguments), "cpus": os.cpu_count(), **result}))


def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, dict[str, float]]:
    """Returns medians of the seconds of each kind of start, and of the phases of those of ours."""
    environment = {**os.environ, "PTUNING_CACHE": str(directory / "cache")}
    source = _source(arguments.backbone)
    starts: dict[str, list[list[float]]] = {"cold": [], "warm": [], "floor": []}
    for repeat in range(arguments.repeats + 1):
        shutil.rmtree(directory / "cache" / "encoded", ignore_errors=True)
        for name, times in starts.items():
            if name == "floor":
                command = [_FLOOR, source]
            else:
                command = [_TRAIN, *_train_options(arguments), "--output", str(directory / f"{name}-{repeat}")]
            seconds = _seconds_until(command, environment)
            if repeat:  # the first round warms the system's own caches
                times.append(seconds)
    result: dict[str, dict[str, float]] = {"floor": {"seconds": statistics.median(t for (t,) in starts["floor"])}}
    for name in ("cold", "warm"):
        own = {"seconds": statistics.median(times[-1] for times in starts[name])}
        for place, phase in enumerate(PHASES):
            own[phase] = statistics.median(times[place] - (times[place - 1] if place else 0) for times in starts[name])
        result[name] = own
    return {name: {key: round(value, 3) for key, value in own.items()} for name, own in result.items()}


def _seconds_until(command: list[str], environment: dict[str, str]) -> list[float]:
    """Starts a process, and returns the seconds from there to each of the times that it prints."""
    started = time.time()
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("times ")]
    if not lines:
        sys.exit(f"the process printed no times: {done.stderr.strip()}")
    return [float(text) - started for text in lines[-1].split()[1:]]


def _train_options(arguments: argparse.Namespace) -> list[str]:
    options = ["--task", arguments.task, "--backbone", arguments.backbone, "--quiet"]
    options += ["--data", arguments.data] if arguments.data else []
    return options + [word for setting in arguments.set for word in ("--set", setting)]


def _source(backbone: str) -> str:
    """What transformers loads the backbone from."""
    from ptuning.backbones import embedded

    return str(embedded.minilm_directory()) if backbone == embedded.NAME else backbone


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", default="helpdesk/tickets", help="as of `ptuning train`")
    parser.add_argument("--data", default=None, help="as of `ptuning train`")
    parser.add_argument("--backbone", default="minilm", help="as of `ptuning train`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `ptuning train`")
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
