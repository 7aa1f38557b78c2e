"""What a method does to a frozen backbone besides giving its layers prompts: one interface for all of them.

A model without an adaptation is P-Tuning v2 (or prefix tuning): everything is in its bank of prompts. The others have
an empty bank and an adaptation: virtual tokens among the input, other biases, a low-rank change, or weights of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class ModelInputs:
    """What goes into a backbone.

    Attributes:
        input_ids: (num_rows, seq_len).
        attention_mask: (num_rows, seq_len), 1 for real and virtual tokens.
        token_type_ids: (num_rows, seq_len), or None.
        virtual: (num_rows, prompt_length) int64, positions of virtual tokens, in their order; None without any.
        real: (num_rows, seq_len - prompt_length) int64, positions of all others, in order; None without virtual ones.
    """

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor | None
    virtual: Tensor | None = None
    real: Tensor | None = None


class Adaptation(nn.Module, ABC):
    """What a method trains besides a head, where that is no bank of prompts. Made for one backbone.

    Attributes:
        name: of the method.
        reads_first_token: whether the first position of what goes into the backbone is still the first token, so that a
            head that reads nothing else needs nothing else of the last layer.
    """

    name: ClassVar[str]
    reads_first_token: ClassVar[bool] = True

    @abstractmethod
    def attach(self, trunk: nn.Module) -> None:
        """Takes effect on the encoder that it was made for."""

    @abstractmethod
    def remove(self) -> None:
        """Takes effect no more: the encoder is bit for bit what it was."""

    def extend(self, inputs: ModelInputs) -> ModelInputs:
        """Adds what takes part in a forward besides the batch's own tokens."""
        return inputs

    def running(self, inputs: ModelInputs) -> AbstractContextManager[Any]:
        """What has to be in place while the backbone runs on what `extend` returned."""
        return nullcontext()

    def own_modules(self) -> list[nn.Module]:
        """Modules among those of the backbone that are this method's: settings of the backbone leave them alone."""
        return []

    def combine(self, logits: Tensor) -> Tensor:
        """From what a head said about the rows of `extend` to what is said about those of the batch."""
        return logits

    def options(self) -> dict[str, Any]:
        """What has to be known, besides tensors and method, to make it again, as JSON values."""
        return {}

    @abstractmethod
    def saved_tensors(self) -> dict[str, Tensor]:
        """What is saved, by name; what only training needs is folded into it."""

    def saved_weights(self) -> dict[str, Tensor]:
        """All weights of the backbone where they are trained, by name; else none."""
        return {}

    def num_saved(self) -> int:
        """How many numbers are saved, backbone and all."""
        return sum(tensor.numel() for tensor in {**self.saved_tensors(), **self.saved_weights()}.values())


Tensors = Mapping[str, Tensor]
