"""Predictions in the form that a benchmark's grader takes: SuperGLUE, GLUE, SQuAD, CoNLL.

    form = get_format("super_glue")
    form.check_task(task)                           # before anything is read
    asked = read_split(task, None, "test")          # rows, and the records with their ids
    submission = form.prepare(task, asked)          # before anything is predicted
    texts = submission.texts(predictions)

Writers are pure functions of predictions, records and what the prompt says of its task.
"""

from __future__ import annotations

from ptuning.submission.asked import Asked, read_file, read_split
from ptuning.submission.formats import FORMATS, Format, get_format, json_lines
from ptuning.submission.output import Output, Submission, check_is_free, paths_of, write_files

__all__ = [
    "FORMATS",
    "Asked",
    "Format",
    "Output",
    "Submission",
    "check_is_free",
    "get_format",
    "json_lines",
    "paths_of",
    "read_file",
    "read_split",
    "write_files",
]
