"""Methods: what each changes about a frozen backbone, where that is not a bank of prompts at every layer."""

from ptuning.methods.adaptation import Adaptation, ModelInputs
from ptuning.methods.all_weights import AllWeights, with_own_weights
from ptuning.methods.biases import Biases
from ptuning.methods.low_rank import LowRank
from ptuning.methods.restoring import restore_adaptation, save_adaptation
from ptuning.methods.virtual_tokens import VirtualTokens, stand_in_of

__all__ = [
    "Adaptation",
    "AllWeights",
    "Biases",
    "LowRank",
    "ModelInputs",
    "VirtualTokens",
    "restore_adaptation",
    "save_adaptation",
    "stand_in_of",
    "with_own_weights",
]
