"""Saved prompts to and from the Hugging Face hub. Only a prompt's own three files travel, never a backbone."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ptuning.checkpoint import FILES, find_prompt, read_prompt
from ptuning.errors import CheckpointError

# A snapshot in the hub's cache: models--OWNER--NAME/snapshots/COMMIT.
_SNAPSHOTS, _MODEL = "snapshots", "models--"

# The hub's own errors, and under them those of the HTTP library that it uses (httpx, or what came after it).
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
_ERRORS: tuple[type[Exception], ...] = (HFValidationError, _HTTP_ERROR, OSError)


def push_to_hub(
    directory: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Uploads a saved prompt, making the repository where there is none.

    Args:
        directory: a run or its `prompt/`. It is read and checked first, so nothing damaged is uploaded.
        repository: `owner/name` on the hub.
        private: whether a repository that is made is private.
        revision: branch to upload to.
        token: of the hub; by default the one that `hf auth login` left.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the prompt is missing or damaged, or the hub refused it.
    """
    read_prompt(directory)
    path = find_prompt(directory)
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=path,
            allow_patterns=list(FILES),
            revision=revision,
            commit_message="Upload a prompt",
        )
    except _ERRORS as error:
        raise CheckpointError(
            f"the hub did not take {path} as {repository!r}: {_first_line(error)}. Expected a name such as "
            "owner/name, a token that may write to it, and a network; log in with `hf auth login`."
        ) from error
    return str(commit.commit_url)


def from_hub(repository: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Downloads a saved prompt into the hub's cache and checks it.

    Args:
        repository: `owner/name` on the hub.
        revision: commit, branch or tag.
        token: of the hub, for private repositories.

    Returns:
        The directory of the prompt, for `load` and `read_prompt`.

    Raises:
        CheckpointError: it was not found, could not be fetched, or is no prompt.
    """
    try:
        directory = snapshot_download(repository, revision=revision, token=token, allow_patterns=list(FILES))
    except _ERRORS as error:
        raise CheckpointError(
            f"the prompt {repository!r} could not be fetched from the hub: {_first_line(error)}. Check the name, the "
            "revision and the network, and log in with `hf auth login` where it is private."
        ) from error
    read_prompt(directory)
    return Path(directory)


def is_in_hub_cache(directory: Path) -> bool:
    """Tells whether a prompt directory, as `find_prompt` returns it, is a snapshot in the hub's cache."""
    return directory.parent.name == _SNAPSHOTS and directory.parent.parent.name.startswith(_MODEL)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
