from __future__ import annotations

from typing import Any

import pytest

from ptuning.backbones.loading import load_backbone
from ptuning.config import RunConfig, load_config
from ptuning.data.formats import table_of
from ptuning.errors import ConfigError
from ptuning.heads import AnswerHead, VerbalizerHead
from ptuning.tasks import PRESETS, Task, TaskKind, get_kind, get_task
from ptuning.tasks.classification import Classification
from ptuning.tasks.glm_patterns import GLM_PATTERNS
from ptuning.tasks.patterned import with_pattern
from ptuning.tasks.resolving import with_task_defaults
from ptuning.tasks.verbalizing import make_verbalizer

PARAGRAPH = "It is a lamp. It is red."

# A record of each preset, and the texts that the model sees of it.
SEEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "super_glue/boolq": (
        {"question": "is it red", "passage": PARAGRAPH, "label": "True"},
        ["[CLS]Based on the following passage is it red?[MASK]. It is a lamp. It is red.<|endoftext|><|startofpiece|>"],
    ),
    "super_glue/cb": (
        {"premise": PARAGRAPH, "hypothesis": "the lamp is red.", "label": "neutral"},
        ["[CLS]the lamp is red?[MASK]. It is a lamp. It is red.<|endoftext|><|startofpiece|>"],
    ),
    "super_glue/copa": (
        {
            "premise": "The lamp fell.",
            "choice1": "It was red.",
            "choice2": "It broke.",
            "question": "effect",
            "label": 1,
        },
        [
            '[CLS]"it was red" or "it broke"? The lamp fell, so[MASK].<|endoftext|><|startofpiece|> it was red',
            '[CLS]"it was red" or "it broke"? The lamp fell, so[MASK].<|endoftext|><|startofpiece|> it broke',
        ],
    ),
    "super_glue/multirc": (
        {"paragraph": PARAGRAPH, "question": "What is it?", "answer": "a lamp", "label": "True"},
        ["[CLS]It is a lamp. It is red. Question: What is it? Is it a lamp?[MASK].<|endoftext|><|startofpiece|>"],
    ),
    "super_glue/record": (
        {
            "passage": PARAGRAPH,
            "query": "Ann has @placeholder, it is said",
            "entities": ["a lamp", "Bo"],
            "answers": ["Bo"],
        },
        [
            "[CLS]It is a lamp. It is red. Ann has[MASK], it is said<|endoftext|><|startofpiece|> a lamp",
            "[CLS]It is a lamp. It is red. Ann has[MASK], it is said<|endoftext|><|startofpiece|> Bo",
        ],
    ),
    "super_glue/rte": (
        {"premise": PARAGRAPH, "hypothesis": "the lamp is red.", "label": "entailment"},
        ['[CLS]"the lamp is red" ?[MASK], "It is a lamp. It is red."<|endoftext|><|startofpiece|>'],
    ),
    "super_glue/wic": (
        {"word": "lamp", "sentence1": "the lamp", "sentence2": "a lamp", "label": "True"},
        ["[CLS]the lamp a lamp Does lamp have the same meaning in both sentences?[MASK]<|endoftext|><|startofpiece|>"],
    ),
    "super_glue/wsc": (
        {
            "text": "The lamp fell and it broke",
            "span1_index": 0,
            "span1_text": "The lamp",
            "span2_index": 4,
            "span2_text": "it",
            "label": "True",
        },
        [
            "[CLS]The lamp fell and *it* broke Question: In the passage above, does the pronoun '*it*' refer to The "
            "lamp? Answer:[MASK].<|endoftext|><|startofpiece|>"
        ],
    ),
}


def _resolved(name: str, **more: Any) -> RunConfig:
    config = load_config(None, {"task": name, "head.kind": "verbalizer", **more})
    return with_task_defaults(config, get_task(name), has_pieces=True)


def _kind(task: Task, config: RunConfig) -> TaskKind:
    if task.kind == "classification":
        assert task.label_names is not None
        kind: TaskKind = Classification(task.label_names)
    else:
        kind = get_kind(task.kind)()
    return with_pattern(kind, config.data.pattern, config.head.words, prompt_length=0)


def _row(task: Task, config: RunConfig, record: dict[str, Any]) -> dict[str, Any]:
    template = task.template(config.data.template)
    if template is not None:
        table = table_of("a.jsonl", [record])
        return dict(template.apply(table, template.resolve(table, {})).records[0])
    names = {column: role for role, columns in task.columns.items() for column in columns}
    return {names.get(column, column): value for column, value in record.items()}


def test_all_of_superglue_has_a_pattern() -> None:
    assert set(GLM_PATTERNS) == set(SEEN) == {name for name in PRESETS if name.startswith("super_glue/")}


@pytest.mark.parametrize("name", list(SEEN))
def test_a_record_is_seen_in_its_pattern(name: str, glm_with_words: Any) -> None:
    task, tokenizer = get_task(name), load_backbone(glm_with_words).tokenizer
    config, (record, expected) = _resolved(name), SEEN[name]
    kind = _kind(task, config)
    examples = kind.encode([_row(task, config, record)], tokenizer, 150, training=False)
    seen = [tokenizer.decode(ids) for example in examples for ids in example.sequences]
    assert seen == expected
    head = make_verbalizer(kind, tokenizer, lambda hidden_states: hidden_states)  # type: ignore[arg-type]
    assert isinstance(head, AnswerHead if name in ("super_glue/copa", "super_glue/record") else VerbalizerHead)


def test_entities_fill_blanks_of_a_glm_alone() -> None:
    task = get_task("super_glue/record")
    config = load_config(None, {"task": task.name, "head.kind": "verbalizer"})
    with pytest.raises(
        ConfigError, match="whose entities are texts of any length, .* Only GLM does. Use a GLM, or set"
    ):
        with_task_defaults(config, task, has_pieces=False)
    assert with_task_defaults(config, task, has_pieces=True).data.pattern == "{passage} {query}"


def test_label_words_are_those_of_the_original() -> None:
    words = {name: dict(own.words) for name, own in GLM_PATTERNS.items()}
    yes_no = {"False": "No", "True": "Yes"}
    assert words == {
        "super_glue/boolq": yes_no,
        "super_glue/cb": {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"},
        "super_glue/copa": {},
        "super_glue/multirc": yes_no,
        "super_glue/record": {},
        "super_glue/rte": {"entailment": "Yes", "not_entailment": "No"},
        "super_glue/wic": yes_no,
        "super_glue/wsc": yes_no,
    }


def test_the_pattern_for_glm_is_the_default_of_a_backbone_with_pieces_and_a_verbalizer_alone() -> None:
    task = get_task("super_glue/rte")
    verbalizer = load_config(None, {"task": task.name, "head.kind": "verbalizer"})
    other = with_task_defaults(verbalizer, task)
    assert (other.data.pattern, other.head.words) == (task.pattern, dict(task.words or {}))
    linear = with_task_defaults(load_config(None, {"task": task.name}), task, has_pieces=True)
    assert (linear.data.pattern, linear.head.words, linear.data.template) == (None, None, 0)
    own = _resolved(task.name)
    assert own.data.pattern == GLM_PATTERNS[task.name].pattern
    assert with_task_defaults(own, task, has_pieces=True) == own, "what is filled in stays"
    glue = _resolved("glue/rte")
    assert glue.data.pattern == get_task("glue/rte").pattern, "presets without one for GLM have the usual one"


def test_a_pattern_of_ones_own_goes_first() -> None:
    config = _resolved("super_glue/copa", **{"data.pattern": "{text} {choice} ? {mask}"})
    assert config.head.words == dict(get_task("super_glue/copa").words or {}) and config.data.template == 0
    config = _resolved("super_glue/copa", **{"data.pattern": "{text} {mask} !", "data.template": 1})
    assert config.head.words == {} and config.data.template == 1
    config = _resolved("super_glue/wsc", **{"data.pattern": "{text} {text_pair} {mask}", "head.words": {"a": "b"}})
    assert config.head.words == {"a": "b"} and config.data.template == 0


def test_a_template_that_the_pattern_is_not_for_is_refused() -> None:
    assert _resolved("super_glue/wsc").data.template == 2
    assert _resolved("super_glue/wsc", **{"data.template": 2}).data.template == 2
    with pytest.raises(
        ConfigError, match="data.template is 1, but the pattern of super_glue/wsc for GLM, .* template 2"
    ):
        _resolved("super_glue/wsc", **{"data.template": 1})


def test_a_length_penalty_needs_answers_of_several_tokens(glm_with_words: Any, tokenizer: Any) -> None:
    glm = load_backbone(glm_with_words).tokenizer
    kind = Classification(("a", "b"), "{text} {mask}", ("Yes", "No"))
    with pytest.raises(ConfigError, match="head.length_penalty is 1, which .* but here there are label words of one"):
        make_verbalizer(kind, glm, lambda states: states, length_penalty=1.0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="but here there are masks. Leave it out"):
        make_verbalizer(kind, tokenizer, lambda states: states, length_penalty=1.0)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match="head.length_penalty is 1, which is for label words, but head.kind is linear"
    ):
        _resolved("super_glue/rte", **{"head.kind": "linear", "head.length_penalty": 1.0})
