"""GLM of 2021/22 (Du et al. 2022): GLM-base to GLM-10B, which today's transformers has no class for.

It is not the `glm` of transformers, which is GLM-4. What is here:

- `Glm2021Config`, `is_glm_2021`: settings, and whether a `config.json` is of this family (`config.py`).
- `Glm2021Model`, `Glm2021ForMaskedLM`: transformers models that call the attention interface, so prompts enter them as
  every other family (`model.py`). Beside ids and mask, `forward` takes `position_ids` (batch_size, 2, seq_len) and
  `context_lengths` (batch_size,). Without these two it is an encoder.
- `tied_logits`, `TiedLogits`: scores of all tokens, from hidden states and the word embeddings.
- `load_model`: weights from all published formats, strictly (`checkpoint.py`, `pickles.py`, `shards.py`).
- `load_tokenizer`: a fast tokenizer from the files beside the weights (`tokenizers.py`). Special tokens of every kind:
  `cls_token`, `sep_token`, `mask_token`, `eos_token` (also `pad_token`), and `<|startofpiece|>`, `<|endofpiece|>`.

The classes are registered with transformers' Auto classes as `glm2021`, so what `save_pretrained` wrote is found again.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from ptuning.backbones.glm.checkpoint import load_model, missing_config, read_config
from ptuning.backbones.glm.config import MODEL_TYPE, Glm2021Config, is_glm_2021
from ptuning.backbones.glm.model import Glm2021ForMaskedLM, Glm2021Model, TiedLogits, tied_logits
from ptuning.backbones.glm.tokenizers import (
    END_OF_PIECE,
    START_OF_PIECE,
    TOKENIZER_FILES,
    has_published_tokenizer,
    load_tokenizer,
    require_tokens,
)

AutoConfig.register(MODEL_TYPE, Glm2021Config, exist_ok=True)
AutoModel.register(Glm2021Config, Glm2021Model, exist_ok=True)
AutoModelForMaskedLM.register(Glm2021Config, Glm2021ForMaskedLM, exist_ok=True)
AutoTokenizer.register(  # type: ignore[no-untyped-call]
    Glm2021Config, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
)

__all__ = [
    "END_OF_PIECE",
    "MODEL_TYPE",
    "START_OF_PIECE",
    "TOKENIZER_FILES",
    "Glm2021Config",
    "Glm2021ForMaskedLM",
    "Glm2021Model",
    "TiedLogits",
    "has_published_tokenizer",
    "is_glm_2021",
    "load_model",
    "load_tokenizer",
    "missing_config",
    "read_config",
    "require_tokens",
    "tied_logits",
]
