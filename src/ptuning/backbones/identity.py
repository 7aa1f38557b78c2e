"""Which backbone a prompt was trained on: name, numbers, and a fingerprint of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ptuning.backbones.families import FAMILIES
from ptuning.backbones.quantization import Quantization, quantized_linears
from ptuning.backbones.weight_samples import sample_weight
from ptuning.errors import BackboneMismatchError

_DIRECTION = "attention_direction"
_UNSAID: dict[str, Any] = {_DIRECTION: "bidirectional"}  # of encoders, whose attention looks both ways


@dataclass(frozen=True)
class BackboneIdentity:
    """What tells one backbone from another.

    Attributes:
        name: the Hugging Face name, directory or `minilm` it was loaded by.
        revision: commit of the Hugging Face repository, where known.
        architecture: model type and sizes, and of decoders which way their attention looks.
        fingerprint: hex digest of some of its weights, see `fingerprint`.
        quantization: what the weights of its layers were rounded to.
    """

    name: str
    revision: str | None
    architecture: dict[str, Any]
    fingerprint: str
    quantization: Quantization = "none"

    @property
    def weights(self) -> str:
        """The fingerprint, with what the weights were rounded to."""
        return self.fingerprint if self.quantization == "none" else f"{self.fingerprint}-{self.quantization}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON. Without `quantization` where nothing was rounded."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("quantization", "none")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BackboneIdentity:
        """From JSON. Raises KeyError for a missing field."""
        return cls(
            name=values["name"],
            revision=values.get("revision"),
            architecture=dict(values["architecture"]),
            fingerprint=values["fingerprint"],
            quantization=values.get("quantization", "none"),
        )

    def require(self, actual: BackboneIdentity, *, any_quantization: bool = False) -> None:
        """Makes sure that a backbone is the one that was expected. The name and revision may differ.

        Args:
            actual: the backbone at hand.
            any_quantization: whether its weights may be rounded otherwise than they were.

        Raises:
            BackboneMismatchError: other sizes, other weights, or the same weights rounded otherwise.
        """
        wanted, there = _UNSAID | self.architecture, _UNSAID | actual.architecture
        others = {key: there.get(key) for key, expected in wanted.items() if there.get(key) != expected}
        differing = [f"{key} {wanted[key]} against {other}" for key, other in others.items()]
        if list(others) == [_DIRECTION]:
            asked, found = wanted[_DIRECTION], others[_DIRECTION]
            raise BackboneMismatchError(
                f"the prompt was trained on {self.name} with {asked} attention, but that of the backbone "
                f"{actual.name} is {found}. {_how_to_turn(wanted.get('model_type'), asked)}"
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
        if self.quantization != actual.quantization and not any_quantization:
            raise BackboneMismatchError(
                f"the prompt was trained on {self.name} with {_stored(self.quantization)}, but the backbone "
                f"{actual.name} has {_stored(actual.quantization)}: what it says would differ by their rounding. Load "
                f"the backbone with quantization {self.quantization}, or ask for quantization {actual.quantization} "
                "where the prompt is loaded, if that is meant."
            )


def _how_to_turn(model_type: Any, asked: str) -> str:
    """What to do where a backbone looks the other way than is asked for."""
    family = FAMILIES.get(model_type)
    if family is None or family.is_decoder:
        return f"Load it with attention_direction={asked!r}."
    value = "true" if asked == "causal" else "false"
    return f"Use the checkpoint that it was trained on: a {model_type} whose config.json has is_decoder {value}."


def _stored(quantization: Quantization) -> str:
    return "weights that are not quantized" if quantization == "none" else f"weights in {quantization}"


def fingerprint(trunk: nn.Module) -> str:
    """Hashes up to 64 evenly spaced entries of every weight, rounded to bfloat16.

    It is the same whatever the weights are stored in: the rounding makes float32 and bfloat16 agree, and what is stored
    in fewer bits kept these entries from before. Nothing but them is copied. The pooler is left out, since it may be
    drawn at random.
    The weights of a sharded trunk are gathered one after another, so all processes have to call this.

    Returns:
        A sha256 hex digest.
    """
    samples = {name: (tuple(weight.shape), sample_weight(weight)) for name, weight in trunk.named_parameters()}
    for name, linear in quantized_linears(trunk).items():
        samples[f"{name}.weight"] = tuple(linear.weight.shape), linear.sample
    digest = hashlib.sha256()
    for name, (shape, sample) in sorted(samples.items()):
        if not name.startswith(("pooler.", "ptuning_prompts.")):
            digest.update(f"{name}:{shape};".encode())
            digest.update(sample)
    return digest.hexdigest()
