"""Every preset trains, evaluates and predicts on a small copy of its data set, in the layout that the hub has it in.

The copies are made here. `datasets.load_dataset` is given the copy's directory instead of the name on the hub, and all
other arguments as they are.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

import ptuning
from ptuning.config import load_config
from ptuning.data.formats import table_of
from ptuning.data.hub import CONVERTED, HubSource, hub_table
from ptuning.data.nested import unnested
from ptuning.evaluation import evaluate
from ptuning.tasks import PRESETS, Task
from ptuning.training.run import train

_WORDS = ("lamp", "box", "kettle", "parcel", "desk", "shoe", "cable", "door")
_TRAIN, _OTHERS = 12, 6

Record = dict[str, Any]


def _sentence(draw: random.Random, words: int = 5) -> str:
    return " ".join(draw.choices(_WORDS, k=words)) + "."


def _pair(first: str, second: str) -> Callable[[random.Random, int], Record]:
    return lambda draw, number: {first: _sentence(draw), second: _sentence(draw), "idx": number}


def _single(column: str) -> Callable[[random.Random, int], Record]:
    return lambda draw, number: {column: _sentence(draw), "idx": number}


def _wic(draw: random.Random, number: int) -> Record:
    first, second = f"the lamp {_sentence(draw)}", f"a lamp {_sentence(draw)}"
    record = {"word": "lamp", "sentence1": first, "sentence2": second, "idx": number}
    return record | {"start1": 4, "end1": 8, "start2": 2, "end2": 6}


def _wsc(draw: random.Random, number: int) -> Record:
    return {
        "text": f"the box {_sentence(draw)}",
        "span1_index": 0,
        "span1_text": "the box",
        "span2_index": 3,
        "span2_text": "it",
        "idx": number,
    }


def _copa(draw: random.Random, number: int) -> Record:
    record = {"premise": _sentence(draw), "choice1": _sentence(draw), "choice2": _sentence(draw), "idx": number}
    return record | {"question": draw.choice(("cause", "effect"))}


def _multirc(draw: random.Random, number: int) -> Record:
    place = {"paragraph": number // 4, "question": number // 2, "answer": number}
    return {"paragraph": _sentence(draw, 9), "question": "what is nice?", "answer": draw.choice(_WORDS), "idx": place}


def _record(draw: random.Random, number: int) -> Record:
    entities = draw.sample(_WORDS, 3)
    return {
        "passage": f"the {entities[0]} and the {entities[1]}.\n@highlight\nthe {entities[2]}",
        "query": "where is the @placeholder",
        "entities": entities,
        "answers": [draw.choice(entities)],
        "idx": {"passage": number, "query": number},
    }


def _tagged(tag_column: str, tags: tuple[str, ...]) -> Callable[[random.Random, int], Record]:
    def make(draw: random.Random, number: int) -> Record:
        tokens = [*draw.choices(_WORDS, k=4), "leeds", "cork"]
        begins = tags.index(next(tag for tag in tags if tag.startswith("B-")))
        return {"id": str(number), "tokens": tokens, tag_column: [0, 0, 0, 0, begins, 0]}

    return make


def _question(draw: random.Random, number: int) -> Record:
    words = draw.choices(_WORDS, k=6)
    context = " ".join(words)
    has_answer = number % 3 != 2
    answers = {"text": [words[0]], "answer_start": [0]} if has_answer else {"text": [], "answer_start": []}
    return {"id": f"q{number}", "title": "t", "context": context, "question": "what is nice?", "answers": answers}


def _answerable(draw: random.Random, number: int) -> Record:
    return _question(draw, 3 * number)


def _conll04(draw: random.Random, number: int) -> Record:
    entities = [{"start": 1, "end": 3, "type": "Loc"}, {"start": 4, "end": 5, "type": draw.choice(("Org", "Peop"))}]
    return {"tokens": draw.choices(_WORDS, k=6), "entities": entities, "relations": [], "orig_id": number}


def _document(draw: random.Random, number: int) -> Record:
    tags = ["B-ARG0", "B-V", "B-ARG1", "I-ARG1", "O"]
    frames = [{"verb": "is", "frames": tags}, {"verb": "lost", "frames": ["O", "B-ARG1", "O", "B-V", "O"]}]
    sentence = {"words": draw.choices(_WORDS, k=5), "named_entities": [0, 1, 2, 0, 0], "srl_frames": frames}
    return {"document_id": f"d{number}", "sentences": [sentence, {**sentence, "srl_frames": frames[:1]}]}


_MAKERS: Mapping[str, Callable[[random.Random, int], Record]] = {
    "super_glue/boolq": _pair("question", "passage"),
    "super_glue/cb": _pair("premise", "hypothesis"),
    "super_glue/copa": _copa,
    "super_glue/multirc": _multirc,
    "super_glue/record": _record,
    "super_glue/rte": _pair("premise", "hypothesis"),
    "super_glue/wic": _wic,
    "super_glue/wsc": _wsc,
    "glue/cola": _single("sentence"),
    "glue/sst2": _single("sentence"),
    "glue/mrpc": _pair("sentence1", "sentence2"),
    "glue/stsb": _pair("sentence1", "sentence2"),
    "glue/qqp": _pair("question1", "question2"),
    "glue/mnli": _pair("premise", "hypothesis"),
    "glue/qnli": _pair("question", "sentence"),
    "glue/rte": _pair("sentence1", "sentence2"),
    "glue/wnli": _pair("sentence1", "sentence2"),
    "conll2004": _conll04,
    "ontonotes5": _tagged("tags", PRESETS["ontonotes5"].label_names or ()),
    "srl/conll2012": _document,
    "squad": _answerable,
    "squad_v2": _question,
    "ag_news": _single("text"),
    "imdb": _single("text"),
    "trec": _single("text"),
}
_FROM_HUB = [name for name, task in PRESETS.items() if isinstance(task.source, HubSource)]
_UNLABELLED = ("super_glue/", "glue/")
"""Sets whose test labels are kept back: -1 in the hub's copies."""


def _maker(task: Task) -> Callable[[random.Random, int], Record]:
    if task.name in _MAKERS:
        return _MAKERS[task.name]
    assert task.label_names is not None
    return _tagged("ner_tags", task.label_names)


def _features(task: Task, record: Record) -> datasets.Features | None:
    """The features of a set's copy: class labels as the hub has them, the rest as the values are."""
    if task.name in ("conll2004", "ontonotes5") or task.label_names is None or task.kind == "multiple_choice":
        return None
    inferred = datasets.Dataset.from_list([record]).features
    classes = datasets.ClassLabel(names=list(task.label_names))
    if task.kind == "token_classification":
        inferred["ner_tags"] = datasets.List(classes)
    else:
        inferred["coarse_label" if task.name == "trec" else "label"] = classes
        if task.name == "trec":
            inferred["fine_label"] = datasets.ClassLabel(names=["ABBR:abb", "ENTY:animal"])
    return inferred


def _labelled(task: Task, record: Record, number: int, *, is_known: bool) -> Record:
    if task.kind == "regression":
        return record | {"label": float(number % 5) if is_known else -1.0}
    if task.name == "trec":
        return record | {"coarse_label": number % 6, "fine_label": number % 2}
    if task.kind in ("classification", "multiple_choice"):
        names = task.label_names or ("choice1", "choice2")
        return record | {"label": number % len(names) if is_known else -1}
    return record


def _rows(task: Task, split: str) -> list[Record]:
    draw = random.Random(f"{task.name} {split}")
    count = _TRAIN if split == "train" else _OTHERS
    is_known = not (split.startswith("test") and task.name.startswith(_UNLABELLED))
    rows = [_labelled(task, _maker(task)(draw, number), number, is_known=is_known) for number in range(count)]
    if not is_known and task.kind == "cloze":
        for row in rows:
            row["answers"] = []
    return rows


def _write_copy(task: Task, root: Path) -> None:
    """Writes a set's copy below `root`, as the hub has it: converted, or with a card that names configurations."""
    source = task.source
    assert isinstance(source, HubSource)
    directory = root / source.name
    own = {split: source.splits.get(split, split) for split in ("train", "validation", "test", *task.more_splits)}
    files = {}
    for split, name in own.items():
        rows = _rows(task, split)
        features = _features(task, rows[0])
        path = directory / (source.config or "data") / name / "0000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(path)
        files[name] = path.relative_to(directory)
    if source.revision != CONVERTED and source.config is not None:
        (directory / source.config).rename(directory / f"files-{source.config}")
        card = directory / "README.md"
        before = card.read_text() if card.is_file() else "---\nconfigs:\n"
        entry = f"- config_name: {source.config}\n  data_files:\n"
        for name, path in files.items():
            entry += f"  - split: {name}\n    path: files-{path}\n"
        card.write_text(before.removesuffix("---\n") + entry + "---\n")


@pytest.fixture(scope="module")
def hub_copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Task], Path]:
    """Writes copies of sets, each once."""
    root = tmp_path_factory.mktemp("hub")
    written: set[str] = set()

    def copy(task: Task) -> Path:
        if task.name not in written:
            written.add(task.name)
            _write_copy(task, root)
        return root

    return copy


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub_copy: Callable[[Task], Path]) -> Callable[[Task], None]:
    """Puts a set's copy in the place of the hub."""
    real = datasets.load_dataset
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()

    def use(task: Task) -> None:
        root, source = hub_copy(task), task.source
        assert isinstance(source, HubSource)

        def load_dataset(path: str, **arguments: Any) -> Any:
            assert (path, arguments.pop("revision", None)) == (source.name, source.revision)
            return real(str(root / path), **arguments)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)

    return use


def _settings(task: str, backbone: Path, output: Path, **more: Any) -> Any:
    return load_config(
        None,
        {
            "task": task,
            "backbone": str(backbone),
            "data.max_length": 48,
            "prompts.prompt_length": 4,
            "training.epochs": 1,
            "training.batch_size": 6,
            "training.device": "cpu",
            "output": str(output),
            **more,
        },
    )


@pytest.mark.parametrize("name", _FROM_HUB)
def test_a_preset_trains_evaluates_and_predicts_from_the_hubs_layout(
    name: str, hub: Callable[[Task], None], tiny_backbone: Path, tmp_path: Path
) -> None:
    task = PRESETS[name]
    hub(task)
    result = train(_settings(name, tiny_backbone, tmp_path / "run"))
    assert result.metric == task.metric
    again = evaluate(tmp_path / "run", split="validation")
    num_rows = _OTHERS * (3 if name == "srl/conll2012" else 1)  # frames in a document
    assert again.num_rows == num_rows
    assert again.metrics == pytest.approx(result.metrics)
    for split in task.more_splits:
        if not split.startswith("test"):
            assert evaluate(tmp_path / "run", split=split).num_rows == num_rows
    predictor = ptuning.load(tmp_path / "run")
    try:
        records = unnested(table_of("rows", _rows(task, "test")), task.kind).records
        assert len(predictor.predict(records)) == len(records)
    finally:
        predictor.close()
    if task.label_names is not None:
        assert predictor.tasks[0].kind.to_dict()["label_names"] == list(task.label_names)


@pytest.mark.parametrize("name", _FROM_HUB)
def test_a_copy_in_a_directory_is_read_as_the_set_on_the_hub(
    name: str, hub_copy: Callable[[Task], Path], hub: Callable[[Task], None], tiny_backbone: Path, tmp_path: Path
) -> None:
    from ptuning.tasks.loading import load_task_data

    task = PRESETS[name]
    root = hub_copy(task)
    assert isinstance(task.source, HubSource)
    copied = _settings(name, tiny_backbone, tmp_path, **{"data.path": str(root / task.source.name)})
    from_directory = load_task_data(copied, task)
    hub(task)
    from_hub = load_task_data(_settings(name, tiny_backbone, tmp_path), task)
    assert (from_directory.train, from_directory.validation) == (from_hub.train, from_hub.validation)
    assert from_directory.label_names == from_hub.label_names


@pytest.mark.parametrize("name", _FROM_HUB)
def test_plain_files_with_the_sets_columns_are_read_as_the_set(
    name: str, hub: Callable[[Task], None], tiny_backbone: Path, tmp_path: Path
) -> None:
    from ptuning.tasks.loading import load_task_data

    task = PRESETS[name]
    (tmp_path / "files").mkdir()
    for split in ("train", "validation"):
        lines = [json.dumps(row) for row in _rows(task, split)]
        (tmp_path / "files" / f"{split}.jsonl").write_text("\n".join(lines))
    plain = load_task_data(_settings(name, tiny_backbone, tmp_path, **{"data.path": str(tmp_path / "files")}), task)
    hub(task)
    from_hub = load_task_data(_settings(name, tiny_backbone, tmp_path), task)
    assert (plain.train, plain.validation) == (from_hub.train, from_hub.validation)
    assert plain.label_names == from_hub.label_names


def test_every_preset_without_a_set_on_the_hub_says_where_its_data_come_from() -> None:
    for task in PRESETS.values():
        assert task.source is not None or len(task.how_to_get) > 40, task.name


@pytest.mark.network
@pytest.mark.parametrize("name", _FROM_HUB)
def test_the_sets_on_the_hub_have_the_columns_that_presets_read(name: str) -> None:
    """What `Task.is_verified` promises. Run by hand, with a network: pytest -m network tests/test_presets.py"""
    source = PRESETS[name].source
    assert isinstance(source, HubSource)
    arguments: dict[str, Any] = {"revision": source.revision, "streaming": True}
    if source.config is not None:
        arguments["data_dir" if source.revision == CONVERTED else "name"] = source.config
    loaded = datasets.load_dataset(source.name, **arguments)
    train_rows = loaded[source.splits.get("train", "train")]
    row = next(iter(itertools.islice(train_rows, 1)))
    expected = {column for column in _rows(PRESETS[name], "train")[0] if column not in ("idx", "id", "title")}
    assert expected <= set(row)
    classes = hub_table(datasets.Dataset.from_list([row], features=train_rows.features), name).class_names
    label_column = next((column for column in ("label", "coarse_label", "ner_tags") if column in classes), None)
    if label_column is not None and PRESETS[name].label_names is not None:
        assert classes[label_column] == PRESETS[name].label_names
