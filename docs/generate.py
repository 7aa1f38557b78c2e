"""Writes the documents that come from the code: commands, settings, backbones, tasks, methods, wrong inputs.

    python docs/generate.py              # write them
    python docs/generate.py --check      # exit 1 and name the pages that are not current

Nothing here is typed twice: help comes from `--help`, settings from the config's own models, backbones and tasks from
the tables that the program uses, and messages from wrong inputs that are tried (`tests/wrong_inputs.py`).
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# The same help on every machine; read by typer and rich when they are imported.
os.environ.update({"TERMINAL_WIDTH": "100", "COLUMNS": "100", "NO_COLOR": "1", "_TYPER_FORCE_DISABLE_TERMINAL": "1"})
for _name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS"):
    os.environ.pop(_name, None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from evidence_parts import filled_page  # noqa: E402  (after the environment is set)
from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent / "tests"))

_MOST_LABELS = 8
_NOTE = "<!-- Written by docs/generate.py from the code. Do not edit. -->"


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print("usage: python docs/generate.py [--check]", file=sys.stderr)
        return 2
    stale = []
    for name, text in pages():
        path = DOCS / name
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(f"docs/{name}")
        if not arguments:
            path.write_text(text, encoding="utf-8")
    if not arguments:
        print(f"wrote {', '.join(stale)}" if stale else "all pages were current")
        return 0
    for name in stale:
        print(f"{name} is not current. Run: python docs/generate.py", file=sys.stderr)
    return int(bool(stale))


def pages() -> Iterator[tuple[str, str]]:
    """Yields (file name, text) of each page."""
    for name, title, body in (
        ("cli.md", "Commands", cli()),
        ("settings.md", "Settings", settings()),
        ("backbones.md", "Backbones", backbones()),
        ("tasks.md", "Tasks", tasks()),
        ("methods.md", "Methods", methods()),
        ("recipes.md", "Recipes", recipes()),
        ("errors.md", "Wrong inputs and what is said about them", errors()),
    ):
        yield name, "\n".join([f"# {title}", "", _NOTE, "", *body]).rstrip() + "\n"
    yield "evidence.md", filled_page()


def cli() -> list[str]:
    """What `--help` prints, for the program and each command."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from ptuning.cli.app import app

    lines = [
        "Results go to stdout, progress and notes to stderr. Exit status: 0, 1 (failed), 2 (bad usage or settings).",
        "",
    ]
    group: Any = get_command(app)
    for name in ["", *group.commands]:
        arguments = [name, "--help"] if name else ["--help"]
        output = CliRunner().invoke(app, arguments, prog_name="ptuning", color=False).output
        shown = [line.rstrip() for line in output.splitlines()]
        lines += [f"## ptuning {name}".rstrip(), "", "```text", *_without_outer_blanks(shown), "```", ""]
    return lines


def _without_outer_blanks(lines: list[str]) -> list[str]:
    return "\n".join(lines).strip("\n").splitlines()


def settings() -> list[str]:
    """Every key of the config, from its models."""
    from ptuning.compare.settings import CompareConfig, DepthSweep, LengthSweep
    from ptuning.config import RunConfig
    from ptuning.multitask.settings import MultitaskConfig, TaskSettings

    lines = [
        "The keys of a config file. On the command line: `--set training.epochs=5`. Of several sources the later wins:",
        "defaults, recipe, file, flags, `--set`. A run writes all settings, resolved, to its `config.yaml`.",
        "",
    ]
    models: list[tuple[str, type[BaseModel]]] = [("", RunConfig)]
    models += [(name, field.annotation) for name, field in RunConfig.model_fields.items() if _is_group(field)]  # type: ignore[misc]
    models += [("multi-task", MultitaskConfig), ("tasks.NAME", TaskSettings)]
    models += [("compare", CompareConfig), ("depth", DepthSweep), ("length", LengthSweep)]
    for prefix, model in models:
        title, about = (prefix, (model.__doc__ or "").splitlines()[0]) if prefix else ("top level", "")
        lines += [f"## {title}", "", *([about, ""] if about else []), *_header("key", "type", "default", "what it is")]
        for name, field in model.model_fields.items():
            if _is_group(field):
                continue
            key = f"{prefix}.{name}" if prefix not in ("", "multi-task", "compare") else name
            lines.append(_row(f"`{key}`", _type_of(field), _default_of(field), field.description or ""))
        lines.append("")
    return lines


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _type_of(field: FieldInfo) -> str:
    limits = [limit for item in field.metadata if (limit := _limit(item))]
    name = _name_of(field.annotation)
    return name + (f", {' and '.join(limits)}" if limits else "")


def _limit(item: Any) -> str:
    for attribute, word in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        value = getattr(item, attribute, None)
        if value is not None:
            return f"{word} 2^32" if value == 2**32 else f"{word} {value:g}"
    return ""


def _name_of(annotation: Any) -> str:
    plain = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): ""}
    if annotation in plain:
        return plain[annotation]
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{member}`" for member in members)
    if origin is Annotated:
        limits = [limit for item in members[1:] for limit in _limits_of(item)]
        return _name_of(members[0]) + (f" ({' and '.join(limits)})" if limits else "")
    if origin in (Union, UnionType):
        return " or ".join(name for member in members if (name := _name_of(member)))
    if origin is list:
        return f"list of {_name_of(members[0])}s"
    if origin is dict:
        return "names and values"
    raise TypeError(f"no words for the type {annotation!r}")


def _limits_of(item: Any) -> list[str]:
    inner = item.metadata if isinstance(item, FieldInfo) else [item]
    return [limit for one in inner if (limit := _limit(one))]


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {}:
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


_ABOUT_DECODERS = """
`attention_direction` says which way the tokens of a decoder see: `causal`, as it was trained (the default), or
`bidirectional`. It belongs to a saved prompt, which is refused on a backbone that looks the other way. A checkpoint
that was trained to look both ways (EmbeddingGemma) does so by itself, and cannot be made causal. An encoder that
`is_decoder` in its `config.json` makes causal cannot be switched; a prompt of its own says so, and is refused where
that file says otherwise. Prompts of two directions are not loaded together.

- Virtual tokens are visible to every token, from every window, whichever way it looks. Prompts are as wide as the
  key/value heads; their keys are what attention sees, behind norms of keys (Qwen 3, Gemma 3) and rotation.
- Windows (`sliding_window`): a causal one is so many tokens, the one that looks counted. Switched, a token sees so
  many to each side, as transformers' bidirectional masks have it.
- `head.pooling` is `last` for causal backbones and `mean` for bidirectional ones, where the checkpoint does not say
  how it was trained; `cls` is refused for causal ones, whose first token sees nothing behind itself.
- Tagging asks a causal backbone at the last piece of a word, question answering says "no answer" at the last token.
  What stands behind a word or the start of an answer is not known there: where that matters, switch the direction.
  In semantic role labeling words in front of a marked predicate do not know it, and an appended one, which no word
  would see, is refused.
- A tokenizer that puts nothing between the two texts of a pair gets a line break there, or its end token where it has
  no token for a line break; one without a token for padding needs none, since padding is on the right and masked. A
  batch of your own may have padding on the left.
- `gemma3` checkpoints with a vision part are of another type and not supported; their language model by itself
  (`gemma3_text`) is. `glm` and `glm4` are the GLM-4 family, not the GLM of 2021.
"""


def _about_is_decoder(names: Sequence[str]) -> list[str]:
    sentence = (
        f"- Encoders that `is_decoder` makes causal: {', '.join(f'`{name}`' for name in names)}. The other encoders "
        "look both ways whatever that field says."
    )
    return textwrap.wrap(sentence, 115, subsequent_indent="  ", break_on_hyphens=False)


def backbones() -> list[str]:
    """The families that can be given prompts."""
    from ptuning.backbones.families import FAMILIES, POSITION_NOTES

    lines = [
        "What `ptuning.load_backbone`, `ptuning.attach` and `--backbone` take: checkpoints whose `config.json` names",
        "one of these model types. Others are refused by name. Of T5-like models the encoder is used, of language",
        "models (decoders) all but the head that says the next token.",
        "",
        *_header("model type", "attention", "positions", "`positions: shifted`", "gradient checkpointing"),
    ]
    families = sorted(FAMILIES.values(), key=lambda family: family.model_type)
    for family in families:
        lines.append(
            _row(
                f"`{family.model_type}`{family.part}",
                ", ".join(family.attention),
                POSITION_NOTES[family.positions],
                _yes(family.takes_shifted_positions),
                _yes(family.gradient_checkpointing),
            )
        )
    lines += [
        "",
        "The default is sdpa, or eager where scores are capped (Gemma 2, T5Gemma), which sdpa cannot do. A model of",
        "your own with capped scores needs eager or flex: under sdpa transformers 5.17 drops the cap.",
        "Tests compare sdpa and eager with a plain reference in every family, on the CPU; flex with sdpa, packed",
        "batches forward on the CPU, the rest where there is CUDA; of flash, what its kernel is given. Flash is",
        "refused for prompts at layers with local attention (ModernBERT, Gemma 2, some other decoders), and flex where",
        "scores have a relative position bias (T5).",
        "",
        "`glm2021` is GLM of 2021/22: GLM-base to GLM-10B. Its `config.json` says `model_type: glm`, as today's GLM",
        "does; it is known by `block_position_encoding`, `max_sequence_length` and `num_layers`. Weights load from",
        "safetensors and `pytorch_model.bin`, in parts with an index or not, and from `mp_rank_XX_model_states.pt` of",
        "the original training code with a `config.json` beside them; nothing that is pickled in a file is run. It",
        "gives what the original code gave for a tiny random model; no released checkpoint was at hand to load",
        "([glm.md](glm.md#what-was-checked-against-the-original-code-and-what-was-not)). See",
        "[concepts.md](concepts.md#glm-of-202122).",
        "",
        "With flex a batch is packed on CUDA (`training.packing`): its sequences stand in one row without padding, and",
        "a token sees the prompts and its own sequence. Flex has no dropout of attention weights, so training with it",
        "asks for `training.backbone_dropout: off` where the checkpoint has some; torch trains with it on GPUs only.",
        "",
        "## Decoders",
        "",
        *_ABOUT_DECODERS.strip().splitlines(),
        *_about_is_decoder([family.model_type for family in families if family.heeds_is_decoder]),
        "",
        "The weights of every family can be stored in 8 or 4 bits: [large_backbones.md](large_backbones.md).",
    ]
    return lines


_ABOUT_METHODS = """
What `method` takes. This is the paper's Table 1 for what is here: what each method trains, where that acts, and which
head reads the result. All but fine-tuning leave the backbone as it is. A linear head is trained too; a verbalizer has
nothing to train. With the same settings and seed they see the same examples in the same order, under the same metric
and a head that starts with the same numbers. `ptuning compare` runs them side by side: [compare.md](compare.md).

A verbalizer asks for label words at a mask ([concepts.md](concepts.md#patterns-and-label-words)); on a GLM (2021) it
asks what fills a blank: label words, choices or entities ([glm.md](glm.md)).
"""


def methods() -> list[str]:
    """The methods, from the table that settings are checked by."""
    from ptuning.config.methods import METHODS

    lines = [*_ABOUT_METHODS.strip().splitlines(), ""]
    lines += _header("`method`", "trains, besides the head", "where", "backbone", "heads")
    for method in METHODS.values():
        backbone = "tuned" if method.trains_backbone else "frozen"
        lines.append(_row(f"`{method.name}`", method.trains, method.place, backbone, _names(method.heads)))
    lines += [
        "",
        "The first of several is the default, and so is the learning rate. A setting that the method does not have is",
        "an error that says so; of a recipe's settings, and of those that a comparison has for all, each method takes",
        "what it has.",
        "",
    ]
    lines += _header("`method`", "`prompts.reparameterization`", "learning rate", "needs `data.pattern`", "source")
    for method in METHODS.values():
        rate = "-" if method.learning_rate is None else f"{method.learning_rate:g}"
        if method.full_rate_up_to is not None:
            rate += f" · min(1, {method.full_rate_up_to} / hidden size)"
        if method.mlp_rates is not None:
            with_mlp = "{:g}, head {:g}".format(*method.mlp_rates)
            rate = with_mlp if method.reparameterizations == ("mlp",) else f"{rate}; `mlp`: {with_mlp}"
        names = _names(method.reparameterizations)
        lines.append(_row(f"`{method.name}`", names, rate, _yes(method.needs_pattern), method.source))
    return lines


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def tasks() -> list[str]:
    """Kinds of task and presets."""
    from ptuning.cli.tasks import family_of
    from ptuning.data.columns import KIND_ROLES
    from ptuning.tasks import KINDS, PRESETS, get_kind

    lines = [
        "What `--task` takes: a kind, with data of your own, or a preset. `ptuning tasks NAME` says all of one;",
        "with `--show 3` it prints rows as the model will see them: record, texts, tokens, labels, and what is cut.",
        "",
        "## Presets",
        "",
    ]
    for family in dict.fromkeys(map(family_of, PRESETS.values())):
        members = [task for task in PRESETS.values() if family_of(task) == family]
        lines += [f"### {family[0].upper()}{family[1:]}", ""]
        lines += _header("preset", "kind", "metric", "recipes", "what it is")
        lines += [
            _row(f"`{t.name}`", f"`{t.kind}`", t.metric or "-", _recipes_of(t.name), t.description) for t in members
        ]
        lines += ["", *_header("preset", "data", "what is read", "labels")]
        lines += [_row(f"`{t.name}`", _source_of(t), _read_by(t), _shown_labels(t)) for t in members]
        lines.append("")
        if any(t.how_to_get for t in members):
            lines += [*(f"- `{t.name}`: {t.how_to_get}" for t in members if t.how_to_get), ""]
    lines += [
        'Data sets are named as `owner/name:configuration@revision`. "Not loaded yet": no test has loaded the',
        "data set from the hub with this name and these columns. `‖` parts the two texts of a pair.",
    ]
    lines += ["", "## Kinds", ""]
    options: dict[str, dict[str, Any]] = {
        "classification": {"label_names": ("no", "yes")},
        "token_classification": {"label_names": ("O", "B-X")},
        "semantic_role_labeling": {"label_names": ("O", "B-V")},
    }
    for name, what in KINDS.items():
        kind: Any = get_kind(name)(**options.get(name, {}))
        lines += [
            f"### `{name}`",
            "",
            f"{what[0].upper()}{what[1:]}.",
            "",
            f"- roles of columns: {', '.join(f'`{role}`' for role in KIND_ROLES[name])}",
            f"- metrics that can pick the best epoch: {', '.join(f'`{m}`' for m in kind.metric_names)} "
            f"(default `{kind.default_metric}`)",
            f"- tokens a sequence by default: {kind.max_length_default}",
            "",
            "```text",
            *_about(type(kind)),
            "```",
            "",
        ]
    return lines


def _recipes_of(name: str) -> str:
    from ptuning.cli.tasks import recipes_of

    return str(len(recipes_of(name)) or "-")


def _source_of(task: Any) -> str:
    from ptuning.cli.tasks import source_of

    where = source_of(task)
    if task.source is None or where == "shipped":
        return where
    return f"`{where}`" + ("" if task.is_verified else " (not loaded yet)")


def _read_by(task: Any) -> str:
    from ptuning.tasks.templates import TEMPLATES

    if task.templates:
        return "; ".join(f"{number}: {TEMPLATES[name].description}" for number, name in enumerate(task.templates))
    read = [f"{role}: {' or '.join(f'`{column}`' for column in columns)}" for role, columns in task.columns.items()]
    return "; ".join(read) or "well-known names"


def _shown_labels(task: Any) -> str:
    names = task.label_names or ()
    if not names:
        return "-"
    return ", ".join(names) if len(names) <= _MOST_LABELS else f"{len(names)}: {', '.join(names[:3])}, …"


def _about(kind: type) -> list[str]:
    """The class's docstring without its arguments."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return text.split("\nArgs:")[0].rstrip().splitlines()


_ABOUT_RECIPES = """
A recipe is a file of settings below your own: defaults < recipe < file < flags < `--set`.

- `--recipe default`: what [settings.md](settings.md) says, chosen for few steps. What you get without the option.
- `--recipe paper`: the settings that the official P-Tuning v2 code was released with, picked by the task and by the
  last part of the backbone's name (`roberta-large`, `FacebookAI/roberta-large`, `/models/roberta-large/`).
- `--recipe paper/super_glue/rte/roberta-large`: one of the table below by name, with any task and backbone.
- `--recipe mine.yaml`: a file of yours.

What the paper did, and the same with another seed:

    ptuning train --task super_glue/rte --backbone roberta-large --recipe paper
    ptuning train --task super_glue/rte --backbone roberta-large --recipe paper --set training.seed=44

`official` settings are those of the twenty scripts in `run_script/` of THUDM/P-tuning-v2 (at b1520c9). `ours` are for
tasks and backbones for which no script was released; each file says which script they were taken from and what we set
ourselves. None of these, official or ours, has been run here with these backbones: the numbers in the table are those
of the official README, for the best epoch on the validation rows (NER and SRL: as given there). It calls the best
settings sensitive to the environment. The paper's own numbers (arXiv 2110.07602, Tables 2 and 3) are not repeated.

## What is as in the official code

Prompts from N(0, 0.02) at all layers, with dropout on keys and values, a mask for each row; positions shifted by the
prompt length; the backbone frozen in training mode, its dropout (all but that of attention weights) at the script's
rate; the frozen pooler of the checkpoint under the head; one learning rate for prompts and head; AdamW without weight
decay, gradients clipped at norm 1; no warmup; linear decay to 0 (SuperGLUE, GLUE), or times 0.95 after each epoch
(NER, SRL, QA); fp32; the best epoch by the same metric; the input formats of `tasks/*/dataset.py`.

A checkpoint without a pooler gets one drawn at random (`head.missing_pooler: draw`), which stays frozen, as there. It
is saved with the prompt, as `pooler.*`.

## What differs

- **Optimizer.** There, transformers' own AdamW (4.11) adds epsilon before the bias correction; `torch.optim.AdamW`
  adds it after. It matters where gradients are about as small as epsilon.
- **Random numbers.** The same seed draws other numbers and another order of rows. Batches hold rows of similar length
  here; there every row is padded to the maximum length, which costs time.
- **Lengths.** There, NER and SRL cut at 512 tokens, which with shifted positions can run past the position table. The
  recipes leave the prompts their share: `data.max_length` is 512 minus the prompt length. Words that the task needs
  are never cut: of a choice that is too long with its text (none in COPA is), the beginning of the text goes; there,
  the end of the longer of the two.
- **Question answering.** All spans of a window are compared, not those of the 20 best starts and ends.
- **Selection.** CoLA and STS-B ask for an accuracy there that these sets do not have; here Matthews and Pearson
  correlation.
- **DeBERTa.** Its head for sentences has a pooler of its own there (gelu), which is new and trained. Here a head
  reads what `head.pooling` says and nothing in between is trained; for sentences with DeBERTa set
  `head.pooling` to `cls`. The recipes for DeBERTa are of tagging and question answering alone, which have no pooler.
- **CoNLL-2012 with BERT.** The script of that name starts from roberta-large; see the file.
"""

_RESULT = re.compile(r"^# Official README: (.*?), best after epoch (\d+) of", re.MULTILINE)


def recipes() -> list[str]:
    """The shipped recipes, from their files."""
    from ptuning.config import load_config, shipped_recipes
    from ptuning.config.recipes import RECIPES

    lines = [
        *_ABOUT_RECIPES.strip().splitlines(),
        "",
        "## Shipped",
        "",
        "Lengths in tokens, of prompts and of texts.",
        "",
    ]
    lines += _header(
        "recipe", "backbone", "settings", "prompt", "text", "learning rate", "epochs", "batch", "README (best epoch)"
    )
    for name, one in shipped_recipes().items():
        config = load_config(None, {"recipe": name})
        result = _RESULT.search((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
        training = config.training
        cells = [config.prompts.prompt_length, config.data.max_length, training.learning_rate, training.epochs]
        lines.append(
            _row(
                f"`{name}`",
                f"`{one.backbone}`",
                one.origin,
                *(f"{cell:g}" for cell in [*cells, training.batch_size] if cell is not None),
                f"{result[1]} ({result[2]})" if result else "-",
            )
        )
    return lines


def errors() -> list[str]:
    """Wrong inputs, tried."""
    import wrong_inputs

    lines = [
        "Each of these was tried. `DIR` stands for the directory at hand, `SHA` for the beginning of a digest. The",
        "last column is the command's exit status. `tests/test_wrong_inputs.py` pins every message to this page.",
        "",
    ]
    for group in dict.fromkeys(case.group for case in wrong_inputs.CASES):
        lines += [f"## {group[0].upper()}{group[1:]}", "", *_header("wrong", "error", "message", "exit")]
        for case in wrong_inputs.CASES:
            if case.group == group:
                lines.append(wrong_inputs.table_row(case, wrong_inputs.run_case(case)))
        lines.append("")
    return lines


def _header(*names: str) -> list[str]:
    return [_row(*names), _row(*["---"] * len(names))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
