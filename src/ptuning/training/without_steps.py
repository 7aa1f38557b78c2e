"""Methods that are no training by steps: the linear probe, which is fitted to convergence, and prompting, which asks.

They leave what every run leaves, but for a checkpoint: there is nothing to go on with in between.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ptuning.backbones.loading import Backbone
from ptuning.config import RunConfig, load_config
from ptuning.data.batching import Example
from ptuning.errors import ConfigError
from ptuning.heads.pooling import Pooling
from ptuning.linear_probe import Fitted, fit_linear, probe_features
from ptuning.model import PromptedModel
from ptuning.tasks import TaskKind
from ptuning.training.assembly import assemble_model
from ptuning.training.directory import (
    METRICS_NAME,
    PROMPT_NAME,
    check_settings,
    check_start,
    claimed,
    start_directory,
)
from ptuning.training.reporting import EpochReport, Reporter
from ptuning.training.seed import seed_everything

Evaluate = Callable[[PromptedModel, RunConfig], dict[str, float]]
Save = Callable[[PromptedModel, RunConfig, Mapping[str, float]], None]


def settle(
    directory: Path,
    config: RunConfig,
    kind: TaskKind,
    train: Sequence[Example],
    backbone: Backbone,
    *,
    pooling: Pooling | None,
    evaluate: Evaluate,
    save: Save,
    resume: bool,
    overwrite: bool,
    report: Reporter,
) -> float:
    """Makes a run of a method without steps.

    Args:
        directory: of the run.
        config: resolved settings.
        kind: of the task.
        train: examples to fit the probe on.
        backbone: on the device to use.
        pooling: that was asked for; without it a probe takes the better of `cls` (`last` for a causal backbone) and
            `mean` on the validation rows.
        evaluate: returns the validation metrics of a model with these settings.
        save: keeps it.
        resume: leave a run that is finished as it is.
        overwrite: delete a run that is there.
        report: who is told how it goes.

    Returns:
        Seconds.

    Raises:
        ConfigError: settings that contradict each other or the backbone; the directory is taken; or a run that goes on
            was started with others.
        CheckpointError: there is nothing to resume.
    """
    if config.method == "linear-probe" and pooling == "pooler":
        raise ConfigError(
            "head.pooling is pooler, but linear-probe is fitted on hidden states as they are, without one. Use cls, "
            "mean or last, or leave it out for the better of one token and mean."
        )
    started = time.monotonic()
    metric = str(config.training.metric)
    with claimed(directory):
        check_start(directory, resume=resume, overwrite=overwrite)
        if resume:
            check_settings(directory, config, load_config, may_differ=("output", "head.pooling"))
        if resume and (directory / PROMPT_NAME).exists() and (directory / METRICS_NAME).exists():
            written = (directory / METRICS_NAME).read_text(encoding="utf-8").splitlines()[-1]
            return float(json.loads(written)["seconds"])
        seed_everything(config.training.seed)
        tried = [config]
        if config.method == "linear-probe" and pooling is None and kind.head_kind in ("sequence", "choice"):
            one_token: Pooling = "last" if backbone.is_causal else "cls"
            tried = [_pooled(config, one_token), _pooled(config, "mean")]
        heads = _fitted(tried, kind, train, backbone)
        best, reached = 0, None
        if len(tried) > 1:
            each = [_used(own, head, kind, train, backbone, evaluate) for own, head in zip(tried, heads, strict=True)]
            best = max(range(len(tried)), key=lambda number: each[number][metric])
            reached = each[best]

        def keep(model: PromptedModel, own: RunConfig) -> dict[str, float]:
            metrics = evaluate(model, own) if reached is None else reached
            start_directory(directory, own)  # nothing is left that could be refused: an old run goes only now
            save(model, own, metrics)
            return metrics

        metrics = _used(tried[best], heads[best], kind, train, backbone, keep)
        seconds = time.monotonic() - started
        found = EpochReport(None, 0, 0, 0.0, metrics, seconds, is_best=True)
        line = {"epoch": 0, "step": 0, "validation": metrics, "is_best": True, "seconds": round(seconds, 3)}
        (directory / METRICS_NAME).write_text(json.dumps(line) + "\n", encoding="utf-8")
        report.evaluated(found, metric)
        return seconds


def _pooled(config: RunConfig, pooling: Pooling) -> RunConfig:
    return config.model_copy(update={"head": config.head.model_copy(update={"pooling": pooling})})


def _fitted(
    tried: Sequence[RunConfig], kind: TaskKind, train: Sequence[Example], backbone: Backbone
) -> list[Fitted | None]:
    """The heads of a probe, for which all training examples go through the backbone once; none where it is no probe."""
    if tried[0].method != "linear-probe":
        return [None] * len(tried)
    features = list(probe_features(backbone, kind, train, [str(own.head.pooling) for own in tried]).values())
    return [fit_linear(kind, one, train) for one in features]


def _used(
    config: RunConfig,
    head: Fitted | None,
    kind: TaskKind,
    train: Sequence[Example],
    backbone: Backbone,
    use: Callable[[PromptedModel, RunConfig], dict[str, float]],
) -> dict[str, float]:
    """Assembles a model, with the head that was fitted where it is a probe, and uses it before it is taken apart."""
    model = assemble_model(config, backbone, kind, train)
    try:
        if head is not None:
            weight, bias = head
            linear = model.heads[0].linear
            assert isinstance(linear, torch.nn.Linear)
            with torch.no_grad():
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        return use(model, config)
    finally:
        model.detach()
