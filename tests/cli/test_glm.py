"""A GLM (2021) from the command line: trained, scored and asked, with both heads, on SuperGLUE's records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import ptuning as library
from ptuning.config import METHODS as ALL_METHODS

Ptuning = Callable[..., Any]
COLOURS = ("red", "blue", "green")


def _rows(task: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(12):
        colour, other = COLOURS[number % 3], COLOURS[(number + number // 3) % 3]
        if task == "super_glue/rte":
            label = 0 if colour == other else 1
            rows.append({"premise": f"the lamp is {colour}", "hypothesis": f"it is {other}.", "label": label})
        elif task == "super_glue/copa":
            choices = {"choice1": f"It was {colour}.", "choice2": f"It was {other} and late."}
            question = "cause" if number % 2 else "effect"
            rows.append({"premise": f"The {colour} lamp fell.", **choices, "question": question, "label": number % 2})
        else:
            entities = ["red lamp", "blue", "a green one"]
            passage = f"The lamp is {entities[number % 3]}."
            query = "It is @placeholder, he said"
            rows.append({"passage": passage, "query": query, "entities": entities, "answers": [entities[number % 3]]})
    return [{**row, "idx": number} for number, row in enumerate(rows)]


@pytest.fixture
def data(tmp_path: Path) -> Callable[[str], Path]:
    def write(task: str) -> Path:
        directory = tmp_path / task.replace("/", "-")
        directory.mkdir()
        for split in ("train", "validation"):
            (directory / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in _rows(task)))
        return directory

    return write


def _train(ptuning: Ptuning, task: str, glm: Path, data: Path, output: Path, *settings: str) -> dict[str, Any]:
    method = ALL_METHODS[next((one.partition("=")[2] for one in settings if one.startswith("method=")), "p-tuning-v2")]
    usual = ["training.epochs=1"] * method.makes_steps + ["prompts.prompt_length=3"] * bool(method.reparameterizations)
    more = [argument for setting in (*usual, *settings) for argument in ("--set", setting)]
    result = ptuning(
        *("train", "--task", task, "--backbone", glm, "--data", data, "--output", output),
        *("--set", "training.device=cpu"),
        *("--set", "data.max_length=120", *more),
    )
    assert result.status == 0, result.err
    config: dict[str, Any] = yaml.safe_load((output / "config.yaml").read_text())
    return config


def _accuracy(ptuning: Ptuning, run: Path) -> dict[str, float]:
    result = ptuning("evaluate", run, "--json")
    assert result.status == 0, result.err
    metrics: dict[str, float] = json.loads(result.out.splitlines()[-1])["metrics"]
    return metrics


METHODS = {
    "p-tuning-v2": (),
    "prompting": (),
    "prompt-tuning": (),
    "soft-prompts": ("prompts.mixture=2",),
    "p-tuning": (),
    "fine-tuning": (),
}


@pytest.mark.parametrize("method", METHODS)
def test_rte_is_learned_with_label_words_by_every_method(
    method: str, ptuning: Ptuning, glm_with_words: Path, data: Callable[[str], Path], tmp_path: Path
) -> None:
    run, own = tmp_path / "run", data("super_glue/rte")
    settings = (f"method={method}", "head.kind=verbalizer", *METHODS[method])
    config = _train(ptuning, "super_glue/rte", glm_with_words, own, run, *settings)
    assert config["data"]["pattern"] == '"{text_pair|bare}" ?{/} {mask}, "{text}"'
    assert config["head"]["words"] == {"entailment": "Yes", "not_entailment": "No"}
    saved = json.loads((run / "prompt/config.json").read_text())
    assert saved["head"]["kind"] == "verbalizer" and saved["metrics"] == pytest.approx(_accuracy(ptuning, run))
    rows = own / "validation.jsonl"
    result = ptuning("predict", run, rows)
    assert result.status == 0, result.err
    predictions = [json.loads(line) for line in result.out.splitlines()]
    labels = ["entailment", "not_entailment"]
    right = [
        one["label"] == labels[row["label"]] for one, row in zip(predictions, _rows("super_glue/rte"), strict=True)
    ]
    assert sum(right) / len(right) == pytest.approx(saved["metrics"]["accuracy"])


def test_rte_is_learned_with_a_linear_head(
    ptuning: Ptuning, glm_with_words: Path, data: Callable[[str], Path], tmp_path: Path
) -> None:
    run, own = tmp_path / "run", data("super_glue/rte")
    config = _train(ptuning, "super_glue/rte", glm_with_words, own, run)
    assert config["data"]["pattern"] is None and config["head"] == {
        **config["head"],
        "kind": "linear",
        "pooling": "cls",
    }
    saved = json.loads((run / "prompt/config.json").read_text())
    assert saved["metrics"] == pytest.approx(_accuracy(ptuning, run))
    predicted = ptuning("predict", run, own / "validation.jsonl")
    assert predicted.status == 0 and len(predicted.out.splitlines()) == 12


@pytest.mark.parametrize(("task", "metric"), [("super_glue/copa", "accuracy"), ("super_glue/record", "f1")])
def test_choices_and_entities_fill_the_blank(
    task: str, metric: str, ptuning: Ptuning, glm_with_words: Path, data: Callable[[str], Path], tmp_path: Path
) -> None:
    run, own = tmp_path / "run", data(task)
    settings = ("head.kind=verbalizer", "head.length_penalty=0.5", "training.epochs=2", "training.trunk_reuse=on")
    config = _train(ptuning, task, glm_with_words, own, run, *settings, "prompts.layers=last:1")
    assert config["head"]["words"] == {} and config["data"]["template"] == (1 if task.endswith("copa") else 0)
    saved = json.loads((run / "prompt/config.json").read_text())
    assert saved["head"]["length_penalty"] == 0.5 and saved["task"]["words"] == []
    assert saved["metrics"][metric] == pytest.approx(_accuracy(ptuning, run)[metric])


def test_tasks_of_both_heads_are_asked_in_one_batch(
    ptuning: Ptuning, glm_with_words: Path, data: Callable[[str], Path], tmp_path: Path
) -> None:
    rte, copa = data("super_glue/rte"), data("super_glue/copa")
    _train(ptuning, "super_glue/rte", glm_with_words, rte, tmp_path / "linear")
    _train(ptuning, "super_glue/rte", glm_with_words, rte, tmp_path / "words", "head.kind=verbalizer")
    _train(ptuning, "super_glue/copa", glm_with_words, copa, tmp_path / "choices", "head.kind=verbalizer")
    names = ("linear", "words", "choices")
    rows = [(_rows("super_glue/copa" if name == "choices" else "super_glue/rte")[5], name) for name in names]
    predictor = library.load([tmp_path / name for name in names])
    mixed = predictor.predict([row for row, _ in rows], [name for _, name in rows])
    predictor.close()
    for (row, name), found in zip(rows, mixed, strict=True):
        alone = library.load(tmp_path / name)
        (expected,) = alone.predict([row])
        alone.close()
        key = "choice" if name == "choices" else "label"
        assert found[key] == expected[key]
        scores, wanted = found["scores"], expected["scores"]
        assert (scores if isinstance(scores, list) else list(scores.values())) == pytest.approx(
            wanted if isinstance(wanted, list) else list(wanted.values()), abs=1e-5
        )


def test_rows_are_shown_with_their_pieces(ptuning: Ptuning, glm_with_words: Path, data: Callable[[str], Path]) -> None:
    directory = data("super_glue/copa")
    result = ptuning(
        *("tasks", "super_glue/copa", "--show", 1, "--data", directory, "--backbone", glm_with_words),
        *("--max-length", 120, "--set", "head.kind=verbalizer"),
    )
    assert result.status == 0, result.err
    assert "choice 0" in result.out and "<|startofpiece|>" in result.out and "[MASK]" in result.out
    assert "pattern" in result.out and "{text} {mask}." in result.out


def test_packing_is_refused_where_blanks_are_filled(
    ptuning: Ptuning, glm_with_words: Path, data: Callable[[str], Path], tmp_path: Path
) -> None:
    result = ptuning(
        *("train", "--task", "super_glue/rte", "--backbone", glm_with_words, "--data", data("super_glue/rte")),
        *("--output", tmp_path / "run", "--set", "head.kind=verbalizer", "--set", "training.packing=on"),
    )
    assert result.status == 2 and "fills blanks by pieces" in result.err
