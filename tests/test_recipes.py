"""Every shipped recipe loads, resolves and says where its settings are from; the official ones are as released."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from transformers import BertConfig, DebertaConfig, RobertaConfig

from ptuning.backbones.families import find_family
from ptuning.config import RunConfig, load_config, shipped_recipes, with_method_defaults
from ptuning.config.recipes import RECIPES, last_part
from ptuning.data.columns import KIND_ROLES
from ptuning.errors import ConfigError
from ptuning.tasks import get_kind, get_task
from ptuning.training.assembly import fitting_max_length
from ptuning.training.run import train

# By hand, from the released scripts: prompt length, learning rate, epochs, batch size, dropout, seed, tokens.
OFFICIAL = {
    "super_glue/boolq/bert-large-cased": (40, 5e-3, 100, 32, 0.1, 11, 128),
    "super_glue/boolq/roberta-large": (8, 7e-3, 100, 32, 0.1, 11, 128),
    "super_glue/copa/bert-large-cased": (16, 1e-2, 80, 16, 0.1, 44, 128),
    "super_glue/copa/roberta-large": (8, 9e-3, 120, 16, 0.1, 11, 128),
    "super_glue/rte/bert-large-cased": (20, 1e-2, 60, 32, 0.1, 11, 128),
    "super_glue/rte/roberta-large": (128, 5e-3, 100, 32, 0.1, 11, 128),
    "super_glue/wic/bert-large-cased": (20, 1e-4, 80, 16, 0.1, 44, 128),
    "super_glue/wic/roberta-large": (8, 1e-2, 50, 32, 0.1, 11, 128),
    "super_glue/wsc/bert-large-cased": (20, 5e-3, 80, 16, 0.1, 44, 128),
    "super_glue/wsc/roberta-large": (8, 1e-2, 10, 16, 0.1, 44, 128),
    "conll2003/roberta-large": (11, 3e-2, 30, 16, 0.1, 11, 501),
    "conll2004/bert-large-uncased": (128, 2e-2, 40, 32, 0.2, 11, 384),
    "conll2004/roberta-large": (144, 6e-2, 80, 32, 0.1, 11, 368),
    "ontonotes5/bert-large-uncased": (16, 1e-2, 30, 16, 0.1, 11, 496),
    "ontonotes5/roberta-large": (48, 7e-3, 60, 16, 0.1, 14, 464),
    "srl/conll2005/roberta-large": (224, 6e-3, 15, 16, 0.1, 11, 288),
    "srl/conll2012/bert-large-uncased": (128, 5e-3, 45, 16, 0.1, 11, 384),
    "srl/conll2012/roberta-large": (64, 5e-3, 45, 32, 0.1, 11, 448),
    "squad/roberta-large": (16, 5e-3, 30, 8, 0.2, 11, 384),
    "squad_v2/roberta-large": (8, 5e-3, 10, 8, 0.2, 11, 384),
}
BERTS = ("bert-large-cased", "bert-large-uncased")
NAMES = list(shipped_recipes())
# What the backbones' own configs say of positions.
CONFIGS: dict[str, Any] = {
    **dict.fromkeys(BERTS, BertConfig(max_position_embeddings=512)),
    "roberta-large": RobertaConfig(max_position_embeddings=514, pad_token_id=1),
    "deberta-xlarge": DebertaConfig(max_position_embeddings=512, position_biased_input=False, relative_attention=True),
}


def _picked(name: str) -> RunConfig:
    """By the command that stands in the file."""
    one = shipped_recipes()[name]
    return with_method_defaults(load_config(None, {"task": one.task, "backbone": one.backbone, "recipe": "paper"}))


def _by_kind(config: RunConfig) -> dict[str, Any]:
    """What the official code sets by the kind of task."""
    kind = get_task(config.task).kind
    pools = kind in ("classification", "regression", "multiple_choice", "cloze")
    return {
        "schedule": "linear" if pools else "exponential_per_epoch",
        "pooling": "pooler" if pools else None,
        "missing_pooler": "draw" if pools else "refuse",
        "predicate_input": "appended" if kind == "semantic_role_labeling" else None,
    }


def test_the_twenty_released_settings_are_there_and_no_other_is_called_official() -> None:
    official = {name for name, one in shipped_recipes().items() if one.origin == "official"}
    assert official == {f"paper/{name}" for name in OFFICIAL} and len(OFFICIAL) == 20


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_settings_are_those_of_the_scripts(name: str) -> None:
    config = _picked(f"paper/{name}")
    prompts, training = config.prompts, config.training
    found = (prompts.prompt_length, training.learning_rate, training.epochs, training.batch_size)
    assert (*found, prompts.dropout, training.seed, config.data.max_length) == OFFICIAL[name]
    assert training.backbone_dropout == prompts.dropout
    assert training.head_learning_rate in (None, training.learning_rate)
    if get_task(config.task).kind != "question_answering":
        assert config.head.dropout == prompts.dropout
    is_special = name == "super_glue/wic/bert-large-cased"
    assert prompts.reparameterization == ("mlp" if is_special else "none")
    assert config.data.template == (1 if is_special else 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_what_the_official_code_does_everywhere(name: str) -> None:
    config = _picked(name)
    training, wanted = config.training, _by_kind(config)
    assert (config.prompts.positions, config.prompts.init_std, config.prompts.init) == ("shifted", 0.02, "normal")
    assert config.prompts.layers == "all" and config.prompts.reparameterization_size == 512
    assert (training.warmup, training.weight_decay, training.max_grad_norm) == (0.0, 0.0, 1.0)
    assert (training.precision, training.accumulation, training.early_stopping) == ("fp32", 1, None)
    assert (training.schedule, config.head.pooling) == (wanted["schedule"], wanted["pooling"])
    assert config.head.missing_pooler == wanted["missing_pooler"]
    assert config.data.predicate_input == wanted["predicate_input"]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_fits_its_task_and_its_backbone(name: str, tmp_path: Path) -> None:
    config = _picked(name)
    task = get_task(config.task)
    assert config.recipe == "paper" and config.task == shipped_recipes()[name].task
    task.template(config.data.template)
    options: dict[str, Any] = {"label_names": ("O", "B-A0")} if "tags" in KIND_ROLES[task.kind] else {}
    options = {"label_names": ("no", "yes")} if task.kind == "classification" else options
    kind: Any = get_kind(task.kind)(**options)
    assert kind.resolve_metric(config.training.metric) == config.training.metric
    own = CONFIGS[last_part(config.backbone)]
    backbone: Any = SimpleNamespace(
        model=SimpleNamespace(config=own), family=find_family(own), name=shipped_recipes()[name].backbone
    )
    assert fitting_max_length(config, backbone, kind.max_length_default) == config.data.max_length
    as_saved = config.model_copy(update={"recipe": "default"})
    (tmp_path / "config.yaml").write_text(as_saved.to_yaml())
    assert load_config(tmp_path / "config.yaml") == as_saved


@pytest.mark.parametrize("name", NAMES)
def test_the_header_has_command_settings_paper_and_hardware(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    header = text.split("\ntask:")[0]
    one = shipped_recipes()[name]
    assert f"#   ptuning train --task {one.task} --backbone {one.backbone} --recipe paper\n" in header
    said = re.findall(r"^# ([A-Z][\w ]+):", header, re.MULTILINE)
    expected = ["Settings", "Paper", "Hardware"]
    assert [word for word in said if word in (*expected, "Official README")] == (
        expected if one.origin == "ours" else ["Settings", "Official README", "Paper", "Hardware"]
    )
    assert ("nothing was released for this" in header) == (one.origin == "ours")
    assert name == f"paper/{one.task}/{last_part(one.backbone)}"


_SCRIPTS = {
    "BoolQ": "super_glue/boolq",
    "RTE": "super_glue/rte",
    "SuperGLUE RTE": "super_glue/rte",
    "WSC": "super_glue/wsc",
    "OntoNotes": "ontonotes5",
    "CoNLL-2012": "srl/conll2012",
    "SQuAD 1.1": "squad",
    "SQuAD 2.0": "squad_v2",
}
_BY_US = {"epochs": "training.epochs", "batch size": "training.batch_size", "maximum length": "data.max_length"}


def _settings(name: str) -> dict[str, Any]:
    """What a file says, but for what task and backbone say."""
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    flat = {"task": values.pop("task"), "backbone": values.pop("backbone")}
    flat |= {f"{group}.{key}": value for group, own in values.items() for key, value in own.items()}
    return {key: value for key, value in flat.items() if key not in ("task", "backbone", "training.metric")}


@pytest.mark.parametrize("name", [name for name, one in shipped_recipes().items() if one.origin == "ours"])
def test_our_settings_are_those_of_the_script_that_the_header_names_but_for_what_it_says(name: str) -> None:
    header = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\ntask:")[0]
    said = re.search(
        r"taken from the (?:([\w. -]+?) )?script (?:that is named )?for (BERT|RoBERTa)-large"
        r"(?:, which [\w ]+)?(?:, ([\w ]+) by us)?[,).]",
        re.sub(r"\n#\s+", " ", header),
    )
    assert said is not None, header
    task = _SCRIPTS[said[1]] if said[1] else shipped_recipes()[name].task
    (source,) = [
        official
        for official in OFFICIAL
        if official.startswith(f"{task}/") and last_part(official).startswith(f"{said[2].lower()}-large")
    ]
    free = [_BY_US[one] for one in said[3].split(" and ")] if said[3] else []
    found, expected = _settings(name), _settings(f"paper/{source}")
    differ = {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
    assert differ - set(free) == set()


@pytest.mark.parametrize(
    "backbone",
    [
        "roberta-large",
        "FacebookAI/roberta-large",
        "/models/roberta-large/",
        "models\\RoBERTa-large",
        Path("m/roberta-large"),
    ],
)
def test_paper_is_picked_by_the_last_part_of_the_backbone(backbone: str | Path) -> None:
    config = load_config(None, {"task": "super_glue/rte", "backbone": backbone, "recipe": "paper"})
    assert (config.prompts.prompt_length, config.backbone) == (128, str(backbone))


def test_a_recipe_can_be_named_for_any_task_and_backbone() -> None:
    named = {"recipe": "paper/super_glue/rte/roberta-large"}
    assert load_config(None, named).backbone == "roberta-large" and load_config(None, named).task == "super_glue/rte"
    other = load_config(None, {**named, "task": "classification", "backbone": "roberta-base"})
    assert (other.task, other.backbone, other.prompts.prompt_length) == ("classification", "roberta-base", 128)


def test_another_method_takes_of_a_recipe_what_it_has() -> None:
    named = {"recipe": "paper/super_glue/rte/roberta-large", "task": "super_glue/rte", "backbone": "roberta-large"}
    papers = load_config(None, named)
    found = with_method_defaults(load_config(None, {**named, "method": "fine-tuning"}))
    assert found.prompts.prompt_length == 20 != papers.prompts.prompt_length
    assert (found.training.epochs, found.head.pooling) == (papers.training.epochs, papers.head.pooling)
    given = {**named, "method": "fine-tuning", "prompts.prompt_length": papers.prompts.prompt_length}
    with pytest.raises(ConfigError, match="prompts.prompt_length is .*, but method fine-tuning has no prompts"):
        with_method_defaults(load_config(None, given))


def test_file_and_flags_win_over_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("task: super_glue/rte\nbackbone: roberta-large\nrecipe: paper\ntraining: {epochs: 3, seed: 1}\n")
    config = load_config(path, {"training.seed": 2})
    assert (config.training.epochs, config.training.seed, config.training.learning_rate) == (3, 2, 5e-3)
    with pytest.raises(ConfigError, match="no settings for super_glue/rte on minilm"):
        load_config(path, {"backbone": "minilm"})


def test_a_file_of_a_recipes_name_is_read_where_no_recipe_has_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "mine.yaml").write_text("training: {epochs: 2}\n")
    assert load_config(None, {"task": "classification", "recipe": "paper/mine.yaml"}).training.epochs == 2


def test_where_there_is_none_those_that_there_are_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {"task": "conll2004", "recipe": "paper"})
    assert str(caught.value) == (
        "recipe is `paper`, which has no settings for conll2004 on minilm, but for bert-large-uncased, "
        "microsoft/deberta-xlarge, roberta-large. Use one of those backbones, or name the settings to use with any: "
        "--recipe paper/conll2004/bert-large-uncased or paper/conll2004/deberta-xlarge or "
        "paper/conll2004/roberta-large."
    )


@pytest.mark.parametrize(
    ("task", "backbone", "rows"),
    [
        ("super_glue/rte", "roberta-large", {"premise": "the red lamp", "hypothesis": "a lamp"}),
        (
            "super_glue/wic",
            "bert-large-cased",
            {"word": "lamp", "sentence1": "a red lamp", "sentence2": "the lamp is late", "start1": 6, "end1": 10}
            | {"start2": 4, "end2": 8},
        ),
    ],
)
def test_a_recipe_trains_from_local_files_on_a_local_backbone(
    task: str, backbone: str, rows: dict[str, Any], tiny_backbone: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_backbone, tmp_path / backbone)
    for split in ("train", "validation"):
        lines = [json.dumps({**rows, "label": index % 2}) + "\n" for index in range(8 if split == "train" else 4)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    smaller: dict[str, Any] = {"data.max_length": 40, "prompts.prompt_length": 4, "training.max_steps": 2}
    config = load_config(
        None,
        {"task": task, "backbone": str(tmp_path / backbone), "recipe": "paper", "data.path": str(tmp_path)}
        | {**smaller, "training.device": "cpu", "output": str(tmp_path / "run")},
    )
    train(config)
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert saved.training.head_learning_rate == config.training.learning_rate
    assert saved.prompts == with_method_defaults(config).prompts
    tensors = load_file(tmp_path / "run" / "prompt" / "prompts.safetensors")
    assert set(tensors) == {"prompts", "head.linear.weight", "head.linear.bias"}
