from __future__ import annotations

from pathlib import Path

import pytest

from ptuning.backbones.paths import require_directory
from ptuning.errors import BackboneError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "small").mkdir(parents=True)
    for name in ("minilm", "models/notes.txt"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["./models/small", "models/small", "minilm", "bert-base-uncased", "owner/name"])
def test_directories_and_what_may_be_names_of_the_hub_pass(name: str) -> None:
    """`minilm` is the embedded one, whatever lies here."""
    require_directory(name)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "models\\nowhere"])
def test_what_can_only_be_a_path_must_be_there(name: str) -> None:
    with pytest.raises(BackboneError, match="was not found: there is no such directory"):
        require_directory(name)


def test_a_file_is_none() -> None:
    with pytest.raises(BackboneError, match="^the backbone 'models/notes.txt' is a file. Expected a directory"):
        require_directory("models/notes.txt")
