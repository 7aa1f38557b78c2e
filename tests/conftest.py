"""Tiny random models of every supported family, a tiny backbone on disk, and tiny data of every kind of task."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, PreTrainedTokenizerFast

from ptuning.backbones import glm

_BERT_SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 40,
}
_T5_SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
_ROTARY_SIZES = {**_BERT_SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1}
# Two key/value heads for four attention heads. Windows are shorter than most of the texts in tests, but show some real
# token to all padding: where none is seen, eager attention in float64 has nothing to divide by.
_DECODER_SIZES = {**_ROTARY_SIZES, "num_key_value_heads": 2, "head_dim": 8}
_WINDOW = {"sliding_window": 5}
_GEMMA_SIZES = {**_DECODER_SIZES, "query_pre_attn_scalar": 20}
_GEMMA2_SIZES = {**_GEMMA_SIZES, **_WINDOW, "attn_logit_softcapping": 2.0}
_GEMMA3_SIZES = {**_GEMMA_SIZES, **_WINDOW, "sliding_window_pattern": 2}
_QWEN_SIZES = {**_DECODER_SIZES, **_WINDOW, "use_sliding_window": True, "max_window_layers": 1}
_BOTH_WAYS = {"is_causal": False}
_DEBERTA_SIZES = {
    **_BERT_SIZES,
    "relative_attention": True,
    "max_relative_positions": -1,
    "pos_att_type": ["c2p", "p2c"],
    "position_biased_input": False,
    "type_vocab_size": 0,
}

# Of every family one config at least, and of those with variants one for each that takes another path.
TINY_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert": ("albert", {**_BERT_SIZES, "embedding_size": 16}),
    "albert-groups": (
        "albert",
        {**_BERT_SIZES, "embedding_size": 16, "num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2},
    ),
    "bert": ("bert", _BERT_SIZES),
    "camembert": ("camembert", _BERT_SIZES),
    "deberta": ("deberta", _DEBERTA_SIZES),
    "deberta-biased": ("deberta", {**_DEBERTA_SIZES, "position_biased_input": True, "type_vocab_size": 2}),
    "deberta-c2p": ("deberta", {**_DEBERTA_SIZES, "pos_att_type": ["c2p"]}),
    "deberta-p2c": ("deberta", {**_DEBERTA_SIZES, "pos_att_type": ["p2c"]}),
    "deberta-short-span": ("deberta", {**_DEBERTA_SIZES, "max_relative_positions": 4}),
    "deberta-absolute": (
        "deberta",
        {**_DEBERTA_SIZES, "relative_attention": False, "pos_att_type": [], "position_biased_input": True},
    ),
    "deberta-talking": ("deberta", {**_DEBERTA_SIZES, "talking_head": True}),
    "deberta-v2": (
        "deberta-v2",
        {**_DEBERTA_SIZES, "share_att_key": True, "position_buckets": 4, "norm_rel_ebd": "layer_norm"},
    ),
    "deberta-v2-biased": ("deberta-v2", {**_DEBERTA_SIZES, "position_biased_input": True, "type_vocab_size": 2}),
    "deberta-v2-c2p": ("deberta-v2", {**_DEBERTA_SIZES, "pos_att_type": ["c2p"]}),
    "deberta-v2-p2c": ("deberta-v2", {**_DEBERTA_SIZES, "pos_att_type": ["p2c"], "position_buckets": 4}),
    "deberta-v2-conv": (
        "deberta-v2",
        {**_DEBERTA_SIZES, "share_att_key": True, "position_buckets": 4, "conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "distilbert": (
        "distilbert",
        {"vocab_size": 60, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 40, "max_position_embeddings": 40},
    ),
    "electra": ("electra", {**_BERT_SIZES, "embedding_size": 16}),
    "ernie": ("ernie", _BERT_SIZES),
    "eurobert": ("eurobert", {**_ROTARY_SIZES, "num_key_value_heads": 2, "head_dim": 8, "mask_token_id": 3}),
    "glm2021": (
        glm.MODEL_TYPE,
        {
            "vocab_size": 60,
            "hidden_size": 32,
            "num_layers": 3,
            "num_attention_heads": 4,
            "max_sequence_length": 39,  # its tables have one row more
        },
    ),
    "gemma": ("gemma", _DECODER_SIZES),
    "gemma2": ("gemma2", _GEMMA2_SIZES),
    "gemma2-bidirectional": ("gemma2", {**_GEMMA2_SIZES, **_BOTH_WAYS}),
    "gemma3_text": ("gemma3_text", _GEMMA3_SIZES),
    "gemma3_text-bidirectional": ("gemma3_text", {**_GEMMA3_SIZES, **_BOTH_WAYS}),
    "gemma3_text-trained-both-ways": ("gemma3_text", {**_GEMMA3_SIZES, "use_bidirectional_attention": True}),
    "glm": ("glm", _DECODER_SIZES),
    "glm4": ("glm4", _DECODER_SIZES),
    "glm4-bidirectional": ("glm4", {**_DECODER_SIZES, **_BOTH_WAYS}),
    "llama": ("llama", _DECODER_SIZES),
    "llama-bidirectional": ("llama", {**_DECODER_SIZES, **_BOTH_WAYS}),
    "megatron-bert": ("megatron-bert", _BERT_SIZES),
    "mistral": ("mistral", {**_DECODER_SIZES, **_WINDOW}),
    "mistral-bidirectional": ("mistral", {**_DECODER_SIZES, **_WINDOW, **_BOTH_WAYS}),
    "modernbert": (
        "modernbert",
        {**_ROTARY_SIZES, "sep_token_id": 2, "local_attention": 8, "global_attn_every_n_layers": 2},
    ),
    "mpnet": ("mpnet", _BERT_SIZES),
    "mt5": ("mt5", _T5_SIZES),
    "nomic_bert": ("nomic_bert", {**_ROTARY_SIZES, "head_dim": 8}),
    "qwen2": ("qwen2", _QWEN_SIZES),
    "qwen2-bidirectional": ("qwen2", {**_QWEN_SIZES, **_BOTH_WAYS}),
    "qwen3": ("qwen3", _DECODER_SIZES),
    "qwen3-wide-heads": ("qwen3", {**_QWEN_SIZES, "head_dim": 16}),
    "roberta": ("roberta", _BERT_SIZES),
    "t5": ("t5", _T5_SIZES),
    "t5gemma": ("t5gemma", {"encoder": _GEMMA2_SIZES, "decoder": _GEMMA2_SIZES, "vocab_size": 60}),
    "umt5": ("umt5", _T5_SIZES),
    "xlm-roberta": ("xlm-roberta", _BERT_SIZES),
    "xlm-roberta-xl": ("xlm-roberta-xl", _BERT_SIZES),
}

# Dropout has another name in nearly every family; tests that want it set it themselves.
_NO_DROPOUT = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "attention_dropout",
    "dropout",
    "dropout_rate",
    "embedding_dropout",
    "mlp_dropout",
    "classifier_dropout_prob",
    "hidden_dropout",
)


def _build(
    name: str,
    *,
    auto: Any = None,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **overrides: Any,
) -> Any:
    model_type, sizes = TINY_CONFIGS[name]
    config = AutoConfig.for_model(model_type, **{**sizes, **overrides})
    for field in _NO_DROPOUT:
        if hasattr(config, field) and field not in overrides:
            setattr(config, field, 0.0)
    is_t5 = model_type in ("t5", "mt5", "umt5", "t5gemma")
    native = model_type in ("deberta", "deberta-v2", "mpnet", "megatron-bert")
    if model_type == "t5gemma":
        config.is_encoder_decoder = False
    if model_type in ("gemma2", "t5gemma") and attention == "sdpa":
        attention = "eager"  # sdpa cannot cap scores
    auto = auto or (AutoModelForTextEncoding if is_t5 else AutoModel)
    model = auto.from_config(config, attn_implementation="eager" if native else attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            # Large enough that attention is far from uniform and every layer matters.
            start = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(start * 0.2 if parameter.ndim > 1 else parameter + start * 0.1)
    return model.to(dtype).eval()


def _ragged_batch(config: Any, lengths: tuple[int, ...], seed: int = 0) -> dict[str, Tensor]:
    pad = config.pad_token_id if config.pad_token_id is not None else 0
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, config.vocab_size, (len(lengths), max(lengths)), generator=generator)
    real = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return {"input_ids": ids.where(real, torch.tensor(pad)), "attention_mask": real.long()}


@pytest.fixture(scope="session")
def tiny_names() -> list[str]:
    """Names that `tiny_model` takes: each family by its own name, and its variants."""
    return list(TINY_CONFIGS)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., Any]:
    """Builds a tiny random model, without dropout and in eval mode: `tiny_model("bert", attention="eager")`."""
    return _build


@pytest.fixture(scope="session")
def ragged_batch() -> Callable[..., dict[str, Tensor]]:
    """Builds a batch with padding on the right: `ragged_batch(model.config, (9, 6, 3))`."""
    return _ragged_batch


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is read from the user's cache, and nothing written to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTUNING_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _full_precision() -> Iterator[None]:
    """Backbones are stored in float32 where nothing else is said, whatever the machine computes natively."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        patch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        yield


_COLOURS = ("red", "blue", "green", "grey")
_WORDS = ("lamp", "box", "kettle", "parcel", "desk", "shoe", "cable", "door", "late", "broken", "lost", "nice")
_TOWNS = ("leeds", "cork", "riga")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT (32 wide, 2 layers, 64 positions, dropout 0.1) with a WordPiece tokenizer, in hub layout."""
    directory = tmp_path_factory.mktemp("backbone") / "tiny-bert"
    letters = "abcdefghijklmnopqrstuvwxyz0123456789?.,'-"
    words = [*_COLOURS, *_WORDS, *_TOWNS, "the", "a", "is", "where", "what", "colour", "in", "and", "##s", "##ed"]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(directory)
    _build(
        "bert",
        vocab_size=len(vocabulary),
        num_hidden_layers=2,
        max_position_embeddings=64,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random decoder of a family (32 wide, 3 layers), in hub layout: `tiny_decoder("llama")`.

    Its tokenizer is as those of today's decoders: bytes with merges, the space counted to the word behind it, an end
    token, and neither a token for padding nor any put around or between texts.
    """
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            inner = Tokenizer(models.BPE())
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = decoders.ByteLevel()
            inner.post_processor = processors.ByteLevel(trim_offsets=False)
            words = [*_COLOURS, *_WORDS[:8], *_TOWNS, "the", "a", "is", "where", "what", "colour", "in", "and"]
            trainer = trainers.BpeTrainer(
                vocab_size=340,
                special_tokens=["<end>"],
                initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                show_progress=False,
            )
            inner.train_from_iterator([f" {word}" for word in words], trainer)
            made[name] = tmp_path_factory.mktemp("decoder") / f"tiny-{name}"
            PreTrainedTokenizerFast(
                tokenizer_object=inner, eos_token="<end>", model_input_names=["input_ids", "attention_mask"]
            ).save_pretrained(made[name])
            _build(name, vocab_size=inner.get_vocab_size(), max_position_embeddings=128).save_pretrained(made[name])
        return made[name]

    return make


def _tiny_rows(kind: str, count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(f"{kind} {seed}")
    rows: list[dict[str, Any]] = []
    for index in range(count):
        words = draw.choices(_WORDS, k=draw.randint(2, 9))
        colour, town = draw.choice(_COLOURS[:3]), draw.choice(_TOWNS)
        place = draw.randrange(len(words))
        text = " ".join([*words[:place], colour, *words[place:]])
        if kind == "classification":
            rows.append({"text": text, "label": colour})
        elif kind == "regression":
            rows.append({"text": text, "label": float(_COLOURS.index(colour)) + 0.5})
        elif kind == "multiple_choice":
            choices = [f"a {colour} {draw.choice(_WORDS)}", "a grey door", "the grey box"][: draw.randint(2, 3)]
            label = draw.randrange(len(choices))
            choices[0], choices[label] = choices[label], choices[0]
            rows.append({"question": "what is nice", "choices": choices, "label": label})
        elif kind == "token_classification":
            tokens = [*words[:place], colour, town, *words[place:]]
            tags = ["O"] * place + ["B-COLOUR", "B-PLACE"] + ["O"] * (len(words) - place)
            rows.append({"tokens": tokens, "ner_tags": tags})
        elif kind == "semantic_role_labeling":
            tokens = ["the", *words[:place], "is", colour, "in", town, *words[place:]]
            before = ["B-A1", *["I-A1"] * place] if place else ["O"]
            tags = [*before, "B-V", "B-A2", "B-AM-LOC", "I-AM-LOC", *["O"] * (len(words) - place)]
            rows.append({"id": f"s{index}", "tokens": tokens, "predicate_index": place + 1, "tags": tags})
        elif kind == "cloze":
            entities = draw.sample(_COLOURS, k=draw.randint(2, 4))
            passage = f"the {words[0]} is {entities[0]}.\n@highlight\n{' '.join(entities[1:])} {words[1]}"
            query = f"what is @placeholder is the {words[0]}"
            answers = [entities[0]]
            draw.shuffle(entities)
            rows.append({"passage": passage, "query": query, "entities": entities, "answers": answers})
        else:
            context = f"the {words[0]} is {colour}. " + " ".join(words[1:])
            answers = {"text": [colour], "answer_start": [context.index(colour)]}
            if index % 4 == 3:
                answers = {"text": [], "answer_start": []}
            asked = "what colour is the" if answers["text"] else "where is the"
            question = f"{asked} {words[0]}?"
            rows.append({"id": f"q{index}", "question": question, "context": context, "answers": answers})
    return rows


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes 24 train and 12 validation rows of a kind of task: `tiny_data("classification")`."""
    written: dict[tuple[str, int, int], Path] = {}

    def write(kind: str, num_train: int = 24, seed: int = 0) -> Path:
        key = (kind, num_train, seed)
        if key not in written:
            directory = tmp_path_factory.mktemp("data") / kind
            directory.mkdir()
            for split, count in (("train", num_train), ("validation", 12)):
                lines = [json.dumps(row) + "\n" for row in _tiny_rows(kind, count, 2 * seed + (split == "train"))]
                (directory / f"{split}.jsonl").write_text("".join(lines))
            written[key] = directory
        return written[key]

    return write


@pytest.fixture(scope="session")
def tiny_run(tiny_backbone: Path, tiny_data: Callable[..., Path]) -> Callable[..., Any]:
    """Settings of a short run: `tiny_run(directory, "classification", **{"training.epochs": 1})`.

    Of the usual ones a method has those that it has at all; what is given must be a setting of it.
    """
    from ptuning.config import METHODS, load_config
    from ptuning.config.foreign import foreign_settings

    def settings(output: Path, kind: str = "classification", **overrides: Any) -> Any:
        usual: dict[str, Any] = {
            "task": kind,
            "backbone": str(tiny_backbone),
            "data.path": str(tiny_data(kind)),
            "data.max_length": 48,
            "prompts.prompt_length": 4,
            "training.epochs": 2,
            "training.batch_size": 8,
            "training.device": "cpu",
            "output": str(output),
        }
        found = load_config(None, {**usual, **overrides})
        foreign = foreign_settings(found, METHODS[found.method])
        return load_config(None, {**{name: usual[name] for name in usual if name not in foreign}, **overrides})

    return settings


_GLM_SIZES = {
    "model_type": "glm",
    "architectures": ["GLMModel"],
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "vocab_size": 384,
    "max_sequence_length": 160,
    "block_position_encoding": True,
    "relative_encoding": False,
    "attention_scale": 1.0,
    "embedding_dropout_prob": 0.0,
    "attention_dropout_prob": 0.0,
    "output_dropout_prob": 0.0,
    "pool_token": "cls",
}
# Whole words, with the space in front of them; everything else is a token a byte.
_GLM_WORDS = ("ĠYes", "ĠNo", "ĠMaybe", "Ġtrue", "Ġfalse", "Ġthe", "Ġlamp", "Ġred", "Ġblue", "Ġgreen")


@pytest.fixture(scope="session")
def glm_with_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GLM (2021) in the layout of the hub: 32 wide, 2 layers, 160 tokens, GPT-2's kind of vocabulary."""
    directory = tmp_path_factory.mktemp("backbone") / "tiny-glm"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(_GLM_SIZES))
    merges: list[tuple[str, str]] = []
    for word in _GLM_WORDS:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            merges += [pair] * (pair not in merges)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *("".join(pair) for pair in merges), "<|endoftext|>"]
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (directory / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    generator = torch.Generator().manual_seed(7)
    weights = {
        name: torch.randn(tensor.shape, generator=generator) * 0.2 + (tensor.ndim == 1 and name.endswith("norm.weight"))
        for name, tensor in glm.Glm2021Model(glm.Glm2021Config.from_published(_GLM_SIZES)).state_dict().items()
    }
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    return directory
