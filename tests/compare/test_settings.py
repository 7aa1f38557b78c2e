from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ptuning.compare.cells import main_cells
from ptuning.compare.settings import CompareConfig, load_compare_config
from ptuning.config import load_config
from ptuning.errors import ConfigError

Make = Callable[..., CompareConfig]


def _load(tmp_path: Path, text: str, **overrides: Any) -> CompareConfig:
    (tmp_path / "compare.yaml").write_text(text)
    return load_compare_config(tmp_path / "compare.yaml", overrides)


def test_lists_of_names_are_labels_of_what_they_name(tmp_path: Path) -> None:
    config = _load(tmp_path, "methods: [p-tuning-v2, bitfit]\ntasks: [helpdesk/tickets]\nbackbones: [minilm]\n")
    assert config.methods == {"p-tuning-v2": {"method": "p-tuning-v2"}, "bitfit": {"method": "bitfit"}}
    assert config.tasks == {"helpdesk/tickets": {"task": "helpdesk/tickets"}}
    assert config.backbones == {"minilm": {"backbone": "minilm"}}


def test_a_label_may_stand_for_settings_in_groups_or_with_dots(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "methods:\n"
        "  short: {method: p-tuning-v2, prompts.prompt_length: 4, training: {epochs: 3}, seeds: [5]}\n"
        "  fine-tuning:\n"
        "tasks: {t: {task: helpdesk/tickets, data: {columns: {text: body}}}}\n",
    )
    run = config.settings_of("short", "t", "minilm")
    assert (run.method, run.prompts.prompt_length, run.training.epochs) == ("p-tuning-v2", 4, 3)
    assert run.data.columns == {"text": "body"}
    assert (config.seeds_of("short"), config.seeds_of("fine-tuning")) == ([5], [11, 12, 13])
    assert config.settings_of("fine-tuning", "t", "minilm").method == "fine-tuning"


def test_methods_win_over_tasks_over_backbones_over_run(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "methods: {a: {method: p-tuning-v2, training.batch_size: 4}}\n"
        "tasks: {t: {task: helpdesk/tickets, training.batch_size: 3, training.epochs: 3}}\n"
        "backbones: {b: {backbone: minilm, training.epochs: 2, training.warmup: 0.2}}\n"
        "run: {training: {warmup: 0.1, weight_decay: 0.1, epochs: 1}}\n",
    )
    training = config.settings_of("a", "t", "b", {"training.seed": 7}).training
    assert (training.batch_size, training.epochs, training.warmup, training.weight_decay) == (4, 3, 0.2, 0.1)
    assert training.seed == 7


@pytest.mark.parametrize(
    ("selection", "split", "chosen_by"),
    [("held_out", "validation", "development"), ("held_out", "test", "validation"), ("paper", None, "validation")],
)
def test_rows_that_are_reported_choose_nothing_but_the_papers_way(
    selection: str, split: str | None, chosen_by: str, tmp_path: Path
) -> None:
    own = "" if split is None else f", split: {split}"
    text = f"methods: [p-tuning-v2]\ntasks: {{t: {{task: conll2003{own}}}}}\nselection: {selection}\n"
    config = _load(tmp_path, text)
    assert config.settings_of("p-tuning-v2", "t", "minilm").data.selection == chosen_by


def test_written_settings_read_back(settings: Make, tmp_path: Path) -> None:
    config = settings(tmp_path, search={"p-tuning-v2": {"training.learning_rate": [1e-2, 1e-3]}}, depth={"layers": [1]})
    assert _load(tmp_path, config.to_yaml()) == config


def test_data_may_be_given_by_name(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("methods: [p-tuning-v2]\ntasks: {t: {task: classification}}\n")
    config = load_compare_config(tmp_path / "c.yaml", data={"t": "somewhere"})
    assert config.settings_of("p-tuning-v2", "t", "minilm").data.path == "somewhere"
    with pytest.raises(ConfigError, match="data are given for u, but the tasks are t. Name one of those."):
        load_compare_config(tmp_path / "c.yaml", data={"u": "x"})


TASK = "tasks: {t: {task: helpdesk/tickets}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "methods: [p-tuning-v3]\n" + TASK,
            "methods.p-tuning-v3 is 'p-tuning-v3', expected one of .* Did you mean p-tu",
        ),
        ("methods: []\n" + TASK, "methods is empty, expected at least one. Name one."),
        ("methods: [bitfit, bitfit]\n" + TASK, r"methods is \['bitfit', 'bitfit'\], expected names that differ."),
        ("methods: 3\n" + TASK, "`methods` is 3, expected a group, name: value. Correct it."),
        ("methods: [bitfit]\n" + TASK + "sedes: [3]\n", "`sedes` is not a setting. Did you mean `seeds`?"),
        (
            "methods: [bitfit]\n" + TASK + "depth: {layer: [3]}\n",
            "`depth.layer` is not a setting. Did you mean `depth.layers`?",
        ),
        (
            "methods: {bitfit: {training.epoch: 3}}\n" + TASK,
            "bitfit, t, minilm: 1 setting is wrong: `training.epoch` is not a setting. Did you mean `training.epochs`?",
        ),
        (
            "methods: [bitfit]\n" + TASK + "run: {training: {epochs: 0}}\n",
            "bitfit, t, minilm: 1 setting is wrong: `training.epochs` is 0, expected at least 1.",
        ),
        (
            "methods: [bitfit]\n" + TASK + "run: {training: {seed: 3}}\n",
            "run: `training.seed` cannot be set here: `seeds` lists them. Leave it out.",
        ),
        (
            "methods: {bitfit: {task: rte}}\n" + TASK,
            "methods.bitfit: `task` cannot be set here: `tasks` lists them. Leave it out.",
        ),
        (
            "methods: [bitfit]\ntasks: {t: {task: helpdesk/tickets, data.selection: validation}}\n",
            "tasks.t: `data.selection` cannot be set here: `selection` says what is chosen by which rows.",
        ),
        ("methods: [bitfit]\n" + TASK + "seeds: [1, 1]\n", r"seeds is \[1, 1\], expected one or more different whole"),
        ("methods: {bitfit: {seeds: x}}\n" + TASK, "methods.bitfit.seeds is x, expected one or more different whole"),
        (
            "methods: [bitfit]\n" + TASK + "search: {bitfid: {training.epochs: [1]}}\n",
            "search names 'bitfid', which is not one of `methods`. Did you mean 'bitfit'?",
        ),
        (
            "methods: [bitfit]\n" + TASK + "search: {bitfit: {training.epochs: []}}\n",
            "search.bitfit.training.epochs has no values to try.",
        ),
        (
            "methods: [bitfit]\n" + TASK + "depth: {layers: [2], methods: [bitfit]}\n",
            "depth.methods has bitfit, which has no prompts at layers.",
        ),
        (
            "methods: [bitfit]\n" + TASK + "length: {lengths: [2]}\n",
            "length.methods names 'p-tuning-v2', which is not one of `methods`.",
        ),
        (
            "methods: [p-tuning-v2]\n" + TASK + "depth: {layers: [0, 2]}\n",
            r"depth has the numbers \[0, 2\], expected different ones from 1 on.",
        ),
        (
            "methods: [bitfit]\ntasks: {t: {task: conll2003, split: test}}\nselection: paper\n",
            "tasks.t.split is 'test', but selection is paper",
        ),
        ("methods: [bitfit]\ntasks: {t: {task: conll2003, split: train}}\n", "tasks.t.split is 'train', expected the"),
        ("methods: [bitfit]\n", "`tasks` is missing. Set it."),
    ],
)
def test_wrong_settings_are_said(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        _load(tmp_path, text)


def test_settings_made_in_python_are_checked_too() -> None:
    with pytest.raises(ValidationError, match="`training.epoch` is not a setting"):
        CompareConfig.model_validate(
            {"methods": ["bitfit"], "tasks": ["helpdesk/tickets"], "run": {"training.epoch": 3}}
        )


def test_the_shipped_comparison_is_one() -> None:
    config = load_compare_config(Path(__file__).resolve().parents[2] / "examples" / "compare_small.yaml")
    cells = main_cells(config, {})
    assert {cell.part for cell in cells} == {"main", "depth", "length"}
    assert {cell.backbone for cell in cells} == {"minilm"}  # nothing is fetched
    assert all(cell.config.task.startswith("helpdesk/") and cell.config.data.path is None for cell in cells)
    assert all(cell.config.data.selection == "development" for cell in cells)


COMMON = """
run: {prompts.prompt_length: 4, training: {epochs: 3, batch_size: 8, quantization: nf4}, lora.rank: 2,
  prompts.positions: shifted}
tasks: {t: {task: helpdesk/tickets, prompts.init: tokens}}
backbones: {minilm: {prompts.layers: 'last:2', training.compile: true}}
"""


def test_of_common_settings_a_method_takes_those_that_it_has(tmp_path: Path) -> None:
    methods = "methods: [p-tuning-v2, prompt-tuning, fine-tuning, lora, linear-probe, bitfit]"
    config = _load(tmp_path, methods + COMMON)
    found = {method: config.settings_of(method, "t", "minilm") for method in config.methods}
    plain = load_config(None, {"task": "helpdesk/tickets"})
    prompts = {method: one.prompts for method, one in found.items()}
    deep = prompts["p-tuning-v2"]
    assert (deep.prompt_length, deep.init, deep.layers, deep.positions) == (4, "tokens", "last:2", "shifted")
    shallow = prompts["prompt-tuning"]
    assert (shallow.prompt_length, shallow.init) == (4, "tokens")
    assert (shallow.layers, shallow.positions) == ("all", "unshifted")
    for method in ("fine-tuning", "lora", "linear-probe", "bitfit"):
        assert prompts[method] == plain.prompts.model_copy(update={"reparameterization": "none", "init": "normal"})
    assert {method: one.lora.rank for method, one in found.items() if one.lora.rank != 8} == {"lora": 2}
    assert {method for method, one in found.items() if one.training.compile} == {"p-tuning-v2"}
    epochs = {method: one.training.epochs for method, one in found.items()}
    assert epochs == {**dict.fromkeys(config.methods, 3), "linear-probe": None}
    stored = {method: one.training.quantization for method, one in found.items()}
    assert stored == {**dict.fromkeys(config.methods, "nf4"), "fine-tuning": "none"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "methods: {bitfit: {prompts.init: tokens}}\n" + TASK,
            "bitfit, t, minilm: prompts.init is tokens, but method bitfit has no prompts. Leave it out.",
        ),
        (
            "methods: {probe: {method: linear-probe, training.epochs: 3}}\n" + TASK,
            "probe, t, minilm: training.epochs is 3, but method linear-probe makes no steps. Leave it out.",
        ),
    ],
)
def test_what_is_set_for_a_method_must_be_a_setting_of_it(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        _load(tmp_path, text)
