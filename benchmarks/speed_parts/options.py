"""How much is measured, and on what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What all parts need.

    Attributes:
        backbone: a name that `ptuning.load_backbone` takes.
        model: directory or name of the same checkpoint for transformers.
        device: `cpu` or a CUDA device.
        threads: of each process; one process works at a time.
        prompt_length: virtual tokens a layer, on all sides.
        upper_layers: those that have prompts where the trunk below is computed once, such as last:2.
        batch_size: examples a batch, on all sides.
        our_steps: of an epoch of our side at most.
        usual_steps: of an epoch of PEFT and Adapters, which are slower.
        full_steps: of an epoch of full fine-tuning.
        equal_steps: batches of the comparison at equal batches and precision.
        repeats: of that, and of inference.
        stretches: that an epoch of each side is cut into, between which the others run.
        blocks: parts of an epoch, of which the median counts.
        epochs: of the runs that are trained to a score.
        usual_epochs: of PEFT's run that is trained to a score at most.
        search_epochs: of the search over learning rates.
        target: the score that training is timed to, a fraction.
        adapters_python: interpreter of an environment with Adapters, or None.
        directory: for runs and what passes between processes.
    """

    backbone: str
    model: str
    device: str
    threads: int
    prompt_length: int
    upper_layers: str
    batch_size: int
    our_steps: int
    usual_steps: int
    full_steps: int
    equal_steps: int
    repeats: int
    stretches: int
    blocks: int
    epochs: int
    usual_epochs: float
    search_epochs: int
    target: float
    adapters_python: str | None
    directory: Path
