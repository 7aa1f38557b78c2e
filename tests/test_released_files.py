"""Presets on files in the form in which their benchmarks hand them out: read, trained, scored on every split, asked."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ptuning
from ptuning.config import load_config
from ptuning.data.hub import HubSource
from ptuning.evaluation import evaluate
from ptuning.tasks import PRESETS
from ptuning.training.run import train

Write = Callable[[Path], None]

_PROPS = """\
the   -     (A0*
box   -     *)
is    is    (V*)
late  -     (A1*)

where is    (V*)
is    -     (A0*)

"""
_LINES = "2 the box is late ||| B-A0 I-A0 B-V B-A1\n0 where is ||| B-V B-A0\n"
_ONTONOTES = """\
#begin document (bc/x_00); part 000
bc/x_00  0  0  leeds  NNP  (TOP(S(NP*)  -   -   -  -  (GPE)   (ARG0*)  (0)
bc/x_00  0  1  is     VBD  (VP*         be  01  1  -  *       (V*)     -
bc/x_00  0  2  late   RB   *)))         -   -   -  -  (DATE)  (ARG1*)  -

#end document
"""
_CONLLU = """\
# sent_id = d-1
1\tthe\tthe\tDET\tDT\t_\t2\tdet\t_\t_\t_\t_
2\tbox\tbox\tNOUN\tNN\t_\t4\tnsubj\t_\t_\t_\tARG1
3\tis\tbe\tAUX\tVBZ\t_\t4\tcop\t_\t_\tbe.01\tV
4\tlate\tlate\tADJ\tJJ\t_\t0\troot\t_\t_\t_\tARG2

"""
_COLUMNS = "-DOCSTART- -X- -X- O\n\nleeds NNP B-NP I-LOC\nis VBZ O O\n\nthe DT B-NP O\nlamp NN I-NP I-ORG\n\n"


def _text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def _conll2005_directories(directory: Path) -> None:
    rows = [line.split() for line in _PROPS.split("\n")]
    for split in ("train", "devel", "test.wsj", "test.brown"):
        for part, columns in (("words", slice(0, 1)), ("props", slice(1, None))):
            path = directory / split / part / f"{split}.{part}.gz"
            path.parent.mkdir(parents=True)
            content = "\n".join(" ".join(row[columns]) for row in rows)
            path.write_bytes(gzip.compress(content.encode()))


def _conll2005_lines(directory: Path) -> None:
    for name in ("conll05.train.txt", "conll05.devel.txt", "conll05.test.wsj.txt", "conll05.test.brown.txt"):
        _text(directory / name, _LINES)


def _ontonotes(directory: Path) -> None:
    for split in ("train", "development", "conll-2012-test"):
        _text(directory / split / "data" / "english" / "annotations" / "bc" / "x.v4_gold_conll", _ONTONOTES * 2)


def _conllu(directory: Path) -> None:
    for split in ("train", "dev", "test"):
        _text(directory / f"en_ewt-up-{split}.conllu", _CONLLU + _CONLLU.replace("d-1", "d-2"))


def _conll2003(directory: Path) -> None:
    for name in ("eng.train", "eng.testa", "eng.testb"):
        _text(directory / name, _COLUMNS)


def _jsonl(directory: Path, records: list[dict[str, Any]]) -> None:
    for name in ("train", "val", "test"):
        _text(directory / f"{name}.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def _nested_multirc(directory: Path) -> None:
    answers = [{"text": "the box", "idx": 0, "label": 1}, {"text": "a lamp", "idx": 1, "label": 0}]
    questions = [{"question": "what is late?", "idx": 0, "answers": answers}]
    _jsonl(
        directory,
        [{"idx": number, "passage": {"text": "the box is late", "questions": questions}} for number in (0, 1)],
    )


def _nested_record(directory: Path) -> None:
    passage = {"text": "the box and the lamp", "entities": [{"start": 4, "end": 6}, {"start": 16, "end": 19}]}
    query = {"query": "the @placeholder is late", "idx": 0, "answers": [{"start": 4, "end": 6, "text": "box"}]}
    _jsonl(directory, [{"idx": number, "passage": passage, "qas": [{**query, "idx": number}]} for number in (0, 1)])


def _nested_wsc(directory: Path) -> None:
    target = {"span1_index": 1, "span1_text": "box", "span2_index": 4, "span2_text": "it"}
    _jsonl(
        directory,
        [{"idx": n, "label": n > 0, "text": "the box is late it is", "target": target} for n in (0, 1)],
    )


def _boolq(directory: Path) -> None:
    _jsonl(
        directory,
        [{"idx": n, "label": n > 0, "question": "is it late", "passage": "the box is late"} for n in (0, 1)],
    )


def _tsv(header: str, *rows: str, splits: tuple[str, ...] = ("train", "dev", "test")) -> Write:
    def write(directory: Path) -> None:
        for split in splits:
            lines = [header, *rows] if header else list(rows)
            _text(directory / f"{split}.tsv", "".join(line.replace("|", "\t") + "\n" for line in lines))

    return write


_MNLI = _tsv(
    "index|sentence1_parse|sentence1|sentence2|label1|gold_label",
    '0|(x)|a "lamp|the box|neutral|neutral',
    "1|(x)|the lamp|a box|entailment|entailment",
    splits=("train", "dev_matched", "dev_mismatched"),
)

CASES: list[tuple[str, str, Write, tuple[str, ...]]] = [
    ("srl/conll2005", "directories", _conll2005_directories, ("validation", "test", "test_brown")),
    ("srl/conll2005", "lines", _conll2005_lines, ("validation", "test", "test_brown")),
    ("srl/conll2012", "gold_conll", _ontonotes, ("validation", "test")),
    ("ontonotes5", "gold_conll", _ontonotes, ("validation", "test")),
    ("srl/ewt", "conllu", _conllu, ("validation", "test")),
    ("conll2003", "eng", _conll2003, ("validation", "test")),
    ("super_glue/multirc", "nested", _nested_multirc, ("validation", "test")),
    ("super_glue/record", "nested", _nested_record, ("validation", "test")),
    ("super_glue/wsc", "nested", _nested_wsc, ("validation", "test")),
    ("super_glue/boolq", "jsonl", _boolq, ("validation", "test")),
    ("glue/mnli", "tsv", _MNLI, ("validation", "validation_mismatched")),
    ("glue/cola", "tsv", _tsv("", "gj04|1||a lamp", "gj04|0|*|lamp a", splits=("train", "dev")), ("validation",)),
    ("glue/mrpc", "tsv", _tsv("\ufeffQuality|#1 ID|#2 ID|#1 String|#2 String", "1|1|2|a|b", "0|3|4|b|a"), ("test",)),
    ("glue/qqp", "tsv", _tsv("id|qid1|qid2|question1|question2|is_duplicate", "1|1|2|a|b|1", "2|3|4|b|a|0"), ("test",)),
    ("glue/stsb", "tsv", _tsv("index|sentence1|sentence2|score", "0|a|b|3.5", "1|b|a|0.0"), ("validation",)),
    ("glue/rte", "tsv", _tsv("index|sentence1|sentence2|label", "0|a|b|entailment", "1|b|a|not_entailment"), ("test",)),
    ("glue/sst2", "tsv", _tsv("sentence|label", "a lamp|1", "the box|0"), ("validation",)),
]


@pytest.mark.parametrize(("name", "form", "write", "splits"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_a_preset_is_trained_scored_and_asked_on_released_files(
    name: str, form: str, write: Write, splits: tuple[str, ...], tiny_backbone: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write(data)
    settings = {
        "task": name,
        "backbone": str(tiny_backbone),
        "data.path": str(data),
        "data.max_length": 40,
        "prompts.prompt_length": 3,
        "training.max_steps": 1,
        "training.device": "cpu",
        "output": str(tmp_path / "run"),
    }
    result = train(load_config(None, settings))
    assert result.metric == PRESETS[name].metric
    for split in splits:
        assert evaluate(tmp_path / "run", split=split).num_rows >= 2
    names = ptuning.read_prompt(tmp_path / "run").task
    assert names is not None and names["name"] == name
    if PRESETS[name].label_names is not None and PRESETS[name].kind == "classification":
        assert names["label_names"] == list(PRESETS[name].label_names or ())


def test_every_preset_without_a_set_on_the_hub_has_a_case_here() -> None:
    without = {name for name, task in PRESETS.items() if task.source is None}
    assert without <= {case[0] for case in CASES}
    assert all(isinstance(PRESETS[case[0]].source, HubSource) or case[0] in without for case in CASES)
