"""Wrong inputs that were tried, each provoked for real: the source of `docs/errors.md` and of `test_wrong_inputs.py`.

A case is a function of an empty directory that must end in a `PtuningError`. Nothing is downloaded; where a backbone is
needed it is a tiny random one, made once and kept beside the cases' directories.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptuning.config import load_config, parse_settings
from ptuning.errors import ConfigError, PtuningError
from ptuning.multitask import load_multitask_config

Provoke = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Attributes:
        group: data, config, backbone, saved prompt, attach, or command.
        name: what is wrong, in a few words.
        provoke: does it, in an empty directory.
    """

    group: str
    name: str
    provoke: Provoke


@dataclass(frozen=True)
class Outcome:
    """What a case came to.

    Attributes:
        error: name of the error's class.
        message: with temporary paths written as DIR and digests as SHA.
        exit_status: of the command that meets this error.
    """

    error: str
    message: str
    exit_status: int


CASES: list[Case] = []


def run_case(case: Case) -> Outcome:
    """Provokes a case in a new directory and returns what it says.

    Raises:
        AssertionError: nothing was refused.
    """
    directory = Path(tempfile.mkdtemp(dir=_root()))
    before = Path.cwd()
    os.chdir(directory)
    try:
        with _quiet():
            case.provoke(directory)
    except PtuningError as error:
        return Outcome(type(error).__name__, _without_paths(str(error), directory), 1 + isinstance(error, ConfigError))
    finally:
        os.chdir(before)
        shutil.rmtree(directory, ignore_errors=True)
    raise AssertionError(f"{case.group}, {case.name}: nothing was refused")


def _without_paths(message: str, directory: Path) -> str:
    for path in (directory, _root() / "shared", _root()):
        message = message.replace(str(path), "DIR")
    return re.sub(r"\b[0-9a-f]{12}\b", "SHA", message)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps other libraries' bars and warnings out of the way, and puts their settings back."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@functools.cache
def _root() -> Path:
    """One directory for all cases of this process, deleted at its end."""
    holder = tempfile.TemporaryDirectory(prefix="ptuning-wrong-")
    _kept.append(holder)
    return Path(holder.name).resolve()


_kept: list[tempfile.TemporaryDirectory[str]] = []


def _case(group: str, name: str) -> Callable[[Provoke], Provoke]:
    def add(provoke: Provoke) -> Provoke:
        CASES.append(Case(group, name, provoke))
        return provoke

    return add


# Data


def _load(directory: Path, kind: str, files: dict[str, Any], **options: Any) -> object:
    from ptuning.data import load_data

    _write(directory / "data", files)
    return load_data(directory / "data", kind=kind, **options)


def _write(directory: Path, files: dict[str, Any]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, list):
            content = "".join(json.dumps(record) + "\n" for record in content)
        (directory / name).write_bytes(content if isinstance(content, bytes) else content.encode())


_GOOD = [{"text": "fine", "label": "yes"}, {"text": "bad", "label": "no"}, {"text": "so", "label": "yes"}]
_CONTEXT = "The shop opens at nine."


@_case("data", "the directory is not there")
def _(directory: Path) -> object:
    from ptuning.data import load_data

    return load_data(directory / "data", kind="classification")


@_case("data", "no train file in the directory")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"notes.md": "hello"})


@_case("data", "a file instead of a directory")
def _(directory: Path) -> object:
    from ptuning.data import load_data

    _write(directory, {"tickets.csv": "text,label\na,b\n"})
    return load_data(directory / "tickets.csv", kind="classification")


@_case("data", "an empty train file")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.jsonl": ""})


@_case("data", "a line that is not JSON")
def _(directory: Path) -> object:
    return _load(
        directory, "classification", {"train.jsonl": '{"text": "a", "label": "b"}\n{"text": "c", label: "d"}\n'}
    )


@_case("data", "a line that is no object")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.jsonl": '["a", "b"]\n'})


@_case("data", "a CSV row with an unquoted comma")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.csv": "text,label\nwell, no,bad\n"})


@_case("data", "a CSV file with semicolons")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.csv": "text;label\nfine;yes\n"})


@_case("data", "a file in Latin-1")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.csv": "text,label\ncafé,yes\n".encode("latin1")})


@_case("data", "no label column")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.csv": "text,stars\nfine,5\n"})


@_case("data", "three text columns")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.csv": "title,body,summary,label\na,b,c,yes\n"})


@_case("data", "an empty text")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.jsonl": [*_GOOD, {"text": " ", "label": "no"}]})


@_case("data", "one label only")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.jsonl": [_GOOD[0], _GOOD[2]]})


@_case("data", "scores as class labels")
def _(directory: Path) -> object:
    return _load(
        directory, "classification", {"train.jsonl": [{"text": "a", "label": 0.5}, {"text": "b", "label": 1.5}]}
    )


@_case("data", "a validation label that train does not have")
def _(directory: Path) -> object:
    files = {"train.jsonl": _GOOD, "validation.jsonl": [{"text": "a", "label": "yess"}]}
    return _load(directory, "classification", files)


@_case("data", "a text where a number should be")
def _(directory: Path) -> object:
    return _load(directory, "regression", {"train.jsonl": [{"text": "a", "label": "high"}]})


@_case("data", "label names for a kind without classes")
def _(directory: Path) -> object:
    return _load(directory, "regression", {"train.jsonl": [{"text": "a", "label": 1.0}]}, labels=["low", "high"])


@_case("data", "more tags than tokens")
def _(directory: Path) -> object:
    return _load(directory, "token_classification", {"train.jsonl": [{"tokens": ["Ada"], "tags": ["B-PER", "O"]}]})


@_case("data", "tags in BIOES")
def _(directory: Path) -> object:
    return _load(
        directory, "token_classification", {"train.jsonl": [{"tokens": ["Ada", "ran"], "tags": ["S-PER", "O"]}]}
    )


@_case("data", "an entity that begins with I-")
def _(directory: Path) -> object:
    text = "Ada B-PER\nran O\n\nin O\nBath I-LOC\n"
    return _load(directory, "token_classification", {"train.conll": text})


@_case("data", "a predicate outside its sentence")
def _(directory: Path) -> object:
    row = {"tokens": ["Ada", "ran"], "predicate_index": 2, "tags": ["B-ARG0", "B-V"]}
    return _load(directory, "semantic_role_labeling", {"train.jsonl": [row]})


@_case("data", "a predicate that stands twice")
def _(directory: Path) -> object:
    row = {"id": "7", "tokens": ["Ada", "ran"], "predicate_index": 1, "tags": ["B-ARG0", "B-V"]}
    return _load(directory, "semantic_role_labeling", {"train.jsonl": [row, row]})


@_case("data", "an answer that stands elsewhere")
def _(directory: Path) -> object:
    row = {"question": "When?", "context": _CONTEXT, "answers": {"text": ["nine"], "answer_start": [17]}}
    return _load(directory, "question_answering", {"train.jsonl": [row]})


@_case("data", "one question id twice")
def _(directory: Path) -> object:
    row = {"id": "q1", "question": "When?", "context": _CONTEXT, "answers": {"text": ["nine"], "answer_start": [18]}}
    return _load(directory, "question_answering", {"train.jsonl": [row, row]})


@_case("data", "the right choice is not there")
def _(directory: Path) -> object:
    return _load(
        directory, "multiple_choice", {"train.jsonl": [{"text": "It rains", "choices": ["so", "but"], "label": 2}]}
    )


@_case("data", "entities that are no spans")
def _(directory: Path) -> object:
    rows = [{"tokens": ["to", "Rome"], "entities": ["Rome"]}]
    return _load(directory, "token_classification", {"train.jsonl": rows})


@_case("data", "a document's sentence without frames")
def _(directory: Path) -> object:
    rows = [{"document_id": "d1", "sentences": [{"words": ["He", "left"]}]}]
    return _load(directory, "semantic_role_labeling", {"train.jsonl": rows})


@_case("data", "data.columns names a missing column")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.jsonl": _GOOD}, columns={"text": "texts"})


@_case("data", "a split that is not there")
def _(directory: Path) -> object:
    return _load(directory, "classification", {"train.jsonl": _GOOD}, splits=["test"])


# Config


def _configured(directory: Path, text: str) -> object:
    _write(directory, {"config.yaml": text})
    return load_config(directory / "config.yaml")


@_case("config", "a misspelt setting")
def _(directory: Path) -> object:
    return _configured(directory, "task: classification\ntraining:\n  epoch: 5\n")


@_case("config", "another library's name for a setting")
def _(directory: Path) -> object:
    return _configured(directory, "task: classification\nprompts:\n  pre_seq_len: 20\n")


@_case("config", "a number out of range")
def _(directory: Path) -> object:
    return _configured(directory, "task: classification\nprompts:\n  dropout: 1.5\n")


@_case("config", "text where a number should be")
def _(directory: Path) -> object:
    return _configured(directory, "task: classification\ntraining:\n  learning_rate: fast\n")


@_case("config", "several mistakes at once")
def _(directory: Path) -> object:
    return _configured(directory, "backbon: minilm\ntraining:\n  epochs: 0\n  schedule: cosine\n")


@_case("config", "a file that is not YAML")
def _(directory: Path) -> object:
    return _configured(directory, "task: [classification\n")


@_case("config", "a recipe that is not there")
def _(directory: Path) -> object:
    return load_config(None, {"task": "classification", "recipe": str(directory / "mine.yaml")})


@_case("config", "the paper's settings for a backbone that has none")
def _(directory: Path) -> object:
    return load_config(None, {"task": "super_glue/rte", "backbone": "bert-base-cased", "recipe": "paper"})


@_case("config", "the paper's settings for a task that has none")
def _(directory: Path) -> object:
    return load_config(None, {"task": "imdb", "backbone": "roberta-large", "recipe": "paper"})


@_case("config", "the paper's settings without a task")
def _(directory: Path) -> object:
    return load_config(None, {"backbone": "roberta-large", "recipe": "paper"})


@_case("config", "a name that no shipped recipe has")
def _(directory: Path) -> object:
    return load_config(None, {"task": "super_glue/rte", "recipe": "paper/super_glue/rte/roberta-larg"})


_TWO = "tasks:\n  a: {task: wnut17}\n  b: {task: conll2004}\n"


@_case("config", "settings of multi-task training for one run")
def _(directory: Path) -> object:
    return _configured(directory, _TWO)


@_case("config", "multi-task training of several kinds")
def _(directory: Path) -> object:
    (directory / "config.yaml").write_text(_TWO.replace("conll2004", "imdb"), encoding="utf-8")
    return load_multitask_config(directory / "config.yaml")


@_case("config", "multi-task training with epochs")
def _(directory: Path) -> object:
    (directory / "config.yaml").write_text(_TWO + "training: {epochs: 3}\n", encoding="utf-8")
    return load_multitask_config(directory / "config.yaml")


@_case("config", "init: text without a text")
def _(directory: Path) -> object:
    return load_config(None, {"task": "classification", "prompts.init": "text"})


@_case("config", "the MLP with a given start")
def _(directory: Path) -> object:
    settings = {"task": "classification", "prompts.reparameterization": "mlp", "prompts.init": "tokens"}
    return load_config(None, settings)


@_case("config", "a layer that the backbone does not have")
def _(directory: Path) -> object:
    return _train(directory, {"prompts.layers": "last:4"})


@_case("config", "more tokens than positions")
def _(directory: Path) -> object:
    return _train(directory, {"data.max_length": 60, "prompts.positions": "shifted", "prompts.prompt_length": 8})


@_case("config", "a metric that the kind does not have")
def _(directory: Path) -> object:
    return _train(directory, {"training.metric": "bleu"})


@_case("config", "the pooler of a checkpoint without one")
def _(directory: Path) -> object:
    return _train(directory, {"head.pooling": "pooler", "backbone": str(tiny_backbone("headless"))})


@_case("config", "a kind of task without data")
def _(directory: Path) -> object:
    return _train(directory, {"data.path": None})


# Backbones


def _tiny_bert(**sizes: Any) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(sizes.pop("seed", 0))
    small = {
        "vocab_size": len(_WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
    }
    pooler = sizes.pop("add_pooling_layer", True)
    return BertModel(BertConfig(**{**small, **sizes}), add_pooling_layer=pooler).eval()


_WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "fine", "bad", "so")
_VARIANTS: dict[str, dict[str, Any]] = {
    "backbone": {},
    "deeper": {"num_hidden_layers": 3},
    "retrained": {"seed": 1},
    "headless": {"add_pooling_layer": False},
}


@functools.cache
def tiny_backbone(variant: str = "backbone") -> Path:
    """A tiny random BERT with a tokenizer, in hub layout."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    directory = _root() / "shared" / variant
    _tiny_bert(**_VARIANTS[variant]).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(_WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    return directory


def _copied_backbone(directory: Path) -> Path:
    return Path(shutil.copytree(tiny_backbone(), directory / "backbone"))


@_case("backbone", "a directory that is not there")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.load_backbone(directory / "no-such-encoder")


@_case("backbone", "a family that takes no prompts")
def _(directory: Path) -> object:
    import ptuning

    _write(directory / "backbone", {"config.json": json.dumps({"model_type": "gpt2"})})
    return ptuning.load_backbone(directory / "backbone")


@_case("backbone", "a checkpoint with missing weights")
def _(directory: Path) -> object:
    from safetensors.torch import load_file, save_file

    import ptuning

    path = _copied_backbone(directory) / "model.safetensors"
    weights = load_file(path)
    del weights["encoder.layer.1.attention.self.key.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    return ptuning.load_backbone(directory / "backbone")


@_case("backbone", "no tokenizer beside the weights")
def _(directory: Path) -> object:
    import ptuning

    for path in _copied_backbone(directory).glob("*token*"):
        path.unlink()
    return ptuning.load_backbone(directory / "backbone").tokenizer


@_case("backbone", "an attention implementation that is not there")
def _(directory: Path) -> object:
    import ptuning
    from ptuning.backbones import families

    config = {"model_type": "mpnet"}
    assert families.FAMILIES["mpnet"].native_forward is not None
    _write(directory / "backbone", {"config.json": json.dumps(config)})
    return ptuning.load_backbone(directory / "backbone", attention="flex_attention")


# Attaching to a model of one's own


def _prompts(num_layers: int = 2, num_heads: int = 2, prompt_length: int = 3, head_dim: int = 8) -> Any:
    import torch

    return torch.zeros(num_layers, 2, num_heads, prompt_length, head_dim)


@_case("attach", "prompts for another number of heads")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.attach(_tiny_bert(), _prompts(num_heads=4))


@_case("attach", "prompts for another number of layers")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.attach(_tiny_bert(), _prompts(num_layers=3))


@_case("attach", "a tensor of another rank")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.attach(_tiny_bert(), _prompts()[0])


@_case("attach", "prompts on a model that has some")
def _(directory: Path) -> object:
    import ptuning

    model = _tiny_bert()
    ptuning.attach(model, _prompts())
    return ptuning.attach(model, _prompts())


@_case("attach", "shifted positions on relative ones")
def _(directory: Path) -> object:
    from transformers import T5Config, T5EncoderModel

    import ptuning

    sizes = {"vocab_size": 8, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    return ptuning.attach(T5EncoderModel(T5Config(**sizes)), _prompts(), positions="shifted")


@_case("attach", "two entries and no rows")
def _(directory: Path) -> object:
    import torch

    import ptuning

    model = _tiny_bert()
    with _bank_attached(ptuning, model):
        return model(input_ids=torch.tensor([[2, 5, 3]]))


@_case("attach", "rows of another batch size")
def _(directory: Path) -> object:
    import torch

    import ptuning

    model = _tiny_bert()
    with _bank_attached(ptuning, model) as attached, attached.rows([0, 1]):
        return model(input_ids=torch.tensor([[2, 5, 3]]))


@contextlib.contextmanager
def _bank_attached(ptuning: Any, model: Any) -> Iterator[Any]:
    bank = ptuning.PromptBank(2)
    for length in (3, 5):
        prompts = ptuning.DeepPrompts(num_prompted_layers=2, num_kv_heads=2, prompt_length=length, head_dim=8)
        bank.add(prompts)
    attached = ptuning.attach(model, bank)
    try:
        yield attached
    finally:
        attached.detach()


@_case("attach", "a batch longer than the positions")
def _(directory: Path) -> object:
    import torch

    import ptuning

    model = _tiny_bert()
    ptuning.attach(model, _prompts(), positions="shifted")
    return model(input_ids=torch.full((1, 62), 5))


# Saved prompts


def _settings(directory: Path, changes: dict[str, Any]) -> Any:
    settings = {
        "task": "classification",
        "backbone": str(tiny_backbone()),
        "data.path": str(_root() / "shared" / "data"),
        "output": str(directory / "run"),
        "prompts.prompt_length": 3,
        "training.max_steps": 1,
        "training.device": "cpu",
        **changes,
    }
    return load_config(None, settings)


def _train(directory: Path, changes: dict[str, Any], **options: Any) -> Any:
    from ptuning.training.run import train

    _write(_root() / "shared" / "data", {"train.jsonl": _GOOD, "validation.jsonl": _GOOD})
    return train(_settings(directory, changes), **options)


@functools.cache
def _run() -> Path:
    """A run of one step."""
    directory: Path = _train(_root() / "shared", {}).directory
    return directory


def _copied_prompt(directory: Path) -> Path:
    return Path(shutil.copytree(_run() / "prompt", directory / "prompt"))


def _edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@_case("saved prompt", "a directory that is not there")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "a directory that holds no prompt")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.read_prompt(directory)


@_case("saved prompt", "config.json is not JSON")
def _(directory: Path) -> object:
    import ptuning

    (_copied_prompt(directory) / "config.json").write_text("{")
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "a newer format")
def _(directory: Path) -> object:
    import ptuning

    _edit(_copied_prompt(directory) / "config.json", lambda config: config.update(format_version=99))
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "a key is missing from config.json")
def _(directory: Path) -> object:
    import ptuning

    _edit(_copied_prompt(directory) / "config.json", lambda config: config.pop("backbone"))
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "prompts.safetensors is missing")
def _(directory: Path) -> object:
    import ptuning

    (_copied_prompt(directory) / "prompts.safetensors").unlink()
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "prompts.safetensors was cut off")
def _(directory: Path) -> object:
    import ptuning

    path = _copied_prompt(directory) / "prompts.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "config.json was edited by hand")
def _(directory: Path) -> object:
    import ptuning

    _edit(_copied_prompt(directory) / "config.json", lambda config: config["prompts"].update(positions="shifted"))
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "a pooling that there is not")
def _(directory: Path) -> object:
    import ptuning

    _edit(_copied_prompt(directory) / "config.json", lambda config: config["head"].update(pooling="sum"))
    return ptuning.read_prompt(directory / "prompt")


@_case("saved prompt", "saving into a directory with other files")
def _(directory: Path) -> object:
    import ptuning

    _write(directory / "thesis", {"chapter.tex": "mine"})
    return ptuning.attach(_tiny_bert(), _prompts()).save(directory / "thesis")


@_case("saved prompt", "saving into the current directory")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.attach(_tiny_bert(), _prompts()).save(".")


@_case("saved prompt", "another backbone")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.load(_run(), backbone=tiny_backbone("deeper"))


@_case("saved prompt", "the same sizes, other weights")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.load(_run(), backbone=tiny_backbone("retrained"))


@_case("saved prompt", "prompts without a task")
def _(directory: Path) -> object:
    import ptuning

    ptuning.attach(_tiny_bert(), _prompts()).save(directory / "prompt")
    return ptuning.load(directory / "prompt", backbone=tiny_backbone())


@_case("saved prompt", "a row without the task's column")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.load(_run()).predict([{"texts": "fine"}])


@_case("saved prompt", "two tasks and rows that name none")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.load([_run(), _copied_prompt(directory / "other")]).predict([{"text": "fine"}])


@_case("saved prompt", "a task that is not loaded")
def _(directory: Path) -> object:
    import ptuning

    return ptuning.load(_run()).predict([{"text": "fine"}], tasks="tickets")


# The command


def _command(*arguments: str) -> object:
    """Runs a command in this process, without its last resort of printing errors."""
    from ptuning.cli.app import app

    return app([*arguments], standalone_mode=False)


@_case("command", "--resume with --overwrite")
def _(directory: Path) -> object:
    return _command("train", "--task", "classification", "--resume", "--overwrite")


@_case("command", "--set without a value")
def _(directory: Path) -> object:
    return parse_settings(["training.epochs"])


@_case("command", "--set of a key inside a value")
def _(directory: Path) -> object:
    return _command("train", "--task", "classification", "--set", "task.name=x")


@_case("command", "no task")
def _(directory: Path) -> object:
    return _command("train", "--backbone", "minilm")


@_case("command", "a config that is not there")
def _(directory: Path) -> object:
    return _command("train", "config.yaml")


@_case("command", "a task that is not there")
def _(directory: Path) -> object:
    return _train(directory, {"task": "helpdesk/ticket"})


@_case("command", "the output has a run")
def _(directory: Path) -> object:
    return _train(directory, {"output": str(_run())})


@_case("command", "--resume where there is no run")
def _(directory: Path) -> object:
    return _train(directory, {}, resume=True)


@_case("command", "--resume with other settings")
def _(directory: Path) -> object:
    return _train(directory, {"output": str(_run()), "training.weight_decay": 0.5}, resume=True)


@_case("command", "data that have changed since training")
def _(directory: Path) -> object:
    from ptuning.evaluation import evaluate

    _write(directory / "data", {"train.jsonl": _GOOD, "validation.jsonl": _GOOD})
    run = _train(directory, {"data.path": str(directory / "data")}).directory
    _write(directory / "data", {"train.jsonl": [*_GOOD, {"text": "so so", "label": "maybe"}]})
    return evaluate(run)


@_case("command", "rows without labels to evaluate on")
def _(directory: Path) -> object:
    from ptuning.evaluation import evaluate

    _write(directory / "data", {"train.jsonl": _GOOD, "test.jsonl": [{"text": "fine"}]})
    return evaluate(_run(), data=directory / "data", split="test")


@_case("command", "--fit-threshold without unanswerable questions")
def _(directory: Path) -> object:
    from ptuning.evaluation import evaluate

    return evaluate(_run(), fit_threshold=True)


@_case("command", "a file to predict that is not there")
def _(directory: Path) -> object:
    from ptuning.data import load_rows

    return load_rows(directory / "new.jsonl", "classification")


@_case("command", "a grader's format for another task")
def _(directory: Path) -> object:
    return _command("predict", str(_run()), str(directory / "new.jsonl"), "--format", "super_glue")


@_case("command", "a format that is not there")
def _(directory: Path) -> object:
    return _command("predict", str(_run()), "--format", "csv")


@_case("command", "both a file and a split to predict")
def _(directory: Path) -> object:
    return _command("predict", str(_run()), "new.jsonl", "--split", "test")


@_case("command", "ids that come twice, for a grader")
def _(directory: Path) -> object:
    from ptuning.data.formats import table_of
    from ptuning.submission.ids import numbers

    return numbers(table_of("test.jsonl", [{"idx": 4}, {"idx": 4}], [1, 2]), ("idx",))


@_case("command", "an output that is there")
def _(directory: Path) -> object:
    (directory / "answers.jsonl").write_text("mine", encoding="utf-8")
    (directory / "new.jsonl").write_text(json.dumps({"text": "fine"}), encoding="utf-8")
    return _command("predict", str(_run()), "new.jsonl", "--output", "answers.jsonl")


@_case("command", "rows to show without a task")
def _(directory: Path) -> object:
    return _command("tasks", "--show", "3")


@_case("command", "a prompt without virtual tokens to diagnose")
def _(directory: Path) -> object:
    from ptuning.diagnostics import diagnose

    return diagnose(_train(directory, {"prompts.prompt_length": 0}).directory)


def table_row(case: Case, outcome: Outcome) -> str:
    """A case as a line of the table in docs/errors.md."""
    message = outcome.message.replace("|", "&#124;").replace("<", "&lt;").replace("\n", "<br>")
    return f"| {case.name} | {outcome.error} | {message} | {outcome.exit_status} |"
