"""Tokenizers are made from the files beside the weights, with the tokens and templates of the original."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SpmConverter

from ptuning import load_backbone
from ptuning.backbones.glm import load_tokenizer
from ptuning.errors import BackboneError, MissingDependencyError

ADDED = ["<|startofpiece|>", "<|endofpiece|>", "[CLS]", "[MASK]", "[SEP]", "[UNK]", "[gMASK]", "[sMASK]"]
WORDS = ("the", "lamp", "is", "red")


def _tokens(tokenizer: Any, *texts: str, **options: Any) -> list[str]:
    """The names of the tokens; an encoding's own are the characters that they come from."""
    names: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(*texts, **options)["input_ids"])
    return names


def _load(directory: Path, **more: Any) -> Any:
    def find(name: str) -> str | None:
        return str(directory / name) if (directory / name).exists() else None

    return load_tokenizer(find, **{"vocab_size": 512, "max_length": 128, **more})


@pytest.fixture
def gpt2(tmp_path: Path, write_byte_level: Callable[..., None]) -> Path:
    write_byte_level(tmp_path, words=WORDS, last="<|endoftext|>")
    return tmp_path


@pytest.fixture
def roberta(tmp_path: Path, write_byte_level: Callable[..., None]) -> Path:
    write_byte_level(tmp_path, words=WORDS, first=("<s>", "<pad>", "</s>", "<unk>"), last="<mask>")
    return tmp_path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ".", "##s", "cafe"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
    return tmp_path


def test_tokens_of_glm_stand_behind_the_vocabulary_of_gpt2(gpt2: Path) -> None:
    tokenizer = _load(gpt2)
    size = len(json.loads((gpt2 / "vocab.json").read_text()))
    assert [tokenizer.convert_tokens_to_ids(token) for token in ADDED] == list(range(size, size + 8))
    assert len(tokenizer) == size + 8
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == size - 1
    assert (tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token) == ("[CLS]", "[SEP]", "[MASK]")
    assert (tokenizer.unk_token_id, tokenizer.model_max_length) == (size + 5, 128)
    assert (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.is_fast) == ("right", "right", True)
    assert list(tokenizer("red")) == ["input_ids", "attention_mask"], "no token types"


def test_the_template_of_gpt2(gpt2: Path) -> None:
    tokenizer = _load(gpt2)
    assert _tokens(tokenizer, "the red", " lamp") == [
        *("[CLS]", "t", "h", "e", "Ġred", "[SEP]", "Ġlamp", "<|endoftext|>")
    ]
    assert _tokens(tokenizer, " red lamp") == ["[CLS]", "Ġred", "Ġlamp", "<|endoftext|>"]
    assert _tokens(tokenizer, "", " red") == ["[CLS]", "[SEP]", "Ġred", "<|endoftext|>"]
    assert tokenizer.num_special_tokens_to_add(pair=False) == 2 and tokenizer.num_special_tokens_to_add(pair=True) == 3
    padded = tokenizer([" red lamp", " red"], padding=True)
    assert padded["input_ids"][1] == [*tokenizer(" red")["input_ids"], tokenizer.eos_token_id]
    assert padded["attention_mask"] == [[1, 1, 1, 1], [1, 1, 1, 0]], "the end of the text is no padding"
    assert tokenizer(" red lamp")[0].special_tokens_mask == [1, 0, 0, 1]
    assert _tokens(tokenizer, " red lamp red", " lamp", truncation="only_first", max_length=6) == [
        *("[CLS]", "Ġred", "Ġlamp", "[SEP]", "Ġlamp", "<|endoftext|>")
    ]


@pytest.mark.parametrize("token", ["[MASK]", "[gMASK]", "[sMASK]"])
def test_blanks_before_a_mask_belong_to_it_and_no_others(token: str, gpt2: Path) -> None:
    tokenizer = _load(gpt2)
    assert _tokens(tokenizer, f"the red  {token} is")[4:7] == ["Ġred", token, "Ġis"]
    for other in ("[SEP]", "<|startofpiece|>", "[CLS]"):
        assert _tokens(tokenizer, f" red {other} is")[1:5] == ["Ġred", "Ġ", other, "Ġis"]


def test_offsets_are_those_of_the_words_without_blanks(gpt2: Path) -> None:
    text = "red  lamp é [MASK] is"
    encoded = _load(gpt2)(text, " red", return_offsets_mapping=True)
    pieces = [text[start:end] for start, end in encoded["offset_mapping"]][1:-3]
    assert pieces[-2:] == ["[MASK]", "is"] and "lamp" in pieces
    assert pieces[:3] == ["r", "e", "d"] and pieces.count("é") == 2
    assert encoded["offset_mapping"][-2] == (1, 4) and encoded.sequence_ids()[-3:] == [None, 1, None]


def test_the_text_is_given_back(gpt2: Path) -> None:
    tokenizer = _load(gpt2)
    text = "the red lamp, déjà vu"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_it_is_saved_and_read_as_it_is(gpt2: Path, tmp_path: Path) -> None:
    tokenizer = _load(gpt2)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for texts in ((" red [MASK] is",), (" red lamp", " is")):
        assert again(*texts)["input_ids"] == tokenizer(*texts)["input_ids"]
    assert again.pad_token_id == tokenizer.pad_token_id and again.mask_token_id == tokenizer.mask_token_id


def test_roberta(roberta: Path) -> None:
    tokenizer = _load(roberta)
    size = len(json.loads((roberta / "vocab.json").read_text()))
    assert _tokens(tokenizer, " red", " lamp") == ["<s>", "Ġred", "</s>", "Ġlamp", "</s>"]
    assert _tokens(tokenizer, " red <mask> is") == ["<s>", "Ġred", "<mask>", "Ġis", "</s>"]
    assert (tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.sep_token_id) == (
        0,
        2,
        2,
        2,
    )
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (3, size - 1)
    assert [tokenizer.convert_tokens_to_ids(token) for token in ADDED[:2]] == [size, size + 1]
    assert len(tokenizer) == size + 2


def test_bert(bert: Path) -> None:
    tokenizer = _load(bert)
    assert _tokens(tokenizer, "The LAMPS is Café", "red") == [
        *("[CLS]", "the", "lamp", "##s", "is", "cafe", "[SEP]", "red", "[PAD]")
    ]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id) == (0, 0, 4)
    assert [tokenizer.convert_tokens_to_ids(token) for token in ADDED[:2]] == [12, 13]
    assert "token_type_ids" not in tokenizer("red", "lamp")
    assert _tokens(tokenizer, "is [MASK].") == ["[CLS]", "is", "[MASK]", ".", "[PAD]"]
    assert tokenizer("a blue", return_offsets_mapping=True)["offset_mapping"][1:3] == [(0, 1), (2, 6)]


def test_words_that_are_split_already(gpt2: Path) -> None:
    encoded = _load(gpt2)([" red", " lamp", " xy"], is_split_into_words=True)
    assert encoded.word_ids() == [None, 0, 1, 2, 2, 2, None]


def test_other_ids_than_those_of_the_original_are_refused(gpt2: Path) -> None:
    size = len(json.loads((gpt2 / "vocab.json").read_text()))
    right = {token: size + place for place, token in enumerate(ADDED) if token != "[UNK]"}
    (gpt2 / "added_tokens.json").write_text(json.dumps({**right, "[UNUSED]": size + 5, "[dBLOCK]": size + 8}))
    _load(gpt2)
    (gpt2 / "added_tokens.json").write_text(json.dumps({**right, "[MASK]": size + 7}))
    with pytest.raises(BackboneError, match=rf"gives other ids than .*: \[MASK\] {size + 7} instead of {size + 3}\."):
        _load(gpt2)
    (gpt2 / "added_tokens.json").write_text("[")
    with pytest.raises(BackboneError, match="added_tokens.json cannot be read"):
        _load(gpt2)
    (gpt2 / "added_tokens.json").unlink()
    vocabulary = json.loads((gpt2 / "vocab.json").read_text())
    (gpt2 / "vocab.json").write_text(json.dumps({**vocabulary, "[SEP]": size}))
    with pytest.raises(BackboneError, match=r"the vocabulary itself gives other ids .* \[SEP\]"):
        _load(gpt2)


def test_a_vocabulary_of_another_model_is_refused(gpt2: Path, bert: Path) -> None:
    with pytest.raises(BackboneError, match=r"has \d+ tokens with those of GLM, but the model has embeddings for 100"):
        _load(gpt2, vocab_size=100)
    (gpt2 / "vocab.json").unlink()
    bert.joinpath("vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\nred\n")
    with pytest.raises(BackboneError, match=r"has no \[SEP\], which its kind has"):
        _load(bert)
    (bert / "vocab.txt").unlink()
    with pytest.raises(BackboneError, match="none of vocab.json with merges.txt, vocab.txt, cog-pretrain.model is"):
        _load(bert)


def test_the_backbone_finds_it(tiny_glm: Path) -> None:
    tokenizer = load_backbone(tiny_glm).tokenizer
    assert _tokens(tokenizer, " the red lamp is [MASK]") == [
        *("[CLS]", "Ġthe", "Ġred", "Ġlamp", "Ġis", "[MASK]", "<|endoftext|>")
    ]
    assert tokenizer.model_max_length == 128
    assert load_backbone(tiny_glm).pooling == "cls"


def test_the_vocabulary_counts_more_than_the_tokenizer_it_was_made_for(tiny_glm: Path, tmp_path: Path) -> None:
    """BERT's or GPT-2's own tokenizer.json has other special tokens, another template and token types."""
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    other = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", model_input_names=names)
    assert "token_type_ids" in other("red")
    directory = tmp_path / "both"
    shutil.copytree(tiny_glm, directory)
    other.save_pretrained(directory)
    backbone = load_backbone(directory)
    assert _tokens(backbone.tokenizer, " red") == ["[CLS]", "Ġred", "<|endoftext|>"]
    (directory / "merges.txt").unlink()
    with pytest.raises(
        BackboneError,
        match=r"is not one of a GLM \(2021\): it has no cls_token, no mask_token\. Expected .*vocab.json with merges",
    ):
        _ = load_backbone(directory).tokenizer


def test_a_tokenizer_without_pieces_is_refused(tiny_glm: Path, tmp_path: Path, capfd: Any, caplog: Any) -> None:
    """BERT's has [CLS] and [MASK], and would have a GLM answer at the mask."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red"]
    inner = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="[UNK]"))
    directory = tmp_path / "bert"
    shutil.copytree(tiny_glm, directory, ignore=shutil.ignore_patterns("vocab.json", "merges.txt", "*token*"))
    inner.save(str(directory / "tokenizer.json"))
    message = r"has no <\|startofpiece\|>, no <\|endofpiece\|>, no cls_token, no mask_token\."
    with pytest.raises(BackboneError, match=message):
        _ = load_backbone(directory).tokenizer
    names = {name: f"[{name[:-6].upper()}]" for name in ("cls_token", "mask_token", "sep_token", "pad_token")}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(directory)
    for read in ("tokenizer", "pieces", "pooling"):
        with pytest.raises(BackboneError, match=r"it has no <\|startofpiece\|>, no <\|endofpiece\|>\. Expected"):
            getattr(load_backbone(directory), read)
    said = capfd.readouterr()
    assert "151329" not in said.err + said.out + caplog.text, "its config is not read as that of a GLM-4"


def test_a_tokenizer_of_its_own_that_was_saved_is_taken(tiny_glm: Path, tmp_path: Path) -> None:
    directory = tmp_path / "saved"
    shutil.copytree(tiny_glm, directory, ignore=shutil.ignore_patterns("vocab.json", "merges.txt", "tokenizer*"))
    published = load_backbone(tiny_glm)
    published.tokenizer.save_pretrained(directory)
    saved = load_backbone(directory)
    texts = (" red [MASK] is", " lamp")
    assert saved.tokenizer(*texts)["input_ids"] == published.tokenizer(*texts)["input_ids"]
    assert saved.pieces == published.pieces


def _converts_as_sentencepiece() -> bool:
    return "legacy" in inspect.signature(SpmConverter.build_tokenizer_from_spm_proto).parameters


def test_a_transformers_that_splits_otherwise_than_sentencepiece_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(proto: object, vocab: object, merges: object = None) -> None:
        raise AssertionError("its tokenizer would be a wrong one")

    if _converts_as_sentencepiece():
        monkeypatch.setattr(SpmConverter, "build_tokenizer_from_spm_proto", staticmethod(older))
    (tmp_path / "cog-pretrain.model").touch()
    with pytest.raises(MissingDependencyError, match=r"and transformers \d\S+ turns it into .* in another way"):
        _load(tmp_path)


def test_sentencepiece_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cog-pretrain.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(MissingDependencyError, match=r"cog-pretrain.model.*pip install 'ptuning\[sentencepiece\]'"):
        _load(tmp_path)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_sentencepiece(kind: str, tmp_path: Path) -> None:
    if not _converts_as_sentencepiece():
        pytest.skip("this transformers turns SentencePiece's files into tokenizers of another kind; it is refused")
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    texts = ["清华大学位于北京", "北京大学也在北京", "清华 的 大学", "the lamp is red", "大学 in 北京"] * 20
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts.txt"),
        model_prefix=str(tmp_path / "cog-pretrain"),
        vocab_size=60,
        model_type=kind,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "cog-pretrain.model"))
    tokenizer = _load(tmp_path)
    size = own.vocab_size()
    names = ("<|endoftext|>", "[SEP]", "[CLS]", "[MASK]", "[UNK]")
    assert [tokenizer.convert_tokens_to_ids(token) for token in names] == list(range(size, size + 5))
    later = ("<|startofpiece|>", "<|endofpiece|>", "[sMASK]", "[gMASK]")
    assert [tokenizer.convert_tokens_to_ids(token) for token in later] == list(range(size + 6, size + 10))
    for text in (*texts[:5], "北京  red", "lamp北京"):
        assert tokenizer(text)["input_ids"] == [size + 2, *own.encode(text), size]
    pair = tokenizer("清华大学", "北京")
    assert pair["input_ids"] == [size + 2, *own.encode("清华大学"), size + 1, *own.encode("北京"), size]
    masked = tokenizer("清华大学位于 [MASK]北京")["input_ids"]
    assert masked == [size + 2, *own.encode("清华大学位于"), size + 3, *own.encode("北京"), size]
    assert tokenizer.is_fast and tokenizer.pad_token_id == tokenizer.eos_token_id == size
