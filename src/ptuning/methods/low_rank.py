"""LoRA, through PEFT: a low-rank change of the query and value projections (or of other linear layers)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from ptuning.backbones.families import Family, attention_modules
from ptuning.errors import ConfigError, MissingDependencyError
from ptuning.methods.adaptation import Adaptation

_ADAPTER = "default"
# What families call query and value; where one matrix makes query, key and value, it is changed as a whole.
_QUERY_AND_VALUE = {"query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "q", "v", "query_proj", "value_proj"}
_ALL_IN_ONE = {"Wqkv", "qkv_proj", "in_proj", "query_key_value"}


@final
class LowRank(Adaptation):
    """A low-rank change of some linear layers of an encoder.

    Args:
        trunk: the encoder.
        family: its family.
        rank: of the change.
        alpha: the change is scaled by alpha / rank.
        dropout: on what goes into the change.
        modules: last parts of the names of the linear layers; without it those of query and value.

    Raises:
        MissingDependencyError: PEFT is not installed.
        ConfigError: no linear layer has one of the names.

    Source: Hu et al. 2022; PEFT makes, initialises and runs it.
    """

    name: ClassVar[str] = "lora"

    def __init__(
        self,
        trunk: nn.Module,
        family: Family,
        *,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        modules: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        _require_peft()
        self._options: dict[str, Any] = {
            "rank": rank,
            "alpha": alpha,
            "modules": None if modules is None else list(modules),
        }
        self._dropout = dropout
        self._targets = _targets(trunk, family, modules)
        self._tuner: Any = None
        self._start: Mapping[str, Tensor] = {}

    def start_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Begins with a saved change when attached; names and shapes were checked."""
        self._start = tensors

    def attach(self, trunk: nn.Module) -> None:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel

        config = LoraConfig(
            r=self._options["rank"],
            lora_alpha=self._options["alpha"],
            lora_dropout=self._dropout,
            target_modules=self._targets,
            bias="none",
        )
        tuner = LoraModel(trunk, config, _ADAPTER)
        with torch.no_grad():
            for name, parameter in self._changes(tuner).items():
                parameter.data = parameter.data.float()  # whatever the backbone is stored in
                if self._start:
                    parameter.copy_(self._start[f"lora.{name}"])
        # A tuple keeps the encoder out of this module's own parameters: the model has it already.
        self._tuner = (tuner,)

    def remove(self) -> None:
        if self._tuner is not None:
            trunk = self._tuner[0].unload()
            if hasattr(trunk, "peft_config"):
                del trunk.peft_config  # or PEFT takes it for adapted already the next time
            self._tuner = None

    def _changes(self, tuner: Any) -> dict[str, nn.Parameter]:
        return {
            name.removeprefix("model.").replace(f".{_ADAPTER}.", "."): parameter
            for name, parameter in tuner.named_parameters()
            if "lora_" in name
        }

    def own_modules(self) -> list[nn.Module]:
        if self._tuner is None:
            return []
        parts = [module for name, module in self._tuner[0].named_modules() if ".lora_" in name]
        return [inner for part in parts for inner in part.modules()]

    def options(self) -> dict[str, Any]:
        return dict(self._options)

    def saved_tensors(self) -> dict[str, Tensor]:
        return {f"lora.{name}": parameter.detach() for name, parameter in self._changes(self._tuner[0]).items()}


def _targets(trunk: nn.Module, family: Family, modules: Sequence[str] | None) -> list[str]:
    """The whole names of the linear layers that change."""
    linear = {name: name.rpartition(".")[2] for name, module in trunk.named_modules() if isinstance(module, nn.Linear)}
    if modules is not None:
        found = [name for name, last in linear.items() if last in modules]
        if not found:
            raise ConfigError(
                f"lora.modules is {', '.join(modules)}, but no linear layer of this {family.model_type} has such a "
                f"name. Name some of {', '.join(sorted(set(linear.values())))}."
            )
        return found
    within = {id(child) for module in attention_modules(trunk, family) for child in module.modules()}
    own = {name: last for name, last in linear.items() if id(trunk.get_submodule(name)) in within}
    for names in (_QUERY_AND_VALUE, _ALL_IN_ONE):
        found = [name for name, last in own.items() if last in names]
        if found:
            return found
    raise ConfigError(
        f"lora.modules is not set, and the attention of this {family.model_type} has no linear layers that are known "
        f"as query and value, only {', '.join(sorted(set(own.values())))}. Name those to change in lora.modules."
    )


def _require_peft() -> None:
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            'method lora needs the package peft, which is not installed. Install it: pip install "ptuning[lora]"'
        ) from error
