from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ptuning.config import RunConfig, load_config, parse_settings, setting_names
from ptuning.errors import ConfigError


def _file(tmp_path: Path, text: str | bytes, name: str = "run.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _training(tmp_path: Path, text: str) -> Any:
    return load_config(_file(tmp_path, "task: classification\ntraining: {" + text + "}")).training


def test_defaults_need_only_a_task() -> None:
    config = load_config(overrides={"task": "regression"})
    assert config == RunConfig(task="regression")
    assert (config.backbone, config.method, config.prompts.prompt_length) == ("minilm", "p-tuning-v2", 20)
    assert (config.training.learning_rate, config.training.seed) == (None, 11)  # the rate is the method's


def test_defaults_lie_below_the_recipe_it_below_the_file_and_it_below_overrides(tmp_path: Path) -> None:
    recipe = _file(tmp_path, "training: {epochs: 2, seed: 2, batch_size: 2}\ndata: {columns: {text: a}}", "recipe.yaml")
    path = _file(
        tmp_path,
        f"task: classification\nrecipe: {recipe}\n"
        "training: {seed: 3, batch_size: 3}\ndata: {columns: {label: b}}",
    )
    config = load_config(path, {"training.batch_size": 4, "output": "runs/x"})
    training = config.training
    assert (training.accumulation, training.epochs, training.seed, training.batch_size) == (1, 2, 3, 4)
    assert config.data.columns == {"text": "a", "label": "b"}
    assert (config.recipe, config.output) == (str(recipe), "runs/x")


def test_later_overrides_win_and_groups_are_laid_over(tmp_path: Path) -> None:
    path = _file(tmp_path, "task: classification\ntraining: {epochs: 3}")
    given = {"training": {"seed": 4}, "training.seed": 5, "output": tmp_path}
    config = load_config(path, given)
    assert (config.training.epochs, config.training.seed) == (3, 5)
    assert config.output == str(tmp_path)
    assert given["training"] == {"seed": 4}


def test_a_recipe_may_come_from_the_overrides(tmp_path: Path) -> None:
    recipe = _file(tmp_path, "training: {epochs: 2}")
    config = load_config(overrides={"task": "classification", "recipe": str(recipe)})
    assert (config.training.epochs, config.recipe) == (2, str(recipe))


def test_a_group_without_settings_is_left_at_its_defaults(tmp_path: Path) -> None:
    path = _file(tmp_path, "task: classification\ntraining:\n  # epochs: 3\nprompts:\n")
    assert load_config(path, {"training.seed": 3}).training.seed == 3
    assert load_config(path).prompts == RunConfig(task="classification").prompts


def test_settings_cannot_be_changed() -> None:
    config = RunConfig(task="classification")
    with pytest.raises(ValueError, match="frozen"):
        config.training.seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("text", ["1e-2", "1.0e-2", "0.01", ".01", "1E-2", "'0.01'"])
def test_learning_rates_are_written_as_people_write_them(tmp_path: Path, text: str) -> None:
    assert _training(tmp_path, f"learning_rate: {text}").learning_rate == 0.01


def test_words_of_old_yaml_are_text(tmp_path: Path) -> None:
    path = _file(
        tmp_path, "task: classification\noutput: 2024-01-01\ndata: {labels: [yes, no, off, 1:30, 010]}\nbackbone: y"
    )
    config = load_config(path)
    assert config.data.labels == ["yes", "no", "off", "1:30", "010"]
    assert (config.output, config.backbone) == ("2024-01-01", "y")
    assert _training(tmp_path, "backbone_dropout: off, gradient_checkpointing: yes").backbone_dropout == "off"


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        ("training.learning_rate=1e-2", "training.learning_rate", 0.01),
        ("training.epochs= 5", "training.epochs", 5),
        (" prompts.layers =first:8", "prompts.layers", "first:8"),
        ("prompts.layers=[0, 3]", "prompts.layers", [0, 3]),
        ("prompts.init_text=a = b", "prompts.init_text", "a = b"),
        ("prompts.init_text='1e5'", "prompts.init_text", "1e5"),
        ("training.gradient_checkpointing=true", "training.gradient_checkpointing", True),
        ("training.backbone_dropout=off", "training.backbone_dropout", "off"),
        ("training.max_steps=", "training.max_steps", None),
        ("training.device=null", "training.device", None),
    ],
)
def test_values_of_set_are_yaml(pair: str, key: str, value: Any) -> None:
    assert parse_settings([pair]) == {key: value}
    assert type(parse_settings([pair])[key]) is type(value)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("training.epochs", "--set got 'training.epochs', expected KEY=VALUE. For example: --set training.epochs=5"),
        ("=5", "--set got '=5', expected KEY=VALUE"),
        (
            "a=[1",
            r"--set got 'a=\[1', whose value is not YAML \(.*line 1 column 3\), expected a value .* Put text with sp",
        ),
        ("a=" + "1" * 5000, "whose value is not YAML"),
    ],
)
def test_arguments_of_set_that_say_nothing_are_refused(pair: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_settings([pair])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "data.labels": [
                "yes",
                "1e5",
                "1",
                "null",
                "~",
                "true",
                "010",
                "1:30",
                "2024-01-01",
                " a",
                "a: b",
                "#",
                "é",
                "<<",
            ]
        },
        {"data.columns": {"text": "1", "label": "no"}, "data.path": "C:\\data", "data.max_length": 64},
        {"prompts.layers": [0, 5], "prompts.init": "text", "prompts.init_text": "line\nline: 'x' \"y\" 😀"},
        {"prompts.layers": "16-23", "prompts.positions": "shifted", "prompts.init_std": 0.02},
        {"prompts.layers": 3, "training.learning_rate": 1e-05, "prompts.init_std": 1e20},
        {"training.backbone_dropout": "off", "training.batch_tokens": 4096, "training.device": "cpu"},
        {"training.backbone_dropout": 0.25, "head.pooling": "mean", "training.seed": 2**32 - 1},
    ],
)
def test_saved_settings_are_read_back_equal(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = load_config(overrides={"task": "helpdesk/tickets", **changes})
    text = config.to_yaml()
    assert load_config(_file(tmp_path, text)) == config
    # Complete, and other programs read the same.
    assert yaml.safe_load(text) == config.model_dump(mode="json")


def _problems(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    """The problems, one a line, of a file that is wrong."""
    path = _file(tmp_path, "task: classification\n" + text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    one = re.fullmatch(rf"1 setting in {re.escape(str(path))} is wrong: (.*)", message)
    if one is not None:
        return [one[1]]
    first, *others = message.splitlines()
    assert first == f"{len(others)} settings in {path} are wrong:"
    return [other.removeprefix("  ") for other in others]


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("trainin: {}", "training"),
        ("bakbone: x", "backbone"),
        ("learning_rate: 1", "training.learning_rate"),
        ("learning-rate: 1", "training.learning_rate"),
        ("training: {learning-rate: 1}", "training.learning_rate"),
        ("training: {learning_rat: 1}", "training.learning_rate"),
        ("training: {prompt_length: 1}", "prompts.prompt_length"),
        ("head: {drop_out: 0.1}", "head.dropout"),
        ("prompts: {drop_out: 0.1}", "prompts.dropout"),
        ("training: {lr: 1}", "training.learning_rate"),
        ("prompts: {pre_seq_len: 8}", "prompts.prompt_length"),
        ("num_virtual_tokens: 8", "prompts.prompt_length"),
    ],
)
def test_unknown_settings_name_the_nearest_known_one(tmp_path: Path, text: str, nearest: str) -> None:
    assert _problems(tmp_path, text)[0].endswith(f"is not a setting. Did you mean `{nearest}`?")


def test_without_a_near_one_the_known_ones_are_listed(tmp_path: Path) -> None:
    assert _problems(tmp_path, "head: {zzz: 1}") == [
        "`head.zzz` is not a setting. Known ones in head: kind, words, length_penalty, pooling, "
        "missing_pooler, init, dropout."
    ]
    assert _problems(tmp_path, "zzz: 1") == [
        "`zzz` is not a setting. Known ones: task, recipe, backbone, revision, attention_direction, method, data, "
        "prompts, head, lora, training, output."
    ]
    assert _problems(tmp_path, "", {"head.": 1}) == [
        "`head.` is not a setting. Known ones in head: kind, words, length_penalty, pooling, "
        "missing_pooler, init, dropout."
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("training: {epochs: 0}", "`training.epochs` is 0, expected at least 1. Correct it, or leave it out."),
        (
            "training: {epochs: 1.5}",
            "`training.epochs` is 1.5, expected a whole number. Correct it, or leave it out.",
        ),
        (
            "training: {epochs: true}",
            "`training.epochs` is True, expected a number. Correct it, or leave it out.",
        ),
        (
            "training: {epochs: many}",
            "`training.epochs` is 'many', expected a whole number. Correct it, or leave it out.",
        ),
        ("training: {max_steps: 0}", "`training.max_steps` is 0, expected at least 1. Correct it, or leave it out."),
        (
            "training: {learning_rate: 0}",
            "`training.learning_rate` is 0, expected above 0. Correct it, or leave it out.",
        ),
        (
            "training: {learning_rate: 1.0e+38}",
            "`training.learning_rate` is 1e+38, expected at most 1e+30. Correct it, or leave it out.",
        ),
        (
            "training: {learning_rate: 1e999}",
            "`training.learning_rate` is inf, expected a finite number. Correct it, or leave it out.",
        ),
        (
            "training: {learning_rate: x}",
            "`training.learning_rate` is 'x', expected a number. Correct it, or leave it out.",
        ),
        ("training: {warmup: 1}", "`training.warmup` is 1, expected below 1. Correct it, or leave it out for 0.06."),
        (
            "training: {seed: 4294967296}",
            "`training.seed` is 4294967296, expected below 4294967296. Correct it, or leave it out for 11.",
        ),
        (
            "training: {gradient_checkpointing: 3}",
            "`training.gradient_checkpointing` is 3, expected true or false. Correct it, or leave it out for False.",
        ),
        (
            "training: {schedule: cosine}",
            "`training.schedule` is 'cosine', expected 'linear', 'constant' or 'exponential_per_epoch'. "
            "Correct it, or leave it out for linear.",
        ),
        ("training: fast", "`training` is 'fast', expected a group, name: value. Correct it."),
        ("data: {labels: [0, no]}", "`data.labels.0` is 0, expected text. Put it in quotes."),
        ("data: {labels: no}", "`data.labels` is 'no', expected a list. Correct it, or leave it out."),
        ("data: {columns: {a-b: 1}}", "`data.columns.a-b` is 1, expected text. Put it in quotes."),
        ("data: {columns: [text]}", "`data.columns` is ['text'], expected a group, name: value. Correct it."),
        ("output: 7", "`output` is 7, expected text. Put it in quotes."),
        ("1: x", "`1` is no name, expected text. Remove it, or put it in quotes."),
        (
            "training: {schedule: lineal}",
            "`training.schedule` is 'lineal', expected 'linear', 'constant' or 'exponential_per_epoch'. "
            "Did you mean linear? Correct it, or leave it out for linear.",
        ),
        ("head: {kind: mlp}", "`head.kind` is 'mlp', expected 'linear' or 'verbalizer'. Correct it, or leave it out."),
    ],
)
def test_values_out_of_range_say_what_was_given_and_expected(tmp_path: Path, text: str, line: str) -> None:
    assert _problems(tmp_path, text) == [line]


@pytest.mark.parametrize("value", ["{a: 1}", "1.5", "[0, x]", "[true]", "null"])
def test_a_setting_of_several_types_has_one_readable_problem(tmp_path: Path, value: str) -> None:
    (line,) = _problems(tmp_path, f"prompts: {{layers: {value}}}")
    assert line.endswith(
        "expected all, first:K, last:K, 16-23, or a list; 0 is the lowest. Correct it, or leave it out for all."
    )
    assert line.startswith(f"`prompts.layers` is {yaml.safe_load(value)!r}, ")


def test_a_probability_out_of_range_has_one_readable_problem(tmp_path: Path) -> None:
    for value in ("2", "-0.1", "on", "true"):
        (line,) = _problems(tmp_path, f"training: {{backbone_dropout: {value}}}")
        assert line.startswith("`training.backbone_dropout` is ")
        assert (
            "expected checkpoint (what the backbone was trained with), off (none at all), or a probability (of" in line
        )


def test_all_problems_are_reported_together(tmp_path: Path) -> None:
    text = (
        "training: {epochs: 0, learning_rate: x, foo: 1}\nprompts: {layers: {a: 1}, init: text}\n"
        "data: {labels: [1, 2]}\nbar: 1"
    )
    lines = _problems(tmp_path, text, {"training.seed": -1})
    assert [line.split("`")[1] for line in lines] == [
        "data.labels.0",
        "data.labels.1",
        "prompts.layers",
        "training.epochs",
        "training.learning_rate",
        "training.seed",
        "training.foo",
        "bar",
    ]


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ("init: text", "prompts.init is `text`, but prompts.init_text is missing. Give the text to start from."),
        (
            "init_text: hello",
            "prompts.init_text is 'hello', but prompts.init is left out, which does not read it. Set `init: text`, "
            "or leave init_text out.",
        ),
        (
            "init: tokens, reparameterization: mlp",
            "prompts.init is `tokens`, which needs `reparameterization: none`, since the MLP produces the prompts. "
            "Use `init: normal` with the MLP.",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, prompts: str, words: str) -> None:
    assert _problems(tmp_path, f"prompts: {{{prompts}}}") == [words]


def test_a_missing_task_names_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"^1 setting is wrong: `task` is missing. Set it, or pass --task.$"):
        load_config()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classification", "holds a str, expected settings. Write lines such as `task: classification`"),
        ("- a\n- b", "holds a list, expected settings"),
        (
            "task: [\n",
            "is not YAML: .*, line 2 column 1. Expected lines such as `task: classification`; correct that pla",
        ),
        ("task: a\n\tb: c", r"is not YAML: found character '\\t' that cannot start any token, line 2 column 1"),
        ("task: a\ntask: b", "is not YAML: 'task' stands twice, line 2 column 1"),
        ("task: !!python/name:os.system", "is not YAML: could not determine a constructor for the tag"),
        ("a: &a [*a]", "is not a setting"),
        ("? [a]\n: 1", "is not YAML: found unhashable key"),
        ("task: é".encode("latin1"), r"is not UTF-8 \(byte 0xe9 at 6\), expected YAML text. Save it as UTF-8"),
        ("task: \x00", "is not YAML: special characters are not allowed"),
        ("seed: " + "1" * 5000, "is not YAML: Exceeds the limit"),
    ],
)
def test_files_that_hold_no_settings_are_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(_file(tmp_path, text))


def test_paths_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="x.yaml cannot be read: No such file or directory. Give the path of a YAML text"
    ):
        load_config(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory. Give the path of a YAML text file"):
        load_config(tmp_path)
    for recipe in ("nowhere.yaml", None, 3):
        with pytest.raises(
            ConfigError, match="recipe is .*, expected `default`, `paper`, .* or the path of a YAML file. Check"
        ):
            load_config(overrides={"task": "classification", "recipe": recipe})


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert load_config(_file(tmp_path, b"\xef\xbb\xbftask: regression")).task == "regression"


def test_a_setting_is_no_group() -> None:
    with pytest.raises(
        ConfigError,
        match="`task.x` cannot be set: `task` is 'regression', expected one of the groups data, prompts, head, lora, "
        "training. Name a setting of those, such as training.epochs",
    ):
        load_config(overrides={"task": "regression", "task.x": 1})


def test_every_setting_has_a_name_and_says_what_it_is() -> None:
    names = setting_names()
    assert {"task", "data", "data.path", "prompts.layers", "head.pooling", "training.seed"} <= set(names)
    assert len(names) == len(set(names))
    for group in ("data", "prompts", "head", "training"):
        fields = RunConfig.model_fields[group].annotation.model_fields  # type: ignore[union-attr]
        assert all(field.description for field in fields.values())


def test_settings_of_multi_task_training_are_sent_to_its_command(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text("tasks: {a: {task: wnut17}, b: {task: conll2004}}\nsteps: 30\n")
    with pytest.raises(ConfigError, match="both.yaml has `tasks`, .* Use `ptuning multitask .*both.yaml`, or name"):
        load_config(path)
