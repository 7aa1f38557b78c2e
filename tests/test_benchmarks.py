"""The benchmarks run, and end with one JSON object; their numbers are not looked at here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _last_line(script: str, *arguments: str, cwd: Path) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    line: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
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
@pytest.mark.parametrize("more", [[], ["--ragged"]], ids=["full", "ragged"])
def test_both_sides_of_a_step_compute_the_same(more: list[str], backbone: Path, tmp_path: Path) -> None:
    sizes = ["--batch-size", "3", "--seq-len", "8", "--prompt-length", "4", "--repeats", "2", "--warmup", "1"]
    line = _last_line("training_step.py", "--backbone", str(backbone), *sizes, *more, cwd=tmp_path)
    dropout = line["dropout"]
    assert isinstance(dropout, dict) and set(dropout) == {"off", "on"}


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
