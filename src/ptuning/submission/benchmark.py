"""What graders of a benchmark need: one of its tasks, with its labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ptuning.errors import ConfigError
from ptuning.predictor import LoadedTask
from ptuning.submission.asked import preset_name


def check_is_of_benchmark(task: LoadedTask, labels_of: Mapping[str, Collection[str]], format_name: str) -> None:
    """Checks that the prompt answers a task of a benchmark, with its labels.

    Args:
        task: as it was saved.
        labels_of: preset -> labels that its grader knows; none for a task without labels.
        format_name: what `--format` got.

    Raises:
        ConfigError: it does not.
    """
    name = preset_name(task)
    if name not in labels_of:
        raise ConfigError(
            f"--format {format_name} was given, but {task.directory} was trained for {name}. Expected one of "
            f"{', '.join(labels_of)}. Train with --task and one of those, or use --format json."
        )
    labels = labels_of[name]
    own = getattr(task.kind, "label_names", ()) if labels else ()
    unknown = [label for label in own if label not in labels]
    if unknown:
        raise ConfigError(
            f"--format {format_name} was given, but {task.directory} was trained with the label {unknown[0]!r}. "
            f"Expected {', '.join(labels)}. Train without data.labels, or use --format json."
        )
