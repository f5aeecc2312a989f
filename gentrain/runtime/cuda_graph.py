"""CUDA graphs: a stretch of work recorded once, then replayed with one launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def capture(run: Callable[[], T]) -> Callable[[], T]:
    """Record what `run` does on the current CUDA device. What is returned replays it, into the same tensors.

    Recording computes nothing. `run` must be the same kernels on the same memory each time, and must not wait
    for the device; it must have run before, so that kernels are chosen and index tensors made. RuntimeError
    if it cannot be recorded.
    """
    graph = torch.cuda.CUDAGraph()
    # A capture that fails leaves its own stream current: this puts the old one back. Its error mode is
    # that of this thread, for one that reads pictures ahead may use CUDA meanwhile.
    with (
        torch.cuda.stream(torch.cuda.current_stream()),
        torch.cuda.graph(graph, capture_error_mode="thread_local"),
    ):
        result = run()

    def replay() -> T:
        graph.replay()
        return result

    return replay
