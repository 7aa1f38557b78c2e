"""Starts runs and kills them with SIGKILL at chosen moments. A script of its own: forking wants one thread.

    python killed.py PLAN.json      # [{"moment": ..., "overrides": {...}, "resume": false}, ...]

Prints the signal that ended each run, as a JSON list.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ptuning import storage
from ptuning.config import load_config
from ptuning.training import run, state


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(number: int, before: Callable[..., Any], after: Callable[..., Any] | None = None) -> Any:
    """Runs `before` at the call of this number, or the function and then `after` where that is given."""
    calls = 0

    def made(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number and after is None:
                before()
            result = function(*args, **more)
            if calls == number and after is not None:
                after()
            return result

        return wrapped

    return made


def arrange(moment: str, directory: Path) -> None:
    """Makes this process die at a moment."""
    where, _, number = moment.partition(" ")
    count = int(number)
    if where == "step":  # after the optimizer has moved, before anything is written
        torch.optim.AdamW.step = on_call(count, die, die)(torch.optim.AdamW.step)
    elif where == "evaluated":
        run.run_examples = on_call(count, die, die)(run.run_examples)
    elif where == "line-half-written":

        def half() -> None:
            with (directory / "metrics.jsonl").open("a") as file:
                file.write('{"epoch": 9, "st')
            die()

        run.save_prompt = on_call(count, half)(run.save_prompt)
    elif where == "prompt-saved":
        run.save_prompt = on_call(count, die, die)(run.save_prompt)
    elif where == "tensors-written":
        state.save_file = on_call(count, die, die)(state.save_file)
    elif where == "checkpoint-aside":  # the old one is moved away, the new one not in its place
        exchange = os.rename

        def rename(source: Any, target: Any) -> None:
            if str(target).endswith("/last") and (directory / "checkpoints" / ".last.old").exists():
                die()
            exchange(source, target)

        storage.os.rename = rename
    else:
        raise ValueError(moment)


def main() -> None:
    torch.set_num_threads(1)
    plan = json.loads(Path(sys.argv[1]).read_text())
    warm = {**plan[0]["overrides"], "output": str(Path(sys.argv[1]).parent / "warm"), "training.max_steps": 1}
    run.train(load_config(None, warm))  # what is imported on first use is imported once
    signals = []
    for entry in plan:
        child = os.fork()
        if child == 0:
            config = load_config(None, entry["overrides"])
            arrange(entry["moment"], Path(config.output))
            run.train(config, resume=entry["resume"])
            os._exit(0)
        signals.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
    print(json.dumps(signals))


if __name__ == "__main__":
    main()
