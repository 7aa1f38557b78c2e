from __future__ import annotations

import json
from pathlib import Path

import pytest

from ptuning.errors import CheckpointError
from ptuning.reports.outcomes import Comparison, read_results, write_results


def test_what_is_written_is_read_again(study: Comparison, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", study)
    assert read_results(tmp_path) == read_results(tmp_path / "results.json") == study


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "results.json cannot be read: No such file or directory. Give the results.json of a comparison"),
        ("{", "results.json is not JSON"),
        ("[]", "results.json has format version 'list', expected 1."),
        ('{"format_version": 2}', "results.json has format version 2, expected 1."),
        ('{"format_version": 1, "selection": "x", "outcomes": []}', "results.json is damaged: selection: Input should"),
    ],
)
def test_what_is_no_comparison_is_said(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        read_results(tmp_path / "results.json")


def test_later_versions_may_add_keys(study: Comparison, tmp_path: Path) -> None:
    write_results(tmp_path / "results.json", study)
    values = json.loads((tmp_path / "results.json").read_text())
    values["outcomes"][0]["result"]["new"] = 1
    (tmp_path / "results.json").write_text(json.dumps(values))
    assert read_results(tmp_path) == study
