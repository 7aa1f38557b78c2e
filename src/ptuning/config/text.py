"""YAML as config files have it: read by the rules of YAML 1.2, written so that either version reads the same."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ptuning.errors import ConfigError

_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")


class Loader(yaml.SafeLoader):
    """YAML 1.2's plain values: 1e-2 is a number, and yes, off, 1:30 and 2024-01-01 are text. No key stands twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, Hashable) else None)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


class Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML reads as something else."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"the config {path} cannot be read: {error.strerror or error}. Give the path of a YAML text file."
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the config {path} is not UTF-8 (byte 0x{error.object[error.start]:02x} at {error.start}), expected YAML "
            "text. Save it as UTF-8."
        ) from error
    try:
        settings = yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the config {path} is not YAML: {yaml_problem(error)}. Expected lines such as `task: classification`; "
            "correct that place."
        ) from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigError(
            f"the config {path} holds a {type(settings).__name__}, expected settings. Write lines such as "
            "`task: classification`."
        )
    return settings


def yaml_problem(error: Exception) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    return f"{problem}, line {mark.line + 1} column {mark.column + 1}" if mark is not None else str(problem)
