"""Every wrong input is refused with the message that docs/errors.md gives for it.

The page is the pin: a message that changes fails here until `python docs/generate.py` has written the new one, so the
change is seen where it is read.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wrong_inputs", ROOT / "tests" / "wrong_inputs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["wrong_inputs"] = module
    spec.loader.exec_module(module)
    return module


wrong_inputs = _module()
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("case", wrong_inputs.CASES, ids=lambda case: f"{case.group}: {case.name}")
def test_message_is_the_one_in_the_docs(case: Any) -> None:
    outcome = wrong_inputs.run_case(case)
    assert wrong_inputs.table_row(case, outcome) in PAGE


def test_page_lists_these_cases_and_no_others() -> None:
    rows = [line.split(" | ")[0].removeprefix("| ") for line in PAGE if line.startswith("| ")]
    assert [row for row in rows if row not in ("wrong", "---")] == [case.name for case in wrong_inputs.CASES]


def test_every_group_of_errors_is_tried() -> None:
    assert len(wrong_inputs.CASES) >= 25
    groups = {case.group for case in wrong_inputs.CASES}
    assert groups >= {"data", "config", "backbone", "attach", "saved prompt", "command"}
