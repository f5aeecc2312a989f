"""From a checked command to a trained run: the trainer, the learners, the optimizers.

Imports metrics, runs, models, data and what is below them.
"""
