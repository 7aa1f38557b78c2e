"""The trained prompts of one task: a key and a value for every virtual token at every prompted layer.

Implements deep prompt tuning (Liu et al., ACL 2022, arXiv 2110.07602, section 3.2) with its optional
reparameterization, and an optional gate on values. Letters in shape comments: L prompted layers, H key/value heads,
P prompt length, D head width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ptuning.errors import ConfigError, PromptError

Reparameterization = Literal["none", "mlp"]
Gate = Literal["none", "values"]

_OFFICIAL_STD = 0.02  # initializer_range of the backbones of the official code


class DeepPrompts(nn.Module):
    """Prompts of shape (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim); axis 1 is key, then value.

    Args:
        num_prompted_layers: layers that carry prompts.
        num_kv_heads: key/value heads of the backbone (fewer than attention heads in grouped-query models).
        prompt_length: virtual tokens per layer, 0 or more.
        head_dim: width of one head.
        init_std: standard deviation of the normal start. 0.02 is what the official code ends up with (see Source).
            Of no effect with `mlp`, which always starts as the official code's (see `PromptMLP`).
        initial: start from these values instead, shape (num_prompted_layers, 2, num_kv_heads, prompt_length,
            head_dim). They are copied. Not possible with a reparameterization, whose output they would have to be.
        gate: `values` multiplies the values of each layer and head by a trained number that starts at 0.
        reparameterization: `none` trains the prompts themselves; `mlp` trains an MLP that produces them.
        hidden_size: width of the MLP's embedding, the backbone's hidden size. Needed for `mlp`.
        reparameterization_size: inner width of the MLP.
        dropout: probability with which single entries of keys and values are zeroed in training, drawn
            independently for every row of a batch.
        generator: source of the random start.

    Raises:
        PromptError: a size is out of range, or `initial` has another shape.
        ConfigError: the reparameterization or gate is unknown, or contradicts `initial`.

    Source: THUDM/P-tuning-v2 `model/prefix_encoder.py`; its training scripts re-initialise the encoder with the
        backbone's initializer_range, so N(0, 0.02) there and not the N(0, 1) of a bare embedding.
        The gate is in the spirit of LLaMA-Adapter (Zhang et al. 2023, arXiv 2303.16199, section 3.2), whose
        zero-initialised gate is a factor of the attention on virtual tokens, computed apart from that on real ones.
        That is no key and value that a stock attention could see; a factor of values is, and is folded into them.
    """

    def __init__(
        self,
        *,
        num_prompted_layers: int,
        num_kv_heads: int,
        prompt_length: int,
        head_dim: int,
        init_std: float = 0.02,
        initial: Tensor | None = None,
        gate: Gate = "none",
        reparameterization: Reparameterization = "none",
        hidden_size: int | None = None,
        reparameterization_size: int = 512,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if prompt_length < 0 or min(num_prompted_layers, num_kv_heads, head_dim) < 1:
            raise PromptError(
                f"prompts need num_prompted_layers, num_kv_heads and head_dim of at least 1 and prompt_length of at "
                f"least 0, got {num_prompted_layers}, {num_kv_heads}, {head_dim} and {prompt_length}. "
                "Set prompts.prompt_length and prompts.layers accordingly."
            )
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"prompts.dropout is {dropout}, expected a probability in [0, 1). Set it to 0 for none.")
        self.shape: tuple[int, ...] = (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim)
        self.dropout = dropout
        self.prompts: nn.Parameter | None = None
        self.mlp: PromptMLP | None = None
        if gate not in ("none", "values"):
            raise ConfigError(f"prompts.gate is {gate!r}, expected `none` or `values`. Set one of these.")
        self.gate: nn.Parameter | None = None
        if gate == "values":
            self.gate = nn.Parameter(torch.zeros(num_prompted_layers, num_kv_heads))
        if reparameterization == "none":
            start = torch.empty(self.shape).normal_(std=init_std, generator=generator) if initial is None else initial
            if tuple(start.shape) != self.shape:
                raise PromptError(
                    f"the initial prompts have shape {tuple(start.shape)}, expected (num_prompted_layers, 2, "
                    f"num_kv_heads, prompt_length, head_dim) = {self.shape}. Use prompts of the same backbone, "
                    "layers and prompt_length."
                )
            self.prompts = nn.Parameter(start.detach().clone().float())
        elif reparameterization == "mlp":
            if initial is not None:
                raise ConfigError(
                    "prompts.reparameterization is `mlp`, which produces the prompts and so cannot start from given "
                    "ones. Use `reparameterization: none`, or `init: normal`."
                )
            if hidden_size is None:
                raise ConfigError("reparameterization `mlp` needs hidden_size. Pass the backbone's hidden size.")
            self.mlp = PromptMLP(self.shape, hidden_size, reparameterization_size, generator)
        else:
            raise ConfigError(f"prompts.reparameterization is {reparameterization!r}, expected `none` or `mlp`.")

    @property
    def prompt_length(self) -> int:
        """Virtual tokens per layer."""
        return self.shape[3]

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return next(self.parameters()).device

    def forward(self) -> Tensor:
        """Returns the prompts: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim)."""
        made = self.prompts if self.mlp is None else self.mlp()
        assert made is not None
        if self.gate is None:
            return made
        keys, values = made.unbind(1)  # (L, H, P, D)
        return torch.stack([keys, values * self.gate[:, :, None, None]], dim=1)  # (L, 2, H, P, D)

    def value_parts(self) -> list[Tensor]:
        """Returns views of what is trained of values alone, and the gate; nothing with a reparameterization."""
        if self.prompts is None:
            return []
        values = self.prompts.detach()[:, 1]  # (L, H, P, D)
        return [values] if self.gate is None else [values, self.gate.detach()]

    @torch.no_grad()
    def folded(self) -> Tensor:
        """Returns what is saved: the prompts, fp32, free of reparameterization, gate and autograd."""
        prompts: Tensor = self()
        return prompts.detach().float().clone()


class PromptMLP(nn.Module):
    """Embedding (P, hidden_size), Linear, tanh, Linear to all layers' keys and values.

    Embedding and weights start as N(0, 0.02) and biases as 0, whatever the standard deviation of a plain start: the
    prompts begin small (0.0035 for the sizes of MiniLM), and since a step of AdamW moves all of them through the
    MLP, they reach the size of a plain start within an epoch or two. An embedding of N(0, 1), which gives prompts of
    0.16, or weights of N(0, 1), which give prompts of 22 behind a saturated tanh, do not learn at the learning rates
    at which plain prompts and this start do (0.01, tickets of the help desk).

    Source: THUDM/P-tuning-v2 `model/prefix_encoder.py` with `--prefix_projection`, initialised by its training
        scripts with the backbone's initializer_range.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        hidden_size: int,
        inner_size: int,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        num_prompted_layers, _, num_kv_heads, prompt_length, head_dim = shape
        self.shape = shape
        self.embedding = nn.Parameter(
            torch.empty(prompt_length, hidden_size).normal_(std=_OFFICIAL_STD, generator=generator)
        )
        self.inner = nn.Linear(hidden_size, inner_size)
        self.outer = nn.Linear(inner_size, num_prompted_layers * 2 * num_kv_heads * head_dim)
        for linear in (self.inner, self.outer):
            nn.init.normal_(linear.weight, std=_OFFICIAL_STD, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self) -> Tensor:
        num_prompted_layers, _, num_kv_heads, prompt_length, head_dim = self.shape
        produced: Tensor = self.outer(torch.tanh(self.inner(self.embedding)))  # (P, L * 2 * H * D)
        produced = produced.view(prompt_length, num_prompted_layers, 2, num_kv_heads, head_dim)
        return produced.permute(1, 2, 3, 0, 4)  # (L, 2, H, P, D)


class GivenPrompts(nn.Module):
    """A caller's own prompt tensor, used as it is: not copied, not detached, not a parameter of this module.

    Args:
        prompts: (num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim). Axis 1 is key, then value.

    Raises:
        PromptError: the tensor has another rank, or axis 1 is not 2, or it is not floating point.
    """

    dropout = 0.0

    def __init__(self, prompts: Tensor) -> None:
        super().__init__()
        if prompts.ndim != 5 or prompts.shape[1] != 2 or not prompts.is_floating_point():
            raise PromptError(
                f"prompts has shape {tuple(prompts.shape)} and dtype {prompts.dtype}, expected a floating-point tensor "
                "(num_prompted_layers, 2, num_kv_heads, prompt_length, head_dim). Axis 1 is key, then value."
            )
        self.given = prompts

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the prompts."""
        return tuple(self.given.shape)

    @property
    def prompt_length(self) -> int:
        """Virtual tokens per layer."""
        return int(self.given.shape[3])

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.given.device

    def forward(self) -> Tensor:
        """Returns the caller's tensor itself."""
        return self.given
