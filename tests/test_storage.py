from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from ptuning import storage
from ptuning.storage import cache_directory, recover_directory, replace_directory, replace_file, sha256_of


def _names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def _write(text: str) -> Callable[[Path], None]:
    def write(directory: Path) -> None:
        (directory / "inner").mkdir()
        (directory / "inner" / "a.txt").write_text(text)

    return write


def _text(directory: Path) -> str:
    return (directory / "inner" / "a.txt").read_text()


def test_a_directory_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "prompt"
    assert replace_directory(target, _write("old")) == target
    (target / "extra").touch()
    replace_directory(str(target), _write("new"))
    assert _text(target) == "new"
    assert _names(target) == ["inner"]
    assert _names(target.parent) == ["prompt"]


def test_a_writer_that_fails_leaves_the_old_directory_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "prompt"

    def fail(directory: Path) -> None:
        (directory / "half.txt").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_directory(target, fail)
    assert _names(tmp_path) == []
    replace_directory(target, _write("old"))
    with pytest.raises(OSError, match="disk full"):
        replace_directory(target, fail)
    assert _text(target) == "old"
    assert _names(tmp_path) == ["prompt"]


def test_an_interrupt_leaves_the_old_directory(tmp_path: Path) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))

    def interrupt(directory: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_directory(target, interrupt)
    assert _text(target) == "old" and _names(tmp_path) == ["prompt"]


def test_a_rename_that_fails_puts_the_old_directory_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    rename = os.rename

    def fail(source: Path, destination: Path) -> None:
        if ".new-" in Path(source).name:
            raise OSError("no")
        rename(source, destination)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="no"):
        replace_directory(target, _write("new"))
    assert _text(target) == "old" and _names(tmp_path) == ["prompt"]


def _killed(target: Path, where: str) -> None:
    """Runs a process that kills itself (SIGKILL) at the first or second rename of a replacement, or while writing."""
    code = f"""
        import os, signal
        from pathlib import Path
        from ptuning.storage import replace_directory
        rename, count = os.rename, 0
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)
        def counted(source, destination):
            global count
            count += 1
            if count == {{"first": 1, "second": 2}}.get({where!r}):
                die()
            rename(source, destination)
        os.rename = counted
        def write(directory):
            (directory / "inner").mkdir()
            (directory / "inner" / "a.txt").write_text("new")
            if {where!r} == "writing":
                die()
        replace_directory(Path({str(target)!r}), write)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("where", ["writing", "first", "second"])
def test_a_process_that_is_killed_leaves_the_old_directory_once_recovered(tmp_path: Path, where: str) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    _killed(target, where)
    assert target.exists() == (where != "second")
    assert len(_names(tmp_path)) == 2
    recover_directory(target)
    assert _text(target) == "old"
    assert _names(tmp_path) == ["prompt"]


def test_a_replacement_clears_what_a_killed_one_left(tmp_path: Path) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    _killed(target, "second")
    replace_directory(target, _write("newer"))
    assert _text(target) == "newer" and _names(tmp_path) == ["prompt"]


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    host = storage._HOST
    for name in (f".prompt.new-{host}-{os.getppid()}", f".prompt.new-{host}-word", f".prompts.new-{host}-{2**30}"):
        (tmp_path / name).mkdir()
    recover_directory(target)
    assert len(_names(tmp_path)) == 4


def test_what_a_process_on_another_machine_writes_is_left_alone(tmp_path: Path) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    theirs = [f".prompt.new-{host}-{2**30}" for host in ("other-machine-7", f"{storage._HOST}-2")]
    for name in (*theirs, f".prompt.new-{storage._HOST}-{2**30}"):
        (tmp_path / name).mkdir()
    recover_directory(target)
    assert _names(tmp_path) == sorted([*theirs, "prompt"])


def test_a_name_of_dots_means_the_directory_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    target.rename(tmp_path / ".prompt.old")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    recover_directory(Path("..") / "prompt")
    assert _text(target) == "old"
    recover_directory(".")
    assert _names(tmp_path) == ["other", "prompt"]


def test_a_reader_that_recovers_between_the_renames_does_not_break_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))
    rename, renames = os.rename, 0

    def meddled(source: Path, destination: Path) -> None:
        nonlocal renames
        renames += 1
        rename(source, destination)
        if renames == 1:
            rename(destination, source)  # what the reader's recovery does

    monkeypatch.setattr(os, "rename", meddled)
    replace_directory(target, _write("new"))
    assert _text(target) == "new" and _names(tmp_path) == ["prompt"]


def test_a_recovery_that_another_process_was_faster_with_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "prompt"
    old = replace_directory(tmp_path / ".prompt.old", _write("old"))

    def faster(source: Path, destination: Path) -> None:
        replace_directory_of_the_other(destination)
        raise OSError("directory not empty")

    def replace_directory_of_the_other(destination: Path) -> None:
        destination.mkdir()
        _write("new")(destination)

    monkeypatch.setattr(os, "rename", faster)
    recover_directory(target)
    assert _text(target) == "new" and not old.exists()


def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path) -> None:
    (tmp_path / "prompt").write_text("mine")
    with pytest.raises(
        NotADirectoryError, match="prompt is a file, expected a directory or nothing. Give another path"
    ):
        replace_directory(tmp_path / "prompt", _write("new"))
    assert (tmp_path / "prompt").read_text() == "mine" and _names(tmp_path) == ["prompt"]


def test_a_directory_that_may_not_be_written_to_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace_directory(tmp_path / "prompt", _write("old"))

    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere, so rights are not enough here
    with pytest.raises(PermissionError, match="Permission denied"):
        replace_directory(target, _write("new"))
    with pytest.raises(PermissionError, match="Permission denied"):
        replace_directory(tmp_path / "other" / "prompt", _write("new"))
    assert _text(target) == "old" and _names(tmp_path) == ["prompt"]


def test_everything_is_flushed_before_it_is_moved_into_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    monkeypatch.setattr(storage, "_flush", lambda path: flushed.append(path.name))
    monkeypatch.setattr(os, "rename", lambda source, destination: flushed.append("rename"))
    replace_directory(tmp_path / "prompt", _write("new"))
    assert sorted(flushed[:3]) == [f".prompt.new-{storage._HOST}-{os.getpid()}", "a.txt", "inner"]
    assert flushed[3:] == ["rename", tmp_path.name]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "a.yaml"
    replace_file(path, "old é")
    replace_file(path, "new")
    assert path.read_text(encoding="utf-8") == "new" and _names(path.parent) == ["a.yaml"]

    def fail(source: Path, destination: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        replace_file(path, "newer")
    assert path.read_text() == "new" and _names(path.parent) == ["a.yaml"]


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_that_is_not_written_to_its_end_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    replace_file(path, lambda temporary: temporary.write_bytes(b"\0old"))

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        replace_file(path, fail)
    assert path.read_bytes() == b"\0old" and _names(tmp_path) == ["a.bin"]


def test_the_cache_is_where_the_variables_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PTUNING_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.setenv("PTUNING_CACHE", "~/there")
    assert cache_directory() == tmp_path / "there"
    monkeypatch.setenv("PTUNING_CACHE", "off")
    assert cache_directory() is None
    for unset in ("", None):
        monkeypatch.delenv("PTUNING_CACHE") if unset is None else monkeypatch.setenv("PTUNING_CACHE", unset)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert cache_directory() == tmp_path / ".cache" / "ptuning"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_directory() == tmp_path / "xdg" / "ptuning"
