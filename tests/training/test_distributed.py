"""A run of several processes is the run of one, and goes on after one of them was killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ptuning.config import METHODS, load_config
from ptuning.errors import ConfigError
from ptuning.training import processes
from ptuning.training.processes import start_processes
from ptuning.training.run import train

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, and gloo between processes"),
    pytest.mark.xdist_group("distributed"),  # all of it runs once, before the first test
]

# 24 rows in batches of 5, the last of 4: the two processes have parts of different sizes. 20 steps.
QUIET = {
    "head.dropout": 0.0,
    "training.backbone_dropout": "off",
    "training.epochs": 4,
    "training.batch_size": 5,
    "training.weight_decay": 0.01,
}
SHORT = {**QUIET, "training.epochs": 2}
# name: (kind of task, settings)
EQUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("classification", QUIET),
    "regression": ("regression", SHORT),
    "multiple_choice": ("multiple_choice", SHORT),
    "token_classification": ("token_classification", QUIET),
    "semantic_role_labeling": ("semantic_role_labeling", SHORT),
    "question_answering": ("question_answering", SHORT),
    "cloze": ("cloze", SHORT),
    "accumulation": ("token_classification", {**SHORT, "training.accumulation": 3}),
    "pieces": ("token_classification", {**SHORT, "training.batch_size": 12, "training.micro_batch_tokens": 30}),
    "one-row-a-batch": ("classification", {**SHORT, "training.batch_size": 1, "training.epochs": 1}),
    "found-rate": ("classification", {**SHORT, "training.learning_rate_probe": True}),
    "trunk": ("classification", {**SHORT, "prompts.layers": "last:1", "training.trunk_reuse": "on"}),
    "prompt-tuning": ("classification", {**SHORT, "method": "prompt-tuning"}),
    "lora": ("classification", {**SHORT, "method": "lora"}),
    "bitfit": ("classification", {**SHORT, "method": "bitfit"}),
    "fine-tuning": ("classification", {**SHORT, "method": "fine-tuning", "training.learning_rate": 1e-3}),
}
SHARDED = {**SHORT, "training.sharding": "full", "training.micro_batch_tokens": 40}
# Dropout of every kind is on, and each process draws its own. Each is killed once.
DROPOUT = {
    "prompts.dropout": 0.1,
    "head.dropout": 0.2,
    "training.backbone_dropout": "checkpoint",
    "training.epochs": 2,
    "training.batch_size": 5,
    "training.checkpoint_steps": 2,
}
MODELS = (
    "bert",
    "bert recomputed",
    "mpnet",
    "deberta-v2",
    "modernbert",
    "albert",
    "t5",
    "llama",
    "gemma3_text",
    "glm2021",
)


@dataclass(frozen=True)
class Several:
    """What processes came to.

    Attributes:
        directory: of all runs, and of what each process said.
        ended: by the entry's name, how its processes ended: 0, 1, or minus the signal.
        log: what they wrote to stderr.
    """

    directory: Path
    ended: dict[str, list[int]]
    log: str

    def said(self, name: str, index: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directory / f"{name}-{index}.json").read_text())
        return found

    def tensors(self, name: str) -> dict[str, Tensor]:
        return load_file(self.directory / name / "checkpoints" / "last" / "tensors.safetensors")


Settings = Callable[[str, Path], dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_backbone: Path, tiny_data: Callable[..., Path]) -> Settings:
    def make(kind: str, output: Path, **own: Any) -> dict[str, Any]:
        method = METHODS[own.get("method", "p-tuning-v2")]
        return {
            "task": kind,
            "backbone": str(tiny_backbone),
            "data.path": str(tiny_data(kind)),
            "data.max_length": 48,
            **({"prompts.prompt_length": 4} if method.reparameterizations else {}),
            "training.device": "cpu",
            "training.precision": "fp32",
            "output": str(output),
            **own,
        }

    return make


@pytest.fixture(scope="module")
def several(
    settings: Callable[..., dict[str, Any]],
    tiny_data: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Several:
    top = tmp_path_factory.mktemp("several")
    plan: list[dict[str, Any]] = [{"name": "models", "work": "shard", "count": 2, "models": MODELS}]

    def add(name: str, kind: str, own: dict[str, Any], count: int, **more: Any) -> None:
        output = more.pop("output", name)
        overrides = settings(kind, top / output, **own)
        plan.append({"name": name, "work": "train", "count": count, "overrides": overrides, **more})

    for name, (kind, own) in EQUAL.items():
        add(f"{name}-one", kind, own, 1, double=True)
        add(f"{name}-two", kind, own, 2, double=True)
    add("float32-one", "classification", QUIET, 1)
    add("float32-two", "classification", QUIET, 2)
    add("sharded-one", "token_classification", SHARDED, 1, double=True)
    add("sharded-two", "token_classification", SHARDED, 2, double=True)
    add("dropout", "classification", DROPOUT, 2)
    for index in (0, 1):
        add(f"killed-{index}", "classification", DROPOUT, 2, dies=index, moment="step 8")
        add(f"resumed-{index}", "classification", DROPOUT, 2, output=f"killed-{index}", resume=True)
    add("probe", "classification", {"method": "linear-probe"}, 2)
    add("taken", "classification", QUIET, 2, output="dropout")
    add("other-settings", "classification", QUIET, 2, second={"training.epochs": 3, "head.dropout": 0.1})
    more_rows = {"data.path": str(tiny_data("classification", 25))}
    add("other-data", "classification", QUIET, 2, second=more_rows)
    (top / "plan.json").write_text(json.dumps(plan))
    script = Path(__file__).with_name("several.py")
    done = subprocess.run([sys.executable, script, top / "plan.json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Several(top, json.loads(done.stdout), done.stderr)


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_train_as_one_does(name: str, several: Several) -> None:
    _assert_equal(several, name, 1e-9)


def test_two_processes_train_as_one_does_in_float32(several: Several) -> None:
    _assert_equal(several, "float32", 1e-5)


def test_a_sharded_backbone_trains_as_a_whole_one_does(several: Several) -> None:
    _assert_equal(several, "sharded", 1e-9)


def _assert_equal(several: Several, name: str, tolerance: float) -> None:
    assert several.ended[f"{name}-one"] == [0] and several.ended[f"{name}-two"] == [0, 0], several.log
    one, *two = (
        several.said(*which)["result"] for which in ((f"{name}-one", 0), (f"{name}-two", 0), (f"{name}-two", 1))
    )
    assert one["steps"] == two[0]["steps"] == two[1]["steps"] and two[0] == two[1]
    assert two[0]["metrics"] == pytest.approx(one["metrics"], abs=1e-6)
    assert _evaluations(several, f"{name}-two") == [
        pytest.approx(line, abs=1e-6) for line in _evaluations(several, f"{name}-one")
    ]
    found, expected = several.tensors(f"{name}-two"), several.tensors(f"{name}-one")
    weights = [key for key in expected if key.startswith("parameter.")]
    assert weights and {key for key in found if not key.startswith("random1.")} == set(expected)
    for key in weights:
        torch.testing.assert_close(found[key], expected[key], atol=tolerance, rtol=0)
    assert not [path for path in (several.directory / f"{name}-two").rglob(".*") if path.is_dir()]


def _evaluations(several: Several, name: str) -> list[dict[str, Any]]:
    """The numbers of metrics.jsonl by their path, but for the seconds that they took."""
    lines = (several.directory / name / "metrics.jsonl").read_text().splitlines()
    assert lines
    return [{key: value for key, value in _numbers(json.loads(line)) if key != "seconds"} for line in lines]


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    inner = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else None
    if inner is None:
        yield path, value
        return
    for key, member in inner:
        yield from _numbers(member, f"{path}.{key}" if path else str(key))


@pytest.mark.parametrize(("name", "dtype"), [("bert", "float32"), *((name, "float64") for name in MODELS)])
@pytest.mark.parametrize("index", [0, 1])
def test_prompts_on_a_sharded_backbone_give_what_they_give_on_a_whole_one(
    name: str, dtype: str, index: int, several: Several
) -> None:
    assert several.ended["models"] == [0, 0], several.log
    found = several.said("models", index)["result"][f"{name} torch.{dtype}"]
    most = 1e-12 if dtype == "float64" else 1e-5
    assert found["largest"] > 0.01 and found["gradient"] < most * max(found["largest"], 1.0)
    assert found["output"] < most and found["again"] < most
    assert found["kept"] < 0.6 and found["is_same"]


@pytest.mark.parametrize("index", [0, 1])
def test_what_a_killed_process_leaves_goes_on_exactly(index: int, several: Several) -> None:
    other = 1 - index
    assert several.ended[f"killed-{index}"][index] == -signal.SIGKILL, several.log
    assert several.ended[f"killed-{index}"][other] == 1, several.log
    said = several.said(f"killed-{index}", other)["error"]
    assert f"LostProcessError: process {other} of 2 lost another one of the run (an exchange with the others" in said
    assert "Start the same command again with --resume" in said and said.count("\n") == 0
    assert "), expected all of them until the end." in said and ". " not in said.partition("), expected")[0]
    assert several.ended[f"resumed-{index}"] == [0, 0], several.log
    found, expected = several.tensors(f"killed-{index}"), several.tensors("dropout")
    assert "random1.cpu" in expected and found.keys() == expected.keys()
    assert [key for key in expected if not torch.equal(found[key], expected[key])] == []
    result = several.said(f"resumed-{index}", 0)["result"]
    assert result == several.said("dropout", 0)["result"]


def test_each_process_draws_dropout_of_its_own(several: Several) -> None:
    random = several.tensors("dropout")
    assert not torch.equal(random["random.cpu"], random["random1.cpu"])


def test_what_process_0_refuses_ends_all(several: Several) -> None:
    assert several.ended["taken"] == [1, 1]
    first, second = (several.said("taken", index)["error"] for index in (0, 1))
    assert first.startswith("ConfigError: ") and "has a run already" in first
    assert second.startswith("LostProcessError: process 1 of 2 ends with process 0") and "has a run already" in second


@pytest.mark.parametrize(
    ("name", "what"), [("other-settings", "head.dropout and another training.epochs"), ("other-data", "data")]
)
def test_processes_with_other_settings_or_other_data_are_refused(name: str, what: str, several: Several) -> None:
    assert several.ended[name] == [1, 1], several.log
    for index, other in ((0, 1), (1, 0)):
        said = several.said(name, index)["error"]
        assert said.startswith(f"ConfigError: process {other} of 2 has another {what} than process {index}, expected")
        assert "Give all machines the same files and settings." in said
    assert not (several.directory / name).exists()


def test_a_method_without_steps_is_one_process(several: Several) -> None:
    assert several.ended["probe"] == [1, 1]
    said = several.said("probe", 0)["error"]
    assert said.startswith("ConfigError: method linear-probe was started as 2 processes") and "a launcher." in said


def test_a_process_that_is_killed_under_a_launcher_ends_the_run_which_goes_on(
    settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    output = tmp_path / "run"
    own = settings("classification", output, **{**DROPOUT, "training.epochs": 40})
    sets = [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "ptuning", "train", *sets]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "stderr").open("w") as stderr, (tmp_path / "stdout").open("w") as stdout:
        launched = subprocess.Popen(launcher, stdout=stdout, stderr=stderr, env=environment)
        try:
            _kill_second(launched, output / "checkpoints" / "last" / "state.json")
            status = launched.wait(120)
        finally:
            launched.kill()
    said = (tmp_path / "stderr").read_text()
    assert status == 1, said
    assert "error in process 0 of 2: process 0 of 2 lost another one of the run" in said
    assert "Traceback" not in said.partition("error in process 0")[0]
    assert (tmp_path / "stdout").read_text() == ""

    reached = json.loads((output / "checkpoints" / "last" / "state.json").read_text())["step"]
    assert reached >= 4
    config = load_config(None, own)
    result = train(config, resume=True)  # in one process
    assert result.steps == 40 * 5 and (output / "prompt" / "config.json").is_file()


def _kill_second(launched: subprocess.Popen[Any], state: Path) -> None:
    """Kills process 1 of a run as soon as something is kept."""
    until = time.monotonic() + 120
    while True:
        assert time.monotonic() < until and launched.poll() is None, "the run ended, or never began"
        if state.exists() and json.loads(state.read_text())["step"] >= 4:
            break
        time.sleep(0.05)
    for process in psutil.Process(launched.pid).children(recursive=True):
        if process.environ().get("RANK") == "1":
            process.kill()
            return
    raise AssertionError("there is no process 1")


def test_python_m_ptuning_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "ptuning", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ptuning ")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("missing", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_what_is_left_of_a_launcher_is_said(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(missing)
    words = f"WORLD_SIZE is 2, but {missing} are not set, expected .* Start them with torchrun; or, .* unset LOCAL_RANK"
    with pytest.raises(ConfigError, match=words):
        start_processes("cpu")


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize(
    ("name", "value"), [("WORLD_SIZE", "two"), ("WORLD_SIZE", "0"), ("RANK", "-1"), ("RANK", "2"), ("MASTER_PORT", "")]
)
def test_what_a_launcher_has_not_set_so_is_said(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="expected .* unset LOCAL_RANK for one process"):
        start_processes("cpu")


@pytest.mark.usefixtures("launched")
def test_others_that_do_not_start_are_waited_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(processes, "JOINING", timedelta(seconds=1))
    words = f"process 0 of 2 did not find the others at 127.0.0.1:{port} within 0:00:01, expected .* unset LOCAL_RANK"
    with pytest.raises(ConfigError, match=words):
        start_processes("cpu")
    assert not torch.distributed.is_initialized()


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_a_device_that_processes_cannot_share_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"training.device is '{device}', but the run was started as 2 processes"):
        start_processes(device)


@pytest.mark.usefixtures("launched")
def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="this is process 2 of its machine, which has 1 GPUs"):
        start_processes("cuda")


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("command", ["evaluate"])
def test_other_commands_are_one_process(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "ptuning", command, "x"], capture_output=True, text=True)
    assert done.returncode == 2
    assert f"`ptuning {command}` was started as 2 processes, expected one" in done.stderr


@pytest.mark.parametrize(
    "own",
    [
        {"method": "lora"},
        {"training.compile": True},
        {"training.trunk_reuse": "on"},
        {"training.attention": "flex_attention"},
        {"training.quantization": "int8"},
    ],
)
def test_what_does_not_go_with_sharding_is_refused_by_name(
    own: dict[str, Any], settings: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    config = load_config(None, settings("classification", tmp_path / "run", **own, **{"training.sharding": "full"}))
    name = next(iter(own)) if "method" not in own else "method lora"
    with pytest.raises(ConfigError, match=f"training.sharding is full, but {name} .* set training.sharding to none"):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
def test_a_sharded_run_on_gpus(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip("needs two GPUs")
    directories = {}
    for sharding in ("none", "full"):
        directories[sharding] = tmp_path / sharding
        own = settings("token_classification", directories[sharding], **{**SHARDED, "training.sharding": sharding})
        own["training.device"] = "cuda"
        sets = [word for key, value in own.items() for word in ("--set", f"{key}={value}")]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(count), "-m", "ptuning"]
        done = subprocess.run([*launcher, "train", *sets], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    found, expected = (load_file(directories[s] / "prompt" / "prompts.safetensors") for s in ("full", "none"))
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-3, rtol=0)
