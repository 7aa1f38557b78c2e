from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ptuning.backbones.loading import Backbone
from ptuning.checkpoint import find_prompt, read_prompt
from ptuning.config import load_config
from ptuning.errors import CheckpointError, ConfigError, DataError
from ptuning.evaluation import evaluate
from ptuning.multitask import run as run_module
from ptuning.multitask import shared
from ptuning.multitask.results import MultitaskResult
from ptuning.multitask.run import train_multitask
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config
from ptuning.predictor import load
from ptuning.training import execution
from ptuning.training.reporting import Silent

Settings = Callable[..., MultitaskConfig]
STAGES = ("shared", "multi/first", "multi/second", "single/first", "single/second")


class Stopped(Exception):
    """In place of a kill."""


def lines_of(directory: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def tensors_of(output: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(output)): load_file(path) for path in sorted(output.rglob("*.safetensors"))}


def assert_same(first: Path, second: Path) -> None:
    """Every tensor of every run is equal: prompts, heads, optimizer, random state."""
    found, wanted = tensors_of(first), tensors_of(second)
    assert found.keys() == wanted.keys() and len(wanted) >= 8
    for name in wanted:
        assert found[name].keys() == wanted[name].keys()
        assert [key for key in wanted[name] if not torch.equal(found[name][key], wanted[name][key])] == [], name


@pytest.fixture(scope="module")
def done(tiny_multitask: Settings, tmp_path_factory: pytest.TempPathFactory) -> MultitaskResult:
    """Two seeds, all stages: 8 steps a data set, 4 of them shared."""
    output = tmp_path_factory.mktemp("multitask") / "all"
    return train_multitask(tiny_multitask(output, seeds=[11, 12]))


def test_alone_and_together_have_the_same_number_of_steps(done: MultitaskResult) -> None:
    for seed in (11, 12):
        steps = {}
        for stage in STAGES:
            steps[stage] = lines_of(done.directory / f"seed-{seed}" / stage)[-1]["step"]
        assert steps == {"shared": 8, "multi/first": 4, "multi/second": 4, "single/first": 8, "single/second": 8}
    for name in ("first", "second"):
        single, multi = done.summary(name, "single"), done.summary(name, "multi")
        assert single is not None and multi is not None and single.steps == multi.steps == 8


@pytest.mark.parametrize(("steps", "fraction", "in_shared"), [(7, 0.5, 4), (9, 0.3, 3), (5, 0.9, 4)])
def test_steps_that_do_not_divide_evenly_are_still_the_same(
    steps: int, fraction: float, in_shared: int, tiny_multitask: Settings, backbone: Backbone, tmp_path: Path
) -> None:
    settings = {"steps": steps, "shared_fraction": fraction, "training.accumulation": 2, "sampling": "uniform"}
    result = train_multitask(tiny_multitask(tmp_path / "runs", **settings), backbone=backbone)
    found = {(run.stage, run.task): run.steps for run in result.runs}
    assert found == {
        **{("shared", name): 2 * in_shared for name in ("first", "second")},
        **{("multi", name): steps - in_shared for name in ("first", "second")},
        **{("single", name): steps for name in ("first", "second")},
    }


@pytest.mark.parametrize("head_init", ["shared", "normal"])
def test_a_run_goes_on_from_the_shared_prompts_bit_for_bit(
    head_init: str, tiny_multitask: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, torch.Tensor] = {}
    heads: dict[str, dict[str, torch.Tensor]] = {}
    assemble = execution.assemble_model

    def spy(config: Any, *args: Any, **more: Any) -> Any:
        model = assemble(config, *args, **more)
        starts[str(config.output)] = model.bank.prompts[0].folded()
        heads[str(config.output)] = {name: t.clone() for name, t in model.heads[0].state_dict().items()}
        return model

    monkeypatch.setattr(execution, "assemble_model", spy)
    output = tmp_path / "runs"
    train_multitask(tiny_multitask(output, head_init=head_init))
    top = output / "seed-11"
    prompts = read_prompt(top / "shared").prompts
    for name in ("first", "second"):
        assert torch.equal(starts[str(top / "multi" / name)], prompts)
        assert not torch.equal(starts[str(top / "single" / name)], prompts)
        saved = read_prompt(top / "shared" / "tasks" / name)
        assert torch.equal(saved.prompts, prompts)
        for stage, same in (("multi", head_init == "shared"), ("single", False)):
            head = heads[str(top / stage / name)]
            assert head.keys() == saved.head_tensors.keys()
            assert torch.equal(head["linear.weight"], saved.head_tensors["linear.weight"]) == same
    assert load_config(top / "multi" / "first" / "config.yaml").prompts.init == str(top / "shared")
    assert find_prompt(top / "shared") == top / "shared" / "prompt"


def test_the_shared_prompts_are_bare_and_of_the_best_mean(done: MultitaskResult) -> None:
    directory = done.directory / "seed-11" / "shared"
    lines = lines_of(directory)
    for line in lines:
        values = line["validation"]
        assert values["mean"] == pytest.approx((values["first.accuracy"] + values["second.accuracy"]) / 2)
    best = [line for line in lines if line["is_best"]][-1]
    assert best["validation"]["mean"] == max(line["validation"]["mean"] for line in lines)
    saved = read_prompt(directory)
    assert saved.task is None and saved.head is None and not saved.head_tensors
    assert saved.metrics == best["validation"]
    counts = [read_prompt(directory / "tasks" / name).counts for name in ("first", "second")]
    assert saved.counts["head"] == 2 * (3 * 32 + 3) and saved.counts["trained"] == saved.counts["prompts"] + 2 * 99
    assert [(one["head"], one["trained"]) for one in counts] == [(99, saved.counts["prompts"] + 99)] * 2


def test_the_shared_stage_alone_can_be_asked_and_scored(done: MultitaskResult, tiny_data: Any) -> None:
    tasks = done.directory / "seed-11" / "shared" / "tasks"
    for name, data in (("first", tiny_data("classification")), ("second", tiny_data("classification", 40, 1))):
        (run,) = [r for r in done.runs if (r.seed, r.stage, r.task) == (11, "shared", name)]
        assert evaluate(tasks / name, data=data).metrics == pytest.approx(run.metrics, abs=1e-6)
    predictor = load([tasks / "first", tasks / "second"])
    answers = predictor.predict([{"text": "a red lamp"}, {"text": "the box"}], ["second", "first"])
    assert {answer["label"] for answer in answers} <= {"red", "blue", "green"}
    predictor.close()


def test_results_are_the_metrics_of_the_runs(done: MultitaskResult) -> None:
    results = json.loads((done.directory / "results.json").read_text())
    assert results == json.loads(done.to_json())
    assert (results["kind"], results["seeds"], results["steps"]) == ("classification", [11, 12], 8)
    for name, task in results["tasks"].items():
        assert task["metric"] == "accuracy" and task["task"] == "classification"
        assert [(run["seed"], run["stage"]) for run in task["runs"]] == [
            (seed, stage) for seed in (11, 12) for stage in ("shared", "multi", "single")
        ]
        for run in task["runs"]:
            saved = read_prompt(done.directory / run["prompt"])
            assert run["metrics"] == saved.metrics and saved.task is not None
            directory = (done.directory / run["prompt"]).parent
            lines = lines_of(directory.parent if run["stage"] == "shared" else directory)
            values = lines[run["best_epoch"] - 1]["validation"]
            prefix = f"{name}." if run["stage"] == "shared" else ""
            assert run["metrics"] == {key: values[prefix + key] for key in run["metrics"]}
        for stage in ("single", "multi", "shared"):
            scores = [run["metrics"]["accuracy"] for run in task["runs"] if run["stage"] == stage]
            summary = task["summary"][stage]
            assert summary["mean"] == pytest.approx(sum(scores) / 2)
            assert summary["standard_deviation"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
        seconds = {stage: [r["seconds"] for r in task["runs"] if r["stage"] == stage] for stage in ("shared", "multi")}
        wanted = sum(seconds["multi"]) / 2 + sum(seconds["shared"]) / 4
        assert task["summary"]["multi"]["seconds"] == pytest.approx(wanted, abs=0.01)


def test_the_backbone_stays_as_it_was(tiny_multitask: Settings, backbone: Backbone, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    train_multitask(tiny_multitask(tmp_path / "runs"), backbone=backbone)
    after = backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


@pytest.mark.parametrize(
    ("kind", "metric"), [("token_classification", "f1"), ("regression", "pearson"), ("question_answering", "f1")]
)
def test_other_kinds_share_prompts_too(
    kind: str, metric: str, tiny_multitask: Settings, backbone: Backbone, tmp_path: Path
) -> None:
    result = train_multitask(tiny_multitask(tmp_path / "runs", kind, steps=2, single=False), backbone=backbone)
    assert set(result.metrics) == {"first", "second"}
    assert all(metric in run.metrics for run in result.runs)
    assert {run.stage for run in result.runs} == {"shared", "multi"}


def test_prompts_of_an_mlp_go_on_as_what_it_made(tiny_multitask: Settings, backbone: Backbone, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    settings = {"prompts.reparameterization": "mlp", "prompts.reparameterization_size": 8, "steps": 2}
    train_multitask(tiny_multitask(output, **settings), backbone=backbone)
    for stage, how in (("multi", "none"), ("single", "mlp")):
        config = load_config(output / "seed-11" / stage / "first" / "config.yaml")
        assert config.prompts.reparameterization == how


def test_sampling_decides_whose_batches_are_drawn(
    tiny_multitask: Settings, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads: dict[str, list[int]] = {}
    fit = execution.fit

    def count(model: Any, parts: Any, candidates: Any, *args: Any, **more: Any) -> None:
        if len(parts) > 1:
            heads[sampling] = [part for part, _ in candidates[0].batches.batches(0)]
        fit(model, parts, candidates, *args, **more)

    monkeypatch.setattr(execution, "fit", count)
    for sampling in ("proportional", "uniform", "temperature"):  # 24 and 40 rows in batches of 8: 3 and 5 an epoch
        more = {"temperature": 1e9} if sampling == "temperature" else {}
        config = tiny_multitask(tmp_path / sampling, steps=2, sampling=sampling, single=False, **more)
        train_multitask(config, backbone=backbone)
    assert {name: [order.count(0), order.count(1)] for name, order in heads.items()} == {
        "proportional": [3, 5],
        "uniform": [4, 4],
        "temperature": [4, 4],
    }


# Seeds.


def test_every_run_of_a_seed_is_trained_with_it_and_comes_to_other_weights(done: MultitaskResult) -> None:
    for stage in STAGES:
        weights = []
        for seed in (11, 12):
            directory = done.directory / f"seed-{seed}" / stage
            if stage == "shared":
                assert load_multitask_config(directory / "config.yaml").seeds == [seed]
            else:
                assert load_config(directory / "config.yaml").training.seed == seed
            weights.append(read_prompt(directory).prompts)
        assert not torch.equal(*weights)


def data_of_run(directory: Path) -> str:
    """The digest of the rows that a run has learned from and chosen by."""
    return str(json.loads((directory / "checkpoints" / "last" / "state.json").read_text())["origin"]["data"])


@pytest.fixture
def without_validation(tiny_data: Any, tmp_path: Path) -> Path:
    """24 rows, of which some must be held out."""
    directory = tmp_path / "without-validation"
    directory.mkdir()
    shutil.copy(tiny_data("classification") / "train.jsonl", directory)
    return directory


def test_each_seed_holds_out_rows_of_its_own_that_are_the_same_alone_and_together(
    without_validation: Path, tiny_multitask: Settings, backbone: Backbone, tmp_path: Path
) -> None:
    settings = {"tasks.first.data.path": str(without_validation), "steps": 2, "seeds": [11, 12]}
    train_multitask(tiny_multitask(tmp_path / "runs", **settings), backbone=backbone)
    tops = [tmp_path / "runs" / f"seed-{seed}" for seed in (11, 12)]
    first = [data_of_run(top / "multi" / "first") for top in tops]
    second = [data_of_run(top / "multi" / "second") for top in tops]
    assert first[0] != first[1] and second[0] == second[1]
    assert [data_of_run(top / "single" / "first") for top in tops] == first
    assert data_of_run(tops[0] / "shared") != data_of_run(tops[1] / "shared")


def test_rows_of_all_seeds_are_read_before_anything_old_goes(
    tiny_multitask: Settings, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "runs"
    train_multitask(tiny_multitask(output, steps=2, single=False), backbone=backbone)
    before = tensors_of(output)
    prepare = run_module.prepare_task

    def failing(config: Any, *args: Any) -> Any:
        if config.training.seed == 13:
            raise DataError("no rows are left with this seed")
        return prepare(config, *args)

    monkeypatch.setattr(run_module, "prepare_task", failing)
    with pytest.raises(DataError, match="^tasks.first: no rows are left"):
        train_multitask(tiny_multitask(output, steps=3, seeds=[11, 12, 13]), overwrite=True, backbone=backbone)
    assert tensors_of(output).keys() == before.keys() and (output / "results.json").exists()


# What is shared.


def test_each_data_set_is_judged_by_the_metric_of_its_preset(
    tiny_multitask: Settings, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for split, texts in (("train", ["red lamp", "blue box"] * 6), ("validation", ["red box", "blue desk", "lamp"])):
        rows = [{"sentence": text, "label": index % 2} for index, text in enumerate(texts)]
        (tmp_path / "data" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {f"tasks.{name}.data.path": str(tmp_path / "data") for name in ("first", "second")}
    settings |= {"tasks.first.task": "glue/cola", "tasks.second.task": "glue/sst2"}
    result = train_multitask(tiny_multitask(tmp_path / "runs", steps=2, **settings), backbone=backbone)
    assert result.metrics == {"first": "matthews", "second": "accuracy"}
    for line in lines_of(tmp_path / "runs" / "seed-11" / "shared"):
        values = line["validation"]
        assert values["mean"] == pytest.approx((values["first.matthews"] + values["second.accuracy"]) / 2)
        assert values["first.accuracy"] != values["first.matthews"]


def test_prompts_that_start_from_tokens_start_from_those_of_all_data_sets(
    tiny_multitask: Settings, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    assemble = execution.assemble_model

    def spy(config: Any, backbone: Any, kind: Any, examples: Any, **more: Any) -> Any:
        seen.append(len(examples))
        return assemble(config, backbone, kind, examples, **more)

    monkeypatch.setattr(execution, "assemble_model", spy)
    settings = {"prompts.init": "tokens", "steps": 2, "single": False}
    train_multitask(tiny_multitask(tmp_path / "runs", **settings), backbone=backbone)
    assert seen == [24 + 40, 24, 40]


def test_what_was_left_to_the_backbone_is_written_to_the_config(done: MultitaskResult) -> None:
    config = load_multitask_config(done.directory / "config.yaml")
    single = load_config(done.directory / "seed-11" / "single" / "first" / "config.yaml")
    assert config.head.pooling is not None and config.head.pooling == single.head.pooling
    assert config.training.head_learning_rate == single.training.head_learning_rate is not None
    assert config.training.precision == "fp32"


# Stopping and going on.


@pytest.mark.parametrize("settings", [{}, {"sampling": "uniform", "training.batch_tokens": 60}], ids=["size", "tokens"])
@pytest.mark.parametrize("at", [1, 5, 8, 11, 18])  # steps: 8 shared, 2 x 4 from there on, 2 x 8 alone
def test_runs_that_were_stopped_end_as_those_that_were_not(
    at: int, settings: dict[str, Any], tiny_multitask: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"prompts.dropout": 0.1, "head.dropout": 0.2, "training.checkpoint_steps": 2, **settings}
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "whole" / "runs", tmp_path / "stopped" / "runs"
    whole = train_multitask(tiny_multitask(outputs[0], **more))
    step, taken = torch.optim.AdamW.step, 0

    def stopping(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == at:
            raise Stopped
        return step(optimizer, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", stopping)
        with pytest.raises(Stopped):
            train_multitask(tiny_multitask(outputs[1], **more))
    assert not (outputs[1] / "results.json").exists()
    torch.rand(7)  # whatever this process has drawn must not matter
    again = train_multitask(tiny_multitask(outputs[1], **more), resume=True)
    assert_same(outputs[1], outputs[0])
    assert [(r.stage, r.task, r.metrics, r.steps) for r in again.runs] == [
        (r.stage, r.task, r.metrics, r.steps) for r in whole.runs
    ]
    for stage in STAGES:
        assert lines_of(outputs[1] / "seed-11" / stage) == lines_of(outputs[0] / "seed-11" / stage)


@pytest.mark.parametrize("at", [1, 2, 3])  # of the head of each data set, and of the prompts alone
def test_a_stop_between_what_an_epoch_leaves_leaves_no_trace(
    at: int, tiny_multitask: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole" / "runs", tmp_path / "stopped" / "runs"
    train_multitask(tiny_multitask(whole, single=False, **{"prompts.dropout": 0.1}))
    save, saved = shared.save_prompt, 0

    def stopping(*args: Any) -> Any:
        nonlocal saved
        saved += 1
        path = save(*args)
        if saved == at:
            raise Stopped
        return path

    with monkeypatch.context() as patched:
        patched.setattr(shared, "save_prompt", stopping)
        with pytest.raises(Stopped):
            train_multitask(tiny_multitask(stopped, single=False, **{"prompts.dropout": 0.1}))
    train_multitask(tiny_multitask(stopped, single=False, **{"prompts.dropout": 0.1}), resume=True)
    assert_same(stopped, whole)
    assert lines_of(stopped / "seed-11" / "shared") == lines_of(whole / "seed-11" / "shared")


def test_finished_runs_are_not_repeated(
    done: MultitaskResult, tiny_multitask: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tensors_of(done.directory)

    def none(*args: Any, **more: Any) -> Any:
        raise AssertionError("a step was made")

    monkeypatch.setattr(torch.optim.AdamW, "step", none)
    again = train_multitask(load_multitask_config(done.directory / "config.yaml"), resume=True)
    assert again.to_dict() == done.to_dict()
    assert tensors_of(done.directory).keys() == before.keys()


def test_seeds_and_runs_alone_may_be_added(tiny_multitask: Settings, backbone: Backbone, tmp_path: Path) -> None:
    output = tmp_path / "runs"
    first = train_multitask(tiny_multitask(output, steps=2, single=False), backbone=backbone)
    assert not (output / "seed-11" / "single").exists() and first.summary("first", "single") is None
    more = train_multitask(tiny_multitask(output, steps=2, seeds=[11, 12]), resume=True, backbone=backbone)
    assert len(first.runs) == 4 and len(more.runs) == 2 * 6
    assert [run.metrics for run in more.runs[:4]] == [run.metrics for run in first.runs]
    assert load_multitask_config(output / "config.yaml").seeds == [11, 12]


def test_other_settings_do_not_go_on(done: MultitaskResult, tiny_multitask: Settings) -> None:
    with pytest.raises(
        ConfigError, match="was started with other settings: steps 8 then, 9 now. Resume.*`ptuning multit"
    ):
        train_multitask(tiny_multitask(done.directory, seeds=[11, 12], steps=9), resume=True)


def test_other_rows_of_any_data_set_do_not_go_on(
    tiny_multitask: Settings, tiny_data: Any, backbone: Backbone, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data("classification", 40, 1), data)
    settings = {"tasks.second.data.path": str(data), "steps": 2, "single": False}
    train_multitask(tiny_multitask(tmp_path / "runs", **settings), backbone=backbone)
    shutil.rmtree(tmp_path / "runs" / "seed-11" / "multi")  # of the shared stage is asked here
    rows = (data / "train.jsonl").read_text().splitlines(keepends=True)
    (data / "train.jsonl").write_text("".join(rows[:-1] + rows[:1]))
    results = (tmp_path / "runs" / "results.json").read_text()
    with pytest.raises(CheckpointError, match="the data are not those the run was started with"):
        train_multitask(tiny_multitask(tmp_path / "runs", **settings), resume=True, backbone=backbone)
    assert (tmp_path / "runs" / "results.json").read_text() == results  # of runs that are all still there


@pytest.mark.parametrize("head_init", ["shared", "normal"])
def test_a_directory_that_was_moved_goes_on(
    head_init: str, tiny_multitask: Settings, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, after = tmp_path / "before", tmp_path / "elsewhere" / "after"
    settings = {"steps": 2, "head_init": head_init}
    first = train_multitask(tiny_multitask(before, **settings), backbone=backbone)
    after.parent.mkdir()
    before.rename(after)
    again = train_multitask(
        load_multitask_config(after / "config.yaml", {"output": str(after), "seeds": [11, 12]}),
        resume=True,
        backbone=backbone,
    )
    assert [one.metrics for one in again.runs if one.seed == 11] == [one.metrics for one in first.runs]
    assert not before.exists() and load_multitask_config(after / "config.yaml").output == str(after)
    for name in ("first", "second"):
        config = load_config(after / "seed-11" / "multi" / name / "config.yaml")
        assert config.prompts.init == str(after / "seed-11" / "shared")
        tasks = after / "seed-11" / "shared" / "tasks"
        assert config.head.init == (str(tasks / name) if head_init == "shared" else "normal")


def test_a_run_from_elsewhere_does_not_go_on_as_if_it_were_of_this_shared_stage(
    done: MultitaskResult, tmp_path: Path
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(done.directory, output)
    path = output / "seed-11" / "multi" / "first" / "config.yaml"
    elsewhere = str(done.directory / "seed-12" / "shared")
    path.write_text(path.read_text().replace(str(done.directory / "seed-11" / "shared"), elsewhere))
    with pytest.raises(ConfigError, match="other settings: prompts.init .*seed-12/shared' then, .*seed-11/shared' now"):
        train_multitask(load_multitask_config(output / "config.yaml", {"output": str(output)}), resume=True)


def test_runs_with_a_checkpoint_go_on_without_what_their_prompts_started_from(
    done: MultitaskResult, tiny_multitask: Settings, backbone: Backbone, tmp_path: Path
) -> None:
    start = tmp_path / "start"
    shutil.copytree(done.directory / "seed-11" / "single" / "first" / "prompt", start)
    settings = {"prompts.init": str(start), "steps": 2}
    first = train_multitask(tiny_multitask(tmp_path / "runs", **settings), backbone=backbone)
    start.rename(tmp_path / "moved")
    again = train_multitask(tiny_multitask(tmp_path / "runs", **settings), resume=True, backbone=backbone)
    assert again.to_dict() == first.to_dict()
    before = tensors_of(tmp_path / "runs")
    with pytest.raises(ConfigError, match="prompts.init is .*/start', .* there is no such path"):
        more = tiny_multitask(tmp_path / "runs", **settings, seeds=[11, 12])
        train_multitask(more, resume=True, backbone=backbone)
    assert tensors_of(tmp_path / "runs").keys() == before.keys()
    assert load_multitask_config(tmp_path / "runs" / "config.yaml").seeds == [11]  # said before anything is written


def test_advice_names_the_command_that_trains_all(
    done: MultitaskResult, tiny_multitask: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(done.directory, output)
    path = output / "seed-11" / "shared" / "config.yaml"
    path.write_text(path.read_text().replace("steps: 8", "steps: 10"))
    config = load_multitask_config(output / "config.yaml", {"output": str(output)})
    with pytest.raises(ConfigError, match="shared was started with other settings: steps 10 .*`ptuning multitask --r"):
        train_multitask(config, resume=True)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="^`ptuning multitask` was started as 2 processes, .* without a launcher."):
        train_multitask(tiny_multitask(tmp_path / "new"))


def test_nothing_to_resume_is_said(tiny_multitask: Settings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no config.yaml, so there is no run to resume"):
        train_multitask(tiny_multitask(tmp_path / "runs"), resume=True)


# What is wrong with data and settings.


def test_a_data_set_without_data_is_named_before_anything_is_written(tiny_multitask: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^tasks.second.data.path is missing, and .* with --data second=PATH."):
        train_multitask(tiny_multitask(tmp_path / "runs", **{"tasks.second.data.path": None}))
    with pytest.raises(DataError, match="^tasks.first: .*nowhere"):
        train_multitask(tiny_multitask(tmp_path / "runs", **{"tasks.first.data.path": str(tmp_path / "nowhere")}))
    assert not (tmp_path / "runs").exists()


def test_a_metric_that_the_kind_lacks_is_refused(tiny_multitask: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="^tasks.first: training.metric is 'f9', but classification is judged by"):
        train_multitask(tiny_multitask(tmp_path / "runs", **{"training.metric": "f9"}))


def test_notes_on_the_data_come_once_and_with_their_name(
    tiny_multitask: Settings, tiny_data: Any, backbone: Backbone, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_bytes((tiny_data("classification") / "train.jsonl").read_bytes())
    notes: list[str] = []

    class Told(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    settings = {"tasks.first.data.path": str(tmp_path / "data"), "steps": 2}
    train_multitask(tiny_multitask(tmp_path / "runs", **settings), backbone=backbone, report_for=lambda label: Told())
    assert [note for note in notes if "No validation file" in note] == [
        "first: No validation file: 2 of 24 train rows (development_fraction 0.1, seed 11) held out for validation."
    ]
