"""From a checked command to a trained run: the loop, the learners, the optimizers."""
