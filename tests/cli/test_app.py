from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from ptuning.cli import app as app_module
from ptuning.cli.app import app
from ptuning.version import __version__

COMMANDS = (
    *("demo", "train", "multitask", "compare", "evaluate", "predict", "info", "diagnose", "tasks", "backbones"),
)
GROUP: Any = typer.main.get_command(app)


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_help_imports_neither_torch_nor_transformers() -> None:
    done = _python(
        "import sys; sys.argv = ['ptuning', '--help']\n"
        "from ptuning.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "print({'torch', 'transformers', 'datasets', 'numpy', 'sklearn'} & set(sys.modules))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_ends_with_examples(command: str, ptuning: Callable[..., Any]) -> None:
    result = ptuning(command, "--help")
    assert result.status == 0
    lines = [line.strip() for line in result.out.splitlines() if line.strip()]
    examples = lines[lines.index("Examples:") + 1 :]
    assert examples and any(line.startswith(f"ptuning {command}") or "| ptuning" in line for line in examples)
    assert not any(line.startswith("╭") for line in examples)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse(command: str) -> None:
    text = getattr(app_module, command).EXAMPLES
    examples = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert examples
    for example in examples:
        words = shlex.split(re.split(r" [<>] ", example.rpartition(" | ")[2] if " | " in example else example)[0])
        if words[0] == "torchrun":
            words = words[words.index("-m") + 1 :]
        assert words[:2] == ["ptuning", command]
        GROUP.commands[command].make_context(command, words[2:])


def test_commands_are_those_that_do_something() -> None:
    assert tuple(GROUP.commands) == COMMANDS


def test_version(ptuning: Callable[..., Any]) -> None:
    assert ptuning("--version") == type(ptuning("--version"))(0, f"ptuning {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["train", "--epochs", "3"], "No such option: --epochs"),
        (["evaluate"], "Missing argument 'DIR'"),
        (["train", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["train", "--task"], "requires an argument"),
    ],
)
def test_bad_usage_is_2_and_on_stderr(arguments: list[str], message: str, ptuning: Callable[..., Any]) -> None:
    result = ptuning(*arguments)
    assert result.status == 2 and result.out == ""
    assert message in result.err and "Traceback" not in result.err


def test_no_arguments_show_the_help(ptuning: Callable[..., Any]) -> None:
    result = ptuning()
    assert "Usage: ptuning" in result.out + result.err and "train" in result.out + result.err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 1, "stopped. A training run goes on with --resume.\n"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device. Check the path, its "),
    ],
)
def test_what_stops_a_command_is_said_in_a_line(
    error: BaseException, status: int, said: str, ptuning: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise error

    monkeypatch.setattr("ptuning.checkpoint.read_directory", stop)
    result = ptuning("info", "x")
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith(said) and result.err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    code = "import sys; sys.argv = ['ptuning', 'tasks']; from ptuning.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait() == 1
    assert "Traceback" not in error
    process.stderr.close()
