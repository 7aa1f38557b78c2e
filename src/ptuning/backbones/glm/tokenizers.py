"""Tokenizers of GLM (2021): a vocabulary that others made, some tokens of GLM's own behind it, and one template.

    [CLS] A <eos>        [CLS] A [SEP] B <eos>        padding to the right, with <eos>

| files beside the weights | vocabulary | checkpoints |
| --- | --- | --- |
| `vocab.json` and `merges.txt` | GPT-2's, or RoBERTa's (it has `<mask>`) | GLM-2B, GLM-10B, GLM-RoBERTa |
| `vocab.txt` | BERT's, lower-cased | GLM-base, GLM-large, GLM-410M, GLM-515M |
| `cog-pretrain.model` | SentencePiece | GLM-large-chinese, GLM-10B-chinese |

Ids are those of the original code, where every token of GLM's own has a fixed place behind the vocabulary. Blanks
before a mask token belong to it, and no others, as there.

Source: THUDM/GLM, `data_utils/tokenization.py`, and its copy in Oneflow-Inc/one-glm for the ids of SentencePiece.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast
from transformers import __version__ as version

from ptuning.errors import BackboneError, MissingDependencyError

START_OF_PIECE = "<|startofpiece|>"
END_OF_PIECE = "<|endofpiece|>"
_END_OF_TEXT = "<|endoftext|>"
_SPACE_IS_ITS_OWN = ("[MASK]", "[gMASK]", "[sMASK]", "<mask>")

VOCABULARIES = (("vocab.json", "merges.txt"), ("vocab.txt",), ("cog-pretrain.model",))
"""Files of each kind of vocabulary."""

TOKENIZER_FILES = ", or ".join(" with ".join(names) for names in VOCABULARIES)
"""Those, for messages."""

Find = Callable[[str], str | None]
"""Name of a file -> its path, or None where there is no such file."""


@dataclass(frozen=True)
class _Special:
    """Special tokens of a kind of tokenizer.

    Attributes:
        cls: in front.
        sep: between two texts.
        mask: a blank to fill.
        eos: behind, and the padding.
        unk: for what is not known.
        added: what stands behind the vocabulary, in order.
    """

    cls: str
    sep: str
    mask: str
    eos: str
    unk: str
    added: tuple[str, ...]


_GPT2 = _Special(
    cls="[CLS]",
    sep="[SEP]",
    mask="[MASK]",
    eos=_END_OF_TEXT,
    unk="[UNK]",
    added=(START_OF_PIECE, END_OF_PIECE, "[CLS]", "[MASK]", "[SEP]", "[UNK]", "[gMASK]", "[sMASK]"),
)
_ROBERTA = _Special("<s>", "</s>", "<mask>", "</s>", "<unk>", (START_OF_PIECE, END_OF_PIECE))
_BERT = _Special("[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", (START_OF_PIECE, END_OF_PIECE))
_SENTENCEPIECE = _Special(
    cls="[CLS]",
    sep="[SEP]",
    mask="[MASK]",
    eos=_END_OF_TEXT,
    unk="[UNK]",
    added=(  # the one in the middle is a hole in the original
        *(_END_OF_TEXT, "[SEP]", "[CLS]", "[MASK]", "[UNK]", "[UNUSED]"),
        *(START_OF_PIECE, END_OF_PIECE, "[sMASK]", "[gMASK]"),
    ),
)


def has_published_tokenizer(find: Find) -> bool:
    """Whether the files of a vocabulary are there.

    They count more than a tokenizer.json, which may be that of the model whose vocabulary it is.
    """
    return any(all(find(name) for name in names) for names in VOCABULARIES)


def require_tokens(tokenizer: Any, source: str) -> None:
    """Makes sure that a tokenizer which was not made here is one of a GLM: it frames texts and fills blanks.

    Args:
        tokenizer: a transformers tokenizer.
        source: where it is from, for the message.

    Raises:
        BackboneError: it lacks a token without which a GLM is asked in a way that it was not trained for.
    """
    known = tokenizer.get_vocab()
    absent = [token for token in (START_OF_PIECE, END_OF_PIECE) if token not in known]
    absent += [name for name in ("cls_token", "mask_token") if getattr(tokenizer, f"{name}_id", None) is None]
    if absent:
        raise BackboneError(
            f"the tokenizer in {source} is not one of a GLM (2021): it has no {', no '.join(absent)}. Expected the "
            f"files that the checkpoint was published with ({TOKENIZER_FILES}). Put them beside the weights; if "
            "they are there on the hub, it was not reachable."
        )


def load_tokenizer(find: Find, *, vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Makes the tokenizer of a checkpoint from the files that it was published with.

    Args:
        find: gives the path of one of the checkpoint's files.
        vocab_size: rows of the model's word embeddings, which all ids must have.
        max_length: tokens that the model was made for.

    Returns:
        A fast tokenizer, with offsets. Its inputs are ids and mask; GLM has no token types.

    Raises:
        BackboneError: no vocabulary is there, it lacks a token, or ids are not those of the original.
        MissingDependencyError: the vocabulary is SentencePiece's, and the packages that read it are not installed.
        Exception: the tokenizers library raises it itself for a damaged file.
    """
    inner: Any
    inner, special = _vocabulary(find)
    vocabulary: dict[str, int] = inner.get_vocab()
    first = max(vocabulary.values()) + 1
    expected = {token: first + place for place, token in enumerate(special.added)}
    inner.add_special_tokens([_added(token) for token in special.added])
    for token in (special.cls, special.sep, special.mask, special.eos, special.unk):
        if inner.token_to_id(token) is None:
            raise BackboneError(
                f"the vocabulary beside this GLM (2021) has no {token}, which its kind has. Put the files there that "
                "the checkpoint was published with."
            )
    _check_ids({token: inner.token_to_id(token) for token in special.added}, expected, "the vocabulary itself")
    _check_added_tokens(find, expected)
    if inner.get_vocab_size() > vocab_size:
        raise BackboneError(
            f"the vocabulary beside this GLM (2021) has {inner.get_vocab_size()} tokens with those of GLM, but the "
            f"model has embeddings for {vocab_size}. Put the files there that the checkpoint was published with."
        )
    _add_template(inner, special)
    inner.add_special_tokens([_added(token) for token in dict.fromkeys((special.cls, special.sep, special.mask))])
    make: Any = PreTrainedTokenizerFast
    tokenizer: PreTrainedTokenizerFast = make(
        tokenizer_object=inner,
        cls_token=special.cls,
        sep_token=special.sep,
        mask_token=_added(special.mask),
        eos_token=special.eos,
        pad_token=special.eos,
        unk_token=special.unk,
        extra_special_tokens=[_added(token) for token in special.added if token in _OTHERS],
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    return tokenizer


_OTHERS = (START_OF_PIECE, END_OF_PIECE, "[gMASK]", "[sMASK]")


def _added(token: str) -> AddedToken:
    return AddedToken(token, lstrip=token in _SPACE_IS_ITS_OWN, rstrip=False, normalized=False, special=True)


def _vocabulary(find: Find) -> tuple[Tokenizer, _Special]:
    """The vocabulary that is there, as a tokenizer without GLM's own tokens, and what those are."""
    kinds: tuple[Callable[..., tuple[Tokenizer, _Special]], ...] = (_byte_level, _word_piece, _sentence_piece)
    for names, make in zip(VOCABULARIES, kinds, strict=True):
        paths = [find(name) for name in names]
        if all(paths):
            return make(*(str(path) for path in paths))
    files = ", ".join(" with ".join(names) for names in VOCABULARIES)
    raise BackboneError(f"none of {files} is beside this GLM (2021). Put the tokenizer's files beside the weights.")


def _byte_level(vocab: str, merges: str) -> tuple[Tokenizer, _Special]:
    inner = Tokenizer(models.BPE.from_file(vocab, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return inner, _ROBERTA if inner.token_to_id("<mask>") is not None else _GPT2


def _word_piece(vocab: str) -> tuple[Tokenizer, _Special]:
    inner = Tokenizer(models.WordPiece.from_file(vocab, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    return inner, _BERT


def _sentence_piece(path: str) -> tuple[Tokenizer, _Special]:
    if not (_is_installed("sentencepiece") and _is_installed("google.protobuf")):
        raise MissingDependencyError(
            "this GLM (2021) has a SentencePiece vocabulary (cog-pretrain.model), which the packages sentencepiece and "
            "protobuf read. Install them: pip install 'ptuning[sentencepiece]'"
        )
    from transformers.convert_slow_tokenizer import SentencePieceExtractor, SpmConverter

    converter: Any = SpmConverter
    convert = converter.build_tokenizer_from_spm_proto
    if "legacy" not in inspect.signature(convert).parameters:  # it came with merges by score and the blank in front
        raise MissingDependencyError(
            f"this GLM (2021) has a SentencePiece vocabulary (cog-pretrain.model), and transformers {version} turns it "
            "into a tokenizer that splits texts in another way, expected one such as 5.24. Install a newer one: pip "
            "install --upgrade 'transformers>=5.24,<6'"
        )
    try:
        proto = SentencePieceExtractor(path).proto
    except Exception as error:  # protobuf's own errors are of no public type
        raise BackboneError(f"{path} is no SentencePiece model: {error}. Get the file again.") from error
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    is_unigram = proto.trainer_spec.model_type == 1
    vocabulary: Any = pieces if is_unigram else {piece: place for place, (piece, _) in enumerate(pieces)}
    return convert(proto, vocabulary), _SENTENCEPIECE


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # what it is in is not there either
        return False


def _add_template(inner: Tokenizer, special: _Special) -> None:
    used = dict.fromkeys((special.cls, special.sep, special.eos))
    template = processors.TemplateProcessing(
        single=f"{special.cls} $A {special.eos}",
        pair=f"{special.cls} $A {special.sep} $B {special.eos}",
        special_tokens=[(token, inner.token_to_id(token)) for token in used],
    )
    if isinstance(inner.pre_tokenizer, pre_tokenizers.ByteLevel):
        # The space before a word is in its token, but not in the characters that the token is said to come from.
        inner.post_processor = processors.Sequence(
            [processors.ByteLevel(add_prefix_space=False, trim_offsets=True), template]
        )
    else:
        inner.post_processor = template


def _check_added_tokens(find: Find, expected: Mapping[str, int]) -> None:
    """Makes sure that `added_tokens.json`, where it is there, has the ids of the original."""
    path = find("added_tokens.json")
    if path is None:
        return
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        known = {token: int(found[token]) for token in expected if token in found}
    except (OSError, ValueError, TypeError) as error:
        raise BackboneError(f"{path} cannot be read: {error}. Get the file again.") from error
    _check_ids(known, {token: expected[token] for token in known}, path)


def _check_ids(found: Mapping[str, int], expected: Mapping[str, int], where: str) -> None:
    differing = [
        f"{token} {found[token]} instead of {place}" for token, place in expected.items() if found[token] != place
    ]
    if differing:
        raise BackboneError(
            f"{where} gives other ids than the original code of GLM (2021): {', '.join(differing)}. Put the files "
            "there that the checkpoint was published with."
        )
