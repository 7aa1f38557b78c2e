"""Batches that go through the model in pieces learn what whole ones learn."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.data.batching import IGNORED_LABEL, collate
from ptuning.errors import TrainingError
from ptuning.model import PromptedModel, trained_parameters
from ptuning.training import execution
from ptuning.training.population import train_population
from ptuning.training.reporting import Silent
from ptuning.training.run import prepare_task, train

TinyRun = Callable[..., Any]
KINDS = (
    "classification",
    "regression",
    "multiple_choice",
    "token_classification",
    "semantic_role_labeling",
    "question_answering",
    "cloze",
)
NO_EFFECT = ("multiple_choice", "question_answering", "cloze")  # of what is added to all outputs: rounding alone
QUIET = {
    "head.dropout": 0.0,
    "training.backbone_dropout": "off",
    "training.precision": "fp32",
    "training.epochs": 3,
}


class Told(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone, dtype=torch.float64)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Everything in float64; the weights at the end of each training."""
    found: list[dict[str, Tensor]] = []
    assemble, fit = execution.assemble_model, execution.fit
    monkeypatch.setattr(execution, "assemble_model", lambda *a, **k: assemble(*a, **k).double())

    def kept(model: PromptedModel, *args: Any, **more: Any) -> None:
        fit(model, *args, **more)
        found.append({name: p.detach().clone() for name, p in trained_parameters(model).items()})

    monkeypatch.setattr(execution, "fit", kept)
    return found


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, int, int]]:
    """Of each forward: whether it is in training, sequences, and tokens of the longest."""
    found: list[tuple[bool, int, int]] = []
    forward = PromptedModel.forward

    def seen(self: PromptedModel, input_ids: Tensor, *args: Any, **more: Any) -> Any:
        found.append((self.training, *input_ids.shape))
        return forward(self, input_ids, *args, **more)

    monkeypatch.setattr(PromptedModel, "forward", seen)
    return found


def _assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], without: str = "") -> None:
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        if name != without:
            torch.testing.assert_close(found[name], weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batchs_loss_is_that_of_its_pieces_weighted_by_their_terms(
    kind: str, tiny_run: TinyRun, backbone: Backbone, tmp_path: Path
) -> None:
    prepared = prepare_task(tiny_run(tmp_path, kind), backbone)
    examples, own = prepared.train[:7], prepared.kind

    def loss(start: int, end: int) -> Tensor:
        batch = collate(examples[start:end], 0)
        first = sum(len(example.sequences) for example in examples[:start])
        shape = {"sequence": (own.num_outputs,), "choice": ()}.get(own.head_kind, (64, own.num_outputs))
        outputs = torch.randn(99, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        outputs = outputs[first : first + len(batch.input_ids)]
        return own.loss(outputs if len(shape) < 2 else outputs[:, : batch.input_ids.shape[1]], batch)

    whole = loss(0, 7) * own.num_terms(examples)
    pieces = loss(0, 2) * own.num_terms(examples[:2]) + loss(2, 7) * own.num_terms(examples[2:])
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_in_pieces_give_the_weights_of_whole_ones(
    kind: str,
    tiny_run: TinyRun,
    backbone: Backbone,
    tmp_path: Path,
    ends: list[dict[str, Tensor]],
    shapes: list[tuple[bool, int, int]],
) -> None:
    for name, limit in (("whole", None), ("pieces", 70), ("singles", 1)):
        settings = {**QUIET, "training.accumulation": 2, "training.micro_batch_tokens": limit}
        shapes.clear()
        train(tiny_run(tmp_path / name, kind, **settings), backbone=backbone)
        in_training = [(rows, width) for training, rows, width in shapes if training]
        if limit is None:
            assert max(rows * width for rows, width in in_training) > 70
        else:
            most = 3 if kind in NO_EFFECT else 1  # an example may have several choices
            assert all(rows * width <= limit or rows <= most for rows, width in in_training)
    whole, *others = ends
    for pieces in others:
        _assert_equal(pieces, whole, "heads.0.linear.bias" if kind in NO_EFFECT else "")


def test_the_loss_that_is_told_is_that_of_whole_batches(tiny_run: TinyRun, backbone: Backbone, tmp_path: Path) -> None:
    lines = []
    for limit in (None, 40):
        directory = tmp_path / str(limit)
        settings = {**QUIET, "training.micro_batch_tokens": limit}
        train(tiny_run(directory, "token_classification", **settings), backbone=backbone)
        lines.append((directory / "metrics.jsonl").read_text().split('"train_loss": ')[1].split(",")[0])
    assert float(lines[1]) == pytest.approx(float(lines[0]), rel=1e-5)


def test_words_that_nobody_asks_for_weigh_nothing(
    tiny_run: TinyRun,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: list[dict[str, Tensor]],
) -> None:
    """Pieces without any term, and a whole batch without any."""
    config = tiny_run(tmp_path, "token_classification")
    prepared = prepare_task(config, backbone)
    unasked = [
        replace(e, label=[IGNORED_LABEL] * len(e.label)) if i % 3 or i > 12 else e  # type: ignore[arg-type]
        for i, e in enumerate(prepared.train)
    ]
    for limit in (None, 1):
        settings = {**QUIET, "training.batch_size": 3, "training.micro_batch_tokens": limit}
        run = tiny_run(tmp_path / str(limit), "token_classification", **settings)
        train(run, backbone=backbone, prepared=replace(prepared, train=unasked))
    assert prepared.kind.num_terms([e for i, e in enumerate(unasked) if i % 3]) == 0
    _assert_equal(ends[1], ends[0])


@pytest.mark.parametrize("at_once", [None, 2])
def test_candidates_in_pieces_end_as_candidates_that_are_whole(
    at_once: int | None,
    tiny_run: TinyRun,
    backbone: Backbone,
    tmp_path: Path,
    ends: list[dict[str, Tensor]],
    shapes: list[tuple[bool, int, int]],
) -> None:
    candidates: list[dict[str, Any]] = [
        {},
        {"training.learning_rate": 0.03, "prompts.prompt_length": 7},
        {"training.seed": 3, "prompts.layers": "last:1"},
    ]
    for limit in (None, 100):
        config = tiny_run(tmp_path / str(limit), **QUIET, **{"training.micro_batch_tokens": limit})
        shapes.clear()
        train_population(config, candidates, candidates_at_once=at_once, backbone=backbone)
    assert max(rows * width for training, rows, width in shapes if training) <= 100
    _assert_equal(ends[1], ends[0])


def test_a_limit_that_nothing_reaches_changes_nothing(tiny_run: TinyRun, tmp_path: Path) -> None:
    """With dropout of every kind on."""
    saved = []
    for limit in (None, 10_000):
        settings = {"prompts.dropout": 0.1, "head.dropout": 0.2, "training.micro_batch_tokens": limit}
        train(tiny_run(tmp_path / str(limit), **settings))
        saved.append(load_file(tmp_path / str(limit) / "prompt" / "prompts.safetensors"))
    assert all(torch.equal(saved[1][name], weights) for name, weights in saved[0].items())


def test_validation_keeps_to_the_limit_too(
    tiny_run: TinyRun, tmp_path: Path, shapes: list[tuple[bool, int, int]]
) -> None:
    train(tiny_run(tmp_path / "run", **{"training.micro_batch_tokens": 40}))
    assert all(rows * width <= 40 for training, rows, width in shapes if not training)


# Memory that runs out


class Memory:
    """A device that holds only so many positions: a larger piece fails in the forward, or after half a backward."""

    def __init__(self, positions: int, where: str, error: tuple[type[Exception], str]) -> None:
        self._positions, self._where, self._error = positions, where, error
        self.failures: list[int] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        forward, backward = PromptedModel.forward, Accelerator.backward
        running = 0

        def limited_forward(model: PromptedModel, input_ids: Tensor, *args: Any, **more: Any) -> Any:
            nonlocal running
            running = input_ids.numel() if model.training else 0
            if self._where == "forward":
                self._fail(running)
            return forward(model, input_ids, *args, **more)

        def limited_backward(accelerator: Accelerator, loss: Tensor, **more: Any) -> None:
            backward(accelerator, loss, **more)
            self._fail(running)

        patch.setattr(PromptedModel, "forward", limited_forward)
        patch.setattr(Accelerator, "backward", limited_backward)

    def _fail(self, positions: int) -> None:
        if positions > self._positions:
            self.failures.append(positions)
            kind, words = self._error
            raise kind(words)


CUDA = (torch.OutOfMemoryError, "CUDA out of memory")
MPS = (RuntimeError, "MPS backend out of memory (MPS allocated: 1 GiB)")


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("error", [CUDA, MPS], ids=["cuda", "mps"])
def test_where_memory_runs_out_a_run_ends_as_one_with_room(
    error: tuple[type[Exception], str],
    where: str,
    tiny_run: TinyRun,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: list[dict[str, Tensor]],
) -> None:
    settings = {**QUIET, "training.accumulation": 2}
    train(tiny_run(tmp_path / "roomy", "token_classification", **settings), backbone=backbone)
    memory, told = Memory(20, where, error), Told()
    memory.install(monkeypatch)
    train(tiny_run(tmp_path / "narrow", "token_classification", **settings), backbone=backbone, report=told)
    _assert_equal(ends[1], ends[0])
    assert len(memory.failures) > 1 and memory.failures == sorted(memory.failures, reverse=True)
    sizes = [int(note.split("at most ")[1].split(",")[0]) for note in told.notes]
    assert sizes and sizes == sorted(set(sizes), reverse=True) and sizes[-1] == memory.failures[-1] // 2


def test_the_size_that_fits_is_told_once_and_kept(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, memory = Told(), Memory(30, "forward", CUDA)
    memory.install(monkeypatch)
    settings = {**QUIET, "training.batch_size": 24}  # one batch an epoch, and in each epoch the same
    train(tiny_run(tmp_path / "run", **settings), backbone=backbone, report=told)
    assert len(memory.failures) > 1
    assert all(after <= before // 2 for before, after in pairwise(memory.failures))
    (note,) = told.notes
    last = memory.failures[-1]
    assert note == (
        f"{last} positions at once did not fit into memory: from here on batches go through the model in pieces of at "
        f"most {last // 2}, with the gradients of whole ones. Set training.micro_batch_tokens to {last // 2} to start "
        "with that."
    )


def test_candidates_are_parted_where_memory_runs_out(
    tiny_run: TinyRun,
    backbone: Backbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: list[dict[str, Tensor]],
) -> None:
    candidates = [{}, {"training.learning_rate": 0.03}, {"training.seed": 3}]
    train_population(tiny_run(tmp_path / "roomy", **QUIET), candidates, backbone=backbone)
    memory = Memory(20, "backward", CUDA)
    memory.install(monkeypatch)
    train_population(tiny_run(tmp_path / "narrow", **QUIET), candidates, backbone=backbone)
    assert memory.failures
    _assert_equal(ends[1], ends[0])


def test_an_example_that_does_not_fit_alone_ends_the_run(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, memory = Told(), Memory(4, "forward", CUDA)
    with monkeypatch.context() as patch:
        memory.install(patch)
        with pytest.raises(
            TrainingError, match=r"not even one example of it alone \((\d+) positions\): CUDA out"
        ) as caught:
            train(tiny_run(tmp_path / "run"), backbone=backbone, report=told)
    assert f"({memory.failures[-1]} positions)" in str(caught.value)
    assert len(memory.failures) == len(set(memory.failures)) and not told.notes
    train(tiny_run(tmp_path / "run"), overwrite=True, backbone=backbone)  # the backbone is free again


def test_nothing_of_a_failed_piece_is_kept_while_it_is_tried_again(
    tiny_run: TinyRun, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its graph would hold the memory that the halves need."""
    losses: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    memory = Memory(45, "backward", CUDA)
    memory.install(monkeypatch)
    forward, backward = PromptedModel.forward, Accelerator.backward

    def watched_forward(model: PromptedModel, *args: Any, **more: Any) -> Any:
        if model.training and memory.failures:
            alive.append(sum(ref() is not None for ref in losses))
        return forward(model, *args, **more)

    def watched_backward(accelerator: Accelerator, loss: Tensor, **more: Any) -> None:
        failed = len(memory.failures)
        try:
            backward(accelerator, loss, **more)
        finally:
            if len(memory.failures) > failed:
                losses.append(weakref.ref(loss))

    monkeypatch.setattr(PromptedModel, "forward", watched_forward)
    monkeypatch.setattr(Accelerator, "backward", watched_backward)
    train(tiny_run(tmp_path / "run", **QUIET), backbone=backbone)
    assert losses and alive and not any(alive)
