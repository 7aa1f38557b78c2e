from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from transformers.utils import logging as transformers_logging

from ptuning.cli import main


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def ptuning(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Runs the command in this process: `ptuning("info", directory)`; stdin from `stdin=`."""
    own = logging.getLogger("ptuning")
    handlers, propagate = own.handlers, own.propagate
    of_hub = huggingface_hub.logging.get_verbosity()
    verbosity, of_datasets = transformers_logging.get_verbosity(), datasets.logging.get_verbosity()

    def run(*arguments: Any, stdin: str = "") -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["ptuning", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return Result(int(stopped.value.code or 0), out, err)

    yield run
    own.handlers, own.propagate = handlers, propagate
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()
    datasets.logging.set_verbosity(of_datasets)
    datasets.enable_progress_bars()
    huggingface_hub.logging.set_verbosity(of_hub)


@pytest.fixture(scope="session")
def trained(tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a classification."""
    from ptuning.training.run import train

    directory = tmp_path_factory.mktemp("cli") / "colours"
    train(tiny_run(directory))
    return directory
