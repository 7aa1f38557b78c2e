"""Whether the name of a backbone is that of a directory, and what to say of one that is not there; without torch."""

from __future__ import annotations

from pathlib import Path

from ptuning.backbones import embedded
from ptuning.errors import BackboneError


def require_directory(name: str) -> None:
    """Makes sure that what can only be a path is a directory, and that what may be a name of the hub is no file here.

    Raises:
        BackboneError: there is none, or it is a file.
    """
    if name == embedded.NAME:
        return
    path = Path(name)
    if path.is_file() or (_can_only_be_a_path(name) and not path.is_dir()):
        raise no_directory(name)


def no_directory(name: str, *, on_the_hub: str | None = None) -> BackboneError:
    """What to say of a path that is no directory; `on_the_hub`: why it gave nothing as a name of the hub either."""
    path = Path(name)
    if path.is_file():
        found = "is a file"
    else:
        here = "" if path.is_absolute() or name.startswith("~") else f" in {Path.cwd()}"
        found = f"was not found: there is no such directory{here}"
    if on_the_hub is not None:
        found += f", and as a name of the hub it gave: {on_the_hub}"
    tilde = ", ~ written out" if name.startswith("~") else ""
    return BackboneError(
        f"the backbone {name!r} {found}. Expected a directory in hub layout, with config.json, weights and tokenizer, "
        f"a Hugging Face name, or `minilm`. Correct the path{tilde}; where a saved prompt names a directory that was "
        "moved, say where it is now: --backbone, or backbone= in Python."
    )


def _can_only_be_a_path(name: str) -> bool:
    """Whether this is no name of the hub, which are `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
