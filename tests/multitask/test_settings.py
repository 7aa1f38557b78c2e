from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptuning.errors import ConfigError
from ptuning.multitask.settings import MultitaskConfig, load_multitask_config, parse_data

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TWO = "tasks: {a: {task: conll2004}, b: {task: wnut17}}\n"


def load(tmp_path: Path, text: str, **more: Any) -> MultitaskConfig:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    return load_multitask_config(tmp_path / "config.yaml", **more)


def refused(tmp_path: Path, text: str, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **more)
    return str(caught.value).replace(f"{tmp_path}/", "")


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, TWO)
    assert (config.sampling, config.steps, config.shared_steps, config.seeds) == (
        "proportional",
        1500,
        750,
        [11, 12, 13],
    )
    assert config.single and config.kind == "token_classification" and config.prompts.prompt_length == 20


def test_settings_that_were_written_read_back_as_they_were(tmp_path: Path) -> None:
    config = load(tmp_path, TWO + "steps: 9\ntraining: {learning_rate: 0.02, metric: f1}\n")
    assert load(tmp_path, config.to_yaml()) == config


def test_data_are_given_by_name(tmp_path: Path) -> None:
    config = load(tmp_path, TWO, data=parse_data(["b=here/wnut", "a=x=y"]))
    assert (config.tasks["a"].data.path, config.tasks["b"].data.path) == ("x=y", "here/wnut")
    said = refused(tmp_path, TWO, data={"c": "there"})
    assert said == "data are given for c, but the tasks are a, b. Name one of those."


@pytest.mark.parametrize("pair", ["wnut17", "=x", "a=", "a b=c", "a.b=c"])
def test_data_of_another_form_are_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match="--data got .*, expected NAME=PATH, with a name of `tasks`"):
        parse_data([pair])


def test_data_given_twice_are_refused() -> None:
    with pytest.raises(ConfigError, match="--data got a twice, with 'x' and 'y'. Leave one out."):
        parse_data(["a=x", "a=y"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "tasks: {a: {task: wnut17}}",
            "tasks has 1 data set, expected two or more that share prompts. Add one, or use `ptuning train`.",
        ),
        ("tasks: {}", "tasks has 0 data sets, expected two or more that share prompts."),
        ("steps: 3", "`tasks` is missing. Set it."),
        (
            "tasks: {a: {task: wnut17}, b: {task: squad}, c: {task: conll2003}}",
            "tasks mixes kinds (token_classification: a, c; question_answering: b), expected data sets of one kind, "
            "whose prompts have one thing to learn. Train each kind by itself.",
        ),
        (
            "tasks: {a: {task: wnut17}, A: {task: wnut17}}",
            "tasks has the names a, A, expected names that differ in more than capitals: each names a directory. "
            "Rename one.",
        ),
        (
            "tasks: {a: {task: wnut17}, ../b: {task: wnut17}}",
            "tasks has the name '../b', expected letters, digits, - and _: each names a directory. Rename it.",
        ),
        ("tasks: {a: {task: wnut71}, b: {task: wnut17}}", "tasks.a.task: there is no task 'wnut71', expected a preset"),
        (TWO + "sampling: even", "`sampling` is 'even', expected 'proportional', 'uniform' or 'temperature'."),
        (TWO + "temperature: 0.5", "`temperature` is 0.5, expected at least 1. Correct it, or leave it out for 2.0."),
        (
            TWO + "temperature: 3",
            "temperature is 3, but sampling is proportional, which has none. Set sampling to temperature, or leave "
            "temperature out.",
        ),
        ("tasks:", "`tasks` is None, expected a group, name: value. Correct it."),
        (TWO + "shared_fraction: 0", "`shared_fraction` is 0, expected above 0."),
        (TWO + "shared_fraction: 1", "`shared_fraction` is 1, expected below 1."),
        (
            TWO + "{steps: 10, shared_fraction: 0.01}".strip("{}").replace(", ", "\n"),
            "steps is 10 and shared_fraction 0.01, which gives 0 shared steps a data set and 10 of its own, expected "
            "at least 1 each. Raise steps, or move shared_fraction towards 0.5.",
        ),
        (TWO + "seeds: [3, 3]", "seeds is [3, 3], expected one or more different whole numbers from 0 on."),
        (TWO + "seeds: []", "seeds is [], expected one or more different whole numbers from 0 on."),
        (
            TWO + "training: {epochs: 3}",
            "training.epochs is 3, but `steps` says how long each data set is trained. Leave it out.",
        ),
        (TWO + "training: {seed: 11}", "training.seed is 11, but `seeds` lists them. Leave it out."),
        (
            TWO + "training: {early_stopping: 3}",
            "training.early_stopping is 3, but each data set gets all of its `steps`, alone and together. Leave it "
            "out.",
        ),
        (
            TWO + "prompts: {prompt_length: 0}",
            "prompts.prompt_length is 0, expected at least 1: without prompts nothing is shared. Raise it.",
        ),
        (
            TWO + "head_init: new",
            "`head_init` is 'new', expected 'shared' or 'normal'. Correct it, or leave it out for",
        ),
        (
            TWO + "head: {init: runs/a}",
            "head.init is 'runs/a', expected normal: each data set has a head of its own. Leave it out; `head_init` "
            "says what heads start as after the shared stage.",
        ),
        (TWO + "sampel: uniform", "`sampel` is not a setting. Did you mean `sampling`?"),
        (TWO + "training: {lr: 1}", "`training.lr` is not a setting. Did you mean `training.learning_rate`?"),
        (
            "tasks: {a: {task: wnut17, data: {pth: x}}, b: {task: wnut17}}",
            "`tasks.a.data.pth` is not a setting. Did you mean `tasks.a.data.path`?",
        ),
        (
            "tasks: {a: {task: wnut17, path: x}, b: {task: wnut17}}",
            "`tasks.a.path` is not a setting. Did you mean `tasks.a.data.path`?",
        ),
        (
            "tasks: {a: {task: wnut17, data: {max_length: 1}}, b: {task: wnut17}}",
            "`tasks.a.data.max_length` is 1, expected at least 3. Correct it, or leave it out.",
        ),
        ("tasks: {a: {data: {path: x}}, b: {task: wnut17}}", "`tasks.a.task` is missing. Set it."),
        ("tasks: {a: wnut17, b: {task: wnut17}}", "`tasks.a` is 'wnut17', expected a group, name: value."),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str, tmp_path: Path) -> None:
    found = refused(tmp_path, text)
    assert found.startswith(f"1 setting in config.yaml is wrong: {said}")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    assert "'a' stands twice" in refused(tmp_path, "tasks:\n  a: {task: wnut17}\n  a: {task: wnut17}\n")


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    found = refused(
        tmp_path,
        "tasks: {a: {task: wnut17}}\nsampling: even\nshared_fraction: 2\nsampel: 3\n"
        "training: {epochs: 3, max_steps: 9}\nprompts: {prompt_lenght: 3}\n",
    )
    assert found.startswith("6 settings in config.yaml are wrong:\n")
    for word in ("tasks has 1", "`sampling`", "`shared_fraction`", "`sampel`", "training.epochs", "training.max_steps"):
        assert word in found
    assert "Did you mean `prompts.prompt_length`?" in found


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("multitask_*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_read_and_say_how_they_are_run(path: Path) -> None:
    config = load_multitask_config(path)
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert f"ptuning multitask examples/{path.name}" in header
    assert all(f"--data {name}=$PTUNING_DATA/{name}" in header for name in config.tasks)
    ways, total = 2, len(config.tasks) * len(config.seeds) * config.steps
    assert f"{ways * total:,} optimizer steps" in header


def test_there_are_configs_of_two_kinds() -> None:
    assert {load_multitask_config(path).kind for path in EXAMPLES.glob("multitask_*.yaml")} == {
        "token_classification",
        "classification",
    }
