from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import ptuning
from ptuning.backbones import compilation
from ptuning.backbones.compilation import CompiledLayers, require_compilable
from ptuning.backbones.description import describe_trunk
from ptuning.backbones.dropout import CheapDropout
from ptuning.backbones.families import FAMILIES, find_trunk
from ptuning.backbones.recomputation import start_recomputing
from ptuning.errors import BackboneError, ConfigError
from ptuning.prompts import DeepPrompts, PromptBank

TinyModel = Callable[..., Any]
RaggedBatch = Callable[..., dict[str, Tensor]]

# torch looks at every tensor's `grad` while it compiles
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

# Their layers are copies of other families' in transformers: of BERT's, Llama's, GLM-4's, Gemma 3's and T5's.
COPIES = {
    "camembert",
    "electra",
    "ernie",
    "roberta",
    "xlm-roberta",
    "mistral",
    "qwen2",
    "glm4",
    "gemma",
    "gemma2",
    "mt5",
}
QUICK = ("bert", "deberta-v2", "distilbert", "eurobert", "modernbert")
OTHERS = sorted({name for name, family in FAMILIES.items() if family.can_compile} - set(QUICK) - COPIES)


class Graphs:
    """Stands in for a compiler: runs each graph as it is, and counts them."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.number += 1
        run: Callable[..., Any] = graph.forward
        return run


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graphs]:
    torch._dynamo.reset()
    backend = Graphs()
    monkeypatch.setattr(compilation, "BACKEND", backend)
    yield backend
    torch._dynamo.reset()


def _prompts(model: Any, seed: int = 3) -> Tensor:
    description = describe_trunk(*find_trunk(model))
    shape = (description.num_layers, 2, description.num_kv_heads, 5, description.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def _step(model: Any, batch: dict[str, Tensor], prompts: Tensor) -> tuple[Tensor, Tensor]:
    real = batch["attention_mask"].unsqueeze(-1)
    loss = (model(**batch)[0] * real).square().sum()
    (gradient,) = torch.autograd.grad(loss, prompts)
    return loss.detach(), gradient


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in (*OTHERS, "albert-groups"))]
)
def test_layers_compile_whole_once_for_all_sizes_and_give_the_same(
    name: str, graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    prompts = _prompts(model)
    ptuning.attach(model, prompts)
    # padded and not, of several sizes, some of them equal to the number of layers, heads or virtual tokens
    sizes = [(9, 6, 3), (7, 7), (12, 3, 4, 5), (11, 11, 11), (5, 4, 4, 2, 1)]
    if name not in QUICK:
        sizes = [lengths for lengths in sizes if min(lengths) < max(lengths)]
    batches = [ragged_batch(model.config, lengths) for lengths in sizes]
    expected = [_step(model, batch, prompts) for batch in batches]
    layers = CompiledLayers(*find_trunk(model))
    made = []
    for batch, (loss, gradient) in zip(batches, expected, strict=True):
        before = graphs.number
        ours = _step(model, batch, prompts)
        made.append(graphs.number - before)
        torch.testing.assert_close(ours[0], loss, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours[1], gradient, rtol=1e-4, atol=1e-4)
    assert 0 < made[0] <= 3 and made[1] <= (3 if name in QUICK else 0)
    assert set(made[2:]) == {0}
    assert not torch._dynamo.utils.counters["graph_break"]
    layers.remove()
    assert torch.equal(_step(model, batches[0], prompts)[1], expected[0][1])
    assert all("forward" not in vars(layer) for layer, _ in compilation.layers_with_attention(*find_trunk(model)))


def test_eager_attention_compiles_too(graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert", attention="eager")
    prompts, batch = _prompts(model), ragged_batch(model.config, (9, 6, 3))
    ptuning.attach(model, prompts)
    expected = _step(model, batch, prompts)
    CompiledLayers(*find_trunk(model))
    torch.testing.assert_close(_step(model, batch, prompts), expected, rtol=1e-4, atol=1e-4)
    assert graphs.number == 2  # whose input needs a gradient, and whose does not


def test_dropout_acts_in_training_alone(graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.3)
    prompts, batch = _prompts(model), ragged_batch(model.config, (9, 6, 3))
    ptuning.attach(model, prompts)
    dropout = CheapDropout(model)
    CompiledLayers(*find_trunk(model))
    with torch.no_grad():
        expected = model(**batch)[0]
        model.train()
        model.embeddings.eval()
        first, second = model(**batch)[0], model(**batch)[0]
        assert not torch.allclose(first, second, atol=1e-2)
        model.eval()
        assert torch.equal(model(**batch)[0], expected)
    assert graphs.number == 2
    dropout.remove()


def test_layers_without_prompts_compile_too(graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    prompts, batch = _prompts(model)[:1].detach().requires_grad_(), ragged_batch(model.config, (9, 6, 3))
    ptuning.attach(model, prompts, layers=[1])
    expected = _step(model, batch, prompts)
    CompiledLayers(*find_trunk(model))
    torch.testing.assert_close(_step(model, batch, prompts), expected, rtol=1e-4, atol=1e-4)
    assert graphs.number == 3


def test_layers_that_are_watched_run_as_they_are(
    graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model("bert")
    batch, found = ragged_batch(model.config, (9, 6, 3)), []
    attached = ptuning.attach(model, _prompts(model))
    CompiledLayers(*find_trunk(model))
    with torch.no_grad(), attached.watched(attention=lambda layer, share: found.append(layer)):
        watched = model(**batch)[0]
    assert (found, graphs.number) == ([0, 1, 2], 0)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch)[0], watched)
    assert graphs.number > 0 and len(found) == 3


def _bank(model: Any, *lengths: int) -> PromptBank:
    description = describe_trunk(*find_trunk(model))
    bank = PromptBank(description.num_layers)
    for seed, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(seed)
        bank.add(
            DeepPrompts(
                num_prompted_layers=description.num_layers,
                num_kv_heads=description.num_kv_heads,
                prompt_length=length,
                head_dim=description.head_dim,
                init_std=1.0,
                generator=generator,
            )
        )
    return bank


def test_threads_do_not_see_each_others_rows(graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch) -> None:
    model = tiny_model("bert")
    batch = ragged_batch(model.config, (9, 6, 3))
    attached = ptuning.attach(model, _bank(model, 4, 7))
    expected = []
    for rows in ([0, 1, 1], [1, 0, 0]):
        with attached.rows(rows), torch.no_grad():
            expected.append(model(**batch)[0])
    CompiledLayers(*find_trunk(model))
    wrong, ran = [], []

    def work(rows: list[int], result: Tensor) -> None:
        for _ in range(5):
            with attached.rows(rows), torch.no_grad():
                if not torch.allclose(model(**batch)[0], result, atol=1e-5):
                    wrong.append(rows)
        ran.append(rows)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(([0, 1, 1], [1, 0, 0]), expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == 2 and not wrong


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "t5"])
def test_checkpointed_layers_recompute_with_the_same_prompts(
    name: str, graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    model = tiny_model(name)
    prompts, batch = _prompts(model), ragged_batch(model.config, (9, 6, 3))
    ptuning.attach(model, prompts)
    model.train()
    expected = _step(model, batch, prompts)
    start_recomputing(model)
    CompiledLayers(*find_trunk(model))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        loss = model(**batch)[0]
    plain = len(saved)
    saved.clear()
    del loss
    ours = _step(model, batch, prompts)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert plain < 20, "what is inside the layers is not kept"


def test_a_model_inside_a_forward_of_another_keeps_to_its_own_prompts(
    graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch
) -> None:
    outer, inner = tiny_model("bert"), tiny_model("bert", seed=1)
    batch = ragged_batch(outer.config, (9, 6, 3))
    for model, seed in ((outer, 3), (inner, 4)):
        ptuning.attach(model, _prompts(model, seed).detach())
    with torch.no_grad():
        expected = outer(**batch)[0], inner(**batch)[0]
        for model in (outer, inner):
            CompiledLayers(*find_trunk(model))
        found = []
        outer.encoder.layer[1].register_forward_hook(lambda *_: found.append(inner(**batch)[0]))
        found.append(outer(**batch)[0])
    torch.testing.assert_close(found, [expected[1], expected[0]], rtol=1e-4, atol=1e-5)
    assert graphs.number == 1


def test_what_cannot_be_compiled_is_refused(tiny_model: TinyModel) -> None:
    model = tiny_model("deberta")
    with pytest.raises(
        ConfigError, match=r"training.compile is on, but layers of deberta read a number back.*Turn it off"
    ):
        require_compilable(find_trunk(model)[1], model.config)
    model = tiny_model("bert", attention="flex_attention")
    with pytest.raises(
        ConfigError, match=r"loaded with flex_attention attention, expected sdpa or eager\. Set training.attention to"
    ):
        require_compilable(find_trunk(model)[1], model.config)


def test_a_compiler_that_is_missing_is_named(
    graphs: Graphs, tiny_model: TinyModel, ragged_batch: RaggedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no g++")

    monkeypatch.setattr(compilation, "BACKEND", broken)
    model = tiny_model("bert")
    ptuning.attach(model, _prompts(model))
    CompiledLayers(*find_trunk(model))
    with pytest.raises(BackboneError, match=r"layers of this bert do not compile: .*no g\+\+.*needs a C\+\+ compiler"):
        model(**ragged_batch(model.config, (9, 6, 3)))
