"""The methods as a table: what each one trains, where, with which head, and what it starts from by default.

P-Tuning v2 and what the paper compares it with, and the alternatives that people ask about. How each is made is in the
room `methods`; this table has what settings, documents and reports need, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

HeadName = Literal["linear", "verbalizer"]
Reparameterization = Literal["none", "mlp", "lstm"]


@dataclass(frozen=True)
class Method:
    """What is known about a method before anything is loaded.

    Attributes:
        name: what `method` takes.
        trains: what has gradients besides the head, for people.
        place: where that acts, for people.
        source: the paper it comes from.
        heads: that it works with; the first is the default.
        reparameterizations: that may produce its prompts in training; the first is the default. Empty where it has no
            prompts.
        learning_rate: of what it trains, by default; None where no steps are made.
        has_deep_prompts: whether it has prompts at every layer, which banks, populations and mixed batches need.
        has_input_prompts: whether it has virtual tokens among the embeddings, which occupy positions.
        needs_pattern: whether its input is a pattern with a mask, such as `{text} It was {mask}.`
        trains_backbone: whether weights of the backbone itself change, so that they are kept in float32.
    """

    name: str
    trains: str
    place: str
    source: str
    heads: tuple[HeadName, ...] = ("linear",)
    reparameterizations: tuple[Reparameterization, ...] = ()
    learning_rate: float | None = None
    has_deep_prompts: bool = False
    has_input_prompts: bool = False
    needs_pattern: bool = False
    trains_backbone: bool = False

    @property
    def makes_steps(self) -> bool:
        """Whether it is trained by gradient descent."""
        return self.learning_rate is not None


_ANY_HEAD: tuple[HeadName, ...] = ("linear", "verbalizer")

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method(
                "p-tuning-v2",
                trains="keys and values of virtual tokens",
                place="every layer",
                source="Liu et al., ACL 2022, arXiv 2110.07602",
                heads=_ANY_HEAD,
                reparameterizations=("none", "mlp"),
                learning_rate=1e-2,
                has_deep_prompts=True,
            ),
            Method(
                "prefix-tuning",
                trains="an MLP that produces keys and values of virtual tokens",
                place="every layer",
                source="Li and Liang, ACL 2021, arXiv 2101.00190",
                heads=_ANY_HEAD,
                reparameterizations=("mlp",),
                learning_rate=5e-3,
                has_deep_prompts=True,
            ),
            Method(
                "prompt-tuning",
                trains="embeddings of virtual tokens",
                place="in front of the input",
                source="Lester et al., EMNLP 2021, arXiv 2104.08691",
                heads=_ANY_HEAD,
                reparameterizations=("none", "mlp"),
                learning_rate=3e-2,
                has_input_prompts=True,
            ),
            Method(
                "p-tuning",
                trains="an LSTM or MLP that produces embeddings of virtual tokens",
                place="among the input, in a pattern with anchor tokens",
                source="Liu et al., 2021, arXiv 2103.10385 (frozen here, tuned along there)",
                heads=_ANY_HEAD,
                reparameterizations=("lstm", "mlp", "none"),
                learning_rate=1e-3,
                has_input_prompts=True,
            ),
            Method(
                "soft-prompts",
                trains="embeddings of virtual tokens, what is added to them at every layer, and the weights of a mixture",
                place="in a pattern with a mask, and at every layer",
                source="Qin and Eisner, NAACL 2021, arXiv 2104.06599",
                heads=("verbalizer",),
                reparameterizations=("none",),
                learning_rate=1e-2,
                has_input_prompts=True,
                needs_pattern=True,
            ),
            Method(
                "prompting",
                trains="nothing",
                place="a pattern in natural language",
                source="Schick and Schuetze, EACL 2021, arXiv 2001.07676 (without its training)",
                heads=("verbalizer",),
                needs_pattern=True,
            ),
            Method(
                "fine-tuning",
                trains="all weights of the backbone",
                place="every layer",
                source="Devlin et al., NAACL 2019, arXiv 1810.04805",
                heads=_ANY_HEAD,
                learning_rate=5e-5,
                trains_backbone=True,
            ),
            Method(
                "linear-probe",
                trains="nothing but the head, to convergence",
                place="the last layer's output",
                source="scikit-learn's LogisticRegression on frozen hidden states",
            ),
            Method(
                "bitfit",
                trains="the biases of linear layers and norms",
                place="every layer",
                source="Ben Zaken et al., ACL 2022, arXiv 2106.10199",
                heads=_ANY_HEAD,
                learning_rate=1e-3,
            ),
            Method(
                "lora",
                trains="a low-rank change of the weights of query and value, through PEFT",
                place="every layer",
                source="Hu et al., ICLR 2022, arXiv 2106.09685",
                heads=_ANY_HEAD,
                learning_rate=1e-3,
            ),
        )
    }
)
"""Name -> method, in the order of the paper's comparison."""
