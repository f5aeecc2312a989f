"""What torch's collectives raise is told as what it is: a lost process, too little memory, or the cause's first line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import gentrain
from gentrain.runtime.collectives import Lost, or_lost

GLOO = "[/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp/"
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, "

# As torch 2.14 says them; those of NCCL as its source has them.
ENDED = {
    "a killed peer": (
        RuntimeError(
            f"{GLOO}pair.cc:561] Connection closed by peer [127.0.0.1]:50872. This is typically caused by a "
            "remote worker crashing. Check the logs of the remote worker before reporting an error. GLHF! 🏖️"
        ),
        "Connection closed by peer [127.0.0.1]:50872",
    ),
    "a peer that hangs up": (
        RuntimeError(f"{GLOO}pair.cc:545] Read error [127.0.0.1]:18848: Connection reset by peer. This is typically caused by x"),
        "Read error [127.0.0.1]:18848: Connection reset by peer",
    ),
    "a peer that is silent": (
        RuntimeError(f"{GLOO}unbound_buffer.cc:78] Timed out waiting 3000ms for recv operation to complete"),
        "Timed out waiting 3000ms for recv operation to complete",
    ),
    "a store that is gone": (
        dist.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?"),
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash?",
    ),
    "a store that is silent": (dist.DistStoreError("wait timeout after 1000ms, keys: /never"), "wait timeout after 1000ms, keys: /never"),
    "a peer that NCCL misses": (
        dist.DistBackendError(f"{NCCL}remote process exited or there was a network error, NCCL version 2.27.5\nncclRemoteError: A call failed possibly due to a network error"),
        f"{NCCL}remote process exited or there was a network error, NCCL version 2.27.5",
    ),
}  # fmt: skip
OTHER = {
    "a setting of NCCL": (
        dist.DistBackendError(f"{NCCL}invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.5\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0 both on CUDA device 10"),
        f"{NCCL}invalid usage (run with NCCL_DEBUG=WARN for details), NCCL version 2.27.5: Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 10",
    ),
    "a network of NCCL's": (
        dist.DistBackendError(f"{NCCL}unhandled system error, NCCL version 2.27.5\nLast error:\nBootstrap : no socket interface found"),
        f"{NCCL}unhandled system error, NCCL version 2.27.5: Bootstrap : no socket interface found",
    ),
    "an address of gloo's": (RuntimeError(f"{GLOO}device.cc:83] rv != -1. Unable to resolve hostname"), "rv != -1. Unable to resolve hostname"),
    "no words": (dist.DistError(""), "DistError"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDED | OTHER)
def test_the_first_line_of_the_cause_is_kept(case: str) -> None:
    error, cause = (ENDED | OTHER)[case]
    with pytest.raises(Lost) as told, or_lost():
        raise error
    said = str(told.value)
    assert cause in said
    assert said.count("\n") == 0 and "GLHF" not in said
    assert ("has ended or does not answer" in said) == (case in ENDED)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        dist.DistBackendError(f"{NCCL}unhandled cuda error\nLast error:\nCuda failure 2 'out of memory'"),
    ],
)
def test_too_little_memory_is_that(error: RuntimeError) -> None:
    """So that the sentence with the batch size to try is said."""
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"), or_lost():
        raise error


@pytest.mark.parametrize(
    "sentence",
    [
        "CUDA error: device-side assert triggered",
        "ProcessGroupGloo::allgather: invalid tensor size at index 0 (expected (3), got (2))",
        "The size of tensor a (3) must match the size of tensor b (2) at non-singleton dimension 0",
    ],
)
def test_a_failure_of_ours_is_left_as_it_is(sentence: str) -> None:
    with pytest.raises(RuntimeError) as raised, or_lost():
        raise RuntimeError(sentence)
    assert type(raised.value) is RuntimeError and str(raised.value) == sentence


COLLECTIVES = {
    "all_reduce",
    "all_gather",
    "all_gather_object",
    "broadcast",
    "barrier",
    "reduce",
    "gather",
    "scatter",
}
STORE = {"add", "check", "wait", "get", "set"}
GUARDS = {"or_lost()", "suppress(RuntimeError)"}


def _asks_others(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    of, name = ast.unparse(node.func.value), node.func.attr
    return (of in ("dist", "torch.distributed") and name in COLLECTIVES) or (of == "store" and name in STORE)


def _guards(block: ast.AST) -> bool:
    if isinstance(block, ast.With):
        return any(ast.unparse(item.context_expr) in GUARDS for item in block.items)
    return isinstance(block, ast.Try) and any(
        handler.type is not None and ast.unparse(handler.type) == "RuntimeError" for handler in block.handlers
    )


def test_each_question_to_other_processes_is_explained() -> None:
    """One that is not asked under `or_lost` would end in torch's own words, and a traceback."""
    bare, asked = [], 0
    for file in sorted(Path(gentrain.__file__).parent.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        guarded = {id(node) for block in ast.walk(tree) if _guards(block) for node in ast.walk(block)}
        for call in filter(_asks_others, ast.walk(tree)):
            asked += 1
            if id(call) not in guarded:
                bare.append(f"{file.name}:{call.lineno}")  # type: ignore[attr-defined]
    assert not bare
    assert asked >= 15
