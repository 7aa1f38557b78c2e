"""What is wrong with settings, in words: all problems of a file together, each with the nearest known setting."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ptuning.config.settings import group_names, group_of, named_group_of, setting_names


def all_problems(error: ValidationError, settings: Mapping[str, Any], where: str, model: type[BaseModel]) -> str:
    lines: dict[str, str] = {}
    for problem in error.errors():
        place, field = _locate(problem["loc"], model)
        key = ".".join(place)
        if problem["type"] == "extra_forbidden":
            line = f"`{key}` is not a setting.{_nearest_setting(place, model)}"
        elif problem["type"] == "missing":
            line = f"`{key}` is missing. Set it{', or pass --' + key if key == 'task' else ''}."
        elif problem["type"] == "value_error":
            line = str(problem["ctx"]["error"])
        elif problem["type"] == "invalid_key":
            line = f"`{key}` is no name, expected text. Remove it, or put it in quotes."
        else:
            expected, value, advice = _expectation(problem["msg"]), problem["input"], _advice(field)
            if field is not None and _is_union(field):  # a problem for each member: say what the setting takes
                expected, value = str(field.description), _value_at(settings, place)
            elif problem["type"] == "string_type":
                advice = "Put it in quotes."
            elif problem["type"] == "literal_error":
                advice = _nearest_value(value, problem["ctx"]["expected"]) + advice
            line = f"`{key}` is {_short(value)}, expected {expected}. {advice}"
        lines.setdefault(key, line)
    if len(lines) == 1:
        return f"1 setting{where} is wrong: {next(iter(lines.values()))}"
    return f"{len(lines)} settings{where} are wrong:\n" + "\n".join(f"  {line}" for line in lines.values())


def _locate(location: tuple[int | str, ...], top: type[BaseModel]) -> tuple[list[str], FieldInfo | None]:
    """The dotted place of a problem, without pydantic's marks for members of unions; and its field, if there is one."""
    model: type[BaseModel] | None = top
    named: type[BaseModel] | None = None  # what the next part, a name of the user's, leads to
    place: list[str] = []
    field: FieldInfo | None = None
    for part in location:
        if named is not None and part != "[key]":
            place.append(str(part))
            model, named, field = named, None, None
        elif model is not None:
            place.append(str(part))
            field = model.model_fields.get(str(part))
            annotation = field.annotation if field is not None else None
            model, named = group_of(annotation), named_group_of(annotation)
        elif field is not None and not _is_union(field) and part != "[key]":
            place.append(str(part))
    return place, field


def _is_union(field: FieldInfo) -> bool:
    members = [member for member in get_args(field.annotation) if member is not type(None)]
    return get_origin(field.annotation) in (Union, UnionType) and len(members) > 1


def _value_at(settings: Any, place: Sequence[str]) -> Any:
    for part in place:
        settings = settings[part]
    return settings


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


_EXPECTATIONS = {
    "greater than or equal to": "at least",
    "greater than": "above",
    "less than or equal to": "at most",
    "less than": "below",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid list": "a list",
    "a valid boolean": "true or false",
    "a valid dictionary": "a group, name: value",
}


def _expectation(message: str) -> str:
    """Pydantic's "Input should be a valid number, unable to parse …" as "a number"."""
    expected = message.removeprefix("Input should be ").split(", unable")[0].split(", got")[0].split(" or instance")[0]
    expected = re.sub(r"\d{12,}", lambda digits: f"{float(digits[0]):g}", expected)
    for theirs, ours in _EXPECTATIONS.items():
        if expected.startswith(theirs):
            return expected.replace(theirs, ours)
    return expected


def _advice(field: FieldInfo | None) -> str:
    if field is not None and field.is_required():
        return "Correct it."
    default = field.default if field is not None else None
    if default is None:
        return "Correct it, or leave it out."
    return f"Correct it, or leave it out for {default}." if isinstance(default, (str, int, float)) else "Correct it."


def _nearest_value(value: Any, expected: str) -> str:
    """ "Did you mean …? " where one of the values in quotes is near to what was given."""
    nearest = difflib.get_close_matches(str(value), re.findall("'([^']+)'", expected), n=1)
    return f"Did you mean {nearest[0]}? " if nearest else ""


# What others call it.
_OTHER_WORDS = {
    "lr": "training.learning_rate",
    "pre_seq_len": "prompts.prompt_length",
    "num_virtual_tokens": "prompts.prompt_length",
    "prefix_length": "prompts.prompt_length",
    "prefix_projection": "prompts.reparameterization",
    "prefix_hidden_size": "prompts.reparameterization_size",
    "encoder_hidden_size": "prompts.reparameterization_size",
    "num_train_epochs": "training.epochs",
    "per_device_train_batch_size": "training.batch_size",
    "warmup_ratio": "training.warmup",
    "lr_scheduler_type": "training.schedule",
    "gradient_accumulation_steps": "training.accumulation",
    "max_seq_length": "data.max_length",
    "template_id": "data.template",
    "model_name_or_path": "backbone",
}


def _nearest_setting(place: Sequence[str], model: type[BaseModel]) -> str:
    groups = group_names(model)
    named = next((name for name, field in model.model_fields.items() if named_group_of(field.annotation)), None)
    users = place[1] if named == place[0] and len(place) > 2 else "NAME"
    group = ".".join(place[:-1])
    wanted = place[-1].replace("-", "_")
    names = [name.replace(".NAME.", f".{users}.") for name in setting_names(model) if name not in groups]
    here = {name.rpartition(".")[2]: name for name in names if name.rpartition(".")[0] == group}
    anywhere = {name.rpartition(".")[2]: name for name in names}
    for known in (here, anywhere, _OTHER_WORDS):
        if wanted in known:
            return f" Did you mean `{known[wanted]}`?"
    for known in (here, {group: group for group in groups if not place[:-1]}, anywhere, _OTHER_WORDS):
        for nearest in difflib.get_close_matches(wanted, known, n=1, cutoff=0.7):
            return f" Did you mean `{known[nearest]}`?"
    siblings = here or anywhere if place[:-1] else dict.fromkeys(model.model_fields)
    return f" Known ones{' in ' + group if group and here else ''}: {', '.join(siblings)}."
