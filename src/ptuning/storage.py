"""Writing a directory or a file so that it is whole or not there (written beside, fsync, rename); where caches lie.

A directory cannot be replaced by one rename on every system. The old one is moved aside, the new one moved in, the
old one deleted; `recover_directory` puts an old one back if a process died between the first two.

Temporary names hold the machine and the process that writes, so that on a shared disk nobody takes the files of a
process elsewhere, whose number says nothing here, for those of a dead one.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

_HOST = re.sub(r"[^\w.-]", "_", socket.gethostname())


def replace_directory(directory: str | Path, write: Callable[[Path], None]) -> Path:
    """Writes a directory's files elsewhere and moves them into place as one.

    Args:
        directory: where they end up. What was there before is replaced as a whole.
        write: called with an empty temporary directory beside it.

    Returns:
        The directory.

    Raises:
        OSError: a disk problem, or a file stands there; what was there before is untouched, and the temporary
            directory is removed.
    """
    given, directory = Path(directory), Path(directory).resolve()
    if directory.exists() and not directory.is_dir():
        raise NotADirectoryError(f"{given} is a file, expected a directory or nothing. Give another path.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    recover_directory(directory)
    temporary = directory.parent / _temporary_name(directory)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        for entry in temporary.rglob("*"):
            _flush(entry)
        _flush(temporary)
        _exchange(directory, temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        recover_directory(directory)
        raise
    _flush(directory.parent)
    shutil.rmtree(_old(directory), ignore_errors=True)
    return given


def recover_directory(directory: str | Path) -> None:
    """Puts the previous directory back if a process died while replacing it, and clears what dead processes left."""
    directory = Path(directory).resolve()
    old = _old(directory)
    if old.exists():
        if not directory.exists():
            try:
                os.rename(old, directory)
            except OSError:
                if not directory.exists():  # else another process was faster
                    raise
        shutil.rmtree(old, ignore_errors=True)
    for left in directory.parent.glob(f".{glob.escape(directory.name)}.new-*"):
        host, _, process = left.name.removeprefix(f".{directory.name}.new-").rpartition("-")
        if host == _HOST and not _is_running(process):
            shutil.rmtree(left, ignore_errors=True)


def _exchange(directory: Path, temporary: Path) -> None:
    for is_last in (False, False, True):
        if directory.exists():
            os.rename(directory, _old(directory))
        try:
            os.rename(temporary, directory)
            return
        except OSError:
            # A reader took the moment between the renames for a crash and put the old one back.
            if is_last or not directory.exists():
                raise


def replace_file(path: str | Path, content: str | Callable[[Path], object]) -> None:
    """Writes a file so that it is whole or as before.

    Args:
        path: where it ends up.
        content: its text, or what writes it: called with a temporary path beside it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(_temporary_name(path))
    try:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        else:
            content(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def cache_directory() -> Path | None:
    """Returns where files lie that only save time, and can be deleted at any moment; None where none are to be kept.

    `PTUNING_CACHE` names it; `PTUNING_CACHE=off` keeps nothing. Without it `ptuning` in `XDG_CACHE_HOME`, or in
    `~/.cache`.
    """
    given = os.environ.get("PTUNING_CACHE")
    if given:
        return None if given == "off" else Path(given).expanduser()
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ptuning"
    except RuntimeError:  # a process without a home
        return None


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _temporary_name(path: Path) -> str:
    return f".{path.name}.new-{_HOST}-{os.getpid()}"


def _old(directory: Path) -> Path:
    return directory.parent / f".{directory.name}.old"


def _is_running(process: str) -> bool:
    if os.name != "posix" or not process.isdecimal():
        return True  # not known: leave it alone
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
