from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
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
    _digest_of,
    find_prompt,
    load_tensors_into,
    read_directory,
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


def _edit(prompt: Path, change: Callable[[dict[str, Any]], object], *, resign: bool = True) -> None:
    """Changes config.json, and its digest unless `resign` is off."""
    path = prompt / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    if resign and "digest" in config:
        config["digest"] = _digest_of(config)
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
    config = read_directory(prompt).config
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


def test_saving_replaces_the_prompt_that_is_there(prompt: Path) -> None:
    (prompt / "README.md").unlink()
    save_prompt(prompt, _saved(method="prefix-tuning"))
    assert read_prompt(prompt).method == "prefix-tuning"
    assert [entry.name for entry in prompt.parent.iterdir()] == ["prompt"]


def test_saving_deletes_nothing_of_others(prompt: Path, tmp_path: Path) -> None:
    for name in "abcdefg":
        (prompt / f"{name}.txt").write_text("mine")
    before = _content(prompt)
    with pytest.raises(CheckpointError) as caught:
        save_prompt(prompt, _saved(method="prefix-tuning"))
    assert str(caught.value) == (
        f"{prompt} holds a.txt, b.txt, c.txt, d.txt, e.txt and 2 more, and a prompt would replace the whole directory, "
        "expected nothing there but config.json, prompts.safetensors, README.md, model.safetensors. Move them away, or "
        f"give another directory, such as {prompt / 'prompt'}."
    )
    assert _content(prompt) == before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").touch()
    with pytest.raises(CheckpointError, match="thesis holds chapter.tex, and a prompt would replace the whole dir"):
        save_prompt(tmp_path / "thesis", _saved())
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def _content(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


@pytest.mark.parametrize("given", [".", "..", "{here}", "./inner/.."])
def test_saving_into_the_current_directory_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    (here / "inner").mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(
        CheckpointError, match=r"cannot be written to .*, which is the current directory or holds it: a prompt replaces"
    ):
        save_prompt(given.format(here=here), _saved())
    assert [entry.name for entry in here.iterdir()] == ["inner"]
    save_prompt("inner", _saved())
    assert read_prompt("inner").layers == (0, 2)


def test_a_link_to_a_directory_stays_a_link(prompt: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(prompt)
    save_prompt(tmp_path / "latest", _saved(method="prefix-tuning"))
    assert (tmp_path / "latest").is_symlink() and read_prompt(prompt).method == "prefix-tuning"


def test_what_cannot_be_written_is_one_error(prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is a file, expected a directory for the prompt. Give another path"):
        save_prompt(tmp_path / "file", _saved())

    def refuse(source: object, destination: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr("os.rename", refuse)
    with pytest.raises(CheckpointError, match="cannot be written to .*prompt: Device or resource busy. Check its righ"):
        save_prompt(prompt, _saved(method="prefix-tuning"))
    assert read_prompt(prompt).method == "p-tuning-v2"


def test_a_prompt_whose_replacement_was_killed_is_found(prompt: Path) -> None:
    prompt.rename(prompt.parent / ".prompt.old")
    assert read_prompt(prompt.parent).layers == (0, 2)
    prompt.rename(prompt.parent / ".prompt.old")
    assert read_prompt(prompt).layers == (0, 2)


def test_a_prompt_that_is_replaced_while_it_is_read_is_read_again(
    prompt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_prompt(prompt.parent / "other", _saved(prompts=_saved().prompts + 1, method="prefix-tuning"))
    read_bytes, times = Path.read_bytes, 0

    def meddled(path: Path) -> bytes:
        nonlocal times
        times += path.name == TENSORS_FILE
        if times == 1:  # its config has been read: the other prompt comes in between
            shutil.rmtree(prompt)
            shutil.copytree(other, prompt)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", meddled)
    read = read_prompt(prompt)
    assert read.method == "prefix-tuning" and torch.equal(read.prompts, _saved().prompts + 1) and times == 2


def test_a_prompt_that_is_away_for_a_moment_is_waited_for(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = prompt.rename(prompt.parent / "aside")
    monkeypatch.setattr(time, "sleep", lambda seconds: aside.rename(prompt) if aside.exists() else None)
    assert read_prompt(prompt).layers == (0, 2)
    prompt.rename(aside)
    assert read_directory(prompt).config["method"] == "p-tuning-v2"


def test_a_prompt_that_another_process_keeps_replacing_can_be_read(prompt: Path) -> None:
    code = (
        "import sys\nfrom dataclasses import replace\nfrom ptuning.checkpoint import read_prompt, save_prompt\n"
        "saved = read_prompt(sys.argv[1])\n"
        "while True: save_prompt(sys.argv[1], replace(saved, prompts=saved.prompts + 1)), "
        "save_prompt(sys.argv[1], saved)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(prompt)], stderr=subprocess.DEVNULL)
    try:
        started, seen = prompt.stat().st_ino, 0
        while seen < 300:
            assert read_prompt(prompt).layers == (0, 2)
            with contextlib.suppress(OSError):
                seen += seen > 0 or prompt.stat().st_ino != started
            assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_directory_is_read_once(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    read_bytes, read_text = Path.read_bytes, Path.read_text
    monkeypatch.setattr(Path, "read_bytes", lambda path: (names.append(path.name), read_bytes(path))[1])
    monkeypatch.setattr(Path, "read_text", lambda path, **options: (names.append(path.name), read_text(path))[1])
    found = read_directory(prompt.parent)
    assert names == [CONFIG_FILE, TENSORS_FILE]
    assert found.path == prompt and found.size_bytes == (prompt / TENSORS_FILE).stat().st_size
    assert found.config == json.loads((prompt / CONFIG_FILE).read_text()) and found.prompt.layers == (0, 2)


def test_a_prompt_is_found_from_inside(prompt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for inside in (prompt, prompt.parent):
        monkeypatch.chdir(inside)
        assert find_prompt(".") == prompt
    monkeypatch.chdir(prompt.parent.parent)
    assert find_prompt("run") == prompt


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
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert '{"q": "...", "options": ["...", "..."]}' in code


@pytest.mark.parametrize(
    ("name", "revision", "base_model", "shown"),
    [
        ("org/tiny", "abc123", "org/tiny", "org/tiny"),
        ("bert-base-cased", None, "bert-base-cased", "bert-base-cased"),
        ("xlm-roberta-large", "abc123", "xlm-roberta-large", "xlm-roberta-large"),
        ("minilm", None, "sentence-transformers/all-MiniLM-L6-v2", "minilm"),
        ("/home/ada/secret/tiny-bert/", None, None, "tiny-bert"),
        ("/home/ada/secret/tiny-bert", "abc123", None, "tiny-bert"),
        ("C:\\Users\\ada\\secret\\tiny-bert", None, None, "tiny-bert"),
        ("secret/tiny-bert", None, None, "tiny-bert"),
        ("../secret/tiny-bert", None, None, "tiny-bert"),
        ("tiny-bert", None, None, "tiny-bert"),
    ],
)
def test_a_card_names_what_is_on_the_hub_and_no_ones_directories(
    name: str, revision: str | None, base_model: str | None, shown: str, tmp_path: Path
) -> None:
    path = save_prompt(tmp_path / "p", _saved(backbone=replace(BACKBONE, name=name, revision=revision)))
    card = (path / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---\n")[1]).get("base_model") == base_model
    assert f"# helpdesk/tickets on {shown}\n" in card and f'backbone="{shown}"' in card
    assert "secret" not in card
    assert read_prompt(path).backbone.name == name


def test_a_card_says_what_metrics_are_from_that_are_not_of_the_task_as_saved(tmp_path: Path) -> None:
    path = save_prompt(tmp_path / "p", _saved(metrics_from="with another threshold"))
    assert read_prompt(path).metrics_from == "with another threshold"
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "| validation accuracy | 0.9625 |\n\nThe validation metrics are with another threshold.\n" in card


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
    (prompt / TENSORS_FILE).mkdir()
    with pytest.raises(CheckpointError, match="prompts.safetensors cannot be read: Is a directory. Check its rights"):
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


def _swap_labels(config: dict[str, Any]) -> None:
    config["task"]["label_names"].reverse()


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["prompts"].update(positions="unshifted"),
        _swap_labels,
        lambda config: config["task"].update(max_length=64),
        lambda config: config["head"].update(pooling="mean"),
        lambda config: config["metrics"].update(accuracy=1.0),
        lambda config: config["backbone"].update(name="org/other"),
        lambda config: config.update(later=1),
        lambda config: config.update(digest="0" * 64),
    ],
)
def test_a_config_that_was_edited_is_refused(prompt: Path, change: Callable[[dict[str, Any]], object]) -> None:
    _edit(prompt, change, resign=False)
    for read in (read_directory, read_prompt):
        with pytest.raises(
            CheckpointError,
            match=r"config.json was altered: its content has sha256 \w{12}…, but it says \w{12}… of itself. A prompt "
            "is not edited by hand; restore it from where it came from, or train again",
        ):
            read(prompt)


def test_a_config_that_was_only_laid_out_anew_is_read(prompt: Path) -> None:
    _edit(prompt, lambda config: None, resign=False)
    content = json.loads((prompt / CONFIG_FILE).read_text(encoding="utf-8"))
    (prompt / CONFIG_FILE).write_text(json.dumps(dict(reversed(content.items())), indent=7), encoding="utf-8")
    assert read_prompt(prompt).layers == (0, 2)


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
        (_set("task", "name", to=None), "has None as task.name, expected a valid string"),
        (
            _set("task", "kind", to=["classification"]),
            r"has \['classification'\] as task.kind, expected a valid string",
        ),
        (_set("task", "columns", "text", to=3), "has 3 as task.columns.text, expected a valid string"),
        (_set("task", "max_length", to=float("inf")), "has inf as task.max_length, expected a valid integer"),
        (_set("task", "max_length", to=0), "has 0 as task.max_length, expected greater than or equal to 1"),
        (_set("task", "max_length", to=10**12), "has 10*0 as task.max_length, expected less than or equal to 1000000"),
        (_set("task", "label_names", to=["a", 1]), "has 1 as task.label_names.1, expected a valid string"),
        (_set("task", "held_out", to={"seed": 1}), "lacks task.held_out.development_fraction"),
        (_set("head", to=3), "has 3 as head, expected a valid dictionary"),
        (_set("head", to=None), "has a task and no head, expected both, or neither for bare prompts. Restore it"),
        (_set("task", to=None), "has a head and no task, expected both"),
        (
            lambda config: config["head"].pop("pooling"),
            "lacks head.pooling. Restore it from where the prompt came from",
        ),
        (_set("head", "pooling", to="sum"), "has 'sum' as head.pooling, expected 'cls', 'mean', 'last' or 'pooler'"),
        (lambda config: config.pop("digest"), "lacks digest. Restore it from where the prompt came from"),
        (_set("metrics", to={"f1": "high"}), "has 'high' as metrics.f1, expected a valid number"),
        (_set("parameters", to={"head": 1.5}), "has 1.5 as parameters.head, expected a valid integer"),
    ],
)
def test_an_altered_config_is_refused_with_the_place(
    prompt: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    _edit(prompt, change)
    for read in (read_directory, read_prompt):
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
    with pytest.raises(CheckpointError, match="cannot be written to .*prompt: disk full. Check its rights and the spa"):
        save_prompt(prompt, _saved(method="prefix-tuning"))
    assert read_prompt(prompt).method == "p-tuning-v2"
    assert [entry.name for entry in prompt.parent.iterdir()] == ["prompt"]
