"""Every setting of a run, with its range and what it means. To add one, add a field here."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ptuning.config.text import Dumper


def _no_truth_value(value: Any) -> Any:
    """Python takes True for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "Input should be a number")
    return value


Int = Annotated[int, BeforeValidator(_no_truth_value)]
Float = Annotated[float, BeforeValidator(_no_truth_value)]

HIGHEST_RATE = 1e30
"""Of learning: above, a step of AdamW leaves what float32 can hold before any loss can be looked at."""


class Settings(BaseModel):
    """A group of settings: fixed once made, and nothing unknown in it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataConfig(Settings):
    """Where the data are and how they are read."""

    path: str | None = Field(None, description="directory with train/validation/test files, or a Hugging Face data set")
    columns: dict[str, str] = Field(default_factory=dict, description="role -> column, where names are ambiguous")
    labels: list[str] | None = Field(None, description="label names in index order")
    max_length: Int | None = Field(
        None, ge=3, description="tokens a sequence, virtual ones not counted; default by task kind (128, QA 384)"
    )
    predicate_input: Literal["marked", "appended"] | None = Field(
        None, description="semantic role labeling: how the predicate is shown; default: marked where it stands"
    )
    template: Int = Field(0, ge=0, description="which of the preset's input formats; see `ptuning tasks NAME`")
    pattern: str | None = Field(
        None,
        description="what texts are put into: {text}, {text_pair} or {choice}, of which |bare behind the name leaves "
        "out punctuation at the end and |whole lets nothing be cut; {mask} for the verbalizer head; {prompt} where "
        "virtual tokens of p-tuning and soft-prompts stand; {/} where the second side begins for GLM, which cuts the "
        "longer one; other words are anchor tokens. Default: the preset's",
    )
    max_train_rows: Int | None = Field(None, ge=1, description="use only this many training rows")
    max_validation_rows: Int | None = Field(
        None, ge=1, description="use only this many validation rows, and this many to choose by"
    )
    selection: Literal["validation", "development"] = Field(
        "validation",
        description="what picks the best epoch. validation: the validation rows; development: rows held out of train, "
        "while the validation rows are kept for reporting",
    )
    development_fraction: Float = Field(
        0.1,
        gt=0.0,
        lt=1.0,
        description="share of train held out where there is no validation file, and for selection: development",
    )


class PromptsConfig(Settings):
    """The prompts: how many, where, and how they start."""

    prompt_length: Int = Field(20, ge=0, description="virtual tokens a layer")
    layers: str | Int | list[Int] = Field("all", description="all, first:K, last:K, 16-23, or a list; 0 is the lowest")
    positions: Literal["unshifted", "shifted"] = Field(
        "unshifted", description="shifted adds prompt_length to learned absolute positions, as the official code does"
    )
    reparameterization: Literal["none", "mlp", "lstm"] | None = Field(
        None,
        description="what produces the prompts in training; default by method: mlp for prefix-tuning, lstm for "
        "p-tuning, none for the others",
    )
    reparameterization_size: Int = Field(512, ge=1, description="inner width of the MLP")
    mixture: Int = Field(1, ge=1, description="soft-prompts: how many prompts of this length are mixed")
    init: str | None = Field(
        None,
        description="normal, tokens (of the training data), text, or PATH of a saved prompt; keys and values also "
        "statistics (drawn with mean and deviation of those of real tokens), virtual tokens of the input vocabulary or "
        "labels. Default by method: vocabulary for prompt-tuning, normal for the others",
    )
    init_std: Float = Field(
        1.0,
        gt=0.0,
        description="standard deviation of init: normal; the official code has 0.02, and so has the mlp of keys and "
        "values always. Embeddings that are trained themselves: times that of the vocabulary's",
    )
    init_text: str | None = Field(None, description="the text whose keys and values init: text starts from")
    gate: Literal["none", "values"] = Field(
        "none",
        description="values: those of each layer and head are multiplied by a trained number that starts at 0, so that "
        "virtual tokens begin with nothing to say; it is folded into the saved values",
    )
    dropout: Float = Field(0.0, ge=0.0, lt=1.0, description="probability of zeroing entries of keys and values")

    @model_validator(mode="after")
    def _init_has_what_it_needs(self) -> PromptsConfig:
        if self.init == "text" and not self.init_text:
            raise ValueError("prompts.init is `text`, but prompts.init_text is missing. Give the text to start from.")
        if self.init != "text" and self.init_text is not None:
            raise ValueError(
                f"prompts.init_text is {self.init_text!r}, but prompts.init is "
                f"{'left out' if self.init is None else f'`{self.init}`'}, which does not read it. "
                "Set `init: text`, or leave init_text out."
            )
        if self.reparameterization == "mlp" and self.init not in (None, "normal"):
            raise ValueError(
                f"prompts.init is `{self.init}`, which needs `reparameterization: none`, since the MLP produces the "
                "prompts. Use `init: normal` with the MLP."
            )
        return self


class HeadConfig(Settings):
    """The task's output layer."""

    kind: Literal["linear", "verbalizer"] | None = Field(
        None,
        description="linear: a new linear layer; verbalizer: label words at the mask of data.pattern, by the "
        "backbone's own language-modeling head. Default by method: linear, but verbalizer for prompting and "
        "soft-prompts",
    )
    words: dict[str, str] | None = Field(
        None,
        description="verbalizer: label -> its word or words; for choices the words of `right` and `wrong`, or none "
        "where GLM fills in the choices themselves. Default: the preset's",
    )
    length_penalty: Float = Field(
        0.0,
        ge=0.0,
        description="verbalizer, answers of several tokens that GLM fills into a blank: summed log-probabilities are "
        "divided by the number of tokens to this power; 1 is the mean",
    )
    pooling: Literal["cls", "mean", "last", "pooler"] | None = Field(
        None,
        description="default: the checkpoint's own where it names one, else cls, or mean where there is no such token",
    )
    missing_pooler: Literal["refuse", "draw"] = Field(
        "refuse",
        description="pooler on a checkpoint without one: draw makes a random one, frozen, as the official code does",
    )
    init: str = Field(
        "normal", description="normal, or PATH of a saved prompt for the same labels, whose head it starts as"
    )
    dropout: Float = Field(0.1, ge=0.0, lt=1.0, description="on what the head reads")


class LoraConfig(Settings):
    """The low-rank change of `method: lora`."""

    rank: Int = Field(8, ge=1, description="rank of the change of a matrix")
    alpha: Float = Field(16.0, gt=0.0, description="the change is scaled by alpha / rank")
    dropout: Float = Field(0.0, ge=0.0, lt=1.0, description="on what goes into the change")
    modules: list[str] | None = Field(
        None,
        min_length=1,
        description="names of the linear layers that change; default: query and value, as in the paper",
    )


class TrainingConfig(Settings):
    """The loop."""

    epochs: Int | None = Field(
        None,
        ge=1,
        description="passes over the data; default: 5, or for about 1,500 steps up to 30, or as max_steps needs",
    )
    max_steps: Int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    learning_rate: Float | None = Field(
        None,
        gt=0.0,
        le=HIGHEST_RATE,
        description="of the prompts, or what the method trains; default by method, of p-tuning-v2 without an MLP 0.04 "
        "up to a hidden size of 384 and less above: 0.02 at 768, 0.015 at 1,024",
    )
    learning_rate_probe: bool = Field(
        False,
        description="where learning_rate is left out, find it by 100 steps with rising rates before training: half "
        "of the rate at which the loss is lowest",
    )
    value_learning_rate: Float | None = Field(
        None,
        gt=0.0,
        le=HIGHEST_RATE,
        description="of the values of prompts, and of their gate; default: learning_rate, as for keys",
    )
    head_learning_rate: Float | None = Field(
        None,
        gt=0.0,
        le=HIGHEST_RATE,
        description="of the head; default: learning_rate, or where that is left out and an MLP makes keys and values, "
        "0.01",
    )
    schedule: Literal["linear", "constant", "exponential_per_epoch"] = Field(
        "linear", description="linear: to 0 at the end; exponential_per_epoch: times 0.95 after each epoch"
    )
    warmup: Float = Field(0.06, ge=0.0, lt=1.0, description="fraction of all optimizer steps")
    weight_averaging: Literal["off", "ema"] = Field(
        "off",
        description="ema: what is scored and saved is a moving average of what is trained, over the optimizer steps; "
        "training itself is the same",
    )
    averaging_decay: Float = Field(
        0.99, gt=0.0, lt=1.0, description="of weight_averaging: what the average keeps at a step, less at first"
    )
    weight_decay: Float = Field(0.0, ge=0.0, le=1e6, description="of AdamW")
    max_grad_norm: Float = Field(1.0, gt=0.0, description="gradients are clipped to this norm")
    batch_size: Int = Field(16, ge=1, description="examples a batch")
    batch_tokens: Int | None = Field(None, ge=1, description="tokens a batch, padding included, instead of batch_size")
    accumulation: Int = Field(1, ge=1, description="batches an optimizer step")
    micro_batch_tokens: Int | None = Field(
        None,
        ge=1,
        description="positions that go through the model at once, padding and all choices counted; larger batches are "
        "cut and have the gradients of whole ones. Default: whole batches, cut where memory runs out",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes it natively"
    )
    quantization: Literal["none", "int8", "nf4"] = Field(
        "none",
        description="what the weights of the frozen layers are stored in: int8 or nf4 (4 bits), a half or a quarter of "
        "bf16's memory, restored for each product; docs/large_backbones.md. Needs bitsandbytes, not with fine-tuning",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] = Field(
        "auto",
        description="the backbone's base implementation of attention; docs/backbones.md says which fit. auto: sdpa, "
        "but eager where scores are capped, which sdpa cannot (Gemma 2)",
    )
    packing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="run a batch as one row without padding; auto: on a GPU where attention is flex_attention",
    )
    backbone_dropout: Literal["checkpoint", "off"] | Annotated[Float, Field(ge=0.0, lt=1.0)] | None = Field(
        None,
        description="checkpoint (what the backbone was trained with), off (none at all), or a probability (of "
        "all but the attention weights, which keep the checkpoint's). Default by method: off where prompts at every "
        "layer are trained, checkpoint for the others",
    )
    trunk_reuse: Literal["auto", "on", "off"] = Field(
        "auto",
        description="run the layers below the lowest prompt once, without dropout there, and read their output back "
        "in every epoch; auto: where there are such layers, two epochs, room on the disk, and no backbone_dropout as a "
        "number",
    )
    gradient_checkpointing: bool = Field(False, description="recompute layers in the backward to save memory")
    compile: bool = Field(
        False,
        description="run the backbone's layers compiled by torch.compile, which takes a minute or so at the start "
        "and gained little on a CPU; not with deberta (v2 and v3 are fine), nor with flash or flex attention",
    )
    evaluation_epochs: Int | None = Field(
        None,
        ge=1,
        description="evaluate after every so many epochs, and after the last; default: 1, or more where validation "
        "rows outnumber training rows, with five evaluations at least",
    )
    early_stopping: Int | None = Field(
        None, ge=1, description="stop after this many evaluations without a better metric"
    )
    checkpoint_steps: Int | None = Field(None, ge=1, description="write checkpoints/last every this many steps too")
    metric: str | None = Field(
        None, description="the validation metric that picks the best epoch; default by task kind"
    )
    seed: Int = Field(11, ge=0, lt=2**32, description="of everything random")
    device: str | None = Field(
        None,
        description="cpu, cuda, mps; default: the best there is. Several processes take cpu, or cuda with a GPU each",
    )
    sharding: Literal["none", "full"] = Field(
        "none",
        description="none: every process has the whole backbone; full: its weights are divided among the processes of "
        "the run, and gathered a layer at a time, for backbones that do not fit into one GPU; docs/distributed.md",
    )


class RunConfig(Settings):
    """Everything a run needs; saved beside its results as config.yaml."""

    task: str = Field(description="a preset such as helpdesk/tickets, or a kind such as classification")
    recipe: str = Field(
        "default",
        description="default, paper (picked by task and backbone), the name of a shipped recipe, or the path of a file",
    )
    backbone: str = Field("minilm", description="a Hugging Face name, a local directory, or minilm")
    revision: str | None = Field(None, description="commit, branch or tag of the backbone on the hub")
    attention_direction: Literal["causal", "bidirectional"] | None = Field(
        None,
        description="which way the backbone's tokens see; default: as it was trained. bidirectional lets those of a "
        "decoder see what is behind them too",
    )
    method: Literal[
        "p-tuning-v2",
        "prefix-tuning",
        "prompt-tuning",
        "p-tuning",
        "soft-prompts",
        "prompting",
        "fine-tuning",
        "linear-probe",
        "bitfit",
        "lora",
    ] = Field("p-tuning-v2", description="what is trained; docs/methods.md has the table")
    data: DataConfig = Field(default_factory=DataConfig)
    prompts: PromptsConfig = Field(default_factory=PromptsConfig)
    head: HeadConfig = Field(default_factory=HeadConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    output: str | None = Field(None, description="directory of the run; default: runs/<task>-<data>")

    def to_yaml(self) -> str:
        """The settings as YAML that `load_config` reads back to an equal config."""
        text: str = yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)
        return text


def group_of(annotation: Any) -> type[BaseModel] | None:
    """The settings of a group, or None for what is no group."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def named_group_of(annotation: Any) -> type[BaseModel] | None:
    """The settings of each of several groups that have names of the user's, or None for anything else."""
    return group_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def group_names(model: type[BaseModel] = RunConfig) -> tuple[str, ...]:
    """The groups of settings at the top."""
    return tuple(name for name, field in model.model_fields.items() if group_of(field.annotation))


def setting_names(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Every setting's dotted name, groups included; NAME stands for names of the user's."""
    names: list[str] = []
    for name, field in model.model_fields.items():
        names.append(prefix + name)
        if group := group_of(field.annotation):
            names.extend(setting_names(group, f"{prefix}{name}."))
        elif group := named_group_of(field.annotation):
            names.extend(setting_names(group, f"{prefix}{name}.NAME."))
    return names
