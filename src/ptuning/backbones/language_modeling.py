"""A backbone's own pretrained masked-language-modeling head: from hidden states to a score for every token.

Where a family keeps its head, and what stands in it, is left to transformers: its whole model is loaded, and the trunk
in it is replaced by one that gives back the hidden states it is handed. All behind it then runs as the library has it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoModelForMaskedLM
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutput

from ptuning.backbones import glm
from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.errors import BackboneError


class LanguageModelingHead(nn.Module):
    """What turns a hidden state into scores of all tokens, frozen. Computed in float32 at least.

    Args:
        model: a masked language model of transformers, whose trunk returns the `inputs_embeds` that it is given.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        parameters = dict(model.named_parameters())
        self._is_half = any(parameter.dtype.itemsize < 4 for parameter in parameters.values())
        self._dtype = torch.float32 if self._is_half else next(iter(parameters.values())).dtype
        self._whole: dict[str, Tensor] | None = None

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, hidden_size) of the last layer -> (…, vocab_size), unnormalized."""
        inputs = {"inputs_embeds": hidden_states.to(self._dtype), "return_dict": True}
        if not self._is_half:
            logits: Tensor = self._model(**inputs).logits
            return logits
        if self._whole is None:
            # Scores of the words are near each other: in bfloat16 many of them would be equal. The copy is made once;
            # the model's own parameters stay as they are, since some are the backbone's.
            self._whole = {name: one.detach().to(self._dtype) for name, one in self._model.named_parameters()}
        logits = torch.func.functional_call(self._model, self._whole, (), inputs).logits
        return logits

    def of_tokens(self, hidden_states: Tensor, token_ids: Tensor) -> Tensor:
        """(…, hidden_size) and (num_tokens,) -> (…, num_tokens): the scores of some tokens."""
        if isinstance(self._model, glm.TiedLogits):  # words and nothing else, so no others are scored
            weight = self._model.word_embeddings.weight[token_ids]
            dtype = torch.float32 if weight.dtype.itemsize < 4 else weight.dtype
            return glm.tied_logits(hidden_states.to(dtype), weight.to(dtype))
        logits: Tensor = self(hidden_states)
        return logits[..., token_ids]


class _GivenStates(nn.Module):
    """Stands where the trunk was, and returns the hidden states that it is given."""

    def forward(self, *args: Any, inputs_embeds: Tensor, **kwargs: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def load_language_modeling_head(backbone: Backbone) -> LanguageModelingHead:
    """Loads the head that a backbone was pretrained with, on its device and in its precision.

    Where the head's last matrix is the backbone's own input embeddings, it is those, not a copy (but for one in float32
    of a half-precision backbone). `Backbone.language_modeling_head` keeps what this gives.

    Args:
        backbone: loaded; with or without prompts attached.

    Raises:
        BackboneError: the family has no such head, or the checkpoint has none of it or only a part.
    """
    if backbone.family.is_glm:
        # nothing but the word embeddings, so there is nothing to load
        trunk: Any = find_trunk(backbone.model)[0]
        return LanguageModelingHead(glm.TiedLogits(trunk.get_input_embeddings()).eval())
    config = copy.deepcopy(backbone.model.config)
    if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise _refusal(backbone, f"a {backbone.family.model_type} is not a masked language model")
    first = next(backbone.model.parameters())
    loader: Any = AutoModelForMaskedLM
    if backbone.has_weights:
        model = _load_whole(backbone, config, first.dtype)
    else:
        with no_init_weights():
            model = loader.from_config(config, dtype=first.dtype, attn_implementation="eager")
    trunk, _ = find_trunk(model)
    own_trunk, _ = find_trunk(backbone.model)
    setattr(model, model.base_model_prefix, _GivenStates())
    model.requires_grad_(False).eval()  # before anything of the backbone, which may be trained, is in it
    _share_weights(model, trunk, own_trunk)
    if not any(tuple(parameter.shape[:-1]) == (config.vocab_size,) for parameter in model.parameters()):
        _give_embeddings(model.base_model, trunk, own_trunk)
    return LanguageModelingHead(model.to(first.device))


def _load_whole(backbone: Backbone, config: Any, dtype: torch.dtype) -> Any:
    """The backbone's checkpoint as a masked language model.

    Raises:
        BackboneError: it does not load as one, or has no head.
    """
    options = {**backbone.load_options, "revision": backbone.revision}
    loader: Any = AutoModelForMaskedLM
    try:
        model, report = loader.from_pretrained(
            backbone.source,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise _refusal(backbone, f"its weights do not load as a masked language model: {line}") from error
    missing = sorted(str(key) for key in report["missing_keys"] if not _is_of_trunk(model, str(key)))
    if missing:
        raise _refusal(
            backbone, f"its checkpoint lacks {len(missing)} weights of a {type(model).__name__}, first {missing[0]}"
        )
    return model


def _is_of_trunk(model: Any, key: str) -> bool:
    return key.startswith(f"{model.base_model_prefix}.")


def _refusal(backbone: Backbone, reason: str) -> BackboneError:
    return BackboneError(
        f"the backbone {backbone.name} has no pretrained language-modeling head, which scores label words at a mask: "
        f"{reason}. One drawn at random would say nothing. Set head.kind to linear (with a method that has it), or "
        "use a backbone whose checkpoint has such a head, such as roberta-large."
    )


def _share_weights(model: nn.Module, trunk: nn.Module, own_trunk: nn.Module) -> None:
    """Puts the backbone's own weights where the head's are tied to those of the trunk that it was loaded with."""
    tied = {id(parameter): name for name, parameter in trunk.named_parameters()}
    own = dict(own_trunk.named_parameters())
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(parameter) in tied:
                setattr(module, name, own[tied[id(parameter)]])


def _give_embeddings(stub: nn.Module, trunk: Any, own_trunk: nn.Module) -> None:
    """Puts the backbone's input embeddings where a head without a matrix of its own reads them (some DeBERTa's)."""
    embeddings = trunk.get_input_embeddings()
    path = next(name for name, module in trunk.named_modules() if module is embeddings)
    *parents, last = path.split(".")
    module = stub
    for parent in parents:
        inner = nn.Module()
        setattr(module, parent, inner)
        module = inner
    setattr(module, last, own_trunk.get_submodule(path))
