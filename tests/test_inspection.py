from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.backbones.loading import Backbone, load_backbone
from ptuning.config import load_config
from ptuning.data import sources
from ptuning.errors import ConfigError, DataError
from ptuning.inspection import Inspection, ShownSequence, inspect_task, segments_of
from ptuning.tasks import KINDS


@pytest.fixture(scope="module")
def backbone(tiny_backbone: Path) -> Backbone:
    return load_backbone(tiny_backbone)


@pytest.fixture
def show(backbone: Backbone, tmp_path: Path) -> Callable[..., Inspection]:
    """Rows of a task as the tiny backbone sees them: `show("super_glue/wic", rows, **settings)`."""

    def run(task: str, rows: list[dict[str, Any]], count: int = 1, split: str = "train", **settings: Any) -> Inspection:
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        values = {"task": task, "data.path": str(tmp_path), "data.max_length": 48, **settings}
        return inspect_task(load_config(None, values), backbone, count=count, split=split)

    return run


def _marked(sequence: ShownSequence, mark: str) -> list[str]:
    return [token.text for token in sequence.tokens if token.mark == mark]


@pytest.mark.parametrize("kind", list(KINDS))
def test_rows_of_every_kind_are_those_that_training_sees(
    kind: str, tiny_data: Callable[..., Path], backbone: Backbone
) -> None:
    path = tiny_data(kind)
    config = load_config(None, {"task": kind, "data.path": str(path), "data.max_length": 48})
    shown = inspect_task(config, backbone, count=3)
    lines = [json.loads(line) for line in (path / "train.jsonl").read_text().splitlines()]
    assert (shown.num_rows, len(shown.rows), shown.max_length) == (24, 3, 48)
    assert [row.record for row in shown.rows] == lines[:3]
    assert [row.place for row in shown.rows] == [f"{path / 'train.jsonl'}:{n}" for n in (1, 2, 3)]
    for row in shown.rows:
        examples = shown.kind.encode([row.row], backbone.tokenizer, 48, training=True)
        expected = [ids for example in examples for ids in example.sequences]
        seen = row.sequences[: row.seen_in_training]
        assert [[token.text for token in one.tokens] for one in seen] == [
            backbone.tokenizer.convert_ids_to_tokens(ids) for ids in expected
        ]
        assert segments_of(row.row) and not any("label" in role or "tags" in role for role, _ in segments_of(row.row))


def test_labels_stand_where_they_are_asked(show: Callable[..., Inspection], tiny_data: Callable[..., Path]) -> None:
    rows = [{"tokens": ["red", "kettles", "leeds"], "ner_tags": ["B-COLOUR", "O", "B-PLACE"]}]
    (words,) = show("token_classification", rows).rows[0].sequences
    assert [(token.text, token.mark) for token in words.tokens if token.mark] == [
        ("red", "B-COLOUR"),
        ("kettle", "O"),  # the first piece alone
        ("leeds", "B-PLACE"),
    ]
    context = "the lamp is red."
    question = {"question": "what colour?", "context": context, "answers": {"text": ["red"], "answer_start": [12]}}
    (answer,) = show("question_answering", [question]).rows[0].sequences
    assert _marked(answer, "answer") == ["red"]
    role = {"tokens": ["the", "lamp", "is", "red"], "predicate_index": 2, "tags": ["B-A1", "I-A1", "B-V", "B-A2"]}
    (roles,) = show("semantic_role_labeling", [role]).rows[0].sequences
    assert _marked(roles, "B-V predicate") == ["is"] and _marked(roles, "I-A1") == ["lamp"]
    choice = {"text": "the lamp", "choices": ["red", "blue"], "label": 1}
    choices = show("multiple_choice", [choice]).rows[0].sequences
    assert [(one.title, one.label) for one in choices] == [("choice 0", "wrong"), ("choice 1", "right")]


_LONG = "the red lamp is late and the blue box is broken and"
_WIC = {
    "word": "lamp",
    "sentence1": f"{_LONG} nice lamp",
    "sentence2": "a lost lamp",
    "start1": len(_LONG) + 6,
    "end1": len(_LONG) + 10,
    "start2": 7,
    "end2": 11,
    "label": 1,
    "idx": 0,
}


@pytest.mark.parametrize("template", [0, 1])
def test_wic_keeps_its_word_and_says_what_is_cut(template: int, show: Callable[..., Inspection]) -> None:
    # The question of template 0 is letters to this tokenizer, and is kept too.
    length = 60 if template == 0 else 16
    shown = show("super_glue/wic", [_WIC], **{"data.template": template, "data.max_length": length})
    (sequence,) = shown.rows[0].sequences
    assert shown.template is not None and shown.template.startswith(f"wic/{template}: ")
    assert shown.label_names == ("False", "True") and sequence.label == "True"
    assert "lamp" in _marked(sequence, "keep")
    if sequence.num_cut:
        assert len(sequence.tokens) == length and "The words that the task asks about are kept" in sequence.notes[0]
    assert (sequence.num_cut > 0) == (sequence.cut != "")


@pytest.mark.parametrize("template", [0, 1])
def test_wsc_keeps_both_spans(template: int, show: Callable[..., Inspection]) -> None:
    text = "the lamp is red and blue and green and grey and lost and it is nice"
    row = {"text": text, "span1_index": 1, "span1_text": "lamp", "span2_index": 13, "span2_text": "it", "label": 0}
    shown = show("super_glue/wsc", [row], **{"data.template": template, "data.max_length": 16})
    (sequence,) = shown.rows[0].sequences
    assert "lamp" in _marked(sequence, "keep") and sequence.num_cut > 0 and sequence.label == "False"
    assert len(sequence.tokens) == 16


def test_copa_multirc_and_record_show_their_segments(show: Callable[..., Inspection]) -> None:
    copa = {"premise": "the lamp is red", "choice1": "nice", "choice2": "lost", "question": "cause", "label": 0}
    shown = show("super_glue/copa", [{**copa, "idx": 0}]).rows[0]
    assert segments_of(shown.row) == [
        ("text", "the lamp is red because"),
        ("choice 0", "nice"),
        ("choice 1", "lost"),
    ]
    assert [one.label for one in shown.sequences] == ["right", "wrong"]
    place = {"paragraph": 1, "question": 2, "answer": 3}
    multirc = {"paragraph": "a lamp", "question": "what is red", "answer": "a box", "idx": place, "label": 1}
    shown = show("super_glue/multirc", [multirc]).rows[0]
    assert segments_of(shown.row) == [("text", "a lamp"), ("text_pair", "what is red a box")]
    assert shown.row["group"] == "1-2" and shown.record["idx"] == place
    record = {"passage": "red\n@highlight\nblue", "query": "@placeholder is nice", "entities": ["red", "blue"]}
    shown = show("super_glue/record", [{**record, "answers": ["blue"], "idx": {"passage": 0, "query": 0}}]).rows[0]
    assert [(one.title, one.label) for one in shown.sequences] == [
        ("entity 'red'", "wrong"),
        ("entity 'blue'", "right"),
    ]
    assert not any(one.is_window for one in shown.sequences)


def test_windows_say_where_the_answer_is_and_how_near_the_cut(show: Callable[..., Inspection]) -> None:
    context = " ".join(["box"] * 30 + ["red"] + ["door"] * 30)
    answers = {"text": ["red"], "answer_start": [context.index("red")]}
    row = {"question": "what?", "context": context, "answers": answers}
    sequences = show("question_answering", [row], **{"data.max_length": 40}).rows[0].sequences
    assert [one.title for one in sequences] == [f"window {n + 1} of {len(sequences)}" for n in range(len(sequences))]
    assert all(one.is_window and one.num_cut for one in sequences)
    found = [one for one in sequences if _marked(one, "answer")]
    elsewhere = "the answer is not whole in this window"
    assert found and all(one.label == elsewhere for one in sequences if one not in found)
    unanswerable = {**row, "answers": {"text": [], "answer_start": []}}
    sequences = show("question_answering", [unanswerable], **{"data.max_length": 40}).rows[0].sequences
    assert [one.label for one in sequences] == ["no answer"] * len(sequences)
    near = [note for one in found for note in one.notes]
    assert any("The answer is within 5 tokens of the window's" in note for note in near)


def test_training_sees_the_first_window_of_a_long_sentence_which_alone_says_what_it_lacks(
    show: Callable[..., Inspection],
) -> None:
    row = {"tokens": ["leeds"] + ["box"] * 40 + ["leeds"], "ner_tags": ["B-PLACE"] + ["O"] * 40 + ["B-PLACE"]}
    shown = show("token_classification", [row], **{"data.max_length": 20}).rows[0]
    assert (len(shown.sequences), shown.seen_in_training) == (3, 1)
    assert [one.notes for one in shown.sequences] == [
        ("1 words with a tag other than O are in other windows; training sees this one alone.",),
        (),
        (),
    ]


def test_shifted_prompts_leave_less_room(show: Callable[..., Inspection]) -> None:
    row = {"text": "red", "label": "a"}
    settings = {"prompts.positions": "shifted", "prompts.prompt_length": 40, "data.max_length": None}
    assert show("classification", [row, {**row, "label": "b"}], **settings).max_length == 24


def test_what_cannot_be_shown_is_said(show: Callable[..., Inspection]) -> None:
    rows = [{"text": "red", "label": "a"}, {"text": "blue", "label": "b"}]
    with pytest.raises(ConfigError, match="--show is 0, expected at least 1 row"):
        show("classification", rows, count=0)
    with pytest.raises(DataError, match="no test split"):
        show("classification", rows, split="test")
    with pytest.raises(ConfigError, match="data.template is 2, but super_glue/wic has the templates 0 to 1"):
        show("super_glue/wic", [_WIC], **{"data.template": 2})


def test_data_are_read_once(show: Callable[..., Inspection], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "load_tables", None)  # the tables that are shown are those of the rows
    shown = show("classification", [{"text": "red lamp", "label": "a"}, {"text": "blue box", "label": "b"}], count=2)
    assert [row.record["text"] for row in shown.rows] == ["red lamp", "blue box"]
