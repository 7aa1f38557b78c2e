"""What a model of shapes alone holds is what a real one holds: parameters, and what is kept for the backward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ptuning.backbones import packed_weights
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.config import METHODS, RunConfig, load_config, with_method_defaults
from ptuning.model import PromptedModel, trained_parameters
from ptuning.planning.recording import Recorder
from ptuning.planning.traced import TracedModel
from ptuning.tasks.classification import Classification
from ptuning.training.assembly import assemble_model

ROWS, SEQ_LEN = 4, 24
KIND = Classification(("a", "b", "c"))
CPU = torch.device("cpu")


def _config(directory: Path, **overrides: Any) -> RunConfig:
    settings: dict[str, Any] = {"head.pooling": "mean", "training.epochs": 2, **overrides}
    if METHODS[overrides.get("method", "p-tuning-v2")].reparameterizations:
        settings.setdefault("prompts.prompt_length", 5)
    config = load_config(None, {"task": "classification", "backbone": str(directory), **settings})
    return with_method_defaults(config)


def _traced(config: RunConfig, dtype: torch.dtype = torch.float32) -> TracedModel:
    model = TracedModel(config, CPU, dtype)
    model.assemble(config, KIND, SEQ_LEN)
    return model


def _real(model: Any, config: RunConfig) -> PromptedModel:
    model.requires_grad_(False).eval()
    pooler, model.pooler = getattr(model, "pooler", None), None
    backbone = Backbone(model, find_trunk(model)[1], "tiny", "tiny", None, pooler)
    backbone.tokenizer = SimpleNamespace(unk_token_id=3, pad_token_id=0)
    made = assemble_model(config, backbone, KIND, ())
    made.train()
    return made


def _inputs() -> dict[str, Tensor]:
    mask = torch.ones(ROWS, SEQ_LEN, dtype=torch.long)
    mask[0, -3:] = 0
    return {"input_ids": torch.full((ROWS, SEQ_LEN), 7).where(mask.bool(), torch.tensor(1)), "attention_mask": mask}


def _saved_bytes(model: PromptedModel) -> int:
    """What autograd saves in a forward, without weights, counted by its own hooks."""
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**_inputs())[0].logits.float().log_softmax(-1).mean()
    held = sum(kept.values())
    loss.backward()  # type: ignore[no-untyped-call]
    return held


def test_parameters_are_those_of_the_real_model_in_every_family(
    tiny_names: list[str], tiny_model: Callable[..., Any], config_alone: Callable[..., Path]
) -> None:
    for name in tiny_names:
        model = tiny_model(name)
        model.pooler = None
        trunk, family = find_trunk(model)
        traced = TracedModel(_config(config_alone(name)), CPU, torch.float32)
        assert traced.backbone.description == describe_trunk(trunk, family), name
        found, wanted = traced.backbone.model, model  # T5's encoder has its embeddings once, by two names
        assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in wanted.parameters()), name


@pytest.mark.parametrize(
    "name",
    ["bert", "albert", "deberta", "deberta-v2", "distilbert", "eurobert", "modernbert", "mpnet", "roberta", "t5"],
)
def test_kept_for_the_backward_is_what_autograd_saves(
    name: str, tiny_model: Callable[..., Any], config_alone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed_weights, "MOST_BYTES", 0)  # what is laid out in the forward is no activation
    config = _config(config_alone(name))
    real = _real(tiny_model(name), config)
    step = _traced(config).step(ROWS, SEQ_LEN)
    assert step.activations == pytest.approx(_saved_bytes(real), rel=0.03)
    assert step.gradients == sum(p.nbytes for p in trained_parameters(real).values())


@pytest.mark.parametrize(
    "settings",
    [
        {"training.backbone_dropout": "off"},
        {"prompts.layers": "last:1", "training.trunk_reuse": "off"},
        {"head.pooling": "cls"},
        {"prompts.reparameterization": "mlp"},
        {"prompts.dropout": 0.1},
        {"training.gradient_checkpointing": True},
        {"method": "prompt-tuning", "prompts.init": "normal"},
        {"method": "bitfit"},
        {"method": "lora"},
        {"method": "fine-tuning"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_step_holds_what_it_holds_with_numbers(
    settings: dict[str, Any],
    tiny_model: Callable[..., Any],
    config_alone: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packed_weights, "MOST_BYTES", 0)  # they have no storage that can be looked at
    dropout = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    config = _config(config_alone("bert", **dropout), **settings)
    traced = _traced(config)
    found = traced.step(ROWS, SEQ_LEN)
    recorder = Recorder("cpu")
    with recorder:
        real = _real(tiny_model("bert", **dropout), config)
        for _ in range(2):
            recorder.restart()
            before = recorder.live
            loss = real(**_inputs())[0].logits.float().log_softmax(-1).mean()
            kept = recorder.live - before
            loss.backward()
            del loss
            operations, peak = recorder.operations, recorder.peak - before
            real.zero_grad(set_to_none=True)
    assert found.activations == pytest.approx(kept, rel=0.02)
    sizes = [parameter.nbytes for parameter in trained_parameters(real).values()]
    in_optimizer = sum(sizes) + 2 * max(sizes)  # gradients, and what AdamW needs in passing
    resident = traced.weights + traced.laid_out + traced.trained + traced.optimizer
    assert found.peak - resident == pytest.approx(max(peak, in_optimizer), rel=0.02)
    assert found.operations == operations
    assert traced.trained == sum(sizes)


def test_weights_laid_out_in_the_first_step_are_no_part_of_it() -> None:
    config = _config(Path("minilm"))
    traced = _traced(config)
    if not traced.laid_out:
        pytest.skip("weights are not laid out once more for products on this processor")
    one, two = traced.step(1, SEQ_LEN), traced.step(2, SEQ_LEN)  # the first of which was made in assembling
    assert two.activations == pytest.approx(2 * one.activations, rel=0.05)
    assert traced.evaluation(1, SEQ_LEN) < traced.evaluation(2, SEQ_LEN)


def test_layers_below_the_prompts_keep_nothing(config_alone: Callable[..., Path]) -> None:
    directory = config_alone("bert")
    of_all = _traced(_config(directory)).step(ROWS, SEQ_LEN)
    of_last = _traced(_config(directory, **{"prompts.layers": "last:1", "training.trunk_reuse": "off"})).step(
        ROWS, SEQ_LEN
    )
    reused = _traced(_config(directory, **{"prompts.layers": "last:1"}))
    assert of_last.activations < 0.5 * of_all.activations
    assert reused.skips_trunk and reused.step(ROWS, SEQ_LEN).operations < 0.6 * of_last.operations


def test_half_the_width_of_numbers_is_half_the_memory(config_alone: Callable[..., Path]) -> None:
    config = _config(config_alone("bert"))
    full, half = _traced(config), _traced(config, torch.bfloat16)
    assert half.weights < 0.55 * full.weights
    assert half.step(ROWS, SEQ_LEN).activations < 0.75 * full.step(ROWS, SEQ_LEN).activations
    assert half.trained == full.trained  # prompts and head stay in float32


def test_a_gpu_that_is_not_here_keeps_no_attention_weights(config_alone: Callable[..., Path]) -> None:
    config = _config(config_alone("bert"))
    model = TracedModel(config, torch.device("cuda"), torch.float32)
    model.assemble(config, KIND, SEQ_LEN)
    short, long = (model.step(2, seq_len).activations for seq_len in (16, 32))
    assert model.laid_out == 0
    assert long < 2.3 * short  # no term that grows with the square
    assert nn.Linear(2, 2).weight.device == CPU  # what is made outside is as ever
