"""What trained prompts do: how much attention they draw, how they grew, and how alike those of several tasks are.

    diagnosis = ptuning.diagnostics.diagnose(["runs/tickets", "runs/entities"], output="diagnostics")
    diagnosis.tasks[0].attention                       # layers x heads

`ptuning diagnose` is the same from the command line. Figures are drawn by `ptuning.reports`.
"""

from ptuning.diagnostics.diagnosis import Diagnosis, TaskDiagnosis, diagnose
from ptuning.diagnostics.history import NormPoint
from ptuning.diagnostics.similarity import Similarity, best_match

__all__ = ["Diagnosis", "NormPoint", "Similarity", "TaskDiagnosis", "best_match", "diagnose"]
