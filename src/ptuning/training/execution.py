"""One training in a directory, from nothing or from where it was stopped.

    DIRECTORY/
      config.yaml          resolved, complete, replayable
      metrics.jsonl        one line an evaluation, with the mean norms of the prompts at each layer
      checkpoints/last/    everything needed to go on exactly

and what the course keeps of the best epoch so far. A training that was killed at any moment and is taken up again ends
with the same weights as one that was not: what an evaluation leaves is written before the checkpoint that counts it,
and written again, equal, if the process dies in between.

Of several processes (`processes.py`) all do what is here; process 0 alone writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ptuning.backbones.loading import Backbone
from ptuning.config import RunConfig
from ptuning.data.batching import Example
from ptuning.errors import ConfigError, LostProcessError, TrainingError
from ptuning.model import PromptedModel, trained_parameters
from ptuning.prompts.norms import entry_norms
from ptuning.training.agreement import require_same_settings
from ptuning.training.assembly import assemble_model
from ptuning.training.averaging import Averages
from ptuning.training.directory import (
    CHECKPOINT_NAME,
    METRICS_NAME,
    Settings,
    check_settings,
    check_start,
    claimed,
    cut_metrics,
    start_directory,
)
from ptuning.training.guard import is_out_of_memory, out_of_memory_error
from ptuning.training.loop import Candidate, Hooks, Part, fit, make_optimizer
from ptuning.training.processes import Processes, start_processes
from ptuning.training.reporting import EpochReport, Reporter
from ptuning.training.seed import random_state, seed_everything, seed_process
from ptuning.training.state import Progress, Standing, load_state, reused_trunk, save_state
from ptuning.training.trunk_reuse import TrunkPlan, forget_trunk, plan_trunk, reuse_trunk

MAY_DIFFER = ("output", "training.sharding")
"""Settings that change no result."""


@dataclass(frozen=True)
class Course:
    """What a model learns from, and what is kept of it.

    Attributes:
        candidates: what is trained, with its resolved settings; mostly one.
        settings: what `config.yaml` holds; a training that goes on must have equal ones.
        load_settings: reads such a `config.yaml`.
        parts: the data sets, each with a head of its own.
        metric: the validation metric that picks the best epoch; higher is better.
        held_out: examples that `evaluate` runs.
        digest: of everything that the loop sees of the data.
        evaluate: returns the validation metrics of a candidate.
        save: keeps a candidate with these metrics; called for each epoch that is its best so far.
        command: that trains it, for advice; None where that is a call of the library.
        may_differ: settings of which a training that goes on may have others.
        finish: called at the end with how it stands, while nobody else can write to the directory.
        survivors: after an epoch, how many candidates go on.
        candidates_at_once: how many share a forward; all by default.
    """

    candidates: Sequence[Candidate]
    settings: Settings
    load_settings: Callable[[Path], Settings]
    parts: Sequence[Part]
    metric: str
    held_out: Sequence[Example]
    digest: str
    evaluate: Callable[[PromptedModel, int], dict[str, float]]
    save: Callable[[PromptedModel, int, Mapping[str, float]], None]
    command: str | None = "train"
    may_differ: Collection[str] = MAY_DIFFER
    finish: Callable[[Progress], None] = lambda progress: None
    survivors: Mapping[int, int] | None = None
    candidates_at_once: int | None = None


def execute(
    directory: Path,
    course: Course,
    backbone: Backbone,
    *,
    resume: bool,
    overwrite: bool,
    report: Reporter,
    processes: Processes | None = None,
    is_spare: bool = False,
) -> Progress:
    """Trains to the end of a course.

    Args:
        directory: of the run.
        course: what to learn.
        backbone: on the device to use.
        resume: go on with what is in the directory.
        overwrite: delete a run that is there.
        report: who is told how it goes.
        processes: of the run; without them this is the only one.
        is_spare: whether nobody needs the backbone as it is afterwards.

    Returns:
        Where it stands at the end.

    Raises:
        ConfigError: settings that contradict each other or the backbone; or the directory is taken.
        CheckpointError: there is nothing to resume, or it is damaged or of other settings.
        TrainingError: the loss is not finite, memory ran out, or another process of the run has ended.
    """
    processes = processes or start_processes()
    configs = [candidate.config for candidate in course.candidates]
    config = configs[0]
    with ExitStack() as held:
        with processes.main_first():
            if processes.is_main:
                held.enter_context(claimed(directory))
                check_start(directory, resume=resume, overwrite=overwrite)  # nobody else writes from here on
            if processes.is_main and resume:
                check_settings(
                    directory,
                    course.settings,
                    course.load_settings,
                    may_differ=course.may_differ,
                    command=course.command,
                )
        seed_everything(config.training.seed)  # here, so that a backbone that comes loaded makes no difference
        model: PromptedModel | None = None
        trunk: TrunkPlan | None = None
        try:
            is_going_on = processes.from_main(resume and (directory / CHECKPOINT_NAME).exists())
            start, *others = [_with_any_start(own) if is_going_on else own for own in configs]
            kind, *other_kinds = [part.kind for part in course.parts]
            examples = [example for part in course.parts for example in part.examples]
            model = assemble_model(
                start,
                backbone,
                kind,
                examples,
                other_kinds=other_kinds,
                other_configs=others,
                is_spare=is_spare,
            )
            seen = [*examples, *course.held_out]
            origin = {"data": course.digest, "backbone": backbone.identity.weights}
            processes.require_same(origin)
            require_same_settings(processes, course.settings)
            before = processes.from_main(reused_trunk(directory / CHECKPOINT_NAME) if is_going_on else None)
            with processes.main_first():
                trunk = plan_trunk(directory, model, seen, config, origin=origin, before=before, report=report)
            if not all(processes.gather(trunk is not None)):
                trunk = None
            if not resume and processes.is_main:  # nothing is left that could be refused: an old run goes only now
                start_directory(directory, course.settings)
            progress = _run(directory, course, backbone, model, origin, trunk, processes, report)
            if processes.is_main:
                course.finish(progress)
            processes.wait()  # until all is written
            return progress
        except LostProcessError:
            raise  # nothing is wrong with what is kept
        except TrainingError:
            if trunk is not None and processes.is_main:
                forget_trunk(directory)  # the run has to start again
            raise
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory_error(config, error) from error
            lost = processes.lost(error)
            if lost is not None:
                raise lost from error
            raise
        finally:
            if model is not None:
                model.detach()


def _with_any_start(config: RunConfig) -> RunConfig:
    """A checkpoint has the values of all that is trained; what they once started from may be gone."""
    groups = {name: getattr(config, name).model_copy(update={"init": "normal"}) for name in ("prompts", "head")}
    return config.model_copy(update=groups)


def _run(
    directory: Path,
    course: Course,
    backbone: Backbone,
    model: PromptedModel,
    origin: Mapping[str, str],
    trunk: TrunkPlan | None,
    processes: Processes,
    report: Reporter,
) -> Progress:
    config = course.candidates[0].config
    optimizer = make_optimizer(model, [candidate.config for candidate in course.candidates])
    averages = Averages(model, [candidate.config for candidate in course.candidates])
    parameters = trained_parameters(model)
    checkpoint = directory / CHECKPOINT_NAME
    seed_process(config.training.seed, processes.index)
    with processes.main_first():  # which puts right what a killed process has left
        kept = load_state(checkpoint, parameters, optimizer, origin, averages.tensors(), processes.index)
    _require_shared(directory, processes.gather(None if kept is None else kept.step))
    processes.copy_main(list(parameters.values()))
    progress = kept or Progress(standings=[Standing() for _ in course.candidates])
    if processes.is_main:
        cut_metrics(directory, progress.metric_lines)
    if trunk is not None and not progress.finished:
        with processes.main_first():
            is_reused = reuse_trunk(directory, model, backbone.tokenizer, trunk, config, report=report)
        progress.reuses_trunk = all(processes.gather(is_reused))
        if not progress.reuses_trunk:
            model.lower_states = None

    def record(evaluation: EpochReport) -> None:
        norms = entry_norms(model.bank, evaluation.candidate or 0)
        line = {
            **({} if evaluation.candidate is None else {"candidate": evaluation.candidate}),
            "epoch": evaluation.epoch,
            "step": evaluation.step,
            "train_loss": evaluation.train_loss,
            "validation": dict(evaluation.metrics),
            "is_best": evaluation.is_best,
            "seconds": round(evaluation.seconds, 3),
            **({} if norms is None else {"prompt_norms": norms}),
        }
        with (directory / METRICS_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if evaluation.is_best:
            course.save(model, evaluation.candidate or 0, evaluation.metrics)

    def keep(state: Progress) -> None:
        randoms = processes.gather(random_state())
        if processes.is_main:
            save_state(checkpoint, state, parameters, optimizer, origin, averages.tensors(), randoms)

    hooks = Hooks(
        evaluate=lambda candidate: processes.from_main(course.evaluate(model, candidate)),
        record=record if processes.is_main else lambda evaluation: None,
        checkpoint=keep,
    )
    try:
        fit(
            model,
            course.parts,
            course.candidates,
            backbone.tokenizer,
            metric=course.metric,
            accelerator=processes.accelerator,
            optimizer=optimizer,
            progress=progress,
            hooks=hooks,
            report=report,
            averages=averages,
            survivors=course.survivors,
            candidates_at_once=course.candidates_at_once,
            processes=processes,
        )
    finally:
        report.stop()
    if trunk is not None and processes.is_main:
        forget_trunk(directory)
    return progress


def _require_shared(directory: Path, steps: Sequence[int | None]) -> None:
    """Makes sure that all processes see the same checkpoint.

    Raises:
        ConfigError: some see another one than process 0, or none.
    """
    if len(set(steps)) > 1:
        raise ConfigError(
            f"the processes find {directory / CHECKPOINT_NAME} at steps {list(steps)} (None: not there), expected one "
            "checkpoint for all. Put --output on a disk that all machines of the run share."
        )
