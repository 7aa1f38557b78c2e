"""Multi-task prompts, the paper's MPT-2: several data sets of one kind learn one prompt, then each goes on alone.

    load_multitask_config(path) -> MultitaskConfig -> train_multitask(config) -> MultitaskResult

Source: Liu et al., ACL 2022, arXiv 2110.07602, on multi-task learning: the training sets of a kind of task combined, a
linear head for each data set, prompts shared by all, then used as the start for each. Its code was never released, and
the paper says neither whose batch is next nor how many steps each stage has. Both are settings here.

Names are imported on first use, as those of the package are.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptuning.multitask.results import MultitaskResult
    from ptuning.multitask.run import train_multitask
    from ptuning.multitask.settings import MultitaskConfig, load_multitask_config

_HOMES = {
    "MultitaskConfig": "ptuning.multitask.settings",
    "MultitaskResult": "ptuning.multitask.results",
    "load_multitask_config": "ptuning.multitask.settings",
    "train_multitask": "ptuning.multitask.run",
}

__all__ = ["MultitaskConfig", "MultitaskResult", "load_multitask_config", "train_multitask"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ptuning.multitask' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
