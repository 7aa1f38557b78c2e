"""What is shipped is whole: the wheel has code, types and data, and works on its own."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def test_the_wheel_carries_the_data_and_works_without_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=PROJECT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("ptuning-*.whl")
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    source = PROJECT / "src"
    kinds = (".py", ".typed", ".jsonl", ".yaml")
    expected = {path.relative_to(source) for path in source.rglob("*") if path.suffix in kinds}
    assert expected == {path.relative_to(unpacked) for path in (unpacked / "ptuning").rglob("*") if path.is_file()}
    code = (
        "import ptuning\n"
        "from ptuning.data.sources import load_data, source_directory\n"
        "from ptuning.config import load_config\n"
        f"assert ptuning.__file__.startswith({str(unpacked)!r}), ptuning.__file__\n"
        "paper = load_config(None, {'task': 'super_glue/rte', 'backbone': 'roberta-large', 'recipe': 'paper'})\n"
        "assert paper.prompts.prompt_length == 128, paper\n"
        "print(len(load_data(source_directory('package:helpdesk/tickets'), kind='classification').train))\n"
    )
    # -P and PYTHONPATH: the checkout, which is installed as editable, must not be what is found.
    found = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(unpacked), "PATH": ""},
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert found.stdout == "640\n"
