"""Labels, as graders know them."""

from __future__ import annotations

from collections.abc import Collection

from ptuning.errors import ConfigError
from ptuning.predictor import LoadedTask


def check_benchmark_has_labels(task: LoadedTask, labels: Collection[str], format_name: str) -> None:
    """Checks that the prompt's labels are those of the benchmark; an empty `labels` stands for no labels.

    Raises:
        ConfigError: they are not.
    """
    own = getattr(task.kind, "label_names", ()) if labels else ()
    unknown = [name for name in own if name not in labels]
    if unknown:
        raise ConfigError(
            f"--format {format_name} was given, but {task.directory} was trained with the label {unknown[0]!r}. "
            f"Expected {', '.join(labels)}. Train without data.labels, or use --format json."
        )
