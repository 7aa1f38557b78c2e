"""README and docs say what is there: snippets, commands, options, settings, links and the list of files."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification
from typer.main import get_command

import ptuning
from ptuning.cli.app import app
from ptuning.compare.settings import load_compare_config
from ptuning.config import load_config, setting_names
from ptuning.data import load_data
from ptuning.multitask.settings import load_multitask_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}


def _blocks(language: str) -> list[tuple[str, str]]:
    """(page, code) of every fenced block of a language."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page, code) for page, text in TEXTS.items() for code in pattern.findall(text)]


def _commands() -> list[tuple[str, str]]:
    """(page, line) of every shell line, in fenced or indented blocks."""
    fenced = [(page, line) for page, code in _blocks("bash") for line in code.splitlines() if line.strip()]
    # The help in cli.md is what the program prints.
    indented = [
        (page, line.strip())
        for page, text in TEXTS.items()
        for line in re.findall(r"^    (?:make|ptuning|python) .*$", text, re.MULTILINE)
        if page != "docs/cli.md" and "·" not in line
    ]
    return fenced + indented


def test_readme_fits_on_a_screen() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 70


@pytest.mark.parametrize(("page", "code"), _blocks("python"))
def test_python_uses_public_names(page: str, code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            assert not str(node.module).startswith("ptuning"), page
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ptuning":
            assert node.attr in ptuning.__all__, page


def test_python_of_the_readme_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = {"vocab_size": 50, "intermediate_size": 8}  # otherwise those of bert-base, which the snippet counts on
    model = BertForSequenceClassification(BertConfig(**sizes))
    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", lambda name: model)
    predictor = SimpleNamespace(predict=lambda rows, tasks: [{"label": tasks}] * len(rows))
    monkeypatch.setattr(ptuning, "load", lambda directories: predictor, raising=False)
    (code,) = [code for page, code in _blocks("python") if page == "README.md"]
    exec(compile(code, "README.md", "exec"), {})
    assert "tickets" in capsys.readouterr().out


@pytest.mark.parametrize(("page", "line"), _commands())
def test_commands_exist(page: str, line: str) -> None:
    words = shlex.split(line.split(" > ")[0], comments=True)
    while re.match("[A-Z_]+=", words[0]):  # variables of the environment
        words = words[1:]
    if words[0] == "torchrun":  # --nproc_per_node 2, then the command
        assert words[1] == "--nproc_per_node" and words[2].isdigit()
        words = words[words.index("train") - 1 :]
        assert words[0] in ("ptuning", "ptuning)")
        words[0] = "ptuning"
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[1] in targets
    elif words[0] == "python":
        script = ROOT / words[1]
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in script.read_text(encoding="utf-8"), option
    elif words[0] == "ptuning":
        group: Any = get_command(app)
        known = {option for parameter in group.commands[words[1]].params for option in parameter.opts}
        assert {word for word in words[2:] if word.startswith("--")} <= known
    else:
        assert words[0] == "pip"


def test_settings_that_the_docs_name_are_settings(tmp_path: Path) -> None:
    for _, code in _blocks("yaml"):
        (tmp_path / "config.yaml").write_text(code, encoding="utf-8")
        loads: dict[str, Any] = {"tasks": load_multitask_config, "methods": load_compare_config}
        loads.get(code.partition(":")[0], load_config)(tmp_path / "config.yaml")
    for page, text in TEXTS.items():
        if page != "docs/errors.md":
            for name in re.findall(r"`(?:--set )?((?:data|prompts|head|training)\.[a-z_]+)(?:=[^`]*)?`", text):
                assert name in [*setting_names(), "prompts.safetensors"], f"{page}: {name}"


@pytest.mark.parametrize(
    ("page", "code"), [*_blocks("json"), *[b for b in _blocks("text") if b[1].startswith("text,")]]
)
def test_data_of_the_quickstart_are_read(page: str, code: str, tmp_path: Path) -> None:
    kinds = {
        "answers": "question_answering",
        "ner_tags": "token_classification",
        "predicate_index": "semantic_role_labeling",
        "choices": "multiple_choice",
    }
    is_json = code.startswith("{")
    columns = json.loads(code) if is_json else {}
    kind = next((kind for column, kind in kinds.items() if column in columns), "regression" if is_json else None)
    # Twice, so that there is a row to hold out.
    (tmp_path / ("train.jsonl" if is_json else "train.csv")).write_text(code * 2 if is_json else code, encoding="utf-8")
    assert load_data(tmp_path, kind=kind or "classification").train


def test_links_lead_somewhere() -> None:
    for page, text in TEXTS.items():
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_file_list_matches_the_tree() -> None:
    part = TEXTS["README.md"].split("## Files")[1].split("## More")[0]
    package = part.split("src/ptuning/")[1].split("    tests/")[0]
    listed = set(re.findall(r"(?:^ {6}|  )([a-z_]+(?:\.py|\.typed|/))  ", package, re.MULTILINE))
    there = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "src" / "ptuning").iterdir()
        if not path.name.startswith("__")
    }
    assert listed == there
    rest = part.split(package)[1]
    for directory in ("examples", "benchmarks"):
        assert set(re.findall(r"\w+\.py", rest.split(f"{directory}/")[1].splitlines()[0])) == {
            path.name for path in (ROOT / directory).glob("*.py")
        }
    assert "tests/" in rest and "docs/" in rest
