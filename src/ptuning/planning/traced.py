"""The model of a run without memory, and what its steps would hold and compute."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from ptuning.backbones.families import find_trunk
from ptuning.backbones.loading import Backbone
from ptuning.backbones.outline import outline_backbone
from ptuning.config import METHODS, RunConfig
from ptuning.heads import AnswerHead, VerbalizerHead
from ptuning.model import PromptedModel, count_trained, trained_parameters
from ptuning.planning.recording import ShapesAlone
from ptuning.tasks import TaskKind
from ptuning.training.assembly import assemble_model
from ptuning.training.trunk_reuse import obstacle_to_reuse

_MOMENTS = 2  # of AdamW, as large as what is trained
ANSWER_LENGTH = 8
"""Tokens of an answer, its end among them, where answers have several and their texts are not looked at."""


@dataclass(frozen=True)
class TracedStep:
    """What a step of the optimizer holds and computes. All sizes in bytes.

    Attributes:
        activations: kept for the backward, at the end of the forward.
        gradients: of what is trained.
        peak: the most that is held at once, weights and all.
        operations: of matrix products, forward and backward.
    """

    activations: int
    gradients: int
    peak: int
    operations: int


class TracedModel:
    """A run's model, of shapes alone.

    Args:
        config: resolved as far as it matters: method, prompts, head, precision, dropout.
        device: where it would run; it need not be there.
        dtype: storage of the backbone.

    Attributes:
        backbone: its outline.
        weights: bytes of the frozen weights and buffers.
        laid_out: bytes of weights that are laid out once more for their products.
        trained: bytes of what is trained.
        optimizer: bytes of the optimizer's moments.
        counts: how many numbers are trained, of `prompts` (or what is trained instead) and of `head`.
        skips_trunk: whether layers below the prompts are run once for all epochs.
        fills_answers: whether answers of several tokens are scored, each taken to have `ANSWER_LENGTH`.

    Raises:
        BackboneError: the backbone was not found, or is of an unsupported family.
    """

    def __init__(self, config: RunConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._shapes = ShapesAlone(device, under_autocast=METHODS[config.method].trains_backbone)
        self._device = device
        with self._shapes.running(making=True):
            self.backbone: Backbone = outline_backbone(
                config.backbone,
                revision=config.revision,
                dtype=dtype,
                attention=config.training.attention,
                attention_direction=config.attention_direction,
                quantization=config.training.quantization,
            )
        self.weights = self.laid_out = self.trained = self.optimizer = 0
        self.counts: dict[str, int] = {}
        self.skips_trunk = self.fills_answers = False
        self._model: PromptedModel | None = None
        self._moments: list[Tensor] = []
        self._steps: dict[tuple[int, int], TracedStep] = {}  # by rows and tokens
        self._evaluations: dict[tuple[int, int], int] = {}

    def assemble(self, config: RunConfig, kind: TaskKind, max_length: int, *, num_sequences: int = 1) -> None:
        """Makes what the method trains, and the head.

        Args:
            config: of the run, its pooling known; whatever prompts or head would start from, here they start anew.
            kind: of the task.
            max_length: tokens a sequence.
            num_sequences: of an example.

        Raises:
            ConfigError: settings that contradict each other or the backbone.
        """
        started_anew = {
            name: getattr(config, name).model_copy(update={"init": "normal"}) for name in ("prompts", "head")
        }
        training = config.training.model_copy(update={"compile": False})
        with self._shapes.running(making=True) as recorder:
            model = assemble_model(
                config.model_copy(update={**started_anew, "training": training}),
                self.backbone,
                kind,
                (),
                is_spare=True,  # as a run that loads its backbone itself has it
            )
            self._model = model
            for head in model.heads:
                if isinstance(head, VerbalizerHead):
                    head.forward = MethodType(_score_first_tokens, head)  # type: ignore[method-assign]
                elif isinstance(head, AnswerHead):
                    head.forward = MethodType(_score_answers, head)  # type: ignore[method-assign]
                    self.fills_answers = True
            if obstacle_to_reuse(model, config, is_asked=config.training.trunk_reuse == "on") is None:
                self.skips_trunk = config.training.trunk_reuse != "off"
            if self.skips_trunk:
                model.start_late()
            parameters = list(trained_parameters(model).values())
            self.trained = sum(parameter.nbytes for parameter in parameters)
            gc.collect(1)
            self.weights = recorder.live - self.trained
            if METHODS[config.method].makes_steps:
                self._moments = [torch.zeros_like(p) for p in parameters for _ in range(_MOMENTS)]
            self.optimizer = sum(moment.nbytes for moment in self._moments)
        self.counts = count_trained(model)
        before = self.weights + self.trained + self.optimizer
        self.evaluation(num_sequences, max_length)  # weights are laid out when they are first used
        if parameters and METHODS[config.method].makes_steps:
            self.step(num_sequences, max_length)
        gc.collect(1)
        self.laid_out = recorder.live - before
        if self.laid_out:  # those were the first, not what all others are
            self._steps.clear()
            self._evaluations.clear()

    def step(self, rows: int, seq_len: int) -> TracedStep:
        """Runs a forward and backward, once for each size.

        Args:
            rows: sequences.
            seq_len: tokens of each.
        """
        if (rows, seq_len) not in self._steps:
            self._steps[rows, seq_len] = self._run_step(rows, seq_len)
        return self._steps[rows, seq_len]

    def evaluation(self, rows: int, seq_len: int) -> int:
        """Returns the most bytes that are held while some rows are asked without gradients, weights and all."""
        if (rows, seq_len) not in self._evaluations:
            self._evaluations[rows, seq_len] = self._run_evaluation(rows, seq_len)
        return self._evaluations[rows, seq_len]

    def _run_step(self, rows: int, seq_len: int) -> TracedStep:
        model = self._assembled()
        parameters = list(trained_parameters(model).values())
        with self._shapes.running() as recorder:
            model.train()
            inputs = self._inputs(rows, seq_len)
            recorder.restart()
            before = recorder.live
            outputs = model(**inputs)
            loss = torch.stack([output.logits.float().log_softmax(-1).mean() for output in outputs]).sum()
            del outputs
            activations = recorder.live - before
            loss.backward()  # type: ignore[no-untyped-call]
            del loss
            gradients = sum(p.grad.nbytes for p in parameters if p.grad is not None)
            held = recorder.live
            peak = max(recorder.peak, held + self._of_optimizer_step(parameters))
            operations = recorder.operations
            model.zero_grad(set_to_none=True)
        return TracedStep(activations, gradients, peak, operations)

    def _run_evaluation(self, rows: int, seq_len: int) -> int:
        model = self._assembled()
        with self._shapes.running() as recorder, torch.no_grad():
            model.eval()
            inputs = self._inputs(rows, seq_len)
            inputs.pop("lower_states", None)  # they are not there yet when the trunk is run
            recorder.restart()
            model(**inputs)
            return recorder.peak

    def matrix_shapes(self) -> list[tuple[int, int]]:
        """(out_features, in_features) of the linear layers of the backbone, each once, those that cost most first."""
        trunk = find_trunk(self.backbone.model)[0]
        costs: dict[tuple[int, int], int] = {}
        for module in trunk.modules():
            if isinstance(module, nn.Linear):
                shape = (module.out_features, module.in_features)
                costs[shape] = costs.get(shape, 0) + module.out_features * module.in_features
        return sorted(costs, key=lambda shape: -costs[shape])

    def _assembled(self) -> PromptedModel:
        assert self._model is not None, "assemble() comes first"
        return self._model

    def _inputs(self, rows: int, seq_len: int) -> dict[str, Any]:
        tokens = torch.zeros(rows, seq_len, dtype=torch.long, device=self._shapes.device)
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        if self.skips_trunk:
            first = next(self.backbone.model.parameters())
            width = self.backbone.description.hidden_size
            inputs["lower_states"] = torch.empty(rows, seq_len, width, dtype=first.dtype, device=self._shapes.device)
        return inputs

    def _of_optimizer_step(self, parameters: list[nn.Parameter]) -> int:
        """Bytes that AdamW needs in passing: parameter by parameter on a CPU, for all of them at once on a GPU."""
        sizes = [parameter.nbytes for parameter in parameters]
        return 2 * max(sizes, default=0) if self._device.type == "cpu" else sum(sizes)


def _score_first_tokens(head: VerbalizerHead, hidden_states: Tensor, attention_mask: Tensor, ids: Tensor) -> Tensor:
    """A verbalizer's forward where nobody can look for masks: they might as well be at the beginning."""
    return head.score(hidden_states[:, : head.num_masks].flatten(0, 1), len(ids))


def _score_answers(head: AnswerHead, hidden_states: Tensor, attention_mask: Tensor, ids: Tensor) -> Tensor:
    """An answer head's forward where nobody can look for pieces: they are all as long, and at the beginning."""
    length = min(ANSWER_LENGTH, ids.shape[1])
    rows = torch.arange(len(ids), device=ids.device).repeat_interleave(length)
    counts = ids.new_full((len(ids),), length)
    return head.score(hidden_states[:, :length].flatten(0, 1), ids[:, :length].flatten(), rows, counts)
