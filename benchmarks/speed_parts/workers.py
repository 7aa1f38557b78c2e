"""Trainings in processes of their own, advanced in turns: the side of the process that measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Job:
    """What a process is started for.

    Attributes:
        module: `our_script` or `usual_script`.
        settings: of the script.
        python: interpreter; this one by default.
    """

    module: str
    settings: Mapping[str, Any]
    python: str = sys.executable


@dataclass
class Worker:
    """A process that stands still until it is told to go on.

    Attributes:
        seconds: of each turn so far.
        scores: (turns done, score) of each evaluation so far.
        peak_bytes: the most memory that it has held.
        is_over: whether it has done all.
    """

    name: str
    process: subprocess.Popen[str]
    errors: Any
    seconds: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    peak_bytes: int = 0
    is_over: bool = False
    _is_started: bool = False

    @classmethod
    def start(cls, name: str, job: Job, directory: Path) -> Worker:
        """Starts a process, which goes on to the end of its first turn.

        Args:
            name: of the side, for messages.
            job: what to run.
            directory: for its settings and what it prints.
        """
        # Names are made here, since sides of several parts have the same one.
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=directory, delete=False) as file:
            json.dump(job.settings, file)
        errors = Path(file.name).with_suffix(".err").open("w+", encoding="utf-8")
        process = subprocess.Popen(
            [job.python, "-m", f"speed_parts.{job.module}", file.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(BENCHMARKS), os.getenv("PYTHONPATH"))))},
        )
        return cls(name, process, errors)

    def advance(self) -> None:
        """Runs one turn; the first was run when the process started, and is waited for.

        Raises:
            SystemExit: the process failed; what it printed last is in the message.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        if self._is_started:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        self._is_started = True
        for line in self.process.stdout:
            message = json.loads(line)
            self.peak_bytes = max(self.peak_bytes, message["peak_bytes"])
            if message["event"] == "evaluated":
                self.scores.append((len(self.seconds), message["score"]))
            elif message["event"] == "end":
                self.is_over = True
                return
            else:
                self.seconds.append(message["seconds"])
                return
        self.errors.seek(0)
        tail = "\n".join(self.errors.read().splitlines()[-15:])
        raise SystemExit(f"the process of {self.name} ended with status {self.process.wait()} before its turn:\n{tail}")

    def stop(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None and self.is_over:
            self.process.wait()
        self.process.terminate()
        self.process.wait()
        self.errors.close()


def start_all(jobs: Mapping[str, Job], directory: Path) -> dict[str, Worker]:
    """Starts processes at once, and returns them when all have done their first turn, which nobody counts."""
    workers: dict[str, Worker] = {}
    try:
        for name, job in jobs.items():
            workers[name] = Worker.start(name, job, directory)
        for worker in workers.values():
            worker.advance()
    except BaseException:
        stop_all(workers)
        raise
    return workers


def stop_all(workers: Mapping[str, Worker]) -> None:
    """Ends all processes."""
    for worker in workers.values():
        worker.stop()


def take_turns(workers: Mapping[str, Worker], counts: Mapping[str, int], *, stretches: int) -> dict[str, set[int]]:
    """Advances each worker by its count of turns, in stretches that alternate with those of the others.

    A process that stood still finds its memory out of the caches, and perhaps given back to the machine: what is lost
    with the first turn of a stretch is an effect of the measurement.

    Args:
        workers: by name.
        counts: turns of each.
        stretches: of each; fewer for one that has fewer turns.

    Returns:
        For each worker which of these turns, from 0, came first in a stretch.
    """
    first: dict[str, set[int]] = {name: set() for name in counts}
    done = dict.fromkeys(counts, 0)
    for name, turns in stretched(counts, stretches):
        first[name].add(done[name])
        for _ in range(turns):
            workers[name].advance()
        done[name] += turns
    return first


def stretched(counts: Mapping[str, int], stretches: int) -> Sequence[tuple[str, int]]:
    """Returns (name, turns) of all stretches in order: each name has its share of turns in each round."""
    found = []
    for stretch in range(stretches):
        for name, count in counts.items():
            turns = (stretch + 1) * count // stretches - stretch * count // stretches
            if turns:
                found.append((name, turns))
    return found
