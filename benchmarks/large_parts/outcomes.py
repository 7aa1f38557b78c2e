"""What becomes of each case that was asked for: measured, too large for the memory, or failed for another reason.

A storage's cases are measured in a process of its own, which writes one JSON object a line as soon as each is known. So
whatever ends that process, what it had measured stays, and the other storages are measured all the same.
"""

from __future__ import annotations

import gc
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ptuning.training.guard import is_out_of_memory

MEASURED = "measured"
TOO_LARGE = "does not fit"
FAILED = "failed"

Case = dict[str, Any]


def attempt(measure: Callable[[], Case]) -> Case:
    """Returns what was measured, or that it does not fit: with its `outcome`, and in `error` what was said.

    Raises:
        Exception: whatever else is wrong.
    """
    try:
        return {"outcome": MEASURED, **measure()}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
    gc.collect()  # out of the handler, where the traceback would keep tensors
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return {"outcome": TOO_LARGE, "error": said}


def cases_of_process(command: Sequence[str], storage: str, asked: Sequence[tuple[int, int]]) -> Iterator[Case]:
    """Runs a storage's process, and passes on what it writes to standard error.

    Args:
        command: that writes a JSON object a line to standard output, of one case after another.
        storage: that it measures.
        asked: (prompt length, batch size) of the cases, in that order.

    Yields:
        What it wrote, and then the cases that it did not come to, with why: `error` has its exit status and the last
        line that it wrote to standard error. One that was killed from outside, as Linux does where memory runs out,
        is taken for one that does not fit.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as written:
        last = ""
        with subprocess.Popen(command, stdout=written, stderr=subprocess.PIPE, text=True, errors="replace") as process:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
        status = process.returncode
        written.seek(0)
        cases = [json.loads(line) for line in written if line.startswith("{") and line.endswith("}\n")]
    yield from cases
    outcome = TOO_LARGE if status == -signal.SIGKILL else FAILED
    for prompt_length, batch_size in asked[len(cases) :]:
        sizes = {"storage": storage, "prompt_length": prompt_length, "batch_size": batch_size}
        yield {**sizes, "outcome": outcome, "exit_status": status, "error": f"exit status {status}: {last}"}


def is_failure(case: Case) -> bool:
    """Whether a case lacks numbers, or its plan, for another reason than memory."""
    return case["outcome"] == FAILED or "largest_batch_error" in case or "plan_error" in case
