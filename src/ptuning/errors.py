"""What can go wrong, as a tree.

    PtuningError
    ├── ConfigError             a setting is unknown, out of range, or contradicts another one
    ├── DataError               the data are missing or are not what the task needs
    ├── BackboneError           the backbone cannot be found, loaded, or given prompts
    ├── PromptError             a prompt, bank or row index does not fit where it is used
    ├── CheckpointError         a saved prompt or run is missing, damaged, or from a newer version
    │   └── BackboneMismatchError   a saved prompt was trained on another backbone
    ├── TrainingError           training cannot go on: non-finite loss, out of memory, nothing to train on
    │   └── LostProcessError        another process of the same run has ended
    └── MissingDependencyError  an optional package is not installed

Every message says what was given, what was expected, and what to do. Errors that a caller would catch as a built-in
type derive from it too.
"""

from __future__ import annotations


class PtuningError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(PtuningError, ValueError):
    """A setting is unknown, out of range, or contradicts another one."""


class DataError(PtuningError, ValueError):
    """The data are missing or are not what the task needs."""


class BackboneError(PtuningError, ValueError):
    """The backbone cannot be found, loaded, or given prompts."""


class PromptError(PtuningError, ValueError):
    """A prompt, bank or row index does not fit where it is used."""


class CheckpointError(PtuningError):
    """A saved prompt or run is missing, damaged, or from a newer version."""


class BackboneMismatchError(CheckpointError):
    """A saved prompt was trained on another backbone."""


class TrainingError(PtuningError, RuntimeError):
    """Training cannot go on."""


class LostProcessError(TrainingError):
    """Another process of the same run has ended before its time; what is in `checkpoints/last` goes on."""


class MissingDependencyError(PtuningError, ImportError):
    """An optional package is not installed."""
