"""Every method through the same run: the same examples, heads and files, whatever is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from ptuning.backbones.loading import load_backbone
from ptuning.checkpoint import _digest_of, read_prompt, save_prompt
from ptuning.config import METHODS, load_config, with_method_defaults
from ptuning.config import methods as config_methods
from ptuning.errors import BackboneError, BackboneMismatchError, CheckpointError, ConfigError, PromptError
from ptuning.evaluation import evaluate
from ptuning.methods import all_weights
from ptuning.model import PromptedModel, trained_parameters
from ptuning.predictor import load
from ptuning.tasks.classification import Classification
from ptuning.training import execution, loop
from ptuning.training import run as training_run
from ptuning.training.run import prepare_task, train

TinyRun = Callable[..., Any]
STEPS = [name for name, method in METHODS.items() if method.makes_steps]
PATTERN = "{text} it is {mask}."
WORDS = {"red": "red", "blue": "blue", "green": "green"}
KINDS = (
    "classification",
    "regression",
    "multiple_choice",
    "token_classification",
    "semantic_role_labeling",
    "question_answering",
    "cloze",
)


@pytest.fixture(scope="module")
def with_words(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny backbone with a language-modeling head."""
    directory = tmp_path_factory.mktemp("masked") / "tiny-bert-mlm"
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(tiny_backbone)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def run(tiny_run: TinyRun, with_words: str) -> TinyRun:
    """Settings of a method's run, with pattern and words where it needs them."""

    def settings(output: Path, method: str, kind: str = "classification", **overrides: Any) -> Any:
        more: dict[str, Any] = {"backbone": with_words}
        if METHODS[method].needs_pattern or overrides.get("head.kind") == "verbalizer":
            more |= {"data.pattern": PATTERN, "head.words": WORDS}
            if METHODS[method].has_input_prompts and method != "prompt-tuning":
                more["data.pattern"] = "{prompt}" + PATTERN
        return tiny_run(output, kind, method=method, **{**more, **overrides})

    return settings


def _steps(method: str, count: int) -> dict[str, int]:
    """Few steps, for a method that makes some."""
    return {"training.max_steps": count} if METHODS[method].makes_steps else {}


@pytest.mark.parametrize("method", list(METHODS))
def test_a_saved_and_loaded_method_predicts_what_it_did(method: str, run: TinyRun, tmp_path: Path) -> None:
    result = train(run(tmp_path / "run", method))
    found = evaluate(tmp_path / "run")
    assert found.metrics == pytest.approx(result.metrics, abs=1e-9)
    saved = read_prompt(tmp_path / "run")
    assert saved.method == method and saved.metrics == result.metrics
    predictor = load(tmp_path / "run")
    before = predictor.predict([{"text": "red lamp"}, {"text": "the blue parcel is late"}])
    predictor.close()
    copied = save_prompt(tmp_path / "copy", saved)
    assert load(copied).predict([{"text": "red lamp"}, {"text": "the blue parcel is late"}]) == before


@pytest.mark.parametrize("method", list(METHODS))
def test_counts_are_those_of_what_is_saved(method: str, run: TinyRun, tmp_path: Path) -> None:
    result = train(run(tmp_path / "run", method, **_steps(method, 2)))
    sizes = {"head": 0, "other": 0}
    for path in (tmp_path / "run" / "prompt").glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            sizes["head" if name.startswith("head.") else "other"] += tensor.numel()
    assert (result.counts["prompts"], result.counts["head"]) == (sizes["other"], sizes["head"])
    # 4 virtual tokens of 32 units: where a network makes them, it and what goes into it are trained instead
    saved, (width, length, inner) = read_prompt(tmp_path / "run"), (32, 4, 512)
    made, linear = 2 * saved.prompts.shape[0] * width, width * width + width
    lstm = 2 * 2 * (4 * (width // 2) * (width + width // 2) + 2 * 4 * (width // 2))  # two layers, both directions
    trained = {
        "prefix-tuning": length * width + width * inner + inner + inner * made + made,
        "p-tuning": length * width + lstm + 2 * linear,
    }
    assert result.counts["trained"] == trained.get(method, sizes["other"]) + sizes["head"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning", "lora"])
def test_a_method_takes_every_kind_of_task(method: str, kind: str, run: TinyRun, tmp_path: Path) -> None:
    train(run(tmp_path / "run", method, kind, **{"training.max_steps": 3}))
    assert evaluate(tmp_path / "run").metrics == pytest.approx(read_prompt(tmp_path / "run").metrics, abs=1e-6)


@pytest.mark.parametrize("kind", ["token_classification", "semantic_role_labeling", "question_answering"])
@pytest.mark.parametrize("method", ["prompt-tuning", "p-tuning"])
def test_virtual_tokens_leave_tags_and_spans_where_they_are(
    method: str, kind: str, run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows that are seen again and again are learned: labels stand at the tokens that they were given for."""
    faster = {"training.learning_rate": 3e-2, "training.epochs": 12, "training.evaluation_epochs": 12}
    losses: list[float] = []
    read = loop._read

    def watch(pending: Any, norms: Any, progress: Any, *rest: Any) -> None:
        losses.extend(float(value) for _, value in pending)
        read(pending, norms, progress, *rest)

    monkeypatch.setattr(loop, "_read", watch)
    train(run(tmp_path / "run", method, kind, **faster, **{"head.dropout": 0.0, "training.schedule": "constant"}))
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])


def test_all_methods_see_the_same_examples_in_the_same_order(
    run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of each forward in training, and their labels, whatever is trained."""
    seen: dict[str, list[Any]] = {}
    forward = PromptedModel.forward

    def watch(self: PromptedModel, input_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            seen.setdefault(method, []).append(input_ids.tolist())
        return forward(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(PromptedModel, "forward", watch)
    methods = [name for name in STEPS if name != "soft-prompts"]  # which reads them in a pattern
    for method in methods:
        train(run(tmp_path / method, method))
    assert all(seen[name] == seen["p-tuning-v2"] for name in methods)


def test_all_methods_have_the_same_head_and_metric(run: TinyRun, tmp_path: Path) -> None:
    heads = set()
    for method in [name for name in METHODS if METHODS[name].heads[0] == "linear"]:
        train(run(tmp_path / method, method, **_steps(method, 1)))
        saved = read_prompt(tmp_path / method)
        shapes = tuple((name, tuple(tensor.shape)) for name, tensor in sorted(saved.head_tensors.items()))
        heads.add((shapes, tuple(saved.metrics)))
    assert len(heads) == 1


@pytest.mark.parametrize("method", STEPS)
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    method: str, run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run(tmp_path / "whole", method))
    saves = 0
    save = execution.save_state

    def stop_after_the_first(*args: Any, **kwargs: Any) -> None:
        nonlocal saves
        save(*args, **kwargs)
        saves += 1
        if saves == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(execution, "save_state", stop_after_the_first)
        with pytest.raises(KeyboardInterrupt):
            train(run(tmp_path / "stopped", method))
    train(run(tmp_path / "stopped", method), resume=True)
    for name in ("prompts.safetensors", "model.safetensors"):
        whole, stopped = (tmp_path / which / "prompt" / name for which in ("whole", "stopped"))
        assert whole.exists() == stopped.exists()
        if whole.exists():
            first, second = load_file(whole), load_file(stopped)
            assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("method", ["p-tuning-v2", "prompt-tuning", "p-tuning", "fine-tuning", "bitfit", "lora"])
def test_a_verbalizer_head_adds_nothing_that_is_trained(
    method: str, run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = {"training.learning_rate": 5e-3} if method == "fine-tuning" else {}
    logits: list[torch.Tensor] = []
    score = Classification.predict

    def watch(kind: Any, outputs: Any, *rest: Any) -> Any:
        logits.append(torch.stack(list(outputs)))
        return score(kind, outputs, *rest)

    monkeypatch.setattr(Classification, "predict", watch)
    result = train(run(tmp_path / "run", method, **{"head.kind": "verbalizer", "training.epochs": 1, **rate}))
    assert result.counts["head"] == 0
    saved = read_prompt(tmp_path / "run")
    assert saved.head == {"kind": "verbalizer"} and not saved.head_tensors
    assert evaluate(tmp_path / "run").metrics == pytest.approx(result.metrics, abs=1e-9)
    torch.testing.assert_close(logits[-1], logits[-2], rtol=1e-5, atol=1e-5)


def test_prompting_needs_no_training_rows_to_say_what_it_says(run: TinyRun, tmp_path: Path) -> None:
    """Other training rows of the same labels change nothing."""
    first = train(run(tmp_path / "first", "prompting"))
    second = train(run(tmp_path / "second", "prompting", **{"data.max_train_rows": 5}))
    assert first.metrics == second.metrics and first.counts["trained"] == 0
    assert first.steps == 0 and first.best_epoch == 0


def test_the_linear_probe_takes_the_pooling_that_is_better_in_validation(run: TinyRun, tmp_path: Path) -> None:
    scores = {}
    for pooling in ("cls", "mean"):
        scores[pooling] = train(run(tmp_path / pooling, "linear-probe", **{"head.pooling": pooling})).metrics[
            "accuracy"
        ]
    best = train(run(tmp_path / "run", "linear-probe"))
    assert best.metrics["accuracy"] == max(scores.values())
    saved = read_prompt(tmp_path / "run")
    assert saved.head is not None and scores[saved.head["pooling"]] == max(scores.values())


def test_a_method_without_steps_leaves_a_whole_run(run: TinyRun, tmp_path: Path) -> None:
    config = run(tmp_path / "run", "linear-probe")
    train(config)
    found = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    files = {"prompt/README.md", "prompt/config.json", "prompt/prompts.safetensors"}
    assert found == {"config.yaml", "metrics.jsonl", *files}
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert line["validation"] == read_prompt(tmp_path / "run").metrics
    with pytest.raises(ConfigError, match="has a run already"):
        train(config)
    again = train(config, resume=True)
    assert (again.metrics, again.seconds) == (line["validation"], line["seconds"])
    with pytest.raises(ConfigError, match="was started with other settings: training.seed 11 then, 12 now"):
        train(run(tmp_path / "run", "linear-probe", **{"training.seed": 12}), resume=True)
    assert train(config, overwrite=True).metrics == line["validation"]


def test_fine_tuning_leaves_a_given_backbone_as_it_was(run: TinyRun, tmp_path: Path, with_words: str) -> None:
    backbone = load_backbone(with_words)
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    train(run(tmp_path / "run", "fine-tuning"), backbone=backbone)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    weights = load_file(tmp_path / "run" / "prompt" / "model.safetensors")
    assert weights.keys() == dict(backbone.model.named_parameters()).keys()
    assert not torch.equal(
        weights["encoder.layer.0.output.dense.weight"], before["encoder.layer.0.output.dense.weight"]
    )


def test_virtual_tokens_leave_room_for_themselves(run: TinyRun, tmp_path: Path, with_words: str) -> None:
    """The tiny backbone has 64 positions; max_length is what is left for real tokens, wherever virtual ones stand."""
    backbone = load_backbone(with_words)
    settings = {"data.max_length": None, "prompts.prompt_length": 10}
    plain = prepare_task(run(tmp_path, "prompt-tuning", **settings), backbone)
    assert plain.max_length == 54
    inside = {**settings, "data.pattern": "{prompt} {text} is {mask}"}
    in_pattern = prepare_task(run(tmp_path, "p-tuning", **inside), backbone)
    assert in_pattern.max_length == 54
    lengths = [sum(number >= 0 for number in one.sequences[0]) for one in in_pattern.train]
    short = prepare_task(run(tmp_path, "p-tuning", **inside | {"data.max_length": 9}), backbone)
    cut = [sum(number >= 0 for number in one.sequences[0]) for one in short.train]
    assert max(lengths) > 9 and cut == [min(length, 9) for length in lengths]
    assert all(one.length == length + 10 for one, length in zip(short.train, cut, strict=True))
    with pytest.raises(
        ConfigError, match=r"data.max_length is 60 and method prompt-tuning adds prompt_length 10, but .*54"
    ):
        prepare_task(run(tmp_path, "prompt-tuning", **{**settings, "data.max_length": 60}), backbone)


@pytest.mark.parametrize("init", ["normal", "vocabulary", "labels", "tokens", "text"])
def test_virtual_tokens_start_as_they_are_asked_to(init: str, run: TinyRun, tmp_path: Path, with_words: str) -> None:
    more = {"prompts.init_text": "the red door"} if init == "text" else {}
    rate = {"training.learning_rate": 1e-12, "training.max_steps": 1}
    train(run(tmp_path / "run", "prompt-tuning", **{"prompts.init": init, **rate, **more}))
    start = read_prompt(tmp_path / "run").adaptation.tensors["input_prompts"][0]
    backbone = load_backbone(with_words)
    weight = backbone.model.get_input_embeddings().weight
    distance, nearest = torch.cdist(start, weight).min(1)
    words = backbone.tokenizer.convert_ids_to_tokens(nearest.tolist())
    assert (distance < 1e-4).all() == (init != "normal")
    if init == "labels":  # in the order of the labels, which is that of the alphabet
        assert words[:3] == ["blue", "green", "red"]
    if init == "text":
        assert words == ["the", "red", "door", "the"]
    if init == "vocabulary":
        assert len(set(words)) == 4 and not any(word.startswith("[") for word in words)


def test_prompts_of_a_mixture_that_start_from_a_text_each_start_at_another_token(
    run: TinyRun, tmp_path: Path, with_words: str
) -> None:
    text = {"prompts.init": "text", "prompts.init_text": "the red door", "prompts.prompt_length": 3}
    settings = {**text, "prompts.mixture": 2, "training.learning_rate": 1e-12, "training.max_steps": 1}
    train(run(tmp_path / "run", "soft-prompts", backbone=with_words, **settings))
    backbone = load_backbone(with_words)
    start = read_prompt(tmp_path / "run").adaptation.tensors["input_prompts"]
    nearest = torch.cdist(start, backbone.model.get_input_embeddings().weight).argmin(2)
    words = [backbone.tokenizer.convert_ids_to_tokens(own.tolist()) for own in nearest]
    assert words == [["the", "red", "door"], ["red", "door", "the"]]
    with pytest.raises(PromptError, match="3 tokens, but prompts.mixture is 4: .* at least 4 tokens"):
        train(run(tmp_path / "more", "soft-prompts", backbone=with_words, **{**settings, "prompts.mixture": 4}))


def test_virtual_tokens_start_from_a_saved_prompt(run: TinyRun, tmp_path: Path) -> None:
    train(run(tmp_path / "first", "prompt-tuning"))
    rate = {"training.learning_rate": 1e-12, "training.max_steps": 1, "prompts.init": str(tmp_path / "first")}
    train(run(tmp_path / "second", "prompt-tuning", **rate))
    first, second = (read_prompt(tmp_path / name).adaptation.tensors["input_prompts"] for name in ("first", "second"))
    torch.testing.assert_close(first, second)
    train(run(tmp_path / "deep", "p-tuning-v2"))
    with pytest.raises(PromptError, match=r"has method p-tuning-v2, expected virtual tokens of the input \(1, 4, 32\)"):
        train(run(tmp_path / "third", "prompt-tuning", **{"prompts.init": str(tmp_path / "deep")}))


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("soft-prompts", {"head.kind": "linear"}, "head.kind is linear, but method soft-prompts works with verbalizer"),
        (
            "linear-probe",
            {"head.kind": "verbalizer"},
            "head.kind is verbalizer, but method linear-probe works with linear",
        ),
        ("p-tuning-v2", {"prompts.reparameterization": "lstm"}, "is lstm, but method p-tuning-v2 has none or mlp"),
        ("prefix-tuning", {"prompts.reparameterization": "none"}, "is none, but method prefix-tuning has mlp"),
        ("p-tuning-v2", {"prompts.init": "vocabulary"}, "prompts.init is vocabulary, which is a start for embeddings"),
        ("p-tuning", {"prompts.init": "labels"}, "but the lstm of prompts.reparameterization produces the prompts"),
        ("p-tuning-v2", {"prompts.mixture": 2}, "method p-tuning-v2 has no mixture of prompts"),
        (
            "prompt-tuning",
            {"prompts.positions": "shifted"},
            "virtual tokens of prompt-tuning have positions of their own",
        ),
        ("prompt-tuning", {"prompts.prompt_length": 0}, "prompts.prompt_length is 0, but method prompt-tuning is its"),
        ("soft-prompts", {"training.gradient_checkpointing": True}, "what soft-prompts adds to layers is not there"),
        ("lora", {"training.compile": True}, "method lora changes what compiled layers cannot see"),
        ("bitfit", {"prompts.init": "tokens"}, "prompts.init is tokens, but method bitfit has no prompts. Leave it"),
        ("fine-tuning", {"prompts.prompt_length": 8}, "prompts.prompt_length is 8, but method fine-tuning has no pro"),
        ("prompt-tuning", {"prompts.layers": "last:1"}, "prompts.layers is last:1, but the virtual tokens of prompt-t"),
        (
            "linear-probe",
            {"training.learning_rate": 0.1},
            "training.learning_rate is 0.1, but method linear-probe makes",
        ),
        ("linear-probe", {"head.dropout": 0.3}, "head.dropout is 0.3, but method linear-probe trains no head by steps"),
        ("p-tuning-v2", {"lora.rank": 4}, "lora.rank is 4, but method p-tuning-v2 has no low-rank change, as lora"),
        (
            "prompting",
            {"head.init": "x"},
            "head.init is .*x, but method prompting trains no head by steps. Leave it out",
        ),
        (
            "bitfit",
            {"head.kind": "verbalizer", "head.dropout": 0.3},
            "head.dropout is 0.3, but head.kind is verbalizer",
        ),
        (
            "bitfit",
            {"head.kind": "verbalizer", "head.pooling": "mean", "training.head_learning_rate": 0.1},
            r"2 settings .*\n  head.pooling is mean, but head.kind is .*\n  training.head_learning_rate is 0.1, but",
        ),
        ("bitfit", {"head.words": {"red": "a"}}, "head.words is {'red': 'a'}, but head.kind is linear, which reads no"),
        (
            "prompting",
            {"lora.rank": 4, "training.epochs": 3},
            r"2 settings are none of method prompting:\n  lora.rank is 4, .*\n  training.epochs is 3, but method ",
        ),
    ],
)
def test_settings_that_do_not_fit_the_method_are_refused(
    method: str, settings: dict[str, Any], message: str, run: TinyRun, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(run(tmp_path / "run", method, **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["prompting", "soft-prompts"])
def test_a_backbone_without_a_language_modeling_head_is_refused_by_name(
    method: str, run: TinyRun, tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_run, "load_task_data", None)  # no row is read before
    with pytest.raises(BackboneError, match="tiny-bert"):
        train(run(tmp_path / "run", method, backbone=str(tiny_backbone)))


def test_a_method_that_has_the_backbone_for_itself_is_loaded_alone(run: TinyRun, tmp_path: Path) -> None:
    for method in ("p-tuning-v2", "bitfit"):
        train(run(tmp_path / method, method, **{"training.max_steps": 1}))
    with pytest.raises(PromptError, match="one of them of method bitfit, which has the backbone for itself"):
        load([tmp_path / "p-tuning-v2", tmp_path / "bitfit"])


@pytest.mark.parametrize("method", ["prompt-tuning", "lora", "bitfit", "fine-tuning"])
def test_damage_and_other_backbones_are_noticed(method: str, run: TinyRun, tmp_path: Path, tiny_backbone: Path) -> None:
    train(run(tmp_path / "run", method, **{"training.max_steps": 1}))
    with pytest.raises(BackboneMismatchError):
        load(tmp_path / "run", backbone=str(tiny_backbone))
    name = "model.safetensors" if method == "fine-tuning" else "prompts.safetensors"
    path = tmp_path / "run" / "prompt" / name
    path.write_bytes(path.read_bytes()[:-4] + b"abcd")
    with pytest.raises(CheckpointError, match=f"{name} has sha256"):
        load(tmp_path / "run")


def test_a_probe_reads_no_pooler(run: TinyRun, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="head.pooling is pooler, but linear-probe is fitted on hidden states as they"
    ):
        train(run(tmp_path / "run", "linear-probe", **{"head.pooling": "pooler", "head.missing_pooler": "draw"}))


def test_a_run_of_another_method_is_not_taken_for_a_probe(run: TinyRun, tmp_path: Path) -> None:
    train(run(tmp_path / "run", "p-tuning-v2", **{"training.max_steps": 1}))
    with pytest.raises(ConfigError, match="method 'p-tuning-v2' then, 'linear-probe' now"):
        train(run(tmp_path / "run", "linear-probe"), resume=True)


@pytest.mark.parametrize(
    "wrong",
    [{"tensors": 5}, {"rank": 0}, {"rank": "x"}, {"modules": 3}, {"alpha": "a"}, {"precision": 7}, {"place": "x"}],
)
def test_wrong_options_of_a_stranger_are_one_error(wrong: dict[str, Any], run: TinyRun, tmp_path: Path) -> None:
    train(run(tmp_path / "run", "lora", **{"training.max_steps": 1}))
    path = tmp_path / "run" / "prompt" / "config.json"
    config = json.loads(path.read_text())
    config["adaptation"] |= wrong
    path.write_text(json.dumps(config | {"digest": _digest_of(config)}))
    with pytest.raises(CheckpointError, match=f"adaptation.{next(iter(wrong))}"):
        load(tmp_path / "run")


@pytest.mark.parametrize("dropout", ["off", 0.3])
def test_dropout_of_lora_is_its_own(
    dropout: Any, run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, float]] = []
    forward = PromptedModel.forward

    def watch(self: PromptedModel, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            own = [m for name, m in self.named_modules() if "lora_dropout" in name and hasattr(m, "p")]
            seen.extend((module.training, module.p) for module in own)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(PromptedModel, "forward", watch)
    settings = {"lora.dropout": 0.2, "training.backbone_dropout": dropout, "training.max_steps": 1}
    train(run(tmp_path / "run", "lora", **settings))
    assert seen and set(seen) == {(True, 0.2)}


def test_defaults_depend_on_the_method(run: TinyRun, tmp_path: Path) -> None:
    found = {method: with_method_defaults(run(tmp_path, method), hidden_size=384) for method in METHODS}
    assert {
        name: config.prompts.reparameterization for name, config in found.items() if METHODS[name].reparameterizations
    } == {
        "p-tuning-v2": "none",
        "prefix-tuning": "mlp",
        "prompt-tuning": "none",
        "p-tuning": "lstm",
        "soft-prompts": "none",
    }
    assert found["p-tuning-v2"].training.learning_rate == 4e-2
    assert found["fine-tuning"].training.learning_rate == 5e-5
    assert found["prompting"].training.learning_rate is None


def test_a_wider_backbone_has_a_lower_rate(run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS["p-tuning-v2"]
    rates = {width: method.learning_rate_at(width) for width in (32, 384, 768, 1024, 4096)}
    assert rates == {32: 0.04, 384: 0.04, 768: 0.02, 1024: 0.015, 4096: 0.00375}
    assert METHODS["bitfit"].learning_rate_at(4096) == METHODS["bitfit"].learning_rate

    narrow = {**METHODS, method.name: replace(method, full_rate_up_to=8)}  # a quarter of this backbone's width
    monkeypatch.setattr(config_methods, "METHODS", narrow)
    train(run(tmp_path / "run", "p-tuning-v2", **{"training.max_steps": 1}))
    found = load_config(tmp_path / "run" / "config.yaml").training
    assert found.learning_rate == found.head_learning_rate == 0.01
    train(run(tmp_path / "given", "p-tuning-v2", **{"training.max_steps": 1, "training.learning_rate": 0.04}))
    assert load_config(tmp_path / "given" / "config.yaml").training.learning_rate == 0.04


def test_an_mlp_has_a_rate_of_its_own_and_its_head_another(run: TinyRun, tmp_path: Path) -> None:
    def rates(method: str, **settings: Any) -> tuple[float | None, float | None]:
        training = with_method_defaults(run(tmp_path, method, **settings), hidden_size=32).training
        return training.learning_rate, training.head_learning_rate

    mlp = {"prompts.reparameterization": "mlp"}
    assert rates("p-tuning-v2") == (4e-2, None)
    assert rates("p-tuning-v2", **mlp) == rates("prefix-tuning") == (2e-3, 1e-2)
    assert rates("prefix-tuning", **{"training.head_learning_rate": 0.5}) == (2e-3, 0.5)
    # one rate for both where it is given, as in the official recipes
    assert rates("prefix-tuning", **{"training.learning_rate": 1e-4}) == (1e-4, None)
    assert rates("prefix-tuning", **{"training.learning_rate_probe": True}) == (None, 1e-2)
    words = {"head.kind": "verbalizer", "data.pattern": "{text} It was {mask}.", "head.words": {"blue": "blue"}}
    assert rates("prefix-tuning", **words) == (2e-3, None)  # nothing of its own is trained


def test_gradients_reach_what_a_method_trains_and_nothing_else(
    run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside: dict[str, set[str]] = {}
    original = loop.make_optimizer

    def watch(model: PromptedModel, configs: Any) -> Any:
        optimizer = original(model, configs)
        given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert given == {id(parameter) for parameter in trained_parameters(model).values()}
        own = {"p-tuning-v2": "bank.", "prompt-tuning": "adaptation.", "bitfit": "adaptation.", "lora": "backbone."}
        outside[method] = {n for n in trained_parameters(model) if not n.startswith((own[method], "heads."))}
        return optimizer

    monkeypatch.setattr(execution, "make_optimizer", watch)
    for method in ("p-tuning-v2", "prompt-tuning", "bitfit", "lora"):
        train(run(tmp_path / method, method, **{"training.max_steps": 1}))
    assert outside == {"p-tuning-v2": set(), "prompt-tuning": set(), "bitfit": set(), "lora": set()}


@pytest.mark.parametrize("method", list(METHODS))
def test_the_complete_settings_of_a_run_are_those_of_its_method(method: str, run: TinyRun, tmp_path: Path) -> None:
    """`config.yaml` says everything, defaults too, and can be given again."""
    train(run(tmp_path / "run", method, **_steps(method, 1)))
    again = load_config(tmp_path / "run" / "config.yaml", {"output": str(tmp_path / "again")})
    assert train(again).metrics == read_prompt(tmp_path / "run").metrics


def test_a_backbone_that_a_run_has_for_itself_is_tuned_without_a_copy(
    run: TinyRun, tmp_path: Path, with_words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = train(run(tmp_path / "given", "fine-tuning"), backbone=load_backbone(with_words))
    monkeypatch.setattr(all_weights, "copy", None)  # nothing is copied from here on
    assert train(run(tmp_path / "own", "fine-tuning")).metrics == given.metrics
    for name in ("model.safetensors", "prompts.safetensors"):
        first, second = (load_file(tmp_path / which / "prompt" / name) for which in ("given", "own"))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert evaluate(tmp_path / "own").metrics == pytest.approx(given.metrics, abs=1e-9)
    predictor = load(tmp_path / "own")
    predictor.close()
    with pytest.raises(BackboneMismatchError):  # it is tuned, and says so
        load(tmp_path / "own", backbone=predictor.backbone)


def test_fine_tuning_in_bf16_keeps_its_weights_in_float32(run: TinyRun, tmp_path: Path, with_words: str) -> None:
    before = dict(load_backbone(with_words).model.named_parameters())
    still = {"training.learning_rate": 1e-12, "training.max_steps": 1, "training.precision": "bf16"}
    train(run(tmp_path / "run", "fine-tuning", **still))
    for name, weights in load_file(tmp_path / "run" / "prompt" / "model.safetensors").items():
        torch.testing.assert_close(weights, before[name], rtol=0, atol=1e-9)
    assert read_prompt(tmp_path / "run").precision == "bf16"


def test_a_tuned_backbone_computes_in_what_it_is_asked_to(run: TinyRun, tmp_path: Path, with_words: str) -> None:
    train(run(tmp_path / "run", "fine-tuning", **{"training.precision": "bf16", "training.max_steps": 2}))
    backbone = load_backbone(with_words)
    row = [{"text": "the blue parcel is late"}]

    def asked(**options: Any) -> dict[str, float]:
        predictor = load(tmp_path / "run", **options)
        assert {parameter.dtype for parameter in predictor.backbone.model.parameters()} == {torch.float32}
        return predictor.predict(row)[0]["scores"]

    whole, half = asked(dtype=torch.float32), asked(dtype=torch.bfloat16)
    assert whole != half and whole == pytest.approx(half, abs=0.05)
    assert asked() == whole, "this machine does not compute bfloat16 natively"
    assert asked(backbone=backbone) == half, "as in training"
    assert asked(backbone=backbone, dtype=torch.float32) == whole


def test_soft_prompts_change_what_every_layer_but_the_last_gives(
    run: TinyRun, tmp_path: Path, tiny_backbone: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_backbone)
    config.num_hidden_layers = 4
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "four-layers")
    AutoTokenizer.from_pretrained(tiny_backbone).save_pretrained(tmp_path / "four-layers")
    settings = {"backbone": str(tmp_path / "four-layers"), "training.max_steps": 2, "prompts.mixture": 2}
    train(run(tmp_path / "run", "soft-prompts", **settings))
    changes = read_prompt(tmp_path / "run").adaptation.tensors["perturbations"]
    assert tuple(changes.shape) == (2, 3, 4, 32)  # mixture, layers, prompt_length, hidden_size
    assert changes.abs().amax((0, 2, 3)).gt(0).all()  # all of them have learned something
