"""Reading the pickled files of GLM (2021) without running what is in them.

torch's own `weights_only` reader knows tensors and plain values. Checkpoints of DeepSpeed also carry states of random
number generators, which are numpy arrays; those are allowed by name, and nothing else is.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptuning.errors import BackboneError

# numpy moved them from the first to the second; files name the one of their day.
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMBERS = "?bBhHiIlLqQefdgFD"  # kinds of numpy arrays: numbers only, no objects
_NAME = re.compile(r"GLOBAL (\S+)")
_REASON = re.compile(r"WeightsUnpickler error:\s*(.+)")


def allowed_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """What a pickled checkpoint may name besides what torch allows: numpy arrays and scalars of numbers."""
    rebuild_array: Any = np.zeros(0).__reduce__()[0]
    rebuild_scalar: Any = np.float64(0).__reduce__()[0]
    named: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (function, f"{module}.{name}")
        for module in _NUMPY_MODULES
        for function, name in ((rebuild_array, "_reconstruct"), (rebuild_scalar, "scalar"))
    ]
    kinds = {type(np.dtype(code)) for code in _NUMBERS}
    return [*named, (np.ndarray, "numpy.ndarray"), (np.dtype, "numpy.dtype"), *kinds]


def read_pickle(path: Path) -> dict[str, Any]:
    """Reads a file that `torch.save` wrote, its tensors mapped into memory where its format allows that.

    Raises:
        BackboneError: it names something that is not allowed, is damaged, or is not a dictionary.
    """
    is_mapped = zipfile.is_zipfile(path)  # files of torch before 1.6 are not
    known = torch.serialization.get_safe_globals()  # those of the caller stay when the block ends
    try:
        with torch.serialization.safe_globals([one for one in allowed_globals() if one not in known]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_mapped)
    except pickle.UnpicklingError as error:
        found = _NAME.search(str(error))
        if found is None:
            reason = _REASON.search(str(error))
            raise _damaged(path, reason.group(1) if reason else _first_line(error)) from error
        raise BackboneError(
            f"{path} names {found.group(1)}, which is not among what a checkpoint may hold: tensors, plain values, and "
            "numpy arrays of numbers. Reading it could run foreign code, so it is refused. Use a checkpoint in "
            "safetensors, or one with weights alone."
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, _first_line(error)) from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__}, not a dictionary")
    return content


def _damaged(path: Path, reason: str) -> BackboneError:
    return BackboneError(
        f"{path} cannot be read: {reason}. Expected a dictionary of tensors that torch.save wrote. Get the file again."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
