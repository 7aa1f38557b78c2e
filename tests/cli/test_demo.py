from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import load_backbone
from ptuning.demo import TASKS, DemoReport, TaskReport
from ptuning.training.run import RunResult

Ptuning = Callable[..., Any]
COUNTS = {"prompts": 1000, "head": 100, "backbone": 100_000, "transformer": 50_000}


def _report(backbone: Path, scores: tuple[float, float, float], probe: float = 0.2) -> DemoReport:
    tasks = []
    for task, metric, score in zip(TASKS, ("accuracy", "f1", "f1"), scores, strict=True):
        result = RunResult(Path("runs"), metric, {metric: score}, 1, 10, 2.0, COUNTS)
        tasks.append(TaskReport(task, result, ("mean", probe), 12_345))
    answers: list[Any] = [
        ("tickets", {"text": "where [is] it"}, {"label": "delivery", "score": 0.9}),
        ("entities", {"text": "to Leeds"}, {"entities": [{"type": "PLACE", "text": "Leeds", "start": 3, "end": 8}]}),
        ("questions", {"question": "who?", "context": "Ann did."}, {"start": 0, "end": 3, "score": 0.5}),
        ("questions", {"question": "why?", "context": "Ann did."}, {"start": None, "end": None, "score": 0.5}),
    ]
    return DemoReport(load_backbone(backbone), tasks, answers)


@pytest.fixture
def demo(ptuning: Ptuning, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(scores: tuple[float, float, float], *arguments: str) -> Any:
        monkeypatch.setattr("ptuning.demo.run_demo", lambda *_, **__: _report(tiny_backbone, scores))
        return ptuning("demo", *arguments)

    return run


def test_floors_that_are_met_are_said(demo: Callable[..., Any]) -> None:
    result = demo((0.9, 0.8, 0.6))
    assert (result.status, result.err) == (0, "")
    assert "All floors met: helpdesk/tickets 85%, helpdesk/entities 70%, helpdesk/questions 45% and 2 x probe." in (
        result.out
    )
    for said in ("90.0%", "1.00%", "0.01 MB", "where [is] it", "PLACE", "the article does not say"):
        assert said in result.out


def test_a_floor_that_is_missed_fails(demo: Callable[..., Any]) -> None:
    result = demo((0.84, 0.8, 0.6))
    assert result.status == 1
    assert result.err == "missed: helpdesk/tickets: accuracy 0.840, floor 0.85\n"
    assert "All floors met" not in result.out


def test_twice_the_probe_is_a_floor_too(demo: Callable[..., Any]) -> None:
    result = demo((0.9, 0.8, 0.39))
    assert result.status == 1
    assert result.err.splitlines() == [
        "missed: helpdesk/questions: f1 0.390, floor 0.45",
        "missed: helpdesk/questions: f1 0.390, less than 2 times the linear probe's 0.200",
    ]


def test_quick_checks_no_floor(demo: Callable[..., Any]) -> None:
    result = demo((0.1, 0.1, 0.1), "--quick")
    assert result.status == 0 and "no floor is checked" in result.out
