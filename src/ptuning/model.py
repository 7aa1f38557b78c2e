"""One frozen backbone, a bank of prompts, and heads: rows choose their prompts and their head.

token ids ─► frozen backbone ───────────► hidden states ─► head of each row's task ─► logits
                ▲   ▲   ▲   one (key, value) block of virtual tokens per layer
prompt bank ────┴───┴───┘

Methods that have no prompts at every layer have an empty bank, and an adaptation that changes something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ptuning.attachment import Attached, attach_bank_or_prompts
from ptuning.backbones.compilation import CompiledLayers, require_compilable
from ptuning.backbones.dropout import CheapDropout
from ptuning.backbones.families import has_absolute_positions
from ptuning.backbones.first_token import FirstTokenOnly, can_end_at_first_token
from ptuning.backbones.late_start import LateStart
from ptuning.backbones.loading import Backbone
from ptuning.backbones.packed_weights import PackedWeights, can_pack_weights
from ptuning.backbones.packing import PackedBatch, pack_batch, require_packing
from ptuning.backbones.recomputation import is_recomputing, stop_recomputing
from ptuning.errors import ConfigError, PromptError
from ptuning.heads import reads_first_token, reads_pieces
from ptuning.lower_states import LowerStates
from ptuning.methods import Adaptation, ModelInputs
from ptuning.prompts import PromptBank


@dataclass(frozen=True)
class HeadOutput:
    """What one head gave for its rows of a batch.

    Attributes:
        head: index of the head.
        rows: (num_rows,) int64, which rows of the batch, ascending.
        logits: (num_rows, …) in the head's own shape.
    """

    head: int
    rows: Tensor
    logits: Tensor


class PromptedModel(nn.Module):
    """A backbone with prompts attached, and heads.

    Args:
        backbone: frozen, without prompts attached.
        bank: the prompts. Moved to the backbone's device, as the heads are.
        heads: output layers, referred to by index.
        backbone_dropout: dropout inside the frozen backbone in training: as its `checkpoint` says, `off`, or a
            probability for all but the attention weights (as the official code sets it).
        check: whether to make sure that every layer's prompts reach the output.
        packing: whether a batch whose rows share their prompts runs as one row without padding; needs flex attention.
        compiled: whether its layers run compiled by torch.compile; needs sdpa or eager attention.
        adaptation: what the method changes besides prompts at every layer; None for methods that have those.

    Attributes:
        lower_states: what the layers below the prompts gave for sequences that will come again, or None.
    """

    def __init__(
        self,
        backbone: Backbone,
        bank: PromptBank,
        heads: Sequence[nn.Module],
        *,
        backbone_dropout: Literal["checkpoint", "off"] | float = "checkpoint",
        check: bool = True,
        packing: bool = False,
        compiled: bool = False,
        adaptation: Adaptation | None = None,
    ) -> None:
        super().__init__()
        if packing:
            require_packing(backbone.family, backbone.model.config)
        if compiled:
            require_compilable(backbone.family, backbone.model.config)
            if backbone.quantization != "none":
                raise ConfigError(
                    f"training.compile is on, but the backbone's weights are stored in {backbone.quantization}, which "
                    "compiled layers cannot restore. Turn it off, or set training.quantization to none."
                )
        device = next(backbone.model.parameters()).device
        # before the backbone, where attaching registers it once more: names begin with `bank.`
        self.bank = bank.to(device)
        self.heads = nn.ModuleList(heads).to(device)
        self._before = _BackboneState.of(backbone.model)
        self.attached: Attached = attach_bank_or_prompts(
            backbone.model,
            bank,
            layers="all",
            positions="unshifted",
            freeze=False,  # `load_backbone` froze it
            check=check,
            eager=backbone.eager,
        )
        self.backbone: Any = backbone.model
        self._packing = packing
        self._reads_pieces = [reads_pieces(head) for head in self.heads]
        self._pieces = backbone.pieces if any(self._reads_pieces) else None
        self.lower_states: LowerStates | None = None
        self._late_start: LateStart | None = None
        self._first_token: FirstTokenOnly | None = None
        self.adaptation = adaptation
        if adaptation is not None:
            adaptation.to(device).attach(self.attached.trunk)
        is_first = adaptation is None or adaptation.reads_first_token
        if is_first and _reads_first_token_alone(self.attached.trunk, backbone, self.heads):
            self._first_token = FirstTokenOnly(self.attached.trunk, backbone.family)
        self._compiled = CompiledLayers(self.attached.trunk, backbone.family) if compiled else None
        is_packed = not compiled and can_pack_weights(self.attached.trunk)
        self._packed_weights = PackedWeights(self.attached.trunk) if is_packed else None
        self._cheap_dropout = CheapDropout(backbone.model)
        self._backbone_dropout = backbone_dropout
        if isinstance(backbone_dropout, float | int):
            own = [] if adaptation is None else adaptation.own_modules()
            _set_hidden_dropout(backbone.model, self.attached.attention_modules, own, float(backbone_dropout))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        *,
        entries: Tensor | Sequence[int] | None = None,
        heads: Tensor | Sequence[int] | None = None,
        lower_states: Tensor | None = None,
    ) -> list[HeadOutput]:
        """Runs a batch in which every row has its own prompts and head.

        Args:
            input_ids: (batch_size, seq_len).
            attention_mask: (batch_size, seq_len), 1 for real tokens.
            token_type_ids: (batch_size, seq_len), or None where the backbone has none.
            entries: (batch_size,) bank entry of each row; None where the bank has one entry.
            heads: (batch_size,) head of each row; None sends all rows to head 0.
            lower_states: (batch_size, seq_len, hidden_size), what `lower_layers` gave for these rows: those layers
                are then left out.

        Returns:
            One output for each head in use, in the order of their indexes.

        Raises:
            PromptError: `heads` has the wrong length or names a head that is not there.
        """
        if self.adaptation is not None:
            return self._adapted(self.adaptation, ModelInputs(input_ids, attention_mask, token_type_ids), heads)
        chosen = None if heads is None else self._checked(heads, input_ids)
        more = self._piece_inputs(input_ids, chosen)
        hidden_states = self._hidden_states(input_ids, attention_mask, token_type_ids, entries, lower_states, more)
        if chosen is None:
            rows = torch.arange(input_ids.shape[0], device=input_ids.device)
            return [HeadOutput(0, rows, self.heads[0](hidden_states, attention_mask, input_ids))]
        used = sorted(set(chosen.tolist()))
        if len(used) == 1:  # nothing is picked, and a device is not waited for
            rows = torch.arange(input_ids.shape[0], device=input_ids.device)
            return [HeadOutput(used[0], rows, self.heads[used[0]](hidden_states, attention_mask, input_ids))]
        outputs = []
        for head in used:
            rows = (chosen == head).nonzero().squeeze(1).to(input_ids.device)
            logits = self.heads[head](hidden_states[rows], attention_mask[rows], input_ids[rows])
            outputs.append(HeadOutput(head, rows, logits))
        return outputs

    def _checked(self, heads: Tensor | Sequence[int], input_ids: Tensor) -> Tensor:
        chosen = torch.as_tensor(heads)
        if tuple(chosen.shape) != (input_ids.shape[0],) or not all(0 <= h < len(self.heads) for h in chosen.tolist()):
            raise PromptError(
                f"heads is {chosen.tolist()}, expected (batch_size,) = ({input_ids.shape[0]},) indexes from 0 to "
                f"{len(self.heads) - 1}. Give one for each row."
            )
        return chosen

    def _adapted(
        self, adaptation: Adaptation, inputs: ModelInputs, heads: Tensor | Sequence[int] | None
    ) -> list[HeadOutput]:
        """A forward of a method with an adaptation, which serves one task."""
        if len(self.heads) > 1 or any(int(head) for head in (() if heads is None else heads)):
            raise PromptError(
                f"the model has {len(self.heads)} heads, but method {adaptation.name} serves one task at a time, "
                "expected one head. Use a model for each task, or p-tuning-v2, whose prompts rows can choose."
            )
        rows = torch.arange(inputs.input_ids.shape[0], device=inputs.input_ids.device)
        extended = adaptation.extend(inputs)
        ids, mask = extended.input_ids, extended.attention_mask
        with adaptation.running(extended):
            more = self._piece_inputs(ids, None)  # virtual tokens in front move what stands behind them
            hidden_states = self._hidden_states(ids, mask, extended.token_type_ids, None, None, more)
        if extended.real is not None:
            ids, mask = (tensor.gather(1, extended.real) for tensor in (ids, mask))
            places = extended.real.unsqueeze(-1).expand(-1, -1, hidden_states.shape[-1])
            hidden_states = hidden_states.gather(1, places)
        return [HeadOutput(0, rows, adaptation.combine(self.heads[0](hidden_states, mask, ids)))]

    @property
    def lowest_prompted_layer(self) -> int:
        """The lowest layer at which any entry has prompts; entries without virtual tokens count where all are so."""
        return self.bank.lowest_layer()

    @property
    def shifts(self) -> set[int]:
        """What the entries add to positions: one number where all of them add the same, or where it has no effect."""
        has_effect = has_absolute_positions(self.attached.trunk.config, self.attached.family)
        return self.bank.shifts() if has_effect else {0}

    def start_late(self) -> None:
        """Lets forwards start above the layers below all prompts, where they are given what those gave.

        Raises:
            BackboneError: layers of this family cannot be left out.
        """
        with self.attached.rows([0]) if len(self.bank) > 1 else nullcontext():
            self._late_start = LateStart(self.attached.trunk, self.attached.family, self.lowest_prompted_layer)

    def lower_layers(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Runs the layers below all prompts alone, after `start_late`: (batch_size, seq_len, hidden_size)."""
        assert self._late_start is not None
        with self.attached.rows([0] * len(input_ids)):  # which entry makes no difference there
            more = self._piece_inputs(input_ids, None)
            return self._late_start.record(_inputs(input_ids, attention_mask, token_type_ids, more))

    def _hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        entries: Tensor | Sequence[int] | None,
        lower_states: Tensor | None,
        more: Mapping[str, Tensor],
    ) -> Tensor:
        packed = self._packed(input_ids, attention_mask, token_type_ids, entries)
        with ExitStack() as stack:
            if entries is not None:
                stack.enter_context(self.attached.rows(entries if packed is None else entries[:1]))
            if lower_states is not None:
                assert self._late_start is not None
                lower_states = lower_states if packed is None else packed.pack(lower_states)
                stack.enter_context(self._late_start.started(lower_states))
            inputs = _inputs(input_ids, attention_mask, token_type_ids, more) if packed is None else packed.inputs()
            hidden_states: Tensor = self.backbone(**inputs)[0]
        return hidden_states if packed is None else packed.unpack(hidden_states)

    def _piece_inputs(self, input_ids: Tensor, heads: Tensor | None) -> dict[str, Tensor]:
        """What the backbone has to know of the pieces of rows whose head looks for one; nothing where none does."""
        if self._pieces is None:
            return {}
        if all(self._reads_pieces):
            return self._pieces.inputs(input_ids)
        rows = [self._reads_pieces[head] for head in ([0] * len(input_ids) if heads is None else heads.tolist())]
        return self._pieces.inputs(input_ids, torch.tensor(rows, device=input_ids.device))

    def _packed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor | None,
        entries: Tensor | Sequence[int] | None,
    ) -> PackedBatch | None:
        """The batch as one row, or None where it keeps its rows: prompts of one row are all the same."""
        if not self._packing or self._pieces is not None or not input_ids.numel():
            return None
        if entries is not None and len({int(entry) for entry in entries}) > 1:
            return None
        trunk: Any = self.attached.trunk
        return pack_batch(self.attached.family, trunk.config, input_ids, attention_mask, token_type_ids)

    def train(self, mode: bool = True) -> PromptedModel:
        """Sets the mode; a backbone whose dropout is off stays in eval mode."""
        super().train(mode)
        if mode and self._backbone_dropout == "off":
            self.backbone.eval()
            self.bank.train()
            attention = {id(module) for module in self.attached.attention_modules}
            for module in self.backbone.modules():
                # Checkpointed layers recompute only in training mode; what is inside them stays without dropout,
                # T5's attention too, which has the flag of a layer.
                if getattr(module, "gradient_checkpointing", False) and id(module) not in attention:
                    module.training = True
            if self.adaptation is not None:
                for module in self.adaptation.own_modules():
                    module.train()
        return self

    def detach(self) -> None:
        """Takes the prompts off the backbone, whose weights and settings are then what they were.

        Raises:
            PromptError: it was detached before.
        """
        self.attached.detach()
        if self._compiled is not None:
            self._compiled.remove()
        if self._first_token is not None:
            self._first_token.remove()
        if self._packed_weights is not None:
            self._packed_weights.remove()
        if self.adaptation is not None:
            self.adaptation.remove()
        self._cheap_dropout.remove()
        self._before.restore(self.backbone)


def _reads_first_token_alone(trunk: nn.Module, backbone: Backbone, heads: nn.ModuleList) -> bool:
    return can_end_at_first_token(trunk, backbone.family) and all(map(reads_first_token, heads))


def _inputs(
    input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, more: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **more}
    return inputs if token_type_ids is None else {**inputs, "token_type_ids": token_type_ids}


@dataclass(frozen=True)
class _BackboneState:
    """What training changes on a backbone that others may use after it."""

    modes: list[bool]
    dropouts: list[float]
    is_recomputing: bool

    @classmethod
    def of(cls, backbone: Any) -> _BackboneState:
        dropouts = [module.p for module in backbone.modules() if isinstance(module, nn.Dropout)]
        return cls([module.training for module in backbone.modules()], dropouts, is_recomputing(backbone))

    def restore(self, backbone: Any) -> None:
        modules = list(backbone.modules())
        for module, mode in zip(modules, self.modes, strict=True):
            module.training = mode
        for module, probability in zip((m for m in modules if isinstance(m, nn.Dropout)), self.dropouts, strict=True):
            module.p = probability
        if is_recomputing(backbone) and not self.is_recomputing:
            stop_recomputing(backbone)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The one definition of what is trained, used by the optimizer, by checkpoints, and for counting."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def candidate_parameters(model: PromptedModel, candidate: int, num_candidates: int) -> dict[str, nn.Parameter]:
    """What is trained of one of several candidates: its entry of the bank, and its equal share of the heads."""
    if num_candidates == 1:
        return trained_parameters(model)
    num_heads = len(model.heads) // num_candidates
    heads = range(candidate * num_heads, (candidate + 1) * num_heads)
    own = (f"bank.prompts.{candidate}.", *(f"heads.{head}." for head in heads))
    return {name: parameter for name, parameter in trained_parameters(model).items() if name.startswith(own)}


def is_head_parameter(name: str) -> bool:
    """Whether a trained parameter belongs to a head; the others to prompts, or what the method trains instead."""
    return name.startswith("heads.")


def count_trained(model: nn.Module) -> dict[str, int]:
    """Returns how many numbers are trained, of `prompts` (or what makes them, or is trained instead) and of `head`."""
    counts = {"prompts": 0, "head": 0}
    for name, parameter in trained_parameters(model).items():
        counts["head" if is_head_parameter(name) else "prompts"] += parameter.numel()
    return counts


# What families call the dropout of their attention weights, where it is a module.
_ON_WEIGHTS = ("dropout", "attention_dropout")


def _set_hidden_dropout(
    trunk: nn.Module, attention_modules: Sequence[nn.Module], others: Sequence[nn.Module], probability: float
) -> None:
    """Sets every dropout but those on attention weights and some others, which are no part of the backbone."""
    left_alone = {id(getattr(module, name, None)) for module in attention_modules for name in _ON_WEIGHTS}
    left_alone |= {id(module) for module in others}
    for module in trunk.modules():
        if isinstance(module, nn.Dropout) and id(module) not in left_alone:
            module.p = probability
