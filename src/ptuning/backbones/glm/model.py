"""GLM of 2021/22 as a model of transformers: token ids to hidden states.

    h0  = E[ids] + P[position] + B[block position]
    h   = h + W_o attention(LN(h))          attention sees what the mask allows, virtual tokens in front
    h   = h + W_2 gelu(W_1 LN(h))
    out = LN(h of the last layer)           scores of tokens are out · E^T

Parameters are named as in the published checkpoints. Letters in shape comments: B batch, N tokens, C hidden size.

Source: Du et al. 2022, section 2; THUDM/GLM, `mpu/transformer.py` and `model/modeling_glm.py`. Left out are the
original's memories (prompts that pass the norms and projections of each layer) and its attention scale (see `config`).
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, initialization
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from ptuning.backbones.glm.attention import Glm2021Attention, is_output, mark_output
from ptuning.backbones.glm.config import Glm2021Config
from ptuning.backbones.glm.masks import make_mask
from ptuning.errors import BackboneError


class Glm2021FeedForward(nn.Module):
    """Two linear layers and a gelu between them."""

    def __init__(self, config: Glm2021Config) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = mark_output(nn.Linear(config.intermediate_size, config.hidden_size))
        self.dropout = nn.Dropout(config.output_dropout_prob)
        self._approximation = "tanh" if config.hidden_act == "gelu_tanh" else "none"

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(batch_size, seq_len, hidden_size) -> the same."""
        inner = functional.gelu(self.dense_h_to_4h(hidden_states), approximate=self._approximation)
        output: Tensor = self.dropout(self.dense_4h_to_h(inner))
        return output


class Glm2021Layer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]
    """Attention and feed-forward, each behind a norm and beside a plain sum."""

    def __init__(self, config: Glm2021Config, layer_idx: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = Glm2021Attention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = Glm2021FeedForward(config)

    def forward(self, hidden_states: Tensor, attention_mask: Any = None) -> Tensor:
        """(batch_size, seq_len, hidden_size) -> the same; `attention_mask` as `make_mask` made it."""
        hidden_states = hidden_states + self.attention(self.input_layernorm(hidden_states), attention_mask)
        output: Tensor = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return output


class Glm2021Transformer(nn.Module):
    """Positions, layers and the last norm; the published names have them under one roof."""

    def __init__(self, config: Glm2021Config) -> None:
        super().__init__()
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.block_position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(Glm2021Layer(config, number) for number in range(config.num_layers))
        self.final_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def embed(self, embeddings: Tensor, position_ids: Tensor | None) -> Tensor:
        """Adds both kinds of positions to word embeddings.

        Args:
            embeddings: (batch_size, seq_len, hidden_size).
            position_ids: (batch_size or 1, 2, seq_len), positions, then block positions; (batch_size or 1, seq_len) for
                positions alone, all in block 0; None for positions 0, 1, 2, ….

        Returns:
            (batch_size, seq_len, hidden_size).

        Raises:
            BackboneError: there are more tokens than positions, or `position_ids` has another shape.
        """
        batch_size, seq_len = embeddings.shape[:2]
        if position_ids is None:
            limit = self.position_embeddings.num_embeddings
            if seq_len > limit:
                raise BackboneError(
                    f"the batch has {seq_len} tokens, but the backbone has {limit} positions. Cut the texts, or give "
                    "position_ids."
                )
            position_ids = torch.arange(seq_len, device=embeddings.device).unsqueeze(0)  # (1, N)
        *front, last = position_ids.shape
        if front not in ([1], [batch_size], [1, 2], [batch_size, 2]) or last != seq_len:
            raise BackboneError(
                f"position_ids has shape {tuple(position_ids.shape)}, expected (batch_size, 2, seq_len) = "
                f"{(batch_size, 2, seq_len)}: positions, then block positions; or {(batch_size, seq_len)} for "
                "positions alone."
            )
        positions = position_ids if position_ids.ndim == 2 else position_ids[:, 0]  # (B or 1, N)
        blocks = torch.zeros_like(positions) if position_ids.ndim == 2 else position_ids[:, 1]
        added = embeddings + self.position_embeddings(positions) + self.block_position_embeddings(blocks)
        embedded: Tensor = self.embedding_dropout(added)
        return embedded


class Glm2021PreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """What transformers asks of its models."""

    config_class = Glm2021Config
    base_model_prefix = "glm"
    supports_gradient_checkpointing = True
    _no_split_modules = ["Glm2021Layer"]
    _input_embed_layer = "word_embeddings"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def _init_weights(self, module: nn.Module) -> None:
        """Draws random weights of one module."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        config: Any = self.config
        if isinstance(module, nn.Linear) and is_output(module) and config.use_scaled_init_for_output_weights:
            std = config.initializer_range / (2 * config.num_layers) ** 0.5
            initialization.normal_(module.weight, mean=0.0, std=std)


@final
class Glm2021Model(Glm2021PreTrainedModel):  # type: ignore[no-untyped-call]
    """GLM of 2021/22, headless.

    Args:
        config: of the model.
    """

    def __init__(self, config: Glm2021Config) -> None:
        super().__init__(config)
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.transformer = Glm2021Transformer(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        context_lengths: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Token ids, or word embeddings in their place, to hidden states.

        Args:
            input_ids: (batch_size, seq_len).
            attention_mask: (batch_size, seq_len), 1 for real tokens; None where all are.
            position_ids: (batch_size, 2, seq_len), positions, then block positions; by default 0, 1, 2, … and block 0.
            context_lengths: (batch_size,), how many tokens of each row are context: they see each other whole and
                nothing behind them, and each token behind them sees the context and what came before it. None where
                everything is context, as in an encoder.
            inputs_embeds: (batch_size, seq_len, hidden_size), instead of `input_ids`.
            output_hidden_states: whether to return what enters the first layer and what each layer gives, too; the
                last of them behind the last norm.
            return_dict: whether to return an object with names, the default, or a tuple.

        Returns:
            last_hidden_state: (batch_size, seq_len, hidden_size), behind the last norm; and `hidden_states`, if asked.

        Raises:
            BackboneError: both or none of `input_ids` and `inputs_embeds`, or another shape.
        """
        if (input_ids is None) == (inputs_embeds is None):
            given = "both" if inputs_embeds is not None else "neither"
            raise BackboneError(f"input_ids or inputs_embeds is needed, got {given}. Give one of the two.")
        embeddings: Tensor = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        hidden_states = self.transformer.embed(embeddings, position_ids)
        mask = make_mask(self.config, embeddings, attention_mask, context_lengths)
        is_asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        entering: list[Tensor] = []
        for layer in self.transformer.layers:
            if is_asked:
                entering.append(hidden_states)
            hidden_states = layer(hidden_states, mask)
        last: Tensor = self.transformer.final_layernorm(hidden_states)
        all_states = (*entering, last) if is_asked else None
        output = BaseModelOutput(last_hidden_state=last, hidden_states=all_states)
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()


def tied_logits(hidden_states: Tensor, word_embeddings: Tensor) -> Tensor:
    """Scores of all tokens: (…, hidden_size) and (vocab_size, hidden_size) -> (…, vocab_size), unnormalized."""
    return functional.linear(hidden_states, word_embeddings)


class TiedLogits(nn.Module):
    """The language-modeling head: the word embeddings themselves, without a bias.

    Args:
        word_embeddings: of the model, which stay the model's own.
    """

    def __init__(self, word_embeddings: nn.Embedding) -> None:
        super().__init__()
        self.word_embeddings = word_embeddings

    def forward(self, inputs_embeds: Tensor, **kwargs: Any) -> MaskedLMOutput:
        """Hidden states of the last layer, (…, hidden_size), to `logits`, (…, vocab_size)."""
        return MaskedLMOutput(logits=tied_logits(inputs_embeds, self.word_embeddings.weight))


@final
class Glm2021ForMaskedLM(Glm2021PreTrainedModel):  # type: ignore[no-untyped-call]
    """GLM of 2021/22 with scores of all tokens at every place.

    The model was trained to fill a blank behind the text, from `<|startofpiece|>` on: scores at that token are those of
    the blank's first token, not the scores at `[MASK]`.

    Args:
        config: of the model.
    """

    def __init__(self, config: Glm2021Config) -> None:
        super().__init__(config)
        self.glm = Glm2021Model(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **kwargs: Any) -> MaskedLMOutput | tuple[Any, ...]:
        """As `Glm2021Model`, with `logits`, (batch_size, seq_len, vocab_size)."""
        as_dict = kwargs.pop("return_dict", None)
        output = self.glm(*args, **kwargs, return_dict=True)
        logits = tied_logits(output.last_hidden_state, self.glm.word_embeddings.weight)
        result = MaskedLMOutput(logits=logits, hidden_states=output.hidden_states)
        return result if (self.config.return_dict if as_dict is None else as_dict) else result.to_tuple()
