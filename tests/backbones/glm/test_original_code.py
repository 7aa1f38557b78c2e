"""The package gives what the original code gave for the same weights and inputs.

`original_code_outputs.safetensors` has numbers only: random weights under the published names, inputs, and what the
original code computed from them in float64 on the CPU. That code is THUDM/GLM, `mpu/transformer.py` at commit
b9679fdc15894276b1e083d437eab000194dbca1 and `model/modeling_glm.py` at 394ca80e8cae3e5961014276524c41f6ea1ccf0f, the
text of its layers and forwards as it stands there, with model parallelism of one process: torch's own Linear,
Embedding and LayerNorm stood in for the parallel layers and apex's norm. Dropout was off. The header of the file says
the same, and has the config.

Two runs are recorded. `blanks`: contexts of three lengths, one piece, two pieces and none behind them, positions of
both kinds, padding. `texts`: the same tokens, all of a row its context.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ptuning import load_backbone
from ptuning.backbones.glm import tied_logits

RECORDED = Path(__file__).with_name("original_code_outputs.safetensors")
BOUNDS = [(torch.float32, 1e-5), (torch.float64, 1e-12)]


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    return load_file(RECORDED)


@pytest.fixture(scope="module", params=["pytorch_model.bin", "model.safetensors"])
def checkpoint(
    request: pytest.FixtureRequest,
    recorded: dict[str, Tensor],
    published_config: Callable[..., dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The recorded weights in hub layout, with a config.json as published."""
    directory = tmp_path_factory.mktemp("original")
    with safe_open(RECORDED, "pt") as file:
        config = json.loads(file.metadata()["config"])
    (directory / "config.json").write_text(json.dumps(published_config(**config)))
    weights = {name.removeprefix("weights."): part for name, part in recorded.items() if name.startswith("weights.")}
    write: Any = torch.save if request.param.endswith(".bin") else save_file
    write(weights, directory / request.param)
    return directory


def _real(recorded: dict[str, Tensor]) -> Tensor:
    """(batch_size, seq_len), whether a token is no padding."""
    return torch.arange(recorded["input_ids"].shape[1]) < recorded["lengths"].unsqueeze(1)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
@pytest.mark.parametrize("with_padding_mask", [True, False])
def test_contexts_and_pieces_are_as_in_the_original_code(
    with_padding_mask: bool,
    dtype: torch.dtype,
    bound: float,
    attention: Any,
    checkpoint: Path,
    recorded: dict[str, Tensor],
) -> None:
    """Hidden states and tied scores; what is behind the context sees no padding behind it, so the mask is optional."""
    model: Any = load_backbone(checkpoint, dtype=dtype, attention=attention).model
    real = _real(recorded)
    with torch.no_grad():
        found = model(
            recorded["input_ids"],
            attention_mask=real.long() if with_padding_mask else None,
            position_ids=recorded["blanks.position_ids"],
            context_lengths=recorded["blanks.context_lengths"],
        ).last_hidden_state
        logits = tied_logits(found, model.word_embeddings.weight)
    expected = recorded["blanks.hidden_states"]
    assert expected[real].abs().max() > 2
    assert found.dtype == dtype
    assert (found - expected)[real].abs().max() < bound
    assert (logits - recorded["blanks.logits"])[real].abs().max() < bound


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_whole_texts_are_as_in_the_original_code(
    dtype: torch.dtype, bound: float, attention: Any, checkpoint: Path, recorded: dict[str, Tensor]
) -> None:
    """The original is told the length of each text, the package gets a padding mask, and default positions."""
    model: Any = load_backbone(checkpoint, dtype=dtype, attention=attention).model
    real = _real(recorded)
    with torch.no_grad():
        found = model(recorded["input_ids"], attention_mask=real.long()).last_hidden_state
    assert (found - recorded["texts.hidden_states"])[real].abs().max() < bound
