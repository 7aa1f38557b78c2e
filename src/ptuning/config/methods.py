"""The methods as a table: what each one trains, where, with which head, and what it starts from by default.

P-Tuning v2 and what the paper compares it with, and the alternatives that people ask about. How each is made is in the
room `methods`; this table has what settings, documents and reports need, without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from ptuning.config.foreign import check_settings_of
from ptuning.config.settings import RunConfig
from ptuning.errors import ConfigError

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
        init: what its prompts start from by default.
        learning_rate: of what it trains, by default; None where no steps are made.
        full_rate_up_to: the hidden size of a backbone up to which that holds; above it the default falls as one over
            the hidden size. None: it holds for all.
        mlp_rates: of an MLP that produces its prompts, and of the head beside it, by default; None: `learning_rate`.
        backbone_dropout: whether the backbone drops out in training, by default.
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
    init: str = "normal"
    learning_rate: float | None = None
    full_rate_up_to: int | None = None
    mlp_rates: tuple[float, float] | None = None
    backbone_dropout: Literal["checkpoint", "off"] = "checkpoint"
    has_deep_prompts: bool = False
    has_input_prompts: bool = False
    needs_pattern: bool = False
    trains_backbone: bool = False

    @property
    def makes_steps(self) -> bool:
        """Whether it is trained by gradient descent."""
        return self.learning_rate is not None

    def learning_rate_at(self, hidden_size: int | None) -> float | None:
        """The default for a backbone of this hidden size, with three digits.

        None where no steps are made, and where it follows from a hidden size that is not known.

        A step of Adam moves every virtual value by about the rate, and a layer's output projection sums all heads'
        values, mostly as many as the hidden size. The authors' rates for backbones of 1,024 are lower than what is best
        at 384, too: 0.005 to 0.01 for most sets (docs/recipes.md), where this gives 0.015.
        """
        if self.learning_rate is None or self.full_rate_up_to is None:
            return self.learning_rate
        if hidden_size is None:
            return None
        return float(f"{self.learning_rate * min(1.0, self.full_rate_up_to / hidden_size):.3g}")


_ANY_HEAD: tuple[HeadName, ...] = ("linear", "verbalizer")
_MLP_RATES = (2e-3, 1e-2)
"""A lower rate than that of prompts themselves; a head that had it too would learn too slowly (docs/evidence.md)."""

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
                learning_rate=4e-2,
                full_rate_up_to=384,  # of MiniLM, with which it was found (docs/evidence.md)
                mlp_rates=_MLP_RATES,
                backbone_dropout="off",
                has_deep_prompts=True,
            ),
            Method(
                "prefix-tuning",
                trains="an MLP that produces keys and values of virtual tokens",
                place="every layer",
                source="Li and Liang, ACL 2021, arXiv 2101.00190",
                heads=_ANY_HEAD,
                reparameterizations=("mlp",),
                learning_rate=_MLP_RATES[0],
                mlp_rates=_MLP_RATES,
                backbone_dropout="off",
                has_deep_prompts=True,
            ),
            Method(
                "prompt-tuning",
                trains="embeddings of virtual tokens",
                place="in front of the input",
                source="Lester et al., EMNLP 2021, arXiv 2104.08691",
                heads=_ANY_HEAD,
                reparameterizations=("none", "mlp"),
                init="vocabulary",
                learning_rate=3e-2,
                has_input_prompts=True,
            ),
            Method(
                "p-tuning",
                trains="an LSTM or MLP that produces embeddings of virtual tokens",
                place="around the input, or in a pattern with anchor tokens",
                source="Liu et al., 2021, arXiv 2103.10385 (frozen here, tuned along there)",
                heads=_ANY_HEAD,
                reparameterizations=("lstm", "mlp", "none"),
                learning_rate=1e-2,
                has_input_prompts=True,
            ),
            Method(
                "soft-prompts",
                trains="embeddings of virtual tokens, what is added to them at every layer, weights of a mixture",
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
                trains="all weights of the backbone but those of its pooler and language-modeling head",
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
                learning_rate=3e-3,
            ),
            Method(
                "lora",
                trains="a low-rank change of the weights of query and value, through PEFT",
                place="every layer",
                source="Hu et al., ICLR 2022, arXiv 2106.09685",
                heads=_ANY_HEAD,
                learning_rate=3e-3,
            ),
        )
    }
)
"""Name -> method, in the order of the paper's comparison."""

_OF_INPUT_PROMPTS = ("vocabulary", "labels")
_OF_DEEP_PROMPTS = ("statistics",)
DEEP_STARTS = ("normal", "tokens", "text", *_OF_DEEP_PROMPTS)
"""What `prompts.init` of keys and values may be besides a path."""
STARTS = (*DEEP_STARTS, *_OF_INPUT_PROMPTS)
"""What `prompts.init` may be at all besides a path."""


def backbone_dropout(config: RunConfig) -> Literal["checkpoint", "off"] | float:
    """Returns the dropout inside the backbone in training: what the config says, or what is usual for its method."""
    own = config.training.backbone_dropout
    return METHODS[config.method].backbone_dropout if own is None else own


def usual_learning_rate(config: RunConfig, hidden_size: int | None) -> float | None:
    """The learning rate of a run that gives none, whether or not it is probed; see `Method.learning_rate_at`.

    Args:
        config: of the run.
        hidden_size: of its backbone, or None where that is not known.
    """
    method = METHODS[config.method]
    made = config.prompts.reparameterization or next(iter(method.reparameterizations), "none")
    if made == "mlp" and method.mlp_rates is not None:
        return method.mlp_rates[0]
    return method.learning_rate_at(hidden_size)


def with_method_defaults(config: RunConfig, *, hidden_size: int | None = None) -> RunConfig:
    """Fills in what was left to the method, and makes sure that settings fit it.

    Args:
        config: of a run.
        hidden_size: of its backbone. None where that is not known: a learning rate that follows from it is left out.

    Raises:
        ConfigError: a setting is one that the method does not have.
    """
    method, prompts, training = METHODS[config.method], config.prompts, config.training
    usual: Reparameterization = next(iter(method.reparameterizations), "none")
    made = prompts.reparameterization or usual
    head = config.head.kind or method.heads[0]
    if head not in method.heads:
        raise ConfigError(
            f"head.kind is {head}, but method {method.name} works with {' or '.join(method.heads)}. Set one of these, "
            "or leave head.kind out."
        )
    if method.reparameterizations:
        _check_prompts(config, method, made)
    check_settings_of(config, method)
    if prompts.gate != "none":
        _check_gate(config)
    if training.value_learning_rate is not None and made != "none":
        raise ConfigError(
            f"training.value_learning_rate is {training.value_learning_rate:g}, but the {made} of "
            "prompts.reparameterization makes keys and values together. Leave it out."
        )
    if training.quantization != "none" and training.sharding != "none":
        raise ConfigError(
            f"training.quantization is {training.quantization} and training.sharding {training.sharding}, but weights "
            "in 8 or 4 bits are kept whole in every process. Set one of the two to none."
        )
    rate, head_rate = training.learning_rate, training.head_learning_rate
    if rate is None:
        if made == "mlp" and method.mlp_rates is not None and head == "linear":
            head_rate = head_rate or method.mlp_rates[1]
        rate = None if training.learning_rate_probe else usual_learning_rate(config, hidden_size)
    update: dict[str, dict[str, Any]] = {
        "prompts": {
            "reparameterization": made,
            "init": prompts.init or ("normal" if made != "none" else method.init),
        },
        "head": {"kind": head},
        "training": {
            "learning_rate": rate,
            "head_learning_rate": head_rate,
            "backbone_dropout": backbone_dropout(config),
        },
    }
    groups = {name: getattr(config, name).model_copy(update=values) for name, values in update.items()}
    return config.model_copy(update=groups)


def _check_gate(config: RunConfig) -> None:
    gate, init = config.prompts.gate, config.prompts.init
    if init is not None and init not in STARTS:
        raise ConfigError(
            f"prompts.gate is {gate}, which begins with values of 0, but prompts.init is {init!r}, a saved prompt, "
            "whose values would be lost. Use `gate: none` with it."
        )


def _check_prompts(config: RunConfig, method: Method, made: str) -> None:
    prompts = config.prompts
    if made not in method.reparameterizations:
        raise ConfigError(
            f"prompts.reparameterization is {made}, but method {method.name} has "
            f"{' or '.join(method.reparameterizations)}. Set one of these, or leave it out."
        )
    if method.has_deep_prompts and prompts.init in _OF_INPUT_PROMPTS:
        raise ConfigError(
            f"prompts.init is {prompts.init}, which is a start for embeddings, but method {method.name} trains keys "
            "and values. Use normal, tokens, text or statistics."
        )
    if method.has_input_prompts and prompts.init in _OF_DEEP_PROMPTS:
        raise ConfigError(
            f"prompts.init is {prompts.init}, which is a start for keys and values, but method {method.name} trains "
            "embeddings. Use normal, tokens, text, vocabulary or labels."
        )
    if made != "none" and prompts.init not in (None, "normal"):
        raise ConfigError(
            f"prompts.init is {prompts.init}, but the {made} of prompts.reparameterization produces the prompts. Use "
            "`init: normal` with it, or `reparameterization: none`."
        )
    if method.has_input_prompts and prompts.prompt_length == 0:
        raise ConfigError(
            f"prompts.prompt_length is 0, but method {method.name} is its virtual tokens. Set at least 1, or use "
            "linear-probe."
        )
