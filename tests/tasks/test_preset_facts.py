"""What presets read and what their numbers mean, written down by hand beside the table in the code.

Labels are the classes of the Hugging Face copies in their order, which is what a 0 or a 1 in a file stands for. Texts
are those of THUDM/P-tuning-v2 (`tasks/superglue/dataset.py`, `tasks/glue/dataset.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ptuning.config import load_config
from ptuning.tasks import PRESETS, get_task
from ptuning.tasks.loading import load_task_data

# preset: (columns of a record, the texts that are made of them, the classes in order)
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "super_glue/boolq": (
        {"question": "is it late", "passage": "It is late."},
        {"text": "is it late", "text_pair": "It is late."},
        ("False", "True"),
    ),
    "super_glue/cb": (
        {"premise": "It may rain.", "hypothesis": "it rains"},
        {"text": "It may rain.", "text_pair": "it rains"},
        ("entailment", "contradiction", "neutral"),
    ),
    "super_glue/rte": (
        {"premise": "It rains.", "hypothesis": "It pours."},
        {"text": "It rains.", "text_pair": "It pours."},
        ("entailment", "not_entailment"),
    ),
    "super_glue/multirc": (
        {
            "paragraph": "A box.",
            "question": "What?",
            "answer": "Box",
            "idx": {"paragraph": 1, "question": 2, "answer": 3},
        },
        {"text": "A box.", "text_pair": "What? Box", "group": "1-2"},
        ("False", "True"),
    ),
    "super_glue/wic": (
        {"word": "box", "sentence1": "A box.", "sentence2": "To box.", "start1": 2, "end1": 5, "start2": 3, "end2": 6},
        {"text": "A box. To box. Does box have the same meaning in both sentences?"},
        ("False", "True"),
    ),
    "super_glue/wsc": (
        {"text": "Ann ran as she fell.", "span1_index": 0, "span1_text": "Ann", "span2_index": 3, "span2_text": "she"},
        {"text": "she: Ann ran as she fell.", "text_pair": "Ann"},
        ("False", "True"),
    ),
    "glue/cola": ({"sentence": "It rains."}, {"text": "It rains."}, ("unacceptable", "acceptable")),
    "glue/sst2": ({"sentence": "fine film"}, {"text": "fine film"}, ("negative", "positive")),
    "glue/mrpc": (
        {"sentence1": "One.", "sentence2": "Two."},
        {"text": "One.", "text_pair": "Two."},
        ("not_equivalent", "equivalent"),
    ),
    "glue/qqp": (
        {"question1": "One?", "question2": "Two?"},
        {"text": "One?", "text_pair": "Two?"},
        ("not_duplicate", "duplicate"),
    ),
    "glue/mnli": (
        {"premise": "One.", "hypothesis": "Two."},
        {"text": "One.", "text_pair": "Two."},
        ("entailment", "neutral", "contradiction"),
    ),
    "glue/qnli": (
        {"question": "One?", "sentence": "Two."},
        {"text": "One?", "text_pair": "Two."},
        ("entailment", "not_entailment"),
    ),
    "glue/rte": (
        {"sentence1": "One.", "sentence2": "Two."},
        {"text": "One.", "text_pair": "Two."},
        ("entailment", "not_entailment"),
    ),
    "glue/wnli": (
        {"sentence1": "One.", "sentence2": "Two."},
        {"text": "One.", "text_pair": "Two."},
        ("not_entailment", "entailment"),
    ),
    "ag_news": ({"text": "Rain."}, {"text": "Rain."}, ("World", "Sports", "Business", "Sci/Tech")),
    "imdb": ({"text": "Fine."}, {"text": "Fine."}, ("neg", "pos")),
    "trec": ({"text": "Who?"}, {"text": "Who?"}, ("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM")),
}

_CONLL = "O B-PER I-PER B-ORG I-ORG B-LOC I-LOC B-MISC I-MISC"
_WNUT = (
    "O B-corporation I-corporation B-creative-work I-creative-work B-group I-group B-location I-location B-person "
    "I-person B-product I-product"
)
# tner/ontonotes5 has the tags as numbers in this order, from its card.
_ONTONOTES = (
    "O B-CARDINAL B-DATE I-DATE B-PERSON I-PERSON B-NORP B-GPE I-GPE B-LAW I-LAW B-ORG I-ORG B-PERCENT I-PERCENT "
    "B-ORDINAL B-MONEY I-MONEY B-WORK_OF_ART I-WORK_OF_ART B-FAC B-TIME I-CARDINAL B-LOC B-QUANTITY I-QUANTITY I-NORP "
    "I-LOC B-PRODUCT I-TIME B-EVENT I-EVENT I-FAC B-LANGUAGE I-PRODUCT I-ORDINAL I-LANGUAGE"
)
TAGS = {"conll2003": _CONLL, "wnut17": _WNUT, "ontonotes5": _ONTONOTES}


def _load(name: str, records: list[dict[str, Any]], directory: Path) -> Any:
    for split in ("train", "validation"):
        (directory / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = load_config(None, {"task": name, "data.path": str(directory)})
    return load_task_data(config, get_task(name))


@pytest.mark.parametrize("name", list(ROWS))
def test_a_record_and_its_number_are_read_as_the_set_means_them(name: str, tmp_path: Path) -> None:
    record, expected, classes = ROWS[name]
    column = "coarse_label" if name == "trec" else "label"
    data = _load(name, [record | {column: number} for number in range(len(classes))], tmp_path)
    assert data.label_names == classes
    assert [row["label"] for row in data.train] == list(classes)
    for row in data.train:
        assert {role: row[role] for role in row if role not in ("label", "keep")} == expected


@pytest.mark.parametrize("name", list(TAGS))
def test_numbers_of_tags_are_read_as_the_set_means_them(name: str, tmp_path: Path) -> None:
    names = TAGS[name].split()
    begins = [number for number, tag in enumerate(names) if tag.startswith("B-")]
    inside = {tag: number for number, tag in enumerate(names)}
    records = []
    for number in begins:
        follows = inside.get(f"I-{names[number][2:]}", 0)  # some types of one word only have no I-
        records.append({"tokens": ["a", "b", "c"], "ner_tags": [number, follows, 0]})
    data = _load(name, records, tmp_path)
    assert data.label_names == tuple(names)
    for number, row in zip(begins, data.train, strict=True):
        kind = names[number][2:]
        assert row["tags"][0] == f"B-{kind}" and row["tags"][1] in (f"I-{kind}", "O") and row["tags"][2] == "O"


def test_similarities_are_numbers(tmp_path: Path) -> None:
    data = _load("glue/stsb", [{"sentence1": "One.", "sentence2": "Two.", "label": 2.5}] * 2, tmp_path)
    assert data.train[0] == {"text": "One.", "text_pair": "Two.", "label": 2.5}


def test_right_choices_are_counted_from_0(tmp_path: Path) -> None:
    record = {"premise": "It rained.", "choice1": "The sun.", "choice2": "Clouds.", "question": "cause"}
    data = _load("super_glue/copa", [record | {"label": number} for number in (0, 1)], tmp_path)
    assert data.train[1] == {"text": "It rained. because", "choices": ["The sun.", "Clouds."], "label": 1}


def test_every_preset_with_classes_is_written_down_here() -> None:
    with_classes = {name for name, task in PRESETS.items() if task.label_names and not name.startswith("helpdesk/")}
    assert with_classes - {"conll2004"} == {*ROWS, *TAGS}  # conll2004 has its tags as text


@pytest.mark.parametrize(
    ("name", "words"), [("ontonotes5", "LDC2013T19"), ("srl/conll2012", "LDC2013T19"), ("conll2003", "Reuters")]
)
def test_a_set_that_cannot_be_loaded_says_how_to_get_licensed_data(
    name: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    from ptuning.errors import DataError

    def no_network(*arguments: Any, **more: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", no_network)
    with pytest.raises(DataError, match=rf"no network.*Or give a directory with --data\. .*{words}"):
        load_task_data(load_config(None, {"task": name}), get_task(name))


@pytest.mark.parametrize("name", ["srl/conll2005", "srl/ewt"])
def test_a_preset_without_a_set_on_the_hub_says_how_to_get_the_data(name: str) -> None:
    from ptuning.errors import ConfigError

    with pytest.raises(ConfigError, match=rf"the task {name} has no data of its own.*with --data\. .*Read are"):
        load_task_data(load_config(None, {"task": name}), get_task(name))
