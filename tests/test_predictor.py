from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ptuning
from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.checkpoint import read_prompt, save_prompt
from ptuning.errors import (
    BackboneError,
    BackboneMismatchError,
    CheckpointError,
    ConfigError,
    DataError,
    PromptError,
)
from ptuning.predictor import Predictor, load
from ptuning.tasks.classification import Classification
from ptuning.training.run import train

KINDS = ("classification", "token_classification", "question_answering")
CONTEXT = "the lamp is red. box late"
ROWS: dict[str, dict[str, Any]] = {
    "classification": {"text": "a red parcel is late and broken"},
    "token_classification": {"tokens": ["the", "blue", "cork", "lamp"]},
    "question_answering": {"question": "what colour is the lamp?", "context": CONTEXT},
}


@pytest.fixture(scope="module")
def runs(tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three tasks with prompts of 4, 7 and 16 virtual tokens, one with shifted positions."""
    top = tmp_path_factory.mktemp("runs")
    own = {
        "classification": {"prompts.prompt_length": 4, "head.pooling": "mean"},
        "token_classification": {"prompts.prompt_length": 7, "prompts.layers": "last:1"},
        "question_answering": {"prompts.prompt_length": 16, "prompts.positions": "shifted", "data.max_length": 40},
    }
    for kind in KINDS:
        train(tiny_run(top / kind, kind, **own[kind]))
    return {kind: top / kind for kind in KINDS}


@pytest.fixture
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture
def three(runs: dict[str, Path]) -> Iterator[Predictor]:
    predictor = load([runs[kind] for kind in KINDS])
    yield predictor
    predictor.close()


def _same(found: Any, expected: Any) -> bool:
    """Equal, numbers within rounding."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_same, found, expected))
    return bool(found == (pytest.approx(expected, abs=1e-5) if isinstance(expected, float) else expected))


def test_a_mixed_batch_gives_each_row_what_its_task_gives_it_alone(three: Predictor, runs: dict[str, Path]) -> None:
    order = [KINDS[index % 3] for index in (0, 1, 2, 2, 0, 1, 0)]
    mixed = three.predict([ROWS[kind] for kind in order], order)
    for kind in KINDS:
        alone = load(runs[kind])
        expected = alone.predict([ROWS[kind]])[0]
        alone.close()
        for asked, found in zip(order, mixed, strict=True):
            assert asked != kind or _same(found, expected)


def test_predictions_say_what_their_kind_says(three: Predictor) -> None:
    label, tags, answer = three.predict([ROWS[kind] for kind in KINDS], list(KINDS))
    assert label["label"] in ("red", "blue", "green") and sum(label["scores"].values()) == pytest.approx(1)
    assert tags["tokens"] == ["the", "blue", "cork", "lamp"] and len(tags["tags"]) == 4
    assert answer["start"] is None or CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


@pytest.mark.parametrize("as_given", ["run", "prompt"])
def test_what_is_loaded_predicts_as_in_training(
    as_given: str, tiny_run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits: list[list[torch.Tensor]] = []
    predict = Classification.predict

    def spy(kind: Classification, given: Any, *more: Any) -> Any:
        logits.append(list(given))
        return predict(kind, given, *more)

    monkeypatch.setattr(Classification, "predict", spy)
    config = tiny_run(tmp_path / "run", **{"head.dropout": 0.3, "prompts.dropout": 0.2})
    result = train(config)
    in_training = logits[result.best_epoch - 1]
    lines = (Path(config.data.path) / "validation.jsonl").read_text().splitlines()
    predictor = load(tmp_path / "run" / ("prompt" if as_given == "prompt" else ""))
    predictor.predict([json.loads(line) for line in lines])
    predictor.close()
    assert all(map(torch.equal, logits[-1], in_training))


def test_labels_in_rows_are_ignored_and_order_is_kept(runs: dict[str, Path]) -> None:
    predictor = load(runs["classification"])
    texts = ["red " * (1 + index % 5) for index in range(20)]
    forward = predictor.predict([{"text": text, "label": "nonsense"} for text in texts], batch_tokens=30)
    backward = predictor.predict([{"text": text} for text in reversed(texts)])
    predictor.close()
    assert _same(forward, backward[::-1])


def test_one_task_needs_no_name_and_several_do(three: Predictor, runs: dict[str, Path]) -> None:
    with pytest.raises(PromptError) as caught:
        three.predict([ROWS["classification"]])
    assert str(caught.value) == (
        "3 tasks are loaded (classification, token_classification, question_answering), so each row must say which one "
        "it asks. Pass tasks=, a name or index for each row."
    )
    rows = [ROWS["classification"]] * 2
    assert _same(three.predict(rows, "classification"), three.predict(rows, [0, "classification"]))
    assert _same(three.predict(rows, 0), three.predict(rows, "classification"))


def test_tasks_of_the_wrong_number_or_name_are_refused(three: Predictor) -> None:
    with pytest.raises(PromptError, match="^tasks has 1 items, expected one for each of the 2 rows.$"):
        three.predict([ROWS["classification"]] * 2, ["classification"])
    for wrong in ("tickets", 3, -1):
        with pytest.raises(PromptError, match=f"^there is no task {wrong!r}. Loaded are classification, token_"):
            three.predict([ROWS["classification"]], [wrong])


def test_a_row_without_its_column_is_refused_by_name(three: Predictor) -> None:
    with pytest.raises(DataError, match="classification.*no column 'text'.*question"):
        three.predict([{"question": "what?"}], "classification")
    with pytest.raises(DataError, match="row 1 is 'text', expected a dict"):
        three.predict({"text": "one row"}, "classification")  # type: ignore[arg-type]


def test_no_rows_give_no_predictions(three: Predictor) -> None:
    assert three.predict([], []) == [] == three.predict([], "classification")


def test_two_directories_of_one_name_are_told_apart_by_their_paths(runs: dict[str, Path], tmp_path: Path) -> None:
    copies = [tmp_path / name / "mine" for name in "ab"]
    for copy in copies:
        shutil.copytree(runs["classification"], copy)
    predictor = load([*copies, runs["question_answering"]])
    names = [task.name for task in predictor.tasks]
    predictor.close()
    assert names == [str(copies[0] / "prompt"), str(copies[1] / "prompt"), "question_answering"]


def test_a_prompt_directory_of_its_own_keeps_its_name(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["classification"] / "prompt", tmp_path / "colours")
    predictor = load(tmp_path / "colours")
    predictor.close()
    assert predictor.tasks[0].name == "colours"


def test_a_prompt_is_loaded_from_inside_under_a_name(
    runs: dict[str, Path], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inside in (runs["classification"], runs["classification"] / "prompt"):
        monkeypatch.chdir(inside)
        predictor = load(".", backbone)
        predictor.close()
        assert predictor.tasks[0].name == "classification"
        assert predictor.tasks[0].directory == runs["classification"] / "prompt"


def test_a_prompt_in_the_hubs_cache_has_the_name_of_its_task(
    runs: dict[str, Path], backbone: Backbone, tmp_path: Path
) -> None:
    snapshots = [tmp_path / f"models--me--{name}" / "snapshots" / ("0123abcd" * 5) for name in ("one", "two")]
    for snapshot in snapshots:
        shutil.copytree(runs["classification"] / "prompt", snapshot)
    one = load(snapshots[0], backbone)
    one.close()
    assert one.tasks[0].name == "classification"
    two = load(snapshots, backbone)
    two.close()
    assert [task.name for task in two.tasks] == [str(snapshot) for snapshot in snapshots]


def test_questions_need_no_ids_and_may_share_them(three: Predictor) -> None:
    row = ROWS["question_answering"]
    expected = three.predict([row] * 4, "question_answering")
    rows = [{**row, "id": "a"}, {**row, "id": "a"}, row, {**row, "id": None}]
    assert _same(three.predict(rows, "question_answering"), expected)


def test_a_backbone_goes_to_the_best_device_in_its_precision(
    runs: dict[str, Path], backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    best = torch.device("cpu")  # stands for a GPU that computes bfloat16 natively

    def find(name: str | None) -> torch.device:
        asked.append(name)
        return best

    def stored(precision: str, device: torch.device) -> torch.dtype:
        asked.append((precision, device))
        return torch.bfloat16

    monkeypatch.setattr("ptuning.predictor.find_device", find)
    monkeypatch.setattr("ptuning.predictor.find_dtype", stored)
    predictor = load(runs["classification"])
    predictor.close()
    assert asked == [None, ("fp32", best)]  # as it was trained
    assert next(predictor.backbone.model.parameters()).dtype == torch.bfloat16
    asked.clear()
    predictor = load(runs["classification"], device="cuda:1", dtype=torch.float32)
    predictor.close()
    assert asked == ["cuda:1"]
    assert next(predictor.backbone.model.parameters()).dtype == torch.float32
    asked.clear()
    load(runs["classification"], backbone).close()
    assert asked == []  # one that is passed stays where it is


def test_a_device_that_is_not_there_is_refused(runs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="the device is 'warp', which this machine does not have"):
        load(runs["classification"], device="warp")


def test_another_backbone_is_refused(runs: dict[str, Path], backbone: Backbone, tmp_path: Path) -> None:
    with torch.no_grad():
        next(backbone.model.parameters()).mul_(2)
    with pytest.raises(BackboneMismatchError, match="has the same sizes and other weights"):
        load(runs["classification"], backbone)
    with pytest.raises(BackboneError, match="'.*nowhere' was not found"):
        load(runs["classification"], tmp_path / "nowhere")
    load_again = load_backbone(backbone.source)
    load(runs["classification"], load_again).close()  # nothing was left attached anywhere


def test_closing_gives_the_backbone_back(runs: dict[str, Path], backbone: Backbone) -> None:
    ids = torch.tensor([[2, 9, 8, 3]])
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    states = backbone.model(input_ids=ids)[0]
    predictor = load([runs["classification"], runs["question_answering"]], backbone)
    predictor.predict([ROWS["classification"]], "classification")
    predictor.close()
    after = backbone.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(backbone.model(input_ids=ids)[0], states)
    predictor.close()  # a second time does nothing
    with pytest.raises(PromptError, match="the tasks were closed, so their prompts are off the backbone. Load them"):
        predictor.predict([ROWS["classification"]], "classification")


def test_a_backbone_that_has_prompts_already_is_refused(runs: dict[str, Path], backbone: Backbone) -> None:
    predictor = load(runs["classification"], backbone)
    with pytest.raises(BackboneError, match="already has prompts attached"):
        load(runs["question_answering"], backbone)
    assert predictor.predict([ROWS["classification"]])
    predictor.close()


def test_no_directory_or_one_without_a_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="load got no directories"):
        load([])
    with pytest.raises(CheckpointError, match="neither a prompt nor a finished run"):
        load(tmp_path)


def test_prompts_without_a_task_are_refused(backbone: Backbone, tmp_path: Path) -> None:
    attached = ptuning.attach(backbone.model, torch.zeros(2, 2, 4, 3, 8))
    attached.save(tmp_path / "bare")
    attached.detach()
    with pytest.raises(CheckpointError, match="holds prompts without a task or head, so there is nothing to predict"):
        load(tmp_path / "bare", backbone)


def _changed(run: Path, directory: Path, **changes: Any) -> Path:
    """A copy of a prompt whose task is another; None takes a key out."""
    saved = read_prompt(run)
    assert saved.task is not None
    task = {key: value for key, value in {**saved.task, **changes}.items() if value is not None}
    return save_prompt(directory, replace(saved, task=task))


@pytest.mark.parametrize("change", ["columns", "name", "max_length"])
def test_a_task_that_lacks_something_is_refused(change: str, runs: dict[str, Path], tmp_path: Path) -> None:
    _changed(runs["classification"], tmp_path / "prompt", **{change: None})
    with pytest.raises(CheckpointError, match=f"config.json lacks task.{change}. Restore it"):
        load(tmp_path / "prompt")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "dancing"}, "the task is of kind 'dancing', expected one of classification"),
        ({"beam": 3}, "with label_names, beam, expected kind 'classification' with label_names"),
        ({"label_names": ["red", "red", "blue"]}, "options that do not fit: label_names are"),
    ],
)
def test_a_task_whose_kind_does_not_fit_is_refused(
    changes: dict[str, Any], words: str, runs: dict[str, Path], backbone: Backbone, tmp_path: Path
) -> None:
    _changed(runs["classification"], tmp_path / "prompt", **changes)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path / "prompt", backbone)


def test_a_head_of_another_shape_is_refused(runs: dict[str, Path], backbone: Backbone, tmp_path: Path) -> None:
    _changed(runs["classification"], tmp_path / "prompt", label_names=["blue", "green", "red", "grey"])
    with pytest.raises(CheckpointError, match=r"linear.bias of shape \(3,\), expected \(4,\)"):
        load(tmp_path / "prompt", backbone)
    load(runs["classification"], backbone).close()
