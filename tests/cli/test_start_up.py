"""What a run has imported, and whether it has written to its cache, when it takes its first step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HEAVY = ("datasets", "pandas", "pyarrow", "sklearn", "torchmetrics", "sentence_transformers", "fastapi", "matplotlib")

_CODE = """
import os, sys
import torch

def step(*args, **options):
    print("first step with", sorted(set({heavy!r}) & set(sys.modules)), flush=True)
    os._exit(0)

torch.optim.AdamW.step = step
sys.argv = ["ptuning", "train", *sys.argv[1:]]
from ptuning.cli import main
main()
"""


def test_nothing_heavy_is_imported_before_the_first_step(
    tiny_backbone: Path, tiny_data: Callable[..., Path], tmp_path: Path
) -> None:
    data = str(tiny_data("classification"))
    settings = ["data.max_length=48", "prompts.prompt_length=4", "training.device=cpu"]
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(heavy=HEAVY), "--task", "classification", "--data", data]
        + ["--backbone", str(tiny_backbone), "--output", str(tmp_path / "run")]
        + [word for setting in settings for word in ("--set", setting)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "first step with []"
    assert "TOKENIZERS_PARALLELISM" not in done.stderr
