"""The loop on several data sets: whose batch moves what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from ptuning.backbones.loading import Backbone
from ptuning.data.batching import MixedBatches, collate
from ptuning.inference import padding_ids
from ptuning.model import PromptedModel, trained_parameters
from ptuning.training.assembly import assemble_model
from ptuning.training.loop import Candidate, Hooks, Part, fit, make_batches, make_optimizer
from ptuning.training.reporting import Silent
from ptuning.training.run import PreparedTask, prepare_task
from ptuning.training.state import Progress

TinyRun = Callable[..., Any]


class Two:
    """A model with shared prompts and a head for each of two data sets, with 3 and with 9 labels."""

    def __init__(self, config: Any, backbone: Backbone, tasks: list[PreparedTask]) -> None:
        self.config, self.backbone, self.tasks = config, backbone, tasks
        self.model = assemble_model(config, backbone, tasks[0].kind, tasks[0].train, other_kinds=[tasks[1].kind])

    def gradients(self, number: int) -> dict[str, bool]:
        """Which parameters a batch of one data set gives gradients to."""
        parameters = trained_parameters(self.model)
        for parameter in parameters.values():
            parameter.grad = None
        batch = collate(self.tasks[number].train[:4], *padding_ids(self.backbone.tokenizer))
        heads = [number] * len(batch.input_ids)
        (output,) = self.model(batch.input_ids, batch.attention_mask, batch.token_type_ids, heads=heads)
        self.tasks[number].kind.loss(output.logits, batch).backward()  # type: ignore[no-untyped-call]
        return {name: p.grad is not None and bool(p.grad.abs().sum() > 0) for name, p in parameters.items()}

    def fit(self, batches: Any) -> None:
        fit(
            self.model,
            [Part(task.kind, task.train) for task in self.tasks],
            [Candidate(self.config, batches)],
            self.backbone.tokenizer,
            metric="mean",
            accelerator=Accelerator(cpu=True),
            optimizer=make_optimizer(self.model, [self.config]),
            progress=Progress(),
            hooks=Hooks(lambda candidate: {"mean": 0.5}, lambda evaluation: None, lambda progress: None),
            report=Silent(),
        )


@pytest.fixture
def two(tiny_run: TinyRun, tiny_data: Any, backbone: Backbone, tmp_path: Path) -> Iterator[Two]:
    configs = [
        tiny_run(
            tmp_path,
            "classification",
            **{"training.epochs": 1, "training.learning_rate": 0.01, "training.head_learning_rate": 0.01},
        ),
        tiny_run(tmp_path, "classification", **{"data.labels": ["red", "blue", "green", "x", "y"]}),
    ]
    made = Two(configs[0], backbone, [prepare_task(config, backbone) for config in configs])
    yield made
    made.model.detach()


def test_prompts_learn_from_all_data_sets_and_each_head_only_from_its_own(two: Two) -> None:
    assert [head.linear.out_features for head in two.model.heads] == [3, 5]
    for number in (0, 1):
        moved = two.gradients(number)
        assert moved["bank.prompts.0.prompts"]
        for head in (0, 1):
            assert moved[f"heads.{head}.linear.weight"] == moved[f"heads.{head}.linear.bias"] == (head == number)


def test_a_head_whose_data_set_has_no_batch_stays_as_it_was(two: Two) -> None:
    class OfTheSecond(MixedBatches):
        def batches(self, epoch: int) -> list[tuple[int, list[int]]]:
            return [batch for batch in super().batches(epoch) if batch[0] == 1]

    before = {name: p.detach().clone() for name, p in trained_parameters(two.model).items()}
    two.fit(OfTheSecond([make_batches(two.config, task.train) for task in two.tasks]))
    changed = {name for name, p in trained_parameters(two.model).items() if not torch.equal(p, before[name])}
    assert changed == {"bank.prompts.0.prompts", "heads.1.linear.weight", "heads.1.linear.bias"}


def test_each_batch_is_of_one_data_set_and_goes_to_its_head(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, list[list[int]]]] = []
    forward = PromptedModel.forward

    def spy(model: PromptedModel, input_ids: torch.Tensor, mask: torch.Tensor, *args: Any, **more: Any) -> Any:
        (head,) = set(more["heads"])
        seen.append((head, [ids[real.bool()].tolist() for ids, real in zip(input_ids, mask, strict=True)]))
        return forward(model, input_ids, mask, *args, **more)

    monkeypatch.setattr(PromptedModel, "forward", spy)
    batches = MixedBatches([make_batches(two.config, task.train) for task in two.tasks], [2, 5], seed=11)
    two.fit(batches)
    expected = [
        (number, [two.tasks[number].train[index].sequences[0] for index in indices])
        for number, indices in batches.batches(0)
    ]
    assert seen == expected
    assert [head for head, _ in seen].count(0) == 2 and [head for head, _ in seen].count(1) == 5
