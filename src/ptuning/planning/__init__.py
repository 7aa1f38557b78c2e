"""What a training will need, before anything is downloaded or computed: memory, the largest batch, and time."""

from ptuning.planning.plan import Plan, make_plan

__all__ = ["Plan", "make_plan"]
