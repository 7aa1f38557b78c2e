from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from ptuning import sharing
from ptuning.errors import CheckpointError
from ptuning.sharing import from_hub, is_in_hub_cache, push_to_hub
from ptuning.training.run import train


class Hub:
    """Stands for HfApi: remembers what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, *, token: str | None) -> Hub:
        self.asked.append(("token", {"token": token}))
        return self

    def create_repo(self, repository: str, **options: Any) -> None:
        self.asked.append((repository, options))

    def upload_folder(self, **options: Any) -> Any:
        if self.error is not None:
            raise self.error
        self.asked.append(("upload", options))
        return SimpleNamespace(commit_url="https://hub/me/colours/commit/1")


@pytest.fixture(scope="module")
def run(tiny_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("shared") / "run"
    train(tiny_run(directory, **{"training.max_steps": 1}))
    return directory


@pytest.mark.parametrize("inside", ["", "prompt"])
def test_only_the_prompts_own_files_are_uploaded(inside: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(sharing, "HfApi", hub)
    address = push_to_hub(run / inside, "me/colours", private=True, revision="main", token="secret")
    assert address == "https://hub/me/colours/commit/1"
    assert hub.asked == [
        ("token", {"token": "secret"}),
        ("me/colours", {"private": True, "exist_ok": True}),
        (
            "upload",
            {
                "repo_id": "me/colours",
                "folder_path": run / "prompt",
                "allow_patterns": ["config.json", "prompts.safetensors", "README.md", "model.safetensors"],
                "revision": "main",
                "commit_message": "Upload a prompt",
            },
        ),
    ]


def test_a_damaged_prompt_is_not_uploaded(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr(sharing, "HfApi", hub)
    shutil.copytree(run / "prompt", tmp_path / "prompt")
    (tmp_path / "prompt" / "prompts.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="was cut off or altered"):
        push_to_hub(tmp_path / "prompt", "me/colours")
    assert hub.asked == []


@pytest.mark.parametrize(
    "error",
    [
        HFValidationError("Repo id must use alphanumeric chars.\nMore."),
        OSError("Token is required, but no token found."),
        sharing._HTTP_ERROR("Connection refused"),
    ],
)
def test_what_the_hub_refuses_is_one_line(error: Exception, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "HfApi", Hub(error))
    with pytest.raises(CheckpointError) as caught:
        push_to_hub(run, "my colours")
    first = str(error).splitlines()[0].rstrip(".")
    assert str(caught.value) == (
        f"the hub did not take {run / 'prompt'} as 'my colours': {first}. Expected a name such as owner/name, a token "
        "that may write to it, and a network; log in with `hf auth login`."
    )


def test_a_prompt_comes_from_the_hub_checked(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(repository: str, **options: Any) -> str:
        asked[repository] = options
        return str(run / "prompt")

    monkeypatch.setattr(sharing, "snapshot_download", download)
    assert from_hub("me/colours", revision="v1", token="secret") == run / "prompt"
    assert asked == {
        "me/colours": {
            "revision": "v1",
            "token": "secret",
            "allow_patterns": ["config.json", "prompts.safetensors", "README.md", "model.safetensors"],
        }
    }


def test_a_snapshot_is_told_from_other_directories() -> None:
    assert is_in_hub_cache(Path("/cache/hub/models--me--colours/snapshots/0123abcd"))
    for other in ("/runs/colours/prompt", "/snapshots/colours", "/models--me--colours/prompt", "/models--me/x/y"):
        assert not is_in_hub_cache(Path(other))


def test_a_repository_that_is_no_prompt_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(CheckpointError, match="neither a prompt nor a finished run"):
        from_hub("me/colours")


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("Cannot find the files.\nMore."),
        HFValidationError("Repo id must be in the form owner/name."),
        sharing._HTTP_ERROR("401 Client Error"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(sharing, "snapshot_download", download)
    first = str(error).splitlines()[0].rstrip(".")
    with pytest.raises(CheckpointError) as caught:
        from_hub("me/colours")
    assert str(caught.value) == (
        f"the prompt 'me/colours' could not be fetched from the hub: {first}. Check the name, the revision and the "
        "network, and log in with `hf auth login` where it is private."
    )
