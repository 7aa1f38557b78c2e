"""P-Tuning v2: one frozen pretrained encoder, small trained prompts at every layer, and a small head per task.

    attached = ptuning.attach(model, prompts)              # prompts on a transformers model of your own
    task = ptuning.load("runs/helpdesk-tickets")           # a saved prompt, its head, and its backbone
    task.predict([{"text": "where is my parcel?"}])

Names are imported on first use, so that the command line answers `--help` without importing torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptuning.version import __version__

if TYPE_CHECKING:
    from ptuning.attachment import Attached, attach
    from ptuning.backbones.loading import Backbone, load_backbone
    from ptuning.checkpoint import SavedPrompt, read_prompt
    from ptuning.compare import CompareConfig, compare_methods, load_compare_config
    from ptuning.config import RunConfig, load_config
    from ptuning.errors import PtuningError
    from ptuning.evaluation import evaluate
    from ptuning.multitask import MultitaskConfig, MultitaskResult, load_multitask_config, train_multitask
    from ptuning.predictor import Predictor, load
    from ptuning.prompts import DeepPrompts, PromptBank
    from ptuning.reports.comparison import report_comparison
    from ptuning.sharing import from_hub, push_to_hub
    from ptuning.training.population import PopulationResult, train_population
    from ptuning.training.run import train

_HOMES = {
    "Attached": "ptuning.attachment",
    "Backbone": "ptuning.backbones.loading",
    "CompareConfig": "ptuning.compare",
    "DeepPrompts": "ptuning.prompts",
    "MultitaskConfig": "ptuning.multitask",
    "MultitaskResult": "ptuning.multitask",
    "PopulationResult": "ptuning.training.population",
    "Predictor": "ptuning.predictor",
    "PromptBank": "ptuning.prompts",
    "PtuningError": "ptuning.errors",
    "RunConfig": "ptuning.config",
    "SavedPrompt": "ptuning.checkpoint",
    "attach": "ptuning.attachment",
    "compare_methods": "ptuning.compare",
    "evaluate": "ptuning.evaluation",
    "from_hub": "ptuning.sharing",
    "load": "ptuning.predictor",
    "load_backbone": "ptuning.backbones.loading",
    "load_compare_config": "ptuning.compare",
    "load_config": "ptuning.config",
    "load_multitask_config": "ptuning.multitask",
    "push_to_hub": "ptuning.sharing",
    "read_prompt": "ptuning.checkpoint",
    "report_comparison": "ptuning.reports.comparison",
    "train": "ptuning.training.run",
    "train_multitask": "ptuning.multitask",
    "train_population": "ptuning.training.population",
}

__all__ = [
    "Attached",
    "Backbone",
    "CompareConfig",
    "DeepPrompts",
    "MultitaskConfig",
    "MultitaskResult",
    "PopulationResult",
    "Predictor",
    "PromptBank",
    "PtuningError",
    "RunConfig",
    "SavedPrompt",
    "__version__",
    "attach",
    "compare_methods",
    "evaluate",
    "from_hub",
    "load",
    "load_backbone",
    "load_compare_config",
    "load_config",
    "load_multitask_config",
    "push_to_hub",
    "read_prompt",
    "report_comparison",
    "train",
    "train_multitask",
    "train_population",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ptuning' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
