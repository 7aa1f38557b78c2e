from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.training.run import train


@pytest.fixture(scope="session")
def tasks(tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Finished runs on one backbone: a classification, and tags with prompts of another length at one layer."""
    directory = tmp_path_factory.mktemp("diagnosed")
    train(tiny_run(directory / "colours"))
    own = {"prompts.prompt_length": 6, "prompts.layers": [1], "training.epochs": 1}
    train(tiny_run(directory / "tags", "token_classification", **own))
    return directory / "colours", directory / "tags"
