"""The low-level door: prompts on a model that someone already has.

attached = ptuning.attach(model, prompts)
...                             # model(**batch) now sees the prompts; works with transformers.Trainer
attached.detach()               # the model is bit for bit what it was
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ptuning.backbones.description import BackboneDescription, describe_trunk
from ptuning.backbones.families import Family, find_trunk, position_limit
from ptuning.backbones.forward import Blocks
from ptuning.backbones.identity import BackboneIdentity, fingerprint
from ptuning.backbones.interface import refuse_windows_under_flash
from ptuning.backbones.quantization import quantization_of
from ptuning.backbones.routing import Route, RoutedPrompts
from ptuning.checkpoint import SavedPrompt, save_prompt
from ptuning.errors import BackboneError, ConfigError, PromptError
from ptuning.prompts import DeepPrompts, GivenPrompts, Positions, PromptBank, resolve_layers

_MODULE_NAME = "ptuning_prompts"


class Attached:
    """Prompts on a model, until `detach`. Made by `attach`.

    Attributes:
        bank: the entries that rows choose from.
    """

    def __init__(
        self, model: nn.Module, bank: PromptBank, *, module: nn.Module | None, freeze: bool, eager: bool
    ) -> None:
        self.bank = bank
        self._model = model
        self._module = module
        # One variable a model: rows set for one do not reach another that runs inside the same block.
        self._rows = _RowsVariable()
        self._frozen: list[nn.Parameter] = []
        refuse_windows_under_flash(model, bank.prompted_layers())
        self._route = Route(model, self._prompts_for, eager=eager)
        if freeze:
            base = cast(nn.Module, getattr(model, "base_model", model))
            self._frozen = [parameter for parameter in base.parameters() if parameter.requires_grad]
            for parameter in self._frozen:
                parameter.requires_grad_(False)
        if module is not None:
            model.add_module(_MODULE_NAME, module.train(model.training))

    @property
    def attention_modules(self) -> list[nn.Module]:
        """The self-attention modules that see prompts."""
        return self._route.attention_modules

    @property
    def trunk(self) -> nn.Module:
        """The encoder inside the model."""
        return self._route.trunk

    @property
    def family(self) -> Family:
        """What is particular to the encoder's family."""
        return self._route.family

    @contextmanager
    def rows(self, rows: Tensor | Sequence[int]) -> Iterator[None]:
        """Says which entry each row of the batches inside this block uses.

        Args:
            rows: (batch_size,) entry indexes, one for each sequence that the backbone sees.
        """
        given = torch.as_tensor(rows)
        # torch takes an empty list for floating point
        with self._rows.set(given if isinstance(rows, Tensor) or given.numel() else given.long()):
            yield

    @contextmanager
    def watched(
        self,
        *,
        attention: Callable[[int, Tensor], None] | None = None,
        keys_values: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> Iterator[None]:
        """Shows what the layers compute in forwards inside this block; outside of it nothing is computed for that.

        Args:
            attention: called at every prompted layer with its number and how much of each query's attention falls on
                virtual tokens, (batch_size, num_heads, num_queries) float32, a share of 1. In training mode without
                the dropout of attention weights.
            keys_values: called at every layer with its number, and the keys and values of real tokens,
                (batch_size, num_kv_heads, seq_len, head_dim) each, padding among them.

        Raises:
            BackboneError: the model was loaded with flash or flex attention, which have no weights to look at.
            PromptError: the prompts were detached.
        """
        if self._route is None:
            raise PromptError("these prompts are detached, so no forward sees them. Call attach() again to watch them.")
        with self._route.watched(capture=keys_values, observe=attention):
            yield

    def detach(self) -> None:
        """Puts the model back: hooks, attention implementation, requires_grad flags, submodules.

        Raises:
            PromptError: it was detached before.
        """
        if self._route is None:
            raise PromptError("these prompts are already detached. Call attach() again to use them.")
        self._route.remove()
        self._route = None  # type: ignore[assignment]
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        if self._module is not None:
            delattr(self._model, _MODULE_NAME)

    def check(self) -> None:
        """Makes sure that at every layer with prompts the output moves when the prompts do.

        Runs one batch of two tokens in eval mode, a row a layer, with prompts made for the purpose. Leaves the
        model's modes, the prompts and the random state as they are.

        Raises:
            BackboneError: some layer's prompts do not reach the output.
        """
        layers = sorted({layer for entry in self.bank.entries for layer in entry.layers})
        trunk = self._route.trunk
        modes = [(module, module.training) for module in trunk.modules() if module.training]
        trunk.eval()
        try:
            with torch.no_grad(), self._rows.probe(layers):
                parameter = next(trunk.parameters())
                tokens = _two_tokens(trunk, len(layers) + 1, parameter.device)
                output = trunk(input_ids=tokens, attention_mask=torch.ones_like(tokens))[0].float()
        finally:
            for module, mode in modes:
                module.training = mode
        still = [layer for i, layer in enumerate(layers) if torch.equal(output[i], output[-1])]
        if still:
            raise BackboneError(
                f"moving the prompts of layers {still} does not move the output of {type(trunk).__name__}. "
                "The installed transformers does not run this family as expected; use a version in the supported range."
            )

    def save(self, directory: str | Path, *, entry: int = 0) -> None:
        """Writes an entry's prompts, and nothing of the model, to a directory that `ptuning.read_prompt` reads.

        Args:
            directory: made if missing. A prompt that is there is replaced as one; other files are never touched.
            entry: which entry of the bank.

        Raises:
            CheckpointError: the directory holds files that are no prompt's, is the current one, or cannot be written.
        """
        trunk, family = self._route.trunk, self._route.family
        description = describe_trunk(trunk, family)
        prompts, placed = cast(Any, self.bank.prompts[entry])().detach().float(), self.bank.entries[entry]
        name = str(getattr(trunk.config, "_name_or_path", "")) or family.model_type
        revision = getattr(trunk.config, "_commit_hash", None)
        backbone = BackboneIdentity(
            name, revision, description.architecture(), fingerprint(trunk), quantization_of(trunk)
        )
        save_prompt(directory, SavedPrompt(prompts, placed.layers, placed.positions, backbone))

    def _prompts_for(self, batch_size: int) -> RoutedPrompts:
        probed = self._rows.probed()
        if probed is not None:
            return _probe_prompts(self._route, probed, batch_size)
        gathered = self.bank(self._rows.get(), batch_size)
        blocks = Blocks(gathered.layers, gathered.prompts, gathered.mask)
        return RoutedPrompts(blocks, gathered.shift, gathered.longest_shift)


class _RowsVariable:
    """The rows of the batch at hand, kept apart for every thread."""

    def __init__(self) -> None:
        self._variable: ContextVar[Any] = ContextVar("ptuning_rows", default=None)

    def __deepcopy__(self, memo: Any) -> _RowsVariable:
        return _RowsVariable()

    def __reduce__(self) -> Any:
        return _RowsVariable, ()

    def get(self) -> Tensor | None:
        value = self._variable.get()
        return value if isinstance(value, Tensor) else None

    def probed(self) -> list[int] | None:
        value = self._variable.get()
        return value if isinstance(value, list) else None

    @contextmanager
    def set(self, value: Tensor | list[int]) -> Iterator[None]:
        token = self._variable.set(value)
        try:
            yield
        finally:
            self._variable.reset(token)

    def probe(self, layers: list[int]) -> Any:
        return self.set(layers)


def _probe_prompts(route: Route, layers: list[int], batch_size: int) -> RoutedPrompts:
    """One virtual token a layer: all zeros, but ones at layer i in row i; the last row has zeros everywhere."""
    description = describe_trunk(route.trunk, route.family)
    parameter = next(route.trunk.parameters())
    shape = (len(layers), 2, batch_size, description.num_kv_heads, 1, description.head_dim)
    prompts = torch.zeros(shape, device=parameter.device)
    for row in range(len(layers)):
        prompts[row, :, row] = torch.linspace(-1.0, 1.0, description.head_dim, device=parameter.device)
    return RoutedPrompts(Blocks(tuple(layers), prompts))


def _two_tokens(trunk: nn.Module, batch_size: int, device: torch.device) -> Tensor:
    """Two ids that are not the padding id, the same in each row: (batch_size, 2)."""
    config: Any = trunk.config
    padding = getattr(config, "pad_token_id", None)
    ids = [token for token in range(min(4, config.vocab_size)) if token != padding][:2]
    return torch.tensor([ids], device=device).expand(batch_size, -1).contiguous()


def attach(
    model: nn.Module,
    prompts: Tensor | DeepPrompts | PromptBank,
    *,
    layers: str | int | Sequence[int] = "all",
    positions: Positions = "unshifted",
    freeze: bool = True,
    check: bool = True,
) -> Attached:
    """Shows a model's layers trained virtual tokens, at every forward until detached.

    Args:
        model: any transformers PreTrainedModel of a supported family, headless or with a head.
        prompts: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim), axis 1 being key, then value; or
            `DeepPrompts`, or a bank. A tensor is used as it is, and gradients reach it. A module is registered on
            the model as `ptuning_prompts`, so that `.to()`, optimizers and Trainer see it.
        layers: which layers carry the prompts: `all`, `first:8`, `last:8`, `16-23`, a list. Not with a bank, whose
            entries have their own.
        positions: `unshifted` leaves real tokens at 0, 1, 2, …; `shifted` adds the prompt length to learned absolute
            positions, as the official code does. Not with a bank.
        freeze: whether to freeze `model.base_model`. A head is left alone.
        check: whether to make sure at once that every layer's prompts reach the output.

    Returns:
        What `detach`, `rows` and `save` are called on.

    Raises:
        BackboneError: the model's family is not supported, or it has prompts already.
        PromptError: the prompts do not fit the model.
        ConfigError: `layers` or `positions` cannot be read, or contradict the model or a bank.
    """
    return attach_bank_or_prompts(
        model, prompts, layers=layers, positions=positions, freeze=freeze, check=check, eager=False
    )


def attach_bank_or_prompts(
    model: nn.Module,
    prompts: Tensor | DeepPrompts | PromptBank,
    *,
    layers: str | int | Sequence[int],
    positions: Positions,
    freeze: bool,
    check: bool,
    eager: bool,
) -> Attached:
    """`attach`, with a say in how families with attention of our own compute it."""
    trunk, family = find_trunk(model)
    description = describe_trunk(trunk, family)
    if isinstance(prompts, PromptBank):
        if layers != "all" or positions != "unshifted":
            raise ConfigError(
                f"layers={layers!r} and positions={positions!r} were given with a bank, whose entries have their own. "
                "Give them to PromptBank.add."
            )
        bank = prompts
        module: nn.Module | None = prompts
    else:
        bank = PromptBank(description.num_layers)
        resolve_layers(layers, description.num_layers)
        entry = GivenPrompts(prompts) if isinstance(prompts, Tensor) else prompts
        bank.add(entry, layers=layers, positions=positions)
        module = None if isinstance(prompts, Tensor) else prompts
    _check_fit(bank, description, next(trunk.parameters()).device)
    for entry_positions in {entry.positions for entry in bank.entries}:
        check_positions(entry_positions, trunk.config, family, bank.longest_shift())
    attached = Attached(model, bank, module=module, freeze=freeze, eager=eager)
    if check:
        try:
            attached.check()
        except BaseException:
            attached.detach()
            raise
    return attached


def check_positions(positions: str, config: Any, family: Any, prompt_length: int) -> None:
    """Makes sure that a position mode means something on a backbone and leaves room for tokens.

    Raises:
        ConfigError: `shifted` on rotary or relative positions, or prompts as long as the position table.
    """
    if positions != "shifted":
        return
    if not family.takes_shifted_positions:
        raise ConfigError(
            f"prompts.positions is `shifted`, but {family.model_type} has {family.positions} positions, which do not "
            "shift. Use `positions: unshifted`."
        )
    limit = position_limit(config, family)
    if limit is not None and prompt_length >= limit:
        raise ConfigError(
            f"prompts.prompt_length is {prompt_length} with `positions: shifted`, but the backbone has {limit} "
            "positions, so no token would fit. Use shorter prompts or `positions: unshifted`."
        )


def _check_fit(bank: PromptBank, backbone: BackboneDescription, device: torch.device) -> None:
    num_kv_heads, head_dim, model_type = backbone.num_kv_heads, backbone.head_dim, backbone.model_type
    if bank.num_layers != backbone.num_layers:
        raise PromptError(
            f"the bank is for a backbone of {bank.num_layers} layers, but this {model_type} has {backbone.num_layers}. "
            "Make the bank with this backbone's number of layers."
        )
    if not len(bank):
        raise PromptError("the bank has no entries, expected at least one. Add prompts with PromptBank.add.")
    for prompts in bank.prompts:
        shape = cast(Any, prompts).shape
        if (shape[2], shape[4]) != (num_kv_heads, head_dim):
            raise PromptError(
                f"the prompts have shape {tuple(shape)}, expected (num_prompted_layers, 2, {num_kv_heads}, "
                f"prompt_length, {head_dim}): this {model_type} has num_kv_heads={num_kv_heads} and "
                f"head_dim={head_dim}. Make the prompts for this backbone."
            )
        found = cast(Any, prompts).device
        if found != device:
            raise PromptError(
                f"the prompts are on {found}, but the model is on {device}. Move one to the other before attaching: "
                f"prompts.to({str(device)!r})."
            )
