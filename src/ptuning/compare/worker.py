"""One cell of a comparison: a run as `ptuning.train` makes it, its held-out part scored, and what it cost.

    python -m ptuning.compare.worker DIRECTORY

    DIRECTORY/
      cell.json       what is to be done: settings, and which rows are reported
      run/            the run; goes on from its checkpoint where it was stopped
      result.json     what came out, written last
      failure.json    what went wrong instead

Progress goes to stdout, a JSON object a line; notes and warnings to stderr. The process ends when its stdin does, so
that none is left behind by a comparison that was killed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ptuning.allocation import imports_for_good
from ptuning.config import RunConfig
from ptuning.config.methods import METHODS
from ptuning.errors import CheckpointError, ConfigError, PtuningError, TrainingError
from ptuning.storage import replace_file

CELL_NAME = "cell.json"
RESULT_NAME = "result.json"
FAILURE_NAME = "failure.json"
RUN_NAME = "run"
LOG_NAME = "log.txt"

_SECONDS_TO_END = 60  # for a process of an earlier comparison


def write_cell(directory: Path, config: RunConfig, *, split: str, selection: str, keep: bool) -> None:
    """Writes what a worker is to do.

    Args:
        directory: of the cell.
        config: settings of the run.
        split: rows to report on.
        selection: `held_out` or `paper`.
        keep: whether checkpoints and fine-tuned backbones stay.
    """
    values = {"config": config.model_dump(mode="json"), "split": split, "selection": selection, "keep": keep}
    replace_file(directory / CELL_NAME, json.dumps(values, indent=1) + "\n")


def run_cell(directory: Path, tell: Callable[[dict[str, Any]], None] = lambda message: None) -> None:
    """Does what `cell.json` says, and writes `result.json`.

    Args:
        directory: of the cell.
        tell: is given the progress.

    Raises:
        PtuningError: as `ptuning.train` and `ptuning.evaluate` raise.
    """
    with imports_for_good():
        import torch

        from ptuning.compare.identity import portable_settings
        from ptuning.compare.machine import describe_machine, describe_versions, peak_memory_bytes
        from ptuning.config import load_config
        from ptuning.devices import find_device
        from ptuning.evaluation import evaluate
        from ptuning.reports.outcomes import Result
        from ptuning.training.directory import CONFIG_NAME, PROMPT_NAME

    asked = json.loads((directory / CELL_NAME).read_text(encoding="utf-8"))
    run = directory / RUN_NAME
    config = RunConfig.model_validate(asked["config"]).model_copy(update={"output": str(run)})
    _check_labels(config, asked["split"])
    before = time.process_time()
    trained = _train(config, run, tell)
    cpu_seconds, peak = time.process_time() - before, peak_memory_bytes()
    device = find_device(config.training.device)
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    resolved = load_config(run / CONFIG_NAME)
    is_papers = asked["selection"] == "paper"
    found = evaluate(run, split=asked["split"], device=config.training.device)
    metrics = trained.metrics if is_papers else found.metrics
    _check_finite(trained.metric, trained.metrics, "rows to choose by")
    _check_finite(trained.metric, metrics, f"{asked['split']} rows")
    files = (run / PROMPT_NAME).glob("*.safetensors")
    result = Result(
        metric=trained.metric,
        score=metrics[trained.metric],
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        split=asked["split"],
        num_rows=found.num_rows,
        development_score=trained.metrics[trained.metric],
        majority_score=found.majority.get(trained.metric),
        best_epoch=trained.best_epoch,
        steps=trained.steps,
        curve=_curve(run, trained.metric),
        counts=trained.counts,
        seconds=round(trained.seconds, 3),
        cpu_seconds=round(cpu_seconds, 3),
        peak_memory_bytes=peak,
        peak_gpu_memory_bytes=on_gpu,
        file_bytes=sum(file.stat().st_size for file in files),
        settings=portable_settings(resolved),
        machine=describe_machine(device),
        versions=describe_versions(),
    )
    replace_file(directory / RESULT_NAME, result.model_dump_json(indent=1) + "\n")
    (directory / FAILURE_NAME).unlink(missing_ok=True)
    if not asked["keep"]:
        drop_heavy_files(directory)


def drop_heavy_files(directory: Path) -> None:
    """Deletes of a finished cell what is only needed to go on, and a backbone that was tuned with the prompt."""
    from ptuning.training.directory import CHECKPOINT_NAME, CONFIG_NAME, PROMPT_NAME

    run = directory / RUN_NAME
    shutil.rmtree((run / CHECKPOINT_NAME).parent, ignore_errors=True)
    config = run / CONFIG_NAME
    if config.is_file():
        from ptuning.config import load_config

        if METHODS[load_config(config).method].trains_backbone:
            shutil.rmtree(run / PROMPT_NAME, ignore_errors=True)


def _check_labels(config: RunConfig, split: str) -> None:
    """Makes sure before the training that the rows to report on can be scored after it.

    Raises:
        PtuningError: they have no labels, or cannot be read.
    """
    if split == "validation":  # training reads these itself, with their labels
        return
    from ptuning.data.splits import SPLIT_NAMES
    from ptuning.evaluation import LoadedSplit, labelled
    from ptuning.tasks import get_kind, get_task
    from ptuning.tasks.loading import load_task_data

    task = get_task(config.task)
    data = load_task_data(config, task, None if split in SPLIT_NAMES else ["train", "validation", split])
    labelled(LoadedSplit(split, data.rows(split) or [], data.source, data.notes), get_kind(task.kind).label_role)


def _check_finite(metric: str, metrics: Mapping[str, float], rows: str) -> None:
    """Makes sure that there is a score: JSON has no other numbers, and a mean would be none.

    Raises:
        TrainingError: it is not a number.
    """
    if not math.isfinite(metrics[metric]):
        raise TrainingError(
            f"{metric} is {metrics[metric]} on the {rows}, expected a finite number: what the model says of some is "
            "none. Lower training.learning_rate, or set training.precision to fp32."
        )


def _train(config: RunConfig, run: Path, tell: Callable[[dict[str, Any]], None]) -> Any:
    """Trains, from where a stopped process left off if that is possible."""
    from ptuning.training.directory import CONFIG_NAME
    from ptuning.training.run import train

    report = _Told(tell)
    if (run / CONFIG_NAME).is_file() and METHODS[config.method].makes_steps:
        try:
            return train(config, resume=True, report=report)
        except (CheckpointError, ConfigError) as error:
            report.note(f"starting again, since the run cannot go on: {error}")
    return train(config, overwrite=run.exists(), report=report)


def _curve(run: Path, metric: str) -> list[Any]:
    from ptuning.reports.outcomes import Evaluation
    from ptuning.training.directory import METRICS_NAME

    if not (run / METRICS_NAME).is_file():
        return []  # methods that make no steps
    lines = (run / METRICS_NAME).read_text(encoding="utf-8").splitlines()
    return [
        Evaluation(
            epoch=line["epoch"],
            step=line["step"],
            train_loss=_finite(line.get("train_loss")),
            score=_finite(line["validation"].get(metric)),
        )
        for line in map(json.loads, lines)
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


class _Told:
    """A reporter that tells steps to the comparison, and writes notes and warnings to stderr."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell, self._total, self._last = tell, 0, -1.0

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)

    def start(self, total_steps: int, done: int) -> None:
        self._total = total_steps
        self._tell({"done": done, "of": total_steps})

    def step(self, step: int, loss: float) -> None:
        if self._total and step / self._total - self._last >= 0.01:
            self._last = step / self._total
            self._tell({"done": step, "of": self._total})

    def evaluated(self, evaluation: Any, metric: str) -> None:
        print(
            f"epoch {evaluation.epoch}, loss {evaluation.train_loss:.4f}, {metric} {evaluation.metrics[metric]:.4f}",
            file=sys.stderr,
        )

    def stop(self) -> None: ...


def _end_with_parent() -> None:
    """Ends this process when its stdin does, which it inherits from the comparison."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock this thread would still hold when the process ends
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str]) -> int:
    directory = Path(arguments[0])
    _end_with_parent()

    def tell(message: dict[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    try:
        with FileLock(directory / ".lock", timeout=_SECONDS_TO_END):
            run_cell(directory, tell)
    except Timeout:
        error = f"another process is working on {directory}. Wait for it, or end it."
        replace_file(directory / FAILURE_NAME, json.dumps({"error": error}) + "\n")
        return 1
    except Exception as error:
        traceback.print_exc()
        is_ours = isinstance(error, PtuningError)
        shown = str(error) if is_ours else f"{type(error).__name__}: {error}"
        replace_file(directory / FAILURE_NAME, json.dumps({"error": shown}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
