"""The benchmarks run, and end with one JSON object; of their numbers only the arithmetic is looked at here."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ptuning import load_backbone
from ptuning.backbones.recomputation import is_recomputing
from ptuning.compare.cells import main_cells
from ptuning.compare.settings import load_compare_config
from ptuning.config import RunConfig, load_config, with_method_defaults
from ptuning.model import PromptedModel

ROOT = Path(__file__).resolve().parent.parent
LARGE_FAMILIES = {"deberta-v2", "eurobert", "glm2021", "t5", "umt5", "xlm-roberta-xl"}


def _last_line(script: str, *arguments: str, cwd: Path, **environment: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    assert done.returncode == 0, done.stderr
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return line


@pytest.fixture(scope="module")
def backbone() -> Path:
    """A tiny random BERT with a tokenizer."""
    spec = importlib.util.spec_from_file_location("wrong_inputs", ROOT / "tests" / "wrong_inputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wrong_inputs"] = module
    spec.loader.exec_module(module)
    directory: Path = module.tiny_backbone()
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--ragged", "--profile"]], ids=["full", "ragged"])
def test_both_sides_of_a_step_compute_the_same(more: list[str], backbone: Path, tmp_path: Path) -> None:
    sizes = ["--batch-size", "3", "--seq-len", "8", "--prompt-length", "4", "--repeats", "2", "--warmup", "1"]
    line = _last_line("training_step.py", "--backbone", str(backbone), *sizes, *more, cwd=tmp_path)
    dropout = line["dropout"]
    assert isinstance(dropout, dict) and set(dropout) == {"off", "on"}
    if "--profile" in more:
        shares = dropout["on"]["profile"]
        assert sum(shares.values()) == pytest.approx(1, abs=0.01)
        assert {"products of the layers", "random numbers"} <= set(shares)


def test_attention_in_steps_computes_what_the_fused_kernel_does(tmp_path: Path) -> None:
    line = _last_line("attention_on_cpu.py", "--lengths", "5", "200", "--tokens", "64", "--repeats", "1", cwd=tmp_path)
    assert [(one["dtype"], one["seq_len"], one["in_steps"]) for one in line["results"]] == [
        ("fp32", 5, True),
        ("fp32", 200, False),
        ("bf16", 5, True),
        ("bf16", 200, True),
    ]


def test_one_product_for_query_key_and_value_computes_what_three_do(tmp_path: Path) -> None:
    arguments = ["--hidden-size", "8", "--tokens", "5", "--repeats", "1"]
    line = _last_line("fused_products_on_cpu.py", *arguments, cwd=tmp_path)
    assert [(one["dtype"], one["tokens"]) for one in line["results"]] == [("fp32", 5), ("bf16", 5)]


@pytest.mark.slow
def test_probe_is_printed_beside_a_run(backbone: Path, tmp_path: Path) -> None:
    rows = [{"text": word, "label": label} for word, label in (("fine", "yes"), ("bad", "no"), ("so", "yes"))] * 4
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    arguments = ["--task", "classification", "--data", "data", "--backbone", str(backbone)]
    line = _last_line("compare_linear_probe.py", *arguments, "--set", "training.max_steps=1", cwd=tmp_path)
    scores = line["scores"]
    assert isinstance(scores, dict)
    assert set(scores) == {"linear probe, cls", "linear probe, mean", "prompts", "most frequent answer"}


@pytest.mark.slow
def test_start_up_says_how_long_each_start_takes(backbone: Path, tmp_path: Path) -> None:
    rows = [{"text": "fine " * 9, "label": label} for label in ("yes", "no")] * 6
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{split}.jsonl").write_text(text, encoding="utf-8")
    arguments = ["--task", "classification", "--data", "data", "--backbone", str(backbone), "--repeats", "1"]
    line = _last_line("start_up.py", *arguments, "--set", "prompts.prompt_length=4", cwd=tmp_path)
    for name in ("cold", "warm"):
        own = line[name]
        assert isinstance(own, dict)
        phases = [own[phase] for phase in ("imports", "backbone", "data", "step")]
        assert min(phases) > 0 and abs(sum(phases) - own["seconds"]) < 0.01
    assert isinstance(line["floor"], dict) and line["floor"]["seconds"] > 0


@pytest.fixture
def sentences(tmp_path: Path) -> Path:
    """A directory with a made-up `sst2`, in that set's columns."""
    directory = tmp_path / "sets" / "sst2"
    directory.mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 8)):
        rows = [
            {"sentence": " ".join([("fine", "bad")[index % 2]] + ["so"] * (index % 7)), "label": index % 2}
            for index in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return directory.parent


@pytest.mark.slow
def test_speed_gives_every_ratio_and_says_what_it_did_not_measure(
    backbone: Path, sentences: Path, tmp_path: Path
) -> None:
    sizes = [
        "--quick",
        "--batch-size",
        "4",
        "--rows",
        "40",
        "--prompt-length",
        "3",
        "--layers",
        "last:1",
        "--threads",
        "1",
    ]
    line = _last_line("speed.py", "--backbone", str(backbone), *sizes, cwd=tmp_path, PTUNING_DATA=str(sentences))
    wanted = {
        "epoch_ratio_peft_usual",
        "epoch_ratio_peft_equal",
        "trunk_reuse_ratio",
        "share_of_floor",
        "share_of_floor_fp32",
        "population_ratio",
        "population_halving_ratio",
    }
    assert {name for name in wanted if isinstance(line[name], float) and line[name] > 0} == wanted
    (skipped,) = line["not_measured"]
    assert skipped.startswith("Adapters")
    sides = line["sets"]["sst2"]["epochs"]
    assert set(sides) == {"ptuning bf16", "ptuning fp32", "ptuning bf16, backbone dropout", "peft", "full"}
    assert all(side["is_extrapolated"] and side["peak_mb"] > 0 for side in sides.values())
    assert sides["ptuning bf16"]["padding_share"] < sides["peft"]["padding_share"]


def test_speed_without_data_measures_no_epoch(backbone: Path, tmp_path: Path) -> None:
    line = _last_line("speed.py", "--backbone", str(backbone), "--quick", cwd=tmp_path, PTUNING_DATA=str(tmp_path))
    assert line["epoch_ratio_peft_usual"] is None and line["sets"] == {}
    assert any(skipped.startswith("sst2") for skipped in line["not_measured"])


@pytest.mark.slow
def test_speed_on_a_gpu_runs_on_a_tiny_backbone(tmp_path: Path) -> None:
    sizes = ["--tiny", "--batch-size", "2", "--prompt-lengths", "5", "--threads", "1"]
    line = _last_line("speed_gpu.py", "--device", "cpu", *sizes, cwd=tmp_path)
    sides = line["prompt_lengths"]["5"]["epochs"]
    assert set(sides) == {"ptuning padded", "peft fp32", "peft bf16", "full fp32", "full bf16"}
    assert all(side["tokens_per_second"] > 0 for side in sides.values())


def _part(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(f"speed_parts.{name}")


@pytest.mark.parametrize(("layers", "reuse"), [("all", ["off"] * 4), ("last:2", ["off"] * 4 + ["on"] * 2)])
def test_a_search_with_prompts_at_all_layers_has_no_trunk_to_reuse(
    layers: str, reuse: list[str], sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, report = _part("population", monkeypatch), _part("report", monkeypatch)
    asked: list[str] = []
    of_population = {"seconds": 2.0, "scores": [0.5, 0.75], "best": 1, "peak_mb": 1.0}
    monkeypatch.setattr(search, "_train", lambda *settings: asked.append(settings[-1]) or (4.0, 0.5))
    monkeypatch.setattr(search, "_population", lambda *settings: of_population)
    known = {"backbone": "", "prompt_length": 2, "batch_size": 4, "search_epochs": 2, "device": "cpu"}
    options = SimpleNamespace(directory=tmp_path, upper_layers=layers, **known)
    result = search.compare_search(options, sentences / "sst2", rows=8, rates=[0.1, 0.2, 0.3, 0.4])
    report.print_search(result)
    assert asked == reuse
    assert result["population_ratio"] == 2.0 / 16.0
    assert result["population_ratio_with_reuse"] == (None if layers == "all" else 2.0 / 16.0)


def test_turns_of_all_sides_alternate_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    order = _part("workers", monkeypatch).stretched({"often": 6, "rarely": 2}, 2)
    assert order == [("often", 3), ("rarely", 1), ("often", 3), ("rarely", 1)]
    order = _part("workers", monkeypatch).stretched({"often": 7, "rarely": 1}, 3)
    assert [name for name, _ in order].count("rarely") == 1 and sum(turns for _, turns in order) == 8


def test_an_epoch_is_extrapolated_by_positions_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds_of_blocks = _part("epochs", monkeypatch).epoch_seconds_of_blocks
    # Two blocks: 10 positions in 1 s, then 30 in 6 s; the epoch has 100.
    assert seconds_of_blocks([0.5, 0.5, 4.0, 2.0], [5, 5, 20, 10], 100, 2) == pytest.approx([10.0, 20.0])
    assert seconds_of_blocks([1.0], [10], 100, 5) == pytest.approx([10.0])


def test_floor_counts_the_products_that_a_step_cannot_do_without(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor = _part("floor", monkeypatch)
    loaded = load_backbone(backbone)
    matrices = floor.matrices_of(loaded)
    weights = [p for name, p in loaded.model.named_parameters() if ".layer." in name and p.ndim == 2]
    size = sum(p.numel() for p in weights)
    hidden, layers = loaded.description.hidden_size, loaded.description.num_layers
    assert sum(layer.input_side + layer.rest for layer in matrices.layers) == size
    assert [layer.input_side for layer in matrices.layers] == [3 * hidden**2] * layers
    count = floor.operations_per_position
    assert count(matrices, trains_weights=True) == 6 * size
    assert count(matrices) == 4 * size - 2 * 3 * hidden**2  # nothing below needs a gradient through query, key, value
    assert count(matrices, lowest_prompted=layers) == 2 * size
    assert count(matrices, lowest_prompted=1) == 4 * size - 2 * (size // layers) - 2 * 3 * hidden**2


def test_sample_of_batches_has_all_sizes_and_begins_with_the_largest(
    backbone: Path, sentences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, loaded = _part("rows", monkeypatch), load_backbone(backbone)
    made = rows.load_set("sst2", sentences, loaded, device="cpu", batch_size=4, rows=None, directory=tmp_path)
    batches = made.our_batches()
    first, *drawn = made.sample(batches, 3)
    sizes = sorted(map(made.positions, batches))
    assert made.positions(first) == sizes[-1]
    assert sorted(map(made.positions, drawn)) == [sizes[1], sizes[5], sizes[8]]  # of 10, the middles of three parts
    assert sum(made.tokens(batch) for batch in made.random_batches()) == made.num_tokens


def test_candidates_of_the_recipe_study_are_settings_that_fit_their_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    study = importlib.import_module("recipe_study")
    for candidates in study.GROUPS.values():
        assert len({json.dumps(own, sort_keys=True) for own in candidates.values()}) == len(candidates)
        for own in candidates.values():
            with_method_defaults(load_config(None, {**study.COMMON, "task": "glue/sst2", **own}))


def test_tables_of_the_recipe_study_average_over_sets_only_where_there_are_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    study = importlib.import_module("recipe_study")
    one = {"group": "gate", "rows": 100, "epochs": 2, "candidate": "a", "set": "sst2", "seed": 11, "score": 0.5}
    gate = [one, {**one, "seed": 12, "score": 0.6}]
    start = [{**one, "group": "start"}, {**one, "group": "start", "set": "mrpc", "score": 0.7}]
    assert [line for line in study.tables([*gate, *start]) if line.startswith(("|", "Gate"))] == [
        "Gate: 100 training rows, 2 epochs, 2 seeds",
        *("| candidate | sst2 |", "| --- | --- |", "| a | 55.0 |"),
        *("| candidate | sst2 | mrpc | mean |", "| --- | --- | --- | --- |", "| a | 50.0 | 70.0 | 60.0 |"),
    ]
    table = [line for line in study.tables([*gate, {**one, "candidate": "b"}]) if line]
    assert table == [
        "Gate: 100 training rows, 2 epochs, 1 to 2 seeds",
        *("| candidate | seeds | sst2 |", "| --- | --- | --- |", "| a | 2 | 55.0 |", "| b | 1 | 50.0 |"),
    ]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.yaml")), ids=lambda path: path.name)
def test_a_study_is_a_comparison_with_cells_and_says_how_it_is_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_compare_config(path)
    monkeypatch.chdir(tmp_path)
    for settings in config.backbones.values():  # a directory that its first command would make
        if settings.get("backbone", "").startswith("./"):
            Path(settings["backbone"]).mkdir(parents=True)
    assert main_cells(config, {(m, t, b): {} for m in config.search for t in config.tasks for b in config.backbones})
    assert config.output == f"benchmarks/results/{path.stem}"
    text = path.read_text(encoding="utf-8")
    assert f"ptuning compare benchmarks/{path.name} " in text
    assert all(f"--data {task}=$PTUNING_DATA/{task}" in text for task in config.tasks)


@pytest.mark.slow
def test_a_small_masked_language_model_is_trained_and_asked_for_label_words(tmp_path: Path) -> None:
    (tmp_path / "sst2").mkdir()
    words = ("red", "green", "blue", "black", "white"), ("car", "house", "tree", "door", "book"), range(1, 13)
    rows = [{"sentence": f"the {color} {thing} is number {n} ."} for color, thing, n in itertools.product(*words)]
    text = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "sst2" / "train.jsonl").write_text(text + "\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "train_masked_lm.py"), "--output", "lm", "--steps", "30"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env={**os.environ, "PTUNING_DATA": str(tmp_path), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    start, now = (float(share) for share in re.findall(r"([0-9.]+)%", done.stdout.splitlines()[-2])[:2])
    assert now > start + 10
    assert "rte is left out" in done.stderr
    backbone = load_backbone(tmp_path / "lm")
    ids = backbone.tokenizer("the red car is number [MASK] .", return_tensors="pt")
    scores = backbone.language_modeling_head(backbone.model(**ids)[0])
    assert scores.shape == (1, ids["input_ids"].shape[1], backbone.description.vocab_size)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from Linux's /proc")
def test_a_backbone_is_loaded_without_a_second_copy(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="weights in 4 bits need bitsandbytes")
    cases = ("bf16:bf16", "fp32:nf4")
    line = _last_line("loading_memory.py", "--megabytes", "400", "--cases", *cases, cwd=tmp_path)
    same, rounded = line["results"]
    assert same["stored_mb"] > 200 and rounded["stored_mb"] < 61
    assert same["copies_mb"] < 0.2 * same["stored_mb"], "weights are views of the file"
    assert same["resident_mb"] < 1.3 * same["stored_mb"], "and each is read once"
    # what is stored, and room for the entries that are rounded at once (155 to 194 MB: threads take turns)
    assert rounded["stored_mb"] / 2 < rounded["copies_mb"] < 300


FITS_NOWHERE = str(10**15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "storage", "batch_sizes"), [("glm-10b", "bf16", [FITS_NOWHERE, "2"]), ("eurobert-2.1b", "nf4", ["2"])]
)
def test_large_backbones_are_measured_in_each_storage(
    name: str, storage: str, batch_sizes: list[str], tmp_path: Path
) -> None:
    if storage == "nf4":
        pytest.importorskip("bitsandbytes", reason="weights in 4 bits need bitsandbytes")
    sizes = ["--seq-len", "8", "--prompt-length", "4", "--batch-size", *batch_sizes, "--steps", "1"]
    arguments = ["--tiny", "--backbone", name, "--storage", storage, *sizes, "--device", "cpu"]
    line = _last_line("large_backbones.py", *arguments, cwd=tmp_path)
    *too_large, case = line["results"]
    assert [case["outcome"] for case in too_large] == ["does not fit"] * (len(batch_sizes) - 1)
    assert all("can't allocate memory" in case["error"] for case in too_large)
    assert (case["outcome"], case["storage"]) == ("measured", storage)
    assert line["fine_tuning_bytes"] == {"fp32": 16 * case["num_parameters"], "bf16": 8 * case["num_parameters"]}
    assert case["trained"] == 3 * 2 * 4 * (16 if name == "eurobert-2.1b" else 32) + 2 * 33
    assert case["weights_bytes"] < 2 * case["num_parameters"] * (1 if storage == "nf4" else 1.01)
    # the plan is of this very backbone and training
    assert case["planned_weights_bytes"] == pytest.approx(case["weights_bytes"], rel=0.02)
    assert case["planned_largest_batch"] > 1000 and case["planned_seconds"] > 0
    measured = case["peak_bytes"] - case["before_bytes"]
    assert case["peak_ratio"] == pytest.approx(case["planned_peak_bytes"] / measured, abs=0.001)


def _large_part(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module(f"large_parts.{name}")


def _large_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("large_backbones")


def test_every_family_of_large_backbones_is_built_trained_and_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, measuring = _large_part("sizes", monkeypatch), _large_part("measuring", monkeypatch)
    building, predicting = _large_part("building", monkeypatch), _large_part("predicting", monkeypatch)
    setup, device = measuring.Setup(4, 2, 8, recomputes=False, steps=1), torch.device("cpu")
    one_each = {model_type: name for name, (model_type, _) in sizes.SIZES.items()}
    assert one_each.keys() == LARGE_FAMILIES
    for name in one_each.values():
        directory = tmp_path / name
        sizes.write_config(name, directory, tiny=True)
        backbone = building.random_backbone(name, directory, "bf16", device)
        assert all(tensor.isfinite().all() for tensor in backbone.model.state_dict().values()), name
        names = [name for name, _ in backbone.model.named_parameters(remove_duplicate=False)]
        assert ("encoder.embed_tokens.weight" in names) == ("t5" in name)  # which is the shared one, counted once
        measured = measuring.measure_steps(backbone, setup, device)
        plan = predicting.plan_setup(directory, "bf16", setup, "cpu", rate=1e9)
        assert plan.num_parameters == backbone.description.num_parameters, name
        assert plan.trained_parameters == measured["trained"], name
        # a plan has the pooler of a family that has one
        assert plan.weights_bytes == pytest.approx(building.stored_bytes(backbone.model), rel=0.03), name


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_plan_beside_a_measurement_is_of_the_same_training(
    recomputes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, measuring = _large_part("sizes", monkeypatch), _large_part("measuring", monkeypatch)
    building, predicting = _large_part("building", monkeypatch), _large_part("predicting", monkeypatch)
    planned: list[RunConfig] = []
    monkeypatch.setattr(predicting, "make_plan", lambda config, **_: planned.append(config))
    steps: list[tuple[int, int, bool]] = []
    made: list[tuple[PromptedModel, str]] = []

    def make_model(*parts: Any, backbone_dropout: Any, **options: Any) -> PromptedModel:
        model = PromptedModel(*parts, backbone_dropout=backbone_dropout, **options)
        model.register_forward_pre_hook(
            lambda _, given: steps.append((*given[0].shape, is_recomputing(backbone.model)))
        )
        made.append((model, backbone_dropout))
        return model

    monkeypatch.setattr(measuring, "PromptedModel", make_model)
    setup, device = measuring.Setup(4, 3, 8, recomputes=recomputes, steps=1), torch.device("cpu")
    sizes.write_config("glm-2b", tmp_path, tiny=True)
    backbone = building.random_backbone("glm-2b", tmp_path, "bf16", device)
    measuring.measure_steps(backbone, setup, device)
    predicting.plan_setup(tmp_path, "bf16", setup, "cpu")
    (config,), ((model, dropout),) = planned, made
    (prompts,) = model.bank.prompts
    assert config.method == "p-tuning-v2" and config.prompts.layers == "all"
    assert config.prompts.prompt_length == prompts.prompt_length == 4
    assert model.bank.prompted_layers() == set(range(backbone.description.num_layers))
    training = config.training
    assert set(steps) == {(training.batch_size, config.data.max_length, training.gradient_checkpointing)}
    assert set(steps) == {(3, 8, recomputes)}
    assert training.micro_batch_tokens == 3 * 8, "a batch goes through at once"
    assert training.backbone_dropout == dropout == "off"
    assert config.head.pooling == model.heads[0].pooling == "cls"


def test_a_plan_beside_a_measurement_has_its_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring, predicting = _large_part("measuring", monkeypatch), _large_part("predicting", monkeypatch)
    storages = _large_part("building", monkeypatch).STORAGES
    planned: list[RunConfig] = []
    monkeypatch.setattr(predicting, "make_plan", lambda config, **_: planned.append(config))
    for storage in storages:
        predicting.plan_setup(tmp_path, storage, measuring.Setup(4, 2, 8, recomputes=False, steps=1), "cpu")
    names = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    expected = [(names[dtype], quantization) for dtype, quantization in storages.values()]
    assert [(config.training.precision, config.training.quantization) for config in planned] == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--steps", "0"], "--steps: 0, expected 1 or more"),
        (["--prompt-length", "16", "0"], "--prompt-length: 0, expected 1 or more"),
        (["--batch-size", "-1"], "--batch-size: -1, expected 1 or more"),
        (["--seq-len", "0"], "--seq-len: 0, expected 1 or more"),
        (["--plan", "--memory", "0"], "--memory: 0, expected more than 0"),
        (["--plan", "--memory", "inf"], "--memory: inf, expected more than 0"),
        (["--memory", "80"], "Add --plan"),
        (["--plan", "--batch-size", "1", "2"], "--plan takes one"),
        (["--backbone", "glm-2b", "glm-10b"], "Name one"),
        (["--device", "gpu"], "--device: training.device is 'gpu'"),
        (["--plan", "--device", "gpu"], "--device: training.device is 'gpu'"),
        (["--device", "cuda:99"], "--device is cuda:99"),
        (["--device", "meta"], "memory is measured on cpu and cuda"),
        (["--output", "nodir/x.json"], "nodir is no directory"),
        (["--output", "."], "--output is ., which is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_measured_is_said_before_it_is_tried(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        _large_script(monkeypatch).read_arguments(["--device", "cpu", *given])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_left_out_on_the_command_line_fits_together(monkeypatch: pytest.MonkeyPatch) -> None:
    read = _large_script(monkeypatch).read_arguments
    plan, measured = read(["--plan", "--device", "cuda"]), read(["--device", "cpu"])
    assert (plan.prompt_length, plan.batch_size, plan.memory) == ([16], [1], 80)
    assert (measured.prompt_length, measured.batch_size) == ([16, 128], [1])


def test_only_what_does_not_fit_is_taken_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    attempt = _large_part("outcomes", monkeypatch).attempt

    def fail(error: Exception) -> dict[str, Any]:
        raise error

    assert attempt(lambda: {"seconds": 1.0}) == {"outcome": "measured", "seconds": 1.0}
    case = attempt(lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to\nallocate")))
    assert case == {"outcome": "does not fit", "error": "CUDA out of memory. Tried to"}
    assert attempt(lambda: {"seconds": torch.empty(10**16)})["outcome"] == "does not fit"
    with pytest.raises(RuntimeError, match="shapes"):
        attempt(lambda: fail(RuntimeError("shapes differ")))


@pytest.mark.parametrize(
    ("end", "outcome", "status"),
    [
        ("sys.exit('ValueError: no such thing')", "failed", 1),
        (
            "print('ValueError: no such thing', file=sys.stderr, flush=True); os.kill(os.getpid(), 9)",
            "does not fit",
            -9,
        ),
    ],
    ids=["fails", "is-killed"],
)
def test_a_process_that_ends_too_soon_leaves_what_it_measured(
    end: str, outcome: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases_of_process = _large_part("outcomes", monkeypatch).cases_of_process
    first = {"storage": "nf4", "outcome": "measured", "prompt_length": 4, "batch_size": 1}
    script = f"import os, sys; print({json.dumps(json.dumps(first))}, flush=True); {end}"
    found = list(cases_of_process([sys.executable, "-S", "-c", script], "nf4", [(4, 1), (4, 2)]))
    error = f"exit status {status}: ValueError: no such thing"
    second = {"storage": "nf4", "prompt_length": 4, "batch_size": 2}
    assert found == [first, {**second, "outcome": outcome, "exit_status": status, "error": error}]


def test_a_storage_that_fails_costs_no_other_storage_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = _large_script(monkeypatch)
    outcomes = _large_part("outcomes", monkeypatch)
    measured = {"storage": "bf16", "outcome": "measured", "prompt_length": 4, "batch_size": 2, "peak_bytes": 10**9}
    measured |= {"before_bytes": 0, "seconds": 1.5, "cpu_seconds": 1.0, "largest_batch": None}

    def run(arguments: Any, storage: str, directory: str) -> list[dict[str, Any]]:
        does = f"print({json.dumps(json.dumps(measured))})" if storage == "bf16" else "raise SystemExit('no kernel')"
        return list(outcomes.cases_of_process([sys.executable, "-S", "-c", does], storage, [(4, 2)]))

    monkeypatch.setattr(script, "_in_a_process", run)
    sizes = ["--prompt-length", "4", "--batch-size", "2", "--seq-len", "8", "--device", "cpu"]
    output = tmp_path / "found.json"
    given = ["--tiny", "--backbone", "glm-2b", "--storage", "fp32", "bf16", *sizes, "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["large_backbones.py", *given])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    failed, kept = json.loads(lines[-1])["results"]
    assert json.loads(output.read_text(encoding="utf-8"))["results"] == [failed, kept]
    assert failed["outcome"] == "failed" and failed["error"] == "exit status 1: no kernel"
    assert kept["seconds"] == 1.5 and kept["peak_ratio"] == round(kept["planned_peak_bytes"] / 10**9, 3)
    assert failed["planned_peak_bytes"] > kept["planned_peak_bytes"], "the plan stands beside what failed too"
    assert lines[2].split()[:5] == ["fp32", "4", "2", "-", "failed"] and lines[3].split()[4] == "1.00"
    assert "fp32, 4 prompts, batch 2: error: exit status 1: no kernel" in lines


def test_what_was_measured_is_printed_before_a_file_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = _large_script(monkeypatch)
    with pytest.raises(FileNotFoundError):
        script._print_object({"results": []}, tmp_path / "removed" / "x.json")
    assert json.loads(capsys.readouterr().out) == {"results": []}


@pytest.mark.slow
def test_plans_of_large_backbones_are_printed_as_tables(tmp_path: Path) -> None:
    sizes = ["--batch-size", "2", "--seq-len", "8", "--prompt-length", "4", "--device", "cuda", "--memory", "1.06"]
    line = _last_line("large_backbones.py", "--plan", "--tiny", "--backbone", "umt5-xl", *sizes, cwd=tmp_path)
    (plan,) = line["plans"].values()
    assert plan["nf4"]["weights_bytes"] < plan["int8"]["weights_bytes"] < plan["bf16"]["weights_bytes"]
    assert plan["fine-tuning"]["peak_bytes"] > 16 * plan["num_parameters"]
    assert plan["bf16"]["largest_batch_size"] > 100


def test_tables_of_plans_are_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = _large_part("tables", monkeypatch)

    def case(weights: int, peak: int, largest: int) -> dict[str, int]:
        return {"weights_bytes": weights * 10**9, "peak_bytes": peak * 10**9, "largest_batch_size": largest}

    plans = {"x-10b": {"num_parameters": 9_876_000_000, "bf16": case(20, 25, 40), "fine-tuning": case(0, 160, 0)}}
    assert tables.memory_table(plans, ["bf16"]).splitlines() == [
        "| backbone | parameters | weights bf16 | training bf16 | fine-tuning |",
        "| --- | --- | --- | --- | --- |",
        "| x-10b | 9.88B | 20.0 | 25.0 | 160.0 |",
    ]
    assert tables.batch_table(plans, ["bf16"]).splitlines()[2] == "| x-10b | 40 | none |"
