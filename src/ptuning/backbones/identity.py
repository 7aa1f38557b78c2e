"""Which backbone a prompt was trained on: name, numbers, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ptuning.errors import BackboneMismatchError

_ENTRIES_PER_TENSOR = 64
_DIRECTION = "attention_direction"


@dataclass(frozen=True)
class BackboneIdentity:
    """What tells one backbone from another.

    Attributes:
        name: the Hugging Face name, directory or `minilm` it was loaded by.
        revision: commit of the Hugging Face repository, where known.
        architecture: model type and sizes.
        fingerprint: hex digest of some of its weights, see `fingerprint`.
    """

    name: str
    revision: str | None
    architecture: dict[str, Any]
    fingerprint: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneIdentity:
        """From JSON. Raises KeyError for a missing field."""
        return cls(
            name=values["name"],
            revision=values.get("revision"),
            architecture=dict(values["architecture"]),
            fingerprint=values["fingerprint"],
        )

    def require(self, actual: BackboneIdentity) -> None:
        """Makes sure that a backbone is the one that was expected. The name and revision may differ.

        Args:
            actual: the backbone at hand.

        Raises:
            BackboneMismatchError: other sizes or other weights.
        """
        differing = [
            f"{key} {expected} against {actual.architecture.get(key)}"
            for key, expected in self.architecture.items()
            if actual.architecture.get(key) != expected
        ]
        asked, found = (one.architecture.get(_DIRECTION) for one in (self, actual))
        if asked != found and len(differing) == 1:
            raise BackboneMismatchError(
                f"the prompt was trained on {self.name} with {asked} attention, but that of the backbone "
                f"{actual.name} is {found}. Load it with attention_direction={asked!r}."
            )
        if differing:
            raise BackboneMismatchError(
                f"the prompt was trained on {self.name} ({self.architecture.get('model_type')}, "
                f"{self.architecture.get('num_layers')} layers), but the backbone is {actual.name} "
                f"({actual.architecture.get('model_type')}, {actual.architecture.get('num_layers')} layers): "
                f"{', '.join(differing)}. Use --backbone {self.name}."
            )
        if self.fingerprint != actual.fingerprint:
            raise BackboneMismatchError(
                f"the prompt was trained on {self.name} with weights {self.fingerprint[:12]}, but the backbone "
                f"{actual.name} has the same sizes and other weights ({actual.fingerprint[:12]}). "
                "Use the checkpoint and revision that it was trained on."
            )


@torch.no_grad()
def fingerprint(trunk: nn.Module) -> str:
    """Hashes up to 64 evenly spaced entries of every weight, rounded to bfloat16.

    The rounding makes storage in float32 and bfloat16 agree. The pooler is left out, since it may be drawn at random.

    Returns:
        A sha256 hex digest.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(trunk.named_parameters()):
        if name.startswith(("pooler.", "ptuning_prompts.")):
            continue
        flat = parameter.detach().reshape(-1)
        last, count = flat.numel() - 1, min(_ENTRIES_PER_TENSOR, flat.numel())
        # In whole numbers: the same entries on every device.
        places = [last * place // max(count - 1, 1) for place in range(count)]
        picked = flat[torch.tensor(places, dtype=torch.long, device=flat.device)]
        digest.update(f"{name}:{tuple(parameter.shape)};".encode())
        digest.update(picked.to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()
