"""Methods compared: methods x tasks x backbones x seeds, each cell a run in a process of its own.

settings.py     what is crossed
cells.py        the cells that follow, and which of several tried settings is the best
identity.py     what decides a cell's result, as a digest, so that finished cells are kept
worker.py       one cell: training, a scored held-out part, what it cost
processes.py    cells in processes, some at once, with the time left
run.py          all of it, in a directory that can be taken up again
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptuning.compare.run import compare_methods
    from ptuning.compare.settings import CompareConfig, load_compare_config

_HOMES = {
    "CompareConfig": "ptuning.compare.settings",
    "compare_methods": "ptuning.compare.run",
    "load_compare_config": "ptuning.compare.settings",
}

__all__ = ["CompareConfig", "compare_methods", "load_compare_config"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ptuning.compare' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
