from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture(scope="session")
def tiny_multitask(tiny_backbone: Path, tiny_data: Callable[..., Path]) -> Callable[..., MultitaskConfig]:
    """Settings of short runs on two data sets of 24 and 40 rows: `tiny_multitask(directory, steps=4)`."""

    def settings(output: Path, kind: str = "classification", **overrides: Any) -> MultitaskConfig:
        return load_multitask_config(
            None,
            {
                "tasks.first.task": kind,
                "tasks.first.data.path": str(tiny_data(kind)),
                "tasks.second.task": kind,
                "tasks.second.data.path": str(tiny_data(kind, 40, 1)),
                "steps": 8,
                "seeds": [11],
                "backbone": str(tiny_backbone),
                "prompts.prompt_length": 4,
                "training.batch_size": 8,
                "training.device": "cpu",
                "output": str(output),
                **overrides,
            },
        )

    return settings
