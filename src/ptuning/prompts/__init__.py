"""What is trained: prompts, their start, their reparameterization, and the bank that rows choose from."""

from ptuning.prompts.bank import Entry, GatheredPrompts, Positions, PromptBank
from ptuning.prompts.deep_prompts import DeepPrompts, GivenPrompts, PromptMLP, Reparameterization
from ptuning.prompts.layers import resolve_layers

__all__ = [
    "DeepPrompts",
    "Entry",
    "GatheredPrompts",
    "GivenPrompts",
    "Positions",
    "PromptBank",
    "PromptMLP",
    "Reparameterization",
    "resolve_layers",
]
