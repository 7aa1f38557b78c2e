from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ptuning.data.formats import table_of
from ptuning.errors import ConfigError, DataError
from ptuning.submission import FORMATS, Asked, check_is_free, get_format, paths_of, write_files
from ptuning.submission.output import Output
from ptuning.submission.squad import no_answer_probability
from ptuning.tasks import get_task
from ptuning.tasks.classification import Classification
from ptuning.tasks.cloze import Cloze
from ptuning.tasks.multiple_choice import MultipleChoice
from ptuning.tasks.question_answering import QuestionAnswering
from ptuning.tasks.regression import Regression
from ptuning.tasks.token_classification import TokenClassification


def _task(preset: str, kind: Any = None) -> Any:
    if kind is None:
        names = get_task(preset).label_names
        kinds = {"multiple_choice": MultipleChoice(), "cloze": Cloze(), "regression": Regression(2.0, 1.0)}
        kind = Classification(names) if names else kinds[get_task(preset).kind]
    saved = SimpleNamespace(task={"name": preset})
    return SimpleNamespace(kind=kind, saved=saved, directory="runs/x", columns={}, template=None)


def _asked(idx: list[Any], split: str = "test", column: str = "idx") -> Asked:
    records = [{column: one} for one in idx]
    return Asked(table_of("test.jsonl", records, list(range(1, len(idx) + 1))), [{} for _ in idx], {}, split)


def _written(form: str, preset: str, predictions: list[dict[str, Any]], asked: Asked) -> tuple[str, str]:
    own, task = get_format(form), _task(preset)
    own.check_task(task)
    submission = own.prepare(task, asked)
    (output,), (text,) = submission.outputs, submission.texts(predictions)
    return output.name, text


@pytest.mark.parametrize(
    ("preset", "predictions", "file", "lines"),
    [
        ("boolq", [{"label": "True"}, {"label": "False"}], "BoolQ.jsonl", ["true", "false"]),
        ("wic", [{"label": "False"}, {"label": "True"}], "WiC.jsonl", ["false", "true"]),
        ("wsc", [{"label": "False"}, {"label": "True"}], "WSC.jsonl", ["False", "True"]),
        ("cb", [{"label": "neutral"}, {"label": "entailment"}], "CB.jsonl", ["neutral", "entailment"]),
        ("rte", [{"label": "not_entailment"}] * 2, "RTE.jsonl", ["not_entailment"] * 2),
        ("copa", [{"choice": 1}, {"choice": 0}], "COPA.jsonl", [1, 0]),
    ],
)
def test_super_glue_wants_an_object_a_line(preset: str, predictions: Any, file: str, lines: list[Any]) -> None:
    name, text = _written("super_glue", f"super_glue/{preset}", predictions, _asked([4, 2]))
    assert name == file
    assert [json.loads(line) for line in text.splitlines()] == [
        {"idx": 4, "label": lines[0]},
        {"idx": 2, "label": lines[1]},
    ]


def test_multirc_is_nested_by_paragraph_and_question() -> None:
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 2), (7, 9, 30), (0, 1, 3)]
    asked = _asked([dict(zip(("paragraph", "question", "answer"), place, strict=True)) for place in places])
    labels = [{"label": name} for name in ("True", "False", "True", "True", "False")]
    name, text = _written("super_glue", "super_glue/multirc", labels, asked)
    assert name == "MultiRC.jsonl"
    first, second = map(json.loads, text.splitlines())
    answers = [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}], [{"idx": 2, "label": 1}, {"idx": 3, "label": 0}]
    questions = [{"idx": 0, "answers": answers[0]}, {"idx": 1, "answers": answers[1]}]
    assert first == {"idx": 0, "passage": {"questions": questions}}
    assert second == {"idx": 7, "passage": {"questions": [{"idx": 9, "answers": [{"idx": 30, "label": 1}]}]}}


def test_record_names_the_query_and_the_entity() -> None:
    asked = _asked([{"passage": 3, "query": 11}])
    name, text = _written("super_glue", "super_glue/record", [{"answer": "Zoë"}], asked)
    assert (name, text) == ("ReCoRD.jsonl", '{"idx": 11, "label": "Zoë"}\n')


@pytest.mark.parametrize(
    ("preset", "prediction", "file", "said"),
    [
        ("cola", {"label": "acceptable"}, "CoLA.tsv", "1"),
        ("sst2", {"label": "negative"}, "SST-2.tsv", "0"),
        ("mrpc", {"label": "equivalent"}, "MRPC.tsv", "1"),
        ("qqp", {"label": "not_duplicate"}, "QQP.tsv", "0"),
        ("wnli", {"label": "entailment"}, "WNLI.tsv", "1"),
        ("qnli", {"label": "entailment"}, "QNLI.tsv", "entailment"),
        ("rte", {"label": "not_entailment"}, "RTE.tsv", "not_entailment"),
        ("stsb", {"value": 5.3}, "STS-B.tsv", "5.000"),
        ("stsb", {"value": -0.2}, "STS-B.tsv", "0.000"),
        ("stsb", {"value": 3.14159}, "STS-B.tsv", "3.142"),
    ],
)
def test_glue_wants_an_index_and_a_prediction(preset: str, prediction: Any, file: str, said: str) -> None:
    for column in ("idx", "index"):  # of the hub, and of the files as released, whose cells are strings
        asked = _asked([0 if column == "idx" else "0"], column=column)
        name, text = _written("glue", f"glue/{preset}", [prediction], asked)
        assert (name, text) == (file, f"index\tprediction\n0\t{said}\n")


def test_mnli_has_a_file_for_each_test_set() -> None:
    for split, file in (("test", "MNLI-m.tsv"), ("test_mismatched", "MNLI-mm.tsv")):
        assert _written("glue", "glue/mnli", [{"label": "neutral"}], _asked([5], split)) == (
            file,
            "index\tprediction\n5\tneutral\n",
        )


@pytest.mark.parametrize(
    ("form", "task", "said"),
    [
        ("super_glue", _task("glue/rte"), "--format super_glue .* trained for glue/rte. Expected one of super_glue/b"),
        ("glue", _task("helpdesk/tickets"), "--format glue .* trained for helpdesk/tickets. Expected one of glue/cola"),
        ("squad", _task("super_glue/rte"), "--format squad .* trained for classification. Expected question_answering"),
        ("conll", _task("squad", QuestionAnswering()), "--format conll .* trained for question_answering. Expected t"),
        ("super_glue", _task("super_glue/rte", Classification(("yes", "no"))), "with the label 'yes'. Expected entail"),
        ("glue", _task("glue/cola", Classification(("bad", "good"))), "with the label 'bad'. Expected unacceptable"),
    ],
)
def test_a_prompt_for_another_task_is_refused(form: str, task: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        FORMATS[form].check_task(task)


@pytest.mark.parametrize(
    ("form", "preset", "asked", "said"),
    [
        ("super_glue", "super_glue/rte", _asked([1], column="id"), "no column 'idx'.*columns are: id"),
        ("super_glue", "super_glue/rte", _asked([1, 2, 1]), "test.jsonl:3: 'idx' is 1, which stands at test.jsonl:1"),
        ("super_glue", "super_glue/rte", _asked([-1]), "test.jsonl:1: 'idx' is -1, expected the number of the row"),
        ("super_glue", "super_glue/multirc", _asked([7]), "test.jsonl:1: 'idx' is 7, expected .*paragraph"),
        ("super_glue", "super_glue/record", _asked([{"query": 7}]), "'idx' is .* expected .*passage"),
        ("super_glue", "super_glue/record", _asked([{"passage": 1, "query": 7}] * 2), "stands at test.jsonl:1 too"),
        ("glue", "glue/cola", _asked([1], column="id"), "no column 'idx' or 'index'"),
    ],
)
def test_rows_without_what_the_grader_knows_them_by_are_refused(
    form: str, preset: str, asked: Asked, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        FORMATS[form].prepare(_task(preset), asked)


def test_questions_need_ids_that_differ() -> None:
    task = _task("squad", QuestionAnswering())
    for asked, said in (
        (_asked(["a", "a"], column="id"), "'id' is 'a', which stands at test.jsonl:1 too"),
        (_asked([None], column="id"), "'id' is None, expected the id of the row"),
        (_asked([1]), "no column 'id'"),
    ):
        with pytest.raises(DataError, match=said):
            FORMATS["squad"].prepare(task, asked)
    own = Asked(table_of("x", [{"key": 5}]), [{}], {"id": "key"})
    answer = {"answer": "red", "no_answer_score": 0.0, "n_best": [{"start": 0}]}
    assert FORMATS["squad"].prepare(task, own).texts([answer]) == ['{"5": "red"}\n', '{"5": 0.5}\n']


def test_no_answer_is_certain_where_there_is_no_span_and_never_overflows() -> None:
    assert no_answer_probability({"n_best": [{"start": None}], "no_answer_score": 0.0}) == 1.0
    for score, expected in ((1e4, 1.0), (-1e4, 0.0)):
        assert no_answer_probability({"n_best": [{"start": 0}], "no_answer_score": score}) == expected


def test_right_tags_stand_beside_the_predicted_ones_where_they_are_known() -> None:
    task = _task("conll2003", TokenClassification(("O", "B-PER", "I-PER")))
    records = [{"tokens": ["Ann", "sat"], "ner_tags": [1, 0]}]  # numbers, as on the hub
    asked = Asked(table_of("x", records), [{"tokens": ["Ann", "sat"]}], {"tokens": "tokens", "tags": "ner_tags"})
    said = [{"tokens": ["Ann", "sat"], "tags": ["O", "B-PER"]}]
    assert FORMATS["conll"].prepare(task, asked).texts(said) == ["Ann B-PER O\nsat O B-PER\n\n"]
    bare = Asked(table_of("x", [{"tokens": ["Ann", "sat"]}]), asked.rows, {"tokens": "tokens"})
    assert FORMATS["conll"].prepare(task, bare).texts(said) == ["Ann O\nsat B-PER\n\n"]
    broken = Asked(table_of("x", [{"tokens": ["Ann", "sat"], "ner_tags": ["O", "I-PER", "O"]}]), asked.rows)
    with pytest.raises(DataError, match="2 tokens but 3 tags"):
        FORMATS["conll"].prepare(task, broken)


def test_an_unknown_format_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="--format is 'csv', expected one of json, super_glue, glue, squad, conll"):
        get_format("csv")


def test_files_go_where_they_are_told_and_replace_nothing_unasked(tmp_path: Path) -> None:
    outputs = [Output("predictions.json"), Output("na_prob.json", "na_prob")]
    assert paths_of(outputs, f"{tmp_path}/new/") == [
        tmp_path / "new" / name for name in ("predictions.json", "na_prob.json")
    ]
    assert paths_of(outputs, tmp_path)[1] == tmp_path / "na_prob.json"
    paths = paths_of(outputs, tmp_path / "dev.json")
    assert [path.name for path in paths] == ["dev.json", "dev.na_prob.json"]
    paths[1].write_text("mine")
    with pytest.raises(ConfigError, match="has .*dev.na_prob.json already.*--overwrite"):
        write_files(["a", "b"], paths, overwrite=False)
    assert not paths[0].exists() and paths[1].read_text() == "mine"
    write_files(["a", "b"], paths, overwrite=True)
    assert [path.read_text() for path in paths] == ["a", "b"]
    with pytest.raises(ConfigError, match="which is a directory"):
        check_is_free([tmp_path], overwrite=True)
