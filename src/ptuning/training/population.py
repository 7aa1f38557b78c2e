"""Many candidates trained side by side on one backbone: the engine of a search.

    DIRECTORY/
      config.yaml, metrics.jsonl, checkpoints/last/    as in every run; a line of metrics names its candidate
      candidates/3/prompt/                             the best epoch of candidate 3 so far, and its own config.yaml
      prompt/                                          the best candidate's, when all is done
      population.json                                  what came of each candidate

Every candidate has an entry of the bank and a head, its own rates and schedule, and its own order of the examples,
which is the same for equal seeds; one forward serves all of them. A candidate ends with the weights that it gets
alone, up to the order in which products are summed and to the random numbers of dropout. The backbone is there once,
and the layers below all prompts run once for all candidates and epochs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from pydantic import Field

from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.config import METHODS, RunConfig
from ptuning.config.loading import load_settings, with_overrides
from ptuning.config.settings import Int, Settings
from ptuning.config.text import Dumper, read_yaml
from ptuning.errors import ConfigError
from ptuning.launch import require_one
from ptuning.model import PromptedModel
from ptuning.storage import replace_file
from ptuning.training.assembly import fitting_max_length
from ptuning.training.directory import (
    CANDIDATES_NAME,
    CONFIG_NAME,
    METRICS_NAME,
    POPULATION_NAME,
    PROMPT_NAME,
    check_start,
)
from ptuning.training.execution import Course, execute
from ptuning.training.loop import Candidate, Part, epochs_for_steps
from ptuning.training.reporting import Named, Reporter, Silent
from ptuning.training.run import (
    PreparedTask,
    batches_of,
    digest_of,
    load_backbone_of,
    output_directory,
    prepare_task,
    resolve_config,
    saved_prompt,
    validate,
    with_absolute_paths,
)
from ptuning.training.state import Progress

MAY_DIFFER = (
    "head.dropout",
    "head.init",
    "prompts.dropout",
    "prompts.gate",
    "prompts.init",
    "prompts.init_std",
    "prompts.init_text",
    "prompts.layers",
    "prompts.prompt_length",
    "prompts.reparameterization",
    "prompts.reparameterization_size",
    "training.averaging_decay",
    "training.early_stopping",
    "training.head_learning_rate",
    "training.learning_rate",
    "training.max_grad_norm",
    "training.schedule",
    "training.seed",
    "training.value_learning_rate",
    "training.warmup",
    "training.weight_averaging",
    "training.weight_decay",
)
"""Settings in which candidates may differ; all else belongs to the population."""


class PopulationConfig(Settings):
    """Everything that a population needs; saved beside its results as config.yaml."""

    run: RunConfig = Field(description="what all candidates have in common")
    candidates: list[dict[str, Any]] = Field(min_length=1, description="of each, dotted settings of its own")
    halving: Int | None = Field(
        None, ge=2, description="drop all but one in this many after each of some epochs (successive halving)"
    )
    candidates_at_once: Int | None = Field(None, ge=1, description="candidates that share a forward; default: all")

    def to_yaml(self) -> str:
        """As YAML that reads back as equal settings."""
        text: str = yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)
        return text


@dataclass(frozen=True)
class CandidateResult:
    """What came of a candidate.

    Attributes:
        number: of the candidate, from 0.
        settings: in which it differs.
        score: the best value of the deciding metric, a fraction in [0, 1] for most; None where it diverged before it
            was ever scored.
        metrics: validation metrics of that epoch.
        best_epoch: from 1; 0 where it was never scored.
        epochs: after which it was last scored; fewer than the others where it was dropped, stopped early or diverged.
        has_diverged: whether its loss or gradients became infinite or not a number; it was trained no further then.
    """

    number: int
    settings: dict[str, Any]
    score: float | None
    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    has_diverged: bool


@dataclass(frozen=True)
class PopulationResult:
    """What a population came to.

    Attributes:
        directory: of the run.
        metric: the validation metric that decides.
        candidates: in the order given.
        best: number of the best one; of equals the one that was trained longer, then the first.
        seconds: trained, over all sittings.
    """

    directory: Path
    metric: str
    candidates: tuple[CandidateResult, ...]
    best: int
    seconds: float


def train_population(
    config: RunConfig,
    candidates: Sequence[Mapping[str, Any]],
    *,
    halving: int | None = None,
    candidates_at_once: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    backbone: Backbone | None = None,
    prepared: PreparedTask | None = None,
    report: Reporter | None = None,
) -> PopulationResult:
    """Trains candidates side by side. One that diverges is dropped, with a warning.

    Args:
        config: what they have in common.
        candidates: for each the dotted settings of its own, such as {"training.learning_rate": 0.02}; see `MAY_DIFFER`.
        halving: 2 drops the worse half of the candidates after about 1/8, 1/4 and 1/2 of the epochs (of eight), and so
            on for other numbers: successive halving. Without it all are trained to the end.
        candidates_at_once: how many share a forward, to save memory; all by default. It changes no result.
        resume: go on with the population that is in the output directory.
        overwrite: delete a run that is there.
        backbone: one that is loaded already, on the device to use.
        prepared: the task's rows, where `prepare_task` has read them already.
        report: who is told how it goes.

    Returns:
        Where it is and what came of each candidate.

    Raises:
        ConfigError: a setting that candidates cannot differ in, or as `train`.
        DataError, BackboneError, CheckpointError: as `train`.
        TrainingError: all candidates have diverged, or memory ran out.
    """
    report = report or Silent()
    config = with_absolute_paths(config)
    directory = output_directory(config)
    if not METHODS[config.method].has_deep_prompts:
        raise ConfigError(
            f"method is {config.method}, but candidates share a backbone by prompts at every layer, expected "
            "p-tuning-v2 or prefix-tuning. Train candidates of this method one after another."
        )
    if config.training.learning_rate_probe:
        raise ConfigError(
            "training.learning_rate_probe is on, but it finds the rate of one run, and candidates have their own. "
            "Turn it off, and give training.learning_rate in the candidates."
        )
    _check_call(candidates, halving=halving, candidates_at_once=candidates_at_once)
    own = [_absolute(config, settings) for settings in candidates]
    _check_differences(own)
    check_start(directory, resume=resume, overwrite=overwrite)
    require_one(None)  # before anything is loaded
    backbone = backbone or load_backbone_of(config)
    prepared = prepared or prepare_task(config, backbone)
    for note in prepared.data.notes:
        report.note(note)
    configs = [with_overrides(config, settings) for settings in own]
    _check_data(config, configs, prepared, backbone)
    resolved = [
        resolve_config(one, prepared, backbone, directory / CANDIDATES_NAME / str(number))
        for number, one in enumerate(configs)
    ]
    metric, task = str(resolved[0].training.metric), prepared
    trained = [Candidate(one, batches_of(one, prepared)) for one in resolved]
    results: list[PopulationResult] = []

    def evaluate(model: PromptedModel, candidate: int) -> dict[str, float]:
        told = Named(f"candidate {candidate}", report)
        return validate(model, task, resolved[candidate], backbone, metric, told, head=candidate, entry=candidate)

    def save(model: PromptedModel, candidate: int, metrics: Mapping[str, float]) -> None:
        saved = saved_prompt(resolved[candidate], task, backbone, model, metrics, head=candidate, entry=candidate)
        save_prompt(_prompt_of(directory, candidate), saved)
        replace_file(_prompt_of(directory, candidate).parent / CONFIG_NAME, resolved[candidate].to_yaml())

    course = Course(
        candidates=trained,
        settings=PopulationConfig(
            run=resolve_config(config, prepared, backbone, directory),
            candidates=own,
            halving=halving,
            candidates_at_once=candidates_at_once,
        ),
        load_settings=_load_population,
        parts=[Part(prepared.kind, prepared.train)],
        metric=metric,
        held_out=prepared.validation,
        digest=digest_of([prepared]),
        evaluate=evaluate,
        save=save,
        command=None,
        may_differ=("run.output", "run.training.sharding"),
        finish=lambda progress: results.append(_finish(directory, own, metric, progress)),
        survivors=None if halving is None else survivors(len(own), _num_epochs(trained[0]), halving),
        candidates_at_once=candidates_at_once,
    )
    execute(directory, course, backbone, resume=resume, overwrite=overwrite, report=report)
    return results[0]


def common_config(path: Path) -> RunConfig | None:
    """The settings that all candidates have in common, from a population's `config.yaml`; None for that of a run.

    Raises:
        ConfigError: the file cannot be read, or settings are unknown or out of range.
    """
    is_population = "candidates" in read_yaml(path)
    return load_settings(PopulationConfig, path, {}).run if is_population else None


def survivors(num_candidates: int, epochs: int, halving: int) -> dict[int, int]:
    """After which epoch (from 1) how many candidates go on, by successive halving.

    Args:
        num_candidates: at the start.
        epochs: of a whole training.
        halving: one in this many goes on each time.

    Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016.
    """
    times = 0
    while halving ** (times + 1) <= num_candidates:
        times += 1
    kept: dict[int, int] = {}
    for time in range(times):
        epoch = math.ceil(epochs / halving ** (times - time))
        if epoch < epochs:
            kept[epoch] = math.ceil(num_candidates / halving ** (time + 1))  # of equal epochs the last counts
    return kept


def _num_epochs(candidate: Candidate) -> int:
    """The epochs that are trained; `max_steps` may end before the last that is set."""
    training = candidate.config.training
    assert training.epochs is not None  # `resolve_config` says how many
    if training.max_steps is None:
        return training.epochs
    return min(training.epochs, epochs_for_steps(candidate.batches, training.max_steps, training.accumulation))


def _load_population(path: Path) -> PopulationConfig:
    if "candidates" not in read_yaml(path):
        raise ConfigError(
            f"{path} has settings of other training, expected those of a population with `candidates`. Use another "
            "output, or overwrite=True to start again."
        )
    return load_settings(PopulationConfig, path, {})


def _finish(directory: Path, candidates: Sequence[dict[str, Any]], metric: str, progress: Progress) -> PopulationResult:
    """Writes what came of a population and the prompt of its best candidate."""
    lines = [json.loads(line) for line in (directory / METRICS_NAME).read_text(encoding="utf-8").splitlines()]
    results = []
    for number, (settings, standing) in enumerate(zip(candidates, progress.standings, strict=True)):
        is_scored = standing.best_score is not None
        results.append(
            CandidateResult(
                number=number,
                settings=settings,
                score=standing.best_score,
                metrics=read_prompt(_prompt_of(directory, number)).metrics if is_scored else {},
                best_epoch=standing.best_epoch,
                epochs=max((line["epoch"] for line in lines if line.get("candidate", 0) == number), default=0),
                has_diverged=standing.has_diverged,
            )
        )
    best = max(results, key=_rank).number
    save_prompt(directory / PROMPT_NAME, read_prompt(_prompt_of(directory, best)))
    shown = {"metric": metric, "best": best, "candidates": [asdict(one) for one in results]}
    replace_file(directory / POPULATION_NAME, json.dumps(shown, indent=2) + "\n")
    return PopulationResult(directory, metric, tuple(results), best, progress.seconds)


def _rank(result: CandidateResult) -> tuple[float, int, int]:
    """Higher is better; without a score it is the worst."""
    return -math.inf if result.score is None else result.score, result.epochs, -result.number


def _prompt_of(directory: Path, candidate: int) -> Path:
    return directory / CANDIDATES_NAME / str(candidate) / PROMPT_NAME


def _absolute(config: RunConfig, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's settings, with paths to start from that mean the same everywhere."""
    found = with_absolute_paths(with_overrides(config, settings))
    starts = {"prompts.init": found.prompts.init, "head.init": found.head.init}
    return {name: starts.get(name, value) for name, value in settings.items()}


def _check_call(candidates: object, *, halving: object, candidates_at_once: object) -> None:
    """Makes sure of what a caller may get wrong before anything is loaded."""
    is_list = isinstance(candidates, Sequence) and not isinstance(candidates, str)
    if not is_list or not all(isinstance(settings, Mapping) for settings in cast(Sequence[object], candidates)):
        raise ConfigError(
            f"candidates is {candidates!r}, expected a list with the settings of each, such as "
            '[{"training.learning_rate": 0.01}, {"training.learning_rate": 0.02}]. Give such a list.'
        )
    for name, value, least in (("halving", halving, 2), ("candidates_at_once", candidates_at_once, 1)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
            raise ConfigError(
                f"{name} is {value!r}, expected a whole number from {least} on. Give one, or leave it out."
            )


def _check_differences(candidates: Sequence[Mapping[str, Any]]) -> None:
    if not candidates:
        raise ConfigError("there are no candidates, expected at least one. Give a list of settings, such as [{}].")
    wrong = sorted({name for settings in candidates for name in settings} - set(MAY_DIFFER))
    if wrong:
        raise ConfigError(
            f"candidates differ in {', '.join(wrong)}, but side by side they can differ in {', '.join(MAY_DIFFER)} "
            "alone. Put it into the common settings, or train populations one after another."
        )


def _check_data(config: RunConfig, configs: Sequence[RunConfig], prepared: PreparedTask, backbone: Backbone) -> None:
    """Makes sure that all candidates would see these rows, in these batches, when trained alone."""
    usual = prepared.task.max_length or prepared.kind.max_length_default
    for number, one in enumerate(configs):
        length = fitting_max_length(one, backbone, usual)
        if length != prepared.max_length:
            raise ConfigError(
                f"candidate {number} leaves room for {length} tokens, and the population has sequences of "
                f"{prepared.max_length}, since positions are shifted by the prompt length. Set data.max_length to "
                f"{min(length, prepared.max_length)}."
            )
    if {one.training.seed for one in configs} == {config.training.seed}:
        return
    limits = [name for name in ("max_train_rows", "max_validation_rows") if getattr(config.data, name) is not None]
    drawn = [f"data.{name}" for name in limits] + (["held-out rows"] if prepared.data.held_out is not None else [])
    if drawn or config.training.batch_tokens is not None:
        what = f"the rows ({', '.join(drawn)})" if drawn else "how many batches of training.batch_tokens there are"
        raise ConfigError(
            f"candidates differ in training.seed, which also decides {what}, and that must be the same for all. "
            "Give a directory with a validation file, without limits, and use training.batch_size."
        )
