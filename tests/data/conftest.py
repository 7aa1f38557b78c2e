from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Writes files (bytes, text, or a list of records as JSON lines) into a new directory and returns it."""
    count = 0

    def write(files: dict[str, Any]) -> Path:
        nonlocal count
        count += 1
        directory = tmp_path / f"data{count}"
        directory.mkdir()
        for name, content in files.items():
            if isinstance(content, list):
                content = "".join(json.dumps(record) + "\n" for record in content)
            (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return directory

    return write
