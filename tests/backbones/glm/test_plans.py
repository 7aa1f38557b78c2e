"""A GLM's words in a blank as plans see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptuning.planning import make_plan


def test_words_are_planned_and_those_of_several_tokens_as_answers(
    tiny_glm: Path, tiny_run: Any, tmp_path: Path
) -> None:
    words = {"red": "red", "blue": "blue", "green": "green"}
    settings = {
        "backbone": str(tiny_glm),
        "data.max_length": 96,
        "head.kind": "verbalizer",
        "data.pattern": "{text} is {mask}",
    }
    found = make_plan(tiny_run(tmp_path, **settings, **{"head.words": words}), rate=1e10)
    assert found.largest_batch_size and found.trained_parameters == 2 * 2 * 4 * 32
    assert not any("answers" in said for said in found.assumptions)
    longer = make_plan(tiny_run(tmp_path, **settings, **{"head.words": {**words, "red": "red box"}}), rate=1e10)
    assert longer.largest_batch_size and longer.trained_parameters == found.trained_parameters
    assert "answers have 8 tokens" in longer.assumptions
    # three sequences an example, one a label, where words of one token need one
    assert longer.activation_bytes_per_batch > 2 * found.activation_bytes_per_batch
