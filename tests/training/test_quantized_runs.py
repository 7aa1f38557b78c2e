from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import load_backbone
from ptuning.backbones.quantization import quantized_linears
from ptuning.checkpoint import read_prompt
from ptuning.config import load_config, with_method_defaults
from ptuning.errors import BackboneMismatchError, ConfigError, PromptError
from ptuning.evaluation import evaluate
from ptuning.predictor import load
from ptuning.training.run import train

pytest.importorskip("bitsandbytes", reason="weights in 8 or 4 bits need bitsandbytes")

TinyRun = Callable[..., Any]
ROW = {"text": "a red parcel is late and broken"}


@pytest.fixture(scope="module")
def runs(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("quantized")
    for name, quantization in (("plain", "none"), ("rounded", "nf4")):
        train(tiny_run(top / name, **{"training.quantization": quantization, "training.epochs": 1}))
    return {name: top / name for name in ("plain", "rounded")}


def test_a_run_says_what_its_backbone_was_stored_in(runs: dict[str, Path]) -> None:
    assert load_config(runs["rounded"] / "config.yaml").training.quantization == "nf4"
    assert read_prompt(runs["rounded"]).backbone.quantization == "nf4"
    assert read_prompt(runs["plain"]).backbone.quantization == "none"
    card = (runs["rounded"] / "prompt" / "README.md").read_text()
    assert "| quantization | weights of its layers in nf4 |" in card
    assert "quantization" not in (runs["plain"] / "prompt" / "README.md").read_text()


def test_it_is_asked_on_such_a_backbone_and_on_another_only_where_that_is_meant(
    runs: dict[str, Path], tiny_backbone: Path
) -> None:
    predictor = load(runs["rounded"])
    assert predictor.backbone.quantization == "nf4" and quantized_linears(predictor.backbone.model)
    own = predictor.predict([ROW])
    predictor.close()
    plain = load_backbone(tiny_backbone)
    with pytest.raises(BackboneMismatchError, match="with weights in nf4, but the backbone .* are not quantized"):
        load(runs["rounded"], plain)
    other = load(runs["rounded"], plain, quantization="none")
    found = other.predict([ROW])
    other.close()
    assert found[0]["scores"] != own[0]["scores"]
    with pytest.raises(PromptError, match="quantization int8 was asked for, but the backbone that was given has none"):
        load(runs["rounded"], plain, quantization="int8")


def test_several_prompts_must_agree_or_be_told(runs: dict[str, Path]) -> None:
    both = [runs["plain"], runs["rounded"]]
    with pytest.raises(PromptError, match=r"different quantizations \(nf4, none\), and share one backbone. Pass"):
        load(both)
    predictor = load(both, quantization="int8")
    assert len(predictor.predict([ROW, ROW], tasks=["plain", "rounded"])) == 2
    predictor.close()


def test_it_is_scored_as_it_was_trained(runs: dict[str, Path]) -> None:
    assert evaluate(runs["rounded"]).metrics == pytest.approx(read_prompt(runs["rounded"]).metrics)


def test_a_run_goes_on_with_the_quantization_it_began_with(
    runs: dict[str, Path], tiny_run: TinyRun, tiny_backbone: Path
) -> None:
    settings = {"training.quantization": "nf4", "training.epochs": 1}
    with pytest.raises(ConfigError, match="started with other settings: training.quantization 'nf4' then, 'none' now"):
        train(tiny_run(runs["rounded"], **settings), backbone=load_backbone(tiny_backbone), resume=True)


def test_fine_tuning_refuses_it(tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = {"method": "fine-tuning", "training.quantization": "int8"}
    with pytest.raises(ConfigError, match="training.quantization is int8, but method fine-tuning trains the weights"):
        train(tiny_run(tmp_path / "run", **settings))


def test_its_weights_are_not_divided_among_processes(tiny_run: TinyRun, tmp_path: Path) -> None:
    settings = {"training.sharding": "full", "training.quantization": "int8"}
    with pytest.raises(
        ConfigError, match="quantization is int8 and training.sharding full, but weights in 8 or 4 bits"
    ):
        with_method_defaults(tiny_run(tmp_path / "run", **settings))
