"""Cells in processes: a stand-in for the worker, so that nothing is trained here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.compare import processes
from ptuning.compare.cells import Cell, main_cells
from ptuning.compare.processes import places, run_cells, usual_workers
from ptuning.compare.reporting import Silent, shown_left
from ptuning.compare.settings import CompareConfig

Make = Callable[..., CompareConfig]

# What a worker does, by the name of its cell's seed.
WORKER = """
import json, os, signal, sys, time
from pathlib import Path
directory = Path(sys.argv[1])
seed = json.loads((directory / "cell.json").read_text())
print(json.dumps({"done": 1, "of": 2}), flush=True)
print("not for us", flush=True)
if seed == 1:
    (directory / "failure.json").write_text(json.dumps({"error": "no such thing"}))
    sys.exit(1)
if seed == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 3:
    sys.exit(7)
(directory / "at").write_text(f"{time.monotonic()} {os.environ.get('OMP_NUM_THREADS')}")
time.sleep(0.4)
(directory / "result.json").write_text("{}")
"""


class Heard(Silent):
    def __init__(self) -> None:
        self.ends: list[tuple[int, str, int]] = []
        self.most = 0.0

    def moved(self, done: float, seconds_left: float | None) -> None:
        self.most = max(self.most, done % 1)

    def ended(self, cell: Cell, came: str, number: int, seconds: float, seconds_left: float | None) -> None:
        self.ends.append((cell.seed, came, number))


@pytest.fixture
def run(settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Heard]:
    started = subprocess.Popen

    def popen(command: list[str], **options: Any) -> Any:
        return started([sys.executable, "-c", WORKER, command[-1]], **options)

    monkeypatch.setattr(processes.subprocess, "Popen", popen)

    def start(seeds: list[int], workers: int) -> Heard:
        cells = main_cells(settings(tmp_path, seeds=seeds), {})
        for cell in cells:
            (tmp_path / str(cell.seed)).mkdir()
            (tmp_path / str(cell.seed) / "cell.json").write_text(str(cell.seed))
        heard = Heard()
        run_cells(
            cells,
            lambda cell: tmp_path / str(cell.seed),
            workers=workers,
            watcher=heard,
            done_before=2,
            ended=lambda cell, error: error or "well",
        )
        return heard

    return start


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_one_that_fails_leaves_the_others(run: Callable[..., Heard], tmp_path: Path) -> None:
    heard = run([1, 2, 3, 4], workers=1)
    assert heard.ends == [
        (1, "no such thing", 3),
        (2, "its process was killed by SIGKILL, perhaps for want of memory; log.txt has its last words", 4),
        (3, "its process ended with status 7; log.txt has its last words", 5),
        (4, "well", 6),
    ]
    assert heard.most == 0.5  # the half of its steps that the last one has told


def test_several_run_at_once_with_their_share_of_the_cores(
    run: Callable[..., Heard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    assert len(run([4, 5], workers=2).ends) == 2
    (first, threads), (second, _) = ((tmp_path / seed / "at").read_text().split() for seed in ("4", "5"))
    assert abs(float(first) - float(second)) < 0.4 and threads == "3"


def test_gpus_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert [place["CUDA_VISIBLE_DEVICES"] for place in places(3)] == ["2", "5", "2"]
    assert "CUDA_VISIBLE_DEVICES" not in places(1)[0]
    assert usual_workers() == 2
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert usual_workers() == 1


def test_time_left_is_rounded() -> None:
    found = [shown_left(seconds) for seconds in (None, 12.0, 100.0, 3000.0, 9000.0)]
    assert found == ["", "about 10 s left", "about 2 min left", "about 50 min left", "about 2.5 h left"]
