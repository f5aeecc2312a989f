"""Where a run computes, and in which precision."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from gentrain.config.settings import Device
from gentrain.errors import UserError
from gentrain.runtime.collectives import all_gather, connected
from gentrain.runtime.ranks import local_rank, world_size

# What multiplies in float32, or in less. Asked one by one: torch raises an error if it is asked for all by
# the older functions in a process that has used these.
_cudnn: Any = torch.backends.cudnn  # which has more than its types say
_mkldnn: Any = torch.backends.mkldnn
FLOAT32: tuple[Any, ...] = (
    torch.backends.cuda.matmul,
    *(_cudnn.conv, _cudnn.rnn),
    *(_mkldnn.matmul, _mkldnn.conv, _mkldnn.rnn),
)
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
MOST_THREADS = 1024  # beside a machine's cores: a run may go on on a smaller machine with as many as before


@dataclass(frozen=True)
class Compute:
    """A device with its numerics, as resolved from the `device` section. Making one changes nothing."""

    device: torch.device
    autocast: torch.dtype | None
    channels_last: bool
    compile: bool
    cuda_graph: bool
    tf32: bool = False
    deterministic: bool = False
    threads: int | None = None  # None: as many as there are

    def autocasting(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)

    def apply(self) -> None:
        """Set threads, matmul precision and determinism for the whole process: for one that is all ours."""
        if self.device.index is not None:
            torch.cuda.set_device(self.device)
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.deterministic:
            os.environ.setdefault(*CUBLAS)
        torch.use_deterministic_algorithms(self.deterministic)
        torch.backends.cudnn.benchmark = self.device.type == "cuda" and not self.deterministic
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32

    @contextmanager
    def numerics(self) -> Iterator[None]:
        """The same while it is entered, for a process that is somebody else's: then all is as it was before.

        What was not asked for is left alone: the threads, and determinism that the process has chosen.
        """
        with ExitStack() as undo:
            for backend in FLOAT32:
                undo.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                backend.fp32_precision = "tf32" if self.tf32 else "ieee"
            if self.threads is not None:
                undo.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(self.threads)
            if self.deterministic:
                if CUBLAS[0] not in os.environ:
                    undo.callback(os.environ.pop, CUBLAS[0], None)
                    os.environ[CUBLAS[0]] = CUBLAS[1]
                undo.callback(
                    torch.use_deterministic_algorithms,
                    torch.are_deterministic_algorithms_enabled(),
                    warn_only=torch.is_deterministic_algorithms_warn_only_enabled(),
                )
                torch.use_deterministic_algorithms(True)
            if self.device.type == "cuda":
                undo.enter_context(torch.cuda.device(self.device))
                undo.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
                torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
            yield

    @contextmanager
    def computing(self) -> Iterator[None]:
        """`numerics` and `autocasting`."""
        with self.numerics(), self.autocasting():
            yield

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def describe(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.get_num_threads()} threads"


def check_device(section: Mapping[str, Any]) -> None:
    """Raise UserError if the device asked for is not there. Changes nothing."""
    settings = Device(**section)
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if settings.threads is not None and settings.threads > most:
        raise UserError(
            f"device.threads={settings.threads} is more than this machine, with {os.cpu_count()} cores, can "
            f"start: it takes at most {most}; null leaves it to torch"
        )
    name = resolve(settings.name)
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        there = " and ".join(key for key, value in available.items() if value)
        raise UserError(f"device={name} was asked for, but torch finds none; this machine has {there}")
    if settings.precision == "tf32" and name != "cuda":
        raise UserError(f"device.precision=tf32 needs device=cuda, and this run would be on {name}")


def resolve(name: str) -> str:
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def compute_of(section: Mapping[str, Any]) -> Compute:
    """Where and how to compute, as the `device` section says. UserError if that is not possible."""
    check_device(section)
    settings = Device(**section)
    name = resolve(settings.name)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and name == "cuda")
    return Compute(
        _device_of(name),
        torch.bfloat16 if bf16 else None,
        name == "cuda" if settings.channels_last == "auto" else settings.channels_last,
        settings.compile,
        name == "cuda" and settings.cuda_graph,
        settings.precision == "tf32",
        settings.deterministic,
        _threads_for_each() if settings.threads is None else settings.threads,
    )


def set_up(section: Mapping[str, Any]) -> Compute:
    """Where and how to compute, set for the whole process: for the command, not for `gentrain.load`."""
    compute = compute_of(section)
    compute.apply()
    return compute


def _threads_for_each() -> int | None:
    """CPU threads for each process of a machine: its cores, shared by those that may run on them.

    None if a process is alone, or if OMP_NUM_THREADS was set by hand: torchrun sets it to 1 where nobody did.
    """
    if not connected() or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return None
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [os.cpu_count() or 1]
    count = len(cores) if hasattr(os, "sched_getaffinity") else cores[0]
    mine = [socket.gethostname(), *map(str, cores)]
    return max(1, count // all_gather(mine).count(mine))


def _device_of(name: str) -> torch.device:
    """The device of this process: of several GPUs the one with its number."""
    if name != "cuda" or world_size() == 1:
        return torch.device(name)
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"process {local_rank()} of this machine has no GPU of its own: there are "
            f"{torch.cuda.device_count()}; start at most as many processes (--nproc-per-node)"
        )
    return torch.device("cuda", local_rank())
