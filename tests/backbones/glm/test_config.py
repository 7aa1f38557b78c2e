"""A GLM of 2021/22 is known by the fields of its config.json, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from ptuning import load_backbone
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import find_trunk
from ptuning.backbones.glm import Glm2021Config, Glm2021Model, is_glm_2021, read_config
from ptuning.errors import BackboneError


def test_a_published_config_is_read(published_config: Any) -> None:
    config = Glm2021Config.from_published(published_config(attention_scale=8, layernorm_epsilon=1e-6))
    assert config.model_type == "glm2021"
    assert (config.num_layers, config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (
        3,
        3,
        32,
        4,
    )
    assert (config.vocab_size, config.max_sequence_length, config.max_position_embeddings) == (64, 39, 40)
    assert (config.intermediate_size, config.head_dim, config.layernorm_epsilon) == (128, 8, 1e-6)
    assert config.attention_probs_dropout_prob == config.hidden_dropout_prob == config.embedding_dropout_prob == 0.1
    assert config.hidden_act == "gelu_tanh"
    assert not hasattr(config, "auto_map"), "remote code is not asked for again"


def test_the_defaults_are_those_of_glm_large() -> None:
    config = Glm2021Config()
    assert (config.num_layers, config.hidden_size, config.num_attention_heads, config.vocab_size) == (
        24,
        1024,
        16,
        30592,
    )


def test_another_name_of_the_number_of_layers_is_read(published_config: Any) -> None:
    values = published_config(num_hidden_layers=7)
    del values["num_layers"]
    assert is_glm_2021(values)
    assert Glm2021Config.from_published(values).num_layers == 7


def test_sizes_that_follow_from_others_may_be_there(published_config: Any) -> None:
    values = published_config(head_dim=8, intermediate_size=128, max_position_embeddings=40)
    assert Glm2021Config.from_published(values).to_dict() == Glm2021Config.from_published(published_config()).to_dict()


def test_known_by_its_fields_whatever_its_type_says(published_config: Any) -> None:
    assert is_glm_2021(published_config())
    without = published_config()
    del without["model_type"]
    assert is_glm_2021(without)
    assert is_glm_2021({"model_type": "glm2021"}), "what this package wrote"


@pytest.mark.parametrize("model_type", ["glm", "glm4", "glm4_moe", "t5", "bert", "llama"])
def test_configs_of_today_are_not_taken_for_it(model_type: str) -> None:
    assert not is_glm_2021(AutoConfig.for_model(model_type).to_dict())


def test_neither_its_type_alone_nor_chatglm_is_taken_for_it() -> None:
    assert not is_glm_2021({"model_type": "glm"})
    assert not is_glm_2021({"model_type": "glm", "num_layers": 28, "max_sequence_length": 2048})
    chatglm = {"model_type": "chatglm", "num_layers": 28, "max_sequence_length": 2048, "position_encoding_2d": True}
    assert not is_glm_2021(chatglm)
    assert not is_glm_2021({})


def test_a_glm_of_today_is_not_read_as_one_of_2021(tmp_path: Path, published_config: Any) -> None:
    tmp_path.joinpath("config.json").write_text(json.dumps({"model_type": "glm", "num_hidden_layers": 2}))
    assert read_config(str(tmp_path)) is None
    tmp_path.joinpath("config.json").write_text(json.dumps(published_config()))
    assert type(read_config(str(tmp_path))) is Glm2021Config


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("relative_encoding", True, "relative_encoding True, expected false"),
        ("block_position_encoding", False, "block_position_encoding False, expected true"),
        ("performer", True, "performer True, expected false"),
        ("hidden_act", "relu", "hidden_act 'relu', expected one of gelu_tanh, gelu_erf"),
        ("pool_token", "mean", "pool_token 'mean', expected one of cls, start, pad"),
        ("num_layers", 0, "num_layers 0, expected a whole number of at least 1"),
        ("hidden_size", "32", "hidden_size '32', expected a whole number of at least 1"),
        ("num_layers", True, "num_layers True, expected a whole number of at least 1"),
        ("layernorm_epsilon", "x", "layernorm_epsilon 'x', expected a number above 0"),
        ("head_dim", 16, "head_dim 16, expected 8, which follows from its other sizes. Leave head_dim out"),
        ("intermediate_size", 64, "intermediate_size 64, expected 128, which follows"),
        ("max_position_embeddings", 39, "max_position_embeddings 39, expected 40, which follows"),
        ("num_attention_heads", 5, "hidden_size 32 and num_attention_heads 5, expected a width that the heads divide"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    field: str, value: Any, words: str, published_config: Any, tmp_path: Path
) -> None:
    values = published_config(**{field: value})
    with pytest.raises(BackboneError, match=words):
        Glm2021Config.from_published(values)
    tmp_path.joinpath("config.json").write_text(json.dumps(values))
    with pytest.raises(BackboneError, match=words):
        load_backbone(tmp_path)


def test_a_config_is_saved_and_found_again(tmp_path: Path, published_config: Any) -> None:
    config = Glm2021Config.from_published(published_config(hidden_act="gelu_erf"))
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    config.name_or_path = str(tmp_path)
    assert type(again) is Glm2021Config and again.to_dict() == config.to_dict()
    assert is_glm_2021(json.loads((tmp_path / "config.json").read_text()))


def test_its_numbers_are_described(published_config: Any) -> None:
    model = Glm2021Model(Glm2021Config.from_published(published_config()))
    description = describe_trunk(*find_trunk(model))
    assert description.architecture() == {
        "model_type": "glm2021",
        "num_layers": 3,
        "hidden_size": 32,
        "num_heads": 4,
        "num_kv_heads": 4,
        "head_dim": 8,
        "vocab_size": 64,
    }
    assert description.max_positions == 40
    tables = (64 + 2 * 40) * 32
    assert description.num_parameters == tables + 3 * (12 * 32 * 32 + 13 * 32) + 2 * 32
    assert description.num_transformer_parameters == description.num_parameters - tables
