from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ptuning.backbones.identity import BackboneIdentity
from ptuning.checkpoint import (
    CONFIG_FILE,
    FORMAT_VERSION,
    TENSORS_FILE,
    SavedPrompt,
    find_prompt,
    load_tensors_into,
    read_config,
    read_prompt,
    save_prompt,
)
from ptuning.errors import CheckpointError
from ptuning.storage import sha256_of

BACKBONE = BackboneIdentity("org/tiny", "abc123", {"model_type": "bert", "num_layers": 3, "hidden_size": 8}, "f" * 64)
TASK = {
    "name": "helpdesk/tickets",
    "kind": "classification",
    "label_names": ["billing|money", "Größe"],
    "columns": {"text": "ticket", "label": "team"},
    "max_length": 128,
}


def _saved(**changes: Any) -> SavedPrompt:
    generator = torch.Generator().manual_seed(3)
    values: dict[str, Any] = {
        "prompts": torch.randn(2, 2, 4, 5, 8, generator=generator),
        "layers": (0, 2),
        "positions": "shifted",
        "backbone": BACKBONE,
        "task": TASK,
        "head": {"pooling": "cls"},
        "head_tensors": {"output.weight": torch.randn(2, 8, generator=generator), "output.bias": torch.zeros(2)},
        "metrics": {"accuracy": 0.9625},
        "counts": {"prompts": 640, "head": 18, "backbone": 100_000, "transformer": 50_000},
    }
    return SavedPrompt(**{**values, **changes})


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    """A saved prompt."""
    return save_prompt(tmp_path / "run" / "prompt", _saved())


def _edit(prompt: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes config.json."""
    path = prompt / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config), encoding="utf-8")


def _put(prompt: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Writes other tensors, and their digest into config.json."""
    save_file(tensors, prompt / TENSORS_FILE)
    _edit(prompt, lambda config: config["files"].update({TENSORS_FILE: sha256_of(prompt / TENSORS_FILE)}))


def test_what_is_saved_is_read_back_bit_for_bit(prompt: Path) -> None:
    saved, read = _saved(), read_prompt(prompt)
    assert read.prompts.dtype == torch.float32 and torch.equal(read.prompts, saved.prompts)
    assert read.head_tensors.keys() == saved.head_tensors.keys()
    for name, tensor in saved.head_tensors.items():
        assert read.head_tensors[name].dtype == tensor.dtype and torch.equal(read.head_tensors[name], tensor)
    tensors = {"prompts": saved.prompts, "head_tensors": {}}
    assert replace(read, **tensors) == replace(saved, **tensors)


def test_odd_bits_survive(tmp_path: Path) -> None:
    prompts = _saved().prompts
    prompts[0, 0, 0, 0, :4] = torch.tensor([-0.0, 1e-45, torch.inf, torch.nan])
    read = read_prompt(save_prompt(tmp_path / "p", _saved(prompts=prompts))).prompts
    assert torch.equal(read.view(torch.int32), prompts.view(torch.int32))


def test_prompts_of_another_precision_or_layout_are_saved_in_float32(tmp_path: Path) -> None:
    prompts = _saved().prompts
    shared = torch.zeros(2, 8)
    saved = _saved(
        prompts=torch.nn.Parameter(prompts.bfloat16().transpose(-1, -2).contiguous().transpose(-1, -2)),
        head_tensors={"a": shared, "b": shared, "c": shared[0]},
    )
    read = read_prompt(save_prompt(tmp_path / "p", saved))
    assert torch.equal(read.prompts, prompts.bfloat16().float())
    assert torch.equal(read.head_tensors["b"], shared)


def test_bare_prompts_and_prompts_of_length_zero_can_be_saved(tmp_path: Path) -> None:
    bare = SavedPrompt(_saved().prompts, (0, 2), "unshifted", BACKBONE)
    read = read_prompt(save_prompt(tmp_path / "p", bare))
    assert (read.task, read.head, read.head_tensors, read.metrics, read.counts) == (None, None, {}, {}, {})
    assert "ptuning.read_prompt" in (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
    empty = _saved(prompts=torch.zeros(2, 2, 4, 0, 8))
    assert read_prompt(save_prompt(tmp_path / "p", empty)).prompts.shape == (2, 2, 4, 0, 8)


def test_a_run_and_its_prompt_are_read_alike(prompt: Path) -> None:
    assert find_prompt(prompt) == find_prompt(prompt.parent) == prompt
    assert torch.equal(read_prompt(str(prompt.parent)).prompts, read_prompt(prompt).prompts)


def test_nothing_of_the_backbone_is_in_the_files(prompt: Path) -> None:
    assert sorted(file.name for file in prompt.iterdir()) == ["README.md", CONFIG_FILE, TENSORS_FILE]
    tensors = load_file(prompt / TENSORS_FILE)
    assert sorted(tensors) == ["head.output.bias", "head.output.weight", "prompts"]
    floats = sum(tensor.numel() for tensor in tensors.values())
    assert (prompt / TENSORS_FILE).stat().st_size < 4 * floats + 1000


def test_the_config_says_what_the_prompt_is(prompt: Path) -> None:
    config = read_config(prompt)
    assert config["format_version"] == FORMAT_VERSION == 1
    assert config["prompts"] == {
        "prompt_length": 5,
        "layers": [0, 2],
        "positions": "shifted",
        "num_kv_heads": 4,
        "head_dim": 8,
    }
    assert config["task"] == TASK
    assert config["backbone"] == BACKBONE.to_dict()
    assert config["files"] == {TENSORS_FILE: sha256_of(prompt / TENSORS_FILE)}


def test_saving_replaces_the_whole_directory(prompt: Path) -> None:
    (prompt / "left.txt").touch()
    save_prompt(prompt, _saved(method="other"))
    assert not (prompt / "left.txt").exists()
    assert read_prompt(prompt).method == "other"
    assert [entry.name for entry in prompt.parent.iterdir()] == ["prompt"]


def test_a_prompt_whose_replacement_was_killed_is_found(prompt: Path) -> None:
    prompt.rename(prompt.parent / ".prompt.old")
    assert read_prompt(prompt.parent).layers == (0, 2)
    prompt.rename(prompt.parent / ".prompt.old")
    assert read_prompt(prompt).layers == (0, 2)


def test_the_model_card_says_what_it_is_and_how_to_use_it(prompt: Path) -> None:
    card = (prompt / "README.md").read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "ptuning",
        "base_model": "org/tiny",
        "tags": ["p-tuning-v2", "deep-prompt-tuning"],
    }
    assert text.strip().startswith("# helpdesk/tickets on org/tiny")
    for line in (
        "trained for classification.",
        "| backbone | org/tiny (bert, 3 layers), revision abc123 |",
        "| prompt length | 5 virtual tokens at 2 layers |",
        "| positions | shifted |",
        "| size | 0.00 MB |",
        "| trained parameters | 640 prompts + 18 head; prompts are 0.64% of the backbone (1.28% of its transformer "
        "parameters) |",
        "| labels | billing&#124;money, Größe |",
        "| validation accuracy | 0.9625 |",
        'task = ptuning.load("DIRECTORY", backbone="org/tiny")',
        'print(task.predict([{"ticket": "..."}]))',
        "The backbone is not in these files",
    ):
        assert line in text


def test_the_code_of_a_model_card_is_python(tmp_path: Path) -> None:
    columns = {"text": "q", "choices": "options", "label": "label", "id": "id"}
    backbone = replace(BACKBONE, name='C:\\models\\my "tiny"')
    path = save_prompt(tmp_path / "p", _saved(backbone=backbone, task={**TASK, "columns": columns}))
    card = (path / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == backbone.name
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert '{"q": "...", "options": ["...", "..."]}' in code


def test_many_labels_are_cut_in_the_card(tmp_path: Path) -> None:
    task = {**TASK, "label_names": [f"l{number}" for number in range(15)]}
    path = save_prompt(tmp_path / "p", _saved(task=task, counts={}))
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "l10, l11 and 3 more |" in card and "trained parameters" not in card


def test_paths_that_hold_no_prompt_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="nowhere does not exist, expected a run directory or its prompt/. Check the"
    ):
        read_prompt(tmp_path / "nowhere")
    with pytest.raises(
        CheckpointError, match="has no config.json and no prompt/config.json, so it is neither a prompt nor"
    ):
        read_prompt(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match="file is a file, expected a directory. Give a run directory or its prompt/"
    ):
        read_prompt(tmp_path / "file")


def test_a_missing_file_is_refused(prompt: Path) -> None:
    (prompt / TENSORS_FILE).unlink()
    with pytest.raises(
        CheckpointError, match="prompts.safetensors is missing, expected beside config.json. Restore it"
    ):
        read_prompt(prompt)
    (prompt / CONFIG_FILE).unlink()
    with pytest.raises(CheckpointError, match="has no config.json"):
        read_prompt(prompt)


def test_a_truncated_or_altered_file_is_refused(prompt: Path) -> None:
    path = prompt / TENSORS_FILE
    content = path.read_bytes()
    for other in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), content + b"\0", b""):
        path.write_bytes(other)
        with pytest.raises(
            CheckpointError, match="has sha256 .*, but its config.json says .*: it was cut off or altered. R"
        ):
            read_prompt(prompt)


def test_a_file_that_is_no_safetensors_is_refused_though_its_digest_fits(prompt: Path) -> None:
    (prompt / TENSORS_FILE).write_bytes(b"not safetensors")
    _edit(prompt, lambda config: config["files"].update({TENSORS_FILE: sha256_of(prompt / TENSORS_FILE)}))
    with pytest.raises(
        CheckpointError, match="is not a safetensors file: .*. Restore it from where the prompt came from"
    ):
        read_prompt(prompt)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format_version": 1'])
def test_a_config_that_is_not_json_is_refused(prompt: Path, content: bytes) -> None:
    (prompt / CONFIG_FILE).write_bytes(content)
    with pytest.raises(
        CheckpointError, match="config.json is not readable JSON: .*. Restore it from where the prompt came"
    ):
        read_prompt(prompt)


@pytest.mark.parametrize("content", ["[]", "null", "3", "{}", '{"format_version": "1"}', '{"format_version": true}'])
def test_json_of_others_is_no_prompt(prompt: Path, content: str) -> None:
    (prompt / CONFIG_FILE).write_text(content)
    with pytest.raises(
        CheckpointError, match="has no format_version, expected a whole number .*not a ptuning prompt. Give"
    ):
        read_prompt(prompt)


def test_a_newer_format_asks_for_an_update(prompt: Path) -> None:
    _edit(prompt, lambda config: config.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(
        CheckpointError, match="has format_version 2, but ptuning .* reads up to 1. Update ptuning: pip inst"
    ):
        read_prompt(prompt)


def _set(*place: str, to: Any) -> Callable[[dict[str, Any]], object]:
    def change(config: dict[str, Any]) -> None:
        for part in place[:-1]:
            config = config[part]
        config[place[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.pop("method"), "lacks method. Restore it from where the prompt came from"),
        (lambda config: [config.pop(key) for key in ("prompts", "files")], "lacks prompts, files. Restore it"),
        (lambda config: config["prompts"].pop("layers"), "lacks prompts.layers"),
        (lambda config: config["backbone"].pop("fingerprint"), "lacks backbone.fingerprint"),
        (_set("prompts", to=[1]), r"has \[1\] as prompts, expected a valid dictionary .*Restore it"),
        (
            _set("prompts", "prompt_length", to="5"),
            "has '5' as prompts.prompt_length, expected a valid integer. Restore",
        ),
        (_set("prompts", "prompt_length", to=5.0), "has 5.0 as prompts.prompt_length, expected a valid integer"),
        (
            _set("prompts", "prompt_length", to=-1),
            "has -1 as prompts.prompt_length, expected greater than or equal to 0",
        ),
        (_set("prompts", "num_kv_heads", to=True), "has True as prompts.num_kv_heads, expected a valid integer"),
        (_set("prompts", "head_dim", to=0), "has 0 as prompts.head_dim, expected greater than or equal to 1"),
        (_set("prompts", "head_dim", to=None), "has None as prompts.head_dim, expected a valid integer"),
        (_set("prompts", "layers", to=5), "has 5 as prompts.layers, expected a valid list"),
        (_set("prompts", "layers", to=[0, "2"]), "has '2' as prompts.layers.1, expected a valid integer"),
        (_set("prompts", "layers", to=[0, -2]), "has -2 as prompts.layers.1, expected greater than or equal to 0"),
        (_set("prompts", "layers", to=[2, 0]), r"has prompts.layers \[2, 0\], expected ascending numbers. Restore it"),
        (_set("prompts", "layers", to=[2, 2]), r"has prompts.layers \[2, 2\], expected ascending numbers"),
        (_set("prompts", "positions", to="up"), "has 'up' as prompts.positions, expected 'unshifted' or 'shifted'"),
        (_set("backbone", to="org/tiny"), "has 'org/tiny' as backbone, expected a valid dictionary"),
        (_set("backbone", "architecture", to=None), "has None as backbone.architecture, expected a valid dictionary"),
        (_set("files", to=[]), r"has \[\] as files, expected a valid dictionary"),
        (_set("task", to="x" * 99), r"has 'x{59}\.\.\. as task, expected a valid dictionary"),
        (_set("head", to=3), "has 3 as head, expected a valid dictionary"),
        (_set("metrics", to={"f1": "high"}), "has 'high' as metrics.f1, expected a valid number"),
        (_set("parameters", to={"head": 1.5}), "has 1.5 as parameters.head, expected a valid integer"),
    ],
)
def test_an_altered_config_is_refused_with_the_place(
    prompt: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    _edit(prompt, change)
    for read in (read_config, read_prompt):
        with pytest.raises(CheckpointError, match=rf"{CONFIG_FILE} {words}"):
            read(prompt)


def test_keys_of_later_versions_do_no_harm(prompt: Path) -> None:
    _edit(prompt, lambda config: (config.update(later=1), config["prompts"].update(later=2)))
    assert read_prompt(prompt).layers == (0, 2)


@pytest.mark.parametrize(
    ("place", "value"), [("prompt_length", 6), ("num_kv_heads", 2), ("head_dim", 16), ("layers", [0, 1, 2])]
)
def test_tensors_of_another_shape_than_the_config_says_are_refused(prompt: Path, place: str, value: Any) -> None:
    _edit(prompt, _set("prompts", place, to=value))
    with pytest.raises(
        CheckpointError,
        match=r"has prompts of shape \(2, 2, 4, 5, 8\), but its config.json says \(num_prompted_layers, 2, "
        r"num_kv_heads, prompt_length, head_dim\) = .*\. The two files do not belong together; restore both",
    ):
        read_prompt(prompt)


def test_tensors_of_another_rank_are_refused(prompt: Path) -> None:
    _put(prompt, {"prompts": torch.zeros(5)})
    with pytest.raises(CheckpointError, match=r"has prompts of shape \(5,\), but its config.json says"):
        read_prompt(prompt)


def test_missing_and_foreign_tensors_are_refused(prompt: Path) -> None:
    _put(prompt, {"head.output.bias": torch.zeros(2)})
    with pytest.raises(
        CheckpointError, match="has no prompts, expected prompts and head.* alone. Restore it, or update"
    ):
        read_prompt(prompt)
    _put(prompt, {"prompts": _saved().prompts, "encoder.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="has encoder.weight, expected prompts and head"):
        read_prompt(prompt)


def test_pickles_are_never_read(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr("torch.load", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    (prompt / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert read_prompt(prompt).layers == (0, 2)
    (prompt / TENSORS_FILE).rename(prompt / "prompts.bin")
    with pytest.raises(CheckpointError, match="prompts.safetensors is missing"):
        read_prompt(prompt)


def test_tensors_are_copied_into_a_module_of_the_same_shapes() -> None:
    module = torch.nn.Linear(3, 2)
    tensors = {"weight": torch.ones(2, 3), "bias": torch.full((2,), 4.0)}
    load_tensors_into(module, tensors, "the head")
    assert torch.equal(module.weight, tensors["weight"]) and torch.equal(module.bias, tensors["bias"])


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"weight": torch.ones(2, 3)}, r"the head has tensors \['weight'\], expected \['bias', 'weight'\]. Restore it"),
        ({"weight": torch.ones(2, 3), "bias": torch.ones(2), "x": torch.ones(1)}, "the head has tensors .*'x'"),
        (
            {"weight": torch.ones(3, 2), "bias": torch.ones(2)},
            r"has weight of shape \(3, 2\), expected \(2, 3\). Restore",
        ),
    ],
)
def test_tensors_that_do_not_fit_a_module_are_refused(tensors: dict[str, torch.Tensor], words: str) -> None:
    module = torch.nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=words):
        load_tensors_into(module, tensors, "the head")


def test_a_write_that_fails_leaves_the_prompt_that_was_there(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("ptuning.checkpoint.model_card", fail)
    with pytest.raises(OSError, match="disk full"):
        save_prompt(prompt, _saved(method="other"))
    assert read_prompt(prompt).method == "p-tuning-v2"
    assert [entry.name for entry in prompt.parent.iterdir()] == ["prompt"]
