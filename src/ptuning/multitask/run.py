"""All runs of multi-task training, one after another on one backbone.

    runs/ner/
      config.yaml               resolved, complete, replayable
      results.json              every score, and for each data set mean and deviation over seeds
      seed-11/shared/           the shared stage (see `shared.py`)
      seed-11/multi/NAME/       a run on one data set from the shared prompts on
      seed-11/single/NAME/      a run on it alone, with as many optimizer steps as it had in both stages above

What was stopped at any moment goes on with `resume=True`: finished runs are not repeated, and the one that was stopped
goes on exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import find_prompt
from ptuning.config import PromptsConfig, RunConfig
from ptuning.config.methods import STARTS
from ptuning.errors import ConfigError, DataError
from ptuning.launch import require_one
from ptuning.multitask.directory import check_kept, check_output, follow_move, start_output
from ptuning.multitask.results import RESULTS_NAME, MultitaskResult, Stage, StageResult
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config
from ptuning.multitask.shared import TASKS_NAME, SharedResult, train_shared
from ptuning.storage import replace_file
from ptuning.tasks import get_task
from ptuning.training.assembly import assemble_model
from ptuning.training.directory import CHECKPOINT_NAME, CONFIG_NAME, PROMPT_NAME, check_settings, claimed
from ptuning.training.reporting import Reporter, Silent
from ptuning.training.run import (
    PreparedTask,
    RunResult,
    load_backbone_of,
    prepare_task,
    resolve_config,
    train,
    with_absolute_paths,
)


def train_multitask(
    config: MultitaskConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    backbone: Backbone | None = None,
    report_for: Callable[[str], Reporter] | None = None,
) -> MultitaskResult:
    """Trains shared prompts, then each data set from them on, and each alone to compare.

    Args:
        config: settings, of `load_multitask_config`.
        resume: go on with what is in the output directory. Seeds may be added, and so may runs alone.
        overwrite: delete what is there.
        backbone: one that is loaded already, on the device to use. Without it, it is loaded by its name.
        report_for: makes who is told about a run, from its label; nobody by default.

    Returns:
        What all runs reached; also written to `results.json`.

    Raises:
        ConfigError: settings that contradict each other, a task, or the backbone; or the output is taken.
        DataError: the data are not what their task needs.
        BackboneError: the backbone cannot be loaded or given prompts.
        CheckpointError: there is nothing to resume, or it is damaged or of other settings.
        TrainingError: the loss is not finite, or memory ran out.
    """
    report_for = report_for or (lambda label: Silent())
    output = _output_directory(config)
    check_output(output, resume=resume, overwrite=overwrite)
    _check_data_are_given(config)
    require_one("multitask")
    config = _with_absolute_paths(config)
    if overwrite:
        check_kept(_read_by(config), output)
    first = config.seeds[0]
    backbone = backbone or load_backbone_of(_run_config(config, next(iter(config.tasks)), first, output, 1))
    # Of every seed, and all that could be refused, before anything old goes or anything new is trained.
    prepared = {first: _prepare(config, first, backbone, report_for("data"))}
    for seed in config.seeds[1:]:
        prepared[seed] = _prepare(config, seed, backbone, Silent(), like=prepared[first])
    config = _resolve(config, prepared[first], backbone, output)
    if not resume or _has_a_start_to_make(config, output):
        _check_model(config, prepared[first], backbone, output)
    with claimed(output):
        if resume:
            check_output(output, resume=True, overwrite=False)  # again: nobody else writes from here on
            may_differ = ("output", "seeds", "single")  # none of them changes a run that is there
            check_settings(output, config, load_multitask_config, may_differ=may_differ, command="multitask")
            replace_file(output / CONFIG_NAME, config.to_yaml())
        else:
            start_output(output, config, overwrite=overwrite)
        runs: list[StageResult] = []
        for seed in config.seeds:
            runs += _train_seed(config, seed, prepared[seed], backbone, output, report_for)
        metrics = {name: _metric_of(config, name, task) for name, task in prepared[first].items()}
        result = MultitaskResult(output, config, metrics, runs)
        replace_file(output / RESULTS_NAME, result.to_json())  # those of an earlier sitting stay until now
    return result


def _train_seed(
    config: MultitaskConfig,
    seed: int,
    prepared: Mapping[str, PreparedTask],
    backbone: Backbone,
    output: Path,
    report_for: Callable[[str], Reporter],
) -> list[StageResult]:
    """All runs of one seed."""
    top = output / f"seed-{seed}"
    directory = top / "shared"
    of_all = config.shared_steps * len(prepared)
    resolved = {
        name: resolve_config(_run_config(config, name, seed, directory, of_all), task, backbone, directory)
        for name, task in prepared.items()
    }
    shared = train_shared(
        config.model_copy(update={"seeds": [seed], "single": False, "output": str(directory)}),
        resolved,
        prepared,
        backbone,
        directory,
        resume=_is_there(directory),
        report=report_for(f"seed {seed}, shared"),
    )
    runs = [_of_shared(shared, seed, name, output) for name in prepared]

    def run(stage: Stage, name: str, steps: int, prompts: PromptsConfig, head_init: str = "normal") -> StageResult:
        place = top / stage / name
        head = config.head.model_copy(update={"init": head_init})
        settings = _run_config(config, name, seed, place, steps)
        settings = settings.model_copy(update={"prompts": prompts, "head": head})
        is_there = _is_there(place)
        if is_there:
            follow_move(place, settings, output)
        result = train(
            settings,
            resume=is_there,
            backbone=backbone,
            prepared=prepared[name],
            report=_Quieter(report_for(f"seed {seed}, {stage} {name}")),
        )
        return _of_run(result, stage, seed, name, output)

    # The MLP or gate, if there was one, is folded: what goes on are the prompts that it made.
    start = {"init": str(directory.resolve()), "init_text": None, "reparameterization": "none", "gate": "none"}
    from_shared = config.prompts.model_copy(update=start)
    for name in prepared:
        head_init = str((directory / TASKS_NAME / name).resolve()) if config.head_init == "shared" else "normal"
        runs.append(run("multi", name, config.steps - config.shared_steps, from_shared, head_init))
    if config.single:
        runs += [run("single", name, config.steps, config.prompts) for name in prepared]
    return runs


def _run_config(config: MultitaskConfig, name: str, seed: int, output: Path, steps: int) -> RunConfig:
    """The settings of a run on one of the data sets."""
    task = config.tasks[name]
    return RunConfig(
        task=task.task,
        backbone=config.backbone,
        revision=config.revision,
        attention_direction=config.attention_direction,
        data=task.data,
        prompts=config.prompts,
        head=config.head,
        training=config.training.model_copy(update={"seed": seed, "max_steps": steps}),
        output=str(output),
    )


def _check_data_are_given(config: MultitaskConfig) -> None:
    for name, settings in config.tasks.items():
        task = get_task(settings.task)
        if settings.data.path is None and task.source is None:
            where = f" {task.how_to_get}" if task.how_to_get else ""
            raise ConfigError(
                f"tasks.{name}.data.path is missing, and the task {task.name} has no data of its own. Give a directory "
                f"or a data set with --data {name}=PATH.{where}"
            )


def _prepare(
    config: MultitaskConfig,
    seed: int,
    backbone: Backbone,
    report: Reporter,
    like: Mapping[str, PreparedTask] | None = None,
) -> dict[str, PreparedTask]:
    """Rows of all data sets with a seed, which decides what is held out; those that are as in `like` are shared."""
    prepared = {}
    for name in config.tasks:
        with _named(name):
            own = prepare_task(_run_config(config, name, seed, Path(), 1), backbone)
        prepared[name] = like[name] if like is not None and like[name].data == own.data else own
        for note in own.data.notes:
            report.note(f"{name}: {note}")
    return prepared


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says which data set an error is about."""
    try:
        yield
    except (ConfigError, DataError) as error:
        raise type(error)(f"tasks.{name}: {error}") from error


def _metric_of(config: MultitaskConfig, name: str, task: PreparedTask) -> str:
    with _named(name):
        return task.kind.resolve_metric(config.training.metric or task.task.metric)


def _with_absolute_paths(config: MultitaskConfig) -> MultitaskConfig:
    tasks = {}
    for name, task in config.tasks.items():
        run = with_absolute_paths(_run_config(config, name, config.seeds[0], Path(), 1))
        tasks[name] = task.model_copy(update={"data": run.data})
    return config.model_copy(update={"tasks": tasks, "backbone": run.backbone, "prompts": run.prompts})


def _resolve(
    config: MultitaskConfig, prepared: Mapping[str, PreparedTask], backbone: Backbone, output: Path
) -> MultitaskConfig:
    """Fills in what was left to defaults that depend on the backbone."""
    for name, task in prepared.items():
        with _named(name):
            run = resolve_config(_run_config(config, name, config.seeds[0], output, 1), task, backbone, output)
    resolved = ("learning_rate", "head_learning_rate", "precision", "attention")
    known = {name: getattr(run.training, name) for name in resolved}
    made = {name: getattr(run.prompts, name) for name in ("reparameterization", "init")}
    groups = {
        "head": run.head,
        "prompts": config.prompts.model_copy(update=made),
        "training": config.training.model_copy(update=known),
    }
    backbone_is = {"revision": run.revision, "attention_direction": run.attention_direction}
    return config.model_copy(update={**backbone_is, **groups, "output": str(output)})


def _check_model(
    config: MultitaskConfig, prepared: Mapping[str, PreparedTask], backbone: Backbone, output: Path
) -> None:
    name, task = next(iter(prepared.items()))
    run = _run_config(config, name, config.seeds[0], output, 1)
    assemble_model(run, backbone, task.kind, task.train).detach()


def _has_a_start_to_make(config: MultitaskConfig, output: Path) -> bool:
    """Whether a run is to come that starts as `prompts.init` says; others have a checkpoint, and it may be gone."""
    stages = ["shared", *(f"single/{name}" for name in config.tasks if config.single)]
    places = [output / f"seed-{seed}" / stage for seed in config.seeds for stage in stages]
    return not all((place / CHECKPOINT_NAME).exists() for place in places)


def _read_by(config: MultitaskConfig) -> dict[str, Path]:
    """What on this disk the runs read, by setting."""
    read = {f"tasks.{name}.data.path": Path(task.data.path) for name, task in config.tasks.items() if task.data.path}
    read["backbone"] = Path(config.backbone)
    init = config.prompts.init
    if init is not None and init not in STARTS and Path(init).exists():
        read["prompts.init"] = find_prompt(init)
    return {setting: path for setting, path in read.items() if path.exists()}


def _output_directory(config: MultitaskConfig) -> Path:
    if config.output is not None and not config.output.strip():
        raise ConfigError("output is empty, expected the directory of all runs. Name one, or leave --output out.")
    return Path(config.output or "runs/multitask")


def _is_there(directory: Path) -> bool:
    return (directory / CONFIG_NAME).exists()


def _of_shared(shared: SharedResult, seed: int, name: str, output: Path) -> StageResult:
    prompt = (shared.directory / TASKS_NAME / name).relative_to(output)
    metrics = shared.metrics[name]
    return StageResult("shared", seed, name, metrics, shared.best_epoch, shared.steps, shared.seconds, str(prompt))


def _of_run(result: RunResult, stage: Stage, seed: int, name: str, output: Path) -> StageResult:
    prompt = (result.directory / PROMPT_NAME).relative_to(output)
    return StageResult(stage, seed, name, result.metrics, result.best_epoch, result.steps, result.seconds, str(prompt))


class _Quieter:
    """Passes on all but the notes on the data, which were given once for all runs."""

    def __init__(self, report: Reporter) -> None:
        self.warn, self.start, self.step = report.warn, report.start, report.step
        self.evaluated, self.stop = report.evaluated, report.stop

    def note(self, text: str) -> None: ...
