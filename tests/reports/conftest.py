from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ptuning.reports.outcomes import Comparison, Evaluation, Outcome, Result


def _result(score: float, **more: Any) -> Result:
    values: dict[str, Any] = {
        "metric": "accuracy",
        "score": score,
        "metrics": {"accuracy": score},
        "split": "validation",
        "num_rows": 100,
        "development_score": score + 0.01,
        "best_epoch": 2,
        "steps": 20,
        "curve": [Evaluation(epoch=n, step=10 * n, train_loss=1 / n, score=score * n / 3) for n in (1, 2, 3)],
        "counts": {"trained": 1100, "head": 100, "prompts": 1000, "backbone": 100_000, "transformer": 50_000},
        "seconds": 10.0,
        "peak_memory_bytes": 500_000_000,
        "file_bytes": 40_000,
        "machine": {"processor": "A processor", "threads": 2},
    }
    return Result.model_validate({**values, **more})


@pytest.fixture(scope="session")
def outcome() -> Callable[..., Outcome]:
    """A cell by hand: `outcome("p-tuning-v2", "rte", 0.8, seed=12)`; a score of None is a failure."""

    def make(
        method: str,
        task: str = "rte",
        score: float | None = 0.8,
        *,
        seed: int = 11,
        backbone: str = "small",
        part: str = "main",
        place: dict[str, Any] | None = None,
        base: str | None = None,
        tries: int = 1,
        **more: Any,
    ) -> Outcome:
        return Outcome.model_validate(
            {
                "part": part,
                "method": method,
                "base_method": base or method,
                "task": task,
                "backbone": backbone,
                "seed": seed,
                "place": place or {},
                "key": f"{method}-{task}-{backbone}-{seed}-{part}-{place}",
                "num_tries": tries,
                "result": None if score is None else _result(score, **more),
                "error": "memory ran out" if score is None else None,
            }
        )

    return make


@pytest.fixture(scope="session")
def comparison() -> Callable[..., Comparison]:
    """`comparison(outcome(...), outcome(...), selection="paper")`."""

    def make(*outcomes: Outcome, **more: Any) -> Comparison:
        return Comparison(**{"selection": "held_out", "outcomes": outcomes, **more})

    return make


@pytest.fixture(scope="session")
def study(outcome: Callable[..., Outcome], comparison: Callable[..., Comparison]) -> Comparison:
    """A comparison with everything in it: three methods, two tasks, two backbones, two seeds, sweeps, a search."""
    found = []
    for size, (backbone, count) in enumerate({"small": 22_000_000, "large": 330_000_000}.items()):
        for place, method in enumerate(("p-tuning-v2", "prompt-tuning", "fine-tuning", "prompting")):
            trained = {"p-tuning-v2": 92_260, "prompt-tuning": 7_780, "fine-tuning": count + 100, "prompting": 0}[
                method
            ]
            head = 100 if trained else 0
            for task, base in (("rte", 0.62), ("boolq", 0.7)):
                for seed in (11, 12):
                    score = base + 0.08 * size - 0.03 * place + 0.004 * (seed - 11)
                    counts = {"trained": trained, "head": head, "backbone": count, "transformer": count // 2}
                    curve = None if trained else {"curve": []}
                    found.append(
                        outcome(method, task, score, seed=seed, backbone=backbone, counts=counts, **(curve or {}))
                    )
    for task in ("rte", "boolq"):
        for k in (1, 3, 6):
            for side, bonus in (("last", 0.02), ("first", 0.0)):
                place = {"layers": f"{side}:{k}"}
                found.append(outcome("p-tuning-v2", task, 0.55 + 0.02 * k + bonus, part="depth", place=place))
        for length in (1, 4, 16, 64, 128):
            for how in ("none", "mlp"):
                place = {"prompt_length": length, "reparameterization": how}
                score = 0.6 + 0.001 * length * (how == "mlp")
                found.append(outcome("p-tuning-v2", task, score, part="length", place=place))
        found.append(outcome("fine-tuning", task, 0.5, part="try", place={"training.learning_rate": 1e-5}))
    return comparison(*found)
