"""Patterns and label words of GLM's authors, for the presets of SuperGLUE. No torch here: `ptuning tasks` prints it.

Source: THUDM/GLM, `tasks/superglue/pvp.py`, the patterns that its `config_tasks/task_*.sh` choose (their numbers stand
beside each). They are for GLM, which fills a blank by a piece behind the text (`backbones/pieces.py`).

Departures. WSC: the authors ask what the pronoun refers to and let candidates answer, of which only the right one is in
SuperGLUE's data (theirs has others); here the same question is asked of the candidate at hand, and answered by yes or
no. COPA: where a row is too long the beginning of its text is cut, not the end of its premise. WiC and WSC: the words
that are asked about are kept. Texts keep their quotation marks and spaces as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class GlmPattern:
    """What a preset's texts are put into, and what answers.

    Attributes:
        pattern: as `data.pattern`.
        words: label -> its word; empty where the choices or entities of a row answer.
        template: number of the preset's input format that it is for.
    """

    pattern: str
    words: Mapping[str, str] = field(default_factory=dict)
    template: int = 0


_NO_YES = {"False": "No", "True": "Yes"}

GLM_PATTERNS: Mapping[str, GlmPattern] = MappingProxyType(
    {
        # 4 of BoolQ
        "super_glue/boolq": GlmPattern("Based on the following passage {text}? {mask}. {text_pair}", _NO_YES),
        # 3 of CB
        "super_glue/cb": GlmPattern(
            "{text_pair|bare}?{/} {mask}. {text}", {"entailment": "Yes", "contradiction": "No", "neutral": "Maybe"}
        ),
        # 0 of COPA
        "super_glue/copa": GlmPattern("{text} {mask}.", template=1),
        # 0 of MultiRC
        "super_glue/multirc": GlmPattern("{text}. Question: {text_pair|whole}? {mask}.", _NO_YES, template=1),
        # the only one of ReCoRD
        "super_glue/record": GlmPattern("{passage} {query}"),
        # 0 of RTE
        "super_glue/rte": GlmPattern(
            '"{text_pair|bare}" ?{/} {mask}, "{text}"', {"entailment": "Yes", "not_entailment": "No"}
        ),
        # 1 of WiC, whose question is that of the template
        "super_glue/wic": GlmPattern("{text} {mask}", _NO_YES),
        # after 2 of WSC
        "super_glue/wsc": GlmPattern(
            "{text} Question: In the passage above, does the pronoun {text_pair|whole}? Answer: {mask}.",
            _NO_YES,
            template=2,
        ),
    }
)
"""Preset -> its pattern for GLM."""
