"""Backbones of which nothing but `config.json` is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def config_alone(tiny_model: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the config of a tiny model to a directory: `config_alone("bert", hidden_dropout_prob=0.1)`."""

    def write(name: str, **overrides: Any) -> Path:
        directory = tmp_path_factory.mktemp("config") / name
        tiny_model(name, **overrides).config.save_pretrained(directory)
        return directory

    return write
