"""How large the prompts of a run were at each of its evaluations, from its `metrics.jsonl`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.errors import CheckpointError
from ptuning.training.directory import CANDIDATES_NAME, METRICS_NAME, POPULATION_NAME, PROMPT_NAME


@dataclass(frozen=True)
class NormPoint:
    """One evaluation.

    Attributes:
        epoch: that it ends, from 1.
        step: optimizer steps done.
        is_best: whether the prompt was saved then, until a better epoch came.
        layers: with prompts.
        keys: mean norm of the virtual tokens' keys at each of `layers`.
        values: that of their values.
    """

    epoch: int
    step: int
    is_best: bool
    layers: tuple[int, ...]
    keys: tuple[float, ...]
    values: tuple[float, ...]


def read_norms(prompt: Path) -> tuple[NormPoint, ...]:
    """Reads the norms at each evaluation of the training that made a prompt.

    Args:
        prompt: a prompt directory.

    Returns:
        One an evaluation that has them: none where the prompt is in no run, or in one of an older version.

    Raises:
        CheckpointError: `metrics.jsonl` is damaged.
    """
    path, candidate = _metrics_of(prompt)
    if path is None:
        return ()
    points = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            read: dict[str, Any] = json.loads(line)
            norms = read.get("prompt_norms")
            if norms is not None and read.get("candidate") == candidate:
                layers, keys, values = (tuple(norms[name]) for name in ("layers", "keys", "values"))
                points.append(NormPoint(read["epoch"], read["step"], bool(read["is_best"]), layers, keys, values))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{path} has a line {number} that is no evaluation of a run ({type(error).__name__}: {error}). "
                "Restore it, or train again."
            ) from error
    return tuple(points)


def _metrics_of(prompt: Path) -> tuple[Path | None, int | None]:
    """The file that a prompt's training wrote, and the candidate whose lines count; None for a prompt in no run."""
    run = prompt.parent
    if prompt.name != PROMPT_NAME:
        return None, None
    candidate: int | None = None
    if run.parent.name == CANDIDATES_NAME and run.name.isdecimal():
        candidate, run = int(run.name), run.parent.parent
    elif (run / POPULATION_NAME).is_file():
        candidate = json.loads((run / POPULATION_NAME).read_text(encoding="utf-8"))["best"]
    path = run / METRICS_NAME
    return (path, candidate) if path.is_file() else (None, None)
