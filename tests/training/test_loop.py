from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from ptuning.backbones.loading import load_backbone
from ptuning.data.batching import MixedBatches
from ptuning.errors import TrainingError
from ptuning.model import PromptedModel, trained_parameters
from ptuning.training.assembly import assemble_model
from ptuning.training.loop import Candidate, Hooks, Part, fit, make_batches, make_optimizer
from ptuning.training.reporting import EpochReport, Silent
from ptuning.training.run import PreparedTask, prepare_task
from ptuning.training.state import Progress

TinyRun = Callable[..., Any]


class Loop:
    """`fit` on a tiny model, with everything it calls written down."""

    def __init__(self, model: PromptedModel, prepared: PreparedTask, config: Any, tokenizer: Any) -> None:
        self.model, self.prepared, self.config, self.tokenizer = model, prepared, config, tokenizer
        self.optimizer = make_optimizer(model, [config])
        self.progress = Progress()
        self.called: list[str] = []
        self.evaluations: list[EpochReport] = []
        self.scores: Iterator[float] = iter([0.5] * 99)

    def run(self, accelerator: Any = None) -> None:
        fit(
            self.model,
            [Part(self.prepared.kind, self.prepared.train)],
            [Candidate(self.config, MixedBatches([make_batches(self.config, self.prepared.train)]))],
            self.tokenizer,
            metric="accuracy",
            accelerator=accelerator or Accelerator(cpu=True),
            optimizer=self.optimizer,
            progress=self.progress,
            hooks=Hooks(evaluate=self._evaluate, record=self._record, checkpoint=self._checkpoint),
            report=Silent(),
        )

    def _evaluate(self, candidate: int) -> dict[str, float]:
        self.called.append("evaluate")
        return {"accuracy": next(self.scores)}

    def _record(self, evaluation: EpochReport) -> None:
        self.called.append("record")
        self.evaluations.append(evaluation)

    def _checkpoint(self, progress: Progress) -> None:
        self.called.append(f"checkpoint {progress.epoch}.{progress.batch} step {progress.step}")


@pytest.fixture
def loop(tiny_run: TinyRun, tiny_backbone: Path, tmp_path: Path) -> Iterator[Callable[..., Loop]]:
    backbone = load_backbone(tiny_backbone)
    made: list[PromptedModel] = []

    def build(**overrides: Any) -> Loop:
        while made:
            made.pop().detach()
        config = tiny_run(
            tmp_path / "run", **{"training.learning_rate": 1e-2, "training.head_learning_rate": 1e-3, **overrides}
        )
        prepared = prepare_task(config, backbone)
        made.append(assemble_model(config, backbone, prepared.kind, prepared.train))
        return Loop(made[0], prepared, config, backbone.tokenizer)

    yield build
    while made:
        made.pop().detach()


def test_evaluation_is_recorded_before_the_checkpoint_that_counts_it(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.checkpoint_steps": 2})
    run.run()
    assert run.called == [
        "checkpoint 0.2 step 2",
        "evaluate",
        "record",
        "checkpoint 1.0 step 3",
        "checkpoint 1.1 step 4",
        "evaluate",
        "record",
        "checkpoint 2.0 step 6",
    ]
    assert run.progress.finished and run.progress.metric_lines == 2


def test_a_finished_run_is_left_alone(loop: Callable[..., Loop]) -> None:
    run = loop()
    run.progress.finished = True
    run.run()
    assert run.called == []


def test_best_is_strictly_better_and_ties_keep_the_earlier_epoch(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.epochs": 4})
    run.scores = iter([0.4, 0.6, 0.6, 0.5])
    run.run()
    assert [evaluation.is_best for evaluation in run.evaluations] == [True, True, False, False]
    assert (run.progress.standings[0].best_epoch, run.progress.standings[0].best_score) == (2, 0.6)


def test_early_stopping_counts_evaluations_since_the_best(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.epochs": 9, "training.early_stopping": 2})
    run.scores = iter([0.4, 0.3, 0.6, 0.5, 0.6, 0.9])
    run.run()
    assert len(run.evaluations) == 5 and run.progress.standings[0].best_epoch == 3


def test_head_and_prompts_have_their_own_rate(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.learning_rate": 0.3, "training.head_learning_rate": 0.07, "training.weight_decay": 0.5})
    prompts, head = run.optimizer.param_groups
    assert (prompts["lr"], head["lr"]) == (0.3, 0.07)
    assert (prompts["weight_decay"], head["weight_decay"]) == (0.5, 0.5)
    assert len(prompts["params"]) == 1 and len(head["params"]) == 2
    assert len(trained_parameters(run.model)) == 3


def test_rates_follow_the_schedule(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.warmup": 0.0, "training.learning_rate": 0.6, "training.max_steps": 4})
    rates = []
    step = run.optimizer.step
    run.optimizer.step = lambda: rates.append([g["lr"] for g in run.optimizer.param_groups]) or step()  # type: ignore[method-assign]
    run.run()
    assert [rate for rate, _ in rates] == pytest.approx([0.6, 0.45, 0.3, 0.15])
    assert [rate for _, rate in rates] == pytest.approx([0.001, 0.00075, 0.0005, 0.00025])


def test_gradients_are_clipped_to_the_norm(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.max_grad_norm": 1e-3, "training.max_steps": 2})
    norms = []
    step = run.optimizer.step

    def spy() -> None:
        gradients = [p.grad for p in trained_parameters(run.model).values() if p.grad is not None]
        norms.append(float(torch.cat([gradient.flatten() for gradient in gradients]).norm()))
        step()

    run.optimizer.step = spy  # type: ignore[method-assign]
    run.run()
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_train_loss_is_the_mean_over_the_epochs_batches(
    loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop(**{"training.batch_size": 7, "training.accumulation": 3})
    losses: list[float] = []
    kind_loss = type(run.prepared.kind).loss

    def spy(*args: Any) -> torch.Tensor:
        loss = kind_loss(*args)
        losses.append(loss.detach().item())
        return loss

    monkeypatch.setattr(type(run.prepared.kind), "loss", spy)
    run.run()
    assert len(losses) == 8  # 24 rows in batches of 7: 4 an epoch
    assert [e.train_loss for e in run.evaluations] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])
    assert run.progress.step == 4  # 3 batches and 1 batch: 2 steps an epoch


def test_the_last_part_of_an_epoch_is_weighed_by_its_own_batches(
    loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    run = loop(**{"training.batch_size": 8, "training.accumulation": 2, "training.epochs": 1})
    accelerator = Accelerator(cpu=True)
    backward = accelerator.backward
    kind = type(run.prepared.kind)
    monkeypatch.setattr(kind, "loss", lambda kind, logits, batch: logits.sum() * 0 + 1)

    def spy(loss: torch.Tensor) -> None:
        weights.append(loss.detach().item())
        backward(loss)

    monkeypatch.setattr(accelerator, "backward", spy)
    run.run(accelerator)
    assert weights == [0.5, 0.5, 1.0]


def test_batches_go_where_the_model_is(loop: Callable[..., Loop]) -> None:
    run = loop(**{"training.max_steps": 1})
    accelerator = Accelerator(cpu=True)
    elsewhere = SimpleNamespace(
        device=torch.device("meta"), backward=accelerator.backward, clip_grad_norm_=accelerator.clip_grad_norm_
    )
    run.run(elsewhere)
    assert run.progress.step == 1


def test_every_row_is_seen_once_an_epoch(loop: Callable[..., Loop]) -> None:
    for settings in ({"training.batch_size": 7}, {"training.batch_tokens": 50}):
        run = loop(**settings)
        batches = make_batches(run.config, run.prepared.train)
        for epoch in range(2):
            assert sorted(index for batch in batches.batches(epoch) for index in batch) == list(range(24))
        assert batches.batches(0) != batches.batches(1)


def test_a_loss_that_is_no_number_is_noticed_before_the_next_checkpoint(
    loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = loop(**{"training.checkpoint_steps": 1})
    monkeypatch.setattr(type(run.prepared.kind), "loss", lambda kind, logits, batch: logits.sum() * float("inf"))
    with pytest.raises(TrainingError, match="by step 1 "):
        run.run()
    assert run.called == []


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [3, 6])
def test_a_gradient_that_is_no_number_on_an_epochs_last_step_is_noticed_before_the_evaluation(
    step: int, number: float, loop: Callable[..., Loop]
) -> None:
    """The loss is finite, and no further step would show what became of the prompts."""
    run = loop()
    parameter = next(iter(trained_parameters(run.model).values()))
    seen = []

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * number if len(seen) == step else gradient

    parameter.register_hook(spoil)
    with pytest.raises(TrainingError, match=rf"the norm of the gradients became (nan|inf) by step {step} "):
        run.run()
    assert run.called == (["evaluate", "record", "checkpoint 1.0 step 3"] if step == 6 else [])


def test_losses_and_norms_are_read_together(loop: Callable[..., Loop], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading waits for the device: once an epoch of three steps here."""
    run = loop()
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: reads.append(tensor.shape) or tolist(tensor))
    run.run()
    assert [tuple(shape) for shape in reads if tuple(shape) == (6,)] == [(6,), (6,)]
