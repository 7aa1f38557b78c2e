"""Virtual tokens among the input: prompt tuning, P-Tuning, and soft prompts that act at every layer.

Where they stand is decided in one of three ways: in front of the sequence (`front`), half of them behind its first
token and half before its last one (`around`), or where a pattern has them (`pattern`): there the sequence itself holds
token id -(k + 1) for virtual token k. They occupy positions and are queries as all tokens are. Behind the last layer
they are dropped, so a head, labels, spans and offsets see the sequence as it was.

The backbone gets a stand-in for each, an ordinary token that is no padding, so that positions are counted as the family
counts them; what the embedding layer gives for it is replaced. Letters in shape comments: M prompts of a mixture,
B rows of the batch, N tokens, P virtual tokens, E width of embeddings, C hidden size, L layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import local
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor, nn

from ptuning.backbones.families import Family, layers_with_attention
from ptuning.errors import BackboneError, CheckpointError
from ptuning.methods.adaptation import Adaptation, ModelInputs
from ptuning.prompts.input_prompts import InputPrompts

Place = Literal["front", "around", "pattern"]


class _Running(local):
    """Positions of virtual tokens in the forward that runs in this thread."""

    virtual: Tensor | None = None


@final
class VirtualTokens(Adaptation):
    """Virtual tokens in front of, around or inside every sequence.

    Args:
        prompts: their embeddings.
        family: of the backbone.
        place: where they stand.
        stand_in: id of an ordinary token.
        num_perturbed: layers, from the lowest, whose output has something trained added to it at virtual tokens.
        hidden_size: of that output.

    Raises:
        BackboneError: layers of this family share a module, and their outputs are to be perturbed apart.

    Source: Qin and Eisner 2021, section 3, for perturbations and mixtures. What is added behind the last layer would
        reach no output, and is left out.
    """

    name: ClassVar[str] = "virtual tokens"
    reads_first_token: ClassVar[bool] = False

    def __init__(
        self,
        prompts: InputPrompts,
        family: Family,
        *,
        place: Place,
        stand_in: int,
        num_perturbed: int = 0,
        hidden_size: int = 0,
    ) -> None:
        super().__init__()
        self.prompts = prompts
        self.place: Place = place
        self._family, self._stand_in = family, stand_in
        mixture, prompt_length, _ = prompts.shape
        self.perturbations: nn.Parameter | None = None
        self.mixture: nn.Parameter | None = None
        if num_perturbed:
            if family.model_type == "albert":
                raise BackboneError(
                    "method soft-prompts changes each layer's output apart, but the layers of albert are one module "
                    "that runs several times. Use p-tuning, or another backbone."
                )
            self.perturbations = nn.Parameter(torch.zeros(mixture, num_perturbed, prompt_length, hidden_size))
        if mixture > 1:
            self.mixture = nn.Parameter(torch.zeros(mixture))
        self._handles: list[Any] = []
        self._running = _Running()

    @property
    def prompt_length(self) -> int:
        """Virtual tokens a sequence."""
        return int(self.prompts.shape[1])

    def attach(self, trunk: nn.Module) -> None:
        embedding: nn.Module = trunk.get_input_embeddings()  # type: ignore[operator]
        self._handles.append(embedding.register_forward_hook(self._replace))
        if self.perturbations is not None:
            layers = [layer for layer, _ in layers_with_attention(trunk, self._family)]
            for number in range(self.perturbations.shape[1]):
                self._handles.append(layers[number].register_forward_hook(self._perturb(number)))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def extend(self, inputs: ModelInputs) -> ModelInputs:
        if self.place == "pattern":
            ids, types, mask = inputs.input_ids, inputs.token_type_ids, inputs.attention_mask
        else:
            ids, mask, types = self._with_places(inputs)
        is_virtual = ids < 0
        length = self.prompt_length
        # A stable sort puts virtual tokens first and keeps the order of both.
        order = torch.sort((~is_virtual).long(), dim=1, stable=True).indices  # (B, N)
        virtual, real = order[:, :length], order[:, length:]  # virtual tokens are numbered from the left
        ids = torch.where(is_virtual, self._stand_in, ids)
        times = int(self.prompts.shape[0])
        return ModelInputs(
            ids.repeat(times, 1),
            mask.repeat(times, 1),
            None if types is None else types.repeat(times, 1),
            virtual.repeat(times, 1),
            real.repeat(times, 1),
        )

    def _with_places(self, inputs: ModelInputs) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids with negative ones put in, mask and token types: each (B, N + P)."""
        ids, mask = inputs.input_ids, inputs.attention_mask
        batch_size, seq_len = ids.shape
        length, device = self.prompt_length, ids.device
        if self.place == "front":
            first, second = torch.zeros(batch_size, dtype=torch.long, device=device), None
            before = length
        else:
            lengths = mask.long().sum(1)  # (B,)
            before = length - length // 2
            first = torch.ones_like(lengths).clamp(max=lengths)
            second = torch.maximum(lengths - 1, first)
        columns = torch.arange(seq_len, device=device).expand(batch_size, -1)  # (B, N)
        target = columns + before * (columns >= first[:, None]).long()
        if second is not None:
            target = target + (length - before) * (columns >= second[:, None]).long()
        extended = torch.zeros(batch_size, seq_len + length, dtype=ids.dtype, device=device)
        is_filled = torch.zeros_like(extended, dtype=torch.bool).scatter(1, target, True)
        extended = extended.scatter(1, target, ids)
        numbers = (~is_filled).long().cumsum(1)  # the k-th free place is virtual token k - 1
        extended = torch.where(is_filled, extended, -numbers)
        extended_mask = torch.ones_like(extended, dtype=mask.dtype).scatter(1, target, mask)
        types = inputs.token_type_ids
        if types is not None:
            # of the token in front of it; of the first one where there is none
            source = torch.zeros_like(extended).scatter(1, target, columns).cummax(1).values
            types = types.gather(1, source)
        return extended, extended_mask, types

    @contextmanager
    def running(self, inputs: ModelInputs) -> Iterator[None]:
        self._running.virtual = inputs.virtual
        try:
            yield
        finally:
            self._running.virtual = None

    def _replace(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        virtual = self._running.virtual
        if virtual is None or output.shape[0] != virtual.shape[0]:
            return output
        made: Tensor = self.prompts().to(output.dtype)  # (M, P, E)
        values = made.repeat_interleave(virtual.shape[0] // made.shape[0], 0)  # (M * B, P, E)
        return output.scatter(1, virtual.unsqueeze(-1).expand_as(values), values)

    def _perturb(self, number: int) -> Any:
        def add(module: nn.Module, args: Any, output: Any) -> Any:
            virtual, changes = self._running.virtual, self.perturbations
            if virtual is None or changes is None:
                return output
            hidden: Tensor = output[0] if isinstance(output, tuple) else output
            change = changes[:, number].to(hidden.dtype)  # (M, P, C)
            values = change.repeat_interleave(virtual.shape[0] // change.shape[0], 0)  # (M * B, P, C)
            hidden = hidden.scatter_add(1, virtual.unsqueeze(-1).expand_as(values), values)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return add

    def combine(self, logits: Tensor) -> Tensor:
        """Mixes what the prompts say: (M * B, num_labels) -> log-probabilities (B, num_labels)."""
        if self.mixture is None:
            return logits
        each = logits.view(len(self.mixture), -1, *logits.shape[1:]).float().log_softmax(-1)  # (M, B, K)
        mixed: Tensor = (each + self.mixture.log_softmax(0)[:, None, None]).logsumexp(0)
        return mixed

    def options(self) -> dict[str, Any]:
        return {"place": self.place}

    def saved_tensors(self) -> dict[str, Tensor]:
        saved = {"input_prompts": self.prompts.folded()}
        if self.perturbations is not None:
            saved["perturbations"] = self.perturbations.detach()
        if self.mixture is not None:
            saved["mixture"] = self.mixture.detach()
        return saved

    @classmethod
    def from_saved(
        cls, tensors: Mapping[str, Tensor], options: Mapping[str, Any], family: Family, *, stand_in: int
    ) -> VirtualTokens:
        """Makes what was saved.

        Raises:
            CheckpointError: a tensor is missing, or shapes do not fit together.
        """
        embeddings, changes, mixture = (tensors.get(name) for name in ("input_prompts", "perturbations", "mixture"))
        place: Any = options.get("place")
        is_whole = embeddings is not None and embeddings.ndim == 3 and place in ("front", "around", "pattern")
        if is_whole and embeddings is not None:
            size = embeddings.shape[:2]
            is_whole = changes is None or (changes.ndim == 4 and (changes.shape[0], changes.shape[2]) == size)
            is_whole = is_whole and (size[0] == 1 if mixture is None else tuple(mixture.shape) == (size[0],))
        if not is_whole or embeddings is None:
            found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(tensors.items()))
            raise CheckpointError(
                f"the saved virtual tokens have {found} at {place!r}, expected input_prompts (mixture, prompt_length, "
                "embedding_size) in front, around or in a pattern, and what belongs to them. Restore them from where "
                "they came from."
            )
        made = cls(
            InputPrompts(embeddings),
            family,
            place=place,
            stand_in=stand_in,
            num_perturbed=0 if changes is None else changes.shape[1],
            hidden_size=0 if changes is None else changes.shape[3],
        )
        with torch.no_grad():
            if changes is not None and made.perturbations is not None:
                made.perturbations.copy_(changes)
            if mixture is not None and made.mixture is not None:
                made.mixture.copy_(mixture)
        return made


def stand_in_of(tokenizer: Any) -> int:
    """Returns the id of an ordinary token that is no padding, which a virtual token is to the backbone."""
    # the mask last: whoever looks for masks would find one
    names = ("unk_token_id", "cls_token_id", "eos_token_id", "bos_token_id", "mask_token_id")
    known = [int(number) for number in (getattr(tokenizer, name, None) for name in names) if number is not None]
    padding = getattr(tokenizer, "pad_token_id", None)
    return next((number for number in known if number != padding), 0 if padding != 0 else 1)
