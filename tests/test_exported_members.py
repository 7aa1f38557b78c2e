from __future__ import annotations

import subprocess
import sys
from typing import Any, get_type_hints

import pytest

import ptuning
from ptuning import multitask

_SLOW = ("torch", "transformers", "datasets", "sklearn")


def test_public_names_are_sorted_and_complete() -> None:
    assert ptuning.__all__ == sorted(ptuning.__all__)
    assert set(ptuning.__all__) == {*ptuning._HOMES, "__version__"}
    assert dir(ptuning) == ptuning.__all__


@pytest.mark.parametrize("name", ptuning.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    value: Any = getattr(ptuning, name)
    assert name == "__version__" or value.__name__ == name
    assert value is getattr(ptuning, name)


def test_multitask_training_is_found_in_its_own_room_too() -> None:
    assert multitask.__all__ == sorted(multitask._HOMES) == dir(multitask)
    for name in multitask.__all__:
        assert getattr(multitask, name) is getattr(ptuning, name) and name in ptuning.__all__
    with pytest.raises(AttributeError, match="module 'ptuning.multitask' has no attribute 'trian'"):
        multitask.trian  # noqa: B018


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ptuning' has no attribute 'attack'"):
        ptuning.attack  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import ptuning",
        "import ptuning.config",
        "import ptuning.errors",
        "import ptuning.multitask",
        "from ptuning import load_config, RunConfig",
        "from ptuning import load_multitask_config, MultitaskConfig, MultitaskResult",
        "from ptuning import load_compare_config, CompareConfig",
        "from ptuning import compare_methods, report_comparison",
    ],
)
def test_importing_the_package_imports_neither_torch_nor_transformers(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {_SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_functions_have_types() -> None:
    assert get_type_hints(ptuning.load_config)["return"] is ptuning.RunConfig
