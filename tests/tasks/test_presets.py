from __future__ import annotations

import subprocess
import sys

import pytest

from ptuning.errors import ConfigError
from ptuning.tasks import KINDS, PRESETS, get_kind, get_task


def test_presets_and_kinds_are_printed_without_torch() -> None:
    code = "import sys, ptuning.tasks.presets; print(*{'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_preset_has_a_known_kind_and_says_what_it_is() -> None:
    for name, task in PRESETS.items():
        assert (task.name, get_kind(task.kind).name) == (name, task.kind)
        assert task.description and (task.source or task.how_to_get)


def test_the_entity_tags_are_bio_with_o_first() -> None:
    names = get_task("helpdesk/entities").label_names
    assert names is not None
    assert names[:3] == ("O", "B-PRODUCT", "I-PRODUCT")
    assert len(names) == 13


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_kind_is_a_task_without_data_of_its_own(kind: str) -> None:
    task = get_task(kind)
    assert (task.name, task.kind, task.source, task.label_names) == (kind, kind, None, None)


def test_an_unknown_task_names_the_nearest_and_the_command() -> None:
    with pytest.raises(ConfigError, match="no task 'helpdesk/ticket'.*'helpdesk/tickets'.*ptuning tasks"):
        get_task("helpdesk/ticket")
    with pytest.raises(ConfigError, match="Did you mean 'token_classification'"):
        get_task("token-classification")
    with pytest.raises(ConfigError, match="Did you mean 'helpdesk/entities'"):
        get_task("entities")
