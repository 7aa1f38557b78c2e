from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptuning.cli.tasks import family_of, recipes_of, token_lines
from ptuning.inspection import ShownToken
from ptuning.tasks.presets import KINDS, PRESETS
from ptuning.tasks.templates import TEMPLATES

Ptuning = Callable[..., Any]


def test_the_table_needs_no_torch() -> None:
    code = (
        "import sys; from ptuning.cli.tasks import command; command()\n"
        "print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("set()")


def test_the_table_says_where_columns_and_labels_are(ptuning: Ptuning) -> None:
    last = ptuning("tasks").out.splitlines()[-1]
    assert last == "Columns, labels, input formats and how to get the data of a preset: ptuning tasks NAME"
    said = ptuning("tasks", "glue/rte").out
    assert "is read from sentence1" in said and "entailment, not_entailment" in said


def test_a_window_is_not_said_to_be_cut(ptuning: Ptuning, tiny_backbone: Path, tmp_path: Path) -> None:
    row = {"tokens": ["box"] * 40, "ner_tags": ["O"] * 39 + ["B-PLACE"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    arguments = ("--show", 1, "--data", tmp_path, "--backbone", tiny_backbone, "--max-length", 22)
    out = ptuning("tasks", "token_classification", *arguments).out
    assert out.count("20 tokens of the row are not in this window") == 2 and "are cut" not in out


def test_presets_stand_in_families() -> None:
    families = [family_of(task) for task in PRESETS.values()]
    in_order = list(dict.fromkeys(families))
    assert in_order == ["helpdesk", "SuperGLUE", "GLUE", "entities", "semantic roles", "questions", "sentences"]
    assert families == sorted(families, key=in_order.index)


@pytest.mark.parametrize("name", [*PRESETS, *KINDS])
def test_all_of_a_task_is_printed_in_100_columns(name: str, ptuning: Ptuning) -> None:
    result = ptuning("tasks", name)
    assert (result.status, result.err) == (0, "")
    assert all(len(line.rstrip()) <= 100 for line in result.out.splitlines())
    said = _compact(result.out)
    task = PRESETS.get(name)
    if task is not None:
        expected = [task.description, task.kind, task.how_to_get, *recipes_of(name)]
        expected += [TEMPLATES[one].description for one in task.templates]
        expected += [task.pattern or "", *(f"{label}: {word}" for label, word in (task.words or {}).items())]
        assert [text for text in expected if _compact(text) not in said] == []


def _compact(text: str) -> str:
    """Without white space: lines are wrapped."""
    return "".join(text.split())


def _wic(directory: Path) -> Path:
    row = {"word": "lamp", "sentence1": "the red lamp", "sentence2": "a lamp", "label": 1, "idx": 7}
    (directory / "train.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({**row, "label": 0, "idx": 8}) + "\n")
    return directory


def test_rows_are_shown_as_the_model_sees_them(ptuning: Ptuning, tiny_backbone: Path, tmp_path: Path) -> None:
    arguments = ("--show", 1, "--data", _wic(tmp_path), "--backbone", tiny_backbone)
    result = ptuning("tasks", "super_glue/wic", *arguments, "--template", 1, "--max-length", 40)
    assert result.status == 0, result.err
    out = result.out
    assert "super_glue/wic (classification)" in out and "at most 40 tokens a sequence" in out
    assert "idx        7" in out and "idx        8" not in out
    assert "> text_pair  lamp: a lamp" in out and "label: True, nothing is cut" in out
    tokens = next(line for line in out.splitlines() if "[CLS]" in line)
    below = out.splitlines()[out.splitlines().index(tokens) + 1]
    assert below[tokens.index("lamp") :].startswith("keep")


def test_rows_are_shown_in_their_pattern(ptuning: Ptuning, tiny_backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "the lamp", "label": "lost"}\n{"text": "a box", "label": "late"}\n')
    pattern = ("--set", 'data.pattern="{text} {prompt} is {mask}"', "--set", "method=p-tuning")
    arguments = ("--show", 1, "--data", tmp_path, "--backbone", tiny_backbone, *pattern)
    result = ptuning("tasks", "classification", *arguments, "--set", "prompts.prompt_length=2")
    assert result.status == 0, result.err
    assert "pattern   {text} {prompt:2} is {mask}" in result.out
    assert "[CLS] the lamp <virtual 1> <virtual 2> is [MASK] [SEP]" in result.out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--show", "3"), 2, "--show was given without the task"),
        (("super_glue/wic", "--template", "1"), 2, "say how rows are shown, and --show is missing"),
        (("super_glue/wic", "--split", "test"), 2, "say how rows are shown, and --show is missing"),
        (("super_glue/wick",), 2, "there is no task 'super_glue/wick'"),
        (("srl/conll2005", "--show", "1"), 2, "has no data of its own, and data.path is missing"),
        (("classification", "--show", "0", "--data", "x"), 2, "--show is 0, expected at least 1 row"),
        (("super_glue/wic", "--show", "1", "--set", "data.templat=1"), 2, "Did you mean `data.template`"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: Any, status: int, said: str, ptuning: Ptuning) -> None:
    result = ptuning("tasks", *arguments)
    assert (result.status, result.out) == (status, "")
    assert said in result.err


def test_marks_stand_under_their_tokens_and_lines_are_wrapped() -> None:
    tokens = [ShownToken("the"), ShownToken("lamp", "B-THING"), ShownToken("is"), ShownToken("red")]
    assert token_lines(tokens, 100) == ["the lamp    is red", "    B-THING"]
    assert token_lines(tokens, 12) == ["the lamp", "    B-THING", "is red"]


def test_the_middle_of_a_long_sequence_is_left_out_but_for_what_is_marked() -> None:
    tokens = [ShownToken(f"t{place}", "answer" if place == 200 else "") for place in range(400)]
    shown = " ".join(token_lines(tokens, 100))
    assert "[... 150 tokens ...]" in shown and "t190 " in shown and "t210 " in shown and "answer" in shown
    assert "t0 " in shown and "t399" in shown and "t100 " not in shown
