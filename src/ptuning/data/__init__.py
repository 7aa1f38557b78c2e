"""Data: files and data sets as rows of roles, and examples as batches.

`batching` needs torch and is imported by name (`from ptuning.data.batching import collate`), the rest does not.
"""

from __future__ import annotations

from ptuning.data.columns import resolve_columns
from ptuning.data.rows import Row
from ptuning.data.sources import TaskData, load_data
from ptuning.data.spans import bio_spans
from ptuning.data.unlabelled import load_rows, rows_from_records

__all__ = ["Row", "TaskData", "bio_spans", "load_data", "load_rows", "resolve_columns", "rows_from_records"]
