"""Virtual tokens among the input: one trained embedding each, or a small network that produces all of them.

Shallow prompts, as the paper calls them: they enter at the embeddings alone, occupy positions, and pass through every
layer as tokens do. Letters in shape comments: M prompts of a mixture, P prompt length, E width of the embeddings.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptuning.errors import ConfigError, PromptError

InputReparameterization = Literal["none", "mlp", "lstm"]


class InputPrompts(nn.Module):
    """Embeddings of virtual tokens: (mixture, prompt_length, embedding_size).

    Args:
        initial: (mixture, prompt_length, embedding_size), what they start from; with a network, what goes into it.
        reparameterization: `none` trains the embeddings themselves; `mlp` and `lstm` train a network that makes them.
        reparameterization_size: inner width of the MLP; the LSTM is as wide as the embeddings.
        dropout: probability with which single entries are zeroed in training.
        generator: source of the network's random start.

    Raises:
        PromptError: `initial` has another number of axes, or no virtual tokens.
        ConfigError: the reparameterization is unknown, or the LSTM cannot halve the width.

    Source: Lester et al. 2021 for trained embeddings; Liu et al. 2021, arXiv 2103.10385, section 3.2 for the LSTM, with
        the sizes of its released code (two bidirectional layers of half the width, then Linear, ReLU, Linear).
    """

    def __init__(
        self,
        initial: Tensor,
        *,
        reparameterization: InputReparameterization = "none",
        reparameterization_size: int = 512,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if initial.ndim != 3 or not initial.shape[1]:
            raise PromptError(
                f"the initial virtual tokens have shape {tuple(initial.shape)}, expected (mixture, prompt_length, "
                "embedding_size) with a prompt_length of at least 1. Set prompts.prompt_length."
            )
        self.shape = tuple(initial.shape)
        self.dropout = dropout
        self.embeddings = nn.Parameter(initial.detach().clone().float())
        width = initial.shape[2]
        self.lstm: nn.LSTM | None = None
        self.mlp: nn.Sequential | None = None
        if reparameterization == "lstm":
            if width % 2:
                raise ConfigError(
                    f"prompts.reparameterization is lstm, which halves the width of embeddings, and {width} is odd. "
                    "Use mlp or none."
                )
            self.lstm = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True, batch_first=True)
            self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        elif reparameterization == "mlp":
            inner = reparameterization_size
            self.mlp = nn.Sequential(nn.Linear(width, inner), nn.Tanh(), nn.Linear(inner, width))
        elif reparameterization != "none":
            raise ConfigError(
                f"prompts.reparameterization is {reparameterization!r}, expected none, mlp or lstm. Set one of these."
            )
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LSTM):
                _draw(module, generator)

    def forward(self) -> Tensor:
        """Returns the embeddings: (mixture, prompt_length, embedding_size)."""
        made: Tensor = self.embeddings
        if self.lstm is not None:
            made = self.lstm(made)[0]
        if self.mlp is not None:
            made = self.mlp(made)
        return functional.dropout(made, self.dropout, self.training)

    @torch.no_grad()
    def folded(self) -> Tensor:
        """Returns what is saved: the embeddings, fp32, free of the network and of dropout."""
        was_training = self.training
        self.eval()
        try:
            made: Tensor = self()
            return made.detach().float().clone()
        finally:
            self.train(was_training)


def _draw(module: nn.Linear | nn.LSTM, generator: torch.Generator | None) -> None:
    """Starts a layer as torch does, from U(-1 / sqrt(n), 1 / sqrt(n)), but with numbers of a generator."""
    size = module.hidden_size if isinstance(module, nn.LSTM) else module.in_features
    for parameter in module.parameters():
        nn.init.uniform_(parameter, -(size**-0.5), size**-0.5, generator=generator)
