"""A step's forward and backward pass as one CUDA graph: recorded once, then replayed with one launch.

A recurrent network is thousands of small kernels a step, and launching them one by one is what takes the
time. A recording is the same kernels on the same memory, so it computes the same numbers, random ones
included: torch hands each replay the seed that the trainer has set for its step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from gentrain.runtime.cuda_graph import capture
from gentrain.training.learner import Metrics

Gradients = Callable[[Tensor], Metrics]

# Steps taken as they come, before one is recorded: kernels are chosen and index tensors made in them.
WARM_STEPS = 3


class CapturedGradients:
    """Calls `gradients`, which must leave new gradients in the parameters, by replay where that is possible.

    All batches must have one shape. Where recording fails, one line says so, and steps go on unrecorded. A
    recording keeps the memory of its activations for as long as it lives.
    """

    def __init__(self, gradients: Gradients) -> None:
        self._gradients = gradients
        self._warm, self._possible = 0, True
        self._replay: Callable[[], Metrics] | None = None
        self._static_BCHW: Tensor | None = None

    def __call__(self, x_BCHW: Tensor) -> Metrics:
        if self._possible and self._replay is None and self._warm == WARM_STEPS:
            self._record(x_BCHW)
        if self._replay is None:
            self._warm += 1
            return self._gradients(x_BCHW)
        assert self._static_BCHW is not None and self._static_BCHW.shape == x_BCHW.shape
        self._static_BCHW.copy_(x_BCHW)
        return self._replay()

    def _record(self, x_BCHW: Tensor) -> None:
        static_BCHW = x_BCHW.clone()
        try:
            self._replay = capture(lambda: self._gradients(static_BCHW))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._possible = False
            # The capture's own end fails, too, and says less than what made it fail.
            lines = str(error.__context__ or error).strip().splitlines() or [type(error).__name__]
            reason = lines[0]
            sentence = f"device.cuda_graph: a step cannot be recorded ({reason}); going on without"
            print(sentence, file=sys.stderr)
        else:
            self._static_BCHW = static_BCHW
