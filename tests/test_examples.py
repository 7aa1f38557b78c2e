"""Every example runs, on small settings, and uses the public names alone."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ptuning

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMALL = {
    "attach_and_trainer.py": (["--rows", "16", "--epochs", "1"], "bit for bit"),
    "mixed_batch.py": (["--rows", "16"], "tickets"),
    "own_data.py": (["--epochs", "1"], "good"),
}


def test_every_example_is_here() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALL))
def test_example_runs(name: str, tmp_path: Path) -> None:
    arguments, expected = SMALL[name]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


@pytest.mark.parametrize("name", list(SMALL))
def test_example_uses_public_names_alone(name: str) -> None:
    tree = ast.parse((EXAMPLES / name).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not str(node.module).startswith("ptuning."), node.module
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("ptuning.") for alias in node.names)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ptuning":
            assert node.attr in ptuning.__all__


@pytest.mark.parametrize("name", list(SMALL))
def test_first_lines_name_the_command(name: str) -> None:
    assert f"python examples/{name}" in "".join((EXAMPLES / name).read_text(encoding="utf-8").splitlines()[:4])
