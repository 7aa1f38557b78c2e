"""A GLM's words in a blank as plans see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptuning.errors import BackboneError
from ptuning.planning import make_plan


def test_words_of_one_token_are_planned_and_longer_ones_refused(tiny_glm: Path, tiny_run: Any, tmp_path: Path) -> None:
    words = {"red": "red", "blue": "blue", "green": "green"}
    settings = {
        "backbone": str(tiny_glm),
        "data.max_length": 96,
        "head.kind": "verbalizer",
        "data.pattern": "{text} is {mask}",
        "head.words": words,
    }
    found = make_plan(tiny_run(tmp_path, **settings), rate=1e10)
    assert found.largest_batch_size and found.trained_parameters == 2 * 2 * 4 * 32
    longer = {**settings, "head.words": {**words, "red": "red box"}}
    with pytest.raises(BackboneError, match="no plan can be made of this model.*head.kind linear"):
        make_plan(tiny_run(tmp_path, **longer), rate=1e10)
