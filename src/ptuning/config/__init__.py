"""Settings of a run, from defaults, a recipe, a file, and flags. No torch here.

    load_config(path, overrides) -> RunConfig -> train(config)

Precedence: defaults < recipe < file < overrides (flags, then `--set`). All problems of a file are reported together.
"""

from ptuning.config.loading import load_config, parse_settings
from ptuning.config.methods import METHODS, Method, with_method_defaults
from ptuning.config.recipes import ShippedRecipe, shipped_recipes
from ptuning.config.settings import DataConfig, HeadConfig, PromptsConfig, RunConfig, TrainingConfig, setting_names

__all__ = [
    "METHODS",
    "DataConfig",
    "HeadConfig",
    "Method",
    "PromptsConfig",
    "RunConfig",
    "ShippedRecipe",
    "TrainingConfig",
    "load_config",
    "parse_settings",
    "setting_names",
    "shipped_recipes",
    "with_method_defaults",
]
