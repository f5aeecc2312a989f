"""task=train: a new run, or one that goes on. The work is in gentrain/training."""

from gentrain.training.run import SECTIONS, check, run

__all__ = ["SECTIONS", "check", "run"]
