"""Named tasks, as a table. No torch here: `ptuning tasks` prints it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ptuning.data.hub import CONVERTED, HubSource
from ptuning.data.template import Template
from ptuning.errors import ConfigError
from ptuning.tasks.templates import TEMPLATES

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "classification": "one label for a text or a pair of texts",
        "regression": "a number for a text or a pair of texts",
        "multiple_choice": "the best of several continuations or answers",
        "token_classification": "entities in a text, as a BIO tag for each word",
        "semantic_role_labeling": "who did what to whom: the roles of a predicate, as a BIO tag for each word",
        "question_answering": "the answer to a question as a piece of a context, or none",
        "cloze": "the entity of a passage that fills the gap in a query",
    }
)
"""Kind of task -> what it is, in one line."""


@dataclass(frozen=True)
class Task:
    """A task by name: a preset with its own data, or a kind that the caller brings data for.

    Attributes:
        name: what `--task` takes.
        kind: one of `KINDS`.
        columns: role -> columns that the data may have for it, the first that is there being read; for roles whose
            columns are not found by well-known names alone.
        label_names: labels or tags in index order; None to read them from the data.
        metric: what picks the best epoch; None for the kind's own default.
        source: where the data are: `package:PATH` is a directory inside the installed package, else a data set of the
            hub. None: bring your own.
        is_verified: whether the hub's data set has been loaded with this name and these columns by the tests marked
            `network`.
        how_to_get: where data that are not free to load come from, and which local formats are read.
        max_length: tokens a sequence at most where the config does not say; None for the kind's own default.
        more_splits: that `evaluate --split` takes besides train, validation and test.
        templates: names of its input formats; `data.template` is an index. Empty where columns are read as they are.
        pattern: what its texts are put into where label words answer, unless the config says; for its first template.
        words: label -> its words there; of choices `right` and `wrong`.
        description: one line for people.
    """

    name: str
    kind: str
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    metric: str | None = None
    source: str | HubSource | None = None
    is_verified: bool = False
    how_to_get: str = ""
    max_length: int | None = None
    more_splits: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    pattern: str | None = None
    words: Mapping[str, str] | None = None
    description: str = ""

    def template(self, number: int) -> Template | None:
        """Return the input format of this number; None where columns are read as they are.

        Raises:
            ConfigError: there is no such input format.
        """
        if number == 0 and not self.templates:
            return None
        if not 0 <= number < len(self.templates):
            count = len(self.templates)
            there = f"has the templates 0 to {count - 1}" if count > 1 else "has template 0 alone"
            raise ConfigError(f"data.template is {number}, but {self.name} {there}. Set one of those.")
        return TEMPLATES[self.templates[number]]


def _bio_tags(*types: str) -> tuple[str, ...]:
    return ("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


_NO_YES = ("False", "True")
_ENTAILMENT = ("entailment", "not_entailment")
# Label words of SST-2, RTE, BoolQ and CB are those of Liu et al., ACL 2022 (its comparison of head and verbalizer).
# Patterns, and the words of all others, are our own.
_TRUE_FALSE = {"entailment": "true", "not_entailment": "false"}
_TRUE_FALSE_NEUTRAL = {"entailment": "true", "contradiction": "false", "neutral": "neutral"}
_FOLLOWS = "{text} Question: {text_pair} True or false? {mask}"
_FOLLOWS_OR_NOT = "{text} Question: {text_pair} True, false or neutral? {mask}"
_SENTENCES_OF_A_PAIR = {"text": ("sentence1",), "text_pair": ("sentence2",)}


def _super_glue(config: str) -> HubSource:
    return HubSource("aps/super_glue", config)


def _glue(config: str, **splits: str) -> HubSource:
    return HubSource("nyu-mll/glue", config, None, splits)


_HELPDESK = (
    Task(
        name="helpdesk/tickets",
        kind="classification",
        label_names=(
            "billing",
            "delivery",
            "returns",
            "account",
            "technical",
            "warranty",
            "order_change",
            "product_question",
        ),
        metric="accuracy",
        source="package:helpdesk/tickets",
        description="route a help-desk ticket to one of 8 teams",
    ),
    Task(
        name="helpdesk/entities",
        kind="token_classification",
        label_names=_bio_tags("PRODUCT", "ORDER", "DATE", "PERSON", "PLACE", "ERROR"),
        metric="f1",
        source="package:helpdesk/entities",
        description="find products, order numbers, dates, persons, places and error codes in a ticket",
    ),
    Task(
        name="helpdesk/questions",
        kind="question_answering",
        metric="f1",
        source="package:helpdesk/questions",
        description="answer a question from a help article, or say that it does not answer it",
    ),
)

_SUPER_GLUE = (
    Task(
        name="super_glue/boolq",
        kind="classification",
        columns={"text": ("question",), "text_pair": ("passage",), "label": ("label",)},
        label_names=_NO_YES,
        metric="accuracy",
        source=_super_glue("boolq"),
        max_length=256,  # most passages whole
        pattern="{text_pair} Question: {text}? True or false? {mask}",
        words={"False": "false", "True": "true"},
        description="a yes/no question over a passage",
    ),
    Task(
        name="super_glue/cb",
        kind="classification",
        columns={"text": ("premise",), "text_pair": ("hypothesis",), "label": ("label",)},
        label_names=("entailment", "contradiction", "neutral"),
        metric="accuracy",
        source=_super_glue("cb"),
        pattern=_FOLLOWS_OR_NOT,
        words=_TRUE_FALSE_NEUTRAL,
        description="what a text says about an embedded clause; accuracy and f1_macro",
    ),
    Task(
        name="super_glue/copa",
        kind="multiple_choice",
        metric="accuracy",
        source=_super_glue("copa"),
        templates=("copa/0", "copa/1"),
        pattern="{text} {choice} True or false? {mask}",
        words={"right": "true", "wrong": "false"},
        description="the cause or effect of a premise, of two",
    ),
    Task(
        name="super_glue/multirc",
        kind="classification",
        label_names=_NO_YES,
        metric="f1",
        source=_super_glue("multirc"),
        max_length=384,
        templates=("multirc/0", "multirc/1"),
        pattern="{text} Question and answer: {text_pair} True or false? {mask}",
        words={"False": "false", "True": "true"},
        description="whether an answer to a question is right; f1 over answers, exact_match over questions",
    ),
    Task(
        name="super_glue/record",
        kind="cloze",
        metric="f1",
        source=_super_glue("record"),
        description="which entity of a passage fills the gap of a query; best entity a query",
    ),
    Task(
        name="super_glue/rte",
        kind="classification",
        columns={"text": ("premise",), "text_pair": ("hypothesis",), "label": ("label",)},
        label_names=_ENTAILMENT,
        metric="accuracy",
        source=_super_glue("rte"),
        pattern=_FOLLOWS,
        words=_TRUE_FALSE,
        description="whether a text entails another",
    ),
    Task(
        name="super_glue/wic",
        kind="classification",
        label_names=_NO_YES,
        metric="accuracy",
        source=_super_glue("wic"),
        templates=("wic/0", "wic/1"),
        pattern="{text} {mask}",  # the first template ends with the question
        words={"False": "no", "True": "yes"},
        description="whether a word has one meaning in two sentences",
    ),
    Task(
        name="super_glue/wsc",
        kind="classification",
        label_names=_NO_YES,
        metric="accuracy",
        source=_super_glue("wsc.fixed"),
        templates=("wsc/0", "wsc/1", "wsc/2"),
        description="whether a pronoun means a phrase",
    ),
)

_GLUE = (
    Task(
        name="glue/cola",
        kind="classification",
        columns={"text": ("sentence",), "label": ("label",)},
        label_names=("unacceptable", "acceptable"),
        metric="matthews",
        source=_glue("cola"),
        description="whether a sentence is acceptable English; Matthews correlation",
    ),
    Task(
        name="glue/sst2",
        kind="classification",
        columns={"text": ("sentence",), "label": ("label",)},
        label_names=("negative", "positive"),
        metric="accuracy",
        source=_glue("sst2"),
        pattern="{text} It is {mask} that this is good.",
        words={"negative": "false", "positive": "true"},
        description="the sentiment of a sentence or phrase",
    ),
    Task(
        name="glue/mrpc",
        kind="classification",
        columns={
            "text": ("sentence1", "#1 String"),
            "text_pair": ("sentence2", "#2 String"),
            "label": ("label", "Quality"),
        },
        label_names=("not_equivalent", "equivalent"),
        metric="accuracy",
        source=_glue("mrpc"),
        pattern="{text} In other words: {text_pair} True or false? {mask}",
        words={"not_equivalent": "false", "equivalent": "true"},
        description="whether two sentences mean the same; accuracy and f1",
    ),
    Task(
        name="glue/stsb",
        kind="regression",
        columns={**_SENTENCES_OF_A_PAIR, "label": ("label", "score")},
        metric="pearson",
        source=_glue("stsb"),
        description="how similar two sentences are, from 0 to 5; Pearson and Spearman correlation",
    ),
    Task(
        name="glue/qqp",
        kind="classification",
        columns={"text": ("question1",), "text_pair": ("question2",), "label": ("label", "is_duplicate")},
        label_names=("not_duplicate", "duplicate"),
        metric="accuracy",
        source=_glue("qqp"),
        pattern="{text} {text_pair} Do both ask the same? {mask}",
        words={"not_duplicate": "no", "duplicate": "yes"},
        description="whether two questions ask the same; accuracy and f1",
    ),
    Task(
        name="glue/mnli",
        kind="classification",
        # Its tsv files have parses of the sentences too.
        columns={
            "text": ("premise", "sentence1"),
            "text_pair": ("hypothesis", "sentence2"),
            "label": ("label", "gold_label"),
        },
        label_names=("entailment", "neutral", "contradiction"),
        metric="accuracy",
        source=_glue(
            "mnli",
            validation="validation_matched",
            validation_mismatched="validation_mismatched",
            test="test_matched",
            test_mismatched="test_mismatched",
        ),
        more_splits=("validation_mismatched", "test_mismatched"),
        pattern=_FOLLOWS_OR_NOT,
        words=_TRUE_FALSE_NEUTRAL,
        description="what a text says about another; validation is the matched set, validation_mismatched the other",
    ),
    Task(
        name="glue/qnli",
        kind="classification",
        columns={"text": ("question",), "text_pair": ("sentence",), "label": ("label",)},
        label_names=_ENTAILMENT,
        metric="accuracy",
        source=_glue("qnli"),
        pattern="{text_pair} Does this answer the question: {text} {mask}",
        words={"entailment": "yes", "not_entailment": "no"},
        description="whether a sentence answers a question",
    ),
    Task(
        name="glue/rte",
        kind="classification",
        columns={**_SENTENCES_OF_A_PAIR, "label": ("label",)},
        label_names=_ENTAILMENT,
        metric="accuracy",
        source=_glue("rte"),
        pattern=_FOLLOWS,
        words=_TRUE_FALSE,
        description="whether a text entails another",
    ),
    Task(
        name="glue/wnli",
        kind="classification",
        columns={**_SENTENCES_OF_A_PAIR, "label": ("label",)},
        label_names=("not_entailment", "entailment"),
        metric="accuracy",
        source=_glue("wnli"),
        pattern=_FOLLOWS,
        words=_TRUE_FALSE,
        description="whether a sentence follows with its pronoun replaced",
    ),
)

_TAG_COLUMNS = ("ner_tags", "tags", "labels", "named_entities")
# The set on the hub has tags as numbers without names; these are the names of its card, in its order.
_ONTONOTES_TAGS = (
    *("O", "B-CARDINAL", "B-DATE", "I-DATE", "B-PERSON", "I-PERSON", "B-NORP", "B-GPE", "I-GPE", "B-LAW", "I-LAW"),
    *("B-ORG", "I-ORG", "B-PERCENT", "I-PERCENT", "B-ORDINAL", "B-MONEY", "I-MONEY", "B-WORK_OF_ART", "I-WORK_OF_ART"),
    *("B-FAC", "B-TIME", "I-CARDINAL", "B-LOC", "B-QUANTITY", "I-QUANTITY", "I-NORP", "I-LOC", "B-PRODUCT", "I-TIME"),
    *("B-EVENT", "I-EVENT", "I-FAC", "B-LANGUAGE", "I-PRODUCT", "I-ORDINAL", "I-LANGUAGE"),
)
_LDC = "from the Linguistic Data Consortium (catalog.ldc.upenn.edu)"

_TAGGING = (
    Task(
        name="conll2003",
        kind="token_classification",
        columns={"tokens": ("tokens", "words"), "tags": _TAG_COLUMNS},
        label_names=_bio_tags("PER", "ORG", "LOC", "MISC"),
        metric="f1",
        source=HubSource("eriktks/conll2003", None, CONVERTED),
        how_to_get=(
            "The text is from the Reuters Corpus, for research under an agreement with NIST "
            "(trec.nist.gov/data/reuters/reuters.html). Files eng.train, eng.testa and eng.testb are read."
        ),
        description="persons, organizations, places and others in news",
    ),
    Task(
        name="conll2004",
        kind="token_classification",
        columns={"tokens": ("tokens", "words"), "tags": _TAG_COLUMNS},
        label_names=_bio_tags("Loc", "Org", "Other", "Peop"),
        metric="f1",
        source=HubSource("DFKI-SLT/conll04"),
        how_to_get=(
            "The official implementation has its files in data/CoNLL04 (a word and its tag a line); the original is "
            "at cogcomp.seas.upenn.edu/page/resource_view/43. CoNLL columns, or JSON lines with tokens and ner_tags, "
            "are read."
        ),
        description="places, organizations, people and others in news",
    ),
    Task(
        name="ontonotes5",
        kind="token_classification",
        columns={"tokens": ("tokens", "words"), "tags": _TAG_COLUMNS},
        label_names=_ONTONOTES_TAGS,
        metric="f1",
        source=HubSource("tner/ontonotes5", None, CONVERTED),
        how_to_get=(
            f"OntoNotes 5 is LDC2013T19, {_LDC}; the CoNLL-2012 scripts (conll.cemantix.org/2012/data.html) make "
            "*_gold_conll files of it. Those are read, in directories train, development and test, and CoNLL columns."
        ),
        description="18 types of entities in six genres",
    ),
    Task(
        name="wnut17",
        kind="token_classification",
        columns={"tokens": ("tokens", "words"), "tags": _TAG_COLUMNS},
        label_names=_bio_tags("corporation", "creative-work", "group", "location", "person", "product"),
        metric="f1",
        source=HubSource("leondz/wnut_17", None, CONVERTED),
        description="emerging entities in noisy user text",
    ),
)

_SRL_COLUMNS = {"tokens": ("tokens", "words"), "tags": ("tags", "srl_tags", "labels")}

_SRL = (
    Task(
        name="srl/conll2005",
        kind="semantic_role_labeling",
        columns=_SRL_COLUMNS,
        metric="f1",
        how_to_get=(
            f"The words are from the Penn Treebank (LDC99T42, {_LDC}), the roles from "
            "www.cs.upc.edu/~srlconll/soft.html. Read are the directories of words/ and props/ as released, merged "
            "columns, and lines of `INDEX words ||| tags`. The Brown test is the split test_brown."
        ),
        more_splits=("test_brown",),
        description="semantic roles in news; tests on WSJ (test) and Brown (test_brown)",
    ),
    Task(
        name="srl/conll2012",
        kind="semantic_role_labeling",
        columns=_SRL_COLUMNS,
        metric="f1",
        source=HubSource("ontonotes/conll2012_ontonotesv5", "english_v12", CONVERTED),
        how_to_get=(
            f"OntoNotes 5 is LDC2013T19, {_LDC}; the CoNLL-2012 scripts (conll.cemantix.org/2012/data.html) make "
            "*_gold_conll files of it. Those are read, in directories train, development and test."
        ),
        description="semantic roles in six genres (OntoNotes 5)",
    ),
    Task(
        name="srl/ewt",
        kind="semantic_role_labeling",
        columns=_SRL_COLUMNS,
        metric="f1",
        how_to_get=(
            "Universal PropBank (universalpropositions.github.io) and propbank-release annotate the English Web "
            "Treebank. Read are CoNLL-U files with PropBank columns, and JSON lines with tokens, predicate_index and "
            "tags."
        ),
        description="semantic roles in weblogs, mail, reviews, answers",
    ),
)

_QUESTIONS = (
    Task(
        name="squad",
        kind="question_answering",
        metric="f1",
        source=HubSource("rajpurkar/squad"),
        description="SQuAD 1.1: the answer as a piece of a Wikipedia paragraph",
    ),
    Task(
        name="squad_v2",
        kind="question_answering",
        metric="f1",
        source=HubSource("rajpurkar/squad_v2"),
        description="SQuAD 2.0: the same, or that there is no answer",
    ),
)

_SENTENCES = (
    Task(
        name="ag_news",
        kind="classification",
        columns={"text": ("text",), "label": ("label",)},
        label_names=("World", "Sports", "Business", "Sci/Tech"),
        metric="accuracy",
        source=HubSource("fancyzhx/ag_news"),
        description="the topic of a piece of news, of 4",
    ),
    Task(
        name="imdb",
        kind="classification",
        columns={"text": ("text",), "label": ("label",)},
        label_names=("neg", "pos"),
        metric="accuracy",
        source=HubSource("stanfordnlp/imdb"),
        max_length=384,
        description="the sentiment of a film review",
    ),
    Task(
        name="trec",
        kind="classification",
        columns={"text": ("text",), "label": ("coarse_label", "label-coarse", "label")},
        label_names=("ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"),
        metric="accuracy",
        source=HubSource("CogComp/trec", None, CONVERTED),
        description="what a question asks for, of 6",
    ),
)

PRESETS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for task in (*_HELPDESK, *_SUPER_GLUE, *_GLUE, *_TAGGING, *_SRL, *_QUESTIONS, *_SENTENCES)}
)
"""Name -> task."""


def get_task(name: str) -> Task:
    """Return the preset of this name, or a bare task of the kind of this name.

    Raises:
        ConfigError: there is neither.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name in KINDS:
        return Task(name=name, kind=name, description=KINDS[name])
    known = [*PRESETS, *KINDS]
    wanted = name.lower().replace("-", "_")
    nearest = difflib.get_close_matches(wanted, known, n=3)
    nearest += [other for other in known if wanted and wanted in other and other not in nearest]
    hint = f" Did you mean {' or '.join(repr(other) for other in nearest)}?" if nearest else ""
    raise ConfigError(
        f"there is no task {name!r}, expected a preset or a kind of task.{hint} For all: see `ptuning tasks`."
    )
