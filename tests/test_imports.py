"""Rooms import one way, as docs/design.md draws it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "ptuning"

# From the ground up: a room imports from rows above its own, and from those beside it only what is named here.
ROWS = (
    ("errors", "version", "allocation"),
    ("config", "devices", "storage", "model_card", "launch"),
    ("prompts", "backbones", "heads", "data", "metrics", "reports"),
    ("tasks", "checkpoint", "lower_states"),
    ("attachment", "methods"),
    ("model", "sharing"),
    ("inference",),
    ("predictor", "linear_probe", "training"),
    ("evaluation", "inspection", "multitask", "planning"),
    ("demo", "submission", "diagnostics", "compare"),
    ("cli",),
    ("__main__",),
)
BESIDE = {("metrics", "data"), ("training", "linear_probe")}
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "ptuning":
            module = str(node.module)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "ptuning" else [module]
            found |= {name.split(".")[1] for name in names}
    return found - {_room(path)}


@pytest.mark.parametrize("room", list(LEVEL))
def test_arrows_point_one_way(room: str) -> None:
    files = [path for path in PACKAGE.rglob("*.py") if _room(path) == room]
    assert files
    for path in files:
        for other in _imported_rooms(path):
            is_below = LEVEL[other] < LEVEL[room] or (room, other) in BESIDE
            assert is_below, f"{path.relative_to(PACKAGE)} imports {other}"


def test_every_room_has_a_row() -> None:
    rooms = {_room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert rooms == set(LEVEL)


def test_only_the_backbones_room_imports_models_of_transformers() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if _room(path) not in ("backbones", "cli"):
            assert "import transformers" not in text and "from transformers" not in text, path
